//! Which credentials to try for an image: the pod's pull secrets, then the node's own files, then plugins.
//!
//! Owns the search list of node files, the reading of pull Secrets, the plugins' answers and the order of what was found
//! (IMG-160 … IMG-209). Must not pull, and must not log or return a secret anywhere but in `AuthConfig`. `parse`,
//! `merge`, `plugin::config`, `plugin::protocol` and `plugin::cache` are pure. Start at [`Credentials::for_image`].

mod changes;
mod helper;
mod merge;
mod parse;
mod places;
pub mod plugin;
mod process;
mod source;

pub use changes::Change;
pub use merge::Rules;
pub use parse::{Entry, Keyring, Kind};
pub use places::Places;
pub use source::{Account, Lookup, Source, Try};

use crate::object::{Pod, Secret};
use crate::volumes::Sources;
use futures_util::future::join_all;
use merge::{Candidate, Ring};
use plugin::Plugins;
use reference::Reference;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::broadcast;

/// Changes that may wait for a slow reader.
const CHANGES_MAX: usize = 256;

/// How a node finds credentials.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How keys are matched.
    pub rules: Rules,
    /// `HttpHeaders` of the node's file are not sent (IMG-163).
    pub headers_ignored: bool,
    /// `credHelpers` and `credsStore` of the node's file are run.
    pub helpers_allowed: bool,
    /// Credential provider plugins (IMG-200).
    pub plugins: Option<plugin::Files>,
    /// Files and directories that say which hosts serve a registry; only watched here.
    pub mirrors: Vec<PathBuf>,
}

/// Finds credentials for images. Clones are one.
#[derive(Clone)]
pub struct Credentials {
    sources: Sources,
    places: Places,
    options: Arc<Options>,
    plugins: Arc<RwLock<Arc<Plugins>>>,
    changes: broadcast::Sender<Change>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("places", &self.places).field("options", &self.options).finish()
    }
}

impl Credentials {
    /// Reads pull Secrets through `sources` and node files at `places`, with the default options.
    pub fn new(sources: Sources, places: Places) -> Credentials {
        Self::with(sources, places, Options::default(), Plugins::default())
    }

    /// Likewise with options; reads the configuration of the plugins.
    ///
    /// # Errors
    /// When that configuration is not good: a node does not start with it (IMG-200).
    pub fn open(sources: Sources, places: Places, options: Options) -> Result<Credentials, plugin::ConfigError> {
        let plugins = match &options.plugins {
            Some(files) => Plugins::new(files.load()?, files.bin_dir.clone()),
            None => Plugins::default(),
        };
        Ok(Self::with(sources, places, options, plugins))
    }

    fn with(sources: Sources, places: Places, options: Options, plugins: Plugins) -> Credentials {
        Credentials {
            sources,
            places,
            options: Arc::new(options),
            plugins: Arc::new(RwLock::new(Arc::new(plugins))),
            changes: broadcast::Sender::new(CHANGES_MAX),
        }
    }

    /// Everything that matches the image, in the order in which it is to be tried: pull Secrets before node files before
    /// plugins, more specific keys before less specific ones (IMG-176, IMG-182). Files are read anew each time, so edits
    /// take effect at once.
    pub async fn for_image(&self, pod: &Pod, image: &str) -> Lookup {
        let mut out = Lookup::default();
        let Ok(reference) = Reference::parse(image) else {
            out.tries.push(Try::anonymous());
            return out;
        };
        let repository = reference.repository();
        let plugins = self.plugins();
        let asked = plugins.for_image(&self.sources, pod, &repository);
        let (secrets, (file, file_problems), (plugins, plugin_problems)) =
            tokio::join!(self.secrets(pod, &mut out), self.node_file(&repository), asked);
        out.problems.extend(file_problems);
        out.problems.extend(plugin_problems);
        out.tries = merge::tries(&[secrets, file, plugins], &repository, self.options.rules);
        out
    }

    fn plugins(&self) -> Arc<Plugins> {
        self.plugins.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One ring over all pull Secrets, so that the more specific key wins across them.
    async fn secrets(&self, pod: &Pod, out: &mut Lookup) -> Ring {
        let mut names: Vec<&str> = Vec::new();
        for reference in pod.pull_secrets() {
            if !reference.name.is_empty() && !names.contains(&reference.name.as_str()) {
                names.push(&reference.name);
            }
        }
        let answers = join_all(names.iter().map(|name| self.sources.pull_secret(pod.namespace(), name))).await;
        let mut ring = Ring::default();
        for (name, answer) in names.into_iter().zip(answers) {
            let Ok(Some(secret)) = answer else {
                out.missing.push(name.to_owned());
                continue;
            };
            let (found, problems) = from_secret(&secret);
            out.problems.extend(problems.into_iter().map(|p| format!("secret {name}: {p}")));
            let source = Source::Secret {
                uid: secret.metadata.uid.clone().unwrap_or_default(),
                namespace: pod.namespace().to_owned(),
                name: name.to_owned(),
            };
            ring.candidates.extend(found.entries.into_iter().map(|e| Candidate {
                key: e.key,
                auth: e.auth,
                source: source.clone(),
            }));
        }
        ring
    }

    /// What the node's file holds, and what the helpers that it names know.
    async fn node_file(&self, repository: &str) -> (Ring, Vec<String>) {
        let places = self.places.clone();
        let read = tokio::task::spawn_blocking(move || places.read()).await;
        let (mut found, mut problems) = read.unwrap_or_default();
        if self.options.helpers_allowed {
            match helper::ask(&found, repository).await {
                Ok(Some(entry)) => {
                    // Docker leaves an empty entry behind where a helper knows the credential.
                    found.entries.retain(|e| e.auth != cri::v1::AuthConfig::default());
                    found.entries.push(entry);
                }
                Ok(None) => {}
                Err(problem) => problems.push(problem),
            }
        }
        let source = Source::NodeFile;
        let candidates =
            found.entries.into_iter().map(|e| Candidate { key: e.key, auth: e.auth, source: source.clone() });
        let headers = if self.options.headers_ignored { Vec::new() } else { found.headers };
        (Ring { candidates: candidates.collect(), headers, upstream_globs: false }, problems)
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

#[cfg(test)]
mod tests;
