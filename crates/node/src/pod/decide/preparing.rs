//! Preparing: cgroup, volumes, images and the sandbox, all at once.
//!
//! Owns when a sandbox is good, and what happens when it died (POD-9 … POD-11). Images are prefetched at bind
//! (IMG-253), so that the sandbox and the slowest pull overlap.

use super::{Action, Draft, Notice, stopping};
use crate::pod::view::{Fact, Sandbox};
use jiff::SignedDuration;

/// How long volumes are waited for before that is told: two minutes and the three seconds of an attempt.
const VOLUMES_SECONDS: i64 = 123;

/// Plans what is missing before containers can start; the sandbox once it is ready.
pub(super) fn plan(draft: &mut Draft<'_>) -> Option<Sandbox> {
    let observed = &draft.view.observed;
    if observed.volumes != Fact::Ready {
        tell_late_volumes(draft);
        draft.act(Action::PrepareVolumes);
    }
    let observed = &draft.view.observed;
    super::image::prefetch(draft);
    let newest = observed.newest_sandbox().cloned();
    match newest {
        Some(sandbox) if is_good(draft, &sandbox) => Some(sandbox),
        Some(sandbox) => {
            replace(draft, &sandbox);
            None
        }
        None => {
            create(draft, 0);
            None
        }
    }
}

/// POD-6: each single failure is told as it happens; that there are still no volumes, every two minutes.
fn tell_late_volumes(draft: &mut Draft<'_>) {
    let view = draft.view;
    let Some(retry) = view.observed.retries.get(&Action::PrepareVolumes.key()) else { return };
    let rounds = draft.now.duration_since(retry.since).as_secs() / VOLUMES_SECONDS;
    draft.wake(retry.since + SignedDuration::from_secs(VOLUMES_SECONDS * (rounds + 1)));
    if rounds == 0 {
        return;
    }
    let volumes = view.pod.spec.volumes.iter().filter(|volume| volume.image.is_none());
    let names: Vec<&str> = volumes.map(|volume| volume.name.as_str()).collect();
    draft.tell(Notice {
        key: format!("volumes-late/{}/{rounds}", retry.since),
        warning: true,
        reason: "FailedMount",
        message: format!(
            "Unable to attach or mount volumes: unmounted volumes=[{}], unattached volumes=[], \
             failed to process volumes=[]: context deadline exceeded",
            names.join(" ")
        ),
        container: None,
    });
}

fn is_good(draft: &Draft<'_>, sandbox: &Sandbox) -> bool {
    sandbox.ready && (draft.view.pod.spec.host_network || !sandbox.ips.is_empty())
}

fn create(draft: &mut Draft<'_>, attempt: u32) {
    if draft.view.observed.cgroup == Fact::Ready {
        draft.act(Action::CreateSandbox { attempt });
    } else {
        draft.act(Action::EnsureCgroup);
    }
}

/// POD-11: kill what still lives in the dead sandbox, stop it, then make the next one.
fn replace(draft: &mut Draft<'_>, dead: &Sandbox) {
    draft.tell(Notice {
        key: format!("sandbox-changed/{}", dead.id),
        warning: false,
        reason: "SandboxChanged",
        message: "Pod sandbox changed, it will be killed and re-created.".into(),
        container: None,
    });
    let live: Vec<_> = draft.view.observed.running().map(|record| record.id.clone()).collect();
    for id in &live {
        stopping::kill_while_alive(draft, id, "Pod sandbox changed, it will be killed and re-created.");
    }
    if !live.is_empty() {
        return;
    }
    let unstopped: Vec<String> = draft.view.observed.sandboxes.keys().cloned().collect();
    let unstopped: Vec<String> =
        unstopped.into_iter().filter(|id| !draft.view.observed.sandboxes_stopped.contains(id)).collect();
    if unstopped.is_empty() {
        return create(draft, dead.attempt + 1);
    }
    for id in unstopped {
        draft.act(Action::StopSandbox { id });
    }
}
