//! What hooks cost: postStart beside a bare `runc exec`, a deletion with preStop beside a bare `runc kill` and `delete`.
//!
//! In rounds, each with the bare runtime right before, so that the machine's moods meet both. The medians of the rounds
//! are held to limits.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, WatchEvent, WatchParams};
use serde_json::{Value, json};

use super::Sample;
use super::handlers::median;
use super::node::Node;
use super::start::{self, Bare, SETTLE};

const ROUNDS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);
/// Runs of the bare runtime before each round.
const BARE_RUNS: u32 = 20;
/// What postStart `exec: [true]` may add, in runs of a bare `runc exec`.
const EXEC_MAX: f64 = 1.5;
/// What postStart `httpGet` may add, in milliseconds.
const HTTP_MILLISECONDS_MAX: f64 = 5.0;
/// How long a deletion with `preStop: sleep 0` may take, in bare ends.
const DELETE_MAX: f64 = 5.0;

/// One by one with runc on both sides.
pub fn run(sampan: Option<&Path>, pods: u32) -> anyhow::Result<()> {
    let node = Node::start(sampan, "runc")?;
    let result = tokio::runtime::Runtime::new()?.block_on(measure(&node, pods));
    node.down()?;
    node.registry.stop()?;
    result
}

/// A pod that ends at once when it is told to.
pub fn pod(node: &Node, name: &str, lifecycle: &Value) -> anyhow::Result<Pod> {
    let command = ["sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait"];
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": node.image(), "command": command, "lifecycle": lifecycle}]},
    }))?)
}

async fn measure(node: &Node, pods: u32) -> anyhow::Result<()> {
    let api: Api<Pod> = Api::default_namespaced(kube::Client::try_from(node.config().await?)?);
    start::start(&api, &pod(node, "warm", &json!({}))?).await?;
    let bundle = start::bundle(&node.run_dir())?;
    start::remove(&api, "warm").await?;
    let bare = Bare { handler: "runc", arguments: &[], bundle: &bundle };
    let get = json!({"httpGet": {"host": "127.0.0.1", "port": answering()?}});
    let (mut exec, mut http, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let unit = bare.execs(&["true"], BARE_RUNS)?.quantile(0.5);
        let hooks = [json!({}), json!({"postStart": {"exec": {"command": ["true"]}}}), json!({"postStart": get})];
        let times = starts(&api, node, pods, &hooks).await?;
        for (times, what) in
            times.iter().zip(["without a hook", "with postStart exec [true]", "with postStart httpGet"])
        {
            println!("round {round}  POST to Running {what:<27} {}", Sample::of(times.iter().copied()).text());
        }
        let (added, answered) = (added(&times[1], &times[0]), added(&times[2], &times[0]));
        println!(
            "         exec adds {added:.1} ms, {:.2} x bare runc exec ({unit:.1} ms); httpGet adds {answered:.1} ms",
            added / unit
        );
        exec.push(added / unit);
        http.push(answered);
        let end = bare.ends(BARE_RUNS)?.quantile(0.5);
        let [hooked, plain] =
            deletions(&api, node, pods, &[json!({"preStop": {"sleep": {"seconds": 0}}}), json!({})]).await?;
        println!("         DELETE to gone without a hook    {}", plain.text());
        println!("         with preStop sleep 0             {}", hooked.text());
        println!("         {:.2} x bare runc kill and delete ({end:.1} ms)", hooked.quantile(0.5) / end);
        ends.push(hooked.quantile(0.5) / end);
    }
    verdict("postStart exec [true] adds", median(&exec), EXEC_MAX, "x bare runc exec");
    verdict("postStart httpGet adds", median(&http), HTTP_MILLISECONDS_MAX, "ms");
    verdict("DELETE to gone, preStop sleep 0", median(&ends), DELETE_MAX, "x bare runc kill and delete");
    Ok(())
}

/// The median of what each took longer, in milliseconds, than the one right before it without a hook.
fn added(hooked: &[Duration], plain: &[Duration]) -> f64 {
    let milliseconds = |duration: &Duration| duration.as_secs_f64() * 1000.0;
    let more: Vec<f64> = hooked.iter().zip(plain).map(|(more, less)| milliseconds(more) - milliseconds(less)).collect();
    median(&more)
}

/// A figure beside its limit.
pub fn verdict(what: &str, figure: f64, limit: f64, unit: &str) {
    let word = if figure <= limit { "within" } else { "BEYOND" };
    println!("median   {what:<33} {figure:.2} {unit} ({word} the limit of {limit})");
}

/// A server that has nothing to say and says it at once; it lives as long as this process.
fn answering() -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        }
    });
    Ok(port)
}

/// POST to Running of pods with each of these hooks in turn, one after the other.
async fn starts<const N: usize>(
    api: &Api<Pod>,
    node: &Node,
    pods: u32,
    hooks: &[Value; N],
) -> anyhow::Result<[Vec<Duration>; N]> {
    let mut times = [const { Vec::new() }; N];
    for _ in 0..pods {
        for (times, hook) in times.iter_mut().zip(hooks) {
            times.push(start::start(api, &pod(node, "start", hook)?).await?);
            start::remove(api, "start").await?;
        }
    }
    Ok(times)
}

/// DELETE to gone of pods with each of these hooks in turn, one after the other.
async fn deletions<const N: usize>(
    api: &Api<Pod>,
    node: &Node,
    pods: u32,
    hooks: &[Value; N],
) -> anyhow::Result<[Sample; N]> {
    let mut times = [const { Vec::new() }; N];
    for _ in 0..pods {
        for (times, hook) in times.iter_mut().zip(hooks) {
            start::start(api, &pod(node, "end", hook)?).await?;
            tokio::time::sleep(SETTLE).await;
            times.push(delete(api, "end").await?);
        }
    }
    Ok(times.map(Sample::of))
}

/// Deletes a pod with its own grace and waits until a watch that was open before shows it gone.
async fn delete(api: &Api<Pod>, name: &str) -> anyhow::Result<Duration> {
    let since = api.list(&Default::default()).await?.metadata.resource_version.context("the list has no version")?;
    let mut watch = api.watch(&WatchParams::default().fields(&format!("metadata.name={name}")), &since).await?.boxed();
    let began = Instant::now();
    api.delete(name, &DeleteParams::default()).await?;
    let wait = async {
        while let Some(event) = watch.try_next().await? {
            if matches!(event, WatchEvent::Deleted(_)) {
                return anyhow::Ok(began.elapsed());
            }
        }
        bail!("the watch ended before {name} was gone")
    };
    tokio::time::timeout(PATIENCE, wait).await.with_context(|| format!("{name} is not gone"))?
}
