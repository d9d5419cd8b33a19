//! The Node object: registering it, keeping its status true, and renewing its lease.
//!
//! Owns `Node/<name>` (but for what controllers write on it) and `Lease/<name>` in `kube-node-lease`. `facts` reads the
//! machine and the runtime, `status` (pure) turns them into the object. Must not judge pods. Start at [`run`].

mod facts;
mod pulse;
mod state;
mod status;

pub use pulse::Pulse;
pub use state::RuntimeState;

use crate::{eviction::Pressure, pod::clock::Clock};
use api::handlers::ByHandler;
use cri::v1;
use facts::{Machine, Seen};
use http::StatusCode;
use jiff::Timestamp;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Node};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use std::{net::IpAddr, path::PathBuf, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The runtime's status is asked this often (RTC-49).
const LOOK_PERIOD: Duration = Duration::from_secs(5);
/// The lease is renewed this often; it is valid four times as long.
const LEASE_PERIOD: Duration = Duration::from_secs(10);
const LEASE_SECONDS: u64 = 40;
/// It is seen this often whether others changed what the node says of itself: controllers do when they hear nothing of it.
const CHECK_PERIOD: Duration = Duration::from_secs(10);
/// An unchanged status is written again after this, so that its heartbeat times move.
const REPORT_PERIOD: Duration = Duration::from_secs(300);
/// Until the node is ready, what failed is tried again after this.
const RETRY_PERIOD: Duration = Duration::from_millis(200);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// What the heartbeat needs.
#[derive(Clone)]
pub struct Options {
    /// The API, with the node's identity.
    pub client: kube::Client,
    /// The runtime.
    pub cri: cri::Client,
    /// The name of the Node object.
    pub node_name: String,
    /// The node's primary address.
    pub node_ip: IpAddr,
    /// Its external address.
    pub node_external_ip: Option<IpAddr>,
    /// The port of the node's own server.
    pub port: u16,
    /// The addresses of pods.
    pub pod_cidr: String,
    /// At most so many pods.
    pub max_pods: u32,
    /// How many images the status lists; `None` for all.
    pub images_max: Option<usize>,
    /// The conditions that eviction has found.
    pub pressure: watch::Receiver<Pressure>,
    /// Whether the machine is shutting down.
    pub shutdown: watch::Receiver<bool>,
    /// When the runtime was last listed.
    pub pulse: Pulse,
    /// Where those who call the runtime read what it says of itself.
    pub state: watch::Sender<RuntimeState>,
    /// The time.
    pub clock: Clock,
    /// The data directory, whose file system holds the pods' ephemeral storage.
    pub data_dir: PathBuf,
}

/// Why the Node object is not up to date; it is tried again.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the runtime does not answer: {0}")]
    Runtime(String),
    #[error("the API refuses")]
    Api(#[source] Box<kube::Error>),
    #[error("the API does not answer")]
    TimedOut,
}

/// Registers the node and reports until cancelled. `ready` turns true when the API has accepted the first Ready status
/// and follows the node's readiness from then on.
pub async fn run(options: Options, ready: watch::Sender<bool>, cancel: CancellationToken) {
    let mut heart = Heart {
        nodes: Api::all(options.client.clone()),
        leases: Api::namespaced(options.client.clone(), LEASE_NAMESPACE),
        machine: Machine::read(&options.data_dir),
        pressure: options.pressure.clone(),
        shutdown: options.shutdown.clone(),
        options,
        is_registered: false,
        written: None,
        written_at: None,
        checked_at: None,
        lease_at: None,
        figures: ByHandler::new(),
        unready: 0,
    };
    loop {
        let Some(beat) = cancel.run_until_cancelled(heart.beat()).await else { return };
        if let Ok(is_ready) = &beat {
            ready.send_if_modified(|old| std::mem::replace(old, *is_ready) != *is_ready);
        }
        let pause = match beat {
            Ok(true) => LOOK_PERIOD,
            // HOOK-97: nothing is waited for then.
            Ok(false) if *heart.shutdown.borrow() => LOOK_PERIOD,
            Ok(false) => RETRY_PERIOD,
            Err(error) => {
                tracing::warn!(%error, cause = ?std::error::Error::source(&error).map(ToString::to_string), "node not reported");
                if heart.written.is_some() { LOOK_PERIOD } else { RETRY_PERIOD }
            }
        };
        // POD-5: a runtime that is not ready has its own rhythm.
        let pause = if heart.unready > 0 { state::pause(heart.unready) } else { pause };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            Ok(()) = heart.pressure.changed() => {}
            Ok(()) = heart.shutdown.changed() => {}
        }
    }
}

struct Heart {
    options: Options,
    pressure: watch::Receiver<Pressure>,
    shutdown: watch::Receiver<bool>,
    nodes: Api<Node>,
    leases: Api<Lease>,
    machine: Machine,
    is_registered: bool,
    /// The status that the API has, without heartbeat times.
    written: Option<Value>,
    written_at: Option<Timestamp>,
    checked_at: Option<Timestamp>,
    lease_at: Option<Timestamp>,
    /// The handlers' figures that the API has.
    figures: ByHandler,
    /// How often in a row the runtime was not ready.
    unready: u32,
}

impl Heart {
    /// One round: look, report if there is something to report, renew the lease if due. True when the node is Ready.
    async fn beat(&mut self) -> Result<bool, Error> {
        let mut seen = facts::look(&self.options.cri).await.unwrap_or_else(|error| {
            tracing::warn!(error, "the runtime does not answer");
            Seen::default()
        });
        let now = self.options.clock.now();
        seen.unlisted = self.options.pulse.problem(now);
        seen.is_shutting_down = *self.shutdown.borrow_and_update();
        let state = RuntimeState::of(&seen);
        self.unready = if state.is_ready { 0 } else { self.unready.saturating_add(1) };
        self.options.state.send_if_modified(|known| std::mem::replace(known, state.clone()) != state);
        if !self.is_registered {
            self.register(&seen).await?;
        }
        self.report(&seen, now).await?;
        if api::handlers::have_moved(&self.figures, &seen.figures) && !seen.figures.is_empty() {
            // A courtesy too: the node is as ready without it.
            match self.annotate(&seen.figures).await {
                Ok(()) => self.figures = seen.figures.clone(),
                Err(error) => tracing::debug!(%error, "figures of handlers not written"),
            }
        }
        if self.lease_at.is_none_or(|at| is_due(at, now, LEASE_PERIOD)) {
            // A lease that cannot be written yet (its namespace comes up beside us) must not keep the node from Ready.
            match self.renew(now).await {
                Ok(()) => self.lease_at = Some(now),
                Err(error) => tracing::debug!(%error, "lease not renewed"),
            }
        }
        Ok(status::ready(&seen).is_ok())
    }

    /// Creates the Node object, or brings labels and addresses of an old one up to date.
    async fn register(&mut self, seen: &Seen) -> Result<(), Error> {
        let node = status::node(&self.options, &self.machine, seen, &self.pressure.borrow());
        let typed: Node = serde_json::from_value(node.clone()).map_err(|e| Error::Runtime(e.to_string()))?;
        match within(self.nodes.create(&PostParams::default(), &typed)).await {
            Ok(_) => {}
            Err(Error::Api(error)) if has_code(&error, StatusCode::CONFLICT) => {
                let change = json!({ "metadata": { "labels": node["metadata"]["labels"] }, "spec": node["spec"] });
                let (name, change) = (self.options.node_name.clone(), Patch::Merge(change));
                within(self.nodes.patch(&name, &PatchParams::default(), &change)).await?;
            }
            Err(error) => return Err(error),
        }
        self.is_registered = true;
        // An object that somebody deleted took them along.
        self.figures.clear();
        Ok(())
    }

    async fn report(&mut self, seen: &Seen, now: Timestamp) -> Result<(), Error> {
        let pressure = self.pressure.borrow_and_update().clone();
        let bare = status::status(&self.options, &self.machine, seen, &pressure);
        let is_new =
            self.written.as_ref() != Some(&bare) || self.written_at.is_none_or(|at| is_due(at, now, REPORT_PERIOD));
        if !is_new && self.checked_at.is_some_and(|at| !is_due(at, now, CHECK_PERIOD)) {
            return Ok(());
        }
        let known = within(self.nodes.get_opt(&self.options.node_name)).await?;
        let Some(known) = known else {
            // Somebody deleted the node: it is registered anew with the next round.
            self.is_registered = false;
            return Err(Error::Runtime("the Node object was deleted".to_owned()));
        };
        self.checked_at = Some(now);
        let known = serde_json::to_value(known.status.and_then(|s| s.conditions).unwrap_or_default());
        let known = known.unwrap_or(Value::Null);
        if !is_new && status::agrees(&bare, &known) {
            return Ok(());
        }
        let conditions = status::stamped(&bare, &known, now);
        let mut full = bare.clone();
        full["conditions"] = conditions;
        let change = Patch::Merge(json!({ "status": full }));
        within(self.nodes.patch_status(&self.options.node_name, &PatchParams::default(), &change)).await?;
        (self.written, self.written_at) = (Some(bare), Some(now));
        Ok(())
    }

    /// Writes what is known of the handlers onto the Node.
    async fn annotate(&self, figures: &ByHandler) -> Result<(), Error> {
        let text = api::handlers::render(figures);
        let change = Patch::Merge(json!({ "metadata": { "annotations": { (api::handlers::ANNOTATION): text } } }));
        within(self.nodes.patch(&self.options.node_name, &PatchParams::default(), &change)).await.map(drop)
    }

    async fn renew(&self, now: Timestamp) -> Result<(), Error> {
        let name = &self.options.node_name;
        let spec = json!({ "holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": micro(now) });
        let change = Patch::Merge(json!({ "spec": spec }));
        match within(self.leases.patch(name, &PatchParams::default(), &change)).await {
            Err(Error::Api(error)) if has_code(&error, StatusCode::NOT_FOUND) => {
                let lease = json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": { "name": name, "namespace": LEASE_NAMESPACE }, "spec": spec });
                let lease: Lease = serde_json::from_value(lease).map_err(|e| Error::Runtime(e.to_string()))?;
                within(self.leases.create(&PostParams::default(), &lease)).await.map(drop)
            }
            other => other.map(drop),
        }
    }
}

fn is_due(at: Timestamp, now: Timestamp, period: Duration) -> bool {
    // A clock that was set back must not silence the node.
    now < at || Duration::try_from(now.duration_since(at)).is_ok_and(|past| past >= period)
}

/// A time with microseconds, as `MicroTime` wants it.
fn micro(time: Timestamp) -> String {
    format!("{time:.6}")
}

fn has_code(error: &kube::Error, code: StatusCode) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code.as_u16())
}

/// An API call within its time limit.
async fn within<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Error> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Error::Api(Box::new(error))),
        Err(_) => Err(Error::TimedOut),
    }
}

/// A CRI request within the same limit.
fn limited<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// The runtime's conditions by type.
type Conditions = Vec<v1::RuntimeCondition>;
