//! The numbers of pulls, as the kubelet names them (IMG-64).
//!
//! Owns counting and rendering. Start at [`Metrics`].

use super::{Choice, Policy};
use crate::histogram::Histogram;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Upper bounds in milliseconds.
static BOUNDS: [u64; 14] = [
    1000, 5000, 10_000, 20_000, 30_000, 60_000, 180_000, 300_000, 600_000, 900_000, 1_200_000, 1_800_000, 2_700_000,
    3_600_000,
];

const MB: u64 = 1 << 20;
const GB: u64 = 1 << 30;
/// Images larger than this have this label.
const SIZES: [(u64, &str); 12] = [
    (100 * GB, "GT100GB"),
    (60 * GB, "60GB-100GB"),
    (40 * GB, "40GB-60GB"),
    (30 * GB, "30GB-40GB"),
    (20 * GB, "20GB-30GB"),
    (10 * GB, "10GB-20GB"),
    (5 * GB, "5GB-10GB"),
    (GB, "1GB-5GB"),
    (500 * MB, "500MB-1GB"),
    (100 * MB, "100MB-500MB"),
    (10 * MB, "10MB-100MB"),
    (0, "0-10MB"),
];

/// What is counted. All methods are cheap and never wait.
#[derive(Debug, Default)]
pub struct Metrics {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By policy, presence and whether a pull was needed.
    requests: BTreeMap<[&'static str; 3], u64>,
    errors: BTreeMap<String, u64>,
    pulls: BTreeMap<&'static str, Histogram<{ BOUNDS.len() }>>,
    collected: BTreeMap<&'static str, u64>,
}

impl Metrics {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One pass through the decision table; `present` is `None` when nobody looked, `choice` when looking failed.
    pub fn decided(&self, policy: Policy, present: Option<bool>, choice: Option<Choice>) {
        let word = |is: Option<bool>| is.map_or("unknown", |is| if is { "true" } else { "false" });
        let pull = word(choice.map(|choice| choice == Choice::Pull));
        *self.lock().requests.entry([policy.label(), word(present), pull]).or_default() += 1;
    }

    /// A container could not be started for this reason.
    pub fn start_failed(&self, reason: &str) {
        *self.lock().errors.entry(reason.to_owned()).or_default() += 1;
    }

    /// A pull ended well.
    pub fn pulled(&self, size_bytes: u64, took: Duration) {
        let size = size_label(size_bytes);
        self.lock().pulls.entry(size).or_insert_with(|| Histogram::new(&BOUNDS)).count(took);
    }

    /// An image was collected, for want of space or for its age (IMG-269).
    pub fn collected(&self, reason: &'static str) {
        *self.lock().collected.entry(reason).or_default() += 1;
    }

    /// In Prometheus' text format.
    pub fn render(&self) -> String {
        let inner = self.lock();
        let mut out = String::new();
        let mut family = |name: &str, kind: &str, help: &str, lines: &mut dyn FnMut(&mut String)| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            lines(&mut out);
        };
        let name = "kubelet_image_manager_ensure_image_requests_total";
        family(name, "counter", "Number of ensure-image requests processed by the kubelet.", &mut |out| {
            for ([policy, present, pull], count) in &inner.requests {
                let labels = format!("present_locally=\"{present}\",pull_policy=\"{policy}\",pull_required=\"{pull}\"");
                let _ = writeln!(out, "{name}{{{labels}}} {count}");
            }
        });
        let name = "kubelet_image_pull_duration_seconds";
        family(name, "histogram", "Duration in seconds to pull an image.", &mut |out| {
            for (size, histogram) in &inner.pulls {
                histogram.render(out, name, &format!("image_size_in_bytes=\"{size}\""));
            }
        });
        let name = "kubelet_started_containers_errors_total";
        family(name, "counter", "Cumulative number of errors when starting containers", &mut |out| {
            for (code, count) in &inner.errors {
                let _ = writeln!(out, "{name}{{code=\"{code}\"}} {count}");
            }
        });
        let name = "kubelet_image_garbage_collected_total";
        let help = "Total number of images garbage collected by the kubelet, whether through disk usage or image age.";
        family(name, "counter", help, &mut |out| {
            for (reason, count) in &inner.collected {
                let _ = writeln!(out, "{name}{{reason=\"{reason}\"}} {count}");
            }
        });
        out
    }
}

fn size_label(bytes: u64) -> &'static str {
    SIZES.iter().find(|(above, _)| bytes > *above).map_or("N/A", |(_, label)| label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_of_the_decision_table_is_counted_by_its_labels() {
        let metrics = Metrics::default();
        metrics.decided(Policy::Always, None, Some(Choice::Pull));
        metrics.decided(Policy::IfNotPresent, Some(true), Some(Choice::UseLocal));
        metrics.decided(Policy::IfNotPresent, Some(true), Some(Choice::UseLocal));
        metrics.decided(Policy::Never, Some(false), Some(Choice::RefuseNever));
        metrics.decided(Policy::Never, None, None);
        let text = metrics.render();
        let line = |present: &str, policy: &str, pull: &str, count: u64| {
            let labels = format!("present_locally=\"{present}\",pull_policy=\"{policy}\",pull_required=\"{pull}\"");
            let line = format!("kubelet_image_manager_ensure_image_requests_total{{{labels}}} {count}\n");
            assert!(text.contains(&line), "{line}{text}");
        };
        line("unknown", "always", "true", 1);
        line("true", "ifnotpresent", "false", 2);
        line("false", "never", "false", 1);
        line("unknown", "never", "unknown", 1);
    }

    #[test]
    fn durations_of_pulls_are_a_histogram_by_size() {
        let metrics = Metrics::default();
        metrics.pulled(20 * MB, Duration::from_millis(500));
        metrics.pulled(20 * MB, Duration::from_secs(7));
        metrics.start_failed("ErrImagePull");
        let text = metrics.render();
        for line in [
            "kubelet_image_pull_duration_seconds_bucket{image_size_in_bytes=\"10MB-100MB\",le=\"1\"} 1\n",
            "kubelet_image_pull_duration_seconds_bucket{image_size_in_bytes=\"10MB-100MB\",le=\"10\"} 2\n",
            "kubelet_image_pull_duration_seconds_count{image_size_in_bytes=\"10MB-100MB\"} 2\n",
            "kubelet_image_pull_duration_seconds_sum{image_size_in_bytes=\"10MB-100MB\"} 7.5\n",
            "kubelet_started_containers_errors_total{code=\"ErrImagePull\"} 1\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert_eq!(
            [0, 1, 10 * MB, 10 * MB + 1, 200 * GB].map(size_label),
            ["N/A", "0-10MB", "0-10MB", "10MB-100MB", "GT100GB"]
        );
    }
}
