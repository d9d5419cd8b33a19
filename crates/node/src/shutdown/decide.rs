//! What a shutdown of the machine is to the node: a state machine over announcements, the ends of pods and the time.
//!
//! Pure.
//!
//! ```text
//!            announced            all groups are over        the API knows
//!  Quiet ───────────────► Ending ────────────────────► Telling ───────────► Over
//!    ▲                       │                             │                  │
//!    └────── cancelled, or nobody can be asked any more ───┴──────────────────┘
//! ```
//!
//! A group is over when all its pods have ended or its time is out. But in [`Stage::Quiet`] pods are refused; but in
//! [`Stage::Over`] the lock is held. Nothing of it is stored: the next agent asks logind what is announced, and a pod's
//! verdict is with the pod. Start at [`Machine::step`].

use super::policy::Policy;
use jiff::{SignedDuration, Timestamp};

/// How long the API may take to learn how the pods ended before the machine goes on without it.
const TELL_MAX: SignedDuration = SignedDuration::from_secs(2);
/// After so long without anybody who could cancel it, an announcement holds no more.
const UNSURE_MAX: SignedDuration = SignedDuration::from_secs(300);

/// How far a pod's end is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Something of it may run.
    #[default]
    Not,
    /// Nothing of it runs.
    Ended,
    /// And the API shows that.
    Told,
}

/// A pod of the node, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodView {
    /// Its UID.
    pub uid: String,
    /// Its priority.
    pub priority: i32,
    /// Its own grace.
    pub grace_seconds: i64,
    /// It has been asked to end for this shutdown.
    pub is_asked: bool,
    /// Whether it has.
    pub end: End,
}

/// The pods of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Those that are known.
    pub pods: Vec<PodView>,
    /// There are no others.
    pub is_complete: bool,
}

/// What happens outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The machine will shut down.
    Announced,
    /// It will not, or not any more.
    Cancelled,
    /// Who announces and cancels shutdowns cannot be heard.
    Unheard,
}

/// How far the shutdown is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// None is announced.
    Quiet,
    /// The pods of this group end, those of lower ones have or should have.
    Ending {
        /// Its place in the policy.
        group: usize,
        /// When its time is out.
        until: Timestamp,
    },
    /// All have ended or had their time; the API learns of it.
    Telling {
        /// When that is not waited for any longer.
        until: Timestamp,
    },
    /// The machine may go down.
    Over,
}

/// The state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    stage: Stage,
    /// Since when nobody can be asked whether the announcement holds.
    unsure_since: Option<Timestamp>,
}

/// A pod that is to end now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Its UID.
    pub uid: String,
    /// How long it gets.
    pub grace_seconds: i64,
}

/// What is to be done, and when to look again although nothing happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct Plan {
    /// These end.
    pub end: Vec<Ending>,
    /// When to look again at the latest.
    pub wake_at: Option<Timestamp>,
}

impl Default for Machine {
    fn default() -> Self {
        Self { stage: Stage::Quiet, unsure_since: None }
    }
}

impl Machine {
    /// How far it is.
    pub fn stage(self) -> Stage {
        self.stage
    }

    /// Pods that come are refused, and the node is not ready.
    pub fn refuses_pods(self) -> bool {
        self.stage != Stage::Quiet
    }

    /// The machine's shutdown is to wait for the node.
    pub fn holds_lock(self) -> bool {
        self.stage != Stage::Over
    }

    /// Takes in what was heard.
    pub fn hear(self, news: News, policy: &Policy, now: Timestamp) -> Machine {
        match (news, self.stage) {
            (News::Announced, Stage::Quiet) if !policy.is_off() => {
                Machine { stage: enter(policy, 0, now), unsure_since: None }
            }
            (News::Announced, _) => Machine { unsure_since: None, ..self },
            (News::Cancelled, _) => Machine::default(),
            (News::Unheard, _) => Machine { unsure_since: Some(self.unsure_since.unwrap_or(now)), ..self },
        }
    }

    /// Goes on as far as the pods and the time allow.
    pub fn step(mut self, policy: &Policy, view: &View, now: Timestamp) -> (Machine, Plan) {
        let forgotten_at = self.unsure_since.map(|since| since + UNSURE_MAX);
        if forgotten_at.is_some_and(|at| now >= at) {
            self.stage = Stage::Quiet;
        }
        let mut plan = Plan::default();
        // Each round but the last goes to a later stage.
        while let Some(next) = next(self.stage, policy, view, now) {
            plan.add(self.stage, policy, view, now);
            self.stage = next;
        }
        plan.add(self.stage, policy, view, now);
        let due = match self.stage {
            Stage::Ending { until, .. } | Stage::Telling { until } => Some(until),
            Stage::Quiet | Stage::Over => None,
        };
        let forgotten_at = forgotten_at.filter(|_| self.refuses_pods());
        plan.wake_at = due.into_iter().chain(forgotten_at).min();
        (self, plan)
    }
}

/// The stage of a group whose time begins.
fn enter(policy: &Policy, group: usize, now: Timestamp) -> Stage {
    let seconds = policy.groups()[group].seconds;
    Stage::Ending { group, until: now.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX) }
}

/// The stage after this one; `None` as long as it lasts.
fn next(stage: Stage, policy: &Policy, view: &View, now: Timestamp) -> Option<Stage> {
    match stage {
        Stage::Ending { group, until } => {
            let lives = |pod: &PodView| policy.group_of(pod.priority) == group && pod.end == End::Not;
            let is_awaited = view.pods.iter().any(lives) || !view.is_complete;
            if is_awaited && now < until {
                return None;
            }
            let later = group + 1;
            let is_last = later == policy.groups().len();
            Some(if is_last { Stage::Telling { until: now + TELL_MAX } } else { enter(policy, later, now) })
        }
        Stage::Telling { until } => {
            // Whoever outlived the time of its group is not waited for again.
            let is_awaited = view.pods.iter().any(|pod| pod.end == End::Ended);
            (!is_awaited || now >= until).then_some(Stage::Over)
        }
        Stage::Quiet | Stage::Over => None,
    }
}

impl Plan {
    /// The pods of a group whose time runs, and those of earlier ones that turn up late. Nobody is asked twice.
    fn add(&mut self, stage: Stage, policy: &Policy, view: &View, now: Timestamp) {
        let Stage::Ending { group, until } = stage else { return };
        let left = until.duration_since(now).as_secs().max(0);
        for pod in &view.pods {
            let is_due = policy.group_of(pod.priority) <= group && !pod.is_asked && pod.end == End::Not;
            if is_due && !self.end.iter().any(|ending| ending.uid == pod.uid) {
                self.end.push(Ending { uid: pod.uid.clone(), grace_seconds: pod.grace_seconds.min(left) });
            }
        }
    }
}

#[cfg(test)]
mod tests;
