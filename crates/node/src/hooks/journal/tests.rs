//! The journal on tokio's paused clock: bounds, age, crashes.

use super::*;
use crate::hooks::run::{Handler, Output};
use serde_json::json;
use std::os::unix::fs::PermissionsExt as _;

fn clock() -> Clock {
    Clock::virtual_from(Timestamp::from_second(1_700_000_000).unwrap())
}

fn pod(name: &str, uid: &str) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "ns", "uid": uid}})).unwrap()
}

fn begun(clock: Clock, id: &str) -> Begun {
    Begun {
        container: "c".into(),
        container_id: id.into(),
        restart: 0,
        hook: Moment::PreStop,
        handler: Handler::Exec,
        target: "true".into(),
        attempt: 0,
        started_at: clock.now(),
        grace_seconds_left: Some(30.0),
    }
}

fn ended(bytes: usize) -> Ended {
    let output = Output::of(&vec![b'x'; bytes], 0);
    Ended { exit_code: Some(7), stdout: Some(output), ..Ended::with(Outcome::Failed) }
}

fn open(directory: &Path, limits: Limits, living: &[&str], clock: Clock) -> Journal {
    let living = living.iter().map(|uid| (*uid).to_owned()).collect();
    Journal::open(directory, limits, &living, clock).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_run_is_on_disk_before_its_end_and_is_told_with_it() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), clock());
    let directory = directory.path().join("hooks");
    let journal = open(&directory, Limits::default(), &[], clock);
    let running = journal.begin(&pod("p", "u"), begun(clock, "id"), None);
    assert_eq!(journal.runs("ns", "p")[0].ended.result, Outcome::Running);
    // What another process would find now.
    let after_crash = open(&directory, Limits::default(), &["u"], clock).runs("ns", "p");
    assert_eq!((after_crash[0].ended.result, after_crash[0].begun.attempt), (Outcome::Interrupted, 1));
    tokio::time::advance(std::time::Duration::from_millis(1500)).await;
    running.end(Some(ended(3)));
    let run = serde_json::to_value(&journal.runs("ns", "p")[0]).unwrap();
    assert_eq!(
        run,
        json!({
            "podUID": "u", "container": "c", "containerID": "id", "restart": 0, "hook": "preStop", "handler": "exec",
            "target": "true", "attempt": 1, "startedAt": "2023-11-14T22:13:20Z", "graceSecondsLeft": 30.0,
            "result": "failed", "finishedAt": "2023-11-14T22:13:21.5Z", "exitCode": 7, "durationSeconds": 1.5,
            "stdout": {"head": "xxx", "bytes": 3, "omittedBytes": 0},
        })
    );
    let again = journal.begin(&pod("p", "u"), begun(clock, "id"), None);
    let other = journal.begin(&pod("p", "u"), begun(clock, "next"), None);
    let attempts: Vec<u32> = journal.runs("ns", "p").iter().map(|run| run.begun.attempt).collect();
    assert_eq!(attempts, [1, 2, 1]);
    for running in [again, other] {
        running.end(None);
    }
    let file = std::fs::metadata(directory.join("u.jsonl")).unwrap();
    let parent = std::fs::metadata(&directory).unwrap();
    assert_eq!((file.permissions().mode() & 0o777, parent.permissions().mode() & 0o077), (0o600, 0));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_nobody_waits_for_any_more_is_abandoned_or_was_out_of_grace() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), clock());
    let journal = open(directory.path(), Limits::default(), &[], clock);
    let deadline = clock.now() + SignedDuration::from_secs(30);
    journal.begin(&pod("p", "u"), begun(clock, "a"), Some(deadline)).end(None);
    let late = journal.begin(&pod("p", "u"), begun(clock, "b"), Some(deadline));
    tokio::time::advance(std::time::Duration::from_secs(30)).await;
    late.end(None);
    let results: Vec<Outcome> = journal.runs("ns", "p").iter().map(|run| run.ended.result).collect();
    assert_eq!(results, [Outcome::Abandoned, Outcome::GraceExceeded]);
}

#[tokio::test(start_paused = true)]
async fn what_a_pod_may_have_is_bounded_in_runs_and_in_bytes_and_the_newest_stay() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), clock());
    for (limits, bytes) in
        [(Limits { pod_runs: 8, ..Limits::default() }, 10), (Limits { pod_bytes: 64 << 10, ..Limits::default() }, 6144)]
    {
        let journal = open(directory.path(), limits, &[], clock);
        for nth in 0..100 {
            journal.begin(&pod("p", "u"), begun(clock, &format!("id-{nth}")), None).end(Some(ended(bytes)));
            let size = std::fs::metadata(directory.path().join("u.jsonl")).unwrap().len();
            assert!(size <= limits.pod_bytes && journal.runs("ns", "p").len() <= limits.pod_runs, "{nth}: {size}");
        }
        let runs = journal.runs("ns", "p");
        assert_eq!(runs.last().unwrap().begun.container_id, "id-99");
        assert!(runs.len() >= 6, "{}", runs.len());
        assert!(runs.iter().all(|run| run.ended.result == Outcome::Failed));
    }
}

#[tokio::test(start_paused = true)]
async fn of_too_many_pods_those_that_have_gone_are_forgotten_first() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), clock());
    let journal = open(directory.path(), Limits { pods: 3, ..Limits::default() }, &[], clock);
    let run =
        |name: &str| journal.begin(&pod(name, &format!("u-{name}")), begun(clock, "id"), None).end(Some(ended(1)));
    for name in ["a", "b", "c"] {
        run(name);
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
    }
    journal.gone("u-b");
    run("d");
    let there = |names: &[&str]| names.iter().map(|name| journal.runs("ns", name).len()).collect::<Vec<_>>();
    assert_eq!(there(&["a", "b", "c", "d"]), [1, 0, 1, 1]);
    run("e");
    assert_eq!(there(&["a", "b", "c", "d", "e"]), [0, 0, 1, 1, 1]);
    let small = open(directory.path(), Limits { bytes: 1000, ..Limits::default() }, &["u-c", "u-d", "u-e"], clock);
    small.begin(&pod("f", "u-f"), begun(clock, "id"), None).end(Some(ended(1)));
    assert_eq!(small.runs("ns", "f").len(), 1);
    let bytes: u64 = std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes <= 1000, "{bytes}");
}

#[tokio::test(start_paused = true)]
async fn the_runs_of_a_pod_outlive_it_for_the_time_that_is_set() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), clock());
    let limits = Limits { keep: SignedDuration::from_secs(60), ..Limits::default() };
    let journal = open(directory.path(), limits, &[], clock);
    journal.begin(&pod("p", "u"), begun(clock, "id"), None).end(Some(ended(1)));
    journal.begin(&pod("q", "v"), begun(clock, "id"), None).end(Some(ended(1)));
    journal.gone("u");
    tokio::time::advance(std::time::Duration::from_secs(59)).await;
    let again = open(directory.path(), limits, &["v"], clock);
    assert_eq!((journal.runs("ns", "p").len(), again.runs("ns", "p").len()), (1, 1));
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    assert_eq!((journal.runs("ns", "p").len(), again.runs("ns", "p").len()), (0, 0));
    assert_eq!((journal.runs("ns", "q").len(), again.runs("ns", "q").len()), (1, 1), "it lives");
    assert!(!directory.path().join("u.jsonl").exists());
}

#[tokio::test(start_paused = true)]
async fn a_line_that_was_cut_off_costs_nothing_but_itself() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), clock());
    let journal = open(directory.path(), Limits::default(), &[], clock);
    journal.begin(&pod("p", "u"), begun(clock, "a"), None).end(Some(ended(1)));
    journal.begin(&pod("p", "u"), begun(clock, "b"), None).end(Some(ended(1)));
    let path = directory.path().join("u.jsonl");
    let whole = std::fs::read(&path).unwrap();
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let again = open(directory.path(), Limits::default(), &["u"], clock);
        again.begin(&pod("p", "u"), begun(clock, "c"), None).end(Some(ended(2)));
        let runs = again.runs("ns", "p");
        let last = runs.last().map(|run| (run.begun.container_id.as_str(), run.ended.result));
        assert_eq!(last, Some(("c", Outcome::Failed)), "cut at {length}");
    }
}

#[tokio::test(start_paused = true)]
async fn which_delivery_a_run_is_is_known_without_reading_what_was_written() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), clock());
    let journal = open(directory.path(), Limits::default(), &[], clock);
    journal.begin(&pod("p", "u"), begun(clock, "a"), None).end(Some(ended(1)));
    std::fs::write(directory.path().join("u.jsonl"), "").unwrap();
    journal.begin(&pod("p", "u"), begun(clock, "a"), None).end(Some(ended(1)));
    assert_eq!(journal.runs("ns", "p").pop().unwrap().begun.attempt, 2);
    // What an earlier agent wrote counts, and so does what was shortened away.
    for _ in 0..2 {
        let journal = open(directory.path(), Limits { pod_runs: 4, ..Limits::default() }, &["v"], clock);
        for _ in 0..5 {
            journal.begin(&pod("q", "v"), begun(clock, "b"), None).end(Some(ended(1)));
        }
    }
    let last = open(directory.path(), Limits::default(), &["v"], clock).runs("ns", "q").pop().unwrap();
    assert_eq!(last.begun.attempt, 10);
}
