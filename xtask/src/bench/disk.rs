//! A file system of its own for what is measured: ext4 with a journal, as installers make it.
//!
//! Virtual machines often have none: there, new files are slow for as long as others that were deleted are remembered.

use std::path::{Path, PathBuf};

use anyhow::Context;

use xtask::shell;

const BYTES: u64 = 4 << 30;

/// A mounted file system in a file; gone when dropped.
pub struct Disk(PathBuf);

impl Disk {
    /// Makes the file system in `DIRECTORY.img` and mounts it at `directory`.
    pub fn mount(directory: &Path) -> anyhow::Result<Disk> {
        let disk = Disk(directory.to_path_buf());
        disk.remove();
        std::fs::create_dir_all(directory)?;
        let image = disk.image();
        std::fs::File::create(&image)?.set_len(BYTES)?;
        let image = image.to_str().context("odd path")?;
        shell::run("mkfs.ext4", &["-q", "-F", image])?;
        shell::run("mount", &["-o", "loop", image, directory.to_str().context("odd path")?])?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn directory(&self) -> &Path {
        &self.0
    }

    fn image(&self) -> PathBuf {
        self.0.with_extension("img")
    }

    fn remove(&self) {
        if let Some(directory) = self.0.to_str() {
            let _ = shell::output("umount", &["--lazy", directory], "");
        }
        let _ = std::fs::remove_file(self.image());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.remove();
    }
}
