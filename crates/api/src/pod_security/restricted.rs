//! The restricted level: only what hardened pods need, over the baseline.

use super::{Subject, Violation, baseline, named, pod_and, quoted, security};
use crate::look;
use serde_json::Value;

const VOLUMES: [&str; 8] =
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];

/// Upstream's checks in the order of their ids.
pub(super) fn check(subject: &Subject<'_>, out: &mut Vec<Violation>) {
    let is_windows = subject.is_windows();
    let unless_windows = |check: fn(&Subject<'_>) -> Option<String>| {
        if is_windows { None } else { check(subject) }
    };
    let checks: [(&'static str, Option<String>); 6] = [
        ("allowPrivilegeEscalation != false", unless_windows(escalation)),
        ("unrestricted capabilities", unless_windows(capabilities)),
        ("restricted volume types", volumes(subject)),
        ("runAsNonRoot != true", non_root(subject)),
        ("runAsUser=0", run_as_user(subject)),
        ("seccompProfile", unless_windows(seccomp)),
    ];
    out.extend(checks.into_iter().filter_map(|(reason, detail)| detail.map(|detail| Violation { reason, detail })));
}

fn escalation(subject: &Subject<'_>) -> Option<String> {
    let names = subject
        .bad(|container| security(container, &["allowPrivilegeEscalation"]).and_then(Value::as_bool) != Some(false));
    let who = (!names.is_empty()).then(|| named("container", &names))?;
    Some(format!("{who} must set securityContext.allowPrivilegeEscalation=false"))
}

fn capabilities(subject: &Subject<'_>) -> Option<String> {
    let drops_all = |container: &Value| {
        let dropped = security(container, &["capabilities", "drop"]).and_then(Value::as_array);
        dropped.into_iter().flatten().any(|name| name == "ALL")
    };
    let names = subject.bad(|container| !drops_all(container));
    let missing = (!names.is_empty())
        .then(|| format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named("container", &names)));
    let added = baseline::added(subject, &["NET_BIND_SERVICE"]);
    let all: Vec<String> = missing.into_iter().chain(added).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

fn volumes(subject: &Subject<'_>) -> Option<String> {
    let kind = |volume: &Value| {
        let fields = volume.as_object().into_iter().flatten();
        let mut kinds =
            fields.filter(|(name, value)| *name != "name" && !value.is_null()).map(|(name, _)| name.clone());
        kinds.next().filter(|kind| !VOLUMES.contains(&kind.as_str()))
    };
    let bad: Vec<(&str, String)> = look::list(subject.spec, "volumes")
        .iter()
        .filter_map(|volume| kind(volume).map(|kind| (look::text(volume, "name"), kind)))
        .collect();
    let names: Vec<&str> = bad.iter().map(|(name, _)| *name).collect();
    let mut kinds: Vec<&str> = bad.iter().map(|(_, kind)| kind.as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    (!names.is_empty()).then(|| {
        let verb = if names.len() == 1 { "uses" } else { "use" };
        let plural = if kinds.len() == 1 { "" } else { "s" };
        format!("{} {verb} restricted volume type{plural} {}", named("volume", &names), quoted(&kinds))
    })
}

fn non_root(subject: &Subject<'_>) -> Option<String> {
    let of = |of: &Value| security(of, &["runAsNonRoot"]).and_then(Value::as_bool);
    let explicit = subject.bad(|container| of(container) == Some(false));
    // Containers may rely on the pod.
    let implicit = subject.bad(|container| of(container).is_none());
    match of(subject.spec) {
        Some(true) => (!explicit.is_empty())
            .then(|| format!("{} must not set securityContext.runAsNonRoot=false", named("container", &explicit))),
        pod => {
            let refused = pod_and(pod == Some(false), &explicit, "and")
                .map(|who| format!("{who} must not set securityContext.runAsNonRoot=false"));
            let missing = (refused.is_none() && !implicit.is_empty()).then(|| {
                format!("pod or {} must set securityContext.runAsNonRoot=true", named("container", &implicit))
            });
            refused.or(missing)
        }
    }
}

fn run_as_user(subject: &Subject<'_>) -> Option<String> {
    let is_root = |of: &Value| security(of, &["runAsUser"]).and_then(Value::as_i64) == Some(0);
    let who = pod_and(is_root(subject.spec), &subject.bad(is_root), "and")?;
    Some(format!("{who} must not set runAsUser=0"))
}

fn seccomp(subject: &Subject<'_>) -> Option<String> {
    let of = |of: &Value| security(of, &["seccompProfile", "type"]).and_then(Value::as_str).map(str::to_owned);
    let is_good = |kind: &Option<String>| matches!(kind.as_deref(), Some("RuntimeDefault" | "Localhost"));
    let own = of(subject.spec);
    let explicit = subject.bad(|container| of(container).is_some_and(|kind| !is_good(&Some(kind))));
    if let Some(who) = pod_and(own.is_some() && !is_good(&own), &explicit, "and") {
        let everybody = std::iter::once(subject.spec).chain(subject.containers());
        let mut kinds: Vec<String> = everybody.filter_map(of).filter(|kind| !is_good(&Some(kind.clone()))).collect();
        kinds.sort();
        kinds.dedup();
        return Some(format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(&kinds)));
    }
    let implicit = subject.bad(|container| of(container).is_none());
    (!is_good(&own) && !implicit.is_empty()).then(|| {
        let who = named("container", &implicit);
        format!("pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"")
    })
}
