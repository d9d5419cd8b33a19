//! `AlwaysPullImages`: every image is pulled at each start, so that the credentials are checked each time (IMG-220).
//! Off by default.

use api::look;
use async_trait::async_trait;
use serde_json::Value;

use super::{Operation, Plugin, Request};
use crate::status::Status;

/// The plugin.
pub struct AlwaysPullImages;

const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

fn concerns(request: &Request<'_>) -> bool {
    let ephemeral =
        request.kind.group.is_empty() && request.kind.plural == "pods" && request.subresource == "ephemeralcontainers";
    (request.is_on("", "pods") || ephemeral) && request.operation != Operation::Delete
}

#[async_trait]
impl Plugin for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    async fn mutate(&self, request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
        if concerns(request) {
            let spec = look::child(pod, "spec");
            for list in LISTS {
                for container in look::list_mut(spec, list) {
                    look::set(container, "imagePullPolicy", "Always");
                }
            }
        }
        Ok(())
    }

    async fn validate(&self, request: &Request<'_>, pod: Option<&Value>) -> Result<(), Status> {
        let Some(pod) = pod.filter(|_| concerns(request)) else { return Ok(()) };
        for list in LISTS {
            for (index, container) in look::list_at(pod, &["spec", list]).iter().enumerate() {
                let policy = look::text(container, "imagePullPolicy");
                if policy != "Always" {
                    return Err(request.forbidden(format!(
                        "spec.{list}[{index}].imagePullPolicy: Unsupported value: {policy:?}: supported values: \"Always\""
                    )));
                }
            }
        }
        Ok(())
    }
}
