//! Taking in outcomes and listings: the effects are `pod::effect`'s, the disk and the log are here.

use super::Task;
use crate::pod::{act::Outcome, decide::Action, last_words, observe::Listing, view::Record};
use std::sync::Arc;
use tokio::task::{Id, JoinError};

impl Task {
    pub(super) fn take_listing(&mut self, listing: Listing, complete: bool) {
        let observed = &mut self.view.observed;
        if complete {
            observed.see_all(listing.sandboxes, listing.records);
        } else {
            listing.sandboxes.into_iter().for_each(|sandbox| observed.see_sandbox(sandbox));
            listing.records.into_iter().for_each(|record| observed.see_container(record));
        }
    }

    pub(super) async fn take_outcome(&mut self, acted: Result<(Id, (Action, Outcome)), JoinError>) {
        match acted {
            Ok((id, (action, outcome))) => {
                let key = action.key();
                // An action that was replaced or abandoned is no longer in flight, but what it found is true.
                if self.flights.get(&key).is_some_and(|flight| flight.abort.id() == id) {
                    self.flights.remove(&key);
                }
                self.outcomes += 1;
                self.apply(&action, outcome).await;
            }
            Err(error) => {
                let key =
                    self.flights.iter().find(|(_, flight)| flight.abort.id() == error.id()).map(|(k, _)| k.clone());
                let Some(key) = key else { return };
                self.flights.remove(&key);
                tracing::error!(pod = self.view.pod.full_name(), ?key, %error, "an action broke off");
                self.view.observed.try_again(key, self.actor.clock.now());
            }
        }
    }

    async fn apply(&mut self, action: &Action, mut outcome: Outcome) {
        if let Outcome::Failed(text) | Outcome::NetworkNotReady(text) = &outcome {
            tracing::warn!(pod = self.view.pod.full_name(), ?action, text, "action failed");
        }
        if let Outcome::Mounted(mounted) = &mut outcome {
            self.mounted = Arc::new(std::mem::take(mounted));
        }
        let before = self.view.observed.checkpoint.clone();
        self.view.apply(action, outcome, self.actor.clock.now());
        // The file goes with the pod's other traces; nothing may bring it back.
        let is_news = self.view.observed.checkpoint != before && !self.view.observed.traces_removed;
        if is_news && !self.save().await && self.view.observed.running().next().is_some() {
            // What was found holds, written or not; but a verdict is on disk before the first signal.
            if self.view.observed.checkpoint.verdict != before.verdict {
                self.view.observed.checkpoint.verdict = before.verdict;
                self.view.observed.try_again(action.key(), self.actor.clock.now());
            }
        }
        if let Action::StopSandbox { id } = action {
            // What ran in it was killed by force; the runtime knows how it ended.
            self.look_wanted |= self.view.observed.running().any(|record| record.sandbox == *id);
        }
    }

    /// Reads the termination messages of records whose end is news.
    pub(super) fn hear_last_words(&mut self) {
        let observed = &self.view.observed;
        let news: Vec<Record> = observed
            .containers
            .values()
            .filter(|record| record.exit().is_some() && !observed.last_words.contains_key(&record.id))
            .cloned()
            .collect();
        for record in news {
            let words = last_words::read(&self.view.pod, &record, &self.actor.ctx);
            self.view.observed.last_words.insert(record.id, words);
        }
    }
}
