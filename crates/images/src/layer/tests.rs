//! What archives may and may not do, checked on a directory with a neighbour that must never change.

use super::*;
use crate::hash::digest_of;
use crate::manifest::Packing;
use proptest::prelude::*;
use reference::Algorithm;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use tar::{EntryType, Header};

struct Bed {
    directory: tempfile::TempDir,
    result: Result<Unpacked, LayerFailure>,
}

impl Bed {
    fn path(&self, rest: &str) -> PathBuf {
        self.directory.path().join("root").join(rest)
    }

    #[track_caller]
    fn refusal(&self) -> String {
        match &self.result {
            Err(LayerFailure::Invalid(text)) => text.clone(),
            other => panic!("{other:?}"),
        }
    }
}

fn unpack(bytes: &[u8]) -> Bed {
    assert!(rustix::process::geteuid().is_root(), "unpacking sets owners and needs root");
    let directory = tempfile::tempdir().unwrap();
    let (target, partial) = (directory.path().join("root"), directory.path().join("partial"));
    std::fs::create_dir(&target).unwrap();
    std::fs::create_dir(directory.path().join("outside")).unwrap();
    std::fs::write(directory.path().join("outside/file"), "untouched").unwrap();
    std::fs::write(&partial, bytes).unwrap();
    let digest = digest_of(Algorithm::Sha256, bytes);
    let size = bytes.len() as u64;
    let (diff_id, packing) = (digest.clone(), Packing::Plain);
    let job = LayerJob { digest: Some(digest), size, packing, diff_id, target };
    let result = run(&job, Feed::File(std::fs::File::open(partial).unwrap()), &|_| ());
    let outside: Vec<_> = std::fs::read_dir(directory.path().join("outside")).unwrap().collect();
    assert_eq!(outside.len(), 1, "something was made outside");
    let neighbour = std::fs::metadata(directory.path().join("outside/file")).unwrap();
    assert_eq!((neighbour.nlink(), neighbour.uid()), (1, 0), "the file outside was linked or given away");
    assert_eq!(std::fs::read_to_string(directory.path().join("outside/file")).unwrap(), "untouched");
    Bed { directory, result }
}

/// An entry with a path and link exactly as given.
fn entry(kind: EntryType, path: &str, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o4755 });
    header.set_uid(1234);
    header.set_gid(5678);
    header.set_mtime(1_000_000_000);
    header.set_size(content.len() as u64);
    header.set_device_major(1).unwrap();
    header.set_device_minor(3).unwrap();
    header.set_cksum();
    let mut bytes = [header.as_bytes().as_slice(), content].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(path: &str, content: &str) -> Vec<u8> {
    entry(EntryType::Regular, path, "", content.as_bytes())
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0u8; 64];
    let length = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
    Some(value[..length].to_vec())
}

#[test]
fn every_kind_of_entry_is_unpacked_with_owner_mode_and_time() {
    let bed = unpack(
        &[
            entry(EntryType::Directory, "./", "", b""),
            entry(EntryType::Directory, "d/", "", b""),
            file("/d/file", "content"),
            entry(EntryType::Symlink, "d/soft", "/absolute", b""),
            entry(EntryType::Link, "hard", "d/file", b""),
            entry(EntryType::Char, "null", "", b""),
            entry(EntryType::Fifo, "fifo", "", b""),
            file("no/parents/here", "x"),
        ]
        .concat(),
    );
    bed.result.as_ref().unwrap();
    let found = std::fs::symlink_metadata(bed.path("d/file")).unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (1234, 5678, 0o4755));
    assert_eq!((found.mtime(), found.nlink()), (1_000_000_000, 2));
    assert_eq!(std::fs::read_link(bed.path("d/soft")).unwrap(), Path::new("/absolute"));
    let null = std::fs::metadata(bed.path("null")).unwrap();
    assert!(null.file_type().is_char_device() && null.rdev() == rustix::fs::makedev(1, 3));
    assert!(std::fs::metadata(bed.path("fifo")).unwrap().file_type().is_fifo());
    assert_eq!(std::fs::metadata(bed.path("d")).unwrap().mtime(), 1_000_000_000, "after its entries");
    assert_eq!(std::fs::metadata(bed.path("no/parents")).unwrap().mode() & 0o777, 0o755);
}

#[test]
fn whiteouts_become_those_of_overlayfs() {
    let bed = unpack(
        &[
            file("a/.wh.gone", ""),
            file("b/.wh..wh..opq", ""),
            file(".wh.again", ""),
            entry(EntryType::Directory, "again", "", b""),
            file("kept", "k"),
            file(".wh.kept", ""),
            file(".wh..wh.plnk", ""),
            file(".wh.deep", ""),
            file("deep/file", "x"),
        ]
        .concat(),
    );
    bed.result.as_ref().unwrap();
    let gone = std::fs::symlink_metadata(bed.path("a/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let opaque = |path| xattr(&bed.path(path), "trusted.overlay.opaque");
    assert_eq!(opaque("b").as_deref(), Some(b"y".as_slice()));
    assert_eq!(opaque("again").as_deref(), Some(b"y".as_slice()), "removed and made anew");
    assert_eq!(opaque("deep").as_deref(), Some(b"y".as_slice()), "removed and filled anew");
    assert_eq!(opaque("a"), None);
    assert_eq!(std::fs::read_to_string(bed.path("kept")).unwrap(), "k");
    assert!(!bed.path(".wh..wh.plnk").exists());
}

#[test]
fn attributes_are_set_but_not_those_of_overlayfs() {
    let record = |key: &str, value: &[u8]| {
        let body = [b" SCHILY.xattr.", key.as_bytes(), b"=", value, b"\n"].concat();
        let length = (body.len() + 2).to_string();
        assert_eq!(length.len(), 2);
        [length.as_bytes(), &body].concat()
    };
    let pax = [record("user.mine", b"a\nb"), record("trusted.overlay.redirect", b"/../x")].concat();
    let bed = unpack(&[entry(EntryType::XHeader, "pax", "", &pax), file("f", "x")].concat());
    bed.result.as_ref().unwrap();
    assert_eq!(xattr(&bed.path("f"), "user.mine").as_deref(), Some(b"a\nb".as_slice()));
    assert_eq!(xattr(&bed.path("f"), "trusted.overlay.redirect"), None);
}

#[test]
fn evil_archives_stay_inside_or_are_refused() {
    let climbing = unpack(&file("../outside/file", "evil"));
    assert!(climbing.refusal().contains("leads out of the layer"));
    assert!(unpack(&file("a/../../outside/file", "evil")).result.is_err());
    let absolute = unpack(&file("/outside/file", "inside"));
    assert_eq!(std::fs::read_to_string(absolute.path("outside/file")).unwrap(), "inside");
    for target in ["../outside", "/../outside", "../../../../../../../tmp"] {
        let link = entry(EntryType::Symlink, "link", target, b"");
        assert!(unpack(&[link, file("link/file", "evil")].concat()).result.is_err(), "{target} leads nowhere inside");
    }
    let outside = entry(EntryType::Directory, "outside", "", b"");
    let through = [outside, entry(EntryType::Symlink, "l", "../../outside", b"")].concat();
    let bed = unpack(&[through, file("l/file", "inside")].concat());
    assert_eq!(std::fs::read_to_string(bed.path("outside/file")).unwrap(), "inside");
    let over = unpack(&[entry(EntryType::Symlink, "f", "../outside/file", b""), file("f", "new")].concat());
    assert!(std::fs::symlink_metadata(over.path("f")).unwrap().is_file(), "the link is replaced, not followed");
    assert!(unpack(&entry(EntryType::Link, "h", "../outside/file", b"")).result.is_err());
    assert!(unpack(&entry(EntryType::Link, "h", "/outside/file", b"")).result.is_err());
    let magic = entry(EntryType::Symlink, "proc", "/proc/self/root", b"");
    assert!(unpack(&[magic, file("proc/tmp/evil", "x")].concat()).result.is_err());
    assert!(unpack(&file(".wh...", "")).result.is_err());
    let device_as_directory = [entry(EntryType::Char, "dev", "", b""), file("dev/x", "x")].concat();
    assert!(unpack(&device_as_directory).result.is_err());
}

#[test]
fn broken_archives_are_refused_without_believing_their_numbers() {
    let mut header = Header::new_gnu();
    header.set_path("huge").unwrap();
    header.set_mode(0o644);
    header.set_size(u64::MAX / 4);
    header.set_cksum();
    assert!(unpack(&[header.as_bytes().as_slice(), &[0; 512]].concat()).refusal().contains("ends inside"));
    header.set_size(u64::MAX);
    header.set_cksum();
    assert!(unpack(header.as_bytes()).result.is_err());
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    assert!(unpack(header.as_bytes()).refusal().contains("extended header"));
    assert!(unpack(&file("f", "content")[..515]).result.is_err());
    assert!(unpack(b"this is no archive").result.is_err());
    assert!(unpack(&[7; 2048]).refusal().contains("checksum"));
    unpack(b"").result.unwrap();
}

/// A pax header with records.
fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let record = |(key, value): &(&str, &[u8])| {
        let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let mut length = body.len() + 1;
        while length != body.len() + length.to_string().len() {
            length = body.len() + length.to_string().len();
        }
        [length.to_string().as_bytes(), &body].concat()
    };
    entry(EntryType::XHeader, "pax", "", &records.iter().flat_map(record).collect::<Vec<u8>>())
}

#[test]
fn names_that_no_file_system_takes_are_refused() {
    let long = "n".repeat(4096);
    assert!(unpack(&[pax(&[("path", long.as_bytes())]), file("f", "x")].concat()).refusal().contains("name too long"));
    let deep = "d/".repeat(2048);
    assert!(unpack(&[pax(&[("path", deep.as_bytes())]), file("f", "x")].concat()).result.is_err());
    let link = [pax(&[("linkpath", long.as_bytes())]), entry(EntryType::Symlink, "l", "x", b"")].concat();
    assert!(unpack(&link).result.is_err());
    // A name of 255 bytes below a path of 3 KiB is fine.
    let most = format!("{}{}", "directory/".repeat(300), "n".repeat(255));
    let bed = unpack(&[pax(&[("path", most.as_bytes())]), file("f", "x")].concat());
    bed.result.as_ref().unwrap();
    assert_eq!(std::fs::read_to_string(bed.path(&most)).unwrap(), "x");
}

#[test]
fn sparse_members_are_refused_whatever_they_announce() {
    let bomb = entry(EntryType::GNUSparse, "bomb", "", b"");
    assert!(unpack(&bomb).refusal().contains("sparse"));
    for key in ["GNU.sparse.realsize", "GNU.sparse.major"] {
        let bytes = [pax(&[(key, b"1099511627776")]), file("bomb", "")].concat();
        assert!(unpack(&bytes).refusal().contains("sparse"), "{key}");
    }
    let announced = [pax(&[("size", b"18446744073709551615")]), file("f", "x")].concat();
    assert!(unpack(&announced).result.is_err());
    let announced = [pax(&[("size", b"1099511627776")]), file("f", "x")].concat();
    assert!(unpack(&announced).refusal().contains("ends inside"));
}

#[test]
fn many_extended_headers_in_a_row_take_the_memory_of_one() {
    let value = vec![b'v'; 60_000];
    let mut bytes = Vec::new();
    for n in 0..200 {
        bytes.extend(pax(&[(format!("SCHILY.xattr.user.n{n}").as_str(), &value)]));
    }
    bytes.extend(pax(&[("SCHILY.xattr.user.last", b"1")]));
    bytes.extend(file("f", "x"));
    let bed = unpack(&bytes);
    bed.result.as_ref().unwrap();
    assert_eq!(xattr(&bed.path("f"), "user.last").as_deref(), Some(b"1".as_slice()));
    assert_eq!(xattr(&bed.path("f"), "user.n199"), None);
}

#[test]
fn whiteouts_reach_nothing_but_their_own_directory() {
    let bed = unpack(
        &[
            entry(EntryType::Directory, "d", "", b""),
            entry(EntryType::Symlink, "l", "../outside", b""),
            file(".wh.l", ""),
            file("d/.wh..wh..opq", ""),
            file(".wh..wh..opq", ""),
        ]
        .concat(),
    );
    bed.result.as_ref().unwrap();
    assert!(std::fs::symlink_metadata(bed.path("l")).unwrap().file_type().is_symlink(), "its own link stays");
    for name in [".wh.", ".wh..", "d/.wh..", "l/.wh.file", ".wh.a/b"] {
        // Refused or without effect; `unpack` checks the outside.
        let _ = unpack(&[entry(EntryType::Symlink, "l", "../outside", b""), file(name, "")].concat());
    }
    let device = unpack(&[entry(EntryType::Char, "null", "", b""), file("null/x", "")].concat());
    assert!(device.result.is_err(), "a device is no directory");
    let over = unpack(&[entry(EntryType::Block, "f", "", b""), file("f", "plain")].concat());
    assert!(std::fs::symlink_metadata(over.path("f")).unwrap().is_file());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn no_sequence_of_entries_leaves_the_root(
        steps in prop::collection::vec(
            (0u8..5, r"(/|\.\./|a/|b/){0,3}(a|b|\.\.|\.wh\.a)", r"(/|\.\./|a/){0,4}(a|b|outside|outside/file)"),
            1..8,
        )
    ) {
        let kinds = [EntryType::Regular, EntryType::Directory, EntryType::Symlink, EntryType::Link, EntryType::Fifo];
        let content = |kind: u8| if kind == 0 { b"evil".as_slice() } else { b"" };
        let entries = steps.iter().map(|(kind, path, link)| entry(kinds[usize::from(*kind)], path, link, content(*kind)));
        // `unpack` itself checks that nothing outside has changed.
        let _ = unpack(&entries.collect::<Vec<_>>().concat());
    }
}
