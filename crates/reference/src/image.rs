//! Image references: the grammar of IMG-1..IMG-9 and the normal form of IMG-6, IMG-7 and IMG-10.
//!
//! Owns parsing and printing; does not decide what a name is used for. Start at [`Reference::parse`].

use crate::{Digest, DigestError};
use std::fmt;

/// The registry of a name that names none (IMG-7).
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// The tag of a name with neither tag nor digest (IMG-10).
pub const DEFAULT_TAG: &str = "latest";

const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const PATH_CHARACTERS_MAX: usize = 255;
const TAG_CHARACTERS_MAX: usize = 128;
const REFERENCE_DIGEST_HEX_MIN: usize = 32;

/// Why a text is not an image reference. The texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The text does not follow the grammar (IMG-1).
    #[error("invalid reference format")]
    Format,
    /// The path has upper-case letters (IMG-9).
    #[error("invalid reference format: repository name ({path}) must be lowercase")]
    Uppercase {
        /// The path up to its first colon.
        path: String,
    },
    /// A bare text of 64 hex digits could be an image id (IMG-5).
    #[error("invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")]
    Identifier {
        /// The whole text.
        text: String,
    },
    /// The path is longer than 255 characters (IMG-8).
    #[error("repository name must not be more than {PATH_CHARACTERS_MAX} characters")]
    TooLong,
    /// The digest has the right shape but is not a digest (IMG-4).
    #[error("{0}")]
    Digest(DigestError),
}

/// A parsed reference in its normal form: the registry is explicit, `library/` is added on docker.io, and a name with
/// neither tag nor digest has the tag `latest`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses and normalises a reference as a user writes it (IMG-1..IMG-10).
    pub fn parse(text: &str) -> Result<Reference, ParseError> {
        if text.len() == 64 && text.bytes().all(is_lower_hex) {
            return Err(ParseError::Identifier { text: text.to_owned() });
        }
        let (domain, remainder) = split_domain(text);
        let official = domain == DEFAULT_DOMAIN && !remainder.contains('/');
        let remainder = if official { format!("{OFFICIAL_PREFIX}{remainder}") } else { remainder.to_owned() };
        let until_colon = remainder.split(':').next().unwrap_or_default();
        if until_colon.chars().any(char::is_uppercase) {
            return Err(ParseError::Uppercase { path: until_colon.to_owned() });
        }
        let (name, digest) = match remainder.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (remainder.as_str(), None),
        };
        let (path, tag) = match name.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (name, None),
        };
        let well_formed = is_domain(domain)
            && path.split('/').all(is_path_component)
            && tag.is_none_or(is_tag)
            && digest.is_none_or(has_digest_shape);
        if !well_formed {
            return Err(ParseError::Format);
        }
        if path.len() > PATH_CHARACTERS_MAX {
            return Err(ParseError::TooLong);
        }
        let digest = digest.map(Digest::parse).transpose().map_err(ParseError::Digest)?;
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG.to_owned()),
        };
        Ok(Reference { domain: domain.to_owned(), path: path.to_owned(), tag, digest })
    }

    /// The registry as the name spells it, with its port if one was given; `docker.io` if none was given.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The path below the registry, `library/` included.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag; `None` only when there is a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that pins the content.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `domain/path`, without tag and digest: what credentials are looked up by (IMG-171).
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The complete text: `domain/path[:tag][@digest]`. It parses to an equal reference.
    pub fn canonical(&self) -> String {
        self.to_string()
    }

    /// The name under which an image is stored and looked up: a digest drops the tag (IMG-12).
    pub fn stored(&self) -> Reference {
        match &self.digest {
            Some(_) => Reference { tag: None, ..self.clone() },
            None => self.clone(),
        }
    }

    /// The same repository with a digest and no tag.
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The shortest text that parses to this reference's repository, tag and digest, as Docker shows it.
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_repository();
        self.push_suffix(&mut text);
        text
    }

    fn familiar_repository(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.repository();
        }
        match self.path.strip_prefix(OFFICIAL_PREFIX) {
            Some(short) if !short.contains('/') => short.to_owned(),
            // A first component that looks like a registry must keep the real one before it.
            _ if split_domain(&self.path).0 != DEFAULT_DOMAIN || self.path.starts_with("docker.io/") => {
                self.repository()
            }
            _ if !self.path.contains('/') => self.repository(),
            _ => self.path.clone(),
        }
    }

    fn push_suffix(&self, text: &mut String) {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest.as_str());
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.repository();
        self.push_suffix(&mut text);
        formatter.write_str(&text)
    }
}

impl std::str::FromStr for Reference {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Reference, ParseError> {
        Reference::parse(text)
    }
}

/// Appends `:latest` to the image as it was written, unless it has a tag or a digest. The host is left as it is, for
/// the runtime resolves short names (IMG-11).
pub fn apply_default_tag(image: &str) -> Result<String, ParseError> {
    let reference = Reference::parse(image)?;
    Ok(match (reference.digest(), reference.tag()) {
        (None, Some(tag)) if !image.ends_with(&format!(":{tag}")) => format!("{image}:{tag}"),
        _ => image.to_owned(),
    })
}

/// Splits off the registry (IMG-6): the first component is one only when there is a second.
fn split_domain(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((LEGACY_DOMAIN, rest)) => (DEFAULT_DOMAIN, rest),
        Some((first, rest)) if looks_like_domain(first) => (first, rest),
        _ => (DEFAULT_DOMAIN, text),
    }
}

fn looks_like_domain(component: &str) -> bool {
    component == "localhost" || component.contains(['.', ':']) || component.chars().any(char::is_uppercase)
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn is_domain(domain: &str) -> bool {
    if let Some(rest) = domain.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        let address_ok = !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
        return address_ok && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    let (host, port) = match domain.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (domain, None),
    };
    host.split('.').all(is_label) && port.is_none_or(is_port)
}

fn is_port(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    let ends_ok = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    ends_ok(bytes.first()) && ends_ok(bytes.last()) && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
}

/// Runs of `[a-z0-9]` joined by one of `.`, `_`, `__` or any number of `-` (IMG-2).
fn is_path_component(component: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends_ok = |byte: Option<&u8>| byte.is_some_and(|byte| is_plain(*byte));
    if !ends_ok(bytes.first()) || !ends_ok(bytes.last()) {
        return false;
    }
    bytes.split(|byte| is_plain(*byte)).all(|separator| match separator {
        b"" | b"." | b"_" | b"__" => true,
        other => other.iter().all(|byte| *byte == b'-'),
    })
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= TAG_CHARACTERS_MAX
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|byte| is_word(byte) || byte == b'.' || byte == b'-')
}

/// The syntax of a digest inside a reference; its meaning is checked after the whole reference is well formed.
fn has_digest_shape(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    let component_ok = |component: &str| {
        component.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
            && component.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    algorithm.split(['+', '.', '-', '_']).all(component_ok)
        && hex.len() >= REFERENCE_DIGEST_HEX_MIN
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const H: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[track_caller]
    fn check(text: &str, repository: &str, tag: &str, digest: &str) {
        let text = text.replace('H', H);
        let reference = Reference::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(reference.repository(), repository.replace('H', H), "{text}");
        assert_eq!(reference.tag().unwrap_or_default(), tag, "{text}");
        let found = reference.digest().map(|d| d.to_string()).unwrap_or_default();
        assert_eq!(found, digest.replace('H', H), "{text}");
    }

    #[test]
    fn valid_references_have_their_canonical_parts() {
        check("pause", "docker.io/library/pause", "latest", "");
        check("example/mycontainer", "docker.io/example/mycontainer", "latest", "");
        check("docker.io/ubuntu", "docker.io/library/ubuntu", "latest", "");
        check("index.docker.io/debian:9", "docker.io/library/debian", "9", "");
        check("localhost/x", "localhost/x", "latest", "");
        check("localhost:5000/x:t", "localhost:5000/x", "t", "");
        check("fictional.registry.example:10443/imagename", "fictional.registry.example:10443/imagename", "latest", "");
        check("192.168.0.1:80", "docker.io/library/192.168.0.1", "80", "");
        check("192.168.0.1:8/debian", "192.168.0.1:8/debian", "latest", "");
        check("[fc00::1]:5000/docker", "[fc00::1]:5000/docker", "latest", "");
        check("LOCALDOMAIN/fooo/bar", "LOCALDOMAIN/fooo/bar", "latest", "");
        check("registry.k8s.io/pause:3.5@sha256:H", "registry.k8s.io/pause", "3.5", "sha256:H");
        check("registry.k8s.io/pause@sha256:H", "registry.k8s.io/pause", "", "sha256:H");
        check("docker.io/H", "docker.io/library/H", "latest", "");
        check("dock__er/a---b", "docker.io/dock__er/a---b", "latest", "");
        check("Docker/docker", "Docker/docker", "latest", "");
        check("a:_x", "docker.io/library/a", "_x", "");
        check("a:Latest", "docker.io/library/a", "Latest", "");
        check(&format!("a:{}", "t".repeat(128)), "docker.io/library/a", &"t".repeat(128), "");
        let long = format!("a.very.long.registry.name.example/{}", "p".repeat(255));
        check(&long, &long, "latest", "");
    }

    #[test]
    fn invalid_references_are_refused() {
        let bad = [
            "",
            " a",
            "a ",
            "https://x/y",
            "docker/Docker",
            "-docker",
            "docker///d",
            "docker/",
            "[fc00::1]",
            "[fc00::1]:5000",
            "fc00::1:5000/d",
            "[fe80::1%eth0]:5000/d",
            "[2001:db8:3:4::192.0.2.33]:5000/d",
            "a..b",
            "a._b",
            "a___b",
            "a:",
            "a:.t",
            "a:-x",
            "a@",
            "a:t:u",
            "_a",
            "a_",
            "dock_.er/docker",
            "docker-/docker",
            H,
        ];
        for text in bad {
            assert!(Reference::parse(text).is_err(), "{text:?} was accepted");
        }
        assert!(Reference::parse(&format!("a:{}", "t".repeat(129))).is_err());
    }

    #[test]
    fn errors_say_what_is_wrong() {
        #[track_caller]
        fn says(text: &str, message: &str) {
            assert_eq!(Reference::parse(text).unwrap_err().to_string(), message);
        }
        says("Busybox", "invalid reference format: repository name (library/Busybox) must be lowercase");
        says("busybox:", "invalid reference format");
        says(H, &format!("invalid repository name ({H}), cannot specify 64-byte hexadecimal strings"));
        says(&format!("x.io/{}", "p".repeat(256)), "repository name must not be more than 255 characters");
        says(&format!("a@sha256:{}", "a".repeat(63)), "invalid checksum digest length");
        says(&format!("a@sha256:{}", "A".repeat(64)), "invalid checksum digest format");
        says(&format!("a@md5:{}", "a".repeat(32)), "unsupported digest algorithm");
    }

    #[test]
    fn names_are_told_apart_by_case_and_port() {
        let names = ["Reg.io/x", "reg.io/x", "reg.io:443/x"].map(|name| Reference::parse(name).unwrap().canonical());
        let distinct: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(distinct.len(), 3, "{names:?}");
    }

    #[test]
    fn the_default_tag_is_applied_to_the_text_as_written() {
        assert_eq!(apply_default_tag("busybox").unwrap(), "busybox:latest");
        assert_eq!(apply_default_tag("localhost:5000/x").unwrap(), "localhost:5000/x:latest");
        assert_eq!(apply_default_tag("busybox:1").unwrap(), "busybox:1");
        let pinned = format!("busybox@sha256:{H}");
        assert_eq!(apply_default_tag(&pinned).unwrap(), pinned);
        assert!(apply_default_tag("UPPER/Bad Name").is_err());
    }

    #[test]
    fn a_digest_drops_the_tag_in_the_stored_name() {
        let reference = Reference::parse(&format!("a:t@sha256:{H}")).unwrap();
        assert_eq!(reference.stored().canonical(), format!("docker.io/library/a@sha256:{H}"));
        assert_eq!(Reference::parse("a:t").unwrap().stored().canonical(), "docker.io/library/a:t");
    }

    #[test]
    fn familiar_names_are_short_where_that_is_unambiguous() {
        for (text, familiar) in [
            ("docker.io/library/nginx:1", "nginx:1"),
            ("docker.io/user/x:1", "user/x:1"),
            ("docker.io/library/a/b", "library/a/b:latest"),
            ("docker.io/localhost/x", "docker.io/localhost/x:latest"),
            ("docker.io/a.b/x", "docker.io/a.b/x:latest"),
            ("r.io/library/x", "r.io/library/x:latest"),
        ] {
            assert_eq!(Reference::parse(text).unwrap().familiar(), familiar);
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".*") {
            let _ = Reference::parse(&text);
            let _ = apply_default_tag(&text);
        }

        #[test]
        fn canonical_and_familiar_texts_parse_to_the_same_reference(
            text in "([a-zA-Z0-9.\\[\\]:-]{1,12}/)?[a-z0-9._/-]{1,20}(:[a-zA-Z0-9_.-]{1,8})?(@sha256:[0-9a-f]{64})?"
        ) {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(Reference::parse(&reference.canonical()).unwrap(), reference.clone());
                prop_assert_eq!(Reference::parse(&reference.familiar()).unwrap(), reference);
            }
        }
    }
}
