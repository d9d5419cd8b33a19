//! Finding pods, sandboxes and containers by the names in a path.
//!
//! The runtime's records are the truth about what runs; the API's status says what a pod is waiting for, and which
//! record was the last one.

use super::{Answer, Node, text};
use crate::config::label;
use crate::object::{ContainerStatus, Pod};
use crate::pod::act::rpc;
use cri::v1;
use http::StatusCode;
use kube::{Api, api::ListParams};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

const API_TIMEOUT: Duration = Duration::from_secs(10);
const CRI_TIMEOUT: Duration = Duration::from_secs(60);

/// A CRI request with a time limit.
pub(super) fn limited<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(CRI_TIMEOUT);
    request
}

/// The runtime's error in the words that users know.
pub(super) fn rpc_text(status: &tonic::Status) -> String {
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}

fn refuse<T>(status: StatusCode, message: String) -> Result<T, Box<Answer>> {
    Err(Box::new(text(status, message)))
}

/// All pods of this node as a PodList.
pub(super) async fn pods(node: &Node) -> Result<Value, Box<Answer>> {
    let api: Api<Pod> = Api::all(node.client.clone());
    let filter = ListParams::default().fields(&format!("spec.nodeName={}", node.name));
    match tokio::time::timeout(API_TIMEOUT, api.list(&filter)).await {
        Ok(Ok(list)) => Ok(json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": list.items })),
        Ok(Err(error)) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        Err(_) => refuse(StatusCode::GATEWAY_TIMEOUT, "the API server did not answer".to_owned()),
    }
}

/// One pod of this node.
pub(super) async fn pod(node: &Node, namespace: &str, name: &str) -> Result<Pod, Box<Answer>> {
    let api: Api<Pod> = Api::namespaced(node.client.clone(), namespace);
    match tokio::time::timeout(API_TIMEOUT, api.get_opt(name)).await {
        Ok(Ok(Some(mut pod))) if pod.spec.node_name == node.name => {
            // What runs has the static pod's UID, not that of its mirror.
            if let Some(uid) = pod.annotation(crate::static_pods::view::MIRROR) {
                pod.metadata.uid = Some(uid.to_owned());
            }
            Ok(pod)
        }
        Ok(Ok(_)) => refuse(StatusCode::NOT_FOUND, format!("pod {:?} not found", format!("{name}_{namespace}"))),
        Ok(Err(error)) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        Err(_) => refuse(StatusCode::GATEWAY_TIMEOUT, "the API server did not answer".to_owned()),
    }
}

/// The records of a container, newest first. With the UID where it is known: names come again.
pub(super) async fn records(
    node: &Node,
    namespace: &str,
    pod: &str,
    (uid, container): (Option<&str>, &str),
) -> Result<Vec<v1::Container>, Box<Answer>> {
    let mut labels: BTreeMap<String, String> =
        [(label::POD_NAMESPACE, namespace), (label::POD_NAME, pod), (label::CONTAINER_NAME, container)]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
    labels.extend(uid.map(|uid| (label::POD_UID.to_owned(), uid.to_owned())));
    let filter = v1::ContainerFilter { label_selector: labels, ..Default::default() };
    let request = limited(v1::ListContainersRequest { filter: Some(filter) });
    match rpc(node.cri.runtime.clone().list_containers(request)).await {
        Ok(answer) => {
            let mut records = answer.into_inner().containers;
            records.sort_by_key(|c| std::cmp::Reverse((c.created_at, c.metadata.as_ref().map_or(0, |m| m.attempt))));
            Ok(records)
        }
        Err(status) => refuse(StatusCode::INTERNAL_SERVER_ERROR, rpc_text(&status)),
    }
}

fn is_running(record: &v1::Container) -> bool {
    record.state == v1::ContainerState::ContainerRunning as i32
}

/// The id of the running container of that name.
pub(super) async fn running(node: &Node, namespace: &str, name: &str, container: &str) -> Result<String, Box<Answer>> {
    let records = records(node, namespace, name, (None, container)).await?;
    if let Some(record) = records.into_iter().find(is_running) {
        return Ok(record.id);
    }
    let pod = pod(node, namespace, name).await?;
    match pod.container(container) {
        Some(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("container not found ({container:?})")),
        None => refuse(StatusCode::NOT_FOUND, format!("container {container:?} not found in pod {name:?}")),
    }
}

/// The id of the pod's newest ready sandbox (POD-71).
pub(super) async fn sandbox(node: &Node, namespace: &str, name: &str) -> Result<String, Box<Answer>> {
    let labels = [(label::POD_NAMESPACE, namespace), (label::POD_NAME, name)];
    let filter = v1::PodSandboxFilter {
        state: Some(v1::PodSandboxStateValue { state: v1::PodSandboxState::SandboxReady as i32 }),
        label_selector: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        ..Default::default()
    };
    let request = limited(v1::ListPodSandboxRequest { filter: Some(filter) });
    match rpc(node.cri.runtime.clone().list_pod_sandbox(request)).await {
        Ok(answer) => match answer.into_inner().items.into_iter().max_by_key(|s| s.created_at) {
            Some(sandbox) => Ok(sandbox.id),
            None => refuse(StatusCode::NOT_FOUND, format!("pod not found ({:?})", format!("{name}_{namespace}"))),
        },
        Err(status) => refuse(StatusCode::INTERNAL_SERVER_ERROR, rpc_text(&status)),
    }
}

/// The container whose log is meant, or the reason why there is none, in Kubernetes' words (POD-67).
pub(super) fn log_owner(
    pod: &Pod,
    container: &str,
    is_previous: bool,
    records: &[v1::Container],
) -> Result<String, String> {
    let name = pod.name();
    let all =
        [&pod.status.container_statuses, &pod.status.init_container_statuses, &pod.status.ephemeral_container_statuses];
    let status = all.into_iter().flatten().find(|s| s.name == container);
    let running = records.iter().find(|r| is_running(r)).map(|r| r.id.clone());
    let last = status.and_then(|s| s.last_state.terminated.as_ref()).map(|t| bare(&t.container_id));
    let last = last.filter(|id| !id.is_empty());
    if is_previous {
        let missing = || format!("previous terminated container {container:?} in pod {name:?} not found");
        // A status that is behind still calls the record before the running one the current one.
        let before = records.iter().find(|r| Some(&r.id) != running.as_ref()).map(|r| r.id.clone());
        let stale = running.as_ref().and(before);
        return last.filter(|id| Some(id) != running.as_ref()).or(stale).ok_or_else(missing);
    }
    if let Some(id) = running {
        return Ok(id);
    }
    let ended = status.and_then(|s| s.state.terminated.as_ref()).map(|t| bare(&t.container_id));
    let exited = records.iter().find(|r| r.state == v1::ContainerState::ContainerExited as i32).map(|r| r.id.clone());
    ended.filter(|id| !id.is_empty()).or(last).or(exited).ok_or_else(|| waiting_text(status, container, name))
}

fn waiting_text(status: Option<&ContainerStatus>, container: &str, pod: &str) -> String {
    let Some(status) = status else { return format!("container {container:?} in pod {pod:?} is not available") };
    let reason = match status.state.waiting.as_ref().map_or("", |w| w.reason.as_str()) {
        "" => "ContainerCreating",
        "ErrImagePull" => "image can't be pulled",
        "ImagePullBackOff" => "trying and failing to pull image",
        other => other,
    };
    format!("container {container:?} in pod {pod:?} is waiting to start: {reason}")
}

/// `runtime://id` → `id`.
fn bare(id: &str) -> String {
    id.split_once("://").map_or(id, |(_, id)| id).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(status: Value, is_previous: bool, records: &[(&str, i32)]) -> Result<String, String> {
        let statuses = json!([status]);
        let pod = json!({ "metadata": { "name": "p" }, "status": { "containerStatuses": statuses } });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let records: Vec<_> = records
            .iter()
            .map(|(id, state)| v1::Container { id: (*id).into(), state: *state, ..Default::default() })
            .collect();
        log_owner(&pod, "c", is_previous, &records)
    }

    #[test]
    fn the_log_is_that_of_the_instance_that_kubernetes_would_show() {
        let crashed = json!({ "name": "c", "state": { "waiting": { "reason": "CrashLoopBackOff" } },
            "lastState": { "terminated": { "exitCode": 1, "containerID": "sampan://a" } } });
        let fresh = json!({ "name": "c", "state": { "waiting": { "reason": "ContainerCreating" } } });
        let pulling = json!({ "name": "c", "state": { "waiting": { "reason": "ImagePullBackOff" } } });
        let running = json!({ "name": "c", "state": { "running": {} }, "lastState": {} });
        assert_eq!(owner(crashed.clone(), false, &[("a", 2)]), Ok("a".into()));
        assert_eq!(owner(crashed.clone(), true, &[("a", 2)]), Ok("a".into()));
        assert_eq!(owner(crashed, false, &[("b", 1), ("a", 2)]), Ok("b".into()));
        assert_eq!(owner(running.clone(), false, &[("a", 1)]), Ok("a".into()));
        assert_eq!(owner(running.clone(), true, &[("b", 1), ("a", 2)]), Ok("a".into()));
        assert_eq!(
            owner(running, true, &[("a", 1)]),
            Err("previous terminated container \"c\" in pod \"p\" not found".into())
        );
        assert_eq!(
            owner(fresh, false, &[("a", 0)]),
            Err("container \"c\" in pod \"p\" is waiting to start: ContainerCreating".into())
        );
        assert_eq!(
            owner(pulling, false, &[]),
            Err("container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image".into())
        );
    }
}
