//! The conditions that the node writes (POD-46); conditions of others are kept.

use crate::{
    object::{ContainerKind, PodCondition, PodStatus, Time},
    pod::{
        checkpoint::PREEMPTED,
        decide::{is_initialised, restart_all},
        view::{Desired, View},
    },
};
use jiff::Timestamp;

const OURS: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// All conditions of the pod: ours as they are now, others as the API has them.
pub(super) fn conditions(view: &View, status: &PodStatus, now: Timestamp) -> Vec<PodCondition> {
    let known = &view.pod.status.conditions;
    let containers_ready = containers_ready(view, status);
    let ready = ready(view, &containers_ready);
    let made =
        [Verdict::when(has_sandbox(view)), initialized(view, status), ready, containers_ready, Verdict::when(true)];
    let mut all: Vec<PodCondition> = OURS
        .iter()
        .zip(made)
        .map(|(type_, verdict)| verdict.into_condition(type_, known, view.pod.metadata.generation, now))
        .collect();
    all.extend(disruption(view, status, now));
    all.extend(restarting(view, status, now));
    let others = known.iter().filter(|known| !all.iter().any(|own| own.type_ == known.type_));
    let others: Vec<PodCondition> = others.cloned().collect();
    all.extend(others);
    all
}

/// HOOK-93, HOOK-94: an evicted pod says that the node has ended it, as soon as it has.
fn disruption(view: &View, status: &PodStatus, now: Timestamp) -> Option<PodCondition> {
    let verdict = view.observed.checkpoint.verdict.as_ref()?;
    let tells = verdict.is_disruption && status.phase == "Failed";
    let message = match verdict.reason.as_str() {
        PREEMPTED => "Pod was preempted by Kubelet to accommodate a critical pod.".into(),
        _ => verdict.message.clone(),
    };
    let made = Verdict { holds: true, reason: "TerminationByKubelet", message };
    let known = &view.pod.status.conditions;
    tells.then(|| made.into_condition("DisruptionTarget", known, view.pod.metadata.generation, now))
}

/// HOOK-106: that the whole pod begins anew; only of pods with a rule that can have it.
fn restarting(view: &View, status: &PodStatus, now: Timestamp) -> Option<PodCondition> {
    if !restart_all::is_possible(&view.pod) {
        return None;
    }
    let made = match status.phase.as_str() {
        "Succeeded" => Verdict::because(false, "PodCompleted"),
        "Failed" => Verdict::because(false, "PodFailed"),
        _ if restart_all::trigger(view).is_some() => Verdict {
            holds: true,
            reason: "RestartAllContainersStarted",
            message: "container exited with restart policy rule".into(),
        },
        _ => Verdict::when(false),
    };
    let known = &view.pod.status.conditions;
    Some(made.into_condition("AllContainersRestarting", known, view.pod.metadata.generation, now))
}

/// What a condition says.
#[derive(Clone)]
struct Verdict {
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn when(holds: bool) -> Self {
        Self { holds, reason: "", message: String::new() }
    }

    fn because(holds: bool, reason: &'static str) -> Self {
        Self { holds, reason, message: String::new() }
    }

    fn into_condition(
        self,
        type_: &str,
        known: &[PodCondition],
        generation: Option<i64>,
        now: Timestamp,
    ) -> PodCondition {
        let status = if self.holds { "True" } else { "False" };
        let before = known.iter().find(|condition| condition.type_ == type_);
        // lastTransitionTime moves only when the status does.
        let since = before.filter(|condition| condition.status == status).and_then(|c| c.last_transition_time.clone());
        PodCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            observed_generation: generation,
            last_probe_time: None,
            last_transition_time: since.or(Some(Time::from(now))),
            reason: self.reason.to_owned(),
            message: self.message,
        }
    }
}

fn has_sandbox(view: &View) -> bool {
    let stopping = matches!(view.desired, Desired::Stop(_)) && view.observed.sandboxes.is_empty();
    !stopping
        && view
            .observed
            .newest_sandbox()
            .is_some_and(|sandbox| sandbox.ready && (view.pod.spec.host_network || !sandbox.ips.is_empty()))
}

fn initialized(view: &View, status: &PodStatus) -> Verdict {
    if status.phase == "Succeeded" {
        return Verdict::because(true, "PodCompleted");
    }
    if is_initialised(view) {
        return Verdict::when(true);
    }
    // Once initialised a pod stays so, also while it begins anew.
    let known = view.pod.status.conditions.iter().find(|condition| condition.type_ == "Initialized");
    if restart_all::is_possible(&view.pod) && known.is_some_and(|known| known.status == "True") {
        return Verdict::when(true);
    }
    let unfinished = status.init_container_statuses.iter().filter(|s| !s.ready).map(|s| s.name.as_str());
    let names: Vec<&str> = unfinished.collect();
    Verdict {
        holds: false,
        reason: "ContainersNotInitialized",
        message: format!("containers with incomplete status: [{}]", names.join(" ")),
    }
}

fn containers_ready(view: &View, status: &PodStatus) -> Verdict {
    match status.phase.as_str() {
        "Succeeded" => return Verdict::because(false, "PodCompleted"),
        "Failed" => return Verdict::because(false, "PodFailed"),
        _ => {}
    }
    if status.container_statuses.is_empty() {
        return Verdict::because(false, "UnknownContainerStatuses");
    }
    // Of init containers only those count that are to stay, in the order of the spec.
    let lasting = view.containers().filter(|(kind, _)| matches!(kind, ContainerKind::Sidecar | ContainerKind::App));
    let is_ready = |name: &str| {
        let all = status.init_container_statuses.iter().chain(&status.container_statuses);
        all.into_iter().any(|status| status.name == name && status.ready)
    };
    let names: Vec<&str> = lasting.map(|(_, c)| c.name.as_str()).filter(|name| !is_ready(name)).collect();
    if names.is_empty() {
        return Verdict::when(true);
    }
    Verdict {
        holds: false,
        reason: "ContainersNotReady",
        message: format!("containers with unready status: [{}]", names.join(" ")),
    }
}

fn ready(view: &View, containers_ready: &Verdict) -> Verdict {
    if !containers_ready.holds {
        return containers_ready.clone();
    }
    let open: Vec<String> = view
        .pod
        .spec
        .readiness_gates
        .iter()
        .filter_map(|gate| {
            let wanted = &gate.condition_type;
            match view.pod.status.conditions.iter().find(|condition| condition.type_ == *wanted) {
                None => Some(format!("corresponding condition of pod readiness gate {wanted:?} does not exist.")),
                Some(condition) if condition.status != "True" => Some(format!(
                    "the status of pod readiness gate {wanted:?} is not \"True\", but {}",
                    condition.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if open.is_empty() {
        return Verdict::when(true);
    }
    Verdict { holds: false, reason: "ReadinessGatesNotReady", message: open.join(", ") }
}
