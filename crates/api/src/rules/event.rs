//! Events, in both of their forms. They are stored in the core form; `events.k8s.io` shows the same objects.
//!
//! All methods of [`GroupEvents`] take the served form and look at it in the stored form.

use jiff::Timestamp;
use serde_json::Value;

use super::{Rules, Toward};
use crate::field::{FieldError, Path};
use crate::look;
use crate::meta;
use crate::names;
use crate::time;

/// Rules of `v1 Event`.
pub struct CoreEvents;

/// Rules of `events.k8s.io/v1 Event`.
pub struct GroupEvents;

/// Names of fields: in the core form, in the group form.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

const TEXT_BYTES_MAX: usize = 128;
const NOTE_BYTES_MAX: usize = 1024;

impl Rules for CoreEvents {
    fn default(&self, object: &mut Value) {
        look::child(object, "involvedObject");
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        validate_any(object, "reportingComponent")
    }

    fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let about = |name: &str| look::text_at(object, &["involvedObject", name]).to_owned();
        let component = look::text(object, "reportingComponent");
        let source = match look::text_at(object, &["source", "component"]) {
            "" => component,
            source => source,
        };
        vec![
            ("involvedObject.kind", about("kind")),
            ("involvedObject.namespace", about("namespace")),
            ("involvedObject.name", about("name")),
            ("involvedObject.uid", about("uid")),
            ("involvedObject.apiVersion", about("apiVersion")),
            ("involvedObject.resourceVersion", about("resourceVersion")),
            ("involvedObject.fieldPath", about("fieldPath")),
            ("reason", look::text(object, "reason").to_owned()),
            ("reportingComponent", component.to_owned()),
            ("source", source.to_owned()),
            ("type", look::text(object, "type").to_owned()),
        ]
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let (first, last, count) = seen(object, now);
        vec![
            Value::from(last),
            Value::from(look::text(object, "type")),
            Value::from(look::text(object, "reason")),
            Value::from(target(object)),
            Value::from(look::text_at(object, &["involvedObject", "fieldPath"])),
            Value::from(reporter(object)),
            Value::from(look::text(object, "message").trim()),
            Value::from(first),
            Value::from(count),
            super::name_cell(object),
        ]
    }

    fn creates_on_update(&self) -> bool {
        true
    }
}

impl Rules for GroupEvents {
    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let event = stored(object);
        let mut errors = validate_any(&event, "reportingController");
        validate_series(&event, &mut errors);
        if look::text(&event, "eventTime").is_empty() {
            errors.push(FieldError::required(&Path::new("eventTime"), ""));
        }
        let kind = look::text(&event, "type");
        if !matches!(kind, "Normal" | "Warning") {
            errors.push(FieldError::invalid(&Path::new("type"), "", format!("has invalid value: {kind}")));
        }
        let count = look::integer(&event, "count").unwrap_or(0) != 0;
        let source = look::map(&event, "source").any(|(_, value)| value != "");
        for (name, set) in [
            ("firstTimestamp", look::get(&event, "firstTimestamp").is_some()),
            ("lastTimestamp", look::get(&event, "lastTimestamp").is_some()),
            ("count", count),
            ("source", source),
        ] {
            if set {
                errors.push(FieldError::invalid(&Path::new(name), "", "needs to be unset"));
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, _sub: Option<&str>) -> Vec<FieldError> {
        let (new, old) = (stored(new), stored(old));
        let mut errors = validate_any(&new, "reportingController");
        if !look::same(look::get(&new, "series"), look::get(&old, "series")) {
            validate_series(&new, &mut errors);
        }
        for name in [
            "involvedObject",
            "reason",
            "message",
            "source",
            "firstTimestamp",
            "lastTimestamp",
            "count",
            "type",
            "eventTime",
            "action",
            "related",
            "reportingComponent",
            "reportingInstance",
        ] {
            let shown = if name == "reportingComponent" { "reportingController" } else { name };
            meta::immutable(look::get(&new, name), look::get(&old, name), &Path::new(shown), &mut errors);
        }
        errors
    }

    fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        CoreEvents.fields(&stored(object)).into_iter().map(|(name, value)| (group_field(name), value)).collect()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        CoreEvents.cells(&stored(object), now)
    }

    fn convert(&self, object: &mut Value, toward: Toward) {
        let fields = look::fields(object);
        let version = if toward == Toward::Storage { "v1" } else { "events.k8s.io/v1" };
        fields.insert("apiVersion".to_owned(), Value::from(version));
        for (core, group) in RENAMED {
            let (from, to) = if toward == Toward::Storage { (group, core) } else { (core, group) };
            if let Some(value) = fields.remove(from) {
                fields.insert(to.to_owned(), value);
            }
        }
        if toward == Toward::Storage {
            look::child(object, "involvedObject");
        }
    }

    fn creates_on_update(&self) -> bool {
        true
    }
}

fn stored(object: &Value) -> Value {
    let mut event = object.clone();
    GroupEvents.convert(&mut event, Toward::Storage);
    event
}

/// The name of a selectable field in the group form.
fn group_field(core: &'static str) -> &'static str {
    match core {
        "involvedObject.kind" => "regarding.kind",
        "involvedObject.namespace" => "regarding.namespace",
        "involvedObject.name" => "regarding.name",
        "involvedObject.uid" => "regarding.uid",
        "involvedObject.apiVersion" => "regarding.apiVersion",
        "involvedObject.resourceVersion" => "regarding.resourceVersion",
        "involvedObject.fieldPath" => "regarding.fieldPath",
        "reportingComponent" => "reportingController",
        other => other,
    }
}

/// What both forms want. An event with `eventTime` is of the new sort and has more to say.
fn validate_any(event: &Value, controller_field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let namespace = look::text_at(event, &["metadata", "namespace"]);
    let about = look::text_at(event, &["involvedObject", "namespace"]);
    let new_sort = !look::text(event, "eventTime").is_empty();
    let fits = match (new_sort, about) {
        (false, "") => matches!(namespace, "" | "default"),
        (false, about) => about == namespace,
        (true, "") => matches!(namespace, "default" | "kube-system"),
        (true, _) => true,
    };
    if !fits {
        let path = Path::new("involvedObject").child("namespace");
        errors.push(FieldError::invalid(&path, about, "does not match event.namespace"));
    }
    if new_sort {
        validate_new_sort(event, controller_field, &mut errors);
    }
    errors
}

fn validate_new_sort(event: &Value, controller_field: &str, errors: &mut Vec<FieldError>) {
    let controller = look::text(event, "reportingComponent");
    let path = Path::new(controller_field);
    if controller.is_empty() {
        errors.push(FieldError::required(&path, ""));
    }
    errors.extend(names::label_key(controller).into_iter().map(|text| FieldError::invalid(&path, controller, text)));
    for name in ["reportingInstance", "action", "reason"] {
        let text = look::text(event, name);
        if text.is_empty() {
            errors.push(FieldError::required(&Path::new(name), ""));
        }
        bounded(text, TEXT_BYTES_MAX, name, errors);
    }
    bounded(look::text(event, "message"), NOTE_BYTES_MAX, "message", errors);
}

fn bounded(text: &str, bytes_max: usize, name: &str, errors: &mut Vec<FieldError>) {
    if text.len() > bytes_max {
        errors.push(FieldError::invalid(&Path::new(name), "", format!("can have at most {bytes_max} characters")));
    }
}

fn validate_series(event: &Value, errors: &mut Vec<FieldError>) {
    let Some(series) = look::get(event, "series") else { return };
    if look::integer(series, "count").unwrap_or(0) < 2 {
        errors.push(FieldError::invalid(&Path::new("series.count"), "", "should be at least 2"));
    }
    if look::text(series, "lastObservedTime").is_empty() {
        errors.push(FieldError::required(&Path::new("series.lastObservedTime"), ""));
    }
}

/// First seen, last seen, count.
fn seen(event: &Value, now: Timestamp) -> (String, String, i64) {
    let first = match look::text(event, "firstTimestamp") {
        "" => time::age(look::text(event, "eventTime"), now),
        text => time::age(text, now),
    };
    if let Some(series) = look::get(event, "series") {
        let last = time::age(look::text(series, "lastObservedTime"), now);
        return (first, last, look::integer(series, "count").unwrap_or(0));
    }
    let last = match look::text(event, "lastTimestamp") {
        "" => first.clone(),
        text => time::age(text, now),
    };
    (first, last, look::integer(event, "count").unwrap_or(0).max(1))
}

fn target(event: &Value) -> String {
    let kind = look::text_at(event, &["involvedObject", "kind"]).to_lowercase();
    match look::text_at(event, &["involvedObject", "name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    }
}

fn reporter(event: &Value) -> String {
    let either = |first: &str, second: &str| if first.is_empty() { second.to_owned() } else { first.to_owned() };
    let component = either(look::text_at(event, &["source", "component"]), look::text(event, "reportingComponent"));
    let host = either(look::text_at(event, &["source", "host"]), look::text(event, "reportingInstance"));
    if host.is_empty() { component } else { format!("{component}, {host}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn core() -> Value {
        json!({
            "apiVersion": "v1",
            "metadata": {"name": "p.1", "namespace": "x"},
            "involvedObject": {"kind": "Pod", "name": "p", "namespace": "x", "fieldPath": "spec.containers{c}"},
            "reason": "Pulled",
            "message": "got it\n",
            "type": "Normal",
            "source": {"component": "kubelet", "host": "n"},
            "firstTimestamp": "1970-01-01T00:00:00Z",
            "lastTimestamp": "1970-01-01T00:01:00Z",
            "count": 3,
        })
    }

    #[test]
    fn both_forms_are_views_of_one_object() {
        let mut object = core();
        GroupEvents.convert(&mut object, Toward::Served);
        assert_eq!(object["note"], "got it\n");
        assert_eq!(object["regarding"]["name"], "p");
        assert_eq!(object["deprecatedCount"], 3);
        assert_eq!(object["apiVersion"], "events.k8s.io/v1");
        let now = Timestamp::from_second(120).unwrap();
        assert_eq!(GroupEvents.cells(&object, now), CoreEvents.cells(&core(), now));
        GroupEvents.convert(&mut object, Toward::Storage);
        assert_eq!(object, core());
    }

    #[test]
    fn cells_tell_the_story() {
        let cells = CoreEvents.cells(&core(), Timestamp::from_second(120).unwrap());
        assert_eq!(cells[..4], ["60s", "Normal", "Pulled", "pod/p"]);
        assert_eq!(cells[4..7], ["spec.containers{c}", "kubelet, n", "got it"]);
        assert_eq!((&cells[7], &cells[8], &cells[9]), (&json!("2m"), &json!(3), &json!("p.1")));
    }

    #[test]
    fn an_event_lives_beside_its_object() {
        assert!(CoreEvents.validate_create(&core()).is_empty());
        let mut other = core();
        other["metadata"]["namespace"] = json!("y");
        assert_eq!(
            CoreEvents.validate_create(&other)[0].to_string(),
            "involvedObject.namespace: Invalid value: \"x\": does not match event.namespace"
        );
    }

    #[test]
    fn new_events_say_who_and_what() {
        let event = json!({
            "metadata": {"namespace": "x"}, "regarding": {"namespace": "x"}, "eventTime": "1970-01-01T00:00:00.000000Z",
            "type": "Odd", "note": "n".repeat(1025), "deprecatedCount": 1,
        });
        let fields: Vec<String> = GroupEvents.validate_create(&event).into_iter().map(|error| error.field).collect();
        assert_eq!(
            fields,
            [
                "reportingController",
                "reportingController",
                "reportingController",
                "reportingInstance",
                "action",
                "reason",
                "message",
                "type",
                "count"
            ]
        );
    }

    #[test]
    fn fields_carry_the_names_of_their_form() {
        assert!(CoreEvents.fields(&core()).contains(&("involvedObject.name", "p".to_owned())));
        let mut object = core();
        GroupEvents.convert(&mut object, Toward::Served);
        assert!(GroupEvents.fields(&object).contains(&("regarding.name", "p".to_owned())));
    }
}
