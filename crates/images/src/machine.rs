//! What this room asks of the machine it runs on: wall time, the boot's identity, foreign binary formats.
//!
//! A leaf: the only place of the room that reads the clock or `/proc`.

#![allow(clippy::disallowed_methods)] // Reason: the one place where wall time enters the room.

use std::path::Path;
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

/// Whether the kernel runs programs of that architecture through binfmt_misc.
pub(crate) fn runs_foreign(architecture: &str) -> bool {
    let name = match architecture {
        "amd64" => "x86_64",
        "386" => "i386",
        "arm64" => "aarch64",
        other => other,
    };
    let entry = Path::new("/proc/sys/fs/binfmt_misc").join(format!("qemu-{name}"));
    !name.contains('/') && std::fs::read_to_string(entry).is_ok_and(|text| text.starts_with("enabled"))
}

/// A number in 0..1 for jitter; not for secrets.
pub(crate) fn jitter() -> f64 {
    use std::hash::{BuildHasher, Hasher};
    let random = std::hash::RandomState::new().build_hasher().finish();
    (random >> 11) as f64 / (1u64 << 53) as f64
}
