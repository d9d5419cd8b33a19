//! The status of one container from the ledger, the start errors and the probes (POD-31 … POD-39, IMG-330 … IMG-332).

use crate::{
    object::{
        Container, ContainerKind, ContainerState, ContainerStatus, ContainerUser, ImageVolumeStatus, StateRunning,
        StateTerminated, StateWaiting, Time, VolumeMount, VolumeMountStatus, VolumeStatus,
    },
    pod::{
        checkpoint::HookRun,
        decide::{Stage, Waiting, is_initialised, policy_restarts, restart_all, restarts, termination},
        view::{Record, RecordState, View},
    },
};

/// `reason` of an end that nobody saw.
const UNKNOWN: &str = "ContainerStatusUnknown";
/// POD-35, with upstream's two spaces.
const GONE: &str = "The container could not be located when the pod was deleted.  The container used to be Running";

/// The status of `container`.
pub(super) fn status(
    view: &View,
    stage: Stage,
    kind: ContainerKind,
    container: &Container,
    waiting: Option<&Waiting>,
) -> ContainerStatus {
    let records = view.observed.records(&container.name);
    let Some(newest) = records.first() else { return unseen(view, stage, kind, container, waiting) };
    let mut state = state_of(view, container, newest);
    let mut last_state =
        records.get(1).map(|older| state_of(view, container, older)).unwrap_or_else(|| remembered(view, newest));
    // POD-34: what is due to start again waits with a reason, and its end becomes the last state.
    let restarting = restarts(view, kind, container, newest) && termination(view).is_none();
    // Of a container that only starts again because it became another one nobody sees the end (HOOK-91, POD-40).
    let ended_for_good = newest.exit().is_some_and(|exit| {
        !policy_restarts(&view.pod.spec.restart_policy, kind, container, exit.code) && kind == ContainerKind::App
    });
    let words = waiting.cloned().or_else(|| ended_for_good.then(|| default_words(view)));
    if let Some(waiting) = words.filter(|_| restarting && state.running.is_none()) {
        if state.terminated.is_some() {
            last_state = state;
        }
        state = wait(&waiting.reason, &waiting.message);
    }
    let running = state.running.is_some();
    let started = running && view.is_started(container, newest);
    ContainerStatus {
        name: container.name.clone(),
        ready: ready(view, kind, container, newest, started),
        started: Some(started),
        restart_count: restart_count(view, container, newest),
        image: image_name(container, newest),
        image_id: newest.image_ref.clone(), // IMG-331
        container_id: full_id(view, newest),
        state,
        last_state,
        volume_mounts: volume_mounts(view, container, newest),
        // POD-41: what a container has is what its spec says, because it is never resized while it runs.
        allocated_resources: container.resources.requests.clone(),
        resources: Some(container.resources.clone()),
        user: newest.user.clone().map(|linux| ContainerUser { linux: Some(linux) }),
        stop_signal: newest.stop_signal.clone(),
    }
}

/// The end of an instance of which there is no record any more, as the API knows it.
fn remembered(view: &View, newest: &Record) -> ContainerState {
    let known = view.known_status(&newest.name);
    let is_next =
        |known: &&ContainerStatus| known.container_id.is_empty() || known.container_id == full_id(view, newest);
    known.filter(is_next).map(|known| known.last_state.clone()).unwrap_or_default()
}

/// POD-36: as the container's annotation says; never less than before. A lost one counts as restarted (POD-33).
fn restart_count(view: &View, container: &Container, record: &Record) -> i32 {
    let known = view.known_status(&container.name);
    let was_running = known.is_some_and(|known| known.state.running.is_some());
    let is_lost = matches!(record.state, RecordState::Unknown { .. }) && was_running;
    let count = i32::try_from(record.restarts).unwrap_or(i32::MAX);
    let known = known.map_or(0, |known| known.restart_count);
    count.saturating_add(i32::from(is_lost)).max(known)
}

/// What became of mounts that could have become something else: of images (IMG-309), and of those that asked to be
/// read-only all the way down (RTC-51).
fn volume_mounts(view: &View, container: &Container, newest: &Record) -> Vec<VolumeMountStatus> {
    let images = &view.observed.checkpoint.volume_images;
    let of_mount = |mount: &VolumeMount| {
        let image = images.get(&mount.name).map(|image| ImageVolumeStatus { image_ref: image.digest.clone() });
        let is_below = newest.read_only_below.contains(&mount.mount_path);
        let below = match &*mount.recursive_read_only {
            "" => "",
            _ if is_below => "Enabled",
            _ => "Disabled",
        };
        (image.is_some() || !below.is_empty()).then(|| VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: image.is_some() || mount.read_only,
            recursive_read_only: below.to_owned(),
            volume_status: image.map(|image| VolumeStatus { image: Some(image) }),
        })
    };
    container.volume_mounts.iter().filter_map(of_mount).collect()
}

/// A container that never was, because the node would not have its pod: it ended for the same reason.
fn refused(view: &View) -> Option<ContainerState> {
    let verdict = view.observed.checkpoint.verdict.as_ref()?;
    let ContainerState { terminated, .. } = vanished();
    let (reason, message) = (verdict.reason.clone(), verdict.message.clone());
    let terminated = terminated.map(|end| StateTerminated { reason, message, ..end });
    Some(ContainerState { terminated, ..ContainerState::default() })
}

/// `<runtime>://<id>`, the runtime in its own words (CRI Version).
fn full_id(view: &View, record: &Record) -> String {
    format!("{}://{}", view.runtime, record.id)
}

/// A container without a record.
fn unseen(
    view: &View,
    stage: Stage,
    kind: ContainerKind,
    container: &Container,
    waiting: Option<&Waiting>,
) -> ContainerStatus {
    let known = view.known_status(&container.name);
    // An ended pod's last known ends stay as they were, and so do inits whose records were collected (POD-14).
    let stays = view.pod.is_terminal() || (kind == ContainerKind::Init && is_initialised(view));
    if let Some(known) = known.filter(|known| stays && known.state.terminated.is_some()) {
        return known.clone();
    }
    let begins_anew = restart_all::trigger(view).is_some() && kind != ContainerKind::Ephemeral;
    let lost = known.is_some_and(|known| known.state.running.is_some());
    let settled = super::is_settled(view, stage);
    let state = match waiting {
        _ if begins_anew => wait(restart_all::REASON, restart_all::MESSAGE),
        _ if settled && !lost => refused(view).unwrap_or_else(vanished),
        _ if settled => vanished(),
        Some(waiting) => wait(&waiting.reason, &waiting.message),
        None if !view.pod.spec.init_containers.is_empty() && kind != ContainerKind::Ephemeral => {
            wait("PodInitializing", "")
        }
        None => wait("ContainerCreating", ""),
    };
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone(),
        last_state: match known {
            Some(known) if begins_anew && !known.container_id.is_empty() => {
                ended_as(restart_all::REASON, restart_all::MESSAGE)
            }
            _ if lost && !settled => ended_as(UNKNOWN, GONE),
            Some(known) if !settled => known.last_state.clone(),
            _ => ContainerState::default(),
        },
        restart_count: known.map_or(0, |known| {
            // POD-35, HOOK-106: the start that is to follow counts already.
            let counts = !known.container_id.is_empty() && (begins_anew || (lost && !view.pod.is_deleting()));
            known.restart_count.saturating_add(i32::from(counts && !settled))
        }),
        started: Some(false),
        state,
        ..ContainerStatus::default()
    }
}

/// POD-33. While postStart runs the container is not Running for clients (HOOK-34).
fn state_of(view: &View, container: &Container, record: &Record) -> ContainerState {
    match &record.state {
        RecordState::Created => wait("", ""),
        RecordState::Unknown { .. } => match view.known_status(&container.name).map(|known| &known.state) {
            Some(known) if known.running.is_some() => vanished(),
            Some(known) if known.terminated.as_ref().is_some_and(|end| end.reason == UNKNOWN) => known.clone(),
            _ => wait("", ""),
        },
        RecordState::Running { started_at } => match view.observed.post_start(&record.id) {
            None | Some(HookRun::Finished(_, None)) => ContainerState {
                running: Some(StateRunning { started_at: Some(Time::from(*started_at)) }),
                ..ContainerState::default()
            },
            Some(HookRun::Finished(_, Some(error))) => wait("PostStartHookError", error),
            Some(_) => default_wait(view),
        },
        RecordState::Exited(exit) => ContainerState {
            terminated: Some(StateTerminated {
                exit_code: exit.code,
                reason: exit.reason.clone(),
                message: last_words(view, record, &exit.message),
                started_at: exit.started_at.map(Time::from),
                finished_at: Some(Time::from(exit.finished_at)),
                container_id: full_id(view, record),
                ..StateTerminated::default()
            }),
            ..ContainerState::default()
        },
    }
}

fn default_wait(view: &View) -> ContainerState {
    wait(&default_words(view).reason, "")
}

fn default_words(view: &View) -> Waiting {
    let reason = if view.pod.spec.init_containers.is_empty() { "ContainerCreating" } else { "PodInitializing" };
    Waiting { reason: reason.to_owned(), message: String::new() }
}

fn wait(reason: &str, message: &str) -> ContainerState {
    let waiting = StateWaiting { reason: reason.to_owned(), message: message.to_owned() };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

/// HOOK-85: the end of a container of which nothing is known.
fn vanished() -> ContainerState {
    ended_as(UNKNOWN, "The container could not be located when the pod was terminated")
}

fn ended_as(reason: &str, message: &str) -> ContainerState {
    let (reason, message) = (reason.to_owned(), message.to_owned());
    let terminated = StateTerminated { exit_code: 137, reason, message, ..StateTerminated::default() };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

/// POD-39.
fn ready(view: &View, kind: ContainerKind, container: &Container, record: &Record, started: bool) -> bool {
    match kind {
        ContainerKind::Init => record.exit().is_some_and(|exit| exit.code == 0),
        _ if container.readiness_probe.is_none() => started,
        _ => started && view.observed.probes.get(&record.id).is_some_and(|probed| probed.ready),
    }
}

/// IMG-332: the user's own words for the image, in full form, not another name that the runtime knows it by.
fn image_name(container: &Container, record: &Record) -> String {
    let full = reference::apply_default_tag(&container.image).and_then(|image| reference::Reference::parse(&image));
    match full {
        Ok(parsed) => parsed.canonical(),
        Err(_) if record.image.is_empty() => container.image.clone(),
        Err(_) => record.image.clone(),
    }
}

/// POD-38: the runtime's text and the container's own, joined.
fn last_words(view: &View, record: &Record, runtime_text: &str) -> String {
    let own = view.observed.last_words.get(&record.id).map_or("", String::as_str);
    if own.is_empty() && runtime_text.is_empty() {
        return known_words(view, record);
    }
    let parts: Vec<&str> = [runtime_text, own].into_iter().filter(|text| !text.is_empty()).collect();
    parts.join(": ")
}

/// What the API remembers of this record's end, for after a restart of the agent.
fn known_words(view: &View, record: &Record) -> String {
    let id = full_id(view, record);
    let status = &view.pod.status;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses);
    let ends = all.flat_map(|s| [&s.state.terminated, &s.last_state.terminated]).flatten();
    ends.filter(|end| end.container_id == id).map(|end| end.message.clone()).next().unwrap_or_default()
}
