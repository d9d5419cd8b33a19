//! The small files beside a container: where they are, and making them ready.
//!
//! Owns the layout below `<data_dir>/pods/<uid>` except volumes, and of the log directory (POD-38, POD-65). The
//! functions that write are idempotent and replace a file atomically.

use super::{Context, Error, Inputs, sandbox};
use crate::object::{Container, Pod};
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// `<data_dir>/pods/<uid>`: everything that one pod keeps on the node.
pub fn pod_directory(data_dir: &Path, uid: &str) -> PathBuf {
    data_dir.join("pods").join(uid)
}

/// The pod's managed `/etc/hosts`.
pub fn hosts_file(data_dir: &Path, uid: &str) -> PathBuf {
    pod_directory(data_dir, uid).join("etc-hosts")
}

/// The host file behind `terminationMessagePath` of one attempt of a container.
pub fn termination_file(data_dir: &Path, uid: &str, container: &str, attempt: u32) -> PathBuf {
    pod_directory(data_dir, uid).join("containers").join(container).join(format!("termination-{attempt}"))
}

/// `<log_dir>/<namespace>_<name>_<uid>` (POD-65).
pub fn pod_log_directory(log_dir: &Path, pod: &Pod) -> PathBuf {
    log_dir.join(format!("{}_{}_{}", pod.namespace(), pod.name(), pod.uid()))
}

/// The directory of one container's log files, `<attempt>.log` each.
pub fn container_log_directory(log_dir: &Path, pod: &Pod, container: &str) -> PathBuf {
    pod_log_directory(log_dir, pod).join(container)
}

/// Makes the files ready that the configuration of this attempt will name.
pub(super) fn prepare(pod: &Pod, container: &Container, inputs: Inputs<'_>, ctx: &Context) -> Result<(), Error> {
    let failed = |what| move |e: io::Error| Error::File { what, cause: e.to_string() };
    fs::create_dir_all(container_log_directory(&ctx.log_dir, pod, &container.name)).map_err(failed("log directory"))?;
    if !container.termination_message_path.is_empty() {
        let path = termination_file(&ctx.data_dir, pod.uid(), &container.name, inputs.attempt);
        create_writable(&path).map_err(failed("termination message file"))?;
    }
    if has_managed_hosts(container) {
        let path = hosts_file(&ctx.data_dir, pod.uid());
        let text = hosts_text(pod, inputs.pod_ips, ctx);
        replace(&path, &text, 0o644).map_err(failed("hosts file"))?;
    }
    Ok(())
}

/// True unless the container mounts a volume of its own at `/etc/hosts`.
pub(super) fn has_managed_hosts(container: &Container) -> bool {
    !container.volume_mounts.iter().any(|m| Path::new(&m.mount_path) == Path::new("/etc/hosts"))
}

/// An empty file that any user in the container may write.
fn create_writable(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
    let file = fs::OpenOptions::new().append(true).create(true).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o666))
}

/// Writes in place when the text differs: running containers have this very inode mounted, so a rename would part
/// them from later changes.
fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// The text of the pod's hosts file; on the host network the host's own with a note on top.
fn hosts_text(pod: &Pod, pod_ips: &[String], ctx: &Context) -> String {
    let mut out = if pod.spec.host_network {
        let own = fs::read_to_string("/etc/hosts").unwrap_or_default();
        format!("# Kubernetes-managed hosts file (host network).\n{own}")
    } else {
        pod_hosts(pod, pod_ips, ctx)
    };
    if !pod.spec.host_aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
        for alias in &pod.spec.host_aliases {
            out.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t")));
        }
    }
    out
}

fn pod_hosts(pod: &Pod, pod_ips: &[String], ctx: &Context) -> String {
    let mut out = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    let full = sandbox::hostname(pod, ctx);
    let short = full.split('.').next().unwrap_or(&full).to_owned();
    let names = match sandbox::full_name(pod, &short, ctx) {
        Some(full) => format!("{full}\t{short}"),
        None => full,
    };
    for ip in pod_ips {
        out.push_str(&format!("{ip}\t{names}\n"));
    }
    out
}
