//! Where the machine's administrator says a registry is to be reached: containerd's directories with `hosts.toml`,
//! Docker's with certificates, and k3s' `registries.yaml` (IMG-134, IMG-135).
//!
//! Owns the search and the reading, both anew at each pull, so that no edit needs a restart. A file that cannot be
//! understood is an error that names it and its line: passing over it could pass over a mirror that is mandatory.
//! `hosts_toml.rs` and `registries_yaml.rs` parse, `duration.rs` too; what the rules mean is in `endpoint.rs`.

mod duration;
mod hosts_toml;
mod registries_yaml;
#[cfg(test)]
mod tests;

pub(crate) use hosts_toml::parse as parse_hosts_toml;
pub(crate) use registries_yaml::{Registries, RegistryConfig, Rewrite, parse as parse_registries_yaml};

use super::endpoint::Scheme;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is wrong with a file about hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostsError {
    pub(crate) path: PathBuf,
    /// Counted from 1; 0 if it is no matter of a line.
    pub(crate) line: usize,
    pub(crate) detail: String,
}

/// What is wrong in a text, before the file's name is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub(crate) line: usize,
    pub(crate) detail: String,
}

impl Malformed {
    fn at(text: &str, offset: usize, detail: impl Into<String>) -> Malformed {
        let before = &text.as_bytes()[..offset.min(text.len())];
        Malformed { line: before.iter().filter(|byte| **byte == b'\n').count() + 1, detail: detail.into() }
    }
}

/// The address of a host: what stands before `/<repository>/manifests/…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// `None` if none is written: then the host's own default counts.
    pub(crate) scheme: Option<Scheme>,
    /// `host[:port]`.
    pub(crate) authority: String,
    /// `/v2`, or what is written if the rule overrides it. Without a slash at its end.
    pub(crate) base: String,
}

/// Certificates by file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) authorities: Vec<PathBuf>,
    /// Certificate and key; the same file twice if one holds both.
    pub(crate) client: Option<(PathBuf, PathBuf)>,
    pub(crate) skips_verification: bool,
}

/// How one host is to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostRule {
    /// `None` in the part of a file that speaks of the registry itself without naming it.
    pub(crate) address: Option<Address>,
    pub(crate) can_pull: bool,
    pub(crate) can_resolve: bool,
    pub(crate) tls: TlsFiles,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) dial_timeout: Option<Duration>,
    /// An extension of ours: the pull's own credential goes to this mirror too (IMG-131).
    pub(crate) gets_credential: bool,
    pub(crate) rewrites: Vec<Rewrite>,
}

impl Default for HostRule {
    fn default() -> HostRule {
        HostRule {
            address: None,
            can_pull: true,
            can_resolve: true,
            tls: TlsFiles::default(),
            headers: Vec::new(),
            dial_timeout: None,
            gets_credential: false,
            rewrites: Vec::new(),
        }
    }
}

/// All that is said of one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Mirrors, in the order in which they are asked.
    pub(crate) mirrors: Vec<HostRule>,
    /// The registry itself, asked last.
    pub(crate) server: HostRule,
    /// Logins and certificates by host, from `registries.yaml`.
    pub(crate) configs: Vec<(String, RegistryConfig)>,
}

/// Where to look.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places<'a> {
    /// Directories that hold one directory a registry; the first that knows the registry counts.
    pub(crate) directories: &'a [PathBuf],
    /// `registries.yaml` files; the first that exists counts.
    pub(crate) registries: &'a [PathBuf],
}

/// Reads what is said of a registry now.
pub(crate) fn load(places: &Places<'_>, domain: &str) -> Result<Rules, HostsError> {
    let mut registries = Registries::default();
    for path in places.registries {
        if let Some(text) = read_if_there(path)? {
            registries = parse_registries_yaml(&text).map_err(|bad| named(path, bad))?;
            break;
        }
    }
    let mut rules = match directory(places.directories, domain)? {
        Some(directory) => in_directory(&directory)?,
        None => Rules { mirrors: registries.mirrors_of(domain), ..Rules::default() },
    };
    rules.configs = registries.configs;
    Ok(rules)
}

fn named(path: &Path, bad: Malformed) -> HostsError {
    HostsError { path: path.to_owned(), line: bad.line, detail: bad.detail }
}

fn unreadable(path: &Path, error: &io::Error) -> HostsError {
    HostsError { path: path.to_owned(), line: 0, detail: error.to_string() }
}

fn read_if_there(path: &Path) -> Result<Option<String>, HostsError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(unreadable(path, &error)),
    }
}

/// The directory that speaks of a registry: `host_port_`, `host:port` or `host`, then `_default` (IMG-134).
fn directory(places: &[PathBuf], domain: &str) -> Result<Option<PathBuf>, HostsError> {
    let underscored = domain.rsplit_once(':').filter(|(_, port)| !port.contains(']'));
    let underscored = underscored.map(|(host, port)| format!("{host}_{port}_"));
    for place in places {
        for name in underscored.iter().map(String::as_str).chain([domain, "_default"]) {
            let path = place.join(name);
            match std::fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => return Ok(Some(path)),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(error) => return Err(unreadable(&path, &error)),
            }
        }
    }
    Ok(None)
}

fn in_directory(directory: &Path) -> Result<Rules, HostsError> {
    let path = directory.join("hosts.toml");
    match read_if_there(&path)? {
        Some(text) => parse_hosts_toml(&text, directory).map_err(|bad| named(&path, bad)),
        None => Ok(Rules { server: certificates(directory)?, ..Rules::default() }),
    }
}

/// Docker's layout: `*.crt` are authorities, `*.cert` with its `*.key` is this node's own certificate.
fn certificates(directory: &Path) -> Result<HostRule, HostsError> {
    let entries = std::fs::read_dir(directory).map_err(|error| unreadable(directory, &error))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let mut tls = TlsFiles::default();
    for file in files {
        let extension = file.extension().and_then(|extension| extension.to_str());
        match extension {
            Some("crt") => tls.authorities.push(file),
            Some("cert") => {
                let key = file.with_extension("key");
                if !key.exists() {
                    let detail = format!("the certificate has no key {}", key.display());
                    return Err(HostsError { path: file, line: 0, detail });
                }
                tls.client = tls.client.or(Some((file, key)));
            }
            _ => {}
        }
    }
    Ok(HostRule { tls, ..HostRule::default() })
}

/// Takes an address apart. Without a scheme the host's default counts; `/v2` is added to the path unless it is there
/// or `overrides_path` says that the path is complete.
fn address(text: &str, overrides_path: bool) -> Result<Address, String> {
    let (scheme, rest) = match text.split_once("://") {
        Some(("https", rest)) => (Some(Scheme::Https), rest),
        Some(("http", rest)) => (Some(Scheme::Http), rest),
        Some((other, _)) => return Err(format!("unknown scheme {other:?}")),
        None => (None, text),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if authority.contains('@') {
        return Err("an address holds no user; give the login in a header".to_owned());
    }
    let usable = !authority.is_empty() && authority.parse::<http::uri::Authority>().is_ok();
    let path = path.trim_end_matches('/');
    if !usable || !(path.is_empty() || path.parse::<http::uri::PathAndQuery>().is_ok()) || path.contains('?') {
        return Err(format!("{text:?} is no address of a host"));
    }
    let base = if overrides_path || path.ends_with("/v2") { path.to_owned() } else { format!("{path}/v2") };
    Ok(Address { scheme, authority: authority.to_owned(), base })
}
