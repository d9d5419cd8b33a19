//! Whether a handler works on this machine: it creates and deletes a container that is never started.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::error::Error;
use crate::options::Handler;

/// What a passed self-test tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// First line of the binary's `--version`.
    pub version: String,
}

/// Tests a handler in a scratch directory, which must be the caller's alone and is left empty. Blocks for a moment.
///
/// # Errors
/// The step that failed, with the OCI runtime's own words.
pub fn self_test(handler: &Handler, scratch: &Path) -> Result<Passed, Error> {
    let failed = |step: &str| {
        let step = format!("handler {:?} ({}): {step}", handler.name, handler.binary.display());
        move |error: std::io::Error| Error::step(step, error)
    };
    let version = crate::process::version(&handler.binary).map_err(failed("run it"))?;
    let bundle = scratch.join("bundle");
    let id = format!("self-test-{}", std::process::id());
    fs::create_dir_all(bundle.join("rootfs")).map_err(failed("make a bundle"))?;
    fs::write(bundle.join("config.json"), document(&id).to_string()).map_err(failed("make a bundle"))?;
    let run = |arguments: &[&str]| {
        let mut all = vec!["--root".to_owned(), scratch.join("root").to_string_lossy().into_owned()];
        all.extend(handler.arguments.iter().cloned());
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        crate::process::run(handler.binary.as_os_str(), all)
    };
    let created = run(&["create", "--bundle", &bundle.to_string_lossy(), &id]).map_err(failed("create a container"));
    let deleted = run(&["delete", "--force", &id]).map_err(failed("delete a container"));
    for directory in ["bundle", "root"] {
        // What a failed test leaves goes with the caller's scratch directory.
        let _ = fs::remove_dir_all(scratch.join(directory));
    }
    created?;
    deleted?;
    Ok(Passed { version })
}

fn document(id: &str) -> serde_json::Value {
    json!({
        "ociVersion": "1.0.2",
        "process": { "args": ["/nothing"], "cwd": "/", "user": { "uid": 0, "gid": 0 } },
        "root": { "path": "rootfs" },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
        ],
        "linux": {
            "cgroupsPath": format!("/sampan-{id}"),
            "namespaces": [{ "type": "mount" }, { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }],
        },
    })
}
