//! The guest's kernel: Debian's for clouds, unpacked into the target directory, so that the host's /boot stays as it is.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::shell;

/// The package that names the newest kernel. NVMe, ext4 and the serial port are built into it, so no initramfs is needed.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// A kernel and its modules.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// What the emulator loads.
    pub image: PathBuf,
    /// `lib/modules/<version>`, with the tables that modprobe reads.
    pub modules: PathBuf,
}

/// Where cargo builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| shell::root().join("target"), Into::into)
}

fn directory() -> PathBuf {
    crate::tools::directory().join("kernel")
}

/// The kernel that [`fetch`] has laid down.
///
/// # Errors
/// When there is none.
pub fn find() -> anyhow::Result<Kernel> {
    let directory = directory();
    let only = |under: &str| -> anyhow::Result<PathBuf> {
        let entries = std::fs::read_dir(directory.join(under)).ok().into_iter().flatten().flatten();
        let mut found = entries.map(|entry| entry.path()).filter(|path| is_kernels(path));
        found.next().context("the virtual machine's kernel is missing; run: cargo xtask setup")
    };
    Ok(Kernel { image: only("boot")?, modules: only("lib/modules")? })
}

fn is_kernels(path: &Path) -> bool {
    path.is_dir() || path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
}

/// Downloads and unpacks the kernel, unless that was done before.
///
/// # Errors
/// On a distribution that has no such package, or another architecture.
pub fn fetch() -> anyhow::Result<()> {
    if find().is_ok() {
        return Ok(());
    }
    if std::env::consts::ARCH != "x86_64" {
        bail!("the virtual machine of the tests is for x86_64 only");
    }
    let described = shell::output("apt-cache", &["depends", PACKAGE], "")?;
    let real = described.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let package = format!("linux-image-{}", real.with_context(|| format!("there is no package {PACKAGE}"))?);
    println!("unpacking {package} into {}", directory().display());
    let fresh = directory().with_extension("new");
    let _ = std::fs::remove_dir_all(&fresh);
    std::fs::create_dir_all(&fresh)?;
    let text = fresh.to_str().context("the target directory's path is no text")?;
    let steps = format!(
        "cd {text} && apt-get download -qq -o APT::Sandbox::User=root {package} && dpkg -x ./*.deb . && rm ./*.deb && \
         busybox depmod -b {text} \"$(ls lib/modules)\""
    );
    shell::run("sh", &["-c", &steps])?;
    let _ = std::fs::remove_dir_all(directory());
    std::fs::rename(&fresh, directory())?;
    Ok(())
}
