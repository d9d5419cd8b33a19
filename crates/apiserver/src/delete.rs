//! Deletion: options, preconditions, grace (HOOK-69 to HOOK-74), finalizers.
//!
//! Start at [`delete`]; how long a kind lingers is `Rules::graceful_delete`.

use api::look;
use serde_json::Value;
use store::Entry;

use crate::object;
use crate::query::Query;
use crate::registry::{Call, Registry, Written, has_finalizers, uid_conflict};
use crate::status::Status;

/// What a client may say about a deletion.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeleteOptions {
    /// Wanted grace in seconds.
    pub grace_seconds: Option<i64>,
    /// Only this very object.
    pub uid: Option<String>,
    /// Only this version of it.
    pub resource_version: Option<String>,
    /// Judge only.
    pub dry_run: bool,
    /// What becomes of what belongs to the object; None if the client does not say.
    pub propagation: Option<Propagation>,
}

/// What becomes of what belongs to an object that is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// It stays, and is let go before the object goes.
    Orphan,
    /// It goes after the object.
    Background,
    /// It goes before the object.
    Foreground,
}

/// The finalizers by which the collector of garbage is asked for that.
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// Kinds of which what belongs to an object stays unless the client says otherwise, as it always was.
const LETS_GO: [(&str, &str); 2] = [("", "replicationcontrollers"), ("batch", "jobs")];

impl DeleteOptions {
    /// Reads the body (a `DeleteOptions` object, or nothing) and the query.
    pub fn parse(body: Option<&Value>, query: &Query) -> Result<DeleteOptions, Status> {
        let empty = Value::Null;
        let body = body.unwrap_or(&empty);
        let precondition = |field| look::at(body, &["preconditions", field]).and_then(Value::as_str).map(str::to_owned);
        let policy = [look::text(body, "propagationPolicy"), query.get("propagationPolicy").unwrap_or_default()];
        if let Some(wrong) = policy.iter().find(|p| !["", "Orphan", "Background", "Foreground"].contains(p)) {
            let text = format!(
                "propagationPolicy: Unsupported value: {wrong:?}: supported values: \"Background\", \"Foreground\", \"Orphan\""
            );
            return Err(Status::plain(422, "Invalid", format!("DeleteOptions.meta.k8s.io \"\" is invalid: {text}")));
        }
        let propagation = match policy.iter().find(|policy| !policy.is_empty()) {
            Some(&"Orphan") => Some(Propagation::Orphan),
            Some(&"Foreground") => Some(Propagation::Foreground),
            Some(_) => Some(Propagation::Background),
            // The field that there was before.
            None => look::get(body, "orphanDependents").and_then(Value::as_bool).map(|orphans| match orphans {
                true => Propagation::Orphan,
                false => Propagation::Background,
            }),
        };
        let dry = look::list(body, "dryRun").iter().any(|v| v == "All") || query.all("dryRun").any(|v| v == "All");
        Ok(DeleteOptions {
            grace_seconds: match look::integer(body, "gracePeriodSeconds") {
                Some(seconds) => Some(seconds),
                None => query.integer("gracePeriodSeconds")?,
            },
            uid: precondition("uid"),
            resource_version: precondition("resourceVersion"),
            dry_run: dry,
            propagation,
        })
    }
}

/// Deletes an object, or begins to.
pub async fn delete(registry: &Registry, call: &Call<'_>, options: &DeleteOptions) -> Result<Written, Status> {
    let call = Call { dry_run: call.dry_run || options.dry_run, ..*call };
    // A deletion carries no version of its own unless the client set one, so it tries until it wins.
    for _ in 0..100 {
        let entry = registry.entry(&call).await?;
        let old = object::decode(call.kind, &entry);
        check_preconditions(&call, options, &old)?;
        registry.admit_delete(&call, &old).await?;
        if let Some(written) = step(registry, &call, options, (&entry, &old)).await? {
            return Ok(written);
        }
    }
    Err(Status::modified(call.kind, call.name))
}

/// Whether it is the object that the client means.
pub fn check_preconditions(call: &Call<'_>, options: &DeleteOptions, old: &Value) -> Result<(), Status> {
    let current = object::meta(old, "uid");
    if let Some(wanted) = options.uid.as_deref().filter(|uid| *uid != current) {
        return Err(uid_conflict(call, wanted, current));
    }
    let current = object::meta(old, "resourceVersion");
    if let Some(wanted) = options.resource_version.as_deref().filter(|version| *version != current) {
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {current}"
        );
        return Err(Status::conflict(call.kind, call.name, &why));
    }
    Ok(())
}

/// What a deletion does to the object as it stands.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// Remove it from the store.
    Remove,
    /// Write this, and wait for grace or finalizers.
    Mark(Value),
    /// It is going already, and not faster.
    Leave,
}

async fn step(
    registry: &Registry,
    call: &Call<'_>,
    options: &DeleteOptions,
    (entry, old): (&Entry, &Value),
) -> Result<Option<Written>, Status> {
    match judge(call, options, old) {
        Verdict::Remove => registry.remove(call, entry).await,
        Verdict::Mark(new) => registry.mark(call, entry, &new).await,
        Verdict::Leave => Ok(Some(Written {
            stored: entry.value.clone(),
            revision: Some(entry.modified),
            created: false,
            removed: false,
        })),
    }
}

fn judge(call: &Call<'_>, options: &DeleteOptions, old: &Value) -> Verdict {
    let new = with_propagation(call, options, old);
    let waits = has_finalizers(call.kind, &new);
    if look::at(old, &["metadata", "deletionTimestamp"]).is_some() {
        return match (judge_again(call, options, &new), new == *old) {
            (Verdict::Leave, false) => Verdict::Mark(new),
            (verdict, _) => verdict,
        };
    }
    match call.kind.rules.graceful_delete(old, options.grace_seconds) {
        Some(seconds) if seconds > 0 => Verdict::Mark(marked(call, &new, seconds)),
        _ if waits => Verdict::Mark(marked(call, &new, 0)),
        _ => Verdict::Remove,
    }
}

/// The object with the finalizers that tell the collector what becomes of what belongs to it.
fn with_propagation(call: &Call<'_>, options: &DeleteOptions, old: &Value) -> Value {
    let finalizers = look::list_at(old, &["metadata", "finalizers"]);
    let has = |name: &str| finalizers.iter().any(|one| one == name);
    let wanted = match options.propagation {
        Some(Propagation::Orphan) => Some(ORPHAN),
        Some(Propagation::Foreground) => Some(FOREGROUND),
        Some(Propagation::Background) => None,
        None if has(ORPHAN) || has(FOREGROUND) => return old.clone(),
        None => Some(ORPHAN).filter(|_| LETS_GO.contains(&(call.kind.group, call.kind.plural))),
    };
    let is_other = |one: &&Value| *one != ORPHAN && *one != FOREGROUND;
    let mut all: Vec<Value> = finalizers.iter().filter(is_other).cloned().collect();
    all.extend(wanted.map(Value::from));
    let mut new = old.clone();
    if all != finalizers {
        look::set(object::metadata_mut(&mut new), "finalizers", all);
    }
    new
}

/// HOOK-71: a later deletion can only shorten the grace.
fn judge_again(call: &Call<'_>, options: &DeleteOptions, old: &Value) -> Verdict {
    let metadata = &old["metadata"];
    let waits = has_finalizers(call.kind, old);
    let Some(period) = look::integer(metadata, "deletionGracePeriodSeconds") else {
        return if waits { Verdict::Leave } else { Verdict::Remove };
    };
    let Some(wanted) = options.grace_seconds else {
        return if period == 0 && !waits { Verdict::Remove } else { Verdict::Leave };
    };
    let wanted = if wanted < 0 { 1 } else { wanted };
    if wanted >= period {
        return if period == 0 && !waits { Verdict::Remove } else { Verdict::Leave };
    }
    if wanted == 0 && !waits {
        return Verdict::Remove;
    }
    let deadline = api::time::parse(look::text(metadata, "deletionTimestamp")).unwrap_or(call.now);
    let shorter = deadline.as_second().saturating_sub(period).saturating_add(wanted);
    let (at, seconds) = if shorter < call.now.as_second() && wanted > 0 {
        (call.now.as_second(), 1)
    } else {
        (shorter.max(call.now.as_second()), wanted)
    };
    let mut new = old.clone();
    let metadata = object::metadata_mut(&mut new);
    let at = api::Timestamp::from_second(at).unwrap_or(call.now);
    look::set(metadata, "deletionTimestamp", object::timestamp(at));
    look::set(metadata, "deletionGracePeriodSeconds", seconds);
    Verdict::Mark(new)
}

/// HOOK-70: the object with its deadline. A namespace also shows its phase.
fn marked(call: &Call<'_>, old: &Value, grace_seconds: i64) -> Value {
    let mut new = old.clone();
    // No later than times can be told.
    let grace_seconds = grace_seconds.min(api::Timestamp::MAX.as_second() - call.now.as_second());
    let deadline = api::Timestamp::from_second(call.now.as_second() + grace_seconds).unwrap_or(call.now);
    let metadata = object::metadata_mut(&mut new);
    look::set(metadata, "deletionTimestamp", object::timestamp(deadline));
    look::set(metadata, "deletionGracePeriodSeconds", grace_seconds);
    if let Some(generation) = look::integer(metadata, "generation").filter(|g| *g > 0) {
        look::set(metadata, "generation", generation + 1);
    }
    if call.kind.kind == "Namespace" {
        look::remove(object::metadata_mut(&mut new), "deletionGracePeriodSeconds");
        look::set(look::child(&mut new, "status"), "phase", "Terminating");
    }
    new
}

#[cfg(test)]
mod tests {
    use api::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::registry::Server;

    fn judged(second: i64, grace_seconds: Option<i64>, pod: &Value) -> Verdict {
        let (server, kind) = (Server::new(), api::find("", "v1", "pods").unwrap());
        let call = Call { now: Timestamp::from_second(second).unwrap(), ..server.call(kind, "p") };
        judge(&call, &DeleteOptions { grace_seconds, ..DeleteOptions::default() }, pod)
    }

    fn pod() -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 60},
            "status": {"phase": "Running"}})
    }

    /// The pod with its deadline and its grace.
    fn going(second: i64, grace_seconds: i64) -> Value {
        let mut pod = pod();
        let at = object::timestamp(Timestamp::from_second(second).unwrap());
        pod["metadata"] = json!({
            "name": "p", "deletionTimestamp": at, "deletionGracePeriodSeconds": grace_seconds,
        });
        pod
    }

    #[test]
    fn hook_70_to_72_a_deletion_may_only_be_shortened() {
        const BEGIN: i64 = 1_000_000;
        assert_eq!(judged(BEGIN, None, &pod()), Verdict::Mark(going(BEGIN + 60, 60)));
        let marked = going(BEGIN + 60, 60);
        let again = |second: i64, wanted| judged(BEGIN + second, wanted, &marked);
        assert_eq!(again(5, None), Verdict::Leave);
        assert_eq!(again(5, Some(90)), Verdict::Leave);
        assert_eq!(again(5, Some(10)), Verdict::Mark(going(BEGIN + 10, 10)));
        assert_eq!(again(20, Some(10)), Verdict::Mark(going(BEGIN + 20, 1)));
        assert_eq!(again(20, Some(0)), Verdict::Remove);
    }

    #[test]
    fn a_grace_beyond_the_end_of_time_ends_with_it_and_can_be_shortened() {
        const BEGIN: i64 = 1_000_000;
        let last = Timestamp::MAX.as_second();
        let marked = going(last, last - BEGIN);
        assert_eq!(judged(BEGIN, Some(i64::MAX), &pod()), Verdict::Mark(marked.clone()));
        assert_eq!(judged(BEGIN + 5, Some(30), &marked), Verdict::Mark(going(BEGIN + 30, 30)));
        let absurd = going(BEGIN, i64::MAX);
        assert_eq!(judged(BEGIN, Some(30), &absurd), Verdict::Mark(going(BEGIN, 1)));
    }
}
