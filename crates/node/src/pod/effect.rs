//! What an outcome does to the facts; pure, so that the tests' world and the shell share it.

use super::{
    act::Outcome,
    checkpoint::{HookRun, VolumeImage},
    decide::{Action, Entry, Key, Verb},
    view::{Fact, ImageReady, Observed, Record, Retry, StartError, View},
};
use crate::image::{Failures, Refusal};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;

impl View {
    /// Takes in how an action ended.
    pub fn apply(&mut self, action: &Action, outcome: Outcome, now: Timestamp) {
        let key = action.key();
        let observed = &mut self.observed;
        match outcome {
            Outcome::Failed(_) => return observed.try_again(key, now),
            Outcome::NetworkNotReady(_) => return observed.retry_in(key, SignedDuration::from_secs(1), now),
            Outcome::StartFailed(error, record) => {
                if let Action::CreateContainer { container, .. } | Action::StartContainer { container, .. } = action {
                    observed.start_errors.insert(container.clone(), error);
                }
                match record {
                    Some(record) => observed.see_outcome(record),
                    None => {
                        // Somebody may have removed an image since: the next start looks for it anew, and for those
                        // of volumes as long as no container shows what they hold.
                        if let Action::CreateContainer { container, .. } = action {
                            observed.images.remove(container);
                        }
                        if observed.containers.is_empty() {
                            observed.checkpoint.volume_images.clear();
                        }
                        return observed.try_again(key, now);
                    }
                }
            }
            Outcome::Refused(refusal) => return self.refused(key, action, refusal, now),
            Outcome::Done => observed.done(action),
            Outcome::Mounted(_) => observed.volumes = Fact::Ready,
            Outcome::Sandbox(sandbox, handler) => {
                observed.see_sandbox(sandbox);
                observed.checkpoint.handler = Some(handler).filter(|handler| !handler.is_empty());
            }
            Outcome::Image(ready) => observed.ensured(action, ready),
            Outcome::Record(record) => {
                let started = matches!(action, Action::StartContainer { .. });
                if started && observed.post_start(&record.id).is_none() {
                    observed.start_errors.remove(&record.name);
                }
                observed.see_outcome(record);
            }
            Outcome::Hook(failure) => observed.hook_ended(action, failure, now),
            Outcome::Verdict(verdict) => observed.checkpoint.verdict = Some(verdict),
            Outcome::ApiGone => observed.api_gone = true,
        }
        self.observed.retries.remove(&key);
    }

    fn refused(&mut self, key: Key, action: &Action, refusal: Refusal, now: Timestamp) {
        let image = self.image_of(&key).unwrap_or_default().to_owned();
        let error = StartError { reason: refusal.reason.into(), message: refusal.message.clone(), at: now };
        match action {
            Action::EnsureImage { container, .. } => self.observed.start_errors.insert(container.clone(), error),
            Action::EnsureVolumeImage { volume } => self.observed.volume_errors.insert(volume.clone(), error),
            _ => return,
        };
        self.observed.pulling.remove(&image);
        let Some(fault) = &refusal.fault else { return self.observed.try_again(key, now) };
        let begun = self.observed.pulls_begun.get(&image).copied().unwrap_or(now);
        let known = self.observed.image_failures.get(&image);
        let failures = Failures::after(known, begun, now, &refusal, fault);
        self.observed.image_failures.insert(image, failures);
    }

    /// A pull of this image may begin now; what is heard from now on is news to it.
    fn pull_begins(&mut self, action: &Action, now: Timestamp) {
        if let Some(image) = self.image_of(&action.key()).map(str::to_owned) {
            self.observed.pulling.remove(&image);
            self.observed.pulls_begun.insert(image, now);
        }
    }

    /// HOOK-60, HOOK-63: what is to be on disk before this action begins. True if the checkpoint changed.
    pub fn begin(&mut self, action: &Action, now: Timestamp) -> bool {
        self.pull_begins(action, now);
        let checkpoint = &mut self.observed.checkpoint;
        match action {
            Action::StartContainer { id, container } => {
                let lifecycle = self.pod.container(container).and_then(|(_, c)| c.lifecycle.as_ref());
                if lifecycle.is_none_or(|lifecycle| lifecycle.post_start.is_none()) {
                    return false;
                }
                checkpoint.hooks.entry(id.clone()).or_default().post_start = Some(HookRun::Pending);
            }
            Action::RunPostStart { id, .. } => {
                checkpoint.hooks.entry(id.clone()).or_default().post_start = Some(HookRun::Started(now));
            }
            Action::RunPreStop { id, .. } => {
                checkpoint.hooks.entry(id.clone()).or_default().pre_stop = Some(HookRun::Started(now));
            }
            Action::Record(Entry::Kill(id, kill)) => {
                checkpoint.kills.insert(id.clone(), kill.clone());
            }
            Action::Record(Entry::PreStopAbandoned(id, at)) => {
                let run = HookRun::Finished(*at, Some("not completed in grace period".into()));
                checkpoint.hooks.entry(id.clone()).or_default().pre_stop = Some(run);
            }
            Action::Record(Entry::Verdict(verdict)) => {
                checkpoint.verdict.get_or_insert_with(|| verdict.clone());
            }
            _ => return false,
        }
        true
    }
}

impl Observed {
    fn see_outcome(&mut self, mut record: Record) {
        if record.sandbox.is_empty()
            && let Some(known) = self.containers.get(&record.id)
        {
            record.sandbox.clone_from(&known.sandbox);
        }
        self.see_container(record);
    }

    fn ensured(&mut self, action: &Action, ready: ImageReady) {
        self.image_failures.remove(&ready.image);
        self.pulling.remove(&ready.image);
        match action {
            Action::EnsureImage { container, .. } => {
                // IMG-54: why the container itself could not be started is known until it was.
                if self.start_errors.get(container).is_some_and(|error| crate::image::fault::is_reason(&error.reason)) {
                    self.start_errors.remove(container);
                }
                self.images.insert(container.clone(), ready);
            }
            Action::EnsureVolumeImage { volume } => {
                self.volume_errors.remove(volume);
                let ImageReady { image: reference, id, digest, .. } = ready;
                self.checkpoint.volume_images.insert(volume.clone(), VolumeImage { reference, id, digest });
            }
            _ => {}
        }
    }

    fn done(&mut self, action: &Action) {
        match action {
            Action::EnsureCgroup => self.cgroup = Fact::Ready,
            Action::RemoveCgroup => self.cgroup = Fact::Gone,
            Action::TearDownVolumes => self.volumes = Fact::Gone,
            Action::RemoveTraces { .. } => self.traces_removed = true,
            Action::StopSandbox { id } => {
                self.sandboxes_stopped.insert(id.clone());
                if let Some(sandbox) = self.sandboxes.get_mut(id) {
                    sandbox.ready = false;
                }
            }
            Action::RemoveSandbox { id } => {
                self.sandboxes.remove(id);
                self.containers.retain(|_, record| record.sandbox != *id);
                self.forget_dead_ids();
            }
            Action::RemoveContainer { id, .. } => {
                self.remember_attempt(id);
                self.containers.remove(id);
                self.forget_dead_ids();
            }
            // The runtime does not know it any more: it has ended, nobody knows how (HOOK-79).
            Action::StopContainer { id, .. } => {
                self.remember_attempt(id);
                self.containers.remove(id);
                self.forget_dead_ids();
            }
            _ => {}
        }
    }

    /// The next record of the container is to have a higher attempt, although this one is no longer there.
    fn remember_attempt(&mut self, id: &str) {
        if let Some(record) = self.containers.get(id) {
            let past = self.past_attempts.entry(record.name.clone()).or_default();
            *past = record.attempt.max(*past);
        }
    }

    fn forget_dead_ids(&mut self) {
        let ids: BTreeSet<String> = self.containers.keys().cloned().collect();
        self.checkpoint.hooks.retain(|id, _| ids.contains(id));
        self.checkpoint.kills.retain(|id, _| ids.contains(id));
        self.probes.retain(|id, _| ids.contains(id));
        self.last_words.retain(|id, _| ids.contains(id));
    }

    fn hook_ended(&mut self, action: &Action, failure: Option<String>, now: Timestamp) {
        match action {
            Action::RunPostStart { id, container } => {
                match &failure {
                    Some(message) => {
                        let reason = "PostStartHookError".to_owned();
                        let error = StartError { reason, message: message.clone(), at: now };
                        self.start_errors.insert(container.clone(), error);
                    }
                    None => {
                        self.start_errors.remove(container);
                    }
                }
                self.checkpoint.hooks.entry(id.clone()).or_default().post_start = Some(HookRun::Finished(now, failure));
            }
            Action::RunPreStop { id, .. } => {
                self.checkpoint.hooks.entry(id.clone()).or_default().pre_stop = Some(HookRun::Finished(now, failure));
            }
            _ => {}
        }
    }

    /// The action may be tried again later: ever later, within the bounds of its kind.
    pub fn try_again(&mut self, key: Key, now: Timestamp) {
        let failures = self.retries.get(&key).map_or(0, |retry| retry.failures) + 1;
        let seconds = SignedDuration::from_secs;
        let delay = match key.0 {
            // RTC-38, POD-4, HOOK-82: what a pod's start or end depends on is tried every ten seconds.
            Verb::CreateSandbox | Verb::CreateContainer | Verb::EnsureCgroup => seconds(10),
            Verb::EnsureImage | Verb::EnsureVolumeImage => seconds(10),
            Verb::StopContainer | Verb::StopSandbox => seconds(10),
            _ => crate::image::doubled(SignedDuration::from_millis(500), failures - 1, seconds(10)),
        };
        self.retry_in(key, delay, now);
    }

    /// After this time, and up to half as much again (POD-4): what failed together does not come back together.
    fn retry_in(&mut self, key: Key, delay: SignedDuration, now: Timestamp) {
        let known = self.retries.get(&key);
        let (failures, since) = known.map_or((1, now), |known| (known.failures + 1, known.since));
        self.retries.insert(key, Retry { failures, since, at: now + self.spread(delay) });
    }

    /// The delay with this pod's share of the spread.
    pub fn spread(&self, delay: SignedDuration) -> SignedDuration {
        delay + SignedDuration::from_secs_f64(delay.as_secs_f64() * self.spread.clamp(0.0, 0.5))
    }
}
