//! What `cargo xtask bench pull` measures with: `bench make KIND DIR`, `bench pull STORE IMAGE USER PASSWORD`,
//! `bench floor LAYOUT`.
//!
//! `make` writes an OCI layout with made-up content, the same on each run; `pull` is one cold pull; `floor` inflates a
//! layout's layers and does nothing else.

use images::{Credential, Images, Options, ProgressSink, PullRequest};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::error::Error;
use std::io::{Read, Write};
use std::path::Path;
use tokio_util::sync::CancellationToken;

type Done = Result<(), Box<dyn Error>>;

fn main() -> Done {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["make", kind, directory] => make(kind, Path::new(directory)),
        ["pull", store, image, user, password] => pull(store, image, (user, password)),
        ["floor", layout] => floor(Path::new(layout)),
        _ => Err("usage: bench make KIND DIR | pull STORE IMAGE USER PASSWORD | floor LAYOUT".into()),
    }
}

#[tokio::main]
async fn pull(store: &str, image: &str, (user, password): (&str, &str)) -> Done {
    let images = Images::open(Options::new(store)).await?;
    let credential = Credential { username: user.into(), password: password.into(), ..Credential::default() };
    let request = PullRequest { image: image.into(), credential: Some(credential), headers: Vec::new() };
    images.pull(request, ProgressSink::none(), CancellationToken::new()).await?;
    // At once: the pull is over, while layers are flushed to the disk in the background, as nobody else does.
    std::process::exit(0)
}

fn floor(layout: &Path) -> Done {
    for entry in std::fs::read_dir(layout.join("blobs/sha256"))? {
        let mut bytes = Vec::new();
        std::fs::File::open(entry?.path())?.read_to_end(&mut bytes)?;
        let mut sink = std::io::sink();
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let mut buffer = vec![0; 256 * 1024];
            let mut plain = flate2::bufread::MultiGzDecoder::new(bytes.as_slice());
            while plain.read(&mut buffer)? > 0 {}
        } else if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            std::io::copy(&mut zstd::stream::read::Decoder::with_buffer(bytes.as_slice())?, &mut sink)?;
        }
    }
    Ok(())
}

/// Words and noise, as programs and their data are: about half of it compresses.
struct Content(u64);

impl Content {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        const WORDS: [&str; 16] = [
            "container ",
            "image ",
            "layer ",
            "return ",
            "struct ",
            "include ",
            "define ",
            "static ",
            "\n    ",
            "0x00 ",
            "mov rax, ",
            "library ",
            "version ",
            "function ",
            "void ",
            "const ",
        ];
        let mut bytes = Vec::with_capacity(count + 4096);
        while bytes.len() < count {
            if self.next() % 5 < 2 {
                (0..256).for_each(|_| bytes.extend(self.next().to_le_bytes()));
            } else {
                (0..256).for_each(|_| bytes.extend(WORDS[(self.next() % 16) as usize].bytes()));
            }
        }
        bytes.truncate(count);
        bytes
    }
}

fn make(kind: &str, directory: &Path) -> Done {
    const MB: usize = 1_000_000;
    let (layers, files, size, is_zstd) = match kind {
        "mixed" => (8, 62, MB, false),
        "single" => (1, 200, MB, false),
        "small" => (1, 10_000, 0, false),
        "zstd" => (1, 200, MB, true),
        other => return Err(format!("no kind {other:?}").into()),
    };
    let blobs = directory.join("blobs/sha256");
    std::fs::create_dir_all(&blobs)?;
    let keep = |bytes: &[u8]| -> Result<(String, usize), Box<dyn Error>> {
        let hex = hex::encode(Sha256::digest(bytes));
        std::fs::write(blobs.join(&hex), bytes)?;
        Ok((format!("sha256:{hex}"), bytes.len()))
    };
    let (mut diff_ids, mut list) = (Vec::new(), Vec::new());
    for layer in 0..layers {
        let mut content = Content(0x9E37_79B9_7F4A_7C15 ^ ((layer as u64 + 1) << 32) ^ (size as u64 + 1));
        let mut builder = tar::Builder::new(Vec::new());
        for file in 0..files {
            let count = if size == 0 { 1024 + (content.next() % 7168) as usize } else { size };
            let bytes = content.bytes(count);
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(1_700_000_000);
            builder.append_data(&mut header, format!("usr/l{layer}/d{}/f{file}", file % 100), bytes.as_slice())?;
        }
        let plain = builder.into_inner()?;
        diff_ids.push(format!("sha256:{}", hex::encode(Sha256::digest(&plain))));
        let (packed, suffix) = if is_zstd {
            (zstd::encode_all(plain.as_slice(), 3)?, "zstd")
        } else {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(&plain)?;
            (encoder.finish()?, "gzip")
        };
        let (digest, size) = keep(&packed)?;
        let media_type = format!("application/vnd.oci.image.layer.v1.tar+{suffix}");
        list.push(json!({ "mediaType": media_type, "digest": digest, "size": size }));
    }
    let architecture = reference::Platform::compiled_for().architecture;
    let config = json!({ "os": "linux", "architecture": architecture, "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids } });
    let (digest, size) = keep(config.to_string().as_bytes())?;
    let manifest = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": size },
        "layers": list });
    let (digest, size) = keep(manifest.to_string().as_bytes())?;
    std::fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let index = json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
        "annotations": { "org.opencontainers.image.ref.name": "1" } }] });
    std::fs::write(directory.join("index.json"), index.to_string())?;
    Ok(())
}
