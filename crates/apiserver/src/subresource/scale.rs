//! The `scale` subresource: read and changed as a Scale, kept as the object that it belongs to.
//!
//! What a Scale is, is in `api::rules::workload::scale`. Start at [`read`] and
//! [`change`].

use api::look;
use api::rules::workload::scale;
use serde_json::{Value, json};

use crate::apply::{self, Apply};
use crate::object;
use crate::registry::{Call, Registry, Written};
use crate::status::Status;

/// The Scale of the object in the path.
pub async fn read(registry: &Registry, call: &Call<'_>) -> Result<Value, Status> {
    let entry = registry.entry(call).await?;
    Ok(scale::of(call.kind, &object::decode(call.kind, &entry)))
}

/// Changes the object by what `change` makes of its Scale; returns the Scale after it.
pub async fn change(
    registry: &Registry,
    call: &Call<'_>,
    change: &(dyn Fn(&Value) -> Result<Value, Status> + Sync),
) -> Result<Value, Status> {
    let kind = api::kind::scale();
    let written = registry
        .modify(call, &|live| {
            let old = live.object;
            let mut new = change(&scale::of(call.kind, old))?;
            kind.rules.default(&mut new);
            let errors = kind.rules.validate_create(&new);
            if !errors.is_empty() {
                return Err(Status::invalid(kind, call.name, &errors));
            }
            Ok(scale::applied(&new, old).into())
        })
        .await?;
    Ok(shown(call, &written))
}

/// Applies a Scale: who applies it owns the replicas of the object.
pub async fn apply(registry: &Registry, call: &Call<'_>, apply: &Apply) -> Result<Value, Status> {
    let scale = api::kind::scale();
    api::apply::check_config(scale, apply.config()).map_err(|error| apply::refused(&error))?;
    let mut config = json!({"apiVersion": call.kind.api_version(), "kind": call.kind.kind});
    for place in
        [&["metadata", "name"][..], &["metadata", "namespace"], &["metadata", "resourceVersion"], &["spec", "replicas"]]
    {
        if let Some(value) = look::at(apply.config(), place) {
            look::set(look::child(&mut config, place[0]), place[1], value.clone());
        }
    }
    let apply = apply.with(config);
    let written = registry.modify(call, &|live| apply.onto(call, Some(live))).await?;
    Ok(shown(call, &written))
}

fn shown(call: &Call<'_>, written: &Written) -> Value {
    let revision = written.revision.unwrap_or_default();
    scale::of(call.kind, &object::decode_at(call.kind, &written.stored, revision))
}
