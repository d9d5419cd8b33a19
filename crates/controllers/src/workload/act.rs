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

/// How many steps are taken together.
const AT_ONCE: usize = 16;

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

/// How many of the first steps may be taken together: deletions, with what is told before them, or changes.
fn together(steps: &[Step]) -> usize {
    let count = |is: fn(&Step) -> bool| steps.iter().take_while(|step| is(step)).count();
    match steps.first() {
        Some(Step::Patch { .. }) => count(|step| matches!(step, Step::Patch { .. })),
        Some(Step::Delete { .. } | Step::Tell { .. }) => {
            let all = count(|step| matches!(step, Step::Delete { .. } | Step::Tell { .. }));
            // What is told last may be about what went well before.
            let last = steps[..all].iter().rposition(|step| matches!(step, Step::Delete { .. }));
            last.map_or(all, |last| last + 1)
        }
        _ => 1,
    }
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

    /// Neighbours that do not wait for one another are taken together.
    async fn take_steps(&mut self, steps: Vec<Step>) -> Result<(), Broken> {
        let mut rest = &steps[..];
        while let Some(first) = rest.first() {
            let (together, after) = rest.split_at(together(rest));
            match first {
                Step::Create { kind, objects, words } => self.create(*kind, objects, words).await?,
                Step::Replace { kind, object } => self.replace(*kind, object).await?,
                Step::Delete { .. } | Step::Patch { .. } | Step::Tell { .. } => self.take_together(together).await?,
            }
            rest = after;
        }
        Ok(())
    }

    async fn take_together(&mut self, steps: &[Step]) -> Result<(), Broken> {
        for some in steps.chunks(AT_ONCE) {
            let look = &*self;
            let outcomes = join_all(some.iter().map(|step| look.try_step(step))).await;
            let mut broken = None;
            for (step, outcome) in some.iter().zip(outcomes) {
                let error = match (step, outcome) {
                    (Step::Delete { uid, .. }, Ok(_)) => {
                        self.written.going.push(uid.clone());
                        continue;
                    }
                    (Step::Patch { kind, .. }, Ok(Some(patched))) => {
                        self.note(*kind, &patched);
                        continue;
                    }
                    (_, Ok(_)) => continue,
                    (_, Err(error)) => error,
                };
                let nothing = Words::default();
                let words = if let Step::Delete { words, .. } = step { words } else { &nothing };
                let one = self.broken(error, words, false).await;
                broken.get_or_insert(one);
            }
            if let Some(broken) = broken {
                return Err(broken);
            }
        }
        Ok(())
    }

    /// A step that may be taken beside others; what the API has now.
    async fn try_step(&self, step: &Step) -> Result<Option<Value>, Error> {
        match step {
            Step::Delete { kind, name, uid, words } => {
                let options = json!({
                    "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background",
                    "preconditions": {"uid": uid},
                });
                let path = self.path(*kind, name);
                call::call_unless(self.client, Method::DELETE, &path, Some(&options), &[404]).await?;
                self.tell("Normal", words.done.0, &words.done.1.replace("{}", name)).await;
                Ok(None)
            }
            Step::Patch { kind, name, patch } => {
                match call::call(self.client, Method::PATCH, &self.path(*kind, name), Some(patch)).await {
                    Err(error) if error.status() == Some(404) => Ok(None),
                    outcome => outcome.map(Some),
                }
            }
            Step::Tell { kind, reason, message } => {
                self.tell(kind, reason, message).await;
                Ok(None)
            }
            // These are taken alone.
            Step::Create { .. } | Step::Replace { .. } => Ok(None),
        }
    }

    fn path(&self, kind: Served, name: &str) -> String {
        format!("{}/{name}", kind.path(&self.place.namespace))
    }

    /// In batches that double while all goes well, so that a refusal is met once and not a hundred times.
    async fn create(&mut self, kind: Served, objects: &[Value], words: &Words) -> Result<(), Broken> {
        let path = kind.path(&self.place.namespace);
        let (mut from, mut batch) = (0, 1);
        while from < objects.len() {
            let to = objects.len().min(from + batch);
            let client = self.client;
            let calls = objects[from..to].iter().map(|one| call::call(client, Method::POST, &path, Some(one)));
            let (mut told, mut broken) = (Vec::new(), None);
            for (outcome, object) in join_all(calls).await.into_iter().zip(&objects[from..to]) {
                match self.made(kind, object, outcome, words).await {
                    Ok(message) => told.extend(message),
                    Err(one) => {
                        broken.get_or_insert(one);
                    }
                }
            }
            let look = &*self;
            join_all(told.iter().map(|message| look.tell("Normal", words.done.0, message))).await;
            if let Some(broken) = broken {
                return Err(broken);
            }
            (from, batch) = (to, batch * 2);
        }
        Ok(())
    }

    /// What is to be told of an object that was made.
    async fn made(
        &mut self,
        kind: Served,
        object: &Value,
        outcome: Result<Value, Error>,
        words: &Words,
    ) -> Result<Option<String>, Broken> {
        let mut collided = false;
        let error = match outcome {
            Ok(made) => {
                self.note(kind, &made);
                return Ok(Some(words.done.1.replace("{}", look::text_at(&made, &["metadata", "name"]))));
            }
            Err(error) => error,
        };
        if error.reason() == Some("AlreadyExists") {
            let name = look::text_at(object, &["metadata", "name"]);
            let there = read(self.client, &self.path(kind, name)).await?;
            let uid = look::text_at(&self.object, &["metadata", "uid"]);
            if let Some(there) = there {
                if owners(&there).iter().any(|owner| owner.controller && owner.uid == uid) {
                    // It is there already: the watch is behind.
                    self.note(kind, &there);
                    return Ok(None);
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

    async fn replace(&mut self, kind: Served, object: &Value) -> Result<(), Broken> {
        let name = look::text_at(object, &["metadata", "name"]);
        let path = self.path(kind, name);
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Mutex;

    use http::{Request, Response, StatusCode};
    use kube::client::Body;
    use tokio::time::Instant;

    use super::*;

    /// How long every call takes.
    const CALL: Duration = Duration::from_millis(10);
    const PODS: usize = 64;

    /// Calls under way, and the most that ever were, of one method on pods.
    type Crowd = Arc<Mutex<(usize, usize)>>;

    /// An API that keeps one ReplicaSet and takes its time.
    fn client(set: Value, of: Method, crowd: Crowd, refused: Option<&'static str>) -> Client {
        let answer = move |request: Request<Body>| {
            let path = request.uri().path().to_owned();
            let counts = (*request.method() == of && path.contains("/pods")).then(|| crowd.clone());
            let refuses = refused.is_some_and(|name| path.ends_with(name));
            let (status, body) = match refuses {
                true => (StatusCode::FORBIDDEN, json!({"kind": "Status", "code": 403, "reason": "Forbidden"})),
                false if path.ends_with("/replicasets/web") => (StatusCode::OK, set.clone()),
                false => (StatusCode::OK, json!({"metadata": {"name": "made", "resourceVersion": "7"}})),
            };
            async move {
                if let Some(crowd) = &counts {
                    let mut crowd = crowd.lock().unwrap();
                    crowd.0 += 1;
                    crowd.1 = crowd.1.max(crowd.0);
                }
                tokio::time::sleep(CALL).await;
                if let Some(crowd) = &counts {
                    crowd.lock().unwrap().0 -= 1;
                }
                let mut response = Response::new(Body::from(body.to_string().into_bytes()));
                *response.status_mut() = status;
                Ok::<_, Infallible>(response)
            }
        };
        Client::new(tower::service_fn(answer), "default")
    }

    fn set(replicas: usize) -> Value {
        let labels = json!({"app": "web"});
        let template = json!({"metadata": {"labels": labels}, "spec": {"containers": []}});
        json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web", "namespace": "a", "uid": "web"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
        })
    }

    fn pod(index: usize) -> Arc<Pod> {
        let owner =
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "web", "controller": true});
        let name = format!("p{index}");
        Arc::new(Pod::read(&json!({"metadata": {
            "name": name, "namespace": "a", "uid": name, "labels": {"app": "web"}, "ownerReferences": [owner],
        }})))
    }

    /// How a look ends, how many times the time of a call it takes, and how many of its calls there are at once.
    async fn look(replicas: usize, pods: usize, of: Method, refused: Option<&'static str>) -> (Looked, u128, usize) {
        let crowd = Crowd::default();
        let client = client(set(replicas), of, crowd.clone(), refused);
        let kind = Served::named("apps", "replicasets");
        let place = Place { kind, namespace: "a".to_owned(), name: "web".to_owned() };
        let snapshot = Snapshot { pods: (0..pods).map(pod).collect(), ..Snapshot::default() };
        let start = Instant::now();
        let looked = act(&client, &place, snapshot).await;
        let most = crowd.lock().unwrap().1;
        (looked, start.elapsed().as_millis() / CALL.as_millis(), most)
    }

    #[tokio::test(start_paused = true)]
    async fn pods_are_deleted_and_told_of_a_few_at_a_time() {
        let (looked, calls, most) = look(0, PODS, Method::DELETE, None).await;
        assert!(looked.outcome.is_ok() && looked.written.going.len() == PODS);
        assert!(calls < 15 && most == AT_ONCE, "{calls} calls one after the other, {most} at once");
    }

    #[tokio::test(start_paused = true)]
    async fn pods_are_made_and_told_of_in_batches() {
        let (looked, calls, most) = look(PODS, 0, Method::POST, None).await;
        assert!(looked.outcome.is_ok());
        assert!(calls < 20 && most <= PODS / 2, "{calls} calls one after the other, {most} at once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_ends_the_look_with_the_steps_that_were_begun_with_it() {
        let (looked, _, _) = look(0, PODS, Method::DELETE, Some("/pods/p3")).await;
        assert_eq!(looked.outcome.unwrap_err().status(), Some(403));
        let going = looked.written.going;
        assert!((AT_ONCE - 1..PODS - 1).contains(&going.len()) && !going.contains(&"p3".to_owned()), "{going:?}");
    }

    #[test]
    fn what_stands_between_keeps_its_place() {
        let delete = || Step::delete_pod(&pod(0), Words::default());
        let tell = || Step::Tell { kind: "Normal", reason: "R", message: String::new() };
        let patch = || Step::Patch { kind: Served::pods(), name: String::new(), patch: Value::Null };
        let create = || Step::Create { kind: Served::pods(), objects: Vec::new(), words: Words::default() };
        assert_eq!(together(&[patch(), patch(), delete()]), 2);
        assert_eq!(together(&[tell(), delete(), tell(), delete(), tell(), create()]), 4);
        assert_eq!((together(&[tell(), tell(), create()]), together(&[create(), create()])), (2, 1));
    }
}
