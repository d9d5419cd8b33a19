//! The configuration of a pod sandbox.
//!
//! Pure. Start at [`sandbox`].

use super::{Context, annotations, dns, files, resources, security};
use crate::{
    cgroups,
    object::{ContainerKind, Pod},
};
use cri::v1;

/// A host name has at most this many characters.
const HOSTNAME_MAX: usize = 63;

/// The sandbox configuration of a pod. `metadata.attempt` is 0: the caller sets it from its ledger.
pub fn sandbox(pod: &Pod, ctx: &Context) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: pod.name().to_owned(),
            uid: pod.uid().to_owned(),
            namespace: pod.namespace().to_owned(),
            attempt: 0,
        }),
        hostname: if pod.spec.host_network { String::new() } else { hostname(pod, ctx) },
        log_directory: files::pod_log_directory(&ctx.log_dir, pod).to_string_lossy().into_owned(),
        dns_config: Some(dns::dns(pod, ctx)),
        port_mappings: port_mappings(pod),
        labels: annotations::sandbox_labels(pod),
        annotations: annotations::sandbox_annotations(pod),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: cgroups::path(&ctx.cgroup_top, pod),
            security_context: Some(security::sandbox(pod, ctx)),
            sysctls: sysctls(pod),
            overhead: Some(resources::overhead(pod)),
            resources: Some(resources::pod(pod)),
        }),
        windows: None,
    }
}

/// The pod's host name: `spec.hostname` or the pod's name, cut to 63 characters; with `setHostnameAsFQDN` the full
/// name. The node's own for pods on the host network.
pub fn hostname(pod: &Pod, ctx: &Context) -> String {
    if pod.spec.host_network {
        return ctx.host_name.clone();
    }
    let name = if pod.spec.hostname.is_empty() { pod.name() } else { &pod.spec.hostname };
    let short: String = name.chars().take(HOSTNAME_MAX).collect();
    let short = short.trim_end_matches(['-', '.']).to_owned();
    match full_name(pod, &short, ctx) {
        Some(full) if pod.spec.set_hostname_as_fqdn => full,
        _ => short,
    }
}

/// `<hostname>.<subdomain>.<namespace>.svc.<domain>`; None without a subdomain or a domain.
pub(super) fn full_name(pod: &Pod, hostname: &str, ctx: &Context) -> Option<String> {
    let (subdomain, domain) = (&pod.spec.subdomain, &ctx.cluster_domain);
    (!subdomain.is_empty() && !domain.is_empty())
        .then(|| format!("{hostname}.{subdomain}.{}.svc.{domain}", pod.namespace()))
}

/// The ports of the containers that live as long as the pod; none on the host network.
fn port_mappings(pod: &Pod) -> Vec<v1::PortMapping> {
    if pod.spec.host_network {
        return Vec::new();
    }
    let long_lived = pod.containers().filter(|(kind, _)| matches!(kind, ContainerKind::App | ContainerKind::Sidecar));
    let ports = long_lived.flat_map(|(_, c)| &c.ports).filter(|p| p.container_port > 0);
    ports
        .map(|p| v1::PortMapping {
            protocol: protocol(&p.protocol) as i32,
            container_port: p.container_port,
            host_port: p.host_port,
            host_ip: p.host_ip.clone(),
        })
        .collect()
}

fn protocol(name: &str) -> v1::Protocol {
    match name {
        "UDP" => v1::Protocol::Udp,
        "SCTP" => v1::Protocol::Sctp,
        _ => v1::Protocol::Tcp,
    }
}

/// Sysctls in the kernel's dotted spelling.
fn sysctls(pod: &Pod) -> std::collections::BTreeMap<String, String> {
    let list = pod.spec.security_context.sysctls.iter();
    list.map(|s| (dotted(&s.name), s.value.clone())).collect()
}

/// `net/ipv4/conf/eth0.1` → `net.ipv4.conf.eth0/1`; names whose first separator is a dot stay.
fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}
