//! `ServiceAccount`: every pod runs as a service account and takes its pull secrets (IMG-188).
//!
//! Tokens are not mounted: this server issues none yet. The account `default` may be missing, so that a pod can be made
//! in a namespace before its controller has made the account.

use api::look;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request};
use crate::status::Status;

/// The plugin.
pub struct ServiceAccount;

const MIRROR: &str = "kubernetes.io/config.mirror";
const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    async fn mutate(&self, request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
        if !request.is_on("", "pods") || request.operation != Operation::Create {
            return Ok(());
        }
        if look::at(pod, &["metadata", "annotations", MIRROR]).is_some() {
            return refuse_mirror(request, pod);
        }
        let spec = look::child(pod, "spec");
        look::set_empty(spec, "serviceAccountName", "default");
        let name = look::text(spec, "serviceAccountName").to_owned();
        look::set(spec, "serviceAccount", name.clone());
        let account = request.world.find("", "serviceaccounts", Some(request.namespace), &name).await;
        let Some(account) = account else {
            return if name == "default" { Ok(()) } else { Err(missing(request, &name)) };
        };
        if look::list(spec, "imagePullSecrets").is_empty() {
            let names: Vec<Value> = look::list(&account, "imagePullSecrets")
                .iter()
                .map(|secret| json!({"name": look::text(secret, "name")}))
                .collect();
            if !names.is_empty() {
                look::set(spec, "imagePullSecrets", names);
            }
        }
        enforce_mountable(request, spec, &account)
    }
}

fn missing(request: &Request<'_>, name: &str) -> Status {
    let namespace = request.namespace;
    request.forbidden(format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"))
}

/// IMG-190: mirror pods refer to nothing in the API.
fn refuse_mirror(request: &Request<'_>, pod: &Value) -> Result<(), Status> {
    let spec = &pod["spec"];
    if !look::text(spec, "serviceAccountName").is_empty() {
        return Err(request.forbidden("a mirror pod may not reference service accounts"));
    }
    let secrets = !look::list(spec, "imagePullSecrets").is_empty()
        || look::list(spec, "volumes").iter().any(|volume| look::get(volume, "secret").is_some());
    if secrets { Err(request.forbidden("a mirror pod may not reference secrets")) } else { Ok(()) }
}

/// IMG-189: the account may demand that it lists every pull secret.
fn enforce_mountable(request: &Request<'_>, spec: &Value, account: &Value) -> Result<(), Status> {
    if look::text_at(account, &["metadata", "annotations", ENFORCE]) != "true" {
        return Ok(());
    }
    let allowed = look::list(account, "imagePullSecrets");
    for (index, secret) in look::list(spec, "imagePullSecrets").iter().enumerate() {
        let name = look::text(secret, "name");
        if !allowed.iter().any(|a| look::text(a, "name") == name) {
            let account = look::text_at(account, &["metadata", "name"]);
            return Err(request.forbidden(format!(
                "imagePullSecrets[{index}].name={name:?} is not allowed because service account {account} does not \
                 reference that imagePullSecret"
            )));
        }
    }
    Ok(())
}
