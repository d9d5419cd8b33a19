//! The end of a pod whose `activeDeadlineSeconds` are over (HOOK-96).
//!
//! They count from the pod's start on the node, whatever its containers do. Start at [`is_over`].

use super::{Action, Draft, Entry, Notice};
use crate::pod::{checkpoint::Verdict, grace::later};
use jiff::SignedDuration;

const REASON: &str = "DeadlineExceeded";
const MESSAGE: &str = "Pod was active on the node longer than the specified deadline";

/// Whether the time is over: then the verdict is to be recorded, and nothing else is done before it holds. Wakes then.
pub(super) fn is_over(draft: &mut Draft<'_>) -> bool {
    let view = draft.view;
    let (Some(seconds), Some(start)) = (view.pod.spec.active_deadline_seconds, &view.pod.status.start_time) else {
        return false;
    };
    let over = later(start.0, SignedDuration::from_secs(seconds));
    if draft.now < over {
        draft.wake(over);
        return false;
    }
    draft.tell(Notice {
        key: "deadline".into(),
        warning: false,
        reason: REASON,
        message: MESSAGE.into(),
        container: None,
    });
    draft.actions.push(Action::Record(Entry::Verdict(Verdict {
        reason: REASON.into(),
        message: MESSAGE.into(),
        at: draft.now,
        grace_seconds: view.grace().as_secs(),
        is_disruption: false,
    })));
    true
}
