//! The status of a quota says what its namespace really uses.
//!
//! The API server charges new objects itself; here what ended is given back, and what was charged but never stored. A
//! count is due after things that may change it, one at a time and with a rest after each, because it reads everything
//! that is counted. Kinds that nobody here watches are looked for now and then, while there is a quota that counts them.

use std::time::Duration;

use api::pod::{Resources, resources};
use api::quantity::Quantity;
use api::{Kind, Timestamp, look, quota};
use http::Method;
use kube::Client;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::call::{self, Error};
use crate::view::World;

/// How often unwatched kinds are counted.
const POLL: Duration = Duration::from_secs(10);

/// The pause between two counts.
const REST: Duration = Duration::from_secs(1);

/// How long an object that was charged may take to be stored.
const SETTLE: Duration = Duration::from_millis(100);

/// A quota to count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count {
    /// metadata.namespace.
    pub namespace: String,
    /// metadata.name.
    pub name: String,
}

/// The quotas to count, and when to look again.
pub fn decide(world: &World, now: Instant) -> (Vec<Count>, Option<Instant>) {
    let (mut counts, mut wake_at) = (Vec::new(), None);
    for ((namespace, name), quota) in &world.quotas {
        let is_due = quota.happened > quota.counted;
        let rests_until = quota.rests_until.filter(|until| is_due && *until > now);
        let polled_at = Some(quota.polled_at + POLL).filter(|_| quota.of_others);
        wake_at = [wake_at, rests_until, polled_at].into_iter().flatten().min();
        if is_due && rests_until.is_none() {
            counts.push(Count { namespace: namespace.clone(), name: name.clone() });
        }
    }
    (counts, wake_at)
}

/// Lets the time for another look at unwatched kinds come.
pub fn note_polls(world: &mut World, now: Instant) {
    for quota in world.quotas.values_mut().filter(|quota| quota.of_others && quota.polled_at + POLL <= now) {
        quota.polled_at = now;
        quota.happened += 1;
    }
}

/// A count begins: what happens from now on may escape it.
pub fn begins(world: &mut World, count: &Count) {
    if let Some(quota) = world.quotas.get_mut(&(count.namespace.clone(), count.name.clone())) {
        quota.counting = quota.happened;
    }
}

/// The count was written.
pub fn counted(world: &mut World, count: &Count, now: Instant) {
    if let Some(quota) = world.quotas.get_mut(&(count.namespace.clone(), count.name.clone())) {
        (quota.counted, quota.rests_until) = (quota.counting, Some(now + REST));
    }
}

/// Counts what is in use and writes it, if it is not what the status says.
///
/// A charge that the quota shows when it is read was made before; its object is stored before the lists are read. A charge
/// after that makes the write a conflict. So nothing that is in use is ever given back.
pub async fn act(client: &Client, count: &Count) -> Result<(), Error> {
    let path = format!("/api/v1/namespaces/{}/resourcequotas/{}", count.namespace, count.name);
    let mut object = match call::call(client, Method::GET, &path, None).await {
        Err(error) if error.status() == Some(404) => return Ok(()),
        outcome => outcome?,
    };
    tokio::time::sleep(SETTLE).await;
    let hard = quota::hard(&object);
    let mut used: Resources = hard.keys().map(|name| (name.clone(), Quantity::ZERO)).collect();
    let now = Timestamp::now();
    for kind in api::kinds().iter().filter(|kind| kind.namespaced && is_counted(kind, &hard)) {
        let list = call::call(client, Method::GET, &collection(kind, &count.namespace), None).await?;
        for item in look::list(&list, "items").iter().filter(|item| quota::matches(&object, kind, item)) {
            let all = quota::usage(kind, item, now);
            used = quota::sum(&used, &quota::masked(&all, &hard));
        }
    }
    if is_known(&object, &hard, &used) {
        return Ok(());
    }
    object["status"] = json!({"hard": list(&hard), "used": list(&used)});
    call::call_unless(client, Method::PUT, &format!("{path}/status"), Some(&object), &[404]).await
}

fn is_counted(kind: &Kind, hard: &Resources) -> bool {
    // Events have two kinds and are counted by neither.
    kind.storage.plural != "events" && hard.keys().any(|name| quota::is_about(kind, name))
}

fn collection(kind: &Kind, namespace: &str) -> String {
    let root = if kind.group.is_empty() { "/api" } else { "/apis" };
    format!("{root}/{}/namespaces/{namespace}/{}", kind.api_version(), kind.plural)
}

fn is_known(object: &Value, hard: &Resources, used: &Resources) -> bool {
    let of = |list| resources(look::at(object, &["status", list]));
    of("hard") == *hard && of("used") == *used
}

fn list(amounts: &Resources) -> Map<String, Value> {
    amounts.iter().map(|(name, amount)| (name.clone(), amount.to_string().into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Quota;

    fn quota(of_others: bool) -> Quota {
        Quota {
            uid: "u".into(),
            happened: 1,
            counting: 0,
            counted: 0,
            of_others,
            polled_at: Instant::now(),
            rests_until: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_quota_is_counted_after_what_happens_in_its_namespace_once_and_then_rests() {
        let now = Instant::now();
        let mut world = World::default();
        world.quotas.insert(("a".into(), "q".into()), quota(false));
        world.quotas.insert(("b".into(), "q".into()), quota(false));
        let (counts, wake_at) = decide(&world, now);
        assert_eq!((counts.len(), wake_at), (2, None), "nothing wakes a controller that only pods concern");
        let count = counts[0].clone();
        counts.iter().for_each(|count| begins(&mut world, count));
        counts.iter().for_each(|count| counted(&mut world, count, now));
        assert_eq!(decide(&world, now), (vec![], None));
        (0..5).for_each(|_| world.note_usage("a"));
        world.note_usage("elsewhere");
        assert_eq!(decide(&world, now), (vec![], Some(now + REST)), "it rests");
        let later = now + REST;
        assert_eq!(decide(&world, later), (vec![count.clone()], None));
        begins(&mut world, &count);
        // While that count runs another pod comes: it is the same count that is wanted, and one more afterwards.
        world.note_usage("a");
        assert_eq!(decide(&world, later).0, std::slice::from_ref(&count));
        counted(&mut world, &count, later);
        assert_eq!(decide(&world, later + REST).0, [count]);
    }

    #[tokio::test(start_paused = true)]
    async fn kinds_that_nobody_watches_are_counted_now_and_then() {
        let now = Instant::now();
        let mut world = World::default();
        world.quotas.insert(("a".into(), "q".into()), Quota { counted: 1, ..quota(true) });
        note_polls(&mut world, now);
        assert_eq!(decide(&world, now), (vec![], Some(now + POLL)));
        note_polls(&mut world, now + POLL);
        assert_eq!(decide(&world, now + POLL).0.len(), 1);
    }
}
