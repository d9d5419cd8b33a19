//! One look at a set: read it and the pods of its namespace, carry out the plan, write the status.

use api::{Timestamp, look};
use futures_util::future::join_all;
use http::Method;
use kube::Client;
use serde_json::{Value, json};

use super::decide::{Pod, Set, Step, plan};
use crate::call::{self, Error};
use crate::event::{self, Told};
use crate::view::{SetKey, SetKind};

/// The finalizer of a set whose pods shall stay.
const ORPHAN: &str = "orphan";

/// Brings a set in order.
pub async fn act(client: &Client, key: &SetKey) -> Result<(), Error> {
    let path = key.path();
    let object = match call::call(client, Method::GET, &path, None).await {
        Err(error) if error.status() == Some(404) => return Ok(()),
        outcome => outcome?,
    };
    let pods_path = format!("/api/v1/namespaces/{}/pods", key.namespace);
    let list = call::call(client, Method::GET, &pods_path, None).await?;
    let pods: Vec<Pod> = look::list(&list, "items").iter().map(Pod::read).collect();
    drop(list);
    let look = Sight { client, key, object, pods_path };
    let set = Set::read(&look.object);
    if set.deleting && look::list_at(&look.object, &["metadata", "finalizers"]).iter().any(|one| one == ORPHAN) {
        return look.orphan(&set, &pods).await;
    }
    let (steps, active) = plan(&set, &pods);
    let outcome = look.carry_out(&set, &steps).await;
    let waiting = look.write_status(&active, outcome.as_ref().err()).await?;
    outcome?;
    if waiting > 0 { Err(Error::Remaining(waiting)) } else { Ok(()) }
}

/// What one look sees.
struct Sight<'a> {
    client: &'a Client,
    key: &'a SetKey,
    object: Value,
    pods_path: String,
}

impl Sight<'_> {
    async fn carry_out(&self, set: &Set, steps: &[Step]) -> Result<(), Error> {
        for step in steps {
            match step {
                Step::Adopt(name) => self.patch_owner(name, &self.owner()).await?,
                Step::Release(name) => self.release(set, name).await?,
                Step::Create(count) => self.create(*count).await?,
                Step::Delete(name) => self.delete(name).await?,
            }
        }
        Ok(())
    }

    fn owner(&self) -> Value {
        json!({
            "apiVersion": look::text(&self.object, "apiVersion"), "kind": look::text(&self.object, "kind"),
            "name": self.key.name, "uid": look::text_at(&self.object, &["metadata", "uid"]),
            "controller": true, "blockOwnerDeletion": true,
        })
    }

    async fn release(&self, set: &Set, name: &str) -> Result<(), Error> {
        self.patch_owner(name, &json!({"$patch": "delete", "uid": set.uid})).await
    }

    async fn patch_owner(&self, name: &str, owner: &Value) -> Result<(), Error> {
        let patch = json!({"metadata": {"ownerReferences": [owner]}});
        let path = format!("{}/{name}", self.pods_path);
        call::call_unless(self.client, Method::PATCH, &path, Some(&patch), &[404]).await
    }

    /// Makes pods in batches that double while all goes well, so that a refusal is met once and not a hundred times.
    async fn create(&self, count: usize) -> Result<(), Error> {
        let pod = self.new_pod();
        let (mut left, mut batch) = (count, 1);
        while left > 0 {
            let size = batch.min(left);
            let outcomes = join_all((0..size).map(|_| self.create_one(&pod))).await;
            outcomes.into_iter().collect::<Result<Vec<()>, Error>>()?;
            left -= size;
            batch *= 2;
        }
        Ok(())
    }

    fn new_pod(&self) -> Value {
        let empty = Value::Null;
        let template = look::at(&self.object, &["spec", "template"]).unwrap_or(&empty);
        let mut metadata = json!({"generateName": format!("{}-", self.key.name), "ownerReferences": [self.owner()]});
        for field in ["labels", "annotations", "finalizers"] {
            look::copy(&template["metadata"], &mut metadata, field);
        }
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
    }

    async fn create_one(&self, pod: &Value) -> Result<(), Error> {
        match call::call(self.client, Method::POST, &self.pods_path, Some(pod)).await {
            Ok(made) => {
                let message = format!("Created pod: {}", look::text_at(&made, &["metadata", "name"]));
                self.tell("Normal", "SuccessfulCreate", &message).await;
                Ok(())
            }
            Err(error) => {
                // RTC-22: the API's refusal is all that people see of a wrong template.
                if !is_of_ending_namespace(&error) {
                    self.tell("Warning", "FailedCreate", &format!("Error creating: {}", words(&error))).await;
                }
                Err(error)
            }
        }
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        call::call_unless(self.client, Method::DELETE, &format!("{}/{name}", self.pods_path), None, &[404]).await?;
        self.tell("Normal", "SuccessfulDelete", &format!("Deleted pod: {name}")).await;
        Ok(())
    }

    async fn tell(&self, kind: &str, reason: &str, message: &str) {
        let component = match self.key.kind {
            SetKind::ReplicaSet => "replicaset-controller",
            SetKind::ReplicationController => "replication-controller",
        };
        event::tell(self.client, &self.object, &Told { kind, reason, message, component }).await;
    }

    /// Lets all pods go, then the set.
    async fn orphan(&self, set: &Set, pods: &[Pod]) -> Result<(), Error> {
        for pod in pods.iter().filter(|pod| pod.controller.as_ref() == Some(&set.uid)) {
            self.release(set, &pod.name).await?;
        }
        let mut object = self.object.clone();
        let finalizers = look::list_at(&object, &["metadata", "finalizers"]);
        let rest: Vec<Value> = finalizers.iter().filter(|one| *one != ORPHAN).cloned().collect();
        object["metadata"]["finalizers"] = json!(rest);
        call::call_unless(self.client, Method::PUT, &self.key.path(), Some(&object), &[404]).await
    }

    /// Writes the status if it changed; returns how many ready pods have to prove themselves for longer.
    async fn write_status(&self, active: &[&Pod], failure: Option<&Error>) -> Result<usize, Error> {
        let now = Timestamp::now();
        let min_ready = look::at(&self.object, &["spec", "minReadySeconds"]).and_then(Value::as_i64).unwrap_or(0);
        let labels = look::at(&self.object, &["spec", "template", "metadata"]);
        let labelled = |pod: &&&Pod| {
            labels.is_none_or(|meta| {
                look::text_map(meta, "labels")
                    .all(|(key, value)| pod.labels.get(key).is_some_and(|other| other == value))
            })
        };
        let ready: Vec<i64> = active.iter().filter_map(|pod| pod.ready_since).collect();
        let available = ready.iter().filter(|since| *since + min_ready <= now.as_second()).count();
        let old = look::get(&self.object, "status").cloned().unwrap_or_default();
        let mut status = json!({
            "replicas": active.len(), "fullyLabeledReplicas": active.iter().filter(labelled).count(),
            "readyReplicas": ready.len(), "availableReplicas": available,
            "observedGeneration": look::at(&self.object, &["metadata", "generation"]),
        });
        let conditions = conditions(&old, failure, &now);
        if !conditions.is_empty() {
            look::set(&mut status, "conditions", conditions);
        }
        if !same_status(&old, &status) {
            let mut object = self.object.clone();
            look::set(&mut object, "status", status);
            let path = format!("{}/status", self.key.path());
            call::call_unless(self.client, Method::PUT, &path, Some(&object), &[404]).await?;
        }
        Ok(ready.len() - available)
    }
}

/// Counts that are 0 and those that are left out are the same.
fn same_status(a: &Value, b: &Value) -> bool {
    let counts = ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"];
    let count = |status: &Value, field: &str| look::integer(status, field).unwrap_or(0);
    counts.iter().all(|field| count(a, field) == count(b, field))
        && look::same(look::get(a, "conditions"), look::get(b, "conditions"))
}

fn conditions(old: &Value, failure: Option<&Error>, now: &Timestamp) -> Vec<Value> {
    let mut all = look::list(old, "conditions").to_vec();
    let before = all.iter().position(|one| look::text(one, "type") == "ReplicaFailure").map(|index| all.remove(index));
    if let Some(error) = failure.filter(|error| error.status().is_some() && !is_of_ending_namespace(error)) {
        let message = words(error);
        let since = before.filter(|one| look::text(one, "status") == "True");
        let since =
            since.map_or_else(|| api::time::seconds(*now), |one| look::text(&one, "lastTransitionTime").to_owned());
        all.push(json!({
            "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message,
            "lastTransitionTime": since,
        }));
    }
    all
}

/// The API's own words for a refusal.
fn words(error: &Error) -> String {
    match error {
        Error::Call { source, .. } => match &**source {
            kube::Error::Api(status) => status.message.clone(),
            other => other.to_string(),
        },
        other => other.to_string(),
    }
}

/// Nothing can be made where everything is being deleted; that is no failure.
fn is_of_ending_namespace(error: &Error) -> bool {
    error.status() == Some(403) && words(error).contains("because it is being terminated")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal() -> Error {
        let status = kube::core::Status::failure("pods \"web-\" is forbidden: no", "Forbidden").with_code(403);
        Error::Call { call: "POST".into(), source: Box::new(kube::Error::Api(Box::new(status))) }
    }

    #[test]
    fn a_failure_is_a_condition_that_keeps_its_time_and_goes_when_all_is_well() {
        let (early, late) = (Timestamp::UNIX_EPOCH, Timestamp::from_second(60).unwrap());
        let first = conditions(&json!({}), Some(&refusal()), &early);
        assert_eq!(first[0]["message"], "pods \"web-\" is forbidden: no");
        assert_eq!(first[0]["lastTransitionTime"], "1970-01-01T00:00:00Z");
        let again = conditions(&json!({"conditions": first}), Some(&refusal()), &late);
        assert_eq!(again, first, "so that nothing is written again");
        assert!(conditions(&json!({"conditions": again}), None, &late).is_empty());
    }
}
