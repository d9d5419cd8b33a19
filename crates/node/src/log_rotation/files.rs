//! The files of a log: which are too large, and how a plan is carried out.
//!
//! Blocking; call it where blocking is allowed. Every step leaves files from which the next round can go on.

use super::plan::Plan;
use flate2::{Compression, write::GzEncoder};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The log of one attempt of a container, found by its size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Log {
    pub path: PathBuf,
    /// Of the pod's directory: what follows the last `_`.
    pub pod_uid: String,
    pub container: String,
    pub attempt: u32,
}

/// The logs below `<log_dir>/<pod>/<container>/` that are larger than so many bytes.
pub(super) fn too_large(log_dir: &Path, bytes_max: u64) -> Vec<Log> {
    let mut found = Vec::new();
    for pod in entries(log_dir) {
        let Some(uid) = name(&pod).and_then(|name| Some(name.rsplit_once('_')?.1.to_owned())) else { continue };
        for container in entries(&pod) {
            let Some(container_name) = name(&container) else { continue };
            for path in entries(&container) {
                let attempt = name(&path).and_then(|name| name.strip_suffix(".log")?.parse().ok());
                let (Some(attempt), Ok(metadata)) = (attempt, path.symlink_metadata()) else { continue };
                if metadata.is_file() && metadata.len() > bytes_max {
                    let (pod_uid, container) = (uid.clone(), container_name.clone());
                    found.push(Log { path, pod_uid, container, attempt });
                }
            }
        }
    }
    found
}

/// The names in a log's directory.
pub(super) fn siblings(log: &Path) -> Vec<String> {
    log.parent().map(entries).unwrap_or_default().iter().filter_map(|path| name(path)).collect()
}

/// Removes, compresses and renames; the log's new path. None if it was left where it is.
pub(super) fn carry_out(log: &Path, plan: &Plan) -> io::Result<Option<PathBuf>> {
    for name in &plan.remove {
        fs::remove_file(log.with_file_name(name))?;
    }
    for name in &plan.compress {
        compress(&log.with_file_name(name))?;
    }
    let Some(next) = plan.rename.as_ref().map(|name| log.with_file_name(name)) else { return Ok(None) };
    fs::rename(log, &next)?;
    Ok(Some(next))
}

/// Removes the log and everything that was rotated of it.
pub(super) fn remove(log: &Path) -> io::Result<()> {
    let own = name(log).unwrap_or_default();
    let is_of_log = |other: &String| *other == own || other.starts_with(&format!("{own}."));
    siblings(log).into_iter().filter(is_of_log).try_for_each(|name| fs::remove_file(log.with_file_name(name)))
}

/// Replaces a file by its compressed form, which is whole before it has its name.
fn compress(path: &Path) -> io::Result<()> {
    let with = |more: &str| PathBuf::from(format!("{}{more}", path.display()));
    let mut plain = fs::File::open(path)?;
    let mut packed = GzEncoder::new(fs::File::create(with(".gz.tmp"))?, Compression::default());
    io::copy(&mut plain, &mut packed)?;
    packed.finish()?;
    fs::rename(with(".gz.tmp"), with(".gz"))?;
    fs::remove_file(path)
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn name(path: &Path) -> Option<String> {
    path.file_name()?.to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn logs_are_found_by_their_size_and_say_whose_they_are() {
        let top = tempfile::tempdir().unwrap();
        let directory = top.path().join("ns_p_u-1").join("c");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("3.log"), [0; 11]).unwrap();
        fs::write(directory.join("2.log"), [0; 10]).unwrap();
        fs::write(directory.join("3.log.20260101-000000"), [0; 99]).unwrap();
        let path = directory.join("3.log");
        let wanted = Log { path, pod_uid: "u-1".into(), container: "c".into(), attempt: 3 };
        assert_eq!(too_large(top.path(), 10), [wanted]);
        assert!(too_large(&top.path().join("none"), 10).is_empty());
    }

    #[test]
    fn a_log_goes_with_its_older_ones_and_no_other() {
        let top = tempfile::tempdir().unwrap();
        for name in ["1.log", "1.log.T1.gz", "1.log.T2", "11.log"] {
            fs::write(top.path().join(name), "").unwrap();
        }
        remove(&top.path().join("1.log")).unwrap();
        assert_eq!(siblings(&top.path().join("1.log")), ["11.log"]);
    }

    #[test]
    fn a_plan_leaves_the_newest_plain_and_the_others_compressed() {
        let top = tempfile::tempdir().unwrap();
        let log = top.path().join("0.log");
        for (name, text) in [("0.log", "now"), ("0.log.T2", "before"), ("0.log.T1.gz", "old")] {
            fs::write(top.path().join(name), text).unwrap();
        }
        let plan = super::super::plan::plan("0.log", &siblings(&log), "T3", 3);
        assert_eq!(carry_out(&log, &plan).unwrap(), Some(top.path().join("0.log.T3")));
        let mut left = siblings(&log);
        left.sort();
        assert_eq!(left, ["0.log.T2.gz", "0.log.T3"]);
        let mut text = String::new();
        let packed = fs::File::open(top.path().join("0.log.T2.gz")).unwrap();
        flate2::read::GzDecoder::new(packed).read_to_string(&mut text).unwrap();
        assert_eq!(text, "before");
    }
}
