//! What the tests of this room share: images made by hand and a scripted registry.

#![allow(dead_code)] // Reason: each test program uses its own part.

pub mod double;
pub mod tls;

use flate2::Compression;
use flate2::write::GzEncoder;
use reference::Digest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::io::Write;

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Bytes that do not compress, the same on each run.
pub fn noise(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..count.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(count).collect()
}

/// A tar archive of plain files.
pub fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_000_000_000);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

pub struct Layer {
    pub diff_id: String,
    pub blob: Vec<u8>,
    pub media_type: String,
}

impl Layer {
    pub fn gzip(tar: &[u8]) -> Layer {
        let media_type = "application/vnd.oci.image.layer.v1.tar+gzip".to_owned();
        Layer { diff_id: digest(tar), blob: gzip(tar), media_type }
    }

    pub fn digest(&self) -> Digest {
        Digest::parse(&digest(&self.blob)).unwrap()
    }
}

/// An image as documents.
pub struct Made {
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
    pub layers: Vec<Layer>,
}

impl Made {
    pub fn new(layers: Vec<Layer>) -> Made {
        Made::for_platform(layers, "amd64")
    }

    pub fn for_platform(layers: Vec<Layer>, architecture: &str) -> Made {
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let config = json!({
            "os": "linux", "architecture": architecture,
            "config": { "Env": ["A=b"], "Cmd": ["/bin/sh"], "User": "7" },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = config.to_string().into_bytes();
        let list: Vec<Value> = layers
            .iter()
            .map(|layer| json!({ "mediaType": layer.media_type, "digest": digest(&layer.blob), "size": layer.blob.len() }))
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len() },
            "layers": list,
        });
        Made { config, manifest: manifest.to_string().into_bytes(), layers }
    }
}
