//! What the settings say about images: how many pulls at a time, and what is collected.
//!
//! Pure. The checks and their words are the kubelet's own (IMG-252, IMG-260). Start at [`Settings::images`].

use std::time::Duration;

use anyhow::{Context, bail};
use jiff::SignedDuration;
use node::collection::Policy;
use node::image::queue::Limits;

use crate::settings::{Settings, duration};

/// The settings about images, with every default filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSettings {
    /// How many pulls at a time, and how many a second.
    pub limits: Limits,
    /// What is collected.
    pub collection: Policy,
    /// How many images the Node's status lists; `None` for all.
    pub status_max: Option<usize>,
    /// Images are asked for with the handler of the pod's RuntimeClass (gate RuntimeClassInImageCriApi, IMG-320).
    pub with_handler: bool,
}

/// Pulls at a time, unless they are serialized.
const PARALLEL: i32 = 5;

impl Settings {
    /// What the settings say about images.
    pub fn images(&self) -> anyhow::Result<ImageSettings> {
        let status_max = self.node_status_max_images.unwrap_or(50);
        if status_max < -1 {
            bail!(
                "invalid configuration: nodeStatusMaxImages (--node-status-max-images) {status_max} must be -1 or greater"
            );
        }
        Ok(ImageSettings {
            limits: self.limits()?,
            collection: self.collection()?,
            status_max: usize::try_from(status_max).ok(),
            with_handler: self.gate("RuntimeClassInImageCriApi"),
        })
    }

    fn limits(&self) -> anyhow::Result<Limits> {
        let is_serial = self.serialize_image_pulls.unwrap_or(false);
        let parallel = self.max_parallel_image_pulls.unwrap_or(if is_serial { 1 } else { PARALLEL });
        if parallel < 1 {
            bail!("invalid configuration: maxParallelImagePulls {parallel} must be a positive number");
        }
        if parallel > 1 && is_serial {
            bail!(
                "invalid configuration: maxParallelImagePulls cannot be larger than 1 unless SerializeImagePulls (--serialize-image-pulls) is set to false"
            );
        }
        let not_negative = |name: &str, flag: &str, value: i32| {
            u32::try_from(value).map_err(|_| {
                anyhow::anyhow!("invalid configuration: {name} ({flag}) {value} must not be a negative number")
            })
        };
        Ok(Limits {
            parallel_max: usize::try_from(parallel).unwrap_or(1),
            per_second: not_negative("registryPullQPS", "--registry-qps", self.registry_pull_qps.unwrap_or(5))?,
            burst: not_negative("registryBurst", "--registry-burst", self.registry_burst.unwrap_or(10))?,
        })
    }

    fn collection(&self) -> anyhow::Result<Policy> {
        let percent = |name: &str, flag: &str, value: i32| match u8::try_from(value) {
            Ok(percent) if percent <= 100 => Ok(percent),
            _ => Err(anyhow::anyhow!(
                "invalid configuration: {name} ({flag}) {value} must be between 0 and 100, inclusive"
            )),
        };
        let (high_flag, low_flag) = ("--image-gc-high-threshold", "--image-gc-low-threshold");
        let high = self.image_gc_high_threshold_percent.unwrap_or(85);
        let high_percent = percent("imageGCHighThresholdPercent", high_flag, high)?;
        let low = self.image_gc_low_threshold_percent.unwrap_or(80);
        let low_percent = percent("imageGCLowThresholdPercent", low_flag, low)?;
        if low >= high {
            bail!(
                "invalid configuration: imageGCLowThresholdPercent ({low_flag}) {low} must be less than imageGCHighThresholdPercent ({high_flag}) {high}"
            );
        }
        let age = |text: &Option<String>, name: &'static str, default: Duration| match text {
            Some(text) => duration(text).with_context(|| format!("invalid configuration: {name}")),
            None => Ok(default),
        };
        let age_min = age(&self.image_minimum_gc_age, "imageMinimumGCAge", Duration::from_secs(120))?;
        let age_max = age(&self.image_maximum_gc_age, "imageMaximumGCAge", Duration::ZERO)?;
        if !age_max.is_zero() && age_max <= age_min {
            bail!(
                "invalid configuration: imageMaximumGCAge {age_max:?} must be greater than imageMinimumGCAge {age_min:?}"
            );
        }
        let signed = |age: Duration| SignedDuration::try_from(age).context("an age of images is too long");
        let age_max = if age_max.is_zero() { None } else { Some(signed(age_max)?) };
        Ok(Policy { high_percent, low_percent, age_min: signed(age_min)?, age_max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Settings)) -> Result<ImageSettings, String> {
        let mut settings = Settings::default();
        change(&mut settings);
        settings.images().map_err(|error| error.to_string())
    }

    #[test]
    fn five_pulls_at_a_time_are_the_default_and_one_if_they_are_serialized() {
        let limits = |change: fn(&mut Settings)| check(change).map(|images| images.limits);
        assert_eq!(limits(|_| ()), Ok(Limits { parallel_max: 5, per_second: 5, burst: 10 }));
        let serial = Limits { parallel_max: 1, ..Limits::default() };
        assert_eq!(limits(|s| s.serialize_image_pulls = Some(true)), Ok(serial));
        let both = |s: &mut Settings| (s.serialize_image_pulls, s.max_parallel_image_pulls) = (Some(true), Some(1));
        assert_eq!(limits(both), Ok(serial));
        assert_eq!(limits(|s| s.max_parallel_image_pulls = Some(3)).unwrap().parallel_max, 3);
    }

    #[test]
    fn impossible_pulls_are_refused_in_the_words_of_kubernetes() {
        let zero = check(|s| s.max_parallel_image_pulls = Some(0)).unwrap_err();
        assert_eq!(zero, "invalid configuration: maxParallelImagePulls 0 must be a positive number");
        let both = check(|s| (s.serialize_image_pulls, s.max_parallel_image_pulls) = (Some(true), Some(2)));
        assert_eq!(
            both.unwrap_err(),
            "invalid configuration: maxParallelImagePulls cannot be larger than 1 unless SerializeImagePulls (--serialize-image-pulls) is set to false"
        );
        let qps = check(|s| s.registry_pull_qps = Some(-1)).unwrap_err();
        assert_eq!(qps, "invalid configuration: registryPullQPS (--registry-qps) -1 must not be a negative number");
        let burst = check(|s| s.registry_burst = Some(-2)).unwrap_err();
        assert_eq!(burst, "invalid configuration: registryBurst (--registry-burst) -2 must not be a negative number");
    }

    #[test]
    fn impossible_thresholds_and_ages_are_refused() {
        let high = check(|s| s.image_gc_high_threshold_percent = Some(101)).unwrap_err();
        assert!(
            high.ends_with(
                "imageGCHighThresholdPercent (--image-gc-high-threshold) 101 must be between 0 and 100, inclusive"
            ),
            "{high}"
        );
        let low = check(|s| s.image_gc_low_threshold_percent = Some(85)).unwrap_err();
        assert!(low.contains("(--image-gc-low-threshold) 85 must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) 85"), "{low}");
        let age = check(|s| s.image_maximum_gc_age = Some("2m".into())).unwrap_err();
        assert_eq!(age, "invalid configuration: imageMaximumGCAge 120s must be greater than imageMinimumGCAge 120s");
        assert!(check(|s| s.image_minimum_gc_age = Some("soon".into())).is_err());
        assert!(check(|s| s.node_status_max_images = Some(-2)).is_err());
        let set = check(|s| {
            (s.image_minimum_gc_age, s.image_maximum_gc_age) = (Some("0".into()), Some("24h".into()));
            s.node_status_max_images = Some(-1);
        })
        .unwrap();
        assert_eq!(set.collection.age_max, Some(SignedDuration::from_hours(24)));
        assert_eq!((set.collection.age_min, set.status_max), (SignedDuration::ZERO, None));
    }
}
