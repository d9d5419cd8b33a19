//! Two hundred pods with a hook of ten seconds, deleted at once: when they are gone, and what the node costs meanwhile.
//!
//! What stopping takes without hooks is measured in the same run; hooks may add their own ten seconds and a little.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams, WatchEvent, WatchParams};
use serde_json::{Value, json};

use super::hooks::{pod, verdict};
use super::node::Node;
use super::process;
use super::start;

const PODS: usize = 200;
const HOOK_SECONDS: u64 = 10;
/// What the deletions may take beyond their hooks and what they take without them.
const SLACK_SECONDS: f64 = 5.0;
const PATIENCE: Duration = Duration::from_secs(180);
/// Requests of this client at a time.
const REQUESTS: usize = 16;
const LOOK: Duration = Duration::from_millis(500);

/// What the node costs at an instant.
#[derive(Clone, Copy, Default)]
struct Cost {
    threads: usize,
    agent: f64,
    all: f64,
}

impl Cost {
    fn of(node: &Node) -> anyhow::Result<Cost> {
        let agent = node.agent()?;
        Ok(Cost {
            threads: process::threads(agent),
            agent: process::pss_kilobytes(agent) / 1000.0,
            all: node.pss_megabytes(),
        })
    }

    fn most(self, other: Cost) -> Cost {
        Cost {
            threads: self.threads.max(other.threads),
            agent: self.agent.max(other.agent),
            all: self.all.max(other.all),
        }
    }

    fn text(self) -> String {
        format!("{} threads, {:.1} MB PSS; with monitors {:.1} MB", self.threads, self.agent, self.all)
    }
}

/// Without a hook, with sleep, with exec.
pub fn run(sampan: Option<&Path>) -> anyhow::Result<()> {
    let node = Node::start(sampan, "runc")?;
    let result = tokio::runtime::Runtime::new()?.block_on(measure(&node));
    node.down()?;
    node.registry.stop()?;
    result
}

async fn measure(node: &Node) -> anyhow::Result<()> {
    let api: Api<Pod> = Api::default_namespaced(kube::Client::try_from(node.config().await?)?);
    println!("idle                             {}", Cost::of(node)?.text());
    let none = round(&api, node, "none", &json!({})).await?.as_secs_f64();
    let sleep = json!({"preStop": {"sleep": {"seconds": HOOK_SECONDS}}});
    let exec = json!({"preStop": {"exec": {"command": ["sleep", HOOK_SECONDS.to_string()]}}});
    let limit = HOOK_SECONDS as f64 + none + SLACK_SECONDS;
    for (name, hook) in [("sleep", sleep), ("exec", exec)] {
        let took = round(&api, node, name, &hook).await?.as_secs_f64();
        verdict(&format!("{PODS} pods, preStop {name}, gone in"), took, (limit * 10.0).round() / 10.0, "s");
    }
    Ok(())
}

/// Starts all pods, deletes them all, waits until they are gone.
async fn round(api: &Api<Pod>, node: &Node, name: &str, hook: &Value) -> anyhow::Result<Duration> {
    let started = Instant::now();
    all_running(api, node, (name, hook)).await?;
    println!("{name:<8} {PODS} pods Running in {:.1} s", started.elapsed().as_secs_f64());
    tokio::time::sleep(start::SETTLE * 10).await;
    let before = Cost::of(node)?;
    println!("{name:<8} before                   {}", before.text());
    let (mut most, mut waiting) = (before, Vec::new());
    let began = Instant::now();
    let gone = all_gone(api, name);
    tokio::pin!(gone);
    let took = loop {
        tokio::select! {
            done = &mut gone => { done?; break began.elapsed() }
            () = tokio::time::sleep(LOOK) => {
                let now = Cost::of(node)?;
                most = most.most(now);
                // Late enough for all hooks to have begun, and before the first one ends.
                if began.elapsed().as_secs() == HOOK_SECONDS - 2 {
                    waiting.push(now);
                }
            }
        }
    };
    if let Some(waiting) = waiting.first().filter(|_| *hook != json!({})) {
        println!("{name:<8} while the hooks run      {}", waiting.text());
    }
    println!("{name:<8} at most, with all ends   {}", most.text());
    println!("{name:<8} {PODS} pods gone in {:.1} s", took.as_secs_f64());
    Ok(took)
}

async fn all_running(api: &Api<Pod>, node: &Node, (name, hook): (&str, &Value)) -> anyhow::Result<()> {
    let since = api.list(&Default::default()).await?.metadata.resource_version.context("the list has no version")?;
    let mut watch = api.watch(&WatchParams::default(), &since).await?.boxed();
    let wanted: Vec<Pod> = (0..PODS).map(|nth| pod(node, &format!("{name}-{nth}"), hook)).collect::<Result<_, _>>()?;
    let parameters = PostParams::default();
    let creates = stream::iter(wanted.iter().map(|pod| api.create(&parameters, pod)));
    let creates = creates.buffer_unordered(REQUESTS).try_for_each(|_| async { Ok(()) });
    let all = async {
        let mut up = BTreeSet::new();
        while up.len() < PODS {
            match watch.try_next().await? {
                Some(WatchEvent::Modified(pod)) if start::running(&pod) => up.extend(pod.metadata.name),
                Some(_) => {}
                None => bail!("the watch ended with {} pods Running", up.len()),
            }
        }
        Ok(())
    };
    let (created, all) = tokio::join!(creates, tokio::time::timeout(PATIENCE, all));
    created?;
    all.context("not all pods are Running")?
}

async fn all_gone(api: &Api<Pod>, name: &str) -> anyhow::Result<()> {
    let since = api.list(&Default::default()).await?.metadata.resource_version.context("the list has no version")?;
    let mut watch = api.watch(&WatchParams::default(), &since).await?.boxed();
    let names: Vec<String> = (0..PODS).map(|nth| format!("{name}-{nth}")).collect();
    let parameters = DeleteParams::default();
    let deletes = stream::iter(names.iter().map(|name| api.delete(name, &parameters)));
    let deletes = deletes.buffer_unordered(REQUESTS).try_for_each(|_| async { Ok(()) });
    let all = async {
        let mut left = PODS;
        while left > 0 {
            match watch.try_next().await? {
                Some(WatchEvent::Deleted(_)) => left -= 1,
                Some(_) => {}
                None => bail!("the watch ended with {left} pods left"),
            }
        }
        Ok(())
    };
    let (deleted, all) = tokio::join!(deletes, tokio::time::timeout(PATIENCE, all));
    deleted?;
    all.context("not all pods are gone")?
}
