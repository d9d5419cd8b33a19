//! What the cgroups of this machine let pods have: of version 2 what can be passed down, of version 1 what is mounted.
//!
//! [`of_v2`] is pure. Nothing is written: what `up` would turn on is told from what the kernel shows.

use std::path::Path;

use super::{Finding, bad, good, less};

/// Where the hierarchies are mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// Without these, limits of pods are not kept.
const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];

/// Version 2 as this process sees its root.
#[derive(Debug, Default)]
struct V2 {
    /// Controllers that this root has.
    controllers: Vec<String>,
    /// Controllers that it passes to its children now.
    passed_down: Vec<String>,
    /// Whether it is the root of a cgroup namespace: there, a cgroup with processes cannot pass controllers down.
    is_nested: bool,
    /// Processes that are in the root itself.
    processes: usize,
    is_read_only: bool,
}

/// The finding for this machine.
pub(super) fn finding() -> Finding {
    if Path::new(ROOT).join("cgroup.controllers").exists() {
        return of_v2(&look());
    }
    let held: Vec<&str> = ["cpu", "memory", "pids", "cpuset"]
        .into_iter()
        .filter(|name| Path::new(ROOT).join(name).join("cgroup.procs").exists())
        .collect();
    match held.len() {
        0 => bad("cgroups", "no hierarchy is mounted below /sys/fs/cgroup"),
        4 => good("cgroups", format!("v1 with {}", held.join(", "))),
        _ => less("cgroups", format!("v1 with {} only: other limits have no effect", held.join(", "))),
    }
}

fn look() -> V2 {
    let read = |name: &str| std::fs::read_to_string(Path::new(ROOT).join(name)).unwrap_or_default();
    let words = |name: &str| read(name).split_whitespace().map(str::to_owned).collect();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    V2 {
        controllers: words("cgroup.controllers"),
        passed_down: words("cgroup.subtree_control"),
        // The machine's own root has no such file.
        is_nested: Path::new(ROOT).join("cgroup.type").exists(),
        processes: read("cgroup.procs").lines().count(),
        is_read_only: mounts.lines().any(is_read_only_root),
    }
}

/// A line of the mount table: source, place, kind, options.
fn is_read_only_root(line: &str) -> bool {
    let fields: Vec<&str> = line.split(' ').collect();
    matches!(fields[..], [_, ROOT, "cgroup2", options, ..] if options.split(',').any(|option| option == "ro"))
}

fn of_v2(seen: &V2) -> Finding {
    let absent: Vec<&str> = NEEDED.into_iter().filter(|name| !seen.controllers.iter().any(|c| c == name)).collect();
    let to_turn_on: Vec<&str> = NEEDED
        .into_iter()
        .filter(|name| !absent.contains(name) && !seen.passed_down.iter().any(|passed| passed == name))
        .collect();
    if seen.is_read_only {
        return bad("cgroups", "v2, mounted read-only: no pod can have a cgroup; mount it writable");
    }
    if !to_turn_on.is_empty() && seen.is_nested && seen.processes > 0 {
        let first = "mkdir /sys/fs/cgroup/init && for p in $(cat /sys/fs/cgroup/cgroup.procs); do echo $p > /sys/fs/cgroup/init/cgroup.procs; done";
        return bad(
            "cgroups",
            format!(
                "v2, but {} cannot be passed to pods while {} processes are in the root of this cgroup namespace; move them first: {first}",
                to_turn_on.join(", "),
                seen.processes
            ),
        );
    }
    let passing = match (seen.passed_down.as_slice(), to_turn_on.as_slice()) {
        ([], _) => "up turns them on for pods".to_owned(),
        (passed, []) => format!("passed to pods: {}", passed.join(", ")),
        (passed, more) => format!("passed to pods: {}; up turns on {}", passed.join(", "), more.join(", ")),
    };
    match absent.as_slice() {
        [] => good("cgroups", format!("v2 with {}; {passing}", seen.controllers.join(", "))),
        _ => bad(
            "cgroups",
            format!(
                "v2 without {}, so that pods cannot have such limits; {}",
                absent.join(", "),
                if seen.is_nested {
                    "this cgroup namespace was not given them"
                } else {
                    "the kernel's command line or a mounted v1 hierarchy keeps them"
                }
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Weight;
    use super::*;

    fn check(controllers: &str, passed_down: &str, nested: Option<usize>, weight: Weight, says: &str) {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        let seen = V2 {
            controllers: words(controllers),
            passed_down: words(passed_down),
            is_nested: nested.is_some(),
            processes: nested.unwrap_or(90),
            is_read_only: false,
        };
        let finding = of_v2(&seen);
        assert_eq!(finding.weight, weight, "{}", finding.seen);
        assert!(finding.seen.contains(says), "{}", finding.seen);
    }

    #[test]
    fn version_2_is_judged_by_what_pods_can_have() {
        let all = "cpuset cpu io memory pids";
        check(all, "memory pids", None, Weight::Good, "passed to pods: memory, pids; up turns on cpu");
        check(all, "cpu memory pids", None, Weight::Good, "passed to pods: cpu, memory, pids");
        check(all, "", None, Weight::Good, "up turns them on");
        check(
            "cpu io pids",
            "",
            None,
            Weight::Bad,
            "without memory, so that pods cannot have such limits; the kernel's",
        );
        check("memory pids", "", Some(0), Weight::Bad, "without cpu");
        check(all, "", Some(3), Weight::Bad, "cpu, memory, pids cannot be passed to pods while 3 processes");
        check(all, "cpu memory pids", Some(3), Weight::Good, "passed");
        check(all, "", Some(0), Weight::Good, "up turns them on");
    }

    #[test]
    fn a_read_only_mount_is_seen() {
        assert!(is_read_only_root("cgroup /sys/fs/cgroup cgroup2 ro,nosuid,relatime 0 0"));
        assert!(!is_read_only_root("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,errors=remount-ro 0 0"));
    }
}
