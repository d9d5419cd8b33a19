//! Authentication: who sent a request.
//!
//! The door may know it already (a client certificate, an in-process client); else a bearer token proves it. A wrong token
//! is refused, no token is nobody. Start at [`authenticate`].

use http::{Extensions, HeaderMap, header};

use crate::certificates::Shown;
use crate::clock;
use crate::server::Core;
use crate::status::Status;
use crate::tokens::{Proven, bootstrap};
use crate::user::{UserInfo, same_secret};

/// The identity behind a request.
///
/// # Errors
/// 401 for a certificate or token that proves nothing; the reason is logged, without the token.
pub async fn authenticate(
    core: &Core,
    extensions: &Extensions,
    headers: &HeaderMap,
) -> Result<Option<UserInfo>, Status> {
    if let Some(user) = extensions.get::<UserInfo>() {
        return Ok(Some(user.clone()));
    }
    let shown = extensions.get::<Shown>().map(|shown| shown.now(clock::now().as_second()));
    if let Some(Ok(user)) = shown {
        return Ok(Some(user.clone()));
    }
    // As upstream: a certificate that proves nothing is refused, unless a token proves something.
    let Some(authorization) = headers.get(header::AUTHORIZATION) else {
        return match shown {
            Some(Err(reason)) => {
                tracing::debug!(reason, "a client certificate was refused");
                Err(Status::unauthorized())
            }
            _ => Ok(None),
        };
    };
    let text = authorization.to_str().map_err(|_| Status::unauthorized())?;
    let (scheme, token) = text.split_once(' ').unwrap_or_default();
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Status::unauthorized());
    }
    match prove(core, token.trim(), &core.tokens.audiences).await {
        Ok(proven) => Ok(Some(proven.user)),
        Err(reason) => {
            tracing::debug!(reason, "a bearer token was refused");
            Err(Status::unauthorized())
        }
    }
}

/// What a token proves to one of `audiences`.
///
/// # Errors
/// Why it proves nothing, without a word of the token.
pub async fn prove(core: &Core, token: &str, audiences: &[String]) -> Result<Proven, String> {
    let known = core.static_tokens.iter().find(|known| same_secret(known.token.as_bytes(), token.as_bytes()));
    // A static token, or one of a machine that joins, is for this server alone.
    let own = |audience: &&String| core.tokens.audiences.contains(*audience);
    let user = match (known, bootstrap::parse(token)) {
        (Some(known), _) => known.user.clone(),
        (None, Some(parts)) => bootstrap::prove(&core.registry.world, parts, clock::precise()).await?,
        (None, None) => return core.tokens.prove(token, audiences, (&core.registry.world, clock::precise())).await,
    };
    let audiences: Vec<String> = audiences.iter().filter(own).cloned().collect();
    match audiences.is_empty() {
        true => Err("token audiences are invalid for what was asked".to_owned()),
        false => Ok(Proven { user, audiences }),
    }
}
