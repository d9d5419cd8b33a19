//! What is said to a plugin and what it answers (IMG-203, IMG-204).
//!
//! Pure. No error repeats anything of an answer but its version. Start at [`request`] and [`Response::read`].

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    kind: &'static str,
    api_version: &'a str,
    image: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    service_account_token: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    service_account_annotations: &'a BTreeMap<String, String>,
}

/// The request for one image, for standard input.
pub(super) fn request(
    api_version: &str,
    image: &str,
    token: Option<&str>,
    annotations: &BTreeMap<String, String>,
) -> Vec<u8> {
    let request = Request {
        kind: "CredentialProviderRequest",
        api_version,
        image,
        service_account_token: token.unwrap_or_default(),
        service_account_annotations: annotations,
    };
    let mut bytes = serde_json::to_vec(&request).expect("strings and a map of strings are JSON");
    bytes.push(b'\n');
    bytes
}

/// For what an answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Image,
    Registry,
    Global,
}

/// A good answer.
#[derive(Clone, PartialEq)]
pub(super) struct Response {
    pub(super) scope: Scope,
    /// How long it may be kept; `None` leaves that to the configuration.
    pub(super) keep: Option<Duration>,
    /// User name and password by pattern.
    pub(super) auth: BTreeMap<String, (String, String)>,
}

/// Why an answer is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadResponse {
    /// It speaks another version.
    #[error(
        "apiVersion from credential plugin response did not match expected apiVersion:{expected}, actual apiVersion:{actual}"
    )]
    Version {
        /// The configured one.
        expected: String,
        /// Its own, as far as it is a plain name.
        actual: String,
    },
    /// It cannot be read. Nothing of it is shown: it may hold a credential.
    #[error("error decoding credential provider plugin response from stdout")]
    Undecodable,
    /// `cacheKeyType` has an unknown value.
    #[error("credential provider plugin did not return a valid cacheKeyType")]
    Scope,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code)] // Version and kind were looked at before; here they only have to be known fields.
struct Raw {
    api_version: String,
    kind: String,
    #[serde(default)]
    cache_key_type: String,
    #[serde(default)]
    cache_duration: Option<String>,
    #[serde(default)]
    auth: Option<BTreeMap<String, Login>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

impl Response {
    /// Reads standard output strictly.
    pub(super) fn read(bytes: &[u8], expected: &str) -> Result<Response, BadResponse> {
        let head: Head = serde_json::from_slice(bytes).map_err(|_| BadResponse::Undecodable)?;
        if head.api_version != expected {
            return Err(BadResponse::Version { expected: expected.to_owned(), actual: plain(&head.api_version) });
        }
        if head.kind != "CredentialProviderResponse" {
            return Err(BadResponse::Undecodable);
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(|_| BadResponse::Undecodable)?;
        let keep = match raw.cache_duration.as_deref() {
            None => None,
            Some(text) => {
                let keep = api::duration::parse(text).ok_or(BadResponse::Undecodable)?;
                Some(keep.try_into().unwrap_or(Duration::ZERO))
            }
        };
        let scope = match raw.cache_key_type.as_str() {
            "Image" => Scope::Image,
            "Registry" => Scope::Registry,
            "Global" => Scope::Global,
            _ => return Err(BadResponse::Scope),
        };
        let auth = raw.auth.unwrap_or_default();
        Ok(Response { scope, keep, auth: auth.into_iter().map(|(key, l)| (key, (l.username, l.password))).collect() })
    }
}

/// A version is repeated only if it looks like one.
fn plain(version: &str) -> String {
    let fits = version.len() <= 64 && version.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'/'));
    if fits { version.to_owned() } else { "<not a version>".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "credentialprovider.kubelet.k8s.io/v1";

    fn answer(fields: &str) -> Result<Response, BadResponse> {
        let text = format!(r#"{{"kind":"CredentialProviderResponse","apiVersion":"{V1}",{fields}}}"#);
        Response::read(text.as_bytes(), V1)
    }

    #[test]
    fn a_request_says_version_kind_image_and_what_is_known_of_the_account() {
        let none = BTreeMap::new();
        let text = |token, annotations| String::from_utf8(request(V1, "r.io/x", token, annotations)).unwrap();
        assert_eq!(
            text(None, &none),
            "{\"kind\":\"CredentialProviderRequest\",\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1\",\"image\":\"r.io/x\"}\n"
        );
        let some = [("k".to_owned(), "v".to_owned())].into();
        let long = text(Some("t"), &some);
        assert!(long.contains(r#""serviceAccountToken":"t","serviceAccountAnnotations":{"k":"v"}"#), "{long}");
    }

    #[test]
    fn answers_are_read_strictly() {
        let good =
            answer(r#""cacheKeyType":"Registry","cacheDuration":"5m","auth":{"r.io":{"username":"","password":"p"}}"#);
        let good = good.unwrap();
        assert_eq!((good.scope, good.keep), (Scope::Registry, Some(Duration::from_secs(300))));
        assert_eq!(good.auth["r.io"], (String::new(), "p".to_owned()));
        for auth in ["null", "{}"] {
            assert!(answer(&format!(r#""cacheKeyType":"Image","auth":{auth}"#)).unwrap().auth.is_empty());
        }
        assert_eq!(answer(r#""cacheKeyType":"Image","more":1"#).err(), Some(BadResponse::Undecodable));
        assert_eq!(answer(r#""cacheKeyType":"Image","auth":{"r":{"user":"x"}}"#).err(), Some(BadResponse::Undecodable));
        assert_eq!(answer(r#""cacheKeyType":"Everything""#).err(), Some(BadResponse::Scope));
        assert_eq!(answer(r#""auth":null"#).err(), Some(BadResponse::Scope));
        assert_eq!(answer(r#""cacheKeyType":"Image","cacheDuration":"x""#).err(), Some(BadResponse::Undecodable));
    }

    #[test]
    fn another_version_is_refused_and_an_answer_is_never_repeated() {
        let text = r#"{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1beta1"}"#;
        let error = Response::read(text.as_bytes(), V1).err().unwrap().to_string();
        assert!(error.ends_with("actual apiVersion:credentialprovider.kubelet.k8s.io/v1beta1"), "{error}");
        for leak in [r#"{"apiVersion":"pass word"}"#, r#"{"pass word"#, "pass word"] {
            let error = Response::read(leak.as_bytes(), V1).err().unwrap().to_string();
            assert!(!error.contains("pass word"), "{error}");
        }
    }
}
