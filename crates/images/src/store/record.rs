//! What is written about images and layers.

use crate::manifest::{ImageConfig, parse_config};
use reference::{Digest, Platform};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An image whose layers are whole and at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Digest of the config, `sha256:…` (IMG-108).
    pub id: String,
    /// Canonical `domain/path:tag`.
    pub tags: Vec<String>,
    /// Canonical `domain/path@digest`, of the manifest or index that was asked for.
    pub digests: Vec<String>,
    /// Space that its layers take on disk, in bytes; layers shared with other images count in each.
    pub size_bytes: u64,
    /// What it wants to be run with.
    pub config: ImageConfig,
    /// Diff ids of its layers, lowest first.
    pub layers: Vec<Digest>,
    /// What it was built for.
    pub platform: Platform,
    /// When it was built, as the config says; empty if it does not.
    pub created: String,
    /// When it was first pulled here.
    pub pulled_at: jiff::Timestamp,
    /// The documents that belong to it: indexes, manifest, config.
    pub blobs: Vec<Digest>,
    /// Whether it is to be kept although nothing uses it (IMG-261).
    pub pinned: bool,
}

/// What a pull has found.
pub(crate) struct NewImage {
    pub(crate) id: Digest,
    pub(crate) config: Vec<u8>,
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<String>,
    pub(crate) layers: Vec<Digest>,
    pub(crate) blobs: Vec<Digest>,
    pub(crate) pulled_at: jiff::Timestamp,
    pub(crate) pinned: bool,
}

impl NewImage {
    /// The image with its new names added to those it has.
    pub(super) fn merged_with(&self, old: Option<&Image>, size_bytes: u64) -> Image {
        let mut image = old.cloned().unwrap_or_else(|| {
            let saved = SavedImage {
                id: self.id.to_string(),
                tags: Vec::new(),
                digests: Vec::new(),
                layers: self.layers.iter().map(Digest::to_string).collect(),
                blobs: Vec::new(),
                pulled_at: self.pulled_at,
                pinned: false,
            };
            saved.with_config(&self.config, size_bytes).expect("the pull has read this config and these digests before")
        });
        image.tags.extend(self.tag.iter().filter(|tag| !image.tags.contains(tag)).cloned().collect::<Vec<_>>());
        let digest = self.digest.iter().filter(|digest| !image.digests.contains(digest)).cloned().collect::<Vec<_>>();
        image.digests.extend(digest);
        image.pinned |= self.pinned;
        let blobs: Vec<Digest> = self.blobs.iter().filter(|blob| !image.blobs.contains(blob)).cloned().collect();
        image.blobs.extend(blobs);
        image
    }
}

/// An image in `images.json`. What the config says is read from the config.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SavedImage {
    pub(super) id: String,
    pub(super) tags: Vec<String>,
    pub(super) digests: Vec<String>,
    pub(super) layers: Vec<String>,
    pub(super) blobs: Vec<String>,
    pub(super) pulled_at: jiff::Timestamp,
    #[serde(default)]
    pub(super) pinned: bool,
}

impl SavedImage {
    pub(super) fn of(image: &Image) -> SavedImage {
        SavedImage {
            id: image.id.clone(),
            tags: image.tags.clone(),
            digests: image.digests.clone(),
            layers: image.layers.iter().map(Digest::to_string).collect(),
            blobs: image.blobs.iter().map(Digest::to_string).collect(),
            pulled_at: image.pulled_at,
            pinned: image.pinned,
        }
    }

    /// The image, with what its config says; the reason if that is unreadable.
    pub(super) fn with_config(self, config: &[u8], size_bytes: u64) -> Result<Image, String> {
        let parsed = parse_config(config)?;
        let digests = |texts: &[String]| -> Result<Vec<Digest>, String> {
            texts.iter().map(|text| Digest::parse(text).map_err(|error| error.to_string())).collect()
        };
        Ok(Image {
            layers: digests(&self.layers)?,
            blobs: digests(&self.blobs)?,
            id: self.id,
            tags: self.tags,
            digests: self.digests,
            size_bytes,
            config: parsed.config,
            platform: parsed.platform.normalised(),
            created: parsed.created,
            pulled_at: self.pulled_at,
            pinned: self.pinned,
        })
    }
}

/// `layer.json`: what is known of a layer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    #[serde(serialize_with = "digest_text", deserialize_with = "digest_from_text")]
    pub(crate) diff_id: Digest,
    /// Space on disk, estimated.
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
    /// The boot in which it was written.
    pub(crate) boot: String,
    /// Whether it is known to be on the disk itself; kept as a file of its own.
    #[serde(skip)]
    pub(crate) durable: bool,
}

fn digest_text<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(digest.as_str())
}

fn digest_from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
    Digest::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}
