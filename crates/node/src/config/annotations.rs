//! Labels and annotations of sandboxes and containers: how the node finds its own things again.
//!
//! Pure. The names are the kubelet's, so that other tools find them too (POD-27, HOOK-57).

use crate::object::{Container, Pod};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The names of the labels that identify a pod and a container.
pub mod label {
    /// The pod's name.
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    /// The pod's namespace.
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// The pod's UID.
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    /// The container's name in the pod.
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    /// Annotation: the hash of the container's definition (see [`super::hash`]).
    pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
    /// Annotation: how often the container was restarted.
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    /// Annotation: the path of the termination message inside the container.
    pub const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    /// Annotation: the policy of the termination message.
    pub const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    /// Annotation: the preStop handler as JSON.
    pub const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
    /// Annotation: the container's ports as JSON.
    pub const PORTS: &str = "io.kubernetes.container.ports";
    /// Annotation: the pod's deletion grace period in seconds.
    pub const DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";
    /// Annotation: the pod's termination grace period in seconds.
    pub const TERMINATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
}

/// A short hash of what makes a running container outdated: its name and image (HOOK-91).
pub fn hash(container: &Container) -> String {
    let digest = Sha256::digest(format!("{}\0{}", container.name, container.image));
    hex::encode(&digest[..4])
}

pub(super) fn pod_labels(pod: &Pod) -> BTreeMap<String, String> {
    let own = [(label::POD_NAME, pod.name()), (label::POD_NAMESPACE, pod.namespace()), (label::POD_UID, pod.uid())];
    own.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

pub(super) fn sandbox_labels(pod: &Pod) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<_, _> = pod.metadata.labels.clone().unwrap_or_default().into_iter().collect();
    labels.extend(pod_labels(pod));
    labels
}

pub(super) fn sandbox_annotations(pod: &Pod) -> BTreeMap<String, String> {
    pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect()
}

pub(super) fn container_labels(pod: &Pod, container: &Container) -> BTreeMap<String, String> {
    let mut labels = pod_labels(pod);
    labels.insert(label::CONTAINER_NAME.to_owned(), container.name.clone());
    labels
}

pub(super) fn container_annotations(pod: &Pod, container: &Container, attempt: u32) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut put = |name: &str, value: String| out.insert(name.to_owned(), value);
    put(label::CONTAINER_HASH, hash(container));
    put(label::RESTART_COUNT, attempt.to_string());
    put(label::TERMINATION_PATH, container.termination_message_path.clone());
    put(label::TERMINATION_POLICY, container.termination_message_policy.clone());
    if let Some(seconds) = pod.metadata.deletion_grace_period_seconds {
        put(label::DELETION_GRACE, seconds.to_string());
    }
    if let Some(seconds) = pod.spec.termination_grace_period_seconds {
        put(label::TERMINATION_GRACE, seconds.to_string());
    }
    if let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) {
        put(label::PRE_STOP, serde_json::to_string(hook).unwrap_or_default());
    }
    if !container.ports.is_empty() {
        put(label::PORTS, serde_json::to_string(&container.ports).unwrap_or_default());
    }
    out
}
