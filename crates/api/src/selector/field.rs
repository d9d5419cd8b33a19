//! Field selectors: `a=b,c!=d`.

/// A field selector that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A part without an operator.
    #[error("invalid selector: '{selector}'; can't understand '{part}'")]
    Part {
        /// The whole selector.
        selector: String,
        /// The part.
        part: String,
    },
    /// A backslash before something that needs none.
    #[error("invalid field selector: invalid escape sequence in '{part}'")]
    Escape {
        /// The part.
        part: String,
    },
}

/// One demand on one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// Path of the field, e.g. `spec.nodeName`.
    pub field: String,
    /// The value that is wanted, or not wanted.
    pub value: String,
    /// Whether the value is wanted.
    pub equal: bool,
}

/// A field selector: all terms must hold. The empty one selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    /// The terms, in order of the text.
    pub terms: Vec<Term>,
}

impl FieldSelector {
    /// Reads a selector.
    ///
    /// # Errors
    /// When a part has no operator or a bad escape.
    pub fn parse(text: &str) -> Result<FieldSelector, ParseError> {
        let mut terms = Vec::new();
        for part in split(text).filter(|part| !part.is_empty()) {
            let (field, operator, value) =
                operator(part).ok_or_else(|| ParseError::Part { selector: text.to_owned(), part: part.to_owned() })?;
            let value = unescape(value).ok_or_else(|| ParseError::Escape { part: part.to_owned() })?;
            terms.push(Term { field: field.to_owned(), value, equal: operator != "!=" });
        }
        Ok(FieldSelector { terms })
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether an object is selected; `value` gives its fields, empty for absent ones.
    pub fn matches<V: AsRef<str>>(&self, value: impl Fn(&str) -> V) -> bool {
        self.terms.iter().all(|term| (value(&term.field).as_ref() == term.value) == term.equal)
    }

    /// The value that this field must have, if there is one.
    pub fn required(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|term| term.equal && term.field == field).map(|term| term.value.as_str())
    }
}

/// Splits at commas that are not escaped.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut escaped = false;
        for (index, c) in text.char_indices() {
            if c == ',' && !escaped {
                rest = Some(&text[index + 1..]);
                return Some(&text[..index]);
            }
            escaped = c == '\\' && !escaped;
        }
        rest = None;
        Some(text)
    })
}

fn operator(part: &str) -> Option<(&str, &str, &str)> {
    let start = part.find(['=', '!'])?;
    let operator = ["!=", "==", "="].into_iter().find(|operator| part[start..].starts_with(operator))?;
    Some((&part[..start], operator, &part[start + operator.len()..]))
}

fn unescape(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next()? {
                c @ ('\\' | ',' | '=') => out.push(c),
                _ => return None,
            },
            ',' | '=' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_read_and_matched() {
        let selector = FieldSelector::parse("spec.nodeName=n,status.phase!=Failed,,metadata.name==a").unwrap();
        assert_eq!(selector.required("spec.nodeName"), Some("n"));
        assert_eq!(selector.required("status.phase"), None);
        let object = |phase: &'static str| {
            move |field: &str| match field {
                "spec.nodeName" => "n".to_owned(),
                "status.phase" => phase.to_owned(),
                "metadata.name" => "a".to_owned(),
                _ => String::new(),
            }
        };
        assert!(selector.matches(object("Running")));
        assert!(!selector.matches(object("Failed")));
        assert!(FieldSelector::parse("").unwrap().is_empty());
        assert!(FieldSelector::parse("spec.nodeName=").unwrap().matches(|_| String::new()));
    }

    #[test]
    fn escapes_are_read() {
        assert_eq!(FieldSelector::parse(r"a=b\,c\=d\\").unwrap().terms[0].value, r"b,c=d\");
        assert!(FieldSelector::parse(r"a=\b").is_err());
        assert!(FieldSelector::parse("a=b=c").is_err());
        let error = FieldSelector::parse("abc").unwrap_err();
        assert_eq!(error.to_string(), "invalid selector: 'abc'; can't understand 'abc'");
    }
}
