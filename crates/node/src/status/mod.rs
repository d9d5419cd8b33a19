//! The status of a pod as the API shows it: made from facts, published when it changed.
//!
//! Owns phase (POD-42 … POD-45), conditions (POD-46), container statuses (POD-31 … POD-39) and the patch that carries
//! them. Must not decide what happens to the pod. Start at [`generate`].

mod conditions;
mod container;
pub mod patch;
mod phase;
#[cfg(test)]
mod tests;
pub mod transition;

use crate::{
    object::{ContainerKind, HostIp, PodStatus, Time},
    pod::{
        decide::{Stage, Waiting},
        view::{Cause, View},
    },
};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// The pod's status now. `waiting` has the words for containers that do not run.
pub fn generate(view: &View, stage: Stage, waiting: &BTreeMap<String, Waiting>, now: Timestamp) -> PodStatus {
    let known = &view.pod.status;
    let list = |wanted: &[ContainerKind]| -> Vec<_> {
        let listed = view.containers().filter(|(kind, _)| wanted.contains(kind));
        listed.map(|(kind, c)| container::status(view, stage, kind, c, waiting.get(&c.name))).collect()
    };
    let mut containers = list(&[ContainerKind::App]);
    containers.sort_by(|a, b| a.name.cmp(&b.name));
    let ips = addresses(view);
    let mut status = PodStatus {
        observed_generation: view.pod.metadata.generation,
        nominated_node_name: known.nominated_node_name.clone(),
        host_ip: view.host_ips.first().cloned().unwrap_or_default(),
        host_ips: view.host_ips.iter().map(|ip| HostIp { ip: ip.clone() }).collect(),
        pod_ip: ips.first().cloned().unwrap_or_default(),
        pod_ips: ips.into_iter().map(|ip| HostIp { ip }).collect(),
        start_time: known.start_time.clone().or(Some(Time::from(now))),
        init_container_statuses: list(&[ContainerKind::Init, ContainerKind::Sidecar]),
        container_statuses: containers,
        ephemeral_container_statuses: list(&[ContainerKind::Ephemeral]),
        qos_class: known.qos_class.clone(),
        message: known.message.clone(),
        reason: known.reason.clone(),
        ..PodStatus::default()
    };
    status.phase = phase::phase(view, stage, &status).to_owned();
    // POD-45, TR-15: the verdict is told when nothing runs any more.
    if let Some(verdict) = view.observed.checkpoint.verdict.as_ref().filter(|_| status.phase == "Failed") {
        status.reason.clone_from(&verdict.reason);
        status.message.clone_from(&verdict.message);
    }
    status.conditions = conditions::conditions(view, &status, now);
    status
}

/// The newest sandbox's addresses; the node's own for a pod on the host network; what the API knew for an ended one.
fn addresses(view: &View) -> Vec<String> {
    let sandbox = view.observed.newest_sandbox();
    let known = || view.pod.status.pod_ips.iter().map(|ip| ip.ip.clone()).collect();
    match sandbox {
        Some(_) if view.pod.spec.host_network => view.host_ips.clone(),
        Some(sandbox) if !sandbox.ips.is_empty() => sandbox.ips.clone(),
        _ => known(),
    }
}

/// True when the pod ends by somebody's wish or verdict and nothing of it can run any more.
fn is_settled(view: &View, stage: Stage) -> bool {
    let asked = crate::pod::decide::termination(view).is_some_and(|stop| stop.cause != Cause::Drained);
    asked && matches!(stage, Stage::Cleaning | Stage::Finished | Stage::Gone)
}
