//! Where a registry is reached (IMG-120, IMG-133..IMG-136): its mirrors in their order, then itself.
//!
//! Pure: turns the rules of the machine's files into a list of endpoints for one repository. What goes to which of
//! them is decided here too: a credential to the registry it is for, and to a mirror only if a file says so (IMG-131).

use super::hosts::{Address, HostRule, RegistryConfig, Rules, TlsFiles};
use crate::credential::Secret;
use reference::Reference;
use std::net::IpAddr;
use std::time::Duration;

/// Docker Hub's own host.
const HUB: &str = "registry-1.docker.io";
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// How to talk to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Https,
    Http,
}

impl Scheme {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Scheme::Https => "https",
            Scheme::Http => "http",
        }
    }
}

/// One place that serves a registry's repositories.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `host[:port]`.
    pub(crate) authority: String,
    /// What stands before the repository: `/v2`, mostly.
    pub(crate) base: String,
    /// The repository's path there.
    pub(crate) repository: String,
    /// Schemes to try; the next only after a TLS failure of the one before.
    pub(crate) schemes: Vec<Scheme>,
    /// Whether it may be asked for content.
    pub(crate) can_pull: bool,
    /// Whether it may be asked what a tag stands for.
    pub(crate) can_resolve: bool,
    /// The registry for which a mirror is asked, as `?ns=` (IMG-136).
    pub(crate) namespace: Option<String>,
    pub(crate) tls: TlsFiles,
    /// Headers that a file gives to it.
    pub(crate) headers: Vec<(String, String)>,
    /// Whether it gets the headers of the pull itself (IMG-163).
    pub(crate) gets_headers: bool,
    pub(crate) dial_timeout: Duration,
    /// What it may be shown.
    pub(crate) secret: Secret,
}

/// The endpoints of a repository. `secret` is the pull's own credential.
pub(crate) fn endpoints(reference: &Reference, secret: &Secret, rules: &Rules) -> Result<Vec<Endpoint>, &'static str> {
    let placing = Placing { reference, secret, configs: &rules.configs };
    let mirrors = rules.mirrors.iter().map(|rule| placing.mirror(rule));
    mirrors.chain([placing.server(&rules.server)]).collect()
}

struct Placing<'a> {
    reference: &'a Reference,
    secret: &'a Secret,
    configs: &'a [(String, RegistryConfig)],
}

impl Placing<'_> {
    /// The registry's own host.
    fn own_authority(&self) -> &str {
        match self.reference.domain() {
            reference::DEFAULT_DOMAIN => HUB,
            domain => domain,
        }
    }

    fn own_address(&self) -> Address {
        Address { scheme: None, authority: self.own_authority().to_owned(), base: "/v2".to_owned() }
    }

    fn mirror(&self, rule: &HostRule) -> Result<Endpoint, &'static str> {
        let address = rule.address.clone().unwrap_or_else(|| self.own_address());
        // A file may name the registry itself among its mirrors, to say how it is reached.
        let is_own = address.authority == self.own_authority() || address.authority == self.reference.domain();
        self.endpoint(rule, address, is_own || rule.gets_credential, is_own)
    }

    /// What a file calls the server is the registry, wherever it stands.
    fn server(&self, rule: &HostRule) -> Result<Endpoint, &'static str> {
        let address = rule.address.clone().unwrap_or_else(|| self.own_address());
        self.endpoint(rule, address, true, true)
    }

    fn endpoint(
        &self,
        rule: &HostRule,
        address: Address,
        gets_credential: bool,
        is_own: bool,
    ) -> Result<Endpoint, &'static str> {
        let authority = if address.authority == reference::DEFAULT_DOMAIN { HUB.to_owned() } else { address.authority };
        let named = |name: &str| name == authority || (is_own && name == self.reference.domain());
        let config = self.configs.iter().find(|(name, _)| named(name)).map(|(_, config)| config);
        let configured = config.and_then(|config| config.credential.as_ref());
        let secret = match (gets_credential && *self.secret != Secret::Anonymous, configured) {
            (true, _) => self.secret.clone(),
            (false, Some(credential)) => credential.secret_for(&authority)?,
            (false, None) => Secret::Anonymous,
        };
        let tls = match config {
            Some(config) if rule.tls == TlsFiles::default() => config.tls.clone(),
            _ => rule.tls.clone(),
        };
        let path = self.reference.path();
        Ok(Endpoint {
            base: address.base,
            repository: rule.rewrites.iter().find_map(|r| r.apply(path)).unwrap_or_else(|| path.to_owned()),
            schemes: address.scheme.map_or_else(|| default_schemes(&authority), |scheme| vec![scheme]),
            can_pull: rule.can_pull,
            can_resolve: rule.can_resolve,
            namespace: (authority != self.own_authority()).then(|| self.reference.domain().to_owned()),
            tls,
            headers: rule.headers.clone(),
            gets_headers: is_own,
            dial_timeout: rule.dial_timeout.unwrap_or(DIAL_TIMEOUT),
            secret,
            authority,
        })
    }
}

/// A registry that is not on loopback is never spoken to without TLS, unless a file says so (IMG-133).
fn default_schemes(authority: &str) -> Vec<Scheme> {
    let (host, port) = split_port(authority);
    match port {
        Some("80") if is_loopback(host) => vec![Scheme::Http],
        Some(port) if is_loopback(host) && port != "443" => vec![Scheme::Https, Scheme::Http],
        _ => vec![Scheme::Https],
    }
}

/// Splits `host:port`, with brackets around IPv6 addresses.
pub(crate) fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => (&authority[..colon], Some(&authority[colon + 1..])),
        _ => (authority, None),
    }
}

/// Whether a host is this machine itself.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::hosts::{parse_hosts_toml, parse_registries_yaml};
    use std::path::Path;

    fn password(word: &str) -> Secret {
        Secret::Password { username: "u".into(), password: word.into() }
    }

    fn of(name: &str, rules: &Rules) -> Vec<Endpoint> {
        endpoints(&Reference::parse(name).unwrap(), &password("pull"), rules).unwrap()
    }

    #[test]
    fn only_loopback_registries_may_fall_back_to_http() {
        use Scheme::{Http, Https};
        #[track_caller]
        fn check(domain: &str, authority: &str, schemes: &[Scheme]) {
            let found = of(&format!("{domain}/a"), &Rules::default());
            assert_eq!((found.len(), found[0].authority.as_str(), found[0].base.as_str()), (1, authority, "/v2"));
            assert_eq!((found[0].schemes.as_slice(), &found[0].namespace), (schemes, &None));
        }
        check("docker.io", "registry-1.docker.io", &[Https]);
        check("r.io:5000", "r.io:5000", &[Https]);
        check("r.io:80", "r.io:80", &[Https]);
        check("localhost", "localhost", &[Https]);
        check("localhost:443", "localhost:443", &[Https]);
        check("localhost:80", "localhost:80", &[Http]);
        check("127.0.0.1:5000", "127.0.0.1:5000", &[Https, Http]);
        check("127.8.0.1:5000", "127.8.0.1:5000", &[Https, Http]);
        check("[::1]:5000", "[::1]:5000", &[Https, Http]);
        check("10.0.0.1:5000", "10.0.0.1:5000", &[Https]);
        check("localhost.example:5000", "localhost.example:5000", &[Https]);
    }

    #[test]
    fn a_credential_goes_to_its_registry_and_to_mirrors_that_a_file_names() {
        let text = r#"
            server = "https://registry-1.docker.io"
            [host."https://quiet.io"]
            [host."https://trusted.io"]
            gets_credential = true
            [host."https://registry-1.docker.io"]
            [host."https://known.io"]
        "#;
        let mut rules = parse_hosts_toml(text, Path::new("/d")).unwrap();
        rules.configs =
            parse_registries_yaml("configs: {known.io: {auth: {username: u, password: own}}}").unwrap().configs;
        let found = of("nginx", &rules);
        let shown: Vec<(&str, bool, bool)> = found
            .iter()
            .map(|e| (e.authority.as_str(), e.secret == password("pull"), e.secret == password("own")))
            .collect();
        assert_eq!(
            shown,
            [
                ("quiet.io", false, false),
                ("trusted.io", true, false),
                (HUB, true, false),
                ("known.io", false, true),
                (HUB, true, false)
            ]
        );
        let spaces: Vec<Option<&str>> = found.iter().map(|e| e.namespace.as_deref()).collect();
        assert_eq!(spaces, [Some("docker.io"), Some("docker.io"), None, Some("docker.io"), None]);
        assert!(found.iter().zip([false, false, true, false, true]).all(|(e, own)| e.gets_headers == own));
    }

    #[test]
    fn registries_yaml_gives_mirrors_rewrites_logins_and_certificates() {
        let text = "
mirrors:
  docker.io:
    endpoint: [\"http://m.io:5000/cache\", \"https://n.io/v2\"]
    rewrite: {\"^library/(.*)\": \"hub/$1\"}
configs:
  docker.io: {auth: {username: u, password: own}}
  m.io:5000: {tls: {ca_file: /ca, insecure_skip_verify: true}}
";
        let registries = parse_registries_yaml(text).unwrap();
        let rules = Rules { configs: registries.configs, ..Rules::default() };
        let anonymous = endpoints(&Reference::parse("nginx").unwrap(), &Secret::Anonymous, &rules).unwrap();
        assert!(anonymous[0].secret == password("own"), "the file's login serves where the pull has none");
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("registries.yaml");
        std::fs::write(&file, text).unwrap();
        let places = crate::registry::hosts::Places { directories: &[], registries: &[file] };
        let found = of("nginx", &crate::registry::hosts::load(&places, "docker.io").unwrap());
        let shown: Vec<String> = found
            .iter()
            .map(|e| format!("{}://{}{}/{}", e.schemes[0].name(), e.authority, e.base, e.repository))
            .collect();
        assert_eq!(
            shown,
            [
                "http://m.io:5000/cache/v2/hub/nginx",
                "https://n.io/v2/hub/nginx",
                "https://registry-1.docker.io/v2/library/nginx"
            ]
        );
        assert!(found[0].tls.skips_verification && found[0].tls.authorities == [Path::new("/ca")]);
    }
}
