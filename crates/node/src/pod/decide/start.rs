//! One start of one container: image → create → start → postStart (POD-20, HOOK-32).
//!
//! Owns the order of these steps and the waiting reasons on the way; images are `image`'s. Start at [`step`].

use super::{Action, Draft, Notice, backoff, image};
use crate::{
    image::go_duration,
    object::{Container, ContainerKind},
    pod::view::{Fact, Record, RecordState, Sandbox},
};
use jiff::SignedDuration;

/// How far a container got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// On its way: its successors wait for it.
    Busy,
    /// It cannot go on now; its siblings need not wait.
    Stuck,
    /// Its process runs and postStart, if any, has ended well.
    Up,
    /// It ended and is not started again.
    Done,
}

/// Plans the next step towards a running container in this sandbox.
pub(super) fn step(draft: &mut Draft<'_>, kind: ContainerKind, container: &Container, sandbox: &Sandbox) -> Progress {
    let view = draft.view;
    let Some(record) = view.observed.newest(&container.name) else {
        return create(draft, container, sandbox, 0);
    };
    match &record.state {
        RecordState::Created if record.sandbox == sandbox.id => {
            draft.act(Action::StartContainer { id: record.id.clone(), container: container.name.clone() });
            Progress::Busy
        }
        RecordState::Created => create(draft, container, sandbox, record.step),
        RecordState::Running { .. } | RecordState::Unknown { .. } => running(draft, container, record),
        RecordState::Exited(exit) => {
            if record.sandbox == sandbox.id && !super::running::restarts(view, kind, container, record) {
                return Progress::Done;
            }
            // In a new sandbox init containers run again, app containers only if their policy says so.
            if kind == ContainerKind::App && !super::running::restarts(view, kind, container, record) {
                return Progress::Done;
            }
            if kind == ContainerKind::Ephemeral {
                return Progress::Done;
            }
            let changed_sandbox = record.sandbox != sandbox.id;
            let restart = backoff::restart(view.crash_back_off, record, exit);
            if restart.at > draft.now && !changed_sandbox && !is_outdated(container, record) {
                crash_loop(draft, container, record, restart.delay);
                draft.wake(restart.at);
                return Progress::Stuck;
            }
            create(draft, container, sandbox, if changed_sandbox { record.step } else { restart.step })
        }
    }
}

/// HOOK-91: the spec names another image than the record was made from.
pub(super) fn is_outdated(container: &Container, record: &Record) -> bool {
    !record.hash.is_empty() && record.hash != crate::config::hash(container)
}

fn running(draft: &mut Draft<'_>, container: &Container, record: &Record) -> Progress {
    if draft.view.observed.checkpoint.kills.contains_key(&record.id) {
        return Progress::Stuck;
    }
    if draft.owes_post_start(&record.id) {
        draft.act(Action::RunPostStart { id: record.id.clone(), container: container.name.clone() });
        return Progress::Busy;
    }
    Progress::Up
}

/// Has the image, then makes the container.
fn create(draft: &mut Draft<'_>, container: &Container, sandbox: &Sandbox, step: u32) -> Progress {
    let attempt = draft.view.next_attempt(&container.name);
    for progress in [image::own(draft, container, attempt), image::of_volumes(draft, container)] {
        if progress != Progress::Up {
            return progress;
        }
    }
    if draft.view.observed.volumes != Fact::Ready {
        return Progress::Stuck;
    }
    let action =
        Action::CreateContainer { container: container.name.clone(), attempt, sandbox: sandbox.id.clone(), step };
    let waits = draft.view.observed.retries.get(&action.key()).is_some_and(|retry| retry.at > draft.now);
    draft.act(action);
    if waits { Progress::Stuck } else { Progress::Busy }
}

/// POD-23.
fn crash_loop(draft: &mut Draft<'_>, container: &Container, record: &Record, delay: SignedDuration) {
    let (name, pod) = (&container.name, draft.view.pod.full_name());
    draft.wait(
        name,
        "CrashLoopBackOff",
        format!("back-off {} restarting failed container={name} pod={pod}", go_duration(delay)),
    );
    draft.tell(Notice {
        key: format!("crash-backoff/{}", record.id),
        warning: true,
        reason: "BackOff",
        message: format!("Back-off restarting failed container {name} in pod {pod}"),
        container: Some(name.clone()),
    });
}
