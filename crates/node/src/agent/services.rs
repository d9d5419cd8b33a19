//! The node's services beside its pods: heartbeat and node port. One that ends with an error is begun again.

use super::Options;
use crate::{
    collection::{self, Collector},
    eviction::{self, Ask, Evictor, Pressure},
    heartbeat, log_rotation,
    pod::act::Actor,
    port,
    static_pods::ledger::Ledger,
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// Between two beginnings of a service that fails.
const AGAIN: Duration = Duration::from_secs(2);

/// What the services and the agent tell each other.
pub(super) struct Told {
    /// What eviction asks.
    pub(super) asks: mpsc::Sender<Ask>,
    /// What eviction has found.
    pub(super) pressure: watch::Sender<Pressure>,
    /// Whether the machine is shutting down.
    pub(super) shutdown: watch::Receiver<bool>,
}

impl Options {
    fn collector(&self, actor: &Actor) -> Collector {
        Collector::new(collection::Options {
            cri: self.cri.clone(),
            client: self.client.clone(),
            node_name: self.node_name.clone(),
            policy: self.collection,
            checkpoints: actor.checkpoints.clone(),
            static_pods: Ledger::of_node(&self.data_dir),
            recorder: actor.recorder.clone(),
            pulls: actor.pulls.clone(),
            records: actor.records.clone(),
            clock: actor.clock,
        })
    }

    /// Begins the services in the background.
    pub(super) fn serve_node(
        self,
        actor: &Arc<Actor>,
        Told { asks, pressure, shutdown }: Told,
        background: &mut JoinSet<()>,
        cancel: CancellationToken,
    ) {
        let collector = self.collector(actor);
        let (pressed, evictions) = (pressure.subscribe(), eviction::Metrics::default());
        let evictor = Evictor::new(eviction::Options {
            policy: self.eviction.clone(),
            actor: actor.clone(),
            collector: collector.clone(),
            agent: asks,
            pressure,
            metrics: evictions.clone(),
        });
        background.spawn(evictor.run(cancel.clone()));
        background.spawn(log_rotation::run(self.logs, actor.clone(), cancel.clone()));
        let board = actor.pulls.board.clone();
        let (metrics, records) = (actor.pulls.metrics.clone(), actor.records.clone());
        background.spawn(collector.clone().run(cancel.clone()));
        let beat = heartbeat::Options {
            client: self.client.clone(),
            cri: self.cri.clone(),
            node_name: self.node_name.clone(),
            node_ip: self.node_ip,
            node_external_ip: self.node_external_ip,
            port: self.listener.local_addr().map_or(0, |address| address.port()),
            pod_cidr: self.pod_cidr.clone(),
            max_pods: self.max_pods,
            images_max: self.status_images_max,
            pressure: pressed,
            shutdown,
            data_dir: self.data_dir.clone(),
            pulse: actor.pulse.clone(),
            state: actor.runtime_state.clone(),
            clock: actor.clock,
        };
        background.spawn(heartbeat::run(beat, watch::Sender::new(false), cancel.clone()));
        let hooks = actor.hooks.clone();
        background.spawn(async move {
            while !cancel.is_cancelled() {
                let Ok(listener) = self.listener.try_clone() else { return };
                let options = port::Options {
                    listener,
                    tls: self.tls.clone(),
                    client: self.client.clone(),
                    cri: self.cri.clone(),
                    node_name: self.node_name.clone(),
                    board: board.clone(),
                    metrics: metrics.clone(),
                    evictions: evictions.clone(),
                    records: records.clone(),
                    collector: collector.clone(),
                    hooks: hooks.clone(),
                };
                if let Err(error) = port::serve(options, cancel.clone()).await {
                    tracing::error!(%error, "the node port ended; it is begun again");
                }
                cancel.run_until_cancelled(tokio::time::sleep(AGAIN)).await;
            }
        });
    }
}
