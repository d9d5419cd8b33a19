//! `/metrics`: a few numbers about the node, as text.
//!
//! Names are the kubelet's own where it has them.

use super::{Answer, Node, seek, typed};
use crate::{pod::act::rpc, records::Numbers};
use cri::v1;
use http::StatusCode;
use std::collections::BTreeMap;

const KIND: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Counts what the runtime has now.
pub(super) async fn answer(node: &Node) -> Answer {
    let (mut runtime, mut other) = (node.cri.runtime.clone(), node.cri.runtime.clone());
    let containers = runtime.list_containers(seek::limited(v1::ListContainersRequest { filter: None }));
    let sandboxes = other.list_pod_sandbox(seek::limited(v1::ListPodSandboxRequest { filter: None }));
    let (containers, sandboxes) = tokio::join!(rpc(containers), rpc(sandboxes));
    let containers = containers.map(|a| a.into_inner().containers).unwrap_or_default();
    let sandboxes = sandboxes.map(|a| a.into_inner().items).unwrap_or_default();
    let states = containers.iter().map(|c| match v1::ContainerState::try_from(c.state) {
        Ok(v1::ContainerState::ContainerCreated) => "created",
        Ok(v1::ContainerState::ContainerRunning) => "running",
        Ok(v1::ContainerState::ContainerExited) => "exited",
        _ => "unknown",
    });
    let mut by_state: BTreeMap<&str, u64> = BTreeMap::new();
    states.for_each(|state| *by_state.entry(state).or_default() += 1);
    let ready = sandboxes.iter().filter(|s| s.state == v1::PodSandboxState::SandboxReady as i32).count();
    let mut out = render(&node.name, ready, &by_state);
    out.push_str(&node.metrics.render());
    out.push_str(&node.evictions.render());
    out.push_str(&node.hooks.metrics.render());
    out.push_str(&records(&node.records.numbers().await));
    typed(StatusCode::OK, KIND, out)
}

/// IMG-247.
fn records(numbers: &Numbers) -> String {
    let name = "kubelet_imagemanager_image_mustpull_checks_total";
    let mut out = format!("# HELP {name} Checks whether an image has to be pulled again.\n# TYPE {name} counter\n");
    for (result, count) in &numbers.checks {
        out.push_str(&format!("{name}{{result=\"{result}\"}} {count}\n"));
    }
    let gauges = [
        ("ondisk_pullintents", numbers.intents_on_disk),
        ("inmemory_pullintents", numbers.intents_in_memory),
        ("ondisk_pulledrecords", numbers.records_on_disk),
    ];
    for (name, value) in gauges {
        let name = format!("kubelet_imagemanager_{name}");
        out.push_str(&format!("# HELP {name} Records of image pulls.\n# TYPE {name} gauge\n{name} {value}\n"));
    }
    out
}

fn render(node: &str, pods: usize, containers: &BTreeMap<&str, u64>) -> String {
    let mut out = format!(
        "# HELP kubelet_node_name The node's name. The count is always 1.\n# TYPE kubelet_node_name gauge\n\
         kubelet_node_name{{node=\"{node}\"}} 1\n\
         # HELP kubelet_running_pods Number of pods that have a running pod sandbox\n\
         # TYPE kubelet_running_pods gauge\nkubelet_running_pods {pods}\n\
         # HELP kubelet_running_containers Number of containers currently running\n\
         # TYPE kubelet_running_containers gauge\n"
    );
    for (state, count) in containers {
        out.push_str(&format!("kubelet_running_containers{{container_state=\"{state}\"}} {count}\n"));
    }
    out
}
