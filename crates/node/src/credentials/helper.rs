//! Docker's credential helpers: programs that a `config.json` names instead of holding a credential itself.
//!
//! Owns their protocol: `docker-credential-NAME get`, the server on standard input, JSON on standard output. They run
//! only when a setting allows it; Kubernetes itself knows none. No message holds what a helper answers. Start at
//! [`ask`].

use super::{
    parse::{Entry, Keyring},
    process::{Failure, Program},
};
use cri::v1;
use reference::DEFAULT_DOMAIN;
use serde::Deserialize;
use std::time::Duration;

/// A helper may take so long.
const LIMIT: Duration = Duration::from_secs(20);
/// What Docker calls its own registry.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// The user name that says: the secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// What a helper says that knows nothing of a server.
const NOT_FOUND: &str = "credentials not found in native keychain";

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username", default)]
    username: String,
    #[serde(rename = "Secret", default)]
    secret: String,
}

/// The credential that the file's helper has for the registry of `repository`, if it names one.
pub(super) async fn ask(file: &Keyring, repository: &str) -> Result<Option<Entry>, String> {
    let registry = repository.split('/').next().unwrap_or_default();
    let Some((name, server)) = helper(file, registry) else { return Ok(None) };
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if !plain {
        return Err(format!("credential helper {name:?} has no plain name"));
    }
    let program = Program {
        program: format!("docker-credential-{name}").into(),
        arguments: vec!["get".into()],
        environment: Vec::new(),
        input: server.clone().into_bytes(),
        limit: LIMIT,
    };
    let finished = program.run().await.map_err(|failure| format!("credential helper {name}: {failure}"))?;
    let said = String::from_utf8_lossy(&finished.answer).contains(NOT_FOUND);
    let answer = match finished.well() {
        Ok(answer) => answer,
        // Helpers write errors on standard output: what it says is understood and not repeated.
        Err(_) if said => return Ok(None),
        Err(Failure::Ended { status, .. }) => return Err(format!("credential helper {name}: {status}")),
        Err(failure) => return Err(format!("credential helper {name}: {failure}")),
    };
    let Ok(answer) = serde_json::from_slice::<Answer>(&answer) else {
        return Err(format!("credential helper {name}: its answer cannot be read"));
    };
    Ok(Some(Entry { key: registry.to_owned(), auth: auth(answer) }))
}

/// Which helper to ask, and for which server: the registry's own before that for all.
fn helper(file: &Keyring, registry: &str) -> Option<(String, String)> {
    let hub = registry == DEFAULT_DOMAIN;
    let server = if hub { DOCKER_HUB } else { registry };
    for key in [server, registry] {
        if let Some(name) = file.helpers.get(key) {
            return Some((name.clone(), key.to_owned()));
        }
    }
    file.store.clone().map(|name| (name, server.to_owned()))
}

fn auth(answer: Answer) -> v1::AuthConfig {
    match answer.username.as_str() {
        TOKEN_USER => v1::AuthConfig { identity_token: answer.secret, ..Default::default() },
        _ => v1::AuthConfig { username: answer.username, password: answer.secret, ..Default::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registrys_own_helper_goes_before_the_store_for_all() {
        let file = Keyring {
            helpers: [("r.io".to_owned(), "own".to_owned())].into(),
            store: Some("all".into()),
            ..Keyring::default()
        };
        let find = |registry| helper(&file, registry).unwrap();
        assert_eq!(find("r.io"), ("own".into(), "r.io".into()));
        assert_eq!(find("s.io"), ("all".into(), "s.io".into()));
        assert_eq!(find("docker.io"), ("all".into(), DOCKER_HUB.into()));
        assert_eq!(helper(&Keyring::default(), "r.io"), None);
    }

    #[test]
    fn a_secret_of_the_user_token_is_an_identity_token() {
        let answer = |user: &str| auth(Answer { username: user.into(), secret: "s".into() });
        assert_eq!(answer("<token>"), v1::AuthConfig { identity_token: "s".into(), ..Default::default() });
        assert_eq!(answer("u").password, "s");
    }

    #[tokio::test]
    async fn a_helper_with_a_path_for_a_name_is_not_run() {
        let file = Keyring { store: Some("../evil".into()), ..Keyring::default() };
        assert!(ask(&file, "r.io/x").await.err().unwrap().contains("no plain name"));
    }
}
