//! Programs that tests need beside what is installed, in `target/tools`.

use std::path::PathBuf;

use crate::shell;

/// The distribution's own kubectl, which never becomes the machine's: Debian's is from before WebSockets (1.20).
pub fn old_kubectl() -> PathBuf {
    directory().join("kubernetes-client/usr/bin/kubectl")
}

/// Where they lie.
pub fn directory() -> PathBuf {
    shell::root().join("target/tools")
}
