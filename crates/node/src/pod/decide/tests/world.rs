//! A node in miniature: a runtime, an API and a disk on virtual time, whose preconditions are asserts.
//!
//! The world carries out plans as the shell does, with latencies, failures and crashes of the agent from a tape of
//! choices. An exhausted tape means that everything goes well, so that liveness can be asserted.

use crate::{
    image::{Cause, Fault, Refusal},
    object::{Container, Pod},
    pod::{
        act::Outcome,
        decide::{Action, InFlight, Plan, Stage, decide},
        view::{self, Desired, Exit, ImageReady, Observed, Record, RecordState, Sandbox, StartError, Stop, View},
    },
};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// How the processes of one container behave.
#[derive(Debug, Clone, Copy)]
pub struct Behaviour {
    /// Seconds until it ends by itself, and the exit code.
    pub ends: Option<(i64, i32)>,
    /// Seconds from the stop signal to its end, and the exit code; `None` ignores the signal.
    pub on_term: Option<(i64, i32)>,
    /// Seconds that its postStart takes and whether it succeeds.
    pub post_start: (i64, bool),
    /// Seconds that its preStop takes and whether it succeeds.
    pub pre_stop: (i64, bool),
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { ends: None, on_term: Some((0, 143)), post_start: (0, true), pre_stop: (0, true) }
    }
}

#[derive(Debug, Clone)]
enum Happening {
    Acted(Action, bool),
    Exit(String, i32),
}

pub struct World {
    pub view: View,
    pub now: Timestamp,
    pub trace: Vec<String>,
    pub plan: Option<Plan>,
    pub behaviour: BTreeMap<String, Behaviour>,
    origin: Timestamp,
    in_flight: InFlight,
    truth: Observed,
    cgroup: bool,
    volumes: bool,
    pulled: BTreeSet<String>,
    volumes_pulled: BTreeSet<String>,
    /// Images that cannot be pulled now, and the registry's text.
    broken: BTreeMap<String, String>,
    /// The specification's own account of failed pulls: how many, when the last began and ended.
    failed: BTreeMap<String, (usize, Timestamp, Timestamp)>,
    begun: BTreeMap<String, Timestamp>,
    /// Every image that was asked for, and when.
    pub asked: Vec<(String, i64)>,
    told: Vec<(Cause, Timestamp)>,
    /// Containers that the runtime refuses to make.
    pub unmakeable: BTreeSet<String>,
    /// Containers whose stop does nothing, so many times more.
    lies: BTreeMap<String, u32>,
    /// Actions that fail, so many times more; by the name of the action, with that of the container where there is one.
    pub failing: BTreeMap<String, u32>,
    queue: BTreeMap<(Timestamp, u64), Happening>,
    serial: u64,
    tape: Vec<u8>,
    pub in_api: bool,
    /// The highest attempt of each container that has a log.
    pub logged: BTreeMap<String, u32>,
}

pub fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
        "spec": spec,
        "status": {"phase": "Pending"},
    }))
    .unwrap()
}

impl World {
    pub fn new(pod: Pod) -> Self {
        let origin = Timestamp::from_second(1_800_000_000).unwrap();
        let view = View {
            pod: Arc::new(pod),
            desired: Desired::Run,
            observed: Observed::default(),
            host_ips: vec!["192.0.2.1".into()],
            runtime: "sampan".into(),
            crash_back_off: crate::pod::decide::CrashBackOff::default(),
        };
        Self {
            view,
            now: origin,
            trace: Vec::new(),
            plan: None,
            behaviour: BTreeMap::new(),
            origin,
            in_flight: InFlight::new(),
            truth: Observed::default(),
            cgroup: false,
            volumes: false,
            pulled: BTreeSet::new(),
            volumes_pulled: BTreeSet::new(),
            broken: BTreeMap::new(),
            failed: BTreeMap::new(),
            begun: BTreeMap::new(),
            asked: Vec::new(),
            told: Vec::new(),
            unmakeable: BTreeSet::new(),
            failing: BTreeMap::new(),
            lies: BTreeMap::new(),
            queue: BTreeMap::new(),
            serial: 0,
            tape: Vec::new(),
            in_api: true,
            logged: BTreeMap::new(),
        }
    }

    pub fn with(mut self, name: &str, behaviour: Behaviour) -> Self {
        self.behaviour.insert(name.into(), behaviour);
        self
    }

    pub fn with_tape(mut self, tape: Vec<u8>) -> Self {
        self.tape = tape;
        self
    }

    /// Pulls of this image fail with this text from now on.
    pub fn break_image(&mut self, image: &str, text: &str) {
        self.broken.insert(image.into(), text.into());
    }

    /// Pulls of this image go well from now on.
    pub fn mend_image(&mut self, image: &str) {
        self.broken.remove(image);
    }

    /// The pod is gone from the API without a word.
    pub fn remove(&mut self) {
        let stop = crate::pod::grace::stop(&self.view.pod, self.view.observed.checkpoint.stop, self.now);
        let crate::pod::checkpoint::StopRecord { since, deadline } = stop;
        self.view.observed.checkpoint.stop = Some(stop);
        self.view.observed.api_gone = true;
        self.view.desired = Desired::Stop(Stop { cause: view::Cause::Removed, since, deadline });
    }

    /// Something changed on which pulls may depend.
    pub fn tell(&mut self, cause: Cause) {
        // Later than everything that happened at this very second.
        self.now += SignedDuration::from_millis(1);
        self.told.push((cause.clone(), self.now));
        self.view.observed.hear(cause, self.now);
    }

    /// The words with which a container waits.
    pub fn waiting(&self, container: &str) -> (String, String) {
        let status = &self.view.pod.status;
        let mut all = status.container_statuses.iter().chain(&status.init_container_statuses);
        let found = all.find(|s| s.name == container).and_then(|s| s.state.waiting.clone()).unwrap_or_default();
        (found.reason, found.message)
    }

    pub fn seconds(&self) -> i64 {
        self.now.duration_since(self.origin).as_secs()
    }

    fn choice(&mut self) -> u8 {
        self.tape.pop().unwrap_or(255)
    }

    fn note(&mut self, text: impl std::fmt::Display) {
        self.trace.push(format!("{} {text}", self.seconds()));
    }

    /// DELETE with this grace; a second one may only shorten.
    pub fn delete(&mut self, grace: i64) {
        let known = self.view.observed.checkpoint.stop;
        let since = known.map_or(self.now, |known| known.since);
        let wanted = (self.now + SignedDuration::from_secs(grace.max(1))).max(since + SignedDuration::from_secs(1));
        let deadline = known.map_or(wanted, |known| known.deadline.min(wanted));
        self.view.observed.checkpoint.stop = Some(crate::pod::checkpoint::StopRecord { since, deadline });
        self.view.desired = Desired::Stop(Stop { cause: view::Cause::Deleted, since, deadline });
        Arc::make_mut(&mut self.view.pod).metadata.deletion_timestamp = Some(crate::object::Time::from(deadline));
    }

    /// The node evicts the pod; like its task, it keeps the first verdict and gives none to an ended pod.
    pub fn evict(&mut self, grace_seconds: i64) {
        if self.view.observed.checkpoint.verdict.is_none() && !self.view.pod.is_terminal() {
            let (reason, message) = ("Evicted".to_owned(), "The node was low on resource: memory. ".to_owned());
            let verdict =
                crate::pod::checkpoint::Verdict { reason, message, at: self.now, grace_seconds, is_disruption: true };
            self.view.observed.checkpoint.verdict = Some(verdict);
        }
    }

    /// Containers of this name outlive their stop so many times.
    pub fn outlives(&mut self, name: &str, times: u32) {
        self.lies.insert(name.into(), times);
    }

    /// The agent dies and comes back: what was in flight may or may not have happened.
    pub fn crash(&mut self) {
        let pending: Vec<_> = self.queue.iter().map(|(key, happening)| (*key, happening.clone())).collect();
        for (key, happening) in pending {
            if let Happening::Acted(action, _) = happening {
                self.queue.remove(&key);
                if self.choice().is_multiple_of(2) && !matches!(action, Action::StopContainer { .. }) {
                    let _ = self.effect(&action);
                }
            }
        }
        self.in_flight.clear();
        // IMG-80: the back-off is in memory only.
        self.failed.clear();
        let checkpoint = self.view.observed.checkpoint.clone();
        self.view.observed = Observed {
            checkpoint,
            sandboxes: self.truth.sandboxes.clone(),
            containers: self.truth.containers.clone(),
            past_attempts: self.logged.clone(),
            ..Observed::default()
        };
        self.view.remember_probes();
        self.note("agent restarts");
    }

    /// What a probe of a container that runs has found for good.
    pub fn probe(&mut self, name: &str, find: impl FnOnce(&mut view::Probed)) {
        let id = self.truth.running().find(|record| record.name == name).unwrap().id.clone();
        find(self.view.observed.probes.entry(id).or_default());
    }

    /// Changes what the runtime says of the newest record of a container; `None` takes it away.
    pub fn tamper(&mut self, name: &str, change: impl FnOnce(Record) -> Option<Record>) {
        let record = self.truth.newest(name).cloned().unwrap();
        self.truth.containers.remove(&record.id);
        if let Some(record) = change(record) {
            self.truth.containers.insert(record.id.clone(), record);
        }
        self.look();
    }

    /// A container that runs ends now.
    pub fn end(&mut self, name: &str, code: i32) {
        let id = self.truth.running().find(|record| record.name == name).unwrap().id.clone();
        self.exit(&id, code);
    }

    /// Records of a container that ended lie about, with attempts from 0 on.
    pub fn litter(&mut self, name: &str, count: u32) {
        let Some(sandbox) = self.truth.newest_sandbox().map(|sandbox| sandbox.id.clone()) else { return };
        for attempt in 0..count {
            let Outcome::Record(record) = self.made_container(name, attempt, &sandbox, attempt) else { return };
            if let Some(made) = self.truth.containers.get_mut(&record.id) {
                made.state = exited(1, made.created_at);
            }
        }
        self.look();
    }

    /// A sandbox dies and what runs in it does not.
    pub fn lose_pause(&mut self) {
        self.truth.sandboxes.values_mut().for_each(|sandbox| sandbox.ready = false);
        self.look();
    }

    fn look(&mut self) {
        self.view.observed.see_all(
            self.truth.sandboxes.values().cloned().collect(),
            self.truth.containers.values().cloned().collect(),
        );
    }

    /// The records of a container, as their attempts.
    pub fn attempts(&self, name: &str) -> Vec<u32> {
        self.truth.records(name).iter().map(|record| record.attempt).collect()
    }

    /// The sandbox's monitor dies: its containers with it.
    pub fn kill_sandbox(&mut self) {
        let now = self.now;
        for sandbox in self.truth.sandboxes.values_mut() {
            sandbox.ready = false;
        }
        for record in self.truth.containers.values_mut().filter(|record| record.is_running()) {
            record.state = exited(255, now);
        }
        self.look();
    }

    pub fn running(&self) -> Vec<String> {
        let mut names: Vec<String> = self.truth.running().map(|record| record.name.clone()).collect();
        names.sort();
        names
    }

    pub fn is_clean(&self) -> bool {
        self.truth.sandboxes.is_empty() && self.truth.containers.is_empty() && !self.cgroup && !self.volumes
    }

    /// Runs until `seconds` after the beginning, or until the pod is gone.
    pub fn run_until(&mut self, seconds: i64) {
        let horizon = self.origin + SignedDuration::from_secs(seconds);
        for _ in 0..100_000 {
            let plan = self.settle();
            let gone = plan.stage == Stage::Gone;
            let next = self.queue.keys().next().map(|key| key.0);
            let wake = plan.wake_at;
            self.plan = Some(plan);
            if gone && self.in_flight.is_empty() {
                return;
            }
            let Some(at) = [next, wake].into_iter().flatten().min().filter(|at| *at <= horizon) else {
                self.now = horizon.max(self.now);
                return;
            };
            self.now = at.max(self.now);
            if let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let happening = entry.remove();
                self.happen(happening);
            }
        }
        panic!("the world does not come to rest: {:#?}", &self.trace[self.trace.len().saturating_sub(40)..]);
    }

    fn settle(&mut self) -> Plan {
        for _ in 0..40 {
            let plan = decide(&self.view, &self.in_flight, self.now);
            let mut recorded = false;
            for action in plan.actions.clone() {
                recorded |= self.begin(action);
            }
            self.publish(&plan);
            if !recorded {
                return plan;
            }
        }
        panic!("the rules do not settle: {:#?}", decide(&self.view, &self.in_flight, self.now).actions);
    }

    fn publish(&mut self, plan: &Plan) {
        let Some(status) = &plan.status else { return };
        assert!(self.in_api, "a status for a pod that is gone from the API");
        let before = self.view.pod.status.phase.clone();
        if matches!(before.as_str(), "Succeeded" | "Failed") {
            assert_eq!(status.phase, before, "a terminal phase changed");
        } else if matches!(status.phase.as_str(), "Succeeded" | "Failed") {
            assert_eq!(self.truth.running().count(), 0, "a terminal phase while something runs");
        }
        if status.phase != before {
            self.note(format!("A {}", status.phase));
        }
        Arc::make_mut(&mut self.view.pod).status = status.clone();
    }

    fn begin(&mut self, action: Action) -> bool {
        match &action {
            Action::Tell(notice) => {
                self.note(format!("E {} {}", notice.reason, notice.message));
                self.view.observed.told.insert(notice.key.clone());
                return false;
            }
            Action::Cancel(key) => {
                self.in_flight.remove(key);
                self.queue.retain(|_, h| !matches!(h, Happening::Acted(a, _) if a.key() == *key));
                return false;
            }
            _ => {}
        }
        if self.view.begin(&action, self.now) && matches!(action, Action::Record(_)) {
            return true;
        }
        self.precondition(&action);
        let kill_at = match &action {
            Action::StopContainer { kill_at, .. } => Some(*kill_at),
            _ => None,
        };
        let again = self.in_flight.insert(action.key(), kill_at).is_some();
        assert!(!again || kill_at.is_some(), "begun twice: {action:?}");
        if again {
            self.queue.retain(|_, h| !matches!(h, Happening::Acted(a, _) if a.key() == action.key()));
        }
        let name = self.name_of(&action);
        let scripted = self.failing.get_mut(&name).filter(|left| **left > 0).map(|left| *left -= 1).is_some();
        let fails = scripted
            || self.choice() < 40 && !matches!(action, Action::RunPreStop { .. } | Action::RunPostStart { .. });
        let latency = self.latency(&action, fails);
        self.later(latency, Happening::Acted(action, fails));
        false
    }

    /// `StopContainer c`, `CreateSandbox`.
    fn name_of(&self, action: &Action) -> String {
        let super::super::Key(verb, about) = action.key();
        let name = self.truth.containers.get(&about).map_or(about.as_str(), |record| &record.name);
        format!("{verb:?} {name}").trim_end().to_owned()
    }

    fn later(&mut self, seconds: i64, happening: Happening) {
        self.serial += 1;
        self.queue.insert((self.now + SignedDuration::from_secs(seconds), self.serial), happening);
    }

    fn of(&self, name: &str) -> Behaviour {
        self.behaviour.get(name).copied().unwrap_or_default()
    }

    /// What must hold before the action; and what the trace says of it.
    fn precondition(&mut self, action: &Action) {
        let truth = &self.truth;
        match action {
            Action::CreateSandbox { attempt } => {
                assert!(self.cgroup, "a sandbox before its cgroup");
                assert!(truth.sandboxes.values().all(|s| !s.ready), "two ready sandboxes");
                self.note(format!("C RunPodSandbox {attempt}"));
            }
            Action::EnsureImage { .. } | Action::EnsureVolumeImage { .. } => self.may_pull(action),
            Action::CreateContainer { container, attempt, sandbox, .. } => {
                assert!(self.volumes, "a container before its volumes");
                let spec = self.view.pod.container(container).unwrap().1;
                for mount in &spec.volume_mounts {
                    assert!(self.volumes_pulled.contains(&mount.name), "a container before the image of its volume");
                }
                assert!(self.pulled.contains(container), "a container before its image");
                assert!(truth.sandboxes.get(sandbox).is_some_and(|s| s.ready), "a container in a dead sandbox");
                assert!(truth.running().all(|r| r.name != *container), "two of {container} at once");
                assert!(!self.is_stopping(), "a start while the pod ends");
                self.note(format!("C CreateContainer {container} {attempt}"));
            }
            Action::StartContainer { id, container } => {
                assert_eq!(truth.containers[id].state, RecordState::Created);
                assert!(!self.is_stopping(), "a start while the pod ends");
                self.note(format!("C StartContainer {container}"));
            }
            Action::RunPostStart { container, .. } => self.note(format!("H postStart {container}")),
            Action::RunPreStop { id, container } => {
                assert!(truth.containers[id].is_running(), "preStop of what does not run");
                self.note(format!("H preStop {container}"));
            }
            Action::StopContainer { id, timeout_seconds, .. } => {
                assert!(*timeout_seconds >= 2);
                let name = truth.containers[id].name.clone();
                self.note(format!("C S({timeout_seconds}) {name}"));
            }
            Action::RemoveContainer { id, keeps_log } if *keeps_log => {
                let name = truth.containers[id].name.clone();
                assert!(!truth.containers[id].is_running());
                self.note(format!("C RemoveContainer {name}"));
            }
            Action::StopSandbox { id } => {
                assert!(truth.running().all(|r| r.sandbox != *id), "a sandbox stopped under a running container");
            }
            Action::RemoveContainer { id, .. } => assert!(truth.containers.get(id).is_none_or(|r| !r.is_running())),
            Action::RemoveSandbox { id } => assert!(truth.sandboxes.get(id).is_none_or(|s| !s.ready)),
            Action::TearDownVolumes | Action::RemoveCgroup => {
                assert_eq!(truth.running().count(), 0, "{action:?} under a running container");
            }
            Action::DeleteFromApi => {
                assert!(self.is_clean(), "deleted from the API before the node is clean");
                assert!(self.view.pod.is_terminal(), "deleted from the API without a terminal phase");
                self.note("A DELETE");
            }
            _ => {}
        }
    }

    /// IMG-71, IMG-77: one pull of an image at a time; none before its back-off is over, unless what concerns it changed.
    fn may_pull(&mut self, action: &Action) {
        let key = action.key();
        let image = self.view.image_of(&key).unwrap().to_owned();
        let same = self.in_flight.keys().filter(|other| **other != key && self.view.image_of(other) == Some(&image));
        assert_eq!(same.count(), 0, "two pulls of {image}");
        if let Some((count, begun, ended)) = self.failed.get(&image).cloned() {
            let delay = [10, 20, 40, 80, 160, 300][(count - 1).min(5)];
            let text = self.view.observed.image_failures[&image].clone();
            let news = self
                .told
                .iter()
                .any(|(cause, at)| *at > begun && cause.concerns(&self.view.pod, text.class, &text.host));
            let is_over = self.now >= ended + SignedDuration::from_secs(delay);
            assert!(is_over || news, "{image} is pulled too early after {count} failures");
        }
        self.begun.insert(image.clone(), self.now);
        self.asked.push((image.clone(), self.seconds()));
        if self.broken.contains_key(&image) {
            self.note(format!("C PullImage {image}"));
        }
    }

    /// What a pull of this image comes to.
    fn pull(&mut self, image: &str) -> Result<(), Refusal> {
        let Some(text) = self.broken.get(image) else {
            self.failed.remove(image);
            return Ok(());
        };
        let fault = Fault::of(image, &tonic::Status::unknown(text.clone()), text.clone());
        let known = self.failed.get(image).filter(|(_, _, at)| self.now.duration_since(*at).as_secs() <= 600);
        let count = known.map_or(0, |(count, ..)| *count) + 1;
        self.failed.insert(image.to_owned(), (count, self.begun[image], self.now));
        Err(fault.refusal(image))
    }

    fn is_stopping(&self) -> bool {
        matches!(self.view.desired, Desired::Stop(_)) || self.view.observed.checkpoint.verdict.is_some()
    }

    fn latency(&mut self, action: &Action, fails: bool) -> i64 {
        if fails {
            return 0;
        }
        match action {
            Action::RunPostStart { container, .. } => self.of(container).post_start.0,
            Action::RunPreStop { container, .. } => self.of(container).pre_stop.0,
            Action::StopContainer { id, timeout_seconds, .. } => {
                let Some(record) = self.truth.containers.get(id).filter(|r| r.is_running()) else { return 0 };
                let (id, name) = (id.clone(), record.name.clone());
                if self.lies.get_mut(&name).filter(|left| **left > 0).map(|left| *left -= 1).is_some() {
                    return 0;
                }
                let on_term = self.of(&name).on_term.filter(|(after, _)| after <= timeout_seconds);
                let (after, code) = on_term.unwrap_or((*timeout_seconds, 137));
                self.later(after, Happening::Exit(id, code));
                after
            }
            _ => i64::from(self.choice() == 200),
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Exit(id, code) => self.exit(&id, code),
            Happening::Acted(action, fails) => {
                self.in_flight.remove(&action.key());
                let outcome = if fails { Outcome::Failed("no".into()) } else { self.effect(&action) };
                self.view.apply(&action, outcome, self.now);
            }
        }
    }

    fn exit(&mut self, id: &str, code: i32) {
        let now = self.now;
        let Some(record) = self.truth.containers.get_mut(id).filter(|record| record.is_running()) else { return };
        record.state = exited(code, now);
        let record = record.clone();
        self.note(format!("exit {} {code}", record.name));
        self.view.observed.see_container(record);
    }

    /// What the action does to the truth.
    fn effect(&mut self, action: &Action) -> Outcome {
        match action {
            Action::EnsureCgroup => self.cgroup = true,
            Action::RemoveCgroup => self.cgroup = false,
            Action::PrepareVolumes => {
                self.volumes = true;
                return Outcome::Mounted(Default::default());
            }
            Action::TearDownVolumes => self.volumes = false,
            Action::CreateSandbox { attempt } => return self.made_sandbox(*attempt),
            Action::EnsureImage { container, attempt } => return self.ensured(container, *attempt),
            Action::EnsureVolumeImage { volume } => return self.ensured_volume(volume),
            Action::CreateContainer { container, .. } if self.unmakeable.contains(container) => {
                let error = StartError { reason: "CreateContainerError".into(), message: "no".into(), at: self.now };
                return Outcome::StartFailed(error, None);
            }
            Action::CreateContainer { container, attempt, sandbox, step } => {
                return self.made_container(container, *attempt, sandbox, *step);
            }
            Action::StartContainer { id, .. } => return self.started(id),
            Action::StopContainer { id, .. } => {
                let left = self.truth.containers.get(id).cloned();
                // HOOK-84: whoever still runs after its stop was not stopped.
                let still = left.as_ref().is_some_and(Record::is_running);
                return match left {
                    Some(_) if still => Outcome::Failed("still running".into()),
                    Some(record) => Outcome::Record(record),
                    None => Outcome::Done,
                };
            }
            Action::StopSandbox { id } => {
                if let Some(sandbox) = self.truth.sandboxes.get_mut(id) {
                    sandbox.ready = false;
                }
            }
            Action::RemoveSandbox { id } => {
                self.truth.sandboxes.remove(id);
                self.truth.containers.retain(|_, record| record.sandbox != *id);
            }
            Action::RemoveContainer { id, .. } => drop(self.truth.containers.remove(id)),
            Action::RunPostStart { container, .. } => return hook(self.of(container).post_start.1),
            Action::RunPreStop { container, .. } => return hook(self.of(container).pre_stop.1),
            Action::DeleteFromApi => {
                self.in_api = false;
                return Outcome::ApiGone;
            }
            _ => {}
        }
        Outcome::Done
    }

    fn made_sandbox(&mut self, attempt: u32) -> Outcome {
        self.serial += 1;
        let id = format!("s{}", self.serial);
        let ips = vec!["10.0.0.2".to_owned()];
        let sandbox = Sandbox { id: id.clone(), attempt, ready: true, created_at: self.now, ips };
        self.truth.sandboxes.insert(id, sandbox.clone());
        Outcome::Sandbox(sandbox, String::new())
    }

    fn ensured_volume(&mut self, volume: &str) -> Outcome {
        let source = self.view.pod.spec.volumes.iter().find(|v| v.name == volume).and_then(|v| v.image.clone());
        let image = source.unwrap().reference;
        if let Err(refusal) = self.pull(&image) {
            return Outcome::Refused(refusal);
        }
        self.volumes_pulled.insert(volume.to_owned());
        Outcome::Image(ImageReady { image, id: "sha256:1".into(), ..ImageReady::default() })
    }

    fn ensured(&mut self, container: &str, attempt: u32) -> Outcome {
        let image = self.view.pod.container(container).map(|(_, c)| c.image.clone()).unwrap_or_default();
        if let Err(refusal) = self.pull(&image) {
            return Outcome::Refused(refusal);
        }
        self.pulled.insert(container.to_owned());
        Outcome::Image(ImageReady {
            image,
            attempt,
            id: "sha256:0".into(),
            uid: None,
            user: String::new(),
            digest: String::new(),
        })
    }

    fn made_container(&mut self, name: &str, attempt: u32, sandbox: &str, step: u32) -> Outcome {
        assert!(
            self.truth.containers.values().all(|r| r.name != name || r.attempt < attempt),
            "attempt {attempt} of {name} twice"
        );
        self.serial += 1;
        let id = format!("c{}", self.serial);
        let container: Option<&Container> = self.view.pod.container(name).map(|(_, container)| container);
        let logged = self.logged.entry(name.to_owned()).or_default();
        *logged = attempt.max(*logged);
        let record = Record {
            id: id.clone(),
            name: name.to_owned(),
            attempt,
            restarts: attempt,
            sandbox: sandbox.to_owned(),
            state: RecordState::Created,
            created_at: self.now,
            step,
            hash: container.map(crate::config::hash).unwrap_or_default(),
            image_ref: "img@sha256:0".into(),
            image: "img".into(),
            log_path: String::new(),
            read_only_below: BTreeSet::new(),
            user: None,
            stop_signal: String::new(),
        };
        self.truth.containers.insert(id, record.clone());
        Outcome::Record(record)
    }

    fn started(&mut self, id: &str) -> Outcome {
        let now = self.now;
        let Some(record) = self.truth.containers.get_mut(id) else { return Outcome::Failed("gone".into()) };
        record.state = RecordState::Running { started_at: now };
        let record = record.clone();
        if let Some((after, code)) = self.of(&record.name).ends {
            self.later(after, Happening::Exit(id.to_owned(), code));
        }
        Outcome::Record(record)
    }
}

fn hook(well: bool) -> Outcome {
    Outcome::Hook((!well).then(|| "exit 7".to_owned()))
}

fn exited(code: i32, now: Timestamp) -> RecordState {
    let reason = if code == 0 { "Completed" } else { "Error" };
    RecordState::Exited(Exit {
        code,
        reason: reason.into(),
        message: String::new(),
        started_at: Some(now),
        finished_at: now,
    })
}

/// True if the world's trace has these lines in this order, others between them.
pub fn in_order(trace: &[String], wanted: &[&str]) -> bool {
    let mut rest = trace.iter();
    wanted.iter().all(|line| rest.any(|seen| seen == line))
}
