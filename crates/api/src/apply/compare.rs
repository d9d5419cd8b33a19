//! What fields an object has, and what fields differ between two objects.
//!
//! Start at [`fields_of`] for what an applied configuration claims, at [`compare`] for what a write changed.

use serde_json::Value;

use super::set::{Branch, Set, field};
use super::shape::{Form, always_there, items, members};
use crate::look::is_empty;
use crate::schema::{Field, Shape};

/// What differs between two objects.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Fields that the second has and the first has not, or has otherwise.
    pub changed: Set,
    /// Fields that only the first has.
    pub removed: Set,
}

impl Difference {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }

    /// Bytes one of which stands in each stored set that has a field in common with this.
    pub(super) fn marks(&self) -> Vec<String> {
        let nodes = self.changed.nodes().iter().chain(self.removed.nodes());
        let mut marks: Vec<String> = nodes.map(|node| Value::from(&*node.element).to_string()).collect();
        marks.sort_unstable();
        marks.dedup();
        marks
    }
}

/// The fields of an object: every scalar and every piece that is replaced whole, every item of a list that is merged.
pub(super) fn fields_of(form: Form, value: &Value) -> Branch {
    match form {
        Form::Atom => Branch::leaf(),
        Form::Struct(_) | Form::Map(_) => {
            let mut branch = Branch { member: is_empty(value), below: Set::default() };
            for (name, value) in members(Some(value)) {
                branch.below.add(field(name), fields_of(form.member(name).0, value));
            }
            branch
        }
        Form::Keyed(..) | Form::Set => {
            let mut branch = Branch { member: value.is_null(), below: Set::default() };
            for (element, item) in items(form, value) {
                branch.below.add(element, Branch { member: true, ..fields_of(form.item(), item) });
            }
            branch
        }
    }
}

/// Compares two objects of a form, the first of which may be missing.
pub(super) fn compare(form: Form, old: Option<&Value>, new: &Value) -> Difference {
    let mut difference = Difference::default();
    let (changed, removed) = differ(form, old, Some(new));
    difference.changed = changed.below;
    difference.removed = removed.below;
    difference
}

/// What changed and what went, for a value that is on at least one side.
fn differ(form: Form, old: Option<&Value>, new: Option<&Value>) -> (Branch, Branch) {
    let hollow = |side: Option<&Value>| side.is_none_or(is_empty);
    // Nothing on both sides is one piece, so that a writer may own an empty map.
    if matches!(form, Form::Atom) || (hollow(old) && hollow(new)) {
        let changed = match (old, new) {
            (None, Some(_)) => true,
            (Some(old), Some(new)) => old != new && !(is_empty(old) && is_empty(new)),
            _ => false,
        };
        let branch = |member| Branch { member, below: Set::default() };
        return (branch(changed), branch(new.is_none()));
    }
    let (mut changed, mut removed) = match form {
        Form::Keyed(..) | Form::Set => differ_lists(form, old, new),
        _ => differ_maps(form, old, new),
    };
    changed.member |= old.is_none();
    removed.member |= new.is_none();
    (changed, removed)
}

fn differ_maps(form: Form, old: Option<&Value>, new: Option<&Value>) -> (Branch, Branch) {
    let (mut changed, mut removed) = (Branch::default(), Branch::default());
    let mut visit = |name: &String, before: Option<&Value>, after: Option<&Value>| {
        // Equal values are the common case, and to know it is much cheaper than to walk them.
        if before.is_some() && before == after {
            return;
        }
        let (below, declared) = form.member(name);
        let (before, after) = (seen(declared, before), seen(declared, after));
        if before.is_none() && after.is_none() {
            return;
        }
        let standing = standing(form, name);
        let before = before.or(standing.filter(|_| old.is_some()));
        let after = after.or(standing.filter(|_| new.is_some()));
        let (more, less) = differ(below, before, after);
        changed.below.add(field(name), more);
        removed.below.add(field(name), less);
    };
    let (before, after) = (members(old), members(new));
    for (name, value) in before {
        visit(name, Some(value), after.get(name));
    }
    for (name, value) in after.iter().filter(|(name, _)| !before.contains_key(*name)) {
        visit(name, None, Some(value));
    }
    (changed, removed)
}

/// A value as typed objects have it: null is absent, but in times, which are written as null when they are not set.
fn seen<'a>(declared: Option<&Field>, value: Option<&'a Value>) -> Option<&'a Value> {
    let is_time = declared.is_some_and(|field| matches!(field.shape, Shape::Time | Shape::MicroTime));
    value.filter(|value| is_time || !value.is_null())
}

/// What stands for an absent field that upstream's type always has.
fn standing(form: Form, name: &str) -> Option<&'static Value> {
    static NOTHING: Value = Value::Null;
    match form {
        Form::Struct(found) if always_there(found, name) => Some(&NOTHING),
        _ => None,
    }
}

fn differ_lists(form: Form, old: Option<&Value>, new: Option<&Value>) -> (Branch, Branch) {
    let (mut changed, mut removed) = (Branch::default(), Branch::default());
    let empty = Value::Null;
    let before = items(form, old.unwrap_or(&empty));
    let after = items(form, new.unwrap_or(&empty));
    fn of<'a>(list: &[(Box<str>, &'a Value)], element: &str) -> Vec<&'a Value> {
        list.iter().filter(|(other, _)| **other == *element).map(|(_, item)| *item).collect()
    }
    let mut done: Vec<&str> = Vec::with_capacity(after.len());
    for (element, _) in before.iter().chain(&after) {
        if done.contains(&&**element) {
            continue;
        }
        done.push(element);
        let (olds, news) = (of(&before, element), of(&after, element));
        if olds == news {
            continue;
        }
        let (more, less) = match (olds.as_slice(), news.as_slice()) {
            ([old], [new]) => differ(form.item(), Some(old), Some(new)),
            ([], [new]) => differ(form.item(), None, Some(new)),
            ([old], []) => differ(form.item(), Some(old), None),
            // Items that repeat an identity count as one piece.
            (olds, news) => {
                let branch = |member| Branch { member, below: Set::default() };
                (branch(!news.is_empty()), branch(news.is_empty() && !olds.is_empty()))
            }
        };
        changed.below.add(element.clone(), more);
        removed.below.add(element.clone(), less);
    }
    (changed, removed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(set: &Set) -> Value {
        let mut out = Vec::new();
        set.write(&mut out);
        serde_json::from_slice(&out).unwrap()
    }

    fn claims(kind: &str, object: Value, expected: Value) {
        assert_eq!(written(&fields_of(Form::root(kind), &object).below), expected, "{object}");
    }

    fn differs(kind: &str, old: Value, new: Value, changed: Value, removed: Value) {
        let difference = compare(Form::root(kind), Some(&old), &new);
        assert_eq!((written(&difference.changed), written(&difference.removed)), (changed, removed), "{old} → {new}");
    }

    #[test]
    fn a_configuration_claims_its_leaves_and_its_items() {
        claims(
            "apps.v1.Deployment",
            json!({
                "metadata": {"name": "a", "labels": {"x": "y"}, "finalizers": ["f/g"]},
                "spec": {
                    "replicas": 2, "selector": {"matchLabels": {"a": "b"}},
                    "template": {"spec": {
                        "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}], "args": ["x"], "securityContext": {}}],
                        "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [{"key": "k"}],
                    }},
                },
            }),
            json!({
                "f:metadata": {"f:name": {}, "f:labels": {"f:x": {}}, "f:finalizers": {"v:\"f/g\"": {}}},
                "f:spec": {
                    "f:replicas": {}, "f:selector": {},
                    "f:template": {"f:spec": {
                        "f:containers": {"k:{\"name\":\"c\"}": {
                            ".": {}, "f:name": {}, "f:image": {}, "f:args": {}, "f:securityContext": {},
                            "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                        }},
                        "f:volumes": {"k:{\"name\":\"v\"}": {".": {}, "f:name": {}, "f:emptyDir": {}}},
                        "f:tolerations": {},
                    }},
                },
            }),
        );
    }

    #[test]
    fn a_new_object_is_taken_but_for_what_every_object_has() {
        differs(
            "core.v1.Pod",
            json!({}),
            json!({
                "metadata": {"name": "a", "labels": {"x": "y"}},
                "spec": {"containers": [{"name": "c", "resources": {}, "livenessProbe": {"tcpSocket": {"port": 1}}}], "volumes": [{"name": "v"}], "securityContext": {}},
            }),
            json!({
                "f:metadata": {"f:name": {}, "f:labels": {".": {}, "f:x": {}}},
                "f:spec": {
                    "f:containers": {"k:{\"name\":\"c\"}": {
                        ".": {}, "f:name": {}, "f:resources": {},
                        "f:livenessProbe": {".": {}, "f:tcpSocket": {".": {}, "f:port": {}}},
                    }},
                    "f:volumes": {".": {}, "k:{\"name\":\"v\"}": {".": {}, "f:name": {}}},
                    "f:securityContext": {},
                },
            }),
            json!({}),
        );
    }

    #[test]
    fn only_what_differs_is_named() {
        let pod = |containers: Value| json!({"spec": {"containers": containers}});
        differs(
            "core.v1.Pod",
            pod(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1", "tty": true}])),
            pod(json!([{"name": "b", "image": "2"}, {"name": "c"}])),
            json!({"f:spec": {"f:containers": {"k:{\"name\":\"b\"}": {"f:image": {}}, "k:{\"name\":\"c\"}": {".": {}, "f:name": {}}}}}),
            json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:name": {}, "f:image": {}}, "k:{\"name\":\"b\"}": {"f:tty": {}}}}}),
        );
        // The order of items that are merged is nobody's; the order of a list that is one piece is in it.
        differs(
            "core.v1.Pod",
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}], "tolerations": [{"key": "a"}, {"key": "b"}]}}),
            json!({"spec": {"containers": [{"name": "b"}, {"name": "a"}], "tolerations": [{"key": "b"}, {"key": "a"}]}}),
            json!({"f:spec": {"f:tolerations": {}}}),
            json!({}),
        );
    }

    #[test]
    fn null_is_absent_but_in_times() {
        differs(
            "core.v1.Pod",
            json!({"metadata": {"labels": null}, "status": {"conditions": [{"type": "Ready"}]}}),
            json!({"metadata": {"annotations": null}, "status": {"conditions": [{"type": "Ready", "lastProbeTime": null, "reason": null}]}}),
            json!({"f:status": {"f:conditions": {"k:{\"type\":\"Ready\"}": {"f:lastProbeTime": {}}}}}),
            json!({}),
        );
    }

    #[test]
    fn maps_are_taken_and_left_by_entry() {
        differs(
            "core.v1.ConfigMap",
            json!({"data": {"a": "1", "b": "1"}}),
            json!({"data": {"b": "2", "c": "1"}, "binaryData": {"x": ""}}),
            json!({"f:binaryData": {".": {}, "f:x": {}}, "f:data": {"f:b": {}, "f:c": {}}}),
            json!({"f:data": {"f:a": {}}}),
        );
        differs(
            "core.v1.ConfigMap",
            json!({"data": {"a": "1"}}),
            json!({}),
            json!({}),
            json!({"f:data": {".": {}, "f:a": {}}}),
        );
    }

    #[test]
    fn items_that_repeat_an_identity_are_one_piece() {
        let env = |list: Value| json!({"spec": {"containers": [{"name": "c", "env": list}]}});
        differs(
            "core.v1.Pod",
            env(json!([{"name": "A", "value": "1"}])),
            env(json!([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}])),
            json!({"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {"f:env": {"k:{\"name\":\"A\"}": {}}}}}}),
            json!({}),
        );
    }
}
