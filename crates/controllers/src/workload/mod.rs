//! Workloads: what all their controllers share.
//!
//! A look at a workload takes a [`View`]: the object as the API has it now, its pods as the watch shows them, its other
//! children. A controller's pure `decide` makes a [`Plan`] of it, and `act` carries that out. To add one, write its
//! `decide` and name it in [`CONTROLLERS`]; the shell and the world know no kind of workload.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::selector::label::LabelSelector;
use api::{Timestamp, look};
use serde_json::{Value, json};

use crate::view::{Node, Place, Pod, Served, World};
use crate::{cron_job, daemon_set, deployment, disruption, job, replica_set, stateful_set};

pub mod act;
pub mod claim;
pub mod condition;
pub mod hash;
pub mod revision;
#[cfg(test)]
pub mod sim;

/// A controller of one kind of workload.
#[derive(Debug)]
pub struct Controller {
    /// Group and plural of the kind.
    pub of: (&'static str, &'static str),
    /// Who tells events.
    pub component: &'static str,
    /// Whether it adopts what its selector takes and nobody controls.
    pub adopts: bool,
    /// Group and plural of its children beside pods.
    pub children: Option<(&'static str, &'static str)>,
    /// Which pods it sees.
    pub pods: Pods,
    /// Whether what it does depends on the nodes.
    pub sees_nodes: bool,
    /// What is to be done.
    pub decide: fn(&View, Timestamp) -> Plan,
    /// What the status says when the first steps of a plan fail, beside what it said before.
    pub fail: fn(&mut Value, &Value, &Failure, Timestamp),
}

/// Which pods a controller sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pods {
    /// Those that it controls, and those that it would adopt.
    Own,
    /// Those that its children control.
    OfChildren,
    /// Those that its selector takes, whoever controls them.
    Selected,
    /// None.
    None,
}

/// All of them.
pub const CONTROLLERS: &[&Controller] = &[
    &cron_job::CRON_JOBS,
    &daemon_set::DAEMON_SETS,
    &deployment::DEPLOYMENTS,
    &disruption::BUDGETS,
    &job::JOBS,
    &replica_set::REPLICA_SETS,
    &replica_set::REPLICATION_CONTROLLERS,
    &stateful_set::STATEFUL_SETS,
];

impl Controller {
    /// The controller of a kind.
    pub fn of(kind: Served) -> Option<&'static Controller> {
        CONTROLLERS.iter().find(|controller| kind.is(controller.of.0, controller.of.1)).copied()
    }
}

/// Which objects a workload takes for its own.
pub fn selector(object: &Value) -> LabelSelector {
    let selector = look::at(object, &["spec", "selector"]);
    let parsed = match look::text(object, "kind") {
        "ReplicationController" => LabelSelector::from_object(Some(&json!({"matchLabels": selector}))),
        _ => LabelSelector::from_object(selector),
    };
    let nothing = LabelSelector { requirements: Vec::new(), nothing: true };
    parsed.map_or(nothing.clone(), |found| if found.is_empty() { nothing } else { found })
}

/// Whether some workload adopts objects of this kind.
pub fn is_adopted(kind: Served) -> bool {
    let adopts = |one: &&&Controller| {
        let takes_pods = one.pods == Pods::Own && kind.is("", "pods");
        one.adopts && (takes_pods || one.children.is_some_and(|(group, plural)| kind.is(group, plural)))
    };
    CONTROLLERS.iter().any(|one| adopts(&one))
}

/// What one look sees.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The workload, as the API has it.
    pub object: Value,
    /// The pods that concern it.
    pub pods: Vec<Arc<Pod>>,
    /// Its children beside pods, and those that it would adopt, as the API has them.
    pub children: Vec<Value>,
    /// The nodes, if it sees them.
    pub nodes: Vec<Arc<Node>>,
    /// If it sees pods of others: the workloads that say how many there should be, by the uid of the pods' controller.
    pub makers: BTreeMap<String, Value>,
}

impl View {
    /// metadata.uid.
    pub fn uid(&self) -> &str {
        look::text_at(&self.object, &["metadata", "uid"])
    }

    /// metadata.name.
    pub fn name(&self) -> &str {
        look::text_at(&self.object, &["metadata", "name"])
    }

    /// metadata.generation.
    pub fn generation(&self) -> i64 {
        look::at(&self.object, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0)
    }

    /// Whether it is being deleted: then it makes, removes and adopts nothing.
    pub fn is_deleting(&self) -> bool {
        look::at(&self.object, &["metadata", "deletionTimestamp"]).is_some()
    }

    /// A number of the spec.
    pub fn number(&self, field: &str) -> Option<i64> {
        look::at(&self.object, &["spec", field]).and_then(Value::as_i64)
    }

    /// The status as it is written.
    pub fn status(&self) -> &Value {
        static EMPTY: Value = Value::Null;
        look::get(&self.object, "status").unwrap_or(&EMPTY)
    }

    /// What children refer to it by.
    pub fn owner_reference(&self) -> Value {
        json!({
            "apiVersion": look::text(&self.object, "apiVersion"), "kind": look::text(&self.object, "kind"),
            "name": self.name(), "uid": self.uid(), "controller": true, "blockOwnerDeletion": true,
        })
    }

    /// A pod of a template, to be named by the server.
    pub fn new_pod(&self, template: &Value) -> Value {
        let mut metadata =
            json!({"generateName": format!("{}-", self.name()), "ownerReferences": [self.owner_reference()]});
        for field in ["labels", "annotations", "finalizers"] {
            look::copy(&template["metadata"], &mut metadata, field);
        }
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
    }

    /// Its own template.
    pub fn template(&self) -> &Value {
        &self.object["spec"]["template"]
    }
}

/// What is to be done.
#[must_use]
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// These steps first, one after the other; when one fails the status tells of it.
    pub first: Vec<Step>,
    /// Then this is the status.
    pub status: Option<Value>,
    /// These steps only after that is written.
    pub then: Vec<Step>,
    /// When to look again though nothing happens.
    pub wake_at: Option<Timestamp>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Make these. The more go well, the more are made at once.
    Create {
        /// Their kind.
        kind: Served,
        /// All alike in what could make the API refuse them.
        objects: Vec<Value>,
        /// What is told.
        words: Words,
    },
    /// Delete one.
    Delete {
        /// Its kind.
        kind: Served,
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
        /// What is told.
        words: Words,
    },
    /// Change one, by a strategic merge that names its uid.
    Patch {
        /// Its kind.
        kind: Served,
        /// Its name.
        name: String,
        /// The change.
        patch: Value,
    },
    /// Replace one, if it is still this version.
    Replace {
        /// Its kind.
        kind: Served,
        /// All of it.
        object: Value,
    },
    /// Tell people.
    Tell {
        /// `Normal` or `Warning`.
        kind: &'static str,
        /// Upstream's reason.
        reason: &'static str,
        /// One sentence.
        message: String,
    },
}

/// What is told of a step, as reason and message; nothing if the message is empty. `{}` stands for the object's name when
/// it went well, for the API's words when it did not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words {
    /// When it went well.
    pub done: (&'static str, String),
    /// When it did not.
    pub failed: (&'static str, String),
}

impl Words {
    /// Of making pods, as most tell it.
    pub fn of_created_pod() -> Words {
        Words {
            done: ("SuccessfulCreate", "Created pod: {}".to_owned()),
            failed: ("FailedCreate", "Error creating: {}".to_owned()),
        }
    }

    /// Of deleting pods, as most tell it.
    pub fn of_deleted_pod() -> Words {
        Words {
            done: ("SuccessfulDelete", "Deleted pod: {}".to_owned()),
            failed: ("FailedDelete", "Error deleting: {}".to_owned()),
        }
    }
}

impl Step {
    /// Deletes a pod.
    pub fn delete_pod(pod: &Pod, words: Words) -> Step {
        Step::Delete { kind: Served::pods(), name: pod.name.clone(), uid: pod.uid.clone(), words }
    }

    /// Deletes a child.
    pub fn delete_child(kind: Served, child: &Value, words: Words) -> Step {
        let text = |field| look::text_at(child, &["metadata", field]).to_owned();
        Step::Delete { kind, name: text("name"), uid: text("uid"), words }
    }
}

/// Why a step failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The reason that is told with it; empty if nothing is told.
    pub reason: &'static str,
    /// The API's words.
    pub words: String,
    /// Whether another object has the name of the one that was to be made.
    pub collided: bool,
}

/// What the watches have shown of what concerns a workload.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Its pods, and those that it would adopt.
    pub pods: Vec<Arc<Pod>>,
    /// Its children beside pods, and those that it would adopt.
    pub children: Vec<Place>,
    /// The nodes, if it sees them.
    pub nodes: Vec<Arc<Node>>,
    /// If it sees pods of others: the workloads that say how many there should be, by the uid of the pods' controller.
    pub makers: BTreeMap<String, Place>,
    /// Whether that may be behind what was written, so that the API is asked instead.
    pub is_blind: bool,
}

/// Takes what concerns a workload out of the world.
pub fn snapshot(world: &World, place: &Place) -> Snapshot {
    let Some(controller) = Controller::of(place.kind) else { return Snapshot::default() };
    let Some(uid) = world.uid(place) else { return Snapshot::default() };
    let related = |kind: Served| -> Vec<&String> {
        let own = world.dependents(uid).filter(|uid| world.meta(uid).is_some_and(|meta| meta.place.kind == kind));
        let free = if controller.adopts { world.adoptable(kind, place) } else { Vec::new() };
        own.chain(free).collect()
    };
    let kind = controller.children.map(|(group, plural)| Served::named(group, plural));
    let children: Vec<&String> = kind.map(related).unwrap_or_default();
    let pods: Vec<&String> = match controller.pods {
        Pods::Own => related(Served::pods()),
        Pods::OfChildren => children.iter().flat_map(|child| world.dependents(child)).collect(),
        Pods::Selected => world.selected(place),
        Pods::None => Vec::new(),
    };
    let pods: Vec<Arc<Pod>> = pods.into_iter().filter_map(|uid| world.pod(uid)).cloned().collect();
    Snapshot {
        makers: if controller.pods == Pods::Selected { makers(world, &pods) } else { BTreeMap::new() },
        pods,
        children: children.into_iter().filter_map(|uid| world.meta(uid)).map(|meta| meta.place.clone()).collect(),
        nodes: if controller.sees_nodes { world.nodes.values().cloned().collect() } else { Vec::new() },
        is_blind: false,
    }
}

/// Who says how many of these pods there should be: the controller of each, or the Deployment that controls that.
fn makers(world: &World, pods: &[Arc<Pod>]) -> BTreeMap<String, Place> {
    let mut makers = BTreeMap::new();
    for owner in pods.iter().filter_map(|pod| pod.controller.as_ref()) {
        let Some(meta) = world.meta(&owner.uid).filter(|_| !makers.contains_key(&owner.uid)) else { continue };
        let above = meta.controller().and_then(|above| world.meta(&above.uid));
        let deployment = above.filter(|above| above.place.kind.is("apps", "deployments"));
        makers.insert(owner.uid.clone(), deployment.unwrap_or(meta).place.clone());
    }
    makers
}

/// What a look has written, so that the next one does not begin before the watches have shown it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// The highest version of each kind.
    pub versions: BTreeMap<Served, u64>,
    /// The uids of what was deleted.
    pub going: Vec<String>,
    /// Whether a call ended so that nobody knows what it did.
    pub is_unsure: bool,
}

impl Written {
    /// Whether the watches have shown all of it; what they have shown is not asked about again.
    pub fn is_shown(&mut self, world: &World) -> bool {
        let is_going = |uid: &mut String| world.meta(uid).is_none_or(|meta| meta.deleting);
        while self.going.pop_if(is_going).is_some() {}
        self.going.is_empty() && self.versions.iter().all(|(kind, version)| world.version(*kind) >= *version)
    }
}

/// A time of the API after so many seconds.
pub fn after_seconds(seconds: i64) -> Option<Timestamp> {
    Timestamp::from_second(seconds).ok()
}

/// The whole number of an `int or percentage` of a total.
pub fn share(value: Option<&Value>, total: i64, rounds_up: bool) -> i64 {
    match value {
        Some(Value::String(text)) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let hundredfold = percent * total;
            if rounds_up { (hundredfold + 99).div_euclid(100) } else { hundredfold.div_euclid(100) }
        }
        Some(value) => value.as_i64().unwrap_or(0),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_round_as_asked() {
        let share = |value: Value, up| share(Some(&value), 10, up);
        assert_eq!((share(json!("25%"), true), share(json!("25%"), false)), (3, 2));
        assert_eq!((share(json!(4), true), share(json!("0%"), true), share(json!("100%"), false)), (4, 0, 10));
    }
}
