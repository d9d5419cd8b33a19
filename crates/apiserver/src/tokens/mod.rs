//! Tokens of service accounts: issued for what exists, believed as long as it exists.
//!
//! Owns the key, the claims and their judgement; `subresource::token` answers requests for tokens. No token and no part of
//! the key may get into a log or an error. Start at [`Tokens`].

pub mod bootstrap;
pub mod claims;
pub mod jwt;
mod live;

use api::Timestamp;
use serde_json::{Value, json};

use crate::user::UserInfo;
use crate::world::World;
use claims::Claims;
use jwt::{Key, KeyError};

/// Who issues tokens, unless the options say otherwise; also their default audience.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Issues and judges tokens.
#[derive(Debug)]
pub struct Tokens {
    key: Key,
    /// `iss` of all tokens.
    pub issuer: String,
    /// What tokens for this server are addressed to.
    pub audiences: Vec<String>,
}

/// What a believed token proves.
#[derive(Debug)]
pub struct Proven {
    /// Whose it is.
    pub user: UserInfo,
    /// Those of the wanted audiences that it is addressed to.
    pub audiences: Vec<String>,
}

impl Tokens {
    /// With the key in the PEM text, or with one of its own that ends with it.
    ///
    /// # Errors
    /// [`KeyError`] when the text holds no usable key.
    pub fn new(key_pem: Option<&str>) -> Result<Tokens, KeyError> {
        let key = match key_pem {
            Some(pem) => Key::from_pem(pem)?,
            None => Key::ephemeral()?,
        };
        Ok(Tokens { key, issuer: ISSUER.to_owned(), audiences: vec![ISSUER.to_owned()] })
    }

    /// A token with these claims.
    pub fn issue(&self, claims: &Claims) -> Option<String> {
        self.key.sign(&serde_json::to_vec(claims).ok()?)
    }

    /// What the token proves to one of `audiences` now.
    ///
    /// # Errors
    /// Why it proves nothing, without a word of the token.
    pub async fn prove(
        &self,
        token: &str,
        audiences: &[String],
        (world, now): (&World, Timestamp),
    ) -> Result<Proven, String> {
        let bytes = self.key.verify(token).ok_or("invalid bearer token")?;
        let claims: Claims = serde_json::from_slice(&bytes).map_err(|_| "invalid bearer token")?;
        let audiences = claims.judge(&self.issuer, audiences, now.as_second())?;
        let user = live::holds(&claims, world, now).await?;
        Ok(Proven { user, audiences })
    }

    /// The keys by which others can judge tokens: `/openid/v1/jwks`.
    pub fn public_keys(&self) -> Value {
        self.key.public_set()
    }

    /// `/.well-known/openid-configuration`.
    pub fn configuration(&self) -> Value {
        json!({
            "issuer": self.issuer, "jwks_uri": format!("{}/openid/v1/jwks", self.issuer),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}
