//! A container that writes without end: its log is rotated under it, and no line is lost (POD-66).

mod support;

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use support::{Lab, wait};

/// The files of the log, the oldest first.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    // What is being compressed is not there yet.
    files.retain(|path| path.extension().is_none_or(|extension| extension != "tmp"));
    // The log itself is the newest, and has the shortest name.
    files.sort_by_key(|path| (path.extension().is_some_and(|extension| extension == "log"), path.clone()));
    files
}

fn is_packed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gz")
}

/// The numbers that the container wrote into this file.
fn numbers(path: &Path) -> Vec<u64> {
    let mut text = String::new();
    let Ok(file) = fs::File::open(path) else { return Vec::new() };
    if is_packed(path) {
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    } else {
        (&file).read_to_string(&mut text).unwrap();
    }
    // The container goes on writing: what is behind the last line end is not a line yet.
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    whole.lines().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect()
}

#[test]
fn a_log_that_grows_is_rotated_without_a_lost_line() {
    let lab = Lab::new("log-rotation", 86);
    lab.up_with(&[
        "--container-log-max-size",
        "64Ki",
        "--container-log-max-files",
        "3",
        "--container-log-monitor-interval",
        "1s",
    ]);
    lab.right_secret();
    let image = lab.image();
    lab.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: talks}}\nspec:\n  imagePullSecrets: [{{name: regcred}}]\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - name: c\n    image: {image}\n    command: [sh, -c, 'n=0; while [ $n -lt 9000000 ]; do n=$((n+1)); echo number $n; [ $((n % 400)) = 0 ] && sleep 0.1; done']\n"
    ));
    let pod = lab.ready("talks");
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let directory = lab.data_dir().join(format!("log/pods/default_talks_{uid}/c"));

    wait("an older log is compressed", || files(&directory).iter().any(|path| is_packed(path)));
    wait("there is a newest one beside the one before it", || files(&directory).len() == 3);
    let all = loop {
        let names = files(&directory);
        let all: Vec<u64> = names.iter().flat_map(|path| numbers(path)).collect();
        // Nothing was renamed while it was read.
        if files(&directory) == names {
            break all;
        }
    };
    assert!(all.len() > 1000, "{all:?}");
    assert!(all.windows(2).all(|pair| pair[1] == pair[0] + 1), "a line was lost or came twice: {all:?}");
    lab.down(true);
}
