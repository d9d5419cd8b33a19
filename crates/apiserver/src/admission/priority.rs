//! `Priority`: resolves a pod's priority class to its number; keeps the global default unique.

use api::look;
use async_trait::async_trait;
use serde_json::Value;

use super::{Operation, Plugin, Request};
use crate::status::Status;

/// The plugin.
pub struct Priority;

const GROUP: &str = "scheduling.k8s.io";
const PLURAL: &str = "priorityclasses";

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    async fn mutate(&self, request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
        if !request.is_on("", "pods") {
            return Ok(());
        }
        match request.operation {
            Operation::Create => establish(request, look::child(pod, "spec")).await,
            Operation::Update => {
                keep(request.old, look::child(pod, "spec"));
                Ok(())
            }
            Operation::Delete | Operation::Connect => Ok(()),
        }
    }

    async fn validate(&self, request: &Request<'_>, class: Option<&Value>) -> Result<(), Status> {
        let Some(class) = class.filter(|_| request.is_on(GROUP, PLURAL)) else { return Ok(()) };
        if !look::flag(class, "globalDefault") {
            return Ok(());
        }
        match default_class(request).await {
            Some(other) if look::text_at(&other, &["metadata", "name"]) != request.name => {
                let name = look::text_at(&other, &["metadata", "name"]);
                Err(request.forbidden(format!(
                    "PriorityClass {name} is already marked as default. Only one default can exist"
                )))
            }
            _ => Ok(()),
        }
    }
}

/// An update that leaves the numbers out means the ones that are there.
fn keep(old: Option<&Value>, spec: &mut Value) {
    let Some(old) = old.and_then(|o| look::get(o, "spec")) else { return };
    for field in ["priority", "preemptionPolicy"] {
        if look::get(spec, field).is_none()
            && let Some(value) = look::get(old, field)
        {
            look::set(spec, field, value.clone());
        }
    }
}

/// The class with the lowest value among those that claim to be the default.
async fn default_class(request: &Request<'_>) -> Option<Value> {
    let classes = request.world.all(GROUP, PLURAL).await;
    classes
        .into_iter()
        .filter(|c| look::flag(c, "globalDefault"))
        .min_by_key(|c| look::integer(c, "value").unwrap_or(0))
}

async fn establish(request: &Request<'_>, spec: &mut Value) -> Result<(), Status> {
    let name = look::text(spec, "priorityClassName").to_owned();
    let class = if name.is_empty() {
        default_class(request).await
    } else {
        let found = request.world.find(GROUP, PLURAL, None, &name).await;
        if found.is_none() {
            return Err(request.forbidden(format!("no PriorityClass with name {name} was found")));
        }
        found
    };
    let value = class.as_ref().and_then(|c| look::integer(c, "value")).unwrap_or(0);
    if let Some(given) = look::integer(spec, "priority")
        && given != value
    {
        return Err(request.forbidden(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {value} from the given PriorityClass name"
        )));
    }
    let policy = class.as_ref().map(|c| look::text(c, "preemptionPolicy")).filter(|p| !p.is_empty());
    let policy = policy.unwrap_or("PreemptLowerPriority");
    let given = look::text(spec, "preemptionPolicy");
    if !given.is_empty() && given != policy {
        return Err(request.forbidden(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
             controller computed {policy} from the given PriorityClass name"
        )));
    }
    if let Some(class) = &class {
        look::set(spec, "priorityClassName", look::text_at(class, &["metadata", "name"]));
    }
    look::set(spec, "priority", value);
    look::set(spec, "preemptionPolicy", policy);
    Ok(())
}
