//! Which images go, in which order, and why the others stay.
//!
//! Pure. Start at [`plan`].

use super::view::{Known, Space};
use jiff::{SignedDuration, Timestamp};

/// When images go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Use of the file system from which on images are removed.
    pub high_percent: u8,
    /// Use down to which they are removed.
    pub low_percent: u8,
    /// Younger images stay.
    pub age_min: SignedDuration,
    /// Images unused for so long go; `None` keeps them.
    pub age_max: Option<SignedDuration>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80, age_min: SignedDuration::from_secs(120), age_max: None }
    }
}

impl Policy {
    /// A full disk is the threshold and no age is: then nothing is ever collected (IMG-260).
    pub fn is_off(&self) -> bool {
        self.high_percent == 100 && self.age_max.is_none()
    }
}

/// Why an image goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is old.
    Age,
    /// The file system is full.
    Space,
}

impl Why {
    /// The word of the metric (IMG-269).
    pub fn label(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Space => "space",
        }
    }
}

/// Why an image stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stays {
    /// A container, a volume, a pod or a pull needs it.
    Used,
    /// The runtime needs it.
    Pinned,
    /// It came too recently.
    Young,
    /// There is room enough.
    RoomEnough,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use]
pub struct Plan {
    /// Go for their age.
    pub aged: Vec<Known>,
    /// May go for want of space, in this order, until `goal_bytes` are freed.
    pub spare: Vec<Known>,
    /// How much is to be freed beside what goes for its age; 0 if there is room.
    pub goal_bytes: u64,
    /// Stay, with the reason.
    pub stays: Vec<(Known, Stays)>,
    /// How full the file system is; `None` if that makes no sense.
    pub usage_percent: Option<u8>,
}

impl Plan {
    /// What goes if every removal frees what the image's size says.
    pub fn removals(&self) -> Vec<(&Known, Why)> {
        let mut freed = 0_u64;
        let spare = self.spare.iter().take_while(|image| {
            let wanted = freed < self.goal_bytes;
            freed = freed.saturating_add(image.size_bytes);
            wanted
        });
        self.aged.iter().map(|image| (image, Why::Age)).chain(spare.map(|image| (image, Why::Space))).collect()
    }

    /// The spare images that stay if all goes well.
    pub fn kept(&self) -> Vec<&Known> {
        let gone = self.removals().len() - self.aged.len();
        self.spare.iter().skip(gone).collect()
    }
}

/// How full the file system is: 100 − ⌊available·100/capacity⌋ (IMG-262).
pub fn usage_percent(space: Space) -> Option<u8> {
    let available = u128::from(space.available_bytes.min(space.capacity_bytes));
    let free = (available * 100).checked_div(u128::from(space.capacity_bytes))?;
    u8::try_from(100 - free).ok()
}

/// Plans one round. `since` is when the node began to look.
pub fn plan(policy: Policy, images: Vec<Known>, space: Option<Space>, now: Timestamp, since: Timestamp) -> Plan {
    let mut plan = Plan { usage_percent: space.and_then(usage_percent), ..Plan::default() };
    for image in images {
        let stays = match &image {
            Known { is_used: true, .. } => Some(Stays::Used),
            Known { is_pinned: true, .. } => Some(Stays::Pinned),
            young if now.duration_since(young.first_seen) < policy.age_min => Some(Stays::Young),
            _ => None,
        };
        match stays {
            Some(why) => plan.stays.push((image, why)),
            None if is_aged(policy, &image, now, since) => plan.aged.push(image),
            None => plan.spare.push(image),
        }
    }
    // Never used first, then the least recently used; of equals the one that was there first.
    plan.spare.sort_by(|a, b| (a.last_used, a.first_seen, &a.id).cmp(&(b.last_used, b.first_seen, &b.id)));
    if let (Some(space), Some(percent)) = (space, plan.usage_percent)
        && percent >= policy.high_percent
    {
        let available = u128::from(space.available_bytes.min(space.capacity_bytes));
        let target = u128::from(space.capacity_bytes) * u128::from(100 - policy.low_percent.min(100)) / 100;
        let aged: u128 = plan.aged.iter().map(|image| u128::from(image.size_bytes)).sum();
        let goal = target.saturating_sub(available).saturating_sub(aged);
        plan.goal_bytes = u64::try_from(goal).unwrap_or(u64::MAX);
    }
    plan
}

/// IMG-264: unused for the maximum age, and the node has looked on for so long.
fn is_aged(policy: Policy, image: &Known, now: Timestamp, since: Timestamp) -> bool {
    let Some(age_max) = policy.age_max else { return false };
    let used = image.last_used.map_or(image.first_seen, |used| used.max(image.first_seen));
    now.duration_since(since) > age_max && now.duration_since(used) >= age_max
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    /// Seen at, last used at, size.
    fn image(id: &str, seen: i64, used: Option<i64>, size_bytes: u64) -> Known {
        Known {
            id: id.into(),
            handler: String::new(),
            names: vec![],
            size_bytes,
            is_pinned: false,
            is_used: false,
            first_seen: at(seen),
            last_used: used.map(at),
        }
    }

    fn space(capacity_bytes: u64, available_bytes: u64) -> Option<Space> {
        Some(Space { capacity_bytes, available_bytes })
    }

    fn gone(plan: &Plan) -> Vec<(&str, Why)> {
        plan.removals().iter().map(|(image, why)| (image.id.as_str(), *why)).collect()
    }

    #[test]
    fn the_arithmetic_of_use_and_goal_is_as_specified() {
        // capacity, available → percent, bytes to free (high 90, low 80).
        for (capacity, available, percent, goal) in [
            (1000, 200, Some(80), 0),
            (1000, 101, Some(90), 99),
            (1000, 100, Some(90), 100),
            (1000, 110, Some(89), 0),
            (1000, 109, Some(90), 91),
            (1000, 0, Some(100), 200),
            (1000, 2000, Some(0), 0),
            (0, 0, None, 0),
            (u64::MAX, 0, Some(100), (u128::from(u64::MAX) * 20 / 100) as u64),
        ] {
            let policy = Policy { high_percent: 90, low_percent: 80, ..Policy::default() };
            let plan = plan(policy, vec![], space(capacity, available), at(0), at(0));
            assert_eq!((plan.usage_percent, plan.goal_bytes), (percent, goal), "{capacity} {available}");
        }
    }

    #[test]
    fn the_least_recently_used_goes_first_and_no_more_than_needed() {
        let images = vec![
            image("new", 0, Some(900), 50),
            image("old", 5, Some(100), 50),
            image("older-seen", 1, Some(100), 50),
            image("never", 9, None, 50),
        ];
        let policy = Policy { high_percent: 90, low_percent: 80, ..Policy::default() };
        let plan = plan(policy, images, space(1000, 80), at(1000), at(0));
        assert_eq!(plan.goal_bytes, 120);
        assert_eq!(gone(&plan), [("never", Why::Space), ("older-seen", Why::Space), ("old", Why::Space)]);
        assert_eq!(plan.kept().iter().map(|image| image.id.as_str()).collect::<Vec<_>>(), ["new"]);
    }

    #[test]
    fn what_is_used_pinned_or_young_stays_on_a_full_disk() {
        let used = Known { is_used: true, ..image("used", 0, None, 50) };
        let pinned = Known { is_pinned: true, ..image("pinned", 0, None, 50) };
        let young = image("young", 900, None, 50);
        let plan = plan(Policy::default(), vec![used, pinned, young], space(1000, 0), at(1000), at(0));
        assert_eq!(gone(&plan), []);
        let why: Vec<Stays> = plan.stays.iter().map(|(_, why)| *why).collect();
        assert_eq!(why, [Stays::Used, Stays::Pinned, Stays::Young]);
    }

    #[test]
    fn age_counts_from_the_last_use_or_the_first_sight_and_from_the_nodes_own_start() {
        let policy = Policy { age_max: Some(SignedDuration::from_secs(1000)), ..Policy::default() };
        let images = || vec![image("unused", 0, None, 1), image("used", 0, Some(500), 1), image("fresh", 990, None, 1)];
        let plan_at = |now: i64, since: i64| {
            let plan = plan(policy, images(), space(1000, 900), at(now), at(since));
            gone(&plan).into_iter().map(|(id, why)| (id.to_owned(), why)).collect::<Vec<_>>()
        };
        assert_eq!(plan_at(1000, 0), [], "not yet up for longer than that");
        assert_eq!(plan_at(1001, 0), [("unused".into(), Why::Age)]);
        assert_eq!(plan_at(1500, 0), [("unused".into(), Why::Age), ("used".into(), Why::Age)]);
        assert_eq!(plan_at(1500, 1400), [], "the node has just begun to look");
    }

    #[test]
    fn an_image_that_was_just_pulled_outlives_a_round_before_its_container_is_made() {
        let policy =
            Policy { age_max: Some(SignedDuration::from_secs(1)), age_min: SignedDuration::ZERO, ..Policy::default() };
        let plan = plan(policy, vec![image("pulled", 1000, None, 1)], space(1000, 900), at(1000), at(0));
        assert_eq!(gone(&plan), []);
    }

    #[test]
    fn what_goes_for_its_age_counts_towards_the_goal() {
        let policy = Policy { age_max: Some(SignedDuration::from_secs(500)), ..Policy::default() };
        let images = vec![image("aged", 0, None, 100), image("spare", 0, Some(900), 100)];
        let plan = plan(policy, images, space(1000, 100), at(1000), at(0));
        assert_eq!((gone(&plan), plan.goal_bytes), (vec![("aged", Why::Age)], 0));
    }

    proptest! {
        #[test]
        fn nothing_goes_that_is_needed_and_nothing_without_need(
            images in proptest::collection::vec((0..2000i64, proptest::option::of(0..2000i64), 0..500u64, any::<bool>(), any::<bool>()), 0..12),
            (capacity, available) in (0..2000u64, 0..2500u64),
            (low, above) in (0..100u8, 1..100u8),
        ) {
            let policy = Policy { high_percent: low.saturating_add(above).min(100), low_percent: low, ..Policy::default() };
            let images: Vec<Known> = images.into_iter().enumerate().map(|(n, (seen, used, size, is_used, is_pinned))| {
                Known { is_used, is_pinned, ..image(&n.to_string(), seen, used, size) }
            }).collect();
            let count = images.len();
            let plan = plan(policy, images, space(capacity, available), at(2000), at(0));
            prop_assert_eq!(plan.aged.len() + plan.spare.len() + plan.stays.len(), count);
            let removals = plan.removals();
            for (image, _) in &removals {
                prop_assert!(!image.is_used && !image.is_pinned);
                prop_assert!(at(2000).duration_since(image.first_seen) >= policy.age_min);
            }
            if plan.usage_percent.is_none_or(|percent| percent < policy.high_percent) {
                prop_assert!(removals.is_empty());
            }
            // One fewer would not have been enough.
            let sizes: u64 = removals.iter().map(|(image, _)| image.size_bytes).sum();
            if let Some((last, _)) = removals.last() {
                prop_assert!(sizes - last.size_bytes < plan.goal_bytes);
            }
        }
    }
}
