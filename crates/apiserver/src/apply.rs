//! Server-side apply: a PATCH whose body is what a manager wants, whether the object is there or not.
//!
//! What an apply leads to is in `api::apply`; here is what the body means, that the result is an object, and that a missing
//! object is made. Start at [`Apply::carry_out`].

use api::apply::ApplyError;
use api::look;
use serde_json::{Value, json};

use crate::body::{self, Checked};
use crate::codec::{self, Decoded};
use crate::query::{FieldValidation, Query, WriteOptions};
use crate::registry::{Call, Live, Next, Written};
use crate::resource::Asked;
use crate::server::Core;
use crate::status::Status;
use crate::{authz, object, owners};

/// The media type of an apply. Its body may be JSON too, which is YAML.
pub const MEDIA_TYPE: &str = "application/apply-patch+yaml";
/// How often an apply is tried again when the object comes or goes under it.
const RETRIES: usize = 5;

/// An applied configuration.
#[derive(Debug)]
pub struct Apply {
    config: Value,
    duplicates: Vec<String>,
    force: bool,
}

impl Apply {
    /// Reads the body.
    pub fn read(body: &[u8], query: &Query) -> Result<Apply, Status> {
        let Decoded { value: config, duplicates } = codec::decode_applied(body)?;
        if !config.is_object() {
            return Err(Status::bad_request("error decoding YAML: the document is not an object"));
        }
        Ok(Apply { config, duplicates, force: query.flag("force") })
    }

    /// The configuration.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The same with another configuration.
    pub fn with(&self, config: Value) -> Apply {
        Apply { config, duplicates: self.duplicates.clone(), force: self.force }
    }

    /// Applies it; a missing object is made, for who may create it.
    pub async fn carry_out(&self, core: &Core, asked: &Asked, options: &WriteOptions) -> Result<Written, Status> {
        let call = asked.call(options.dry_run);
        call.warnings.extend(self.complaints(options.field_validation)?);
        let mut last = Status::modified(call.kind, call.name);
        for _ in 0..=RETRIES {
            let present = match core.registry.entry(&call).await {
                Ok(_) => true,
                Err(status) if status.code == 404 && call.subresource.is_none() => false,
                Err(status) => return Err(status),
            };
            let tried = match present {
                true => self.change(core, &call, options).await,
                false => self.create(core, asked, (&call, options)).await,
            };
            match tried {
                // Somebody removed it, or made it, in between.
                Err(status) if matches!(status.reason.as_ref(), "NotFound" | "AlreadyExists") => last = status,
                other => return other,
            }
        }
        Err(last)
    }

    async fn change(&self, core: &Core, call: &Call<'_>, options: &WriteOptions) -> Result<Written, Status> {
        let change = |live: &Live<'_>| {
            let next = self.onto(call, Some(live))?;
            self.checked(call, next, options)
        };
        core.registry.modify(call, &change).await
    }

    async fn create(
        &self,
        core: &Core,
        asked: &Asked,
        (call, options): (&Call<'_>, &WriteOptions),
    ) -> Result<Written, Status> {
        authz::authorize(&core.authorizers, &asked.attributes("create"), &core.registry.world).await?;
        let next = self.checked(call, self.onto(call, None)?, options)?;
        if object::name(&next.object).is_empty() {
            return Err(Status::bad_request(format!(
                "the name of the object ({} based on URL) was undeterminable: name must be provided",
                call.name
            )));
        }
        let uid = object::meta(&next.object, "uid");
        if !uid.is_empty() {
            let why =
                format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(Status::conflict(call.kind, call.name, &why));
        }
        core.registry.create(call, next).await
    }

    /// What the configuration makes of the live object, or of nothing.
    pub fn onto(&self, call: &Call<'_>, live: Option<&Live<'_>>) -> Result<Next, Status> {
        let entries = live.map(|live| api::apply::read(live.managed)).unwrap_or_default();
        let object = live.map(|live| live.object);
        let applied = api::apply::apply(&owners::writer(call), (object, &self.config), entries, self.force);
        applied.map(Next::from).map_err(|error| refused(&error))
    }

    fn checked(&self, call: &Call<'_>, next: Next, options: &WriteOptions) -> Result<Next, Status> {
        let document = Decoded { value: next.object, duplicates: Vec::new() };
        let Checked { object, warnings } = body::check(call.kind, document, options.field_validation)?;
        call.warnings.extend(warnings);
        body::check_place(&object, call)?;
        if call.subresource.is_none() {
            call.warnings.extend(call.kind.rules.warnings(&object));
        }
        Ok(Next { object, ..next })
    }

    fn complaints(&self, validation: FieldValidation) -> Result<Vec<String>, Status> {
        let complaints: Vec<String> = self.duplicates.iter().map(|path| format!("duplicate field {path:?}")).collect();
        match validation {
            FieldValidation::Strict if !complaints.is_empty() => {
                Err(Status::bad_request(format!("error strict decoding YAML: {}", complaints.join(", "))))
            }
            FieldValidation::Warn => Ok(complaints),
            _ => Ok(Vec::new()),
        }
    }
}

/// A refused apply as upstream answers it.
pub fn refused(error: &ApplyError) -> Status {
    let message = error.to_string();
    match error {
        ApplyError::WrongType { .. } | ApplyError::ManagedFieldsGiven => Status::bad_request(message),
        // Upstream's code, which has no reason either.
        ApplyError::Unfit { .. } => Status::plain(500, "", message),
        ApplyError::Conflict(conflicts) => {
            let mut status = Status::plain(409, "Conflict", message);
            let cause = |conflict: &api::apply::Conflict| {
                json!({
                    "reason": "FieldManagerConflict",
                    "message": format!("conflict with {}", conflict.manager),
                    "field": conflict.path,
                })
            };
            status.details = json!({});
            look::set(&mut status.details, "causes", conflicts.iter().map(cause).collect::<Vec<Value>>());
            status
        }
    }
}
