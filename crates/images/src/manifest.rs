//! Documents of an image: indexes, manifests and configs, OCI and Docker (IMG-91..IMG-96).
//!
//! Pure: bytes in, owned types or a reason out. What is fetched next is decided in `pull.rs`. Start at [`parse`].

use crate::hash::digest_of;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reference::{Digest, Platform};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// The `Accept` header of a manifest request (IMG-121).
pub(crate) const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, \
application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
application/vnd.oci.image.index.v1+json, */*";

/// The largest manifest, index or config that is accepted, in bytes (IMG-106).
pub(crate) const DOCUMENT_BYTES_MAX: u64 = 4 * 1048 * 1048;
/// How deep indexes may be nested, and how many entries one pull may meet (IMG-102).
pub(crate) const INDEX_DEPTH_MAX: usize = 8;
pub(crate) const INDEX_ENTRIES_MAX: usize = 1024;
const LAYERS_MAX: usize = 512;

/// Content as another document points to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) urls: Vec<String>,
    pub(crate) platform: Option<Platform>,
    /// The content itself, if the descriptor embeds it; not verified yet (IMG-111).
    pub(crate) data: Vec<u8>,
}

impl Descriptor {
    /// The embedded content, if it is what the descriptor promises.
    pub(crate) fn embedded(&self) -> Option<&[u8]> {
        let fits = !self.data.is_empty() && self.data.len() as u64 == self.size;
        (fits && digest_of(self.digest.algorithm(), &self.data) == self.digest).then_some(&self.data)
    }
}

/// A manifest's or an index's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Document {
    Index(Vec<Descriptor>),
    Manifest { config: Box<Descriptor>, layers: Vec<Descriptor> },
}

/// Why a document is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Schema1 { media_type: String },
    Invalid(String),
}

/// How a layer's bytes are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
    /// The type says plain, history says: look (IMG-93).
    Sniff,
}

#[derive(Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
    #[serde(default, rename = "os.features", deserialize_with = "null_is_default")]
    os_features: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default, deserialize_with = "null_is_default")]
    urls: Vec<String>,
    #[serde(default)]
    platform: Option<RawPlatform>,
    #[serde(default, deserialize_with = "null_is_default")]
    data: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    #[serde(default, deserialize_with = "null_is_default")]
    media_type: String,
    #[serde(default)]
    manifests: Option<Vec<RawDescriptor>>,
    #[serde(default)]
    config: Option<RawDescriptor>,
    #[serde(default)]
    layers: Option<Vec<RawDescriptor>>,
    #[serde(default)]
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// `null` where a list or map is expected is an empty one, as Go's encoder writes it.
fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl RawDescriptor {
    fn check(self) -> Result<Descriptor, Refusal> {
        let digest = Digest::parse(&self.digest)
            .map_err(|error| Refusal::Invalid(format!("descriptor digest {:?}: {error}", self.digest)))?;
        let platform = self.platform.map(|raw| Platform {
            os: raw.os,
            architecture: raw.architecture,
            variant: raw.variant,
            os_features: raw.os_features,
        });
        let media_type = base_type(&self.media_type).to_owned();
        let data = STANDARD.decode(&self.data).unwrap_or_default();
        Ok(Descriptor { media_type, digest, size: self.size, urls: self.urls, platform, data })
    }
}

/// The media type without its parameters, in lower case as far as it matters.
pub(crate) fn base_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_LIST)
}

fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}

/// Whether an index entry of that type is worth a look (IMG-94).
pub(crate) fn is_document(media_type: &str) -> bool {
    is_index(media_type) || is_manifest(media_type)
}

/// Parses a manifest or index. `delivered` is the Content-Type or the descriptor's type; if it says nothing, the body
/// does (IMG-95, IMG-96).
pub(crate) fn parse(delivered: &str, body: &[u8]) -> Result<Document, Refusal> {
    let delivered = base_type(delivered);
    if delivered.starts_with("application/vnd.docker.distribution.manifest.v1") {
        return Err(Refusal::Schema1 { media_type: delivered.to_owned() });
    }
    let raw: RawDocument =
        serde_json::from_slice(body).map_err(|error| Refusal::Invalid(format!("not a manifest: {error}")))?;
    if raw.fs_layers.is_some() || delivered == "text/plain" {
        let media_type =
            if delivered.is_empty() { "application/vnd.docker.distribution.manifest.v1+json" } else { delivered };
        return Err(Refusal::Schema1 { media_type: media_type.to_owned() });
    }
    let own = base_type(&raw.media_type);
    let media_type = effective_type(delivered, own, raw.manifests.is_some())?;
    if is_index(media_type) {
        if raw.config.is_some() || raw.layers.is_some() || is_manifest(own) {
            return Err(Refusal::Invalid(format!("media-type: expected index but found manifest ({own})")));
        }
        let entries = raw.manifests.unwrap_or_default();
        return Ok(Document::Index(entries.into_iter().map(RawDescriptor::check).collect::<Result<_, _>>()?));
    }
    if raw.manifests.is_some() || is_index(own) {
        return Err(Refusal::Invalid(format!("media-type: expected manifest but found index ({own})")));
    }
    let config = raw.config.ok_or_else(|| Refusal::Invalid("manifest without a config".to_owned()))?.check()?;
    let layers: Vec<Descriptor> =
        raw.layers.unwrap_or_default().into_iter().map(RawDescriptor::check).collect::<Result<_, _>>()?;
    if layers.len() > LAYERS_MAX {
        return Err(Refusal::Invalid(format!("manifest with {} layers, at most {LAYERS_MAX}", layers.len())));
    }
    Ok(Document::Manifest { config: Box::new(config), layers })
}

/// Which type counts: the delivered one if it is a known one, else the body's own, else the body's shape.
fn effective_type<'a>(delivered: &'a str, own: &'a str, has_manifests: bool) -> Result<&'a str, Refusal> {
    if is_document(delivered) {
        let crossed = is_index(delivered) != is_index(own) && is_document(own);
        if !own.is_empty() && own != delivered && !crossed {
            return Err(Refusal::Invalid(format!("media type {own:?} in the body, delivered as {delivered:?}")));
        }
        return Ok(delivered);
    }
    match (own, has_manifests) {
        ("", true) => Ok(OCI_INDEX),
        ("", false) => Ok(OCI_MANIFEST),
        _ if is_document(own) => Ok(own),
        _ => Err(Refusal::Invalid(format!("unrecognised mediatype {own:?}"))),
    }
}

/// Whether a config of that type describes a container image (IMG-92).
pub(crate) fn is_image_config(media_type: &str) -> bool {
    matches!(media_type, OCI_CONFIG | DOCKER_CONFIG | "" | "application/octet-stream")
}

/// How a layer of that type is packed; `None` for types that are not layers (IMG-92, IMG-94).
pub(crate) fn packing(media_type: &str) -> Option<Packing> {
    let rest = match media_type.strip_prefix("application/vnd.docker.image.rootfs.") {
        Some(rest) => rest.strip_prefix("foreign.").unwrap_or(rest),
        None => {
            let rest = media_type.strip_prefix("application/vnd.oci.image.layer.")?;
            rest.strip_prefix("nondistributable.").unwrap_or(rest)
        }
    };
    Some(match rest {
        "diff.tar" => Packing::Sniff,
        "diff.tar.gzip" | "v1.tar+gzip" => Packing::Gzip,
        "diff.tar.zstd" | "v1.tar+zstd" => Packing::Zstd,
        "v1.tar" => Packing::Plain,
        _ => return None,
    })
}

/// What an image wants to be run with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `user[:group]`, names or numbers; empty for root.
    pub user: String,
    /// `NAME=value` in order.
    pub env: Vec<String>,
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments after the entrypoint, or the program.
    pub cmd: Vec<String>,
    /// Where it starts; empty for `/`.
    pub working_dir: String,
    /// Name or number of the signal that stops it; empty for SIGTERM.
    pub stop_signal: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Mount points that the image wants to be volumes.
    pub volumes: Vec<String>,
    /// `port/protocol`.
    pub exposed_ports: Vec<String>,
}

/// A config blob, as far as it is needed.
#[derive(Clone, Debug)]
pub(crate) struct ConfigBlob {
    pub(crate) platform: Platform,
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) created: String,
    pub(crate) config: ImageConfig,
}

type Keys = BTreeMap<String, serde::de::IgnoredAny>;

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawRun {
    #[serde(deserialize_with = "null_is_default")]
    user: String,
    #[serde(deserialize_with = "null_is_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    working_dir: String,
    #[serde(deserialize_with = "null_is_default")]
    stop_signal: String,
    #[serde(deserialize_with = "null_is_default")]
    labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_default")]
    volumes: Keys,
    #[serde(deserialize_with = "null_is_default")]
    exposed_ports: Keys,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawRootfs {
    #[serde(deserialize_with = "null_is_default")]
    diff_ids: Vec<String>,
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(flatten)]
    platform: RawPlatform,
    #[serde(default, deserialize_with = "null_is_default")]
    created: String,
    #[serde(default, deserialize_with = "null_is_default")]
    config: RawRun,
    #[serde(default, deserialize_with = "null_is_default")]
    rootfs: RawRootfs,
}

/// Parses a config blob; the reason of a refusal is one clause.
pub(crate) fn parse_config(body: &[u8]) -> Result<ConfigBlob, String> {
    let raw: RawConfig = serde_json::from_slice(body).map_err(|error| format!("not an image config: {error}"))?;
    let diff_ids =
        raw.rootfs.diff_ids.iter().map(|text| Digest::parse(text).map_err(|e| format!("diff id {text:?}: {e}")));
    let platform = Platform {
        os: raw.platform.os,
        architecture: raw.platform.architecture,
        variant: raw.platform.variant,
        os_features: raw.platform.os_features,
    };
    let run = raw.config;
    Ok(ConfigBlob {
        platform,
        diff_ids: diff_ids.collect::<Result<_, _>>()?,
        created: raw.created,
        config: ImageConfig {
            user: run.user,
            env: run.env,
            entrypoint: run.entrypoint,
            cmd: run.cmd,
            working_dir: run.working_dir,
            stop_signal: run.stop_signal,
            labels: run.labels,
            volumes: run.volumes.into_keys().collect(),
            exposed_ports: run.exposed_ports.into_keys().collect(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn descriptor(media_type: &str) -> serde_json::Value {
        json!({ "mediaType": media_type, "size": 3, "digest": format!("sha256:{}", "a".repeat(64)) })
    }

    fn manifest(media_type: &str) -> Vec<u8> {
        let mut body = json!({ "schemaVersion": 2, "config": descriptor(OCI_CONFIG), "layers": [] });
        if !media_type.is_empty() {
            body["mediaType"] = json!(media_type);
        }
        body.to_string().into_bytes()
    }

    fn index(media_type: &str) -> Vec<u8> {
        json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": [descriptor(OCI_MANIFEST)] })
            .to_string()
            .into_bytes()
    }

    fn refusal(delivered: &str, body: &[u8]) -> String {
        match parse(delivered, body).unwrap_err() {
            Refusal::Invalid(text) => text,
            Refusal::Schema1 { media_type } => format!("schema1 {media_type}"),
        }
    }

    #[test]
    fn the_four_types_are_accepted_with_parameters() {
        for media_type in [OCI_MANIFEST, DOCKER_MANIFEST] {
            let found = parse(&format!("{media_type}; charset=utf-8"), &manifest(media_type)).unwrap();
            assert!(matches!(found, Document::Manifest { .. }));
        }
        for media_type in [OCI_INDEX, DOCKER_LIST] {
            let found = parse(&format!("{media_type}; charset=utf-8"), &index(media_type)).unwrap();
            assert!(matches!(found, Document::Index(entries) if entries.len() == 1));
        }
        assert!(parse("", &manifest("")).is_ok());
        assert!(parse("application/json", &index(OCI_INDEX)).is_ok());
    }

    #[test]
    fn crossed_bodies_are_refused() {
        assert!(refusal(OCI_MANIFEST, &index(OCI_INDEX)).starts_with("media-type: expected manifest but found index"));
        assert!(
            refusal(OCI_INDEX, &manifest(OCI_MANIFEST)).starts_with("media-type: expected index but found manifest")
        );
        assert!(refusal(OCI_MANIFEST, &index("")).starts_with("media-type: expected manifest"));
        assert!(refusal(OCI_INDEX, &manifest("")).starts_with("media-type: expected index"));
        assert!(refusal(OCI_MANIFEST, &manifest(DOCKER_MANIFEST)).contains("delivered as"));
    }

    #[test]
    fn the_first_docker_format_is_refused_by_name() {
        let old = br#"{"schemaVersion":1,"fsLayers":[]}"#;
        assert!(refusal("application/vnd.docker.distribution.manifest.v1+prettyjws", b"{}").starts_with("schema1"));
        assert_eq!(refusal("text/plain; charset=utf-8", old), "schema1 text/plain");
        assert!(refusal("", old).starts_with("schema1 application/vnd.docker.distribution.manifest.v1"));
    }

    #[test]
    fn layer_types_say_how_they_are_packed() {
        for (media_type, expected) in [
            ("application/vnd.oci.image.layer.v1.tar", Some(Packing::Plain)),
            ("application/vnd.oci.image.layer.v1.tar+gzip", Some(Packing::Gzip)),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", Some(Packing::Zstd)),
            ("application/vnd.docker.image.rootfs.diff.tar", Some(Packing::Sniff)),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Some(Packing::Gzip)),
            ("application/vnd.docker.image.rootfs.diff.tar.zstd", Some(Packing::Zstd)),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar", Some(Packing::Sniff)),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Some(Packing::Gzip)),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Some(Packing::Zstd)),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar", Some(Packing::Plain)),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Some(Packing::Gzip)),
            ("application/vnd.oci.image.layer.v1.tar+bzip2", None),
            ("", None),
            ("application/vnd.in-toto+json", None),
        ] {
            assert_eq!(packing(media_type), expected, "{media_type}");
        }
    }

    #[test]
    fn embedded_content_counts_only_if_it_is_what_is_promised() {
        let content = b"content";
        let digest = crate::hash::digest_of(reference::Algorithm::Sha256, content);
        let of = |data: &str, size: u64| {
            let layer = json!({ "mediaType": "t", "size": size, "digest": digest.as_str(), "data": data });
            let body = json!({ "config": descriptor(OCI_CONFIG), "layers": [layer] }).to_string();
            match parse("", body.as_bytes()).unwrap() {
                Document::Manifest { layers, .. } => layers[0].embedded().map(<[u8]>::to_vec),
                Document::Index(_) => None,
            }
        };
        assert_eq!(of("Y29udGVudA==", 7).as_deref(), Some(content.as_slice()));
        assert_eq!(of("Y29udGVudA==", 8), None);
        assert_eq!(of("Y29udGVudB==", 7), None);
        assert_eq!(of("b3RoZXIgYg==", 7), None);
        assert_eq!(of("!", 7), None);
        assert_eq!(of("", 7), None);
    }

    #[test]
    fn a_config_with_nulls_is_read() {
        let body = br#"{"os":"linux","architecture":"amd64","config":{"Env":null,"Cmd":["sh"],"Volumes":{"/v":{}},"Labels":null},
            "rootfs":{"type":"layers","diff_ids":null}}"#;
        let config = parse_config(body).unwrap();
        assert_eq!((config.config.cmd, config.config.volumes), (vec!["sh".to_owned()], vec!["/v".to_owned()]));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(body in prop::collection::vec(any::<u8>(), 0..200), delivered in ".{0,30}") {
            let _ = parse(&delivered, &body);
            let _ = parse_config(&body);
        }
    }
}
