//! From an archive into the store (IMG-230, IMG-231).
//!
//! An image becomes visible when every byte of it is verified and unpacked, as after a pull. An OCI layout is taken by
//! the names in its annotations and with the digests of its manifests; Docker's archive has names, but no digests.

use super::shelf::Shelf;
use super::{ArchiveError, ImportOptions, ImportSource};
use crate::hash::digest_of;
use crate::images::Core;
use crate::layer::{self, Feed, LayerJob};
use crate::machine;
use crate::manifest::{self, DOCUMENT_BYTES_MAX, Descriptor, Document, Packing, Refusal};
use crate::pull::{Pins, check_runs_here, choose};
use crate::store::{Image, LayerRecord, NewImage};
use reference::{Algorithm, Digest, Reference};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

const NAME_KEYS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// Imports every image of an archive. Blocking; must run where tokio's runtime is known.
pub(crate) fn import(
    core: &Arc<Core>,
    source: ImportSource,
    options: &ImportOptions,
) -> Result<Vec<Arc<Image>>, ArchiveError> {
    let aside = core.store.begin_spool().map_err(ArchiveError::io("making room for an archive"))?;
    let shelf = match source {
        ImportSource::Path(path) if path.is_dir() => Shelf::of_directory(&path),
        ImportSource::Path(path) => {
            let file = std::fs::File::open(&path).map_err(ArchiveError::io(format!("opening {}", path.display())))?;
            Shelf::of_stream(file, aside.path())?
        }
        ImportSource::Stream(stream) => Shelf::of_stream(stream, aside.path())?,
    };
    let importer = Importer { core, shelf, options };
    let found = if importer.shelf.has("index.json") { importer.layout()? } else { importer.docker()? };
    if found.is_empty() {
        return Err(ArchiveError::invalid("the archive holds no image"));
    }
    let imported = found.into_iter().map(|found| importer.take(found)).collect();
    crate::pull::flush(core);
    imported
}

/// A layer of an archive.
struct FoundLayer {
    file: String,
    digest: Option<Digest>,
    /// What the manifest promises; the file's own length if nothing is promised.
    size: Option<u64>,
    packing: Packing,
}

/// An image of an archive.
struct Found {
    names: Vec<Reference>,
    /// Of the manifest or index, if there is one.
    root: Option<Digest>,
    config: Vec<u8>,
    config_digest: Digest,
    layers: Vec<FoundLayer>,
    documents: Vec<(Digest, Vec<u8>)>,
}

#[derive(Deserialize)]
struct LayoutIndex {
    #[serde(default)]
    manifests: Vec<LayoutEntry>,
}

#[derive(Deserialize)]
struct LayoutEntry {
    digest: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

struct Importer<'a> {
    core: &'a Arc<Core>,
    shelf: Shelf,
    options: &'a ImportOptions,
}

impl Importer<'_> {
    /// The images of an OCI layout.
    fn layout(&self) -> Result<Vec<Found>, ArchiveError> {
        let index = self.shelf.read("index.json", DOCUMENT_BYTES_MAX)?;
        let named: LayoutIndex = parse("index.json", &index)?;
        let tags = self.docker_tags()?;
        let mut found = Vec::new();
        for entry in named.manifests {
            let root =
                Digest::parse(&entry.digest).map_err(|error| ArchiveError::invalid(format!("index.json: {error}")))?;
            let given = NAME_KEYS.iter().find_map(|key| entry.annotations.get(*key));
            let mut image = self.manifest(root)?;
            image.names = self.names(given.into_iter())?;
            if image.names.is_empty() {
                image.names = self.names(tags.get(image.config_digest.hex()).into_iter().flatten())?;
            }
            found.push(image);
        }
        Ok(found)
    }

    /// Docker's names for configs, where an archive is both.
    fn docker_tags(&self) -> Result<BTreeMap<String, Vec<String>>, ArchiveError> {
        if !self.shelf.has("manifest.json") {
            return Ok(BTreeMap::new());
        }
        let entries: Vec<DockerEntry> = parse("manifest.json", &self.shelf.read("manifest.json", DOCUMENT_BYTES_MAX)?)?;
        let hex = |config: &str| config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json").to_owned();
        Ok(entries.into_iter().map(|entry| (hex(&entry.config), entry.repo_tags.unwrap_or_default())).collect())
    }

    /// Follows a document of a layout to this node's manifest.
    fn manifest(&self, root: Digest) -> Result<Found, ArchiveError> {
        let (mut digest, mut documents, mut platform_known) = (root.clone(), Vec::new(), false);
        for _ in 0..=manifest::INDEX_DEPTH_MAX {
            let body = self.blob(&digest)?;
            let document = manifest::parse("", &body).map_err(|refusal| refused(&digest, refusal))?;
            documents.push((digest.clone(), body));
            match document {
                Document::Index(entries) => {
                    let chosen = choose(&self.core.options.platform, &digest, entries)?;
                    platform_known = chosen.platform.is_some();
                    digest = chosen.digest;
                }
                Document::Manifest { config, layers } => {
                    return self.finish_manifest((root, *config, layers), documents, platform_known);
                }
            }
        }
        Err(ArchiveError::invalid("indexes are nested too deeply"))
    }

    fn finish_manifest(
        &self,
        (root, config, layers): (Digest, Descriptor, Vec<Descriptor>),
        mut documents: Vec<(Digest, Vec<u8>)>,
        platform_known: bool,
    ) -> Result<Found, ArchiveError> {
        let bytes = self.blob(&config.digest)?;
        if !platform_known {
            self.check_platform(&bytes)?;
        }
        documents.push((config.digest.clone(), bytes.clone()));
        let layer = |layer: Descriptor| {
            let packing = manifest::packing(&layer.media_type).ok_or_else(|| {
                ArchiveError::invalid(format!("{}: unrecognised mediatype {:?}", layer.digest, layer.media_type))
            })?;
            Ok(FoundLayer {
                file: blob_name(&layer.digest),
                digest: Some(layer.digest),
                size: Some(layer.size),
                packing,
            })
        };
        let layers = layers.into_iter().map(layer).collect::<Result<_, ArchiveError>>()?;
        Ok(Found {
            names: Vec::new(),
            root: Some(root),
            config: bytes,
            config_digest: config.digest,
            layers,
            documents,
        })
    }

    /// The images of Docker's archive.
    fn docker(&self) -> Result<Vec<Found>, ArchiveError> {
        if !self.shelf.has("manifest.json") {
            return Err(ArchiveError::invalid(
                "neither an OCI layout (index.json) nor Docker's archive (manifest.json)",
            ));
        }
        let entries: Vec<DockerEntry> = parse("manifest.json", &self.shelf.read("manifest.json", DOCUMENT_BYTES_MAX)?)?;
        let image = |entry: DockerEntry| {
            let config = self.shelf.read(&entry.config, DOCUMENT_BYTES_MAX)?;
            self.check_platform(&config)?;
            let config_digest = digest_of(Algorithm::Sha256, &config);
            let layers = entry.layers.unwrap_or_default().into_iter();
            Ok(Found {
                names: self.names(entry.repo_tags.iter().flatten())?,
                root: None,
                documents: vec![(config_digest.clone(), config.clone())],
                config,
                config_digest,
                layers: layers
                    .map(|file| FoundLayer { file, digest: None, size: None, packing: Packing::Sniff })
                    .collect(),
            })
        };
        entries.into_iter().map(image).collect()
    }

    /// The names of an image: those that are whole, and bare tags after the name that the caller gives.
    fn names<'b>(&self, given: impl Iterator<Item = &'b String>) -> Result<Vec<Reference>, ArchiveError> {
        let given: Vec<&String> = given.collect();
        let is_bare = |text: &str| !text.contains(['/', ':', '@']);
        let texts: Vec<String> = match &self.options.name {
            Some(name) if given.is_empty() => vec![name.clone()],
            Some(name) => given.iter().map(|t| if is_bare(t) { format!("{name}:{t}") } else { (*t).clone() }).collect(),
            None => given.into_iter().filter(|text| !is_bare(text)).cloned().collect(),
        };
        let parse = |text: String| {
            let parsed = Reference::parse(&text).map(|reference| reference.stored());
            parsed.map_err(|error| ArchiveError::invalid(format!("name {text:?} in the archive: {error}")))
        };
        texts.into_iter().map(parse).collect()
    }

    fn check_platform(&self, config: &[u8]) -> Result<(), ArchiveError> {
        let parsed = manifest::parse_config(config).map_err(ArchiveError::Invalid)?;
        Ok(check_runs_here(&self.core.options.platform, &parsed)?)
    }

    fn blob(&self, digest: &Digest) -> Result<Vec<u8>, ArchiveError> {
        let bytes = self.shelf.read(&blob_name(digest), DOCUMENT_BYTES_MAX)?;
        let actual = digest_of(digest.algorithm(), &bytes);
        if actual != *digest {
            return Err(crate::error::PullError::DigestMismatch { expected: digest.clone(), actual }.into());
        }
        Ok(bytes)
    }

    /// Unpacks and records one image.
    fn take(&self, found: Found) -> Result<Arc<Image>, ArchiveError> {
        let config = manifest::parse_config(&found.config).map_err(ArchiveError::Invalid)?;
        if config.diff_ids.len() != found.layers.len() {
            let (layers, diff_ids) = (found.layers.len(), config.diff_ids.len());
            return Err(crate::error::PullError::LayerCount { layers, diff_ids }.into());
        }
        let _pins = Pins::new(self.core, config.diff_ids.clone());
        for (layer, diff_id) in found.layers.iter().zip(&config.diff_ids) {
            self.unpack(layer, diff_id)?;
        }
        let names = if found.names.is_empty() { vec![None] } else { found.names.into_iter().map(Some).collect() };
        let mut image = None;
        for name in names {
            let tag = name.as_ref().filter(|name| name.digest().is_none()).map(Reference::canonical);
            let digest = name.zip(found.root.clone()).map(|(name, root)| name.with_digest(root).canonical());
            let new = NewImage {
                id: found.config_digest.clone(),
                config: found.config.clone(),
                tag,
                digest,
                layers: config.diff_ids.clone(),
                blobs: found.documents.iter().map(|(digest, _)| digest.clone()).collect(),
                pulled_at: machine::now(),
                pinned: self.options.pinned,
            };
            image = Some(self.core.store.commit_image(&new, &found.documents)?);
        }
        Ok(image.expect("there is at least one round"))
    }

    fn unpack(&self, found: &FoundLayer, diff_id: &Digest) -> Result<(), ArchiveError> {
        let (core, store) = (self.core, &self.core.store);
        let runtime = tokio::runtime::Handle::current();
        let _lock = runtime.block_on(core.layer_locks.lock(&format!("diff {diff_id}")));
        if store.has_layer(diff_id) {
            return Ok(());
        }
        let (file, length) = self.shelf.open(&found.file)?;
        let named = found.digest.as_ref().unwrap_or(diff_id);
        if let Some(expected) = found.size.filter(|expected| *expected != length) {
            let (digest, received) = (named.clone(), length);
            return Err(crate::error::PullError::SizeMismatch { digest, received, expected }.into());
        }
        let fresh = store.begin_layer().map_err(ArchiveError::io("making a layer's directory"))?;
        let job = LayerJob {
            digest: found.digest.clone(),
            size: length,
            packing: found.packing,
            diff_id: diff_id.clone(),
            target: fresh.files(),
        };
        let unpacked = layer::run(&job, Feed::File(file), &|_| ());
        let unpacked = unpacked.map_err(|failure| failure.into_pull(named, length, diff_id))?;
        let (bytes, inodes) = (unpacked.bytes, unpacked.inodes);
        let record = LayerRecord { diff_id: diff_id.clone(), bytes, inodes, boot: String::new(), durable: false };
        store.commit_layer(fresh, record).map_err(ArchiveError::io("committing a layer"))
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

fn parse<T: for<'de> Deserialize<'de>>(name: &str, bytes: &[u8]) -> Result<T, ArchiveError> {
    serde_json::from_slice(bytes).map_err(|error| ArchiveError::invalid(format!("{name} of the archive: {error}")))
}

fn refused(digest: &Digest, refusal: Refusal) -> ArchiveError {
    match refusal {
        Refusal::Schema1 { media_type } => {
            ArchiveError::invalid(format!("{digest}: {media_type} is no longer supported"))
        }
        Refusal::Invalid(text) => ArchiveError::invalid(format!("{digest}: {text}")),
    }
}
