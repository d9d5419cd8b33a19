//! Selection: which objects a list or watch shows.
//!
//! Pure. An object is decoded only if a selector looks at more than its name and namespace. Start at [`Filter`].

use api::Kind;
use api::selector::field::FieldSelector;
use api::selector::label::LabelSelector;
use serde_json::Value;

use crate::object;
use crate::query::ListOptions;
use crate::status::Status;

/// Both selectors of a request.
#[derive(Clone, Debug)]
pub struct Filter {
    kind: &'static Kind,
    /// Name demanded by the path; in collections always None.
    name: Option<String>,
    labels: Option<LabelSelector>,
    fields: Option<FieldSelector>,
}

/// What selectors look at.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    labels: Vec<(String, String)>,
    fields: Vec<(&'static str, String)>,
}

impl Filter {
    /// Reads the selectors; a selector that cannot be read, or a field that the kind does not offer, is a 400.
    pub fn parse(kind: &'static Kind, options: &ListOptions, name: Option<&str>) -> Result<Filter, Status> {
        let labels = options.labels.as_deref().map(LabelSelector::parse).transpose();
        let labels = labels.map_err(|error| Status::bad_request(format!("unable to parse requirement: {error}")))?;
        let fields = options.fields.as_deref().map(FieldSelector::parse).transpose();
        let fields = fields.map_err(|error| Status::bad_request(error.to_string()))?;
        let known = kind.rules.fields(&Value::Null);
        for field in fields.iter().flat_map(names) {
            let general = field == "metadata.name" || (field == "metadata.namespace" && kind.namespaced);
            if !general && !known.iter().any(|(name, _)| *name == field) {
                return Err(Status::bad_request(format!("field label not supported: {field}")));
            }
        }
        Ok(Filter { kind, name: name.map(str::to_owned), labels, fields })
    }

    /// Whether everything is shown.
    pub fn is_open(&self) -> bool {
        self.name.is_none() && self.labels.is_none() && self.fields.is_none()
    }

    /// Whether the key alone decides.
    fn needs_only_key(&self) -> bool {
        let by_key = |field: &str| field == "metadata.name" || field == "metadata.namespace";
        self.labels.is_none() && self.fields.iter().flat_map(names).all(by_key)
    }

    /// Whether the stored object under `key` is shown. `facts` reads them; it is called only if it must be.
    pub fn shows(&self, key: &str, facts: impl FnOnce() -> Facts) -> bool {
        if self.is_open() {
            return true;
        }
        let (namespace, name) = split(self.kind, key);
        if self.name.as_deref().is_some_and(|wanted| wanted != name) {
            return false;
        }
        let facts = if self.needs_only_key() { Facts::default() } else { facts() };
        let labels = |key: &str| facts.labels.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        let fields = |field: &str| match field {
            "metadata.name" => name.to_owned(),
            "metadata.namespace" => namespace.to_owned(),
            other => facts.fields.iter().find(|(k, _)| *k == other).map(|(_, v)| v.clone()).unwrap_or_default(),
        };
        self.labels.as_ref().is_none_or(|selector| selector.matches(labels))
            && self.fields.as_ref().is_none_or(|selector| selector.matches(fields))
    }
}

impl Facts {
    /// Reads them out of stored bytes.
    pub fn read(kind: &Kind, stored: &[u8]) -> Facts {
        let object = object::decode_at(kind, stored, store::Revision(0));
        let labels = api::look::text_map(&object["metadata"], "labels");
        Facts {
            labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            fields: kind.rules.fields(&object),
        }
    }
}

fn names(selector: &FieldSelector) -> impl Iterator<Item = &str> {
    selector.terms.iter().map(|term| term.field.as_str())
}

/// Namespace (empty for cluster-scoped kinds) and name in a key.
fn split<'a>(kind: &Kind, key: &'a str) -> (&'a str, &'a str) {
    let mut parts = key.rsplit('/');
    let name = parts.next().unwrap_or_default();
    let namespace = if kind.namespaced { parts.next().unwrap_or_default() } else { "" };
    (namespace, name)
}
