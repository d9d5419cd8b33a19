//! The round of eviction: look, decide, free or evict, tell; every ten seconds, at once after a pod went.
//!
//! Start at [`Evictor::run`].

use super::{
    act::{self, Ask},
    decide::{self, Plan, Step, decide},
    measure::{self, Gauge},
    metrics::Metrics,
    policy::Policy,
    signal::{Pressure, Signal},
    view::{Candidate, Memory, View},
};
use crate::{collection::Collector, event::Target, pod::act::Actor};
use std::{sync::Arc, time::Duration};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Between two rounds.
const PERIOD: Duration = Duration::from_secs(10);
/// A round has at most so many steps: free, measure, evict.
const STEPS_MAX: usize = 4;

/// What eviction needs.
pub struct Options {
    /// The settings.
    pub policy: Policy,
    /// The runtime, the machine, the events.
    pub actor: Arc<Actor>,
    /// Removes images.
    pub collector: Collector,
    /// The agent, who owns the pods.
    pub agent: mpsc::Sender<Ask>,
    /// Where the conditions of the node are told.
    pub pressure: watch::Sender<Pressure>,
    /// The numbers.
    pub metrics: Metrics,
}

/// Evicts pods when the node runs short.
pub struct Evictor {
    options: Options,
    gauge: Gauge,
    memory: Memory,
}

impl Evictor {
    /// An evictor that remembers nothing yet.
    pub fn new(options: Options) -> Self {
        Self { options, gauge: Gauge::default(), memory: Memory::default() }
    }

    /// Watches over the node until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        if self.options.policy.is_off() {
            return;
        }
        // What is there now is old, so that only what comes later is too young to go.
        if let Some(Err(error)) = cancel.run_until_cancelled(self.options.collector.plan()).await {
            tracing::debug!(%error, "images are not looked at yet");
        }
        while let Some(went) = cancel.run_until_cancelled(self.round()).await {
            if !went && cancel.run_until_cancelled(tokio::time::sleep(PERIOD)).await.is_none() {
                return;
            }
        }
    }

    /// One round; true if a pod went.
    pub async fn round(&mut self) -> bool {
        let (seen, layout) = self.gauge.look(&self.options.actor).await;
        let (mut freed, mut candidates, mut told) = (None, None::<Vec<Candidate>>, false);
        for _ in 0..STEPS_MAX {
            let view = View {
                policy: &self.options.policy,
                layout,
                memory: &self.memory,
                seen: &seen,
                freed: freed.as_ref(),
                candidates: candidates.as_deref(),
            };
            let Plan { memory, pressure, starved, step } = decide(&view, self.options.actor.clock.now());
            self.publish(pressure);
            if let Some(signal) = starved.filter(|_| !std::mem::replace(&mut told, true)) {
                let message = format!("Attempting to reclaim {}", signal.resource().name());
                self.options.actor.recorder.warning(self.node(), "EvictionThresholdMet", message);
            }
            match step {
                Step::Free(what) => {
                    act::free(&self.options.actor, &self.options.agent, &self.options.collector, what).await;
                    freed = Some(self.gauge.look(&self.options.actor).await.0);
                }
                Step::Measure(resource) => {
                    let Some(pods) = act::ask(&self.options.agent, Ask::Pods).await.flatten() else {
                        self.memory = memory;
                        return false;
                    };
                    candidates = Some(measure::candidates(&self.options.actor, pods, resource).await);
                }
                Step::Evict(eviction) => {
                    self.memory = memory;
                    return self.evict(eviction, starved, candidates.unwrap_or_default()).await;
                }
                Step::Nobody => {
                    tracing::warn!(?starved, "no pod can be evicted");
                    self.memory = memory;
                    return false;
                }
                Step::Rest => {
                    self.memory = memory;
                    return false;
                }
            }
        }
        false
    }

    async fn evict(&self, eviction: decide::Eviction, starved: Option<Signal>, candidates: Vec<Candidate>) -> bool {
        let Some(candidate) = candidates.into_iter().find(|candidate| candidate.pod.uid() == eviction.uid) else {
            return false;
        };
        let went = act::evict(&self.options.actor, &self.options.agent, &candidate.pod, eviction).await;
        if let Some(signal) = starved.filter(|_| went) {
            self.options.metrics.evicted(signal);
        }
        went
    }

    /// Tells the node's conditions, and each change of them as an event.
    fn publish(&self, pressure: Pressure) {
        let name = &self.options.actor.ctx.node_name;
        for (condition, holds) in decide::changes(&self.options.pressure.borrow(), &pressure) {
            let reason = condition.event(holds);
            self.options.actor.recorder.normal(self.node(), reason, format!("Node {name} status is now: {reason}"));
        }
        self.options.pressure.send_if_modified(|known| std::mem::replace(known, pressure.clone()) != pressure);
    }

    fn node(&self) -> Target {
        Target::node(&self.options.actor.ctx.node_name)
    }
}
