//! How many pods were evicted, by signal.

use super::signal::Signal;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// The counts. Clones are one.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    evictions: Arc<Mutex<BTreeMap<Signal, u64>>>,
}

impl Metrics {
    /// One more pod went.
    pub fn evicted(&self, signal: Signal) {
        *self.evictions.lock().unwrap_or_else(PoisonError::into_inner).entry(signal).or_default() += 1;
    }

    /// As text for `/metrics`.
    pub fn render(&self) -> String {
        let name = "kubelet_evictions";
        let mut out =
            format!("# HELP {name} Cumulative number of pod evictions by eviction signal\n# TYPE {name} counter\n");
        for (signal, count) in self.evictions.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            out.push_str(&format!("{name}{{eviction_signal=\"{signal}\"}} {count}\n"));
        }
        out
    }
}
