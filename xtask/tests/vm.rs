//! The machine for tests, tested: it boots, runs a script, and tells how that ended.

use std::time::Duration;

use xtask::vm::image::Image;
use xtask::vm::power::Disk;
use xtask::vm::{Guest, Job, run};

const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn a_guest_runs_a_script_on_cgroup_v2_alone() {
    let image = Image::build("self", &[]).unwrap();
    let mut job =
        Job::new("cat /sys/fs/cgroup/cgroup.controllers; grep -c cgroup /proc/mounts; cat /etc/told; exit 7", LIMIT);
    job.files.push(("/etc/told".into(), b"by the host\n".to_vec()));
    let done = run(&image, &job).unwrap();
    let lines: Vec<&str> = done.text.lines().collect();
    assert!(lines[0].contains("memory") && lines[0].contains("cpu"), "{}", done.text);
    assert_eq!(lines[1..], ["1", "by the host"]);
    assert_eq!(done.code, 7);
}

#[test]
fn a_cut_loses_what_was_not_synced_and_keeps_what_was() {
    let image = Image::build("cut", &[]).unwrap();
    let disk = Disk::new(64);
    let script = "echo kept > /disk/kept; sync /disk/kept; sync; echo lost > /disk/lost; echo written; sleep 600";
    let mut guest = Guest::boot(&image, &Job { disk: Some(&disk), ..Job::new(script, LIMIT) }).unwrap();
    assert_eq!(guest.line().unwrap().as_deref(), Some("written"));
    guest.cut_power(1).unwrap();
    let again = Job { disk: Some(&disk), ..Job::new("cd /disk; cat kept; cat lost 2>/dev/null", LIMIT) };
    assert_eq!(run(&image, &again).unwrap().text, "kept\n");
}

#[test]
fn a_guest_that_takes_too_long_is_ended() {
    let image = Image::build("late", &[]).unwrap();
    let error = run(&image, &Job::new("echo begun; sleep 600", Duration::from_secs(15))).unwrap_err();
    assert!(format!("{error:#}").contains("time is over"), "{error:#}");
}
