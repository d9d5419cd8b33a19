//! What the settings say about the audit log. Pure.

use std::path::Path;

use anyhow::{Context, bail};
use apiserver::AuditLog;

use crate::settings::{Resolved, Settings};

const MAXSIZE_MIB: u64 = 100;
const MAXBACKUP: usize = 10;

impl Settings {
    /// Where audit events go; None = nowhere.
    pub fn audit_log(&self) -> anyhow::Result<Option<AuditLog>> {
        let Some(path) = &self.audit_log_path else { return Ok(None) };
        let mebibytes = self.audit_log_maxsize.unwrap_or(MAXSIZE_MIB);
        let bytes_max = match mebibytes.checked_mul(1 << 20) {
            Some(bytes) if bytes > 0 => bytes,
            _ => bail!("--audit-log-maxsize {mebibytes}: write a number of MiB above 0"),
        };
        let path = match path == Path::new(STDOUT) {
            true => path.clone(),
            false => std::path::absolute(path).with_context(|| format!("--audit-log-path {}", path.display()))?,
        };
        let backups_max = self.audit_log_maxbackup.unwrap_or(MAXBACKUP);
        Ok(Some(AuditLog { path, bytes_max, backups_max }))
    }
}

const STDOUT: &str = "-";

/// Refuses standard output where there will be none.
pub fn refuse_stdout(resolved: &Resolved) -> anyhow::Result<()> {
    if is_stdout(resolved) {
        bail!("--audit-log-path -: in the background there is no standard output; name a file");
    }
    Ok(())
}

/// Keeps standard output for what a command of the terminal says.
pub fn off_stdout(resolved: &mut Resolved) {
    if is_stdout(resolved) {
        resolved.audit_log = None;
    }
}

fn is_stdout(resolved: &Resolved) -> bool {
    resolved.audit_log.as_ref().is_some_and(|log| log.path == Path::new(STDOUT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, maxsize: Option<u64>) -> Result<Option<AuditLog>, String> {
        let (audit_log_path, audit_log_maxsize) = (Some(path.into()), maxsize);
        let settings = Settings { audit_log_path, audit_log_maxsize, ..Settings::default() };
        settings.audit_log().map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn the_audit_log_is_off_unless_a_file_is_named() {
        assert_eq!(Settings::default().audit_log().unwrap(), None);
        let log = of("/var/log/audit.log", None).unwrap().unwrap();
        assert_eq!((log.bytes_max, log.backups_max), (100 << 20, 10));
        assert_eq!(of("-", Some(1)).unwrap().unwrap().path, Path::new("-"));
        assert!(of("/a", Some(0)).unwrap_err().starts_with("--audit-log-maxsize 0: "));
        assert!(of("/a", Some(u64::MAX)).is_err());
        let settings = Settings { audit_log_path: Some("-".into()), ..Settings::default() };
        let mut resolved = settings.resolve().unwrap();
        assert!(refuse_stdout(&resolved).is_err());
        off_stdout(&mut resolved);
        assert_eq!(resolved.audit_log, None);
    }
}
