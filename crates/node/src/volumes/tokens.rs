//! Tokens of service accounts for projected volumes: asked for once, kept until they age, asked for again.
//!
//! Owns the tokens in memory, which end with the agent; no token gets into a log or an error. Start at [`Tokens::get`].

use crate::object::{Pod, TokenProjection};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{Api, api::PostParams};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// A call to the API takes no longer than this.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// No token is used for longer than a day, whatever its life.
const AGE_MAX_SECONDS: i64 = 24 * 3600;
/// Refreshes of many pods are spread over this many seconds.
const JITTER_SECONDS: i64 = 10;

/// What one projected source asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wanted {
    /// For whom; empty means the API server.
    pub audience: String,
    /// For how long; the API's default if none is said.
    pub seconds: Option<i64>,
}

impl Wanted {
    /// What a source asks for.
    pub fn of(source: &TokenProjection) -> Wanted {
        Wanted { audience: source.audience.clone(), seconds: source.expiration_seconds }
    }
}

/// Tokens as a volume gets them: each, or why there is none.
pub(super) type Given = BTreeMap<Wanted, Result<String, String>>;

/// A token and its life.
#[derive(Clone)]
struct Issued {
    /// The secret.
    token: String,
    /// When it was made, in seconds since 1970.
    made: i64,
    /// When it ends.
    ends: i64,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("ends", &self.ends).finish_non_exhaustive()
    }
}

impl Issued {
    /// Whether four fifths of its life, or a day, are over, a little early.
    fn is_due(&self, now: i64, jitter: i64) -> bool {
        let life = self.ends - self.made;
        now + jitter > self.made + AGE_MAX_SECONDS || now + jitter > self.ends - life / 5
    }
}

/// The tokens of all pods of the node.
#[derive(Clone, Default)]
pub(super) struct Tokens {
    known: Arc<Mutex<BTreeMap<(String, Wanted), Issued>>>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

impl Tokens {
    /// A token of the pod's account, from memory while it is fresh. An old one serves on while no new one can be had.
    pub async fn get(&self, client: &kube::Client, pod: &Pod, wanted: &Wanted, now: i64) -> Result<String, String> {
        let key = (pod.uid().to_owned(), wanted.clone());
        let jitter = i64::from(rand::random::<u8>()) * JITTER_SECONDS / i64::from(u8::MAX);
        let old = self.lock().get(&key).cloned();
        if let Some(old) = old.as_ref().filter(|old| !old.is_due(now, jitter)) {
            return Ok(old.token.clone());
        }
        match request(client, pod, &wanted.audience, wanted.seconds).await {
            Ok((token, ends)) => {
                let issued = Issued { token, made: now, ends };
                let token = issued.token.clone();
                self.lock().insert(key, issued);
                Ok(token)
            }
            Err(error) => match old.filter(|old| now < old.ends) {
                Some(old) => {
                    tracing::warn!(pod = pod.name(), error, "a token is not renewed; the old one is used on");
                    Ok(old.token)
                }
                None => Err(format!("failed to fetch token: {error}")),
            },
        }
    }

    /// The pod is gone.
    pub fn forget(&self, uid: &str) {
        self.lock().retain(|(of, _), _| of != uid);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, Wanted), Issued>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A fresh token of the pod's account, bound to the pod, and its end in seconds since 1970; an empty audience means the
/// API server.
///
/// # Errors
/// In words, when the API does not give one; never with a token in them.
pub async fn request(
    client: &kube::Client,
    pod: &Pod,
    audience: &str,
    expiration_seconds: Option<i64>,
) -> Result<(String, i64), String> {
    let account = pod.spec.service_account_name.as_str();
    let asked = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: (!audience.is_empty()).then(|| vec![audience.to_owned()]),
            expiration_seconds,
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(pod.name().to_owned()),
                uid: Some(pod.uid().to_owned()),
            }),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), pod.namespace());
    let whose = format!("request a token of service account {}/{account}", pod.namespace());
    let parameters = PostParams::default();
    let answered = api.create_token_request(account, &parameters, &asked);
    match tokio::time::timeout(CALL_LIMIT, answered).await {
        Ok(Ok(answer)) => {
            let status = answer.status.unwrap_or_default();
            let token = status.token.filter(|token| !token.is_empty());
            let ends = status.expiration_timestamp.map(|time| time.0.as_second());
            token.zip(ends).ok_or_else(|| format!("{whose}: the answer holds none"))
        }
        Ok(Err(error)) => Err(format!("{whose}: {}", said(error))),
        Err(_) => Err(format!("{whose}: no answer in time")),
    }
}

/// The API's own words; other errors could quote an answer, and with it a token.
pub fn said(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        kube::Error::SerdeError(_) => "the answer cannot be read".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Json, Router, http::StatusCode, response::IntoResponse as _, routing::post};
    use serde_json::json;

    #[tokio::test]
    async fn an_old_token_is_renewed_and_serves_on_while_no_new_one_can_be_had() {
        let count = Arc::new(Mutex::new(0));
        let issue = move || async move {
            let nth = {
                let mut count = count.lock().unwrap();
                *count += 1;
                *count
            };
            if nth > 2 {
                return (StatusCode::SERVICE_UNAVAILABLE, "{}").into_response();
            }
            let status =
                json!({"token": format!("t{nth}"), "expirationTimestamp": format!("1970-01-01T0{nth}:00:00Z")});
            Json(json!({"spec": {"audiences": []}, "status": status})).into_response()
        };
        let router = Router::new().route("/api/v1/namespaces/ns/serviceaccounts/robot/token", post(issue));
        let client = kube::Client::new(router, "ns");
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"serviceAccountName": "robot"},
        }))
        .unwrap();
        let (tokens, wanted) = (Tokens::default(), Wanted { audience: String::new(), seconds: None });
        let at = async |now| tokens.get(&client, &pod, &wanted, now).await;
        assert_eq!(at(0).await.unwrap(), "t1");
        assert_eq!(at(2800).await.unwrap(), "t1");
        assert_eq!(at(2900).await.unwrap(), "t2");
        assert_eq!(at(7000).await.unwrap(), "t2", "no new one can be had");
        assert!(
            at(7200)
                .await
                .unwrap_err()
                .starts_with("failed to fetch token: request a token of service account ns/robot")
        );
        tokens.forget("u");
        assert!(at(2900).await.is_err());
    }

    #[test]
    fn a_token_is_due_after_four_fifths_of_its_life_or_a_day() {
        let issued = |ends| Issued { token: "secret".into(), made: 1000, ends };
        let hour = issued(1000 + 3600);
        assert!(!hour.is_due(1000 + 2880, 0) && hour.is_due(1000 + 2881, 0) && hour.is_due(1000 + 2875, 10));
        let year = issued(1000 + 365 * 86400);
        assert!(!year.is_due(1000 + 86400, 0) && year.is_due(1000 + 86401, 0));
        assert!(!format!("{hour:?}").contains("secret"));
    }
}
