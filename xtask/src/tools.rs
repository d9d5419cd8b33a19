//! Programs that tests need beside what is installed, in `target/tools`.

use std::path::PathBuf;

use crate::shell;

/// The distribution's own kubectl, which never becomes the machine's: Debian's is from before WebSockets (1.20).
pub fn old_kubectl() -> PathBuf {
    directory().join("kubernetes-client/usr/bin/kubectl")
}

/// Where the clients of other languages lie, pinned by the files in `tests/clients`.
pub fn clients() -> PathBuf {
    directory().join("clients")
}

/// A Python that has the `kubernetes` package.
pub fn python() -> PathBuf {
    clients().join("python/bin/python")
}

/// Node.js from a wheel; `node_modules` beside it has `@kubernetes/client-node`.
pub fn node() -> PathBuf {
    clients().join("node")
}

/// Where they lie.
pub fn directory() -> PathBuf {
    shell::root().join("target/tools")
}
