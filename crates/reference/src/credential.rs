//! Which configured credential belongs to which repository (IMG-170..IMG-178).
//!
//! Owns keys and their order; knows no secrets and no files. Start at [`lookup`].

use std::cmp::Reverse;

use crate::glob;

/// How a host glob is read (IMG-174).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GlobMode {
    /// A glob that begins with `*` and no dot after it is matched against the whole host.
    #[default]
    Seed,
    /// Label by label only.
    Upstream,
}

/// Whether a key's path may end inside a path segment of the repository (IMG-177).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathBoundary {
    /// It may; such matches come after those at a segment's end.
    #[default]
    Loose,
    /// It may not.
    Strict,
}

/// A credential key, parsed by hand so that the whole glob grammar works (IMG-170, IMG-175).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    host: String,
    port: String,
    path: String,
}

/// How well a key's path fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Boundary,
    Partial,
}

impl Key {
    /// Parses a key such as `https://index.docker.io/v1/`, `*.reg.io:5000/team` or `reg?.io`. Never fails: a key that
    /// makes no sense matches nothing. A user and password in front of the host are passed over.
    pub fn parse(text: &str) -> Key {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let path = if path.starts_with("/v1/") || path.starts_with("/v2/") { &path[3..] } else { path };
        let path = if path == "/" { "" } else { path };
        let (host, port) = split_port(authority);
        Key { host: host.to_owned(), port: port.to_owned(), path: path.to_owned() }
    }

    /// The text by which keys are ordered: host, port and path without the scheme.
    pub fn text(&self) -> String {
        if self.port.is_empty() {
            format!("{}{}", self.host, self.path)
        } else {
            format!("{}:{}{}", self.host, self.port, self.path)
        }
    }

    /// Whether this key is for the repository (`domain/path`, canonical).
    pub fn matches(&self, repository: &str, mode: GlobMode) -> bool {
        self.fit(repository, mode).is_some()
    }

    fn fit(&self, repository: &str, mode: GlobMode) -> Option<Fit> {
        let target = Target::parse(repository);
        let path_ok = target.path.starts_with(&self.path);
        if !path_ok || self.port != target.port || !host_matches(&self.host, target.host, mode) {
            return None;
        }
        let rest = &target.path[self.path.len()..];
        let at_boundary = rest.is_empty() || rest.starts_with('/') || self.path.ends_with('/');
        Some(if at_boundary { Fit::Boundary } else { Fit::Partial })
    }
}

struct Target<'a> {
    host: &'a str,
    port: &'a str,
    path: &'a str,
}

impl<'a> Target<'a> {
    fn parse(repository: &'a str) -> Target<'a> {
        let (authority, path) = match repository.find('/') {
            Some(slash) => repository.split_at(slash),
            None => (repository, ""),
        };
        let (host, port) = split_port(authority);
        Target { host, port, path }
    }
}

/// The indexes of the keys that apply to a repository, in the order in which their credentials are to be tried:
/// longer and literal before shorter and glob, equal keys in their given order, and Docker Hub's legacy key if no other
/// key applies (IMG-176..IMG-178).
pub fn lookup<S: AsRef<str>>(keys: &[S], repository: &str, mode: GlobMode, boundary: PathBoundary) -> Vec<usize> {
    let parsed: Vec<Key> = keys.iter().map(|key| Key::parse(key.as_ref())).collect();
    let mut found: Vec<(Fit, Reverse<String>, usize)> = parsed
        .iter()
        .enumerate()
        .filter_map(|(index, key)| Some((key.fit(repository, mode)?, Reverse(key.text()), index)))
        .filter(|(fit, ..)| boundary == PathBoundary::Loose || *fit == Fit::Boundary)
        .collect();
    found.sort();
    if found.is_empty() && is_docker_hub(repository) {
        return (0..parsed.len()).filter(|index| parsed[*index].text() == "index.docker.io").collect();
    }
    found.into_iter().map(|(_, _, index)| index).collect()
}

fn is_docker_hub(repository: &str) -> bool {
    match repository.split_once('/') {
        None => true,
        Some(("docker.io" | "index.docker.io", _)) => true,
        Some((first, _)) => !first.contains(['.', ':']),
    }
}

/// Splits `host:port`; brackets of an IPv6 address and of a glob class do not hide the last colon after them.
fn split_port(authority: &str) -> (&str, &str) {
    match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => (&authority[..colon], &authority[colon + 1..]),
        _ => (authority, ""),
    }
}

fn host_matches(glob: &str, host: &str, mode: GlobMode) -> bool {
    // A bracketed address is a literal, not a class.
    if glob.starts_with('[') && glob.contains(':') {
        return glob == host;
    }
    let spans_labels = mode == GlobMode::Seed && glob.starts_with('*') && !glob.starts_with("*.");
    if spans_labels {
        return glob::matches(glob, host);
    }
    let globs = split_labels(glob);
    let labels: Vec<&str> = host.split('.').collect();
    globs.len() == labels.len() && globs.iter().zip(labels).all(|(glob, label)| glob::matches(glob, label))
}

/// Splits a host glob at the dots that stand outside classes and escapes.
fn split_labels(glob: &str) -> Vec<&str> {
    let (mut labels, mut start, mut in_class, mut escaped) = (Vec::new(), 0, false, false);
    for (index, character) in glob.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => in_class = true,
            ']' => in_class = false,
            '.' if !in_class => {
                labels.push(&glob[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    labels.push(&glob[start..]);
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(key: &str, repository: &str, seed: bool, upstream: bool) {
        let parsed = Key::parse(key);
        assert_eq!(parsed.matches(repository, GlobMode::Seed), seed, "{key} for {repository} in mode seed");
        assert_eq!(parsed.matches(repository, GlobMode::Upstream), upstream, "{key} for {repository} in mode upstream");
    }

    #[test]
    fn keys_lose_their_scheme_and_version_path() {
        for (key, text) in [
            ("https://index.docker.io/v1/", "index.docker.io"),
            ("http://r.io:5000/v2/team", "r.io:5000/team"),
            ("r.io/", "r.io"),
            ("r.io/a/b", "r.io/a/b"),
            ("[fc00::1]:5000/a", "[fc00::1]:5000/a"),
        ] {
            assert_eq!(Key::parse(key).text(), text);
        }
    }

    /// One line a case: key, repository, and whether it matches in mode seed and in mode upstream.
    const VECTORS: &str = include_str!("credential_vectors.txt");

    #[test]
    fn keys_match_as_the_table_says() {
        let mut count = 0;
        for line in VECTORS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [key, repository, seed, upstream] = fields[..] else { panic!("not a case: {line}") };
            check(key, repository, seed == "yes", upstream == "yes");
            count += 1;
        }
        assert!(count > 50, "only {count} cases were found");
    }

    #[test]
    fn specific_keys_come_first_and_whole_segments_before_parts_of_them() {
        let keys = ["*.io", "r.io", "r.io/a", "r.io/a/b", "r.io/a/b"];
        assert_eq!(lookup(&keys, "r.io/a/b/c", GlobMode::Seed, PathBoundary::Loose), [3, 4, 2, 1, 0]);
        let keys = ["r.io/images", "r.io"];
        assert_eq!(lookup(&keys, "r.io/images-private/x", GlobMode::Seed, PathBoundary::Loose), [1, 0]);
        assert_eq!(lookup(&keys, "r.io/images-private/x", GlobMode::Seed, PathBoundary::Strict), [1]);
    }

    #[test]
    fn docker_hubs_legacy_key_serves_when_nothing_else_matches() {
        let find = |keys: &[&str], repository| lookup(keys, repository, GlobMode::Seed, PathBoundary::Loose);
        let keys = ["https://index.docker.io/v1/", "docker.io/user"];
        assert_eq!(find(&keys, "docker.io/library/nginx"), [0]);
        assert_eq!(find(&keys, "docker.io/user/x"), [1]);
        assert_eq!(find(&["registry-1.docker.io"], "docker.io/library/nginx"), Vec::<usize>::new());
        assert_eq!(find(&keys, "r.io/x"), Vec::<usize>::new());
    }

    proptest! {
        #[test]
        fn no_key_makes_the_lookup_panic(keys in prop::collection::vec(".{0,20}", 0..4), repository in ".{0,20}") {
            let _ = lookup(&keys, &repository, GlobMode::Seed, PathBoundary::Loose);
        }
    }
}
