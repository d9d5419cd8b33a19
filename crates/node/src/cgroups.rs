//! The cgroup tree of the pods: `<top>/kubepods/{,burstable/,besteffort/}pod<uid>`.
//!
//! Owns the cgroups down to the pod's; containers' below it belong to the runtime. Works on cgroup v2, v1 and both side
//! by side, with whichever controllers are there. `demand` (pure) computes what a pod asks for, `tree` is the leaf that
//! touches `/sys/fs/cgroup`. Must not decide when a pod ends. Start at [`Cgroups::ensure`].

mod demand;
mod tree;

pub use demand::{Demand, Qos, demand, path, qos, storage_request};
pub use tree::Usage;

use crate::config::resources::{CPU_PERIOD_US, CPU_SHARES_MIN, quota, shares};
use crate::object::Pod;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex},
    time::Duration,
};
use tree::Tree;

/// How often and how far apart emptied cgroups are tried to be removed: a killed process leaves its cgroup only when
/// the kernel has taken it apart.
const REMOVE_TRIES: u32 = 250;
const REMOVE_PAUSE: Duration = Duration::from_millis(20);

/// Why a cgroup could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No hierarchy took the directory.
    #[error("cannot create cgroup {path}")]
    Create {
        /// The cgroup's path in its hierarchy.
        path: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// Processes in it do not die, or it is busy for another reason.
    #[error("cannot remove cgroup {path}")]
    Remove {
        /// The cgroup's path in its hierarchy.
        path: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The blocking task was cancelled.
    #[error("interrupted")]
    Interrupted,
}

/// What a cgroup is set to; None leaves the kernel's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Settings {
    cpu_shares: Option<i64>,
    /// Microseconds per [`CPU_PERIOD_US`].
    cpu_quota_us: Option<i64>,
    memory_bytes: Option<i64>,
}

/// The pods' cgroups of one instance.
#[derive(Debug, Clone)]
pub struct Cgroups {
    top: String,
    tree: Arc<Tree>,
    /// CPU requests of the Burstable pods by UID, thousandths: their sum weighs the `burstable` cgroup (RTC-67).
    burstable: Arc<Mutex<BTreeMap<String, i64>>>,
}

impl Cgroups {
    /// The tree below `top` (for example `/sampan`), with `cpu_milli` thousandths of CPUs for all pods together.
    /// Creates the cgroups of the QoS classes.
    ///
    /// # Errors
    /// [`Error::Create`] when no hierarchy can be written.
    pub fn new(top: &str, cpu_milli: i64) -> Result<Cgroups, Error> {
        let cgroups = Cgroups { top: top.to_owned(), tree: Arc::new(Tree::discover()), burstable: Arc::default() };
        for (path, cpu_shares) in [
            (format!("{top}/kubepods"), shares(cpu_milli)),
            (format!("{top}/kubepods/burstable"), CPU_SHARES_MIN),
            (format!("{top}/kubepods/besteffort"), CPU_SHARES_MIN),
        ] {
            cgroups.make(&path, Settings { cpu_shares: Some(cpu_shares), ..Default::default() })?;
        }
        Ok(cgroups)
    }

    /// True when memory is controlled by cgroup v2 (see `config::Context::cgroup_v2`).
    pub fn is_v2(&self) -> bool {
        self.tree.is_v2()
    }

    /// Makes the pod's cgroup and sets its weight and limits (RTC-63..66). Idempotent. Returns its path for
    /// `cgroup_parent`.
    ///
    /// # Errors
    /// [`Error::Create`] when no hierarchy can be written.
    pub fn ensure(&self, pod: &Pod) -> Result<String, Error> {
        let path = path(&self.top, pod);
        self.make(&path, settings(pod))?;
        if qos(pod) == Qos::Burstable {
            let request = demand(pod).with_overhead(pod).cpu_request_milli;
            self.weigh(|requests| requests.insert(pod.uid().to_owned(), request));
        }
        Ok(path)
    }

    /// Kills what is left in the pod's cgroup and removes it, in whichever class it is. Succeeds when there is none.
    ///
    /// # Errors
    /// [`Error::Remove`] when it stays busy; worth trying again.
    pub async fn remove(&self, uid: &str) -> Result<(), Error> {
        for class in ["", "/burstable", "/besteffort"] {
            self.remove_path(format!("{}/kubepods{class}/pod{uid}", self.top)).await?;
        }
        self.weigh(|requests| requests.remove(uid));
        Ok(())
    }

    /// Removes the cgroups of all pods that are not in `live`; returns their UIDs.
    ///
    /// # Errors
    /// [`Error::Remove`] of the first that stays busy.
    pub async fn sweep(&self, live: &BTreeSet<String>) -> Result<Vec<String>, Error> {
        let mut removed = Vec::new();
        for uid in self.known().into_iter().filter(|uid| !live.contains(uid)) {
            self.remove(&uid).await?;
            removed.push(uid);
        }
        Ok(removed)
    }

    /// The UIDs of all pods that have a cgroup.
    pub fn known(&self) -> BTreeSet<String> {
        let classes = ["", "/burstable", "/besteffort"];
        let names = classes.iter().flat_map(|class| self.tree.children(&format!("{}/kubepods{class}", self.top)));
        names.filter_map(|name| name.strip_prefix("pod").map(str::to_owned)).collect()
    }

    /// What the pod's cgroup uses, as far as the kernel tells.
    pub fn usage(&self, pod: &Pod) -> Usage {
        self.tree.usage(&path(&self.top, pod))
    }

    /// What the whole machine uses.
    pub fn machine_usage(&self) -> Usage {
        self.tree.usage("")
    }

    /// Removes the whole tree of pods, for `down`.
    ///
    /// # Errors
    /// [`Error::Remove`] when something in it stays busy.
    pub async fn remove_all(&self) -> Result<(), Error> {
        self.remove_path(format!("{}/kubepods", self.top)).await
    }

    fn make(&self, path: &str, settings: Settings) -> Result<(), Error> {
        self.tree.create(path).map_err(|source| Error::Create { path: path.to_owned(), source })?;
        for (what, source) in self.tree.set(path, settings) {
            tracing::warn!(cgroup = path, setting = what, error = %source, "cgroup setting refused");
        }
        Ok(())
    }

    /// Changes the requests of the Burstable pods and sets their common weight anew.
    fn weigh<T>(&self, change: impl FnOnce(&mut BTreeMap<String, i64>) -> T) {
        let sum = {
            let mut requests = self.burstable.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            change(&mut requests);
            requests.values().sum()
        };
        let settings = Settings { cpu_shares: Some(shares(sum)), ..Default::default() };
        self.tree.set(&format!("{}/kubepods/burstable", self.top), settings);
    }

    async fn remove_path(&self, path: String) -> Result<(), Error> {
        let mut tries = 0;
        loop {
            let (tree, at) = (Arc::clone(&self.tree), path.clone());
            let removal = tokio::task::spawn_blocking(move || tree.kill_and_remove(&at)).await;
            match removal.map_err(|_| Error::Interrupted)? {
                Ok(()) => return Ok(()),
                Err(source) if tries == REMOVE_TRIES => return Err(Error::Remove { path, source }),
                Err(_) => tokio::time::sleep(REMOVE_PAUSE).await,
            }
            tries += 1;
        }
    }
}

/// The settings of a pod's cgroup.
fn settings(pod: &Pod) -> Settings {
    let demand = demand(pod).with_overhead(pod);
    match qos(pod) {
        Qos::BestEffort => Settings { cpu_shares: Some(CPU_SHARES_MIN), ..Default::default() },
        Qos::Burstable | Qos::Guaranteed => Settings {
            cpu_shares: Some(shares(demand.cpu_request_milli)),
            cpu_quota_us: demand.cpu_limit_milli.map(quota),
            memory_bytes: demand.memory_limit_bytes,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    fn with(resources: serde_json::Value, overhead: serde_json::Value) -> Pod {
        pod(serde_json::json!({ "metadata": { "uid": "u" }, "spec": {
            "containers": [{ "name": "c", "resources": resources }], "overhead": overhead } }))
    }

    #[test]
    fn overhead_is_added_to_the_request_and_to_limits_that_exist() {
        use serde_json::json;
        let guaranteed = json!({ "requests": { "cpu": "100m", "memory": "100Mi" },
            "limits": { "cpu": "100m", "memory": "100Mi" } });
        let overhead = json!({ "cpu": "200m", "memory": "140Mi" });
        let request = json!({ "requests": { "cpu": "100m" } });
        for (pod, class, expect) in [
            (with(guaranteed, overhead.clone()), Qos::Guaranteed, (Some(307), Some(30_000), Some(251_658_240))),
            (with(request, overhead.clone()), Qos::Burstable, (Some(307), None, None)),
            (with(json!({}), overhead), Qos::BestEffort, (Some(2), None, None)),
        ] {
            let got = settings(&pod);
            assert_eq!(qos(&pod), class);
            assert_eq!((got.cpu_shares, got.cpu_quota_us, got.memory_bytes), expect, "{class:?}");
        }
    }

    #[test]
    fn a_limit_holds_for_the_pod_only_when_every_container_has_one() {
        let both = |second: serde_json::Value| {
            pod(serde_json::json!({ "spec": { "containers": [
                { "name": "a", "resources": { "limits": { "memory": "1Mi" }, "requests": { "memory": "1Mi" } } },
                { "name": "b", "resources": second } ] } }))
        };
        let limited = both(serde_json::json!({ "limits": { "memory": "2Mi" } }));
        assert_eq!(settings(&limited).memory_bytes, Some(3 << 20));
        assert_eq!(settings(&both(serde_json::json!({}))).memory_bytes, None);
    }
}
