//! Security contexts of containers and pods.

use serde_json::Value;

use super::volume::descending_path;
use crate::field::{FieldError, Path};
use crate::look;
use crate::names;

const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

/// Checks the security context of a container.
pub(super) fn container(context: &Value, host_users: bool, path: &Path, errors: &mut Vec<FieldError>) {
    ids(context, &["runAsUser", "runAsGroup"], path, errors);
    if let Some(kind) = look::get(context, "procMount").and_then(Value::as_str) {
        let path = path.child("procMount");
        if !matches!(kind, "Default" | "Unmasked") {
            errors.push(FieldError::not_supported(&path, kind, &["Default", "Unmasked"]));
        }
        if host_users && kind == "Unmasked" {
            errors.push(FieldError::invalid(&path, kind, "`hostUsers` must be false to use `Unmasked`"));
        }
    }
    profiles(context, path, errors);
    if look::get(context, "allowPrivilegeEscalation") != Some(&Value::Bool(false)) {
        return;
    }
    if look::flag(context, "privileged") {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errors.push(FieldError::invalid(path, context.clone(), detail));
    }
    if look::list_at(context, &["capabilities", "add"]).iter().any(|name| name == "CAP_SYS_ADMIN") {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
        errors.push(FieldError::invalid(path, context.clone(), detail));
    }
}

/// Checks `spec.securityContext`, with the host namespaces of the spec that stand beside it.
pub(super) fn pod(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if look::flag(spec, "shareProcessNamespace") && look::flag(spec, "hostPID") {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(&path.child("shareProcessNamespace"), true, detail));
    }
    if look::get(spec, "hostUsers") == Some(&Value::Bool(false)) {
        for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
            if look::flag(spec, field) {
                errors.push(FieldError::forbidden(&path.child(shown), "when `hostUsers` is false"));
            }
        }
    }
    let Some(context) = look::get(spec, "securityContext") else { return };
    let path = path.child("securityContext");
    ids(context, &["fsGroup", "runAsUser", "runAsGroup"], &path, errors);
    for (index, group) in look::list(context, "supplementalGroups").iter().enumerate() {
        let id = group.as_i64().unwrap_or(0);
        let path = path.child("supplementalGroups").index(index);
        errors.extend(names::user_id(id).into_iter().map(|text| FieldError::invalid(&path, id, text)));
    }
    sysctls(spec, context, &path.child("sysctls"), errors);
    choice(context, "fsGroupChangePolicy", &["Always", "OnRootMismatch"], &path, errors);
    choice(context, "seLinuxChangePolicy", &["MountOption", "Recursive"], &path, errors);
    choice(context, "supplementalGroupsPolicy", &["Merge", "Strict"], &path, errors);
    profiles(context, &path, errors);
}

fn choice(context: &Value, field: &str, supported: &[&str], path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(text) = look::get(context, field).and_then(Value::as_str).filter(|text| !supported.contains(text)) {
        errors.push(FieldError::not_supported(&path.child(field), text, supported));
    }
}

fn ids(context: &Value, fields: &[&str], path: &Path, errors: &mut Vec<FieldError>) {
    for field in fields {
        if let Some(id) = look::integer(context, field) {
            let path = path.child(field);
            errors.extend(names::user_id(id).into_iter().map(|text| FieldError::invalid(&path, id, text)));
        }
    }
}

fn profiles(context: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    if let Some(profile) = look::get(context, "seccompProfile") {
        seccomp(profile, &path.child("seccompProfile"), errors);
    }
    if let Some(profile) = look::get(context, "appArmorProfile") {
        app_armor(profile, &path.child("appArmorProfile"), errors);
    }
}

fn profile_type(kind: &str, field: &str, path: &Path, errors: &mut Vec<FieldError>) {
    match kind {
        "" => errors.push(FieldError::required(&path.child("type"), format!("type is required when {field} is set"))),
        kind if PROFILES.contains(&kind) => {}
        kind => errors.push(FieldError::not_supported(&path.child("type"), kind, &PROFILES)),
    }
}

fn seccomp(profile: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let kind = look::text(profile, "type");
    profile_type(kind, "seccompProfile", path, errors);
    let file_path = path.child("localhostProfile");
    match (kind, look::get(profile, "localhostProfile").and_then(Value::as_str)) {
        ("Localhost", None) => {
            errors.push(FieldError::required(&file_path, "must be set when seccomp type is Localhost"));
        }
        ("Localhost", Some(file)) => descending_path(file, &file_path, errors),
        (_, Some(_)) => {
            let detail = "can only be set when seccomp type is Localhost";
            errors.push(FieldError::invalid(&file_path, profile.clone(), detail));
        }
        (_, None) => {}
    }
}

fn app_armor(profile: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let kind = look::text(profile, "type");
    profile_type(kind, "appArmorProfile", path, errors);
    let path = path.child("localhostProfile");
    match (kind, look::get(profile, "localhostProfile").and_then(Value::as_str)) {
        ("Localhost", None | Some("")) => {
            errors.push(FieldError::required(&path, "must be set when AppArmor type is Localhost"));
        }
        ("Localhost", Some(name)) if name.trim() != name => {
            errors.push(FieldError::invalid(&path, name, "must not be padded with whitespace"));
        }
        ("Localhost", Some(name)) if name.len() > 4095 => errors.push(FieldError::too_long(&path, 4095)),
        ("RuntimeDefault" | "Unconfined", Some(name)) => {
            errors.push(FieldError::invalid(&path, name, "can only be set when AppArmor type is Localhost"));
        }
        _ => {}
    }
}

fn sysctls(spec: &Value, context: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let all = look::list(context, "sysctls");
    for (index, sysctl) in all.iter().enumerate() {
        let path = path.index(index).child("name");
        let name = look::text(sysctl, "name");
        if name.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else if !is_sysctl(name) {
            let detail = "must have at most 253 characters and match regex \
                          ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.push(FieldError::invalid(&path, name, detail));
        } else if all[..index].iter().any(|other| look::text(other, "name") == name) {
            errors.push(FieldError::duplicate(&path, name));
        }
        host_sysctl(spec, name, &path, errors);
    }
}

fn is_sysctl(name: &str) -> bool {
    let segment = |text: &str| {
        let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = text.as_bytes();
        bytes.first().is_some_and(|b| alnum(*b))
            && bytes.last().is_some_and(|b| alnum(*b))
            && bytes.iter().all(|b| alnum(*b) || matches!(b, b'-' | b'_'))
    };
    name.len() <= 253 && name.split(['.', '/']).all(segment)
}

/// A setting of a namespace that the pod shares with its node would change the node.
fn host_sysctl(spec: &Value, name: &str, path: &Path, errors: &mut Vec<FieldError>) {
    let name_with_dots = name.replace('/', ".");
    let of = |prefixes: &[&str]| prefixes.iter().any(|prefix| name_with_dots.starts_with(prefix));
    if look::flag(spec, "hostNetwork") && of(&["net."]) {
        errors.push(FieldError::invalid(path, name, "may not be specified when 'hostNetwork' is true"));
    }
    let ipc = of(&["kernel.shm", "kernel.msg", "fs.mqueue."]) || name_with_dots == "kernel.sem";
    if look::flag(spec, "hostIPC") && ipc {
        errors.push(FieldError::invalid(path, name, "may not be specified when 'hostIPC' is true"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(visit: impl Fn(&Path, &mut Vec<FieldError>)) -> Vec<String> {
        let mut errors = Vec::new();
        visit(&Path::new("x"), &mut errors);
        errors.iter().map(FieldError::to_string).collect()
    }

    #[test]
    fn contexts_of_containers() {
        let check = |context: Value, expected: &[&str]| {
            assert_eq!(texts(|path, errors| container(&context, true, path, errors)), expected);
        };
        check(json!({"runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}}), &[]);
        check(
            json!({"runAsUser": -1}),
            &["x.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive"],
        );
        check(
            json!({"seccompProfile": {"type": "Localhost"}}),
            &["x.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost"],
        );
        check(
            json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "../x"}}),
            &["x.seccompProfile.localhostProfile: Invalid value: \"../x\": must not contain '..'"],
        );
        check(
            json!({"seccompProfile": {"type": "x"}}),
            &[
                "x.seccompProfile.type: Unsupported value: \"x\": supported values: \"Localhost\", \"RuntimeDefault\", \"Unconfined\"",
            ],
        );
        check(
            json!({"allowPrivilegeEscalation": false, "privileged": true}),
            &[
                "x: Invalid value: {\"allowPrivilegeEscalation\":false,\"privileged\":true}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            ],
        );
    }

    #[test]
    fn contexts_of_pods() {
        let check =
            |spec: Value, expected: &[&str]| assert_eq!(texts(|path, errors| pod(&spec, path, errors)), expected);
        check(
            json!({"securityContext": {"sysctls": [{"name": "net.core.somaxconn"}], "fsGroupChangePolicy": "Always"}}),
            &[],
        );
        check(
            json!({"hostNetwork": true, "securityContext": {"sysctls": [{"name": "net.core.somaxconn"}, {"name": "A"}]}}),
            &[
                "x.securityContext.sysctls[0].name: Invalid value: \"net.core.somaxconn\": may not be specified when 'hostNetwork' is true",
                "x.securityContext.sysctls[1].name: Invalid value: \"A\": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            ],
        );
        check(
            json!({"hostPID": true, "shareProcessNamespace": true}),
            &["x.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled"],
        );
    }
}
