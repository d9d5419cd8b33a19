//! Tables and properties of the decision.

use super::{
    admission,
    decide::{Eviction, Free, Plan, Step, decide},
    policy::{Given, Policy, Statements},
    rank,
    signal::{Condition, Pressure, Resource, Signal},
    view::{Candidate, ContainerUsage, Files, Layout, Memory, Observation, Observations, Usage, View},
};
use crate::object::Pod;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

const MI: i64 = 1 << 20;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn statements(of: &[(&str, &str)]) -> Statements {
    of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn hard(of: &[(&str, &str)]) -> Policy {
    Policy::parse(&Given { hard: Some(statements(of)), ..Given::default() }).unwrap()
}

fn bytes(signal: Signal, available: i64, capacity: i64) -> (Signal, Observation) {
    (signal, Observation::bytes(available as u64, capacity as u64))
}

/// A pod of one container `c` with some requests.
fn pod(name: &str, requests: Value, more: Value) -> Pod {
    let mut pod = json!({
        "metadata": { "name": name, "namespace": "ns", "uid": name },
        "spec": { "containers": [{ "name": "c", "resources": { "requests": requests } }] },
    });
    json_patch::merge(&mut pod, &more);
    serde_json::from_value(pod).unwrap()
}

/// A candidate that uses so many bytes of memory and disk, inodes and processes.
fn candidate(pod: Pod, used: i64) -> Candidate {
    let files = Files { bytes: used, inodes: used };
    let container = ContainerUsage { memory_bytes: Some(used), layer: Some(files), logs: Some(Files::default()) };
    let containers = [("c".to_owned(), container)].into();
    let usage = Usage { memory_bytes: used, pids: used, volumes: Files::default(), containers };
    Candidate { pod: Arc::new(pod), usage: Some(usage) }
}

struct Round<'a> {
    policy: &'a Policy,
    layout: Layout,
    memory: Memory,
    seen: Observations,
    freed: Option<Observations>,
    candidates: Option<Vec<Candidate>>,
}

impl<'a> Round<'a> {
    fn new(policy: &'a Policy, seen: impl IntoIterator<Item = (Signal, Observation)>) -> Round<'a> {
        let seen = seen.into_iter().collect();
        Round { policy, layout: Layout::One, memory: Memory::default(), seen, freed: None, candidates: None }
    }

    fn plan(&self, now: i64) -> Plan {
        let view = View {
            policy: self.policy,
            layout: self.layout,
            memory: &self.memory,
            seen: &self.seen,
            freed: self.freed.as_ref(),
            candidates: self.candidates.as_deref(),
        };
        decide(&view, at(now))
    }
}

fn order(candidates: &[Candidate], signal: Signal) -> Vec<&str> {
    rank::order(candidates, signal, Layout::One).into_iter().map(|candidate| candidate.pod.name()).collect()
}

#[test]
fn enough_of_everything_is_no_reason_to_do_anything() {
    let policy = Policy::default();
    let seen = Signal::ALL.map(|signal| bytes(signal, 900 * MI, 1000 * MI));
    let plan = Round::new(&policy, seen).plan(0);
    assert_eq!((plan.step, plan.pressure, plan.starved), (Step::Rest, Pressure::new(), None));
    let exact = Round::new(&policy, [bytes(Signal::MemoryAvailable, 100 * MI, 1000 * MI)]).plan(0);
    assert_eq!(exact.step, Step::Rest, "just enough is enough");
}

#[test]
fn memory_is_measured_and_the_pod_is_told_in_the_words_of_kubernetes() {
    let policy = hard(&[("memory.available", "100Mi")]);
    let mut round = Round::new(&policy, [bytes(Signal::MemoryAvailable, 50 * MI, 1000 * MI)]);
    let plan = round.plan(0);
    assert_eq!((plan.step, plan.starved), (Step::Measure(Resource::Memory), Some(Signal::MemoryAvailable)));
    assert_eq!(plan.pressure, [Condition::MemoryPressure].into());
    round.candidates = Some(vec![candidate(pod("a", json!({ "memory": "10Mi" }), json!({})), 30 * MI + 1)]);
    let Step::Evict(eviction) = round.plan(0).step else { panic!("{:?}", round.plan(0)) };
    let notes =
        [("offending_containers", "c"), ("offending_containers_usage", "31457281"), ("starved_resource", "memory")];
    let message = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was \
                   using 31457281, request is 10Mi, has larger consumption of memory. ";
    let notes = notes.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    assert_eq!(eviction, Eviction { uid: "a".into(), grace_seconds: 1, message: message.into(), notes });
}

#[test]
fn a_message_names_what_is_known_and_nothing_else() {
    let policy = hard(&[("nodefs.inodesFree", "5%"), ("nodefs.available", "10%"), ("pid.available", "100")]);
    let text = |signal: Signal, seen: Observation, candidate: Candidate| {
        let mut round = Round::new(&policy, [(signal, seen)]);
        round.freed = Some(round.seen.clone());
        round.candidates = Some(vec![candidate]);
        match round.plan(0).step {
            Step::Evict(eviction) => eviction.message,
            other => panic!("{other:?}"),
        }
    };
    let modest = || candidate(pod("a", json!({ "ephemeral-storage": "5Mi" }), json!({})), 5 * MI);
    let greedy = || candidate(pod("a", json!({}), json!({})), 5 * MI);
    assert_eq!(
        text(Signal::NodefsAvailable, Observation::bytes(MI as u64, 1000 * MI as u64), greedy()),
        "The node was low on resource: ephemeral-storage. Threshold quantity: 104857601, available: 1Mi. Container c was \
         using 5Mi, request is 0, has larger consumption of ephemeral-storage. "
    );
    assert_eq!(
        text(Signal::NodefsAvailable, Observation::bytes(MI as u64, 1000 * MI as u64), modest()),
        "The node was low on resource: ephemeral-storage. Threshold quantity: 104857601, available: 1Mi. "
    );
    assert_eq!(
        text(Signal::NodefsInodesFree, Observation::units(3000, 100_000), greedy()),
        "The node was low on resource: inodes. Threshold quantity: 5000, available: 3k. "
    );
    let unknown = Candidate { usage: None, ..greedy() };
    assert_eq!(
        text(Signal::PidAvailable, Observation::units(7, 32768), unknown),
        "The node was low on resource: pids. Threshold quantity: 100, available: 7. "
    );
    let whole = json!({ "spec": { "resources": { "requests": { "memory": "1Mi" } } } });
    let policy = hard(&[("memory.available", "1Gi")]);
    let mut round = Round::new(&policy, [bytes(Signal::MemoryAvailable, MI, 1000 * MI)]);
    round.candidates = Some(vec![candidate(pod("p", json!({ "memory": "9Mi" }), whole), 5 * MI)]);
    let Step::Evict(eviction) = round.plan(0).step else { panic!() };
    let end = "Pod p was using 5Mi, request is 1Mi, has larger consumption of memory. ";
    assert!(eviction.message.ends_with(end), "{}", eviction.message);
}

#[test]
fn the_disk_loses_ended_containers_and_unused_images_before_any_pod() {
    let policy = hard(&[("nodefs.available", "10%"), ("imagefs.available", "15%"), ("imagefs.inodesFree", "5%")]);
    let (both, containers) = (Free { containers: true, images: true }, Free { containers: true, images: false });
    let images = Free { containers: false, images: true };
    for (layout, signal, want) in [
        (Layout::One, Signal::NodefsAvailable, Some(both)),
        (Layout::One, Signal::ImagefsAvailable, Some(both)),
        (Layout::One, Signal::ImagefsInodesFree, Some(both)),
        (Layout::Images, Signal::NodefsAvailable, None),
        (Layout::Images, Signal::ImagefsAvailable, Some(both)),
        (Layout::Split, Signal::NodefsAvailable, Some(containers)),
        (Layout::Split, Signal::ImagefsAvailable, Some(images)),
    ] {
        let round = Round { layout, ..Round::new(&policy, [bytes(signal, 1, 1000 * MI)]) };
        let want = want.map_or(Step::Measure(signal.resource()), Step::Free);
        assert_eq!(round.plan(0).step, want, "{layout:?} {signal}");
    }
    let mut round = Round::new(&policy, [bytes(Signal::ImagefsAvailable, 1, 1000 * MI)]);
    round.freed = Some([bytes(Signal::ImagefsAvailable, 200 * MI, 1000 * MI)].into());
    assert_eq!(round.plan(0).step, Step::Rest, "what was freed was enough");
    assert_eq!(round.plan(0).pressure, [Condition::DiskPressure].into());
    round.freed = Some([bytes(Signal::ImagefsAvailable, 100 * MI, 1000 * MI)].into());
    assert_eq!(round.plan(0).step, Step::Measure(Resource::EphemeralStorage));
}

#[test]
fn once_crossed_a_threshold_wants_its_minimum_reclaim_on_top() {
    let given = Given {
        hard: Some(statements(&[("nodefs.available", "100Mi")])),
        reclaim: statements(&[("nodefs.available", "50Mi")]),
        ..Given::default()
    };
    let policy = Policy::parse(&given).unwrap();
    let see = |available: i64| [bytes(Signal::NodefsAvailable, available * MI, 1000 * MI)];
    assert_eq!(Round::new(&policy, see(120)).plan(0).step, Step::Rest, "not crossed before");
    let mut round = Round::new(&policy, see(90));
    round.freed = Some(see(149).into());
    assert_eq!(round.plan(0).step, Step::Measure(Resource::EphemeralStorage), "freed, but not enough on top");
    let memory = round.plan(0).memory;
    let mut next = Round { memory, ..Round::new(&policy, see(120)) };
    assert_ne!(next.plan(10).step, Step::Rest, "crossed and not made good");
    next.seen = see(150).into();
    assert_eq!((next.plan(10).step, next.plan(10).memory.met), (Step::Rest, vec![]));
}

#[test]
fn a_soft_threshold_waits_and_grants_the_lesser_of_two_graces() {
    let given = Given {
        hard: Some(Statements::new()),
        soft: statements(&[("memory.available", "100Mi")]),
        soft_grace: [("memory.available".to_owned(), SignedDuration::from_secs(90))].into(),
        pod_grace_max_seconds: 40,
        ..Given::default()
    };
    let policy = Policy::parse(&given).unwrap();
    let short = [bytes(Signal::MemoryAvailable, MI, 1000 * MI)];
    let mut round = Round::new(&policy, short);
    let first = round.plan(0);
    assert_eq!((first.step, first.pressure), (Step::Rest, [Condition::MemoryPressure].into()));
    round.memory = first.memory;
    assert_eq!(round.plan(89).step, Step::Rest);
    for (own, want) in [(30, 30), (60, 40), (0, 1)] {
        let own = json!({ "spec": { "terminationGracePeriodSeconds": own } });
        round.candidates = Some(vec![candidate(pod("a", json!({}), own), 1)]);
        let Step::Evict(eviction) = round.plan(90).step else { panic!() };
        assert_eq!(eviction.grace_seconds, want);
    }
    let calm = Round {
        memory: round.memory.clone(),
        ..Round::new(&policy, [bytes(Signal::MemoryAvailable, 200 * MI, 1000 * MI)])
    };
    round.memory = calm.plan(89).memory;
    round.candidates = None;
    assert_eq!(round.plan(100).step, Step::Rest, "a pause begins the wait anew");
}

#[test]
fn a_condition_outlives_its_cause_by_the_transition_period() {
    let policy = hard(&[("pid.available", "1k")]);
    let see = |n: i64| [(Signal::PidAvailable, Observation::units(n, 32768))];
    let memory = Round::new(&policy, see(999)).plan(0).memory;
    let later = |now: i64| Round { memory: memory.clone(), ..Round::new(&policy, see(1000)) }.plan(now);
    assert_eq!(later(299).pressure, [Condition::PidPressure].into());
    assert_eq!((later(300).pressure, later(300).memory), (Pressure::new(), Memory::default()));
    let at_once = Policy { transition: SignedDuration::ZERO, ..policy.clone() };
    let plan = Round::new(&at_once, see(999)).plan(0);
    assert_eq!(plan.pressure, [Condition::PidPressure].into(), "seen now is shown now");
    assert_eq!(Round { memory: plan.memory, ..Round::new(&at_once, see(1000)) }.plan(1).pressure, Pressure::new());
}

#[test]
fn memory_is_dealt_with_before_the_disk() {
    let policy = Policy::default();
    let round = Round::new(&policy, Signal::ALL.map(|signal| bytes(signal, 1, 1000 * MI)));
    assert_eq!(round.plan(0).starved, Some(Signal::MemoryAvailable));
    assert_eq!(round.plan(0).pressure, [Condition::MemoryPressure, Condition::DiskPressure].into());
}

#[test]
fn who_exceeds_its_request_goes_first_then_the_lower_priority_then_who_exceeds_most() {
    let priority = |n: i32| json!({ "spec": { "priority": n } });
    let request = |n: i64| json!({ "memory": n.to_string(), "ephemeral-storage": n.to_string() });
    let pods = [
        candidate(pod("modest-low", request(100), priority(-5)), 90),
        candidate(pod("modest-high", request(100), priority(50)), 100),
        candidate(pod("greedy-high", request(100), priority(50)), 900),
        candidate(pod("greedy-low", request(100), priority(1)), 101),
        candidate(pod("greedier-low", request(0), priority(1)), 50),
        Candidate { usage: None, ..candidate(pod("unknown", request(0), priority(99)), 0) },
    ];
    let want = ["unknown", "greedier-low", "greedy-low", "greedy-high", "modest-low", "modest-high"];
    for signal in [Signal::MemoryAvailable, Signal::NodefsAvailable, Signal::ImagefsAvailable] {
        assert_eq!(order(&pods, signal), want, "{signal}");
    }
    let by_priority = ["modest-low", "greedy-low", "greedier-low", "greedy-high", "modest-high", "unknown"];
    assert_eq!(order(&pods, Signal::PidAvailable), by_priority);
}

#[test]
fn overhead_counts_on_top_of_a_request_and_only_there() {
    let overhead = json!({ "spec": { "overhead": { "memory": "100" } } });
    let pods = [
        candidate(pod("covered", json!({ "memory": "100" }), overhead.clone()), 200),
        candidate(pod("beyond", json!({ "memory": "100" }), overhead.clone()), 201),
        candidate(pod("none", json!({}), overhead), 50),
    ];
    // 50 above a request of nothing, 1 above 200, and one that keeps to its 200.
    assert_eq!(order(&pods, Signal::MemoryAvailable), ["none", "beyond", "covered"]);
}

#[test]
fn where_files_are_decides_who_is_blamed_for_them() {
    let usage = |layer: i64, logs: i64, volumes: i64| {
        let files = |bytes: i64| Files { bytes, inodes: bytes };
        let container = ContainerUsage { memory_bytes: None, layer: Some(files(layer)), logs: Some(files(logs)) };
        let containers = [("c".to_owned(), container)].into();
        Some(Usage { volumes: files(volumes), containers, ..Usage::default() })
    };
    let candidate = Candidate { pod: Arc::new(pod("a", json!({}), json!({}))), usage: usage(1, 10, 100) };
    for (layout, node, images) in [(Layout::One, 111, 111), (Layout::Images, 110, 1), (Layout::Split, 111, 0)] {
        let uses = [Signal::NodefsAvailable, Signal::NodefsInodesFree, Signal::ImagefsAvailable]
            .map(|signal| candidate.uses(signal, layout).unwrap());
        assert_eq!(uses, [node, node, images], "{layout:?}");
    }
}

#[test]
fn critical_pods_stay_and_without_others_nobody_goes() {
    let note = |key: &str, value: &str| json!({ "metadata": { "annotations": { key: value } } });
    let critical = [
        Pod { is_static: true, ..pod("static", json!({}), json!({})) },
        pod("mirror", json!({}), note("kubernetes.io/config.mirror", "h")),
        pod("system", json!({}), json!({ "spec": { "priority": 2_000_000_000 } })),
    ];
    let policy = hard(&[("memory.available", "100Mi")]);
    let mut round = Round::new(&policy, [bytes(Signal::MemoryAvailable, 1, 1000 * MI)]);
    let mut candidates: Vec<Candidate> = critical.into_iter().map(|pod| candidate(pod, 900)).collect();
    round.candidates = Some(candidates.clone());
    assert_eq!(round.plan(0).step, Step::Nobody);
    let from_api = pod("plain", json!({ "memory": "1Gi" }), note("kubernetes.io/config.source", "file"));
    candidates.push(candidate(from_api, 1));
    round.candidates = Some(candidates);
    assert!(matches!(round.plan(0).step, Step::Evict(Eviction { uid, .. }) if uid == "plain"));
}

#[test]
fn a_node_under_pressure_lets_in_whom_it_can_bear() {
    let best_effort = || pod("a", json!({}), json!({}));
    let tolerant =
        json!({ "spec": { "tolerations": [{ "key": "node.kubernetes.io/memory-pressure", "operator": "Exists" }] } });
    let system = json!({ "spec": { "priority": 2_000_001_000 } });
    let (memory, disk) = (Condition::MemoryPressure, Condition::DiskPressure);
    let refused = |pod: &Pod, pressure: &[Condition]| admission::refusal(pod, &pressure.iter().copied().collect());
    let told = |names: &str| Some(("Evicted".to_owned(), format!("The node had condition: [{names}]. ")));
    assert_eq!(refused(&best_effort(), &[]), None);
    assert_eq!(refused(&best_effort(), &[memory]), told("MemoryPressure"));
    assert_eq!(refused(&pod("a", json!({ "cpu": "1m" }), json!({})), &[memory]), None);
    assert_eq!(refused(&pod("a", json!({}), tolerant.clone()), &[memory]), None);
    assert_eq!(refused(&pod("a", json!({}), tolerant), &[disk, memory]), told("MemoryPressure DiskPressure"));
    assert_eq!(refused(&pod("a", json!({ "cpu": "1" }), json!({})), &[Condition::PidPressure]), told("PIDPressure"));
    assert_eq!(refused(&pod("a", json!({}), system), &[disk, memory]), None);
}

/// Any figures: what is left in hundredths of the capacity.
fn any_seen() -> impl Strategy<Value = Observations> {
    proptest::collection::btree_map(0..6usize, 0..100i64, 0..6)
        .prop_map(|seen| seen.into_iter().map(|(n, left)| bytes(Signal::ALL[n], left * MI, 100 * MI)).collect())
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let amounts = || proptest::collection::btree_map(0..6usize, 1..100u8, 0..6);
    (amounts(), amounts(), amounts(), 0..60i64, 0..120i64).prop_map(|(hard, soft, reclaim, grace, transition)| {
        let named = |of: std::collections::BTreeMap<usize, u8>| -> Statements {
            of.into_iter().map(|(n, percent)| (Signal::ALL[n].name().to_owned(), format!("{percent}%"))).collect()
        };
        let soft_grace = Signal::ALL.map(|s| (s.name().to_owned(), SignedDuration::from_secs(grace))).into();
        let given = Given {
            hard: Some(named(hard)),
            soft: named(soft),
            reclaim: named(reclaim),
            soft_grace,
            transition: Some(SignedDuration::from_secs(transition)),
            ..Given::default()
        };
        Policy::parse(&given).unwrap()
    })
}

fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let one = (0..200i64, 0..200i64, -2..3i32, any::<bool>(), any::<bool>());
    proptest::collection::vec(one, 0..6).prop_map(|pods| {
        let made = pods.into_iter().enumerate().map(|(n, (used, asked, priority, is_system, is_known))| {
            let priority = if is_system { 2_000_000_000 + priority } else { priority };
            let asked = json!({ "memory": asked.to_string(), "ephemeral-storage": asked.to_string() });
            let made = candidate(pod(&format!("p{n}"), asked, json!({ "spec": { "priority": priority } })), used);
            Candidate { usage: made.usage.clone().filter(|_| is_known), ..made }
        });
        made.collect()
    })
}

proptest! {
    #[test]
    fn no_pod_goes_without_need_nor_before_what_nobody_needs_and_never_a_critical_one(
        policy in any_policy(),
        rounds in proptest::collection::vec((any_seen(), any_seen(), any_candidates(), 1..40i64), 1..6),
        layout in prop_oneof![Just(Layout::One), Just(Layout::Images), Just(Layout::Split)],
    ) {
        let (mut memory, mut now, mut first) = (Memory::default(), 0, [None::<i64>; 6]);
        for (seen, freed, candidates, pause) in rounds {
            now += pause;
            let mut round = Round { layout, memory: memory.clone(), seen, ..Round::new(&policy, []) };
            let crossed = |signal: Signal, seen: &Observations| {
                policy.thresholds.iter().any(|t| t.signal == signal && t.is_crossed(seen, false))
            };
            for (n, signal) in Signal::ALL.into_iter().enumerate() {
                let below = policy.thresholds.iter().any(|t| t.signal == signal && t.is_crossed(&round.seen, true));
                first[n] = if below { first[n].or(Some(now)) } else { None };
            }
            let mut steps = 0;
            let plan = loop {
                let plan = round.plan(now);
                match plan.step {
                    Step::Free(_) => {
                        prop_assert!(round.freed.is_none() && plan.pressure.contains(&Condition::DiskPressure));
                        round.freed = Some(freed.clone());
                    }
                    Step::Measure(_) => round.candidates = Some(candidates.clone()),
                    _ => break plan,
                }
                steps += 1;
                prop_assert!(steps <= 2, "a round comes to its end");
            };
            for signal in Signal::ALL.into_iter().filter(|signal| crossed(*signal, &round.seen)) {
                prop_assert!(plan.pressure.contains(&signal.condition()), "what is seen is shown");
            }
            if let Step::Evict(eviction) = &plan.step {
                let signal = plan.starved.unwrap();
                let chosen = candidates.iter().find(|candidate| candidate.pod.uid() == eviction.uid).unwrap();
                prop_assert!(!rank::is_critical(&chosen.pod));
                let short = round.freed.as_ref().unwrap_or(&round.seen);
                let is_short = |t: &&super::policy::Threshold| t.signal == signal && t.is_crossed(short, true);
                prop_assert!(policy.thresholds.iter().any(|t| is_short(&t)), "there is need");
                let since = first[Signal::ALL.iter().position(|one| *one == signal).unwrap()];
                let least = policy.thresholds.iter().filter(|t| t.signal == signal).map(|t| t.grace.as_secs()).min();
                prop_assert!(since.is_some_and(|since| now - since >= least.unwrap()), "no sooner than its grace");
                if signal.condition() == Condition::DiskPressure && layout == Layout::One {
                    prop_assert!(round.freed.is_some(), "images go first");
                }
                prop_assert!(eviction.grace_seconds >= 1);
            }
            memory = plan.memory;
        }
    }

    #[test]
    fn the_order_is_that_of_the_page(candidates in any_candidates(), n in 0..5usize) {
        let signal = Signal::ALL[n];
        let ordered = rank::order(&candidates, signal, Layout::One);
        prop_assert_eq!(ordered.len(), candidates.len());
        for pair in ordered.windows(2) {
            let (a, b) = (pair[0], pair[1]);
            let above = |c: &Candidate| c.uses(signal, Layout::One).map(|uses| uses - c.requests(signal));
            let exceeds = |c: &Candidate| above(c).is_none_or(|above| above > 0);
            prop_assert!(exceeds(a) || !exceeds(b));
            let (Some(more), Some(less)) = (above(a), above(b)) else { continue };
            if exceeds(a) == exceeds(b) {
                prop_assert!(a.pod.spec.priority <= b.pod.spec.priority);
                if a.pod.spec.priority == b.pod.spec.priority {
                    prop_assert!(more >= less);
                }
            }
        }
    }
}
