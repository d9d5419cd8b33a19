//! Handlers as other programs' files tell them: the common form, and mistakes with their line.
//!
//! Pure. [`super::containerd`] and [`super::crio`] read into it, [`super::files`] fetches the texts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Keys of a handler that were not asked for, with their values.
pub type Others = BTreeMap<String, toml::Value>;

/// A note for each of these keys that its runtime does not know either: a typing mistake has no effect elsewhere (RTC-76).
pub fn unknown_keys(others: &Others, known: &[&str]) -> Vec<String> {
    let unknown = others.keys().filter(|key| !known.contains(&key.as_str()));
    unknown.map(|key| format!("{key} is not known and has no effect")).collect()
}

/// A mistake in a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}: {detail}", path.display())]
pub struct Malformed {
    pub path: PathBuf,
    pub line: usize,
    pub detail: String,
}

/// A text with the place that it is from.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub path: &'a Path,
    pub text: &'a str,
}

impl Source<'_> {
    /// The line of a place in the text, from 1.
    pub fn line(&self, offset: usize) -> usize {
        1 + self.text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
    }

    /// A mistake at a place of the text.
    pub fn malformed(&self, offset: usize, detail: impl Into<String>) -> Malformed {
        Malformed { path: self.path.into(), line: self.line(offset), detail: detail.into() }
    }

    /// Reads TOML; keys that are not asked for are left alone, because the file is another program's.
    pub fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, Malformed> {
        toml::from_str(self.text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            self.malformed(offset, error.message().trim().replace('\n', " "))
        })
    }

    /// Where something stands, as a user looks it up.
    pub fn at(&self, offset: usize) -> String {
        format!("{}:{}", self.path.display(), self.line(offset))
    }
}

/// A handler that can be run by the command line of an OCI runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Served {
    /// An absolute path, or a name for PATH.
    pub binary: PathBuf,
    pub arguments: Vec<String>,
    pub pod_annotations: Vec<String>,
    pub container_annotations: Vec<String>,
    /// A file of gVisor's shim that holds the rest.
    pub runsc_config: Option<PathBuf>,
}

/// What a file says of one handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// File and line.
    pub at: String,
    /// How to run it, or why it cannot be run here.
    pub how: Result<Served, String>,
    /// What of its settings has no effect here.
    pub notes: Vec<String>,
}

/// What the files of one program say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Foreign {
    pub handlers: BTreeMap<String, Declared>,
    /// The handler of pods without a RuntimeClass, and where that is said.
    pub default: Option<(String, String)>,
}
