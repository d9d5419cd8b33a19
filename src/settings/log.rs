//! What the settings say about the logs of containers (POD-66). Pure.

use anyhow::{Context, bail};
use api::quantity::Quantity;
use node::log_rotation::Policy;

use crate::settings::{Settings, duration};

impl Settings {
    /// When logs are rotated.
    pub fn logs(&self) -> anyhow::Result<Policy> {
        let mut policy = Policy::default();
        if let Some(text) = &self.container_log_max_size {
            let bytes = Quantity::parse(text).with_context(|| format!("--container-log-max-size {text}"))?.value();
            policy.bytes_max = match u64::try_from(bytes) {
                Ok(bytes) if bytes > 0 => bytes,
                _ => bail!("--container-log-max-size {text}: write a size above 0, such as 10Mi"),
            };
        }
        if let Some(files) = self.container_log_max_files {
            if files < 2 {
                bail!("--container-log-max-files {files}: a log and the one before it are two; write 2 or more");
            }
            policy.files_max = files as usize;
        }
        if let Some(text) = &self.container_log_monitor_interval {
            policy.period = duration(text).context("--container-log-monitor-interval")?;
            if policy.period.is_zero() {
                bail!("--container-log-monitor-interval {text}: write more than 0, such as 10s");
            }
        }
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(size: &str, files: u32) -> Result<Policy, String> {
        let (container_log_max_size, container_log_max_files) = (Some(size.into()), Some(files));
        let settings = Settings { container_log_max_size, container_log_max_files, ..Settings::default() };
        settings.logs().map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn sizes_and_numbers_are_checked() {
        assert_eq!(
            Settings::default().logs().unwrap(),
            Policy { bytes_max: 10 << 20, files_max: 5, ..Policy::default() }
        );
        assert_eq!(of("64Ki", 2), Ok(Policy { bytes_max: 64 << 10, files_max: 2, ..Policy::default() }));
        assert!(of("64Ki", 1).unwrap_err().contains("write 2 or more"));
        assert!(of("0", 2).unwrap_err().contains("above 0"));
        let often =
            |text: &str| Settings { container_log_monitor_interval: Some(text.into()), ..Settings::default() }.logs();
        assert_eq!(often("1s").unwrap().period, std::time::Duration::from_secs(1));
        assert!(often("0s").unwrap_err().to_string().contains("more than 0"));
        assert!(of("big", 2).unwrap_err().starts_with("--container-log-max-size big: "));
    }
}
