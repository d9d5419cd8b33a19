//! Every setting, once: a field here is a flag, an environment variable and a key of the configuration file.
//!
//! A flag wins over its environment variable, that over the file, the file over the default. [`Settings::resolve`] turns
//! raw options into meaning; nothing else reads the environment.

pub mod audit;
mod cluster;
mod credential;
pub mod eviction;
mod feature_gates;
pub mod handler;
pub mod image;
mod log;
mod restart;
pub mod shutdown;
mod static_pods;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::handlers::files::Places;
use crate::instance::Instance;
use crate::settings::eviction::Statements;
use crate::settings::handler::HandlerSettings;
use crate::settings::image::ImageSettings;
use crate::settings::shutdown::Groups;

/// The settings as they were given: nothing is defaulted yet.
#[derive(clap::Args, Serialize, Deserialize, Default, Clone, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    #[arg(skip)]
    pub api_version: Option<String>,
    #[arg(skip)]
    pub kind: Option<String>,
    /// Durable state: store, images, certificates, volumes [default: /var/lib/sampan]
    #[arg(long, env = "SAMPAN_DATA_DIR", value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,
    /// State that ends with the machine's uptime: sockets, mounts [default: /run/sampan]
    #[arg(long, env = "SAMPAN_RUN_DIR", value_name = "DIR", global = true)]
    pub run_dir: Option<PathBuf>,
    /// Where the Kubernetes API listens [default: 127.0.0.1:6443]
    #[arg(long, env = "SAMPAN_LISTEN", value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Name of this node [default: the host name]
    #[arg(long, env = "SAMPAN_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Address of this node, given to pods and to the API server [default: of the default route]
    #[arg(long, env = "SAMPAN_NODE_IP", value_name = "ADDR")]
    pub node_ip: Option<IpAddr>,
    /// Address of this node for the outside; shown in its status
    #[arg(long, env = "SAMPAN_NODE_EXTERNAL_IP", value_name = "ADDR")]
    pub node_external_ip: Option<IpAddr>,
    /// Port of the node's HTTPS server (exec, logs) [default: 10250, or a free one if that is taken]
    #[arg(long, env = "SAMPAN_NODE_PORT", value_name = "PORT")]
    pub node_port: Option<u16>,
    /// Addresses of pods on this node [default: 10.88.0.0/23]
    #[arg(long, env = "SAMPAN_POD_CIDR", value_name = "CIDR")]
    pub pod_cidr: Option<Ipv4Net>,
    /// Most pods that run here at once [default: 110]
    #[arg(long, env = "SAMPAN_MAX_PODS", value_name = "N")]
    pub max_pods: Option<u32>,
    /// A container's log is rotated when it is larger [default: 10Mi]
    #[arg(long, env = "SAMPAN_CONTAINER_LOG_MAX_SIZE", value_name = "BYTES")]
    pub container_log_max_size: Option<String>,
    /// So many files of a container's log are kept, at least 2 [default: 5]
    #[arg(long, env = "SAMPAN_CONTAINER_LOG_MAX_FILES", value_name = "N")]
    pub container_log_max_files: Option<u32>,
    /// How often the logs of containers are looked at for rotation [default: 10s]
    #[arg(long, env = "SAMPAN_CONTAINER_LOG_MONITOR_INTERVAL", value_name = "DURATION")]
    pub container_log_monitor_interval: Option<String>,
    /// Pull one image at a time
    #[arg(long, env = "SAMPAN_SERIALIZE_IMAGE_PULLS", num_args = 0..=1, default_missing_value = "true")]
    pub serialize_image_pulls: Option<bool>,
    /// At most so many image pulls at a time [default: 5]
    #[arg(long, env = "SAMPAN_MAX_PARALLEL_IMAGE_PULLS", value_name = "N", allow_negative_numbers = true)]
    pub max_parallel_image_pulls: Option<i32>,
    /// Image pulls begun a second on average; 0 for no limit [default: 5]
    #[arg(
        long,
        alias = "registry-qps",
        env = "SAMPAN_REGISTRY_PULL_QPS",
        value_name = "N",
        allow_negative_numbers = true
    )]
    #[serde(rename = "registryPullQPS")]
    pub registry_pull_qps: Option<i32>,
    /// Image pulls that may begin at once [default: 10]
    #[arg(long, env = "SAMPAN_REGISTRY_BURST", value_name = "N", allow_negative_numbers = true)]
    pub registry_burst: Option<i32>,
    /// Use of the image file system from which on unused images are removed [default: 85]
    #[arg(long, alias = "image-gc-high-threshold", env = "SAMPAN_IMAGE_GC_HIGH_THRESHOLD_PERCENT", value_name = "N")]
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: Option<i32>,
    /// Use of the image file system down to which they are removed [default: 80]
    #[arg(long, alias = "image-gc-low-threshold", env = "SAMPAN_IMAGE_GC_LOW_THRESHOLD_PERCENT", value_name = "N")]
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: Option<i32>,
    /// Younger images are not removed [default: 2m]
    #[arg(long, alias = "minimum-image-ttl-duration", env = "SAMPAN_IMAGE_MINIMUM_GC_AGE", value_name = "DURATION")]
    #[serde(rename = "imageMinimumGCAge")]
    pub image_minimum_gc_age: Option<String>,
    /// Images unused for so long are removed; 0 keeps them [default: 0]
    #[arg(long, env = "SAMPAN_IMAGE_MAXIMUM_GC_AGE", value_name = "DURATION")]
    #[serde(rename = "imageMaximumGCAge")]
    pub image_maximum_gc_age: Option<String>,
    /// Evict when less is left: memory.available, nodefs.available, nodefs.inodesFree, imagefs.available,
    /// imagefs.inodesFree, pid.available
    /// [default: memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%]
    #[arg(long, env = "SAMPAN_EVICTION_HARD", value_name = "SIGNAL<VALUE,...")]
    pub eviction_hard: Option<Statements>,
    /// Evict when less is left for some time, with the pods' own grace
    #[arg(long, env = "SAMPAN_EVICTION_SOFT", value_name = "SIGNAL<VALUE,...")]
    pub eviction_soft: Option<Statements>,
    /// How long that has to last, for each signal of --eviction-soft
    #[arg(long, env = "SAMPAN_EVICTION_SOFT_GRACE_PERIOD", value_name = "SIGNAL=DURATION,...")]
    pub eviction_soft_grace_period: Option<Statements>,
    /// The longest grace of a pod evicted by --eviction-soft, in seconds [default: 0]
    #[arg(long, env = "SAMPAN_EVICTION_MAX_POD_GRACE_PERIOD", value_name = "SECONDS", allow_negative_numbers = true)]
    pub eviction_max_pod_grace_period: Option<i32>,
    /// How much is to be freed beyond a threshold once it is crossed
    #[arg(long, env = "SAMPAN_EVICTION_MINIMUM_RECLAIM", value_name = "SIGNAL=VALUE,...")]
    pub eviction_minimum_reclaim: Option<Statements>,
    /// How long the node shows a pressure after it was last seen [default: 5m]
    #[arg(
        long = "eviction-pressure-transition-period",
        env = "SAMPAN_EVICTION_PRESSURE_TRANSITION_PERIOD",
        value_name = "DURATION"
    )]
    #[serde(rename = "evictionPressureTransitionPeriod")]
    pub eviction_transition: Option<String>,
    /// What --eviction-hard does not name keeps its default
    #[arg(
        long = "merge-default-eviction-settings",
        env = "SAMPAN_MERGE_DEFAULT_EVICTION_SETTINGS",
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    #[serde(rename = "mergeDefaultEvictionSettings")]
    pub eviction_defaults_merged: Option<bool>,
    /// When logind announces that the machine shuts down, stop the pods in order, within this time; 0 does not [default: 0]
    #[arg(long, env = "SAMPAN_SHUTDOWN_GRACE_PERIOD", value_name = "DURATION")]
    pub shutdown_grace_period: Option<String>,
    /// The part of it that is kept for critical pods, which stop last [default: 0]
    #[arg(long, env = "SAMPAN_SHUTDOWN_GRACE_PERIOD_CRITICAL_PODS", value_name = "DURATION")]
    pub shutdown_grace_period_critical_pods: Option<String>,
    /// Instead of these two: seconds for pods from each priority on, the lowest stop first, e.g. 0=60,1000=20,2000000000=10
    #[arg(
        long,
        env = "SAMPAN_SHUTDOWN_GRACE_PERIOD_BY_POD_PRIORITY",
        value_name = "PRIORITY=SECONDS,...",
        allow_hyphen_values = true
    )]
    pub shutdown_grace_period_by_pod_priority: Option<Groups>,
    /// Images that the Node's status lists, the largest first; -1 for all [default: 50]
    #[arg(long, env = "SAMPAN_NODE_STATUS_MAX_IMAGES", value_name = "N", allow_negative_numbers = true)]
    pub node_status_max_images: Option<i32>,
    /// Log who asked the API for what: a file of audit.k8s.io/v1 events, one a line, or - for standard output
    #[arg(long, env = "SAMPAN_AUDIT_LOG_PATH", value_name = "FILE")]
    pub audit_log_path: Option<PathBuf>,
    /// The audit log is rotated before it is larger, in MiB [default: 100]
    #[arg(long, env = "SAMPAN_AUDIT_LOG_MAXSIZE", value_name = "MIB")]
    pub audit_log_maxsize: Option<u64>,
    /// So many rotated audit logs are kept; 0 keeps all [default: 10]
    #[arg(long, env = "SAMPAN_AUDIT_LOG_MAXBACKUP", value_name = "N")]
    pub audit_log_maxbackup: Option<usize>,
    /// Where the API keeps its objects: sqlite [default: sqlite]
    #[arg(long, env = "SAMPAN_STORE", value_name = "STORE")]
    pub store: Option<String>,
    /// The container runtime: embedded, the only one in this version [default: embedded]
    #[arg(long, env = "SAMPAN_RUNTIME", value_name = "RUNTIME")]
    pub runtime: Option<String>,
    /// Handler of pods without a RuntimeClass, by its name [default: that of containerd's or CRI-O's configuration, else crun if it works here, else runc]
    #[arg(long, env = "SAMPAN_DEFAULT_HANDLER", value_name = "NAME")]
    pub default_handler: Option<String>,
    /// Admission plugins to switch on, by their upstream names
    #[arg(long, env = "SAMPAN_ENABLE_ADMISSION_PLUGINS", value_name = "A,B", value_delimiter = ',')]
    pub enable_admission_plugins: Option<Vec<String>>,
    /// Admission plugins to switch off that are on by default
    #[arg(long, env = "SAMPAN_DISABLE_ADMISSION_PLUGINS", value_name = "A,B", value_delimiter = ',')]
    pub disable_admission_plugins: Option<Vec<String>>,
    /// How long new pods stay on a node that is not ready, in seconds [default: 300]
    #[arg(long, env = "SAMPAN_DEFAULT_NOT_READY_TOLERATION_SECONDS", value_name = "N", allow_negative_numbers = true)]
    pub default_not_ready_toleration_seconds: Option<i64>,
    /// How long new pods stay on a node that is out of reach, in seconds [default: 300]
    #[arg(
        long,
        env = "SAMPAN_DEFAULT_UNREACHABLE_TOLERATION_SECONDS",
        value_name = "N",
        allow_negative_numbers = true
    )]
    pub default_unreachable_toleration_seconds: Option<i64>,
    /// How long nothing may be heard of a node before it is not ready [default: 50s]
    #[arg(long, env = "SAMPAN_NODE_MONITOR_GRACE_PERIOD", value_name = "DURATION")]
    pub node_monitor_grace_period: Option<String>,
    /// The same for a node that has never reported [default: 60s]
    #[arg(long, env = "SAMPAN_NODE_STARTUP_GRACE_PERIOD", value_name = "DURATION")]
    pub node_startup_grace_period: Option<String>,
    /// Nodes of a zone from which pods are driven because they are not ready, a second [default: 0.1]
    #[arg(long, env = "SAMPAN_NODE_EVICTION_RATE", value_name = "RATE")]
    pub node_eviction_rate: Option<f64>,
    /// The same in a large zone where most nodes are not ready [default: 0.01]
    #[arg(long, env = "SAMPAN_SECONDARY_NODE_EVICTION_RATE", value_name = "RATE")]
    pub secondary_node_eviction_rate: Option<f64>,
    /// A zone with more nodes is large; in a smaller one nothing is driven off while most nodes are not ready [default: 50]
    #[arg(long, env = "SAMPAN_LARGE_CLUSTER_SIZE_THRESHOLD", value_name = "N")]
    pub large_cluster_size_threshold: Option<usize>,
    /// The share of nodes that is most [default: 0.55]
    #[arg(long, env = "SAMPAN_UNHEALTHY_ZONE_THRESHOLD", value_name = "SHARE")]
    pub unhealthy_zone_threshold: Option<f64>,
    /// So many pods that have ended are kept; 0 keeps all [default: 12500]
    #[arg(long, env = "SAMPAN_TERMINATED_POD_GC_THRESHOLD", value_name = "N")]
    #[serde(rename = "terminatedPodGCThreshold")]
    pub terminated_pod_gc_threshold: Option<usize>,
    /// What PinImageDigests does with a tag that cannot be looked up: Refuse or LetPass [default: Refuse]
    #[arg(
        long = "pin-image-digests-failure-policy",
        env = "SAMPAN_PIN_IMAGE_DIGESTS_FAILURE_POLICY",
        value_name = "POLICY"
    )]
    #[serde(rename = "pinImageDigestsFailurePolicy")]
    pub unresolved_tags: Option<String>,
    /// Let PinImageDigests ask registries at loopback and link-local addresses
    #[arg(long, env = "SAMPAN_PIN_IMAGE_DIGESTS_ALLOW_LOCAL", num_args = 0..=1, default_missing_value = "true")]
    pub pin_image_digests_allow_local: Option<bool>,
    /// How long events are kept, e.g. 1h, 30m [default: 1h]
    #[arg(long, env = "SAMPAN_EVENT_TTL", value_name = "DURATION")]
    pub event_ttl: Option<String>,
    /// How long the runs of a pod's hooks are kept after it has gone [default: 1h]
    #[arg(long, env = "SAMPAN_HOOK_RUNS_TTL", value_name = "DURATION")]
    pub hook_runs_ttl: Option<String>,
    /// How long certificates live at most that are signed for nodes and people, e.g. 24h [default: 8760h]
    #[arg(long, env = "SAMPAN_CLUSTER_SIGNING_DURATION", value_name = "DURATION")]
    pub cluster_signing_duration: Option<String>,
    /// File with bearer tokens: token,user,uid,"group1,group2" a line
    #[arg(long, env = "SAMPAN_TOKEN_AUTH_FILE", value_name = "FILE")]
    pub token_auth_file: Option<PathBuf>,
    /// What becomes of a pod whose RuntimeClass or handler is not there: FailPod or Retry [default: FailPod]
    #[arg(long, env = "SAMPAN_RUNTIME_CLASS_FAILURE_POLICY", value_name = "POLICY")]
    pub runtime_class_failure_policy: Option<String>,
    /// Longest wait of a container that ended for its next start, 1s to 300s [default: 300s]
    #[arg(long, env = "SAMPAN_MAX_CONTAINER_RESTART_PERIOD", value_name = "DURATION")]
    pub max_container_restart_period: Option<String>,
    /// Kubernetes feature gates, e.g. PodOverhead=true
    #[arg(long, env = "SAMPAN_FEATURE_GATES", value_name = "K=V", value_delimiter = ',')]
    pub feature_gates: Option<Vec<String>>,
    /// Configuration of credential provider plugins: a file, or a directory of them
    #[arg(long, env = "SAMPAN_IMAGE_CREDENTIAL_PROVIDER_CONFIG", value_name = "PATH")]
    pub image_credential_provider_config: Option<PathBuf>,
    /// Directory of the credential provider plugins' programs
    #[arg(long, env = "SAMPAN_IMAGE_CREDENTIAL_PROVIDER_BIN_DIR", value_name = "DIR")]
    pub image_credential_provider_bin_dir: Option<PathBuf>,
    /// Whose credentials are verified before an image that is there is used: NeverVerify, NeverVerifyPreloadedImages,
    /// NeverVerifyAllowlistedImages, AlwaysVerify [default: NeverVerifyPreloadedImages]
    #[arg(
        long = "image-pull-credentials-verification-policy",
        env = "SAMPAN_IMAGE_PULL_CREDENTIALS_VERIFICATION_POLICY",
        value_name = "POLICY"
    )]
    #[serde(rename = "imagePullCredentialsVerificationPolicy")]
    pub verification_policy: Option<String>,
    /// Images that NeverVerifyAllowlistedImages exempts: names without tag, or ending in /*
    #[arg(
        long = "preloaded-images-verification-allowlist",
        env = "SAMPAN_PRELOADED_IMAGES_VERIFICATION_ALLOWLIST",
        value_name = "A,B",
        value_delimiter = ','
    )]
    #[serde(rename = "preloadedImagesVerificationAllowlist")]
    pub verification_allowlist: Option<Vec<String>>,
    /// That list holds only for images which this node has not pulled itself
    #[arg(long, env = "SAMPAN_ALLOWLIST_NEEDS_PRELOADED", num_args = 0..=1, default_missing_value = "true")]
    pub allowlist_needs_preloaded: Option<bool>,
    /// A pull Secret with new contents asks the registry again before an image that is there is used
    #[arg(long, env = "SAMPAN_ROTATED_SECRET_REQUIRES_PULL", num_args = 0..=1, default_missing_value = "true")]
    pub rotated_secret_requires_pull: Option<bool>,
    /// How globs in the keys of credentials are read: seed (`*r.io` matches a.b.r.io) or upstream [default: seed]
    #[arg(long, env = "SAMPAN_CREDENTIAL_GLOBS", value_name = "MODE")]
    pub credential_globs: Option<String>,
    /// Whether a key's path may end inside a path segment: loose or strict [default: loose]
    #[arg(long, env = "SAMPAN_CREDENTIAL_PATH_BOUNDARY", value_name = "MODE")]
    pub credential_path_boundary: Option<String>,
    /// Pull without credentials after all that match have failed
    #[arg(long, env = "SAMPAN_ANONYMOUS_FALLBACK", num_args = 0..=1, default_missing_value = "true")]
    pub anonymous_fallback: Option<bool>,
    /// HttpHeaders of the node's docker configuration: send (to matched registries) or ignore [default: send]
    #[arg(long, env = "SAMPAN_HTTP_HEADERS", value_name = "MODE")]
    pub http_headers: Option<String>,
    /// Run the credential helpers (credHelpers, credsStore) that the node's docker configuration names
    #[arg(long, env = "SAMPAN_DOCKER_CREDENTIAL_HELPERS", num_args = 0..=1, default_missing_value = "true")]
    pub docker_credential_helpers: Option<bool>,
    /// Static pods: a directory with one manifest a file, or one such file; watched
    #[arg(long, alias = "pod-manifest-path", env = "SAMPAN_STATIC_POD_PATH", value_name = "PATH")]
    pub static_pod_path: Option<PathBuf>,
    /// Static pods: a URL that answers with a Pod or a PodList
    #[arg(long, alias = "manifest-url", env = "SAMPAN_STATIC_POD_URL", value_name = "URL")]
    #[serde(rename = "staticPodURL")]
    pub static_pod_url: Option<String>,
    /// Headers for that URL, by name (configuration file only)
    #[arg(skip)]
    #[serde(rename = "staticPodURLHeader")]
    pub static_pod_url_header: crate::settings::static_pods::Headers,
    /// Between two looks at static pods' files that nobody told of [default: 20s]
    #[arg(long, env = "SAMPAN_FILE_CHECK_FREQUENCY", value_name = "DURATION")]
    pub file_check_frequency: Option<String>,
    /// Between two requests to static pods' URL [default: 20s]
    #[arg(long, env = "SAMPAN_HTTP_CHECK_FREQUENCY", value_name = "DURATION")]
    pub http_check_frequency: Option<String>,
    /// Do not add a context `sampan` to the user's kubeconfig
    #[arg(long, env = "SAMPAN_NO_MERGE_KUBECONFIG", num_args = 0..=1, default_missing_value = "true")]
    pub no_merge_kubeconfig: Option<bool>,
    /// What is logged: error, warn, info, debug, trace [default: info]
    #[arg(long, env = "SAMPAN_LOG", value_name = "LEVEL", global = true)]
    pub log: Option<String>,
    /// containerd's configuration, whose handlers are served too; "" reads none [default: /etc/containerd/config.toml]
    #[arg(long, env = "SAMPAN_CONTAINERD_CONFIG", value_name = "FILE")]
    pub containerd_config: Option<PathBuf>,
    /// CRI-O's configuration, whose handlers are served too; "" reads none [default: /etc/crio/crio.conf]
    #[arg(long, env = "SAMPAN_CRIO_CONFIG", value_name = "FILE")]
    pub crio_config: Option<PathBuf>,
    /// Drop-ins of CRI-O's configuration, *.conf; "" reads none [default: /etc/crio/crio.conf.d]
    #[arg(long, env = "SAMPAN_CRIO_CONFIG_DIR", value_name = "DIR")]
    pub crio_config_dir: Option<PathBuf>,
    /// Longest time of one command of an OCI runtime, which is killed then; 55s at most [default: 40s]
    #[arg(long, env = "SAMPAN_HANDLER_TIMEOUT", value_name = "DURATION")]
    pub handler_timeout: Option<String>,
    /// More handlers of the embedded runtime: name → binary, arguments, annotations (configuration file only)
    #[arg(skip)]
    pub handlers: BTreeMap<String, HandlerSettings>,
    /// The file that some of these settings are from.
    #[arg(skip)]
    #[serde(skip)]
    pub config_file: Option<PathBuf>,
}

/// The settings with every default filled in.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub audit_log: Option<apiserver::AuditLog>,
    pub instance: Instance,
    pub listen: SocketAddr,
    pub node_name: String,
    pub node_ip: IpAddr,
    pub node_external_ip: Option<IpAddr>,
    pub node_port: Option<u16>,
    pub pod_cidr: Ipv4Net,
    pub max_pods: u32,
    pub default_handler: Option<String>,
    pub handlers: BTreeMap<String, HandlerSettings>,
    pub foreign_handlers: Places,
    /// Longest time of one command of an OCI runtime.
    pub handler_timeout: Duration,
    /// Where the handlers are read again from.
    pub config_file: Option<PathBuf>,
    /// The admission plugins that run.
    pub admission: Vec<String>,
    pub default_tolerations: apiserver::DefaultTolerationSeconds,
    /// How patient the controllers are with nodes.
    pub node_policy: controllers::NodePolicy,
    pub unresolved_tags: apiserver::UnresolvedTags,
    pub local_registries_pinned: bool,
    pub event_ttl: Duration,
    pub hook_limits: node::hooks::journal::Limits,
    pub signing_limit: Duration,
    pub token_auth_file: Option<PathBuf>,
    pub merge_kubeconfig: bool,
    /// `runtimeClassFailurePolicy: FailPod` (RTC-38).
    pub runtime_class_fails_pod: bool,
    pub crash_back_off: node::CrashBackOff,
    pub images: ImageSettings,
    pub eviction: node::eviction::Policy,
    pub shutdown: node::shutdown::Policy,
    pub logs: node::log_rotation::Policy,
    pub credentials: node::credentials::Options,
    pub verification: node::records::Rules,
    pub static_pods: node::static_pods::Options,
}

impl Settings {
    /// Reads the configuration file and lays these settings over it. Errors name file, line and key.
    pub fn over_file(self, file: Option<&Path>) -> anyhow::Result<Settings> {
        let Some(path) = file else { return Ok(self) };
        let text = std::fs::read_to_string(path).with_context(|| format!("read configuration {}", path.display()))?;
        let below: Settings = serde_saphyr::from_str(&text)
            .map_err(|error| anyhow::anyhow!("configuration {}: {error}", path.display()))?;
        let (version, kind) = (below.api_version.as_deref(), below.kind.as_deref());
        if version != Some("sampan.dev/v1") || kind != Some("Config") {
            bail!("configuration {}: begins with `apiVersion: sampan.dev/v1` and `kind: Config`", path.display());
        }
        let path = std::path::absolute(path).with_context(|| format!("find {}", path.display()))?;
        self.over(Settings { config_file: Some(path), ..below })
    }

    /// Given here wins over what is given below. Key by key, as both are written in files: no setting can be forgotten.
    fn over(mut self, mut below: Settings) -> anyhow::Result<Settings> {
        (below.api_version, below.kind) = (None, None);
        let config_file = self.config_file.take().or(below.config_file.take());
        let (Value::Object(above), Value::Object(mut keys)) = (json(&self)?, json(&below)?) else {
            bail!("settings are keys and values");
        };
        keys.extend(above.into_iter().filter(|(_, value)| is_given(value)));
        Ok(Settings { config_file, ..serde_json::from_value(Value::Object(keys))? })
    }

    /// The directories alone: what `down` and the image commands need.
    pub fn instance(&self) -> Instance {
        Instance::new(
            self.data_dir.clone().unwrap_or_else(|| PathBuf::from(crate::instance::DATA_DIR)),
            self.run_dir.clone().unwrap_or_else(|| PathBuf::from(crate::instance::RUN_DIR)),
        )
    }

    /// Keeps the settings of this start, so that `down` finds what they led to.
    pub fn remember(&self, instance: &Instance) -> anyhow::Result<()> {
        crate::certificates::write_private(&instance.last_settings(), &serde_json::to_string_pretty(self)?)
    }

    /// These settings over those of the instance's last start.
    pub fn over_last(self, instance: &Instance) -> anyhow::Result<Settings> {
        let path = instance.last_settings();
        let Some(text) = crate::certificates::read_if_there(&path)? else { return Ok(self) };
        let last: Settings = serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?;
        self.over(last)
    }

    /// Fills in the defaults and checks what can be checked without touching the machine.
    pub fn resolve(self) -> anyhow::Result<Resolved> {
        only("--store", self.store.as_deref(), "sqlite")?;
        only("--runtime", self.runtime.as_deref(), "embedded")?;
        crate::settings::feature_gates::known(self.feature_gates.as_deref().unwrap_or_default())?;
        let (admission, default_tolerations) = (self.admission()?, self.default_tolerations());
        let node_policy = self.node_policy()?;
        let node_name = match &self.node_name {
            Some(name) => name.clone(),
            None => host_name(),
        };
        check_node_name(&node_name)?;
        let pod_cidr = self.pod_cidr.unwrap_or_else(default_pod_cidr).trunc();
        if pod_cidr.prefix_len() > 29 {
            bail!("--pod-cidr {pod_cidr}: has too few addresses, give a /29 or larger");
        }
        let (images, eviction, foreign_handlers) = (self.images()?, self.eviction()?, self.foreign_handlers());
        let (credentials, verification) = (self.credentials()?, self.verification()?);
        let (static_pods, logs, handler_timeout) = (self.static_pods()?, self.logs()?, self.handler_timeout()?);
        let crash_back_off = self.crash_back_off()?;
        let runtime_class_fails_pod = fails_pod(self.runtime_class_failure_policy.as_deref())?;
        Ok(Resolved {
            audit_log: self.audit_log()?,
            runtime_class_fails_pod,
            crash_back_off,
            handler_timeout,
            images,
            eviction,
            shutdown: self.shutdown()?,
            logs,
            static_pods,
            credentials,
            verification,
            instance: self.instance(),
            listen: self.listen.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6443)),
            node_name,
            node_ip: self.node_ip.unwrap_or_else(crate::instance::default_address),
            node_external_ip: self.node_external_ip,
            node_port: self.node_port,
            pod_cidr,
            max_pods: self.max_pods.unwrap_or(110),
            default_handler: self.default_handler,
            handlers: self.handlers,
            foreign_handlers,
            config_file: self.config_file,
            admission,
            default_tolerations,
            node_policy,
            unresolved_tags: unresolved_tags(self.unresolved_tags.as_deref())?,
            local_registries_pinned: self.pin_image_digests_allow_local.unwrap_or(false),
            event_ttl: duration(self.event_ttl.as_deref().unwrap_or("1h")).context("--event-ttl")?,
            hook_limits: crate::hooks::limits(self.hook_runs_ttl.as_deref())?,
            signing_limit: duration(self.cluster_signing_duration.as_deref().unwrap_or("8760h"))
                .context("--cluster-signing-duration")?,
            token_auth_file: self.token_auth_file,
            merge_kubeconfig: !self.no_merge_kubeconfig.unwrap_or(false),
        })
    }
}

fn json(settings: &Settings) -> anyhow::Result<Value> {
    serde_json::to_value(settings).context("a setting cannot be written")
}

/// A map without entries says nothing.
fn is_given(value: &Value) -> bool {
    !value.is_null() && value.as_object().is_none_or(|map| !map.is_empty())
}

fn unresolved_tags(policy: Option<&str>) -> anyhow::Result<apiserver::UnresolvedTags> {
    match policy {
        None | Some("Refuse") => Ok(apiserver::UnresolvedTags::Refuse),
        Some("LetPass") => Ok(apiserver::UnresolvedTags::LetPass),
        Some(other) => bail!("--pin-image-digests-failure-policy {other}: write Refuse or LetPass"),
    }
}

fn only(flag: &str, given: Option<&str>, served: &str) -> anyhow::Result<()> {
    match given {
        Some(other) if other != served => bail!("{flag} {other}: this version serves `{served}` only"),
        _ => Ok(()),
    }
}

/// RTC-38: the seed's reading, or upstream's.
fn fails_pod(policy: Option<&str>) -> anyhow::Result<bool> {
    match policy {
        None | Some("FailPod") => Ok(true),
        Some("Retry") => Ok(false),
        Some(other) => bail!("--runtime-class-failure-policy {other}: FailPod or Retry"),
    }
}

fn default_pod_cidr() -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(10, 88, 0, 0), 23)
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().trim().to_lowercase()
}

/// A node's name is a DNS subdomain.
fn check_node_name(name: &str) -> anyhow::Result<()> {
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        bail!(
            "node name {name:?} is no DNS name of lower-case letters, digits, `-` and `.`; give one with --node-name"
        );
    }
    Ok(())
}

/// A duration as Kubernetes' flags write it: `1h`, `90s`, `1h30m`, `500ms`, `0`.
pub fn duration(text: &str) -> anyhow::Result<Duration> {
    let duration = api::duration::parse(text).with_context(|| format!("{text:?} is no duration such as 1h or 90s"))?;
    Duration::try_from(duration).with_context(|| format!("{text:?} is negative"))
}

/// Settings as tests give them.
#[cfg(test)]
pub mod given {
    use super::*;
    use clap::{Args as _, FromArgMatches as _};

    /// By flags.
    pub fn flags(flags: &[&str]) -> Result<Settings, String> {
        let command = Settings::augment_args(clap::Command::new("sampan"));
        let given = command.try_get_matches_from([&["sampan"], flags].concat());
        given.and_then(|given| Settings::from_arg_matches(&given)).map_err(|error| error.to_string())
    }

    /// By a file of these keys.
    pub fn keys(text: &str) -> anyhow::Result<Settings> {
        file(&format!("apiVersion: sampan.dev/v1\nkind: Config\n{text}"))
    }

    /// By a file that is this.
    pub fn file(text: &str) -> anyhow::Result<Settings> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        Settings::default().over_file(Some(file.path()))
    }
}

#[cfg(test)]
mod tests {
    use super::given::file;
    use super::*;

    #[test]
    fn a_flag_wins_over_the_file() {
        let mut given = Settings { max_pods: Some(7), ..Settings::default() };
        given = given.over(Settings { max_pods: Some(9), node_name: Some("n".into()), ..Settings::default() }).unwrap();
        assert_eq!((given.max_pods, given.node_name.as_deref()), (Some(7), Some("n")));
    }

    #[test]
    fn every_key_is_taken_from_above_and_from_below() {
        let file = |text: &str| serde_saphyr::from_str::<Settings>(text).unwrap();
        let text = "handlerTimeout: 5s\nhandlers: {a: {binary: x}}\nstaticPodURLHeader: {x-a: [hush]}\n";
        for (above, below) in [(text, ""), ("", text), (text, "handlerTimeout: 6s\nhandlers: {b: {}}\n")] {
            let merged = file(above).over(file(below)).unwrap();
            assert_eq!(json(&merged).unwrap(), json(&file(text)).unwrap());
        }
    }

    #[test]
    fn an_unknown_key_is_an_error_with_its_line() {
        let error = file("apiVersion: sampan.dev/v1\nkind: Config\nmaxPodz: 3\n").unwrap_err().to_string();
        assert!(error.contains("maxPodz") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_file_of_another_kind_is_refused() {
        assert!(file("apiVersion: v1\nkind: Pod\n").unwrap_err().to_string().contains("sampan.dev/v1"));
    }

    #[test]
    fn the_whole_file_is_read() {
        let read = file("apiVersion: sampan.dev/v1\nkind: Config\npodCidr: 10.1.0.0/24\nhandlers:\n  sandboxed:\n    binary: runsc\n    arguments: [--platform=ptrace]\n").unwrap();
        assert_eq!(read.pod_cidr.unwrap().to_string(), "10.1.0.0/24");
        assert_eq!(read.handlers["sandboxed"].arguments, ["--platform=ptrace"]);
    }

    #[test]
    fn rtc_38_a_pod_without_its_class_fails_unless_it_is_to_be_tried_again() {
        let policy = |text: Option<&str>| fails_pod(text).map_err(|error| error.to_string());
        assert_eq!([policy(None), policy(Some("FailPod")), policy(Some("Retry"))], [Ok(true), Ok(true), Ok(false)]);
        assert!(policy(Some("retry")).unwrap_err().contains("FailPod or Retry"));
    }

    #[test]
    fn images_are_set_by_the_keys_of_the_kubelet() {
        let text = "apiVersion: sampan.dev/v1\nkind: Config\nserializeImagePulls: true\nregistryPullQPS: 1\nregistryBurst: 2\n\
            imageGCHighThresholdPercent: 70\nimageGCLowThresholdPercent: 60\nimageMinimumGCAge: 1m\nimageMaximumGCAge: 1h\nnodeStatusMaxImages: 3\n";
        let images = file(text).unwrap().images().unwrap();
        assert_eq!((images.limits.parallel_max, images.limits.per_second, images.limits.burst), (1, 1, 2));
        assert_eq!(
            (images.collection.high_percent, images.collection.low_percent, images.status_max),
            (70, 60, Some(3))
        );
    }

    #[test]
    fn durations_are_read_as_kubernetes_writes_them() {
        for (text, seconds) in [("1h", 3600.0), ("90s", 90.0), ("1h30m", 5400.0), ("500ms", 0.5)] {
            assert_eq!(duration(text).unwrap().as_secs_f64(), seconds, "{text}");
        }
        for text in ["", "h", "3", "3x", "-3s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
