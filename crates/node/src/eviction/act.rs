//! Carrying out one step: freeing what nobody needs, handing a verdict to a pod's task.
//!
//! What belongs to pods goes through [`Ask`]: the agent owns the map of pods, each pod's task owns the pod.

use super::{decide::Eviction, decide::Free};
use crate::{
    collection::Collector,
    config::label,
    event::Target,
    object::Pod,
    pod::{
        act::{Actor, limited, rpc, rpc_text},
        checkpoint::Verdict,
    },
};
use cri::v1;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot};

/// The reason in an evicted pod's status, and of the event.
pub const REASON: &str = "Evicted";

const CRI_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the tasks of ended pods may take to remove their records.
const FREE_WITHIN: Duration = Duration::from_secs(10);
/// How long an evicted pod may take to leave, beyond its grace.
const LEAVE_WITHIN: Duration = Duration::from_secs(40);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What the agent is asked.
#[derive(Debug)]
pub enum Ask {
    /// The pods that may be evicted; `None` before the API has told which there are.
    Pods(oneshot::Sender<Option<Vec<Arc<Pod>>>>),
    /// The pods that have ended are to remove the records of their containers; answered with their UIDs.
    Spare(oneshot::Sender<BTreeSet<String>>),
    /// This pod is to end with this verdict; answered with whether it is still there.
    End(String, Verdict, oneshot::Sender<bool>),
}

/// Asks the agent; `None` when it is gone.
pub(super) async fn ask<T>(agent: &mpsc::Sender<Ask>, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
    let (answer, wait) = oneshot::channel();
    agent.send(ask(answer)).await.ok()?;
    wait.await.ok()
}

/// IMG-265: containers that have ended first, then all images that nobody uses.
pub(super) async fn free(actor: &Actor, agent: &mpsc::Sender<Ask>, collector: &Collector, free: Free) {
    if free.containers
        && let Some(ended) = ask(agent, Ask::Spare).await.filter(|ended| !ended.is_empty())
    {
        let gone = async {
            while has_records(actor, &ended).await {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        if tokio::time::timeout(FREE_WITHIN, gone).await.is_err() {
            tracing::warn!("containers of ended pods are still there");
        }
    }
    if free.images {
        match collector.collect_all().await {
            Ok(done) => {
                tracing::info!(images = done.removed.len(), bytes = done.freed_bytes, "unused images are removed")
            }
            Err(error) => tracing::warn!(%error, "unused images are not removed"),
        }
    }
}

async fn has_records(actor: &Actor, uids: &BTreeSet<String>) -> bool {
    let request = limited(v1::ListContainersRequest { filter: None }, CRI_TIMEOUT);
    match rpc(actor.cri.runtime.clone().list_containers(request)).await {
        Ok(answer) => {
            let mut owners =
                answer.into_inner().containers.into_iter().filter_map(|mut c| c.labels.remove(label::POD_UID));
            owners.any(|uid| uids.contains(&uid))
        }
        Err(status) => {
            tracing::warn!(error = rpc_text(&status), "containers not listed");
            false
        }
    }
}

/// Ends the pod and waits until what it used is free again. False if it had gone by itself.
pub(super) async fn evict(actor: &Actor, agent: &mpsc::Sender<Ask>, pod: &Pod, eviction: Eviction) -> bool {
    let Eviction { uid, grace_seconds, message, notes } = eviction;
    let verdict = Verdict {
        reason: REASON.to_owned(),
        message: message.clone(),
        at: actor.clock.now(),
        grace_seconds,
        is_disruption: true,
    };
    if ask(agent, |answer| Ask::End(uid.clone(), verdict, answer)).await != Some(true) {
        return false;
    }
    tracing::warn!(pod = pod.full_name(), message, "a pod is evicted");
    actor.recorder.warning_with(Target::pod(pod), REASON, message, notes);
    let gone = async {
        while actor.cgroups.known().contains(&uid) || actor.volumes.known().contains(&uid) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        while has_records(actor, &[uid.clone()].into()).await {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let grace = Duration::from_secs(u64::try_from(grace_seconds).unwrap_or(0));
    if tokio::time::timeout(grace.saturating_mul(3) / 2 + LEAVE_WITHIN, gone).await.is_err() {
        tracing::warn!(pod = pod.full_name(), "an evicted pod is still there");
    }
    true
}
