//! Calls to the API, as all controllers make them: JSON in, JSON out.
//!
//! The shell sets one time-out around each action, so there is none here.

use http::{Method, Request};
use kube::Client;
use serde_json::Value;

/// Why an action failed. Every failure is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API refused the call or could not be reached.
    #[error("{call} failed")]
    Call {
        /// Method and path.
        call: String,
        /// The answer.
        source: Box<kube::Error>,
    },
    /// The action did not end in time.
    #[error("the action did not end within {0} s")]
    TimedOut(u64),
    /// The holder of the key did not sign.
    #[error("cannot sign: {0}")]
    Sign(String),
    /// The action has to wait for others to finish.
    #[error("{0} objects remain")]
    Remaining(usize),
}

impl Error {
    /// The HTTP status of the API's refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            Error::Call { source, .. } => match &**source {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            _ => None,
        }
    }

    /// The reason of the API's refusal.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Error::Call { source, .. } => match &**source {
                kube::Error::Api(status) => Some(&status.reason),
                _ => None,
            },
            _ => None,
        }
    }

    /// The API's own words for a refusal.
    pub fn words(&self) -> String {
        match self {
            Error::Call { source, .. } => match &**source {
                kube::Error::Api(status) => status.message.clone(),
                other => other.to_string(),
            },
            other => other.to_string(),
        }
    }
}

/// Makes one call.
pub async fn call(client: &Client, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Error> {
    let content_type = match method {
        Method::PATCH => "application/strategic-merge-patch+json",
        _ => "application/json",
    };
    let name = format!("{method} {path}");
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, content_type)
        .body(body.map(|body| body.to_string().into_bytes()).unwrap_or_default())
        .expect("names of objects are valid in a path");
    client.request(request).await.map_err(|source| Error::Call { call: name, source: Box::new(source) })
}

/// Makes one call and takes the statuses in `fine` for success: somebody else was first.
pub async fn call_unless(
    client: &Client,
    method: Method,
    path: &str,
    body: Option<&Value>,
    fine: &[u16],
) -> Result<(), Error> {
    match call(client, method, path, body).await {
        Err(error) if error.status().is_some_and(|status| fine.contains(&status)) => Ok(()),
        outcome => outcome.map(drop),
    }
}
