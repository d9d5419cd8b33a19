//! Looking into a JSON object as Go would see it after decoding: `null` is the same as absent.
//!
//! Readers never fail: a value of the wrong type reads as absent, because `schema::check` has already refused it.

use serde_json::{Map, Value};

/// The value of a field, if present and not null.
pub fn get<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object.get(name).filter(|value| !value.is_null())
}

/// The value at a path of fields.
pub fn at<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, name| get(value, name))
}

/// A text; empty when absent.
pub fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    get(object, name).and_then(Value::as_str).unwrap_or("")
}

/// A text at a path; empty when absent.
pub fn text_at<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    at(object, path).and_then(Value::as_str).unwrap_or("")
}

/// An integer.
pub fn integer(object: &Value, name: &str) -> Option<i64> {
    get(object, name).and_then(Value::as_i64)
}

/// A boolean; false when absent.
pub fn flag(object: &Value, name: &str) -> bool {
    get(object, name).and_then(Value::as_bool).unwrap_or(false)
}

/// The items of a list; none when absent.
pub fn list<'a>(object: &'a Value, name: &str) -> &'a [Value] {
    get(object, name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The items of a list at a path.
pub fn list_at<'a>(object: &'a Value, path: &[&str]) -> &'a [Value] {
    at(object, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The texts of a list of texts.
pub fn texts<'a>(object: &'a Value, name: &str) -> Vec<&'a str> {
    list(object, name).iter().filter_map(Value::as_str).collect()
}

/// The entries of a map; none when absent.
pub fn map<'a>(object: &'a Value, name: &str) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
    get(object, name).and_then(Value::as_object).into_iter().flatten().map(|(key, value)| (key.as_str(), value))
}

/// The entries of a map of texts.
pub fn text_map<'a>(object: &'a Value, name: &str) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
    map(object, name).map(|(key, value)| (key, value.as_str().unwrap_or("")))
}

/// The fields of an object for writing; a value that is not an object becomes one.
pub fn fields(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("made an object just above")
}

/// A field below for writing; made when absent or null.
pub fn child<'a>(value: &'a mut Value, name: &str) -> &'a mut Value {
    let slot = fields(value).entry(name).or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Object(Map::new());
    }
    slot
}

/// A field below for writing, if present and not null.
pub fn get_mut<'a>(value: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    value.get_mut(name).filter(|value| !value.is_null())
}

/// The items of a list for writing; none when absent.
pub fn list_mut<'a>(value: &'a mut Value, name: &str) -> &'a mut [Value] {
    value.get_mut(name).and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
}

/// Sets a field.
pub fn set(object: &mut Value, name: &str, value: impl Into<Value>) {
    fields(object).insert(name.to_owned(), value.into());
}

/// Sets a field that is absent or null.
pub fn set_absent(object: &mut Value, name: &str, value: impl Into<Value>) {
    if get(object, name).is_none() {
        set(object, name, value);
    }
}

/// Sets a text that is absent or empty.
pub fn set_empty(object: &mut Value, name: &str, value: &str) {
    if text(object, name).is_empty() {
        set(object, name, value);
    }
}

/// Sets a number that is absent or zero.
pub fn set_zero(object: &mut Value, name: &str, value: i64) {
    if integer(object, name).unwrap_or(0) == 0 {
        set(object, name, value);
    }
}

/// Removes a field.
pub fn remove(object: &mut Value, name: &str) -> Option<Value> {
    object.as_object_mut().and_then(|fields| fields.remove(name))
}

/// Copies a field from another object, or removes it when the other has none.
pub fn copy(from: &Value, to: &mut Value, name: &str) {
    match get(from, name) {
        Some(value) => set(to, name, value.clone()),
        None => drop(remove(to, name)),
    }
}

/// Equality as Go's semantic deep equality sees it: null and absent fields, empty lists and empty maps are the same.
pub fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a.filter(|v| !is_empty(v)), b.filter(|v| !is_empty(v))) {
        (None, None) => true,
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            a.iter().all(|(key, value)| same(Some(value), b.get(key)))
                && b.iter().all(|(key, value)| a.contains_key(key) || is_empty(value))
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(Some(a), Some(b)))
        }
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

/// Null, or an empty list or map.
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn null_reads_as_absent() {
        let object = json!({"a": null, "b": {"c": "x"}, "l": null});
        assert_eq!(get(&object, "a"), None);
        assert_eq!(text_at(&object, &["b", "c"]), "x");
        assert_eq!(text_at(&object, &["a", "c"]), "");
        assert!(list(&object, "l").is_empty());
    }

    #[test]
    fn empty_and_absent_are_the_same() {
        assert!(same(Some(&json!({"a": []})), Some(&json!({"b": null}))));
        assert!(same(None, Some(&json!({}))));
        assert!(!same(Some(&json!({"a": 1})), Some(&json!({}))));
        assert!(!same(Some(&json!({})), Some(&json!({"a": 1}))));
        assert!(!same(Some(&json!([1, 2])), Some(&json!([2, 1]))));
    }
}
