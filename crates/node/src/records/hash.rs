//! The hash by which a record knows a credential again (IMG-242).
//!
//! Owns the node's own key: a hash alone could be guessed by whoever reads the file. Older records, hashed without a
//! key, are still recognised. No message holds a credential. Start at [`Hasher::open`].

use cri::v1;
use ring::hmac;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::{fs, io, os::unix::fs::OpenOptionsExt as _, path::Path};

/// What tells a hash with a key from an older one.
const PREFIX: &str = "hmac-sha256:";
const KEY_BYTES: usize = 32;

/// Hashes credentials with the key of this node.
pub(super) struct Hasher {
    key: hmac::Key,
}

/// The fields that are hashed, in upstream's order and under its names.
#[derive(Serialize)]
struct Hashed<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    username: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    password: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    auth: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    serveraddress: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    identitytoken: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    registrytoken: &'a str,
}

impl Hasher {
    /// Reads the key; makes one where there is none or it is cut short. Records made with a lost key are known again by
    /// the coordinates of their Secret only.
    pub(super) fn open(path: &Path) -> io::Result<Hasher> {
        match fs::read(path) {
            Ok(bytes) if bytes.len() == KEY_BYTES => return Ok(Hasher::with(&bytes)),
            Ok(_) => {
                tracing::warn!(path = %path.display(), "the key of the pull records is damaged; a new one is made")
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let random = ring::rand::SystemRandom::new();
        let bytes: [u8; KEY_BYTES] =
            ring::rand::generate(&random).map_err(|_| io::Error::other("no random numbers"))?.expose();
        super::store::replace(path, &bytes)?;
        Ok(Hasher::with(&bytes))
    }

    fn with(bytes: &[u8]) -> Hasher {
        Hasher { key: hmac::Key::new(hmac::HMAC_SHA256, bytes) }
    }

    /// The hash of a credential, as it is written.
    pub(super) fn hash(&self, auth: &v1::AuthConfig) -> String {
        format!("{PREFIX}{}", hex::encode(hmac::sign(&self.key, &text(auth))))
    }

    /// The hash as upstream writes it, without a key.
    pub(super) fn old(auth: &v1::AuthConfig) -> String {
        hex::encode(Sha256::digest(text(auth)))
    }
}

/// As Go's encoder writes it: it escapes what could be markup.
fn text(auth: &v1::AuthConfig) -> Vec<u8> {
    let hashed = Hashed {
        username: &auth.username,
        password: &auth.password,
        auth: &auth.auth,
        serveraddress: &auth.server_address,
        identitytoken: &auth.identity_token,
        registrytoken: &auth.registry_token,
    };
    let text = serde_json::to_string(&hashed).expect("a struct of strings is JSON");
    let escaped =
        [('<', "\\u003c"), ('>', "\\u003e"), ('&', "\\u0026"), ('\u{2028}', "\\u2028"), ('\u{2029}', "\\u2029")];
    escaped.iter().fold(text, |text, (from, to)| text.replace(*from, to)).into_bytes()
}

/// Opens a file for its owner alone.
pub(super) fn private() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn auth(password: &str) -> v1::AuthConfig {
        v1::AuthConfig { username: "user".into(), password: password.into(), ..Default::default() }
    }

    #[test]
    fn a_hash_is_stable_across_restarts_and_needs_the_nodes_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let first = Hasher::open(&path).unwrap().hash(&auth("p"));
        assert_eq!(Hasher::open(&path).unwrap().hash(&auth("p")), first);
        assert_ne!(Hasher::open(&path).unwrap().hash(&auth("q")), first);
        assert_ne!(Hasher::open(&directory.path().join("other")).unwrap().hash(&auth("p")), first);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "short").unwrap();
        assert_ne!(Hasher::open(&path).unwrap().hash(&auth("p")), first);
        assert_eq!(fs::read(&path).unwrap().len(), KEY_BYTES);
    }

    #[test]
    fn the_old_hash_is_that_of_upstreams_json() {
        assert_eq!(text(&auth("<&>")), br#"{"username":"user","password":"\u003c\u0026\u003e"}"#);
        let known = hex::encode(Sha256::digest(br#"{"username":"user","password":"p"}"#));
        assert_eq!(Hasher::old(&auth("p")), known);
    }
}
