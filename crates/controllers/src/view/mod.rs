//! What the controllers see: the metadata of every object, and of some kinds a few facts more.
//!
//! [`World::is`] and [`World::is_gone`] take what the watches tell, keep it, and note what is to be looked at because of
//! it: workloads in [`World::looks`], the collector's objects in [`World::deeds`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::selector::label::LabelSelector;
use api::{certificate, look};
use serde_json::Value;
use tokio::time::Instant;

pub mod node;
pub mod object;
pub mod pod;

pub use node::Node;
pub use object::{Meta, Owner, Place, Seen, Served};
pub use pod::Pod;

use crate::node_health::{self, Lifecycle};
use crate::track::Due;
use crate::workload::{self, Controller};
use crate::{bootstrap_tokens, certificates, disruption, root_ca, service_account};

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Whether it is being deleted.
    pub deleting: bool,
    /// spec.finalizers: who has to finish before it may go.
    pub finalizers: Vec<String>,
}

/// A resource quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// metadata.uid.
    pub uid: String,
    /// How many things have happened that may change what it should say.
    pub happened: u64,
    /// How many of them had happened when the last count began.
    pub counting: u64,
    /// How many of them its status is known to reflect.
    pub counted: u64,
    /// Whether it counts objects that nobody here watches.
    pub of_others: bool,
    /// When those were last looked for.
    pub polled_at: Instant,
    /// Until when there is no further count.
    pub rests_until: Option<Instant>,
}

/// How many pods there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Crowd {
    /// Those that nobody deletes.
    pub live: usize,
    /// Those that are being deleted.
    pub going: usize,
}

/// Everything that the controllers decide on.
#[derive(Debug, Default)]
pub struct World {
    /// By name.
    pub namespaces: BTreeMap<String, Namespace>,
    /// The namespaces that have a ServiceAccount `default`.
    pub with_default_account: BTreeSet<String>,
    /// By which clients know the API server, PEM; None where nobody tells.
    pub root_ca: Option<String>,
    /// What the ConfigMap `kube-root-ca.crt` of a namespace says, by namespace.
    pub published_ca: BTreeMap<String, String>,
    /// By namespace and name.
    pub quotas: BTreeMap<(String, String), Quota>,
    /// Requests for certificates, by name.
    pub requests: BTreeMap<String, certificates::Facts>,
    /// Whether there is somebody who signs them.
    pub signs: bool,
    /// How often roles and bindings have changed.
    pub rights: u64,
    /// Bootstrap tokens that have an end, by name.
    pub tokens: BTreeMap<String, bootstrap_tokens::Facts>,
    /// By name.
    pub nodes: BTreeMap<String, Arc<Node>>,
    /// Nodes that pods are bound to but that do not exist, and since when that is known.
    pub missing_nodes: BTreeMap<String, Instant>,
    /// What the leases of nodes say: when they were last renewed, by node.
    pub leases: BTreeMap<String, String>,
    /// What is known of nodes that report, and of those that do not.
    pub lifecycle: Lifecycle,
    /// Pods that have ended, those first that are removed first: evicted ones, then the oldest; with their uids.
    pub ended: BTreeSet<(bool, i64, String, String)>,
    /// Workloads to look at.
    pub looks: Due<Place>,
    /// Objects, by uid, that the collector has to judge.
    pub deeds: Due<String>,
    /// By uid.
    pods: BTreeMap<String, Arc<Pod>>,
    /// The uids of pods by the node that they are bound to.
    pods_on: BTreeMap<String, BTreeSet<String>>,
    /// How many pods each namespace has.
    crowds: BTreeMap<String, Crowd>,
    /// The uids of deleted pods without a node.
    unbound_going: BTreeSet<String>,
    /// By uid.
    metas: BTreeMap<String, Meta>,
    /// The uids of what is where.
    uids: BTreeMap<Place, String>,
    /// The uids of what somebody owns, by the owner's uid.
    dependents: BTreeMap<String, BTreeSet<String>>,
    /// The uids of what nobody controls, by kind and namespace.
    free: BTreeMap<(Served, String), BTreeSet<String>>,
    /// Which objects a workload would adopt, by its namespace and its place.
    selectors: BTreeMap<String, BTreeMap<Place, LabelSelector>>,
    /// Which pods a disruption budget is about, by its namespace and its place.
    budgets: BTreeMap<String, BTreeMap<Place, LabelSelector>>,
    /// The highest version that the watch of a kind has shown.
    versions: BTreeMap<Served, u64>,
}

impl World {
    /// An object has come or changed.
    pub fn is(&mut self, kind: Served, uid: &str, object: &Value) {
        let after = Meta::read(kind, object);
        self.note_version(kind, object);
        self.uids.insert(after.place.clone(), uid.to_owned());
        self.keep_facts(uid, &after.place, object);
        let before = self.metas.insert(uid.to_owned(), after);
        if let Some(before) = &before {
            self.unlink(uid, before);
        }
        let after = self.metas[uid].clone();
        for owner in &after.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.to_owned());
        }
        if after.controller().is_none() && workload::is_adopted(kind) {
            self.free.entry((kind, after.place.namespace.clone())).or_default().insert(uid.to_owned());
        }
        self.note(uid, before.as_ref(), Some(&after));
    }

    /// The watch of a kind has shown this.
    pub fn note_version(&mut self, kind: Served, object: &Value) {
        if let Ok(version) = look::text_at(object, &["metadata", "resourceVersion"]).parse::<u64>() {
            let known = self.versions.entry(kind).or_insert(0);
            *known = version.max(*known);
        }
    }

    /// An object has gone.
    pub fn is_gone(&mut self, uid: &str) {
        let Some(before) = self.metas.remove(uid) else { return };
        self.unlink(uid, &before);
        // Another object may have come to its place before its end was known.
        let is_last = self.uids.get(&before.place).is_some_and(|there| there == uid);
        if is_last {
            self.uids.remove(&before.place);
            remove_in(&mut self.selectors, &before.place.namespace, &before.place);
        }
        if is_last || before.place.kind.is("", "pods") {
            self.drop_facts(uid, &before.place);
        }
        self.note(uid, Some(&before), None);
    }

    /// A watch has begun anew, and of a kind there are only these.
    pub fn are_all(&mut self, kind: Served, uids: &BTreeSet<String>) {
        let gone = self.metas.iter().filter(|(uid, meta)| meta.place.kind == kind && !uids.contains(*uid));
        let gone: Vec<String> = gone.map(|(uid, _)| uid.clone()).collect();
        gone.iter().for_each(|uid| self.is_gone(uid));
    }

    /// The uid of what is at a place.
    pub fn uid(&self, place: &Place) -> Option<&String> {
        self.uids.get(place)
    }

    /// What is kept of an object.
    pub fn meta(&self, uid: &str) -> Option<&Meta> {
        self.metas.get(uid)
    }

    /// The uids of what an object owns.
    pub fn dependents(&self, uid: &str) -> impl Iterator<Item = &String> {
        self.dependents.get(uid).into_iter().flatten()
    }

    /// The uids of what nobody controls and a workload would adopt.
    pub fn adoptable(&self, kind: Served, by: &Place) -> Vec<&String> {
        let free = self.free.get(&(kind, by.namespace.clone())).into_iter().flatten();
        let Some(selector) = self.selectors.get(&by.namespace).and_then(|here| here.get(by)) else { return Vec::new() };
        free.filter(|uid| self.metas.get(*uid).is_some_and(|meta| selects(selector, meta))).collect()
    }

    /// How many pods a namespace has.
    pub fn pods_in(&self, namespace: &str) -> Crowd {
        self.crowds.get(namespace).copied().unwrap_or_default()
    }

    /// A pod.
    pub fn pod(&self, uid: &str) -> Option<&Arc<Pod>> {
        self.pods.get(uid)
    }

    /// The uids of the pods that a disruption budget is about.
    pub fn selected(&self, by: &Place) -> Vec<&String> {
        let Some(selector) = self.budgets.get(&by.namespace).and_then(|budgets| budgets.get(by)) else {
            return Vec::new();
        };
        let from = Place { kind: Served::pods(), namespace: by.namespace.clone(), name: String::new() };
        let there = self.uids.range(from.clone()..);
        let there = there.take_while(|(place, _)| place.kind == from.kind && place.namespace == from.namespace);
        let uids = there.map(|(_, uid)| uid);
        uids.filter(|uid| self.pods.get(*uid).is_some_and(|pod| selector.matches(|key| pod.label(key)))).collect()
    }

    /// The uids of the pods that are bound to a node.
    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = &String> {
        self.pods_on.get(node).into_iter().flatten()
    }

    /// The uids of the deleted pods without a node.
    pub fn unbound_going(&self) -> impl Iterator<Item = &String> {
        self.unbound_going.iter()
    }

    /// The highest version that the watch of a kind has shown.
    pub fn version(&self, kind: Served) -> u64 {
        self.versions.get(&kind).copied().unwrap_or(0)
    }

    /// Something in a namespace has come, changed or gone that quotas count.
    pub fn note_usage(&mut self, namespace: &str) {
        let from = (namespace.to_owned(), String::new());
        let quotas = self.quotas.range_mut(from..).take_while(|((place, _), _)| place == namespace);
        quotas.for_each(|(_, quota)| quota.happened += 1);
    }

    /// Brings `missing_nodes` up to date.
    pub fn note_missing_nodes(&mut self, now: Instant) {
        let missing = self.pods_on.keys().filter(|node| !self.nodes.contains_key(*node));
        let since = |node: &String| self.missing_nodes.get(node).copied().unwrap_or(now);
        self.missing_nodes = missing.map(|node| (node.clone(), since(node))).collect();
    }

    fn unlink(&mut self, uid: &str, meta: &Meta) {
        for owner in &meta.owners {
            if let Some(uids) = self.dependents.get_mut(&owner.uid) {
                uids.remove(uid);
                if uids.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
        let key = (meta.place.kind, meta.place.namespace.clone());
        if let Some(uids) = self.free.get_mut(&key) {
            uids.remove(uid);
            if uids.is_empty() {
                self.free.remove(&key);
            }
        }
    }

    /// Notes whom a change concerns.
    fn note(&mut self, uid: &str, before: Option<&Meta>, after: Option<&Meta>) {
        for meta in [before, after].into_iter().flatten() {
            for owner in &meta.owners {
                if owner.controller {
                    self.note_controller(&owner.uid, after.is_none());
                }
                if self.metas.get(&owner.uid).is_some_and(|owner| owner.deleting) {
                    self.deeds.happened(owner.uid.clone());
                }
            }
        }
        let Some(after) = after else {
            // Whoever remembers something of it forgets that.
            let workload = before.filter(|before| Controller::of(before.place.kind).is_some());
            workload.into_iter().for_each(|before| self.looks.happened(before.place.clone()));
            let dependents: Vec<String> = self.dependents(uid).cloned().collect();
            dependents.into_iter().for_each(|uid| self.deeds.happened(uid));
            return;
        };
        if !after.owners.is_empty() || after.orphans || after.foreground || after.tracked {
            self.deeds.happened(uid.to_owned());
        }
        if after.deleting && after.foreground && before.is_none_or(|before| !before.foreground) {
            let dependents: Vec<String> = self.dependents(uid).cloned().collect();
            dependents.into_iter().for_each(|uid| self.deeds.happened(uid));
        }
        if Controller::of(after.place.kind).is_some() {
            self.looks.happened(after.place.clone());
        }
        if after.controller().is_none() && workload::is_adopted(after.place.kind) {
            let here = self.selectors.get(&after.place.namespace).into_iter().flatten();
            let takers = here.filter(|(_, selector)| selects(selector, after));
            let takers: Vec<Place> = takers.map(|(place, _)| place.clone()).collect();
            takers.into_iter().for_each(|place| self.looks.happened(place));
        }
    }

    /// Something that the owner controls has changed; when it has gone, the owner's own controller wants to know too.
    fn note_controller(&mut self, uid: &str, has_gone: bool) {
        let Some(meta) = self.metas.get(uid) else { return };
        let above = meta.controller().filter(|_| has_gone).and_then(|owner| self.metas.get(&owner.uid));
        let places: Vec<Place> = [Some(meta), above].into_iter().flatten().map(|meta| meta.place.clone()).collect();
        let known = places.into_iter().filter(|place| Controller::of(place.kind).is_some());
        known.for_each(|place| self.looks.happened(place));
    }

    fn keep_facts(&mut self, uid: &str, place: &Place, object: &Value) {
        let Place { kind, namespace, name } = place.clone();
        match (kind.0.group, kind.0.plural) {
            ("", "namespaces") => drop(self.namespaces.insert(name, Namespace::read(object))),
            ("", "serviceaccounts") if name == service_account::NAME => {
                self.with_default_account.insert(namespace);
            }
            ("", "configmaps") if name == root_ca::NAME => {
                self.published_ca.insert(namespace, look::text_at(object, &["data", root_ca::KEY]).to_owned());
            }
            ("", "nodes") => self.keep_node(name, Node::read(object)),
            ("coordination.k8s.io", "leases") if namespace == node_health::LEASES => {
                self.leases.insert(name, look::text_at(object, &["spec", "renewTime"]).to_owned());
            }
            ("", "pods") => self.keep_pod(uid, Pod::read(object)),
            ("", "resourcequotas") => self.keep_quota(uid, (namespace, name), object),
            (certificate::GROUP, certificate::PLURAL) => self.keep_request(name, certificates::Facts::read(object)),
            ("", "secrets") if namespace == bootstrap_tokens::NAMESPACE => {
                self.tokens.remove(&name);
                self.tokens.extend(bootstrap_tokens::Facts::read(object).map(|facts| (name, facts)));
            }
            (api::kind::RBAC, _) => self.rights += 1,
            ("policy", "poddisruptionbudgets") => {
                let budgets = self.budgets.entry(namespace).or_default();
                budgets.insert(place.clone(), disruption::selector(object));
            }
            _ => {
                let Some(controller) = Controller::of(kind) else { return };
                if controller.adopts {
                    self.selectors.entry(namespace).or_default().insert(place.clone(), workload::selector(object));
                }
            }
        }
    }

    fn drop_facts(&mut self, uid: &str, place: &Place) {
        let Place { kind, namespace, name } = place;
        match (kind.0.group, kind.0.plural) {
            ("", "namespaces") => drop(self.namespaces.remove(name)),
            ("", "serviceaccounts") if name == service_account::NAME => {
                self.with_default_account.remove(namespace);
            }
            ("", "configmaps") if name == root_ca::NAME => drop(self.published_ca.remove(namespace)),
            ("", "nodes") => {
                self.nodes.remove(name);
                self.note_nodes();
            }
            ("", "pods") => self.drop_pod(uid),
            ("coordination.k8s.io", "leases") if namespace == node_health::LEASES => drop(self.leases.remove(name)),
            ("", "resourcequotas") => self.quotas.retain(|_, quota| quota.uid != uid),
            (certificate::GROUP, certificate::PLURAL) => drop(self.requests.remove(name)),
            ("", "secrets") if namespace == bootstrap_tokens::NAMESPACE => drop(self.tokens.remove(name)),
            (api::kind::RBAC, _) => self.rights += 1,
            ("policy", "poddisruptionbudgets") => remove_in(&mut self.budgets, namespace, place),
            _ => {}
        }
    }

    fn keep_request(&mut self, name: String, mut facts: certificates::Facts) {
        // What was found out about it holds as long as it is the same.
        let before = self.requests.get(&name).filter(|before| before.uid == facts.uid);
        facts.judged = before.map_or(0, |before| before.judged);
        self.requests.insert(name, facts);
    }

    fn keep_node(&mut self, name: String, node: Node) {
        let before = self.nodes.insert(name.clone(), Arc::new(node));
        if before.is_none_or(|before| !before.takes_pods_like(&self.nodes[&name])) {
            self.note_nodes();
        }
    }

    /// Nodes have changed: whoever runs a pod on each is concerned.
    fn note_nodes(&mut self) {
        let of_nodes = |meta: &&Meta| Controller::of(meta.place.kind).is_some_and(|controller| controller.sees_nodes);
        let places: Vec<Place> = self.metas.values().filter(of_nodes).map(|meta| meta.place.clone()).collect();
        places.into_iter().for_each(|place| self.looks.happened(place));
    }

    fn keep_pod(&mut self, uid: &str, pod: Pod) {
        let pod = Arc::new(pod);
        let before = self.pods.insert(uid.to_owned(), pod.clone());
        if let Some(before) = &before {
            self.unlink_pod(uid, before);
        }
        match &pod.node {
            Some(node) => drop(self.pods_on.entry(node.clone()).or_default().insert(uid.to_owned())),
            None if pod.deleting => drop(self.unbound_going.insert(uid.to_owned())),
            None => {}
        }
        if pod.finished {
            self.ended.insert(rank_of_ended(uid, &pod));
        }
        let crowd = self.crowds.entry(pod.namespace.clone()).or_default();
        *if pod.deleting { &mut crowd.going } else { &mut crowd.live } += 1;
        self.note_budgets(before.as_deref(), Some(&pod));
        if before.is_none_or(|before| before.finished != pod.finished) {
            self.note_usage(&pod.namespace);
        }
    }

    /// A pod has changed: budgets are concerned that are about it, or were, unless they count it as before.
    fn note_budgets(&mut self, before: Option<&Pod>, after: Option<&Pod>) {
        let counted = |pod: Option<&Pod>| {
            pod.map(|pod| (pod.labels.clone(), pod.deleting, pod.ready_since.is_some(), pod.controller.clone()))
        };
        let Some(some) = after.or(before) else { return };
        let Some(budgets) = self.budgets.get(&some.namespace).filter(|_| counted(before) != counted(after)) else {
            return;
        };
        let takes = |selector: &LabelSelector| {
            [before, after].into_iter().flatten().any(|pod| selector.matches(|key| pod.label(key)))
        };
        let places: Vec<Place> =
            budgets.iter().filter(|(_, selector)| takes(selector)).map(|(place, _)| place.clone()).collect();
        places.into_iter().for_each(|place| self.looks.happened(place));
    }

    fn drop_pod(&mut self, uid: &str) {
        if let Some(pod) = self.pods.remove(uid) {
            self.unlink_pod(uid, &pod);
            self.note_budgets(Some(&pod), None);
            self.note_usage(&pod.namespace);
        }
    }

    fn unlink_pod(&mut self, uid: &str, pod: &Pod) {
        self.unbound_going.remove(uid);
        if pod.finished {
            self.ended.remove(&rank_of_ended(uid, pod));
        }
        if let Some(crowd) = self.crowds.get_mut(&pod.namespace) {
            *if pod.deleting { &mut crowd.going } else { &mut crowd.live } -= 1;
            if *crowd == Crowd::default() {
                self.crowds.remove(&pod.namespace);
            }
        }
        if let Some(node) = &pod.node
            && let Some(uids) = self.pods_on.get_mut(node)
        {
            uids.remove(uid);
            if uids.is_empty() {
                self.pods_on.remove(node);
            }
        }
    }

    fn keep_quota(&mut self, uid: &str, at: (String, String), object: &Value) {
        let pods = Served::pods();
        let of_others = look::at(object, &["spec", "hard"])
            .and_then(Value::as_object)
            .is_some_and(|hard| hard.keys().any(|name| !api::quota::is_about(pods.0, name)));
        let fresh = || Quota {
            uid: uid.to_owned(),
            happened: 0,
            counting: 0,
            counted: 0,
            of_others,
            polled_at: Instant::now(),
            rests_until: None,
        };
        let quota = self.quotas.entry(at).or_insert_with(fresh);
        // Also what it says itself may be wrong now: a new limit, or a charge for what was never stored.
        quota.happened += 1;
        (quota.of_others, quota.uid) = (of_others, uid.to_owned());
    }
}

/// Removes what is kept of a place, and with the last one what is kept of the namespace.
fn remove_in<V>(all: &mut BTreeMap<String, BTreeMap<Place, V>>, namespace: &str, place: &Place) {
    if let Some(here) = all.get_mut(namespace) {
        here.remove(place);
        if here.is_empty() {
            all.remove(namespace);
        }
    }
}

fn rank_of_ended(uid: &str, pod: &Pod) -> (bool, i64, String, String) {
    (!pod.evicted, pod.created, pod.name.clone(), uid.to_owned())
}

fn selects(selector: &LabelSelector, meta: &Meta) -> bool {
    selector.matches(|key| meta.labels.get(key).map(String::as_str))
}

impl Namespace {
    fn read(object: &Value) -> Namespace {
        let empty = Value::Null;
        let finalizers = look::texts(look::get(object, "spec").unwrap_or(&empty), "finalizers");
        Namespace {
            deleting: look::at(object, &["metadata", "deletionTimestamp"]).is_some(),
            finalizers: finalizers.into_iter().map(str::to_owned).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is due is looked at.
    fn taken(world: &mut World) -> Vec<Place> {
        let now = Instant::now();
        let places: Vec<Place> = std::iter::from_fn(|| world.looks.next(now)).collect();
        places.iter().for_each(|place| world.looks.ends(place));
        places
    }

    fn account(uid: &str) -> Value {
        json!({"metadata": {"name": "default", "namespace": "a", "uid": uid}})
    }

    #[test]
    fn what_came_to_the_place_of_something_else_stays_when_the_end_of_that_is_known_late() {
        let (mut world, kind) = (World::default(), Served::named("", "serviceaccounts"));
        world.is(kind, "old", &account("old"));
        world.is(kind, "new", &account("new"));
        world.are_all(kind, &BTreeSet::from(["new".to_owned()]));
        assert!(world.with_default_account.contains("a"));
        world.is_gone("new");
        assert!(world.with_default_account.is_empty());
    }

    #[test]
    fn a_change_concerns_its_controller_and_who_would_adopt_and_nobody_else() {
        let (mut world, sets) = (World::default(), Served::named("apps", "replicasets"));
        let set = |name: &str| {
            let spec = json!({"selector": {"matchLabels": {"app": name}}});
            json!({"metadata": {"name": name, "namespace": "a", "uid": name}, "spec": spec})
        };
        ["x", "y"].iter().for_each(|name| world.is(sets, name, &set(name)));
        let all = taken(&mut world);
        let owner =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": "x", "controller": true}]);
        let pod = json!({"metadata": {"name": "p", "namespace": "a", "uid": "p", "ownerReferences": owner}});
        world.is(Served::pods(), "p", &pod);
        let due = |world: &World| world.looks.all().map(|place| place.name.clone()).collect::<Vec<_>>();
        assert_eq!(due(&world), ["x"]);
        let free = json!({"metadata": {"name": "q", "namespace": "a", "uid": "q", "labels": {"app": "y"}}});
        world.is(Served::pods(), "q", &free);
        assert_eq!(due(&world), ["x", "y"]);
        assert_eq!(world.adoptable(Served::pods(), &all[1]), ["q"]);
    }

    #[test]
    fn a_budget_is_counted_when_one_of_its_pods_changes_so_that_it_counts_otherwise() {
        let mut world = World::default();
        let kind = Served::named("policy", "poddisruptionbudgets");
        let spec = json!({"selector": {"matchLabels": {"app": "x"}}});
        let budget = json!({"metadata": {"name": "b", "namespace": "a", "uid": "b"}, "spec": spec});
        world.is(kind, "b", &budget);
        let place = Place { kind, namespace: "a".to_owned(), name: "b".to_owned() };
        let taken = |world: &mut World| taken(world).len();
        assert_eq!(taken(&mut world), 1);
        let pod = |namespace: &str, app: &str, phase: &str, ready: &str| {
            json!({
                "metadata": {"name": "p", "namespace": namespace, "uid": namespace, "labels": {"app": app}},
                "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
            })
        };
        for (pod, due) in [
            (pod("a", "x", "Pending", "False"), 1),
            (pod("a", "x", "Running", "False"), 0),
            (pod("a", "x", "Running", "True"), 1),
            (pod("a", "y", "Running", "True"), 1),
            (pod("a", "y", "Running", "False"), 0),
            (pod("a", "x", "Running", "True"), 1),
            (pod("elsewhere", "x", "Running", "True"), 0),
        ] {
            let uid = look::text_at(&pod, &["metadata", "uid"]).to_owned();
            world.is(Served::pods(), &uid, &pod);
            assert_eq!(taken(&mut world), due, "{pod}");
        }
        assert_eq!(world.selected(&place), ["a"]);
        world.is_gone("a");
        assert_eq!((taken(&mut world), world.selected(&place).len()), (1, 0));
    }

    #[test]
    fn of_namespaces_that_are_gone_nothing_is_kept() {
        let mut world = World::default();
        let spec = json!({"selector": {"matchLabels": {"app": "x"}}});
        let object = |name: &str| json!({"metadata": {"name": name, "namespace": "a", "uid": name, "labels": {"app": "x"}}, "spec": spec});
        world.is(Served::named("apps", "replicasets"), "set", &object("set"));
        world.is(Served::named("policy", "poddisruptionbudgets"), "budget", &object("budget"));
        world.is(Served::pods(), "pod", &object("pod"));
        assert_eq!((world.selectors.len(), world.budgets.len(), world.free.len(), world.crowds.len()), (1, 1, 2, 1));
        assert_eq!(world.pods_in("a"), Crowd { live: 1, going: 0 });
        ["pod", "set", "budget"].iter().for_each(|uid| world.is_gone(uid));
        assert_eq!((world.selectors.len(), world.budgets.len(), world.free.len(), world.crowds.len()), (0, 0, 0, 0));
    }

    #[test]
    fn labels_are_kept_of_what_can_be_adopted_alone() {
        let labels = json!({"app": "x"});
        let read = |kind: Served, owners: Value| {
            Meta::read(kind, &json!({"metadata": {"labels": labels, "ownerReferences": owners}})).labels.len()
        };
        let owner =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": "x", "controller": true}]);
        assert_eq!((read(Served::pods(), Value::Null), read(Served::pods(), owner)), (1, 0));
        assert_eq!(read(Served::named("", "configmaps"), Value::Null), 0);
    }
}
