//! From the store into an archive that this program, podman, skopeo and Docker read: an OCI layout in a tar, with
//! Docker's `manifest.json` beside it.
//!
//! The store keeps layers unpacked, so they are packed anew: what is in them is the same, the bytes of the tar need not
//! be, and with them change the digests of layers, config and manifest.

use super::ArchiveError;
use super::packing::pack;
use crate::hash::{Hasher, digest_of};
use crate::images::Core;
use crate::store::Image;
use reference::{Algorithm, Digest, Reference};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;
use tar::{Builder, EntryType, Header};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Writes images as an archive. Blocking. Each comes with the name by which it was asked for, or with all its tags if
/// that was its id.
pub(crate) fn export(core: &Arc<Core>, images: &[(String, Arc<Image>)], to: impl Write) -> Result<(), ArchiveError> {
    let aside = core.store.begin_spool().map_err(ArchiveError::io("making room for an archive"))?;
    let mut exporter = Exporter { core, builder: Builder::new(to), packed: BTreeMap::new() };
    let (mut entries, mut docker) = (Vec::new(), Vec::new());
    for (asked, image) in images {
        let (descriptor, saved) = exporter.image(image, aside.path())?;
        let names = names(asked, image);
        docker.push(json!({ "Config": saved.config, "RepoTags": names, "Layers": saved.layers }));
        if names.is_empty() {
            entries.push(descriptor.clone());
        }
        for name in names {
            let tag = name.rsplit_once(':').map_or("", |(_, tag)| tag);
            let mut entry = descriptor.clone();
            entry["annotations"] =
                json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag });
            entries.push(entry);
        }
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
    exporter.file("index.json", index.to_string().as_bytes())?;
    exporter.file("manifest.json", Value::Array(docker).to_string().as_bytes())?;
    exporter.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let finished = exporter.builder.into_inner().and_then(|mut to| to.flush());
    finished.map_err(ArchiveError::io("writing the archive"))
}

/// Files of an image in the archive.
struct Saved {
    config: String,
    layers: Vec<String>,
}

/// The names that go with an image.
fn names(asked: &str, image: &Image) -> Vec<String> {
    let asked = Reference::parse(asked).map(|reference| reference.stored().canonical());
    match asked {
        Ok(name) if image.tags.contains(&name) => vec![name],
        _ => image.tags.clone(),
    }
}

struct Exporter<'a, W: Write> {
    core: &'a Arc<Core>,
    builder: Builder<W>,
    /// Layers that are written already: their new digest and size.
    packed: BTreeMap<Digest, (Digest, u64)>,
}

impl<W: Write> Exporter<'_, W> {
    fn image(&mut self, image: &Image, aside: &Path) -> Result<(Value, Saved), ArchiveError> {
        let mut layers = Vec::new();
        for diff_id in &image.layers {
            layers.push(self.layer(diff_id, aside)?);
        }
        let id = Digest::parse(&image.id).expect("the store loads images with digests as ids only");
        let config = self.core.store.read_blob(&id).map_err(ArchiveError::io("reading a config"))?;
        let mut config: Value =
            serde_json::from_slice(&config).map_err(|error| ArchiveError::invalid(format!("{id}: {error}")))?;
        config["rootfs"] =
            json!({ "type": "layers", "diff_ids": layers.iter().map(|(d, _)| d.as_str()).collect::<Vec<_>>() });
        let config = self.blob(config.to_string().as_bytes())?;
        let describe = |kind: &str, (digest, size): &(Digest, u64)| json!({ "mediaType": kind, "digest": digest.as_str(), "size": size });
        let list: Vec<Value> = layers.iter().map(|layer| describe(LAYER, layer)).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": describe(CONFIG, &config), "layers": list,
        });
        let manifest = self.blob(manifest.to_string().as_bytes())?;
        let saved = Saved {
            config: blob_name(&config.0),
            layers: layers.iter().map(|(digest, _)| blob_name(digest)).collect(),
        };
        Ok((describe(MANIFEST, &manifest), saved))
    }

    /// Packs a layer aside, because its name in the archive is its digest, then writes it.
    fn layer(&mut self, diff_id: &Digest, aside: &Path) -> Result<(Digest, u64), ArchiveError> {
        if let Some(known) = self.packed.get(diff_id) {
            return Ok(known.clone());
        }
        let path = aside.join(diff_id.hex());
        let packing = || ArchiveError::io(format!("packing layer {diff_id}"));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).map_err(packing())?;
        let mut hashing = Hashing { to: BufWriter::new(file), hasher: Hasher::new(Algorithm::Sha256), bytes: 0 };
        pack(&self.core.store.layer_files(diff_id), &mut hashing).map_err(packing())?;
        let Hashing { to, hasher, bytes } = hashing;
        let mut file = to.into_inner().map_err(|error| packing()(error.into_error()))?;
        file.rewind().map_err(packing())?;
        let digest = hasher.finish();
        self.append(&blob_name(&digest), bytes, file)?;
        std::fs::remove_file(path).map_err(packing())?;
        self.packed.insert(diff_id.clone(), (digest.clone(), bytes));
        Ok((digest, bytes))
    }

    fn blob(&mut self, bytes: &[u8]) -> Result<(Digest, u64), ArchiveError> {
        let digest = digest_of(Algorithm::Sha256, bytes);
        self.file(&blob_name(&digest), bytes)?;
        Ok((digest, bytes.len() as u64))
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.append(name, bytes.len() as u64, bytes)
    }

    fn append(&mut self, name: &str, size: u64, from: impl Read) -> Result<(), ArchiveError> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_size(size);
        let written = self.builder.append_data(&mut header, name, from);
        written.map_err(ArchiveError::io("writing the archive"))
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// Hashes and counts what is written.
struct Hashing<W> {
    to: W,
    hasher: Hasher,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
