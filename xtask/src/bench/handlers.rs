//! Each handler from POST to Running and its memory a pod, beside the bare runtime's own `run` of the same bundle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::api::{Api, PostParams};
use serde_json::json;

use super::Sample;
use super::node::Node;
use super::process::{self, command_line, descendants};
use super::start::{self, Bare};
use xtask::shell;

const ROUNDS: usize = 3;
/// Pods in a round, started one after the other and measured together.
const PODS: usize = 10;
/// Bare runs right before them.
const BARE_RUNS: u32 = 10;

/// A handler, how it is called, and how much slower a pod may be than the bare runtime.
struct Contestant {
    name: &'static str,
    arguments: &'static [&'static str],
    limit: f64,
}

const CONTESTANTS: [Contestant; 3] = [
    Contestant { name: "runc", arguments: &[], limit: 5.0 },
    Contestant { name: "crun", arguments: &[], limit: 5.0 },
    Contestant { name: "runsc", arguments: &["--platform=ptrace", "--network=host"], limit: 2.0 },
];

/// What the rounds of one handler gave.
#[derive(Default)]
struct Rounds {
    ratios: Vec<f64>,
    pods: Vec<f64>,
    bare: Vec<f64>,
    mebibytes: Vec<f64>,
    bare_mebibytes: Vec<f64>,
}

/// Measures in rounds, one handler after the other in each, so that the machine's moods meet them all.
pub fn run(sampan: Option<&Path>) -> anyhow::Result<()> {
    let config = Path::new("/var/tmp/sampan-bench-handlers.yaml");
    let line = |it: &Contestant| {
        let binary = xtask::shell::output("sh", &["-c", &format!("command -v {}", it.name)], "").unwrap_or_default();
        format!("  {}: {{binary: {}, arguments: {}}}\n", it.name, binary.trim(), json!(it.arguments))
    };
    let lines: String = CONTESTANTS.iter().map(line).collect();
    fs::write(config, format!("apiVersion: sampan.dev/v1\nkind: Config\nhandlers:\n{lines}"))?;
    let node = Node::start_with(sampan, "runc", &["--config", config.to_str().context("odd path")?])?;
    let result = tokio::runtime::Runtime::new()?.block_on(measure(&node));
    node.down()?;
    node.registry.stop()?;
    fs::remove_file(config)?;
    result
}

async fn measure(node: &Node) -> anyhow::Result<()> {
    let client = kube::Client::try_from(node.config().await?)?;
    let (classes, pods): (Api<RuntimeClass>, Api<Pod>) = (Api::all(client.clone()), Api::default_namespaced(client));
    for it in &CONTESTANTS {
        let class = json!({ "metadata": { "name": it.name }, "handler": it.name });
        classes.create(&PostParams::default(), &serde_json::from_value(class)?).await?;
    }
    start::start_one(&pods, node, ("warm", Some("runc"))).await?;
    let bundle = start::bundle(&node.run_dir())?;
    start::remove(&pods, "warm").await?;
    let mut all: BTreeMap<&str, Rounds> = BTreeMap::new();
    for round in 1..=ROUNDS {
        for it in &CONTESTANTS {
            let rounds = all.entry(it.name).or_default();
            one_round(node, &pods, (it, &bundle), rounds).await.with_context(|| it.name.to_owned())?;
            println!(
                "round {round}  {:<6} POST to Running p50 {:.1} ms, bare run p50 {:.1} ms: {:.2} x;  {:.2} MiB a pod",
                it.name,
                rounds.pods[round - 1],
                rounds.bare[round - 1],
                rounds.ratios[round - 1],
                rounds.mebibytes[round - 1]
            );
        }
    }
    for it in &CONTESTANTS {
        let Some(rounds) = all.get(it.name) else { continue };
        let ratio = median(&rounds.ratios);
        let verdict = if ratio <= it.limit { "within" } else { "BEYOND" };
        println!(
            "median   {:<6} {ratio:.2} x bare ({verdict} the limit of {:.0} x), sandbox {:.2} MiB PSS a pod, bare runtime {:.2} MiB",
            it.name,
            it.limit,
            median(&rounds.mebibytes),
            median(&rounds.bare_mebibytes)
        );
    }
    Ok(())
}

async fn one_round(
    node: &Node,
    pods: &Api<Pod>,
    (it, bundle): (&Contestant, &Path),
    rounds: &mut Rounds,
) -> anyhow::Result<()> {
    let bare = Bare { handler: it.name, arguments: it.arguments, bundle };
    let unit = bare.runs(BARE_RUNS)?.quantile(0.5);
    rounds.bare_mebibytes.push(bare.while_running(|pid| resident(&runtime_processes(it.name, &descendants(pid))))?);
    let (name, mut times) = (|nth: usize| format!("{}-{nth}", it.name), Vec::new());
    for nth in 0..PODS {
        times.push(start::start_one(pods, node, (&name(nth), Some(it.name))).await?);
    }
    let ours = Sample::of(times).quantile(0.5);
    let monitors = monitors(node)?;
    let below = monitors.iter().flat_map(|pid| descendants(*pid));
    let mut sandboxes = runtime_processes(it.name, &below.collect());
    sandboxes.extend(&monitors);
    rounds.mebibytes.push(resident(&sandboxes) / PODS as f64);
    for nth in 0..PODS {
        start::remove(pods, &name(nth)).await?;
    }
    rounds.pods.push(ours);
    rounds.bare.push(unit);
    rounds.ratios.push(ours / unit);
    Ok(())
}

/// The middle one.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The monitors of this node, by the cgroup that they share; the pause processes with them.
fn monitors(node: &Node) -> anyhow::Result<BTreeSet<u32>> {
    let own = node.run_dir().join("sandboxes");
    let own = own.to_str().context("odd path")?.to_owned();
    Ok(process::all().into_iter().map(|(pid, _)| pid).filter(|pid| command_line(*pid).contains(&own)).collect())
}

/// Those that run the OCI runtime's own program: a container's processes do not.
fn runtime_processes(binary: &str, among: &BTreeSet<u32>) -> BTreeSet<u32> {
    let identity = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let path = shell::output("sh", &["-c", &format!("command -v {binary}")], "").unwrap_or_default();
    let program = identity(Path::new(path.trim()));
    let runs = |pid: &&u32| program.is_some() && identity(&PathBuf::from(format!("/proc/{pid}/exe"))) == program;
    among.iter().filter(runs).copied().collect()
}

/// Mebibytes: what processes share with others is divided among them.
fn resident(pids: &BTreeSet<u32>) -> f64 {
    pids.iter().map(|pid| process::pss_kilobytes(*pid)).sum::<f64>() / 1024.0
}
