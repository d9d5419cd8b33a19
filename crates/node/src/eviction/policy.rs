//! When the node evicts: thresholds hard and soft, how much is to be freed, how long a pressure is shown.
//!
//! Pure. Settings, defaults and refusals are in the kubelet's words. Start at [`Policy::parse`].

use super::signal::Signal;
use api::quantity::{ParseError, Quantity};
use jiff::SignedDuration;
use std::collections::BTreeMap;

/// Statements of the settings: signal to value.
pub type Statements = BTreeMap<String, String>;

/// Hard thresholds where none are set.
pub const HARD_DEFAULTS: [(Signal, &str); 5] = [
    (Signal::MemoryAvailable, "100Mi"),
    (Signal::NodefsAvailable, "10%"),
    (Signal::NodefsInodesFree, "5%"),
    (Signal::ImagefsAvailable, "15%"),
    (Signal::ImagefsInodesFree, "5%"),
];
/// Signals of the file system of containers: they follow those of the node's or the images' file system.
const DERIVED: [&str; 2] = ["containerfs.available", "containerfs.inodesFree"];

/// How much of something.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// So much.
    Quantity(Quantity),
    /// This share of the capacity, from 0 to 1.
    Share(f32),
}

/// One threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    /// What is measured.
    pub signal: Signal,
    /// It is crossed when less than this is left.
    pub amount: Amount,
    /// How long it has to stay crossed; zero for a hard threshold.
    pub grace: SignedDuration,
    /// How much more than `amount` is to be freed once it is crossed.
    pub reclaim: Option<Amount>,
}

/// Everything that is set about eviction.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// By signal, the hard threshold of each before its soft one.
    pub thresholds: Vec<Threshold>,
    /// The longest grace of a pod that a soft threshold ends, in seconds.
    pub pod_grace_max_seconds: i64,
    /// How long a condition is shown after it was last seen.
    pub transition: SignedDuration,
}

/// The settings as they were given.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// `evictionHard`; `None` for the defaults.
    pub hard: Option<Statements>,
    /// `evictionSoft`.
    pub soft: Statements,
    /// `evictionSoftGracePeriod`.
    pub soft_grace: BTreeMap<String, SignedDuration>,
    /// `evictionMinimumReclaim`.
    pub reclaim: Statements,
    /// `mergeDefaultEvictionSettings`: what `hard` does not name keeps its default.
    pub merges_defaults: bool,
    /// `evictionMaxPodGracePeriod`.
    pub pod_grace_max_seconds: i64,
    /// `evictionPressureTransitionPeriod`; `None` for the default.
    pub transition: Option<SignedDuration>,
}

/// Why settings are refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[allow(missing_docs)] // The fields are what the texts show.
pub enum Error {
    #[error("unsupported eviction signal {0}")]
    Signal(String),
    #[error("{value:?}: {source}")]
    Quantity { value: String, source: ParseError },
    #[error("{0:?} is no percentage")]
    Percentage(String),
    #[error("eviction percentage threshold {signal} must be >= 0%: {value}")]
    BelowNothing { signal: Signal, value: String },
    #[error("eviction percentage threshold {signal} must be <= 100%: {value}")]
    AboveAll { signal: Signal, value: String },
    #[error("eviction threshold {signal} must be positive: {value}")]
    NotPositive { signal: Signal, value: String },
    #[error("eviction percentage minimum reclaim {signal} must be positive: {value}")]
    ReclaimNotPositive { signal: Signal, value: String },
    #[error("negative eviction minimum reclaim specified for {0}")]
    ReclaimNegative(Signal),
    #[error("grace period must be specified for the soft eviction threshold {0}")]
    NoGrace(Signal),
    #[error("evictionMaxPodGracePeriod {0} must not be a negative number")]
    PodGrace(i64),
}

impl Amount {
    /// The quantity, of a whole of `capacity`.
    pub fn of(self, capacity: Quantity) -> Quantity {
        match self {
            Self::Quantity(quantity) => quantity,
            // The kubelet's own arithmetic, so that the figures in messages are the same.
            #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
            Self::Share(share) => Quantity::bytes((capacity.value() as f64 * f64::from(share)) as i64),
        }
    }
}

impl Threshold {
    /// Crossed, it evicts at once.
    pub fn is_hard(&self) -> bool {
        self.grace.is_zero()
    }
}

impl Default for Policy {
    /// What holds where nothing is set.
    fn default() -> Self {
        Self::parse(&Given::default()).expect("the defaults are well-formed")
    }
}

impl Policy {
    /// How long a condition is shown after it was last seen, by default.
    pub const TRANSITION: SignedDuration = SignedDuration::from_secs(300);

    /// Reads the settings.
    ///
    /// # Errors
    /// [`Error`], in the kubelet's words.
    pub fn parse(given: &Given) -> Result<Policy, Error> {
        let defaults = HARD_DEFAULTS.iter().map(|(signal, value)| (signal.name().to_owned(), (*value).to_owned()));
        let hard = match &given.hard {
            None => defaults.collect(),
            Some(hard) if given.merges_defaults => defaults.chain(hard.clone()).collect(),
            Some(hard) => hard.clone(),
        };
        for name in given.soft_grace.keys().filter(|name| !DERIVED.contains(&name.as_str())) {
            Signal::parse(name).ok_or_else(|| Error::Signal(name.clone()))?;
        }
        let mut thresholds = Vec::new();
        for (signal, amount) in amounts(&hard, threshold)? {
            thresholds.push(Threshold { signal, amount, grace: SignedDuration::ZERO, reclaim: None });
        }
        for (signal, amount) in amounts(&given.soft, threshold)? {
            let grace = *given.soft_grace.get(signal.name()).ok_or(Error::NoGrace(signal))?;
            thresholds.push(Threshold { signal, amount, grace, reclaim: None });
        }
        for (signal, amount) in amounts(&given.reclaim, reclaim)? {
            let about = thresholds.iter_mut().filter(|threshold| threshold.signal == signal);
            about.for_each(|threshold| threshold.reclaim = Some(amount));
        }
        thresholds.sort_by_key(|threshold| (threshold.signal, !threshold.is_hard()));
        if given.pod_grace_max_seconds < 0 {
            return Err(Error::PodGrace(given.pod_grace_max_seconds));
        }
        let transition = given.transition.unwrap_or(Self::TRANSITION);
        Ok(Policy { thresholds, pod_grace_max_seconds: given.pod_grace_max_seconds, transition })
    }

    /// True if nothing is ever evicted.
    pub fn is_off(&self) -> bool {
        self.thresholds.is_empty()
    }
}

type Read = fn(Signal, &str) -> Result<Option<Amount>, Error>;

/// The statements with their signals known. Those about the file system of containers are left out.
fn amounts(statements: &Statements, read: Read) -> Result<BTreeMap<Signal, Amount>, Error> {
    let mut amounts = BTreeMap::new();
    for (name, value) in statements.iter().filter(|(name, _)| !DERIVED.contains(&name.as_str())) {
        let signal = Signal::parse(name).ok_or_else(|| Error::Signal(name.clone()))?;
        if let Some(amount) = read(signal, value)? {
            amounts.insert(signal, amount);
        }
    }
    Ok(amounts)
}

/// A threshold's value; `None` for `0%` and `100%`, which switch it off.
fn threshold(signal: Signal, value: &str) -> Result<Option<Amount>, Error> {
    if matches!(value, "0%" | "100%") {
        return Ok(None);
    }
    if let Some(share) = share(value)? {
        return match share {
            share if share < 0.0 => Err(Error::BelowNothing { signal, value: value.to_owned() }),
            share if share > 1.0 => Err(Error::AboveAll { signal, value: value.to_owned() }),
            share => Ok(Some(Amount::Share(share))),
        };
    }
    let quantity = quantity(value)?;
    if quantity.is_negative() || quantity.is_zero() {
        return Err(Error::NotPositive { signal, value: quantity.to_string() });
    }
    Ok(Some(Amount::Quantity(quantity)))
}

fn reclaim(signal: Signal, value: &str) -> Result<Option<Amount>, Error> {
    if let Some(share) = share(value)? {
        return match share {
            share if share > 0.0 => Ok(Some(Amount::Share(share))),
            _ => Err(Error::ReclaimNotPositive { signal, value: value.to_owned() }),
        };
    }
    match quantity(value)? {
        quantity if quantity.is_negative() => Err(Error::ReclaimNegative(signal)),
        quantity => Ok(Some(Amount::Quantity(quantity))),
    }
}

fn share(value: &str) -> Result<Option<f32>, Error> {
    let Some(number) = value.strip_suffix('%') else { return Ok(None) };
    let percent: f32 = number.parse().map_err(|_| Error::Percentage(value.to_owned()))?;
    if percent.is_finite() { Ok(Some(percent / 100.0)) } else { Err(Error::Percentage(value.to_owned())) }
}

fn quantity(value: &str) -> Result<Quantity, Error> {
    Quantity::parse(value).map_err(|source| Error::Quantity { value: value.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(of: &[(&str, &str)]) -> Statements {
        of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn shown(policy: &Policy) -> Vec<String> {
        let capacity = Quantity::bytes(1000);
        let one = |t: &Threshold| {
            let reclaim = t.reclaim.map_or(String::new(), |amount| format!("+{}", amount.of(capacity)));
            format!("{}<{}{reclaim} after {}", t.signal, t.amount.of(capacity), t.grace.as_secs())
        };
        policy.thresholds.iter().map(one).collect()
    }

    #[test]
    fn without_settings_the_thresholds_are_the_kubelets() {
        let policy = Policy::default();
        assert_eq!(
            shown(&policy),
            [
                "memory.available<100Mi after 0",
                "nodefs.available<100 after 0",
                "nodefs.inodesFree<50 after 0",
                "imagefs.available<150 after 0",
                "imagefs.inodesFree<50 after 0",
            ]
        );
        assert_eq!((policy.transition.as_secs(), policy.pod_grace_max_seconds), (300, 0));
    }

    #[test]
    fn settings_take_the_place_of_the_defaults_unless_they_are_merged() {
        let hard =
            Some(statements(&[("memory.available", "1Gi"), ("nodefs.available", "0%"), ("pid.available", "10")]));
        let given = Given { hard, ..Given::default() };
        assert_eq!(
            shown(&Policy::parse(&given).unwrap()),
            ["memory.available<1Gi after 0", "pid.available<10 after 0"]
        );
        let merged = Policy::parse(&Given { merges_defaults: true, ..given }).unwrap();
        assert_eq!(
            shown(&merged),
            [
                "memory.available<1Gi after 0",
                "nodefs.inodesFree<50 after 0",
                "imagefs.available<150 after 0",
                "imagefs.inodesFree<50 after 0",
                "pid.available<10 after 0",
            ]
        );
        let nothing = Given { hard: Some(Statements::new()), ..Given::default() };
        assert!(Policy::parse(&nothing).unwrap().is_off());
    }

    #[test]
    fn soft_thresholds_have_a_grace_and_both_kinds_what_is_to_be_freed() {
        let given = Given {
            hard: Some(statements(&[("nodefs.available", "5%"), ("containerfs.available", "7%")])),
            soft: statements(&[("nodefs.available", "12.5%"), ("memory.available", "300Mi")]),
            soft_grace: [("nodefs.available", 90), ("memory.available", 30), ("pid.available", 1)]
                .map(|(name, seconds)| (name.to_owned(), SignedDuration::from_secs(seconds)))
                .into(),
            reclaim: statements(&[("nodefs.available", "2.5%"), ("memory.available", "0"), ("pid.available", "5")]),
            ..Given::default()
        };
        assert_eq!(
            shown(&Policy::parse(&given).unwrap()),
            ["memory.available<300Mi+0 after 30", "nodefs.available<50+25 after 0", "nodefs.available<125+25 after 90",]
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_the_words_of_kubernetes() {
        let hard = |name: &str, value: &str| {
            let given = Given { hard: Some(statements(&[(name, value)])), ..Given::default() };
            Policy::parse(&given).unwrap_err().to_string()
        };
        let least = |value: &str| {
            let given = Given { reclaim: statements(&[("memory.available", value)]), ..Given::default() };
            Policy::parse(&given).unwrap_err().to_string()
        };
        let soft = Given { soft: statements(&[("memory.available", "1Gi")]), ..Given::default() };
        let grace = [("disk".to_owned(), SignedDuration::ZERO)].into();
        for (got, want) in [
            (hard("disk.available", "1"), "unsupported eviction signal disk.available"),
            (hard("memory.available", "-1%"), "eviction percentage threshold memory.available must be >= 0%: -1%"),
            (hard("memory.available", "101%"), "eviction percentage threshold memory.available must be <= 100%: 101%"),
            (hard("memory.available", "0"), "eviction threshold memory.available must be positive: 0"),
            (hard("memory.available", "x%"), "\"x%\" is no percentage"),
            (least("0%"), "eviction percentage minimum reclaim memory.available must be positive: 0%"),
            (least("-1Gi"), "negative eviction minimum reclaim specified for memory.available"),
            (
                Policy::parse(&soft).unwrap_err().to_string(),
                "grace period must be specified for the soft eviction threshold memory.available",
            ),
            (
                Policy::parse(&Given { soft_grace: grace, ..Given::default() }).unwrap_err().to_string(),
                "unsupported eviction signal disk",
            ),
            (
                Policy::parse(&Given { pod_grace_max_seconds: -1, ..Given::default() }).unwrap_err().to_string(),
                "evictionMaxPodGracePeriod -1 must not be a negative number",
            ),
        ] {
            assert_eq!(got, want);
        }
        assert!(hard("memory.available", "much").starts_with("\"much\": "));
    }
}
