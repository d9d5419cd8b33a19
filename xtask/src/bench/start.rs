//! From POST to Running as a watch sees it, beside a bare `runc run` of the same bundle.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;

use super::node::{Node, RUN_DIR};
use super::{Sample, process};
use xtask::shell;

const AT_ONCE: u32 = 50;
const ROUNDS: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(60);
/// A process that was just started gets so long to take up its signals.
pub const SETTLE: Duration = Duration::from_millis(100);

/// Measures with `runc` on both sides.
pub fn run(sampan: Option<&Path>, pods: u32) -> anyhow::Result<()> {
    let handler = "runc";
    let node = Node::start(sampan, handler)?;
    let result = tokio::runtime::Runtime::new()?.block_on(measure(&node, handler, pods));
    node.down()?;
    node.registry.stop()?;
    result
}

async fn measure(node: &Node, handler: &str, pods: u32) -> anyhow::Result<()> {
    println!("up --detach to Ready (warm)      {:.0} ms", node.up.as_secs_f64() * 1000.0);
    println!("memory, idle                     {:.1} MB PSS", node.pss_megabytes());
    let api: Api<Pod> = Api::default_namespaced(kube::Client::try_from(node.config().await?)?);
    // The first pod pulls the image; its bundle is what the bare runtime runs.
    start_one(&api, node, ("warm", None)).await?;
    let bundle = bundle(&node.run_dir())?;
    let runtime = Bare { handler, arguments: &[], bundle: &bundle };
    let bare = runtime.runs(20)?;
    remove(&api, "warm").await?;
    println!("bare {handler} run                    {}", bare.text());
    let (cpu, mut times) = (node.cpu(), Vec::new());
    for nth in 0..pods {
        let name = format!("one-{nth}");
        times.push(start_one(&api, node, (&name, None)).await?);
        remove(&api, &name).await?;
    }
    let (ours, unit) = (Sample::of(times), bare.quantile(0.5));
    println!("POST to Running, one by one      {}   {:.1} x bare", ours.text(), ours.quantile(0.5) / unit);
    println!(
        "CPU time, start and end          {:.1} ms a pod",
        (node.cpu() - cpu).as_secs_f64() * 1000.0 / f64::from(pods)
    );
    let mut ratios = Vec::new();
    for round in 1..=ROUNDS {
        // The machine's pace changes from minute to minute: the bare runtime is measured right before.
        let unit = runtime.runs(20)?.quantile(0.5);
        let took = start_many(&api, node).await?.as_secs_f64() * 1000.0;
        println!(
            "{AT_ONCE} pods at once, round {round}         {took:.0} ms   {:.1} x bare ({unit:.1} ms)",
            took / unit
        );
        ratios.push(took / unit);
        if round == ROUNDS {
            println!("memory, {AT_ONCE} pods                  {:.1} MB PSS", node.pss_megabytes());
        }
        for nth in 0..AT_ONCE {
            api.delete(&many(nth), &DeleteParams::default().grace_period(1)).await?;
        }
        until_none(&api).await?;
    }
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios[ratios.len() / 2];
    println!(
        "{AT_ONCE} pods at once, median          {ratio:.1} x bare, {:.2} x bare a pod",
        ratio / f64::from(AT_ONCE)
    );
    Ok(())
}

fn many(nth: u32) -> String {
    format!("many-{nth}")
}

async fn until_none(api: &Api<Pod>) -> anyhow::Result<()> {
    let began = Instant::now();
    while !api.list(&Default::default()).await?.items.is_empty() {
        if began.elapsed() > PATIENCE {
            bail!("pods are left");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn pod(name: &str, image: &str, class: Option<&str>) -> anyhow::Result<Pod> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"runtimeClassName": class, "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": image, "command": ["sleep", "3600"]}]},
    }))?)
}

/// Whether its phase is Running.
pub fn running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

/// Creates a pod that only waits, and waits until it is Running.
pub async fn start_one(api: &Api<Pod>, node: &Node, (name, class): (&str, Option<&str>)) -> anyhow::Result<Duration> {
    start(api, &pod(name, &node.image(), class)?).await
}

/// Creates a pod and waits until a watch that was open before shows it Running.
pub async fn start(api: &Api<Pod>, wanted: &Pod) -> anyhow::Result<Duration> {
    let name = wanted.metadata.name.as_deref().context("the pod has no name")?;
    let since = api.list(&Default::default()).await?.metadata.resource_version.context("the list has no version")?;
    let mut watch = api.watch(&WatchParams::default().fields(&format!("metadata.name={name}")), &since).await?.boxed();
    let began = Instant::now();
    api.create(&PostParams::default(), wanted).await?;
    let wait = async {
        while let Some(event) = watch.try_next().await? {
            if matches!(&event, WatchEvent::Modified(pod) if running(pod)) {
                return anyhow::Ok(began.elapsed());
            }
        }
        bail!("the watch ended before {name} was Running")
    };
    tokio::time::timeout(PATIENCE, wait).await.with_context(|| format!("{name} is not Running"))?
}

async fn start_many(api: &Api<Pod>, node: &Node) -> anyhow::Result<Duration> {
    let since = api.list(&Default::default()).await?.metadata.resource_version.context("the list has no version")?;
    let mut watch = api.watch(&WatchParams::default(), &since).await?.boxed();
    let began = Instant::now();
    let image = node.image();
    let creates = (0..AT_ONCE).map(|nth| {
        let image = image.clone();
        async move { anyhow::Ok(api.create(&PostParams::default(), &pod(&many(nth), &image, None)?).await?) }
    });
    let created = futures_util::future::try_join_all(creates);
    let all = async {
        let mut up = std::collections::BTreeSet::new();
        while let Some(event) = watch.try_next().await? {
            if let WatchEvent::Modified(pod) = event
                && running(&pod)
            {
                up.extend(pod.metadata.name);
            }
            if up.len() == AT_ONCE as usize {
                return anyhow::Ok(began.elapsed());
            }
        }
        bail!("the watch ended with {} pods Running", up.len())
    };
    let (created, took) = tokio::join!(created, tokio::time::timeout(PATIENCE, all));
    created?;
    took.context("not all pods are Running")?
}

pub async fn remove(api: &Api<Pod>, name: &str) -> anyhow::Result<()> {
    api.delete(name, &DeleteParams::default().grace_period(1)).await?;
    let began = Instant::now();
    while api.get_opt(name).await?.is_some() {
        if began.elapsed() > PATIENCE {
            bail!("{name} is not gone");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// A copy of a running container's bundle that needs nothing of ours: own namespaces, own root file system.
pub fn bundle(run_dir: &Path) -> anyhow::Result<PathBuf> {
    let source = std::fs::read_dir(run_dir.join("containers"))?.flatten().next().context("no container runs")?.path();
    let copy = PathBuf::from("/var/tmp/sampan-bench/bare");
    let _ = std::fs::remove_dir_all(&copy);
    std::fs::create_dir_all(&copy)?;
    let (from, to) = (source.join("rootfs"), copy.join("rootfs"));
    shell::run("cp", &["-a", from.to_str().context("odd path")?, to.to_str().context("odd path")?])?;
    let mut spec: serde_json::Value = serde_json::from_slice(&std::fs::read(source.join("config.json"))?)?;
    spec["root"]["path"] = json!("rootfs");
    spec["process"]["terminal"] = json!(false);
    spec["linux"]["cgroupsPath"] = json!("/sampan-bench-bare");
    // The share of a pod that asks for nothing is the least there is: on a busy machine it would measure the others.
    if let Some(resources) = spec["linux"]["resources"].as_object_mut() {
        resources.remove("cpu");
    }
    for namespace in spec["linux"]["namespaces"].as_array_mut().context("no namespaces")? {
        namespace.as_object_mut().context("odd namespace")?.remove("path");
    }
    let bound = |mount: &serde_json::Value| mount["type"] == "bind";
    spec["mounts"].as_array_mut().context("no mounts")?.retain(|mount| !bound(mount));
    std::fs::write(copy.join("config.json"), spec.to_string())?;
    Ok(copy)
}

/// A runtime without us: a bundle that it runs by itself.
pub struct Bare<'a> {
    /// Its program.
    pub handler: &'a str,
    /// Global arguments.
    pub arguments: &'a [&'a str],
    /// From [`bundle`].
    pub bundle: &'a Path,
}

impl Bare<'_> {
    /// Times of `run --detach`.
    pub fn runs(&self, times: u32) -> anyhow::Result<Sample> {
        let mut sample = Vec::new();
        for nth in 0..times {
            let id = format!("sampan-bench-{nth}");
            sample.push(self.start(&id, None)?);
            self.delete(&id)?;
        }
        Ok(Sample::of(sample))
    }

    /// Looks at a container while it runs, by the pid that the runtime tells.
    pub fn while_running<T>(&self, look: impl FnOnce(u32) -> T) -> anyhow::Result<T> {
        let file = PathBuf::from(format!("{RUN_DIR}/bare.pid"));
        self.start("sampan-bench", Some(&file))?;
        let pid = std::fs::read_to_string(&file)?.trim().parse()?;
        let seen = look(pid);
        self.delete("sampan-bench")?;
        std::fs::remove_file(file)?;
        Ok(seen)
    }

    fn global(&self) -> std::process::Command {
        let mut command = std::process::Command::new(self.handler);
        command.args(["--root", &format!("{RUN_DIR}/bare-{}", self.handler)]).args(self.arguments);
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        command
    }

    /// Times of `exec` of a command in a container that runs meanwhile.
    pub fn execs(&self, command: &[&str], times: u32) -> anyhow::Result<Sample> {
        self.start("sampan-bench", None)?;
        let mut sample = Vec::new();
        for _ in 0..times {
            let began = Instant::now();
            let status = self.global().args(["exec", "sampan-bench"]).args(command).status()?;
            sample.push(began.elapsed());
            if !status.success() {
                bail!("bare {} exec ended with {status}", self.handler);
            }
        }
        self.delete("sampan-bench")?;
        Ok(Sample::of(sample))
    }

    /// Times of `kill` until the process has ended, and `delete` after it.
    pub fn ends(&self, times: u32) -> anyhow::Result<Sample> {
        let file = PathBuf::from(format!("{RUN_DIR}/bare.pid"));
        let mut sample = Vec::new();
        for _ in 0..times {
            self.start("sampan-bench", Some(&file))?;
            let pid = std::fs::read_to_string(&file)?.trim().parse()?;
            // Its first process heeds the signal once it has a child to wait for.
            while process::descendants(pid).len() < 2 {
                std::thread::sleep(SETTLE / 10);
            }
            let began = Instant::now();
            let status = self.global().args(["kill", "sampan-bench", "TERM"]).status()?;
            if !status.success() {
                bail!("bare {} kill ended with {status}", self.handler);
            }
            while process::is_alive(pid) {
                if began.elapsed() > PATIENCE {
                    bail!("the bare container does not end");
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            self.delete("sampan-bench")?;
            sample.push(began.elapsed());
        }
        std::fs::remove_file(file)?;
        Ok(Sample::of(sample))
    }

    fn start(&self, id: &str, pid_file: Option<&Path>) -> anyhow::Result<Duration> {
        let mut command = self.global();
        command.args(["run", "--detach", "--bundle"]).arg(self.bundle);
        if let Some(file) = pid_file {
            command.arg("--pid-file").arg(file);
        }
        let began = Instant::now();
        let status = command.arg(id).status()?;
        let took = began.elapsed();
        if !status.success() {
            bail!("bare {} run ended with {status}", self.handler);
        }
        Ok(took)
    }

    fn delete(&self, id: &str) -> anyhow::Result<()> {
        let status = self.global().args(["delete", "--force", id]).status()?;
        if !status.success() {
            bail!("bare {} delete ended with {status}", self.handler);
        }
        Ok(())
    }
}
