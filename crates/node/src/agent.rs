//! The agent of one node: watches its pods in the API and the runtime's events, and gives each pod a task.
//!
//! Owns the map of pods, the way of news to their tasks, the removal of what belongs to no pod, and `drain`. Must not
//! decide anything about a single pod. Cancelling [`run`] ends the agent only: containers run on, and the next run finds
//! them again. Start at [`run`], then `Agent::turn`.

mod admission;
mod asks;
mod breaks;
mod drain;
mod housekeeping;
mod options;
mod pods;
mod preemption;
mod runtime;
mod services;
mod shutdown;
mod statics;

pub use drain::drain;
pub use options::{DrainOptions, Error, Options};

use crate::{
    cgroups::Cgroups,
    config,
    credentials::{Credentials, Places},
    event::{Recorder, Writer},
    eviction::Pressure,
    heartbeat::{Pulse, RuntimeState},
    image::{Pulls, probe, watch},
    pod::{
        act::{Actor, limited, rpc, rpc_text},
        checkpoint::Checkpoints,
        clock::Clock,
    },
    probes::Probes,
    records::Records,
    static_pods::{self, ledger::Ledger, mirror},
    volumes::{Sources, Volumes},
};
use cri::v1;
use futures_util::StreamExt as _;
use pods::Pods;
use shutdown::Shutdown;
use statics::Statics;
use std::{path::Path, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch as watch_channel},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// The safety net under the runtime's events.
const RELIST: Duration = Duration::from_secs(10);
/// Questions of eviction that wait.
const ASKS_MAX: usize = 4;
/// Listing images at the start.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs the agent until cancelled.
///
/// # Errors
/// Only what makes the node unable to start at all: its directories, its cgroups.
pub async fn run(options: Options, cancel: CancellationToken) -> Result<(), Error> {
    let (actor, writer, failed) = actor(&options.for_drain()).await?;
    let mut background = JoinSet::new();
    background.spawn(writer.run(options.client.clone()));
    background.spawn(watch::run(actor.cri.clone(), actor.pulls.board.clone(), actor.clock, cancel.clone()));
    background.spawn(actor.pulls.causes.clone().pass_on(actor.credentials.changes()));
    background.spawn(probe::run(failed, actor.pulls.causes.clone(), actor.clock, cancel.clone()));
    let (probes, mut probe_reports) = Probes::new(actor.cri.clone(), actor.clock, actor.recorder.clone());
    background.spawn(actor.credentials.clone().watch());
    settle_pulls(&actor).await;
    let (pressure, pressed) = watch_channel::channel(Pressure::new());
    let (asks, mut asked) = mpsc::channel(ASKS_MAX);
    let ledger = ledger(&options.data_dir)?;
    let known = ledger.all();
    let statics = Statics::new(ledger, options.static_pods.origins());
    background.spawn(mirror::keep(options.client.clone(), options.node_name.clone(), actor.clock, statics.mirrors()));
    let mut updates =
        static_pods::watch(&options.static_pods, &options.node_name, actor.clock, &known, &mut background);
    let mut agent = Pods::new(actor.clone(), probes, options.max_pods, pressed, statics);
    agent.shutdown = Shutdown::new(options.shutdown.clone());
    let mut heard = agent.shutdown.listen(&mut background, &cancel);
    agent.hear_first(&mut heard).await;
    agent.settle_statics();
    let mut watch = std::pin::pin!(pods::watch(&options.client, &options.node_name));
    let told = services::Told { asks, pressure, shutdown: agent.shutdown.announced() };
    options.serve_node(&actor, told, &mut background, cancel.clone());
    let mut events = runtime::subscribe(actor.cri.clone(), cancel.clone(), &mut background);
    let mut tick = tokio::time::interval(RELIST);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let pause = agent.shutdown_pause();
        tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            Some(change) = watch.next() => agent.take_change(change),
            Some(update) = updates.recv() => agent.take_update(update),
            Some(event) = events.recv() => agent.take_event(event),
            Some(report) = probe_reports.recv() => agent.take_report(report),
            Some(ended) = agent.ended() => agent.take_ended(ended),
            Some(ask) = asked.recv() => agent.take_ask(ask),
            Some(news) = heard.recv() => agent.take_shutdown_news(news),
            () = shutdown::rest(pause) => agent.look_at_shutdown(),
            _ = tick.tick() => agent.housekeep(),
        }
    }
    agent.shut_down().await;
    background.shutdown().await;
    Ok(())
}

/// IMG-239: what an earlier agent was pulling when it ended is verified, before a pod asks for it.
async fn settle_pulls(actor: &Actor) {
    let request = limited(v1::ListImagesRequest { filter: None }, LIST_TIMEOUT);
    match rpc(actor.cri.images.clone().list_images(request)).await {
        Ok(answer) => actor.records.reconcile(&answer.into_inner().images).await,
        Err(status) => tracing::warn!(error = rpc_text(&status), "interrupted pulls are not settled"),
    }
}

/// The static pods that were begun.
fn ledger(data_dir: &Path) -> Result<Ledger, Error> {
    Ledger::open(data_dir).map_err(|source| Error::Directory { path: data_dir.to_owned(), source })
}

/// What all actions share.
async fn actor(options: &DrainOptions) -> Result<(Arc<Actor>, Writer, probe::Failed), Error> {
    let cpu_milli = options::cpu_milli();
    let cgroups = Cgroups::new(&options.cgroup_top, cpu_milli).map_err(|error| Error::Cgroups(error.to_string()))?;
    let ctx = Arc::new(options.context(&cgroups, cpu_milli));
    let (recorder, writer) = Recorder::new(&options.node_name);
    let sources = Sources::new(options.client.clone());
    let checkpoints = Checkpoints::open(&options.data_dir.join("node/pods"))
        .map_err(|source| Error::Directory { path: options.data_dir.join("node/pods"), source })?;
    let hooks = options.hooks(&checkpoints)?;
    let (pulls, failed) = Pulls::new(options.pull_limits, Clock::System);
    let places = Places::of_node(&options.data_dir);
    let credentials = Credentials::open(sources.clone(), places, options.credentials.clone())?;
    let records = Records::open(&options.data_dir.join("image_manager"), options.verification.clone(), Clock::System)?;
    let actor = Actor {
        cri: options.cri.clone(),
        runtime_name: runtime::name(&options.cri).await,
        client: options.client.clone(),
        ctx: ctx.clone(),
        volumes: Volumes::new(sources, ctx.clone()),
        cgroups,
        credentials,
        checkpoints,
        recorder,
        pulls,
        records,
        images_with_handler: options.images_with_handler,
        clock: Clock::System,
        runtime_class_fails_pod: options.runtime_class_fails_pod,
        hooks,
        crash_back_off: options.crash_back_off,
        pulse: Pulse::new(Clock::System.now()),
        runtime_state: watch_channel::Sender::new(RuntimeState::default()),
    };
    Ok((Arc::new(actor), writer, failed))
}

impl DrainOptions {
    fn context(&self, cgroups: &Cgroups, cpu_milli: i64) -> config::Context {
        let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        config::Context {
            node_name: self.node_name.clone(),
            host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            node_ips: vec![self.node_ip],
            data_dir: self.data_dir.clone(),
            log_dir: self.log_dir.clone(),
            cgroup_top: self.cgroup_top.clone(),
            cgroup_v2: cgroups.is_v2(),
            resolv_conf: config::ResolvConf::parse(&resolv_conf),
            cluster_dns: self.cluster_dns.clone(),
            cluster_domain: self.cluster_domain.clone(),
            cpu_milli,
            memory_bytes: options::memory_bytes(),
            storage_bytes: options::storage_bytes(&self.data_dir),
            api_address: self.api_address,
            api_address_of_host: self.api_address_of_host,
        }
    }
}
