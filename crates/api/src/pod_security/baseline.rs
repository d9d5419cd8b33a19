//! The baseline: nothing that is known to lead out of the pod.

use super::{Level, Subject, Violation, named, pod_and, quoted, security};
use crate::look;
use serde_json::Value;

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Sysctls of a pod's own namespaces, and the minor version since which they are allowed.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];
const SELINUX_TYPES: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
/// Since this version hooks and probes go to the pod itself only (HOOK-8).
const HOSTS_SINCE: u32 = 34;

/// Upstream's checks in the order of their ids. Those that the restricted level has in a stricter form are left to it.
pub(super) fn check(subject: &Subject<'_>, level: Level, out: &mut Vec<Violation>) {
    let is_last = level == Level::Baseline;
    let checks: [(&'static str, Option<String>); 12] = [
        ("forbidden AppArmor profile", app_armor(subject)),
        ("non-default capabilities", is_last.then(|| capabilities(subject)).flatten()),
        ("host namespaces", host_namespaces(subject)),
        ("hostPath volumes", is_last.then(|| host_paths(subject)).flatten()),
        ("hostPort", host_ports(subject)),
        ("probe or lifecycle host", hosts(subject)),
        ("privileged", flag(subject, "privileged")),
        ("procMount", proc_mount(subject)),
        ("seLinuxOptions", selinux(subject)),
        ("seccompProfile", is_last.then(|| seccomp(subject)).flatten()),
        ("forbidden sysctls", sysctls(subject)),
        ("hostProcess", host_process(subject)),
    ];
    out.extend(checks.into_iter().filter_map(|(reason, detail)| detail.map(|detail| Violation { reason, detail })));
}

fn app_armor(subject: &Subject<'_>) -> Option<String> {
    let is_bad = |of: &Value| {
        let kind = security(of, &["appArmorProfile", "type"]).and_then(Value::as_str);
        kind.is_some_and(|kind| !matches!(kind, "RuntimeDefault" | "Localhost"))
    };
    let setters = pod_and(is_bad(subject.spec), &subject.bad(is_bad), "and");
    let by_field =
        setters.map(|who| format!("{who} must not set securityContext.appArmorProfile.type to \"Unconfined\""));
    let annotations = look::at(subject.pod, &["metadata", "annotations"]).and_then(Value::as_object);
    let by_annotation = annotations.into_iter().flatten().filter_map(|(name, value)| {
        let text = value.as_str().unwrap_or_default();
        let is_good = text.is_empty() || text == "runtime/default" || text.starts_with("localhost/");
        (name.starts_with(APP_ARMOR) && !is_good).then(|| format!("{name}={text:?}"))
    });
    let all: Vec<String> = by_field.into_iter().chain(by_annotation).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

/// The capabilities that containers add and may not, and who does.
pub(super) fn added(subject: &Subject<'_>, allowed: &[&str]) -> Option<String> {
    let beyond = |container: &Value| -> Vec<String> {
        let added = security(container, &["capabilities", "add"]).and_then(Value::as_array);
        let texts = added.into_iter().flatten().filter_map(Value::as_str);
        texts.filter(|name| !allowed.contains(name)).map(str::to_owned).collect()
    };
    let names = subject.bad(|container| !beyond(container).is_empty());
    let mut added: Vec<String> = subject.containers().flat_map(beyond).collect();
    added.sort();
    added.dedup();
    (!names.is_empty()).then(|| {
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            named("container", &names),
            quoted(&added)
        )
    })
}

fn capabilities(subject: &Subject<'_>) -> Option<String> {
    added(subject, &CAPABILITIES)
}

fn host_namespaces(subject: &Subject<'_>) -> Option<String> {
    let set: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|name| look::flag(subject.spec, name))
        .map(|name| format!("{name}=true"))
        .collect();
    (!set.is_empty()).then(|| set.join(", "))
}

fn host_paths(subject: &Subject<'_>) -> Option<String> {
    let volumes = look::list(subject.spec, "volumes").iter();
    let names: Vec<&str> = volumes
        .filter(|volume| look::get(volume, "hostPath").is_some_and(|path| !path.is_null()))
        .map(|volume| look::text(volume, "name"))
        .collect();
    (!names.is_empty()).then(|| named("volume", &names))
}

fn host_ports(subject: &Subject<'_>) -> Option<String> {
    let of = |container: &Value| -> Vec<i64> {
        let ports = look::list(container, "ports").iter();
        ports.filter_map(|port| look::integer(port, "hostPort")).filter(|port| *port != 0).collect()
    };
    let names = subject.bad(|container| !of(container).is_empty());
    let mut ports: Vec<i64> = subject.containers().flat_map(of).collect();
    ports.sort_unstable();
    ports.dedup();
    let numbers: Vec<String> = ports.iter().map(i64::to_string).collect();
    (!names.is_empty()).then(|| {
        let verb = if names.len() == 1 { "uses" } else { "use" };
        let plural = if ports.len() == 1 { "" } else { "s" };
        format!("{} {verb} hostPort{plural} {}", named("container", &names), numbers.join(", "))
    })
}

/// HOOK-8: a node is not to be made to ask somebody else on a pod's behalf.
fn hosts(subject: &Subject<'_>) -> Option<String> {
    if !subject.version.is_at_least(HOSTS_SINCE) {
        return None;
    }
    const HANDLERS: [&[&str]; 5] = [
        &["livenessProbe"],
        &["readinessProbe"],
        &["startupProbe"],
        &["lifecycle", "postStart"],
        &["lifecycle", "preStop"],
    ];
    let of = |container: &Value| -> Vec<String> {
        let handlers = HANDLERS.into_iter().filter_map(|path| look::at(container, path));
        let texts = handlers.flat_map(|handler| {
            ["httpGet", "tcpSocket"].map(|kind| look::text_at(handler, &[kind, "host"]).to_owned())
        });
        texts.filter(|host| !host.is_empty()).collect()
    };
    let names = subject.bad(|container| !of(container).is_empty());
    let mut hosts: Vec<String> = subject.containers().flat_map(of).collect();
    hosts.sort();
    hosts.dedup();
    (!names.is_empty()).then(|| {
        let verb = if names.len() == 1 { "uses" } else { "use" };
        let plural = if hosts.len() == 1 { "" } else { "s" };
        format!("{} {verb} probe or lifecycle host{plural} {}", named("container", &names), quoted(&hosts))
    })
}

/// Containers that set a flag of their security context to true.
fn flag(subject: &Subject<'_>, name: &str) -> Option<String> {
    let names = subject.bad(|container| security(container, &[name]).and_then(Value::as_bool) == Some(true));
    (!names.is_empty()).then(|| format!("{} must not set securityContext.{name}=true", named("container", &names)))
}

fn proc_mount(subject: &Subject<'_>) -> Option<String> {
    let of = |container: &Value| {
        let kind = security(container, &["procMount"]).and_then(Value::as_str);
        kind.filter(|kind| !matches!(*kind, "" | "Default")).map(str::to_owned)
    };
    let names = subject.bad(|container| of(container).is_some());
    let mut kinds: Vec<String> = subject.containers().filter_map(of).collect();
    kinds.sort();
    kinds.dedup();
    (!names.is_empty())
        .then(|| format!("{} must not set securityContext.procMount to {}", named("container", &names), quoted(&kinds)))
}

fn selinux(subject: &Subject<'_>) -> Option<String> {
    let option = |of: &Value, name: &str| {
        security(of, &["seLinuxOptions", name]).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let newer = |kind: &String| kind != "container_engine_t" || subject.version.is_at_least(31);
    let bad_type = |of: &Value| {
        let kind = option(of, "type");
        !SELINUX_TYPES.contains(&kind.as_str()) || !newer(&kind)
    };
    let is_bad = |of: &Value| bad_type(of) || !option(of, "user").is_empty() || !option(of, "role").is_empty();
    let who = pod_and(is_bad(subject.spec), &subject.bad(is_bad), "and")?;
    let everybody = || std::iter::once(subject.spec).chain(subject.containers());
    let mut types: Vec<String> = everybody().filter(|of| bad_type(of)).map(|of| option(of, "type")).collect();
    types.sort();
    types.dedup();
    let mut faults = Vec::new();
    if !types.is_empty() {
        let plural = if types.len() == 1 { "" } else { "s" };
        faults.push(format!("type{plural} {}", quoted(&types)));
    }
    for name in ["user", "role"] {
        if everybody().any(|of| !option(of, name).is_empty()) {
            faults.push(format!("{name} may not be set"));
        }
    }
    Some(format!("{who} set forbidden securityContext.seLinuxOptions: {}", faults.join("; ")))
}

fn seccomp(subject: &Subject<'_>) -> Option<String> {
    let of = |of: &Value| {
        let kind = security(of, &["seccompProfile", "type"]).and_then(Value::as_str);
        kind.filter(|kind| !matches!(*kind, "RuntimeDefault" | "Localhost")).map(str::to_owned)
    };
    let who = pod_and(of(subject.spec).is_some(), &subject.bad(|container| of(container).is_some()), "and")?;
    let mut kinds: Vec<String> = std::iter::once(subject.spec).chain(subject.containers()).filter_map(of).collect();
    kinds.sort();
    kinds.dedup();
    Some(format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(&kinds)))
}

fn sysctls(subject: &Subject<'_>) -> Option<String> {
    let set = security(subject.spec, &["sysctls"]).and_then(Value::as_array);
    let names = set.into_iter().flatten().map(|sysctl| look::text(sysctl, "name"));
    let is_allowed =
        |name: &str| SYSCTLS.iter().any(|(known, since)| *known == name && subject.version.is_at_least(*since));
    let bad: Vec<&str> = names.filter(|name| !is_allowed(name)).collect();
    (!bad.is_empty()).then(|| bad.join(", "))
}

fn host_process(subject: &Subject<'_>) -> Option<String> {
    let is_bad = |of: &Value| security(of, &["windowsOptions", "hostProcess"]).and_then(Value::as_bool) == Some(true);
    let who = pod_and(is_bad(subject.spec), &subject.bad(is_bad), "and")?;
    Some(format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}
