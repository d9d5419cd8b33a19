//! Static pods among the agent's pods: the steps that `static_pods` decides, and the mirrors on their way to the tasks.
//!
//! A static pod is written into the ledger before its task begins, so that the next agent takes it over, or stops it with
//! its own grace and hooks if its manifest went meanwhile. Start at [`Pods::settle_statics`].

use super::pods::Pods;
use crate::{
    object::Pod,
    pod::shell::Wish,
    static_pods::{
        Name, Origin, StaticPod, Update,
        decide::{Begun, Mirrors, Sight, Sources, Step, Wanted, steps},
        ledger::Ledger,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tokio::sync::watch;

/// What the agent knows of static pods.
pub(super) struct Statics {
    sources: Sources,
    pub(super) ledger: Ledger,
    /// The static pods that have a task, by UID.
    begun: BTreeMap<String, StaticPod>,
    /// The mirrors that the API has, by the name of the pod.
    shown: BTreeMap<Name, Arc<Pod>>,
    /// The mirrors of a listing under way.
    listed: BTreeSet<Name>,
    mirrors: watch::Sender<Mirrors>,
    /// Those that a shutdown has ended and that begin anew when nothing of them is left, by UID.
    renewed: BTreeSet<String>,
}

impl Statics {
    /// Nothing begun. Pods of the ledger that no source holds are stopped when all sources have been looked at.
    pub(super) fn new(ledger: Ledger, awaited: impl IntoIterator<Item = Origin>) -> Self {
        Self {
            sources: Sources::awaited(awaited),
            ledger,
            begun: BTreeMap::new(),
            shown: BTreeMap::new(),
            listed: BTreeSet::new(),
            mirrors: watch::Sender::new(Mirrors::default()),
            renewed: BTreeSet::new(),
        }
    }

    /// Tells the mirrors' task whether the machine is shutting down.
    pub(super) fn show_shutdown(&self, is_on: bool) {
        self.mirrors.send_if_modified(|mirrors| std::mem::replace(&mut mirrors.is_shutting_down, is_on) != is_on);
    }

    pub(super) fn are_complete(&self) -> bool {
        self.sources.are_complete()
    }

    /// What is to be seen in the API, for the mirrors' task.
    pub(super) fn mirrors(&self) -> watch::Receiver<Mirrors> {
        self.mirrors.subscribe()
    }

    pub(super) fn begin_listing(&mut self) {
        self.listed.clear();
    }
}

impl Pods {
    /// A source holds something else now.
    pub(super) fn take_update(&mut self, update: Update) {
        let was_known = self.known().is_some();
        self.statics.sources.take(update);
        self.settle_statics();
        if !was_known && self.known().is_some() {
            // Only now can be told what belongs to nobody.
            self.housekeep();
        }
    }

    /// Begins with what an earlier agent had begun, and then follows the sources.
    pub(super) fn settle_statics(&mut self) {
        if !self.statics.are_complete() {
            return;
        }
        let (wanted, shadowed) = self.statics.sources.wanted();
        self.renew_forgotten();
        for pod in shadowed {
            tracing::error!(from = pod.from, pod = %pod.name(), uid = pod.uid(), "another static pod has this name or UID");
        }
        self.stop_forgotten(&wanted);
        for step in steps(&wanted, &self.begun()) {
            match step {
                Step::Begin(pod) => self.begin_static(pod, false),
                Step::Change(pod) => self.change_static(pod),
                Step::End(uid) => self.end_static(&uid),
            }
        }
        self.want_mirrors();
    }

    fn begun(&self) -> Vec<Begun> {
        let ends = |wish: &Wish| wish.removed || wish.drained;
        let is_ending = |uid: &String| self.handles.get(uid).is_none_or(|handle| ends(&handle.wishes.borrow()));
        let all = self.statics.begun.iter();
        all.map(|(uid, pod)| Begun { pod: pod.clone(), is_ending: is_ending(uid) }).collect()
    }

    /// What an earlier agent began and no source holds any more ends with its own grace and hooks.
    fn stop_forgotten(&mut self, wanted: &BTreeMap<Name, StaticPod>) {
        let uids: BTreeSet<&str> = wanted.values().map(StaticPod::uid).collect();
        for pod in self.statics.ledger.all() {
            if !uids.contains(pod.uid()) && !self.handles.contains_key(pod.uid()) {
                tracing::info!(pod = %pod.name(), uid = pod.uid(), "the manifest of a static pod is gone; it is stopped");
                self.begin_static(pod, true);
            }
        }
    }

    /// HOOK-97: what a shutdown of the machine ended begins anew with the agent that runs after it.
    fn renew_forgotten(&mut self) {
        for pod in self.statics.ledger.all() {
            let uid = pod.uid().to_owned();
            if !self.handles.contains_key(&uid) && self.was_shut_down(&uid) {
                tracing::info!(pod = %pod.name(), uid, "a static pod that a shutdown had ended begins anew");
                let wish = Wish { drained: true, ..Wish::of(pod.pod.clone()) };
                self.statics.begun.insert(uid.clone(), pod);
                self.statics.renewed.insert(uid);
                self.begin(wish);
            }
        }
    }

    /// HOOK-97: the shutdown was cancelled; what it has ended or kept out begins anew.
    pub(super) fn renew_statics(&mut self) {
        let ended: Vec<String> = self.statics.begun.keys().filter(|uid| self.was_shut_down(uid)).cloned().collect();
        for uid in ended {
            if let Some(handle) = self.handles.get(&uid) {
                handle.wishes.send_modify(|wish| wish.drained = true);
                self.statics.renewed.insert(uid);
            }
        }
        self.want_mirrors();
    }

    fn begin_static(&mut self, pod: StaticPod, removed: bool) {
        if self.handles.contains_key(pod.uid()) {
            tracing::error!(from = pod.from, uid = pod.uid(), "a pod of the API has the UID of this static pod");
            return;
        }
        let is_new = self.statics.renewed.remove(pod.uid())
            || self.statics.ledger.all().iter().all(|known| known.uid() != pod.uid());
        let mut unwritten = None;
        if is_new
            && !removed
            && let Some(verdict) = self.reject_for_shutdown(&pod.pod)
        {
            unwritten = self.refuse(&pod.pod, verdict);
        } else if is_new && !removed && self.shortage(&pod.pod).is_some() {
            // It begins all the same: nobody but the node looks after it.
            self.make_room(&pod.pod);
        }
        self.write_down(&pod);
        let mirror = self.mirror_of(&pod);
        let wish = Wish { removed, mirror, verdict: unwritten, ..Wish::of(pod.pod.clone()) };
        self.statics.begun.insert(pod.uid().to_owned(), pod);
        self.begin(wish);
    }

    fn change_static(&mut self, pod: StaticPod) {
        self.write_down(&pod);
        if let Some(handle) = self.handles.get(pod.uid()) {
            handle.wishes.send_modify(|wish| wish.pod = pod.pod.clone());
        }
        self.statics.begun.insert(pod.uid().to_owned(), pod);
    }

    fn end_static(&mut self, uid: &str) {
        if let Some(handle) = self.handles.get(uid) {
            handle.wishes.send_modify(|wish| wish.removed = true);
        }
    }

    fn write_down(&self, pod: &StaticPod) {
        if let Err(error) = self.statics.ledger.save(pod) {
            tracing::error!(uid = pod.uid(), %error, "static pod not written down");
        }
    }

    /// The task of a static pod has ended. One that was only drained comes back with the next agent.
    pub(super) fn static_ended(&mut self, wish: &Wish) {
        self.statics.begun.remove(wish.pod.uid());
        if wish.removed {
            self.statics.ledger.remove(wish.pod.uid());
            self.settle_statics();
        } else if self.statics.renewed.contains(wish.pod.uid()) {
            self.settle_statics();
        }
    }

    /// Tells the mirrors' task what is to be seen.
    fn want_mirrors(&self) {
        let mut wanted = BTreeMap::new();
        for begun in self.begun() {
            let name = begun.pod.name();
            wanted.insert(name, if begun.is_ending { Wanted::Ending } else { Wanted::Shown(begun.pod) });
        }
        self.statics.mirrors.send_if_modified(|mirrors| {
            let is_other = mirrors.wanted != wanted || !mirrors.is_settled;
            (mirrors.wanted, mirrors.is_settled) = (wanted, true);
            is_other
        });
    }

    fn mirror_of(&self, pod: &StaticPod) -> Option<Arc<Pod>> {
        let is_its = |mirror: &&Arc<Pod>| Sight::of(mirror).of == pod.uid() && !self.is_outdated(mirror);
        self.statics.shown.get(&pod.name()).filter(is_its).cloned()
    }

    /// The API shows a mirror: its pod learns of it.
    pub(super) fn take_mirror(&mut self, mirror: Pod) {
        let (name, mirror) = (Name::of(&mirror), Arc::new(mirror));
        let sight = Sight::of(&mirror);
        self.statics.listed.insert(name.clone());
        self.tell_mirror(&sight.of, Some(mirror.clone()).filter(|mirror| !self.is_outdated(mirror)));
        self.statics.shown.insert(name.clone(), mirror);
        self.statics.mirrors.send_if_modified(|mirrors| mirrors.seen.insert(name, sight.clone()) != Some(sight));
    }

    /// A mirror has gone; the static pod runs on (HOOK-101).
    pub(super) fn lose_mirror(&mut self, mirror: &Pod) {
        let name = Name::of(mirror);
        if self.statics.shown.get(&name).is_some_and(|shown| shown.uid() == mirror.uid()) {
            self.forget_mirror(&name);
        }
    }

    /// The API has told all: mirrors that it did not tell are gone.
    pub(super) fn end_mirrors(&mut self) {
        let listed = std::mem::take(&mut self.statics.listed);
        let gone: Vec<Name> = self.statics.shown.keys().filter(|name| !listed.contains(name)).cloned().collect();
        gone.iter().for_each(|name| self.forget_mirror(name));
        self.statics.mirrors.send_if_modified(|mirrors| !std::mem::replace(&mut mirrors.is_synced, true));
    }

    fn forget_mirror(&mut self, name: &Name) {
        if let Some(mirror) = self.statics.shown.remove(name) {
            self.tell_mirror(&Sight::of(&mirror).of, None);
        }
        self.statics.mirrors.send_if_modified(|mirrors| mirrors.seen.remove(name).is_some());
    }

    fn tell_mirror(&self, uid: &str, mirror: Option<Arc<Pod>>) {
        if let Some(handle) = self.handles.get(uid).filter(|handle| handle.wishes.borrow().pod.is_static) {
            handle.wishes.send_modify(|wish| wish.mirror = mirror);
        }
    }
}
