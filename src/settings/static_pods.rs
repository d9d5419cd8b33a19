//! What the settings say about static pods: a directory, a URL, and how often they are looked at.
//!
//! Headers may be secret: `Debug` shows their names only. Start at [`Settings::static_pods`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context, bail};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use node::static_pods::Options;
use serde::{Deserialize, Serialize};

use crate::settings::{Settings, duration};

/// `staticPodURLHeader`: values by name.
#[derive(Serialize, Deserialize, Default, Clone)]
#[serde(transparent)]
pub struct Headers(BTreeMap<String, Vec<String>>);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Headers {
    fn parse(&self) -> anyhow::Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        for (name, value) in self.0.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value))) {
            let parsed: HeaderName = name.parse().with_context(|| format!("staticPodURLHeader {name:?}"))?;
            let mut value = HeaderValue::from_str(value)
                .map_err(|_| anyhow::anyhow!("staticPodURLHeader {name:?}: its value cannot be sent"))?;
            value.set_sensitive(true);
            headers.append(parsed, value);
        }
        Ok(headers)
    }
}

impl Settings {
    /// Where the node finds pods besides the API.
    pub fn static_pods(&self) -> anyhow::Result<Options> {
        let period = |flag: &str, given: Option<&str>| {
            let period = duration(given.unwrap_or("20s")).with_context(|| flag.to_owned())?;
            if period.is_zero() {
                bail!("{flag}: it must be longer than 0");
            }
            Ok(period)
        };
        let path = self.static_pod_path.as_deref().filter(|path| !path.as_os_str().is_empty());
        let url = self.static_pod_url.as_deref().filter(|url| !url.is_empty()).map(parse_url).transpose()?;
        Ok(Options {
            path: path.map(absolute).transpose()?,
            file_period: period("--file-check-frequency", self.file_check_frequency.as_deref())?,
            url,
            headers: self.static_pod_url_header.parse()?,
            url_period: period("--http-check-frequency", self.http_check_frequency.as_deref())?,
        })
    }
}

/// The path is part of a pod's identity, so it does not depend on where sampan was started.
fn absolute(path: &Path) -> anyhow::Result<std::path::PathBuf> {
    std::path::absolute(path).with_context(|| format!("--static-pod-path {}", path.display()))
}

fn parse_url(url: &str) -> anyhow::Result<Uri> {
    // The URL may hold a secret: it is not repeated.
    let parsed: Uri = url.parse().context("--static-pod-url: this is no URL")?;
    let with_user = parsed.authority().is_some_and(|authority| authority.as_str().contains('@'));
    if !matches!(parsed.scheme_str(), Some("http" | "https")) || parsed.host().is_none() || with_user {
        bail!("--static-pod-url: write http://HOST[:PORT]/PATH or https://…; credentials go into staticPodURLHeader");
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> anyhow::Result<Options> {
        let settings: Settings = serde_saphyr::from_str(text)?;
        settings.static_pods()
    }

    #[test]
    fn static_pods_are_set_by_the_keys_of_the_kubelet() {
        let options = read(
            "staticPodPath: /m\nstaticPodURL: https://h:1/p\nstaticPodURLHeader: {x-a: [one, two]}\nfileCheckFrequency: 5s\nhttpCheckFrequency: 1m",
        )
        .unwrap();
        assert_eq!(options.path.unwrap(), Path::new("/m"));
        assert_eq!(options.url.unwrap().port_u16(), Some(1));
        assert_eq!(options.headers.get_all("x-a").iter().count(), 2);
        assert_eq!((options.file_period.as_secs(), options.url_period.as_secs()), (5, 60));
        let none = read("{}").unwrap();
        assert_eq!((none.path, none.url, none.file_period.as_secs()), (None, None, 20));
    }

    #[test]
    fn what_cannot_be_is_refused_and_no_secret_is_repeated() {
        for text in ["staticPodURL: ftp://h/", "staticPodURL: /path", "staticPodURL: 'http://user:hush@h/'"] {
            let error = format!("{:#}", read(text).unwrap_err());
            assert!(error.starts_with("--static-pod-url: ") && !error.contains("hush"), "{error}");
        }
        let error = format!("{:#}", read("staticPodURLHeader: {x-a: [\"hush\\n\"]}").unwrap_err());
        assert!(error.contains("x-a") && !error.contains("hush"), "{error}");
        assert!(read("httpCheckFrequency: 0s").unwrap_err().to_string().contains("longer than 0"));
        let settings: Settings = serde_saphyr::from_str("staticPodURLHeader: {x-a: [hush]}").unwrap();
        let shown = format!("{settings:?}");
        assert!(shown.contains("x-a") && !shown.contains("hush"), "{shown}");
        assert!(read("staticPodPath: m").unwrap().path.unwrap().is_absolute());
    }
}
