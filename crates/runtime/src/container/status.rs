//! ContainerStatus and ListContainers, from memory.

use std::collections::BTreeMap;

use cri::v1::{
    Container as Listed, ContainerResources, ContainerState, ContainerStatus, ContainerStatusResponse, ContainerUser,
    ImageSpec, LinuxContainerUser, ListContainersRequest,
};

use crate::core::Core;
use crate::error::Error;
use crate::sandbox::status::has_labels;
use crate::state::{Container, Stage};

fn state(stage: Stage) -> i32 {
    match stage {
        Stage::Making | Stage::Created | Stage::Starting => ContainerState::ContainerCreated as i32,
        Stage::Running => ContainerState::ContainerRunning as i32,
        Stage::Exited => ContainerState::ContainerExited as i32,
    }
}

/// The image as the user named it, in its normal form (IMG-332); what the runtime was asked to run if nobody named it.
fn image(container: &Container) -> Option<ImageSpec> {
    container.record.config.image.clone().map(|mut image| {
        let named = normal_form(&image.user_specified_image);
        image.image = named.unwrap_or(image.image);
        image
    })
}

fn normal_form(named: &str) -> Option<String> {
    let parsed = reference::Reference::parse(named).map(|reference| reference.canonical());
    (!named.is_empty()).then(|| parsed.unwrap_or_else(|_| named.to_owned()))
}

/// The status of a container.
pub(crate) fn of(container: &Container) -> ContainerStatus {
    let (record, live) = (&container.record, container.live());
    let config = &record.config;
    let asked = config.linux.as_ref().and_then(|linux| linux.resources.clone());
    ContainerStatus {
        id: record.id.clone(),
        metadata: config.metadata.clone(),
        state: state(live.stage),
        created_at: record.created_at,
        started_at: live.started_at,
        finished_at: live.finished_at,
        exit_code: live.exit_code,
        image: image(container),
        image_ref: record.image_ref.clone(),
        reason: live.reason,
        message: live.message,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: config.mounts.clone(),
        log_path: record.log_path.to_string_lossy().into_owned(),
        resources: Some(ContainerResources { linux: live.resources.or(asked), windows: None }),
        image_id: record.image_id.clone(),
        user: container.identity().map(|identity| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: identity.uid.into(),
                gid: identity.gid.into(),
                supplemental_groups: identity.groups.iter().map(|group| i64::from(*group)).collect(),
            }),
        }),
        stop_signal: config.stop_signal,
    }
}

pub(crate) fn status(core: &Core, id: &str, is_verbose: bool) -> Result<ContainerStatusResponse, Error> {
    let container = core.state.container(id)?;
    let mut info = BTreeMap::new();
    if is_verbose {
        let text = serde_json::json!({
            "sandboxID": container.record.sandbox,
            "pid": container.live().pid,
            "cgroup": container.cgroup(),
            "bundle": core.layout.container_run(container.id()),
        });
        info.insert("info".into(), text.to_string());
    }
    Ok(ContainerStatusResponse { status: Some(of(&container)), info })
}

pub(crate) fn list(core: &Core, request: ListContainersRequest) -> Vec<Listed> {
    let filter = request.filter.unwrap_or_default();
    let listed = core.state.containers().into_iter().map(|container| listed(&container));
    listed
        .filter(|container| {
            container.id.starts_with(&filter.id)
                && container.pod_sandbox_id.starts_with(&filter.pod_sandbox_id)
                && filter.state.is_none_or(|state| state.state == container.state)
                && has_labels(&container.labels, &filter.label_selector)
        })
        .collect()
}

fn listed(container: &Container) -> Listed {
    let (record, config) = (&container.record, &container.record.config);
    Listed {
        id: record.id.clone(),
        pod_sandbox_id: record.sandbox.clone(),
        metadata: config.metadata.clone(),
        image: image(container),
        image_ref: record.image_ref.clone(),
        state: state(container.stage()),
        created_at: record.created_at,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        image_id: record.image_id.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_told_in_its_normal_form() {
        for (named, told) in [
            ("busybox", Some("docker.io/library/busybox:latest")),
            ("r.io:5000/team/app:1", Some("r.io:5000/team/app:1")),
            ("Not A Name", Some("Not A Name")),
            ("", None),
        ] {
            assert_eq!(normal_form(named).as_deref(), told, "{named}");
        }
    }
}
