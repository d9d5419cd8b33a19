//! What the node remembers of lifecycle hooks: every run of them, and their numbers (HOOK-15, HOOK-65, HOOK-66).
//!
//! Owns the shape of a run, its place on disk and its bounds. What a hook printed is kept here and nowhere else: it is in
//! no event, no log and no status. Must not run hooks: that is `pod::hook`. Start at [`journal::Journal`].

pub mod journal;
pub mod metrics;
mod page;
pub mod run;

use crate::object::Pod;
use jiff::Timestamp;
use run::{Begun, Ended, Handler, Moment};
use std::sync::Arc;

/// A run under way. Dropped without [`Running::end`] it counts as abandoned.
#[derive(Debug)]
pub struct Running {
    entry: Option<journal::Running>,
    metrics: Arc<metrics::Metrics>,
    hook: Moment,
    handler: Handler,
}

/// What all hooks of the node share. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Hooks {
    /// The runs.
    pub journal: journal::Journal,
    /// The numbers.
    pub metrics: Arc<metrics::Metrics>,
}

impl Hooks {
    /// With an empty count of everything.
    pub fn new(journal: journal::Journal) -> Self {
        Self { journal, metrics: Arc::default() }
    }
}

impl Hooks {
    /// A run begins: it is on disk when this returns.
    pub fn begin(&self, pod: &Pod, begun: Begun, deadline: Option<Timestamp>) -> Running {
        let (hook, handler) = (begun.hook, begun.handler);
        let entry = Some(self.journal.begin(pod, begun, deadline));
        Running { entry, metrics: self.metrics.clone(), hook, handler }
    }
}

impl Running {
    /// It ended.
    pub fn end(mut self, ended: Ended) {
        self.close(Some(ended));
    }

    fn close(&mut self, ended: Option<Ended>) {
        if let Some(entry) = self.entry.take() {
            let (outcome, took) = entry.end(ended);
            self.metrics.ran(self.hook, self.handler, outcome, took);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.close(None);
    }
}
