//! Room for a pod that the node must not do without: others end for it (HOOK-94).
//!
//! As few as make room: in thought all that may go are gone, then come back whoever fits, those first that have a right to
//! what they ask for. [`victims`] is pure; the rest tells their tasks. Start at [`Pods::make_room`].

use super::{
    admission::{Room, refusal},
    pods::Pods,
};
use crate::{
    cgroups::{Qos, qos},
    event::Target,
    eviction::is_critical,
    object::Pod,
    pod::checkpoint::{PREEMPTED, Verdict},
};
use std::{cmp::Reverse, sync::Arc};

const MESSAGE: &str = "Preempted in order to admit critical pod";

impl Pods {
    /// Ends pods for one that is critical. False if it is not, or if that would not help.
    pub(super) fn make_room(&self, pod: &Pod) -> bool {
        if !is_critical(pod) {
            return false;
        }
        let wishes = self.handles.values().map(|handle| handle.wishes.borrow());
        // Who is on the way out already makes room.
        let others: Vec<Arc<Pod>> = wishes.filter(|wish| wish.verdict.is_none()).map(|wish| wish.pod.clone()).collect();
        let Some(victims) = victims(pod, &others, self.room()) else { return false };
        for victim in victims {
            let verdict = Verdict {
                reason: PREEMPTED.into(),
                message: MESSAGE.into(),
                at: self.actor.clock.now(),
                grace_seconds: victim.spec.termination_grace_period_seconds.unwrap_or(30),
                is_disruption: true,
            };
            tracing::warn!(pod = victim.full_name(), critical = pod.full_name(), "a pod ends for a critical one");
            self.actor.recorder.warning(Target::pod(&victim), PREEMPTED, MESSAGE);
            if let Some(handle) = self.handles.get(victim.uid()) {
                handle.wishes.send_modify(|wish| wish.verdict = Some(verdict));
            }
        }
        true
    }
}

/// Who has to go so that `pod` finds room; None if nobody could make enough.
fn victims(pod: &Pod, others: &[Arc<Pod>], room: Room) -> Option<Vec<Arc<Pod>>> {
    let priority = |pod: &Pod| pod.spec.priority.unwrap_or(0);
    let may_go = |other: &Arc<Pod>| !is_critical(other) || priority(other) < priority(pod);
    let living = others.iter().filter(|other| !other.is_terminal() && other.uid() != pod.uid()).cloned();
    let (mut candidates, mut staying): (Vec<Arc<Pod>>, Vec<Arc<Pod>>) = living.partition(may_go);
    if refusal(pod, &staying, room).is_some() {
        return None;
    }
    let rank = |pod: &Arc<Pod>| match qos(pod) {
        Qos::Guaranteed => 0,
        Qos::Burstable => 1,
        Qos::BestEffort => 2,
    };
    let started = |pod: &Arc<Pod>| pod.status.start_time.as_ref().map_or(i64::MAX, |at| at.0.as_second());
    candidates.sort_by_key(|pod| (rank(pod), Reverse(priority(pod)), started(pod)));
    let mut going = Vec::new();
    for candidate in candidates {
        staying.push(candidate);
        if refusal(pod, &staying, room).is_some() {
            going.extend(staying.pop());
        }
    }
    Some(going)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(uid: &str, priority: i32, resources: &Value) -> Arc<Pod> {
        let pod = json!({ "metadata": { "uid": uid }, "status": { "phase": "Running" },
            "spec": { "priority": priority, "containers": [{ "name": "c", "resources": resources }] } });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn hook_94_the_least_entitled_go_and_no_more_than_have_to() {
        let room = Room { pods: 4, cpu_milli: 1000, memory_bytes: 1 << 30 };
        let asks = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let firm = json!({"limits": {"cpu": "300m", "memory": "1Mi"}, "requests": {"cpu": "300m", "memory": "1Mi"}});
        let others = [
            pod("firm", 0, &firm),
            pod("burst", 0, &asks("300m")),
            pod("effort", 0, &json!({})),
            pod("critical", 2_000_000_000, &asks("200m")),
        ];
        let gone = |cpu: &str| {
            let pod = pod("in", 2_000_001_000, &asks(cpu));
            let names = |pods: Vec<Arc<Pod>>| pods.iter().map(|pod| pod.uid().to_owned()).collect::<Vec<_>>();
            victims(&pod, &others, room).map(names)
        };
        assert_eq!(gone("200m").unwrap(), ["effort"], "a place is wanted, nothing else");
        assert_eq!(gone("500m").unwrap(), ["burst"], "whose place serves too");
        assert_eq!(gone("800m").unwrap(), ["firm", "burst"]);
        assert_eq!(gone("1000m").unwrap(), ["firm", "critical", "burst"]);
        assert_eq!(gone("1001m"), None, "more than there is: nobody goes for nothing");
        let equal = pod("in", 2_000_000_000, &asks("900m"));
        assert!(victims(&equal, &others, room).is_none(), "critical pods of the same priority stay");
    }
}
