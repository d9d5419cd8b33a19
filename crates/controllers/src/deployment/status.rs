//! What people see of a Deployment: counts, and whether it is available and gets on.

use api::{Timestamp, look, time};
use serde_json::{Value, json};

use super::{Deployment, Set, Sets, count};
use crate::view::pod::seconds;
use crate::workload::{View, after_seconds, condition};

const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";
/// The reason when a set cannot be made.
pub const CREATE_FAILED: &str = "ReplicaSetCreateError";

/// The status in the making.
#[derive(Debug)]
pub struct Draft {
    /// As far as it has come.
    pub status: Value,
}

/// Sets a condition, unless it says the same for the same reason already.
pub fn set(status: &mut Value, kind: &str, value: &str, (reason, message): (&str, &str), now: Timestamp) {
    let said = condition::find(status, kind);
    if said.is_some_and(|one| look::text(one, "status") == value && look::text(one, "reason") == reason) {
        return;
    }
    let mut wanted = condition::new(kind, value, reason, message, now);
    look::set(&mut wanted, "lastUpdateTime", time::seconds(now));
    condition::set(status, wanted);
}

/// The counts that tell how far a rollout is.
struct Counts {
    replicas: i64,
    updated: i64,
    ready: i64,
    available: i64,
}

impl Counts {
    fn of(status: &Value) -> Counts {
        let count = |field| look::integer(status, field).unwrap_or(0);
        Counts {
            replicas: count("replicas"),
            updated: count("updatedReplicas"),
            ready: count("readyReplicas"),
            available: count("availableReplicas"),
        }
    }

    fn are_complete(&self, deployment: &Deployment<'_>) -> bool {
        [self.replicas, self.updated, self.available].iter().all(|count| *count == deployment.replicas)
    }

    /// Whether more has come, or more of the old has gone, than before.
    fn are_further_than(&self, before: &Counts) -> bool {
        self.updated > before.updated
            || self.replicas - self.updated < before.replicas - before.updated
            || self.ready > before.ready
            || self.available > before.available
    }
}

impl Draft {
    /// Begins with what the status says.
    pub fn new(view: &View) -> Draft {
        let mut status = json!({});
        for field in ["conditions", "collisionCount"] {
            look::copy(view.status(), &mut status, field);
        }
        Draft { status }
    }

    fn reason(&self) -> &str {
        condition::find(&self.status, PROGRESSING).map_or("", |one| look::text(one, "reason"))
    }

    /// While it is paused, no deadline runs.
    pub fn note_pause(&mut self, deployment: &Deployment<'_>, now: Timestamp) {
        if deployment.deadline.is_none() || self.reason() == TIMED_OUT {
            return;
        }
        let why = match (deployment.paused, self.reason() == PAUSED) {
            (true, false) => (PAUSED, "Deployment is paused"),
            (false, true) => ("DeploymentResumed", "Deployment is resumed"),
            _ => return,
        };
        set(&mut self.status, PROGRESSING, "Unknown", why, now);
    }

    /// The set of the present template was there.
    pub fn note_found(&mut self, deployment: &Deployment<'_>, name: &str, now: Timestamp) {
        if deployment.deadline.is_some() && self.reason().is_empty() {
            let message = format!("Found new replica set {name:?}");
            set(&mut self.status, PROGRESSING, "True", ("FoundNewReplicaSet", &message), now);
        }
    }

    /// The set of the present template is made.
    pub fn note_created(&mut self, deployment: &Deployment<'_>, name: &str, now: Timestamp) {
        if deployment.deadline.is_some() {
            let message = format!("Created new replica set {name:?}");
            set(&mut self.status, PROGRESSING, "True", ("NewReplicaSetCreated", &message), now);
        }
    }

    fn count(&mut self, deployment: &Deployment<'_>, sets: &Sets) {
        let sum = |field: &str| -> i64 { sets.all().map(|set| count(&set.object, field)).sum() };
        let wanted: i64 = sets.all().map(|set| set.replicas).sum();
        let available = sum("availableReplicas");
        let counts = [
            ("observedGeneration", deployment.view.generation()),
            ("replicas", sum("replicas")),
            ("updatedReplicas", sets.new.as_ref().map_or(0, |set| count(&set.object, "replicas"))),
            ("readyReplicas", sum("readyReplicas")),
            ("availableReplicas", available),
            ("unavailableReplicas", (wanted - available).max(0)),
        ];
        for (field, count) in counts {
            look::set(&mut self.status, field, count);
        }
    }

    /// Whether all pods are of the present template, and available.
    pub fn is_complete(&mut self, deployment: &Deployment<'_>, sets: &Sets) -> bool {
        self.count(deployment, sets);
        Counts::of(&self.status).are_complete(deployment)
    }

    /// Fills in the rest; says when the deadline is. `rolls`: whether this look was about a rollout.
    pub fn conclude(
        &mut self,
        deployment: &Deployment<'_>,
        sets: &Sets,
        rolls: bool,
        now: Timestamp,
    ) -> Option<Timestamp> {
        self.count(deployment, sets);
        let counts = Counts::of(&self.status);
        let (value, why) = match counts.available >= deployment.replicas - deployment.unavailable {
            true => ("True", ("MinimumReplicasAvailable", "Deployment has minimum availability.")),
            false => ("False", ("MinimumReplicasUnavailable", "Deployment does not have minimum availability.")),
        };
        set(&mut self.status, "Available", value, why, now);
        if !rolls {
            return None;
        }
        let deadline = deployment.deadline;
        let was_complete = counts.replicas == counts.updated && self.reason() == AVAILABLE;
        if let Some(deadline) = deadline.filter(|_| !was_complete) {
            self.judge(deployment, sets, deadline, now);
        }
        self.copy_failure(sets);
        let is_over = [AVAILABLE, TIMED_OUT].contains(&self.reason());
        let deadline = deadline.filter(|_| !is_over)?;
        Some(after_seconds(self.updated_at()? + deadline + 1)?.max(now))
    }

    fn updated_at(&self) -> Option<i64> {
        seconds(look::text(condition::find(&self.status, PROGRESSING)?, "lastUpdateTime"))
    }

    fn judge(&mut self, deployment: &Deployment<'_>, sets: &Sets, deadline: i64, now: Timestamp) {
        let (before, counts) = (Counts::of(deployment.view.status()), Counts::of(&self.status));
        let name = sets.new.as_ref().map(Set::name);
        let who =
            name.map_or(format!("Deployment {:?}", deployment.view.name()), |name| format!("ReplicaSet {name:?}"));
        if counts.are_complete(deployment) {
            let message = format!("{who} has successfully progressed.");
            set(&mut self.status, PROGRESSING, "True", (AVAILABLE, &message), now);
        } else if counts.are_further_than(&before) {
            let mut wanted =
                condition::new(PROGRESSING, "True", "ReplicaSetUpdated", &format!("{who} is progressing."), now);
            // Each step further gives it another span until the deadline.
            look::set(&mut wanted, "lastUpdateTime", time::seconds(now));
            condition::set(&mut self.status, wanted);
        } else if self.updated_at().is_some_and(|at| at + deadline < now.as_second()) && self.reason() != AVAILABLE {
            let message = format!("{who} has timed out progressing.");
            set(&mut self.status, PROGRESSING, "False", (TIMED_OUT, &message), now);
        }
    }

    /// What a set cannot do, the Deployment cannot do.
    fn copy_failure(&mut self, sets: &Sets) {
        let failure = |set: &Set| condition::find(&set.object["status"], "ReplicaFailure").cloned();
        let found = sets.new.as_ref().and_then(failure).or_else(|| sets.old.iter().find_map(failure));
        match found {
            Some(mut found) => {
                let at = look::text(&found, "lastTransitionTime").to_owned();
                look::set(&mut found, "lastUpdateTime", at);
                condition::set(&mut self.status, found);
            }
            None => condition::remove(&mut self.status, "ReplicaFailure"),
        }
    }
}
