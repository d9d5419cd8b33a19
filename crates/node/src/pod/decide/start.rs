//! One start of one container: image → create → start → postStart (POD-20, HOOK-32).
//!
//! Owns the order of these steps, the waiting reasons on the way and the image back-off. Start at [`step`].

use super::{Action, Draft, Notice, backoff};
use crate::{
    image::{Failures, go_duration},
    object::{Container, ContainerKind},
    pod::view::{Fact, Record, RecordState, Sandbox},
};
use jiff::SignedDuration;

/// For this long a failed pull is shown as itself, then as back-off (IMG-54, IMG-55).
const SHOW_PULL_ERROR: SignedDuration = SignedDuration::from_secs(2);

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

/// Asks for the images of all containers that have not been started yet (IMG-253).
pub(super) fn prefetch(draft: &mut Draft<'_>) {
    let view = draft.view;
    for (_, container) in view.containers() {
        if view.observed.newest(&container.name).is_none() {
            image(draft, container, view.next_attempt(&container.name));
        }
    }
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
        RecordState::Running { .. } => running(draft, container, record),
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
            let restart = backoff::restart(record, exit);
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
    let progress = image(draft, container, attempt);
    if progress != Progress::Up {
        return progress;
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

/// `Up` once the image for this attempt is there.
fn image(draft: &mut Draft<'_>, container: &Container, attempt: u32) -> Progress {
    let view = draft.view;
    let ready = view.observed.images.get(&container.name);
    if ready.is_some_and(|ready| ready.attempt == attempt && ready.image == container.image) {
        return Progress::Up;
    }
    let failures = view.observed.image_failures.get(&container.image);
    if let Some(failures) = failures.filter(|failures| failures.until() > draft.now) {
        let failures = failures.clone();
        pull_backs_off(draft, container, &failures);
        return Progress::Stuck;
    }
    // Two containers with one image: the second asks when the first has its answer.
    let taken = view.containers().any(|(_, other)| {
        other.name != container.name
            && other.image == container.image
            && (draft.is_busy(super::Verb::EnsureImage, &other.name)
                || draft
                    .actions
                    .iter()
                    .any(|action| matches!(action, Action::EnsureImage { container, .. } if *container == other.name)))
    });
    if !taken
        && !draft.actions.iter().any(|a| matches!(a, Action::EnsureImage { container: c, .. } if *c == container.name))
    {
        draft.act(Action::EnsureImage { container: container.name.clone(), attempt });
    }
    let refused = view.observed.start_errors.contains_key(&container.name)
        && !draft.is_busy(super::Verb::EnsureImage, &container.name);
    if refused && !taken { Progress::Stuck } else { Progress::Busy }
}

/// IMG-52: the failure itself first, then the back-off, woken at its end.
fn pull_backs_off(draft: &mut Draft<'_>, container: &Container, failures: &Failures) {
    draft.wake(failures.until());
    let shown_until = failures.last + SHOW_PULL_ERROR;
    if draft.now < shown_until {
        draft.wake(shown_until);
        draft.wait(&container.name, &failures.reason, failures.message.clone());
        return;
    }
    let image = &container.image;
    draft.wait(
        &container.name,
        "ImagePullBackOff",
        format!("Back-off pulling image {image:?}: {}: {}", failures.reason, failures.message),
    );
    let key = |what: &str| format!("{what}/{}/{}/{}", container.name, image, failures.last);
    draft.tell(Notice {
        key: key("pull-backoff"),
        warning: false,
        reason: "BackOff",
        message: format!("Back-off pulling image {image:?}"),
        container: Some(container.name.clone()),
    });
    draft.tell(Notice {
        key: key("pull-backoff-error"),
        warning: true,
        reason: "Failed",
        message: "Error: ImagePullBackOff".into(),
        container: Some(container.name.clone()),
    });
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
