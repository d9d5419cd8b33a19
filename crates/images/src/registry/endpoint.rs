//! Where a registry is reached (IMG-120, IMG-133). The seam for mirrors: a registry has a list of endpoints, in the
//! order in which they are asked. Today the list has one entry; host files will fill it.

use std::net::IpAddr;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `host[:port]`.
    pub(crate) authority: String,
    /// Schemes to try; the next only after a TLS failure of the one before.
    pub(crate) schemes: Vec<Scheme>,
}

/// The endpoints of a registry.
pub(crate) fn endpoints(domain: &str) -> Vec<Endpoint> {
    let authority = if domain == reference::DEFAULT_DOMAIN { "registry-1.docker.io" } else { domain };
    let (host, port) = split_port(authority);
    let schemes = match port {
        Some("80") if is_loopback(host) => vec![Scheme::Http],
        Some(port) if is_loopback(host) && port != "443" => vec![Scheme::Https, Scheme::Http],
        _ => vec![Scheme::Https],
    };
    vec![Endpoint { authority: authority.to_owned(), schemes }]
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

    #[test]
    fn only_loopback_registries_may_fall_back_to_http() {
        use Scheme::{Http, Https};
        #[track_caller]
        fn check(domain: &str, authority: &str, schemes: &[Scheme]) {
            let found = endpoints(domain);
            assert_eq!(found, [Endpoint { authority: authority.to_owned(), schemes: schemes.to_vec() }]);
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
}
