//! Having the images of a pod: of its containers and of its image volumes (IMG-40 … IMG-80, IMG-303, IMG-304).
//!
//! Owns when an image is asked for, the back-off between two pulls, and the words for whoever waits. One pull per image
//! string is in flight at a time: the next container with the same image asks when the first has its answer, and all
//! share the back-off (IMG-71). Start at [`own`] and [`of_volumes`].

use super::{Action, Draft, Notice, Verb, start::Progress};
use crate::{
    image::Failures,
    object::{Container, ContainerKind, Volume},
    pod::view::StartError,
};
use jiff::SignedDuration;

/// For this long a failed pull is shown as itself, then as back-off (IMG-54, IMG-55).
const SHOW_PULL_ERROR: SignedDuration = SignedDuration::from_secs(2);

/// Where an image stands that is not there yet.
enum State {
    /// It is asked for, or somebody else's question is waited for.
    Asked,
    /// It was refused and is asked for again later.
    Refused,
    /// The last pull failed, and it is too early for the next.
    BacksOff(Failures),
}

/// Asks at once for all that the pod will need: volumes in their order, then containers not started yet (IMG-253).
pub(super) fn prefetch(draft: &mut Draft<'_>) {
    let view = draft.view;
    for volume in view.pod.spec.volumes.iter().filter(|volume| volume.image.is_some()) {
        let mounts = |container: &Container| container.volume_mounts.iter().any(|mount| mount.name == volume.name);
        if view.containers().any(|(_, container)| mounts(container)) && !view.has_volume_image(volume) {
            of_volume(draft, volume);
        }
    }
    for (_, container) in view.containers() {
        if view.observed.newest(&container.name).is_none() {
            own(draft, container, view.next_attempt(&container.name));
        }
    }
}

/// `Up` once the container's own image for this attempt is there.
pub(super) fn own(draft: &mut Draft<'_>, container: &Container, attempt: u32) -> Progress {
    let observed = &draft.view.observed;
    let ready = observed.images.get(&container.name);
    if ready.is_some_and(|ready| ready.attempt == attempt && ready.image == container.image) {
        return Progress::Up;
    }
    // A container that could not be made is looked at again with its next try, its image first.
    let create = super::Key(Verb::CreateContainer, container.name.clone());
    if let Some(at) = observed.retries.get(&create).map(|retry| retry.at).filter(|at| *at > draft.now) {
        draft.wake(at);
        return Progress::Stuck;
    }
    let is_refused = observed.start_errors.contains_key(&container.name);
    let action = Action::EnsureImage { container: container.name.clone(), attempt };
    match ask(draft, action, &container.image, is_refused) {
        State::Asked => {
            tell_progress(draft, container, &container.image);
            Progress::Busy
        }
        State::Refused => Progress::Stuck,
        State::BacksOff(failures) => {
            backs_off(draft, container, &container.image, &failures, Some(&container.name));
            Progress::Stuck
        }
    }
}

/// `Up` once the images of all volumes that the container mounts are there. What fails stops this container only.
pub(super) fn of_volumes(draft: &mut Draft<'_>, container: &Container) -> Progress {
    let view = draft.view;
    for volume in view.image_volumes(container) {
        if view.has_volume_image(volume) {
            continue;
        }
        let Some(image) = volume.image.as_ref().map(|image| &image.reference) else { continue };
        match of_volume(draft, volume) {
            State::Asked => {
                tell_progress(draft, container, image);
                return Progress::Busy;
            }
            State::Refused => {
                if let Some(error) = view.observed.volume_errors.get(&volume.name) {
                    volume_refused(draft, container, volume, error);
                }
            }
            State::BacksOff(failures) => backs_off(draft, container, image, &failures, None),
        }
        return Progress::Stuck;
    }
    Progress::Up
}

fn of_volume(draft: &mut Draft<'_>, volume: &Volume) -> State {
    let image = volume.image.as_ref().map(|image| image.reference.clone()).unwrap_or_default();
    let is_refused = draft.view.observed.volume_errors.contains_key(&volume.name);
    ask(draft, Action::EnsureVolumeImage { volume: volume.name.clone() }, &image, is_refused)
}

/// Plans the action unless the back-off or somebody else's pull of the same image is in the way.
fn ask(draft: &mut Draft<'_>, action: Action, image: &str, is_refused: bool) -> State {
    let view = draft.view;
    if let Some(failures) = view.observed.image_failures.get(image) {
        let due = failures.due(&view.pod, &view.observed.heard);
        if due > draft.now {
            draft.wake(due);
            return State::BacksOff(failures.clone());
        }
    }
    let key = action.key();
    let is_pull = |key: &super::Key| matches!(key.0, Verb::EnsureImage | Verb::EnsureVolumeImage);
    let others = draft.in_flight.keys().cloned().chain(draft.actions.iter().map(Action::key));
    let same: Vec<_> = others.filter(|key| is_pull(key) && view.image_of(key) == Some(image)).collect();
    if same.is_empty() {
        draft.act(action);
    }
    let is_busy = draft.in_flight.contains_key(&key) || same.iter().any(|other| *other != key);
    if is_refused && !is_busy { State::Refused } else { State::Asked }
}

/// How far the pull is, once there is something to tell.
fn tell_progress(draft: &mut Draft<'_>, container: &Container, image: &str) {
    let view = draft.view;
    let Some(words) = view.observed.pulling.get(image) else { return };
    let kind = view.pod.container(&container.name).map(|(kind, _)| kind);
    let waits_for_init = !view.pod.spec.init_containers.is_empty() && kind != Some(ContainerKind::Ephemeral);
    draft.wait(&container.name, if waits_for_init { "PodInitializing" } else { "ContainerCreating" }, words.clone());
}

/// IMG-52: the failure itself first, then the back-off with what is waited for. `about` is the container whose own
/// image it is; without one it is a volume's, of which the pod is told (IMG-303).
fn backs_off(draft: &mut Draft<'_>, container: &Container, image: &str, failures: &Failures, about: Option<&str>) {
    let shown_until = failures.last + SHOW_PULL_ERROR;
    let key = |what: &str, of: &str| format!("{what}/{of}/{image}/{}", failures.last);
    if draft.now < shown_until {
        draft.wake(shown_until);
        draft.wait(&container.name, &failures.reason, failures.message.clone());
        if about.is_none() {
            tell_error(draft, container, key("volume-error", &container.name), &failures.reason);
        }
        return;
    }
    let (outlook, changes_at) = failures.outlook(draft.now);
    draft.wake(changes_at);
    draft.wait(
        &container.name,
        "ImagePullBackOff",
        format!("Back-off pulling image {image:?}: {}: {}; {outlook}", failures.reason, failures.message),
    );
    draft.tell(Notice {
        key: key("pull-backoff", about.unwrap_or_default()),
        warning: false,
        reason: "BackOff",
        message: format!("Back-off pulling image {image:?}"),
        container: about.map(str::to_owned),
    });
    tell_error(draft, container, key("pull-backoff-error", &container.name), "ImagePullBackOff");
}

/// IMG-304: the container waits in the words of the volume's image.
fn volume_refused(draft: &mut Draft<'_>, container: &Container, volume: &Volume, error: &StartError) {
    draft.wait(&container.name, &error.reason, error.message.clone());
    let key = format!("volume-error/{}/{}/{}", container.name, volume.name, error.at);
    tell_error(draft, container, key, &error.reason);
}

fn tell_error(draft: &mut Draft<'_>, container: &Container, key: String, reason: &str) {
    let message = format!("Error: {reason}");
    let container = Some(container.name.clone());
    draft.tell(Notice { key, warning: true, reason: "Failed", message, container });
}
