//! The shapes below `pod.spec`: containers, volumes, security contexts, probes and hooks.
//!
//! Owns field names and types only. Start at [`PodSpec`].

use super::object;
use api::pod::toleration::Toleration;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

object! {
    /// `pod.spec`.
    PodSpec {
        volumes: Vec<Volume>,
        init_containers: Vec<Container>,
        containers: Vec<Container>,
        ephemeral_containers: Vec<Container>,
        restart_policy: String,
        termination_grace_period_seconds: Option<i64>,
        active_deadline_seconds: Option<i64>,
        dns_policy: String,
        dns_config: Option<DnsConfig>,
        node_selector: BTreeMap<String, String>,
        service_account_name: String,
        automount_service_account_token: Option<bool>,
        node_name: String,
        host_network: bool,
        #[serde(rename = "hostPID")]
        host_pid: bool,
        #[serde(rename = "hostIPC")]
        host_ipc: bool,
        host_users: Option<bool>,
        share_process_namespace: bool,
        security_context: PodSecurityContext,
        image_pull_secrets: Vec<LocalObjectReference>,
        hostname: String,
        subdomain: String,
        #[serde(rename = "setHostnameAsFQDN")]
        set_hostname_as_fqdn: bool,
        affinity: Option<serde_json::Value>,
        tolerations: Vec<Toleration>,
        host_aliases: Vec<HostAlias>,
        priority_class_name: String,
        priority: Option<i32>,
        readiness_gates: Vec<ReadinessGate>,
        runtime_class_name: Option<String>,
        enable_service_links: Option<bool>,
        overhead: BTreeMap<String, String>,
        resources: Option<Resources>,
        os: Option<PodOs>,
    }
    /// One container of any list. `restart_policy` and `target_container_name` are "" when not given.
    Container {
        name: String,
        image: String,
        command: Vec<String>,
        args: Vec<String>,
        working_dir: String,
        ports: Vec<ContainerPort>,
        env_from: Vec<EnvFromSource>,
        env: Vec<EnvVar>,
        resources: Resources,
        restart_policy: String,
        restart_policy_rules: Vec<serde_json::Value>,
        volume_mounts: Vec<VolumeMount>,
        volume_devices: Vec<VolumeDevice>,
        liveness_probe: Option<Probe>,
        readiness_probe: Option<Probe>,
        startup_probe: Option<Probe>,
        lifecycle: Option<Lifecycle>,
        termination_message_path: String,
        termination_message_policy: String,
        image_pull_policy: String,
        security_context: SecurityContext,
        stdin: bool,
        stdin_once: bool,
        tty: bool,
        target_container_name: String,
    }
    Resources {
        limits: BTreeMap<String, String>,
        requests: BTreeMap<String, String>,
    }
    ContainerPort {
        name: String,
        host_port: i32,
        container_port: i32,
        protocol: String,
        #[serde(rename = "hostIP")]
        host_ip: String,
    }
    EnvFromSource {
        prefix: String,
        config_map_ref: Option<OptionalReference>,
        secret_ref: Option<OptionalReference>,
    }
    /// A reference by name that may be allowed to be absent.
    OptionalReference {
        name: String,
        optional: bool,
    }
    EnvVar {
        name: String,
        value: String,
        value_from: Option<EnvVarSource>,
    }
    EnvVarSource {
        field_ref: Option<ObjectFieldSelector>,
        resource_field_ref: Option<ResourceFieldSelector>,
        config_map_key_ref: Option<KeySelector>,
        secret_key_ref: Option<KeySelector>,
        file_key_ref: Option<serde_json::Value>,
    }
    ObjectFieldSelector {
        api_version: String,
        field_path: String,
    }
    ResourceFieldSelector {
        container_name: String,
        resource: String,
        divisor: Option<String>,
    }
    KeySelector {
        name: String,
        key: String,
        optional: bool,
    }
    VolumeMount {
        name: String,
        read_only: bool,
        recursive_read_only: String,
        mount_path: String,
        sub_path: String,
        sub_path_expr: String,
        mount_propagation: String,
    }
    VolumeDevice {
        name: String,
        device_path: String,
    }
    Lifecycle {
        post_start: Option<HookAction>,
        pre_stop: Option<HookAction>,
        stop_signal: String,
    }
    /// A lifecycle hook's handler: exactly one of the fields is set.
    HookAction {
        exec: Option<ExecAction>,
        http_get: Option<HttpGetAction>,
        tcp_socket: Option<TcpSocketAction>,
        sleep: Option<SleepAction>,
    }
    Probe {
        exec: Option<ExecAction>,
        http_get: Option<HttpGetAction>,
        tcp_socket: Option<TcpSocketAction>,
        grpc: Option<GrpcAction>,
        initial_delay_seconds: i32,
        timeout_seconds: i32,
        period_seconds: i32,
        success_threshold: i32,
        failure_threshold: i32,
        termination_grace_period_seconds: Option<i64>,
    }
    ExecAction {
        command: Vec<String>,
    }
    HttpGetAction {
        path: String,
        port: IntOrString,
        host: String,
        scheme: String,
        http_headers: Vec<HttpHeader>,
    }
    HttpHeader {
        name: String,
        value: String,
    }
    TcpSocketAction {
        port: IntOrString,
        host: String,
    }
    GrpcAction {
        port: i32,
        service: Option<String>,
    }
    SleepAction {
        seconds: i64,
    }
    SecurityContext {
        capabilities: Option<Capabilities>,
        privileged: Option<bool>,
        se_linux_options: Option<SeLinuxOptions>,
        run_as_user: Option<i64>,
        run_as_group: Option<i64>,
        run_as_non_root: Option<bool>,
        read_only_root_filesystem: Option<bool>,
        allow_privilege_escalation: Option<bool>,
        proc_mount: Option<String>,
        seccomp_profile: Option<SecurityProfile>,
        app_armor_profile: Option<SecurityProfile>,
    }
    PodSecurityContext {
        se_linux_options: Option<SeLinuxOptions>,
        run_as_user: Option<i64>,
        run_as_group: Option<i64>,
        run_as_non_root: Option<bool>,
        supplemental_groups: Vec<i64>,
        supplemental_groups_policy: Option<String>,
        fs_group: Option<i64>,
        fs_group_change_policy: Option<String>,
        sysctls: Vec<Sysctl>,
        seccomp_profile: Option<SecurityProfile>,
        app_armor_profile: Option<SecurityProfile>,
    }
    Capabilities {
        add: Vec<String>,
        drop: Vec<String>,
    }
    SeLinuxOptions {
        user: String,
        role: String,
        #[serde(rename = "type")]
        type_: String,
        level: String,
    }
    /// A seccomp or AppArmor profile: `type` RuntimeDefault, Unconfined or Localhost.
    SecurityProfile {
        #[serde(rename = "type")]
        type_: String,
        localhost_profile: String,
    }
    Sysctl {
        name: String,
        value: String,
    }
    LocalObjectReference {
        name: String,
    }
    HostAlias {
        ip: String,
        hostnames: Vec<String>,
    }
    DnsConfig {
        nameservers: Vec<String>,
        searches: Vec<String>,
        options: Vec<DnsOption>,
    }
    DnsOption {
        name: String,
        value: Option<String>,
    }
    ReadinessGate {
        condition_type: String,
    }
    PodOs {
        name: String,
    }
    /// One volume; exactly one source is set. Sources that this node does not serve are in `other` by their field name.
    Volume {
        name: String,
        empty_dir: Option<EmptyDir>,
        host_path: Option<HostPath>,
        config_map: Option<ConfigMapVolume>,
        secret: Option<SecretVolume>,
        #[serde(rename = "downwardAPI")]
        downward_api: Option<DownwardApiVolume>,
        projected: Option<ProjectedVolume>,
        image: Option<ImageVolume>,
        #[serde(flatten)]
        other: BTreeMap<String, serde_json::Value>,
    }
    EmptyDir {
        medium: String,
        size_limit: Option<String>,
    }
    HostPath {
        path: String,
        #[serde(rename = "type")]
        type_: String,
    }
    ConfigMapVolume {
        name: String,
        items: Vec<KeyToPath>,
        default_mode: Option<i32>,
        optional: bool,
    }
    SecretVolume {
        secret_name: String,
        items: Vec<KeyToPath>,
        default_mode: Option<i32>,
        optional: bool,
    }
    KeyToPath {
        key: String,
        path: String,
        mode: Option<i32>,
    }
    DownwardApiVolume {
        items: Vec<DownwardApiFile>,
        default_mode: Option<i32>,
    }
    DownwardApiFile {
        path: String,
        field_ref: Option<ObjectFieldSelector>,
        resource_field_ref: Option<ResourceFieldSelector>,
        mode: Option<i32>,
    }
    ProjectedVolume {
        sources: Vec<ProjectedSource>,
        default_mode: Option<i32>,
    }
    ProjectedSource {
        secret: Option<SourceProjection>,
        config_map: Option<SourceProjection>,
        #[serde(rename = "downwardAPI")]
        downward_api: Option<DownwardApiVolume>,
        service_account_token: Option<TokenProjection>,
        cluster_trust_bundle: Option<serde_json::Value>,
    }
    SourceProjection {
        name: String,
        items: Vec<KeyToPath>,
        optional: bool,
    }
    TokenProjection {
        audience: String,
        expiration_seconds: Option<i64>,
        path: String,
    }
    ImageVolume {
        reference: String,
        pull_policy: String,
    }
}

/// A port by number or by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum IntOrString {
    Int(i64),
    String(String),
}

impl Default for IntOrString {
    fn default() -> Self {
        Self::Int(0)
    }
}

impl fmt::Display for IntOrString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => number.fmt(f),
            Self::String(name) => name.fmt(f),
        }
    }
}
