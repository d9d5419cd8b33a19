//! Random histories: failing calls, agent crashes, dead sandboxes, deletions. Safety is the world's asserts; liveness is
//! asserted here once the tape is exhausted and everything goes well. `PROPTEST_CASES` asks for more of them.

use super::world::{Behaviour, World, pod};
use crate::image::Cause;
use proptest::prelude::*;
use serde_json::json;

fn behaviour() -> impl Strategy<Value = Behaviour> {
    let ends = proptest::option::of((0..40i64, prop_oneof![Just(0), Just(1)]));
    let on_term = proptest::option::of((0..20i64, Just(143)));
    let hook = || (0..15i64, any::<bool>());
    (ends, on_term, hook(), hook()).prop_map(|(ends, on_term, post_start, pre_stop)| Behaviour {
        ends,
        on_term,
        post_start,
        pre_stop,
    })
}

#[derive(Debug, Clone)]
enum Turn {
    Pass(i64),
    Crash,
    KillSandbox,
    Delete(i64),
    Break(&'static str, &'static str),
    Mend(&'static str),
    Tell(Cause),
    Evict(i64),
    Spare,
}

fn image_turn() -> impl Strategy<Value = Turn> {
    let image = || prop_oneof![Just("a"), Just("b"), Just("c"), Just("v")];
    let text = prop_oneof![Just("unauthorized"), Just("connection refused"), Just("no space left")];
    let secret = |name: &str| Cause::Secret { namespace: "ns".into(), name: name.into() };
    let registry = Cause::Registry { host: "registry-1.docker.io".into() };
    let cause = prop_oneof![Just(secret("mine")), Just(secret("other")), Just(Cause::Mirrors), Just(registry)];
    prop_oneof![
        2 => (image(), text).prop_map(|(image, text)| Turn::Break(image, text)),
        1 => image().prop_map(Turn::Mend),
        2 => cause.prop_map(Turn::Tell),
    ]
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        4 => (0..30i64).prop_map(Turn::Pass),
        2 => Just(Turn::Crash),
        1 => Just(Turn::KillSandbox),
        1 => (0..40i64).prop_map(Turn::Delete),
        1 => (1..40i64).prop_map(Turn::Evict),
        1 => Just(Turn::Spare),
        3 => image_turn(),
    ]
}

fn spec(policy: &str, hooked: bool) -> serde_json::Value {
    let exec = json!({"exec": {"command": ["x"]}});
    let lifecycle = if hooked { json!({"postStart": exec, "preStop": exec}) } else { json!(null) };
    json!({
        "restartPolicy": policy,
        "terminationGracePeriodSeconds": 20,
        "initContainers": [
            {"name": "i", "image": "a"},
            {"name": "s", "image": "a", "restartPolicy": "Always", "lifecycle": lifecycle},
            {"name": "j", "image": "b"},
        ],
        "imagePullSecrets": [{"name": "mine"}],
        "volumes": [{"name": "one", "image": {"reference": "a"}}, {"name": "two", "image": {"reference": "v"}}],
        "containers": [
            {"name": "c", "image": "a", "lifecycle": lifecycle, "volumeMounts": [{"name": "one", "mountPath": "/x"}]},
            {"name": "d", "image": "c", "volumeMounts": [{"name": "two", "mountPath": "/x"}]},
        ],
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_keeps_the_rules_and_a_deleted_pod_leaves_nothing_in_time(
        policy in prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")],
        hooked in any::<bool>(),
        behaviours in proptest::collection::vec(behaviour(), 5),
        turns in proptest::collection::vec(turn(), 0..12),
        tape in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let mut world = World::new(pod(spec(policy, hooked))).with_tape(tape);
        for (name, behaviour) in ["i", "s", "j", "c", "d"].iter().zip(behaviours) {
            world = world.with(name, behaviour);
        }
        for turn in turns {
            let now = world.seconds();
            match turn {
                Turn::Pass(seconds) => world.run_until(now + seconds),
                Turn::Crash if world.in_api => world.crash(),
                Turn::KillSandbox if world.in_api => world.kill_sandbox(),
                Turn::Delete(grace) if world.in_api => world.delete(grace),
                Turn::Break(image, text) => world.break_image(image, text),
                Turn::Mend(image) => world.mend_image(image),
                Turn::Tell(cause) if world.in_api => world.tell(cause),
                Turn::Evict(grace) if world.in_api => world.evict(grace),
                Turn::Spare => world.view.observed.records_spare = true,
                _ => {}
            }
        }
        // Liveness: the tape may still hold failures, each of which costs a retry of ten seconds at most.
        if world.in_api {
            let now = world.seconds();
            world.delete(20);
            world.run_until(now + 1000);
        }
        prop_assert!(!world.in_api, "still in the API: {:#?}", world.trace);
        prop_assert!(world.is_clean(), "left behind: {:#?}", world.trace);
    }

    #[test]
    fn a_pod_whose_processes_stay_comes_up_whatever_fails_at_first(
        hooked in any::<bool>(),
        crashes in proptest::collection::vec(0..30i64, 0..4),
        tape in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        let done = Behaviour { ends: Some((1, 0)), ..Behaviour::default() };
        let mut world = World::new(pod(spec("Always", hooked))).with_tape(tape).with("i", done).with("j", done);
        for pause in crashes {
            let now = world.seconds();
            world.run_until(now + pause);
            world.crash();
        }
        let now = world.seconds();
        world.run_until(now + 1500);
        prop_assert_eq!(world.running(), ["c", "d", "s"], "{:#?}", world.trace);
        prop_assert_eq!(&world.view.pod.status.phase, "Running");
    }

    #[test]
    fn a_pod_whose_images_come_back_comes_up_at_the_end_of_the_longest_back_off(
        broken in proptest::collection::vec((0..400i64, image_turn()), 1..12),
        tape in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let done = Behaviour { ends: Some((1, 0)), ..Behaviour::default() };
        let mut world = World::new(pod(spec("Always", false))).with_tape(tape).with("i", done).with("j", done);
        for (pause, turn) in broken {
            let now = world.seconds();
            match turn {
                Turn::Break(image, text) => world.break_image(image, text),
                Turn::Mend(image) => world.mend_image(image),
                Turn::Tell(cause) => world.tell(cause),
                _ => {}
            }
            world.run_until(now + pause);
        }
        ["a", "b", "c", "v"].iter().for_each(|image| world.mend_image(image));
        let now = world.seconds();
        // Three init steps and the tape's failures; each image's back-off runs from its own last failure.
        world.run_until(now + 1200);
        prop_assert_eq!(world.running(), ["c", "d", "s"], "{:#?}", world.trace);
    }
}
