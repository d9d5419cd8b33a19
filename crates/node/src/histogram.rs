//! Durations in buckets, in Prometheus' text format.

use std::{fmt::Write as _, time::Duration};

/// How often something took at most so long, for each of `N` bounds in milliseconds.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    bounds: &'static [u64; N],
    buckets: [u64; N],
    count: u64,
    seconds: f64,
}

impl<const N: usize> Histogram<N> {
    /// With nothing counted yet.
    pub fn new(bounds: &'static [u64; N]) -> Self {
        Self { bounds, buckets: [0; N], count: 0, seconds: 0.0 }
    }

    /// It took so long once more.
    pub fn count(&mut self, took: Duration) {
        for (bucket, bound) in self.buckets.iter_mut().zip(self.bounds) {
            *bucket += u64::from(took <= Duration::from_millis(*bound));
        }
        self.count += 1;
        self.seconds += took.as_secs_f64();
    }

    /// Writes the lines of the metric `name` with these labels.
    pub fn render(&self, out: &mut String, name: &str, labels: &str) {
        for (bucket, bound) in self.buckets.iter().zip(self.bounds) {
            let bound = Duration::from_millis(*bound).as_secs_f64();
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {bucket}");
        }
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", self.count);
        let _ = writeln!(out, "{name}_sum{{{labels}}} {}\n{name}_count{{{labels}}} {}", self.seconds, self.count);
    }
}
