//! Benchmarks: ours and the peer's in one run, ratios and medians printed.
//!
//! Times of shared machines are noisy; a ratio between two things measured side by side is not. Nothing here fails
//! because something was slow.

mod disk;
mod handlers;
mod hollow;
mod hooks;
mod load;
mod node;
mod process;
mod pull;
mod start;
mod workloads;

use std::time::Duration;

use anyhow::bail;

use crate::Measurement;

/// Pods of the benchmark of workloads.
const SMALL_LOAD: usize = 1_000;
const LOAD: usize = 5_000;

/// Runs one benchmark by its name.
pub fn run(measurement: &Measurement) -> anyhow::Result<()> {
    let sampan = measurement.sampan.as_deref();
    match measurement.what.as_str() {
        "start" => start::run(sampan, measurement.pods),
        "pull" => pull::run(),
        "handlers" => handlers::run(sampan),
        "hooks" if measurement.load => load::run(sampan),
        "hooks" => hooks::run(sampan, measurement.pods),
        "workloads" => workloads::run(sampan, if measurement.load { LOAD } else { SMALL_LOAD }),
        other => bail!("there is no benchmark {other:?}; try `start`, `pull`, `handlers`, `hooks` or `workloads`"),
    }
}

/// Order statistics of a sample, in milliseconds.
pub struct Sample(Vec<f64>);

impl Sample {
    /// Sorts the sample.
    pub fn of(durations: impl IntoIterator<Item = Duration>) -> Sample {
        let mut values: Vec<f64> = durations.into_iter().map(|duration| duration.as_secs_f64() * 1000.0).collect();
        values.sort_by(f64::total_cmp);
        Sample(values)
    }

    /// The value below which a fraction of the sample lies.
    pub fn quantile(&self, fraction: f64) -> f64 {
        if self.0.is_empty() {
            return f64::NAN;
        }
        self.0[((self.0.len() - 1) as f64 * fraction).round() as usize]
    }

    /// `p50 12.3 ms, p90 …, max …`
    pub fn text(&self) -> String {
        format!("p50 {:.1} ms, p90 {:.1} ms, max {:.1} ms", self.quantile(0.5), self.quantile(0.9), self.quantile(1.0))
    }
}
