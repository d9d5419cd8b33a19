//! Facts about the types of the API: fields, their types, merge keys, list types.
//!
//! The table `facts.txt` is derived by `xtask/schema_facts.py` and never edited. Its form, line by line:
//!
//! - `#v1.36.0`: the version it was derived from;
//! - `=core.v1.Pod [a=atomic]`: a type begins; `a=atomic` when apply replaces it whole;
//! - `+group/version/Kind`: the kind that the type is, if it is one;
//! - `name shape [flags]`: a field. Shapes: `s` text, `y` base64 bytes, `b` boolean, `i` int32, `l` int64, `n` number,
//!   `q` quantity, `x` integer or text, `t` time, `m` time with microseconds, `o` anything, `@T` an object of type T,
//!   `[S` a list, `{S` a map. Flags: `!` required, `k=` merge key, `p=` patch strategy, `l=` list type with the keys of
//!   a map-like list, `a=` map type.
//!
//! Start at [`find`] for the facts, at [`check()`] for the validation of fields.

use std::collections::BTreeMap;
use std::sync::LazyLock;

mod check;

pub use check::{COMPLAINTS_MAX, Mistyped, SchemaReport, check, check_type, prune, prune_type, settle};

const FACTS: &str = include_str!("facts.txt");

/// The shape of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// A text.
    Text,
    /// Bytes as base64.
    Bytes,
    /// True or false.
    Boolean,
    /// A 32-bit integer.
    Int32,
    /// A 64-bit integer.
    Int64,
    /// A number.
    Number,
    /// A quantity: text or number.
    Quantity,
    /// An integer or a text.
    IntOrText,
    /// RFC 3339 time.
    Time,
    /// RFC 3339 time with microseconds.
    MicroTime,
    /// Anything.
    Any,
    /// An object of this type.
    Object(&'static str),
    /// A list.
    List(Box<Shape>),
    /// A map from texts.
    Map(Box<Shape>),
}

/// How apply treats a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListType {
    /// Replaced whole.
    Atomic,
    /// A set of scalars.
    Set,
    /// Items identified by these fields.
    Map(Vec<&'static str>),
}

/// One field of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Name in JSON.
    pub name: &'static str,
    /// Shape of its value.
    pub shape: Shape,
    /// Whether OpenAPI lists it as required.
    pub required: bool,
    /// Field that identifies items in a strategic merge.
    pub merge_key: Option<&'static str>,
    /// Patch strategy as published: empty, `merge`, `retainKeys` or `merge,retainKeys`.
    pub patch_strategy: &'static str,
    /// List type as published.
    pub list_type: Option<ListType>,
    /// Whether apply replaces the map whole.
    pub map_atomic: bool,
}

impl Field {
    /// Whether a strategic merge merges the list instead of replacing it.
    pub fn merges(&self) -> bool {
        self.patch_strategy.split(',').any(|strategy| strategy == "merge")
    }
}

/// Group, version and kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupVersionKind {
    /// Group; empty for the core group.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// Kind.
    pub kind: &'static str,
}

/// One type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type {
    /// Short name, e.g. `core.v1.Pod`.
    pub name: &'static str,
    /// What it is, if it is a kind.
    pub kind: Option<GroupVersionKind>,
    /// Whether apply replaces it whole.
    pub atomic: bool,
    /// Fields in order of name.
    pub fields: Vec<Field>,
}

impl Type {
    /// The field of a name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|field| field.name.cmp(name)).ok().map(|index| &self.fields[index])
    }
}

static TYPES: LazyLock<BTreeMap<&'static str, Type>> = LazyLock::new(|| parse(FACTS));

/// The type of a short name, e.g. `core.v1.Pod`.
pub fn find(name: &str) -> Option<&'static Type> {
    TYPES.get(name)
}

/// All types, in order of name.
pub fn types() -> impl Iterator<Item = &'static Type> {
    TYPES.values()
}

/// The name of a type in OpenAPI: `io.k8s.api.core.v1.Pod`.
pub fn openapi_name(short: &str) -> String {
    match short.split('.').next() {
        Some("meta") => format!("io.k8s.apimachinery.pkg.apis.{short}"),
        _ => format!("io.k8s.api.{short}"),
    }
}

fn parse(text: &'static str) -> BTreeMap<&'static str, Type> {
    let mut types: Vec<Type> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(head) = line.strip_prefix('=') {
            let (name, rest) = head.split_once(' ').unwrap_or((head, ""));
            types.push(Type { name, kind: None, atomic: rest == "a=atomic", fields: Vec::new() });
            continue;
        }
        // The table is ours and a test reads it whole: every line below a head belongs to it.
        let current = types.last_mut().expect("the facts begin with a type");
        match line.strip_prefix('+') {
            Some(kind) => current.kind = parse_kind(kind),
            None => current.fields.push(parse_field(line)),
        }
    }
    for found in &mut types {
        found.fields.sort_by_key(|field| field.name);
    }
    types.into_iter().map(|found| (found.name, found)).collect()
}

fn parse_kind(text: &'static str) -> Option<GroupVersionKind> {
    let mut parts = text.split('/');
    Some(GroupVersionKind { group: parts.next()?, version: parts.next()?, kind: parts.next()? })
}

fn parse_field(line: &'static str) -> Field {
    let mut words = line.split(' ');
    let name = words.next().unwrap_or("");
    let mut field = Field {
        name,
        shape: parse_shape(words.next().unwrap_or("o")),
        required: false,
        merge_key: None,
        patch_strategy: "",
        list_type: None,
        map_atomic: false,
    };
    for flag in words {
        match flag.split_once('=') {
            None => field.required |= flag == "!",
            Some(("k", key)) => field.merge_key = Some(key),
            Some(("p", strategy)) => field.patch_strategy = strategy,
            Some(("l", list)) => field.list_type = Some(parse_list_type(list)),
            Some(_) => field.map_atomic = true,
        }
    }
    field
}

fn parse_list_type(text: &'static str) -> ListType {
    match text.split_once(':') {
        Some((_, keys)) => ListType::Map(keys.split(',').collect()),
        None if text == "set" => ListType::Set,
        None => ListType::Atomic,
    }
}

fn parse_shape(text: &'static str) -> Shape {
    match text {
        "s" => Shape::Text,
        "y" => Shape::Bytes,
        "b" => Shape::Boolean,
        "i" => Shape::Int32,
        "l" => Shape::Int64,
        "n" => Shape::Number,
        "q" => Shape::Quantity,
        "x" => Shape::IntOrText,
        "t" => Shape::Time,
        "m" => Shape::MicroTime,
        _ => match text.split_at_checked(1) {
            Some(("@", name)) => Shape::Object(name),
            Some(("[", inner)) => Shape::List(Box::new(parse_shape(inner))),
            Some(("{", inner)) => Shape::Map(Box::new(parse_shape(inner))),
            _ => Shape::Any,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read() {
        let pod = find("core.v1.PodSpec").unwrap();
        let containers = pod.field("containers").unwrap();
        assert_eq!(containers.shape, Shape::List(Box::new(Shape::Object("core.v1.Container"))));
        assert_eq!(containers.merge_key, Some("name"));
        assert!(containers.merges() && containers.required);
        assert_eq!(containers.list_type, Some(ListType::Map(vec!["name"])));
        assert_eq!(find("core.v1.Pod").unwrap().kind.unwrap().kind, "Pod");
        assert!(find("core.v1.NodeSelector").unwrap().atomic);
        let ports = find("core.v1.Container").unwrap().field("ports").unwrap();
        assert_eq!(ports.merge_key, Some("containerPort"));
        assert_eq!(ports.list_type, Some(ListType::Map(vec!["containerPort", "protocol"])));
    }

    #[test]
    fn every_reference_leads_to_a_type() {
        fn target(shape: &Shape) -> Option<&'static str> {
            match shape {
                Shape::Object(name) => Some(name),
                Shape::List(inner) | Shape::Map(inner) => target(inner),
                _ => None,
            }
        }
        for found in types() {
            for field in &found.fields {
                if let Some(name) = target(&field.shape) {
                    assert!(find(name).is_some(), "{}.{} → {name}", found.name, field.name);
                }
            }
        }
    }

    /// The table is derived, never edited: run `xtask/schema_facts.py` and put the new sum here.
    #[test]
    fn the_table_is_as_it_was_derived() {
        let sum = FACTS
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        assert_eq!(format!("{sum:016x}"), "45a7d2248ef96be5");
    }
}
