//! Device nodes of a container, and the rules that let it use them.

use serde_json::{Value, json};

/// A device node of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostDevice {
    /// Where the container sees it.
    pub path: String,
    /// `c` or `b`.
    pub kind: &'static str,
    pub major: u32,
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// The nodes to make.
pub(super) fn of(devices: &[(HostDevice, String)]) -> Vec<Value> {
    let node = |device: &HostDevice| {
        json!({
            "path": device.path, "type": device.kind, "major": device.major, "minor": device.minor,
            "fileMode": device.mode, "uid": device.uid, "gid": device.gid,
        })
    };
    devices.iter().map(|(device, _)| node(device)).collect()
}

/// Nothing is allowed but what is listed; the OCI runtime adds the harmless ones (null, zero, random, …).
pub(super) fn rules(devices: &[(HostDevice, String)], privileged: bool) -> Vec<Value> {
    if privileged {
        return vec![json!({ "allow": true, "access": "rwm" })];
    }
    let mut rules = vec![json!({ "allow": false, "access": "rwm" })];
    rules.extend(devices.iter().map(|(device, access)| {
        let access = if access.is_empty() { "rwm" } else { access };
        json!({ "allow": true, "type": device.kind, "major": device.major, "minor": device.minor, "access": access })
    }));
    rules
}
