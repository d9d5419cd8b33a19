//! Kernel settings of the host's network namespace.
//!
//! Owns `ip_forward` and its former value, kept in the state directory until it is given back.

use crate::Error;
use std::fs;
use std::io;
use std::path::Path;

const FORWARD: &str = "net/ipv4/ip_forward";
/// Holds the value that was there before us.
const FORMER: &str = "ip_forward.before";

/// Sets `name` (with slashes) to `value`.
pub fn set(name: &str, value: &str) -> Result<(), Error> {
    let path = Path::new("/proc/sys").join(name);
    fs::write(path, value).map_err(|source| Error::Sysctl { name: name.into(), source })
}

/// Lets the kernel forward packets; remembers what it did before.
pub fn forward(state_dir: &Path) -> Result<(), Error> {
    let failed = |source| Error::Sysctl { name: FORWARD.into(), source };
    let now = fs::read_to_string(Path::new("/proc/sys").join(FORWARD)).map_err(failed)?;
    if now.trim() == "1" {
        return Ok(());
    }
    let path = state_dir.join(FORMER);
    fs::write(&path, now.trim()).map_err(|source| Error::Record { path, source })?;
    set(FORWARD, "1")
}

/// Puts back what [`forward`] has found, if it has changed anything.
pub fn restore_forward(state_dir: &Path) -> Result<(), Error> {
    let path = state_dir.join(FORMER);
    match fs::read_to_string(&path) {
        Ok(former) => {
            set(FORWARD, if former.trim() == "0" { "0" } else { "1" })?;
            fs::remove_file(&path).map_err(|source| Error::Record { path, source })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::Record { path, source }),
    }
}
