//! A control plane under thousands of pods on two hundred hollow nodes: how fast pods are made, what reading costs
//! meanwhile and afterwards, how memory grows. Four times the pods may take four times as long, not more.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::{Client, Config};
use serde_json::json;

use super::disk::Disk;
use super::{Sample, hollow, node, process};

/// The nodes; and the pods of one set.
const NODES: usize = 200;
const PODS_OF_SET: usize = 25;
/// Sets that are made at a time.
const AT_ONCE: usize = 8;
const LISTEN: &str = "127.0.0.1:16443";
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(50);
/// How often each way of reading is tried.
const READS: usize = 11;
/// Objects of a page, as kubectl asks for.
const PAGE: u32 = 500;
/// After this, memory that is no longer needed should have gone back.
const SETTLES: Duration = Duration::from_secs(25);

/// A quarter of the pods, then all.
pub fn run(sampan: Option<&Path>, pods: usize) -> anyhow::Result<()> {
    let plane = ControlPlane::start(sampan)?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let config = plane.config().await?;
        let client = Client::try_from(config.clone())?;
        println!("memory, idle                     {:.1} MB PSS", plane.pss_megabytes());
        let began = Instant::now();
        let nodes = hollow::start(&config, NODES).await?;
        println!("{NODES} nodes registered in           {:.1} s", began.elapsed().as_secs_f64());
        println!("memory, {NODES} nodes                {:.1} MB PSS", plane.pss_megabytes());
        let few = round(&client, &plane, pods / 4).await?;
        let many = round(&client, &plane, pods).await?;
        let grown = many.as_secs_f64() / few.as_secs_f64();
        println!("growth   4 times the pods take {grown:.2} times as long");
        drop(nodes);
        Ok(())
    })
}

/// `sampan server` in a directory of its own; ends with this value.
struct ControlPlane {
    process: Child,
    disk: Disk,
    run_dir: PathBuf,
}

impl ControlPlane {
    fn start(sampan: Option<&Path>) -> anyhow::Result<ControlPlane> {
        let sampan = sampan.map_or_else(node::release, |given| Ok(given.to_owned()))?;
        let disk = Disk::mount(Path::new("/var/tmp/sampan-bench/disk"))?;
        let run_dir = PathBuf::from("/dev/shm/sampan-bench-server");
        let log = std::fs::File::create("/var/tmp/sampan-bench/server.log")?;
        let mut command = Command::new(sampan);
        command.args(["server", "--no-merge-kubeconfig", "--log", "warn", "--listen", LISTEN, "--data-dir"]);
        command.arg(disk.directory().join("data")).arg("--run-dir").arg(&run_dir);
        let process = command.stdout(log.try_clone()?).stderr(log).spawn().context("start sampan server")?;
        Ok(ControlPlane { process, disk, run_dir })
    }

    /// The administrator's, once the server is there for him.
    async fn config(&self) -> anyhow::Result<Config> {
        let file = self.disk.directory().join("data/admin.kubeconfig");
        let ready = async {
            loop {
                if let Ok(read) = kube::config::Kubeconfig::read_from(&file)
                    && let Ok(config) = Config::from_custom_kubeconfig(read, &Default::default()).await
                    && Client::try_from(config.clone())?.apiserver_version().await.is_ok()
                {
                    return anyhow::Ok(config);
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(PATIENCE, ready).await.context("the server does not start; its log: server.log")?
    }

    fn pss_megabytes(&self) -> f64 {
        process::pss_kilobytes(self.process.id()) / 1000.0
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.run_dir);
    }
}

/// Makes, reads and deletes so many pods; says how long until the last set knew that all its pods are available.
async fn round(client: &Client, plane: &ControlPlane, pods: usize) -> anyhow::Result<Duration> {
    let name = format!("load-{pods}");
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), &name);
    let namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
    namespaces.create(&PostParams::default(), &namespace).await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &name);
    until("the default account", async || Ok(accounts.get_opt("default").await?.is_some())).await?;
    println!("{pods} pods");
    let began = Instant::now();
    let work = async {
        make(&sets, pods / PODS_OF_SET).await?;
        until("making pods", async || Ok(sum(&sets, |status| Some(status.replicas)).await? == pods)).await?;
        let made = began.elapsed();
        println!("  made                           {:.1} s, {:.0} a second", made.as_secs_f64(), rate(pods, made));
        until("pods that run", async || Ok(sum(&sets, |status| status.available_replicas).await? == pods)).await?;
        anyhow::Ok(began.elapsed())
    };
    let (known, gets) = beside(client, work).await?;
    println!("  bound, run, known as available {:.1} s, {:.0} a second", known.as_secs_f64(), rate(pods, known));
    println!("  GET of one object meanwhile    {}", gets.text());
    read(client).await?;
    println!("  memory                         {:.1} MB PSS", plane.pss_megabytes());
    let began = Instant::now();
    namespaces.delete(&name, &DeleteParams::default()).await?;
    until("the end", async || Ok(namespaces.get_opt(&name).await?.is_none())).await?;
    println!("  deleted with their namespace   {:.1} s", began.elapsed().as_secs_f64());
    println!("  memory afterwards              {:.1} MB PSS", plane.pss_megabytes());
    tokio::time::sleep(SETTLES).await;
    println!("  memory {} s later              {:.1} MB PSS", SETTLES.as_secs(), plane.pss_megabytes());
    Ok(known)
}

fn rate(pods: usize, took: Duration) -> f64 {
    pods as f64 / took.as_secs_f64()
}

async fn make(sets: &Api<ReplicaSet>, count: usize) -> anyhow::Result<()> {
    let wanted = (0..count).map(|nth| {
        let (name, labels) = (format!("set-{nth}"), json!({"app": format!("set-{nth}")}));
        let spec = json!({"containers": [{"name": "c", "image": "example.com/hollow:1"}]});
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {
            "replicas": PODS_OF_SET, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        }}))
    });
    let wanted: Vec<ReplicaSet> = wanted.collect::<Result<_, _>>()?;
    let parameters = PostParams::default();
    let creates = stream::iter(wanted.iter().map(|set| sets.create(&parameters, set)));
    Ok(creates.buffer_unordered(AT_ONCE).try_for_each(|_| async { Ok(()) }).await?)
}

type Status = k8s_openapi::api::apps::v1::ReplicaSetStatus;

async fn sum(sets: &Api<ReplicaSet>, field: impl Fn(&Status) -> Option<i32>) -> anyhow::Result<usize> {
    let counts = sets.list(&ListParams::default()).await?.items.into_iter();
    let counts = counts.filter_map(|set| usize::try_from(set.status.as_ref().and_then(&field)?).ok());
    Ok(counts.sum())
}

async fn until(what: &str, is: impl AsyncFn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    while !is().await? {
        if Instant::now() > end {
            bail!("{what}: not within {PATIENCE:?}");
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// What somebody else's requests take while the work goes on.
async fn beside<T>(client: &Client, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<(T, Sample)> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let mut times = Vec::new();
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok((done?, Sample::of(times))),
            () = tokio::time::sleep(LOOK) => {
                let began = Instant::now();
                namespaces.get("kube-system").await?;
                times.push(began.elapsed());
            }
        }
    }
}

/// Reads all pods in the ways that clients do.
async fn read(client: &Client) -> anyhow::Result<()> {
    let lists = [("list of all", ListParams::default()), ("page of 500", ListParams::default().limit(PAGE))];
    for (what, parameters) in lists {
        let (mut times, mut bytes) = (Vec::new(), 0);
        for _ in 0..READS {
            let request = kube::core::Request::new("/api/v1/pods").list(&parameters)?;
            let began = Instant::now();
            bytes = client.request_text(request).await?.len();
            times.push(began.elapsed());
        }
        println!("  {what:<30} {}, {:.1} MB", Sample::of(times).text(), bytes as f64 / 1e6);
    }
    let (pods, mut times): (Api<Pod>, _) = (Api::all(client.clone()), Vec::new());
    for nth in 0..READS {
        let one = ListParams::default().fields(&format!("spec.nodeName=hollow-{nth}"));
        let began = Instant::now();
        pods.list(&one).await?;
        times.push(began.elapsed());
    }
    println!("  list of one node's             {}", Sample::of(times).text());
    Ok(())
}
