//! Answering a registry's challenge: Basic, or a token from the realm it names (IMG-125..IMG-131).
//!
//! Owns the choice of what is sent where. A secret goes to the registry that asked for it and to its realm, nowhere
//! else, and never in the clear unless the registry itself is.

use super::body::{error_text, read_document};
use super::challenge::Challenge;
use super::fault::{Fault, RequestError};
use super::transport::{Ask, Transport, origin_of};
use super::trust::Trust;
use crate::credential::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method, Uri};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const TOKEN_BYTES_MAX: u64 = 1 << 20;
const TOKEN_LIFETIME_DEFAULT: Duration = Duration::from_secs(60);
const CLIENT_ID: &str = "sampan";

/// What is presented to a host with each request.
#[derive(Default)]
pub(super) enum Login {
    #[default]
    None,
    Basic(HeaderValue),
    Bearer {
        header: HeaderValue,
        /// When a new token is fetched; `None` for a token that was given and cannot be renewed.
        refresh_at: Option<Instant>,
        challenge: Challenge,
    },
}

impl Login {
    pub(super) fn header(&self) -> Option<HeaderValue> {
        match self {
            Login::None => None,
            Login::Basic(header) | Login::Bearer { header, .. } => Some(header.clone()),
        }
    }

    /// The challenge to answer again before the token runs out.
    pub(super) fn due(&self) -> Option<Challenge> {
        match self {
            Login::Bearer { refresh_at: Some(at), challenge, .. } if Instant::now() >= *at => Some(challenge.clone()),
            _ => None,
        }
    }
}

/// Who asks for what.
pub(super) struct Applicant<'a> {
    pub(super) transport: &'a Transport,
    /// Of the registry; its realm is believed by the same authorities.
    pub(super) trust: &'a Arc<Trust>,
    pub(super) secret: &'a Secret,
    /// The repository's path.
    pub(super) path: &'a str,
    /// Scheme and host of the registry that sent the challenge.
    pub(super) host: &'a str,
    pub(super) timeout: Duration,
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: Option<u64>,
}

impl Applicant<'_> {
    /// Turns a challenge into what to present.
    pub(super) async fn answer(&self, challenge: Option<Challenge>) -> Result<Login, RequestError> {
        let Some(challenge) = challenge else {
            return Err(self.denied("401 Unauthorized without a challenge that is understood"));
        };
        if let Secret::Registry(token) = self.secret {
            return Ok(Login::Bearer {
                header: self.sensitive(format!("Bearer {token}"))?,
                refresh_at: None,
                challenge,
            });
        }
        if challenge.scheme == "basic" {
            return Ok(Login::Basic(self.basic()?));
        }
        let realm = challenge
            .parameter("realm")
            .and_then(|realm| realm.parse::<Uri>().ok())
            .filter(|uri| uri.host().is_some())
            .ok_or_else(|| {
                RequestError::new(Fault::Protocol, self.host, "no realm specified for token auth challenge")
            })?;
        if realm.scheme_str() != Some("https") && !self.host.starts_with("http://") {
            let realm = origin_of(&realm);
            return Err(RequestError::new(
                Fault::Protocol,
                self.host,
                format!("refusing the unencrypted realm {realm}"),
            ));
        }
        let answer = self.fetch(&self.token_request(&realm, &challenge)?).await?;
        let token = if answer.access_token.is_empty() { answer.token } else { answer.access_token };
        if token.is_empty() {
            let text = "authorization server did not include a token in the response";
            return Err(RequestError::new(Fault::Protocol, &origin_of(&realm), text));
        }
        let lifetime = answer.expires_in.map_or(TOKEN_LIFETIME_DEFAULT, Duration::from_secs);
        // A tenth early, so that a request does not meet the expiry on its way.
        let refresh_at = Instant::now().checked_add(lifetime.mul_f32(0.9));
        Ok(Login::Bearer { header: self.sensitive(format!("Bearer {token}"))?, refresh_at, challenge })
    }

    async fn fetch(&self, ask: &Ask) -> Result<TokenAnswer, RequestError> {
        let reply = self.transport.send(ask).await?;
        let (host, status) = (reply.host.clone(), reply.response.status());
        if !status.is_success() {
            let fault = match status.as_u16() {
                429 => Fault::RateLimited,
                500.. => Fault::Server,
                _ => Fault::Denied,
            };
            return Err(RequestError::new(fault, &host, format!("token: {}", error_text(reply, self.timeout).await)));
        }
        let body = read_document(reply, TOKEN_BYTES_MAX, self.timeout).await?;
        // The parser's error could quote the body, and the body is a secret.
        serde_json::from_slice(&body)
            .map_err(|_| RequestError::new(Fault::Protocol, &host, "token: not a token answer"))
    }

    fn token_request(&self, realm: &Uri, challenge: &Challenge) -> Result<Ask, RequestError> {
        let scopes = scopes(challenge, self.path);
        let mut pairs: Vec<(&str, String)> = Vec::new();
        pairs.extend(challenge.parameter("service").map(|service| ("service", service.to_owned())));
        let mut ask = Ask {
            method: Method::GET,
            uri: realm.clone(),
            trust: self.trust.clone(),
            private: HeaderMap::new(),
            public: HeaderMap::new(),
            form: None,
            timeout: self.timeout,
        };
        if let Secret::Identity(token) = self.secret {
            pairs.push(("grant_type", "refresh_token".to_owned()));
            pairs.push(("client_id", CLIENT_ID.to_owned()));
            pairs.push(("scope", scopes.into_iter().collect::<Vec<_>>().join(" ")));
            pairs.push(("refresh_token", token.clone()));
            ask.method = Method::POST;
            ask.form = Some(encode_pairs(&pairs));
            return Ok(ask);
        }
        pairs.extend(scopes.into_iter().map(|scope| ("scope", scope)));
        let separator = if realm.query().is_some() { '&' } else { '?' };
        ask.uri = format!("{realm}{separator}{}", encode_pairs(&pairs))
            .parse()
            .map_err(|_| RequestError::new(Fault::Protocol, self.host, "the realm is not a usable address"))?;
        if matches!(self.secret, Secret::Password { .. }) {
            ask.private.insert(AUTHORIZATION, self.basic()?);
        }
        Ok(ask)
    }

    fn basic(&self) -> Result<HeaderValue, RequestError> {
        match self.secret {
            Secret::Password { username, password } if !username.is_empty() && !password.is_empty() => {
                self.sensitive(format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
            }
            _ => Err(self.denied("no basic auth credentials")),
        }
    }

    fn sensitive(&self, text: String) -> Result<HeaderValue, RequestError> {
        let mut header =
            HeaderValue::try_from(text).map_err(|_| self.denied("the credential cannot be sent in a header"))?;
        header.set_sensitive(true);
        Ok(header)
    }

    fn denied(&self, text: &str) -> RequestError {
        RequestError::new(Fault::Denied, self.host, text)
    }
}

/// The challenge's scopes and the one that a pull needs, each once, sorted (IMG-126).
fn scopes(challenge: &Challenge, path: &str) -> BTreeSet<String> {
    let own = format!("repository:{path}:pull");
    let asked = challenge.parameter("scope").unwrap_or_default();
    asked.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned).chain([own]).collect()
}

fn encode_pairs(pairs: &[(&str, String)]) -> String {
    let encoded: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    encoded.join("&")
}

/// A value as a form or a query spells it.
pub(super) fn encode(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':' | b'/');
    value.bytes().map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_the_union_without_duplicates_in_order() {
        let mut challenge = Challenge::default();
        challenge.parameters.insert("scope".into(), "repository:z:pull repository:a/b:pull".into());
        let found: Vec<String> = scopes(&challenge, "a/b").into_iter().collect();
        assert_eq!(found, ["repository:a/b:pull", "repository:z:pull"]);
    }

    #[test]
    fn form_values_are_encoded() {
        assert_eq!(
            encode_pairs(&[("a", "x y&z=é".to_owned()), ("b", "k:v/w".to_owned())]),
            "a=x%20y%26z%3D%C3%A9&b=k:v/w"
        );
    }
}
