//! The end of a process with everything that it has started.
//!
//! Owns the look into `/proc` for it; decides nothing. Start with [`kill`].

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};
use std::collections::BTreeSet;
use std::fs;

/// Looks until nothing new is found; a tree that grows faster than this is killed as far as it was seen.
const ROUNDS_MAX: usize = 8;

/// Kills a process that nobody has reaped yet, its process group if it leads one, and every descendant, also those in
/// sessions and groups of their own. They are stopped first, so that none can start another one meanwhile.
pub fn kill(root: u32) {
    let mut tree = BTreeSet::from([root]);
    send(root, Signal::STOP);
    for _ in 0..ROUNDS_MAX {
        let found = descendants(&tree);
        if found.is_subset(&tree) {
            break;
        }
        for pid in found.difference(&tree) {
            send(*pid, Signal::STOP);
        }
        tree.extend(found);
    }
    kill_group(root);
    for pid in tree {
        send(pid, Signal::KILL);
    }
}

/// Kills what is left of a process group, whose leader nobody has reaped yet.
pub fn kill_group(leader: u32) {
    if let Some(group) = pid_of(leader) {
        // No such group: its leader leads none, or all have ended.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Whether a child that has ended, and that nobody has reaped yet, ended with 0. It stays to be reaped.
pub fn ended_well(child: u32) -> bool {
    let Some(child) = pid_of(child) else { return false };
    let peek = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(child), peek).is_ok_and(|end| end.is_some_and(|end| end.exit_status() == Some(0)))
}

fn pid_of(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = pid_of(pid) {
        // It may have ended meanwhile.
        let _ = kill_process(pid, signal);
    }
}

/// Children of the tree's processes, theirs too.
fn descendants(tree: &BTreeSet<u32>) -> BTreeSet<u32> {
    let all = processes();
    let mut found = tree.clone();
    loop {
        let more: Vec<u32> =
            all.iter().filter(|(pid, parent)| found.contains(parent) && !found.contains(pid)).map(|it| it.0).collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

/// Every process of this PID namespace, with its parent.
pub fn processes() -> Vec<(u32, u32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| Some((pid, parent(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?))).collect()
}

/// The parent in a line of `/proc/<pid>/stat`, whose second field may hold anything.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests start processes")]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    #[test]
    fn the_parent_is_found_whatever_a_process_calls_itself() {
        assert_eq!(parent("12 (a) b (c) S 7 12 12 0 -1"), Some(7));
        assert_eq!(parent("12 (a"), None);
    }

    #[test]
    fn a_tree_ends_with_those_that_left_its_session() {
        let mut root = Command::new("sh")
            .args(["-c", "sleep 1000 & echo $!; setsid sh -c 'sleep 1000 & echo $!; wait' & wait"])
            .process_group(0)
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh");
        let mut words = BufReader::new(root.stdout.take().expect("piped"));
        for _ in 0..2 {
            let mut line = String::new();
            words.read_line(&mut line).expect("a pid");
        }
        kill(root.id());
        assert!(!root.wait().expect("waited").success());
        // All who could write have ended, else this would wait for ever.
        assert_eq!(words.read_line(&mut String::new()).expect("the end"), 0);
    }
}
