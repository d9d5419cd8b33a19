//! Keeps the logs of running containers from filling the disk (POD-66).
//!
//! Every ten seconds, or as the policy says: a log that has become too large gets another name, and the runtime begins a new one. Nothing is
//! asked of the runtime unless a file is too large. Owns the log's neighbours, `N.log.*`; the log itself is written by
//! the runtime. `plan` is pure. Start at [`run`].

mod files;
mod plan;

use crate::{
    config::label,
    pod::act::{Actor, limited, rpc, rpc_text},
};
use cri::v1;
use files::Log;
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

const TIMEOUT: Duration = Duration::from_secs(120);

/// When a log is rotated, and how much of it stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Bytes above which a log is rotated.
    pub bytes_max: u64,
    /// Files of one log, the current one among them; at least 2.
    pub files_max: usize,
    /// Between two rounds (`containerLogMonitorInterval`); not zero.
    pub period: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self { bytes_max: 10 << 20, files_max: 5, period: Duration::from_secs(10) }
    }
}

/// Rotates logs until cancelled.
pub async fn run(policy: Policy, actor: Arc<Actor>, cancel: CancellationToken) {
    while cancel.run_until_cancelled(tokio::time::sleep(policy.period)).await.is_some() {
        // A round is not cut off: between the renaming and the new log there is nothing to write to.
        round(policy, &actor).await;
    }
}

/// Rotates what is too large now.
pub async fn round(policy: Policy, actor: &Actor) {
    let log_dir = actor.ctx.log_dir.clone();
    let large = tokio::task::spawn_blocking(move || files::too_large(&log_dir, policy.bytes_max)).await;
    let large = large.unwrap_or_default();
    if large.is_empty() {
        return;
    }
    let running = match running(&actor.cri).await {
        Ok(running) => running,
        Err(error) => return tracing::warn!(error, "logs are not rotated: the runtime does not list its containers"),
    };
    for log in large {
        let key = (log.pod_uid.clone(), log.container.clone(), log.attempt);
        // The log of an ended container, or another node's, is left alone.
        if let Some(id) = running.get(&key)
            && let Err(error) = rotate(policy, actor, log.clone(), id).await
        {
            tracing::warn!(log = %log.path.display(), error, "log not rotated");
        }
    }
}

/// Removes a log and the older ones beside it.
pub async fn remove(log: PathBuf) {
    let removed = tokio::task::spawn_blocking(move || files::remove(&log)).await;
    if let Ok(Err(error)) = removed {
        tracing::debug!(%error, "log not removed");
    }
}

/// The running containers by pod UID, name and attempt.
async fn running(cri: &cri::Client) -> Result<BTreeMap<(String, String, u32), String>, String> {
    let state = v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() };
    let filter = v1::ContainerFilter { state: Some(state), ..v1::ContainerFilter::default() };
    let request = limited(v1::ListContainersRequest { filter: Some(filter) }, TIMEOUT);
    let answer = rpc(cri.runtime.clone().list_containers(request)).await.map_err(|status| rpc_text(&status))?;
    let key = |container: &v1::Container| {
        let attempt = container.metadata.as_ref()?.attempt;
        let label = |name: &str| container.labels.get(name).cloned();
        Some(((label(label::POD_UID)?, label(label::CONTAINER_NAME)?, attempt), container.id.clone()))
    };
    Ok(answer.into_inner().containers.iter().filter_map(key).collect())
}

async fn rotate(policy: Policy, actor: &Actor, log: Log, id: &str) -> Result<(), String> {
    let stamp = actor.clock.now().strftime("%Y%m%d-%H%M%S").to_string();
    let path = log.path.clone();
    let renamed = tokio::task::spawn_blocking(move || {
        let name = log.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let plan = plan::plan(&name, &files::siblings(&log.path), &stamp, policy.files_max);
        files::carry_out(&log.path, &plan)
    });
    let renamed = renamed.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    let Some(renamed) = renamed else { return Ok(()) };
    let request = limited(v1::ReopenContainerLogRequest { container_id: id.to_owned() }, TIMEOUT);
    match rpc(actor.cri.runtime.clone().reopen_container_log(request)).await {
        Ok(_) => Ok(()),
        Err(status) => Err(undo(path, renamed, &rpc_text(&status)).await),
    }
}

/// The runtime still writes to the old file: it gets its name back, unless there is a new one all the same.
async fn undo(path: PathBuf, renamed: PathBuf, why: &str) -> String {
    let undone = tokio::task::spawn_blocking(move || match path.exists() {
        true => Ok(()),
        false => std::fs::rename(renamed, path),
    });
    match undone.await {
        Ok(Err(error)) => format!("{why}; and it does not get its name back: {error}"),
        _ => why.to_owned(),
    }
}
