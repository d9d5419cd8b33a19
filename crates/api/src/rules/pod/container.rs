//! Containers: what all three lists share, and what each forbids.

use serde_json::Value;

use super::env;
use super::probe::{self, ProbeKind};
use super::resources::{self, Scope};
use super::security;
use super::spec::Frame;
use super::volume::descending_path;
use crate::field::{FieldError, Path};
use crate::look;
use crate::names;

const PROBES: [(&str, ProbeKind); 3] = [
    ("livenessProbe", ProbeKind::Liveness),
    ("readinessProbe", ProbeKind::Readiness),
    ("startupProbe", ProbeKind::Startup),
];
const NOT_FOR_INIT: &str = "may not be set for init containers without restartPolicy=Always";
const NOT_FOR_EPHEMERAL: &str = "cannot be set for an Ephemeral Container";

/// Fields that an ephemeral container may have.
const EPHEMERAL_FIELDS: [&str; 17] = [
    "name",
    "image",
    "command",
    "args",
    "workingDir",
    "envFrom",
    "env",
    "volumeMounts",
    "volumeDevices",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "imagePullPolicy",
    "securityContext",
    "stdin",
    "stdinOnce",
    "tty",
    "targetContainerName",
];

/// Checks `spec.containers`.
pub(super) fn containers(all: &[Value], frame: &Frame<'_>, path: &Path, errors: &mut Vec<FieldError>) {
    if all.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    for (index, container) in all.iter().enumerate() {
        let path = path.index(index);
        shared(container, frame, &path, errors);
        let name = look::text(container, "name");
        if all[..index].iter().any(|other| look::text(other, "name") == name) {
            errors.push(FieldError::duplicate(&path.child("name"), name));
        }
        lifecycle_and_probes(container, frame, &path, errors);
        restart_policy(container, &path, errors);
    }
    host_ports(all, path, errors);
}

/// Checks `spec.initContainers`; `others` are the names of `spec.containers`.
pub(super) fn init_containers(
    all: &[Value],
    others: &[&str],
    frame: &Frame<'_>,
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    for (index, container) in all.iter().enumerate() {
        let item = path.index(index);
        shared(container, frame, &item, errors);
        restart_policy(container, &item, errors);
        let name = look::text(container, "name");
        let earlier = all[..index].iter().any(|other| look::text(other, "name") == name);
        if !name.is_empty() && (earlier || others.contains(&name)) {
            errors.push(FieldError::duplicate(&item.child("name"), name));
        }
        // Init containers run one by one, so their ports collide with no others.
        host_ports(std::slice::from_ref(container), path, errors);
        if look::text(container, "restartPolicy") == "Always" {
            lifecycle_and_probes(container, frame, &item, errors);
            continue;
        }
        // HOOK-6.
        for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if look::get(container, field).is_some() {
                errors.push(FieldError::forbidden(&item.child(field), NOT_FOR_INIT));
            }
        }
    }
}

/// Checks `spec.ephemeralContainers`; `others` are the names in the two other lists.
pub(super) fn ephemeral_containers(
    all: &[Value],
    others: &[&str],
    frame: &Frame<'_>,
    path: &Path,
    errors: &mut Vec<FieldError>,
) {
    for (index, container) in all.iter().enumerate() {
        let path = path.index(index);
        shared(container, frame, &path, errors);
        image_spaces(container, &path, errors);
        let name = look::text(container, "name");
        let earlier = all[..index].iter().any(|other| look::text(other, "name") == name);
        if earlier || others.contains(&name) {
            errors.push(FieldError::duplicate(&path.child("name"), name));
        }
        let target = look::text(container, "targetContainerName");
        if !target.is_empty() && !others.contains(&target) {
            errors.push(FieldError::not_found(&path.child("targetContainerName"), target));
        }
        for (field, value) in container.as_object().into_iter().flatten() {
            if !EPHEMERAL_FIELDS.contains(&field.as_str()) && !look::same(Some(value), None) {
                errors.push(FieldError::forbidden(&path.child(field), NOT_FOR_EPHEMERAL));
            }
        }
        for (index, mount) in look::list(container, "volumeMounts").iter().enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !look::text(mount, field).is_empty() {
                    let path = path.child("volumeMounts").index(index).child(field);
                    errors.push(FieldError::forbidden(&path, NOT_FOR_EPHEMERAL));
                }
            }
        }
    }
}

/// IMG-31: pods, unlike templates, want an image without spaces around it.
pub(super) fn image_spaces(container: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let image = look::text(container, "image");
    if image.trim().len() != image.len() {
        let detail = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(&path.child("image"), image, detail));
    }
}

fn lifecycle_and_probes(container: &Value, frame: &Frame<'_>, path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(lifecycle) = look::get(container, "lifecycle") {
        probe::lifecycle(lifecycle, frame.grace_seconds, frame.os, &path.child("lifecycle"), errors);
    }
    for (field, kind) in PROBES {
        if let Some(found) = look::get(container, field) {
            probe::probe(found, kind, &path.child(field), errors);
        }
    }
}

/// What containers of every list have in common.
fn shared(container: &Value, frame: &Frame<'_>, path: &Path, errors: &mut Vec<FieldError>) {
    let name = look::text(container, "name");
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    } else {
        errors.extend(names::label(name).into_iter().map(|text| FieldError::invalid(&path.child("name"), name, text)));
    }
    if look::text(container, "image").is_empty() {
        errors.push(FieldError::required(&path.child("image"), ""));
    }
    let policies = ["File", "FallbackToLogsOnError"];
    one_of(
        look::text(container, "terminationMessagePolicy"),
        &policies,
        &path.child("terminationMessagePolicy"),
        errors,
    );
    ports(look::list(container, "ports"), &path.child("ports"), errors);
    env::env(look::list(container, "env"), &path.child("env"), errors);
    env::env_from(look::list(container, "envFrom"), &path.child("envFrom"), errors);
    mounts(container, frame, &path.child("volumeMounts"), errors);
    devices(container, frame, &path.child("volumeDevices"), errors);
    pull_policy(look::text(container, "imagePullPolicy"), &path.child("imagePullPolicy"), errors);
    if let Some(requirements) = look::get(container, "resources") {
        resources::requirements(requirements, &path.child("resources"), Scope::Container, errors);
        claims(requirements, frame, &path.child("resources").child("claims"), errors);
    }
    if let Some(context) = look::get(container, "securityContext") {
        security::container(context, frame.host_users, &path.child("securityContext"), errors);
    }
}

/// A text of an enumeration that must be there.
pub(super) fn one_of(text: &str, supported: &[&str], path: &Path, errors: &mut Vec<FieldError>) {
    match text {
        "" => errors.push(FieldError::required(path, "")),
        text if supported.contains(&text) => {}
        text => errors.push(FieldError::not_supported(path, text, supported)),
    }
}

/// IMG-27.
pub(super) fn pull_policy(policy: &str, path: &Path, errors: &mut Vec<FieldError>) {
    one_of(policy, &["Always", "IfNotPresent", "Never"], path, errors);
}

fn ports(all: &[Value], path: &Path, errors: &mut Vec<FieldError>) {
    let mut taken: Vec<&str> = Vec::new();
    for (index, port) in all.iter().enumerate() {
        let path = path.index(index);
        let name = look::text(port, "name");
        let complaints = if name.is_empty() { Vec::new() } else { names::port_name(name) };
        if complaints.is_empty() && !name.is_empty() {
            if taken.contains(&name) {
                errors.push(FieldError::duplicate(&path.child("name"), name));
            }
            taken.push(name);
        }
        errors.extend(complaints.into_iter().map(|text| FieldError::invalid(&path.child("name"), name, text)));
        let number = look::integer(port, "containerPort").unwrap_or(0);
        if number == 0 {
            errors.push(FieldError::required(&path.child("containerPort"), ""));
        } else {
            port_number(number, &path.child("containerPort"), errors);
        }
        let host = look::integer(port, "hostPort").unwrap_or(0);
        if host != 0 {
            port_number(host, &path.child("hostPort"), errors);
        }
        one_of(look::text(port, "protocol"), &["SCTP", "TCP", "UDP"], &path.child("protocol"), errors);
    }
}

fn port_number(number: i64, path: &Path, errors: &mut Vec<FieldError>) {
    errors.extend(names::port_number(number).into_iter().map(|text| FieldError::invalid(path, number, text)));
}

fn host_ports(containers: &[Value], path: &Path, errors: &mut Vec<FieldError>) {
    let mut taken: Vec<String> = Vec::new();
    for (index, container) in containers.iter().enumerate() {
        for (port_index, port) in look::list(container, "ports").iter().enumerate() {
            let number = look::integer(port, "hostPort").unwrap_or(0);
            if number == 0 {
                continue;
            }
            let text = format!("{}/{}/{number}", look::text(port, "protocol"), look::text(port, "hostIP"));
            if taken.contains(&text) {
                let path = path.index(index).child("ports").index(port_index).child("hostPort");
                errors.push(FieldError::duplicate(&path, text));
            } else {
                taken.push(text);
            }
        }
    }
}

fn mounts(container: &Value, frame: &Frame<'_>, path: &Path, errors: &mut Vec<FieldError>) {
    let all = look::list(container, "volumeMounts");
    let devices = look::list(container, "volumeDevices");
    for (index, mount) in all.iter().enumerate() {
        let item = path.index(index);
        let (name, target) = (look::text(mount, "name"), look::text(mount, "mountPath"));
        if name.is_empty() {
            errors.push(FieldError::required(&item.child("name"), ""));
        }
        if frame.volume(name).is_none() {
            errors.push(FieldError::not_found(&item.child("name"), name));
        }
        if target.is_empty() {
            errors.push(FieldError::required(&item.child("mountPath"), ""));
        }
        if all[..index].iter().any(|other| look::text(other, "mountPath") == target) {
            errors.push(FieldError::invalid(&item.child("mountPath"), target, "must be unique"));
        }
        if devices.iter().any(|device| look::text(device, "name") == name) {
            errors.push(FieldError::invalid(&item.child("name"), name, "must not already exist in volumeDevices"));
        }
        if devices.iter().any(|device| look::text(device, "devicePath") == target) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.push(FieldError::invalid(&item.child("mountPath"), target, detail));
        }
        sub_path(mount, &item, path, errors);
        propagation(mount, container, path, errors);
    }
}

/// Upstream names the list, not the item, for the contents of sub paths.
fn sub_path(mount: &Value, item: &Path, list: &Path, errors: &mut Vec<FieldError>) {
    let (plain, expression) = (look::text(mount, "subPath"), look::text(mount, "subPathExpr"));
    descending_path(plain, &list.child("subPath"), errors);
    if !plain.is_empty() && !expression.is_empty() {
        let detail = "subPathExpr and subPath are mutually exclusive";
        errors.push(FieldError::invalid(&item.child("subPathExpr"), expression, detail));
    }
    descending_path(expression, &list.child("subPathExpr"), errors);
}

fn propagation(mount: &Value, container: &Value, list: &Path, errors: &mut Vec<FieldError>) {
    let mode = look::text(mount, "mountPropagation");
    let path = list.child("mountPropagation");
    let supported = ["Bidirectional", "HostToContainer", "None"];
    if look::get(mount, "mountPropagation").is_some() && !supported.contains(&mode) {
        errors.push(FieldError::not_supported(&path, mode, &supported));
    }
    let privileged = look::at(container, &["securityContext", "privileged"]) == Some(&Value::Bool(true));
    if mode == "Bidirectional" && !privileged {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(FieldError::forbidden(&path, detail));
    }
    let path = list.child("recursiveReadOnly");
    match look::text(mount, "recursiveReadOnly") {
        "" | "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !look::flag(mount, "readOnly") {
                errors.push(FieldError::forbidden(&path, "may only be specified when readOnly is true"));
            }
            if !matches!(mode, "" | "None") {
                let detail = "may only be specified when mountPropagation is None or not specified";
                errors.push(FieldError::forbidden(&path, detail));
            }
        }
        other => errors.push(FieldError::not_supported(&path, other, &["Disabled", "Enabled", "IfPossible"])),
    }
}

fn devices(container: &Value, frame: &Frame<'_>, path: &Path, errors: &mut Vec<FieldError>) {
    let all = look::list(container, "volumeDevices");
    for (index, device) in all.iter().enumerate() {
        let item = path.index(index);
        let (name, target) = (look::text(device, "name"), look::text(device, "devicePath"));
        if name.is_empty() {
            errors.push(FieldError::required(&item.child("name"), ""));
        }
        if all[..index].iter().any(|other| look::text(other, "name") == name) {
            errors.push(FieldError::invalid(&item.child("name"), name, "must be unique"));
        }
        match frame.volume(name) {
            None => errors.push(FieldError::not_found(&item.child("name"), name)),
            Some(volume) => {
                let block = ["persistentVolumeClaim", "ephemeral"].iter().any(|kind| look::get(volume, kind).is_some());
                if !block {
                    let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                    errors.push(FieldError::invalid(&item.child("name"), name, detail));
                }
            }
        }
        if target.is_empty() {
            errors.push(FieldError::required(&item.child("devicePath"), ""));
        }
        if all[..index].iter().any(|other| look::text(other, "devicePath") == target) {
            errors.push(FieldError::invalid(&item.child("devicePath"), target, "must be unique"));
        }
        if target.split('/').any(|part| part == "..") {
            errors.push(FieldError::invalid(&item.child("devicePath"), target, "can not contain backsteps ('..')"));
        }
    }
}

fn claims(requirements: &Value, frame: &Frame<'_>, path: &Path, errors: &mut Vec<FieldError>) {
    for (index, claim) in look::list(requirements, "claims").iter().enumerate() {
        let name = look::text(claim, "name");
        if name.is_empty() {
            errors.push(FieldError::required(&path.index(index), ""));
        } else if !frame.claims.contains(&name) {
            let mut error = FieldError::not_found(&path.index(index), name);
            error.detail = match frame.claims.is_empty() {
                true => "must be one of the names in pod.spec.resourceClaims which is empty".to_owned(),
                false => format!("must be one of the names in pod.spec.resourceClaims: {}", frame.claims.join(", ")),
            };
            errors.push(error);
        }
    }
}

/// Restart policies of single containers and the rules that refine them.
fn restart_policy(container: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let rules = look::list(container, "restartPolicyRules");
    let policy_path = path.child("restartPolicy");
    match look::get(container, "restartPolicy").and_then(Value::as_str) {
        None if rules.is_empty() => return,
        None => {
            let detail = "must specify restartPolicy when restart rules are used";
            errors.push(FieldError::required(&policy_path, detail));
        }
        Some("Always" | "Never" | "OnFailure") => {}
        Some(other) => errors.push(FieldError::not_supported(&policy_path, other, &["Always", "Never", "OnFailure"])),
    }
    let rules_path = path.child("restartPolicyRules");
    if rules.len() > 20 {
        errors.push(FieldError::too_many(&rules_path, rules.len(), 20));
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = rules_path.index(index);
        let action = look::text(rule, "action");
        if !matches!(action, "Restart" | "RestartAllContainers") {
            let served = ["Restart", "RestartAllContainers"];
            errors.push(FieldError::not_supported(&path.child("action"), action, &served));
        }
        let codes_path = path.child("exitCodes");
        let Some(codes) = look::get(rule, "exitCodes") else {
            errors.push(FieldError::required(&codes_path, "must be specified"));
            continue;
        };
        let operator = look::text(codes, "operator");
        if !matches!(operator, "In" | "NotIn") {
            errors.push(FieldError::not_supported(&codes_path.child("operator"), operator, &["In", "NotIn"]));
        }
        let count = look::list(codes, "values").len();
        if count > 255 {
            errors.push(FieldError::too_many(&codes_path.child("values"), count, 255));
        }
    }
}
