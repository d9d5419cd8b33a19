//! Docker's credential files: `config.json` and the older `.dockercfg`.
//!
//! Pure. One malformed entry is skipped and named, the others stand (IMG-167). No message holds a secret.

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use cri::v1;
use reference::credential::Key;
use serde_json::{Map, Value};
use std::{collections::BTreeMap, fmt};

/// Padded or not: both are in use (IMG-165).
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// Headers that a file may not set (IMG-163).
const HEADERS_KEPT: [&str; 3] = ["authorization", "host", "cookie"];

/// Which of the two formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `{"auths": {key: entry}, "HttpHeaders": {…}}` (IMG-163).
    ConfigJson,
    /// `{key: entry}` (IMG-164).
    DockerCfg,
}

/// The credentials of one source, and the headers that go with them. `Debug` shows names only.
#[derive(Clone, Default, PartialEq)]
pub struct Keyring {
    /// In order of appearance.
    pub entries: Vec<Entry>,
    /// `HttpHeaders`, without those that would take over the request.
    pub headers: Vec<(String, String)>,
    /// `credHelpers`: which program knows the credential of a registry.
    pub helpers: BTreeMap<String, String>,
    /// `credsStore`: which program knows all others.
    pub store: Option<String>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Keyring").field("entries", &self.entries).field("headers", &headers).finish_non_exhaustive()
    }
}

/// One credential under its key.
#[derive(Clone, PartialEq)]
pub struct Entry {
    /// A registry, with optional globs, port and path.
    pub key: String,
    /// What is sent to the runtime.
    pub auth: v1::AuthConfig,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("key", &shown(&self.key)).finish_non_exhaustive()
    }
}

/// Reads a file or Secret value; the second part names entries that were skipped.
pub(super) fn parse(data: &[u8], kind: Kind) -> Result<(Keyring, Vec<String>), String> {
    // The parser's own message could quote the text around the fault.
    let document: Value = serde_json::from_slice(data).map_err(|_| "is not valid JSON".to_owned())?;
    let Value::Object(document) = document else { return Err("is not a JSON object".to_owned()) };
    let empty = Map::new();
    let (entries, headers) = match kind {
        Kind::DockerCfg => (&document, &empty),
        Kind::ConfigJson => (object(&document, "auths")?.unwrap_or(&empty), headers_of(&document).unwrap_or(&empty)),
    };
    let (mut keyring, mut problems) = (Keyring::default(), Vec::new());
    for (key, value) in entries {
        match entry(value) {
            Ok(auth) => keyring.entries.push(Entry { key: key.clone(), auth }),
            Err(problem) => problems.push(format!("entry {:?}: {problem}", shown(key))),
        }
    }
    keyring.headers = headers
        .iter()
        .filter(|(name, _)| !HEADERS_KEPT.contains(&name.to_ascii_lowercase().as_str()))
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect();
    if kind == Kind::ConfigJson {
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        keyring.store = document.get("credsStore").and_then(text);
        let helpers = document.get("credHelpers").and_then(Value::as_object).into_iter().flatten();
        keyring.helpers = helpers.filter_map(|(registry, name)| Some((registry.clone(), text(name)?))).collect();
    }
    Ok((keyring, problems))
}

/// A key without the user and password that some write in front of the host.
fn shown(key: &str) -> String {
    Key::parse(key).text()
}

fn object<'a>(document: &'a Map<String, Value>, name: &str) -> Result<Option<&'a Map<String, Value>>, String> {
    match document.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map)),
        Some(_) => Err(format!("{name} is not a JSON object")),
    }
}

fn headers_of(document: &Map<String, Value>) -> Option<&Map<String, Value>> {
    document.get("HttpHeaders").and_then(Value::as_object)
}

/// One entry; `auth` goes before user name and password (IMG-165), tokens are passed on (IMG-166).
fn entry(value: &Value) -> Result<v1::AuthConfig, String> {
    let Value::Object(fields) = value else { return Err("is not a JSON object".to_owned()) };
    let text = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(format!("{name} is not a string")),
    };
    let mut out = v1::AuthConfig {
        username: text("username")?,
        password: text("password")?,
        identity_token: text("identitytoken")?,
        registry_token: text("registrytoken")?,
        ..Default::default()
    };
    let auth = text("auth")?;
    if !auth.is_empty() {
        (out.username, out.password) = decode(&auth)
            .ok_or_else(|| "unable to parse auth field, must be formatted as base64(username:password)".to_owned())?;
    }
    Ok(out)
}

/// `base64(user:password)`, split at the first colon.
fn decode(auth: &str) -> Option<(String, String)> {
    let compact: String = auth.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    let text = String::from_utf8(BASE64.decode(compact).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(json: &str, kind: Kind) -> (Vec<String>, Vec<String>) {
        let (keyring, problems) = parse(json.as_bytes(), kind).unwrap();
        (
            keyring.entries.iter().map(|e| format!("{} {}:{}", e.key, e.auth.username, e.auth.password)).collect(),
            problems,
        )
    }

    #[test]
    fn auth_goes_before_the_plain_fields_with_or_without_padding() {
        for auth in ["dTpwOnE=", "dTpwOnE"] {
            let json = format!(r#"{{"auths":{{"r":{{"auth":"{auth}","username":"x","password":"y"}}}}}}"#);
            assert_eq!(users(&json, Kind::ConfigJson).0, ["r u:p:q"]);
        }
        assert_eq!(users(r#"{"r":{"username":"x","password":"y"}}"#, Kind::DockerCfg).0, ["r x:y"]);
    }

    #[test]
    fn a_malformed_entry_is_skipped_and_named_without_its_contents() {
        let json =
            r#"{"auths":{"a":{"auth":"c2VjcmV0"},"b":{"username":"u","password":"p"},"c":7,"d":{"password":1}}}"#;
        let (found, problems) = users(json, Kind::ConfigJson);
        assert_eq!(found, ["b u:p"]);
        assert_eq!(problems.len(), 3);
        assert!(problems[0].contains("must be formatted as base64(username:password)") && !problems[0].contains("c2V"));
    }

    #[test]
    fn tokens_are_passed_on_beside_the_user_name() {
        // As the Azure registry writes it: a user name of zeros, no password, a refresh token.
        let json = r#"{"auths":{"r.azurecr.io":{"auth":"MDAwMDo=","identitytoken":"refresh"},"s.io":{"registrytoken":"bearer"}}}"#;
        let (keyring, problems) = parse(json.as_bytes(), Kind::ConfigJson).unwrap();
        let auth = |index: usize| &keyring.entries[index].auth;
        assert_eq!((auth(0).username.as_str(), auth(0).password.as_str()), ("0000", ""));
        assert_eq!((auth(0).identity_token.as_str(), auth(1).registry_token.as_str()), ("refresh", "bearer"));
        assert!(problems.is_empty());
    }

    #[test]
    fn credential_helpers_are_read_from_config_json_only() {
        let json = r#"{"credsStore":"desktop","credHelpers":{"r.io":"pass","bad":7}}"#;
        let (keyring, _) = parse(json.as_bytes(), Kind::ConfigJson).unwrap();
        assert_eq!(keyring.store.as_deref(), Some("desktop"));
        assert_eq!(keyring.helpers.into_iter().collect::<Vec<_>>(), [("r.io".to_owned(), "pass".to_owned())]);
        assert_eq!(parse(br#"{"credsStore":"desktop"}"#, Kind::DockerCfg).unwrap().0.store, None);
    }

    #[test]
    fn a_password_in_a_key_is_not_shown() {
        let json = r#"{"auths":{"https://u:s3cr3t@r.io/a":{"auth":"!"},"u:s3cr3t@s.io":{"username":"u"}}}"#;
        let (keyring, problems) = parse(json.as_bytes(), Kind::ConfigJson).unwrap();
        assert!(problems[0].contains("entry \"r.io/a\""), "{problems:?}");
        assert!(!format!("{keyring:?} {problems:?}").contains("s3cr3t"));
    }

    #[test]
    fn headers_that_would_take_over_the_request_are_dropped() {
        let json = r#"{"HttpHeaders":{"X-Team":"a","Authorization":"b","cookie":"c"}}"#;
        assert_eq!(parse(json.as_bytes(), Kind::ConfigJson).unwrap().0.headers, [("X-Team".into(), "a".into())]);
        assert!(parse(b"[]", Kind::ConfigJson).is_err());
        assert!(parse(br#"{"auths":3}"#, Kind::ConfigJson).is_err());
    }
}
