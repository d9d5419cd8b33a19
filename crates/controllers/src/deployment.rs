//! Deployments: ReplicaSets that follow each other, one for each template.
//!
//! Here is what happens in which order; `rolling` says how many pods each set may have, `revision` which set is which,
//! `status` what people and `kubectl rollout status` see. Nothing is deleted here but sets that are history.

use api::{Timestamp, look};
use serde_json::Value;

use crate::view::Served;
use crate::workload::{Controller, Failure, Plan, Pods, Step, View, Words, claim, condition, selector, share};

mod revision;
mod rolling;
mod status;
#[cfg(test)]
mod tests;

/// The controller of Deployments.
pub const DEPLOYMENTS: Controller = Controller {
    of: ("apps", "deployments"),
    component: "deployment-controller",
    adopts: true,
    children: Some(("apps", "replicasets")),
    pods: Pods::OfChildren,
    sees_nodes: false,
    decide,
    fail,
};

/// No deadline.
const NEVER: i64 = i32::MAX as i64;

/// A set, as far as it matters, and what it is to become.
#[derive(Debug, Clone)]
pub struct Set {
    /// All of it.
    pub object: Value,
    /// spec.replicas, as it is to be.
    pub replicas: i64,
    /// status.availableReplicas; of a set that was just scaled down, which its status does not know yet, only what stays.
    pub available: i64,
    /// metadata.creationTimestamp and name: the order of age.
    pub age: (String, String),
}

impl Set {
    fn read(object: &Value) -> Set {
        let text = |field| look::text_at(object, &["metadata", field]).to_owned();
        let replicas = look::at(object, &["spec", "replicas"]).and_then(Value::as_i64).unwrap_or(1);
        Set {
            object: object.clone(),
            replicas,
            available: count(object, "availableReplicas").min(replicas),
            age: (text("creationTimestamp"), text("name")),
        }
    }

    fn name(&self) -> &str {
        &self.age.1
    }
}

/// A count of the status.
fn count(object: &Value, field: &str) -> i64 {
    look::at(object, &["status", field]).and_then(Value::as_i64).unwrap_or(0)
}

/// A Deployment, read.
#[derive(Debug)]
pub struct Deployment<'a> {
    /// What the look sees.
    pub view: &'a View,
    /// spec.replicas.
    pub replicas: i64,
    /// How many pods there may be beyond that.
    pub surge: i64,
    /// How many may be missing of that.
    pub unavailable: i64,
    /// Whether old pods go before new ones come.
    pub recreates: bool,
    /// spec.progressDeadlineSeconds, if it is one.
    pub deadline: Option<i64>,
    /// spec.paused.
    pub paused: bool,
}

impl Deployment<'_> {
    fn read(view: &View) -> Deployment<'_> {
        let spec = &view.object["spec"];
        let strategy = look::get(spec, "strategy");
        let recreates = strategy.is_some_and(|strategy| look::text(strategy, "type") == "Recreate");
        let replicas = view.number("replicas").unwrap_or(1);
        let rolling = |field, up| share(look::at(spec, &["strategy", "rollingUpdate", field]), replicas, up);
        let (surge, mut unavailable) = (rolling("maxSurge", true), rolling("maxUnavailable", false));
        if !recreates && surge == 0 && unavailable == 0 {
            // Both are shares that round to nothing: still it has to get on.
            unavailable = 1;
        }
        Deployment {
            view,
            replicas,
            surge: if recreates { 0 } else { surge },
            unavailable: if recreates { 0 } else { unavailable.min(replicas) },
            recreates,
            deadline: view.number("progressDeadlineSeconds").filter(|deadline| *deadline != NEVER),
            paused: look::flag(spec, "paused"),
        }
    }

    /// How many pods there may be.
    pub fn replicas_max(&self) -> i64 {
        self.replicas + self.surge
    }
}

/// The sets of a Deployment.
#[derive(Debug, Default)]
pub struct Sets {
    /// The one of the present template.
    pub new: Option<Set>,
    /// The others, the oldest first.
    pub old: Vec<Set>,
}

impl Sets {
    fn all(&self) -> impl Iterator<Item = &Set> {
        self.old.iter().chain(&self.new)
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Set> {
        self.old.iter_mut().chain(&mut self.new)
    }
}

/// What a Deployment needs.
pub fn decide(view: &View, now: Timestamp) -> Plan {
    let deployment = Deployment::read(view);
    let kind = Served::named("apps", "replicasets");
    let (own, mut first) = claim::children(view, kind, &selector(&view.object));
    let mut sets = revision::split(&deployment, &own);
    let mut draft = status::Draft::new(view);
    if view.is_deleting() {
        return finish(&deployment, &sets, (draft, false), first, now);
    }
    draft.note_pause(&deployment, now);
    let before: Vec<i64> = sets.all().map(|set| set.replicas).collect();
    let mut steps = Vec::new();
    let rolls = !deployment.paused && !rolling::is_resized(&deployment, &sets);
    if !rolls {
        revision::annotate(&deployment, &mut sets, &mut draft, now);
        rolling::resize(&deployment, &mut sets);
    } else if deployment.recreates {
        recreate(&deployment, &mut sets, &mut draft, &mut steps, now);
    } else {
        revision::annotate(&deployment, &mut sets, &mut draft, now);
        match &sets.new {
            None => steps.extend(revision::create(&deployment, &mut sets, &mut draft, now)),
            Some(_) => rolling::roll(&deployment, &mut sets),
        }
    }
    let scaled: Vec<Step> = revision::changes(&deployment, &own, &sets);
    let is_quiet = scaled.is_empty() && steps.is_empty() && before.len() == sets.all().count();
    first.extend(steps);
    first.extend(scaled);
    if is_quiet && (deployment.paused || draft.is_complete(&deployment, &sets)) {
        first.extend(history(view, &sets, kind));
    }
    finish(&deployment, &sets, (draft, rolls), first, now)
}

/// Old pods go first, and have to be gone before the first new one comes.
fn recreate(
    deployment: &Deployment<'_>,
    sets: &mut Sets,
    draft: &mut status::Draft,
    steps: &mut Vec<Step>,
    now: Timestamp,
) {
    revision::annotate(deployment, sets, draft, now);
    if sets.old.iter().any(|set| set.replicas > 0) {
        sets.old.iter_mut().for_each(|set| set.replicas = 0);
        return;
    }
    let uids: Vec<&str> = sets.old.iter().map(|set| look::text_at(&set.object, &["metadata", "uid"])).collect();
    let of_old = |uid: &str| uids.contains(&uid);
    let runs = deployment
        .view
        .pods
        .iter()
        .any(|pod| !pod.finished && pod.controller.as_ref().is_some_and(|owner| of_old(&owner.uid)));
    if runs {
        return;
    }
    match &mut sets.new {
        None => steps.extend(revision::create(deployment, sets, draft, now)),
        Some(new) => new.replicas = deployment.replicas,
    }
}

/// Sets without pods beyond what the history is to hold go, the oldest revisions first.
fn history(view: &View, sets: &Sets, kind: Served) -> Vec<Step> {
    let Some(limit) = view.number("revisionHistoryLimit").filter(|limit| *limit != NEVER) else { return Vec::new() };
    let is_deleting = |set: &Set| look::at(&set.object, &["metadata", "deletionTimestamp"]).is_some();
    let mut old: Vec<&Set> = sets.old.iter().filter(|set| !is_deleting(set)).collect();
    old.sort_by_key(|set| (revision::of(&set.object), set.age.clone()));
    let excess = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    let generation =
        |set: &Set| look::at(&set.object, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0);
    let is_empty = |set: &&&Set| {
        let is_observed = generation(set) <= count(&set.object, "observedGeneration");
        set.replicas == 0 && count(&set.object, "replicas") == 0 && is_observed
    };
    let gone = old.iter().take(excess).filter(is_empty);
    gone.map(|set| Step::delete_child(kind, &set.object, Words::default())).collect()
}

fn finish(
    deployment: &Deployment<'_>,
    sets: &Sets,
    (mut draft, rolls): (status::Draft, bool),
    mut first: Vec<Step>,
    now: Timestamp,
) -> Plan {
    let wake_at = draft.conclude(deployment, sets, rolls, now);
    if let Some(object) = revision::annotated(deployment.view, sets) {
        first.push(Step::Replace { kind: Served::named("apps", "deployments"), object });
    }
    Plan { first, status: Some(draft.status), wake_at, ..Plan::default() }
}

/// What is said of a set that could not be made.
fn fail(status: &mut Value, old: &Value, failure: &Failure, now: Timestamp) {
    if failure.collided {
        // Another set has the name: the next one is hashed with another salt.
        let collisions = look::integer(old, "collisionCount").unwrap_or(0);
        look::set(status, "collisionCount", collisions + 1);
        return;
    }
    if failure.reason == status::CREATE_FAILED {
        let said = condition::find(old, "Progressing");
        match said.filter(|one| look::text(one, "reason") == status::CREATE_FAILED) {
            Some(said) => condition::set(status, said.clone()),
            None => status::set(status, "Progressing", "False", (status::CREATE_FAILED, &failure.words), now),
        }
    }
}
