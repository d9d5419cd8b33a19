//! What the settings say about credentials for images, and about who may use an image that is there.
//!
//! Start at [`Settings::credentials`] and [`Settings::verification`].

use anyhow::{Context, bail};

use crate::settings::Settings;

impl Settings {
    /// How the node finds credentials for images.
    pub fn credentials(&self) -> anyhow::Result<node::credentials::Options> {
        use reference::credential::{GlobMode, PathBoundary};
        let globs = one_of("--credential-globs", self.credential_globs.as_deref(), ["seed", "upstream"])?;
        let boundary =
            one_of("--credential-path-boundary", self.credential_path_boundary.as_deref(), ["loose", "strict"])?;
        let plugins = match (&self.image_credential_provider_config, &self.image_credential_provider_bin_dir) {
            (None, None) => None,
            (Some(config), Some(bin_dir)) => {
                Some(node::credentials::plugin::Files { config: config.clone(), bin_dir: bin_dir.clone() })
            }
            (None, Some(_)) => bail!("--image-credential-provider-bin-dir: credential provider config path is empty"),
            (Some(_), None) => {
                bail!("--image-credential-provider-config: give --image-credential-provider-bin-dir too")
            }
        };
        let data_dir = self.instance().data_dir;
        Ok(node::credentials::Options {
            rules: node::credentials::Rules {
                globs: if globs == 0 { GlobMode::Seed } else { GlobMode::Upstream },
                boundary: if boundary == 0 { PathBoundary::Loose } else { PathBoundary::Strict },
                anonymous_fallback: self.anonymous_fallback.unwrap_or(false),
            },
            headers_ignored: one_of("--http-headers", self.http_headers.as_deref(), ["send", "ignore"])? == 1,
            helpers_allowed: self.docker_credential_helpers.unwrap_or(false),
            plugins,
            mirrors: vec![
                data_dir.join("certs.d"),
                "/etc/containerd/certs.d".into(),
                "/etc/docker/certs.d".into(),
                data_dir.join("registries.yaml"),
                "/etc/rancher/k3s/registries.yaml".into(),
            ],
        })
    }

    /// Who may use an image that is there (IMG-232, IMG-233).
    pub fn verification(&self) -> anyhow::Result<node::records::Rules> {
        let list = self.verification_allowlist.as_deref().unwrap_or_default();
        let policy = node::records::Policy::parse(self.verification_policy.as_deref(), list)?;
        Ok(node::records::Rules {
            policy,
            rotated_secret_requires_pull: self.rotated_secret_requires_pull.unwrap_or(false),
            list_needs_preloaded: self.allowlist_needs_preloaded.unwrap_or(false),
        })
    }
}

/// Which of two words was given; the first if none.
fn one_of(flag: &str, given: Option<&str>, words: [&str; 2]) -> anyhow::Result<usize> {
    let Some(given) = given else { return Ok(0) };
    let found = words.iter().position(|word| *word == given);
    found.with_context(|| format!("{flag} {given}: write {} or {}", words[0], words[1]))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_verification_policy_is_checked_with_upstreams_words() {
        let with = |policy: Option<&str>, list: &[&str]| Settings {
            verification_policy: policy.map(str::to_owned),
            verification_allowlist: Some(list.iter().map(|e| (*e).to_owned()).collect()),
            ..Settings::default()
        };
        let error = |settings: Settings| settings.resolve().unwrap_err().to_string();
        assert!(with(None, &[]).resolve().is_ok());
        assert!(with(Some("NeverVerifyAllowlistedImages"), &["r.io/a/*"]).resolve().is_ok());
        let unknown = error(with(Some("NeverVerifyAllowListedImages"), &[]));
        assert!(unknown.starts_with("invalid configuration: option \"NeverVerifyAllowListedImages\""), "{unknown}");
        assert!(error(with(None, &["r.io/a"])).contains("can't set `preloadedImagesVerificationAllowlist`"));
        assert!(error(with(Some("NeverVerifyAllowlistedImages"), &["alpine"])).contains("neither tag nor digest"));
    }

    #[test]
    fn settings_of_credentials_are_read_and_checked() {
        let text = "imageCredentialProviderConfig: /c\nimageCredentialProviderBinDir: /b\ncredentialGlobs: upstream\ncredentialPathBoundary: strict\nanonymousFallback: true\nhttpHeaders: ignore\ndockerCredentialHelpers: true\nrotatedSecretRequiresPull: true\n";
        let resolved = crate::settings::given::keys(text).unwrap().resolve().unwrap();
        let options = resolved.credentials;
        assert_eq!(options.plugins.unwrap().bin_dir, Path::new("/b"));
        assert!(options.rules.anonymous_fallback && options.headers_ignored && options.helpers_allowed);
        assert_eq!(options.rules.globs, reference::credential::GlobMode::Upstream);
        assert_eq!(options.rules.boundary, reference::credential::PathBoundary::Strict);
        assert!(resolved.verification.rotated_secret_requires_pull);
        let refused = |settings: Settings| settings.resolve().unwrap_err().to_string();
        let globs = Settings { credential_globs: Some("both".into()), ..Settings::default() };
        assert_eq!(refused(globs), "--credential-globs both: write seed or upstream");
        let half = Settings { image_credential_provider_bin_dir: Some("/b".into()), ..Settings::default() };
        assert!(refused(half).contains("credential provider config path is empty"));
    }
}
