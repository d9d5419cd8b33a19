//! What a caller may present to a registry, and which part of it counts (IMG-130).
//!
//! Owns the reading of CRI's AuthConfig; never prints a secret.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use std::fmt;

/// A credential in the fields of CRI's AuthConfig. Empty fields are absent.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Credential {
    /// User name.
    pub username: String,
    /// Password or access token.
    pub password: String,
    /// base64 of `user:password`.
    pub auth: String,
    /// A refresh token for the token server.
    pub identity_token: String,
    /// A bearer token that is presented as it is.
    pub registry_token: String,
    /// If set, the only registry that may see the credential.
    pub server_address: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |text: &str| if text.is_empty() { "" } else { "[redacted]" };
        formatter
            .debug_struct("Credential")
            .field("username", &self.username)
            .field("password", &shown(&self.password))
            .field("auth", &shown(&self.auth))
            .field("identity_token", &shown(&self.identity_token))
            .field("registry_token", &shown(&self.registry_token))
            .field("server_address", &self.server_address)
            .finish()
    }
}

/// The one form of a credential that is used.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) enum Secret {
    #[default]
    Anonymous,
    Password {
        username: String,
        password: String,
    },
    Identity(String),
    Registry(String),
}

impl Credential {
    /// Which secret counts for a registry. A credential for another server is as good as none.
    pub(crate) fn secret_for(&self, domain: &str) -> Result<Secret, &'static str> {
        if !self.server_address.is_empty() && !same_server(&self.server_address, domain) {
            return Ok(Secret::Anonymous);
        }
        if !self.username.is_empty() {
            return Ok(Secret::Password { username: self.username.clone(), password: self.password.clone() });
        }
        if !self.identity_token.is_empty() {
            return Ok(Secret::Identity(self.identity_token.clone()));
        }
        if !self.registry_token.is_empty() {
            return Ok(Secret::Registry(self.registry_token.clone()));
        }
        if self.auth.is_empty() { Ok(Secret::Anonymous) } else { decode_auth(&self.auth) }
    }
}

fn decode_auth(auth: &str) -> Result<Secret, &'static str> {
    const SHAPE: &str = "unable to parse auth field, must be formatted as base64(username:password)";
    let trimmed = auth.trim_end_matches('\0');
    let bytes = STANDARD.decode(trimmed).or_else(|_| STANDARD_NO_PAD.decode(trimmed)).map_err(|_| SHAPE)?;
    let text = String::from_utf8(bytes).map_err(|_| SHAPE)?;
    let (username, password) = text.split_once(':').ok_or(SHAPE)?;
    let password = password.trim_end_matches('\0').to_owned();
    Ok(Secret::Password { username: username.to_owned(), password })
}

fn same_server(address: &str, domain: &str) -> bool {
    let host = reference::credential::Key::parse(address).text();
    let host = host.split('/').next().unwrap_or_default();
    host == domain
        || (domain == reference::DEFAULT_DOMAIN && matches!(host, "index.docker.io" | "registry-1.docker.io"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_count_in_their_order() {
        let full = Credential {
            username: "u".into(),
            password: "p".into(),
            auth: STANDARD.encode("a:b:c\0"),
            identity_token: "i".into(),
            registry_token: "r".into(),
            server_address: String::new(),
        };
        let password = |u: &str, p: &str| Secret::Password { username: u.into(), password: p.into() };
        assert!(full.secret_for("x") == Ok(password("u", "p")));
        let second = Credential { username: String::new(), ..full.clone() };
        assert!(second.secret_for("x") == Ok(Secret::Identity("i".into())));
        let third = Credential { identity_token: String::new(), registry_token: String::new(), ..second };
        assert!(third.secret_for("x") == Ok(password("a", "b:c")));
        let bad = Credential { auth: STANDARD.encode("nocolon"), ..Credential::default() };
        assert!(bad.secret_for("x").is_err());
        assert!(Credential::default().secret_for("x") == Ok(Secret::Anonymous));
    }

    #[test]
    fn a_credential_for_another_server_is_not_used() {
        let credential = Credential {
            username: "u".into(),
            password: "p".into(),
            server_address: "https://r.io".into(),
            ..Credential::default()
        };
        assert!(credential.secret_for("r.io") != Ok(Secret::Anonymous));
        assert!(credential.secret_for("other.io") == Ok(Secret::Anonymous));
        let hub = Credential { server_address: "https://index.docker.io/v1/".into(), ..credential };
        assert!(hub.secret_for("docker.io") != Ok(Secret::Anonymous));
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let credential =
            Credential { password: "hunter2".into(), auth: "aHVudGVyMg==".into(), ..Credential::default() };
        let text = format!("{credential:?}");
        assert!(!text.contains("hunter2") && !text.contains("aHVudGVyMg"), "{text}");
    }
}
