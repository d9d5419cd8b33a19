//! k3s' `registries.yaml`: mirrors with rewrites of repositories, logins and certificates by host. Pure.

use super::{HostRule, Malformed, TlsFiles, address};
use crate::credential::Credential;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What stands for every registry without an entry of its own.
const ANY: &str = "*";

/// A file's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Registries {
    mirrors: Vec<(String, Vec<HostRule>)>,
    /// By host, as written.
    pub(crate) configs: Vec<(String, RegistryConfig)>,
}

/// A login and certificates for a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RegistryConfig {
    pub(crate) credential: Option<Credential>,
    pub(crate) tls: TlsFiles,
}

/// A change of the repository's path at a mirror.
#[derive(Clone, Debug)]
pub(crate) struct Rewrite {
    pattern: regex::Regex,
    replacement: String,
}

impl PartialEq for Rewrite {
    fn eq(&self, other: &Rewrite) -> bool {
        self.pattern.as_str() == other.pattern.as_str() && self.replacement == other.replacement
    }
}

impl Eq for Rewrite {}

impl Rewrite {
    /// The path at the mirror, if the pattern is found in it.
    pub(crate) fn apply(&self, path: &str) -> Option<String> {
        let found = self.pattern.is_match(path);
        found.then(|| self.pattern.replace_all(path, self.replacement.as_str()).into_owned())
    }
}

impl Registries {
    /// The mirrors of a registry, or of all.
    pub(super) fn mirrors_of(&self, domain: &str) -> Vec<HostRule> {
        let find = |wanted: &str| self.mirrors.iter().find(|(name, _)| name == wanted);
        find(domain).or_else(|| find(ANY)).map(|(_, rules)| rules.clone()).unwrap_or_default()
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawFile {
    mirrors: BTreeMap<String, Option<RawMirror>>,
    configs: BTreeMap<String, Option<RawConfig>>,
    /// Kept by k3s for old files of its own; of no meaning here.
    auths: Option<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawMirror {
    endpoint: Vec<String>,
    rewrite: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawConfig {
    auth: Option<RawLogin>,
    tls: Option<RawTls>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawLogin {
    username: String,
    password: String,
    auth: String,
    identity_token: String,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawTls {
    ca_file: String,
    cert_file: String,
    key_file: String,
    insecure_skip_verify: bool,
}

/// Parses a file. What it says wrong in words of its own has no line, but names the entry.
pub(crate) fn parse(text: &str) -> Result<Registries, Malformed> {
    if text.trim().is_empty() {
        return Ok(Registries::default());
    }
    let file: RawFile = serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map_or(0, |location| location.line() as usize);
        // The parser shows the lines around the mistake, and these may hold a password.
        Malformed { line, detail: first_line(&error.without_snippet().to_string()) }
    })?;
    let mut mirrors = Vec::new();
    for (name, mirror) in file.mirrors {
        let mirror = mirror.unwrap_or_default();
        let rewrites = rewrites(mirror.rewrite).map_err(|detail| entry(&name, &detail))?;
        let rule = |endpoint: &String| {
            let address = address(endpoint, false).map_err(|detail| entry(&name, &detail))?;
            Ok(HostRule { address: Some(address), rewrites: rewrites.clone(), ..HostRule::default() })
        };
        let rules = mirror.endpoint.iter().map(rule).collect::<Result<_, Malformed>>()?;
        mirrors.push((name, rules));
    }
    let configs = file.configs.into_iter().map(|(name, config)| (name, read(config.unwrap_or_default())));
    Ok(Registries { mirrors, configs: configs.collect() })
}

fn entry(name: &str, detail: &str) -> Malformed {
    Malformed { line: 0, detail: format!("mirror {name:?}: {detail}") }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim_end_matches(':').to_owned()
}

fn rewrites(raw: BTreeMap<String, String>) -> Result<Vec<Rewrite>, String> {
    let one = |(pattern, replacement): (String, String)| {
        let pattern = regex::Regex::new(&pattern).map_err(|_| format!("bad pattern {pattern:?}"))?;
        Ok(Rewrite { pattern, replacement })
    };
    raw.into_iter().map(one).collect()
}

fn read(raw: RawConfig) -> RegistryConfig {
    let file = |name: &str| (!name.is_empty()).then(|| PathBuf::from(name));
    let tls = raw.tls.unwrap_or_default();
    let (certificate, key) = (file(&tls.cert_file), file(&tls.key_file));
    let credential = raw.auth.map(|login| Credential {
        username: login.username,
        password: login.password,
        auth: login.auth,
        identity_token: login.identity_token,
        ..Credential::default()
    });
    RegistryConfig {
        credential,
        tls: TlsFiles {
            authorities: file(&tls.ca_file).into_iter().collect(),
            client: certificate.map(|certificate| (certificate.clone(), key.unwrap_or(certificate))),
            skips_verification: tls.insecure_skip_verify,
        },
    }
}
