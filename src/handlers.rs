//! The handlers of the embedded runtime: which there are, and which one serves pods without a RuntimeClass.
//!
//! Those of sampan's own configuration win over containerd's, those over CRI-O's, those over `crun` and `runc` of PATH.
//! The default is the one that a setting or one of those files names; else it is chosen once (crun if its self-test
//! passes here, else runc), kept in the data directory and printed at each start: a node must not change the runtime of
//! its pods because a test was slow one morning. Start at [`load`].

mod containerd;
mod crio;
pub mod files;
mod foreign;
pub mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use runtime::Handler;

use crate::settings::handler::HandlerSettings;
use crate::settings::{Resolved, Settings};
use files::Found;
use foreign::{Declared, Served};

/// Handlers that every node offers while their binary is there.
const USUAL: &[&str] = &["crun", "runc"];

/// A handler that can run once its binary is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub handler: Handler,
    /// Where it is configured.
    pub origin: String,
    /// What of its settings has no effect here.
    pub notes: Vec<String>,
}

/// A handler that a file names and that cannot be served here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    pub name: String,
    /// Where it is configured.
    pub origin: String,
    pub reason: String,
}

/// Everything that the files say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    pub known: Vec<Known>,
    pub unusable: Vec<Unusable>,
    /// The default that a foreign file names, and where.
    pub default: Option<(String, String)>,
    /// Files and directories that the rest depends on.
    pub watched: BTreeSet<PathBuf>,
}

/// Reads all files; the first mistake in one of them is the error.
pub fn load(resolved: &Resolved) -> anyhow::Result<Inventory> {
    let own = match &resolved.config_file {
        // Read again: this is called whenever a file has changed.
        Some(file) => Settings::default().over_file(Some(file))?.handlers,
        None => resolved.handlers.clone(),
    };
    Ok(assemble(&own, files::read(&resolved.foreign_handlers)?))
}

fn assemble(own: &BTreeMap<String, HandlerSettings>, found: Found) -> Inventory {
    let mut inventory = Inventory {
        default: found.containerd.default.or(found.crio.default),
        watched: found.watched,
        ..Inventory::default()
    };
    let mut taken: BTreeSet<String> = own.keys().cloned().collect();
    for (name, settings) in own {
        let handler = Handler {
            name: name.clone(),
            binary: settings.binary.clone(),
            arguments: settings.arguments.clone(),
            pod_annotations: settings.annotations.clone(),
            container_annotations: Vec::new(),
        };
        inventory.known.push(Known { handler, origin: "sampan's configuration".into(), notes: Vec::new() });
    }
    for (name, declared) in found.containerd.handlers.into_iter().chain(found.crio.handlers) {
        // Who came first wins.
        if taken.insert(name.clone()) {
            inventory.add(name, declared);
        }
    }
    for name in USUAL.iter().filter(|name| !taken.contains(**name)) {
        let handler = Handler::new(name, *name);
        inventory.known.push(Known { handler, origin: "PATH".into(), notes: Vec::new() });
    }
    inventory.known.sort_by(|a, b| a.handler.name.cmp(&b.handler.name));
    inventory
}

impl Inventory {
    fn add(&mut self, name: String, Declared { at: origin, how, notes }: Declared) {
        match how {
            Ok(Served { binary, arguments, pod_annotations, container_annotations, .. }) => {
                let handler = Handler { name, binary, arguments, pod_annotations, container_annotations };
                self.known.push(Known { handler, origin, notes });
            }
            Err(reason) => self.unusable.push(Unusable { name, origin, reason }),
        }
    }

    /// What the runtime is given.
    pub fn handlers(&self) -> Vec<Handler> {
        self.known.iter().map(|known| known.handler.clone()).collect()
    }

    fn find(&self, name: &str) -> Option<&Handler> {
        self.known.iter().map(|known| &known.handler).find(|handler| handler.name == name)
    }

    /// The binary of a handler is there.
    pub fn can_run(&self, name: &str) -> bool {
        self.find(name).is_some_and(|handler| handler.executable().is_ok())
    }

    /// Some handler's binary is there.
    pub fn can_run_any(&self) -> bool {
        self.known.iter().any(|known| known.handler.executable().is_ok())
    }

    /// The default that a foreign file names: it has to be there (RTC-77).
    fn foreign_default(&self) -> anyhow::Result<Option<String>> {
        let Some((name, at)) = &self.default else { return Ok(None) };
        let instead = "or choose another with --default-handler";
        if let Some(unusable) = self.unusable.iter().find(|unusable| unusable.name == *name) {
            bail!("{at}: the default runtime {name:?} cannot be served here: {}; {instead}", unusable.reason);
        }
        match self.find(name) {
            Some(handler) => match handler.executable() {
                Ok(_) => Ok(Some(name.clone())),
                Err(error) => bail!("{at}: the default runtime {name:?}: {error}; install it {instead}"),
            },
            None => bail!("{at}: the default runtime {name:?} is not among the handlers; add it {instead}"),
        }
    }
}

/// The default that was named or kept, with who says so; None if it is still to be chosen.
pub fn named_default(resolved: &Resolved, inventory: &Inventory) -> anyhow::Result<Option<(String, String)>> {
    if let Some(name) = &resolved.default_handler {
        if !inventory.can_run(name) {
            bail!("--default-handler {name}: its binary was not found");
        }
        return Ok(Some((name.clone(), "--default-handler".into())));
    }
    if let Some(name) = inventory.foreign_default()? {
        let at = inventory.default.as_ref().map(|(_, at)| at.clone()).unwrap_or_default();
        return Ok(Some((name, at)));
    }
    let kept = std::fs::read_to_string(kept(resolved)).unwrap_or_default();
    let name = kept.trim();
    Ok(inventory.can_run(name).then(|| (name.to_owned(), "chosen at an earlier start".into())))
}

fn kept(resolved: &Resolved) -> PathBuf {
    resolved.instance.data_dir.join("runtime/default-handler")
}

/// The name of the default handler.
pub fn choose_default(resolved: &Resolved, inventory: &Inventory) -> anyhow::Result<String> {
    if let Some((name, _)) = named_default(resolved, inventory)? {
        return Ok(name);
    }
    for name in USUAL {
        let Some(handler) = inventory.find(name) else { continue };
        match test(handler, resolved.handler_timeout) {
            Ok(_) => {
                std::fs::create_dir_all(resolved.instance.data_dir.join("runtime"))?;
                crate::certificates::write_private(&kept(resolved), name)?;
                return Ok((*name).into());
            }
            Err(error) => tracing::info!(handler = name, %error, "does not work here and is not the default"),
        }
    }
    bail!("neither crun nor runc can run a container here; `sampan check` says why")
}

/// For taking an instance down: files that have become bad since it started are left alone, because sandboxes know by
/// themselves what they run by.
pub fn forgive(resolved: &mut Resolved) {
    let read = load(resolved).and_then(|inventory| named_default(resolved, &inventory).map(drop));
    if let Err(error) = read {
        tracing::warn!(error = format!("{error:#}"), "the handlers' configuration is left alone");
        resolved.foreign_handlers = files::Places::default();
        resolved.config_file = None;
    }
}

/// Lets a handler run its self-test in a directory of its own.
pub fn test(handler: &Handler, patience: Duration) -> anyhow::Result<runtime::Passed> {
    let scratch = PathBuf::from(format!("/run/sampan-self-test-{}", std::process::id()));
    let tested = runtime::self_test(handler, &scratch, patience);
    let _ = std::fs::remove_dir_all(&scratch);
    tested.context("self-test")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(binary: &str) -> Declared {
        let how = Ok(Served { binary: binary.into(), ..Served::default() });
        Declared { at: format!("{binary}:1"), how, notes: Vec::new() }
    }

    fn found(containerd: &[&str], crio: &[&str]) -> Found {
        let all = |prefix: &str, names: &[&str]| {
            names.iter().map(|name| ((*name).to_owned(), declared(&format!("{prefix}/{name}")))).collect()
        };
        let mut found = Found::default();
        found.containerd.handlers = all("/containerd", containerd);
        found.crio.handlers = all("/crio", crio);
        found
    }

    #[test]
    fn rtc_81_names_are_told_apart_and_the_nearest_configuration_wins() {
        let own = BTreeMap::from([("a".to_owned(), HandlerSettings { binary: "/own/a".into(), ..Default::default() })]);
        let inventory = assemble(&own, found(&["a", "b", "runc"], &["a", "b", "c"]));
        let binaries: Vec<String> =
            inventory.handlers().iter().map(|h| format!("{}={}", h.name, h.binary.display())).collect();
        assert_eq!(binaries, ["a=/own/a", "b=/containerd/b", "c=/crio/c", "crun=crun", "runc=/containerd/runc"]);
        assert_eq!(inventory.known[0].origin, "sampan's configuration");
    }

    #[test]
    fn rtc_77_a_foreign_default_has_to_be_there() {
        let named = |name: &str| {
            let mut found = found(&["gone"], &["sh"]);
            found.crio.handlers.insert("sh".into(), declared("/bin/sh"));
            let how = Err("it is a shim".to_owned());
            found.containerd.handlers.insert("vm".into(), Declared { at: "/v:1".into(), how, notes: Vec::new() });
            found.containerd.default = Some((name.into(), "/c:2".into()));
            assemble(&BTreeMap::new(), found).foreign_default().map_err(|error| error.to_string())
        };
        assert_eq!(named("sh"), Ok(Some("sh".into())));
        assert!(named("gone").unwrap_err().starts_with("/c:2: the default runtime \"gone\": no runtime for"));
        assert!(named("vm").unwrap_err().contains("cannot be served here: it is a shim"));
        assert!(named("none").unwrap_err().contains("\"none\" is not among the handlers"));
    }
}
