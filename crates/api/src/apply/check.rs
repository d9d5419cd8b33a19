//! Whether an applied configuration fits its type. Unlike other bodies, one with unknown fields is never let in.
//!
//! The words are upstream's. Start at [`problems`].

use serde_json::Value;

use super::set::show;
use super::shape::{Form, element};
use crate::schema::{Shape, find};

/// What is wrong with a configuration; None when nothing is.
pub(super) fn problems(schema: &str, config: &Value) -> Option<String> {
    let mut walk = Walk { path: String::new(), found: Vec::new() };
    if let Some(known) = find(schema) {
        walk.fields(Form::Struct(known), config);
    }
    match walk.found.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        several => Some(format!("errors:\n  {}", several.join("\n  "))),
    }
}

struct Walk {
    path: String,
    found: Vec<String>,
}

impl Walk {
    fn tell(&mut self, message: &str) {
        self.found.push(match self.path.is_empty() {
            true => message.to_owned(),
            false => format!("{}: {message}", self.path),
        });
    }

    fn below(&mut self, element: &str, visit: impl FnOnce(&mut Walk)) {
        let length = self.path.len();
        show(element, &mut self.path);
        visit(self);
        self.path.truncate(length);
    }

    /// The members of a struct or map.
    fn fields(&mut self, form: Form, value: &Value) {
        let fields = match value {
            Value::Null => return,
            Value::Object(fields) => fields,
            other => return self.tell(&format!("expected map, got &{{{}}}", go(other))),
        };
        for (name, value) in fields {
            self.below(&format!("f:{name}"), |walk| match form {
                Form::Struct(known) => match known.field(name) {
                    Some(field) => walk.value(&field.shape, Form::of(field), value),
                    None => walk.tell("field not declared in schema"),
                },
                Form::Map(inner) => walk.value(inner, Form::plain(inner), value),
                _ => {}
            });
        }
    }

    fn value(&mut self, shape: &'static Shape, form: Form, value: &Value) {
        match shape {
            _ if value.is_null() => {}
            Shape::Any => {}
            // What is replaced whole still has the fields of its type.
            Shape::Object(name) => {
                if let Some(known) = find(name) {
                    self.fields(Form::Struct(known), value);
                }
            }
            Shape::Map(inner) => self.fields(Form::Map(inner), value),
            Shape::List(inner) => self.list(inner, form, value),
            scalar => self.scalar(scalar, value),
        }
    }

    fn list(&mut self, inner: &'static Shape, form: Form, value: &Value) {
        let Value::Array(list) = value else { return self.tell(&format!("expected list, got &{{{}}}", go(value))) };
        let mut seen: Vec<Box<str>> = Vec::new();
        for (index, item) in list.iter().enumerate() {
            let name = match form {
                Form::Keyed(..) | Form::Set => match element(form, item) {
                    Ok(name) => name,
                    Err(why) => {
                        self.tell(&format!("element {index}: {why}"));
                        continue;
                    }
                },
                _ => format!("i:{index}").into_boxed_str(),
            };
            if seen.contains(&name) {
                let mut shown = String::new();
                show(&name, &mut shown);
                self.tell(&format!("duplicate entries for key {shown}"));
            }
            self.below(&name, |walk| walk.value(inner, Form::plain(inner), item));
            seen.push(name);
        }
    }

    fn scalar(&mut self, shape: &Shape, value: &Value) {
        match shape {
            Shape::Int32 | Shape::Int64 | Shape::Number if !value.is_number() => {
                self.tell(&format!("expected numeric (int or float), got {}", go_type(value)));
            }
            Shape::Text | Shape::Bytes | Shape::Time | Shape::MicroTime if !value.is_string() => {
                self.tell(&format!("expected string, got &value.valueUnstructured{{Value:{}}}", value));
            }
            Shape::Boolean if !value.is_boolean() => self.tell(&format!("expected boolean, got &{{{}}}", go(value))),
            Shape::Quantity | Shape::IntOrText if value.is_object() || value.is_array() => {
                self.tell(&format!("expected any scalar, got &{{{}}}", go(value)));
            }
            _ => {}
        }
    }
}

/// A value as Go prints it in passing.
fn go(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_does_not_fit_is_told_with_its_path() {
        let spec = |spec: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec});
        let cases = [
            (spec(json!({"foo": 1})), ".spec.foo: field not declared in schema"),
            (
                spec(json!({"containers": [{"name": "c", "imagee": "x"}]})),
                ".spec.containers[name=\"c\"].imagee: field not declared in schema",
            ),
            (spec(json!({"tolerations": [{"kee": "x"}]})), ".spec.tolerations[0].kee: field not declared in schema"),
            (spec(json!({"priority": "1"})), ".spec.priority: expected numeric (int or float), got string"),
            (spec(json!({"nodeName": 1})), ".spec.nodeName: expected string, got &value.valueUnstructured{Value:1}"),
            (spec(json!({"hostNetwork": "yes"})), ".spec.hostNetwork: expected boolean, got &{yes}"),
            (spec(json!({"containers": "x"})), ".spec.containers: expected list, got &{x}"),
            (spec(json!("x")), ".spec: expected map, got &{x}"),
            (
                spec(json!({"containers": [{"name": "c"}, {"name": "c"}]})),
                ".spec.containers: duplicate entries for key [name=\"c\"]",
            ),
            (
                spec(json!({"containers": [{"image": "i"}]})),
                ".spec.containers: element 0: associative list with keys has an element that omits key field \"name\" (and doesn't have default value)",
            ),
            (
                spec(json!({"a": 1, "b": 2})),
                "errors:\n  .spec.a: field not declared in schema\n  .spec.b: field not declared in schema",
            ),
        ];
        for (config, message) in cases {
            assert_eq!(problems("core.v1.Pod", &config).as_deref(), Some(message), "{config}");
        }
        let fine = spec(
            json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": 1}}, "ports": [{"containerPort": 1}]}], "priority": null}),
        );
        assert_eq!(problems("core.v1.Pod", &fine), None);
    }
}
