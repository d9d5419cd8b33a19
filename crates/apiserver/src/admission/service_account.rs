//! `ServiceAccount`: every pod runs as a service account, takes its pull secrets (IMG-188 to IMG-190) and mounts its token.
//!
//! The account `default` may be missing, so that a pod can be made in a namespace before its controller has made the
//! account; such a pod mounts a token too, and its volume waits for the account.

use api::look;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request};
use crate::registry::generate_name;
use crate::status::Status;

/// The plugin.
pub struct ServiceAccount;

const VOLUME: &str = "kube-api-access-";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const ROOT_CA: &str = "kube-root-ca.crt";
/// Not an hour, so that the server knows these tokens from those that were asked for by hand.
const TOKEN_SECONDS: i64 = 3607;
const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    async fn mutate(&self, request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
        if !request.is_on("", "pods") || request.operation != Operation::Create || api::pod::is_mirror(pod) {
            return Ok(());
        }
        let spec = look::child(pod, "spec");
        look::set_empty(spec, "serviceAccountName", "default");
        let name = look::text(spec, "serviceAccountName").to_owned();
        look::set(spec, "serviceAccount", name);
        let account = account_of(request, spec).await?;
        if automounts(spec, account.as_ref()) {
            mount_token(spec);
        }
        let Some(account) = account else { return Ok(()) };
        // IMG-188: all of the account's or all of the pod's, never both.
        if look::list(spec, "imagePullSecrets").is_empty() {
            let names: Vec<Value> = look::list(&account, "imagePullSecrets")
                .iter()
                .map(|secret| json!({"name": look::text(secret, "name")}))
                .collect();
            if !names.is_empty() {
                look::set(spec, "imagePullSecrets", names);
            }
        }
        Ok(())
    }

    async fn validate(&self, request: &Request<'_>, pod: Option<&Value>) -> Result<(), Status> {
        let on_pods = request.kind.group.is_empty() && request.kind.plural == "pods";
        let Some(pod) = pod.filter(|_| on_pods) else { return Ok(()) };
        let empty = Value::Null;
        let spec = look::get(pod, "spec").unwrap_or(&empty);
        match (request.operation, request.subresource) {
            (Operation::Create, "") if api::pod::is_mirror(pod) => refuse_mirror(request, spec),
            (Operation::Create, "") => {
                let Some(account) = account_of(request, spec).await? else { return Ok(()) };
                let lists = [("init container", "initContainers"), ("container", "containers")];
                enforce(request, spec, &account, &lists)
            }
            (Operation::Update, "ephemeralcontainers") => {
                let Some(account) = account_of(request, spec).await? else { return Ok(()) };
                enforce_containers(request, spec, &account, ("ephemeral container", "ephemeralContainers"))
            }
            _ => Ok(()),
        }
    }
}

/// The pod's word counts before the account's; both silent means yes.
fn automounts(spec: &Value, account: Option<&Value>) -> bool {
    let said = |object: &Value| look::get(object, "automountServiceAccountToken").and_then(Value::as_bool);
    said(spec).or_else(|| account.and_then(said)).unwrap_or(true)
}

/// Mounts the token where clients look for it, in each container that has nothing there. Idempotent.
fn mount_token(spec: &mut Value) {
    let volumes = look::list(spec, "volumes").iter();
    let present = volumes.map(|volume| look::text(volume, "name")).find(|name| name.starts_with(VOLUME));
    let (is_present, name) = match present {
        Some(name) => (true, name.to_owned()),
        None => (false, generate_name(VOLUME)),
    };
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        for container in look::list_mut(spec, list) {
            let mut mounts = look::list(container, "volumeMounts").to_vec();
            if mounts.iter().any(|mount| look::text(mount, "mountPath") == MOUNT_PATH) {
                continue;
            }
            mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
            look::set(container, "volumeMounts", mounts);
            needed = true;
        }
    }
    if needed && !is_present {
        let mut volumes = look::list(spec, "volumes").to_vec();
        volumes.push(json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": ROOT_CA, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
            ]}},
        ]}}));
        look::set(spec, "volumes", volumes);
    }
}

/// The pod's account; None when it is `default` and not there yet.
async fn account_of(request: &Request<'_>, spec: &Value) -> Result<Option<Value>, Status> {
    let name = look::text(spec, "serviceAccountName");
    let found = request.world.find("", "serviceaccounts", Some(request.namespace), name).await;
    let namespace = request.namespace;
    match found {
        None if !matches!(name, "" | "default") => Err(request.forbidden(format!(
            "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
        ))),
        found => Ok(found),
    }
}

/// IMG-190: mirror pods refer to nothing in the API.
fn refuse_mirror(request: &Request<'_>, spec: &Value) -> Result<(), Status> {
    let volumes = look::list(spec, "volumes");
    let projects = |kind: &str| {
        volumes
            .iter()
            .flat_map(|volume| look::list_at(volume, &["projected", "sources"]))
            .any(|s| look::get(s, kind).is_some())
    };
    let mounts = |kind: &str| volumes.iter().any(|volume| look::get(volume, kind).is_some()) || projects(kind);
    let reads = |direct: &str, whole: &str| {
        ["initContainers", "containers", "ephemeralContainers"].iter().flat_map(|list| look::list(spec, list)).any(
            |c| {
                look::list(c, "env").iter().any(|variable| look::at(variable, &["valueFrom", direct]).is_some())
                    || look::list(c, "envFrom").iter().any(|source| look::get(source, whole).is_some())
            },
        )
    };
    let refusals = [
        (!look::text(spec, "serviceAccountName").is_empty(), "a mirror pod may not reference service accounts"),
        (
            !look::list(spec, "imagePullSecrets").is_empty() || mounts("secret") || reads("secretKeyRef", "secretRef"),
            "a mirror pod may not reference secrets",
        ),
        (mounts("configMap") || reads("configMapKeyRef", "configMapRef"), "a mirror pod may not reference configmaps"),
        (projects("serviceAccountToken"), "a mirror pod may not use ServiceAccountToken volume projections"),
        (mounts("persistentVolumeClaim"), "a mirror pod may not reference persistentvolumeclaims"),
    ];
    match refusals.into_iter().find(|(broken, _)| *broken) {
        Some((_, why)) => Err(request.forbidden(why)),
        None => Ok(()),
    }
}

/// Whether the account demands that it lists every secret of its pods. Read as Go reads booleans.
fn enforces(account: &Value) -> bool {
    let text = look::text_at(account, &["metadata", "annotations", ENFORCE]);
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// IMG-189: every secret of the pod must stand in the account's list.
fn enforce(request: &Request<'_>, spec: &Value, account: &Value, lists: &[(&str, &str)]) -> Result<(), Status> {
    if !enforces(account) {
        return Ok(());
    }
    let account_name = look::text_at(account, &["metadata", "name"]);
    for volume in look::list(spec, "volumes") {
        let Some(secret) = look::get(volume, "secret") else { continue };
        let name = look::text(secret, "secretName");
        if !lists_secret(account, "secrets", name) {
            return Err(request.forbidden(format!(
                "volume with secret.secretName={name:?} is not allowed because service account {account_name} does not \
                 reference that secret"
            )));
        }
    }
    for list in lists {
        enforce_containers(request, spec, account, *list)?;
    }
    for (index, secret) in look::list(spec, "imagePullSecrets").iter().enumerate() {
        let name = look::text(secret, "name");
        if !lists_secret(account, "imagePullSecrets", name) {
            return Err(request.forbidden(format!(
                "imagePullSecrets[{index}].name={name:?} is not allowed because service account {account_name} does not \
                 reference that imagePullSecret"
            )));
        }
    }
    Ok(())
}

fn lists_secret(account: &Value, list: &str, name: &str) -> bool {
    look::list(account, list).iter().any(|known| look::text(known, "name") == name)
}

fn enforce_containers(
    request: &Request<'_>,
    spec: &Value,
    account: &Value,
    (word, list): (&str, &str),
) -> Result<(), Status> {
    if !enforces(account) {
        return Ok(());
    }
    let account_name = look::text_at(account, &["metadata", "name"]);
    let refuse = |container: &Value, how: String, secret: &str| {
        request.forbidden(format!(
            "{word} {} with {how} referencing secret.secretName={secret:?} is not allowed because service account \
             {account_name} does not reference that secret",
            look::text(container, "name"),
        ))
    };
    for container in look::list(spec, list) {
        for variable in look::list(container, "env") {
            let Some(key) = look::at(variable, &["valueFrom", "secretKeyRef"]) else { continue };
            let name = look::text(key, "name");
            if !lists_secret(account, "secrets", name) {
                return Err(refuse(container, format!("envVar {}", look::text(variable, "name")), name));
            }
        }
        for source in look::list(container, "envFrom") {
            let Some(secret) = look::get(source, "secretRef") else { continue };
            let name = look::text(secret, "name");
            if !lists_secret(account, "secrets", name) {
                return Err(refuse(container, "envFrom".to_owned(), name));
            }
        }
    }
    Ok(())
}
