//! Pods: the Rules of the kind, and its subresources. The parts by subject:
//!
//! - [`default`]: defaulting, imagePullPolicy first of all (IMG-20 to IMG-26);
//! - [`spec`]: validation of a pod spec, which calls `container`, `volume`, `env`, `probe`, `security`, [`scheduling`]
//!   and [`resources`];
//! - [`update`]: what may change after creation;
//! - [`cells`]: the columns of `kubectl get pods`.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Rules;
use crate::field::FieldError;
use crate::look;
use crate::names;
use crate::pod::qos;

mod cells;
mod container;
pub mod default;
mod env;
pub(super) mod hooks;
mod probe;
pub mod resources;
pub mod scheduling;
mod security;
pub mod spec;
mod status;
pub mod update;
mod volume;
pub(super) mod warning;

/// Rules of `v1 Pod`.
pub struct Pods;

/// The annotation that marks a mirror of a static pod.
pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

impl Rules for Pods {
    fn default(&self, object: &mut Value) {
        default::pod(object);
    }

    fn prepare_create(&self, object: &mut Value, now: Timestamp) {
        look::set(look::child(object, "metadata"), "generation", 1);
        let class = qos::class_of_pod(object).to_string();
        look::set(object, "status", json!({"phase": "Pending", "qosClass": class}));
        let gated = !look::list_at(object, &["spec", "schedulingGates"]).is_empty();
        if gated {
            let condition = json!({
                "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": null, "lastTransitionTime": crate::time::seconds(now),
            });
            look::set(look::child(object, "status"), "conditions", vec![condition]);
        }
        let spec = look::child(object, "spec");
        // HOOK-73.
        if look::integer(spec, "terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
            look::set(spec, "terminationGracePeriodSeconds", 1);
        }
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        spec::validate_pod(object)
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>) {
        update::prepare(new, old, sub);
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> Vec<FieldError> {
        match sub {
            Some("status") => status::validate_update(new, old),
            Some("ephemeralcontainers") => update::validate_ephemeral_containers(new, old),
            _ => update::validate(new, old),
        }
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        warning::of_pod(object)
    }

    fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let text = |path: [&str; 2]| look::text_at(object, &path).to_owned();
        let host_network = look::at(object, &["spec", "hostNetwork"]).and_then(Value::as_bool).unwrap_or(false);
        let ips: Vec<&str> =
            look::list_at(object, &["status", "podIPs"]).iter().map(|ip| look::text(ip, "ip")).collect();
        vec![
            ("spec.nodeName", text(["spec", "nodeName"])),
            ("spec.restartPolicy", text(["spec", "restartPolicy"])),
            ("spec.schedulerName", text(["spec", "schedulerName"])),
            ("spec.serviceAccountName", text(["spec", "serviceAccountName"])),
            ("spec.hostNetwork", host_network.to_string()),
            ("status.phase", text(["status", "phase"])),
            ("status.podIP", ips.first().map_or_else(|| text(["status", "podIP"]), |ip| (*ip).to_owned())),
            ("status.podIPs", ips.join(",")),
            ("status.nominatedNodeName", text(["status", "nominatedNodeName"])),
        ]
    }

    /// HOOK-69: the requested seconds, else the pod's own; at once when the pod never ran anywhere or has ended.
    fn graceful_delete(&self, object: &Value, requested_seconds: Option<i64>) -> Option<i64> {
        let spec = look::get(object, "spec");
        let own = spec.and_then(|spec| look::integer(spec, "terminationGracePeriodSeconds"));
        let seconds = requested_seconds.or(own).unwrap_or(0);
        let unscheduled = look::text_at(object, &["spec", "nodeName"]).is_empty();
        let ended = matches!(look::text_at(object, &["status", "phase"]), "Succeeded" | "Failed");
        Some(match seconds {
            _ if unscheduled || ended => 0,
            seconds if seconds < 0 => 1,
            seconds => seconds,
        })
    }

    fn pod_spec_path(&self) -> &'static [&'static str] {
        &["spec"]
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        cells::of_pod(object, now)
    }
}

/// Complaints about a pod's name that are warnings only: it becomes a host name.
fn name_warnings(name: &str) -> Option<String> {
    let complaints = names::label(name);
    (!complaints.is_empty() && !name.is_empty()).then(|| {
        format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label \
             is recommended: [{}]",
            complaints.join(" ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(tgps: i64, node: &str, phase: &str) -> Value {
        json!({"spec": {"terminationGracePeriodSeconds": tgps, "nodeName": node}, "status": {"phase": phase}})
    }

    #[test]
    fn hook_69_the_grace_of_a_delete() {
        let cases = [
            (pod(30, "n", "Running"), None, 30),
            (pod(30, "n", "Running"), Some(5), 5),
            (pod(30, "n", "Running"), Some(0), 0),
            (pod(30, "n", "Running"), Some(-1), 1),
            (pod(-5, "n", "Pending"), None, 1),
            (pod(30, "", "Pending"), None, 0),
            (pod(30, "n", "Succeeded"), Some(10), 0),
            (pod(30, "n", "Failed"), None, 0),
        ];
        for (object, requested, expected) in cases {
            assert_eq!(Pods.graceful_delete(&object, requested), Some(expected), "{object} {requested:?}");
        }
    }

    #[test]
    fn a_new_pod_is_pending_whatever_the_client_says() {
        let mut object = json!({"metadata": {}, "spec": {"containers": [], "terminationGracePeriodSeconds": -1}, "status": {"phase": "Running", "podIP": "1.2.3.4"}});
        Pods.prepare_create(&mut object, Timestamp::UNIX_EPOCH);
        assert_eq!(object["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
        assert_eq!(object["spec"]["terminationGracePeriodSeconds"], 1);
        assert_eq!(object["metadata"]["generation"], 1);
    }
}
