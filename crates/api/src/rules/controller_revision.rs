//! ControllerRevisions: what a DaemonSet or a StatefulSet looked like, for its pods and for going back.

use jiff::Timestamp;
use serde_json::Value;

use super::{Rules, age_cell, name_cell};
use crate::field::{FieldError, Path};
use crate::look;
use crate::meta::{self, NEGATIVE};

/// Rules of `apps/v1 ControllerRevision`.
pub struct ControllerRevisions;

impl Rules for ControllerRevisions {
    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if look::get(object, "data").is_none() {
            errors.push(FieldError::required(&Path::new("data"), "data is mandatory"));
        }
        if let Some(number) = look::integer(object, "revision").filter(|number| *number < 0) {
            errors.push(FieldError::invalid(&Path::new("revision"), number, NEGATIVE));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let mut errors = self.validate_create(new);
        meta::immutable(look::get(new, "data"), look::get(old, "data"), &Path::new("data"), &mut errors);
        errors
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let owners = look::list_at(object, &["metadata", "ownerReferences"]);
        let controller = owners.iter().find(|owner| look::flag(owner, "controller"));
        let shown = controller.map_or("<none>".to_owned(), |owner| {
            let group = look::text(owner, "apiVersion").split_once('/').map_or("", |(group, _)| group);
            let dot = if group.is_empty() { "" } else { "." };
            format!("{}{dot}{group}/{}", look::text(owner, "kind").to_lowercase(), look::text(owner, "name"))
        });
        let revision = look::integer(object, "revision").unwrap_or(0);
        vec![name_cell(object), shown.into(), revision.into(), age_cell(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn data_is_there_and_never_changes() {
        let object = json!({"data": {"spec": {}}, "revision": 1});
        assert!(ControllerRevisions.validate_create(&object).is_empty());
        let wrong = ControllerRevisions.validate_create(&json!({"revision": -1}));
        let texts: Vec<String> = wrong.iter().map(FieldError::to_string).collect();
        assert_eq!(
            texts,
            [
                "data: Required value: data is mandatory",
                "revision: Invalid value: -1: must be greater than or equal to 0"
            ]
        );
        let changed = json!({"data": {"spec": {"a": 1}}, "revision": 2});
        assert!(
            ControllerRevisions.validate_update(&changed, &object, None)[0].to_string().ends_with("field is immutable")
        );
    }

    #[test]
    fn a_row_names_the_owner_with_its_group() {
        let owner = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "log", "controller": true});
        let object = json!({"metadata": {"name": "log-1", "ownerReferences": [owner]}, "revision": 3});
        let cells = ControllerRevisions.cells(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[..3], [json!("log-1"), json!("daemonset.apps/log"), json!(3)]);
    }
}
