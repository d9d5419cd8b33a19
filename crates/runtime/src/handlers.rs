//! The handlers that there are: which names are known, which of them can run now, and their exchange for others.
//!
//! Whether a handler can run is looked up at each question and kept nowhere, so that one appears as soon as its binary
//! does and is gone with it. Sandboxes do not ask here again: what they run by is in their records (RTC-82).

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use crate::error::Error;
use crate::options::Handler;

/// What classes written for dockershim say instead of nothing: the default, unless a handler is called so (RTC-47).
pub(crate) const DOCKER: &str = "docker";

impl Handler {
    /// Where its binary is.
    ///
    /// # Errors
    /// The path that was looked at, and what is wrong with it.
    pub fn executable(&self) -> Result<PathBuf, Error> {
        let missing = |reason| Error::NoBinary { handler: self.name.clone(), binary: self.binary.clone(), reason };
        if self.binary.is_absolute() {
            return match std::fs::metadata(&self.binary) {
                Ok(found) if !found.is_file() => Err(missing("is no file")),
                Ok(found) if found.permissions().mode() & 0o111 == 0 => Err(missing("is not executable")),
                Ok(_) => Ok(self.binary.clone()),
                Err(_) => Err(missing("does not exist")),
            };
        }
        find_program(&self.binary).ok_or_else(|| missing("is not in PATH"))
    }
}

/// Where PATH finds a program.
pub fn find_program(name: impl AsRef<Path>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name.as_ref())).find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// All handlers by name, and the one that "" means.
pub(crate) struct Table {
    pub all: BTreeMap<String, Handler>,
    pub default: String,
}

impl Table {
    /// The default has to be among the handlers (RTC-77).
    pub(crate) fn new(handlers: Vec<Handler>, default: String) -> Result<Table, Error> {
        let all: BTreeMap<_, _> = handlers.into_iter().map(|handler| (handler.name.clone(), handler)).collect();
        if !all.contains_key(&default) {
            return Err(Error::Invalid(format!("the default handler {default:?} is not among the handlers")));
        }
        Ok(Table { all, default })
    }

    /// Whether `docker` is another name of the default (RTC-47).
    pub(crate) fn has_alias(&self) -> bool {
        !self.all.contains_key(DOCKER)
    }

    /// Names of those that can run now; the default comes first, as "" and by its name (RTC-49).
    pub(crate) fn offered(&self) -> Vec<String> {
        let can_run = |name: &str| self.all.get(name).is_some_and(|handler| handler.executable().is_ok());
        let mut names = Vec::new();
        if can_run(&self.default) {
            names.extend([String::new(), self.default.clone()]);
        }
        names.extend(self.all.keys().filter(|name| **name != self.default && can_run(name)).cloned());
        names
    }
}

/// The table in force. Clones of a table that was read stay as they are.
pub(crate) struct Handlers(RwLock<Arc<Table>>);

impl Handlers {
    pub(crate) fn new(table: Table) -> Handlers {
        Handlers(RwLock::new(Arc::new(table)))
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Another table from now on; sandboxes that exist keep what they have (RTC-80, RTC-82).
    pub(crate) fn replace(&self, table: Table) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }

    /// The handler of a name, with its binary as an absolute path; "" is the default (RTC-40, RTC-41).
    pub(crate) fn find(&self, name: &str) -> Result<Handler, Error> {
        let table = self.table();
        let is_default = name.is_empty() || (name == DOCKER && table.has_alias());
        let wanted = if is_default { &table.default } else { name };
        let Some(handler) = table.all.get(wanted) else {
            let names = table.offered().into_iter().filter(|name| !name.is_empty());
            return Err(Error::NoHandler { handler: name.into(), available: names.collect::<Vec<_>>().join(", ") });
        };
        Ok(Handler { binary: handler.executable()?, ..handler.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(path: &Path, mode: u32) {
        std::fs::write(path, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_handler_is_offered_while_its_binary_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let late = directory.path().join("late");
        let all = vec![Handler::new("usual", "sh"), Handler::new("late", &late)];
        let handlers = Handlers::new(Table::new(all, "usual".into()).unwrap());
        let offered = || handlers.table().offered();
        assert_eq!(offered(), ["", "usual"]);
        let refused = handlers.find("late").unwrap_err().to_string();
        assert_eq!(
            refused,
            format!("no runtime for \"late\" is configured that can run: its binary {} does not exist", late.display())
        );
        program(&late, 0o644);
        assert!(handlers.find("late").unwrap_err().to_string().ends_with("is not executable"));
        program(&late, 0o755);
        assert_eq!(offered(), ["", "usual", "late"]);
        assert_eq!(handlers.find("late").unwrap().binary, late);
        std::fs::remove_file(&late).unwrap();
        assert_eq!(offered(), ["", "usual"]);
    }

    #[test]
    fn a_bare_name_is_looked_up_and_a_missing_one_is_not_offered() {
        let all = vec![Handler::new("shell", "sh"), Handler::new("none", "no-such-program-here")];
        let handlers = Handlers::new(Table::new(all, "none".into()).unwrap());
        assert_eq!(handlers.table().offered(), ["shell"]);
        assert!(handlers.find("shell").unwrap().binary.is_absolute());
        assert!(handlers.find("").unwrap_err().to_string().contains("no-such-program-here is not in PATH"));
    }

    #[test]
    fn an_unknown_name_is_refused_with_those_that_can_run() {
        let all = vec![Handler::new("a", "sh"), Handler::new("b", "/nowhere")];
        let handlers = Handlers::new(Table::new(all, "a".into()).unwrap());
        assert_eq!(handlers.find("c").unwrap_err().to_string(), "no runtime for \"c\" is configured; available: a");
    }

    #[test]
    fn rtc_47_docker_is_the_default_unless_a_handler_is_called_so() {
        let handlers = Handlers::new(Table::new(vec![Handler::new("a", "sh")], "a".into()).unwrap());
        assert_eq!(handlers.find("docker").unwrap().name, "a");
        let own = vec![Handler::new("a", "sh"), Handler::new("docker", "true")];
        handlers.replace(Table::new(own, "a".into()).unwrap());
        assert_eq!(handlers.find("docker").unwrap().name, "docker");
    }

    #[test]
    fn a_table_without_its_default_is_refused_and_another_takes_its_place() {
        assert!(Table::new(vec![Handler::new("a", "sh")], "b".into()).is_err());
        let handlers = Handlers::new(Table::new(vec![Handler::new("a", "sh")], "a".into()).unwrap());
        let old = handlers.table();
        handlers.replace(Table::new(vec![Handler::new("b", "sh")], "b".into()).unwrap());
        assert_eq!(
            (old.offered(), handlers.table().offered()),
            (vec!["".into(), "a".into()], vec!["".into(), "b".into()])
        );
    }
}
