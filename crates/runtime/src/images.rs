//! The image verbs: CRI's words for what the images room does.
//!
//! Owns the mapping of errors to texts and codes (IMG-51). Must not decide when to pull: that is the node's.

use cri::v1::{
    AuthConfig, FilesystemIdentifier, FilesystemUsage, Image as Listed, ImageFsInfoResponse, ImageSpec, Int64Value,
    PullImageRequest, UInt64Value,
};
use images::{Credential, Image, ProgressSink, PullError, PullRequest, RemoveError};
use tonic::Status;
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::clock;
use crate::core::Core;
use crate::record::ContainerRecord;
use crate::sandbox::run::report;

/// gRPC metadata with this prefix are headers for the registry (IMG-163).
const HEADER_PREFIX: &str = "sampan-registry-header-";

/// Headers that nobody may set from outside.
const FORBIDDEN: [&str; 3] = ["authorization", "host", "cookie"];

/// An image as CRI tells it.
pub(crate) fn listed(image: &Image) -> Listed {
    let user = image.config.user.split(':').next().unwrap_or_default();
    let uid = user.parse().ok().map(|value| Int64Value { value });
    let name = image.tags.first().or(image.digests.first()).unwrap_or(&image.id);
    Listed {
        id: image.id.clone(),
        repo_tags: image.tags.clone(),
        repo_digests: image.digests.clone(),
        size: image.size_bytes,
        username: if uid.is_none() { user.to_owned() } else { String::new() },
        uid,
        spec: Some(ImageSpec { image: name.clone(), ..ImageSpec::default() }),
        pinned: image.pinned,
    }
}

/// All images, or the one that the filter names.
pub(crate) fn list(core: &Core, wanted: Option<ImageSpec>) -> Vec<Listed> {
    match wanted.filter(|spec| !spec.image.is_empty()) {
        Some(spec) => core.images.resolve(&spec.image).iter().map(|image| listed(image)).collect(),
        None => core.images.list().iter().map(|image| listed(image)).collect(),
    }
}

/// Pulls; returns the image's id. Dropping the caller's future gives the pull up, unless another one joined it.
pub(crate) async fn pull(core: &Core, request: PullImageRequest, metadata: &MetadataMap) -> Result<String, Status> {
    let ImageSpec { image, runtime_handler, .. } = request.image.unwrap_or_default();
    // IMG-321: every handler runs the same images; one that nobody knows runs none.
    core.handlers.find(&runtime_handler)?;
    let pull = PullRequest { image, credential: request.auth.map(credential), headers: headers(metadata) };
    let cancel = core.cancel.child_token();
    let _given_up = cancel.clone().drop_guard();
    let pulled = core.images.pull(pull, ProgressSink::none(), cancel).await;
    pulled.map(|image| image.id.clone()).map_err(|error| refused(&error))
}

fn credential(auth: AuthConfig) -> Credential {
    Credential {
        username: auth.username,
        password: auth.password,
        auth: auth.auth,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
        server_address: auth.server_address,
    }
}

fn headers(metadata: &MetadataMap) -> Vec<(String, String)> {
    let given = metadata.iter().filter_map(|entry| match entry {
        tonic::metadata::KeyAndValueRef::Ascii(key, value) => {
            let name = key.as_str().strip_prefix(HEADER_PREFIX)?;
            Some((name.to_owned(), value.to_str().ok()?.to_owned()))
        }
        tonic::metadata::KeyAndValueRef::Binary(..) => None,
    });
    given.filter(|(name, _)| !FORBIDDEN.contains(&name.as_str())).collect()
}

/// gRPC metadata of a failed pull: the class of its error and the host at which it happened.
const CLASS_KEY: &str = "sampan-error-class";
const HOST_KEY: &str = "sampan-error-host";

/// Clients tell classes of errors by the beginning of the text (IMG-51), or by the metadata.
pub(crate) fn refused(error: &PullError) -> Status {
    let mut status = worded(error);
    status.metadata_mut().insert(CLASS_KEY, MetadataValue::from_static(error.class()));
    // A host that is no ASCII text cannot be told here; the status's own text has it.
    if let Some(host) = error.host().and_then(|host| MetadataValue::try_from(host).ok()) {
        status.metadata_mut().insert(HOST_KEY, host);
    }
    status
}

fn worded(error: &PullError) -> Status {
    let text = report(error);
    match error {
        PullError::NotFound { .. } => Status::not_found(text),
        PullError::InvalidName { .. } => Status::invalid_argument(text),
        PullError::Dns { .. }
        | PullError::Refused { .. }
        | PullError::TimedOut { .. }
        | PullError::ServerError { .. }
        | PullError::RegistryUnavailable { .. } => Status::unknown(format!("RegistryUnavailable: {text}")),
        _ => Status::unknown(text),
    }
}

/// Removes an image; one that is not there is fine.
pub(crate) async fn remove(core: &Core, spec: Option<ImageSpec>) -> Result<(), Status> {
    let name = spec.unwrap_or_default().image;
    let Some(image) = core.images.resolve(&name) else { return Ok(()) };
    let users = core.state.containers().into_iter().filter(|container| uses(&container.record, &image.id)).count();
    if users > 0 {
        return Err(Status::failed_precondition(format!("image {name:?} is in use by {users} containers")));
    }
    match core.images.remove(&name).await {
        // Somebody else was faster (IMG-266).
        Err(RemoveError::NotFound { .. }) => Ok(()),
        removed => removed.map_err(|error| unremoved(&error)),
    }
}

/// True if a container runs this image or has it mounted (IMG-307).
fn uses(record: &ContainerRecord, id: &str) -> bool {
    record.image_id == id || record.volume_images.iter().any(|volume| volume == id)
}

/// Why an image was not touched.
pub(crate) fn unremoved(error: &RemoveError) -> Status {
    let text = report(error);
    match error {
        RemoveError::NotFound { .. } => Status::not_found(text),
        RemoveError::BeingPulled { .. } => Status::failed_precondition(text),
        RemoveError::Io { .. } => Status::unknown(text),
    }
}

/// What is known of an image beyond what CRI has fields for, as JSON.
pub(crate) fn detail(image: &Image) -> String {
    let config = &image.config;
    let text = serde_json::json!({
        "platform": image.platform.to_string(),
        "created": image.created,
        "pulledAt": image.pulled_at.to_string(),
        "layers": image.layers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "config": {
            "user": config.user, "env": config.env, "entrypoint": config.entrypoint, "cmd": config.cmd,
            "workingDir": config.working_dir, "stopSignal": config.stop_signal, "labels": config.labels,
            "volumes": config.volumes, "exposedPorts": config.exposed_ports,
        },
    });
    text.to_string()
}

/// What images and containers' own files take. Who asks is about to make room: what nobody needs goes before.
pub(crate) fn fs_info(core: &Core) -> ImageFsInfoResponse {
    if let Err(error) = core.images.relieve() {
        tracing::warn!(%error, "remove what failed pulls have left");
    }
    let timestamp = clock::now_nanoseconds();
    let entry = |path: std::path::PathBuf, bytes: u64, inodes: u64| FilesystemUsage {
        timestamp,
        fs_id: Some(FilesystemIdentifier { mountpoint: path.to_string_lossy().into_owned() }),
        used_bytes: Some(UInt64Value { value: bytes }),
        inodes_used: Some(UInt64Value { value: inodes }),
    };
    let usage = core.images.usage();
    ImageFsInfoResponse {
        image_filesystems: vec![entry(core.layout.data.join("images"), usage.bytes, usage.inodes)],
        container_filesystems: vec![entry(core.layout.data.join("runtime"), 0, 0)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use images::Attempt;

    #[test]
    fn a_failed_pull_tells_its_class_and_its_host_beside_its_text() {
        let tried =
            vec![Attempt { host: "https://r.io:5000".into(), failure: "401 Unauthorized".into(), is_decisive: true }];
        let status = refused(&PullError::AccessDenied { reference: "r.io:5000/a:b".into(), tried });
        let word = |key| status.metadata().get(key).map(|value| value.to_str().unwrap());
        assert_eq!((word(CLASS_KEY), word(HOST_KEY)), (Some("credentials"), Some("https://r.io:5000")));
        let status = refused(&PullError::DiskFull { doing: "keeping a layer".into() });
        let word = |key| status.metadata().get(key).map(|value| value.to_str().unwrap());
        assert_eq!((word(CLASS_KEY), word(HOST_KEY)), (Some("disk"), None));
    }
}
