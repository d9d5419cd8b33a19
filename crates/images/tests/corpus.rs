//! Replays what the fuzz targets have found and begun with (`fuzz/corpus`), on the stable compiler.

use std::path::Path;

fn replay(target: &str, door: fn(&[u8])) {
    assert!(rustix::process::geteuid().is_root(), "unpacking sets owners and needs root");
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&directory).expect("every target has a corpus") {
        door(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count >= 5, "{target} has {count} files");
}

#[test]
fn the_corpus_of_names_holds() {
    replay("reference", images::fuzzing::reference);
}

#[test]
fn the_corpus_of_manifests_holds() {
    replay("manifest", images::fuzzing::manifest);
}

#[test]
fn the_corpus_of_layers_holds() {
    replay("tar", images::fuzzing::tar);
}

#[test]
fn the_corpus_of_hosts_files_holds() {
    replay("hosts", images::fuzzing::hosts);
}
