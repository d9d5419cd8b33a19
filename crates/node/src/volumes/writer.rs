//! Writing a volume's files so that a reader sees either all old or all new contents.
//!
//! Owns the layout `..data → ..<random>/`, `<name> → ..data/<name>`. One rename of `..data` switches everything; it
//! is the layout that programs which watch their configuration know from Kubernetes. Start at [`write`].

use super::payload::Payload;
use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
};

const CURRENT: &str = "..data";
const NEXT: &str = "..data_tmp";

/// Makes the directory hold exactly the payload. Does nothing when it already does.
pub(super) fn write(volume: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    let current = fs::read_link(volume.join(CURRENT)).ok();
    if !current.as_ref().is_some_and(|c| holds(&volume.join(c), payload, group)) {
        let fresh = PathBuf::from(format!("..{:016x}", rand::random::<u64>()));
        fill(&volume.join(&fresh), payload, group)?;
        let next = volume.join(NEXT);
        remove_if_present(&next)?;
        symlink(&fresh, &next)?;
        fs::rename(&next, volume.join(CURRENT))?;
    }
    link_names(volume, payload)?;
    sweep(volume)
}

/// True when the directory has exactly these files with these contents and modes.
fn holds(directory: &Path, payload: &Payload, group: Option<u32>) -> bool {
    let same = payload.iter().all(|(path, file)| {
        let path = directory.join(path);
        let mode = fs::metadata(&path).map(|m| m.permissions().mode() & 0o777);
        mode.is_ok_and(|m| m == file_mode(file.mode, group)) && fs::read(&path).is_ok_and(|data| data == file.data)
    });
    same && count(directory).is_ok_and(|n| n == payload.len())
}

/// How many files are in a tree.
fn count(directory: &Path) -> io::Result<usize> {
    let mut files = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        files += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(files)
}

fn file_mode(mode: u32, group: Option<u32>) -> u32 {
    if group.is_some() { mode | 0o440 } else { mode }
}

fn fill(directory: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    make_directory(directory, group)?;
    for (path, file) in payload {
        let mut parent = directory.to_owned();
        let (parents, _) = path.rsplit_once('/').unwrap_or(("", path));
        for part in parents.split('/').filter(|p| !p.is_empty()) {
            parent.push(part);
            make_directory(&parent, group)?;
        }
        let path = directory.join(path);
        fs::write(&path, &file.data)?;
        chown(&path, file.owner, group)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(file_mode(file.mode, group)))?;
    }
    Ok(())
}

fn make_directory(path: &Path, group: Option<u32>) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    chown(path, None, group)?;
    fs::set_permissions(path, fs::Permissions::from_mode(if group.is_some() { 0o2755 } else { 0o755 }))
}

/// One symlink per first path component; links of names that are gone go as well.
fn link_names(volume: &Path, payload: &Payload) -> io::Result<()> {
    let names: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &names {
        let (link, target) = (volume.join(name), Path::new(CURRENT).join(name));
        if fs::read_link(&link).ok().as_ref() != Some(&target) {
            remove_if_present(&link)?;
            symlink(&target, &link)?;
        }
    }
    for entry in fs::read_dir(volume)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_ours = fs::read_link(entry.path()).is_ok_and(|target| target == Path::new(CURRENT).join(&name));
        if is_ours && name.to_str().is_some_and(|n| !names.contains(n)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Removes directories of earlier contents, also those that a crash left behind.
fn sweep(volume: &Path) -> io::Result<()> {
    let current = fs::read_link(volume.join(CURRENT))?;
    for entry in fs::read_dir(volume)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_old = name.to_string_lossy().starts_with("..") && name != current.as_os_str();
        if is_old && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    remove_if_present(&volume.join(NEXT))
}

fn remove_if_present(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::payload::File;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |data: &str| File { data: data.into(), mode: 0o640, owner: None };
        files.iter().map(|(path, data)| ((*path).to_owned(), file(data))).collect()
    }

    #[test]
    fn an_update_switches_all_files_at_once_and_leaves_nothing_old() {
        let directory = tempfile::tempdir().unwrap();
        let volume = directory.path();
        write(volume, &payload(&[("a", "1"), ("sub/b", "2")]), None).unwrap();
        let first = fs::read_link(volume.join("..data")).unwrap();
        write(volume, &payload(&[("a", "1"), ("sub/b", "2")]), None).unwrap();
        assert_eq!(fs::read_link(volume.join("..data")).unwrap(), first, "equal contents are not rewritten");
        fs::create_dir(volume.join("..leftover")).unwrap();
        write(volume, &payload(&[("a", "3"), ("c", "4")]), None).unwrap();
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "3");
        assert_eq!(fs::metadata(volume.join("c")).unwrap().permissions().mode() & 0o777, 0o640);
        let mut names: Vec<_> =
            fs::read_dir(volume).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|n| n != fs::read_link(volume.join("..data")).unwrap().to_str().unwrap());
        names.sort();
        assert_eq!(names, ["..data", "a", "c"]);
    }
}
