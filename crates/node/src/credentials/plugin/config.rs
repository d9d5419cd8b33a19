//! The configuration of credential provider plugins: kinds, strict reading and upstream's validation (IMG-201, IMG-207).
//!
//! Pure. No message holds a value of `env`. Start at [`read`], then [`validate`].

use serde::Deserialize;
use std::collections::BTreeSet;
use std::time::Duration;

/// The group of the configuration's kind.
const GROUP: &str = "kubelet.config.k8s.io";
/// Versions in which a plugin may be spoken to, sorted.
const PROTOCOLS: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
];

/// One plugin, as configured and found good.
#[derive(Clone, PartialEq)]
pub struct Provider {
    /// The name of its program in the directory of plugins.
    pub name: String,
    /// The version in which it is spoken to.
    pub api_version: String,
    /// For which images it is asked.
    pub match_images: Vec<String>,
    /// How long its answers are kept that do not say.
    pub default_cache_duration: Duration,
    /// Arguments of its program.
    pub arguments: Vec<String>,
    /// Variables over the node's own environment.
    pub environment: Vec<(String, String)>,
    /// Whether it gets a token of the pod's service account.
    pub token: Option<Token>,
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Provider")
            .field("name", &self.name)
            .field("api_version", &self.api_version)
            .field("match_images", &self.match_images)
            .finish_non_exhaustive()
    }
}

/// `tokenAttributes` (IMG-207).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// For whom the token is.
    pub audience: String,
    /// Without a service account the plugin is not asked.
    pub account_required: bool,
    /// The answer belongs to one token, not to the account.
    pub cached_by_token: bool,
    /// Annotations without which the plugin is not asked.
    pub required_annotations: Vec<String>,
    /// Annotations that it gets when they are there.
    pub optional_annotations: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    #[serde(default)]
    providers: Vec<Raw>,
}

/// A provider before validation.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Raw {
    pub(super) name: String,
    api_version: String,
    match_images: Vec<String>,
    default_cache_duration: Option<String>,
    args: Option<Vec<String>>,
    env: Option<Vec<Variable>>,
    token_attributes: Option<RawToken>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Variable {
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RawToken {
    service_account_token_audience: String,
    cache_type: String,
    require_service_account: Option<bool>,
    required_service_account_annotation_keys: Option<Vec<String>>,
    optional_service_account_annotation_keys: Option<Vec<String>>,
}

/// The providers of one file, not yet validated. The error names line and key.
pub(super) fn read(text: &str) -> Result<Vec<Raw>, String> {
    // The parser would show the lines around a fault, and with them perhaps a value of `env`.
    let read: Result<Document, _> = serde_saphyr::from_str(text);
    let document = read.map_err(|error| error.without_snippet().to_string())?;
    let (group, version) = document.api_version.split_once('/').unwrap_or(("", &document.api_version));
    if document.kind != "CredentialProviderConfig" {
        return Err(format!("failed to decode {:?} (wrong Kind)", document.kind));
    }
    if group != GROUP {
        return Err(format!("failed to decode CredentialProviderConfig, unexpected Group: {group}"));
    }
    if !["v1", "v1beta1", "v1alpha1"].contains(&version) {
        return Err(format!(
            "no kind \"CredentialProviderConfig\" is registered for version {:?}",
            document.api_version
        ));
    }
    if version != "v1" && document.providers.iter().any(|provider| provider.token_attributes.is_some()) {
        return Err(format!("unknown field \"providers.tokenAttributes\" in version {version}"));
    }
    Ok(document.providers)
}

/// Checks all providers; upstream's words for all that is wrong.
pub(super) fn validate(raw: Vec<Raw>) -> Result<Vec<Provider>, String> {
    let mut faults = Vec::new();
    if raw.is_empty() {
        faults.push("providers: Required value: at least 1 item in plugins is required".to_owned());
    }
    let (mut seen, mut good) = (BTreeSet::new(), Vec::new());
    for provider in raw {
        name(&provider.name, &mut faults);
        if !seen.insert(provider.name.clone()) {
            faults.push(format!("providers.name: Duplicate value: {:?}", provider.name));
        }
        protocol(&provider.api_version, &mut faults);
        images(&provider.match_images, &mut faults);
        let duration = cache_duration(provider.default_cache_duration.as_deref(), &mut faults);
        if let Some(token) = &provider.token_attributes {
            attributes(token, &provider.api_version, &mut faults);
        }
        good.push(Provider {
            name: provider.name,
            api_version: provider.api_version,
            match_images: provider.match_images,
            default_cache_duration: duration,
            arguments: provider.args.unwrap_or_default(),
            environment: provider.env.unwrap_or_default().into_iter().map(|v| (v.name, v.value)).collect(),
            token: provider.token_attributes.map(RawToken::settled),
        });
    }
    match faults.as_slice() {
        [] => Ok(good),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

impl RawToken {
    fn settled(self) -> Token {
        Token {
            audience: self.service_account_token_audience,
            account_required: self.require_service_account.unwrap_or_default(),
            cached_by_token: self.cache_type == "Token",
            required_annotations: self.required_service_account_annotation_keys.unwrap_or_default(),
            optional_annotations: self.optional_service_account_annotation_keys.unwrap_or_default(),
        }
    }
}

fn name(name: &str, faults: &mut Vec<String>) {
    let mut refuse = |why: &str| faults.push(format!("providers.name: Invalid value: {name:?}: {why}"));
    if name.contains('/') {
        refuse("provider name cannot contain '/'");
    }
    if name.contains(' ') {
        refuse("provider name cannot contain spaces");
    }
    match name {
        "" => faults.push("providers.name: Required value".to_owned()),
        "." => refuse("provider name cannot be '.'"),
        ".." => refuse("provider name cannot be '..'"),
        _ => {}
    }
}

fn protocol(version: &str, faults: &mut Vec<String>) {
    if version.is_empty() {
        faults.push("providers.apiVersion: Required value".to_owned());
    } else if !PROTOCOLS.contains(&version) {
        let known = PROTOCOLS.map(|known| format!("{known:?}")).join(", ");
        faults.push(format!("providers.apiVersion: Unsupported value: {version:?}: supported values: {known}"));
    }
}

fn images(images: &[String], faults: &mut Vec<String>) {
    if images.is_empty() {
        faults.push("providers.matchImages: Required value: at least 1 item in matchImages is required".to_owned());
    }
    for image in images.iter().filter(|image| image.is_empty() || image.contains(char::is_whitespace)) {
        let why = "match image is invalid: it is empty or has spaces";
        faults.push(format!("providers.matchImages: Invalid value: {image:?}: {why}"));
    }
}

fn cache_duration(text: Option<&str>, faults: &mut Vec<String>) -> Duration {
    const FIELD: &str = "providers.defaultCacheDuration";
    let Some(text) = text else {
        faults.push(format!("{FIELD}: Required value"));
        return Duration::ZERO;
    };
    let why = match api::duration::parse(text).map(Duration::try_from) {
        Some(Ok(duration)) => return duration,
        Some(Err(_)) => "defaultCacheDuration must be greater than or equal to 0",
        None => "must be a duration such as 10m",
    };
    faults.push(format!("{FIELD}: Invalid value: {text:?}: {why}"));
    Duration::ZERO
}

fn attributes(token: &RawToken, protocol: &str, faults: &mut Vec<String>) {
    const FIELD: &str = "providers.tokenAttributes";
    if token.service_account_token_audience.is_empty() {
        faults.push(format!("{FIELD}.serviceAccountTokenAudience: Required value"));
    }
    if token.require_service_account.is_none() {
        faults.push(format!("{FIELD}.requireServiceAccount: Required value"));
    }
    if protocol != PROTOCOLS[0] {
        faults.push(format!("{FIELD}: Forbidden: tokenAttributes is only supported for {} API version", PROTOCOLS[0]));
    }
    let (required, optional) = (
        token.required_service_account_annotation_keys.as_deref().unwrap_or_default(),
        token.optional_service_account_annotation_keys.as_deref().unwrap_or_default(),
    );
    if token.require_service_account == Some(false) && !required.is_empty() {
        faults.push(format!(
            "{FIELD}.requiredServiceAccountAnnotationKeys: Forbidden: requireServiceAccount cannot be false when \
             requiredServiceAccountAnnotationKeys is set"
        ));
    }
    annotation_keys("requiredServiceAccountAnnotationKeys", required, faults);
    annotation_keys("optionalServiceAccountAnnotationKeys", optional, faults);
    let both: Vec<String> =
        required.iter().filter(|key| optional.contains(key)).map(|key| format!("{key:?}")).collect();
    if !both.is_empty() {
        let both = both.join(",");
        faults.push(format!("{FIELD}: Invalid value: [{both}]: annotation keys cannot be both required and optional"));
    }
    match token.cache_type.as_str() {
        "" => faults.push(format!(
            "{FIELD}.cacheType: Required value: cacheType is required to be set when tokenAttributes is specified. \
             Supported values are: ServiceAccount, Token"
        )),
        "ServiceAccount" | "Token" => {}
        other => faults.push(format!(
            "{FIELD}.cacheType: Unsupported value: {other:?}: supported values: \"ServiceAccount\", \"Token\""
        )),
    }
}

fn annotation_keys(field: &str, keys: &[String], faults: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for key in keys {
        if !is_qualified(&key.to_lowercase()) {
            faults.push(format!(
                "providers.tokenAttributes.{field}: Invalid value: {key:?}: must be a qualified name: an optional DNS \
                 subdomain and '/', then at most 63 letters, digits, '-', '_' or '.'"
            ));
        }
        if !seen.insert(key) {
            faults.push(format!("providers.tokenAttributes.{field}: Duplicate value: {key:?}"));
        }
    }
}

/// `[prefix/]name`, as annotation keys are.
fn is_qualified(key: &str) -> bool {
    let edges = |text: &str| {
        let alphanumeric = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        alphanumeric(text.bytes().next()) && alphanumeric(text.bytes().last())
    };
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let name_fits = name.len() <= 63
        && edges(name)
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    let prefix_fits = prefix.is_none_or(|prefix| {
        prefix.len() <= 253
            && prefix.split('.').all(|label| {
                edges(label) && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            })
    });
    name_fits && prefix_fits
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\n";
    const GOOD: &str = "providers:\n- name: ecr\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n  matchImages: ['*.r.io']\n  defaultCacheDuration: 12h\n";

    fn check(text: &str) -> Result<Vec<Provider>, String> {
        read(text).and_then(validate)
    }

    #[track_caller]
    fn refused(text: &str, why: &str) {
        let error = check(&format!("{HEAD}{text}")).unwrap_err();
        assert!(error.contains(why), "{error}");
    }

    /// The good provider with one line replaced.
    fn with(old: &str, new: &str) -> String {
        assert!(GOOD.contains(old));
        GOOD.replace(old, new)
    }

    #[test]
    fn all_three_versions_are_read_in_yaml_and_json() {
        for version in ["v1", "v1beta1", "v1alpha1"] {
            let text = format!("apiVersion: kubelet.config.k8s.io/{version}\nkind: CredentialProviderConfig\n{GOOD}");
            assert_eq!(check(&text).unwrap()[0].default_cache_duration, Duration::from_secs(12 * 3600));
        }
        let json = r#"{"apiVersion":"kubelet.config.k8s.io/v1","kind":"CredentialProviderConfig","providers":[{"name":"p",
            "apiVersion":"credentialprovider.kubelet.k8s.io/v1beta1","matchImages":["r.io"],"defaultCacheDuration":"0s",
            "args":["get"],"env":[{"name":"A","value":"b"}]}]}"#;
        let found = &check(json).unwrap()[0];
        assert_eq!((found.arguments.as_slice(), &found.environment[0].1), (&["get".to_owned()][..], &"b".to_owned()));
    }

    #[test]
    fn the_kind_and_its_group_have_to_be_right() {
        let error = |text: &str| check(text).unwrap_err();
        assert_eq!(error("apiVersion: kubelet.config.k8s.io/v1\nkind: Pod\n"), "failed to decode \"Pod\" (wrong Kind)");
        let other = "apiVersion: example.com/v1\nkind: CredentialProviderConfig\n";
        assert_eq!(error(other), "failed to decode CredentialProviderConfig, unexpected Group: example.com");
        let version = "apiVersion: kubelet.config.k8s.io/v2\nkind: CredentialProviderConfig\n";
        assert!(error(version).contains("no kind"));
    }

    #[test]
    fn each_field_of_a_provider_is_checked() {
        refused("", "providers: Required value: at least 1 item in plugins is required");
        for (name, why) in [
            ("a/b", "provider name cannot contain '/'"),
            ("a b", "provider name cannot contain spaces"),
            ("'.'", "provider name cannot be '.'"),
            ("'..'", "provider name cannot be '..'"),
            ("''", "providers.name: Required value"),
        ] {
            refused(&with("name: ecr", &format!("name: {name}")), why);
        }
        let twice = format!("{GOOD}{}", GOOD.strip_prefix("providers:\n").unwrap());
        refused(&twice, "providers.name: Duplicate value: \"ecr\"");
        let version = "apiVersion: credentialprovider.kubelet.k8s.io/v1";
        refused(&with(version, "args: []"), "providers.apiVersion: Required value");
        refused(
            &with(version, "apiVersion: v7"),
            "providers.apiVersion: Unsupported value: \"v7\": supported values: \"credentialprovider.kubelet.k8s.io/v1\", ",
        );
        refused(&with("['*.r.io']", "[]"), "at least 1 item in matchImages is required");
        refused(&with("['*.r.io']", "['a b']"), "match image is invalid");
        refused(&with("  defaultCacheDuration: 12h\n", ""), "providers.defaultCacheDuration: Required value");
        refused(&with("12h", "-1m"), "defaultCacheDuration must be greater than or equal to 0");
        refused(&with("12h", "soon"), "must be a duration");
    }

    #[test]
    fn unknown_and_repeated_keys_are_refused_without_showing_values() {
        let secret = "  env:\n  - name: KEY\n    value: s3cr3t\n    valve: 1\n";
        let error = check(&format!("{HEAD}{GOOD}{secret}")).unwrap_err();
        assert!(error.contains("valve") && !error.contains("s3cr3t"), "{error}");
        assert!(check(&format!("{HEAD}{GOOD}  name: again\n")).is_err());
        assert!(check(&format!("{HEAD}{GOOD}extra: 1\n")).unwrap_err().contains("extra"));
        let good = check(&format!("{HEAD}{GOOD}{}", secret.replace("    valve: 1\n", ""))).unwrap();
        assert!(!format!("{good:?}").contains("s3cr3t"));
    }

    #[test]
    fn token_attributes_are_checked() {
        let token = |fields: &str| format!("{GOOD}  tokenAttributes: {{{fields}}}\n");
        let good = "serviceAccountTokenAudience: a, requireServiceAccount: true, cacheType: Token";
        let found = check(&format!("{HEAD}{}", token(good))).unwrap();
        assert!(found[0].token.as_ref().unwrap().cached_by_token);
        refused(&token("requireServiceAccount: true, cacheType: Token"), "serviceAccountTokenAudience: Required value");
        refused(&token("serviceAccountTokenAudience: a, cacheType: Token"), "requireServiceAccount: Required value");
        refused(
            &token("serviceAccountTokenAudience: a, requireServiceAccount: true"),
            "cacheType is required to be set",
        );
        refused(&token(&good.replace("Token", "Pod").replace("PodAudience", "TokenAudience")), "Unsupported value");
        let keys = |fields: &str| token(&format!("{good}, {fields}"));
        refused(&keys("requiredServiceAccountAnnotationKeys: ['a b']"), "must be a qualified name");
        refused(&keys("requiredServiceAccountAnnotationKeys: [a, a]"), "Duplicate value: \"a\"");
        let both = "requiredServiceAccountAnnotationKeys: [a], optionalServiceAccountAnnotationKeys: [a]";
        refused(&keys(both), "annotation keys cannot be both required and optional");
        let loose = keys("requiredServiceAccountAnnotationKeys: [a]").replace("Account: true", "Account: false");
        refused(&loose, "requireServiceAccount cannot be false when requiredServiceAccountAnnotationKeys is set");
        let old =
            token(good).replace("credentialprovider.kubelet.k8s.io/v1", "credentialprovider.kubelet.k8s.io/v1beta1");
        refused(&old, "tokenAttributes is only supported for credentialprovider.kubelet.k8s.io/v1 API version");
    }
}
