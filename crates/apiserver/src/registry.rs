//! The registry: create, change and delete for every kind alike.
//!
//! Owns the order of defaulting, preparation, admission, validation and the compare-and-swap against the store. What a
//! kind does differently is in `api`; what a request looks like is in `resource`. Start at [`Registry::create`].

use std::borrow::Cow;
use std::time::Duration;

use api::apply::{self, Applied, Entry};
use api::{Kind, Timestamp, look};
use bytes::Bytes;
use rand::Rng;
use serde_json::Value;
use store::{Expect, Put, Revision};

use crate::admission::{self, Operation};
use crate::clock;
use crate::limits::OBJECT_BYTES_MAX;
use crate::object;
use crate::owners;
use crate::query::Query;
use crate::rbac::escalation;
use crate::status::{Status, from_store};
use crate::user::{MASTERS, UserInfo};
use crate::warnings::Warnings;
use crate::world::World;

/// How often a write that carries no resource version of its own is tried again after a conflict.
const RETRIES: usize = 5;
/// How often a generated name is drawn again when it is taken.
const NAME_RETRIES: usize = 8;

/// One request on one object.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// Kind in the path.
    pub kind: &'static Kind,
    /// Namespace in the path.
    pub namespace: Option<&'a str>,
    /// Name in the path; empty on create.
    pub name: &'a str,
    /// Subresource in the path.
    pub subresource: Option<&'a str>,
    /// Who asks.
    pub user: &'a UserInfo,
    /// Judge only.
    pub dry_run: bool,
    /// When.
    pub now: Timestamp,
    /// The query of the request.
    pub query: &'a Query,
    /// What to tell the client beside the answer.
    pub warnings: &'a Warnings,
    /// Who comes to own the fields that change.
    pub manager: &'a str,
}

/// The server itself as the one who asks: for the objects that it keeps without being told.
pub struct Server {
    user: UserInfo,
    query: Query,
    warnings: Warnings,
}

impl Server {
    /// Who may do everything.
    pub fn new() -> Server {
        Server {
            user: UserInfo::new("system:apiserver", &[MASTERS]),
            query: Query::default(),
            warnings: Warnings::default(),
        }
    }

    /// Its request on an object of the cluster.
    pub fn call<'a>(&'a self, kind: &'static Kind, name: &'a str) -> Call<'a> {
        Call {
            kind,
            namespace: None,
            name,
            subresource: None,
            user: &self.user,
            dry_run: false,
            now: clock::now(),
            query: &self.query,
            warnings: &self.warnings,
            manager: "kube-apiserver",
        }
    }
}

/// An object after a write.
#[derive(Clone, Debug)]
pub struct Written {
    /// Stored form.
    pub stored: Bytes,
    /// Its revision; None after a dry run.
    pub revision: Option<Revision>,
    /// Whether it is new.
    pub created: bool,
    /// Whether it is gone from the store.
    pub removed: bool,
}

/// What is there.
pub struct Live<'a> {
    /// The object with its resourceVersion, without the owners of its fields.
    pub object: &'a Value,
    /// The owners of its fields, as stored.
    pub managed: &'a [u8],
}

impl Live<'_> {
    /// The object with the owners of its fields.
    pub fn whole(&self) -> Value {
        let mut object = self.object.clone();
        owners::attach(&mut object, self.managed);
        object
    }
}

/// What shall be there.
#[derive(Clone)]
pub struct Next {
    /// The object.
    pub object: Value,
    /// The owners of its fields, if an apply settled them; else who writes comes to own what changes.
    pub owners: Option<Vec<Entry>>,
}

impl From<Value> for Next {
    fn from(object: Value) -> Next {
        Next { object, owners: None }
    }
}

impl From<Applied> for Next {
    fn from(applied: Applied) -> Next {
        Next { object: applied.object, owners: Some(applied.entries) }
    }
}

/// How an object is changed: takes what is there, gives what shall be there.
pub type Change<'a> = dyn Fn(&Live<'_>) -> Result<Next, Status> + Sync + 'a;
/// How the server itself changes an object: nobody comes to own anything by it.
pub type Rewrite<'a> = dyn Fn(&Value) -> Result<Value, Status> + Sync + 'a;

/// Writes objects.
pub struct Registry {
    /// Read access, also for plugins.
    pub world: World,
    /// Enabled plugins.
    pub admission: admission::Chain,
    /// How long events live.
    pub event_ttl: Duration,
}

impl Registry {
    /// Creates an object.
    pub async fn create(&self, call: &Call<'_>, new: impl Into<Next>) -> Result<Written, Status> {
        let new = new.into();
        let generated = look::text_at(&new.object, &["metadata", "name"]).is_empty();
        for _ in 0..NAME_RETRIES {
            match self.create_once(call, new.clone()).await {
                Err(status) if generated && status.reason == "AlreadyExists" => {}
                other => return other,
            }
        }
        self.create_once(call, new).await
    }

    async fn create_once(&self, call: &Call<'_>, new: Next) -> Result<Written, Status> {
        let kind = call.kind;
        let Next { mut object, owners } = new;
        kind.rules.default(&mut object);
        let is_named = !look::text_at(&object, &["metadata", "name"]).is_empty();
        let prefix = look::text_at(&object, &["metadata", "generateName"]).to_owned();
        let uid = uuid::Uuid::new_v4().to_string();
        fill_system_fields(&mut object, call, &uid);
        // Before the plugins: what they add is nobody's, as upstream.
        let managed = owners.map_or_else(|| owners::of_new(call, &object), |entries| apply::write(&entries));
        let name = object::name(&object).to_owned();
        let called = (!is_named).then_some(&*prefix);
        let request = admission::Request { operation: Operation::Create, called, ..self.request(call, &name, None) };
        self.admission.mutate(&request, &mut object).await?;
        // Whatever a plugin or a webhook wrote: these are the server's.
        fill_system_fields(&mut object, call, &uid);
        escalation::check(&self.world, call, &object, None).await?;
        kind.rules.prepare_create(&mut object, call.now);
        kind.rules.ask(&mut object, &call.user.requester());
        let name = object::name(&object).to_owned();
        let request = admission::Request { name: &name, called: None, ..request };
        let mut errors = api::meta::validate_create(kind, &object);
        errors.extend(kind.rules.validate_create(&object));
        if !errors.is_empty() {
            return Err(Status::invalid(kind, &name, &errors));
        }
        self.admission.validate(&request, Some(&object)).await?;
        let stored = object::to_stored(kind, &object, &managed);
        check_size(&stored, 0)?;
        let key = object::key(kind, call.namespace, Some(&name));
        if call.dry_run {
            let taken = self.world.store.get(&key).await.map_err(|e| from_store(kind, &name, &e))?.is_some();
            let written = Written { stored, revision: None, created: true, removed: false };
            return if taken { Err(Status::already_exists(kind, &name)) } else { Ok(written) };
        }
        match self.put(kind, key, stored, Expect::Absent).await {
            Ok(entry) => Ok(Written::from_entry(entry, true)),
            Err(store::Error::Conflict { .. }) => Err(Status::already_exists(kind, &name)),
            Err(error) => Err(from_store(kind, &name, &error)),
        }
    }

    async fn put(&self, kind: &Kind, key: String, value: Bytes, expect: Expect) -> Result<store::Entry, store::Error> {
        let ttl = (kind.storage.plural == "events").then_some(self.event_ttl);
        self.world.store.put(Put { key, value, expect, ttl }).await
    }

    /// Runs admission for what is sent to a subresource instead of the object: a binding, an eviction, the options of an
    /// exec. Returns it as the plugins left it.
    pub async fn admit(&self, call: &Call<'_>, operation: Operation, mut sent: Value) -> Result<Value, Status> {
        if !sent.is_object() {
            return Err(Status::bad_request("the document is not an object"));
        }
        let request = admission::Request { operation, ..self.request(call, call.name, None) };
        if let Some(kind) = request.sent() {
            let version = if kind.group.is_empty() {
                kind.version.to_owned()
            } else {
                format!("{}/{}", kind.group, kind.version)
            };
            look::set(&mut sent, "apiVersion", version);
            look::set(&mut sent, "kind", kind.kind);
        }
        self.admission.mutate(&request, &mut sent).await?;
        self.admission.validate(&request, Some(&sent)).await?;
        Ok(sent)
    }

    /// Lets the plugins judge what is asked of a subresource that stores nothing.
    pub async fn restrict(&self, call: &Call<'_>, asked: &Value) -> Result<(), Status> {
        let request = admission::Request { operation: Operation::Create, ..self.request(call, call.name, None) };
        self.admission.validate_by_plugins(&request, Some(asked)).await
    }

    fn request<'a>(&'a self, call: &Call<'a>, name: &'a str, old: Option<&'a Value>) -> admission::Request<'a> {
        admission::Request {
            kind: call.kind,
            operation: Operation::Update,
            subresource: call.subresource.unwrap_or_default(),
            namespace: call.namespace.unwrap_or_default(),
            name,
            called: None,
            user: call.user,
            old,
            world: &self.world,
            dry_run: call.dry_run,
            query: call.query,
            warnings: call.warnings,
        }
    }

    /// The stored entry of the object in the path, or 404.
    pub async fn entry(&self, call: &Call<'_>) -> Result<store::Entry, Status> {
        let found = self.world.entry(call.kind, call.namespace, call.name).await;
        found.map_err(|e| from_store(call.kind, call.name, &e))?.ok_or_else(|| Status::not_found(call.kind, call.name))
    }

    /// Replaces an object by a PUT. RTC-10: some kinds are created by it.
    pub async fn replace(&self, call: &Call<'_>, object: Value) -> Result<Written, Status> {
        let kind = call.kind;
        let creates = call.subresource.is_none() && kind.rules.creates_on_update();
        if creates && matches!(self.entry(call).await, Err(status) if status.code == 404) {
            let given = object::meta(&object, "resourceVersion");
            return match given {
                "" | "0" => self.create(call, without_revision(object)).await,
                _ => Err(Status::not_found(kind, call.name)),
            };
        }
        let unconditional = kind.rules.unconditional_update();
        self.modify(call, &move |live| {
            let mut new = object.clone();
            let metadata = object::metadata_mut(&mut new);
            if unconditional && look::text(metadata, "resourceVersion").is_empty() {
                look::copy(&live.object["metadata"], metadata, "resourceVersion");
            }
            Ok(new.into())
        })
        .await
    }

    /// Changes an object. A conflict with another writer is tried again; a resource version that the change itself
    /// brought is compared each time, so that a stale one is a 409.
    pub async fn modify(&self, call: &Call<'_>, change: &Change<'_>) -> Result<Written, Status> {
        for _ in 0..=RETRIES {
            let entry = self.entry(call).await?;
            if let Some(written) = self.modify_once(call, &entry, change).await? {
                return Ok(written);
            }
        }
        Err(Status::modified(call.kind, call.name))
    }

    /// None: another writer was faster.
    async fn modify_once(
        &self,
        call: &Call<'_>,
        entry: &store::Entry,
        change: &Change<'_>,
    ) -> Result<Option<Written>, Status> {
        let kind = call.kind;
        let (old, managed) = object::open(kind, entry);
        let live = Live { object: &old, managed };
        let Next { object: mut new, owners } = change(&live)?;
        check_unchanged_identity(call, &new, &old)?;
        let claimed = look::remove(object::metadata_mut(&mut new), "managedFields");
        kind.rules.default(&mut new);
        keep_system_fields(&mut new, &old);
        let managed = match owners {
            Some(entries) => Cow::Owned(apply::write(&entries)),
            None => owners::of_changed(call, (&new, &old), claimed.as_ref(), live.managed),
        };
        let request = self.request(call, call.name, Some(&old));
        self.admission.mutate(&request, &mut new).await?;
        keep_system_fields(&mut new, &old);
        escalation::check(&self.world, call, &new, Some(&old)).await?;
        // After the plugins, so that what they changed counts in the generation.
        kind.rules.prepare_update(&mut new, &old, call.subresource);
        kind.rules.stamp(&mut new, &old, call.subresource, call.now);
        let mut errors = api::meta::validate_update(&new, &old);
        errors.extend(kind.rules.validate_update(&new, &old, call.subresource));
        if !errors.is_empty() {
            return Err(Status::invalid(kind, call.name, &errors));
        }
        self.admission.validate(&request, Some(&new)).await?;
        self.commit(call, entry, (&new, &old), &managed).await
    }

    /// Writes `new` and the owners of its fields in place of `entry`; removes the object when its last finalizer went.
    async fn commit(
        &self,
        call: &Call<'_>,
        entry: &store::Entry,
        (new, old): (&Value, &Value),
        managed: &[u8],
    ) -> Result<Option<Written>, Status> {
        if new == old && owners::same(managed, object::managed(&entry.value)) {
            return Ok(Some(Written::from_entry(entry.clone(), false)));
        }
        let stored = object::to_stored(call.kind, new, managed);
        check_size(&stored, entry.value.len())?;
        self.write(call, entry, (new, stored)).await
    }

    async fn write(
        &self,
        call: &Call<'_>,
        entry: &store::Entry,
        (new, stored): (&Value, Bytes),
    ) -> Result<Option<Written>, Status> {
        if call.dry_run {
            return Ok(Some(Written { stored, revision: Some(entry.modified), created: false, removed: false }));
        }
        if is_due(call.kind, new) {
            let removed = self.world.store.delete(&entry.key, Expect::Revision(entry.modified)).await;
            return match removed {
                Ok((_, revision)) => {
                    Ok(Some(Written { stored, revision: Some(revision), created: false, removed: true }))
                }
                Err(store::Error::Conflict { .. }) => Ok(None),
                Err(error) => Err(from_store(call.kind, call.name, &error)),
            };
        }
        match self.put(call.kind, entry.key.to_string(), stored, Expect::Revision(entry.modified)).await {
            Ok(entry) => Ok(Some(Written::from_entry(entry, false))),
            Err(store::Error::Conflict { .. }) => Ok(None),
            Err(error) => Err(from_store(call.kind, call.name, &error)),
        }
    }

    /// Runs admission for a deletion. There is no new object, so nothing can be changed.
    pub async fn admit_delete(&self, call: &Call<'_>, old: &Value) -> Result<(), Status> {
        let request = self.request(call, call.name, Some(old));
        let request = admission::Request { operation: Operation::Delete, ..request };
        self.admission.mutate(&request, &mut Value::Null).await?;
        self.admission.validate(&request, None).await
    }

    /// Writes an object that is being deleted, or removes it; no rules run, and no object is too large to go. None: another
    /// writer was faster.
    pub async fn mark(&self, call: &Call<'_>, entry: &store::Entry, new: &Value) -> Result<Option<Written>, Status> {
        if *new == object::decode(call.kind, entry) {
            return Ok(Some(Written::from_entry(entry.clone(), false)));
        }
        let stored = object::to_stored(call.kind, new, object::managed(&entry.value));
        self.write(call, entry, (new, stored)).await
    }

    /// Changes an object without the rules of updates: what the server itself does to it, such as a binding.
    pub async fn rewrite(&self, call: &Call<'_>, change: &Rewrite<'_>) -> Result<Written, Status> {
        for _ in 0..=RETRIES {
            let entry = self.entry(call).await?;
            let old = object::decode(call.kind, &entry);
            let new = change(&old)?;
            let managed = object::managed(&entry.value);
            if let Some(written) = self.commit(call, &entry, (&new, &old), managed).await? {
                return Ok(written);
            }
        }
        Err(Status::modified(call.kind, call.name))
    }

    /// Removes the entry. None: another writer was faster.
    pub async fn remove(&self, call: &Call<'_>, entry: &store::Entry) -> Result<Option<Written>, Status> {
        let gone =
            |revision| Written { stored: entry.value.clone(), revision: Some(revision), created: false, removed: true };
        if call.dry_run {
            return Ok(Some(gone(entry.modified)));
        }
        match self.world.store.delete(&entry.key, Expect::Revision(entry.modified)).await {
            Ok((_, revision)) => Ok(Some(gone(revision))),
            Err(store::Error::Conflict { current: Some(_), .. }) => Ok(None),
            Err(error) => Err(from_store(call.kind, call.name, &error)),
        }
    }
}

impl Written {
    fn from_entry(entry: store::Entry, created: bool) -> Written {
        Written { stored: entry.value, revision: Some(entry.modified), created, removed: false }
    }
}

/// 413 for an object that is too large to be stored, unless it was larger still.
fn check_size(stored: &Bytes, before: usize) -> Result<(), Status> {
    match stored.len() > OBJECT_BYTES_MAX.max(before) {
        true => Err(Status::too_large(OBJECT_BYTES_MAX)),
        false => Ok(()),
    }
}

fn without_revision(mut object: Value) -> Value {
    look::remove(object::metadata_mut(&mut object), "resourceVersion");
    object
}

/// Whether nothing keeps a deleted object any more.
fn is_due(kind: &Kind, object: &Value) -> bool {
    let metadata = &object["metadata"];
    look::get(metadata, "deletionTimestamp").is_some()
        && look::integer(metadata, "deletionGracePeriodSeconds").unwrap_or(0) == 0
        && !has_finalizers(kind, object)
}

/// Whether somebody asked to be waited for. Namespaces have a second list in their spec.
pub fn has_finalizers(kind: &Kind, object: &Value) -> bool {
    let own = !look::list_at(object, &["metadata", "finalizers"]).is_empty();
    let spec = kind.kind == "Namespace" && !look::list_at(object, &["spec", "finalizers"]).is_empty();
    own || spec
}

/// What only the server sets on a new object.
fn fill_system_fields(object: &mut Value, call: &Call<'_>, uid: &str) {
    let metadata = object::metadata_mut(object);
    for field in ["resourceVersion", "selfLink", "managedFields", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        look::remove(metadata, field);
    }
    if look::text(metadata, "name").is_empty() {
        let prefix = look::text(metadata, "generateName").to_owned();
        if !prefix.is_empty() {
            look::set(metadata, "name", generate_name(&prefix));
        }
    }
    match call.namespace {
        Some(namespace) => look::set(metadata, "namespace", namespace),
        None => drop(look::remove(metadata, "namespace")),
    }
    look::set(metadata, "uid", uid);
    look::set(metadata, "creationTimestamp", object::timestamp(call.now));
}

/// What an update cannot change and need not repeat.
fn keep_system_fields(new: &mut Value, old: &Value) {
    let old = &old["metadata"];
    let metadata = object::metadata_mut(new);
    look::remove(metadata, "managedFields");
    look::remove(metadata, "selfLink");
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        if look::text(metadata, field).is_empty() {
            look::copy(old, metadata, field);
        }
    }
    look::copy(old, metadata, "generateName");
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
        look::copy(old, metadata, field);
    }
    // Empty maps and lists that clients send read back as absent, as they do upstream.
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        let empty = match look::get(metadata, field) {
            None => true,
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(_) => false,
        };
        if empty {
            look::remove(metadata, field);
        }
    }
}

/// The uid and the resource version that a client sends are preconditions.
fn check_unchanged_identity(call: &Call<'_>, new: &Value, old: &Value) -> Result<(), Status> {
    let (wanted, current) = (object::meta(new, "uid"), object::meta(old, "uid"));
    if !wanted.is_empty() && wanted != current {
        return Err(uid_conflict(call, wanted, current));
    }
    let wanted = object::meta(new, "resourceVersion");
    if !wanted.is_empty() && wanted != "0" && wanted != object::meta(old, "resourceVersion") {
        return Err(Status::modified(call.kind, call.name));
    }
    Ok(())
}

/// 409: the object is not the one that the client means.
pub fn uid_conflict(call: &Call<'_>, wanted: &str, current: &str) -> Status {
    let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {current}");
    Status::conflict(call.kind, call.name, &why)
}

/// A name from a prefix and five letters that make no words.
pub fn generate_name(prefix: &str) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    const RANDOM: usize = 5;
    const NAME_MAX: usize = 63;
    let mut name: String = prefix.chars().take(NAME_MAX - RANDOM).collect();
    let mut random = rand::rng();
    name.extend((0..RANDOM).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])));
    name
}
