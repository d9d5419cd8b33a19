//! The pod machine in its world: golden traces of the specification and properties over random histories.

mod properties;
mod world;

use serde_json::json;
use world::{Behaviour, World, in_order, pod};

fn one(spec: serde_json::Value) -> World {
    let mut whole = json!({
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "containers": [{"name": "c", "image": "img", "imagePullPolicy": "IfNotPresent"}],
    });
    json_patch::merge(&mut whole, &spec);
    World::new(pod(whole))
}

fn hooks(which: serde_json::Value) -> serde_json::Value {
    json!({"containers": [{"name": "c", "image": "img", "lifecycle": which}]})
}

const EXEC: &str = r#"{"exec": {"command": ["x"]}}"#;

fn exec() -> serde_json::Value {
    serde_json::from_str(EXEC).unwrap()
}

fn check(world: &World, wanted: &[&str]) {
    assert!(in_order(&world.trace, wanted), "wanted {wanted:#?}\nsaw {:#?}", world.trace);
}

#[test]
fn a_plain_pod_comes_up_in_one_pass() {
    let mut world = one(json!({}));
    world.run_until(5);
    assert_eq!(world.trace, ["0 C RunPodSandbox 0", "0 C CreateContainer c 0", "0 C StartContainer c", "0 A Running"]);
    let status = &world.view.pod.status;
    assert_eq!(status.pod_ip, "10.0.0.2");
    assert!(status.container_statuses[0].ready);
    assert_eq!(status.conditions.iter().find(|c| c.type_ == "Ready").unwrap().status, "True");
}

#[test]
fn trace_1_a_container_runs_for_clients_when_its_post_start_has_ended() {
    let mut world =
        one(hooks(json!({"postStart": exec()}))).with("c", Behaviour { post_start: (5, true), ..Behaviour::default() });
    world.run_until(4);
    let state = &world.view.pod.status.container_statuses[0].state;
    assert_eq!(state.waiting.as_ref().unwrap().reason, "ContainerCreating");
    assert_eq!(world.view.pod.status.pod_ip, "10.0.0.2");
    world.run_until(10);
    check(&world, &["0 C StartContainer c", "0 H postStart c", "5 A Running"]);
}

#[test]
fn trace_2_a_failed_post_start_kills_and_backs_off() {
    let mut world = one(hooks(json!({"postStart": exec()})))
        .with("c", Behaviour { post_start: (0, false), on_term: None, ..Behaviour::default() });
    world.run_until(100);
    check(
        &world,
        &[
            "0 H postStart c",
            "0 E Killing FailedPostStartHook",
            "0 C S(30) c",
            "30 exit c 137",
            "30 C CreateContainer c 1",
            "60 exit c 137",
            "60 E BackOff Back-off restarting failed container c in pod p_ns(u)",
            "70 C CreateContainer c 2",
        ],
    );
}

#[test]
fn trace_3_a_failed_post_start_with_policy_never_and_exit_0_ends_well() {
    let mut spec = hooks(json!({"postStart": exec()}));
    spec["restartPolicy"] = json!("Never");
    let mut world =
        one(spec).with("c", Behaviour { post_start: (0, false), on_term: Some((1, 0)), ..Behaviour::default() });
    world.run_until(60);
    check(&world, &["0 C S(30) c", "1 exit c 0", "1 A Succeeded"]);
}

#[test]
fn trace_4_the_hook_and_the_stop_share_the_grace() {
    let mut spec = hooks(json!({"preStop": exec()}));
    spec["terminationGracePeriodSeconds"] = json!(60);
    let mut world =
        one(spec).with("c", Behaviour { pre_stop: (55, true), on_term: Some((10, 0)), ..Behaviour::default() });
    world.run_until(10);
    world.delete(60);
    world.run_until(200);
    check(
        &world,
        &[
            "10 E Killing Stopping container c",
            "10 H preStop c",
            "65 C S(5) c",
            "70 exit c 137",
            "70 A Failed",
            "70 A DELETE",
        ],
    );
    assert!(world.is_clean());
}

#[test]
fn trace_5_a_hook_that_hangs_is_abandoned_when_the_grace_is_over() {
    let mut world = one(hooks(json!({"preStop": exec()})))
        .with("c", Behaviour { pre_stop: (9999, true), on_term: Some((1, 143)), ..Behaviour::default() });
    world.run_until(1);
    world.delete(30);
    world.run_until(100);
    check(
        &world,
        &[
            "1 H preStop c",
            "31 E FailedPreStopHook PreStopHook not completed in grace period",
            "31 C S(2) c",
            "32 exit c 143",
            "32 A DELETE",
        ],
    );
}

#[test]
fn trace_7_a_forced_deletion_gives_the_hook_a_second() {
    let mut world =
        one(hooks(json!({"preStop": exec()}))).with("c", Behaviour { pre_stop: (20, true), ..Behaviour::default() });
    world.run_until(1);
    world.delete(0);
    world.run_until(100);
    check(&world, &["1 H preStop c", "2 C S(2) c", "2 exit c 143"]);
}

#[test]
fn trace_8_a_shortened_grace_takes_effect_at_once() {
    let mut world =
        one(hooks(json!({"preStop": exec()}))).with("c", Behaviour { pre_stop: (900, true), ..Behaviour::default() });
    world.run_until(1);
    world.delete(600);
    world.run_until(11);
    world.delete(5);
    world.run_until(100);
    check(&world, &["1 H preStop c", "16 C S(2) c", "16 exit c 143"]);
}

#[test]
fn trace_8_a_running_stop_is_sent_again_with_the_shorter_time() {
    let mut world = one(json!({})).with("c", Behaviour { on_term: None, ..Behaviour::default() });
    world.run_until(1);
    world.delete(600);
    world.run_until(11);
    world.delete(5);
    world.run_until(700);
    check(&world, &["1 C S(600) c", "11 C S(5) c", "16 exit c 137"]);
}

#[test]
fn trace_9_sidecars_stop_after_the_app_in_reverse_order() {
    let sidecar =
        |name: &str| json!({"name": name, "image": "img", "restartPolicy": "Always", "lifecycle": {"preStop": exec()}});
    let spec = json!({
        "initContainers": [sidecar("s1"), sidecar("s2")],
        "containers": [{"name": "a", "image": "img", "lifecycle": {"preStop": exec()}}],
    });
    let behaviour = Behaviour { pre_stop: (2, true), ..Behaviour::default() };
    let mut world = one(spec)
        .with("a", Behaviour { on_term: Some((3, 0)), ..behaviour })
        .with("s1", behaviour)
        .with("s2", behaviour);
    world.run_until(10);
    assert_eq!(world.running(), ["a", "s1", "s2"]);
    world.delete(30);
    world.run_until(100);
    check(
        &world,
        &["12 C S(28) a", "15 exit a 0", "15 C S(25) s2", "15 exit s2 143", "15 C S(25) s1", "15 A Succeeded"],
    );
    for name in ["a", "s1", "s2"] {
        assert!(world.trace.contains(&format!("10 H preStop {name}")));
    }
}

#[test]
fn trace_13_a_restart_of_the_agent_does_not_prolong_the_grace() {
    let mut spec = hooks(json!({"preStop": exec()}));
    spec["terminationGracePeriodSeconds"] = json!(60);
    let mut world = one(spec).with("c", Behaviour { pre_stop: (40, true), ..Behaviour::default() });
    world.run_until(1);
    world.delete(60);
    world.run_until(21);
    world.crash();
    world.run_until(200);
    check(&world, &["1 H preStop c", "21 agent restarts", "21 H preStop c", "61 C S(2) c", "61 exit c 143"]);
}

#[test]
fn trace_14_a_post_start_that_was_lost_is_delivered_after_the_restart() {
    let mut world = one(hooks(json!({"postStart": exec()})))
        .with("c", Behaviour { post_start: (50, true), ..Behaviour::default() });
    world.run_until(1);
    world.crash();
    world.run_until(100);
    check(&world, &["0 H postStart c", "1 agent restarts", "1 H postStart c", "51 A Running"]);
}

#[test]
fn trace_17_a_deletion_does_not_wait_for_post_start() {
    let mut world = one(hooks(json!({"postStart": exec(), "preStop": exec()})))
        .with("c", Behaviour { post_start: (300, true), ..Behaviour::default() });
    world.run_until(1);
    world.delete(10);
    world.run_until(100);
    check(
        &world,
        &["0 H postStart c", "1 E Killing Stopping container c", "1 H preStop c", "1 C S(10) c", "1 A DELETE"],
    );
}

#[test]
fn trace_19_a_dead_sandbox_is_made_anew_with_its_init_containers() {
    let mut world = one(json!({"initContainers": [{"name": "i", "image": "img"}]}))
        .with("i", Behaviour { ends: Some((1, 0)), ..Behaviour::default() });
    world.run_until(10);
    world.kill_sandbox();
    world.run_until(20);
    check(
        &world,
        &[
            "0 C RunPodSandbox 0",
            "1 C CreateContainer c 0",
            "10 E SandboxChanged Pod sandbox changed, it will be killed and re-created.",
            "10 C RunPodSandbox 1",
            "10 C CreateContainer i 1",
            "11 C CreateContainer c 1",
        ],
    );
    assert_eq!(world.view.pod.status.container_statuses[0].restart_count, 1);
}

#[test]
fn two_dead_sandboxes_are_each_stopped_once() {
    // The agent forgets that the first one was stopped; both the pruning and the replacement want it stopped.
    let mut world = one(json!({"initContainers": [{"name": "i", "image": "a"}]})).with_tape(vec![200; 4]);
    world.run_until(0);
    world.kill_sandbox();
    world.run_until(0);
    world.kill_sandbox();
    world.crash();
    world.run_until(60);
    check(&world, &["0 C RunPodSandbox 0", "0 C RunPodSandbox 1", "0 agent restarts"]);
    assert_eq!(world.running(), ["i"]);
}

#[test]
fn the_crash_back_off_follows_the_specified_trace_and_survives_the_agent() {
    let mut world = one(json!({})).with("c", Behaviour { ends: Some((0, 1)), ..Behaviour::default() });
    world.run_until(5);
    world.crash();
    world.run_until(700);
    let starts: Vec<i64> = world
        .trace
        .iter()
        .filter(|line| line.contains("CreateContainer"))
        .map(|line| line.split(' ').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(starts, [0, 0, 10, 30, 70, 150, 310, 610]);
    let status = &world.view.pod.status.container_statuses[0];
    assert_eq!(status.state.waiting.as_ref().unwrap().reason, "CrashLoopBackOff");
    assert_eq!(
        status.state.waiting.as_ref().unwrap().message,
        "back-off 5m0s restarting failed container=c pod=p_ns(u)"
    );
    assert_eq!(status.last_state.terminated.as_ref().unwrap().exit_code, 1);
    assert_eq!(world.view.pod.status.phase, "Running");
}

#[test]
fn a_job_ends_with_its_sidecars_and_keeps_its_records() {
    let mut world = one(json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "s", "image": "img", "restartPolicy": "Always"}],
    }))
    .with("c", Behaviour { ends: Some((5, 0)), ..Behaviour::default() })
    .with("s", Behaviour { on_term: Some((1, 9)), ..Behaviour::default() });
    world.run_until(60);
    check(&world, &["5 exit c 0", "5 C S(30) s", "6 exit s 9", "6 A Succeeded"]);
    assert_eq!(world.plan.as_ref().unwrap().stage, super::Stage::Finished);
    assert!(!world.is_clean(), "the records stay until the pod is deleted");
    world.delete(30);
    world.run_until(100);
    check(&world, &["60 A DELETE"]);
    assert!(world.is_clean());
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let mut world = one(json!({"restartPolicy": "Never", "initContainers": [{"name": "i", "image": "img"}]}))
        .with("i", Behaviour { ends: Some((1, 3)), ..Behaviour::default() });
    world.run_until(60);
    check(&world, &["1 exit i 3", "1 A Failed"]);
    assert!(!world.trace.iter().any(|line| line.contains("CreateContainer c")));
}

#[test]
fn a_pod_deleted_before_it_started_fails_and_goes() {
    let mut world = one(json!({}));
    world.delete(30);
    world.run_until(10);
    check(&world, &["0 A Failed", "0 A DELETE"]);
    assert!(world.is_clean());
}
