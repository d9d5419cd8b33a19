//! Selection: which objects a list or watch shows.
//!
//! Pure. An object is decoded only if a selector looks at more than its name and namespace, and then once for all
//! requests. Start at [`Filter`].

use std::cmp::Ordering;

use api::Kind;
use api::selector::field::FieldSelector;
use api::selector::label::LabelSelector;
use serde_json::Value;
use store::Entry;

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
    /// The selectable fields in the order of their values.
    known: Vec<&'static str>,
}

/// What selectors look at, of one version of an object: texts one after the other, because there are as many of these
/// as there are objects and events.
struct Facts {
    kind: &'static Kind,
    text: Box<str>,
    /// Where each text ends: key and value of each label, then the value of each field.
    ends: Box<[u32]>,
    labels: usize,
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
        let known = known.into_iter().map(|(name, _)| name).collect();
        Ok(Filter { kind, name: name.map(str::to_owned), labels, fields, known })
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

    /// Whether a stored object is shown. It is decoded when the first filter must look into this version of it.
    pub fn shows(&self, entry: &Entry) -> bool {
        if self.is_open() {
            return true;
        }
        let (_, name) = split(self.kind, &entry.key);
        if self.name.as_deref().is_some_and(|wanted| wanted != name) {
            return false;
        }
        if self.needs_only_key() {
            return self.fits(&entry.key, None);
        }
        with_facts(self.kind, entry, |facts| self.fits(&entry.key, Some(facts)))
    }

    fn fits(&self, key: &str, facts: Option<&Facts>) -> bool {
        let (namespace, name) = split(self.kind, key);
        let field = |field: &str| match field {
            "metadata.name" => name,
            "metadata.namespace" => namespace,
            other => {
                let place = self.known.iter().position(|known| *known == other);
                place.zip(facts).map_or("", |(place, facts)| facts.field(place))
            }
        };
        self.labels.as_ref().is_none_or(|selector| selector.matches(|key| facts?.label(key)))
            && self.fields.as_ref().is_none_or(|selector| selector.matches(field))
    }
}

/// Looks at what selectors look at. It is read when it is first looked at.
fn with_facts<T>(kind: &'static Kind, entry: &Entry, look: impl FnOnce(&Facts) -> T) -> T {
    let read = || Facts::read(kind, &entry.value);
    match entry.memo.get_or_init(read) {
        Some(facts) if std::ptr::eq(facts.kind, kind) => look(facts),
        // Read as another kind before, which has other fields.
        _ => look(&read()),
    }
}

/// The value of a selectable field of a stored object; empty if it has none.
pub fn field(kind: &'static Kind, entry: &Entry, name: &str) -> Box<str> {
    let place = kind.rules.fields(&Value::Null).iter().position(|(known, _)| *known == name);
    place.map_or_else(Box::default, |place| with_facts(kind, entry, |facts| facts.field(place).into()))
}

impl Facts {
    /// Reads them out of stored bytes.
    fn read(kind: &'static Kind, stored: &[u8]) -> Facts {
        let object = object::decode_at(kind, stored, store::Revision(0));
        let (mut text, mut ends) = (String::new(), Vec::new());
        let mut add = |part: &str| {
            text.push_str(part);
            ends.push(text.len() as u32);
        };
        // In the order of their keys, for [`Facts::label`].
        let mut labels: Vec<_> = api::look::text_map(&object["metadata"], "labels").collect();
        labels.sort_unstable();
        labels.iter().for_each(|(key, value)| [key, value].into_iter().for_each(|part| add(part)));
        kind.rules.fields(&object).iter().for_each(|(_, value)| add(value));
        Facts { kind, text: text.into(), ends: ends.into(), labels: labels.len() }
    }

    fn part(&self, nth: usize) -> &str {
        let start = if nth == 0 { 0 } else { self.ends[nth - 1] };
        &self.text[start as usize..self.ends[nth] as usize]
    }

    /// By halves: an object may have a hundred thousand labels and a selector as many terms.
    fn label(&self, key: &str) -> Option<&str> {
        let (mut low, mut high) = (0, self.labels);
        while low < high {
            let middle = low.midpoint(high);
            match self.part(2 * middle).cmp(key) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Some(self.part(2 * middle + 1)),
            }
        }
        None
    }

    fn field(&self, place: usize) -> &str {
        self.part(2 * self.labels + place)
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(object: &Value) -> Entry {
        let (created, modified) = (store::Revision(1), store::Revision(1));
        let (key, value) = ("/events/default/a".into(), object.to_string().into_bytes().into());
        Entry { key, value, created, modified, memo: store::Memo::default() }
    }

    fn filter(plural: &str, selector: &str) -> Filter {
        let options = ListOptions::parse(&crate::query::Query::parse(Some(selector))).unwrap();
        Filter::parse(api::find("", "v1", plural).unwrap(), &options, None).unwrap()
    }

    #[test]
    fn what_was_read_for_one_kind_is_not_taken_for_another() {
        let about = filter("events", "fieldSelector=involvedObject.name%3Dp");
        let placed = filter("pods", "fieldSelector=spec.nodeName%3Dn");
        let both = json!({"metadata": {"name": "a", "namespace": "default"},
            "involvedObject": {"kind": "Pod", "name": "p"}, "spec": {"nodeName": "n"}});
        for order in [[&about, &placed, &about], [&placed, &about, &placed]] {
            let entry = entry(&both);
            assert!(order.iter().all(|filter| filter.shows(&entry)));
        }
    }

    #[test]
    fn each_of_many_labels_is_found_and_no_other() {
        let labels: serde_json::Map<String, Value> =
            (0..9).map(|nth| (format!("k{nth}"), format!("v{nth}").into())).collect();
        let entry = entry(&json!({"metadata": {"name": "a", "namespace": "default", "labels": labels}}));
        let shows = |text: String| filter("events", &format!("labelSelector={text}")).shows(&entry);
        for nth in 0..9 {
            assert!(shows(format!("k{nth}%3Dv{nth}")) && !shows(format!("k{nth}%3Dv")) && !shows(format!("!k{nth}")));
        }
        assert!(["a", "k", "k9"].iter().all(|key| !shows((*key).to_owned())));
    }
}
