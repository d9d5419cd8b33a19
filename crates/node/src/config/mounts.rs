//! The mounts of a container: its volumes, the hosts file and the termination log.
//!
//! Pure but for the `bind` that it is given, which pins a subPath. Start at [`mounts`].

use super::{Bind, Context, Error, Inputs, environment::expand, files};
use crate::object::{Container, Pod, VolumeMount};
use crate::volumes::{MountedVolume, SubPath};
use cri::v1;
use std::path::{Component, Path, PathBuf};

/// Finds a variable of the container's environment.
type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// All mounts: the volumes in the order of the spec, then the node's own files.
pub(super) fn mounts(
    pod: &Pod,
    container: &Container,
    inputs: Inputs<'_>,
    ctx: &Context,
    (lookup, bind): (Lookup<'_>, Bind<'_>),
) -> Result<Vec<v1::Mount>, Error> {
    let mut out = Vec::new();
    for (index, mount) in container.volume_mounts.iter().enumerate() {
        let volume = inputs
            .mounted
            .volumes
            .get(&mount.name)
            .ok_or_else(|| Error::Volume { volume: mount.name.clone(), container: container.name.clone() })?;
        let sub_path = sub_path(container, mount, lookup)?;
        out.push(match volume {
            MountedVolume::Image(image) => image_mount(mount, image, sub_path),
            MountedVolume::Path { path, read_only } => {
                let host_path = match sub_path.is_empty() {
                    true => path.clone(),
                    false => bind(SubPath {
                        pod_directory: &files::pod_directory(&ctx.data_dir, pod.uid()),
                        volume: &mount.name,
                        volume_path: path,
                        container: &container.name,
                        index,
                        sub_path: &sub_path,
                        read_only: *read_only || mount.read_only,
                    })
                    .map_err(|cause| sub_path_error(container, mount, cause))?,
                };
                v1::Mount {
                    recursive_read_only: is_read_only_below(mount, inputs.can_read_only_below)?,
                    ..path_mount(mount, host_path, *read_only)
                }
            }
        });
    }
    out.extend(own_files(pod, container, inputs, ctx));
    Ok(out)
}

fn own_files(pod: &Pod, container: &Container, inputs: Inputs<'_>, ctx: &Context) -> Vec<v1::Mount> {
    let mut out = Vec::new();
    let plain = |container_path: &str, host_path: PathBuf| v1::Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_string_lossy().into_owned(),
        ..Default::default()
    };
    if files::has_managed_hosts(container) {
        let hosts = plain("/etc/hosts", files::hosts_file(&ctx.data_dir, pod.uid()));
        let readonly = container.security_context.read_only_root_filesystem == Some(true);
        out.push(v1::Mount { readonly, ..hosts });
    }
    if !container.termination_message_path.is_empty() {
        let file = files::termination_file(&ctx.data_dir, pod.uid(), &container.name, inputs.attempt);
        out.push(plain(&container.termination_message_path, file));
    }
    out
}

/// RTC-51: who insists and cannot have it does not run; who only prefers it does without.
fn is_read_only_below(mount: &VolumeMount, is_possible: bool) -> Result<bool, Error> {
    match &*mount.recursive_read_only {
        "Enabled" if !is_possible => Err(Error::Mount(format!(
            "volume {:?} cannot be mounted with recursiveReadOnly \"Enabled\": the runtime handler does not support it",
            mount.name
        ))),
        "Enabled" | "IfPossible" => Ok(is_possible),
        _ => Ok(false),
    }
}

fn path_mount(mount: &VolumeMount, host_path: PathBuf, is_read_only: bool) -> v1::Mount {
    let propagation = match mount.mount_propagation.as_str() {
        "HostToContainer" => v1::MountPropagation::PropagationHostToContainer,
        "Bidirectional" => v1::MountPropagation::PropagationBidirectional,
        _ => v1::MountPropagation::PropagationPrivate,
    };
    v1::Mount {
        container_path: absolute(&mount.mount_path),
        host_path: host_path.to_string_lossy().into_owned(),
        readonly: mount.read_only || is_read_only,
        propagation: propagation as i32,
        ..Default::default()
    }
}

fn image_mount(mount: &VolumeMount, image: &v1::ImageSpec, sub_path: String) -> v1::Mount {
    v1::Mount {
        container_path: absolute(&mount.mount_path),
        readonly: true,
        image: Some(image.clone()),
        image_sub_path: sub_path,
        ..Default::default()
    }
}

/// A relative mount path is taken from the root, as every runtime would.
fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// The subPath with `subPathExpr` expanded, checked to stay inside.
fn sub_path(container: &Container, mount: &VolumeMount, lookup: Lookup<'_>) -> Result<String, Error> {
    let text = match mount.sub_path_expr.as_str() {
        "" => mount.sub_path.clone(),
        expression => {
            let text = expand(expression, lookup);
            if text.contains("$(") {
                return Err(sub_path_error(container, mount, format!("missing value for {expression:?}")));
            }
            text
        }
    };
    let path = Path::new(&text);
    if path.is_absolute() {
        return Err(sub_path_error(container, mount, format!("{text:?} must not be an absolute path")));
    }
    if path.components().any(|c| c == Component::ParentDir) {
        return Err(sub_path_error(container, mount, format!("{text:?} must not contain '..'")));
    }
    Ok(text)
}

fn sub_path_error(container: &Container, mount: &VolumeMount, cause: String) -> Error {
    Error::SubPath { volume: mount.name.clone(), container: container.name.clone(), cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rtc_51_who_insists_on_read_only_below_gets_it_or_an_error_and_who_prefers_it_does_without() {
        let refusal = "volume \"data\" cannot be mounted with recursiveReadOnly \"Enabled\": the runtime handler does not \
                       support it";
        for (mode, is_possible, expected) in [
            ("", true, Ok(false)),
            ("Disabled", true, Ok(false)),
            ("IfPossible", true, Ok(true)),
            ("IfPossible", false, Ok(false)),
            ("Enabled", true, Ok(true)),
            ("Enabled", false, Err(refusal.to_owned())),
        ] {
            let mount = VolumeMount { name: "data".into(), recursive_read_only: mode.into(), ..VolumeMount::default() };
            let got = is_read_only_below(&mount, is_possible).map_err(|error| error.to_string());
            assert_eq!(got, expected, "{mode:?} {is_possible}");
        }
    }
}
