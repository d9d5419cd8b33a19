//! The handlers of the embedded runtime: which there are, and which one serves pods without a RuntimeClass.
//!
//! The default is chosen once (crun if its self-test passes here, else runc), kept in the data directory and printed at
//! each start: a node must not change the runtime of its pods because a test was slow one morning.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use runtime::Handler;

use crate::check::find;
use crate::settings::Resolved;

/// Handlers that every node offers when their binary is there.
const USUAL: &[&str] = &["crun", "runc"];

/// Every handler by name: the usual ones, then those of the configuration, which win.
pub fn known(resolved: &Resolved) -> Vec<Handler> {
    let mut handlers: Vec<Handler> = USUAL
        .iter()
        .filter(|name| !resolved.handlers.contains_key(**name))
        .filter_map(|name| Some(Handler::new(name, find(name)?)))
        .collect();
    handlers.extend(resolved.handlers.iter().map(|(name, settings)| {
        let binary = if settings.binary.is_absolute() {
            settings.binary.clone()
        } else {
            settings.binary.to_str().and_then(find).unwrap_or_else(|| PathBuf::from("/usr/bin").join(&settings.binary))
        };
        Handler { name: name.clone(), binary, arguments: settings.arguments.clone() }
    }));
    handlers
}

/// The name of the default handler.
pub fn choose_default(resolved: &Resolved) -> anyhow::Result<String> {
    let handlers = known(resolved);
    let there = |name: &str| handlers.iter().any(|handler| handler.name == name && handler.binary.is_file());
    if let Some(name) = &resolved.default_handler {
        if !there(name) {
            bail!("--default-handler {name}: its binary was not found");
        }
        return Ok(name.clone());
    }
    let kept = resolved.instance.data_dir.join("runtime/default-handler");
    if let Ok(name) = std::fs::read_to_string(&kept)
        && there(name.trim())
    {
        return Ok(name.trim().into());
    }
    for name in USUAL {
        let Some(handler) = handlers.iter().find(|handler| handler.name == *name) else { continue };
        match test(handler) {
            Ok(_) => {
                std::fs::create_dir_all(resolved.instance.data_dir.join("runtime"))?;
                crate::certificates::write_private(&kept, name)?;
                return Ok((*name).into());
            }
            Err(error) => tracing::info!(handler = name, %error, "does not work here and is not the default"),
        }
    }
    bail!("neither crun nor runc can run a container here; `sampan check` says why")
}

/// Lets a handler run its self-test in a directory of its own; returns how long it took.
pub fn test(handler: &Handler) -> anyhow::Result<Duration> {
    let scratch = PathBuf::from(format!("/run/sampan-self-test-{}", std::process::id()));
    let began = crate::clock::instant();
    let tested = runtime::self_test(handler, &scratch);
    let took = crate::clock::instant() - began;
    let _ = std::fs::remove_dir_all(&scratch);
    tested.map(|_| took).map_err(|error| anyhow::anyhow!("{error:#}"))
}
