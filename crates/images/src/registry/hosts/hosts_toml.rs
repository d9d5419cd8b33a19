//! containerd's `hosts.toml` (IMG-135). Pure: text in, rules or the line of the mistake out.

use super::{Address, HostRule, Malformed, Rules, TlsFiles, address, duration};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::path::Path;
use toml::Spanned;

/// Parses a file; `directory` is what its relative paths are relative to.
pub(crate) fn parse(text: &str, directory: &Path) -> Result<Rules, Malformed> {
    let file: RawFile = toml::from_str(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        Malformed::at(text, offset, error.message().trim().replace('\n', " "))
    })?;
    let root = RawHost {
        capabilities: file.capabilities,
        ca: file.ca,
        client: file.client,
        skip_verify: file.skip_verify,
        header: file.header,
        override_path: file.override_path,
        dial_timeout: file.dial_timeout,
        gets_credential: file.gets_credential,
    };
    let reading = Reading { text, directory };
    let mut mirrors = Vec::new();
    for (url, host) in file.host.0 {
        let offset = host.span().start;
        let host = host.into_inner();
        let overrides = host.override_path;
        let address = address(&url, overrides).map_err(|detail| Malformed::at(text, offset, detail))?;
        mirrors.push(reading.rule(host, Some(address))?);
    }
    let mut own = None;
    if let Some(server) = file.server.filter(|server| !server.get_ref().is_empty()) {
        let parsed = address(server.get_ref(), root.override_path);
        own = Some(parsed.map_err(|detail| Malformed::at(text, server.span().start, detail))?);
    }
    Ok(Rules { mirrors, server: reading.rule(root, own)?, ..Rules::default() })
}

/// The fields of a host stand here once more, for the registry itself: flattening would lose where they stand.
#[derive(Default, Deserialize)]
#[serde(default)]
struct RawFile {
    server: Option<Spanned<String>>,
    host: Ordered,
    capabilities: Option<Vec<Spanned<String>>>,
    ca: OneOrMany,
    client: RawClient,
    skip_verify: bool,
    header: RawHeaders,
    override_path: bool,
    dial_timeout: Option<Spanned<String>>,
    gets_credential: bool,
}

/// Unknown keys are left alone: the file is shared with other runtimes, which may know more.
#[derive(Default, Deserialize)]
#[serde(default)]
struct RawHost {
    capabilities: Option<Vec<Spanned<String>>>,
    ca: OneOrMany,
    client: RawClient,
    skip_verify: bool,
    header: RawHeaders,
    override_path: bool,
    dial_timeout: Option<Spanned<String>>,
    gets_credential: bool,
}

/// Tables in the order of the file.
#[derive(Default)]
struct Ordered(Vec<(String, Spanned<RawHost>)>);

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Ordered, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Ordered;
            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a table of hosts")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered, A::Error> {
                let mut hosts = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    hosts.push(entry);
                }
                Ok(Ordered(hosts))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[derive(Default, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    #[default]
    Absent,
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            OneOrMany::Absent => Vec::new(),
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}

/// One file with both, a list of such files, or pairs of certificate and key.
#[derive(Default, Deserialize)]
#[serde(untagged)]
enum RawClient {
    #[default]
    Absent,
    One(String),
    Many(Vec<OneOrMany>),
}

type RawHeaders = std::collections::BTreeMap<String, OneOrMany>;

struct Reading<'a> {
    text: &'a str,
    directory: &'a Path,
}

impl Reading<'_> {
    fn rule(&self, raw: RawHost, address: Option<Address>) -> Result<HostRule, Malformed> {
        let mut rule = HostRule { address, gets_credential: raw.gets_credential, ..HostRule::default() };
        if let Some(capabilities) = raw.capabilities {
            (rule.can_pull, rule.can_resolve) = self.capabilities(&capabilities)?;
        }
        rule.tls = TlsFiles {
            authorities: raw.ca.into_vec().iter().map(|path| self.directory.join(path)).collect(),
            client: self.client(raw.client)?,
            skips_verification: raw.skip_verify,
        };
        let headers = raw.header.into_iter();
        rule.headers = headers.flat_map(|(name, values)| pairs(&name, values)).collect();
        if let Some(limit) = raw.dial_timeout {
            let bad = || Malformed::at(self.text, limit.span().start, format!("bad duration {:?}", limit.get_ref()));
            rule.dial_timeout = Some(duration::parse(limit.get_ref()).ok_or_else(bad)?);
        }
        Ok(rule)
    }

    fn capabilities(&self, words: &[Spanned<String>]) -> Result<(bool, bool), Malformed> {
        let (mut can_pull, mut can_resolve) = (false, false);
        for word in words {
            match word.get_ref().to_ascii_lowercase().as_str() {
                "pull" => can_pull = true,
                "resolve" => can_resolve = true,
                "push" | "referrers" => {}
                other => {
                    let offset = word.span().start;
                    return Err(Malformed::at(self.text, offset, format!("unknown capability {other:?}")));
                }
            }
        }
        Ok((can_pull, can_resolve))
    }

    fn client(&self, raw: RawClient) -> Result<Option<(std::path::PathBuf, std::path::PathBuf)>, Malformed> {
        let first = match raw {
            RawClient::Absent => return Ok(None),
            RawClient::One(file) => vec![file],
            RawClient::Many(list) => list.into_iter().map(OneOrMany::into_vec).next().unwrap_or_default(),
        };
        let at = |path: &String| self.directory.join(path);
        match first.as_slice() {
            [] => Ok(None),
            [both] => Ok(Some((at(both), at(both)))),
            // An empty second name says that the first file holds the key too.
            [both, key] if key.is_empty() => Ok(Some((at(both), at(both)))),
            [certificate, key] => Ok(Some((at(certificate), at(key)))),
            _ => Err(Malformed { line: 0, detail: "a client is a certificate and a key".to_owned() }),
        }
    }
}

fn pairs(name: &str, values: OneOrMany) -> Vec<(String, String)> {
    values.into_vec().into_iter().map(|value| (name.to_owned(), value)).collect()
}
