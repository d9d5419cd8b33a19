//! What is other with a static pod: its status is kept here and shown by a mirror, which has a UID of its own.
//!
//! Without a mirror the pod runs all the same. What the mirror showed before is what an earlier agent knew.

use super::{Task, version};
use crate::{
    object::{Pod, PodStatus},
    pod::decide::Plan,
};
use std::sync::Arc;

impl Task {
    /// Takes in what the manifest says now, and the mirror.
    pub(super) fn take_static(&mut self, pod: &Arc<Pod>, mirror: Option<Arc<Pod>>) {
        let known = &self.view.pod;
        if pod.metadata != known.metadata || pod.spec != known.spec {
            self.refresh_wanted = true;
            self.view.pod = Arc::new(Pod { status: known.status.clone(), ..(**pod).clone() });
        }
        match mirror {
            Some(mirror) => self.take_mirror(mirror),
            None => self.mirror = None,
        }
    }

    /// Only a newer version of the same mirror replaces the one that is known.
    pub(super) fn take_mirror(&mut self, mirror: Arc<Pod>) {
        if self.mirror.as_ref().is_some_and(|known| known.uid() == mirror.uid() && version(known) > version(&mirror)) {
            return;
        }
        self.remember(&mirror.status);
        self.mirror = Some(mirror);
    }

    /// What an earlier agent had published holds on: since when the pod runs, and what became of it.
    fn remember(&mut self, shown: &PodStatus) {
        let since = |status: &PodStatus| status.start_time.as_ref().map(|time| time.0);
        let is_older = since(shown).is_some_and(|shown| since(&self.view.pod.status).is_none_or(|own| shown < own));
        // A status is written in whole seconds: what this agent has just begun is not older for that.
        let is_same =
            since(shown).zip(since(&self.view.pod.status)).is_some_and(|(a, b)| a.as_second() == b.as_second());
        if is_older && !is_same {
            Arc::make_mut(&mut self.view.pod).status = shown.clone();
            self.view.remember_probes();
        }
    }

    /// Keeps a static pod's status; true if it is another one than before.
    pub(super) fn keep_status(&mut self, plan: &Plan) -> bool {
        match &plan.status {
            Some(status) if self.view.pod.is_static && *status != self.view.pod.status => {
                Arc::make_mut(&mut self.view.pod).status = status.clone();
                true
            }
            _ => false,
        }
    }

    /// The object of the API that shows the pod: its UID and the status that it has. A static pod's is its mirror.
    pub(super) fn shown(&self) -> Option<(&str, &PodStatus)> {
        match (self.view.pod.is_static, &self.mirror) {
            (false, _) => Some((self.view.pod.uid(), &self.view.pod.status)),
            (true, Some(mirror)) => Some((mirror.uid(), &mirror.status)),
            (true, None) => None,
        }
    }
}
