//! A faulty world for tests: calls fail, watches lag, a controller dies between two calls; nodes run pods.
//!
//! Objects are kept as the API keeps them: what a controller makes and writes has to pass the rules of its kind. Each look
//! sees workloads and their children as they are, but pods only as the watch has shown them.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{Timestamp, look};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{CONTROLLERS, Controller, Failure, Plan, Step, View, Words, condition};
use crate::view::object::owners;
use crate::view::{Node, Place, Pod, Served};

/// What may happen.
#[derive(Debug, Clone)]
pub enum World {
    /// A look that gets as far as so many effects before the controller dies.
    Look(usize),
    /// The watch shows what there is.
    Show,
    /// The spec asks for another count.
    Scale(usize),
    /// The spec has another template.
    Template(usize),
    /// The nodes run what is bound and new.
    Run,
    /// A pod succeeds, or fails.
    End(usize, bool),
    /// A pod loses its labels.
    Relabel(usize),
    /// Somebody deletes a pod.
    Delete(usize),
    /// Time passes.
    Wait(u8),
}

impl World {
    /// Any history.
    pub fn histories() -> impl Strategy<Value = Vec<World>> {
        let index = any::<usize>;
        let one = prop_oneof![
            6 => (0usize..6).prop_map(World::Look),
            4 => Just(World::Look(usize::MAX)),
            4 => Just(World::Show),
            3 => Just(World::Run),
            1 => index().prop_map(World::Scale),
            1 => index().prop_map(World::Template),
            2 => (index(), any::<bool>()).prop_map(|(pod, well)| World::End(pod, well)),
            1 => index().prop_map(World::Relabel),
            1 => index().prop_map(World::Delete),
            1 => any::<u8>().prop_map(World::Wait),
        ];
        proptest::collection::vec(one, 0..40)
    }
}

/// The labels of pods, as a template.
pub fn template(app: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

/// A pod that nobody controls.
pub fn labelled(name: &str, app: &str) -> Value {
    let spec = json!({"containers": [{"name": "c", "image": "i"}]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "a", "labels": {"app": app}}, "spec": spec})
}

/// The world.
#[derive(Debug)]
pub struct Sim {
    objects: BTreeMap<Place, Value>,
    /// Pods as the watch has shown them.
    shown: BTreeMap<Place, Value>,
    /// The clock, in seconds.
    pub now: i64,
    /// What the API says to whoever makes something.
    pub refusal: Option<String>,
    /// What was told: reason and message.
    pub told: Vec<(String, String)>,
    nodes: Vec<Arc<Node>>,
    next: u64,
    adopted: usize,
}

impl Default for Sim {
    fn default() -> Sim {
        Sim {
            objects: BTreeMap::new(),
            shown: BTreeMap::new(),
            now: 1_000_000,
            refusal: None,
            told: Vec::new(),
            nodes: Vec::new(),
            next: 0,
            adopted: 0,
        }
    }
}

fn place(kind: Served, name: &str) -> Place {
    Place { kind, namespace: "a".to_owned(), name: name.to_owned() }
}

/// A step that did not go well: the controller died, or the API refused.
enum Stopped {
    Died,
    Refused(Option<Failure>),
}

impl Sim {
    /// The time of the world.
    pub fn time(&self) -> Timestamp {
        Timestamp::from_second(self.now).unwrap()
    }

    /// Makes an object as the API does.
    pub fn create(&mut self, group: &str, plural: &str, object: Value) -> Value {
        self.try_create(Served::named(group, plural), object).expect("nothing has that name")
    }

    /// Sets the nodes.
    pub fn set_nodes(&mut self, nodes: &[Value]) {
        self.nodes = nodes.iter().map(|node| Arc::new(Node::read(node))).collect();
    }

    fn version(&mut self) -> String {
        self.next += 1;
        self.next.to_string()
    }

    fn try_create(&mut self, kind: Served, mut object: Value) -> Option<Value> {
        let (time, version) = (self.time(), self.version());
        let meta = look::child(&mut object, "metadata");
        if look::text(meta, "name").is_empty() {
            let name = format!("{}{version}", look::text(meta, "generateName"));
            look::set(meta, "name", name);
        }
        look::set(meta, "namespace", "a");
        look::set(meta, "uid", format!("u{version}"));
        look::set(meta, "creationTimestamp", api::time::seconds(time));
        look::set(meta, "resourceVersion", version);
        let at = place(kind, look::text(meta, "name"));
        if self.objects.contains_key(&at) {
            return None;
        }
        kind.0.rules.default(&mut object);
        kind.0.rules.prepare_create(&mut object, time);
        let mut errors = api::meta::validate_create(kind.0, &object);
        errors.extend(kind.0.rules.validate_create(&object));
        assert!(errors.is_empty(), "{errors:?}\n{object:#}");
        self.objects.insert(at.clone(), object.clone());
        self.show_one(&at);
        Some(object)
    }

    fn show_one(&mut self, at: &Place) {
        match self.objects.get(at) {
            Some(object) => drop(self.shown.insert(at.clone(), object.clone())),
            None => drop(self.shown.remove(at)),
        }
    }

    /// The watch shows everything.
    pub fn show(&mut self) {
        self.shown = self.objects.clone();
    }

    /// An object.
    pub fn get(&self, group: &str, plural: &str, name: &str) -> Option<&Value> {
        self.objects.get(&place(Served::named(group, plural), name))
    }

    /// All objects of a kind, by name.
    pub fn all(&self, plural: &str) -> Vec<&Value> {
        self.objects.iter().filter(|(at, _)| at.kind.0.plural == plural).map(|(_, object)| object).collect()
    }

    /// The names of a kind.
    pub fn names(&self, plural: &str) -> Vec<String> {
        self.all(plural).into_iter().map(|one| look::text_at(one, &["metadata", "name"]).to_owned()).collect()
    }

    /// How many of a kind are so.
    pub fn count(&self, plural: &str, is: impl Fn(&Value) -> bool) -> usize {
        self.all(plural).into_iter().filter(|one| is(one)).count()
    }

    /// How many objects have been adopted.
    pub fn adoptions(&self) -> usize {
        self.adopted
    }

    /// Somebody changes an object.
    pub fn change(&mut self, group: &str, plural: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let at = place(Served::named(group, plural), name);
        let version = self.version();
        let Some(object) = self.objects.get_mut(&at) else { return };
        let spec = object["spec"].clone();
        change(object);
        let moved = spec != object["spec"];
        let meta = look::child(object, "metadata");
        look::set(meta, "resourceVersion", version);
        if moved {
            let generation = look::integer(meta, "generation").unwrap_or(0);
            look::set(meta, "generation", generation + 1);
        }
    }

    /// Something happens that is alike for all workloads.
    pub fn happens(&mut self, event: &World, (group, plural, name): (&str, &str, &str)) {
        let pods = self.names("pods");
        let pod = |index: &usize| pods.get(index % pods.len().max(1)).cloned().unwrap_or_default();
        match event {
            World::Look(limit) => self.look(group, plural, name, *limit),
            World::Show => self.show(),
            World::Run => self.run(),
            World::Wait(seconds) => self.now += i64::from(*seconds),
            World::End(index, well) => self.end(&pod(index), *well),
            World::Relabel(index) => {
                self.change("", "pods", &pod(index), |pod| pod["metadata"]["labels"] = json!({}));
            }
            World::Delete(index) => {
                let at = place(Served::pods(), &pod(index));
                self.remove(&at);
            }
            World::Scale(_) | World::Template(_) => {}
        }
    }

    /// A pod ends.
    pub fn end(&mut self, name: &str, well: bool) {
        let time = api::time::seconds(self.time());
        self.change("", "pods", name, |pod| {
            if api::pod::is_terminal_phase(look::text_at(pod, &["status", "phase"])) {
                return;
            }
            let (phase, code) = if well { ("Succeeded", 0) } else { ("Failed", 1) };
            let ended = json!({"terminated": {"exitCode": code, "finishedAt": time}});
            pod["status"] = json!({"phase": phase, "containerStatuses": [{"name": "c", "state": ended}]});
        });
    }

    /// The nodes run what is there: new pods get ready, deleted ones end.
    pub fn run(&mut self) {
        let time = api::time::seconds(self.time());
        for name in self.names("pods") {
            let at = place(Served::pods(), &name);
            let pod = Pod::read(&self.objects[&at]);
            if pod.deleting && !pod.finished && pod.job.tracked {
                self.end(&name, false);
            } else if pod.deleting {
                // Who has to see its end holds it.
                if !pod.job.tracked {
                    self.objects.remove(&at);
                }
            } else if !pod.finished && pod.ready_since.is_none() {
                self.change("", "pods", &name, |pod| {
                    let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": time}]);
                    let node = Pod::read(pod).meant_for.unwrap_or_else(|| "n".to_owned());
                    pod["spec"]["nodeName"] = node.into();
                    pod["status"] = json!({"phase": "Running", "conditions": ready});
                });
            }
        }
    }

    /// Deletes as the API does: bound pods linger, what has a finalizer too.
    fn remove(&mut self, at: &Place) {
        let Some(object) = self.objects.get_mut(at) else { return };
        let finalizers = look::list_at(object, &["metadata", "finalizers"]);
        let lingers = !finalizers.is_empty() || !look::text_at(object, &["spec", "nodeName"]).is_empty();
        if lingers {
            let time = Timestamp::from_second(self.now).unwrap();
            look::set_absent(look::child(object, "metadata"), "deletionTimestamp", api::time::seconds(time));
        } else {
            self.objects.remove(at);
        }
    }

    fn view(&self, at: &Place) -> Option<View> {
        let object = self.objects.get(at)?.clone();
        let children = Controller::of(at.kind).and_then(|controller| controller.children);
        let is_child = |kind: Served| children.is_some_and(|(group, plural)| kind.is(group, plural));
        let pods = self.shown.iter().filter(|(at, _)| at.kind.is("", "pods"));
        let children = self.objects.iter().filter(|(at, _)| is_child(at.kind));
        Some(View {
            object,
            pods: pods.map(|(_, pod)| Arc::new(Pod::read(pod))).collect(),
            children: children.map(|(_, child)| child.clone()).collect(),
            nodes: self.nodes.clone(),
            ..View::default()
        })
    }

    /// What a look would do.
    pub fn plan(&self, group: &str, plural: &str, name: &str) -> Plan {
        let at = place(Served::named(group, plural), name);
        let looks = self.view(&at).zip(Controller::of(at.kind));
        looks.map_or_else(Plan::default, |(view, controller)| (controller.decide)(&view, self.time()))
    }

    /// A look that dies after so many effects.
    pub fn look(&mut self, group: &str, plural: &str, name: &str, limit: usize) {
        self.look_at(&place(Served::named(group, plural), name), limit);
    }

    fn look_at(&mut self, at: &Place, mut limit: usize) {
        let (Some(view), Some(controller)) = (self.view(at), Controller::of(at.kind)) else { return };
        let plan = (controller.decide)(&view, self.time());
        let mut stopped = None;
        for step in plan.first {
            stopped = self.step(at, step, &mut limit).err();
            if stopped.is_some() {
                break;
            }
        }
        if matches!(stopped, Some(Stopped::Died)) || limit == 0 {
            return;
        }
        if let Some(mut status) = plan.status {
            if let Some(Stopped::Refused(Some(failure))) = &stopped {
                let old = self.objects[at]["status"].clone();
                (controller.fail)(&mut status, &old, failure, self.time());
            }
            limit -= 1;
            self.write_status(at, status);
        }
        for step in plan.then {
            if stopped.is_some() || self.step(at, step, &mut limit).is_err() {
                return;
            }
        }
    }

    fn write_status(&mut self, at: &Place, status: Value) {
        let version = self.version();
        let Some(object) = self.objects.get_mut(at) else { return };
        if condition::is_same_status(&object["status"], &status) {
            return;
        }
        let mut new = object.clone();
        new["status"] = status;
        at.kind.0.rules.default(&mut new);
        let errors = at.kind.0.rules.validate_update(&new, object, Some("status"));
        assert!(errors.is_empty(), "{errors:?}\n{:#}\nbefore: {:#}", new["status"], object["status"]);
        new["metadata"]["resourceVersion"] = version.into();
        *object = new;
    }

    fn step(&mut self, at: &Place, step: Step, limit: &mut usize) -> Result<(), Stopped> {
        let mut take = || {
            *limit = limit.checked_sub(1).ok_or(Stopped::Died)?;
            Ok(())
        };
        match step {
            Step::Create { kind, objects, words } => {
                for object in objects {
                    take()?;
                    self.make(at, kind, object, &words)?;
                }
            }
            Step::Delete { kind, name, uid, words } => {
                take()?;
                let target = place(kind, &name);
                if self.objects.get(&target).is_some_and(|one| one["metadata"]["uid"] == uid) {
                    self.remove(&target);
                    self.tell(words.done.0, &words.done.1.replace("{}", &name));
                }
                self.show_one(&target);
            }
            Step::Patch { kind, name, patch } => {
                take()?;
                self.patch(&place(kind, &name), &patch)?;
            }
            Step::Replace { kind, object } => {
                take()?;
                let target = place(kind, look::text_at(&object, &["metadata", "name"]));
                self.replace(&target, object)?;
            }
            Step::Tell { reason, message, .. } => self.tell(reason, &message),
        }
        Ok(())
    }

    fn tell(&mut self, reason: &str, message: &str) {
        if !message.is_empty() {
            self.told.push((reason.to_owned(), message.to_owned()));
        }
    }

    fn make(&mut self, by: &Place, kind: Served, object: Value, words: &Words) -> Result<(), Stopped> {
        let reason = words.failed.0;
        if let Some(refusal) = self.refusal.clone() {
            return Err(Stopped::Refused(Some(Failure { reason, words: refusal, collided: false })));
        }
        let target = place(kind, look::text_at(&object, &["metadata", "name"]));
        match self.try_create(kind, object) {
            Some(made) => {
                let name = look::text_at(&made, &["metadata", "name"]);
                self.tell(words.done.0, &words.done.1.replace("{}", name));
                Ok(())
            }
            None => {
                let uid = self.objects[by]["metadata"]["uid"].clone();
                let is_own = owners(&self.objects[&target]).iter().any(|owner| owner.controller && uid == *owner.uid);
                self.show_one(&target);
                if is_own {
                    Ok(())
                } else {
                    Err(Stopped::Refused(Some(Failure { reason, words: "taken".into(), collided: true })))
                }
            }
        }
    }

    fn patch(&mut self, target: &Place, patch: &Value) -> Result<(), Stopped> {
        let Some(old) = self.objects.get(target) else {
            self.show_one(target);
            return Ok(());
        };
        if patch["metadata"]["uid"] != old["metadata"]["uid"] {
            return Err(Stopped::Refused(None));
        }
        let had = owners(old).len();
        let mut new = api::patch::strategic(target.kind.0, old, patch).expect("a good patch");
        if owners(&new).len() > had {
            assert_eq!(had, 0, "nobody's child is taken from another");
            self.adopted += 1;
        }
        new["metadata"]["resourceVersion"] = self.version().into();
        self.put(target, new);
        Ok(())
    }

    fn replace(&mut self, target: &Place, mut new: Value) -> Result<(), Stopped> {
        let version = self.version();
        let old = self.objects.get(target).ok_or(Stopped::Refused(None))?;
        if old["metadata"]["resourceVersion"] != new["metadata"]["resourceVersion"] {
            return Err(Stopped::Refused(None));
        }
        target.kind.0.rules.default(&mut new);
        target.kind.0.rules.prepare_update(&mut new, old, None);
        let errors = target.kind.0.rules.validate_update(&new, old, None);
        assert!(errors.is_empty(), "{errors:?}\n{new:#}");
        new["metadata"]["resourceVersion"] = version.into();
        self.put(target, new);
        Ok(())
    }

    /// What is being deleted goes with its last finalizer, if no node holds it.
    fn put(&mut self, target: &Place, new: Value) {
        let meta = &new["metadata"];
        let is_held = !look::list(meta, "finalizers").is_empty()
            || (!look::text_at(&new, &["spec", "nodeName"]).is_empty() && !Pod::read(&new).finished);
        if look::get(meta, "deletionTimestamp").is_some() && !is_held {
            self.objects.remove(target);
        } else {
            self.objects.insert(target.clone(), new);
        }
        self.show_one(target);
    }

    /// All controllers look at all workloads, and nodes run, until nothing changes for long.
    pub fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..2_000 {
            let before = self.next_and_objects();
            self.run();
            self.show();
            self.look_at_all();
            self.now += 7;
            quiet = if self.next_and_objects() == before { quiet + 1 } else { 0 };
            if quiet > 3 {
                return;
            }
        }
        panic!("it does not come to rest: {:#?}", self.objects);
    }

    fn look_at_all(&mut self) {
        let is_workload = |at: &&Place| CONTROLLERS.iter().any(|one| at.kind.is(one.of.0, one.of.1));
        let places: Vec<Place> = self.objects.keys().filter(is_workload).cloned().collect();
        places.iter().for_each(|at| self.look_at(at, usize::MAX));
    }

    fn next_and_objects(&self) -> BTreeMap<Place, Value> {
        self.objects.clone()
    }

    /// Further looks change nothing.
    pub fn stays(&mut self) {
        self.show();
        let before = self.objects.clone();
        let told = self.told.len();
        self.look_at_all();
        assert_eq!(self.objects, before, "and then it is quiet");
        assert_eq!(self.told.len(), told, "and silent");
    }
}
