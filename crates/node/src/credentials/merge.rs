//! From what each source holds to the order in which credentials are tried (IMG-176 … IMG-182).
//!
//! Pure. One [`Ring`] per source in the order of IMG-182: the pod's Secrets together, the node's file, the plugins
//! together. Start at [`tries`].

use super::source::{Source, Try};
use cri::v1;
use reference::credential::{self, GlobMode, PathBoundary};

/// How keys are matched and what happens beside the matches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rules {
    /// How a glob in the host of a key is read (IMG-174).
    pub globs: GlobMode,
    /// Whether a key's path may end inside a path segment (IMG-177).
    pub boundary: PathBoundary,
    /// One anonymous attempt after all credentials have failed (IMG-181).
    pub anonymous_fallback: bool,
}

/// One credential under its key.
#[derive(Clone)]
pub(super) struct Candidate {
    pub(super) key: String,
    pub(super) auth: v1::AuthConfig,
    pub(super) source: Source,
}

/// The credentials of one source.
#[derive(Default)]
pub(super) struct Ring {
    pub(super) candidates: Vec<Candidate>,
    /// Headers that go with each of them.
    pub(super) headers: Vec<(String, String)>,
    /// Whether globs are read as upstream does, whatever the rules say: so for plugins (IMG-206).
    pub(super) upstream_globs: bool,
}

/// What is to be tried for a repository, in order; at least one attempt.
pub(super) fn tries(rings: &[Ring], repository: &str, rules: Rules) -> Vec<Try> {
    let mut out: Vec<Try> = Vec::new();
    for ring in rings {
        let keys: Vec<&str> = ring.candidates.iter().map(|c| c.key.as_str()).collect();
        let globs = if ring.upstream_globs { GlobMode::Upstream } else { rules.globs };
        for index in credential::lookup(&keys, repository, globs, rules.boundary) {
            add(&mut out, &ring.candidates[index], &ring.headers);
        }
    }
    if out.is_empty() || rules.anonymous_fallback {
        out.push(Try::anonymous());
    }
    out
}

/// A credential that is there already is not tried again; whose it is too is kept (IMG-182).
fn add(out: &mut Vec<Try>, found: &Candidate, headers: &[(String, String)]) {
    match out.iter_mut().find(|known| known.auth.as_ref() == Some(&found.auth)) {
        Some(known) => {
            if known.source != found.source && !known.also.contains(&found.source) {
                known.also.push(found.source.clone());
            }
            if known.headers.is_empty() {
                known.headers = headers.to_vec();
            }
        }
        None => out.push(Try {
            auth: Some(found.auth.clone()),
            headers: headers.to_vec(),
            source: found.source.clone(),
            also: Vec::new(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(key: &str, user: &str, source: Source) -> Candidate {
        let auth = v1::AuthConfig { username: user.into(), password: "p".into(), ..Default::default() };
        Candidate { key: key.into(), auth, source }
    }

    fn secret(name: &str) -> Source {
        Source::Secret { uid: format!("u-{name}"), namespace: "ns".into(), name: name.into() }
    }

    fn users(tries: &[Try]) -> Vec<&str> {
        tries.iter().map(|t| t.auth.as_ref().map_or("-", |auth| auth.username.as_str())).collect()
    }

    fn ring(candidates: Vec<Candidate>) -> Ring {
        Ring { candidates, ..Ring::default() }
    }

    #[test]
    fn secrets_go_before_the_nodes_file_and_that_before_plugins() {
        let plugin = Source::Plugin { service_account: None };
        let rings = [
            ring(vec![candidate("r.io", "secret", secret("a"))]),
            ring(vec![candidate("r.io", "file", Source::NodeFile)]),
            ring(vec![candidate("r.io", "plugin", plugin.clone())]),
        ];
        let found = tries(&rings, "r.io/x", Rules::default());
        assert_eq!(users(&found), ["secret", "file", "plugin"]);
        assert_eq!(found.into_iter().map(|t| t.source).collect::<Vec<_>>(), [secret("a"), Source::NodeFile, plugin]);
    }

    #[test]
    fn the_more_specific_key_wins_across_secrets_and_equal_keys_keep_their_order() {
        let all = vec![
            candidate("r.io", "first", secret("a")),
            candidate("r.io", "second", secret("b")),
            candidate("r.io/team", "near", secret("c")),
            candidate("*.io", "glob", secret("d")),
        ];
        assert_eq!(users(&tries(&[ring(all)], "r.io/team/x", Rules::default())), ["near", "first", "second", "glob"]);
    }

    #[test]
    fn the_same_credential_is_tried_once_and_all_its_sources_are_known() {
        let rings = [
            ring(vec![candidate("r.io", "same", secret("a")), candidate("r.io", "same", secret("b"))]),
            Ring {
                candidates: vec![candidate("*.io", "same", Source::NodeFile)],
                headers: vec![("X-Team".into(), "a".into())],
                ..Ring::default()
            },
        ];
        let found = tries(&rings, "r.io/x", Rules::default());
        assert_eq!(found.len(), 1);
        assert_eq!((&found[0].source, found[0].also.as_slice()), (&secret("a"), &[secret("b"), Source::NodeFile][..]));
        assert_eq!(found[0].headers, [("X-Team".to_owned(), "a".to_owned())]);
    }

    #[test]
    fn without_a_match_there_is_one_anonymous_attempt_and_with_one_only_on_request() {
        let rings = [ring(vec![candidate("other.io", "u", secret("a"))])];
        assert_eq!(tries(&rings, "r.io/x", Rules::default()), [Try::anonymous()]);
        let rings = [ring(vec![candidate("r.io", "u", secret("a"))])];
        assert_eq!(users(&tries(&rings, "r.io/x", Rules::default())), ["u"]);
        let rules = Rules { anonymous_fallback: true, ..Rules::default() };
        assert_eq!(users(&tries(&rings, "r.io/x", rules)), ["u", "-"]);
        assert_eq!(users(&tries(&[], "r.io/x", rules)), ["-"]);
    }

    #[test]
    fn plugins_keys_are_matched_as_upstream_does() {
        let plugin = Source::Plugin { service_account: None };
        let with = |upstream_globs| Ring {
            candidates: vec![candidate("*reg.io", "u", plugin.clone())],
            upstream_globs,
            ..Ring::default()
        };
        assert_eq!(users(&tries(&[with(false)], "a.reg.io/x", Rules::default())), ["u"]);
        assert_eq!(users(&tries(&[with(true)], "a.reg.io/x", Rules::default())), ["-"]);
    }

    #[test]
    fn a_key_that_ends_inside_a_segment_comes_last_or_not_at_all() {
        let all = || vec![candidate("r.io/images", "part", secret("a")), candidate("r.io", "whole", secret("b"))];
        let target = "r.io/images-private/x";
        assert_eq!(users(&tries(&[ring(all())], target, Rules::default())), ["whole", "part"]);
        let strict = Rules { boundary: PathBoundary::Strict, ..Rules::default() };
        assert_eq!(users(&tries(&[ring(all())], target, strict)), ["whole"]);
    }
}
