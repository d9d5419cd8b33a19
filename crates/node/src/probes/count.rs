//! Thresholds: so many equal results in a row make a verdict (POD-58).
//!
//! Pure.

use super::Kind;
use crate::object::Probe;

/// The run of equal results of one probe.
#[derive(Debug)]
pub(super) struct Count {
    run: i32,
    last: Option<bool>,
    verdict: Option<bool>,
    success_threshold: i32,
    failure_threshold: i32,
    /// POD-56: what holds before the first verdict.
    initial: &'static str,
}

impl Count {
    pub fn new(kind: Kind, probe: &Probe) -> Count {
        let or = |given: i32, default| if given > 0 { given } else { default };
        Count {
            run: 0,
            last: None,
            verdict: None,
            success_threshold: or(probe.success_threshold, 1),
            failure_threshold: or(probe.failure_threshold, 3),
            initial: match kind {
                Kind::Startup => "unknown",
                Kind::Liveness => "success",
                Kind::Readiness => "failure",
            },
        }
    }

    /// The current result in words.
    pub fn result(&self) -> &'static str {
        match self.verdict {
            None => self.initial,
            Some(true) => "success",
            Some(false) => "failure",
        }
    }

    /// Takes in one result; the new verdict if it changed.
    pub fn add(&mut self, passed: bool) -> Option<bool> {
        self.run = if self.last == Some(passed) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(passed);
        let threshold = if passed { self.success_threshold } else { self.failure_threshold };
        if self.run < threshold || self.verdict == Some(passed) {
            return None;
        }
        self.verdict = Some(passed);
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(results: &str, success_threshold: i32) -> String {
        let probe = Probe { success_threshold, failure_threshold: 3, ..Default::default() };
        let mut count = Count::new(Kind::Readiness, &probe);
        let word = |verdict| match verdict {
            None => '.',
            Some(true) => 'S',
            Some(false) => 'F',
        };
        results.chars().map(|c| word(count.add(c == 'S'))).collect()
    }

    #[test]
    fn only_an_unbroken_run_changes_the_verdict() {
        assert_eq!(verdicts("FFSFFF", 1), "..S..F");
        assert_eq!(verdicts("SSFFFFSS", 2), ".S..F..S");
        assert_eq!(verdicts("FFFFF", 1), "..F..");
    }
}
