//! How apply sees a value: what of it has fields of its own, what is one piece, and what identifies the items of a list.
//!
//! The markers are those of the schema facts. Start at [`Form::of`].

use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::schema::{Field, ListType, Shape, Type, find};

/// What apply does with a value of a type.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    /// Fields by name.
    Struct(&'static Type),
    /// Entries of one shape.
    Map(&'static Shape),
    /// Items that their keys identify.
    Keyed(&'static Shape, &'static [&'static str]),
    /// Items that are their own identity.
    Set,
    /// One piece, replaced whole.
    Atom,
}

impl Form {
    /// The form of a whole object of a type.
    pub(super) fn root(name: &str) -> Form {
        find(name).map_or(Form::Atom, Form::Struct)
    }

    /// The form of a field.
    pub(super) fn of(field: &'static Field) -> Form {
        match (&field.shape, &field.list_type) {
            _ if field.map_atomic => Form::Atom,
            (Shape::List(inner), Some(ListType::Map(keys))) => Form::Keyed(inner, keys),
            (Shape::List(_), Some(ListType::Set)) => Form::Set,
            (shape, _) => Form::plain(shape),
        }
    }

    /// The form of a shape that no field marks: an item of a list, an entry of a map.
    pub(super) fn plain(shape: &'static Shape) -> Form {
        match shape {
            Shape::Object(name) => match find(name) {
                Some(found) if !found.atomic => Form::Struct(found),
                _ => Form::Atom,
            },
            Shape::Map(inner) => Form::Map(inner),
            _ => Form::Atom,
        }
    }

    /// The form of a member of a struct or map, and the field that declares it.
    pub(super) fn member(self, name: &str) -> (Form, Option<&'static Field>) {
        match self {
            Form::Struct(found) => match found.field(name) {
                Some(field) => (Form::of(field), Some(field)),
                None => (Form::Atom, None),
            },
            Form::Map(inner) => (Form::plain(inner), None),
            _ => (Form::Atom, None),
        }
    }

    /// The form of an item of a list that is merged by item.
    pub(super) fn item(self) -> Form {
        match self {
            // An item is identified by its keys even where its type is one piece, as references are.
            Form::Keyed(inner, _) => Form::plain(inner),
            _ => Form::Atom,
        }
    }
}

/// Upstream's types hold these as values, not as pointers, so that they are there even when nobody set them: no writer
/// comes to own them by bringing the first field in them.
const ALWAYS_THERE: &[(&str, &[&str])] = &[
    ("apps.v1.DaemonSet", &["metadata", "spec", "status"]),
    ("apps.v1.DaemonSetSpec", &["template", "updateStrategy"]),
    ("apps.v1.Deployment", &["metadata", "spec", "status"]),
    ("apps.v1.DeploymentSpec", &["strategy", "template"]),
    ("apps.v1.ReplicaSet", &["metadata", "spec", "status"]),
    ("apps.v1.ReplicaSetSpec", &["template"]),
    ("apps.v1.StatefulSet", &["metadata", "spec", "status"]),
    ("apps.v1.StatefulSetSpec", &["template", "updateStrategy"]),
    ("autoscaling.v1.Scale", &["metadata", "spec", "status"]),
    ("batch.v1.CronJob", &["metadata", "spec", "status"]),
    ("batch.v1.CronJobSpec", &["jobTemplate"]),
    ("batch.v1.Job", &["metadata", "spec", "status"]),
    ("batch.v1.JobSpec", &["template"]),
    ("batch.v1.JobTemplateSpec", &["metadata", "spec"]),
    ("coordination.v1.Lease", &["metadata", "spec"]),
    ("core.v1.Container", &["resources"]),
    ("core.v1.Event", &["involvedObject", "metadata", "source"]),
    ("core.v1.Namespace", &["metadata", "spec", "status"]),
    ("core.v1.Node", &["metadata", "spec", "status"]),
    ("core.v1.NodeDaemonEndpoints", &["kubeletEndpoint"]),
    ("core.v1.NodeStatus", &["daemonEndpoints", "nodeInfo"]),
    ("core.v1.Pod", &["metadata", "spec", "status"]),
    ("core.v1.PodSpec", &["containers"]),
    ("core.v1.PodTemplate", &["metadata", "template"]),
    ("core.v1.PodTemplateSpec", &["metadata", "spec"]),
    ("core.v1.ReplicationController", &["metadata", "spec", "status"]),
];

/// Whether upstream's type has the field even when nothing is in it.
pub(super) fn always_there(found: &Type, field: &str) -> bool {
    if field == "metadata" && found.kind.is_some() {
        return true;
    }
    ALWAYS_THERE
        .binary_search_by(|(name, _)| (*name).cmp(found.name))
        .is_ok_and(|at| ALWAYS_THERE[at].1.contains(&field))
}

/// What an absent key of a list item counts as.
fn key_default(item: Form, key: &str) -> Option<Value> {
    match (item, key) {
        (Form::Struct(found), "protocol") if matches!(found.name, "core.v1.ContainerPort" | "core.v1.ServicePort") => {
            Some("TCP".into())
        }
        // References by name: an empty name is a name.
        (Form::Atom, "name") => Some("".into()),
        _ => None,
    }
}

/// The element of a list item; None when it cannot be told.
pub(super) fn element(list: Form, item: &Value) -> Result<Box<str>, String> {
    match list {
        Form::Keyed(_, keys) => keyed(list.item(), keys, item),
        _ if item.is_object() || item.is_array() || item.is_null() => {
            Err("associative list without keys has an element that's no scalar".to_owned())
        }
        _ => Ok(format!("v:{item}").into_boxed_str()),
    }
}

fn keyed(form: Form, keys: &[&'static str], item: &Value) -> Result<Box<str>, String> {
    let fields = match item {
        Value::Object(fields) => fields,
        Value::Null => return Err("associative list with keys may not have a null element".to_owned()),
        _ => return Err("associative list with keys may not have non-map elements".to_owned()),
    };
    let mut sorted: Vec<&str> = keys.to_vec();
    sorted.sort_unstable();
    let mut out = Vec::with_capacity(32);
    out.extend_from_slice(b"k:{");
    for (index, key) in sorted.into_iter().enumerate() {
        let default;
        let value = match fields.get(key).filter(|value| !value.is_null()) {
            Some(value) => value,
            None => {
                let missing = || {
                    format!(
                        "associative list with keys has an element that omits key field {key:?} (and doesn't have default value)"
                    )
                };
                default = key_default(form, key).ok_or_else(missing)?;
                &default
            }
        };
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(format!("\"{key}\":").as_bytes());
        serde_json::to_writer(&mut out, value).expect("values always serialise into memory");
    }
    out.push(b'}');
    Ok(String::from_utf8(out).expect("JSON is UTF-8").into_boxed_str())
}

/// The items of a list with their elements, which may repeat. An item whose key is missing counts by its place: only
/// objects that were let in before have such.
pub(super) fn items(list: Form, value: &Value) -> Vec<(Box<str>, &Value)> {
    let items = value.as_array().into_iter().flatten().enumerate();
    let named = |(index, item)| (element(list, item).unwrap_or_else(|_| format!("i:{index}").into_boxed_str()), item);
    items.map(named).collect()
}

/// The members of a struct or map; none of anything else.
pub(super) fn members(value: Option<&Value>) -> &Map<String, Value> {
    static NONE: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    value.and_then(Value::as_object).unwrap_or(&NONE)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn form(path: &[&str], root: &str) -> Form {
        path.iter().fold(Form::root(root), |form, name| match *name {
            "[]" => form.item(),
            name => form.member(name).0,
        })
    }

    #[test]
    fn the_facts_say_what_merges_and_by_what() {
        let keyed: [(&[&str], &[&str]); 12] = [
            (&["spec", "containers"], &["name"]),
            (&["spec", "initContainers"], &["name"]),
            (&["spec", "containers", "[]", "ports"], &["containerPort", "protocol"]),
            (&["spec", "containers", "[]", "env"], &["name"]),
            (&["spec", "containers", "[]", "volumeMounts"], &["mountPath"]),
            (&["spec", "containers", "[]", "volumeDevices"], &["devicePath"]),
            (&["spec", "volumes"], &["name"]),
            (&["spec", "imagePullSecrets"], &["name"]),
            (&["spec", "topologySpreadConstraints"], &["topologyKey", "whenUnsatisfiable"]),
            (&["spec", "hostAliases"], &["ip"]),
            (&["metadata", "ownerReferences"], &["uid"]),
            (&["status", "conditions"], &["type"]),
        ];
        for (path, keys) in keyed {
            assert!(matches!(form(path, "core.v1.Pod"), Form::Keyed(_, found) if found == keys), "{path:?}");
        }
        for path in [
            &["spec", "tolerations"][..],
            &["spec", "nodeSelector"],
            &["spec", "containers", "[]", "command"],
            &["spec", "containers", "[]", "args"],
            &["spec", "containers", "[]", "envFrom"],
            &["spec", "containers", "[]", "env", "[]", "valueFrom", "fieldRef"],
            &["spec", "imagePullSecrets", "[]"],
            &["metadata", "ownerReferences", "[]"],
            &["status", "containerStatuses"],
        ] {
            assert!(matches!(form(path, "core.v1.Pod"), Form::Atom), "{path:?}");
        }
        assert!(matches!(form(&["spec", "selector"], "apps.v1.Deployment"), Form::Atom));
        assert!(matches!(form(&["spec", "selector"], "core.v1.ReplicationController"), Form::Atom));
        assert!(matches!(form(&["metadata", "finalizers"], "core.v1.Pod"), Form::Set));
        assert!(matches!(form(&["metadata", "labels"], "core.v1.Pod"), Form::Map(_)));
        assert!(matches!(form(&["data"], "core.v1.ConfigMap"), Form::Map(_)));
        assert!(matches!(form(&["spec", "containers", "[]", "resources", "limits"], "core.v1.Pod"), Form::Map(_)));
        assert!(matches!(
            form(&["webhooks"], "admissionregistration.v1.MutatingWebhookConfiguration"),
            Form::Keyed(..)
        ));
    }

    #[test]
    fn items_are_named_by_their_keys_with_defaults() {
        let ports = form(&["spec", "containers", "[]", "ports"], "core.v1.Pod");
        assert_eq!(
            &*element(ports, &json!({"containerPort": 80})).unwrap(),
            r#"k:{"containerPort":80,"protocol":"TCP"}"#
        );
        let env = form(&["spec", "containers", "[]", "env"], "core.v1.Pod");
        assert_eq!(&*element(env, &json!({"name": "a\"b"})).unwrap(), r#"k:{"name":"a\"b"}"#);
        assert_eq!(
            element(env, &json!({"value": "x"})).unwrap_err(),
            "associative list with keys has an element that omits key field \"name\" (and doesn't have default value)"
        );
        assert!(element(env, &json!("x")).is_err());
        assert_eq!(&*element(Form::Set, &json!("a/b")).unwrap(), "v:\"a/b\"");
    }

    #[test]
    fn the_table_of_what_is_always_there_is_in_order_and_known() {
        assert!(ALWAYS_THERE.is_sorted_by_key(|(name, _)| *name));
        for (name, fields) in ALWAYS_THERE {
            let found = find(name).unwrap_or_else(|| panic!("{name}"));
            assert!(fields.iter().all(|field| found.field(field).is_some()), "{name}");
        }
    }
}
