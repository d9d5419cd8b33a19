//! What belongs to no pod: sandboxes, directories, cgroups and checkpoints that were left over (HOOK-100, POD-28).
//!
//! Also the safety net under the runtime's events: a pod whose part of the listing changed is asked to look again.

use super::pods::Pods;
use crate::{
    config::{self, label},
    heartbeat::Pulse,
    pod::{
        act::{Actor, limited, rpc, rpc_text},
        clock::Clock,
    },
};
use cri::v1;
use futures_util::StreamExt as _;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::task::JoinSet;

const TIMEOUT: Duration = Duration::from_secs(120);
/// Orphans get one second, and never less than two (HOOK-81, HOOK-100).
const ORPHAN_STOP_SECONDS: i64 = 2;
/// So many that their seconds do not add up, and the runtime has room for others.
const STRAYS_AT_ONCE: usize = 16;

/// What the runtime has, by pod UID: the ids and states of all that is there.
type Fingerprints = BTreeMap<String, BTreeSet<(String, i32)>>;

/// The round of housekeeping under way, and what the last one saw.
#[derive(Default)]
pub(super) struct Orphans {
    pub(super) round: JoinSet<Seen>,
    last: Seen,
    /// What the last round was to remove.
    swept: BTreeSet<String>,
}

/// What one round saw.
#[derive(Default)]
pub(super) struct Seen {
    prints: Fingerprints,
    /// Every UID of which something is on the machine.
    traces: BTreeSet<String>,
}

impl Orphans {
    pub(super) async fn shut_down(&mut self) {
        self.round.shutdown().await;
    }
}

impl Pods {
    /// Begins a round unless one is under way.
    pub(super) fn housekeep(&mut self) {
        if self.orphans.round.is_empty() {
            let strays = self.strays();
            self.orphans.swept.clone_from(&strays);
            let actor = self.actor.clone();
            self.orphans.round.spawn(async move { round(actor, strays).await });
        }
    }

    /// Takes in what a round saw. What belongs to nobody goes at once; what would not go, with the next round.
    pub(super) fn take_round(&mut self, seen: Seen) {
        let last = &self.orphans.last.prints;
        let changed = seen.prints.iter().filter(|(uid, print)| last.get(*uid) != Some(*print)).map(|(uid, _)| uid);
        let vanished = last.keys().filter(|uid| !seen.prints.contains_key(*uid));
        changed.chain(vanished).for_each(|uid| self.relist(uid));
        self.orphans.last = seen;
        if !self.strays().is_subset(&self.orphans.swept) {
            self.housekeep();
        }
    }

    /// What was on the machine *before* now and belongs to no pod that is known *now*: a pod that has just been bound
    /// is never among them. None before the API has told which pods there are.
    fn strays(&self) -> BTreeSet<String> {
        let Some(known) = self.known() else { return BTreeSet::new() };
        self.orphans.last.traces.difference(&known).cloned().collect()
    }
}

async fn round(actor: Arc<Actor>, strays: BTreeSet<String>) -> Seen {
    sweep(&actor, &strays).await;
    let prints = listed(&actor.cri, &actor.pulse, actor.clock).await;
    let mut traces: BTreeSet<String> = prints.keys().cloned().collect();
    traces.extend(logs(&actor).await.into_keys());
    let found = tokio::task::spawn_blocking(move || {
        actor.hooks.journal.expire();
        let mut found = actor.checkpoints.uids();
        found.extend(actor.volumes.known());
        found.extend(actor.cgroups.known());
        found
    });
    traces.extend(found.await.unwrap_or_default());
    Seen { prints, traces }
}

/// The sandboxes in the runtime by pod UID.
pub(super) async fn present(cri: &cri::Client) -> Result<BTreeMap<String, Vec<String>>, String> {
    let request = limited(v1::ListPodSandboxRequest { filter: None }, TIMEOUT);
    let answer = rpc(cri.runtime.clone().list_pod_sandbox(request)).await.map_err(|status| rpc_text(&status))?;
    let mut present: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for sandbox in answer.into_inner().items {
        if let Some(uid) = sandbox.labels.get(label::POD_UID) {
            present.entry(uid.clone()).or_default().push(sandbox.id);
        }
    }
    Ok(present)
}

/// What the runtime has; nothing if it does not say so in time (POD-3).
async fn listed(cri: &cri::Client, pulse: &Pulse, clock: Clock) -> Fingerprints {
    let error = match tokio::time::timeout(TIMEOUT, fingerprints(cri)).await {
        Ok(Ok(prints)) => {
            pulse.beat(clock.now());
            return prints;
        }
        Ok(Err(error)) => error,
        Err(_) => "it does not answer".to_owned(),
    };
    tracing::warn!(error, "runtime not listed");
    Fingerprints::new()
}

async fn fingerprints(cri: &cri::Client) -> Result<Fingerprints, String> {
    let (mut runtime, mut other) = (cri.runtime.clone(), cri.runtime.clone());
    let sandboxes = rpc(runtime.list_pod_sandbox(limited(v1::ListPodSandboxRequest { filter: None }, TIMEOUT)));
    let records = rpc(other.list_containers(limited(v1::ListContainersRequest { filter: None }, TIMEOUT)));
    let (sandboxes, records) = tokio::try_join!(sandboxes, records).map_err(|status| rpc_text(&status))?;
    let mut prints = Fingerprints::new();
    for sandbox in sandboxes.into_inner().items {
        if let Some(uid) = sandbox.labels.get(label::POD_UID) {
            prints.entry(uid.clone()).or_default().insert((sandbox.id, sandbox.state));
        }
    }
    for record in records.into_inner().containers {
        if let Some(uid) = record.labels.get(label::POD_UID) {
            prints.entry(uid.clone()).or_default().insert((record.id, record.state));
        }
    }
    Ok(prints)
}

/// HOOK-100: without a spec there are no hooks; what runs is stopped and everything is removed.
pub(super) async fn remove_orphan(actor: &Actor, uid: &str, sandboxes: &[String]) {
    for sandbox in sandboxes {
        if let Err(status) = remove_sandbox(actor, sandbox).await {
            tracing::warn!(uid, sandbox, error = rpc_text(&status), "orphan not removed; it is tried again");
        }
    }
}

async fn remove_sandbox(actor: &Actor, sandbox: &str) -> Result<(), tonic::Status> {
    let mut runtime = actor.cri.runtime.clone();
    let filter = v1::ContainerFilter { pod_sandbox_id: sandbox.to_owned(), ..Default::default() };
    let request = limited(v1::ListContainersRequest { filter: Some(filter) }, TIMEOUT);
    for record in rpc(runtime.list_containers(request)).await?.into_inner().containers {
        if record.state == v1::ContainerState::ContainerRunning as i32 {
            let stop = v1::StopContainerRequest { container_id: record.id, timeout: ORPHAN_STOP_SECONDS };
            rpc(runtime.stop_container(limited(stop, TIMEOUT))).await?;
        }
    }
    let pod_sandbox_id = sandbox.to_owned();
    rpc(runtime.stop_pod_sandbox(limited(v1::StopPodSandboxRequest { pod_sandbox_id }, TIMEOUT))).await?;
    let pod_sandbox_id = sandbox.to_owned();
    rpc(runtime.remove_pod_sandbox(limited(v1::RemovePodSandboxRequest { pod_sandbox_id }, TIMEOUT))).await?;
    Ok(())
}

/// Removes everything of these pods from the machine.
pub(super) async fn sweep(actor: &Actor, strays: &BTreeSet<String>) {
    if strays.is_empty() {
        return;
    }
    let Ok(present) = present(&actor.cri).await else { return };
    let logs = logs(actor).await;
    let of = |uid: &String| (present.get(uid).cloned().unwrap_or_default(), logs.get(uid).cloned().unwrap_or_default());
    let removals = strays.iter().map(|uid| remove_stray(actor, uid, of(uid)));
    futures_util::stream::iter(removals).for_each_concurrent(STRAYS_AT_ONCE, |removal| removal).await;
}

/// Removes everything of one pod from the machine: its sandboxes, its directories.
async fn remove_stray(actor: &Actor, uid: &str, (sandboxes, logs): (Vec<String>, Vec<PathBuf>)) {
    tracing::info!(uid, "what is left of a pod that the API does not have is removed");
    remove_orphan(actor, uid, &sandboxes).await;
    if let Err(error) = actor.volumes.tear_down(uid).await {
        tracing::warn!(uid, %error, "volumes of a pod that is gone are not removed");
    }
    if let Err(error) = actor.cgroups.remove(uid).await {
        tracing::warn!(uid, %error, "cgroup of a pod that is gone is not removed");
    }
    actor.checkpoints.remove(uid);
    for path in logs {
        config::unlink_logs(&actor.ctx.log_dir, &path);
        let _ = tokio::fs::remove_dir_all(path).await;
    }
}

/// The log directories of pods by UID (POD-65).
async fn logs(actor: &Actor) -> BTreeMap<String, Vec<PathBuf>> {
    let mut logs: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    let Ok(mut entries) = tokio::fs::read_dir(&actor.ctx.log_dir).await else { return logs };
    while let Ok(Some(entry)) = entries.next_entry().await {
        let name = entry.file_name();
        if let Some((_, uid)) = name.to_str().and_then(|name| name.rsplit_once('_')) {
            logs.entry(uid.to_owned()).or_default().push(entry.path());
        }
    }
    logs
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri::fake::{Fake, Fault, Verb};
    use jiff::Timestamp;

    #[tokio::test(start_paused = true)]
    async fn pod_3_a_runtime_that_lists_nothing_for_three_minutes_is_a_problem_until_it_does() {
        let fake = Fake::new();
        let clock = Clock::virtual_from(Timestamp::UNIX_EPOCH);
        let pulse = Pulse::new(clock.now());
        // One listing that never ends and one that fails: five minutes in all.
        fake.inject(Fault::hang(Verb::ListPodSandbox));
        fake.inject(Fault::fail(Verb::ListPodSandbox, tonic::Status::unavailable("away")).times(18));
        let mut told = Vec::new();
        for round in 0..22 {
            listed(&fake.client(), &pulse, clock).await;
            let at = clock.now().as_second();
            let problem = pulse.problem(clock.now());
            if round == 0 {
                assert_eq!((at, &problem), (120, &None), "it was waited for");
            }
            told.push((at, problem));
            tokio::time::sleep(std::time::Duration::from_secs(10)).await;
        }
        let first = told.iter().find(|(_, problem)| problem.is_some()).cloned().unwrap();
        let text = "PLEG is not healthy: pleg was last seen active 3m0s ago; threshold is 3m0s";
        assert_eq!(first, (180, Some(text.to_owned())));
        let healthy: Vec<i64> = told.iter().filter(|(_, problem)| problem.is_none()).map(|(at, _)| *at).collect();
        assert_eq!(healthy, [120, 130, 140, 150, 160, 170, 310, 320, 330]);
    }
}
