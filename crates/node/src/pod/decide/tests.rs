//! The pod machine in its world: golden traces of the specification and properties over random histories.

mod hooks;
mod properties;
mod traces;
mod world;

use crate::image::Cause;
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
fn trace_15_an_evicted_pod_fails_in_the_nodes_words_when_nothing_runs_any_more() {
    let mut world = one(hooks(json!({"preStop": exec()})))
        .with("c", Behaviour { pre_stop: (9999, true), on_term: Some((1, 0)), ..Behaviour::default() });
    world.run_until(5);
    world.evict(1);
    world.run_until(6);
    let status = &world.view.pod.status;
    assert_eq!((status.phase.as_str(), status.reason.as_str(), status.message.as_str()), ("Running", "", ""));
    assert!(status.conditions.iter().all(|condition| condition.type_ != "DisruptionTarget"));
    world.run_until(60);
    check(&world, &["5 H preStop c", "6 C S(2) c", "7 exit c 0", "7 A Failed"]);
    let status = &world.view.pod.status;
    assert_eq!(
        (status.reason.as_str(), status.message.as_str()),
        ("Evicted", "The node was low on resource: memory. ")
    );
    let told = status.conditions.iter().find(|condition| condition.type_ == "DisruptionTarget").unwrap();
    assert_eq!((told.status.as_str(), told.reason.as_str()), ("True", "TerminationByKubelet"));
    assert_eq!(told.message, status.message);
    assert!(world.is_clean() && world.in_api, "what it used is free again; its status stays");
}

#[test]
fn an_eviction_and_a_deletion_are_one_termination_with_the_lesser_grace() {
    for (first_grace, then_delete, stop) in [(20, 40, "25 C S(2) c"), (20, 3, "10 C S(2) c")] {
        let mut world = one(hooks(json!({"preStop": exec()})))
            .with("c", Behaviour { pre_stop: (9999, true), on_term: Some((1, 0)), ..Behaviour::default() });
        world.run_until(5);
        world.evict(first_grace);
        world.run_until(7);
        world.delete(then_delete);
        world.run_until(200);
        check(&world, &["5 H preStop c", stop]);
        assert_eq!(world.trace.iter().filter(|line| line.contains("H preStop")).count(), 1, "{:#?}", world.trace);
        assert_eq!(world.view.pod.status.reason, "Evicted");
        assert_eq!(world.view.pod.status.phase, "Failed");
        assert!(world.is_clean());
    }
}

#[test]
fn an_ended_pod_gives_up_its_records_for_room_and_keeps_its_status() {
    let done = Behaviour { ends: Some((1, 3)), ..Behaviour::default() };
    let mut world = one(json!({"restartPolicy": "Never"})).with("c", done);
    world.view.observed.records_spare = true;
    world.run_until(60);
    assert!(world.is_clean());
    assert!(world.in_api, "the pod itself stays");
    let status = &world.view.pod.status;
    assert_eq!((status.phase.as_str(), status.container_statuses.len()), ("Failed", 1));
    assert_eq!(status.container_statuses[0].state.terminated.as_ref().unwrap().exit_code, 3);
    let mut lives = one(json!({}));
    lives.view.observed.records_spare = true;
    lives.run_until(60);
    assert_eq!(lives.running(), ["c"], "a pod that has not ended loses nothing");
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

const SECRET_TEXT: &str = "pull access denied";

fn pulls(world: &World, image: &str) -> Vec<i64> {
    let wanted = format!("C PullImage {image}");
    let lines = world.trace.iter().filter_map(|line| line.split_once(' '));
    lines.filter(|(_, what)| *what == wanted).map(|(at, _)| at.parse().unwrap()).collect()
}

fn private() -> World {
    let mut world = one(json!({"imagePullSecrets": [{"name": "mine"}]}));
    world.break_image("img", SECRET_TEXT);
    world
}

#[test]
fn failed_pulls_back_off_to_five_minutes_and_wake_at_the_instant() {
    let mut world = private();
    world.run_until(24 * 3600);
    let pulls = pulls(&world, "img");
    assert_eq!(pulls[..8], [0, 10, 30, 70, 150, 310, 610, 910]);
    assert!(pulls[6..].windows(2).all(|pair| pair[1] - pair[0] == 300), "for ever (IMG-78)");
    assert!(pulls.len() > 280);
}

#[test]
fn every_start_of_a_container_has_asked_for_its_image_once() {
    let mut world = one(json!({})).with("c", Behaviour { ends: Some((1, 1)), ..Behaviour::default() });
    world.run_until(400);
    let count = |what: &str| world.trace.iter().filter(|line| line.ends_with(what)).count();
    assert!(count("C StartContainer c") > 4, "{:#?}", world.trace);
    let asked = world.asked.iter().filter(|(image, _)| image == "img").count();
    assert_eq!(asked, count("C StartContainer c"));
}

#[test]
fn all_images_of_a_pod_are_asked_for_at_its_bind() {
    let mut world = one(json!({"initContainers": [{"name": "i", "image": "first"}, {"name": "j", "image": "second"}]}))
        .with("i", Behaviour { ends: Some((100, 0)), ..Behaviour::default() });
    world.run_until(50);
    let mut asked = world.asked.clone();
    asked.sort();
    assert_eq!(asked, ["first", "img", "second"].map(|image| (image.to_owned(), 0)), "while the first one runs");
}

#[test]
fn a_restart_of_the_agent_forgets_the_back_off() {
    let mut world = private();
    world.run_until(40);
    world.crash();
    world.run_until(45);
    assert_eq!(pulls(&world, "img"), [0, 10, 30, 40]);
}

#[test]
fn a_waiting_container_says_what_it_waits_for_and_when_the_next_try_is() {
    let mut world = private();
    world.run_until(1);
    assert_eq!(world.waiting("c"), ("ErrImagePull".into(), SECRET_TEXT.into()));
    world.run_until(5);
    let (reason, message) = world.waiting("c");
    assert_eq!(reason, "ImagePullBackOff");
    assert_eq!(
        message,
        "Back-off pulling image \"img\": ErrImagePull: pull access denied; waiting for credentials that registry-1.docker.io accepts, next try in 10s"
    );
    assert_eq!(world.view.pod.status.phase, "Pending");
    check(
        &world,
        &["0 C PullImage img", "2 E BackOff Back-off pulling image \"img\"", "2 E Failed Error: ImagePullBackOff"],
    );
}

#[test]
fn a_cause_that_concerns_the_failure_has_it_tried_at_once_and_others_do_not() {
    let mut world = private();
    let secret = |name: &str| Cause::Secret { namespace: "ns".into(), name: name.into() };
    world.run_until(700);
    world.tell(secret("other"));
    world.tell(Cause::Registry { host: "registry-1.docker.io".into() });
    world.run_until(720);
    assert_eq!(pulls(&world, "img").last(), Some(&610));
    world.tell(secret("mine"));
    world.run_until(721);
    assert_eq!(pulls(&world, "img").last(), Some(&720));
    world.run_until(1019);
    assert_eq!(pulls(&world, "img").last(), Some(&720), "it failed again, and has its delay");
    world.mend_image("img");
    world.tell(secret("mine"));
    world.run_until(1020);
    assert_eq!(world.running(), ["c"], "repaired: it runs within the second");
}

#[test]
fn a_failure_is_forgotten_after_ten_minutes_without_one() {
    let mut world =
        one(json!({"restartPolicy": "Always"})).with("c", Behaviour { ends: Some((700, 0)), ..Behaviour::default() });
    world.break_image("img", "not found");
    world.run_until(5);
    world.mend_image("img");
    world.run_until(11);
    assert_eq!(world.running(), ["c"]);
    world.break_image("img", "not found");
    world.run_until(750);
    // The pull of the restart fails anew, and begins with ten seconds (IMG-73, IMG-74).
    assert_eq!(pulls(&world, "img"), [0, 710, 720, 740]);
}

#[test]
fn containers_and_volumes_with_one_image_share_its_pulls_and_its_back_off() {
    let mut world = one(json!({
        "volumes": [{"name": "v", "image": {"reference": "img"}}],
        "containers": [
            {"name": "c", "image": "img"},
            {"name": "d", "image": "img"},
            {"name": "e", "image": "good", "volumeMounts": [{"name": "v", "mountPath": "/v"}]},
            {"name": "f", "image": "docker.io/library/img"},
        ],
    }));
    world.break_image("img", "not found");
    world.run_until(100);
    assert_eq!(pulls(&world, "img"), [0, 10, 30, 70]);
    assert_eq!(world.running(), ["f"], "another string is another key (IMG-71)");
}

#[test]
fn a_changed_image_starts_clean_at_once() {
    let mut world = private();
    world.run_until(700);
    let pod = std::sync::Arc::make_mut(&mut world.view.pod);
    pod.spec.containers[0].image = "other".into();
    world.run_until(701);
    assert_eq!(world.running(), ["c"]);
}

#[test]
fn a_bad_image_stops_its_own_container_only_and_an_init_container_all_later_ones() {
    let mut world = one(json!({"containers": [{"name": "bad", "image": "bad"}, {"name": "good", "image": "good"}]}));
    world.break_image("bad", "not found");
    world.run_until(30);
    assert_eq!(world.running(), ["good"]);
    assert_eq!(world.view.pod.status.phase, "Pending", "until every container has started once (IMG-59)");

    let mut world = one(json!({"initContainers": [{"name": "i", "image": "bad"}, {"name": "j", "image": "j"}]}));
    world.break_image("bad", "not found");
    world.run_until(30);
    assert!(world.running().is_empty());
    assert!(!world.trace.iter().any(|line| line.contains("CreateContainer")));
}

#[test]
fn the_image_of_a_volume_fails_only_who_mounts_it_in_its_own_words() {
    let mut world = one(json!({
        "volumes": [{"name": "v", "image": {"reference": "bad"}}, {"name": "unused", "image": {"reference": "bad2"}}],
        "containers": [
            {"name": "with", "image": "img", "volumeMounts": [{"name": "v", "mountPath": "/v"}]},
            {"name": "without", "image": "img"},
        ],
    }));
    world.break_image("bad", "not found");
    world.break_image("bad2", "not found");
    world.run_until(1);
    assert_eq!(world.running(), ["without"]);
    assert_eq!(world.waiting("with"), ("ErrImagePull".into(), "not found".into()));
    world.run_until(5);
    assert_eq!(world.waiting("with").0, "ImagePullBackOff");
    assert!(pulls(&world, "bad2").is_empty(), "nobody mounts it");
    check(
        &world,
        &[
            "0 E Failed Error: ErrImagePull",
            "2 E BackOff Back-off pulling image \"bad\"",
            "2 E Failed Error: ImagePullBackOff",
        ],
    );
    world.mend_image("bad");
    world.run_until(11);
    assert_eq!(world.running(), ["with", "without"]);
    assert_eq!(world.view.observed.checkpoint.volume_images["v"].id, "sha256:1");
}

#[test]
fn a_pull_under_way_says_how_far_it_is() {
    let mut world = one(json!({}));
    let flight = super::Key(super::Verb::EnsureImage, "c".into());
    let words = "Pulling image \"img\": 62% 41.3/66.1 MB".to_owned();
    world.view.observed.pulling.insert("img".into(), words.clone());
    let in_flight = super::InFlight::from([(flight, None)]);
    let plan = super::decide(&world.view, &in_flight, world.now);
    let waiting = plan.status.unwrap().container_statuses[0].state.waiting.clone().unwrap();
    assert_eq!((waiting.reason.as_str(), waiting.message), ("ContainerCreating", words));
}

#[test]
fn a_container_that_cannot_be_made_says_so_and_has_its_image_looked_at_with_each_try() {
    let mut world = one(json!({}));
    world.unmakeable.insert("c".into());
    for second in [1, 5, 9, 15, 25] {
        world.run_until(second);
        assert_eq!(world.waiting("c"), ("CreateContainerError".into(), "no".into()), "at {second}");
    }
    check(&world, &["0 C CreateContainer c 0", "10 C CreateContainer c 0", "20 C CreateContainer c 0"]);
    // The image went in between: the next try pulls it, or says why it cannot.
    world.break_image("img", "not found");
    world.run_until(31);
    assert_eq!(world.waiting("c"), ("ErrImagePull".into(), "not found".into()));
    world.mend_image("img");
    world.unmakeable.clear();
    world.run_until(41);
    assert_eq!(world.running(), ["c"]);
}
