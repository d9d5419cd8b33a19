//! What a monitor costs. Prints figures; asserts none, because machines differ.
#![allow(clippy::disallowed_methods, reason = "a measurement starts processes and reads the clock")]

mod world;

use std::process::Command;
use std::time::{Duration, Instant};
use world::World;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn timed(work: impl FnOnce()) -> Duration {
    let clock = Instant::now();
    work();
    clock.elapsed()
}

#[test]
fn start_memory_and_exec() {
    let mut world = World::new("runc");
    let starts = (0..15).map(|number| {
        let directory = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(directory.path().join("s")).expect("directory");
        let cgroup = format!("{}/monitors", world.cgroup);
        let extra: &[&str] = if number % 2 == 0 { &["--cgroup", &cgroup] } else { &[] };
        let time = timed(|| assert!(world::start(directory.path(), extra).status.success()));
        let mut client = monitor::client::Client::connect(&directory.path().join("s")).expect("connect");
        let shutdown = monitor::wire::Request::Shutdown(monitor::wire::Shutdown { force: true });
        client.ask(&shutdown).expect("shutdown");
        (number % 2 == 0, time)
    });
    let (with, without): (Vec<_>, Vec<_>) = starts.partition(|(cgroup, _)| *cgroup);
    let times = |list: Vec<(bool, Duration)>| median(list.into_iter().map(|(_, time)| time).collect());
    eprintln!("start: {:?} with cgroup, {:?} without", times(with), times(without));
    world.run("c1", "sleep 1000");
    let root = world.path("oci");
    let bare = (0..15).map(|_| {
        timed(|| {
            let status = Command::new("runc").arg("--root").arg(&root).args(["exec", "c1", "true"]).status();
            assert!(status.expect("runc").success());
        })
    });
    let bare = median(bare.collect());
    let ours: Vec<Duration> =
        (0..15).map(|number| timed(|| assert_eq!(world.exec("c1", &format!("e{number}"), "true").0, 0))).collect();
    eprintln!("exec of true: {:?}, bare runc {bare:?}", median(ours));
    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", world.pid)).expect("smaps");
    for line in smaps.lines().filter(|line| ["Rss", "Pss:", "Anonymous"].iter().any(|it| line.starts_with(it))) {
        eprintln!("{line}");
    }
    world.shut_down();
}
