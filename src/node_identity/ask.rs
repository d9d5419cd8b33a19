//! One request for a node's certificate: sent, waited for, and what came of it.
//!
//! The request is called by its key, so that the same key asks the same again, also after a crash. Start at
//! [`certificate`].

use std::time::Duration;

use anyhow::Context;
use api::certificate::{GROUP, NODE_CLIENT, PLURAL, Request};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::Client;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData};
use serde_json::{Value, json};

use crate::bootstrap_tokens::call;

/// How often the answer is looked for, and how long people may leave it open before they are told again.
const LOOK: Duration = Duration::from_millis(500);
const TELL: Duration = Duration::from_secs(60);
/// The pauses after the API could not be reached.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// How long one call may take.
const CALL: Duration = Duration::from_secs(30);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The request went before it was answered.
    #[error("the request for a certificate is gone")]
    Gone,
    /// Somebody said no.
    #[error("certificate request {0} was denied: {1}")]
    Denied(String, String),
    /// The signer could not.
    #[error("certificate request {0} failed: {1}")]
    Failed(String, String),
    /// The API does not know who asks.
    #[error(
        "the API server does not believe the credential: a token has expired or was deleted, or a certificate has ended"
    )]
    Unauthorized,
    /// Who asks may not.
    #[error("the API server refuses the request: {0}")]
    Forbidden(String),
    /// The API is not the one that is meant.
    #[error("the API server is not of the authority in the kubeconfig: {0}")]
    Stranger(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl Refused {
    /// Whether the same key would be refused again.
    pub fn is_of_key(&self) -> bool {
        matches!(self, Refused::Gone | Refused::Denied(..) | Refused::Failed(..))
    }
}

fn other(error: impl std::fmt::Display) -> Refused {
    Refused::Other(format!("{error:#}"))
}

/// Gets a certificate for `node` and the key; waits for people if it has to.
pub async fn certificate(client: &Client, node: &str, key: &str) -> Result<String, Refused> {
    let key = KeyPair::from_pem(key).context("read the node's key").map_err(other)?;
    let (name, request) = request(&key, node).map_err(other)?;
    let path = format!("/apis/{GROUP}/v1/{PLURAL}/{name}");
    let mut told = None::<tokio::time::Instant>;
    let mut made = false;
    loop {
        let found = match patient(client, "GET", &path, None).await? {
            Some(found) => found,
            None if made => return Err(Refused::Gone),
            None => {
                patient(client, "POST", path.trim_end_matches(&format!("/{name}")), Some(&request)).await?;
                made = true;
                continue;
            }
        };
        made = true;
        if let Some(certificate) = answer(&found, &key, &name)? {
            return Ok(certificate);
        }
        let now = tokio::time::Instant::now();
        let again = told.get_or_insert(now + PAUSE.1);
        if *again <= now {
            *again = now + TELL;
            tracing::info!("waiting for an approval: kubectl certificate approve {name}");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Makes one call until the API answers. None: there is no such object, or there is one already.
async fn patient(client: &Client, method: &str, path: &str, body: Option<&Value>) -> Result<Option<Value>, Refused> {
    let mut pause = PAUSE.0;
    loop {
        let error = match tokio::time::timeout(CALL, call(client, method, path, body)).await {
            Ok(Ok(found)) => return Ok(Some(found)),
            Ok(Err(kube::Error::Api(status))) => match status.code {
                404 | 409 => return Ok(None),
                401 => return Err(Refused::Unauthorized),
                403 => return Err(Refused::Forbidden(status.message.clone())),
                400..=499 if status.code != 429 => return Err(other(&status.message)),
                _ => status.message.clone(),
            },
            Ok(Err(error)) => match format!("{:#}", anyhow::Error::new(error)) {
                told if told.contains("invalid peer certificate") => return Err(Refused::Stranger(told)),
                told => told,
            },
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(error, "the API server cannot be asked for a certificate; trying again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// The request for a key, and its name.
fn request(key: &KeyPair, node: &str) -> anyhow::Result<(String, Value)> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
    let pem = params.serialize_request(key)?.pem()?;
    // Half of the point says which one it is.
    let public: String = key.der_bytes().iter().skip(1).take(32).map(|byte| format!("{byte:02x}")).collect();
    let name = format!("node-csr-{public}");
    let object = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {
            "request": STANDARD.encode(pem), "signerName": NODE_CLIENT,
            "usages": ["digital signature", "key encipherment", "client auth"],
        },
    });
    Ok((name, object))
}

/// The certificate in an answer; None while there is none.
fn answer(found: &Value, key: &KeyPair, name: &str) -> Result<Option<String>, Refused> {
    let conditions = found["status"]["conditions"].as_array().into_iter().flatten();
    for condition in conditions {
        let told = || {
            let message = condition["message"].as_str().filter(|text| !text.is_empty());
            (name.to_owned(), message.or(condition["reason"].as_str()).unwrap_or("no reason was given").to_owned())
        };
        match condition["type"].as_str() {
            Some("Denied") => return Err(Refused::Denied(told().0, told().1)),
            Some("Failed") => return Err(Refused::Failed(told().0, told().1)),
            _ => {}
        }
    }
    // Somebody else's request of this name is not of this key.
    let own = Request::of(found).is_ok_and(|request| holds(&request.der, key));
    if !own || found["spec"]["signerName"] != NODE_CLIENT {
        return Err(other(format!("the certificate request {name} is of somebody else")));
    }
    let Some(certificate) = found["status"]["certificate"].as_str().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let pem = STANDARD.decode(certificate).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
    let block = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(other)?.1;
    match holds(&block.contents, key) {
        true => Ok(Some(pem)),
        false => Err(Refused::Failed(name.to_owned(), "the certificate is of another key".to_owned())),
    }
}

/// Whether a document has the public half of a key in it.
fn holds(der: &[u8], key: &KeyPair) -> bool {
    let public = key.der_bytes();
    der.windows(public.len()).any(|window| window == public)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_key_asks_the_same_in_the_form_that_the_signer_wants() {
        let key = KeyPair::generate().unwrap();
        let ((name, object), (again, _)) = (request(&key, "n").unwrap(), request(&key, "n").unwrap());
        assert_eq!(name, again);
        assert_eq!(name.len(), "node-csr-".len() + 64);
        let asked = Request::of(&object).unwrap();
        let usages = ["digital signature", "key encipherment", "client auth"];
        assert_eq!(api::certificate::complaint(NODE_CLIENT, &asked, &usages), None);
        assert_eq!(asked.common_name, "system:node:n");
        assert_ne!(request(&KeyPair::generate().unwrap(), "n").unwrap().0, name);
    }

    #[test]
    fn an_answer_is_a_certificate_of_the_key_or_a_refusal_that_says_why() {
        let key = KeyPair::generate().unwrap();
        let (name, mut object) = request(&key, "n").unwrap();
        assert_eq!(answer(&object, &key, &name).unwrap(), None);
        let signed = |key: &KeyPair| STANDARD.encode(CertificateParams::default().self_signed(key).unwrap().pem());
        object["status"]["certificate"] = signed(&key).into();
        assert!(answer(&object, &key, &name).unwrap().unwrap().contains("BEGIN CERTIFICATE"));
        object["status"]["certificate"] = signed(&KeyPair::generate().unwrap()).into();
        assert!(answer(&object, &key, &name).unwrap_err().is_of_key());
        let stranger = KeyPair::generate().unwrap();
        assert!(answer(&object, &stranger, &name).unwrap_err().to_string().ends_with("is of somebody else"));
        object["status"] = json!({"conditions": [{"type": "Denied", "reason": "Policy", "message": "not today"}]});
        let told = answer(&object, &key, &name).unwrap_err();
        assert!(told.is_of_key() && told.to_string().ends_with("was denied: not today"), "{told}");
        object["status"] = json!({"conditions": [{"type": "Failed", "reason": "SignerValidationFailure"}]});
        assert!(answer(&object, &key, &name).unwrap_err().to_string().ends_with("failed: SignerValidationFailure"));
    }
}
