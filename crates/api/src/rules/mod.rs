//! What each kind does: defaults, validation, warnings, selectable fields, deletion, table cells.
//!
//! One module a kind, each with one unit struct that implements [`Rules`]. All functions are pure.

use jiff::Timestamp;
use serde_json::Value;

use crate::field::FieldError;
use crate::look;
use crate::names;

pub mod certificate_request;
pub mod config_map;
pub mod controller_revision;
pub mod disruption_budget;
pub mod event;
pub mod lease;
pub mod limit_range;
pub mod namespace;
pub mod node;
pub mod pod;
pub mod pod_template;
pub mod priority_class;
pub mod resource_quota;
pub mod review;
pub mod role;
pub mod role_binding;
pub mod runtime_class;
pub mod secret;
pub mod service_account;
pub mod webhook;
pub mod workload;

/// Which way an object is converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toward {
    /// From the form that clients of this kind see to the form that is stored.
    Storage,
    /// From the stored form to the form that clients of this kind see.
    Served,
}

/// Who sends a request.
#[derive(Debug, Clone, Copy)]
pub struct Requester<'a> {
    /// User name.
    pub name: &'a str,
    /// Stable id; may be empty.
    pub uid: &'a str,
    /// Groups.
    pub groups: &'a [String],
    /// What authentication says beside it.
    pub extra: &'a std::collections::BTreeMap<String, Vec<String>>,
}

/// The rules of one kind. Every method has a default that does nothing, so that a kind says only what is special.
///
/// The order for a create is: `default` → mutating admission → who may give rights away → `prepare_create`, `ask` →
/// `meta::validate_create` + `validate_create` → validating admission → `convert(Storage)` → store. For an update: `default`
/// → mutating admission → who may give rights away → `prepare_update`, `stamp` → `meta::validate_update` +
/// `validate_update` → validating admission → `convert(Storage)` → store. `sub` is the subresource of the request, such as
/// `Some("status")`.
pub trait Rules: Sync + Send {
    /// Upstream's defaulting. Runs on every decoded object, whether new, changed or patched. Idempotent.
    fn default(&self, _object: &mut Value) {}

    /// Drops what clients may not set on a new object, and sets what the server sets.
    fn prepare_create(&self, _object: &mut Value, _now: Timestamp) {}

    /// Notes in a new object who asks for it, for kinds that do; whatever clients wrote there is not kept.
    fn ask(&self, _object: &mut Value, _who: &Requester<'_>) {}

    /// Checks a new object. Its metadata is checked by [`crate::meta::validate_create`].
    fn validate_create(&self, _object: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    /// Puts back what this request may not change.
    fn prepare_update(&self, _new: &mut Value, _old: &Value, _sub: Option<&str>) {}

    /// Notes in a changed object when it changed, for kinds that do.
    fn stamp(&self, _new: &mut Value, _old: &Value, _sub: Option<&str>, _now: Timestamp) {}

    /// Checks a changed object. Its metadata is checked by [`crate::meta::validate_update`].
    fn validate_update(&self, new: &Value, _old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        self.validate_create(new)
    }

    /// Warnings for the client about a new object.
    fn warnings(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Selectable fields beside `metadata.name` and `metadata.namespace`, with their values in this object. The names
    /// are the same for every object of the kind, so an empty object tells which are known.
    fn fields(&self, _object: &Value) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// How long an object stays after a delete: `None` to remove it at once, else the seconds of grace (HOOK-69), which
    /// may be 0.
    fn graceful_delete(&self, _object: &Value, _requested_seconds: Option<i64>) -> Option<i64> {
        None
    }

    /// Cells of a table row, one for each column of the kind.
    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value>;

    /// Another kind without namespaces (group and plural) whose objects have a part in the cells: see
    /// [`Rules::cells_among`].
    fn cells_read(&self) -> Option<(&'static str, &'static str)> {
        None
    }

    /// Cells of a table row, beside all objects of the kind that [`Rules::cells_read`] names.
    fn cells_among(&self, object: &Value, _others: &[Value], now: Timestamp) -> Vec<Value> {
        self.cells(object, now)
    }

    /// Converts between the served and the stored form, where they differ.
    fn convert(&self, _object: &mut Value, _toward: Toward) {}

    /// Complaints about a name, beyond that it must be there.
    fn name_complaints(&self, name: &str) -> Vec<String> {
        names::subdomain(name)
    }

    /// Whether a PUT to a name that does not exist creates the object (RTC-10).
    fn creates_on_update(&self) -> bool {
        false
    }

    /// Whether a PUT without a resource version overwrites.
    fn unconditional_update(&self) -> bool {
        true
    }

    /// Where objects of this kind hold a pod spec; empty when they hold none.
    fn pod_spec_path(&self) -> &'static [&'static str] {
        &[]
    }
}

/// Cell with the object's name.
pub(crate) fn name_cell(object: &Value) -> Value {
    Value::from(look::text_at(object, &["metadata", "name"]))
}

/// Cell with the object's age.
pub(crate) fn age_cell(object: &Value, now: Timestamp) -> Value {
    Value::from(crate::time::age(look::text_at(object, &["metadata", "creationTimestamp"]), now))
}

/// Increments the generation when one of these fields changed, else keeps the old one.
pub(crate) fn keep_generation(new: &mut Value, old: &Value, fields: &[&str]) {
    let changed = fields.iter().any(|name| !look::same(look::get(new, name), look::get(old, name)));
    let generation = look::at(old, &["metadata", "generation"]).and_then(Value::as_i64);
    let next = match (changed, generation) {
        (true, known) => Some(known.unwrap_or(0) + 1),
        (false, known) => known,
    };
    let metadata = look::child(new, "metadata");
    match next {
        Some(generation) => look::set(metadata, "generation", generation),
        None => drop(look::remove(metadata, "generation")),
    }
}
