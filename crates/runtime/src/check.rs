//! Whether a handler works on this machine: it runs a container to its end, in namespaces and a cgroup of its own.
//!
//! The container's root is an empty directory onto which the machine's own programs are bound read-only, so the test
//! needs no image.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cgroup::Hierarchies;
use crate::error::Error;
use crate::options::Handler;

/// Directories of the machine in which a program and its libraries may lie.
const PROGRAMS: [&str; 4] = ["/usr", "/bin", "/lib", "/lib64"];

/// What a passed self-test tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// The executable that was found.
    pub binary: PathBuf,
    /// First line of the binary's `--version`.
    pub version: String,
    /// From the command to make a container until its program had run and all was removed.
    pub cold_start: Duration,
}

/// Tests a handler in a scratch directory, which must be the caller's alone and is left empty. Blocks for a moment, with a
/// handler that hangs for a few times `patience`, the time of one of its commands.
///
/// # Errors
/// The step that failed, with the OCI runtime's own words.
pub fn self_test(handler: &Handler, scratch: &Path, patience: Duration) -> Result<Passed, Error> {
    let cgroup = format!("/sampan-self-test-{}", std::process::id());
    test(handler, &Place { scratch: scratch.into(), cgroup }, patience)
}

/// Where a test takes place; both are its own alone.
pub(crate) struct Place {
    pub scratch: PathBuf,
    pub cgroup: String,
}

pub(crate) fn test(handler: &Handler, place: &Place, patience: Duration) -> Result<Passed, Error> {
    let tested = run(handler, place, patience);
    // A runtime that failed, or was killed, may have left a process; after a good run there is nothing.
    let swept = Hierarchies::find().and_then(|all| all.kill(&place.cgroup).and_then(|()| all.remove(&place.cgroup)));
    if let Err(error) = swept {
        tracing::warn!(handler = handler.name, %error, "remove the cgroup of a test");
    }
    tested
}

fn run(handler: &Handler, Place { scratch, cgroup }: &Place, patience: Duration) -> Result<Passed, Error> {
    let failed = |step: &str| {
        let step = format!("handler {:?} ({}): {step}", handler.name, handler.binary.display());
        move |error: std::io::Error| Error::step(step, error)
    };
    let binary = handler.executable()?;
    let version = crate::process::version(&binary, patience).map_err(failed("run it"))?;
    let bundle = scratch.join("bundle");
    let id = format!("self-test-{}", std::process::id());
    let binds = root(&bundle.join("rootfs")).map_err(failed("make a root"))?;
    fs::write(bundle.join("config.json"), document(cgroup, binds).to_string()).map_err(failed("make a bundle"))?;
    let run = |arguments: &[&str]| {
        let mut all = vec!["--root".to_owned(), scratch.join("root").to_string_lossy().into_owned()];
        all.extend(handler.arguments.iter().cloned());
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        crate::process::run(binary.as_os_str(), all, patience)
    };
    let began = crate::clock::instant();
    let ran = run(&["run", "--bundle", &bundle.to_string_lossy(), &id]).map_err(failed("run a container"));
    let cold_start = crate::clock::instant() - began;
    // After a good run there is nothing to delete, and some runtimes call that an error.
    let deleted = run(&["delete", "--force", &id]).map_err(failed("delete a container"));
    for directory in ["bundle", "root"] {
        // What a failed test leaves goes with the caller's scratch directory.
        let _ = fs::remove_dir_all(scratch.join(directory));
    }
    if let Err(error) = ran {
        deleted?;
        return Err(error);
    }
    Ok(Passed { binary, version, cold_start })
}

/// Lays out the root; returns the mounts that fill it.
fn root(directory: &Path) -> std::io::Result<Vec<Value>> {
    for needed in ["proc", "dev", "sys"] {
        fs::create_dir_all(directory.join(needed))?;
    }
    let mut binds = Vec::new();
    for source in PROGRAMS.map(Path::new) {
        let Ok(kind) = fs::symlink_metadata(source) else { continue };
        let target = directory.join(source.strip_prefix("/").unwrap_or(source));
        if kind.is_symlink() {
            symlink(fs::read_link(source)?, target)?;
        } else {
            fs::create_dir_all(target)?;
            binds.push(json!({ "destination": source, "type": "bind", "source": source, "options": ["rbind", "ro"] }));
        }
    }
    Ok(binds)
}

fn document(cgroup: &str, binds: Vec<Value>) -> Value {
    let mut mounts = binds;
    mounts.push(
        json!({ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] }),
    );
    json!({
        "ociVersion": "1.0.2",
        "process": { "args": ["/bin/true"], "cwd": "/", "user": { "uid": 0, "gid": 0 } },
        "root": { "path": "rootfs" },
        "mounts": mounts,
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{ "type": "mount" }, { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }],
        },
    })
}
