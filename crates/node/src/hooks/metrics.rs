//! The numbers of hooks (HOOK-66).
//!
//! Owns counting and rendering; the kubelet's names where it has some. Start at [`Metrics`].

use super::run::{Handler, Moment, Result as Outcome};
use crate::histogram::Histogram;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Upper bounds in milliseconds.
static BOUNDS: [u64; 12] = [5, 25, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000];

/// What is counted. All methods are cheap and never wait.
#[derive(Debug, Default)]
pub struct Metrics {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    runs: BTreeMap<(Moment, Handler, Outcome), Histogram<{ BOUNDS.len() }>>,
    sleeps_broken_off: u64,
    plain_instead_of_tls: u64,
}

impl Metrics {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run ended.
    pub fn ran(&self, hook: Moment, handler: Handler, outcome: Outcome, took: Duration) {
        let mut inner = self.lock();
        let broken_off = handler == Handler::Sleep && outcome != Outcome::Succeeded;
        inner.sleeps_broken_off += u64::from(broken_off);
        let histogram = inner.runs.entry((hook, handler, outcome)).or_insert_with(|| Histogram::new(&BOUNDS));
        histogram.count(took);
    }

    /// An HTTPS hook was answered in plain HTTP, and was well with it (HOOK-22).
    pub fn fell_back(&self) {
        self.lock().plain_instead_of_tls += 1;
    }

    /// In Prometheus' text format.
    pub fn render(&self) -> String {
        let inner = self.lock();
        let mut out = String::new();
        for (name, help, count) in [
            (
                "kubelet_lifecycle_handler_http_fallbacks_total",
                "The number of times lifecycle handlers successfully fell back to http from https.",
                inner.plain_instead_of_tls,
            ),
            (
                "kubelet_sleep_action_terminated_early_total",
                "The number of times lifecycle sleep handler got terminated before it finishes",
                inner.sleeps_broken_off,
            ),
        ] {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {count}");
        }
        let name = "sampan_hook_duration_seconds";
        let _ = writeln!(out, "# HELP {name} Duration in seconds of lifecycle hooks.\n# TYPE {name} histogram");
        for ((hook, handler, outcome), histogram) in &inner.runs {
            let (hook, handler, outcome) = (hook.label(), handler.label(), outcome.label());
            histogram.render(&mut out, name, &format!("hook=\"{hook}\",handler=\"{handler}\",result=\"{outcome}\""));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_outcomes_are_a_histogram_by_hook_and_handler() {
        let metrics = Metrics::default();
        metrics.ran(Moment::PreStop, Handler::Exec, Outcome::Failed, Duration::from_millis(20));
        metrics.ran(Moment::PreStop, Handler::Exec, Outcome::Failed, Duration::from_millis(1200));
        metrics.ran(Moment::PreStop, Handler::Sleep, Outcome::Succeeded, Duration::from_secs(5));
        metrics.ran(Moment::PreStop, Handler::Sleep, Outcome::GraceExceeded, Duration::from_secs(30));
        metrics.fell_back();
        let text = metrics.render();
        let labels = "hook=\"preStop\",handler=\"exec\",result=\"failed\"";
        for line in [
            format!("sampan_hook_duration_seconds_bucket{{{labels},le=\"0.025\"}} 1\n"),
            format!("sampan_hook_duration_seconds_bucket{{{labels},le=\"2.5\"}} 2\n"),
            format!("sampan_hook_duration_seconds_sum{{{labels}}} 1.22\n"),
            format!("sampan_hook_duration_seconds_count{{{labels}}} 2\n"),
            "kubelet_sleep_action_terminated_early_total 1\n".into(),
            "kubelet_lifecycle_handler_http_fallbacks_total 1\n".into(),
        ] {
            assert!(text.contains(&line), "{line}{text}");
        }
    }
}
