//! What this room asks of the machine it runs on: wall time, the boot's identity, foreign binary formats.
//!
//! A leaf: the only place of the room that reads the clock or `/proc`.

#![allow(clippy::disallowed_methods)] // Reason: the one place where wall time enters the room.

use reference::Platform;
use std::time::{Duration, SystemTime};

/// Wall time now.
pub(crate) fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// How long ago a file was last written; zero if that cannot be told.
pub(crate) fn age(metadata: &std::fs::Metadata) -> Duration {
    let modified = metadata.modified().unwrap_or_else(|_| SystemTime::now());
    SystemTime::now().duration_since(modified).unwrap_or_default()
}

/// The identity of this boot; what was not yet durable before another boot may be lost.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// What this node runs (IMG-97, IMG-99). Only 32-bit ARM has variants that the processor decides.
pub(crate) fn platform() -> Platform {
    let platform = Platform::compiled_for();
    if platform.architecture != "arm" {
        return platform;
    }
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let system = rustix::system::uname();
    let machine = system.machine().to_string_lossy().into_owned();
    let variant = reference::arm_variant(&cpuinfo, &machine).unwrap_or_default();
    Platform::new(&platform.os, &platform.architecture, &variant)
}

/// Whether the kernel runs programs of that architecture through binfmt_misc (IMG-104).
pub(crate) fn runs_foreign(architecture: &str) -> bool {
    let Ok(entries) = std::fs::read_dir("/proc/sys/fs/binfmt_misc") else { return false };
    let mut texts = entries.flatten().filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    texts.any(|text| covers(&text, architecture))
}

/// Whether an entry of binfmt_misc is enabled and takes ELF programs of an architecture.
fn covers(entry: &str, architecture: &str) -> bool {
    // The number of the machine in an ELF header; big-endian ones are read from the other end.
    let number: u16 = match architecture {
        "386" => 3,
        "arm" => 40,
        "amd64" => 62,
        "arm64" => 183,
        "riscv64" => 243,
        "loong64" => 258,
        "s390x" => 22,
        "ppc64le" => 21,
        _ => return false,
    };
    let field = |name: &str| entry.lines().find_map(|line| line.strip_prefix(name));
    let is_enabled = entry.lines().next() == Some("enabled");
    let is_at_start = field("offset ").is_none_or(|offset| offset.trim() == "0");
    let magic = field("magic ").and_then(|magic| hex::decode(magic.trim()).ok()).unwrap_or_default();
    if !is_enabled || !is_at_start || magic.len() < 20 || !magic.starts_with(b"\x7fELF") {
        return false;
    }
    let machine = [magic[18], magic[19]];
    let is_little = magic[5] == 1;
    (if is_little { u16::from_le_bytes(machine) } else { u16::from_be_bytes(machine) }) == number
}

/// A number in 0..1 for jitter; not for secrets.
pub(crate) fn jitter() -> f64 {
    use std::hash::{BuildHasher, Hasher};
    let random = std::hash::RandomState::new().build_hasher().finish();
    (random >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_enabled_entry_for_elf_programs_of_the_architecture_covers_it() {
        let entry = |state: &str, magic: &str| {
            format!("{state}\ninterpreter /usr/bin/qemu\nflags: OCF\noffset 0\nmagic {magic}\nmask ffff\n")
        };
        let arm64 = entry("enabled", "7f454c460201010000000000000000000200b700");
        assert!(covers(&arm64, "arm64") && !covers(&arm64, "arm") && !covers(&arm64, "unheard-of"));
        assert!(!covers(&arm64.replace("enabled", "disabled"), "arm64"));
        assert!(!covers(&arm64.replace("offset 0", "offset 4"), "arm64"));
        let s390x = entry("enabled", "7f454c4602020100000000000000000000020016");
        assert!(covers(&s390x, "s390x") && !covers(&s390x, "ppc64le"));
        assert!(!covers("enabled", "arm64") && !covers(&entry("enabled", "cafebabe"), "amd64"));
        assert!(!covers(&entry("enabled", "zz"), "amd64"));
    }
}
