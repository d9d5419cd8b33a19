//! A pod, reduced to what controllers decide on.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use api::look;
use api::pod::toleration::Toleration;
use serde_json::Value;

use super::object::{Owner, labels, owners};

/// The finalizer by which a Job sees every end of its pods.
pub const JOB_TRACKING: &str = "batch.kubernetes.io/job-tracking";

/// The annotation that says how many pods of a DaemonSet had failed in a row on the node before this one.
pub const FAILED_BEFORE: &str = "sampan.dev/failed-before";

/// A pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// metadata.namespace.
    pub namespace: String,
    /// metadata.name.
    pub name: String,
    /// metadata.uid.
    pub uid: String,
    /// metadata.labels.
    pub labels: BTreeMap<String, String>,
    /// Its controller.
    pub controller: Option<Owner>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether its phase is Succeeded or Failed.
    pub finished: bool,
    /// The node it is bound to.
    pub node: Option<String>,
    /// The only node that its affinity lets it go to.
    pub meant_for: Option<String>,
    /// status.phase.
    pub phase: String,
    /// When it became ready, in seconds, if it is.
    pub ready_since: Option<i64>,
    /// The annotation controller.kubernetes.io/pod-deletion-cost.
    pub cost: i64,
    /// Restarts of its containers.
    pub restarts: i64,
    /// When it was made, in seconds.
    pub created: i64,
    /// Whether a node evicted it.
    pub evicted: bool,
    /// How many pods of its DaemonSet had failed on its node in a row when it was made.
    pub failed_before: u32,
    /// Which taints do not drive it off its node, and how long.
    pub tolerations: Arc<[Toleration]>,
    /// What matters for Jobs alone.
    pub job: JobFacts,
}

/// What Jobs want to know of their pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFacts {
    /// Whether it has the finalizer [`JOB_TRACKING`].
    pub tracked: bool,
    /// The annotation batch.kubernetes.io/job-completion-index.
    pub index: Option<u32>,
    /// The annotation batch.kubernetes.io/job-index-failure-count.
    pub index_failures: u32,
    /// Containers that have ended: name and exit code.
    pub exits: Vec<(String, i64)>,
    /// Type and status of its conditions.
    pub conditions: Vec<(String, String)>,
    /// When the last container ended, in seconds; else when it was deleted.
    pub ended: Option<i64>,
    /// Restarts of containers that a Job counts: of all but sidecars that end by themselves.
    pub restarts: i64,
}

impl Pod {
    /// Reads a pod.
    pub fn read(object: &Value) -> Pod {
        let empty = Value::Null;
        let meta = look::get(object, "metadata").unwrap_or(&empty);
        let status = look::get(object, "status").unwrap_or(&empty);
        let ready = look::list(status, "conditions")
            .iter()
            .find(|one| look::text(one, "type") == "Ready" && look::text(one, "status") == "True");
        let restarts = look::list(status, "containerStatuses").iter();
        let cost = look::text_at(meta, &["annotations", "controller.kubernetes.io/pod-deletion-cost"]);
        let node = look::text_at(object, &["spec", "nodeName"]);
        let controller = owners(object).into_iter().find(|owner| owner.controller);
        Pod {
            namespace: look::text(meta, "namespace").to_owned(),
            name: look::text(meta, "name").to_owned(),
            uid: look::text(meta, "uid").to_owned(),
            labels: labels(object),
            job: JobFacts::read(meta, status, controller.as_ref()),
            controller,
            deleting: look::get(meta, "deletionTimestamp").is_some(),
            finished: api::pod::is_terminal_phase(look::text(status, "phase")),
            node: Some(node.to_owned()).filter(|node| !node.is_empty()),
            meant_for: meant_for(object),
            phase: look::text(status, "phase").to_owned(),
            ready_since: ready.map(|one| seconds(look::text(one, "lastTransitionTime")).unwrap_or(0)),
            cost: cost.parse().unwrap_or(0),
            restarts: restarts.map(|one| look::integer(one, "restartCount").unwrap_or(0)).sum(),
            created: seconds(look::text(meta, "creationTimestamp")).unwrap_or(0),
            evicted: look::text(status, "phase") == "Failed" && look::text(status, "reason") == "Evicted",
            failed_before: look::text_at(meta, &["annotations", FAILED_BEFORE]).parse().unwrap_or(0),
            tolerations: tolerations(object),
        }
    }

    /// Whether it is controlled by the object of this uid.
    pub fn is_of(&self, uid: &str) -> bool {
        self.controller.as_ref().is_some_and(|owner| owner.uid == uid)
    }

    /// Whether it has neither ended nor been deleted.
    pub fn is_active(&self) -> bool {
        !self.deleting && !self.finished
    }

    /// Whether it has been ready for so many seconds.
    pub fn is_available(&self, min_ready_seconds: i64, now: i64) -> bool {
        self.ready_since.is_some_and(|since| min_ready_seconds == 0 || since + min_ready_seconds <= now)
    }

    /// Whether it has ended well.
    pub fn has_succeeded(&self) -> bool {
        self.phase == "Succeeded"
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }
}

impl JobFacts {
    fn read(meta: &Value, status: &Value, controller: Option<&Owner>) -> JobFacts {
        let annotation = |key| look::text_at(meta, &["annotations", key]);
        let containers =
            || ["initContainerStatuses", "containerStatuses"].iter().flat_map(|list| look::list(status, list));
        let ended = |one: &Value| look::at(one, &["state", "terminated"]).cloned();
        let exits = containers().filter_map(|one| {
            let code = look::integer(&ended(one)?, "exitCode")?;
            Some((look::text(one, "name").to_owned(), code))
        });
        let conditions = look::list(status, "conditions").iter();
        let last = containers().filter_map(|one| seconds(look::text(&ended(one)?, "finishedAt"))).max();
        let tracked = look::texts(meta, "finalizers").contains(&JOB_TRACKING);
        // This is kept of a Job's pods alone, because there may be many others.
        if !tracked && controller.is_none_or(|owner| owner.kind != "Job") {
            return JobFacts::default();
        }
        JobFacts {
            tracked,
            index: annotation("batch.kubernetes.io/job-completion-index").parse().ok(),
            index_failures: annotation("batch.kubernetes.io/job-index-failure-count").parse().unwrap_or(0),
            exits: exits.collect(),
            conditions: conditions
                .map(|one| (look::text(one, "type").to_owned(), look::text(one, "status").to_owned()))
                .collect(),
            ended: last.or_else(|| seconds(look::text(meta, "deletionTimestamp"))),
            restarts: containers().map(|one| look::integer(one, "restartCount").unwrap_or(0)).sum(),
        }
    }
}

/// What most pods tolerate; there are many of them, so they share it.
static USUAL: LazyLock<Arc<[Toleration]>> = LazyLock::new(|| {
    let usual = |key: &str| Toleration {
        key: key.to_owned(),
        operator: "Exists".to_owned(),
        effect: "NoExecute".to_owned(),
        toleration_seconds: Some(300),
        ..Toleration::default()
    };
    Arc::new(["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"].map(usual))
});

/// The tolerations that concern the effect NoExecute.
fn tolerations(object: &Value) -> Arc<[Toleration]> {
    let list = look::list_at(object, &["spec", "tolerations"]).iter();
    let read = list.filter_map(|one| serde_json::from_value(one.clone()).ok());
    let of_effect = |one: &Toleration| one.effect.is_empty() || one.effect == "NoExecute";
    let found: Vec<Toleration> = read.filter(of_effect).collect();
    if found == **USUAL { USUAL.clone() } else { found.into() }
}

/// The name of the node that every term of the required affinity names.
fn meant_for(object: &Value) -> Option<String> {
    let required =
        ["spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
    let fields = look::list_at(object, &required).iter().flat_map(|term| look::list(term, "matchFields"));
    let mut names = fields.filter(|field| look::text(field, "key") == "metadata.name");
    let found = names.next()?;
    look::texts(found, "values").first().map(|name| (*name).to_owned())
}

/// A time of the API in seconds.
pub fn seconds(text: &str) -> Option<i64> {
    api::time::parse(text).map(|time| time.as_second())
}
