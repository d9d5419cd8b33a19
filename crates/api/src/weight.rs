//! What a document weighs in memory, which can be a hundred times its text: `{"a":0}` takes a whole node of a tree.
//!
//! Pure. Whoever takes documents from outside asks before it keeps or copies them. Start at [`of`].

use serde_json::Value;

/// Most that one document may weigh, in bytes. Objects of upstream's size limit (1.5 MiB) weigh half of it at most.
pub const DOCUMENT_BYTES_MAX: usize = 32 << 20;
/// Most items of one list of a document. Lists are compared item by item in many rules.
pub const LIST_ITEMS_MAX: usize = 10_000;
/// Most levels of a document: what `serde_json` reads again.
pub const DEPTH_MAX: usize = 127;

/// One value in a list, with the room that a growing list has.
pub const ITEM: usize = 2 * size_of::<Value>();
/// One node of the tree that keeps the entries of a map.
const NODE: usize = 11 * (size_of::<String>() + size_of::<Value>()) + 16;
/// Entries of a node that is half full, as those of a growing tree are.
const ENTRIES_OF_NODE: usize = 6;
/// What the allocator adds to a piece of memory.
const ALLOCATION: usize = 16;

/// A text.
pub fn of_text(text: &str) -> usize {
    if text.is_empty() { 0 } else { text.len() + ALLOCATION }
}

/// The next entry of a map that has `entries`, without its value.
pub fn of_entry(entries: usize, key: &str) -> usize {
    of_text(key) + if entries.is_multiple_of(ENTRIES_OF_NODE) { NODE } else { 0 }
}

/// Bytes and levels of a value.
pub fn of(value: &Value) -> (usize, usize) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => (0, 0),
        Value::String(text) => (of_text(text), 0),
        Value::Array(items) => {
            let all = items.iter().map(of).fold((0, 0), deepest);
            (all.0 + items.len() * ITEM, all.1 + 1)
        }
        Value::Object(fields) => {
            let entries = fields.iter().enumerate().map(|(at, (key, value))| {
                let (bytes, depth) = of(value);
                (bytes + of_entry(at, key), depth)
            });
            let all = entries.fold((0, 0), deepest);
            (all.0, all.1 + 1)
        }
    }
}

fn deepest(all: (usize, usize), one: (usize, usize)) -> (usize, usize) {
    (all.0 + one.0, all.1.max(one.1))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn small_maps_weigh_much_and_levels_are_counted() {
        assert_eq!(of(&json!(1)), (0, 0));
        assert_eq!(of(&json!([[], [1]])).1, 2);
        let (one, _) = of(&json!({"a": 0}));
        assert!(one >= 500, "{one}");
        let many: Value = (0..600).map(|i| (i.to_string(), json!(0))).collect();
        assert!(of(&many).0 < 600 * one / 3);
        assert_eq!(of(&json!({"a": {"b": ["c"]}})).1, 3);
    }
}
