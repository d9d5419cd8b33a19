//! Which set is of which template: names by hash, revisions, annotations.

use std::collections::BTreeMap;

use api::{Timestamp, look};
use serde_json::{Value, json};

use super::{Deployment, Set, Sets, rolling, status};
use crate::view::Served;
use crate::workload::{Step, View, Words, hash};

/// The number of a revision, on sets and Deployments.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// The numbers that a set had before.
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// How many pods the Deployment asked for when it last scaled a set.
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// How many it allowed then.
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// The label by which the pods of one set are told from those of another.
const HASH: &str = "pod-template-hash";
/// Annotations of Deployments that are not for their sets.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
];

fn annotation<'a>(object: &'a Value, key: &str) -> &'a str {
    look::text_at(object, &["metadata", "annotations", key])
}

/// An annotation that is a number.
pub fn number(object: &Value, key: &str) -> Option<i64> {
    annotation(object, key).parse().ok()
}

/// The revision of a set.
pub fn of(set: &Value) -> i64 {
    number(set, REVISION).unwrap_or(0)
}

fn annotate_with(object: &mut Value, key: &str, value: String) {
    look::set(look::child(look::child(object, "metadata"), "annotations"), key, value);
}

/// Tells the set of the present template from the others.
pub fn split(deployment: &Deployment<'_>, own: &[&Value]) -> Sets {
    let mut all: Vec<Set> = own.iter().map(|object| Set::read(object)).collect();
    all.sort_by(|a, b| a.age.cmp(&b.age));
    let wanted = bare(deployment.view.template());
    let is_new = |set: &Set| look::same(Some(&bare(&set.object["spec"]["template"])), Some(&wanted));
    let new = all.iter().position(is_new).map(|index| all.remove(index));
    Sets { new, old: all }
}

/// A template without the label that tells sets apart.
fn bare(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template.pointer_mut("/metadata/labels") {
        look::remove(labels, HASH);
    }
    template
}

/// The number for the newest revision: one more than any old one has.
fn next(sets: &Sets) -> i64 {
    sets.old.iter().map(|set| of(&set.object)).max().unwrap_or(0) + 1
}

/// Brings annotations and readiness of the new set in line.
pub fn annotate(deployment: &Deployment<'_>, sets: &mut Sets, draft: &mut status::Draft, now: Timestamp) {
    let next = next(sets);
    let Some(new) = &mut sets.new else { return };
    set_annotations(deployment.view, &mut new.object, next);
    if let Some(spec) = new.object.get_mut("spec") {
        look::copy(&deployment.view.object["spec"], spec, "minReadySeconds");
    }
    draft.note_found(deployment, new.name(), now);
}

fn set_annotations(view: &View, set: &mut Value, next: i64) {
    let known = look::at(&view.object, &["metadata", "annotations"]);
    let copied = known.into_iter().flat_map(|all| all.as_object()).flatten();
    for (key, value) in copied.filter(|(key, _)| !NOT_COPIED.contains(&key.as_str())) {
        annotate_with(set, key, value.as_str().unwrap_or_default().to_owned());
    }
    let had = annotation(set, REVISION).to_owned();
    if of(set) >= next {
        return;
    }
    annotate_with(set, REVISION, next.to_string());
    if !had.is_empty() {
        let history = annotation(set, HISTORY).to_owned();
        let history = if history.is_empty() { had } else { format!("{history},{had}") };
        annotate_with(set, HISTORY, history);
    }
}

/// Makes the set of the present template.
pub fn create(deployment: &Deployment<'_>, sets: &mut Sets, draft: &mut status::Draft, now: Timestamp) -> Option<Step> {
    let view = deployment.view;
    let total: i64 = sets.old.iter().map(|set| set.replicas).sum();
    let replicas = rolling::grown(deployment, 0, total);
    let mut template = view.template().clone();
    let collisions = look::integer(view.status(), "collisionCount");
    let hash = hash::of(&template, collisions);
    look::set(look::child(look::child(&mut template, "metadata"), "labels"), HASH, hash.clone());
    let mut selector = view.object["spec"]["selector"].clone();
    look::set(look::child(&mut selector, "matchLabels"), HASH, hash.clone());
    let name = format!("{}-{hash}", view.name());
    let mut set = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": name, "labels": template["metadata"]["labels"], "ownerReferences": [view.owner_reference()],
        },
        "spec": {"replicas": replicas, "selector": selector, "template": template},
    });
    look::copy(&view.object["spec"], &mut set["spec"], "minReadySeconds");
    set_annotations(view, &mut set, next(sets));
    told(deployment, &mut set);
    draft.note_created(deployment, &name, now);
    let scaled = format!("Scaled up replica set {{}} from 0 to {replicas}");
    let words = Words {
        done: ("ScalingReplicaSet", if replicas > 0 { scaled } else { String::new() }),
        failed: (status::CREATE_FAILED, format!("Failed to create new replica set {name:?}: {{}}")),
    };
    Some(Step::Create { kind: Served::named("apps", "replicasets"), objects: vec![set], words })
}

fn told(deployment: &Deployment<'_>, set: &mut Value) {
    annotate_with(set, DESIRED, deployment.replicas.to_string());
    annotate_with(set, MAX, deployment.replicas_max().to_string());
}

/// The steps that make the sets what they are to be; `own` is what they are.
pub fn changes(deployment: &Deployment<'_>, own: &[&Value], sets: &Sets) -> Vec<Step> {
    let uid = |object: &Value| look::text_at(object, &["metadata", "uid"]).to_owned();
    let known: BTreeMap<String, &Value> = own.iter().map(|object| (uid(object), *object)).collect();
    let mut steps = Vec::new();
    for set in sets.all() {
        let Some(before) = known.get(&uid(&set.object)) else { continue };
        let was = look::at(before, &["spec", "replicas"]).and_then(Value::as_i64).unwrap_or(1);
        let mut object = set.object.clone();
        if set.replicas > 0 || set.replicas != was {
            told(deployment, &mut object);
        }
        look::set(look::child(&mut object, "spec"), "replicas", set.replicas);
        if object == **before {
            continue;
        }
        steps.push(Step::Replace { kind: Served::named("apps", "replicasets"), object });
        if set.replicas != was {
            let direction = if set.replicas > was { "up" } else { "down" };
            let message = format!("Scaled {direction} replica set {} from {was} to {}", set.name(), set.replicas);
            steps.push(Step::Tell { kind: "Normal", reason: "ScalingReplicaSet", message });
        }
    }
    steps
}

/// The Deployment with the revision of its new set, if it has another one.
pub fn annotated(view: &View, sets: &Sets) -> Option<Value> {
    let wanted = annotation(&sets.new.as_ref()?.object, REVISION).to_owned();
    if wanted.is_empty() || annotation(&view.object, REVISION) == wanted || view.is_deleting() {
        return None;
    }
    let mut object = view.object.clone();
    annotate_with(&mut object, REVISION, wanted);
    Some(object)
}
