//! Rules of hooks that have no trace of their own in the specification.

use super::{check, exec, hooks, one, world::Behaviour};
use serde_json::json;

#[test]
fn hook_96_a_pod_ends_with_its_hooks_when_its_active_deadline_is_over() {
    let mut spec = hooks(json!({"preStop": exec()}));
    spec["activeDeadlineSeconds"] = json!(5);
    let behaviour = Behaviour { pre_stop: (2, true), on_term: Some((1, 0)), ..Behaviour::default() };
    let mut world = one(spec).with("c", behaviour);
    world.run_until(3);
    // The agent that comes back counts from the same start.
    world.crash();
    world.run_until(60);
    check(
        &world,
        &[
            "5 E DeadlineExceeded Pod was active on the node longer than the specified deadline",
            "5 H preStop c",
            "7 C S(28) c",
            "8 exit c 0",
            "8 A Failed",
        ],
    );
    let status = &world.view.pod.status;
    assert_eq!(status.reason, "DeadlineExceeded");
    assert_eq!(status.message, "Pod was active on the node longer than the specified deadline");
    assert!(status.conditions.iter().all(|condition| condition.type_ != "DisruptionTarget"));
    assert!(world.in_api);
}

#[test]
fn trace_6_a_failed_pre_stop_leaves_the_whole_rest_of_the_grace() {
    let mut world =
        one(hooks(json!({"preStop": exec()}))).with("c", Behaviour { pre_stop: (0, false), ..Behaviour::default() });
    world.run_until(1);
    world.delete(30);
    world.run_until(60);
    check(&world, &["1 E Killing Stopping container c", "1 H preStop c", "1 C S(30) c", "1 A DELETE"]);
}

#[test]
fn hook_33_post_start_runs_at_every_start() {
    let mut world =
        one(hooks(json!({"postStart": exec()}))).with("c", Behaviour { ends: Some((1, 1)), ..Behaviour::default() });
    world.run_until(25);
    let count = |what: &str| world.trace.iter().filter(|line| line.ends_with(what)).count();
    assert_eq!((count("C StartContainer c"), count("H postStart c")), (3, 3), "{:#?}", world.trace);
}

#[test]
fn hook_35_the_post_start_of_one_container_holds_up_the_next() {
    let mut world = one(json!({"containers": [
        {"name": "a", "image": "img", "lifecycle": {"postStart": exec()}},
        {"name": "b", "image": "img"},
    ]}))
    .with("a", Behaviour { post_start: (7, true), ..Behaviour::default() });
    world.run_until(20);
    check(&world, &["0 C StartContainer a", "0 H postStart a", "7 C CreateContainer b 0", "7 C StartContainer b"]);
}

#[test]
fn hook_40_other_containers_start_although_a_hook_failed() {
    let mut world = one(json!({"containers": [
        {"name": "a", "image": "img", "lifecycle": {"postStart": exec()}},
        {"name": "b", "image": "img"},
    ]}))
    .with("a", Behaviour { post_start: (1, false), on_term: None, ..Behaviour::default() });
    world.run_until(3);
    assert_eq!(world.running(), ["a", "b"], "{:#?}", world.trace);
    check(&world, &["1 E Killing FailedPostStartHook", "1 C StartContainer b"]);
}

#[test]
fn hook_52_no_pre_stop_of_a_container_that_has_ended_or_never_ran() {
    let lifecycle = json!({"preStop": exec()});
    let mut world = one(json!({"restartPolicy": "Never", "containers": [
        {"name": "done", "image": "img", "lifecycle": lifecycle},
        {"name": "lives", "image": "img", "lifecycle": lifecycle},
    ]}))
    .with("done", Behaviour { ends: Some((1, 0)), ..Behaviour::default() });
    world.run_until(5);
    world.delete(30);
    world.run_until(60);
    let hooks: Vec<&String> = world.trace.iter().filter(|line| line.contains("H preStop")).collect();
    assert_eq!(hooks, ["5 H preStop lives"]);
}

#[test]
fn hook_103_nothing_starts_again_once_the_pod_is_to_end() {
    let mut world = one(json!({
        "initContainers": [{"name": "s", "image": "img", "restartPolicy": "Always"}],
        "containers": [{"name": "c", "image": "img", "lifecycle": {"preStop": exec()}}],
    }))
    .with("c", Behaviour { pre_stop: (20, true), ..Behaviour::default() })
    .with("s", Behaviour { ends: Some((8, 1)), ..Behaviour::default() });
    world.run_until(5);
    world.delete(30);
    world.run_until(100);
    check(&world, &["5 H preStop c", "8 exit s 1", "25 C S(10) c", "25 A DELETE"]);
    let starts = world.trace.iter().filter(|line| line.ends_with("C StartContainer s")).count();
    assert_eq!(starts, 1, "{:#?}", world.trace);
}

#[test]
fn hook_108_a_grace_of_one_second_bounds_hook_and_stop() {
    let mut world = one(hooks(json!({"preStop": exec()})))
        .with("c", Behaviour { pre_stop: (99, true), on_term: None, ..Behaviour::default() });
    world.run_until(1);
    world.delete(1);
    world.run_until(60);
    check(&world, &["1 H preStop c", "2 C S(2) c", "4 exit c 137", "4 A DELETE"]);
}
