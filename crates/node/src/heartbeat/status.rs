//! The Node object and its status from the facts.
//!
//! Pure. Reasons and messages are the kubelet's own. Start at [`status`].

use super::{
    Options,
    facts::{Machine, Seen},
};
use crate::{
    eviction::{Condition, Pressure},
    shutdown,
};
use cri::v1;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// The version of Kubernetes that this node speaks.
const KUBELET_VERSION: &str = "v1.36.1";
/// At most so many names of an image are reported (IMG-268).
const NAMES_MAX: usize = 5;

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The object with which the node registers.
pub(super) fn node(options: &Options, machine: &Machine, seen: &Seen, pressure: &Pressure) -> Value {
    let mut labels = Map::new();
    for prefix in ["kubernetes.io", "beta.kubernetes.io"] {
        labels.insert(format!("{prefix}/os"), json!("linux"));
        labels.insert(format!("{prefix}/arch"), json!(architecture()));
    }
    labels.insert("kubernetes.io/hostname".to_owned(), json!(options.node_name));
    let mut spec = Map::new();
    if !options.pod_cidr.is_empty() {
        spec.insert("podCIDR".to_owned(), json!(options.pod_cidr));
        spec.insert("podCIDRs".to_owned(), json!([options.pod_cidr]));
    }
    let mut status = status(options, machine, seen, pressure);
    if let Some(status) = status.as_object_mut() {
        // Conditions carry times; they come with the first report.
        status.remove("conditions");
    }
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": options.node_name, "labels": labels },
        "spec": spec, "status": status })
}

/// The status without times.
pub(super) fn status(options: &Options, machine: &Machine, seen: &Seen, pressure: &Pressure) -> Value {
    let capacity = capacity(options, machine);
    json!({
        "capacity": capacity,
        "allocatable": capacity,
        "addresses": addresses(options, machine),
        "daemonEndpoints": { "kubeletEndpoint": { "Port": options.port } },
        "nodeInfo": {
            "machineID": machine.machine_id, "systemUUID": machine.system_uuid, "bootID": machine.boot_id,
            "kernelVersion": machine.kernel, "osImage": machine.os_image, "operatingSystem": "linux",
            "architecture": architecture(), "containerRuntimeVersion": seen.runtime_version,
            "kubeletVersion": KUBELET_VERSION, "kubeProxyVersion": "",
        },
        "conditions": conditions(seen, pressure),
        "images": images(&seen.images, options.images_max),
        "runtimeHandlers": seen.handlers.iter().map(handler).collect::<Vec<_>>(),
        "features": seen.features.as_ref().map(|f| json!({ "supplementalGroupsPolicy": f.supplemental_groups_policy })),
    })
}

fn capacity(options: &Options, machine: &Machine) -> Value {
    let mut out = Map::new();
    out.insert("cpu".to_owned(), json!(machine.cpus.to_string()));
    out.insert("memory".to_owned(), json!(format!("{}Ki", machine.memory_kib)));
    out.insert("ephemeral-storage".to_owned(), json!(format!("{}Ki", machine.storage_kib)));
    out.insert("pods".to_owned(), json!(options.max_pods.to_string()));
    for (size, bytes) in &machine.hugepages {
        let amount = if *bytes == 0 { "0".to_owned() } else { format!("{}Ki", bytes >> 10) };
        out.insert(format!("hugepages-{size}"), json!(amount));
    }
    Value::Object(out)
}

fn addresses(options: &Options, machine: &Machine) -> Value {
    let mut out = vec![json!({ "type": "InternalIP", "address": options.node_ip.to_string() })];
    if let Some(ip) = options.node_external_ip {
        out.push(json!({ "type": "ExternalIP", "address": ip.to_string() }));
    }
    let name = if machine.host_name.is_empty() { &options.node_name } else { &machine.host_name };
    out.push(json!({ "type": "Hostname", "address": name }));
    Value::Array(out)
}

fn handler(handler: &v1::RuntimeHandler) -> Value {
    let features = handler.features.unwrap_or_default();
    json!({ "name": handler.name, "features": {
        "recursiveReadOnlyMounts": features.recursive_read_only_mounts, "userNamespaces": features.user_namespaces } })
}

/// The largest images, each with its digests before its tags (IMG-268).
fn images(images: &[v1::Image], images_max: Option<usize>) -> Value {
    let mut sorted: Vec<&v1::Image> = images.iter().collect();
    sorted.sort_by(|a, b| (b.size, &a.id).cmp(&(a.size, &b.id)));
    let entries = sorted.into_iter().take(images_max.unwrap_or(usize::MAX)).map(|image| {
        let names: Vec<_> = image.repo_digests.iter().chain(&image.repo_tags).take(NAMES_MAX).collect();
        json!({ "names": names, "sizeBytes": image.size })
    });
    entries.collect()
}

/// Ready, or why not.
pub(super) fn ready(seen: &Seen) -> Result<(), String> {
    if seen.runtime_version.is_empty() {
        return Err("container runtime is down".to_owned());
    }
    let mut problems = Vec::new();
    for (kind, words) in
        [("RuntimeReady", "container runtime not ready"), ("NetworkReady", "container runtime network not ready")]
    {
        match seen.conditions.iter().find(|c| c.r#type == kind) {
            Some(c) if c.status => {}
            Some(c) => {
                problems.push(format!("{words}: {kind}=false reason:{} message:{}", c.reason, c.message));
            }
            None => problems.push(format!("{words}: condition {kind} is not reported")),
        }
    }
    problems.extend(seen.unlisted.clone());
    problems.extend(seen.is_shutting_down.then(|| shutdown::NOT_READY.to_owned()));
    match problems.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

fn conditions(seen: &Seen, pressure: &Pressure) -> Value {
    let (state, reason, message) = match ready(seen) {
        Ok(()) => ("True", "KubeletReady", "kubelet is posting ready status".to_owned()),
        Err(problem) => ("False", "KubeletNotReady", problem),
    };
    let pressures = Condition::ALL.into_iter().map(|condition| {
        let holds = pressure.contains(&condition);
        let (reason, message) = condition.words(holds);
        let state = if holds { "True" } else { "False" };
        json!({ "type": condition.name(), "status": state, "reason": reason, "message": message })
    });
    let ready = json!({ "type": "Ready", "status": state, "reason": reason, "message": message });
    pressures.chain([ready]).collect()
}

/// Our conditions with their times, behind the conditions that others wrote. A transition time moves only when the
/// status does.
pub(super) fn stamped(status: &Value, known: &Value, now: Timestamp) -> Value {
    let now = json!(format!("{now:.0}"));
    let empty = Vec::new();
    let (own, known) = (status["conditions"].as_array().unwrap_or(&empty), known.as_array().unwrap_or(&empty));
    let is_own = |other: &Value| own.iter().any(|c| c["type"] == other["type"]);
    let mut out: Vec<Value> = known.iter().filter(|c| !is_own(c)).cloned().collect();
    for condition in own {
        let mut condition = condition.clone();
        let before = known.iter().find(|k| k["type"] == condition["type"] && k["status"] == condition["status"]);
        let since = before.map(|b| b["lastTransitionTime"].clone()).filter(|t| !t.is_null());
        condition["lastTransitionTime"] = since.unwrap_or_else(|| now.clone());
        condition["lastHeartbeatTime"] = now.clone();
        out.push(condition);
    }
    Value::Array(out)
}

/// Whether what the API has says of each of our conditions what we say.
pub(super) fn agrees(status: &Value, known: &Value) -> bool {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let known = list(known);
    let is_known = |own: &Value| known.iter().any(|k| k["type"] == own["type"] && k["status"] == own["status"]);
    list(&status["conditions"]).iter().all(is_known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_over_our_conditions_is_seen_and_what_they_added_is_not_ours() {
        let own =
            json!({"conditions": [{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "False"}]});
        let with = |ready: &str| json!([{"type": "Other", "status": "True"}, {"type": "DiskPressure", "status": "False"}, {"type": "Ready", "status": ready}]);
        assert!(agrees(&own, &with("True")));
        assert!(!agrees(&own, &with("Unknown")));
        assert!(!agrees(&own, &Value::Null));
    }

    fn seen(network: bool) -> Seen {
        let condition = |kind: &str, status| v1::RuntimeCondition {
            r#type: kind.into(),
            status,
            reason: "R".into(),
            message: "m".into(),
        };
        Seen {
            runtime_version: "sampan://1".into(),
            conditions: vec![condition("RuntimeReady", true), condition("NetworkReady", network)],
            ..Default::default()
        }
    }

    #[test]
    fn readiness_is_the_runtimes_in_the_kubelets_words() {
        assert_eq!(ready(&seen(true)), Ok(()));
        let text = "container runtime network not ready: NetworkReady=false reason:R message:m";
        assert_eq!(ready(&seen(false)), Err(text.into()));
        assert_eq!(ready(&Seen::default()), Err("container runtime is down".into()));
        let unlisted = Some("PLEG is not healthy: x".to_owned());
        assert_eq!(ready(&Seen { unlisted, ..seen(true) }), Err("PLEG is not healthy: x".into()));
        // HOOK-97.
        assert_eq!(ready(&Seen { is_shutting_down: true, ..seen(true) }), Err("node is shutting down".into()));
    }

    #[test]
    fn a_transition_time_moves_only_with_the_status_and_foreign_conditions_stay() {
        let status = json!({ "conditions": conditions(&seen(true), &Pressure::new()) });
        let known = json!([
            { "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" },
            { "type": "DiskPressure", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z" },
            { "type": "Foreign", "status": "True" } ]);
        let got = stamped(&status, &known, "2026-02-02T00:00:00.5Z".parse().unwrap());
        let find = |kind: &str| got.as_array().unwrap().iter().find(|c| c["type"] == kind).unwrap();
        assert_eq!(find("Ready")["lastTransitionTime"], "2026-01-01T00:00:00Z");
        assert_eq!(find("Ready")["lastHeartbeatTime"], "2026-02-02T00:00:00Z");
        assert_eq!(find("DiskPressure")["lastTransitionTime"], "2026-02-02T00:00:00Z");
        assert_eq!(find("Foreign")["status"], "True");
    }

    #[test]
    fn a_shortage_is_told_in_the_kubelets_words() {
        let told = |pressure: &[Condition]| {
            let conditions = conditions(&seen(true), &pressure.iter().copied().collect());
            let one =
                |c: &Value| [&c["type"], &c["status"], &c["reason"]].map(|v| v.as_str().unwrap().to_owned()).join(" ");
            conditions.as_array().unwrap().iter().map(one).collect::<Vec<_>>()
        };
        assert_eq!(
            told(&[]),
            [
                "MemoryPressure False KubeletHasSufficientMemory",
                "DiskPressure False KubeletHasNoDiskPressure",
                "PIDPressure False KubeletHasSufficientPID",
                "Ready True KubeletReady",
            ]
        );
        assert_eq!(
            told(&Condition::ALL),
            [
                "MemoryPressure True KubeletHasInsufficientMemory",
                "DiskPressure True KubeletHasDiskPressure",
                "PIDPressure True KubeletHasInsufficientPID",
                "Ready True KubeletReady",
            ]
        );
    }

    #[test]
    fn the_largest_images_come_first_with_at_most_five_names() {
        let image = |id: &str, size| v1::Image {
            id: id.into(),
            size,
            repo_tags: (0..9).map(|n| format!("{id}:{n}")).collect(),
            repo_digests: vec![format!("{id}@sha256:0")],
            ..Default::default()
        };
        let got = images(&[image("a", 1), image("b", 9)], Some(50));
        assert_eq!(got[0]["sizeBytes"], 9);
        assert_eq!(got[0]["names"], json!(["b@sha256:0", "b:0", "b:1", "b:2", "b:3"]));
        let many: Vec<v1::Image> = (0..60).map(|n| image(&format!("i{n}"), n)).collect();
        let count = |max: Option<usize>| images(&many, max).as_array().unwrap().len();
        assert_eq!([Some(50), Some(0), None].map(count), [50, 0, 60]);
    }
}
