//! Fetches the files of containerd and CRI-O: imports, drop-ins, and gVisor's own file.
//!
//! A file that is not there is no mistake unless a setting named it; one that cannot be read or understood is an error
//! with its line. Start at [`read`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::foreign::{Foreign, Source};
use super::{containerd, crio};

/// Where the files are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// containerd's configuration.
    pub containerd: Option<Place>,
    /// CRI-O's configuration.
    pub crio: Option<Place>,
    /// Its drop-ins.
    pub crio_drop_ins: Option<Place>,
}

/// A path, and whether somebody asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// File or directory.
    pub path: PathBuf,
    /// It has to be there.
    pub is_required: bool,
}

impl Place {
    /// A setting or its default; an empty path is none.
    pub fn of(given: Option<PathBuf>, default: &str) -> Option<Place> {
        let is_required = given.is_some();
        let path = given.unwrap_or_else(|| default.into());
        (!path.as_os_str().is_empty()).then_some(Place { path, is_required })
    }
}

/// What the files say, and which paths to watch for another word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub containerd: Foreign,
    pub crio: Foreign,
    /// Files and directories, also those that are not there yet.
    pub watched: BTreeSet<PathBuf>,
}

/// Imports of imports end somewhere.
const FILES_MAX: usize = 1000;

/// Reads all files.
pub fn read(places: &Places) -> anyhow::Result<Found> {
    let mut found = Found::default();
    if let Some(place) = &places.containerd {
        found.containerd = read_containerd(place, &mut found.watched)?;
    }
    found.crio = read_crio(places, &mut found.watched)?;
    Ok(found)
}

/// The file's text; None if it is not there and need not be.
fn text(place: &Place) -> anyhow::Result<Option<String>> {
    match std::fs::read_to_string(&place.path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !place.is_required => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", place.path.display())),
    }
}

fn read_containerd(place: &Place, watched: &mut BTreeSet<PathBuf>) -> anyhow::Result<Foreign> {
    let mut layers = containerd::Layers::default();
    let mut waiting = std::collections::VecDeque::from([place.clone()]);
    let mut seen = BTreeSet::new();
    while let Some(place) = waiting.pop_front() {
        if !seen.insert(place.path.clone()) {
            continue;
        }
        if seen.len() > FILES_MAX {
            bail!("{}: more than {FILES_MAX} files are imported", place.path.display());
        }
        watched.insert(place.path.clone());
        let Some(text) = text(&place)? else { continue };
        for import in containerd::parse(Source { path: &place.path, text: &text }, &mut layers)? {
            waiting.extend(imported(&place.path, &import, watched)?);
        }
    }
    let mut foreign = layers.foreign();
    for declared in foreign.handlers.values_mut() {
        let Ok(served) = &mut declared.how else { continue };
        let Some(path) = served.runsc_config.clone() else { continue };
        watched.insert(path.clone());
        let place = Place { path, is_required: true };
        let text = text(&place).with_context(|| format!("{}: ConfigPath", declared.at))?.unwrap_or_default();
        containerd::parse_runsc(Source { path: &place.path, text: &text }, served)?;
    }
    Ok(foreign)
}

/// The files of an import, which is relative to its file's directory and may have `*` in its last part.
fn imported(file: &Path, import: &str, watched: &mut BTreeSet<PathBuf>) -> anyhow::Result<Vec<Place>> {
    let path = file.parent().unwrap_or(Path::new("/")).join(import);
    if !import.contains('*') {
        return Ok(vec![Place { path, is_required: true }]);
    }
    let (Some(directory), Some(glob)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        bail!("{}: imports {import:?} is no path", file.display());
    };
    if directory.to_string_lossy().contains('*') {
        bail!("{}: imports {import:?}: `*` is for the last part of the path", file.display());
    }
    watched.insert(directory.into());
    let files = list(directory, |name| reference::glob::matches(glob, name))?;
    Ok(files.into_iter().map(|path| Place { path, is_required: true }).collect())
}

/// The files of a directory whose names are wanted, by name; none if there is no directory.
fn list(directory: &Path, is_wanted: impl Fn(&str) -> bool) -> anyhow::Result<BTreeSet<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(error).with_context(|| format!("read {}", directory.display())),
    };
    let mut files = BTreeSet::new();
    for entry in entries {
        let path = entry.with_context(|| format!("read {}", directory.display()))?.path();
        if path.is_file() && path.file_name().and_then(|name| name.to_str()).is_some_and(&is_wanted) {
            files.insert(path);
        }
    }
    Ok(files)
}

fn read_crio(places: &Places, watched: &mut BTreeSet<PathBuf>) -> anyhow::Result<Foreign> {
    let mut layers = crio::Layers::default();
    let mut files: Vec<Place> = places.crio.clone().into_iter().collect();
    if let Some(directory) = &places.crio_drop_ins {
        if directory.is_required && !directory.path.is_dir() {
            bail!("{} is no directory", directory.path.display());
        }
        watched.insert(directory.path.clone());
        let drop_ins = list(&directory.path, |name| name.ends_with(".conf"))?;
        files.extend(drop_ins.into_iter().map(|path| Place { path, is_required: true }));
    }
    for place in files {
        watched.insert(place.path.clone());
        if let Some(text) = text(&place)? {
            crio::parse(Source { path: &place.path, text: &text }, &mut layers)?;
        }
    }
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    Ok(layers.foreign(architecture))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = directory.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    fn places(directory: &Path) -> Places {
        let at = |name: &str| Some(Place { path: directory.join(name), is_required: false });
        Places { containerd: at("config.toml"), crio: at("crio.conf"), crio_drop_ins: at("crio.conf.d") }
    }

    #[test]
    fn imports_and_drop_ins_are_laid_over_their_files() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write(
            root,
            &[
                (
                    "config.toml",
                    "imports = ['more/*.toml', 'config.toml']\n[plugins.cri.containerd.runtimes.a.options]\nBinaryName = '/1'\n",
                ),
                ("more/b.toml", "[plugins.cri.containerd.runtimes.a.options]\nBinaryName = '/b'\n"),
                ("more/a.toml", "[plugins.cri.containerd.runtimes.a.options]\nBinaryName = '/a'\n"),
                ("more/a.txt", "no TOML at all"),
                ("crio.conf", "[crio.runtime.runtimes.c]\nruntime_path = '/1'\n"),
                ("crio.conf.d/20.conf", "[crio.runtime.runtimes.c]\nruntime_path = '/20'\n"),
                ("crio.conf.d/10.conf", "[crio.runtime.runtimes.c]\nruntime_path = '/10'\n"),
            ],
        );
        let found = read(&places(root)).unwrap();
        let binary = |foreign: &Foreign, name: &str| foreign.handlers[name].how.clone().unwrap().binary;
        assert_eq!(binary(&found.containerd, "a"), Path::new("/b"));
        assert_eq!(binary(&found.crio, "c"), Path::new("/20"));
        assert!(found.watched.contains(&root.join("more")) && found.watched.contains(&root.join("crio.conf.d")));
    }

    #[test]
    fn gvisors_file_is_fetched_and_has_to_be_there() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let config = format!(
            "[plugins.cri.containerd.runtimes.g]\nruntime_type = 'io.containerd.runsc.v1'\noptions.ConfigPath = '{}/runsc.toml'\n",
            root.display()
        );
        write(root, &[("config.toml", &config)]);
        let error = format!("{:#}", read(&places(root)).unwrap_err());
        assert!(error.contains("config.toml:1: ConfigPath: read ") && error.contains("runsc.toml"), "{error}");
        write(root, &[("runsc.toml", "[runsc_config]\nplatform = 'ptrace'\n")]);
        let found = read(&places(root)).unwrap();
        assert_eq!(found.containerd.handlers["g"].how.clone().unwrap().arguments, ["--platform=ptrace"]);
        write(root, &[("runsc.toml", "[runsc_config]\nplatform =\n")]);
        assert!(read(&places(root)).unwrap_err().to_string().contains("runsc.toml:2: "));
    }

    #[test]
    fn a_file_need_not_be_there_unless_it_was_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let found = read(&places(directory.path())).unwrap();
        assert_eq!((found.containerd, found.crio), Default::default());
        let asked = Place::of(Some(directory.path().join("none.toml")), "/etc/x");
        let error = read(&Places { containerd: asked, ..Places::default() }).unwrap_err();
        assert!(error.to_string().ends_with("none.toml"), "{error:#}");
        assert_eq!(Place::of(Some("".into()), "/etc/x"), None);
        let default = Place { path: "/etc/x".into(), is_required: false };
        assert_eq!(Place::of(None, "/etc/x"), Some(default));
    }

    #[test]
    fn a_broken_drop_in_is_named_with_its_line() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), &[("crio.conf.d/50-x.conf", "[crio.runtime]\ndefault_runtime = 5\n")]);
        let error = read(&places(directory.path())).unwrap_err().to_string();
        assert!(error.contains("50-x.conf:2: "), "{error}");
    }
}
