//! Label selectors: equality (`a=b,c!=d`), sets (`a in (b,c)`, `!d`) and LabelSelector objects.

use std::fmt;

use serde_json::Value;

use crate::look;
use crate::names;

/// A label selector that cannot be read. The texts follow upstream's `unable to parse requirement: `.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not of the form of a selector.
    #[error("found '{found}', expected: {expected}")]
    Form {
        /// What stands there.
        found: String,
        /// What should.
        expected: &'static str,
    },
    /// A key or value that no label can have.
    #[error("{field}: Invalid value: {text:?}: {complaint}")]
    Label {
        /// Where: `key` or `values[0]`.
        field: String,
        /// The text.
        text: String,
        /// What is wrong with it.
        complaint: String,
    },
    /// An operator that LabelSelector objects do not know.
    #[error("{operator:?} is not a valid label selector operator")]
    Operator {
        /// The operator.
        operator: String,
    },
}

/// What is asked of the value of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// One of the values.
    In,
    /// None of the values; also holds without the label.
    NotIn,
    /// Any value.
    Exists,
    /// No such label.
    DoesNotExist,
    /// An integer above the value.
    GreaterThan,
    /// An integer below the value.
    LessThan,
}

/// One demand on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// Key of the label.
    pub key: String,
    /// What is asked.
    pub operator: Operator,
    /// Values it is asked of.
    pub values: Vec<String>,
}

impl Requirement {
    /// Whether labels satisfy the demand; `label` gives the value of a label.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        let value = label(&self.key);
        let has = |value: &str| self.values.iter().any(|wanted| wanted == value);
        match self.operator {
            Operator::In => value.is_some_and(has),
            Operator::NotIn => !value.is_some_and(has),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => self.compared(value).is_some_and(|(value, bound)| value > bound),
            Operator::LessThan => self.compared(value).is_some_and(|(value, bound)| value < bound),
        }
    }

    fn compared(&self, value: Option<&str>) -> Option<(i64, i64)> {
        match &self.values[..] {
            [bound] => Some((value?.parse().ok()?, bound.parse().ok()?)),
            _ => None,
        }
    }
}

/// A label selector: all requirements must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector {
    /// The requirements. None selects everything.
    pub requirements: Vec<Requirement>,
    /// Selects nothing: the meaning of an absent LabelSelector object.
    pub nothing: bool,
}

impl LabelSelector {
    /// Reads a selector as it stands in a query.
    ///
    /// # Errors
    /// When the text is no selector.
    pub fn parse(text: &str) -> Result<LabelSelector, ParseError> {
        let mut parser = Parser { rest: text.trim() };
        let mut requirements = Vec::new();
        while !parser.rest.is_empty() {
            requirements.push(parser.requirement()?);
            match parser.token() {
                Token::End => break,
                Token::Symbol(",") if parser.peek() != Token::End => {}
                found => return Err(form(found, "',' or 'end of string'")),
            }
        }
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// Reads a LabelSelector object (`matchLabels`, `matchExpressions`). Absent selects nothing, empty everything.
    ///
    /// # Errors
    /// When an operator is unknown.
    pub fn from_object(object: Option<&Value>) -> Result<LabelSelector, ParseError> {
        let Some(object) = object.filter(|object| !object.is_null()) else {
            return Ok(LabelSelector { requirements: Vec::new(), nothing: true });
        };
        let mut requirements: Vec<Requirement> = look::text_map(object, "matchLabels")
            .map(|(key, value)| Requirement {
                key: key.to_owned(),
                operator: Operator::In,
                values: vec![value.to_owned()],
            })
            .collect();
        for expression in look::list(object, "matchExpressions") {
            let operator = match look::text(expression, "operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(ParseError::Operator { operator: other.to_owned() }),
            };
            let values = look::texts(expression, "values").into_iter().map(str::to_owned).collect();
            requirements.push(Requirement { key: look::text(expression, "key").to_owned(), operator, values });
        }
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// Whether everything is selected.
    pub fn is_empty(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether labels are selected; `label` gives the value of a label.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(&label))
    }

    /// Whether an object is selected by its labels.
    pub fn matches_object(&self, object: &Value) -> bool {
        let labels = look::at(object, &["metadata", "labels"]);
        self.matches(|key| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str))
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            let (key, values) = (&requirement.key, requirement.values.join(","));
            match requirement.operator {
                Operator::In if requirement.values.len() == 1 => write!(f, "{key}={values}")?,
                Operator::In => write!(f, "{key} in ({values})")?,
                Operator::NotIn if requirement.values.len() == 1 => write!(f, "{key}!={values}")?,
                Operator::NotIn => write!(f, "{key} notin ({values})")?,
                Operator::Exists => write!(f, "{key}")?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
                Operator::GreaterThan => write!(f, "{key}>{values}")?,
                Operator::LessThan => write!(f, "{key}<{values}")?,
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Symbol(&'static str),
    End,
}

const SYMBOLS: [&str; 9] = ["!=", "==", "!", "=", "(", ")", ",", ">", "<"];

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        Parser { rest: self.rest }.token()
    }

    fn token(&mut self) -> Token<'a> {
        self.rest = self.rest.trim_start();
        if self.rest.is_empty() {
            return Token::End;
        }
        if let Some(symbol) = SYMBOLS.into_iter().find(|symbol| self.rest.starts_with(symbol)) {
            self.rest = &self.rest[symbol.len()..];
            return Token::Symbol(symbol);
        }
        let end = self.rest.find(|c: char| c.is_whitespace() || "!=(),><".contains(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Token::Word(word)
    }

    fn requirement(&mut self) -> Result<Requirement, ParseError> {
        let negated = self.peek() == Token::Symbol("!");
        if negated {
            self.token();
        }
        let key = match self.token() {
            Token::Word(key) => key.to_owned(),
            found => return Err(form(found, "'!', identifier, or 'end of string'")),
        };
        valid("key", &key, names::label_key(&key))?;
        if negated {
            return Ok(Requirement { key, operator: Operator::DoesNotExist, values: Vec::new() });
        }
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Ok(Requirement { key, operator: Operator::Exists, values: Vec::new() });
        }
        let (operator, set) = match self.token() {
            Token::Symbol("=" | "==") => (Operator::In, false),
            Token::Symbol("!=") => (Operator::NotIn, false),
            Token::Symbol(">") => (Operator::GreaterThan, false),
            Token::Symbol("<") => (Operator::LessThan, false),
            Token::Word("in") => (Operator::In, true),
            Token::Word("notin") => (Operator::NotIn, true),
            found => return Err(form(found, "in, notin, =, ==, !=, >, <")),
        };
        let values = if set { self.set()? } else { vec![self.exact()?] };
        for (index, value) in values.iter().enumerate() {
            valid(&format!("values[{index}]"), value, names::label_value(value))?;
        }
        Ok(Requirement { key, operator, values })
    }

    /// One value; nothing means the empty value.
    fn exact(&mut self) -> Result<String, ParseError> {
        match self.peek() {
            Token::End | Token::Symbol(",") => Ok(String::new()),
            Token::Word(value) => {
                self.token();
                Ok(value.to_owned())
            }
            found => Err(form(found, "identifier")),
        }
    }

    /// `(a,b)`; an empty place is the empty value.
    fn set(&mut self) -> Result<Vec<String>, ParseError> {
        match self.token() {
            Token::Symbol("(") => {}
            found => return Err(form(found, "'('")),
        }
        let mut values = Vec::new();
        loop {
            let value = match self.peek() {
                Token::Word(value) => {
                    self.token();
                    value.to_owned()
                }
                _ => String::new(),
            };
            if !values.contains(&value) {
                values.push(value);
            }
            match self.token() {
                Token::Symbol(",") => {}
                Token::Symbol(")") => return Ok(values),
                found => return Err(form(found, "',' or ')'")),
            }
        }
    }
}

fn form(found: Token<'_>, expected: &'static str) -> ParseError {
    let found = match found {
        Token::Word(text) => text.to_owned(),
        Token::Symbol(text) => text.to_owned(),
        Token::End => String::new(),
    };
    ParseError::Form { found, expected }
}

fn valid(field: &str, text: &str, complaints: Vec<String>) -> Result<(), ParseError> {
    match complaints.into_iter().next() {
        None => Ok(()),
        Some(complaint) => Err(ParseError::Label { field: field.to_owned(), text: text.to_owned(), complaint }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(selector: &str, labels: Value, expected: bool) {
        let object = json!({"metadata": {"labels": labels}});
        let parsed = LabelSelector::parse(selector).unwrap_or_else(|error| panic!("{selector}: {error}"));
        assert_eq!(
            parsed.matches_object(&object),
            expected,
            "{selector} on {labels}",
            labels = object["metadata"]["labels"]
        );
    }

    #[test]
    fn selectors_select() {
        let labels = json!({"a": "b", "n": "5", "e": ""});
        for (selector, expected) in [
            ("", true),
            ("a=b", true),
            ("a==b", true),
            ("a = b", true),
            ("a!=b", false),
            ("x!=b", true),
            ("a in (b,c)", true),
            ("a in (c)", false),
            ("a notin (b)", false),
            ("x notin (b)", true),
            ("a", true),
            ("!a", false),
            ("!x", true),
            ("x", false),
            ("n>4,n<6", true),
            ("n>5", false),
            ("a>1", false),
            ("e=", true),
            ("e in ()", true),
            ("e in (,x)", true),
            ("a=b,!x,n in (5)", true),
            ("in=x", false),
            ("example.com/a notin (x)", true),
        ] {
            check(selector, labels.clone(), expected);
        }
    }

    #[test]
    fn bad_selectors_are_refused() {
        for text in ["a b", "a in b", "a in (b", "=a", "!", "a=b,", "a==b=c", "a=b c", "a/b/c=d", "a=-", ",a", "a,,b"] {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn objects_select() {
        let object = json!({"metadata": {"labels": {"a": "b"}}});
        let selects =
            |selector: Option<Value>| LabelSelector::from_object(selector.as_ref()).unwrap().matches_object(&object);
        assert!(!selects(None), "an absent selector selects nothing");
        assert!(selects(Some(json!({}))), "an empty one everything");
        assert!(selects(Some(json!({"matchLabels": {"a": "b"}}))));
        assert!(selects(Some(json!({"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}))));
        assert!(!selects(Some(
            json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["b"]}]})
        )));
        assert!(
            LabelSelector::from_object(Some(&json!({"matchExpressions": [{"key": "a", "operator": "Gt"}]}))).is_err()
        );
    }

    #[test]
    fn texts_read_back() {
        for text in ["a=b", "a in (b,c)", "!a", "a", "a!=b", "a notin (b,c)", "a>1"] {
            let parsed = LabelSelector::parse(text).unwrap();
            assert_eq!(parsed.to_string(), text);
            assert_eq!(LabelSelector::parse(&parsed.to_string()), Ok(parsed));
        }
    }
}
