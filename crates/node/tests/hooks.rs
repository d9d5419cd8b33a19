//! Hooks of a pod against the scripted runtime on virtual time: what is told, what is recorded, what annotations change.
//! Needs root, for cgroups.

mod bench;

use bench::{Bench, Told, pod};
use cri::fake::{ExecOutcome, Fake, Verb};
use jiff::{SignedDuration, Timestamp};
use node::{
    hooks::run::{Result as Ran, Run},
    image::queue::Limits,
    pod::{checkpoint::Verdict, clock::Clock, shell::Wish},
};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

const LIMIT: Duration = Duration::from_secs(60);

fn bench(fake: &Fake) -> Bench {
    let clock = Clock::virtual_from(Timestamp::from_second(1_700_000_000).unwrap());
    Bench::new(fake.client(), Limits::default(), clock)
}

/// A pod whose container has this hook, with annotations.
fn hooked(lifecycle: Value, annotations: Value, grace: i64) -> Value {
    let container =
        json!({"name": "c", "image": "registry.test/a:1", "imagePullPolicy": "IfNotPresent", "lifecycle": lifecycle});
    let mut whole = pod("p", json!({"terminationGracePeriodSeconds": grace, "containers": [container]}));
    whole["metadata"]["annotations"] = annotations;
    whole
}

fn exec() -> Value {
    json!({"exec": {"command": ["hook", "me"]}})
}

/// A runtime whose commands fail so often, saying a secret.
fn failing(times: u32) -> (Fake, Arc<AtomicU32>) {
    let (fake, calls) = (Fake::new(), Arc::new(AtomicU32::new(0)));
    let counted = calls.clone();
    fake.on_exec(move |_| {
        let exit_code = if counted.fetch_add(1, Ordering::SeqCst) < times { 7 } else { 0 };
        let stdout = [vec![b'a'; 5000], vec![b'z'; 5000]].concat();
        ExecOutcome { exit_code, stdout, stderr: b"SECRET".to_vec(), takes: Duration::from_millis(1200) }
    });
    (fake, calls)
}

async fn event(bench: &Bench, reason: &str) -> Told {
    let mut events = bench.api.events.subscribe();
    let wait = events.wait_for(|events| events.iter().any(|told| told.reason == reason));
    let Ok(seen) = tokio::time::timeout(LIMIT, wait).await else {
        panic!("no {reason}: {:#?}", bench.api.events.borrow())
    };
    seen.unwrap().iter().find(|told| told.reason == reason).unwrap().clone()
}

fn runs(bench: &Bench) -> Vec<Run> {
    bench.actor.hooks.journal.runs("ns", "p")
}

async fn running(bench: &Bench) {
    bench.until("p", LIMIT, |status| status["containerStatuses"][0]["state"]["running"].is_object()).await;
}

fn deleted(bench: &Bench, wishes: &watch::Sender<Wish>, grace: i64) {
    wishes.send_modify(|wish| {
        let mut pod = (*wish.pod).clone();
        let at = bench.clock.now() + SignedDuration::from_secs(grace);
        pod.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())).unwrap());
        pod.metadata.deletion_grace_period_seconds = Some(grace);
        pod.metadata.resource_version = Some("9".into());
        wish.pod = Arc::new(pod);
    });
}

#[tokio::test(start_paused = true)]
async fn a_failed_hook_is_told_by_code_and_duration_and_what_it_said_is_in_the_journal_alone() {
    let (fake, _) = failing(1);
    let mut bench = bench(&fake);
    let _wishes = bench.begin(hooked(json!({"postStart": exec()}), json!({}), 1));
    let told = event(&bench, "FailedPostStartHook").await;
    assert!(told.message.starts_with("PostStartHook failed (exit code 7 after 1.2s"), "{told:?}");
    assert_eq!(told.field_path, "spec.containers{c}");
    event(&bench, "Killing").await;
    assert!(bench.api.events.borrow().iter().all(|told| !told.message.contains("SECRET")));
    let run = runs(&bench).remove(0);
    assert_eq!((run.ended.result, run.ended.exit_code, run.begun.target.as_str()), (Ran::Failed, Some(7), "hook me"));
    assert_eq!((run.ended.reason.as_str(), run.begun.grace_seconds_left), ("exit code 7", None));
    assert!(run.duration_seconds.unwrap() >= 1.2);
    let stdout = run.ended.stdout.unwrap();
    assert_eq!((stdout.head, stdout.tail), ("a".repeat(4096), "z".repeat(2048)));
    assert_eq!((stdout.bytes, stdout.omitted_bytes, run.ended.stderr.unwrap().head.as_str()), (10_000, 3856, "SECRET"));
    let numbers = bench.actor.hooks.metrics.render();
    let count = "sampan_hook_duration_seconds_count{hook=\"postStart\",handler=\"exec\",result=\"failed\"} 1";
    assert!(numbers.contains(count), "{numbers}");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn retries_repeat_a_hook_until_it_goes_well_and_each_attempt_is_recorded() {
    let (fake, calls) = failing(2);
    let mut bench = bench(&fake);
    let annotations = json!({"sampan.dev/post-start-retries.c": "3"});
    let _wishes = bench.begin(hooked(json!({"postStart": exec()}), annotations, 1));
    running(&bench).await;
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    let told: Vec<_> = runs(&bench).iter().map(|run| (run.begun.attempt, run.ended.result)).collect();
    assert_eq!(told, [(1, Ran::Failed), (2, Ran::Failed), (3, Ran::Succeeded)]);
    assert!(bench.api.events.borrow().iter().all(|told| told.reason != "FailedPostStartHook"));
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_post_start_that_may_fail_leaves_its_container_running() {
    let (fake, calls) = failing(u32::MAX);
    let mut bench = bench(&fake);
    let annotations = json!({"sampan.dev/post-start-on-failure": "ignore", "sampan.dev/post-start-retries": "1", "sampan.dev/post-start-timeout": "soon"});
    let _wishes = bench.begin(hooked(json!({"postStart": exec()}), annotations, 1));
    running(&bench).await;
    let told = event(&bench, "FailedPostStartHook").await.message;
    assert!(
        told.starts_with("PostStartHook failed (exit code 7 after ")
            && told.ends_with(", 2 attempts); the container runs on"),
        "{told}"
    );
    let told = event(&bench, "InvalidHookAnnotation").await.message;
    assert_eq!(told, "sampan.dev/post-start-timeout: \"soon\" is no time-out such as 30s or 1m30s; it has no effect");
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    bench.end().await;
}

/// Has the node's checkpoints fail to be written, or lets them be written again.
fn set_writable(bench: &Bench, is_writable: bool) {
    let place = bench.directory().join("node");
    if is_writable {
        std::fs::remove_file(&place).unwrap();
        std::fs::create_dir(&place).unwrap();
    } else {
        std::fs::remove_dir_all(&place).unwrap();
        std::fs::write(&place, "no directory").unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn hook_63_a_hook_that_cannot_be_written_down_does_not_begin_before_it_can() {
    let (fake, calls) = failing(0);
    let mut bench = bench(&fake);
    set_writable(&bench, false);
    let wishes = bench.begin(hooked(json!({"postStart": exec(), "preStop": exec()}), json!({}), 600));
    fake.until(|fake| !fake.calls_of(Verb::CreateContainer).is_empty()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(fake.calls_of(Verb::StartContainer).is_empty());
    set_writable(&bench, true);
    running(&bench).await;
    assert_eq!(calls.load(Ordering::SeqCst), 1);

    set_writable(&bench, false);
    deleted(&bench, &wishes, 600);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((calls.load(Ordering::SeqCst), fake.calls_of(Verb::StopContainer).len()), (1, 0));
    set_writable(&bench, true);
    fake.until(|fake| !fake.calls_of(Verb::StopContainer).is_empty()).await;
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_verdict_that_cannot_be_written_down_ends_nobody_before_it_can() {
    let (fake, _) = failing(0);
    let mut bench = bench(&fake);
    let wishes = bench.begin(hooked(json!({}), json!({}), 1));
    running(&bench).await;
    set_writable(&bench, false);
    let (reason, message, at) = ("Evicted".into(), "m".into(), bench.clock.now());
    let verdict = Verdict { reason, message, at, grace_seconds: 1, is_disruption: true };
    wishes.send_modify(|wish| wish.verdict = Some(verdict));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(fake.calls_of(Verb::StopContainer).is_empty());
    set_writable(&bench, true);
    let status = bench.until("p", LIMIT, |status| status["phase"] == "Failed").await;
    assert_eq!(status["reason"], "Evicted");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_time_out_ends_a_hook_that_hangs() {
    let fake = Fake::new();
    fake.on_exec(|_| ExecOutcome { takes: Duration::from_secs(3600), ..ExecOutcome::default() });
    let mut bench = bench(&fake);
    let _wishes = bench.begin(hooked(json!({"postStart": exec()}), json!({"sampan.dev/post-start-timeout": "1s"}), 1));
    let told = event(&bench, "FailedPostStartHook").await.message;
    assert!(told.starts_with("PostStartHook failed (timed out after 1s after 1s"), "{told}");
    assert_eq!(runs(&bench)[0].ended.result, Ran::TimedOut);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pre_stop_that_outlives_the_grace_is_recorded_as_such_and_stays_after_the_pod() {
    let fake = Fake::new();
    let mut bench = bench(&fake);
    let wishes = bench.begin(hooked(json!({"preStop": {"sleep": {"seconds": 3600}}}), json!({}), 3600));
    running(&bench).await;
    deleted(&bench, &wishes, 2);
    let told = event(&bench, "FailedPreStopHook").await.message;
    assert_eq!(told, "PreStopHook not completed in grace period");
    // The API lets it go.
    wishes.send_modify(|wish| wish.removed = true);
    tokio::time::timeout(LIMIT, wishes.closed()).await.expect("the pod goes");
    let run = runs(&bench).remove(0);
    assert_eq!((run.ended.result, run.begun.target.as_str()), (Ran::GraceExceeded, "3600s"));
    assert!((1.0..=2.0).contains(&run.begun.grace_seconds_left.unwrap()), "{run:?}");
    bench.end().await;
}
