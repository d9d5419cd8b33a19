//! A look at the machine's processes.

use std::collections::BTreeSet;
use std::fs;

/// Every process with its parent.
pub fn all() -> Vec<(u32, u32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parent = |pid: u32| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    pids.filter_map(|pid| Some((pid, parent(pid)?))).collect()
}

/// A process and all below it.
pub fn descendants(root: u32) -> BTreeSet<u32> {
    let all = all();
    let mut found = BTreeSet::from([root]);
    loop {
        let more: Vec<u32> =
            all.iter().filter(|(pid, parent)| found.contains(parent) && !found.contains(pid)).map(|it| it.0).collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

/// Its command line, words between spaces.
pub fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// Kilobytes of its memory; what it shares with others is divided among them. 0 if it has ended.
pub fn pss_kilobytes(pid: u32) -> f64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// Whether it runs: neither gone nor a zombie.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// How many threads it has.
pub fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, |entries| entries.count())
}
