//! A pod's resolver configuration from its DNS policy.
//!
//! Pure. Start at [`dns`]; [`ResolvConf::parse`] reads the node's own file.

use super::Context;
use crate::object::{DnsConfig, Pod};
use cri::v1;

/// More name servers than this are ignored by every resolver.
const SERVERS_MAX: usize = 3;
/// More search domains than this are refused by Kubernetes.
const SEARCHES_MAX: usize = 32;

/// The contents of a resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Name server addresses.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options such as `ndots:5`.
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads a resolv.conf; lines that mean nothing are skipped, the last `search` line wins.
    pub fn parse(text: &str) -> ResolvConf {
        let mut out = ResolvConf::default();
        for line in text.lines().filter(|l| !l.trim_start().starts_with(['#', ';'])) {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => out.servers.extend(words.next().map(str::to_owned)),
                Some("search") => out.searches = words.map(|w| w.trim_end_matches('.').to_owned()).collect(),
                Some("options") => out.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        out.searches.retain(|s| !s.is_empty());
        out
    }
}

/// The resolver configuration of a pod.
pub(super) fn dns(pod: &Pod, ctx: &Context) -> v1::DnsConfig {
    let host = &ctx.resolv_conf;
    let cluster_first = match pod.spec.dns_policy.as_str() {
        "ClusterFirstWithHostNet" => true,
        "Default" | "None" => false,
        _ => !pod.spec.host_network,
    };
    let mut out = match pod.spec.dns_policy.as_str() {
        "None" => v1::DnsConfig::default(),
        _ if cluster_first && !ctx.cluster_dns.is_empty() => cluster(pod, ctx),
        _ => v1::DnsConfig {
            servers: host.servers.clone(),
            searches: host.searches.clone(),
            options: host.options.clone(),
        },
    };
    if let Some(extra) = &pod.spec.dns_config {
        add(&mut out, extra);
    }
    out.servers.truncate(SERVERS_MAX);
    out.searches.truncate(SEARCHES_MAX);
    out
}

fn cluster(pod: &Pod, ctx: &Context) -> v1::DnsConfig {
    let domain = &ctx.cluster_domain;
    let mut searches = Vec::new();
    if !domain.is_empty() {
        searches = vec![format!("{}.svc.{domain}", pod.namespace()), format!("svc.{domain}"), domain.clone()];
    }
    extend_unique(&mut searches, &ctx.resolv_conf.searches);
    v1::DnsConfig {
        servers: ctx.cluster_dns.iter().map(ToString::to_string).collect(),
        searches,
        options: vec!["ndots:5".to_owned()],
    }
}

/// Adds the pod's own words: servers and searches behind, options by name in place of earlier ones.
fn add(out: &mut v1::DnsConfig, extra: &DnsConfig) {
    extend_unique(&mut out.servers, &extra.nameservers);
    extend_unique(&mut out.searches, &extra.searches);
    for option in &extra.options {
        let name = |text: &str| text.split(':').next().unwrap_or_default().to_owned();
        out.options.retain(|o| name(o) != option.name);
        out.options.push(match &option.value {
            Some(value) if !value.is_empty() => format!("{}:{value}", option.name),
            _ => option.name.clone(),
        });
    }
}

fn extend_unique(list: &mut Vec<String>, more: &[String]) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}
