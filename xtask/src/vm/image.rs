//! The guest's root disk: an ext4 image of the host's own programs with their libraries, and an init of a few lines.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail};

use super::kernel;
use crate::shell;

/// Always there: busybox gives the guest its common programs, these stand before it.
const PROGRAMS: &[&str] = &["busybox", "mkfs.ext4"];
/// Kernel modules that the host's programs need, in no order. Those that they need in turn come along.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "overlay",
    "veth",
    "bridge",
    "br_netfilter",
    "dummy",
    "nf_tables",
    "nft_chain_nat",
    "nft_masq",
    "nft_nat",
    "nft_ct",
    "nft_fib_inet",
    "nft_fib_ipv4",
    "nft_fib_ipv6",
    "nft_redir",
    "nft_reject_inet",
    "tun",
];
const SIZE: &str = "2G";
const INIT: &str = include_str!("init.sh");

/// A root disk. Its directory is removed when it is dropped.
#[derive(Debug)]
pub struct Image {
    dir: PathBuf,
    boots: AtomicU32,
}

/// A program that is no system's: the file on the host, laid down at the same path in the guest.
#[derive(Debug, Clone, Copy)]
pub enum Program<'a> {
    /// Found by PATH.
    Named(&'a str),
    /// A file that we built; its debugging symbols stay at home.
    Built(&'a Path),
}

impl Image {
    /// Makes a root disk with these programs. `name` keeps images of concurrent tests apart.
    ///
    /// # Errors
    /// When a program, the kernel or the tools to make a file system are missing.
    pub fn build(name: &str, programs: &[Program<'_>]) -> anyhow::Result<Image> {
        let dir = kernel::target().join(format!("vm/{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let image = Image { dir, boots: AtomicU32::new(0) };
        let root = image.dir.join("root");
        lay_out(&root)?;
        let common = PROGRAMS.iter().map(|name| Program::Named(name));
        let mut libraries = BTreeSet::new();
        for program in common.chain(programs.iter().copied()) {
            libraries.extend(place(&root, program)?);
        }
        for library in &libraries {
            copy(library, &inside(&root, library))?;
        }
        copy_modules(&root)?;
        applets(&root)?;
        let text = |path: &Path| path.to_str().map(str::to_owned).context("the image's path is no text");
        shell::output(
            "mkfs.ext4",
            &["-q", "-O", "^has_journal", "-d", &text(&root)?, &text(&image.root())?, SIZE],
            "",
        )?;
        std::fs::remove_dir_all(&root)?;
        Ok(image)
    }

    /// The disk's file.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root.img")
    }

    /// A new directory for what belongs to one boot.
    pub(super) fn scratch(&self) -> anyhow::Result<PathBuf> {
        let scratch = self.dir.join(format!("boot-{}", self.boots.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&scratch)?;
        Ok(scratch)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn lay_out(root: &Path) -> anyhow::Result<()> {
    for dir in [
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        "etc/ssl/certs",
        "proc",
        "sys",
        "dev",
        "run",
        "tmp",
        "root",
        "job",
        "disk",
        "var/tmp",
        "var/lib",
        "var/log",
    ] {
        std::fs::create_dir_all(root.join(dir))?;
    }
    for merged in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{merged}"), root.join(merged))?;
    }
    std::fs::write(root.join("init"), INIT)?;
    shell::run("chmod", &["0755", root.join("init").to_str().context("the image's path is no text")?])?;
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    std::fs::write(root.join("etc/group"), "root:x:0:\n")?;
    std::fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    std::fs::write(root.join("etc/resolv.conf"), "nameserver 127.0.0.1\n")?;
    let certificates = "etc/ssl/certs/ca-certificates.crt";
    if Path::new("/").join(certificates).is_file() {
        std::fs::copy(Path::new("/").join(certificates), root.join(certificates))?;
    }
    Ok(())
}

/// Copies a program; returns the libraries that it needs.
fn place(root: &Path, program: Program<'_>) -> anyhow::Result<BTreeSet<PathBuf>> {
    let (source, target) = match program {
        Program::Named(name) => {
            let found =
                shell::find(name).with_context(|| format!("{name} is not installed; run: cargo xtask setup"))?;
            (found, root.join("usr/bin").join(name))
        }
        Program::Built(path) => (path.to_owned(), inside(root, path)),
    };
    copy(&source, &target)?;
    if let Program::Built(_) = program {
        shell::run("strip", &[target.to_str().context("the program's path is no text")?])?;
    }
    libraries(&source)
}

/// What the dynamic loader would load for a program; nothing for a static one.
fn libraries(program: &Path) -> anyhow::Result<BTreeSet<PathBuf>> {
    let text = program.to_str().context("the program's path is no text")?;
    let Ok(printed) = shell::output("ldd", &[text], "") else { return Ok(BTreeSet::new()) };
    if let Some(missing) = printed.lines().find(|line| line.contains("not found")) {
        bail!("{text} needs a library that is not here: {}", missing.trim());
    }
    Ok(printed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

/// Where a path of the host is in the image; merged directories are as on the host.
fn inside(root: &Path, path: &Path) -> PathBuf {
    let plain = path.strip_prefix("/").unwrap_or(path);
    let merged = ["bin", "sbin", "lib", "lib64"].iter().any(|dir| plain.starts_with(dir));
    if merged { root.join("usr").join(plain) } else { root.join(plain) }
}

fn copy(source: &Path, target: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(target.parent().context("a file needs a directory")?)?;
    std::fs::copy(source, target).with_context(|| format!("copy {} into the image", source.display()))?;
    Ok(())
}

/// The modules and those that they need, at the places that modprobe's tables name.
fn copy_modules(root: &Path) -> anyhow::Result<()> {
    let modules = kernel::find()?.modules;
    let version = modules.file_name().context("the kernel has no version")?;
    let target = root.join("usr/lib/modules").join(version);
    std::fs::create_dir_all(&target)?;
    let table = std::fs::read_to_string(modules.join("modules.dep"))?;
    for name in MODULES {
        let named = format!("/{name}.ko:");
        let line = table.lines().find(|line| line.contains(&named));
        let line = line.with_context(|| format!("the kernel has no module {name}"))?;
        for file in line.split([' ', ':']).filter(|word| !word.is_empty()) {
            copy(&modules.join(file), &target.join(file))?;
        }
    }
    for entry in std::fs::read_dir(&modules)?.flatten().filter(|entry| entry.path().is_file()) {
        copy(&entry.path(), &target.join(entry.file_name()))?;
    }
    std::fs::write(root.join("etc/modules"), MODULES.join("\n"))?;
    Ok(())
}

/// Busybox stands for every program that is not there yet.
fn applets(root: &Path) -> anyhow::Result<()> {
    for applet in shell::output("busybox", &["--list"], "")?.lines() {
        let there = ["usr/bin", "usr/sbin"].iter().any(|dir| root.join(dir).join(applet).exists());
        if !there {
            symlink("/usr/bin/busybox", root.join("usr/bin").join(applet))?;
        }
    }
    // The kernel itself asks for modules by this name.
    symlink("/usr/bin/busybox", root.join("usr/sbin/modprobe"))?;
    Ok(())
}
