//! Who owns which fields, and how a write or an apply changes that.
//!
//! Start at [`update`] for ordinary writes, at [`apply()`] for server-side apply.

use jiff::Timestamp;
use serde_json::Value;
use serde_json::value::RawValue;

use super::compare::{Difference, compare, fields_of};
use super::fields_v1::Stored;
use super::merge::{merge, prune};
use super::set::{Branch, Set};
use super::shape::Form;
use super::{ApplyError, Conflict, check};
use crate::kind::Kind;
use crate::look;

/// How a manager came to own its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// By server-side apply.
    Apply,
    /// By any other write.
    Update,
}

/// One entry of `metadata.managedFields`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name of the manager.
    pub manager: String,
    /// How it owns them.
    pub operation: Operation,
    /// Version of the API in which the fields are named.
    pub api_version: String,
    /// Subresource through which they were written; empty for the object itself.
    pub subresource: String,
    /// When it last took a field.
    pub time: Option<String>,
    /// Its fields.
    pub fields: Set,
}

impl Entry {
    /// Whether it is the entry of the same manager. For one that applies, the version does not count: it moves on.
    fn is_of(&self, other: &Entry) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// Bytes that stand in each stored entry of this manager.
    fn mark(&self) -> String {
        format!("\"manager\":{}", Value::from(self.manager.as_str()))
    }

    /// The manager as messages name it.
    fn shown(&self) -> String {
        let mut text = crate::field::quote(&self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {}", crate::field::quote(&self.subresource)));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

/// Who writes what, and when.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// Kind of the object.
    pub kind: &'a Kind,
    /// Subresource that is written.
    pub subresource: Option<&'a str>,
    /// Name of the manager.
    pub manager: &'a str,
    /// Time of the write.
    pub now: Timestamp,
}

/// Who owned the object before the first apply came to it.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// Who owns what the oldest updates wrote, when there are too many.
const ANCIENT: &str = "ancient-changes";
/// The manager whose applies take over from client-side apply.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// How many entries of updates are kept apart.
const UPDATES_MAX: usize = 10;

impl Writer<'_> {
    fn entry(&self, operation: Operation, fields: Set) -> Entry {
        Entry {
            manager: if self.manager.is_empty() { "unknown".to_owned() } else { self.manager.to_owned() },
            operation,
            api_version: self.kind.api_version(),
            subresource: self.subresource.unwrap_or_default().to_owned(),
            time: Some(crate::time::seconds(self.now)),
            fields,
        }
    }

    fn difference(&self, old: Option<&Value>, new: &Value) -> Difference {
        static EMPTY: Value = Value::Null;
        // A kind that does not exist yet is one with nothing in it.
        let mut difference = compare(Form::root(self.kind.schema), old.or(Some(&EMPTY)), new);
        for set in [&mut difference.changed, &mut difference.removed] {
            self.drop_reset(set);
            set.forget(&["metadata", "managedFields"]);
            strip(set);
        }
        difference
    }

    /// Fields that a write through this path cannot change are nobody's by it.
    fn drop_reset(&self, set: &mut Set) {
        let status = self.kind.subresource("status").is_some();
        match self.subresource {
            Some("status") => {
                set.forget(&["spec"]);
                let labels = matches!(self.kind.group, "apps" | "batch") || self.kind.kind == "ReplicationController";
                match self.kind.kind {
                    "Pod" => {
                        set.forget(&["metadata", "deletionTimestamp"]);
                        set.forget(&["metadata", "ownerReferences"]);
                    }
                    _ if labels => set.forget(&["metadata", "labels"]),
                    _ => {}
                }
            }
            Some("approval") => {
                set.forget(&["spec"]);
                set.forget(&["status", "certificate"]);
            }
            _ if status => set.forget(&["status"]),
            _ => {}
        }
    }
}

/// What identifies the object, or is the server's, is owned by nobody.
fn strip(set: &mut Set) {
    set.remove(&["apiVersion"]);
    set.remove(&["kind"]);
    for name in
        ["name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation", "resourceVersion"]
    {
        set.remove(&["metadata", name]);
    }
    set.remove(&["metadata"]);
}

/// The owners after a write that is no apply: the writer takes what it changed from everybody. None when nothing that
/// can be owned changed.
///
/// An object that nobody owns a field of stays so: it came from a time before this, or its owners were reset.
pub fn update(
    writer: &Writer<'_>,
    (old, new): (Option<&Value>, &Value),
    entries: impl FnOnce() -> Vec<Entry>,
) -> Option<Vec<Entry>> {
    let difference = writer.difference(old, new);
    if difference.is_empty() {
        return None;
    }
    let mut entries = entries();
    if entries.is_empty() && old.is_some() {
        return None;
    }
    take(&mut entries, writer.entry(Operation::Update, Set::default()), &difference);
    cap(&mut entries);
    sort(&mut entries);
    Some(entries)
}

/// The same on stored bytes. An entry that has nothing to do with the change is passed on as it is: on the way of a node's
/// status that is all but one.
pub fn update_stored(writer: &Writer<'_>, (old, new): (Option<&Value>, &Value), stored: &[u8]) -> Option<Vec<u8>> {
    let difference = writer.difference(old, new);
    if difference.is_empty() || (stored.is_empty() && old.is_some()) {
        return None;
    }
    let own = writer.entry(Operation::Update, Set::default());
    let raw: Vec<&RawValue> = if stored.is_empty() { Vec::new() } else { serde_json::from_slice(stored).ok()? };
    if raw.len() >= UPDATES_MAX {
        let mut entries = super::read(stored);
        take(&mut entries, own, &difference);
        cap(&mut entries);
        sort(&mut entries);
        return Some(super::write(&entries));
    }
    let mut marks = difference.marks();
    marks.push(own.mark());
    let mut out = Stored::default();
    let mut last = None;
    for raw in raw.iter().map(|raw| raw.get()) {
        if !marks.iter().any(|mark| raw.contains(mark.as_str())) {
            out.pass(raw);
            continue;
        }
        let Some(mut entry) = super::fields_v1::read_one(raw) else { continue };
        let is_own = settle(&mut entry, &own, &difference);
        if is_own && !difference.changed.is_empty() {
            // Its time is the newest now.
            last = Some(entry);
        } else if !entry.fields.is_empty() {
            out.add(&entry);
        }
    }
    let own = last.unwrap_or(Entry { fields: difference.changed, ..own });
    if !own.fields.is_empty() {
        out.add(&own);
    }
    Some(out.end())
}

fn take(entries: &mut Vec<Entry>, own: Entry, difference: &Difference) {
    let mut present = false;
    for entry in entries.iter_mut() {
        present |= settle(entry, &own, difference);
    }
    if !present {
        entries.push(Entry { fields: difference.changed.clone(), ..own });
    }
    entries.retain(|entry| !entry.fields.is_empty());
}

/// One entry after a write. Tells whether it is the writer's own.
fn settle(entry: &mut Entry, own: &Entry, difference: &Difference) -> bool {
    entry.fields.subtract(&difference.removed);
    let is_own = entry.is_of(own);
    if !is_own {
        entry.fields.subtract(&difference.changed);
    } else if !difference.changed.is_empty() {
        entry.fields.unite(&difference.changed);
        entry.time.clone_from(&own.time);
    }
    is_own
}

/// Folds the oldest updates into one entry a version, as soon as there are too many.
fn cap(entries: &mut Vec<Entry>) {
    let mut updates: Vec<Entry> = Vec::new();
    let is_update = |entry: &Entry| entry.operation == Operation::Update;
    let mut excess = entries.iter().filter(|entry| is_update(entry)).count().saturating_sub(UPDATES_MAX);
    if excess == 0 {
        return;
    }
    let (mut some, applies): (Vec<Entry>, Vec<Entry>) = std::mem::take(entries).into_iter().partition(is_update);
    some.sort_by(|a, b| (&a.time, &a.manager).cmp(&(&b.time, &b.manager)));
    for mut entry in some {
        let bucket = updates.iter_mut().find(|other| excess > 0 && other.api_version == entry.api_version);
        match bucket {
            Some(bucket) => {
                bucket.fields.unite(&entry.fields);
                bucket.time = entry.time.take();
                ANCIENT.clone_into(&mut bucket.manager);
                bucket.subresource.clear();
                excess -= 1;
            }
            None => updates.push(entry),
        }
    }
    *entries = applies;
    entries.extend(updates);
}

/// Upstream's order: applies first, then by time and name.
fn sort(entries: &mut [Entry]) {
    fn key(entry: &Entry) -> (Operation, &str, &str, &str, &str) {
        let time = entry.time.as_deref().unwrap_or_default();
        (entry.operation, time, &entry.manager, &entry.api_version, &entry.subresource)
    }
    entries.sort_by(|a, b| key(a).cmp(&key(b)));
}

/// What an apply leads to.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The object; its defaults are not filled in yet.
    pub object: Value,
    /// Its owners.
    pub entries: Vec<Entry>,
}

/// Applies a configuration to the live object, or to nothing.
///
/// # Errors
/// See [`ApplyError`].
pub fn apply(
    writer: &Writer<'_>,
    (live, config): (Option<&Value>, &Value),
    mut entries: Vec<Entry>,
    force: bool,
) -> Result<Applied, ApplyError> {
    check_config(writer.kind, config)?;
    if let Some(live) = live.filter(|_| entries.is_empty()) {
        let before = Writer { manager: BEFORE_FIRST_APPLY, ..*writer };
        take(&mut entries, before.entry(Operation::Update, Set::default()), &before.difference(None, live));
    }
    let mut applied = match attempt(writer, (live, config), entries.clone(), force) {
        // kubectl's own migration: what client-side apply wrote and nobody touched since is not worth a conflict.
        Err(ApplyError::Conflict(conflicts)) if writer.manager == KUBECTL => {
            let Some(allowed) = live.and_then(|live| last_applied(writer, live)) else {
                return Err(ApplyError::Conflict(conflicts));
            };
            let left = still_in_conflict(conflicts, &allowed);
            if !left.is_empty() {
                return Err(ApplyError::Conflict(left));
            }
            attempt(writer, (live, config), entries, true)?
        }
        other => other?,
    };
    if writer.manager == KUBECTL {
        renew_last_applied(&mut applied.object, config);
    }
    Ok(applied)
}

/// Whether a configuration is of the kind and fits its schema. [`apply()`] asks by itself.
///
/// # Errors
/// See [`ApplyError`].
pub fn check_config(expected: &Kind, config: &Value) -> Result<(), ApplyError> {
    let (api_version, kind) = (look::text(config, "apiVersion"), look::text(config, "kind"));
    let (group, version) = match api_version.split_once('/') {
        Some(parts) => parts,
        None => ("", api_version),
    };
    let full = format!("{group}/{version}, Kind={kind}");
    if api_version != expected.api_version() || kind != expected.kind {
        return Err(ApplyError::WrongType { found: full });
    }
    let meta = &config["metadata"];
    if look::get(meta, "managedFields").is_some() {
        return Err(ApplyError::ManagedFieldsGiven);
    }
    match check::problems(expected.schema, config) {
        None => Ok(()),
        Some(problem) => {
            let (name, namespace) = (look::text(meta, "name"), look::text(meta, "namespace"));
            Err(ApplyError::Unfit { object: format!("{namespace}/{name}; {full}"), problem })
        }
    }
}

fn attempt(
    writer: &Writer<'_>,
    (live, config): (Option<&Value>, &Value),
    mut entries: Vec<Entry>,
    force: bool,
) -> Result<Applied, ApplyError> {
    let form = Form::root(writer.kind.schema);
    let mut merged = merge(form, live, config);
    let mut claims = fields_of(form, config).below;
    writer.drop_reset(&mut claims);
    let mut own = writer.entry(Operation::Apply, Set::default());
    let last = entries.iter().position(|entry| entry.is_of(&own)).map(|at| entries.remove(at));
    if let Some(last) = &last {
        let mut owned = claims.clone();
        for entry in &entries {
            owned.unite(&entry.fields);
        }
        prune(form, &mut merged, &last.fields, &owned);
    }
    let Difference { mut changed, removed } = writer.difference(live, &merged);
    // A null that is applied takes a field away from who owns it.
    changed.unite(&removed.intersection(&claims));
    let conflicts = conflicts(&entries, &changed);
    if !force && !conflicts.is_empty() {
        return Err(ApplyError::Conflict(conflicts));
    }
    let changes = !changed.is_empty() || !removed.is_empty();
    for entry in &mut entries {
        entry.fields.subtract(&changed);
        entry.fields.subtract(&removed);
    }
    entries.retain(|entry| !entry.fields.is_empty());
    strip(&mut claims);
    if !claims.is_empty() {
        own.fields = claims;
        if let Some(last) = last.filter(|last| !changes && last.fields == own.fields) {
            own.time = last.time;
        }
        entries.push(own);
    }
    sort(&mut entries);
    Ok(Applied { object: merged, entries })
}

fn conflicts(entries: &[Entry], changed: &Set) -> Vec<Conflict> {
    let mut out = Vec::new();
    for entry in entries {
        let manager = entry.shown();
        let taken = entry.fields.intersection(changed);
        let paths = taken.paths().into_iter();
        out.extend(paths.map(|path| Conflict { manager: manager.clone(), path }));
    }
    out
}

/// The fields that the annotation of client-side apply has with the very value that they have now.
fn last_applied(writer: &Writer<'_>, live: &Value) -> Option<Set> {
    let text = look::text_at(live, &["metadata", "annotations", LAST_APPLIED]);
    let config: Value = serde_json::from_str(text).ok()?;
    if look::text(&config, "apiVersion") != writer.kind.api_version() {
        return None;
    }
    let form = Form::root(writer.kind.schema);
    let Branch { below: mut fields, .. } = fields_of(form, &config);
    let difference = compare(form, Some(&config), live);
    fields.subtract(&difference.changed);
    fields.subtract(&difference.removed);
    Some(fields)
}

fn still_in_conflict(conflicts: Vec<Conflict>, allowed: &Set) -> Vec<Conflict> {
    let allowed = allowed.paths();
    conflicts.into_iter().filter(|conflict| !allowed.contains(&conflict.path)).collect()
}

/// An object that has the annotation of client-side apply keeps it true, so that client-side apply may come back.
fn renew_last_applied(object: &mut Value, config: &Value) {
    if look::at(object, &["metadata", "annotations", LAST_APPLIED]).is_none() {
        return;
    }
    let mut config = config.clone();
    let annotations = look::child(look::child(&mut config, "metadata"), "annotations");
    look::remove(annotations, LAST_APPLIED);
    let annotations = look::child(look::child(object, "metadata"), "annotations");
    let text = format!("{config}\n");
    look::set(annotations, LAST_APPLIED, text);
    let bytes: usize = look::fields(annotations).iter().map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
    if bytes > crate::meta::ANNOTATION_BYTES_MAX {
        look::set(annotations, LAST_APPLIED, "");
    }
}

/// Whether two lists of entries differ in nothing but their times.
pub fn same_but_for_times(a: &[Entry], b: &[Entry]) -> bool {
    let rest = |entry: &Entry, others: &[Entry]| {
        others
            .iter()
            .any(|other| other.is_of(entry) && other.api_version == entry.api_version && other.fields == entry.fields)
    };
    a.len() == b.len() && a.iter().all(|entry| rest(entry, b))
}
