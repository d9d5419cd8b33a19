//! Who a container's process is: CRI's wishes and the image's, looked up in the image's own files.
//!
//! The lookup is pure over the text of `/etc/passwd` and `/etc/group`; [`read_inside`] reads those without leaving the root.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use cri::v1::{LinuxContainerSecurityContext, SupplementalGroupsPolicy};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::error::Error;

/// Longest user database that is read, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The numbers of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Further groups; the first one may be among them.
    pub groups: Vec<u32>,
}

/// A file inside a root file system, however its links try to lead out. None if absent.
pub(crate) fn read_inside(root: &Path, path: &str) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let directory = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = File::from(rustix::fs::openat2(directory, path, flags, Mode::empty(), resolve).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Decides the identity. `image_user` is the config's `user[:group]`.
pub(crate) fn identify(
    security: &LinuxContainerSecurityContext,
    image_user: &str,
    passwd: &str,
    group: &str,
) -> Result<Identity, Error> {
    if security.run_as_group.is_some() && security.run_as_user.is_none() && security.run_as_username.is_empty() {
        return Err(Error::Invalid("run_as_group goes with run_as_user or run_as_username".into()));
    }
    let (image_user, image_group) = image_user.split_once(':').unwrap_or((image_user, ""));
    let wanted = match (&security.run_as_user, security.run_as_username.as_str()) {
        (Some(number), _) => number.value.to_string(),
        (None, "") => image_user.to_owned(),
        (None, name) => name.to_owned(),
    };
    // The image's group belongs to the image's user, not to another.
    let wanted_group = match &security.run_as_group {
        Some(number) => number.value.to_string(),
        None if security.run_as_user.is_none() && security.run_as_username.is_empty() => image_group.to_owned(),
        None => String::new(),
    };
    let user = find_user(passwd, &wanted)?;
    let gid = if wanted_group.is_empty() { user.gid } else { find_group(group, &wanted_group)? };
    let mut groups = vec![gid];
    if security.supplemental_groups_policy != SupplementalGroupsPolicy::Strict as i32 {
        groups.extend(member_of(group, &user.name));
    }
    for number in &security.supplemental_groups {
        groups.push(u32::try_from(*number).map_err(|_| Error::Invalid(format!("group {number} is out of range")))?);
    }
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|gid| seen.insert(*gid));
    Ok(Identity { uid: user.uid, gid, groups })
}

struct User {
    name: String,
    uid: u32,
    gid: u32,
}

fn find_user(passwd: &str, wanted: &str) -> Result<User, Error> {
    let wanted = if wanted.is_empty() { "0" } else { wanted };
    let number: Option<u32> = wanted.parse().ok();
    for line in passwd.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, ..] = fields[..] else { continue };
        let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse()) else { continue };
        if number.map_or(name == wanted, |number| number == uid) {
            return Ok(User { name: name.into(), uid, gid });
        }
    }
    match number {
        Some(uid) => Ok(User { name: String::new(), uid, gid: 0 }),
        None => Err(Error::Invalid(format!("no user {wanted:?} in the image's /etc/passwd"))),
    }
}

fn find_group(group: &str, wanted: &str) -> Result<u32, Error> {
    if let Ok(gid) = wanted.parse() {
        return Ok(gid);
    }
    let found = groups(group).find(|(name, _, _)| *name == wanted).map(|(_, gid, _)| gid);
    found.ok_or_else(|| Error::Invalid(format!("no group {wanted:?} in the image's /etc/group")))
}

fn member_of(group: &str, user: &str) -> Vec<u32> {
    let is_member = |members: &str| !user.is_empty() && members.split(',').any(|member| member.trim() == user);
    groups(group).filter(|(_, _, members)| is_member(members)).map(|(_, gid, _)| gid).collect()
}

fn groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?.parse().ok()?);
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri::v1::Int64Value;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34::/:\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:40:other,web\n";

    fn check(security: LinuxContainerSecurityContext, image: &str) -> (u32, u32, Vec<u32>) {
        let identity = identify(&security, image, PASSWD, GROUP).unwrap();
        (identity.uid, identity.gid, identity.groups)
    }

    #[test]
    fn the_image_says_who_unless_the_pod_does() {
        assert_eq!(check(LinuxContainerSecurityContext::default(), ""), (0, 0, vec![0]));
        assert_eq!(check(LinuxContainerSecurityContext::default(), "web"), (33, 34, vec![34, 40]));
        assert_eq!(check(LinuxContainerSecurityContext::default(), "web:logs"), (33, 40, vec![40]));
        let user = Some(Int64Value { value: 1000 });
        let security = LinuxContainerSecurityContext { run_as_user: user, ..Default::default() };
        assert_eq!(check(security, "web:logs"), (1000, 0, vec![0]));
    }

    #[test]
    fn a_group_without_a_user_is_refused() {
        let group = Some(Int64Value { value: 7 });
        let security = LinuxContainerSecurityContext { run_as_group: group, ..Default::default() };
        assert!(identify(&security, "web", PASSWD, GROUP).is_err());
        let security = LinuxContainerSecurityContext { run_as_username: "web".into(), ..security };
        assert_eq!(check(security, ""), (33, 7, vec![7, 40]));
    }

    #[test]
    fn the_strict_policy_ignores_the_image() {
        let security = LinuxContainerSecurityContext {
            supplemental_groups: vec![7],
            supplemental_groups_policy: SupplementalGroupsPolicy::Strict as i32,
            ..Default::default()
        };
        assert_eq!(check(security, "web"), (33, 34, vec![34, 7]));
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        assert!(identify(&LinuxContainerSecurityContext::default(), "ghost", PASSWD, GROUP).is_err());
    }

    #[test]
    fn a_link_cannot_lead_out_of_the_root() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/../../../../etc/passwd", root.path().join("etc/passwd")).unwrap();
        assert_eq!(read_inside(root.path(), "etc/passwd"), None);
    }
}
