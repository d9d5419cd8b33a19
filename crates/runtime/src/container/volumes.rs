//! Image volumes: the layers of an image, stacked as for a root file system, read-only, in a container (IMG-305).
//!
//! Owns the resolution of the images before anything is made and the mounts below the bundle's `volumes`. What an image
//! says is not trusted: a subPath is resolved inside the mount, so that no link leads out of it. Start at [`resolve`].

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cri::v1::ContainerConfig;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::core::Core;
use crate::error::Error;
use crate::rootfs;
use crate::state::Container;

/// How clients tell this failure (IMG-308).
const FAILED: &str = "ImageVolumeMountFailed";
/// The directory of the mounts in a bundle.
pub(crate) const VOLUMES: &str = "volumes";

/// Where the mounts of a configuration that are images can be found, by their place in it.
pub(crate) type Sources = BTreeMap<usize, PathBuf>;

/// Finds the images that mounts name, and writes into the configuration what each turned out to be: clients read the
/// digest in the container's status (IMG-309).
pub(crate) fn resolve(core: &Core, config: &mut ContainerConfig) -> Result<Vec<Arc<images::Image>>, Error> {
    let mut found = Vec::new();
    for mount in &mut config.mounts {
        let Some(spec) = &mut mount.image else { continue };
        if !mount.readonly {
            let path = &mount.container_path;
            return Err(Error::Invalid(format!("{FAILED}: the image volume at {path:?} must be read-only")));
        }
        let image = core.images.resolve(&spec.image);
        let image = image.ok_or_else(|| Error::step(FAILED, format!("image {:?} not found", spec.image)))?;
        let named = match spec.user_specified_image.as_str() {
            "" => spec.image.as_str(),
            named => named,
        };
        spec.image_ref = super::create::own_digest(&image.digests, named).unwrap_or(&image.id).clone();
        spec.image.clone_from(&image.id);
        found.push(image);
    }
    Ok(found)
}

/// Mounts the images that [`resolve`] found, each for the mount that named it.
pub(crate) fn mount(core: &Core, container: &Container, images: &[Arc<images::Image>]) -> Result<Sources, Error> {
    let bundle = core.layout.container_run(container.id());
    let mounts = container.record.config.mounts.iter().enumerate().filter(|(_, mount)| mount.image.is_some());
    let mut sources = Sources::new();
    for ((index, mount), image) in mounts.zip(images) {
        let target = bundle.join(VOLUMES).join(index.to_string());
        let empty = bundle.join("empty");
        rootfs::mount_read_only(&core.images.layers(image), &empty, &target)
            .map_err(|error| Error::step(FAILED, error))?;
        sources.insert(index, inside(&target, &mount.image_sub_path)?);
    }
    Ok(sources)
}

/// A path below a mount, with links of the image taken as its own. The content never changes, so neither does this.
fn inside(root: &Path, sub_path: &str) -> Result<PathBuf, Error> {
    let sub_path = Path::new(sub_path);
    if sub_path.as_os_str().is_empty() {
        return Ok(root.to_owned());
    }
    let leads_up = |part| matches!(part, std::path::Component::ParentDir);
    if sub_path.is_absolute() || sub_path.components().any(leads_up) {
        return Err(Error::Invalid(format!("{FAILED}: subPath {} leads out of the image", sub_path.display())));
    }
    let failed =
        |error: &dyn std::fmt::Display| Error::step(FAILED, format!("subPath {}: {error}", sub_path.display()));
    let directory = fs::File::open(root).map_err(|error| failed(&error))?;
    let flags = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = openat2(&directory, sub_path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), flags);
    let found = found.map_err(|error| failed(&error))?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&found);
    let path = fs::read_link(format!("/proc/self/fd/{number}")).map_err(|error| failed(&error))?;
    if !path.starts_with(root) {
        return Err(failed(&"leads out of the image"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_sub_path_never_leads_out_of_the_image() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/file"), "x").unwrap();
        fs::create_dir(directory.path().join("secret")).unwrap();
        fs::create_dir(root.join("etc")).unwrap();
        symlink("/etc", root.join("absolute")).unwrap();
        symlink("../../secret", root.join("up")).unwrap();
        symlink("a/b", root.join("link")).unwrap();
        for (sub_path, wanted) in
            [("", ""), ("a/b", "a/b"), ("a/file", "a/file"), ("./a//b/", "a/b"), ("link", "a/b"), ("absolute", "etc")]
        {
            assert_eq!(
                inside(&root, sub_path).unwrap(),
                root.join(wanted).components().collect::<PathBuf>(),
                "{sub_path}"
            );
        }
        for sub_path in ["gone", "up", "../secret", "a/../../secret", "/etc", "a/file/x"] {
            let error = inside(&root, sub_path).unwrap_err().to_string();
            assert!(error.starts_with("ImageVolumeMountFailed: subPath "), "{error}");
        }
    }
}
