//! Builds a small OCI image layout from busybox, with nothing but tar, gzip and sha256sum.

use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::Context;
use serde_json::json;

use crate::shell;

/// The applets that get a name of their own in the image.
const APPLETS: &[&str] = &[
    "sh", "ls", "cat", "echo", "sleep", "true", "false", "id", "env", "hostname", "ip", "ping", "wget", "nc", "httpd",
    "ps", "mount", "date", "touch", "mkdir", "rm", "head", "tail", "grep", "seq", "dd", "kill", "sync", "df", "stat",
    "test", "printf", "wc", "tr", "tar",
];

/// Writes an image layout into `dir` (made anew): busybox, a web page and the command that serves it.
pub fn layout(dir: &Path, architecture: &str) -> anyhow::Result<()> {
    const PAGE: &str = "Hello from a Pod that sampan pulled from a private registry.\n";
    let _ = std::fs::remove_dir_all(dir);
    let manifest = add(dir, architecture, PAGE)?;
    finish(dir, vec![manifest])
}

/// Writes a layout of an index with one image for each architecture; each one's page names it.
pub fn index_layout(dir: &Path, architectures: &[&str]) -> anyhow::Result<()> {
    let _ = std::fs::remove_dir_all(dir);
    let mut manifests = Vec::new();
    for architecture in architectures {
        let mut manifest = add(dir, architecture, &format!("made for {architecture}\n"))?;
        manifest["platform"] = json!({"os": "linux", "architecture": architecture});
        manifests.push(manifest);
    }
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests,
    });
    let index = store(&dir.join("blobs/sha256"), &serde_json::to_vec(&index)?)?;
    finish(dir, vec![descriptor("application/vnd.oci.image.index.v1+json", &index)])
}

/// Writes a layout of one image with that page.
pub fn layout_with_page(dir: &Path, page: &str) -> anyhow::Result<()> {
    let _ = std::fs::remove_dir_all(dir);
    let manifest = add(dir, architecture(), page)?;
    finish(dir, vec![manifest])
}

/// Adds one image to a layout's blobs; the descriptor of its manifest.
fn add(dir: &Path, architecture: &str, page: &str) -> anyhow::Result<serde_json::Value> {
    let root = dir.join("root");
    for sub in ["bin", "tmp", "etc", "www", "proc", "sys", "dev"] {
        std::fs::create_dir_all(root.join(sub))?;
    }
    let busybox = shell::find("busybox").context("busybox is not installed")?;
    std::fs::copy(busybox, root.join("bin/busybox"))?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\nweb:x:1000:1000:web:/www:/bin/sh\n")?;
    std::fs::write(root.join("etc/group"), "root:x:0:\nweb:x:1000:\n")?;
    std::fs::write(root.join("www/index.html"), page)?;
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs)?;
    let tar = dir.join("layer.tar");
    let paths = [text(&root)?, text(&tar)?];
    shell::run(
        "tar",
        &[
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "--sort=name",
            "--mtime=@0",
            "-C",
            &paths[0],
            "-cf",
            &paths[1],
            ".",
        ],
    )?;
    let diff_id = digest(&tar)?;
    shell::run("gzip", &["-nf", &paths[1]])?;
    let layer = store(&blobs, &std::fs::read(dir.join("layer.tar.gz"))?)?;
    std::fs::remove_file(dir.join("layer.tar.gz"))?;
    std::fs::remove_dir_all(&root)?;
    let config = store(
        &blobs,
        &serde_json::to_vec(&json!({
            "architecture": architecture, "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["httpd", "-f", "-v", "-p", "8080", "-h", "/www"], "WorkingDir": "/www"},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]},
        }))?,
    )?;
    let manifest = store(
        &blobs,
        &serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer)],
        }))?,
    )?;
    Ok(descriptor("application/vnd.oci.image.manifest.v1+json", &manifest))
}

fn finish(dir: &Path, manifests: Vec<serde_json::Value>) -> anyhow::Result<()> {
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    std::fs::write(dir.join("index.json"), serde_json::to_vec(&index)?)?;
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(())
}

fn descriptor(media_type: &str, (digest, size): &(String, usize)) -> serde_json::Value {
    json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size})
}

fn store(blobs: &Path, bytes: &[u8]) -> anyhow::Result<(String, usize)> {
    let temporary = blobs.join("new");
    std::fs::write(&temporary, bytes)?;
    let hex = digest(&temporary)?;
    std::fs::rename(&temporary, blobs.join(&hex))?;
    Ok((hex, bytes.len()))
}

fn digest(path: &Path) -> anyhow::Result<String> {
    let printed = shell::output("sha256sum", &[&text(path)?], "")?;
    Ok(printed.split_whitespace().next().context("sha256sum printed nothing")?.into())
}

fn text(path: &Path) -> anyhow::Result<String> {
    Ok(path.to_str().context("the path is no text")?.into())
}

/// This machine's architecture in Go's words.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
