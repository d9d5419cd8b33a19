//! `ResourceQuota`: a new object is charged to the quotas of its namespace, or refused when they have no room for it.
//!
//! It comes after everything else, so that nothing is charged for what another plugin refuses. A charge is a
//! compare-and-swap on the status of the quota: of creates at the same time each sees what the others took, and they take
//! turns, so that none of a crowd loses all its tries to the others. A charge whose object then fails to be stored is given
//! back by the controller that counts. Start at [`ResourceQuota::charge`].

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};

use api::pod::{Resources, resources};
use api::quantity::Quantity;
use api::{Timestamp, look, quota};
use serde_json::{Map, Value, json};
use store::{Entry, Expect, Put};
use tokio::sync::{Mutex, MutexGuard};

use super::{Operation, Request};
use crate::object;
use crate::status::{Status, from_store};

/// The plugin's name.
pub const NAME: &str = "ResourceQuota";

/// How often a charge is tried anew after a faster writer: the controller that counts, or another server.
const RETRIES: usize = 100;

/// How many namespaces can be charged at a time; which of them share a turn is chance.
const TURNS: usize = 64;

/// The plugin. It is no [`super::Plugin`] because it writes.
pub struct ResourceQuota {
    /// Whose turn it is, for each share of the namespaces.
    turns: [Mutex<()>; TURNS],
    shares: RandomState,
}

impl ResourceQuota {
    /// Nobody is charged yet.
    pub fn new() -> ResourceQuota {
        ResourceQuota { turns: [const { Mutex::const_new(()) }; TURNS], shares: RandomState::new() }
    }

    /// A turn in a namespace, in the order of those who wait. It guards no memory: what is charged is in the store.
    async fn turn(&self, namespace: &str) -> MutexGuard<'_, ()> {
        let share = self.shares.hash_one(namespace) % TURNS as u64;
        self.turns[share as usize].lock().await
    }

    /// Charges a new object to every quota that is about it, or refuses it.
    pub async fn charge(&self, request: &Request<'_>, new: &Value, now: Timestamp) -> Result<(), Status> {
        if request.operation != Operation::Create || !request.subresource.is_empty() || request.namespace.is_empty() {
            return Ok(());
        }
        if request.world.all_in("", "resourcequotas", request.namespace).await.is_empty() {
            return Ok(());
        }
        let _turn = self.turn(request.namespace).await;
        let mut charged = BTreeSet::new();
        for _ in 0..RETRIES {
            let quotas = request.world.all_in("", "resourcequotas", request.namespace).await;
            let left: Vec<&(Entry, Value)> =
                quotas.iter().filter(|(entry, _)| !charged.contains(&*entry.key)).collect();
            let charges = judge(request, new, &left, now).await?;
            if request.dry_run || write_all(request, &left, charges, &mut charged).await? {
                return Ok(());
            }
        }
        Err(Status::modified(request.kind, request.name))
    }
}

/// What a quota's status becomes.
struct Charge {
    index: usize,
    status: Value,
}

/// The charges of an object, or the first refusal.
async fn judge(
    request: &Request<'_>,
    new: &Value,
    quotas: &[&(Entry, Value)],
    now: Timestamp,
) -> Result<Vec<Charge>, Status> {
    let mut charges = Vec::new();
    let usage: Resources =
        quota::usage(request.kind, new, now).into_iter().filter(|(_, amount)| !amount.is_zero()).collect();
    for (index, (_, quota)) in quotas.iter().copied().enumerate() {
        let name = object::name(quota);
        let hard = quota::hard(quota);
        let about: BTreeSet<&str> =
            hard.keys().map(String::as_str).filter(|name| quota::is_about(request.kind, name)).collect();
        if about.is_empty() || !quota::matches(quota, request.kind, new) {
            continue;
        }
        if let Some(missing) = quota::unspecified(new, &about).filter(|_| request.is_on("", "pods")) {
            return Err(request.forbidden(format!("failed quota: {name}: {missing}")));
        }
        let mut used = resources(look::at(quota, &["status", "used"]));
        if about.iter().any(|name| !used.contains_key(*name)) {
            used.extend(count(request, quota, &about, now).await);
        }
        let requested = quota::masked(&usage, &hard);
        let total = quota::sum(&used, &requested);
        let over: Resources = requested.iter().filter(|(name, _)| total[*name] > hard[*name]).map(own).collect();
        if !over.is_empty() {
            let of = |list| quota::shown(&quota::masked(list, &over));
            let why = format!(
                "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
                of(&requested),
                of(&used),
                of(&hard)
            );
            return Err(request.forbidden(why));
        }
        if !requested.is_empty() {
            charges.push(Charge { index, status: status(&hard, &total) });
        }
    }
    Ok(charges)
}

/// What a quota that nobody has counted yet has in use already: a new quota holds from its first moment.
async fn count(request: &Request<'_>, quota: &Value, about: &BTreeSet<&str>, now: Timestamp) -> Resources {
    let kind = request.kind;
    let mut used: Resources = about.iter().map(|name| ((*name).to_owned(), Quantity::ZERO)).collect();
    for (_, object) in request.world.all_in(kind.group, kind.plural, request.namespace).await {
        if quota::matches(quota, kind, &object) {
            let all = quota::usage(kind, &object, now);
            used = quota::sum(&used, &quota::masked(&all, &used));
        }
    }
    used
}

fn own((name, amount): (&String, &Quantity)) -> (String, Quantity) {
    (name.clone(), *amount)
}

fn status(hard: &Resources, used: &Resources) -> Value {
    let list = |list: &Resources| -> Map<String, Value> {
        list.iter().map(|(name, amount)| (name.clone(), amount.to_string().into())).collect()
    };
    json!({"hard": list(hard), "used": list(&quota::masked(used, hard))})
}

/// Writes the charges that are not written yet; false when a quota has changed since it was judged.
async fn write_all(
    request: &Request<'_>,
    quotas: &[&(Entry, Value)],
    charges: Vec<Charge>,
    charged: &mut BTreeSet<String>,
) -> Result<bool, Status> {
    let Some(kind) = api::find("", "v1", "resourcequotas") else { return Ok(true) };
    for Charge { index, status } in charges {
        let (entry, quota) = quotas[index];
        let mut new = quota.clone();
        look::set(&mut new, "status", status);
        let value = object::to_stored(kind, &new, object::managed(&entry.value));
        let expect = Expect::Revision(entry.modified);
        match request.world.store.put(Put { key: entry.key.to_string(), value, expect, ttl: None }).await {
            Ok(_) => drop(charged.insert(entry.key.to_string())),
            Err(store::Error::Conflict { .. }) => return Ok(false),
            Err(error) => return Err(from_store(kind, object::name(quota), &error)),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use async_trait::async_trait;
    use futures_util::future::join_all;
    use store::{Error, List, MemoryStore, Page, Revision, Store, Watch};

    use super::*;
    use crate::query::Query;
    use crate::user::UserInfo;
    use crate::warnings::Warnings;
    use crate::world::World;

    /// A store that writes as slowly as a disk: who writes at the same time has read the same.
    struct Slow(MemoryStore);

    #[async_trait]
    impl Store for Slow {
        async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
            self.0.get(key).await
        }

        async fn list(&self, list: List) -> Result<Page, Error> {
            self.0.list(list).await
        }

        async fn put(&self, put: Put) -> Result<Entry, Error> {
            tokio::time::sleep(Duration::from_millis(5)).await;
            self.0.put(put).await
        }

        async fn delete(&self, key: &str, expect: Expect) -> Result<(Entry, Revision), Error> {
            self.0.delete(key, expect).await
        }

        async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
            self.0.watch(prefix, after).await
        }

        async fn revision(&self) -> Result<Revision, Error> {
            self.0.revision().await
        }

        async fn compact(&self, through: Revision) -> Result<(), Error> {
            self.0.compact(through).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_of_two_hundred_creates_at_once_is_charged() {
        const CROWD: usize = 200;
        let world = World::new(Arc::new(Slow(MemoryStore::new())));
        let kind = api::find("", "v1", "resourcequotas").unwrap();
        let of = |namespace: &str| object::key(kind, Some(namespace), Some("q"));
        for namespace in ["a", "b"] {
            let spec = json!({"hard": {"pods": (CROWD - 1).to_string()}});
            let quota = json!({"metadata": {"name": "q", "namespace": namespace}, "spec": spec});
            let value = object::to_stored(kind, &quota, b"");
            world.store.put(Put { key: of(namespace), value, expect: Expect::Absent, ttl: None }).await.unwrap();
        }
        let (plugin, user, query, warnings) =
            (ResourceQuota::new(), UserInfo::admin(), Query::default(), Warnings::default());
        let charge = async |namespace: &str| {
            let request = Request {
                kind: api::find("", "v1", "pods").unwrap(),
                operation: Operation::Create,
                subresource: "",
                namespace,
                name: "p",
                called: None,
                user: &user,
                old: None,
                world: &world,
                dry_run: false,
                query: &query,
                warnings: &warnings,
            };
            plugin.charge(&request, &json!({"metadata": {"name": "p"}, "spec": {}}), crate::clock::now()).await
        };
        let answers = join_all((0..2 * CROWD).map(|nth| charge(["a", "b"][nth % 2]))).await;
        let refused: Vec<u16> = answers.into_iter().filter_map(Result::err).map(|status| status.code).collect();
        assert_eq!(refused, [403, 403], "one too many in each namespace");
        for namespace in ["a", "b"] {
            let quota = object::decode(kind, &world.store.get(&of(namespace)).await.unwrap().unwrap());
            assert_eq!(quota["status"]["used"]["pods"], json!((CROWD - 1).to_string()), "{namespace}");
        }
    }
}
