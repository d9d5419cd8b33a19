//! One look at a workload: read it, ask its controller for a plan, carry that out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::{Timestamp, look};
use futures_util::future::join_all;
use http::Method;
use kube::Client;
use serde_json::{Value, json};

use super::{Controller, Failure, Plan, Pods, Snapshot, Step, View, Words, Written, condition, selector};
use crate::call::{self, Error};
use crate::disruption;
use crate::event::{self, Told};
use crate::view::object::owners;
use crate::view::{Place, Pod, Served};

/// How a look ended.
#[derive(Debug)]
pub struct Looked {
    /// Whether all was done.
    pub outcome: Result<(), Error>,
    /// What it wrote.
    pub written: Written,
    /// After which time to look again though nothing happens.
    pub wake_after: Option<Duration>,
}

impl From<Result<(), Error>> for Looked {
    fn from(outcome: Result<(), Error>) -> Looked {
        Looked { outcome, written: Written::default(), wake_after: None }
    }
}

/// Brings a workload in order.
pub async fn act(client: &Client, place: &Place, snapshot: Snapshot) -> Looked {
    let mut looked = Looked::from(Ok(()));
    let Some(controller) = Controller::of(place.kind) else { return looked };
    let view = match observe(client, place, controller, snapshot).await {
        Ok(Some(view)) => view,
        Ok(None) => return looked,
        Err(error) => return Looked { outcome: Err(error), ..looked },
    };
    let now = Timestamp::now();
    let plan = (controller.decide)(&view, now);
    let until = |at: Timestamp| Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
    looked.wake_after = plan.wake_at.map(until);
    let mut look = Look { client, place, controller, object: view.object, written: &mut looked.written };
    looked.outcome = look.carry_out(plan).await;
    looked
}

/// Reads the workload and what concerns it; None if it is gone.
async fn observe(
    client: &Client,
    place: &Place,
    controller: &Controller,
    snapshot: Snapshot,
) -> Result<Option<View>, Error> {
    let Some(object) = read(client, &place.path()).await? else { return Ok(None) };
    let kind = controller.children.map(|(group, plural)| Served::named(group, plural));
    let (mut pods, mut children) = (snapshot.pods, Vec::new());
    match kind {
        Some(kind) if snapshot.is_blind => children = related(client, place, kind, &object).await?,
        Some(_) => {
            let paths: Vec<String> = snapshot.children.iter().map(Place::path).collect();
            for found in join_all(paths.iter().map(|path| read(client, path))).await {
                children.extend(found?);
            }
        }
        None => {}
    }
    if snapshot.is_blind && controller.pods == Pods::Own {
        let found = related(client, place, Served::pods(), &object).await?;
        pods = found.iter().map(|pod| Arc::new(Pod::read(pod))).collect();
    }
    if snapshot.is_blind && controller.pods == Pods::Selected {
        pods = selected(client, place, &object).await?;
    }
    let makers = read_makers(client, snapshot.makers).await?;
    Ok(Some(View { object, pods, children, nodes: snapshot.nodes, makers }))
}

/// The pods that a selector takes, by asking the API.
async fn selected(client: &Client, place: &Place, object: &Value) -> Result<Vec<Arc<Pod>>, Error> {
    let list = call::call(client, Method::GET, &Served::pods().path(&place.namespace), None).await?;
    let selector = disruption::selector(object);
    let taken = look::list(&list, "items").iter().filter(|pod| selector.matches_object(pod));
    Ok(taken.map(|pod| Arc::new(Pod::read(pod))).collect())
}

/// Each is read once, however many sets of it there are.
async fn read_makers(client: &Client, makers: BTreeMap<String, Place>) -> Result<BTreeMap<String, Value>, Error> {
    let places: BTreeSet<&Place> = makers.values().collect();
    let mut found = BTreeMap::new();
    let reads = places.iter().map(|place| async move { (*place, read(client, &place.path()).await) });
    for (place, outcome) in join_all(reads).await {
        found.extend(outcome?.map(|object| (place.clone(), object)));
    }
    let known = makers.iter().filter_map(|(uid, place)| Some((uid.clone(), found.get(place)?.clone())));
    Ok(known.collect())
}

async fn read(client: &Client, path: &str) -> Result<Option<Value>, Error> {
    match call::call(client, Method::GET, path, None).await {
        Err(error) if error.status() == Some(404) => Ok(None),
        outcome => outcome.map(Some),
    }
}

/// What of a kind belongs to the workload or would be adopted, by asking the API.
async fn related(client: &Client, place: &Place, kind: Served, object: &Value) -> Result<Vec<Value>, Error> {
    let mut list = call::call(client, Method::GET, &kind.path(&place.namespace), None).await?;
    let (selector, uid) = (selector(object), look::text_at(object, &["metadata", "uid"]));
    let concerns = |one: &Value| match owners(one).into_iter().find(|owner| owner.controller) {
        Some(owner) => owner.uid == uid,
        None => selector.matches_object(one),
    };
    let items = look::list_mut(&mut list, "items").iter_mut().map(Value::take);
    // A list's items do not say what they are.
    Ok(items.filter(concerns).map(|one| with_type(one, kind)).collect())
}

fn with_type(mut object: Value, kind: Served) -> Value {
    look::set(&mut object, "apiVersion", kind.0.api_version());
    look::set(&mut object, "kind", kind.0.kind);
    object
}

/// A look under way.
struct Look<'a> {
    client: &'a Client,
    place: &'a Place,
    controller: &'a Controller,
    object: Value,
    written: &'a mut Written,
}

/// A step that failed: how, and what the status says of it.
struct Broken {
    error: Error,
    failure: Option<Failure>,
}

impl From<Error> for Broken {
    fn from(error: Error) -> Broken {
        Broken { error, failure: None }
    }
}

impl Look<'_> {
    async fn carry_out(&mut self, plan: Plan) -> Result<(), Error> {
        let broken = self.take_steps(plan.first).await.err();
        if let Some(mut status) = plan.status {
            if let Some(failure) = broken.as_ref().and_then(|broken| broken.failure.as_ref()) {
                let old = look::get(&self.object, "status").cloned().unwrap_or_default();
                (self.controller.fail)(&mut status, &old, failure, Timestamp::now());
            }
            self.write_status(status).await?;
        }
        match broken {
            Some(broken) => Err(broken.error),
            None => self.take_steps(plan.then).await.map_err(|broken| broken.error),
        }
    }

    async fn take_steps(&mut self, steps: Vec<Step>) -> Result<(), Broken> {
        for step in steps {
            match step {
                Step::Create { kind, objects, words } => self.create(kind, objects, &words).await?,
                Step::Delete { kind, name, uid, words } => self.delete(kind, &name, uid, &words).await?,
                Step::Patch { kind, name, patch } => self.patch(kind, &name, &patch).await?,
                Step::Replace { kind, object } => self.replace(kind, &object).await?,
                Step::Tell { kind, reason, message } => self.tell(kind, reason, &message).await,
            }
        }
        Ok(())
    }

    /// In batches that double while all goes well, so that a refusal is met once and not a hundred times.
    async fn create(&mut self, kind: Served, objects: Vec<Value>, words: &Words) -> Result<(), Broken> {
        let path = kind.path(&self.place.namespace);
        let (mut from, mut batch) = (0, 1);
        while from < objects.len() {
            let to = objects.len().min(from + batch);
            let client = self.client;
            let calls = objects[from..to].iter().map(|one| call::call(client, Method::POST, &path, Some(one)));
            let mut broken = None;
            for (outcome, object) in join_all(calls).await.into_iter().zip(&objects[from..to]) {
                if let Err(one) = self.made(kind, object, outcome, words).await {
                    broken.get_or_insert(one);
                }
            }
            if let Some(broken) = broken {
                return Err(broken);
            }
            (from, batch) = (to, batch * 2);
        }
        Ok(())
    }

    async fn made(
        &mut self,
        kind: Served,
        object: &Value,
        outcome: Result<Value, Error>,
        words: &Words,
    ) -> Result<(), Broken> {
        let mut collided = false;
        let error = match outcome {
            Ok(made) => {
                self.note(kind, &made);
                let name = look::text_at(&made, &["metadata", "name"]);
                self.tell("Normal", words.done.0, &words.done.1.replace("{}", name)).await;
                return Ok(());
            }
            Err(error) => error,
        };
        if error.reason() == Some("AlreadyExists") {
            let name = look::text_at(object, &["metadata", "name"]);
            let there = read(self.client, &format!("{}/{name}", kind.path(&self.place.namespace))).await?;
            let uid = look::text_at(&self.object, &["metadata", "uid"]);
            if let Some(there) = there {
                if owners(&there).iter().any(|owner| owner.controller && owner.uid == uid) {
                    // It is there already: the watch is behind.
                    self.note(kind, &there);
                    return Ok(());
                }
                collided = true;
            }
        }
        Err(self.broken(error, words, collided).await)
    }

    async fn broken(&mut self, error: Error, words: &Words, collided: bool) -> Broken {
        self.written.is_unsure |= error.status().is_none();
        // Nothing can be made where everything is being deleted; that is no failure.
        if error.status().is_none() || is_of_ending_namespace(&error) {
            return error.into();
        }
        // RTC-22: the API's refusal is all that people see of a wrong template.
        let failure = Failure { reason: words.failed.0, words: error.words(), collided };
        self.tell("Warning", words.failed.0, &words.failed.1.replace("{}", &failure.words)).await;
        Broken { error, failure: Some(failure) }
    }

    async fn delete(&mut self, kind: Served, name: &str, uid: String, words: &Words) -> Result<(), Broken> {
        let path = format!("{}/{name}", kind.path(&self.place.namespace));
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        });
        match call::call_unless(self.client, Method::DELETE, &path, Some(&options), &[404]).await {
            Ok(()) => {
                self.written.going.push(uid);
                self.tell("Normal", words.done.0, &words.done.1.replace("{}", name)).await;
                Ok(())
            }
            Err(error) => Err(self.broken(error, words, false).await),
        }
    }

    async fn patch(&mut self, kind: Served, name: &str, patch: &Value) -> Result<(), Broken> {
        let path = format!("{}/{name}", kind.path(&self.place.namespace));
        match call::call(self.client, Method::PATCH, &path, Some(patch)).await {
            Ok(patched) => self.note(kind, &patched),
            Err(error) if error.status() == Some(404) => {}
            Err(error) => return Err(self.broken(error, &Words::default(), false).await),
        }
        Ok(())
    }

    async fn replace(&mut self, kind: Served, object: &Value) -> Result<(), Broken> {
        let name = look::text_at(object, &["metadata", "name"]);
        let path = format!("{}/{name}", kind.path(&self.place.namespace));
        match call::call(self.client, Method::PUT, &path, Some(object)).await {
            Ok(written) => {
                self.note(kind, &written);
                if path == self.place.path() {
                    self.object = written;
                }
                Ok(())
            }
            Err(error) => Err(self.broken(error, &Words::default(), false).await),
        }
    }

    async fn write_status(&mut self, status: Value) -> Result<(), Error> {
        let old = look::get(&self.object, "status").cloned().unwrap_or_default();
        if condition::is_same_status(&old, &status) {
            return Ok(());
        }
        look::set(&mut self.object, "status", status);
        let path = format!("{}/status", self.place.path());
        call::call_unless(self.client, Method::PUT, &path, Some(&self.object), &[404]).await
    }

    /// Remembers what the watch will have to show.
    fn note(&mut self, kind: Served, object: &Value) {
        if let Ok(version) = look::text_at(object, &["metadata", "resourceVersion"]).parse::<u64>() {
            let known = self.written.versions.entry(kind).or_insert(0);
            *known = version.max(*known);
        }
    }

    async fn tell(&self, kind: &str, reason: &str, message: &str) {
        if !message.is_empty() {
            let told = Told { kind, reason, message, component: self.controller.component };
            event::tell(self.client, &self.object, &told).await;
        }
    }
}

/// Nothing can be made where everything is being deleted.
fn is_of_ending_namespace(error: &Error) -> bool {
    error.status() == Some(403) && error.words().contains("because it is being terminated")
}
