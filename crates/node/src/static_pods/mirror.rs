//! The mirrors' task: makes and removes mirror pods in the API until they are as wanted.
//!
//! What is wanted and what is there comes from the agent; what to do is decided by [`super::decide::acts`]. A call that
//! failed, or whose effect is not seen yet, is repeated with growing pauses. Start at [`keep`].

use super::{
    decide::{Act, Mirrors, Name, acts},
    view::{HASH, MIRROR, StaticPod},
};
use api::look;
use jiff::{SignedDuration, Timestamp};
use kube::{
    Client,
    api::{DeleteParams, Preconditions},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};
use tokio::sync::watch;

use crate::{object::Pod, pod::clock::Clock};

const CALL_LIMIT: Duration = Duration::from_secs(30);
/// The effect of a call is told by the watch of pods; after so long without it the call is repeated.
const SEEN_WITHIN: SignedDuration = SignedDuration::from_secs(5);
const FIRST_PAUSE: SignedDuration = SignedDuration::from_millis(200);
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_secs(60);

/// Keeps the mirrors of a node until nobody wants any more.
pub async fn keep(client: Client, node_name: String, clock: Clock, mut mirrors: watch::Receiver<Mirrors>) {
    let mut pauses = Pauses::default();
    loop {
        let wanted = acts(&mirrors.borrow_and_update());
        pauses.keep(&wanted);
        let now = clock.now();
        let due: Vec<Name> =
            wanted.iter().filter(|(name, _)| pauses.is_due(name, now)).map(|(n, _)| n.clone()).collect();
        for name in &due {
            let act = &wanted[name];
            let result = tokio::time::timeout(CALL_LIMIT, carry_out(&client, &node_name, name, act)).await;
            let result = result.unwrap_or_else(|_| Err("the API did not answer".into()));
            pauses.note(name, act, result, clock.now());
        }
        let sleep = pauses.next(clock.now());
        tokio::select! {
            changed = mirrors.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(sleep) => {}
        }
    }
}

/// Until when an act that was tried waits, by name.
#[derive(Default)]
struct Pauses {
    all: BTreeMap<Name, Pause>,
}

struct Pause {
    act: Act,
    failures: u32,
    until: Timestamp,
    told: String,
}

impl Pauses {
    /// Another act than the one that was tried is due at once.
    fn keep(&mut self, wanted: &BTreeMap<Name, Act>) {
        self.all.retain(|name, pause| wanted.get(name) == Some(&pause.act));
    }

    fn is_due(&self, name: &Name, now: Timestamp) -> bool {
        self.all.get(name).is_none_or(|pause| pause.until <= now)
    }

    fn note(&mut self, name: &Name, act: &Act, result: Result<(), String>, now: Timestamp) {
        let known = self.all.remove(name);
        let (failures, mut told) = known.map_or((0, String::new()), |pause| (pause.failures, pause.told));
        let (failures, wait) = match result {
            Ok(()) => (0, SEEN_WITHIN),
            Err(error) => {
                if error != told {
                    let what = if matches!(act, Act::Create(_)) { "made" } else { "removed" };
                    tracing::warn!(pod = %name, error, "the mirror of a static pod is not {what} yet");
                    told = error;
                }
                (failures + 1, FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE))
            }
        };
        let until = now.checked_add(wait).unwrap_or(Timestamp::MAX);
        self.all.insert(name.clone(), Pause { act: act.clone(), failures, until, told });
    }

    fn next(&self, now: Timestamp) -> Duration {
        let next = self.all.values().map(|pause| pause.until).min();
        next.map_or(Duration::from_secs(3600), |at| Duration::try_from(at.duration_since(now)).unwrap_or_default())
    }
}

async fn carry_out(client: &Client, node_name: &str, name: &Name, act: &Act) -> Result<(), String> {
    match act {
        Act::Create(pod) => create(client, node_name, pod).await,
        Act::Delete(uid) => delete(client, name, uid).await,
    }
}

async fn create(client: &Client, node_name: &str, pod: &StaticPod) -> Result<(), String> {
    let node = call(client, "GET", &format!("/api/v1/nodes/{node_name}"), Vec::new()).await?;
    let owner = look::text_at(&node, &["metadata", "uid"]);
    let path = format!("/api/v1/namespaces/{}/pods", pod.pod.namespace());
    call(client, "POST", &path, object(pod, node_name, owner).to_string().into_bytes()).await.map(drop)
}

async fn call(client: &Client, method: &str, path: &str, body: Vec<u8>) -> Result<Value, String> {
    let request = http::Request::builder().method(method).uri(path);
    let request = request.header(http::header::CONTENT_TYPE, "application/json").body(body);
    let request = request.map_err(|error| error.to_string())?;
    client.request(request).await.map_err(|error| match error {
        kube::Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    })
}

/// HOOK-86: the node ends a mirror's deletion itself, without grace; the static pod is not touched by it.
async fn delete(client: &Client, name: &Name, uid: &str) -> Result<(), String> {
    let api: kube::Api<Pod> = kube::Api::namespaced(client.clone(), &name.namespace);
    let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    let parameters =
        DeleteParams { grace_period_seconds: Some(0), preconditions: Some(preconditions), ..DeleteParams::default() };
    match api.delete(&name.name, &parameters).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(kube::Error::Api(status)) => Err(status.message.clone()),
        Err(error) => Err(error.to_string()),
    }
}

/// The mirror: the pod itself, with the node as its owner.
fn object(pod: &StaticPod, node_name: &str, owner: &str) -> Value {
    let mut object = pod.object.clone();
    look::remove(&mut object, "status");
    let metadata = look::child(&mut object, "metadata");
    for field in ["uid", "generation"] {
        look::remove(metadata, field);
    }
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": node_name, "uid": owner, "controller": true});
    look::set(metadata, "ownerReferences", vec![owner]);
    let annotations = look::child(metadata, "annotations");
    let hash = look::text(annotations, HASH).to_owned();
    look::set(annotations, MIRROR, hash);
    object
}

#[cfg(test)]
mod tests {
    use super::super::view::{Origin, Place, pod};
    use super::*;

    fn web() -> StaticPod {
        let text = "metadata: {name: web}\nspec: {containers: [{name: c, image: x:1}]}";
        let place = Place { origin: Origin::File, from: "/m/web", node_name: "n", now: Timestamp::UNIX_EPOCH };
        pod(text.as_bytes(), place).unwrap().0
    }

    #[test]
    fn a_mirror_says_what_runs_whose_it_is_and_of_what() {
        let web = web();
        let mirror = object(&web, "n", "node-uid");
        let metadata = &mirror["metadata"];
        assert_eq!(metadata["annotations"][MIRROR], web.uid());
        assert_eq!(metadata["annotations"]["kubernetes.io/config.source"], "file");
        assert_eq!(
            metadata["ownerReferences"],
            json!([{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "node-uid", "controller": true}])
        );
        assert_eq!((&metadata["uid"], &mirror["status"]), (&Value::Null, &Value::Null));
        assert_eq!(mirror["spec"], web.object["spec"]);
    }

    #[test]
    fn a_refusal_is_tried_again_ever_later_and_another_act_at_once() {
        let (name, mut pauses) = (web().name(), Pauses::default());
        let (create, delete) = (Act::Create(web()), Act::Delete("u".into()));
        let mut now = Timestamp::UNIX_EPOCH;
        let mut waits = Vec::new();
        for _ in 0..12 {
            assert!(pauses.is_due(&name, now));
            pauses.note(&name, &create, Err("forbidden".into()), now);
            let wait = pauses.next(now);
            waits.push(wait.as_millis());
            now += SignedDuration::try_from(wait).unwrap();
        }
        assert_eq!(waits[..4], [200, 400, 800, 1600]);
        assert_eq!(waits[11], 60_000);
        pauses.note(&name, &create, Ok(()), now);
        assert!(!pauses.is_due(&name, now), "its effect is awaited");
        pauses.keep(&BTreeMap::from([(name.clone(), delete)]));
        assert!(pauses.is_due(&name, now));
    }
}
