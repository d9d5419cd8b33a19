//! Eviction against the scripted runtime: what goes first, what stays, what is told. The figures are the machine's own, so
//! the thresholds lie beyond what any machine has.

mod bench;

use bench::{Bench, pod};
use cri::fake::{Fake, Program, Verb};
use jiff::SignedDuration;
use node::{
    collection::{self, Collector},
    eviction::{Ask, Condition, Evictor, Given, Metrics, Options, Policy, Pressure},
    image::queue::Limits,
    object::Pod,
    pod::{clock::Clock, shell::Wish},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

/// A node with pods, and an evictor who has yet to look.
struct Node {
    fake: Fake,
    bench: Bench,
    wishes: BTreeMap<String, watch::Sender<Wish>>,
    pressure: watch::Receiver<Pressure>,
    metrics: Metrics,
    collector: Collector,
}

impl Node {
    fn new(age_min: SignedDuration) -> (Node, watch::Sender<Pressure>) {
        let fake = Fake::new();
        let bench = Bench::new(fake.client(), Limits::default(), Clock::System);
        let collector = Collector::new(collection::Options {
            cri: bench.actor.cri.clone(),
            client: bench.actor.client.clone(),
            node_name: "n".into(),
            // The ordinary round never finds reason to remove anything.
            policy: collection::Policy { high_percent: 100, low_percent: 99, age_min, age_max: None },
            checkpoints: bench.actor.checkpoints.clone(),
            static_pods: node::static_pods::ledger::Ledger::of_node(bench.directory()),
            recorder: bench.actor.recorder.clone(),
            pulls: bench.actor.pulls.clone(),
            records: bench.actor.records.clone(),
            clock: bench.clock,
        });
        let (told, pressure) = watch::channel(Pressure::new());
        let metrics = Metrics::default();
        (Node { fake, bench, wishes: BTreeMap::new(), pressure, metrics, collector }, told)
    }

    async fn begin(&mut self, name: &str, spec: Value, phase: &str) {
        let mut whole = json!({"containers": [{"name": "c", "image": "r/app:1", "imagePullPolicy": "IfNotPresent"}]});
        json_patch::merge(&mut whole, &spec);
        let wish = self.bench.begin(pod(name, whole));
        self.wishes.insert(format!("u-{name}"), wish);
        self.bench.until(name, Duration::from_secs(60), |status| status["phase"] == phase).await;
        self.refresh(name);
    }

    /// Tells the task what the API has, as a watch does.
    fn refresh(&self, name: &str) {
        let seen: Pod = serde_json::from_value(self.bench.api.pods.borrow()[name].clone()).unwrap();
        self.wishes[&format!("u-{name}")].send_modify(|wish| wish.pod = Arc::new(seen));
    }

    /// One round of eviction; true if a pod went. The test answers for the agent.
    async fn round(&self, policy: &Policy, told: &watch::Sender<Pressure>) -> bool {
        let (agent, mut asks) = mpsc::channel(4);
        let (pressure, mut changes) = watch::channel(told.borrow().clone());
        let options = Options {
            policy: policy.clone(),
            actor: self.bench.actor.clone(),
            collector: self.collector.clone(),
            agent,
            pressure,
            metrics: self.metrics.clone(),
        };
        let mut round = JoinSet::new();
        round.spawn(async move { Evictor::new(options).round().await });
        loop {
            tokio::select! {
                Some(ask) = asks.recv() => self.answer(ask),
                Ok(()) = changes.changed() => drop(told.send_replace(changes.borrow().clone())),
                Some(ended) = round.join_next() => {
                    told.send_replace(changes.borrow().clone());
                    return ended.unwrap();
                }
            }
        }
    }

    fn answer(&self, ask: Ask) {
        match ask {
            Ask::Pods(answer) => {
                let pods = self.wishes.values().map(|wish| wish.borrow().pod.clone());
                let _ = answer.send(Some(pods.filter(|pod| !pod.is_terminal()).collect()));
            }
            Ask::Spare(answer) => {
                let ended = self.wishes.iter().filter(|(_, wish)| wish.borrow().pod.is_terminal());
                let uids = ended.map(|(uid, wish)| {
                    wish.send_modify(|wish| wish.spare = true);
                    uid.clone()
                });
                let _ = answer.send(uids.collect());
            }
            Ask::End(uid, verdict, answer) => {
                self.wishes[&uid].send_modify(|wish| wish.verdict = Some(verdict));
                let _ = answer.send(true);
            }
        }
    }

    async fn images(&self) -> Vec<String> {
        let request = cri::v1::ListImagesRequest { filter: None };
        let listed = self.fake.client().images.list_images(request).await.unwrap().into_inner().images;
        let mut names: Vec<String> = listed.into_iter().flat_map(|image| image.repo_tags).collect();
        names.sort();
        names
    }
}

fn policy(signal: &str, value: &str) -> Policy {
    let hard = Some([(signal.to_owned(), value.to_owned())].into());
    Policy::parse(&Given { hard, ..Given::default() }).unwrap()
}

/// IMG-265.
#[tokio::test]
async fn all_unused_images_but_young_ones_go_before_any_pod() {
    let (mut node, told) = Node::new(SignedDuration::from_hours(1));
    node.fake.program("done", Program::ends(Duration::ZERO, 0));
    node.fake.add_image("r/spare:1");
    node.fake.add_image("r/other:1");
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "done", "image": "r/job:1"}]});
    node.begin("job", spec, "Succeeded").await;
    node.begin("app", json!({}), "Running").await;
    let _first_look = node.collector.plan().await.unwrap();
    node.fake.add_image("r/young:1");
    assert_eq!(node.fake.containers().len(), 2);

    // More than any disk has: what is freed cannot be enough, so that a pod goes too.
    assert!(node.round(&policy("imagefs.available", "8Ei"), &told).await);
    assert_eq!(node.images().await, ["r/app:1", "r/young:1"], "the ended pod's container went before its image");
    let calls: Vec<Verb> = node.fake.calls().iter().map(|recorded| recorded.call.verb()).collect();
    let at = |verb: Verb| calls.iter().position(|one| *one == verb).unwrap();
    assert!(at(Verb::RemoveContainer) < at(Verb::RemoveImage) && at(Verb::RemoveImage) < at(Verb::StopContainer));
    assert_eq!(*told.borrow(), [Condition::DiskPressure].into());
    assert_eq!(*node.pressure.borrow(), [Condition::DiskPressure].into());
    let status = node.bench.until("app", Duration::from_secs(60), |status| status["phase"] == "Failed").await;
    assert_eq!(status["reason"], "Evicted");
    let job = node.bench.api.pods.borrow()["job"]["status"].clone();
    assert_eq!(job["containerStatuses"][0]["state"]["terminated"]["exitCode"], 0, "its status stays: {job:#}");
    assert!(node.metrics.render().contains("kubelet_evictions{eviction_signal=\"imagefs.available\"} 1"));
    node.bench.end().await;
}

/// HOOK-93.
#[tokio::test]
async fn process_ids_that_run_short_cost_the_pod_of_the_lowest_priority() {
    let (mut node, told) = Node::new(SignedDuration::ZERO);
    node.fake.add_image("r/spare:1");
    node.begin("high", json!({"priority": 10}), "Running").await;
    node.begin("low", json!({"priority": -10}), "Running").await;
    assert!(!node.round(&policy("pid.available", "1"), &told).await, "there are enough");
    assert!(told.borrow().is_empty());
    assert!(node.round(&policy("pid.available", "1Gi"), &told).await);
    let status = node.bench.until("low", Duration::from_secs(60), |status| status["phase"] == "Failed").await;
    let message = status["message"].as_str().unwrap();
    assert!(
        message.starts_with("The node was low on resource: pids. Threshold quantity: 1Gi, available: "),
        "{message}"
    );
    let told_of =
        status["conditions"].as_array().unwrap().iter().find(|one| one["type"] == "DisruptionTarget").unwrap();
    assert_eq!((&told_of["reason"], &told_of["message"]), (&json!("TerminationByKubelet"), &status["message"]));
    assert_eq!(node.bench.api.pods.borrow()["high"]["status"]["phase"], "Running");
    assert_eq!(*told.borrow(), [Condition::PidPressure].into());
    assert_eq!(node.images().await, ["r/app:1", "r/spare:1"], "images have no process ids to give");
    // Events come in their own time.
    let mut events = node.bench.api.events.subscribe();
    let wanted = ["EvictionThresholdMet", "NodeHasInsufficientPID", "Evicted"];
    let all_told = events.wait_for(|told| wanted.iter().all(|reason| told.iter().any(|event| event.reason == *reason)));
    let events = tokio::time::timeout(Duration::from_secs(60), all_told).await.expect("all is told").unwrap().clone();
    let told_as = |reason: &str| events.iter().find(|event| event.reason == reason).map(|event| event.message.clone());
    assert_eq!(told_as("EvictionThresholdMet").as_deref(), Some("Attempting to reclaim pids"));
    assert_eq!(told_as("NodeHasInsufficientPID").as_deref(), Some("Node n status is now: NodeHasInsufficientPID"));
    assert_eq!(told_as("Evicted").as_deref(), Some(message));
    node.bench.end().await;
}
