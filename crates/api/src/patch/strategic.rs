//! Strategic merge: maps merge by field, lists with a merge key merge by item, all else is replaced.
//!
//! Directives: `$patch` (replace, delete, merge), `$retainKeys`, `$setElementOrder/<list>`,
//! `$deleteFromPrimitiveList/<list>`. Start at [`merge_map`].

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::{Field, Shape, Type, find};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

/// What is known about a value: nothing below maps and unknown fields.
type Known = Option<&'static Type>;

/// Merges a patch into an object of a type; a document that is not an object counts as an empty one.
pub(super) fn merge_map(known: Known, doc: &Value, patch: &Value) -> Result<Value, PatchError> {
    let empty = Map::new();
    let doc = doc.as_object().unwrap_or(&empty);
    let patch = patch.as_object().unwrap_or(&empty);
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        Some("replace") => return Ok(drop_directives(&without(patch, DIRECTIVE))),
        Some("delete") => return Ok(Value::Object(Map::new())),
        Some("merge") | None if patch.get(DIRECTIVE).is_none_or(|value| value.is_string()) => {}
        _ => return malformed(format!("unknown value of the directive {DIRECTIVE}: {}", patch[DIRECTIVE])),
    }
    let mut out = retained(doc, patch)?;
    for (name, change) in patch {
        if name == DIRECTIVE || name == RETAIN_KEYS || name.starts_with(ORDER) {
            continue;
        }
        if let Some(list) = name.strip_prefix(DELETE_FROM) {
            delete_from(&mut out, list, change)?;
            continue;
        }
        merge_field(known, &mut out, name, change)?;
    }
    for (name, order) in patch {
        if let Some(list) = name.strip_prefix(ORDER) {
            set_order(known, &mut out, doc, list, order)?;
        }
    }
    Ok(Value::Object(out))
}

/// One field of a patch into the object.
fn merge_field(known: Known, out: &mut Map<String, Value>, name: &str, change: &Value) -> Result<(), PatchError> {
    if change.is_null() {
        out.remove(name);
        return Ok(());
    }
    let field = known.and_then(|known| known.field(name));
    let merged = match (out.get(name), change) {
        // A change that meets no object is merged into an empty one.
        (old, Value::Object(_)) => merge_map(field_type(field), old.unwrap_or(&Value::Null), change)?,
        (Some(Value::Array(old)), Value::Array(changes)) if field.is_some_and(Field::merges) => {
            let key = field.and_then(|field| field.merge_key);
            Value::Array(merge_list(item_type(field), key, old, changes)?)
        }
        (_, Value::Array(changes)) if changes.iter().any(is_directive_item) => {
            let key = field.and_then(|field| field.merge_key);
            Value::Array(merge_list(item_type(field), key, &[], changes)?)
        }
        _ => drop_directives(change),
    };
    out.insert(name.to_owned(), merged);
    Ok(())
}

fn field_type(field: Option<&Field>) -> Known {
    match field?.shape {
        Shape::Object(name) => find(name),
        _ => None,
    }
}

fn item_type(field: Option<&Field>) -> Known {
    match &field?.shape {
        Shape::List(inner) => match **inner {
            Shape::Object(name) => find(name),
            _ => None,
        },
        _ => None,
    }
}

/// Merges a list by its merge key, or as a set when there is none.
fn merge_list(known: Known, key: Option<&str>, old: &[Value], changes: &[Value]) -> Result<Vec<Value>, PatchError> {
    let Some(key) = key.filter(|_| changes.iter().chain(old).all(Value::is_object)) else {
        return Ok(merge_set(old, changes));
    };
    if changes.iter().any(|item| item[DIRECTIVE] == "replace") {
        let kept = changes.iter().filter(|item| item[DIRECTIVE] != "replace");
        return Ok(kept.map(drop_directives).collect());
    }
    // Deleted items leave a hole, so that the places of the others stay.
    let mut out: Vec<Option<Value>> = old.iter().cloned().map(Some).collect();
    let mut at: HashMap<Value, Vec<usize>> = HashMap::new();
    for (place, item) in old.iter().enumerate().filter_map(|(place, item)| Some((place, item.get(key)?))) {
        at.entry(item.clone()).or_default().push(place);
    }
    let mut order = Vec::new();
    for item in changes {
        let identity = identity(item, key)?;
        if item[DIRECTIVE] == "delete" {
            at.remove(identity).into_iter().flatten().for_each(|place| out[place] = None);
            continue;
        }
        order.push(identity.clone());
        let places = at.entry(identity.clone()).or_default();
        match places.first().and_then(|place| out[*place].as_mut()) {
            Some(slot) => *slot = merge_map(known, slot, item)?,
            None => {
                places.push(out.len());
                out.push(Some(drop_directives(item)));
            }
        }
    }
    let out = out.into_iter().flatten().collect();
    Ok(arranged(out, &order, old, |item| item.get(key).unwrap_or(&Value::Null)))
}

fn identity<'a>(item: &'a Value, key: &str) -> Result<&'a Value, PatchError> {
    match item.get(key) {
        Some(value) if !value.is_null() => Ok(value),
        _ => malformed(format!("map: {item} does not contain declared merge key: {key}")),
    }
}

fn is_directive_item(item: &Value) -> bool {
    item.get(DIRECTIVE).is_some()
}

/// A list of scalars: what is new is added.
fn merge_set(old: &[Value], changes: &[Value]) -> Vec<Value> {
    let mut seen = HashSet::new();
    let out = old.iter().chain(changes).filter(|item| seen.insert(*item)).cloned().collect();
    arranged(out, changes, old, |item| item)
}

/// Puts a list into order: items of the patch in the patch's order, the others where they stood relative to them.
fn arranged<'a>(
    items: Vec<Value>,
    order: &'a [Value],
    old: &'a [Value],
    identity: impl for<'v> Fn(&'v Value) -> &'v Value,
) -> Vec<Value> {
    let (placed, stood) = (places(order.iter()), places(old.iter().map(&identity)));
    let place = |item: &Value| placed.get(identity(item)).copied();
    let stood = |item: &Value| stood.get(identity(item)).copied();
    let (mut named, mut others): (Vec<Value>, Vec<Value>) = items.into_iter().partition(|item| place(item).is_some());
    named.sort_by_key(|item| place(item));
    others.sort_by_key(|item| stood(item).unwrap_or(usize::MAX));
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    let mut out = Vec::new();
    loop {
        let other_first = match (others.peek(), named.peek()) {
            (None, None) => return out,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(other), Some(name)) => {
                matches!((stood(other), stood(name)), (Some(left), Some(right)) if left < right)
            }
        };
        out.extend(if other_first { others.next() } else { named.next() });
    }
}

/// Where each value is first.
fn places<'a>(values: impl Iterator<Item = &'a Value>) -> HashMap<&'a Value, usize> {
    let mut places = HashMap::new();
    for (place, value) in values.enumerate() {
        places.entry(value).or_insert(place);
    }
    places
}

/// `$setElementOrder/<list>`: the order that the client wants, of items or of their keys.
fn set_order(
    known: Known,
    out: &mut Map<String, Value>,
    doc: &Map<String, Value>,
    name: &str,
    order: &Value,
) -> Result<(), PatchError> {
    let Value::Array(order) = order else {
        return malformed(format!("the directive {ORDER}{name} wants a list"));
    };
    let Some(Value::Array(items)) = out.get_mut(name) else { return Ok(()) };
    let old = doc.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let key = known.and_then(|known| known.field(name)).and_then(|field| field.merge_key);
    let items_taken = std::mem::take(items);
    *items = match key.filter(|_| order.iter().all(Value::is_object)) {
        Some(key) => {
            let keys: Vec<Value> = order.iter().filter_map(|item| item.get(key).cloned()).collect();
            arranged(items_taken, &keys, old, |item| item.get(key).unwrap_or(&Value::Null))
        }
        None => arranged(items_taken, order, old, |item| item),
    };
    Ok(())
}

/// `$deleteFromPrimitiveList/<list>`: scalars that go.
fn delete_from(out: &mut Map<String, Value>, name: &str, gone: &Value) -> Result<(), PatchError> {
    let Value::Array(gone) = gone else {
        return malformed(format!("the directive {DELETE_FROM}{name} wants a list"));
    };
    if let Some(Value::Array(items)) = out.get_mut(name) {
        let gone: HashSet<&Value> = gone.iter().collect();
        items.retain(|item| !gone.contains(item));
    }
    Ok(())
}

/// `$retainKeys`: fields of the document that stay; the patch may set no others.
fn retained(doc: &Map<String, Value>, patch: &Map<String, Value>) -> Result<Map<String, Value>, PatchError> {
    let Some(keys) = patch.get(RETAIN_KEYS) else { return Ok(doc.clone()) };
    let Value::Array(keys) = keys else {
        return malformed(format!("the directive {RETAIN_KEYS} wants a list"));
    };
    let kept = |name: &str| keys.iter().any(|key| key == name);
    for (name, change) in patch {
        if !name.starts_with('$') && !change.is_null() && !kept(name) {
            return malformed(format!("{RETAIN_KEYS} does not name the field {name} that the patch sets"));
        }
    }
    Ok(doc.iter().filter(|(name, _)| kept(name)).map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// A value of a patch that meets nothing: directives and nulls fall away.
fn drop_directives(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(name, value)| !is_directive(name) && !value.is_null());
            Value::Object(kept.map(|(name, value)| (name.clone(), drop_directives(value))).collect())
        }
        Value::Array(items) => {
            let kept = items.iter().filter(|item| item.get(DIRECTIVE).is_none_or(|directive| directive == "merge"));
            Value::Array(kept.map(drop_directives).collect())
        }
        scalar => scalar.clone(),
    }
}

fn is_directive(name: &str) -> bool {
    name == DIRECTIVE || name == RETAIN_KEYS || name.starts_with(ORDER) || name.starts_with(DELETE_FROM)
}

fn without(fields: &Map<String, Value>, name: &str) -> Value {
    let mut fields = fields.clone();
    fields.remove(name);
    Value::Object(fields)
}

fn malformed<T>(reason: String) -> Result<T, PatchError> {
    Err(PatchError::Malformed { reason })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::patch::strategic_type;

    fn check(doc: Value, patch: Value, expected: Value) {
        let out = strategic_type("core.v1.Pod", &doc, &patch);
        assert_eq!(out, Ok(expected), "{doc} ← {patch}");
    }

    fn containers(list: Value) -> Value {
        json!({"spec": {"containers": list}})
    }

    #[test]
    fn containers_merge_by_name() {
        check(
            containers(json!([{"name": "a", "image": "1", "tty": true}, {"name": "b", "image": "1"}])),
            containers(json!([{"name": "b", "image": "2"}, {"name": "c", "image": "3", "tty": null}])),
            containers(
                json!([{"name": "a", "image": "1", "tty": true}, {"name": "b", "image": "2"}, {"name": "c", "image": "3"}]),
            ),
        );
    }

    #[test]
    fn items_are_deleted_and_lists_replaced() {
        let doc = containers(json!([{"name": "a"}, {"name": "b"}]));
        check(doc.clone(), containers(json!([{"$patch": "delete", "name": "a"}])), containers(json!([{"name": "b"}])));
        check(
            doc.clone(),
            containers(json!([{"$patch": "replace"}, {"name": "z"}])),
            containers(json!([{"name": "z"}])),
        );
        check(doc.clone(), json!({"spec": {"$patch": "replace", "nodeName": "n"}}), json!({"spec": {"nodeName": "n"}}));
        check(doc.clone(), json!({"spec": {"$patch": "delete"}}), json!({"spec": {}}));
        check(doc, json!({"spec": null}), json!({}));
        check(
            json!({}),
            containers(json!([{"$patch": "delete", "name": "a"}, {"name": "b"}])),
            containers(json!([{"name": "b"}])),
        );
    }

    #[test]
    fn lists_as_long_as_a_body_are_merged_and_arranged_without_a_look_at_each_other() {
        const ITEMS: usize = 60_000;
        let named = |nth: usize| json!({"name": format!("c{nth}")});
        let all: Vec<Value> = (0..ITEMS).map(named).collect();
        let back: Vec<Value> = (0..ITEMS).rev().map(named).collect();
        let gone: Vec<Value> =
            (0..ITEMS).step_by(2).map(|nth| json!({"$patch": "delete", "name": format!("c{nth}")})).collect();
        check(containers(json!(all)), containers(json!(back)), containers(json!(back)));
        let left: Vec<Value> = (0..ITEMS).skip(1).step_by(2).map(named).collect();
        check(containers(json!(all)), containers(json!(gone)), containers(json!(left)));
        let texts = |from: usize| -> Vec<String> { (from..from + ITEMS).map(|nth| format!("f{nth}")).collect() };
        let finalizers = |list: &[String]| json!({"metadata": {"finalizers": list}});
        let both: Vec<String> = texts(ITEMS / 2).into_iter().chain(texts(0).into_iter().take(ITEMS / 2)).collect();
        let merged = strategic_type("core.v1.Pod", &finalizers(&texts(0)), &finalizers(&texts(ITEMS / 2))).unwrap();
        let mut found = merged["metadata"]["finalizers"].as_array().unwrap().clone();
        found.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
        let mut expected = both;
        expected.sort();
        assert_eq!(json!(found), json!(expected));
        let less = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": texts(ITEMS / 2)}});
        let expected: Vec<String> = texts(0).into_iter().take(ITEMS / 2).collect();
        check(finalizers(&texts(0)), less, finalizers(&expected));
    }

    #[test]
    fn the_order_is_as_the_client_wants() {
        check(
            containers(json!([{"name": "a"}, {"name": "b"}, {"name": "c"}])),
            json!({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}], "containers": [{"name": "a", "image": "x"}]}}),
            containers(json!([{"name": "b"}, {"name": "c"}, {"name": "a", "image": "x"}])),
        );
        check(
            containers(json!([{"name": "a"}, {"name": "b"}])),
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}),
            containers(json!([{"name": "b"}, {"name": "a"}])),
        );
    }

    #[test]
    fn finalizers_are_a_set() {
        let doc = json!({"metadata": {"finalizers": ["a", "b"]}});
        check(
            doc.clone(),
            json!({"metadata": {"finalizers": ["b", "c"]}}),
            json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
        );
        check(
            doc,
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["b"]}}),
            json!({"metadata": {"finalizers": ["b"]}}),
        );
    }

    #[test]
    fn retained_keys_swap_one_source_of_a_volume_for_another() {
        check(
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "secret"], "secret": {"secretName": "s"}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}}),
        );
    }

    #[test]
    fn lists_without_a_strategy_are_replaced_and_maps_merged() {
        check(
            json!({"spec": {"tolerations": [{"key": "a"}], "nodeSelector": {"a": "b"}}}),
            json!({"spec": {"tolerations": [{"key": "b"}], "nodeSelector": {"c": "d"}}}),
            json!({"spec": {"tolerations": [{"key": "b"}], "nodeSelector": {"a": "b", "c": "d"}}}),
        );
    }

    #[test]
    fn ports_merge_by_their_number() {
        check(
            containers(json!([{"name": "a", "ports": [{"containerPort": 80, "name": "web"}]}])),
            containers(
                json!([{"name": "a", "ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81}]}]),
            ),
            containers(
                json!([{"name": "a", "ports": [{"containerPort": 80, "name": "web", "hostPort": 8080}, {"containerPort": 81}]}]),
            ),
        );
    }

    #[test]
    fn conditions_merge_by_type_as_the_node_sends_them() {
        check(
            json!({"status": {"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}, {"type": "X", "status": "True"}]}}),
            json!({"status": {"$setElementOrder/conditions": [{"type": "Ready"}], "phase": "Running", "conditions": [{"type": "Ready", "status": "True", "reason": null}]}}),
            json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}, {"type": "X", "status": "True"}]}}),
        );
    }

    #[test]
    fn bad_patches_are_refused() {
        for patch in [
            json!({"spec": {"$patch": "explode"}}),
            containers(json!([{"image": "x"}])),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}}),
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name"], "secret": {}}]}}),
        ] {
            let doc = json!({"spec": {"containers": [{"name": "a"}], "volumes": [{"name": "v"}]}});
            assert!(strategic_type("core.v1.Pod", &doc, &patch).is_err(), "{patch}");
        }
    }

    fn any_spec() -> impl Strategy<Value = Value> {
        let container =
            ("[a-d]", prop::option::of("[x-z]"), prop::option::of(any::<bool>())).prop_map(|(name, image, tty)| {
                let mut item = json!({"name": name});
                if let Some(image) = image {
                    item["image"] = json!(image);
                }
                if let Some(tty) = tty {
                    item["tty"] = json!(tty);
                }
                item
            });
        (prop::collection::vec(container, 0..5), prop::collection::btree_map("[a-c]", "[x-z]", 0..3)).prop_map(
            |(mut list, map)| {
                let mut seen = Vec::new();
                list.retain(|item| {
                    let fresh = !seen.contains(&item["name"]);
                    seen.push(item["name"].clone());
                    fresh
                });
                json!({"spec": {"containers": list, "nodeSelector": map}})
            },
        )
    }

    /// The patch that kubectl would compute from one manifest to the next.
    fn diff(from: &Value, to: &Value) -> Value {
        let (old, new) = (from["spec"]["containers"].as_array().unwrap(), to["spec"]["containers"].as_array().unwrap());
        let mut list = Vec::new();
        for item in new {
            let mut change = item.clone();
            if let Some(before) = old.iter().find(|other| other["name"] == item["name"]) {
                for name in before.as_object().unwrap().keys() {
                    if item.get(name).is_none() {
                        change[name] = Value::Null;
                    }
                }
            }
            list.push(change);
        }
        for item in old.iter().filter(|item| !new.iter().any(|other| other["name"] == item["name"])) {
            list.push(json!({"$patch": "delete", "name": item["name"]}));
        }
        let order: Vec<Value> = new.iter().map(|item| json!({"name": item["name"]})).collect();
        let mut map = to["spec"]["nodeSelector"].clone();
        for name in from["spec"]["nodeSelector"].as_object().unwrap().keys() {
            if map.get(name).is_none() {
                map[name] = Value::Null;
            }
        }
        json!({"spec": {"$setElementOrder/containers": order, "containers": list, "nodeSelector": map}})
    }

    proptest! {
        #[test]
        fn a_computed_patch_leads_to_its_target(from in any_spec(), to in any_spec()) {
            let patch = diff(&from, &to);
            let once = strategic_type("core.v1.Pod", &from, &patch).unwrap();
            prop_assert_eq!(&once, &to);
            let twice = strategic_type("core.v1.Pod", &once, &patch).unwrap();
            prop_assert_eq!(twice, to);
        }
    }
}
