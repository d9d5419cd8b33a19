//! Emptying the node: its pods stop group by group, those of the lowest priority first, each with its hooks (HOOK-97).
//!
//! A group is over when all its pods have gone, so that what others lean on runs as long as they do. Start at [`drain`].

use super::{
    DrainOptions, Error, RELIST, actor, housekeeping, ledger,
    pods::{self, Pods},
    runtime::{self, RuntimeEvent},
    statics::Statics,
};
use crate::{
    cause::innermost,
    eviction::{self, Pressure},
    image::go_duration,
    object::Pod,
    probes::Probes,
    static_pods::Origin,
};
use jiff::SignedDuration;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// How long the API may take to name the pods.
const LIST_MAX: Duration = Duration::from_secs(15);
/// How long a group may take before what is left of it is stopped by force.
const GROUP_MAX: Duration = Duration::from_secs(600);

/// Stops all pods of the node in order, with their hooks, and removes them from the machine; the API keeps them. Call
/// it when [`super::run`] has returned. `progress` gets one line per group and one per pod.
///
/// # Errors
/// When the API or the runtime cannot be asked what there is.
pub async fn drain(options: DrainOptions, mut progress: impl FnMut(&str)) -> Result<(), Error> {
    let (actor, writer, _) = actor(&options).await?;
    let mut background = JoinSet::new();
    background.spawn(writer.run(options.client.clone()));
    let (probes, _reports) = Probes::new(actor.cri.clone(), actor.clock, actor.recorder.clone());
    let (_, pressed) = watch::channel(Pressure::new());
    let ledger = ledger(&options.data_dir)?;
    let static_pods: Vec<_> = ledger.all().into_iter().map(|known| (*known.pod).clone()).collect();
    let mut agent = Pods::new(actor.clone(), probes, u32::MAX, pressed, Statics::new(ledger, [Origin::File]));
    let mut events = runtime::subscribe(actor.cri.clone(), CancellationToken::new(), &mut background);
    let present = housekeeping::present(&actor.cri).await.map_err(Error::Runtime)?;
    // Mirrors are no pods: their UIDs are not in the runtime.
    let pods = of_api(&options, &mut progress).await.into_iter().chain(static_pods);
    for (rank, group) in groups(pods.filter(|pod| present.contains_key(pod.uid()))) {
        progress(&announced(rank, &group));
        stop(&mut agent, &mut events, group, &mut progress).await;
    }
    let left = housekeeping::present(&actor.cri).await.map_err(Error::Runtime)?.into_keys();
    let left: BTreeSet<String> = left.chain(actor.volumes.known()).chain(actor.cgroups.known()).collect();
    for uid in &left {
        progress(&format!("removing what is left of pod {uid}"));
    }
    housekeeping::sweep(&actor, &left).await;
    background.shutdown().await;
    Ok(())
}

/// The node's pods, as the API knows them. A machine can be taken down also when its control plane is gone; what hooks
/// say is only known there.
async fn of_api(options: &DrainOptions, progress: &mut impl FnMut(&str)) -> Vec<Pod> {
    let why = match tokio::time::timeout(LIST_MAX, pods::list(&options.client, &options.node_name)).await {
        Ok(Ok(pods)) => return pods,
        Ok(Err(error)) => innermost(&error),
        Err(_) => format!("no answer within {} s", LIST_MAX.as_secs()),
    };
    progress(&format!("the API cannot be asked for pods, which are stopped without their hooks: {why}"));
    Vec::new()
}

/// Whether a pod is one that the node lives on, and its priority.
type Rank = (bool, i32);

/// The pods in the order in which they go: by priority, and last those that the node lives on.
fn groups(pods: impl Iterator<Item = Pod>) -> BTreeMap<Rank, Vec<Arc<Pod>>> {
    let mut groups: BTreeMap<Rank, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in pods {
        let rank = (eviction::is_critical(&pod), pod.spec.priority.unwrap_or(0));
        groups.entry(rank).or_default().push(Arc::new(pod));
    }
    groups
}

fn announced((is_critical, priority): Rank, group: &[Arc<Pod>]) -> String {
    let kind = if is_critical { "critical pods" } else { "pods" };
    let grace = group.iter().map(|pod| pod.spec.termination_grace_period_seconds.unwrap_or(30)).max().unwrap_or(0);
    format!("{kind} of priority {priority}: {}, with {grace}s of grace at most", group.len())
}

/// Stops one group, and waits until it has gone.
async fn stop(
    agent: &mut Pods,
    events: &mut mpsc::Receiver<RuntimeEvent>,
    group: Vec<Arc<Pod>>,
    progress: &mut impl FnMut(&str),
) {
    let mut left: BTreeSet<String> = group.iter().map(|pod| pod.uid().to_owned()).collect();
    let (began, deadline) = (tokio::time::Instant::now(), tokio::time::Instant::now() + GROUP_MAX);
    group.into_iter().for_each(|pod| agent.drain(pod));
    while !left.is_empty() {
        tokio::select! {
            Some(event) = events.recv() => agent.take_event(event),
            Some(ended) = agent.join_next() => {
                let Some(pod) = agent.take_drained(ended) else { continue };
                left.remove(pod.uid());
                let took = began.elapsed().as_millis();
                let took = SignedDuration::from_millis(i64::try_from(took).unwrap_or(i64::MAX));
                progress(&format!("stopped pod {}/{} after {}", pod.namespace(), pod.name(), go_duration(took)));
            }
            () = tokio::time::sleep(RELIST) => agent.relist_all(),
            () = tokio::time::sleep_until(deadline) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hook_97_the_lowest_priority_goes_first_and_what_the_node_lives_on_last() {
        let pod = |name: &str, priority: Option<i32>| -> Pod {
            serde_json::from_value(
                json!({"metadata": {"name": name}, "spec": {"priority": priority, "containers": []}}),
            )
            .unwrap()
        };
        let mut from_file = pod("from-file", None);
        from_file.is_static = true;
        let pods = [
            pod("system", Some(2_000_001_000)),
            pod("high", Some(1000)),
            from_file,
            pod("plain", None),
            pod("zero", Some(0)),
            pod("low", Some(-5)),
        ];
        let order: Vec<Vec<String>> = groups(pods.into_iter())
            .into_values()
            .map(|group| group.iter().map(|pod| pod.name().to_owned()).collect())
            .collect();
        assert_eq!(order, [vec!["low"], vec!["plain", "zero"], vec!["high"], vec!["from-file"], vec!["system"]]);
    }

    #[test]
    fn a_group_is_announced_with_the_time_that_it_may_take() {
        let pod = |grace: Option<i64>| -> Arc<Pod> {
            let spec = json!({"terminationGracePeriodSeconds": grace, "containers": []});
            Arc::new(serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap())
        };
        let group = [pod(Some(5)), pod(Some(60)), pod(None)];
        assert_eq!(announced((false, 0), &group), "pods of priority 0: 3, with 60s of grace at most");
        assert_eq!(announced((true, 7), &group[2..]), "critical pods of priority 7: 1, with 30s of grace at most");
    }
}
