//! What each volume of a pod has to become on the host.
//!
//! Pure. Start at [`plan`].

use super::{Failure, payload, payload::Payload, payload::Projection, sources::Answers, tokens::Wanted};
use crate::config::{Context, Fields, quantity};
use crate::object::{EmptyDir, Pod, Volume};
use cri::v1;
use std::{collections::BTreeSet, path::PathBuf};

/// One volume to bring about.
#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    /// A directory of the pod's own.
    EmptyDir { memory: Option<MemoryBacked> },
    /// A path of the host, checked or created by type.
    HostPath { path: PathBuf, type_: String },
    /// Files from the API; `kind` names the directory, `kubernetes.io~<kind>`.
    Files { kind: &'static str, payload: Payload, is_in_memory: bool },
    /// An image that the runtime mounts.
    Image(v1::ImageSpec),
}

/// An emptyDir in memory.
#[derive(Debug, PartialEq)]
pub(super) struct MemoryBacked {
    /// Size in bytes; None leaves the kernel's default (half of the memory).
    pub size_bytes: Option<u64>,
}

/// What a pod's mounted volumes need from the API.
#[derive(Debug, Default)]
pub(super) struct References {
    /// Names of ConfigMaps.
    pub config_maps: BTreeSet<String>,
    /// Names of Secrets.
    pub secrets: BTreeSet<String>,
    /// Tokens of the pod's account.
    pub tokens: BTreeSet<Wanted>,
}

/// What the pod's mounted volumes need from the API.
pub(super) fn references(pod: &Pod) -> References {
    let mut found = References::default();
    for volume in mounted(pod) {
        found.config_maps.extend(volume.config_map.iter().map(|v| v.name.clone()));
        found.secrets.extend(volume.secret.iter().map(|v| v.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|p| &p.sources) {
            found.config_maps.extend(source.config_map.iter().map(|v| v.name.clone()));
            found.secrets.extend(source.secret.iter().map(|v| v.name.clone()));
            found.tokens.extend(source.service_account_token.iter().map(Wanted::of));
        }
    }
    found
}

/// The volumes that some container mounts.
fn mounted(pod: &Pod) -> impl Iterator<Item = &Volume> {
    let names: BTreeSet<&str> =
        pod.containers().flat_map(|(_, c)| c.volume_mounts.iter().map(|m| m.name.as_str())).collect();
    pod.spec.volumes.iter().filter(move |v| names.contains(v.name.as_str()))
}

/// A plan per mounted volume, and the volumes for which there can be none.
pub(super) fn plan(pod: &Pod, ctx: &Context, answers: &Answers) -> (Vec<(String, Plan)>, Vec<Failure>) {
    let (mut plans, mut failures) = (Vec::new(), Vec::new());
    for volume in mounted(pod) {
        match plan_one(pod, ctx, volume, answers) {
            Ok(plan) => plans.push((volume.name.clone(), plan)),
            Err(cause) => failures.push(Failure { volume: volume.name.clone(), cause }),
        }
    }
    (plans, failures)
}

fn plan_one(pod: &Pod, ctx: &Context, volume: &Volume, answers: &Answers) -> Result<Plan, String> {
    let fields = Fields { pod, pod_ips: &[], ctx };
    match volume {
        Volume { empty_dir: Some(source), .. } => Ok(Plan::EmptyDir { memory: memory(pod, source) }),
        Volume { host_path: Some(source), .. } => {
            Ok(Plan::HostPath { path: PathBuf::from(&source.path), type_: source.type_.clone() })
        }
        Volume { config_map: Some(v), .. } => {
            let want =
                Projection { name: &v.name, items: &v.items, default_mode: v.default_mode, is_optional: v.optional };
            let payload = payload::config_map(&answers.config_maps, &want)?;
            Ok(Plan::Files { kind: "configmap", payload, is_in_memory: false })
        }
        Volume { secret: Some(v), .. } => {
            let want = Projection {
                name: &v.secret_name,
                items: &v.items,
                default_mode: v.default_mode,
                is_optional: v.optional,
            };
            let payload = payload::secret(&answers.secrets, &want)?;
            Ok(Plan::Files { kind: "secret", payload, is_in_memory: true })
        }
        Volume { downward_api: Some(source), .. } => {
            let payload = payload::downward(fields, source)?;
            Ok(Plan::Files { kind: "downward-api", payload, is_in_memory: true })
        }
        Volume { projected: Some(source), .. } => {
            let payload = payload::projected(fields, source, answers)?;
            Ok(Plan::Files { kind: "projected", payload, is_in_memory: true })
        }
        Volume { image: Some(source), .. } => {
            Ok(Plan::Image(v1::ImageSpec { image: source.reference.clone(), ..Default::default() }))
        }
        Volume { other, .. } => match other.keys().next() {
            Some(kind) => Err(format!("volumes of type {kind} are not supported by this node")),
            // The API's default for a volume without a source.
            None => Ok(Plan::EmptyDir { memory: None }),
        },
    }
}

/// An emptyDir in memory is as large as it says, but not larger than the pod's memory limit.
fn memory(pod: &Pod, source: &EmptyDir) -> Option<MemoryBacked> {
    if source.medium != "Memory" {
        return None;
    }
    let own = source.size_limit.as_deref().and_then(quantity::whole).filter(|size| *size > 0);
    let limit = crate::cgroups::demand(pod).memory_limit_bytes.filter(|limit| *limit > 0);
    let size = own.into_iter().chain(limit).min();
    Some(MemoryBacked { size_bytes: size.and_then(|s| u64::try_from(s).ok()) })
}
