//! CreateContainer: record, root file system, OCI document. The OCI runtime itself is run by StartContainer.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cri::v1::{
    ContainerConfig, ContainerEventType, CreateContainerRequest, Device, MountPropagation, NamespaceMode,
    security_profile::ProfileType,
};
use reference::Reference;

use super::volumes;
use crate::clock;
use crate::core::Core;
use crate::error::Error;
use crate::oci::{self, HostDevice, Inputs, Namespaces, PidNamespace, user};
use crate::record::{self, ContainerRecord, IDENTITY, MADE, SandboxRecord};
use crate::rootfs::Rootfs;
use crate::sandbox;
use crate::state::{Container, Phase, Sandbox, Stage, fresh_id};

/// Makes a container in a ready sandbox; returns its id.
pub(crate) async fn create(core: Arc<Core>, request: CreateContainerRequest) -> Result<String, Error> {
    let sandbox = core.state.sandbox(&request.pod_sandbox_id)?;
    if sandbox.live().phase != Phase::Ready {
        return Err(not_ready(&sandbox));
    }
    let mut config = request.config.ok_or_else(|| Error::Invalid("no container configuration".into()))?;
    let named = config.image.clone().unwrap_or_default();
    let image = core.images.resolve(&named.image).ok_or(Error::NoImage(named.image))?;
    let volumes = volumes::resolve(&core, &mut config)?;
    let mut record = plan(&sandbox, config, &image)?;
    record.volume_images = volumes.iter().map(|image| image.id.clone()).collect();
    let layers = std::iter::once(&image).chain(&volumes).map(|image| core.images.hold(image)).collect();
    let container = Arc::new(Container::new(record, sandbox, Stage::Making, layers));
    let _verb = container.verbs.lock().await;
    core.state.insert_container(&container)?;
    if container.sandbox.live().phase != Phase::Ready {
        // Its removal may have looked for containers before this one was there.
        core.state.forget_container(container.id());
        return Err(not_ready(&container.sandbox));
    }
    let (inner, own) = (core.clone(), container.clone());
    let made = tokio::task::spawn_blocking(move || make(&inner, &own, &image, &volumes)).await;
    match made.unwrap_or_else(|error| Err(Error::step("create the container", error))) {
        Ok(()) => {
            container.change(|live| live.stage = Stage::Created);
            core.tell(&container, ContainerEventType::ContainerCreatedEvent);
            Ok(container.record.id.clone())
        }
        Err(error) => {
            if let Err(undo) = super::remove::unmake(&core, &container).await {
                tracing::warn!(container = container.id(), error = %undo, "undo a container that failed");
            }
            core.state.forget_container(container.id());
            Err(error)
        }
    }
}

fn not_ready(sandbox: &Sandbox) -> Error {
    Error::WrongState(format!("sandbox {} is not ready", sandbox.id()))
}

fn plan(sandbox: &Sandbox, config: ContainerConfig, image: &images::Image) -> Result<ContainerRecord, Error> {
    if config.metadata.as_ref().is_none_or(|metadata| metadata.name.is_empty()) {
        return Err(Error::Invalid("the container has no name".into()));
    }
    let directory = Path::new(&sandbox.record.config.log_directory);
    let log_path = if config.log_path.is_empty() || directory.as_os_str().is_empty() {
        PathBuf::new()
    } else {
        directory.join(&config.log_path)
    };
    let named = config.image.as_ref().map_or("", |image| image.user_specified_image.as_str());
    Ok(ContainerRecord {
        id: fresh_id()?,
        sandbox: sandbox.record.id.clone(),
        created_at: clock::now_nanoseconds(),
        image_id: image.id.clone(),
        image_ref: own_digest(&image.digests, named).unwrap_or(&image.id).clone(),
        volume_images: Vec::new(),
        stop_signal: super::signal::stop_signal(config.stop_signal, &image.config.stop_signal),
        log_path,
        config,
    })
}

/// The digest in the repository that the user named, else any (IMG-331, IMG-332).
pub(super) fn own_digest<'a>(digests: &'a [String], named: &str) -> Option<&'a String> {
    let named = Reference::parse(named).map(|reference| reference.repository()).unwrap_or_default();
    let is_own = |digest: &&String| digest.split_once('@').is_some_and(|(repository, _)| repository == named);
    digests.iter().find(is_own).or(digests.first())
}

fn make(
    core: &Core,
    container: &Container,
    image: &images::Image,
    volumes: &[Arc<images::Image>],
) -> Result<(), Error> {
    let record = &container.record;
    let data = core.layout.container_data(&record.id);
    record::store(&data, record).map_err(Error::file("write the record in", &data))?;
    let bundle = core.layout.container_run(&record.id);
    let rootfs = Rootfs { layers: core.images.layers(image), scratch: data.clone(), target: bundle.join("rootfs") };
    rootfs.mount()?;
    make_mount_sources(&record.config)?;
    let identity = identity(&record.config, image, &rootfs.target)?;
    let volumes = volumes::mount(core, container, volumes)?;
    let spec = document(core, container, image, Parts { rootfs: &rootfs.target, volumes, identity: identity.clone() })?;
    let text = serde_json::to_vec(&spec).map_err(|error| Error::step("write config.json", error))?;
    let path = bundle.join("config.json");
    fs::write(&path, text).map_err(Error::file("write", path))?;
    let path = data.join(IDENTITY);
    let text = serde_json::to_vec(&identity).map_err(|error| Error::step("write the identity", error))?;
    record::write(&path, &text).map_err(Error::file("write", path))?;
    container.recall(identity);
    if let Some(directory) = record.log_path.parent() {
        fs::create_dir_all(directory).map_err(Error::file("make directory", directory))?;
    }
    let made = data.join(MADE);
    record::write(&made, b"").map_err(Error::file("write", made))
}

/// A source that is missing becomes a directory, as other runtimes do.
fn make_mount_sources(config: &ContainerConfig) -> Result<(), Error> {
    for mount in &config.mounts {
        if mount.image.is_some() {
            continue;
        }
        if mount.recursive_read_only
            && !(mount.readonly && mount.propagation == MountPropagation::PropagationPrivate as i32)
        {
            let text = format!("mount to {:?} can be read-only all the way down only if it is", mount.container_path);
            return Err(Error::Invalid(format!("{text} read-only and private")));
        }
        let source = Path::new(&mount.host_path);
        if !source.is_absolute() || mount.container_path.is_empty() {
            return Err(Error::Invalid(format!(
                "mount {:?} to {:?} is not absolute",
                mount.host_path, mount.container_path
            )));
        }
        if let Err(error) = fs::metadata(source) {
            if error.kind() != std::io::ErrorKind::NotFound {
                return Err(Error::file("look at the mount's source", source)(error));
            }
            fs::create_dir_all(source).map_err(Error::file("make the mount's source", source))?;
        }
    }
    Ok(())
}

fn identity(config: &ContainerConfig, image: &images::Image, rootfs: &Path) -> Result<user::Identity, Error> {
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default();
    let passwd = user::read_inside(rootfs, "etc/passwd").unwrap_or_default();
    let group = user::read_inside(rootfs, "etc/group").unwrap_or_default();
    user::identify(&security, &image.config.user, &passwd, &group)
}

/// What was made for the container's document.
struct Parts<'a> {
    rootfs: &'a Path,
    volumes: volumes::Sources,
    identity: user::Identity,
}

/// Gathers what the document depends on, and builds it.
fn document(
    core: &Core,
    container: &Container,
    image: &images::Image,
    Parts { rootfs, volumes, identity }: Parts<'_>,
) -> Result<serde_json::Value, Error> {
    let (config, sandbox) = (&container.record.config, &container.sandbox);
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    let files = core.layout.sandbox_run(sandbox.id());
    let has_own_ipc = sandbox::namespaces(&sandbox.record.config).ipc != NamespaceMode::Node as i32;
    oci::spec(&Inputs {
        config,
        sandbox: &sandbox.record.config,
        image: &image.config,
        machine: &core.machine,
        identity,
        rootfs: rootfs.to_owned(),
        volumes,
        cgroup: container.cgroup(),
        namespaces: namespaces(core, container, &security)?,
        shm: if has_own_ipc { files.join("shm") } else { "/dev/shm".into() },
        sandbox_files: files,
        hostname: sandbox::hostname(&sandbox.record.config),
        devices: devices(&config.devices, security.privileged)?,
        localhost_seccomp: localhost_seccomp(&security)?,
        annotations: annotations(&sandbox.record, config),
    })
}

/// What the sandbox's handler is told of the pod's annotations and of the container's, which win (RTC-76).
fn annotations(sandbox: &SandboxRecord, config: &ContainerConfig) -> BTreeMap<String, String> {
    let of = |all: &BTreeMap<String, String>, globs: &[String]| -> Vec<(String, String)> {
        let goes = |key: &String| globs.iter().any(|glob| reference::glob::matches_path(glob, key));
        all.iter().filter(|(key, _)| goes(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let of_pod = of(&sandbox.config.annotations, &sandbox.pod_annotations);
    of_pod.into_iter().chain(of(&config.annotations, &sandbox.container_annotations)).collect()
}

fn namespaces(
    core: &Core,
    container: &Container,
    security: &cri::v1::LinuxContainerSecurityContext,
) -> Result<Namespaces, Error> {
    let (config, live) = (&container.sandbox.record.config, container.sandbox.live());
    let of_monitor = |name: &str| Some(PathBuf::from(format!("/proc/{}/ns/{name}", live.pid)));
    let is_on_host = sandbox::is_on_host_network(config);
    let has_own_ipc = sandbox::namespaces(config).ipc != NamespaceMode::Node as i32;
    let wanted = security.namespace_options.clone().unwrap_or_else(|| sandbox::namespaces(config));
    let pid = match NamespaceMode::try_from(wanted.pid) {
        Ok(NamespaceMode::Node) => PidNamespace::Host,
        Ok(NamespaceMode::Target) => {
            let target = core.state.container(&wanted.target_id)?;
            if target.record.sandbox != container.record.sandbox || target.stage() != Stage::Running {
                return Err(Error::WrongState(format!("target container {} does not run here", wanted.target_id)));
            }
            PidNamespace::Path(format!("/proc/{}/ns/pid", target.live().pid).into())
        }
        Ok(NamespaceMode::Pod) if live.pause_pid != 0 => {
            PidNamespace::Path(format!("/proc/{}/ns/pid", live.pause_pid).into())
        }
        _ => PidNamespace::Own,
    };
    Ok(Namespaces {
        network: if is_on_host { None } else { of_monitor("net") },
        uts: if is_on_host { None } else { of_monitor("uts") },
        ipc: if has_own_ipc { of_monitor("ipc") } else { None },
        pid,
    })
}

fn localhost_seccomp(security: &cri::v1::LinuxContainerSecurityContext) -> Result<Option<serde_json::Value>, Error> {
    let Some(profile) = &security.seccomp else { return Ok(None) };
    if profile.profile_type != ProfileType::Localhost as i32 {
        return Ok(None);
    }
    let path = profile.localhost_ref.trim_start_matches("localhost/");
    let text = fs::read(path).map_err(Error::file("read the seccomp profile", path))?;
    let parsed = serde_json::from_slice(&text);
    parsed.map(Some).map_err(|error| Error::Invalid(format!("seccomp profile {path}: {error}")))
}

fn devices(asked: &[Device], is_privileged: bool) -> Result<Vec<(HostDevice, String)>, Error> {
    let mut all = Vec::new();
    if is_privileged {
        all.extend(host_devices().into_iter().map(|device| (device, "rwm".to_owned())));
    }
    for device in asked {
        let found = host_device(Path::new(&device.host_path), &device.container_path)
            .ok_or_else(|| Error::Invalid(format!("{:?} is no device", device.host_path)))?;
        all.retain(|(known, _)| known.path != found.path);
        all.push((found, device.permissions.clone()));
    }
    Ok(all)
}

fn host_device(source: &Path, target: &str) -> Option<HostDevice> {
    let metadata = fs::metadata(source).ok()?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => "c",
        kind if kind.is_block_device() => "b",
        _ => return None,
    };
    let number = metadata.rdev();
    Some(HostDevice {
        path: if target.is_empty() { source.to_string_lossy().into_owned() } else { target.to_owned() },
        kind,
        major: rustix::fs::major(number),
        minor: rustix::fs::minor(number),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

/// The devices right in /dev and in its directories that hold devices alone; terminals are the container's own.
fn host_devices() -> Vec<HostDevice> {
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::from("/dev")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name();
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && !["pts", "shm", "mqueue", "fd", ".lxc", ".udev"].iter().any(|skip| name == *skip) {
                directories.push(path);
            } else if (kind.is_char_device() || kind.is_block_device()) && name != "console" && name != "ptmx" {
                found.extend(host_device(&path, ""));
            }
        }
    }
    // The OCI runtime makes these itself.
    let own = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];
    found.retain(|device| !own.contains(&device.path.as_str()));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_the_repository_which_the_user_named() {
        let digests = ["docker.io/library/box@sha256:1".to_string(), "r:5000/team/box@sha256:1".to_string()];
        let of = |name: &str| own_digest(&digests, name).unwrap().as_str();
        for (name, at) in [
            ("box", 0),
            ("box:1", 0),
            (&format!("docker.io/box@sha256:{}", "1".repeat(64)), 0),
            ("index.docker.io/library/box:7", 0),
            ("r:5000/team/box", 1),
            ("r:5000/team/box:2", 1),
            ("not a name", 0),
            ("", 0),
        ] {
            assert_eq!(of(name), digests[at], "{name}");
        }
        assert_eq!(own_digest(&[], "box"), None);
    }
}
