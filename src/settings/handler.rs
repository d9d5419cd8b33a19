//! What the settings say about handlers: sampan's own, and the files of other runtimes that name more.
//!
//! Pure. Start at [`Settings::foreign_handlers`].

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::handlers::files::{Place, Places};
use crate::settings::Settings;

/// One handler of the embedded runtime, as the configuration file names it.
#[derive(Serialize, Deserialize, Default, Clone, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HandlerSettings {
    /// Absolute path, or a name that is looked up in PATH.
    pub binary: PathBuf,
    /// Global arguments before the verb.
    pub arguments: Vec<String>,
    /// Annotations of pods that the OCI runtime is told: names, or globs, in which `*` matches no `/`.
    pub annotations: Vec<String>,
}

impl Settings {
    /// Where other runtimes' handlers are read from.
    pub fn foreign_handlers(&self) -> Places {
        Places {
            containerd: Place::of(self.containerd_config.clone(), "/etc/containerd/config.toml"),
            crio: Place::of(self.crio_config.clone(), "/etc/crio/crio.conf"),
            crio_drop_ins: Place::of(self.crio_config_dir.clone(), "/etc/crio/crio.conf.d"),
        }
    }

    /// How long one command of an OCI runtime may take. A failed start takes two, and the node waits two minutes for it.
    pub fn handler_timeout(&self) -> anyhow::Result<Duration> {
        let Some(text) = &self.handler_timeout else { return Ok(runtime::COMMAND_TIMEOUT) };
        let given = crate::settings::duration(text).context("--handler-timeout")?;
        if given.is_zero() || given > runtime::COMMAND_TIMEOUT_MAX {
            bail!("--handler-timeout {text}: write more than 0 and at most {:?}", runtime::COMMAND_TIMEOUT_MAX);
        }
        Ok(given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::field_reassign_with_default, reason = "some fields are private to another module")]
    fn the_time_of_a_command_has_bounds() {
        let with = |text: &str| {
            let mut settings = Settings::default();
            settings.handler_timeout = Some(text.into());
            settings.handler_timeout()
        };
        assert_eq!(Settings::default().handler_timeout().unwrap(), Duration::from_secs(40));
        assert_eq!(with("500ms").unwrap(), Duration::from_millis(500));
        for text in ["0s", "56s", "soon"] {
            assert!(with(text).unwrap_err().to_string().contains("--handler-timeout"), "{text}");
        }
    }
}
