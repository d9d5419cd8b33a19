//! Errors that name a field, and the paths that name it.
//!
//! The texts are upstream's, because clients match on them. Start at [`FieldError`].

use std::fmt;

use serde_json::Value;

/// What is wrong with a field. The reason and the words are upstream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// A value that refers to something that is not there.
    NotFound,
    /// A value is missing.
    Required,
    /// A value occurs twice where it must be unique.
    Duplicate,
    /// A malformed value.
    Invalid,
    /// A value outside of an enumeration.
    NotSupported,
    /// A legal value that may not be set here.
    Forbidden,
    /// A text longer than allowed; the value is left out.
    TooLong,
    /// A list with too many items.
    TooMany,
    /// A fault of ours.
    Internal,
}

impl FieldErrorKind {
    /// The machine-readable reason of a cause, e.g. `FieldValueRequired`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Internal => "InternalError",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }

    fn shows_value(self) -> bool {
        !matches!(self, Self::Required | Self::Forbidden | Self::TooLong | Self::Internal)
    }
}

/// One thing wrong with one field. `Display` is upstream's text: `spec.x: Invalid value: "y": detail`.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// What is wrong.
    pub kind: FieldErrorKind,
    /// Path of the field, e.g. `spec.containers[0].image`.
    pub field: String,
    /// The bad value, where it is shown.
    pub value: Value,
    /// More words; may be empty.
    pub detail: String,
}

/// One entry of `Status.details.causes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// E.g. `FieldValueInvalid`.
    pub reason: &'static str,
    /// The error without its field.
    pub message: String,
    /// Path of the field.
    pub field: String,
}

impl FieldError {
    fn new(kind: FieldErrorKind, path: &Path, value: Value, detail: impl Into<String>) -> FieldError {
        FieldError { kind, field: path.to_string(), value, detail: detail.into() }
    }

    /// A value is missing.
    pub fn required(path: &Path, detail: impl Into<String>) -> FieldError {
        Self::new(FieldErrorKind::Required, path, Value::Null, detail)
    }

    /// A malformed value.
    pub fn invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> FieldError {
        Self::new(FieldErrorKind::Invalid, path, value.into(), detail)
    }

    /// A value outside of an enumeration.
    pub fn not_supported(path: &Path, value: impl Into<Value>, supported: &[&str]) -> FieldError {
        let detail = match supported.is_empty() {
            true => String::new(),
            false => {
                let quoted: Vec<String> = supported.iter().map(|text| quote(text)).collect();
                format!("supported values: {}", quoted.join(", "))
            }
        };
        Self::new(FieldErrorKind::NotSupported, path, value.into(), detail)
    }

    /// A legal value that may not be set here.
    pub fn forbidden(path: &Path, detail: impl Into<String>) -> FieldError {
        Self::new(FieldErrorKind::Forbidden, path, Value::Null, detail)
    }

    /// A value that occurs twice.
    pub fn duplicate(path: &Path, value: impl Into<Value>) -> FieldError {
        Self::new(FieldErrorKind::Duplicate, path, value.into(), "")
    }

    /// A value that refers to something that is not there.
    pub fn not_found(path: &Path, value: impl Into<Value>) -> FieldError {
        Self::new(FieldErrorKind::NotFound, path, value.into(), "")
    }

    /// A text of more than `bytes_max` bytes.
    pub fn too_long(path: &Path, bytes_max: usize) -> FieldError {
        let unit = if bytes_max == 1 { "byte" } else { "bytes" };
        Self::new(FieldErrorKind::TooLong, path, Value::Null, format!("may not be more than {bytes_max} {unit}"))
    }

    /// A list of `count` items where at most `count_max` are allowed.
    pub fn too_many(path: &Path, count: usize, count_max: usize) -> FieldError {
        let unit = if count_max == 1 { "item" } else { "items" };
        let detail = format!("must have at most {count_max} {unit}");
        Self::new(FieldErrorKind::TooMany, path, Value::from(count), detail)
    }

    /// A fault of ours.
    pub fn internal(path: &Path, detail: impl Into<String>) -> FieldError {
        Self::new(FieldErrorKind::Internal, path, Value::Null, detail)
    }

    /// The error without its field.
    pub fn body(&self) -> String {
        let mut text = self.kind.words().to_owned();
        if self.kind.shows_value() {
            text.push_str(": ");
            text.push_str(&shown(&self.value));
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }

    /// The entry of `Status.details.causes` for this error.
    pub fn cause(&self) -> Cause {
        Cause { reason: self.kind.reason(), message: self.body(), field: self.field.clone() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

impl std::error::Error for FieldError {}

/// Joins errors as upstream's aggregate does: one alone is bare, several stand in brackets, repeated texts once.
pub fn aggregate(errors: &[FieldError]) -> String {
    let mut texts: Vec<String> = Vec::new();
    for text in errors.iter().map(FieldError::to_string) {
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    match texts.len() {
        1 => texts.remove(0),
        _ => format!("[{}]", texts.join(", ")),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        other => other.to_string(),
    }
}

/// Quotes a text as Go's `%q` does.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() || c == '\u{feff}' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The path of a field, e.g. `spec.containers[0].ports[1].name`. The empty path prints as `<nil>`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Path(String);

impl Path {
    /// The path above every field of an object.
    pub fn root() -> Path {
        Path(String::new())
    }

    /// A first segment.
    pub fn new(name: &str) -> Path {
        Path(name.to_owned())
    }

    /// The path of a field below.
    #[must_use]
    pub fn child(&self, name: &str) -> Path {
        match self.0.is_empty() {
            true => Path(name.to_owned()),
            false => Path(format!("{}.{name}", self.0)),
        }
    }

    /// The path of an item of a list.
    #[must_use]
    pub fn index(&self, index: usize) -> Path {
        Path(format!("{}[{index}]", self.0))
    }

    /// The path of a value of a map.
    #[must_use]
    pub fn key(&self, key: &str) -> Path {
        Path(format!("{}[{key}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_upstreams() {
        let path = Path::new("spec").child("containers").index(0).child("image");
        let cases = [
            (FieldError::required(&path, ""), "spec.containers[0].image: Required value"),
            (FieldError::required(&path, "why"), "spec.containers[0].image: Required value: why"),
            (FieldError::invalid(&path, "a\"b", "no"), "spec.containers[0].image: Invalid value: \"a\\\"b\": no"),
            (FieldError::invalid(&path, 7, "no"), "spec.containers[0].image: Invalid value: 7: no"),
            (
                FieldError::not_supported(&path, "x", &["A", "B"]),
                "spec.containers[0].image: Unsupported value: \"x\": supported values: \"A\", \"B\"",
            ),
            (FieldError::forbidden(&path, "not now"), "spec.containers[0].image: Forbidden: not now"),
            (FieldError::duplicate(&path, "n"), "spec.containers[0].image: Duplicate value: \"n\""),
            (FieldError::too_long(&path, 10), "spec.containers[0].image: Too long: may not be more than 10 bytes"),
            (FieldError::too_many(&path, 3, 1), "spec.containers[0].image: Too many: 3: must have at most 1 item"),
        ];
        for (error, text) in cases {
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn several_errors_stand_in_brackets_and_repeats_are_dropped() {
        let path = Path::new("a");
        let error = FieldError::required(&path, "");
        assert_eq!(aggregate(&[error.clone(), error.clone()]), "a: Required value");
        let other = FieldError::forbidden(&path, "x");
        assert_eq!(aggregate(&[error, other]), "[a: Required value, a: Forbidden: x]");
    }
}
