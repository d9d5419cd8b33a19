//! The decision whether an image is pulled, and the back-off after failed pulls (IMG-40 … IMG-80).
//!
//! Owns the decision table and its words. Pure: whether the image is present and how a pull ended is told by the pod's
//! `act`. Must not talk to a registry or the runtime. Start at [`choose`].

use jiff::{SignedDuration, Timestamp};

/// First delay after a failed pull; doubles up to [`BACKOFF_MAX`] (IMG-70).
pub const BACKOFF_FIRST: SignedDuration = SignedDuration::from_secs(10);
/// The longest delay between two pulls.
pub const BACKOFF_MAX: SignedDuration = SignedDuration::from_secs(300);
/// A failure older than this no longer counts (IMG-73).
pub const BACKOFF_FORGET: SignedDuration = SignedDuration::from_secs(600);

/// `imagePullPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Resolve at every start.
    Always,
    /// Pull only what is absent.
    IfNotPresent,
    /// Never pull.
    Never,
}

impl Policy {
    /// From the spec's word; the API server has defaulted it, so that an unknown word means IfNotPresent.
    pub fn parse(word: &str) -> Self {
        match word {
            "Always" => Self::Always,
            "Never" => Self::Never,
            _ => Self::IfNotPresent,
        }
    }

    /// IMG-41: `Always` does not look at what is there.
    pub fn looks_locally(self) -> bool {
        self != Self::Always
    }
}

/// What to do for one start of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Run what is there.
    UseLocal,
    /// Ask the registry.
    Pull,
    /// `ErrImageNeverPull`.
    RefuseNever,
}

/// The table IMG-41, without credential verification.
pub fn choose(policy: Policy, present: bool) -> Choice {
    match (policy, present) {
        (Policy::Always, _) | (Policy::IfNotPresent, false) => Choice::Pull,
        (_, true) => Choice::UseLocal,
        (Policy::Never, false) => Choice::RefuseNever,
    }
}

/// The consecutive failed pulls of one image for one pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Failures {
    /// How many.
    pub count: u32,
    /// When the last one failed.
    pub last: Timestamp,
    /// Its reason word.
    pub reason: String,
    /// Its text.
    pub message: String,
}

impl Failures {
    /// Adds a failure to what was known.
    pub fn after(known: Option<&Self>, now: Timestamp, reason: &str, message: &str) -> Self {
        let count = known.filter(|f| now.duration_since(f.last) <= BACKOFF_FORGET).map_or(0, |f| f.count) + 1;
        Self { count, last: now, reason: reason.to_owned(), message: message.to_owned() }
    }

    /// The instant from which the registry may be asked again (IMG-72: at exactly the delay it may).
    pub fn until(&self) -> Timestamp {
        self.last + doubled(BACKOFF_FIRST, self.count.saturating_sub(1), BACKOFF_MAX)
    }
}

/// `first` doubled `times` times, at most `limit`.
pub fn doubled(first: SignedDuration, times: u32, limit: SignedDuration) -> SignedDuration {
    first.checked_mul(1 << times.min(20)).map_or(limit, |delay| delay.min(limit))
}

/// A failed attempt to have an image, in the words of `waiting`.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// `waiting.reason`.
    pub reason: &'static str,
    /// `waiting.message`.
    pub message: String,
    /// True if it starts or lengthens the back-off (IMG-76).
    pub backs_off: bool,
}

/// IMG-51: names the reason for a pull's failure from the text of the runtime.
pub fn classify(image: &str, text: &str) -> Refusal {
    let typed = [
        ("RegistryUnavailable", "the registry is unavailable"),
        ("SignatureValidationFailed", "the signature validation failed"),
    ];
    for (reason, words) in typed {
        if let Some(rest) = text.strip_prefix(reason) {
            return Refusal {
                reason,
                message: format!("image pull failed for {image} because {words}{rest}"),
                backs_off: true,
            };
        }
    }
    Refusal { reason: "ErrImagePull", message: text.to_owned(), backs_off: true }
}

/// IMG-48: a duration in Go's notation, truncated to milliseconds.
pub fn go_duration(duration: SignedDuration) -> String {
    let ms = duration.as_millis().max(0);
    let (hours, minutes, rest) = (ms / 3_600_000, ms / 60_000 % 60, ms % 60_000);
    if ms < 1000 {
        return if ms == 0 { "0s".into() } else { format!("{ms}ms") };
    }
    let mut text = String::new();
    if hours > 0 {
        text += &format!("{hours}h");
    }
    if ms >= 60_000 {
        text += &format!("{minutes}m");
    }
    let seconds = format!("{}.{:03}", rest / 1000, rest % 1000);
    text + seconds.trim_end_matches('0').trim_end_matches('.') + "s"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn the_decision_table_is_as_specified() {
        for (policy, present, choice) in [
            (Policy::Always, false, Choice::Pull),
            (Policy::Always, true, Choice::Pull),
            (Policy::IfNotPresent, false, Choice::Pull),
            (Policy::IfNotPresent, true, Choice::UseLocal),
            (Policy::Never, false, Choice::RefuseNever),
            (Policy::Never, true, Choice::UseLocal),
        ] {
            assert_eq!(choose(policy, present), choice, "{policy:?} present={present}");
        }
    }

    #[test]
    fn the_delay_doubles_from_ten_seconds_to_five_minutes() {
        let mut failures = None;
        let mut now = at(0);
        let mut delays = Vec::new();
        for _ in 0..7 {
            let next = Failures::after(failures.as_ref(), now, "ErrImagePull", "x");
            delays.push(next.until().duration_since(now).as_secs());
            now = next.until();
            failures = Some(next);
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn an_old_failure_is_forgotten() {
        let first = Failures::after(None, at(0), "ErrImagePull", "x");
        assert_eq!(Failures::after(Some(&first), at(601), "ErrImagePull", "x").count, 1);
        assert_eq!(Failures::after(Some(&first), at(600), "ErrImagePull", "x").count, 2);
    }

    #[test]
    fn durations_read_as_go_prints_them() {
        for (ms, text) in [
            (0, "0s"),
            (405, "405ms"),
            (1000, "1s"),
            (8658, "8.658s"),
            (8600, "8.6s"),
            (60_000, "1m0s"),
            (105_457, "1m45.457s"),
            (3_600_000, "1h0m0s"),
            (3_661_010, "1h1m1.01s"),
        ] {
            assert_eq!(go_duration(SignedDuration::from_millis(ms)), text);
        }
    }

    #[test]
    fn typed_errors_keep_their_reason() {
        let refusal = classify("img", "RegistryUnavailable: dial tcp refused");
        assert_eq!(refusal.reason, "RegistryUnavailable");
        assert_eq!(refusal.message, "image pull failed for img because the registry is unavailable: dial tcp refused");
        assert_eq!(classify("img", "not found").reason, "ErrImagePull");
    }
}
