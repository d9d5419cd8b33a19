//! PodSandboxStatus and ListPodSandbox, from memory.

use std::collections::BTreeMap;

use cri::v1::{
    LinuxPodSandboxStatus, ListPodSandboxRequest, Namespace, PodIp, PodSandbox, PodSandboxNetworkStatus,
    PodSandboxState, PodSandboxStatus, PodSandboxStatusResponse,
};

use crate::clock;
use crate::core::Core;
use crate::error::Error;
use crate::state::{Phase, Sandbox};

fn state(phase: Phase) -> i32 {
    match phase {
        Phase::Ready => PodSandboxState::SandboxReady as i32,
        Phase::Making | Phase::NotReady => PodSandboxState::SandboxNotready as i32,
    }
}

/// The status of a sandbox.
pub(crate) fn of(sandbox: &Sandbox) -> PodSandboxStatus {
    let (record, live) = (&sandbox.record, sandbox.live());
    let config = &record.config;
    let mut ips = live.ips.iter().map(ToString::to_string);
    PodSandboxStatus {
        id: record.id.clone(),
        metadata: config.metadata.clone(),
        state: state(live.phase),
        created_at: record.created_at,
        network: Some(PodSandboxNetworkStatus {
            ip: ips.next().unwrap_or_default(),
            additional_ips: ips.map(|ip| PodIp { ip }).collect(),
        }),
        linux: Some(LinuxPodSandboxStatus { namespaces: Some(Namespace { options: Some(super::namespaces(config)) }) }),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: record.handler.clone(),
    }
}

pub(crate) fn status(core: &Core, id: &str, is_verbose: bool) -> Result<PodSandboxStatusResponse, Error> {
    let sandbox = core.state.sandbox(id)?;
    let mut info = BTreeMap::new();
    if is_verbose {
        let live = sandbox.live();
        let text = serde_json::json!({
            "pid": live.pid, "cgroup": sandbox.record.cgroup, "runtimeBinary": sandbox.record.binary,
            "runtimeRoot": sandbox.record.root, "runDirectory": core.layout.sandbox_run(sandbox.id()),
        });
        info.insert("info".into(), text.to_string());
    }
    Ok(PodSandboxStatusResponse {
        status: Some(of(&sandbox)),
        info,
        containers_statuses: core.statuses_in(sandbox.id()),
        timestamp: clock::now_nanoseconds(),
    })
}

pub(crate) fn list(core: &Core, request: ListPodSandboxRequest) -> Vec<PodSandbox> {
    let filter = request.filter.unwrap_or_default();
    let listed = core.state.sandboxes().into_iter().map(|sandbox| listed(&sandbox));
    listed
        .filter(|sandbox| {
            sandbox.id.starts_with(&filter.id)
                && filter.state.is_none_or(|state| state.state == sandbox.state)
                && has_labels(&sandbox.labels, &filter.label_selector)
        })
        .collect()
}

fn listed(sandbox: &Sandbox) -> PodSandbox {
    let config = &sandbox.record.config;
    PodSandbox {
        id: sandbox.record.id.clone(),
        metadata: config.metadata.clone(),
        state: state(sandbox.live().phase),
        created_at: sandbox.record.created_at,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: sandbox.record.handler.clone(),
    }
}

/// Every wanted label is there with its value.
pub(crate) fn has_labels(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}
