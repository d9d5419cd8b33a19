//! Which credentials to try for an image: the pod's pull secrets, then the node's own files.
//!
//! Owns the search list of node files, the reading of pull Secrets and the order of what was found (IMG-160..186). Must
//! not pull, and must not log or return a secret anywhere but in [`v1::AuthConfig`]. `parse` is pure. Start at
//! [`Credentials::for_image`].

mod parse;

pub use parse::{Entry, Keyring, Kind};

use crate::object::{Pod, Secret};
use crate::volumes::Sources;
use cri::v1;
use futures_util::future::join_all;
use reference::{Reference, credential};
use std::path::{Path, PathBuf};

/// Where the kubelet keeps its configuration; searched beside our own data directory.
const KUBELET_ROOT: &str = "/var/lib/kubelet";

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
}

/// What was found for one image.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lookup {
    /// To be tried one after another until one works (IMG-180). Empty: one anonymous attempt (IMG-181).
    pub auths: Vec<v1::AuthConfig>,
    /// Headers of the winning node file for a registry that it has a credential for.
    pub headers: Vec<(String, String)>,
    /// Names of pull Secrets that could not be read, for `FailedToRetrieveImagePullSecret` (IMG-183).
    pub missing: Vec<String>,
    /// Entries that were skipped and why; free of secrets (IMG-167).
    pub problems: Vec<String>,
}

/// Finds credentials for images.
#[derive(Debug, Clone)]
pub struct Credentials {
    sources: Sources,
    places: Places,
}

impl Credentials {
    /// Reads pull Secrets through `sources` and node files at `places`.
    pub fn new(sources: Sources, places: Places) -> Credentials {
        Credentials { sources, places }
    }

    /// Everything that matches the image, in the order in which it is to be tried: pull Secrets before node files,
    /// more specific keys before less specific ones (IMG-176, IMG-182). Files are read anew each time, so edits take
    /// effect at once.
    pub async fn for_image(&self, pod: &Pod, image: &str) -> Lookup {
        let mut out = Lookup::default();
        let Ok(reference) = Reference::parse(image) else { return out };
        let repository = reference.repository();
        let secrets = self.secrets(pod, &mut out).await;
        take(&mut out, &secrets, &repository);
        let places = self.places.clone();
        let found = tokio::task::spawn_blocking(move || node_file(&places)).await;
        let (file, problems) = found.unwrap_or_default();
        out.problems.extend(problems);
        if take(&mut out, &file, &repository) {
            out.headers = file.headers;
        }
        out
    }

    /// One keyring over all pull Secrets, so that the more specific key wins across them.
    async fn secrets(&self, pod: &Pod, out: &mut Lookup) -> Keyring {
        let names: Vec<&str> =
            pod.spec.image_pull_secrets.iter().map(|r| r.name.as_str()).filter(|name| !name.is_empty()).collect();
        let mut asked = Vec::new();
        for name in &names {
            asked.push(self.sources.secret(pod.namespace(), name));
        }
        let answers = join_all(asked).await;
        let mut keyring = Keyring::default();
        for (name, answer) in names.into_iter().zip(answers) {
            match answer {
                Ok(Some(secret)) => {
                    let (found, problems) = from_secret(&secret);
                    keyring.entries.extend(found.entries);
                    out.problems.extend(problems.into_iter().map(|p| format!("secret {name}: {p}")));
                }
                Ok(None) | Err(_) if out.missing.iter().any(|m| m == name) => {}
                Ok(None) | Err(_) => out.missing.push(name.to_owned()),
            }
        }
        keyring
    }
}

/// The credentials of a pull Secret; none for other types and for empty values (IMG-185).
fn from_secret(secret: &Secret) -> (Keyring, Vec<String>) {
    let (key, kind) = match secret.type_.as_str() {
        "kubernetes.io/dockerconfigjson" => (".dockerconfigjson", Kind::ConfigJson),
        "kubernetes.io/dockercfg" => (".dockercfg", Kind::DockerCfg),
        _ => return Default::default(),
    };
    match secret.data.get(key).filter(|data| !data.0.is_empty()) {
        Some(data) => parse::parse(&data.0, kind).unwrap_or_else(|problem| (Keyring::default(), vec![problem])),
        None => Default::default(),
    }
}

/// The first file that parses; it wins even when it holds no credentials (IMG-161).
fn node_file(places: &Places) -> (Keyring, Vec<String>) {
    let mut problems = Vec::new();
    for (path, kind) in places.list() {
        let Ok(data) = std::fs::read(&path) else { continue };
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

/// Appends the keyring's matching credentials that are not there yet; true when any key matched.
fn take(out: &mut Lookup, keyring: &Keyring, repository: &str) -> bool {
    let keys: Vec<&str> = keyring.entries.iter().map(|e| e.key.as_str()).collect();
    let found =
        credential::lookup(&keys, repository, credential::GlobMode::default(), credential::PathBoundary::default());
    for index in &found {
        let auth = &keyring.entries[*index].auth;
        if !out.auths.contains(auth) {
            out.auths.push(auth.clone());
        }
    }
    !found.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_search_list_has_every_config_json_before_any_dockercfg() {
        let path = |text: &str| Some(PathBuf::from(text));
        let places = Places {
            roots: vec!["/r".into()],
            working_directory: path("/w"),
            home: path("/h"),
            file_system: path("/"),
        };
        let list: Vec<_> = places.list().into_iter().map(|(path, _)| path.display().to_string()).collect();
        assert_eq!(
            list,
            [
                "/r/config.json",
                "/w/config.json",
                "/h/.docker/config.json",
                "/.docker/config.json",
                "/r/.dockercfg",
                "/w/.dockercfg",
                "/h/.dockercfg",
                "/.dockercfg"
            ]
        );
    }

    #[test]
    fn the_first_file_that_parses_wins_even_without_credentials() {
        let directory = tempfile::tempdir().unwrap();
        let root = |name: &str| {
            let path = directory.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let (broken, empty, full) = (root("a"), root("b"), root("c"));
        fs::write(broken.join("config.json"), "{").unwrap();
        fs::write(full.join("config.json"), r#"{"auths":{"r.io":{"username":"u","password":"p"}}}"#).unwrap();
        let places =
            |roots: &[&PathBuf]| Places { roots: roots.iter().map(|r| (*r).clone()).collect(), ..Default::default() };
        let (keyring, problems) = node_file(&places(&[&broken, &full]));
        assert_eq!((keyring.entries.len(), problems.len()), (1, 1));
        fs::write(empty.join("config.json"), "{}").unwrap();
        assert_eq!(node_file(&places(&[&empty, &full])).0.entries.len(), 0);
    }

    #[test]
    fn specific_keys_come_first_and_equal_credentials_once() {
        let json = r#"{"auths":{"r.io":{"username":"wide","password":"x"},"r.io/team":{"username":"near","password":"y"},
            "*.io":{"username":"wide","password":"x"}}}"#;
        let (keyring, _) = parse::parse(json.as_bytes(), Kind::ConfigJson).unwrap();
        let mut out = Lookup::default();
        assert!(take(&mut out, &keyring, "r.io/team/app"));
        let users: Vec<_> = out.auths.iter().map(|a| a.username.as_str()).collect();
        assert_eq!(users, ["near", "wide"]);
        assert!(!take(&mut Lookup::default(), &keyring, "other.org/app"));
    }
}
