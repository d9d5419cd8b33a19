//! Which capabilities a container has: a default set, what is added, what is dropped, never more than we have.

use cri::v1::LinuxContainerSecurityContext;

use super::Machine;
use crate::error::Error;

/// All capabilities, at the place of their number.
pub(crate) const ALL: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What a container has when nobody says anything.
const DEFAULT: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// The capabilities whose bits are set in a mask as `/proc/self/status` shows it.
pub(crate) fn of_mask(mask: u64) -> Vec<&'static str> {
    ALL.iter().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0).map(|(_, name)| *name).collect()
}

/// The container's set. `ALL` in add or drop means all; single names are then applied on top.
pub(crate) fn of(security: &LinuxContainerSecurityContext, machine: &Machine) -> Result<Vec<&'static str>, Error> {
    let asked = security.capabilities.clone().unwrap_or_default();
    if security.privileged {
        return Ok(machine.capabilities.clone());
    }
    let (add_all, add) = parse(&asked.add_capabilities)?;
    let (drop_all, drop) = parse(&asked.drop_capabilities)?;
    let mut set: Vec<&'static str> = match (add_all, drop_all) {
        (true, _) => machine.capabilities.clone(),
        (false, true) => Vec::new(),
        (false, false) => DEFAULT.to_vec(),
    };
    set.extend(add);
    set.retain(|name| !drop.contains(name));
    set.sort_unstable();
    set.dedup();
    set.retain(|name| machine.capabilities.contains(name));
    Ok(set)
}

fn parse(names: &[String]) -> Result<(bool, Vec<&'static str>), Error> {
    let mut all = false;
    let mut known = Vec::new();
    for name in names {
        let upper = name.to_ascii_uppercase();
        if upper == "ALL" || upper == "CAP_ALL" {
            all = true;
            continue;
        }
        let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        match ALL.iter().find(|candidate| **candidate == full) {
            Some(found) => known.push(*found),
            None => return Err(Error::Invalid(format!("unknown capability {name:?}"))),
        }
    }
    Ok((all, known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri::v1::Capability;

    fn check(add: &[&str], drop: &[&str]) -> Vec<&'static str> {
        let machine = Machine { capabilities: of_mask(0x1ff_feff_ffff), ..Machine::default() };
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let capabilities =
            Capability { add_capabilities: owned(add), drop_capabilities: owned(drop), ..Default::default() };
        let security = LinuxContainerSecurityContext { capabilities: Some(capabilities), ..Default::default() };
        of(&security, &machine).unwrap()
    }

    #[test]
    fn names_come_with_or_without_prefix() {
        assert!(check(&["NET_ADMIN"], &[]).contains(&"CAP_NET_ADMIN"));
        assert!(!check(&[], &["CAP_CHOWN"]).contains(&"CAP_CHOWN"));
    }

    #[test]
    fn drop_all_leaves_what_is_added() {
        assert_eq!(check(&["NET_BIND_SERVICE"], &["ALL"]), ["CAP_NET_BIND_SERVICE"]);
    }

    #[test]
    fn nobody_gets_what_we_lack() {
        assert!(!check(&["ALL"], &[]).contains(&"CAP_SYS_RESOURCE"));
        assert_eq!(check(&["ALL"], &["SYS_ADMIN"]).len(), 39);
    }
}
