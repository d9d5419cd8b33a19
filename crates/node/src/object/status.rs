//! The shapes below `pod.status`.
//!
//! Owns field names and types only; what the values are is decided in `crate::status`. Start at [`PodStatus`].

use super::{Resources, Time, is_default, object};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

object! {
    /// `pod.status`.
    PodStatus {
        observed_generation: Option<i64>,
        phase: String,
        conditions: Vec<PodCondition>,
        message: String,
        reason: String,
        nominated_node_name: String,
        #[serde(rename = "hostIP")]
        host_ip: String,
        #[serde(rename = "hostIPs")]
        host_ips: Vec<HostIp>,
        #[serde(rename = "podIP")]
        pod_ip: String,
        #[serde(rename = "podIPs")]
        pod_ips: Vec<HostIp>,
        start_time: Option<Time>,
        init_container_statuses: Vec<ContainerStatus>,
        container_statuses: Vec<ContainerStatus>,
        qos_class: String,
        ephemeral_container_statuses: Vec<ContainerStatus>,
    }
    /// One address of a host or pod.
    HostIp {
        ip: String,
    }
    /// What became of a volume mount; given for image volumes and for those that asked for `recursiveReadOnly`.
    VolumeMountStatus {
        name: String,
        mount_path: String,
        read_only: bool,
        recursive_read_only: String,
        volume_status: Option<VolumeStatus>,
    }
    VolumeStatus {
        image: Option<ImageVolumeStatus>,
    }
    ImageVolumeStatus {
        image_ref: String,
    }
    /// Exactly one of the three, or none (waiting without a word).
    ContainerState {
        waiting: Option<StateWaiting>,
        running: Option<StateRunning>,
        terminated: Option<StateTerminated>,
    }
    StateWaiting {
        reason: String,
        message: String,
    }
    StateRunning {
        started_at: Option<Time>,
    }
}

/// A condition of a pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodCondition {
    #[serde(rename = "type")]
    pub type_: String,
    pub status: String,
    #[serde(skip_serializing_if = "is_default")]
    pub observed_generation: Option<i64>,
    pub last_probe_time: Option<Time>,
    pub last_transition_time: Option<Time>,
    #[serde(skip_serializing_if = "is_default")]
    pub reason: String,
    #[serde(skip_serializing_if = "is_default")]
    pub message: String,
}

/// How a container ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StateTerminated {
    pub exit_code: i32,
    #[serde(skip_serializing_if = "is_default")]
    pub signal: i32,
    #[serde(skip_serializing_if = "is_default")]
    pub reason: String,
    #[serde(skip_serializing_if = "is_default")]
    pub message: String,
    pub started_at: Option<Time>,
    pub finished_at: Option<Time>,
    #[serde(rename = "containerID", skip_serializing_if = "is_default")]
    pub container_id: String,
}

/// The status of one container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    pub name: String,
    pub state: ContainerState,
    pub last_state: ContainerState,
    pub ready: bool,
    pub restart_count: i32,
    pub image: String,
    #[serde(rename = "imageID")]
    pub image_id: String,
    #[serde(rename = "containerID", skip_serializing_if = "is_default")]
    pub container_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<bool>,
    #[serde(skip_serializing_if = "is_default")]
    pub volume_mounts: Vec<VolumeMountStatus>,
    #[serde(skip_serializing_if = "is_default")]
    pub allocated_resources: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_default")]
    pub resources: Option<Resources>,
    #[serde(skip_serializing_if = "is_default")]
    pub user: Option<ContainerUser>,
    #[serde(skip_serializing_if = "is_default")]
    pub stop_signal: String,
}

/// As whom the first process of a container runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerUser {
    #[serde(skip_serializing_if = "is_default")]
    pub linux: Option<LinuxUser>,
}

/// Its numbers; zero is root and is told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LinuxUser {
    pub uid: i64,
    pub gid: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub supplemental_groups: Vec<i64>,
}
