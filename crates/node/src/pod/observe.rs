//! Asking the runtime for everything it has of one pod.
//!
//! Owns the listing; what it means is for `view` and `decide`.

use super::{
    act::{limited, rpc, rpc_text},
    view::{Record, Sandbox},
};
use crate::{
    config::{self, label},
    object::Pod,
};
use cri::v1;
use futures_util::future::try_join_all;
use std::{collections::BTreeMap, path::Path, time::Duration};

const TIMEOUT: Duration = Duration::from_secs(120);

/// All sandboxes and records of a pod.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// The sandboxes.
    pub sandboxes: Vec<Sandbox>,
    /// The records.
    pub records: Vec<Record>,
}

/// Lists one pod. Things that vanish between the listing and the look at them are left out.
pub async fn pod(cri: &cri::Client, uid: &str) -> Result<Listing, String> {
    let labels: std::collections::BTreeMap<_, _> = [(label::POD_UID.to_owned(), uid.to_owned())].into();
    let filter = v1::PodSandboxFilter { label_selector: labels.clone().into_iter().collect(), ..Default::default() };
    let containers = v1::ContainerFilter { label_selector: labels.into_iter().collect(), ..Default::default() };
    let (mut runtime, mut other) = (cri.runtime.clone(), cri.runtime.clone());
    let sandboxes = rpc(runtime.list_pod_sandbox(limited(v1::ListPodSandboxRequest { filter: Some(filter) }, TIMEOUT)));
    let records = rpc(other.list_containers(limited(v1::ListContainersRequest { filter: Some(containers) }, TIMEOUT)));
    let (sandboxes, records) = tokio::try_join!(sandboxes, records).map_err(|status| rpc_text(&status))?;
    let sandboxes = sandboxes.into_inner().items.into_iter().map(|item| sandbox(cri, item.id));
    let records = records.into_inner().containers.into_iter().map(|item| record(cri, item.id, item.pod_sandbox_id));
    let (sandboxes, records) = tokio::try_join!(try_join_all(sandboxes), try_join_all(records))?;
    Ok(Listing {
        sandboxes: sandboxes.into_iter().flatten().collect(),
        records: records.into_iter().flatten().collect(),
    })
}

/// POD-20: of each container of the pod the highest attempt that has a log.
pub async fn logged(log_dir: &Path, pod: &Pod) -> BTreeMap<String, u32> {
    let mut highest = BTreeMap::new();
    let Ok(mut containers) = tokio::fs::read_dir(config::pod_log_directory(log_dir, pod)).await else { return highest };
    while let Ok(Some(container)) = containers.next_entry().await {
        let Ok(mut logs) = tokio::fs::read_dir(container.path()).await else { continue };
        while let Ok(Some(log)) = logs.next_entry().await {
            let name = log.file_name();
            let attempt = name.to_str().and_then(|name| name.split_once(".log")?.0.parse::<u32>().ok());
            if let (Some(attempt), Some(container)) = (attempt, container.file_name().to_str()) {
                let known = highest.entry(container.to_owned()).or_insert(attempt);
                *known = attempt.max(*known);
            }
        }
    }
    highest
}

async fn sandbox(cri: &cri::Client, id: String) -> Result<Option<Sandbox>, String> {
    let request = limited(v1::PodSandboxStatusRequest { pod_sandbox_id: id, verbose: false }, TIMEOUT);
    match rpc(cri.runtime.clone().pod_sandbox_status(request)).await {
        Ok(answer) => Ok(answer.into_inner().status.map(|status| Sandbox::from_cri(&status))),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
        Err(status) => Err(rpc_text(&status)),
    }
}

async fn record(cri: &cri::Client, id: String, sandbox: String) -> Result<Option<Record>, String> {
    let request = limited(v1::ContainerStatusRequest { container_id: id, verbose: false }, TIMEOUT);
    match rpc(cri.runtime.clone().container_status(request)).await {
        Ok(answer) => Ok(answer.into_inner().status.map(|status| Record::from_cri(&status, &sandbox))),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
        Err(status) => Err(rpc_text(&status)),
    }
}
