//! Where the node's own credential files may be (IMG-160).
//!
//! Owns the search list and the reading of its first good file. Must not match or order credentials. Start at
//! [`Places::list`].

use super::parse::{self, Keyring, Kind};
use std::path::{Path, PathBuf};

/// Where the kubelet keeps its configuration; searched beside our own data directory.
const KUBELET_ROOT: &str = "/var/lib/kubelet";
/// A larger file is not a credential file.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Where node files are searched; each part may be absent.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Root directories in order, by default the data directory and then the kubelet's.
    pub roots: Vec<PathBuf>,
    /// The working directory of the process.
    pub working_directory: Option<PathBuf>,
    /// `$HOME` as it was when the process started (IMG-162).
    pub home: Option<PathBuf>,
    /// The root of the file system, `/`.
    pub file_system: Option<PathBuf>,
}

impl Places {
    /// The places of IMG-160 for a node whose root directory is `data_dir`.
    pub fn of_node(data_dir: &Path) -> Places {
        Places {
            roots: vec![data_dir.to_owned(), PathBuf::from(KUBELET_ROOT)],
            working_directory: std::env::current_dir().ok(),
            home: std::env::var_os("HOME").map(PathBuf::from),
            file_system: Some(PathBuf::from("/")),
        }
    }

    /// The search list: every `config.json` before any `.dockercfg` (IMG-160, IMG-161).
    pub fn list(&self) -> Vec<(PathBuf, Kind)> {
        let plain: Vec<&PathBuf> = self.roots.iter().chain(&self.working_directory).collect();
        let homes: Vec<&PathBuf> = self.home.iter().chain(&self.file_system).collect();
        let config = plain.iter().map(|d| d.join("config.json"));
        let docker = homes.iter().map(|d| d.join(".docker/config.json"));
        let old = plain.iter().chain(&homes).map(|d| d.join(".dockercfg"));
        let config = config.chain(docker).map(|path| (path, Kind::ConfigJson));
        config.chain(old.map(|path| (path, Kind::DockerCfg))).collect()
    }

    /// The first file that parses; it wins even when it holds no credentials (IMG-161). The second part says what was
    /// skipped.
    pub(super) fn read(&self) -> (Keyring, Vec<String>) {
        let mut problems = Vec::new();
        for (path, kind) in self.list() {
            let Ok(data) = read(&path) else { continue };
            match parse::parse(&data, kind) {
                Ok((keyring, skipped)) => {
                    problems.extend(skipped.into_iter().map(|p| format!("{}: {p}", path.display())));
                    return (keyring, problems);
                }
                Err(problem) => problems.push(format!("{}: {problem}", path.display())),
            }
        }
        (Keyring::default(), problems)
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let length = std::fs::metadata(path)?;
    if !length.is_file() || length.len() > FILE_BYTES_MAX {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    std::fs::read(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn four() -> (tempfile::TempDir, Places) {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let places = Places {
            roots: vec![at("root")],
            working_directory: Some(at("cwd")),
            home: Some(at("home")),
            file_system: Some(at("fs")),
        };
        (directory, places)
    }

    #[test]
    fn the_search_list_has_every_config_json_before_any_dockercfg() {
        let (directory, places) = four();
        let list: Vec<_> = places
            .list()
            .into_iter()
            .map(|(path, _)| path.strip_prefix(directory.path()).unwrap().display().to_string())
            .collect();
        let wanted = [
            "root/config.json",
            "cwd/config.json",
            "home/.docker/config.json",
            "fs/.docker/config.json",
            "root/.dockercfg",
            "cwd/.dockercfg",
            "home/.dockercfg",
            "fs/.dockercfg",
        ];
        assert_eq!(list, wanted);
    }

    #[test]
    fn a_credential_in_each_place_is_found_in_turn_as_the_earlier_ones_are_removed() {
        let (_directory, places) = four();
        let list = places.list();
        for (index, (path, kind)) in list.iter().enumerate() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let entry = format!(r#"{{"r.io":{{"username":"user-{index}","password":"p"}}}}"#);
            let text = if *kind == Kind::ConfigJson { format!(r#"{{"auths":{entry}}}"#) } else { entry };
            fs::write(path, text).unwrap();
        }
        for (index, (path, _)) in list.iter().enumerate() {
            assert_eq!(places.read().0.entries[0].auth.username, format!("user-{index}"));
            fs::remove_file(path).unwrap();
        }
        assert!(places.read().0.entries.is_empty());
    }

    #[test]
    fn the_first_file_that_parses_wins_even_without_credentials() {
        let (_directory, places) = four();
        let list = places.list();
        let write = |index: usize, text: &str| {
            fs::create_dir_all(list[index].0.parent().unwrap()).unwrap();
            fs::write(&list[index].0, text).unwrap();
        };
        write(2, r#"{"auths":{"r.io":{"username":"u","password":"p"}}}"#);
        write(0, "{");
        let (keyring, problems) = places.read();
        assert_eq!((keyring.entries.len(), problems.len()), (1, 1));
        write(1, "{}");
        assert_eq!(places.read().0.entries.len(), 0);
        fs::remove_file(&list[1].0).unwrap();
        fs::create_dir(&list[1].0).unwrap();
        assert_eq!(places.read().0.entries.len(), 1, "what is no file is passed over");
    }
}
