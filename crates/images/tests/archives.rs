//! Images as files: what other tools save comes in, what is here goes out and is read by them.

mod support;

use images::{ArchiveError, Images, ImportOptions, ImportSource, Options};
use serde_json::json;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use support::{Layer, Made, digest, gzip, noise, tar_of};
use tempfile::TempDir;

async fn store() -> (Images, TempDir) {
    assert!(rustix::process::geteuid().is_root(), "these tests unpack layers and need root");
    let directory = tempfile::tempdir().unwrap();
    (Images::open(Options::new(directory.path().join("images"))).await.unwrap(), directory)
}

fn stream(bytes: Vec<u8>) -> ImportSource {
    ImportSource::Stream(Box::new(std::io::Cursor::new(bytes)))
}

async fn import(images: &Images, bytes: Vec<u8>) -> Result<Vec<Arc<images::Image>>, ArchiveError> {
    images.import(stream(bytes), ImportOptions::default()).await
}

/// Docker's archive of one image.
fn docker_archive(image: &Made, tags: &[&str]) -> Vec<u8> {
    let hex = digest(&image.config)[7..].to_owned();
    let tars: Vec<Vec<u8>> = image.layers.iter().map(|layer| plain(&layer.blob)).collect();
    let names: Vec<String> = (0..tars.len()).map(|n| format!("layer{n}/layer.tar")).collect();
    let config = format!("{hex}.json");
    let manifest = json!([{ "Config": config, "RepoTags": tags, "Layers": names }]).to_string();
    let mut files: Vec<(&str, &[u8])> = names.iter().zip(&tars).map(|(n, t)| (n.as_str(), t.as_slice())).collect();
    files.extend([(config.as_str(), image.config.as_slice()), ("manifest.json", manifest.as_bytes())]);
    tar_of(&files)
}

fn plain(blob: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    std::io::Read::read_to_end(&mut flate2::bufread::GzDecoder::new(blob), &mut tar).unwrap();
    tar
}

fn made(seed: u64) -> Made {
    Made::new(vec![
        Layer::gzip(&tar_of(&[("etc/one", b"1"), ("big", &noise(400_000, seed))])),
        Layer::gzip(&tar_of(&[("etc/two", b"2")])),
    ])
}

/// An OCI layout of an index for two architectures.
fn layout(image: &Made, annotations: serde_json::Value) -> Vec<(String, Vec<u8>)> {
    let foreign = Made::for_platform(vec![Layer::gzip(&tar_of(&[("f", b"f")]))], "s390x");
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    let entry = |body: &[u8], architecture: &str| {
        json!({ "mediaType": manifest, "digest": digest(body), "size": body.len(),
                "platform": { "os": "linux", "architecture": architecture } })
    };
    let own = reference::Platform::compiled_for().architecture;
    let index = "application/vnd.oci.image.index.v1+json";
    let inner = json!({ "schemaVersion": 2, "mediaType": index,
        "manifests": [entry(&foreign.manifest, "s390x"), entry(&image.manifest, &own)] });
    let inner = inner.to_string().into_bytes();
    let top = json!({ "schemaVersion": 2, "manifests": [
        { "mediaType": index, "digest": digest(&inner), "size": inner.len(), "annotations": annotations }] });
    let mut files = vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".to_owned(), top.to_string().into_bytes()),
    ];
    let blobs = image.layers.iter().map(|l| &l.blob).chain([&image.config, &image.manifest, &foreign.manifest, &inner]);
    files.extend(blobs.map(|blob| (format!("blobs/sha256/{}", &digest(blob)[7..]), blob.clone())));
    files
}

fn tar_files(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    tar_of(&files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread")]
async fn dockers_archive_is_imported_from_a_stream_packed_or_not() {
    let (images, directory) = store().await;
    let archive = docker_archive(&made(1), &["nginx:1.2"]);
    let zstd = zstd::encode_all(archive.as_slice(), 1).unwrap();
    for bytes in [archive.clone(), gzip(&archive), zstd] {
        let options = ImportOptions { name: None, pinned: true };
        let found = images.import(stream(bytes), options).await.unwrap();
        assert_eq!((found.len(), found[0].id.as_str(), found[0].pinned), (1, digest(&made(1).config).as_str(), true));
        assert_eq!(
            (found[0].tags.as_slice(), found[0].digests.len()),
            (["docker.io/library/nginx:1.2".to_owned()].as_slice(), 0)
        );
        let layers = images.layers(&found[0]);
        assert_eq!(std::fs::read(layers[0].join("etc/two")).unwrap(), b"2");
        assert!(std::fs::read(layers[1].join("big")).unwrap() == noise(400_000, 1));
        // Present by every form of its name.
        for name in ["nginx:1.2", "docker.io/library/nginx:1.2", &found[0].id, &found[0].id[7..]] {
            assert!(images.resolve(name).is_some(), "{name}");
        }
        assert!(images.resolve(&format!("nginx@{}", digest(&made(1).manifest))).is_none(), "no digest is known");
        images.remove("nginx:1.2").await.unwrap();
    }
    let left: Vec<_> = std::fs::read_dir(directory.path().join("images/layers")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oci_layout_is_imported_with_its_digests_from_a_directory_or_a_tar() {
    let (images, directory) = store().await;
    let files = layout(&made(2), json!({ "org.opencontainers.image.ref.name": "r.test/team/app:v1" }));
    let root = digest(&files.iter().find(|(name, _)| name == "index.json").unwrap().1);
    assert_ne!(root, "");
    let path = directory.path().join("layout");
    for (name, bytes) in &files {
        let file = path.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, bytes).unwrap();
    }
    // As `tar -c .` packs it: every name begins with a dot, and the directory itself is an entry.
    let packed = Command::new("tar").arg("-C").arg(&path).args(["-c", "."]).output().unwrap().stdout;
    let found = images.import(stream(packed), ImportOptions::default()).await.unwrap();
    assert_eq!(found[0].tags[0], "r.test/team/app:v1");
    images.remove(&found[0].id).await.unwrap();
    let found = images.import(ImportSource::Path(path), ImportOptions::default()).await.unwrap();
    assert_eq!((found[0].tags[0].as_str(), found[0].pinned), ("r.test/team/app:v1", false));
    let inner = files.iter().map(|(_, bytes)| digest(bytes)).find(|d| found[0].digests[0].ends_with(d.as_str()));
    assert!(inner.is_some() && found[0].digests[0].starts_with("r.test/team/app@sha256:"), "{:?}", found[0].digests);
    assert!(images.resolve(&found[0].digests[0]).is_some());
    images.remove(&found[0].id).await.unwrap();
    // Bare tags need a name from the caller; without one the image is there by its id.
    let bare = tar_files(&layout(&made(2), json!({ "org.opencontainers.image.ref.name": "v7" })));
    let archive = directory.path().join("bare.tar");
    std::fs::write(&archive, &bare).unwrap();
    let nameless = images.import(ImportSource::Path(archive), ImportOptions::default()).await.unwrap();
    assert!(nameless[0].tags.is_empty() && images.resolve(&nameless[0].id).is_some());
    let options = ImportOptions { name: Some("r.test/other".into()), pinned: false };
    let named = images.import(stream(bare), options).await.unwrap();
    assert_eq!(named[0].tags, ["r.test/other:v7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_that_lie_are_refused_and_leave_nothing() {
    let (images, directory) = store().await;
    let mut wrong = made(3);
    wrong.layers[0].diff_id = digest(b"other");
    let wrong = Made::new(wrong.layers);
    let mut tampered = layout(&made(3), json!({}));
    let blob = tampered.iter_mut().max_by_key(|(_, bytes)| bytes.len()).unwrap();
    blob.1[1000] ^= 1;
    let foreign = Made::for_platform(made(3).layers, "s390x");
    let missing = tar_of(&[("manifest.json", br#"[{"Config":"c.json","Layers":["l"]}]"#)]);
    let climbing = {
        let mut bytes = tar_of(&[("xx/evil", b"x")]);
        bytes[..7].copy_from_slice(b"../evil");
        let sum: u32 = bytes[..512]
            .iter()
            .enumerate()
            .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) })
            .sum();
        bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes
    };
    for (bytes, words) in [
        (docker_archive(&wrong, &["a:1"]), "wrong diff id"),
        (tar_files(&tampered), "unexpected commit digest"),
        (docker_archive(&foreign, &["a:1"]), "image offers linux/s390x only"),
        (docker_archive(&made(3), &["library/Upper:1"]), "must be lowercase"),
        (missing, "the archive has no \"c.json\""),
        (tar_of(&[("other", b"x")]), "neither an OCI layout"),
        (climbing, "leads out of the archive"),
        (b"no archive at all".to_vec(), "archive"),
        (gzip(b"no archive at all"), "archive"),
        (docker_archive(&made(3), &["a:1"])[..300_000].to_vec(), "ends inside"),
    ] {
        let error = import(&images, bytes).await.unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
        assert!(images.list().is_empty());
    }
    let half = std::fs::read_dir(directory.path().join("images/layers")).unwrap();
    assert_eq!(half.filter(|e| e.as_ref().unwrap().file_name().to_str().unwrap().starts_with("tmp-")).count(), 0);
}

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn export(images: &Images, names: &[&str]) -> Vec<u8> {
    let written = Written::default();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    images.export(&names, written.clone()).await.unwrap();
    let bytes = written.0.lock().unwrap();
    bytes.clone()
}

/// A layer with everything that a layer may hold.
fn everything() -> Layer {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = |kind: tar::EntryType, path: &str, link: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o4755);
        header.set_uid(12);
        header.set_gid(34);
        header.set_mtime(1_000_000_000);
        header.set_size(0);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        }
        builder
            .append_pax_extensions(
                [("SCHILY.xattr.user.mine", b"a\0b".as_slice())].into_iter().filter(|_| path == "file"),
            )
            .unwrap();
        builder.append_data(&mut header, path, std::io::empty()).unwrap();
    };
    use tar::EntryType::{Char, Directory, Fifo, Link, Regular, Symlink};
    header(Directory, "dir", "");
    header(Regular, "file", "");
    header(Link, "hard", "file");
    header(Symlink, "soft", "/absolute");
    header(Char, "null", "");
    header(Fifo, "fifo", "");
    header(Regular, ".wh.gone", "");
    header(Regular, "dir/.wh..wh..opq", "");
    header(Regular, &format!("dir/{}", "long".repeat(50)), "");
    Layer::gzip(&builder.into_inner().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_is_imported_again_with_all_that_layers_hold() {
    let (images, _directory) = store().await;
    let image = Made::new(vec![everything(), everything()]);
    import(&images, docker_archive(&image, &["r.test/a:1", "r.test/b:2"])).await.unwrap();
    let first = export(&images, &["r.test/a:1"]).await;
    assert!(matches!(images.export(&["nope:1".into()], Vec::new()).await, Err(ArchiveError::NotFound { .. })));
    let (other, _other_directory) = store().await;
    let found = import(&other, first.clone()).await.unwrap();
    assert_eq!((found.len(), found[0].tags.as_slice()), (1, ["r.test/a:1".to_owned()].as_slice()));
    assert_eq!(found[0].config.env, ["A=b"], "what it wants to be run with stays");
    let root: PathBuf = other.layers(&found[0])[0].clone();
    let look = |name: &str| std::fs::symlink_metadata(root.join(name)).unwrap();
    let file = look("file");
    assert_eq!(
        (file.mode() & 0o7777, file.uid(), file.gid(), file.mtime(), file.nlink()),
        (0o4755, 12, 34, 1_000_000_000, 2)
    );
    assert_eq!(file.ino(), look("hard").ino());
    assert_eq!(std::fs::read_link(root.join("soft")).unwrap(), Path::new("/absolute"));
    assert!(look("null").file_type().is_char_device() && look("fifo").file_type().is_fifo());
    assert!(look("gone").file_type().is_char_device() && look("gone").rdev() == 0);
    let mut value = [0; 16];
    let length = rustix::fs::lgetxattr(root.join("file"), "user.mine", &mut value).unwrap();
    assert_eq!(&value[..length], b"a\0b");
    let length = rustix::fs::lgetxattr(root.join("dir"), "trusted.overlay.opaque", &mut value).unwrap();
    assert_eq!(&value[..length], b"y");
    assert!(export(&other, &["r.test/a:1"]).await == first, "packed again it is the same");
}

#[allow(clippy::disallowed_methods)] // Reason: this test asks skopeo.
fn skopeo(arguments: &[&str]) -> String {
    let output =
        Command::new("skopeo").args(["--insecure-policy"]).args(arguments).output().expect("skopeo is installed");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_reads_an_export_and_what_it_saves_is_imported() {
    let (images, directory) = store().await;
    import(&images, docker_archive(&made(4), &["r.test/app:v1"])).await.unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("export.tar"), export(&images, &["r.test/app:v1"]).await).unwrap();
    let seen = skopeo(&["inspect", &format!("oci-archive:{}:v1", at("export.tar"))]);
    assert!(seen.contains("\"A=b\""), "{seen}");
    let docker = format!("docker-archive:{}", at("export.tar"));
    skopeo(&["copy", "--quiet", &docker, &format!("docker-archive:{}:r.test/again:v2", at("docker.tar"))]);
    skopeo(&["copy", "--quiet", &docker, &format!("oci:{}:r.test/again:v3", at("layout"))]);
    for (source, tag) in [("docker.tar", "r.test/again:v2"), ("layout", "r.test/again:v3")] {
        let found = images.import(ImportSource::Path(at(source).into()), ImportOptions::default()).await.unwrap();
        assert!(found[0].tags.contains(&tag.to_owned()), "{:?}", found[0].tags);
        assert!(std::fs::read(images.layers(&found[0])[1].join("big")).unwrap() == noise(400_000, 4));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_outlive_the_process() {
    let (images, directory) = store().await;
    import(&images, docker_archive(&made(5), &["r.test/app:v1"])).await.unwrap();
    assert!(!images.resolve("r.test/app:v1").unwrap().pinned);
    assert!(images.set_pinned("r.test/app:v1", true).await.unwrap().pinned);
    assert!(images.set_pinned("nope:1", true).await.is_err());
    images.settle().await;
    drop(images);
    let images = Images::open(Options::new(directory.path().join("images"))).await.unwrap();
    assert!(images.resolve("r.test/app:v1").unwrap().pinned);
    assert!(!images.set_pinned("r.test/app:v1", false).await.unwrap().pinned);
}
