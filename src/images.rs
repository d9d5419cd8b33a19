//! `sampan images`: the image store, seen through CRI, so that it is the same view that the node has.

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use cri::sampan::import_part::What;
use cri::sampan::{ExportRequest, ImportOptions, ImportPart, PinRequest, PullRequest};
use cri::v1;
use serde_json::{Value, json};

use crate::output::line;
use crate::settings::Settings;
use crate::wiring;

/// How a list or an object is printed.
#[derive(Clone, Copy, ValueEnum, PartialEq)]
pub enum Output {
    /// For people
    Text,
    /// For people, with more columns
    Wide,
    /// One JSON document
    Json,
    /// One YAML document
    Yaml,
    /// Names only, one a line
    Name,
}

/// What to do with images.
#[derive(Subcommand)]
pub enum Verb {
    /// List the images on this node
    Ls {
        /// How to print them
        #[arg(short, long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Fetch images into the store
    Pull(PullArguments),
    /// Remove images by name, digest or id, with all their names
    Rm {
        /// Which images
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Remove images that nobody needs, as far as the thresholds ask for it
    Gc(crate::image_collection::Arguments),
    /// Import images from archives: what `docker save` writes, or an OCI layout, as a directory or a tar
    Import(ImportArguments),
    /// Write images into an archive that podman, skopeo and Docker read
    Export {
        /// Which images
        #[arg(required = true)]
        images: Vec<String>,
        /// Where to; `-` is standard output
        #[arg(short, long, value_name = "FILE")]
        output: String,
    },
    /// Show the pulls that are under way on this node
    Pulls {
        /// Go on showing them
        #[arg(short, long)]
        watch: bool,
    },
    /// Keep images although nothing uses them
    Pin {
        /// Which images
        #[arg(required = true)]
        images: Vec<String>,
        /// Do not keep them any more
        #[arg(long)]
        undo: bool,
    },
    /// Print what is known of an image
    Inspect {
        /// Which image
        image: String,
        /// How to print it
        #[arg(short, long, value_enum, default_value = "json")]
        output: Output,
    },
}

/// Words of `images pull`.
#[derive(Args)]
pub struct PullArguments {
    /// Which images
    #[arg(required = true)]
    images: Vec<String>,
    /// USER:PASSWORD for the registry; `-` reads it from standard input, so that it is in no history
    #[arg(long, value_name = "USER:PASSWORD")]
    creds: Option<String>,
}

/// Words of `images import`.
#[derive(Args)]
pub struct ImportArguments {
    /// Archives, or directories of OCI layouts; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// The name for an image whose archive has none, or only a tag
    #[arg(long)]
    name: Option<String>,
    /// Let the images be removed when nothing uses them
    #[arg(long)]
    no_pin: bool,
}

/// Runs one verb against the running instance's runtime.
pub fn run(settings: Settings, verb: Verb) -> anyhow::Result<()> {
    if let Verb::Gc(arguments) = &verb {
        return crate::image_collection::run(settings, arguments);
    }
    let instance = settings.instance();
    let socket = instance.cri_socket();
    if !socket.exists() {
        bail!(
            "no sampan runs in {}; start it with `sampan up --detach` or `sampan runtime`",
            instance.run_dir.display()
        );
    }
    wiring::executor()?.block_on(async {
        let client =
            cri::connect(&socket).await.with_context(|| format!("reach the runtime at {}", socket.display()))?;
        match verb {
            Verb::Ls { output } => list(client, output).await,
            Verb::Pull(arguments) => pull(client, arguments).await,
            Verb::Rm { images } => remove(client, images).await,
            Verb::Import(arguments) => import(client, arguments).await,
            Verb::Export { images, output } => export(client, images, &output).await,
            Verb::Pulls { watch } => crate::progress::pulls(client, watch).await,
            Verb::Pin { images, undo } => pin(client, images, !undo).await,
            Verb::Inspect { image, output } => inspect(client, image, output).await,
            Verb::Gc(_) => Ok(()),
        }
    })
}

async fn list(mut client: cri::Client, output: Output) -> anyhow::Result<()> {
    let mut images =
        client.images.list_images(v1::ListImagesRequest::default()).await.map_err(said)?.into_inner().images;
    images.sort_by_key(names);
    match output {
        Output::Json | Output::Yaml => return print(&Value::Array(images.iter().map(value).collect()), output),
        Output::Name => {
            for name in images.iter().flat_map(names) {
                line(&name);
            }
            return Ok(());
        }
        Output::Text | Output::Wide => {}
    }
    let wide = output == Output::Wide;
    line(&format!("{:<52} {:<19} {:>9}{}", "IMAGE", "ID", "SIZE", if wide { "  DIGEST" } else { "" }));
    for image in &images {
        let id = if wide { image.id.clone() } else { image.id.chars().take(19).collect() };
        let digest = if wide { format!("  {}", image.repo_digests.join(",")) } else { String::new() };
        for name in names(image) {
            line(&format!("{name:<52} {id:<19} {:>9}{digest}", bytes(image.size)));
        }
    }
    Ok(())
}

async fn pull(client: cri::Client, arguments: PullArguments) -> anyhow::Result<()> {
    let (username, password) = credentials(arguments.creds)?.unwrap_or_default();
    for image in arguments.images {
        let request = PullRequest { image: image.clone(), username: username.clone(), password: password.clone() };
        let id = crate::progress::pull(&client, request).await?;
        line(&format!("{image} {id}"));
    }
    Ok(())
}

fn credentials(given: Option<String>) -> anyhow::Result<Option<(String, String)>> {
    let text = match given {
        None => return Ok(None),
        Some(dash) if dash == "-" => std::io::read_to_string(std::io::stdin())?.trim().to_string(),
        Some(text) => text,
    };
    let Some((username, password)) = text.split_once(':') else { bail!("--creds: write USER:PASSWORD") };
    Ok(Some((username.into(), password.into())))
}

async fn remove(mut client: cri::Client, images: Vec<String>) -> anyhow::Result<()> {
    for image in images {
        let spec = v1::ImageSpec { image: image.clone(), ..Default::default() };
        let status = v1::ImageStatusRequest { image: Some(spec.clone()), verbose: false };
        if client.images.image_status(status).await.map_err(said)?.into_inner().image.is_none() {
            bail!("{image}: no such image on this node");
        }
        client.images.remove_image(v1::RemoveImageRequest { image: Some(spec) }).await.map_err(said)?;
        line(&format!("removed {image}"));
    }
    Ok(())
}

async fn import(mut client: cri::Client, arguments: ImportArguments) -> anyhow::Result<()> {
    for file in arguments.files {
        let path = if file == "-" { String::new() } else { absolute(&file)? };
        let options =
            ImportOptions { path, pinned: !arguments.no_pin, name: arguments.name.clone().unwrap_or_default() };
        let (parts, reader) = tokio::sync::mpsc::channel(IMPORT_PARTS);
        parts.send(ImportPart { what: Some(What::Options(options)) }).await.context("begin the import")?;
        let feeding = (file == "-").then(|| tokio::task::spawn_blocking(move || feed(std::io::stdin(), &parts)));
        let incoming =
            futures_util::stream::unfold(
                reader,
                |mut reader| async move { reader.recv().await.map(|part| (part, reader)) },
            );
        let imported = client.pulls.import(incoming).await.map_err(said).with_context(|| format!("import {file}"))?;
        if let Some(feeding) = feeding {
            feeding.await.context("read standard input")?.context("read standard input")?;
        }
        for image in imported.into_inner().images {
            let names = if image.names.is_empty() { vec![image.id.clone()] } else { image.names };
            names.iter().for_each(|name| line(&format!("imported {name} {}", image.id)));
        }
    }
    Ok(())
}

/// Messages of an import that wait to be sent.
const IMPORT_PARTS: usize = 4;
/// Bytes of one of them.
const IMPORT_PART_BYTES: u64 = 1 << 20;

/// Sends a reader's bytes; ends early if the runtime has ended the import, which then tells why.
fn feed(mut from: impl std::io::Read, parts: &tokio::sync::mpsc::Sender<ImportPart>) -> std::io::Result<()> {
    loop {
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(&mut from, IMPORT_PART_BYTES), &mut data)?;
        if data.is_empty() || parts.blocking_send(ImportPart { what: Some(What::Data(data)) }).is_err() {
            return Ok(());
        }
    }
}

/// The runtime has a working directory of its own.
fn absolute(file: &str) -> anyhow::Result<String> {
    let path = std::path::absolute(file).with_context(|| format!("find {file}"))?;
    path.into_os_string().into_string().map_err(|path| anyhow::anyhow!("the path {} is no text", path.display()))
}

async fn export(mut client: cri::Client, images: Vec<String>, output: &str) -> anyhow::Result<()> {
    let mut parts = client.pulls.export(ExportRequest { images }).await.map_err(said)?.into_inner();
    let mut to: Box<dyn std::io::Write> = match output {
        "-" => Box::new(std::io::stdout()),
        path => Box::new(std::fs::File::create(path).with_context(|| format!("make {path}"))?),
    };
    while let Some(part) = parts.message().await.map_err(said)? {
        to.write_all(&part.data).with_context(|| format!("write {output}"))?;
    }
    to.flush().with_context(|| format!("write {output}"))
}

async fn pin(mut client: cri::Client, images: Vec<String>, pinned: bool) -> anyhow::Result<()> {
    for image in images {
        client.pulls.pin(PinRequest { image: image.clone(), pinned }).await.map_err(said)?;
        line(&format!("{} {image}", if pinned { "pinned" } else { "unpinned" }));
    }
    Ok(())
}

async fn inspect(mut client: cri::Client, image: String, output: Output) -> anyhow::Result<()> {
    let spec = v1::ImageSpec { image: image.clone(), ..Default::default() };
    let request = v1::ImageStatusRequest { image: Some(spec), verbose: true };
    let response = client.images.image_status(request).await.map_err(said)?.into_inner();
    let Some(found) = response.image else { bail!("{image}: no such image on this node") };
    let mut shown = value(&found);
    for (key, text) in response.info {
        shown[key] = serde_json::from_str(&text).unwrap_or(Value::String(text));
    }
    print(&shown, if output == Output::Yaml { Output::Yaml } else { Output::Json })
}

fn names(image: &v1::Image) -> Vec<String> {
    match (&image.repo_tags[..], &image.repo_digests[..]) {
        ([], []) => vec!["<none>".into()],
        ([], digests) => digests.to_vec(),
        (tags, _) => tags.to_vec(),
    }
}

fn value(image: &v1::Image) -> Value {
    json!({"id": image.id, "repoTags": image.repo_tags, "repoDigests": image.repo_digests, "sizeBytes": image.size, "pinned": image.pinned})
}

pub(crate) fn print(value: &Value, output: Output) -> anyhow::Result<()> {
    line(&match output {
        Output::Yaml => crate::output::yaml(value)?.trim_end().to_string(),
        _ => serde_json::to_string_pretty(value)?,
    });
    Ok(())
}

/// The Kubernetes version whose API is spoken.
const KUBERNETES_VERSION: &str = "v1.36";

/// Prints this program's version.
pub fn version(output: Output) -> anyhow::Result<()> {
    let (version, kubernetes) = (env!("CARGO_PKG_VERSION"), KUBERNETES_VERSION);
    match output {
        Output::Json | Output::Yaml => print(&json!({"version": version, "kubernetes": kubernetes}), output),
        _ => {
            line(&format!("sampan {version} (Kubernetes API {kubernetes}, CRI v1)"));
            Ok(())
        }
    }
}

/// What the runtime said, without the wrapping of gRPC.
fn said(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}

/// A size as people write it.
pub(crate) fn bytes(size: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = size as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit < units.len() - 1 {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{size} B") } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        for (size, text) in [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (460_000_000, "460.0 MB")] {
            assert_eq!(bytes(size), text);
        }
    }

    #[test]
    fn credentials_need_a_colon() {
        assert!(credentials(Some("me".into())).is_err());
        assert_eq!(credentials(Some("me:a:b".into())).unwrap(), Some(("me".into(), "a:b".into())));
    }
}
