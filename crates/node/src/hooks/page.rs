//! The runs of one pod as lines of JSON: a beginning each, and its end when there is one.
//!
//! Pure. A line that was cut off by a crash is passed over; what is whole before it counts. Start at [`Page::parse`].

use super::run::{Begun, Ended, Moment, Result, Run};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Line {
    /// Whose page it is; the first line.
    Pod { namespace: String, name: String },
    /// A run began.
    Begun { seq: u64, run: Begun },
    /// It ended.
    Ended { seq: u64, run: Ended },
}

impl Line {
    /// With its line feed. Shapes of our own always serialize.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) namespace: String,
    pub(super) name: String,
    /// In the order of their beginnings.
    pub(super) runs: BTreeMap<u64, (Begun, Option<Ended>)>,
}

impl Page {
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut page = Self::default();
        for line in bytes.split(|byte| *byte == b'\n') {
            match serde_json::from_slice(line) {
                Ok(Line::Pod { namespace, name }) => (page.namespace, page.name) = (namespace, name),
                Ok(Line::Begun { seq, run }) => drop(page.runs.insert(seq, (run, None))),
                Ok(Line::Ended { seq, run }) => {
                    if let Some((_, ended)) = page.runs.get_mut(&seq) {
                        *ended = Some(run);
                    }
                }
                Err(_) => {}
            }
        }
        page
    }

    /// Deliveries of each hook to each container so far.
    pub(super) fn deliveries(&self) -> BTreeMap<(String, Moment), u32> {
        let mut deliveries = BTreeMap::new();
        for (begun, _) in self.runs.values() {
            let most = deliveries.entry((begun.container_id.clone(), begun.hook)).or_default();
            *most = begun.attempt.max(*most);
        }
        deliveries
    }

    /// The newest runs that fit, as a new file. Runs under way stay.
    pub(super) fn shortened(&self, runs_max: usize, bytes_max: u64, busy: &BTreeSet<u64>) -> Vec<u8> {
        let mut kept: Vec<Vec<u8>> = Vec::new();
        let mut bytes = 0;
        for (seq, (begun, ended)) in self.runs.iter().rev() {
            let mut lines = Line::Begun { seq: *seq, run: begun.clone() }.bytes();
            if let Some(ended) = ended {
                lines.extend(Line::Ended { seq: *seq, run: ended.clone() }.bytes());
            }
            let length = u64::try_from(lines.len()).unwrap_or(u64::MAX);
            if busy.contains(seq) || (kept.len() < runs_max && bytes + length <= bytes_max) {
                bytes += length;
                kept.push(lines);
            }
        }
        let first = Line::Pod { namespace: self.namespace.clone(), name: self.name.clone() }.bytes();
        std::iter::once(first).chain(kept.into_iter().rev()).flatten().collect()
    }

    /// As it is told: a run without an end is under way, or its agent ended before it.
    pub(super) fn told(self, uid: &str, busy: &BTreeSet<u64>) -> Vec<Run> {
        let runs = self.runs.into_iter().map(|(seq, (begun, ended))| {
            let open = if busy.contains(&seq) { Result::Running } else { Result::Interrupted };
            Run::new(uid, begun, ended.unwrap_or_else(|| Ended::with(open)))
        });
        runs.collect()
    }
}
