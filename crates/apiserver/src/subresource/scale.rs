//! The `scale` subresource: read and changed as a Scale, kept as the object that it belongs to.
//!
//! What a Scale is, is in `api::rules::workload::scale`. Start at [`read`] and [`change`].

use api::rules::workload::scale;
use serde_json::Value;

use crate::object;
use crate::registry::{Call, Registry};
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
        .modify(call, &|old| {
            let mut new = change(&scale::of(call.kind, old))?;
            kind.rules.default(&mut new);
            let errors = kind.rules.validate_create(&new);
            if !errors.is_empty() {
                return Err(Status::invalid(kind, call.name, &errors));
            }
            Ok(scale::applied(&new, old))
        })
        .await?;
    let revision = written.revision.unwrap_or_default();
    Ok(scale::of(call.kind, &object::decode_at(call.kind, &written.stored, revision)))
}
