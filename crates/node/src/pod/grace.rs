//! How long a pod that ends may take (HOOK-76, HOOK-77).
//!
//! Pure. The deadline is an instant: it comes from the API where there is one, and only ever moves closer. A grace may be
//! longer than the calendar: [`later`] ends with it. Start at [`stop`].

use super::checkpoint::StopRecord;
use crate::object::Pod;
use jiff::{SignedDuration, Timestamp};

/// The grace that is asked for, in seconds: the deletion's own, else the pod's; at least one.
pub fn seconds(pod: &Pod) -> i64 {
    let own = pod.spec.termination_grace_period_seconds;
    pod.metadata.deletion_grace_period_seconds.or(own).unwrap_or(0).max(1)
}

/// The instant so long after another one, within what an instant can say: users may write any number of seconds.
pub fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    let end = if by.is_negative() { Timestamp::MIN } else { Timestamp::MAX };
    at.checked_add(by).unwrap_or(end)
}

/// Since when the pod is being stopped and until when it may take, given what was `known` of it before.
pub fn stop(pod: &Pod, known: Option<StopRecord>, now: Timestamp) -> StopRecord {
    let since = known.map_or(now, |known| known.since);
    let second = SignedDuration::from_secs(1);
    let within = later(since, SignedDuration::from_secs(seconds(pod)));
    let from_api = pod.metadata.deletion_timestamp.as_ref().map(|at| at.0);
    let wanted = match from_api {
        Some(at) if pod.metadata.deletion_grace_period_seconds != Some(0) => at.min(within),
        // A forced deletion is seen when its clock is over: what is left is the floor, from now.
        Some(_) => later(now, second),
        None => within,
    };
    let wanted = wanted.max(later(since, second));
    StopRecord { since, deadline: known.map_or(wanted, |known| known.deadline.min(wanted)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::{
        checkpoint::{Checkpoint, Verdict},
        decide::{CrashBackOff, termination},
        view::{Cause, Desired, Observed, Stop, View},
    };
    use serde_json::json;
    use std::sync::Arc;

    const NOW: i64 = 1_800_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(NOW + second).unwrap()
    }

    /// A pod of which the API says, at `seen`, that it is to go within so many seconds, if it says so.
    fn pod(deletion: Option<(i64, i64)>, own: Option<i64>) -> Pod {
        let mut metadata = json!({"name": "p"});
        if let Some((seen, grace)) = deletion {
            metadata["deletionTimestamp"] = json!(at(seen + grace).to_string());
            metadata["deletionGracePeriodSeconds"] = json!(grace);
        }
        let spec = json!({"terminationGracePeriodSeconds": own});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    /// The grace that holds for a pod with this deletion, this verdict of the node and this grace of its own.
    fn effective(deletions: &[i64], verdict: Option<i64>, own: Option<i64>) -> i64 {
        let mut known = None;
        for deletion in deletions {
            known = Some(stop(&pod(Some((0, *deletion)), own), known, at(0)));
        }
        let pod = pod(deletions.last().map(|grace| (0, *grace)), own);
        // Without a verdict it is gone from the API or the node is emptied.
        if deletions.is_empty() && verdict.is_none() {
            known = Some(stop(&pod, known, at(0)));
        }
        let verdict = verdict.map(|grace_seconds| Verdict {
            reason: "Evicted".into(),
            message: String::new(),
            at: at(0),
            grace_seconds,
            is_disruption: true,
        });
        let desired = known.map_or(Desired::Run, |StopRecord { since, deadline }| {
            Desired::Stop(Stop { cause: Cause::Deleted, since, deadline })
        });
        let checkpoint = Checkpoint { verdict, ..Checkpoint::default() };
        let view = View {
            pod: Arc::new(pod),
            desired,
            observed: Observed { checkpoint, ..Observed::default() },
            host_ips: Vec::new(),
            runtime: "r".into(),
            crash_back_off: CrashBackOff::default(),
        };
        let stop = termination(&view).unwrap();
        stop.deadline.duration_since(stop.since).as_secs()
    }

    #[test]
    fn hook_76_the_least_grace_that_was_ever_asked_for_holds() {
        for (deletions, verdict, own, expected) in [
            (&[60][..], None, Some(30), 60),
            (&[], Some(10), Some(30), 10),
            (&[], None, Some(30), 30),
            (&[60, 5], None, Some(30), 5),
            (&[5, 60], None, Some(30), 5),
            (&[60], Some(10), Some(30), 10),
            (&[5], Some(10), Some(30), 5),
            (&[0], None, Some(30), 1),
            (&[], Some(0), Some(30), 1),
            (&[], None, Some(0), 1),
            (&[], None, None, 1),
        ] {
            assert_eq!(effective(deletions, verdict, own), expected, "{deletions:?} {verdict:?} {own:?}");
        }
    }

    #[test]
    fn hook_76_a_grace_that_is_longer_than_the_calendar_has_no_end() {
        assert_eq!(stop(&pod(None, Some(i64::MAX)), None, at(0)).deadline, Timestamp::MAX);
        assert_eq!(later(at(0), SignedDuration::MAX), Timestamp::MAX);
        assert_eq!(later(at(0), SignedDuration::MIN), Timestamp::MIN);
        assert_eq!(later(at(0), SignedDuration::from_secs(30)), at(30));
    }

    #[test]
    fn hook_77_the_time_that_nobody_looked_counts() {
        // Deleted with thirty seconds; the agent comes back after twenty of them, or after all.
        assert_eq!(stop(&pod(Some((0, 30)), Some(30)), None, at(20)).deadline, at(30));
        assert_eq!(stop(&pod(Some((0, 30)), Some(30)), None, at(90)).deadline, at(91), "the floor is a second");
        // A clock that goes ahead of ours gives no more than was asked for.
        assert_eq!(stop(&pod(Some((100, 30)), Some(30)), None, at(0)).deadline, at(30));
    }
}
