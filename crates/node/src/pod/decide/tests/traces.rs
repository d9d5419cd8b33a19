//! Golden traces as data: each entry of `traces/*.yaml` is a pod, what happens to it and when, and what is to be seen.

use super::world::{Behaviour, World, in_order};
use crate::pod::{
    decide::CrashBackOff,
    view::{Cause, Desired, RecordState, Stop},
};
use jiff::SignedDuration;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

const FILES: [&str; 3] =
    [include_str!("traces/hooks.yaml"), include_str!("traces/pods.yaml"), include_str!("traces/status.yaml")];

/// JSON pointers into the pod's status, and what stands there.
type Seen = BTreeMap<String, Value>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Trace {
    /// The rules that it proves something of.
    rule: String,
    says: String,
    /// The spec, merged over a pod of one container `c`.
    #[serde(default)]
    pod: Value,
    /// What the API knows at first.
    #[serde(default)]
    status: Value,
    #[serde(default)]
    containers: BTreeMap<String, Conduct>,
    /// The longest delay after a crash.
    crash_cap: Option<i64>,
    #[serde(default)]
    turns: Vec<Turn>,
    until: i64,
    /// Lines in this order, with others between them.
    #[serde(default)]
    trace: Vec<String>,
    /// All lines that have these words in them.
    #[serde(default)]
    only: BTreeMap<String, Vec<String>>,
    /// What runs in the end.
    running: Option<Vec<String>>,
    /// The attempts of the records that are left in the end, newest first.
    #[serde(default)]
    attempts: BTreeMap<String, Vec<u32>>,
}

/// What the processes of a container do; see [`Behaviour`].
#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Conduct {
    ends: Option<(i64, i32)>,
    on_term: Option<(i64, i32)>,
    stubborn: bool,
    post_start: (i64, bool),
    pre_stop: (i64, bool),
}

impl Default for Conduct {
    fn default() -> Self {
        Self { ends: None, on_term: None, stubborn: false, post_start: (0, true), pre_stop: (0, true) }
    }
}

impl From<Conduct> for Behaviour {
    fn from(conduct: Conduct) -> Self {
        let Conduct { ends, on_term, stubborn, post_start, pre_stop } = conduct;
        let on_term = if stubborn { None } else { on_term.or(Behaviour::default().on_term) };
        Self { ends, on_term, post_start, pre_stop }
    }
}

/// What happens at one instant; of several things in this order.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Turn {
    at: i64,
    /// Containers behave otherwise from now on.
    behave: BTreeMap<String, Conduct>,
    break_image: Option<String>,
    mend_image: Option<String>,
    /// Actions fail so many times.
    fail: BTreeMap<String, u32>,
    /// Stops of these containers do nothing, so many times.
    outlives: BTreeMap<String, u32>,
    exit: BTreeMap<String, i32>,
    delete: Option<i64>,
    evict: Option<i64>,
    remove: bool,
    drain: Option<i64>,
    /// The API has this phase.
    phase: Option<String>,
    /// A probe failed for good: which, and the seconds that it grants.
    failed: BTreeMap<String, (String, Option<i64>)>,
    ready: BTreeMap<String, bool>,
    image: BTreeMap<String, String>,
    generation: Option<i64>,
    /// Somebody else sets a condition.
    condition: BTreeMap<String, String>,
    vanish: Option<String>,
    unknown: Option<String>,
    /// So many ended records of a container lie about.
    litter: BTreeMap<String, u32>,
    kill_sandbox: bool,
    lose_pause: bool,
    crash: bool,
    see: Seen,
}

impl Trace {
    fn world(&self) -> World {
        let mut spec = json!({
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "containers": [{"name": "c", "image": "img"}],
        });
        if self.pod.is_object() {
            json_patch::merge(&mut spec, &self.pod);
        }
        let mut pod = super::world::pod(spec);
        if self.status.is_object() {
            let mut status = serde_json::to_value(&pod.status).unwrap();
            json_patch::merge(&mut status, &self.status);
            pod.status = serde_json::from_value(status).unwrap();
        }
        let mut world = World::new(pod);
        for (name, conduct) in &self.containers {
            world = world.with(name, (*conduct).into());
        }
        if let Some(seconds) = self.crash_cap {
            world.view.crash_back_off = CrashBackOff::default().capped(SignedDuration::from_secs(seconds));
        }
        world
    }

    fn replay(&self) {
        let mut world = self.world();
        for turn in &self.turns {
            // Before the pod is even seen.
            if turn.at >= 0 {
                world.run_until(turn.at);
            }
            turn.happen(&mut world);
            let at = format!("{}, {}: at {}", self.rule, self.says, turn.at);
            see(&world, &turn.see, &at);
        }
        world.run_until(self.until);
        let what = format!("{}, {}\nsaw {:#?}", self.rule, self.says, world.trace);
        let wanted: Vec<&str> = self.trace.iter().map(String::as_str).collect();
        assert!(in_order(&world.trace, &wanted), "wanted {wanted:#?}\n{what}");
        for (words, lines) in &self.only {
            let seen: Vec<&String> = world.trace.iter().filter(|line| line.contains(words)).collect();
            assert_eq!(seen, lines.iter().collect::<Vec<_>>(), "{words}: {what}");
        }
        if let Some(running) = &self.running {
            assert_eq!(&world.running(), running, "{what}");
        }
        for (name, attempts) in &self.attempts {
            assert_eq!(&world.attempts(name), attempts, "{name}: {what}");
        }
    }
}

fn see(world: &World, wanted: &Seen, at: &str) {
    let status = serde_json::to_value(&world.view.pod.status).unwrap();
    for (pointer, value) in wanted {
        let seen = status.pointer(pointer).cloned().unwrap_or(Value::Null);
        assert_eq!(&seen, value, "{at}: {pointer} of {status:#}\n{:#?}", world.trace);
    }
}

impl Turn {
    fn happen(&self, world: &mut World) {
        world.behaviour.extend(self.behave.iter().map(|(name, conduct)| (name.clone(), (*conduct).into())));
        self.break_image.iter().for_each(|image| world.break_image(image, "not found"));
        self.mend_image.iter().for_each(|image| world.mend_image(image));
        world.failing.extend(self.fail.clone());
        self.outlives.iter().for_each(|(name, times)| world.outlives(name, *times));
        self.exit.iter().for_each(|(name, code)| world.end(name, *code));
        self.delete.iter().for_each(|grace| world.delete(*grace));
        self.evict.iter().for_each(|grace| world.evict(*grace));
        if self.remove {
            world.remove();
        }
        if let Some(grace) = self.drain {
            let (since, deadline) = (world.now, world.now + SignedDuration::from_secs(grace));
            world.view.desired = Desired::Stop(Stop { cause: Cause::Drained, since, deadline });
        }
        for (name, failed) in &self.failed {
            world.probe(name, |probed| probed.failed = Some(failed.clone()));
        }
        for (name, ready) in &self.ready {
            world.probe(name, |probed| (probed.started, probed.ready) = (true, *ready));
        }
        self.change_pod(world);
        self.vanish.iter().for_each(|name| world.tamper(name, |_| None));
        if let Some(name) = &self.unknown {
            world.tamper(name, |mut record| {
                record.state = RecordState::Unknown { started_at: record.created_at };
                Some(record)
            });
        }
        self.litter.iter().for_each(|(name, count)| world.litter(name, *count));
        if self.kill_sandbox {
            world.kill_sandbox();
        }
        if self.lose_pause {
            world.lose_pause();
        }
        if self.crash {
            world.crash();
        }
        if !self.see.is_empty() {
            let now = world.seconds();
            world.run_until(now);
        }
    }

    fn change_pod(&self, world: &mut World) {
        let pod = Arc::make_mut(&mut world.view.pod);
        for container in &mut pod.spec.containers {
            if let Some(image) = self.image.get(&container.name) {
                container.image.clone_from(image);
            }
        }
        if self.generation.is_some() {
            pod.metadata.generation = self.generation;
        }
        self.phase.iter().for_each(|phase| pod.status.phase.clone_from(phase));
        for (type_, status) in &self.condition {
            let condition = json!({"type": type_, "status": status});
            pod.status.conditions.retain(|known| known.type_ != *type_);
            pod.status.conditions.push(serde_json::from_value(condition).unwrap());
        }
    }
}

fn traces() -> Vec<Trace> {
    FILES.iter().flat_map(|text| serde_saphyr::from_str::<Vec<Trace>>(text).unwrap()).collect()
}

/// Replays all traces of a rule.
fn replay(rule: &str) {
    let of_rule = |trace: &Trace| trace.rule.split(' ').any(|named| named == rule);
    let traces: Vec<Trace> = traces().into_iter().filter(of_rule).collect();
    assert!(!traces.is_empty(), "{rule} has no trace");
    traces.iter().for_each(Trace::replay);
}

#[test]
fn hook_36_a_sidecar_that_cannot_start_is_skipped_and_an_init_container_is_not() {
    replay("HOOK-36");
}

#[test]
fn hook_39_a_failed_post_start_is_why_a_container_waits() {
    replay("HOOK-39");
}

#[test]
fn hook_45_each_cause_of_a_stop_calls_pre_stop_once() {
    replay("HOOK-45");
}

#[test]
fn hook_46_the_time_of_a_pre_stop_is_measured() {
    replay("HOOK-46");
}

#[test]
fn hook_75_each_cause_of_a_termination_ends_the_pod() {
    replay("HOOK-75");
}

#[test]
fn hook_82_a_stop_that_failed_is_tried_again_within_the_same_grace() {
    replay("HOOK-82");
}

#[test]
fn hook_84_a_container_that_outlives_its_stop_is_stopped_again() {
    replay("HOOK-84");
}

#[test]
fn hook_89_a_failed_probe_grants_its_own_grace() {
    replay("HOOK-89");
}

#[test]
fn hook_90_a_deletion_shortens_the_kill_that_a_probe_began() {
    replay("HOOK-90");
}

#[test]
fn hook_91_another_image_is_another_container() {
    replay("HOOK-91");
}

#[test]
fn hook_92_a_container_out_of_sight_is_killed_before_it_starts_again() {
    replay("HOOK-92");
}

#[test]
fn hook_98_a_kill_that_takes_too_long_is_told() {
    replay("HOOK-98");
}

#[test]
fn hook_99_a_pod_that_vanished_from_the_api_ends_with_hooks_and_grace() {
    replay("HOOK-99");
}

#[test]
fn hook_104_sidecars_wait_for_nobody_who_cannot_end() {
    replay("HOOK-104");
}

#[test]
fn hook_106_one_container_has_the_whole_pod_begin_anew() {
    replay("HOOK-106");
}

#[test]
fn hook_107_a_failed_probe_calls_the_hook_of_its_own_container_alone() {
    replay("HOOK-107");
}

#[test]
fn pod_6_volumes_are_waited_for_and_terminal_pods_are_not_begun() {
    replay("POD-6");
}

#[test]
fn pod_10_no_sandbox_is_made_for_a_pod_that_has_ended() {
    replay("POD-10");
}

#[test]
fn pod_12_the_steps_of_a_start_have_their_order() {
    replay("POD-12");
}

#[test]
fn pod_14_init_containers_whose_records_went_do_not_run_again() {
    replay("POD-14");
}

#[test]
fn pod_16_app_containers_do_not_wait_for_each_others_readiness() {
    replay("POD-16");
}

#[test]
fn pod_19_an_ephemeral_container_starts_once() {
    replay("POD-19");
}

#[test]
fn pod_20_attempts_go_on_where_the_logs_end() {
    replay("POD-20");
}

#[test]
fn pod_24_a_lower_cap_of_the_crash_back_off_holds() {
    replay("POD-24");
}

#[test]
fn pod_28_of_the_dead_one_is_kept() {
    replay("POD-28");
}

#[test]
fn pod_35_a_container_that_vanished_counts_as_restarted() {
    replay("POD-35");
}

#[test]
fn pod_36_restarts_are_counted() {
    replay("POD-36");
}

#[test]
fn pod_46_conditions_through_a_pods_life() {
    replay("POD-46");
}

#[test]
fn pod_47_the_status_says_which_generation_it_is_of() {
    replay("POD-47");
}

#[test]
fn pod_48_when_a_pod_began_never_changes() {
    replay("POD-48");
}

#[test]
fn pod_63_who_was_ready_stays_so_over_a_restart_of_the_agent() {
    replay("POD-63");
}

#[test]
fn every_trace_holds() {
    traces().iter().for_each(Trace::replay);
}
