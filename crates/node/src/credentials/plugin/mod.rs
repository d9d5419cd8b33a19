//! Credential provider plugins: programs that are asked for the credentials of an image (IMG-200 … IMG-209).
//!
//! Owns which plugins are asked for which image, the sharing of one run by all who ask the same, and the keeping of
//! answers. A plugin that fails gives no credentials and never stops a pull. Start at [`Plugins::for_image`]; the
//! configuration is read by [`Files::load`].

mod account;
mod cache;
mod config;
mod protocol;

pub use config::{Provider, Token};

use super::{
    merge::{Candidate, Ring},
    process::{Failure, Program},
    source::Source,
};
use crate::{object::Pod, volumes::Sources};
use account::Plea;
use cache::{Cache, Holder, Logins};
use futures_util::future::join_all;
use protocol::Response;
use reference::credential::{GlobMode, Key};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::OnceCell, time::Instant};

/// A plugin is killed after so long (IMG-203).
const LIMIT: Duration = Duration::from_secs(60);

/// Where the plugins' configuration and programs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// A file, or a directory with `*.json`, `*.yaml` and `*.yml`.
    pub config: PathBuf,
    /// The directory of the programs.
    pub bin_dir: PathBuf,
}

/// Why the plugins' configuration is not good.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The directory of programs.
    #[error("plugin binary directory {} did not exist", .0.display())]
    NoDirectory(PathBuf),
    /// A file or directory that cannot be read.
    #[error("unable to access path {:?}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A directory without configuration.
    #[error("no configuration files found in directory {:?}", .0.display())]
    Empty(PathBuf),
    /// A file that is no configuration.
    #[error("error decoding config {:?}: {why}", .path.display())]
    Decode {
        /// Which.
        path: PathBuf,
        /// In words.
        why: String,
    },
    /// Two files name the same provider.
    #[error("duplicate provider name {0:?} found in configuration file(s)")]
    Duplicate(String),
    /// A configuration that makes no sense.
    #[error("failed to validate credential provider config {:?}: {why}", .path.display())]
    Validate {
        /// The file or directory.
        path: PathBuf,
        /// In upstream's words.
        why: String,
    },
    /// A plugin without a program.
    #[error("plugin binary executable {} did not exist", .0.display())]
    NoProgram(PathBuf),
}

impl Files {
    /// Reads and checks the configuration, and that each plugin has its program (IMG-200, IMG-201).
    ///
    /// # Errors
    /// What is wrong with it, with the file's name.
    pub fn load(&self) -> Result<Vec<Provider>, ConfigError> {
        if !self.bin_dir.is_dir() {
            return Err(ConfigError::NoDirectory(self.bin_dir.clone()));
        }
        let (mut all, mut names) = (Vec::new(), BTreeSet::new());
        for path in self.list()? {
            let text =
                std::fs::read_to_string(&path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
            for provider in config::read(&text).map_err(|why| ConfigError::Decode { path: path.clone(), why })? {
                if !names.insert(provider.name.clone()) {
                    return Err(ConfigError::Duplicate(provider.name));
                }
                all.push(provider);
            }
        }
        let all = config::validate(all).map_err(|why| ConfigError::Validate { path: self.config.clone(), why })?;
        for provider in &all {
            let program = self.bin_dir.join(&provider.name);
            let runs = std::fs::metadata(&program).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
            if !runs {
                return Err(ConfigError::NoProgram(program));
            }
        }
        Ok(all)
    }

    /// The audiences of the tokens that plugins are given (IMG-207), each once.
    ///
    /// # Errors
    /// As [`Files::load`].
    pub fn audiences(&self) -> Result<Vec<String>, ConfigError> {
        let providers = self.load()?.into_iter();
        let audiences: BTreeSet<String> = providers.filter_map(|provider| Some(provider.token?.audience)).collect();
        Ok(audiences.into_iter().collect())
    }

    fn list(&self) -> Result<Vec<PathBuf>, ConfigError> {
        let fault = |source| ConfigError::Read { path: self.config.clone(), source };
        if !std::fs::metadata(&self.config).map_err(fault)?.is_dir() {
            return Ok(vec![self.config.clone()]);
        }
        let mut found = BTreeSet::new();
        for entry in std::fs::read_dir(&self.config).map_err(fault)? {
            let path = entry.map_err(fault)?.path();
            let kind = path.extension().and_then(|extension| extension.to_str());
            if matches!(kind, Some("json" | "yaml" | "yml")) && !path.is_dir() {
                found.insert(path);
            }
        }
        if found.is_empty() {
            return Err(ConfigError::Empty(self.config.clone()));
        }
        Ok(found.into_iter().collect())
    }
}

/// All plugins of a node with what they have answered.
#[derive(Default)]
pub(super) struct Plugins {
    plugins: Vec<Plugin>,
}

struct Plugin {
    provider: Provider,
    program: PathBuf,
    keys: Vec<Key>,
    cache: Mutex<Cache>,
    flights: Flights,
}

/// Runs under way, by image and holder.
type Flights = Mutex<BTreeMap<(String, Holder), Arc<OnceCell<Result<Logins, String>>>>>;

impl Plugins {
    pub(super) fn new(providers: Vec<Provider>, bin_dir: PathBuf) -> Plugins {
        let plugins = providers.into_iter().map(|provider| Plugin::new(provider, &bin_dir)).collect();
        Plugins { plugins }
    }

    /// What the plugins have for an image, as one ring in the order of the configuration (IMG-206); and why some have
    /// nothing.
    pub(super) async fn for_image(&self, sources: &Sources, pod: &Pod, repository: &str) -> (Ring, Vec<String>) {
        let asked = self.plugins.iter().filter(|plugin| plugin.is_for(repository));
        let answers = join_all(asked.map(|plugin| plugin.ask(sources, pod, repository))).await;
        let mut ring = Ring { upstream_globs: true, ..Ring::default() };
        let mut problems = Vec::new();
        for answer in answers {
            match answer {
                Ok((logins, source)) => ring.candidates.extend(logins.into_iter().map(|(key, auth)| Candidate {
                    key,
                    auth,
                    source: source.clone(),
                })),
                Err(problem) => problems.push(problem),
            }
        }
        (ring, problems)
    }
}

impl Plugin {
    fn new(provider: Provider, bin_dir: &Path) -> Plugin {
        Plugin {
            program: bin_dir.join(&provider.name),
            keys: provider.match_images.iter().map(|image| Key::parse(image)).collect(),
            provider,
            cache: Mutex::new(Cache::new(Instant::now())),
            flights: Mutex::default(),
        }
    }

    /// IMG-202: `matchImages` are always read as upstream does.
    fn is_for(&self, repository: &str) -> bool {
        self.keys.iter().any(|key| key.matches(repository, GlobMode::Upstream))
    }

    /// A kept answer, else that of a run. The error is in words, for the log.
    async fn ask(&self, sources: &Sources, pod: &Pod, repository: &str) -> Result<(Logins, Source), String> {
        let named = |why: String| format!("credential provider plugin {}: {why}", self.provider.name);
        let plea = Plea::of(self.provider.token.as_ref(), sources, pod).await.map_err(named)?;
        let service_account = match &plea {
            Plea::Not => return Ok((Logins::new(), Source::Plugin { service_account: None })),
            Plea::Plain => None,
            Plea::For(account, _) => Some(account.clone()),
        };
        let mut holder = plea.holder();
        let source = Source::Plugin { service_account };
        let by_token = self.provider.token.as_ref().is_some_and(|token| token.cached_by_token);
        if !by_token && let Some(kept) = self.kept(repository, &holder) {
            return Ok((kept, source));
        }
        let token = match (&plea, &self.provider.token) {
            (Plea::For(..), Some(attributes)) => {
                Some(account::token(sources, pod, &attributes.audience).await.map_err(named)?)
            }
            _ => None,
        };
        if let (true, Some(token)) = (by_token, &token) {
            holder.token_hash = Some(Sha256::digest(token).into());
            if let Some(kept) = self.kept(repository, &holder) {
                return Ok((kept, source));
            }
        }
        let logins = self.fly(repository, holder, token).await.map_err(named)?;
        Ok((logins, source))
    }

    fn kept(&self, repository: &str, holder: &Holder) -> Option<Logins> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).find(repository, holder, Instant::now())
    }

    /// Joins a run for the same image and holder, or begins one. Whoever began it may go away: another goes on.
    async fn fly(&self, repository: &str, holder: Holder, token: Option<String>) -> Result<Logins, String> {
        let key = (repository.to_owned(), holder);
        let flights = || self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let cell = flights().entry(key.clone()).or_default().clone();
        let answer = cell.get_or_init(|| self.run(repository, &key.1, token)).await.clone();
        let mut flights = flights();
        if flights.get(&key).is_some_and(|known| Arc::ptr_eq(known, &cell)) {
            flights.remove(&key);
        }
        answer
    }

    async fn run(&self, repository: &str, holder: &Holder, token: Option<String>) -> Result<Logins, String> {
        let version = &self.provider.api_version;
        let program = Program {
            program: self.program.clone(),
            arguments: self.provider.arguments.clone(),
            environment: self.provider.environment.clone(),
            input: protocol::request(version, repository, token.as_deref(), &holder.annotations),
            limit: LIMIT,
        };
        let ended = program.run().await.and_then(super::process::Finished::well);
        let answer = ended.map_err(|failure| self.words(repository, failure, token.as_deref()))?;
        let response = Response::read(&answer, version).map_err(|bad| bad.to_string())?;
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let default = self.provider.default_cache_duration;
        cache.keep((repository, holder.clone()), &response, default, Instant::now());
        Ok(cache::logins(&response))
    }

    /// A failure in words. A plugin may repeat on standard error what it was given: that is taken out.
    fn words(&self, repository: &str, failure: Failure, token: Option<&str>) -> String {
        let mut words = format!("error execing for image {repository}: {failure}");
        let given = self.provider.environment.iter().map(|(_, value)| value.as_str());
        for secret in given.chain(token).filter(|secret| secret.len() >= 4) {
            words = words.replace(secret, "<redacted>");
        }
        words
    }
}

#[cfg(test)]
mod tests;
