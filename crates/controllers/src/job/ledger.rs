//! How many pods have ended, and how: each counted once, whatever crashes between two writes.

use std::collections::BTreeSet;

use api::look;
use serde_json::{Value, json};

use super::indexes::Indexes;
use super::{Job, News, policy};

/// What the status says of ends.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// status.succeeded.
    succeeded: i64,
    /// status.failed.
    failed: i64,
    /// The uids of pods whose success is known and not yet in the count.
    new_succeeded: BTreeSet<String>,
    /// The uids of pods whose failure is known and not yet in the count.
    new_failed: BTreeSet<String>,
    /// status.completedIndexes.
    pub completed: Indexes,
    /// status.failedIndexes.
    pub failed_indexes: Indexes,
}

impl Ledger {
    /// Reads it from a status.
    pub fn read(status: &Value) -> Ledger {
        let count = |field| look::integer(status, field).unwrap_or(0);
        let empty = Value::Null;
        let uncounted = look::get(status, "uncountedTerminatedPods").unwrap_or(&empty);
        let uids = |list| look::texts(uncounted, list).into_iter().map(str::to_owned).collect();
        Ledger {
            succeeded: count("succeeded"),
            failed: count("failed"),
            new_succeeded: uids("succeeded"),
            new_failed: uids("failed"),
            completed: Indexes::parse(look::text(status, "completedIndexes")),
            failed_indexes: Indexes::parse(look::text(status, "failedIndexes")),
        }
    }

    /// How many pods succeeded, or how many indexes did.
    pub fn succeeded(&self, job: &Job<'_>) -> i64 {
        match job.is_indexed {
            true => self.completed.len(),
            false => self.succeeded + i64::try_from(self.new_succeeded.len()).unwrap_or(0),
        }
    }

    /// How many pods failed.
    pub fn failed(&self) -> i64 {
        self.failed + i64::try_from(self.new_failed.len()).unwrap_or(0)
    }

    /// Whether every end that is known is in the counts.
    pub fn is_settled(&self) -> bool {
        self.new_succeeded.is_empty() && self.new_failed.is_empty()
    }

    /// Counts what has lost its finalizer, and notes what has ended.
    pub fn take(&mut self, job: &Job<'_>) -> News {
        let tracked: BTreeSet<&String> = job.own.iter().filter(|pod| pod.job.tracked).map(|pod| &pod.uid).collect();
        for (list, count) in [(&mut self.new_succeeded, &mut self.succeeded), (&mut self.new_failed, &mut self.failed)]
        {
            let before = list.len();
            list.retain(|uid| tracked.contains(uid));
            *count += i64::try_from(before - list.len()).unwrap_or(0);
        }
        let mut news = News::default();
        for pod in job.own.iter().filter(|pod| pod.job.tracked) {
            // What was taken for a failure when it was deleted stays one.
            if pod.has_succeeded() && !self.new_failed.contains(&pod.uid) {
                self.note_success(job, pod);
                news.known.push(pod.clone());
            } else if pod.has_succeeded() || job.has_failed(pod) {
                if !pod.has_succeeded() && !self.new_failed.contains(&pod.uid) {
                    self.note_failure(job, pod, &mut news);
                }
                news.known.push(pod.clone());
            }
        }
        news
    }

    fn note_success(&mut self, job: &Job<'_>, pod: &crate::view::Pod) {
        if !job.is_indexed {
            self.new_succeeded.insert(pod.uid.clone());
            return;
        }
        let valid = |index: &u32| job.completions.is_some_and(|all| i64::from(*index) < all);
        if let Some(index) = pod.job.index.filter(valid).filter(|index| !self.failed_indexes.contains(*index)) {
            self.completed.insert(index);
        }
    }

    fn note_failure(&mut self, job: &Job<'_>, pod: &std::sync::Arc<crate::view::Pod>, news: &mut News) {
        let action = policy::action(job, pod);
        if action == policy::Action::Ignore {
            news.ignored.insert(pod.uid.clone());
            return;
        }
        self.new_failed.insert(pod.uid.clone());
        news.failed.push(pod.clone());
        let Some(limit) = job.per_index else { return };
        let is_over = i64::from(pod.job.index_failures) >= limit || action == policy::Action::FailIndex;
        if let Some(index) = pod.job.index.filter(|index| is_over && !self.completed.contains(*index)) {
            self.failed_indexes.insert(index);
        }
    }

    /// Writes it into a status.
    pub fn write(&self, job: &Job<'_>, status: &mut Value) {
        if job.is_indexed {
            look::set(status, "completedIndexes", self.completed.to_string());
            look::set(status, "succeeded", self.succeeded(job));
        } else {
            look::set(status, "succeeded", self.succeeded);
        }
        if job.per_index.is_some() {
            look::set(status, "failedIndexes", self.failed_indexes.to_string());
        }
        look::set(status, "failed", self.failed);
        let mut uncounted = json!({});
        for (field, list) in [("succeeded", &self.new_succeeded), ("failed", &self.new_failed)] {
            if !list.is_empty() {
                look::set(&mut uncounted, field, json!(list));
            }
        }
        look::set(status, "uncountedTerminatedPods", uncounted);
    }
}
