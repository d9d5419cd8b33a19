//! The links under which log collectors find a container's log: `<pod>_<namespace>_<container>-<id>.log` (POD-65).
//!
//! They stand in `containers`, beside the directory of the pods' logs: `/var/log/containers` beside `/var/log/pods`. A
//! link that cannot be made or removed harms nobody but its readers, so that it is told in the log alone.

use super::{annotations::container_labels, label};
use crate::object::{Container, Pod};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// A file name has at most so many bytes.
const NAME_BYTES_MAX: usize = 255;
const SUFFIX: &str = ".log";

/// The directory of links beside this directory of logs.
pub fn links_directory(log_dir: &Path) -> PathBuf {
    log_dir.with_file_name("containers")
}

/// The name of the link of a container with these labels; what is too long is cut before the suffix.
fn name(labels: &BTreeMap<String, String>, id: &str) -> Option<String> {
    let label = |name: &str| labels.get(name);
    let (pod, namespace) = (label(label::POD_NAME)?, label(label::POD_NAMESPACE)?);
    let mut name = format!("{pod}_{namespace}_{}-{id}", label(label::CONTAINER_NAME)?);
    let mut end = name.len().min(NAME_BYTES_MAX - SUFFIX.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.truncate(end);
    Some(name + SUFFIX)
}

/// Has the link of a container point at its log.
pub fn link_log(log_dir: &Path, (pod, container): (&Pod, &Container), id: &str, log: &Path) {
    if !log.is_absolute() {
        return;
    }
    let directory = links_directory(log_dir);
    let Some(name) = name(&container_labels(pod, container), id) else { return };
    let path = directory.join(name);
    let made = fs::create_dir_all(&directory).and_then(|()| match std::os::unix::fs::symlink(log, &path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    });
    if let Err(error) = made {
        tracing::warn!(path = %path.display(), %error, "no link to a container's log");
    }
}

/// Removes the link of a container that is removed.
pub fn unlink_log(log_dir: &Path, labels: &BTreeMap<String, String>, id: &str) {
    if let Some(name) = name(labels, id) {
        remove(&links_directory(log_dir).join(name));
    }
}

/// Removes all links into this directory of a pod's logs.
pub fn unlink_logs(log_dir: &Path, pod_logs: &Path) {
    for entry in fs::read_dir(links_directory(log_dir)).into_iter().flatten().flatten() {
        if fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(pod_logs)) {
            remove(&entry.path());
        }
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "the link to a container's log stays");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_too_long_is_cut_before_its_suffix() {
        let of = |pod: &str| {
            let labels = [(label::POD_NAME, pod), (label::POD_NAMESPACE, "ns"), (label::CONTAINER_NAME, "c")];
            name(&labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(), "1f")
        };
        assert_eq!(of("p").unwrap(), "p_ns_c-1f.log");
        let long = of(&"p".repeat(300)).unwrap();
        assert_eq!(long, format!("{}.log", "p".repeat(251)));
        assert_eq!(name(&BTreeMap::new(), "1f"), None, "a container of somebody else");
    }
}
