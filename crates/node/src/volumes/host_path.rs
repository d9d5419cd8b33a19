//! hostPath volumes: checking the type, creating what may be created.
//!
//! Start at [`check`]; texts are Kubernetes' own.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
};

/// Checks the path against `hostPath.type`, and creates it for the two types that say so.
pub(super) fn check(path: &Path, type_: &str) -> Result<(), String> {
    if path.components().any(|c| c == std::path::Component::ParentDir) {
        return Err("path must not contain '..'".to_owned());
    }
    create(path, type_).map_err(|e| format!("cannot create {}: {e}", path.display()))?;
    let Some(expected) = expectation(type_)? else { return Ok(()) };
    let kind = fs::metadata(path).map(|m| m.file_type());
    let is_so = kind.is_ok_and(|kind| match expected {
        "a directory" => kind.is_dir(),
        "a file" => kind.is_file(),
        "a socket file" => kind.is_socket(),
        "a character device" => kind.is_char_device(),
        _ => kind.is_block_device(),
    });
    match is_so {
        true => Ok(()),
        false => Err(format!("hostPath type check failed: {} is not {expected}", path.display())),
    }
}

/// What the type demands; None for no check.
fn expectation(type_: &str) -> Result<Option<&'static str>, String> {
    Ok(Some(match type_ {
        "" => return Ok(None),
        "Directory" | "DirectoryOrCreate" => "a directory",
        "File" | "FileOrCreate" => "a file",
        "Socket" => "a socket file",
        "CharDevice" => "a character device",
        "BlockDevice" => "a block device",
        other => return Err(format!("{other} is an invalid volume type")),
    }))
}

fn create(path: &Path, type_: &str) -> std::io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    match type_ {
        "DirectoryOrCreate" => {
            fs::create_dir_all(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        }
        "FileOrCreate" => {
            fs::OpenOptions::new().append(true).create(true).open(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o644))
        }
        // Without a type the runtime would create the directory; doing it here keeps that in one place.
        "" => fs::create_dir_all(path),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn types_are_checked_and_only_or_create_creates() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        check(&path("d"), "DirectoryOrCreate").unwrap();
        check(&path("f"), "FileOrCreate").unwrap();
        check(&path("d"), "Directory").unwrap();
        check(&path("f"), "File").unwrap();
        let expect =
            |name: &str, what: &str| format!("hostPath type check failed: {} is not {what}", path(name).display());
        assert_eq!(check(&path("d"), "File").unwrap_err(), expect("d", "a file"));
        assert_eq!(check(&path("none"), "Directory").unwrap_err(), expect("none", "a directory"));
        assert_eq!(check(&path("f"), "Socket").unwrap_err(), expect("f", "a socket file"));
        check(std::path::Path::new("/dev/null"), "CharDevice").unwrap();
        assert!(check(&path("d/../f"), "").is_err());
    }
}
