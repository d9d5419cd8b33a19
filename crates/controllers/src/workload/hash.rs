//! A short name for a template, that another template does not have.

use serde_json::Value;

/// What labels and names are written with: no vowels, so that no words come about.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The name of a template; `collisions` makes it another one.
pub fn of(template: &Value, collisions: Option<i64>) -> String {
    let mut state = 0x811c_9dc5_u32;
    feed(template, &mut state);
    if let Some(collisions) = collisions {
        collisions.to_string().bytes().for_each(|byte| step(byte, &mut state));
    }
    let letter = |digit: u8| char::from(LETTERS[usize::from(digit) % LETTERS.len()]);
    state.to_string().bytes().map(letter).collect()
}

/// FNV-1a.
fn step(byte: u8, state: &mut u32) {
    *state = (*state ^ u32::from(byte)).wrapping_mul(0x0100_0193);
}

/// Feeds a value, its fields in order of their names.
fn feed(value: &Value, state: &mut u32) {
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<(&String, &Value)> = fields.iter().filter(|(_, value)| !value.is_null()).collect();
            sorted.sort_by_key(|(key, _)| *key);
            step(b'{', state);
            for (key, value) in sorted {
                key.bytes().chain([b':']).for_each(|byte| step(byte, state));
                feed(value, state);
            }
            step(b'}', state);
        }
        Value::Array(items) => {
            step(b'[', state);
            items.iter().for_each(|item| feed(item, state));
            step(b']', state);
        }
        other => other.to_string().bytes().chain([b',']).for_each(|byte| step(byte, state)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_have_names_whatever_the_order_of_their_fields() {
        let a = serde_json::from_str(r#"{"a": 1, "b": {"c": [1, 2]}}"#).unwrap();
        let b = serde_json::from_str(r#"{"b": {"c": [1, 2]}, "a": 1, "d": null}"#).unwrap();
        assert_eq!(of(&a, None), of(&b, None));
        assert_ne!(of(&a, None), of(&a, Some(1)));
        assert_ne!(of(&json!({"a": [1, 23]}), None), of(&json!({"a": [12, 3]}), None));
    }
}
