//! The doors through which the fuzz targets (`fuzz/`) and the replay of their corpus reach what reads untrusted bytes.
//!
//! Each takes any bytes and returns, or panics because something that must hold does not.

use crate::layer::{Feed, LayerJob, run};
use crate::manifest::{self, Packing};
use crate::registry::{parse_hosts_toml, parse_registries_yaml};
use reference::{Algorithm, Digest, Reference, apply_default_tag};
use std::path::Path;

/// Names: what parses has one normal form, and that is stable.
pub fn reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(parsed) = Reference::parse(text) else {
        assert!(apply_default_tag(text).is_err());
        return;
    };
    assert!(parsed.tag().is_some() || parsed.digest().is_some());
    assert_eq!(Reference::parse(&parsed.canonical()).as_ref(), Ok(&parsed));
    assert_eq!(Reference::parse(&parsed.familiar()).as_ref(), Ok(&parsed));
    let tagged = apply_default_tag(text).expect("a name that parses takes a tag");
    assert_eq!(Reference::parse(&tagged).as_ref(), Ok(&parsed));
}

/// Indexes, manifests and configs.
pub fn manifest(bytes: &[u8]) {
    for delivered in ["", "application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json"] {
        let _ = manifest::parse(delivered, bytes);
    }
    let _ = manifest::parse_config(bytes);
}

/// Layers: nothing outside of the layer's directory changes.
pub fn tar(bytes: &[u8]) {
    let Ok(directory) = scratch() else { return };
    let (target, outside) = (directory.join("root"), directory.join("outside"));
    let prepared = std::fs::create_dir(&target).and_then(|()| std::fs::create_dir(&outside));
    prepared
        .and_then(|()| std::fs::write(directory.join("layer"), bytes))
        .expect("the scratch directory can be written");
    std::fs::write(outside.join("file"), "untouched").expect("the scratch directory can be written");
    let file = std::fs::File::open(directory.join("layer")).expect("it was just written");
    let diff_id = Digest::from_hex(Algorithm::Sha256, &"0".repeat(64)).expect("64 digits");
    let job = LayerJob { digest: None, size: bytes.len() as u64, packing: Packing::Sniff, diff_id, target };
    let _ = run(&job, Feed::File(file), &|_| ());
    let names: Vec<_> = std::fs::read_dir(&outside).expect("nobody removes it").flatten().collect();
    assert_eq!(names.len(), 1, "something was made outside");
    assert_eq!(std::fs::read_to_string(outside.join("file")).expect("nobody removes it"), "untouched");
    let _ = std::fs::remove_dir_all(directory);
}

/// Files about hosts of registries.
pub fn hosts(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let lines = text.lines().count() + 1;
    if let Err(bad) = parse_hosts_toml(text, Path::new("/certs.d/registry")) {
        assert!(bad.line <= lines && !bad.detail.is_empty());
    }
    if let Err(bad) = parse_registries_yaml(text) {
        assert!(!bad.detail.is_empty());
    }
}

fn scratch() -> std::io::Result<std::path::PathBuf> {
    static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let directory = std::env::temp_dir().join(format!("sampan-fuzz-{}-{number}", std::process::id()));
    std::fs::create_dir(&directory)?;
    Ok(directory)
}
