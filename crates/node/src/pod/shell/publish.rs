//! Publishing the status: one patch in flight, the latest wins, urgent changes at once (POD-49).

use super::Task;
use crate::{
    object::{Pod, PodStatus},
    pod::{
        decide::{Key, Plan, Stage, Verb},
        gone::is_gone,
    },
    shutdown::decide::End,
    status::{patch, transition},
};
use jiff::{SignedDuration, Timestamp};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use std::{sync::Arc, time::Duration};
use tokio::task::JoinSet;

/// A change that nobody waits for may be joined by others for so long.
const COALESCE: SignedDuration = SignedDuration::from_millis(100);
const PATCH_TIMEOUT: Duration = Duration::from_secs(30);

/// The state of publishing one pod's status.
#[derive(Default)]
pub(super) struct Publish {
    /// The patch on its way; never more than one.
    pub flight: JoinSet<Answer>,
    /// When a change that waits for others is to go out.
    pub due_at: Option<Timestamp>,
}

/// How the API answered.
pub(super) enum Answer {
    /// It has it; the pod as it is now.
    Taken(Box<Pod>),
    /// There is no such pod, or another with the same name.
    Gone,
    /// It has not.
    Failed(String),
}

impl Task {
    /// Brings the API's status to the plan's.
    pub(super) fn report(&mut self, plan: &Plan, now: Timestamp) {
        self.sync_probes();
        let Some(wanted) = &plan.status else {
            self.publish.due_at = None;
            return;
        };
        if !self.publish.flight.is_empty() {
            return;
        }
        let Some((uid, known)) = self.shown() else { return };
        let Some(change) = patch::merge(uid, known, wanted) else {
            self.publish.due_at = None;
            return;
        };
        if let Some(container) = transition::illegal(&self.view.pod, known, wanted) {
            tracing::error!(pod = self.view.pod.full_name(), container, "a status that revives who ended is not sent");
            self.publish.due_at = None;
            return;
        }
        let key = Key(Verb::Publish, String::new());
        let retry_at = self.view.observed.retries.get(&key).map(|retry| retry.at);
        let due_at = match retry_at {
            Some(at) => at,
            None if self.is_urgent(known, wanted) => now,
            None => self.publish.due_at.unwrap_or(now + COALESCE),
        };
        if due_at > now {
            self.publish.due_at = Some(due_at);
            return;
        }
        let (name, uid) = (self.view.pod.name().to_owned(), uid.to_owned());
        self.publish.due_at = None;
        let api: Api<Pod> = Api::namespaced(self.actor.client.clone(), self.view.pod.namespace());
        self.publish.flight.spawn(async move { send(&api, &name, &uid, change).await });
    }

    /// HOOK-97: who waits for the pod's end learns when nothing of it runs, and when the API shows that.
    pub(super) fn tell_end(&self, stage: Stage) {
        let is_shown = self.publish.flight.is_empty()
            && self.shown().is_some_and(|(_, status)| matches!(status.phase.as_str(), "Succeeded" | "Failed"));
        let end = match (stage, is_shown) {
            (Stage::Gone, _) | (Stage::Finished, true) => End::Told,
            (Stage::Finished, false) => End::Ended,
            _ => return,
        };
        self.end.send_if_modified(|known| std::mem::replace(known, end.max(*known)) < end);
    }

    /// HOOK-34: a hook may need the pod's address to be known, so it goes out at once where there are hooks.
    fn is_urgent(&self, known: &PodStatus, wanted: &PodStatus) -> bool {
        let hooked = self.view.containers().any(|(_, c)| c.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some()));
        patch::is_urgent(known, wanted) || (hooked && known.pod_ip != wanted.pod_ip)
    }

    pub(super) fn take_answer(&mut self, answer: Answer) {
        let key = Key(Verb::Publish, String::new());
        match answer {
            Answer::Taken(pod) => {
                self.view.observed.retries.remove(&key);
                match self.view.pod.is_static {
                    true => self.take_mirror(Arc::new(*pod)),
                    false => self.take_pod(Arc::new(*pod)),
                }
            }
            Answer::Gone if self.view.pod.is_static => self.mirror = None,
            Answer::Gone => self.view.observed.api_gone = true,
            Answer::Failed(error) => {
                tracing::warn!(pod = self.view.pod.full_name(), error, "status not published");
                let now = self.actor.clock.now();
                self.view.observed.try_again(key, now);
            }
        }
    }
}

async fn send(api: &Api<Pod>, name: &str, uid: &str, change: serde_json::Value) -> Answer {
    let parameters = PatchParams::default();
    let patch = Patch::Merge(change);
    match tokio::time::timeout(PATCH_TIMEOUT, api.patch_status(name, &parameters, &patch)).await {
        Ok(Ok(mut pod)) => {
            pod.metadata.managed_fields = None;
            Answer::Taken(Box::new(pod))
        }
        Ok(Err(error)) if is_gone(api, name, uid, &error).await => Answer::Gone,
        Ok(Err(error)) => Answer::Failed(error.to_string()),
        Err(_) => Answer::Failed("the API did not answer".into()),
    }
}
