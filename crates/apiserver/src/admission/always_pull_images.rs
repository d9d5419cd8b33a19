//! `AlwaysPullImages`: every image is pulled at each start, so that the credentials are checked each time (IMG-220 to
//! IMG-226). Off by default.
//!
//! A node's own mirror pods stay as they are (IMG-225): they show what the node read from a file, and would be made anew
//! for ever.

use api::field::{FieldError, Path};
use api::look;
use async_trait::async_trait;
use serde_json::Value;

use super::{Operation, Plugin, Request};
use crate::status::Status;

/// The plugin.
pub struct AlwaysPullImages;

const ALWAYS: &str = "Always";
const EPHEMERAL: &str = "ephemeralContainers";
const LISTS: [&str; 3] = ["initContainers", "containers", EPHEMERAL];

/// What of a pod a request may bring in.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scope {
    /// Every container and image volume.
    Whole,
    /// The ephemeral containers that are not there yet (IMG-226).
    NewEphemeral,
}

/// None: the request brings no image.
fn scope(request: &Request<'_>, pod: &Value) -> Result<Option<Scope>, Status> {
    let on_pods = request.kind.group.is_empty() && request.kind.plural == "pods";
    if !on_pods || request.operation == Operation::Delete || request.operation == Operation::Connect {
        return Ok(None);
    }
    match request.subresource {
        "" => {}
        "ephemeralcontainers" => return Ok(Some(Scope::NewEphemeral)),
        _ => return Ok(None),
    }
    // IMG-224.
    if !matches!(look::text(pod, "kind"), "" | "Pod") {
        let message = "Resource was marked with kind Pod but was unable to be converted";
        return Err(Status::bad_request(message));
    }
    let mirror = api::pod::is_mirror(pod);
    if mirror && request.user.node_name().is_some() {
        return Ok(None);
    }
    // IMG-222: an update without a new image never meets the immutability of the policy.
    let unchanged = request.operation == Operation::Update && request.old.is_some_and(|old| !brings_image(pod, old));
    Ok((!unchanged).then_some(Scope::Whole))
}

fn brings_image(new: &Value, old: &Value) -> bool {
    let images = |pod| -> Vec<&str> {
        let containers = LISTS.iter().flat_map(|list| look::list_at(pod, &["spec", list]));
        containers.map(|container| look::text(container, "image")).collect()
    };
    let known = images(old);
    images(new).iter().any(|image| !known.contains(image))
}

/// Whether a container of a list is in the scope.
fn concerns(scope: Scope, list: &str, container: &Value, old: Option<&Value>) -> bool {
    match scope {
        Scope::Whole => true,
        Scope::NewEphemeral => {
            let old = old.map_or(&[][..], |old| look::list_at(old, &["spec", EPHEMERAL]));
            let name = look::text(container, "name");
            list == EPHEMERAL && !old.iter().any(|known| look::text(known, "name") == name)
        }
    }
}

#[async_trait]
impl Plugin for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    async fn mutate(&self, request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
        let Some(scope) = scope(request, pod)? else { return Ok(()) };
        let spec = look::child(pod, "spec");
        for list in LISTS {
            for container in look::list_mut(spec, list) {
                if concerns(scope, list, container, request.old) {
                    look::set(container, "imagePullPolicy", ALWAYS);
                }
            }
        }
        // IMG-221.
        let volumes = if scope == Scope::Whole { look::list_mut(spec, "volumes") } else { &mut [] };
        for image in volumes.iter_mut().filter_map(|volume| look::get_mut(volume, "image")) {
            look::set(image, "pullPolicy", ALWAYS);
        }
        Ok(())
    }

    async fn validate(&self, request: &Request<'_>, pod: Option<&Value>) -> Result<(), Status> {
        let Some(pod) = pod else { return Ok(()) };
        let Some(scope) = scope(request, pod)? else { return Ok(()) };
        let path = Path::new("spec");
        let mut errors = Vec::new();
        let mut check = |policy: &str, path: &Path| {
            if policy != ALWAYS {
                errors.push(FieldError::not_supported(path, policy, &[ALWAYS]));
            }
        };
        for list in LISTS {
            for (index, container) in look::list_at(pod, &["spec", list]).iter().enumerate() {
                if concerns(scope, list, container, request.old) {
                    let path = path.child(list).index(index).child("imagePullPolicy");
                    check(look::text(container, "imagePullPolicy"), &path);
                }
            }
        }
        let volumes = if scope == Scope::Whole { look::list_at(pod, &["spec", "volumes"]) } else { &[] };
        for (index, volume) in volumes.iter().enumerate() {
            if let Some(image) = look::get(volume, "image") {
                let path = path.child("volumes").index(index).child("image").child("pullPolicy");
                check(look::text(image, "pullPolicy"), &path);
            }
        }
        refuse(request, &errors)
    }
}

/// IMG-223: one violation stands alone, several stand in brackets.
fn refuse(request: &Request<'_>, errors: &[FieldError]) -> Result<(), Status> {
    let mut all: Vec<Status> = errors.iter().map(|error| request.forbidden(error)).collect();
    let Some(mut first) = all.pop() else { return Ok(()) };
    if !all.is_empty() {
        all.push(first.clone());
        let texts: Vec<String> = all.iter().map(|status| status.message.clone()).collect();
        first.message = format!("[{}]", texts.join(", "));
    }
    Err(first)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::query::Query;
    use crate::user::UserInfo;
    use crate::warnings::Warnings;
    use crate::world::World;

    #[tokio::test]
    async fn img_224_what_is_no_pod_is_a_bad_request() {
        let world = World::new(Arc::new(store::memory::MemoryStore::new()));
        let (query, warnings, user) = (Query::default(), Warnings::default(), UserInfo::admin());
        let request = Request {
            kind: api::find("", "v1", "pods").unwrap(),
            operation: Operation::Create,
            subresource: "",
            namespace: "default",
            name: "a",
            called: None,
            user: &user,
            old: None,
            world: &world,
            dry_run: false,
            query: &query,
            warnings: &warnings,
        };
        let mut object = json!({"kind": "Node"});
        for status in [
            AlwaysPullImages.mutate(&request, &mut object).await.unwrap_err(),
            AlwaysPullImages.validate(&request, Some(&object)).await.unwrap_err(),
        ] {
            assert_eq!(status.code, 400);
            assert_eq!(status.message, "Resource was marked with kind Pod but was unable to be converted");
        }
    }
}
