//! The pod network: a bridge on this node, one address a pod, NAT to the outside, host ports.
//!
//! Owns the bridge, the links into the sandboxes, the addresses and one nftables table; touches nothing else of the
//! host but `ip_forward`, which it gives back. It knows sandboxes by id and network namespace only. All state is
//! in `Options::state_dir`, one file an address. Start with [`Network`]; `records` has the files, `links` the kernel.
#![forbid(unsafe_code)]

mod links;
mod nft;
mod records;
mod rules;
mod sysctl;

use ipnet::Ipv4Net;
use links::Links;
use records::{Record, Records};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the network is built from.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the bridge, at most 15 bytes; made if missing. Instances beside each other use different ones.
    pub bridge: String,
    /// Addresses of this node's pods; the first host address is the gateway's.
    pub pod_cidr: Ipv4Net,
    /// Durable directory for this room alone; made if missing.
    pub state_dir: PathBuf,
    /// Name of the nftables table (family `ip`) that is ours alone.
    pub table: String,
}

/// Transport protocol of a host port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port of the host that leads to a port of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port in the pod.
    pub container_port: u16,
    /// Port on the host.
    pub host_port: u16,
    /// Only on this address of the host; `None` and 0.0.0.0: on all, loopback too.
    pub host_ip: Option<Ipv4Addr>,
}

/// A sandbox's place in the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The pod's addresses, the primary one first.
    pub ips: Vec<IpAddr>,
    /// Its default gateway: the bridge.
    pub gateway: IpAddr,
}

/// Why the network could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing can work with these options.
    #[error("network options: {0}")]
    Options(String),
    /// Every address of the pod CIDR is in use.
    #[error("no free address in {0}")]
    Exhausted(Ipv4Net),
    /// Another sandbox has the host port.
    #[error("host port {host_port} is taken by sandbox {sandbox}")]
    PortTaken {
        /// The port on the host.
        host_port: u16,
        /// Who has it.
        sandbox: String,
    },
    /// A file of the state directory cannot be read or written.
    #[error("record {}", path.display())]
    Record {
        /// Which file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The kernel refuses a link, address or route.
    #[error("{step}")]
    Link {
        /// What was attempted, with what.
        step: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The sandbox's network namespace cannot be entered.
    #[error("network namespace {}", path.display())]
    Namespace {
        /// Where it was looked for.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// `nft` refuses the rules, or is missing.
    #[error("nft: {0}")]
    Rules(String),
    /// A kernel setting cannot be read or changed.
    #[error("sysctl {name}")]
    Sysctl {
        /// Its name with slashes.
        name: String,
        /// What the kernel says.
        source: io::Error,
    },
}

/// Attachments of different sandboxes run beside each other; those of one sandbox wait for each other.
const LANES: usize = 16;

/// The built-in pod network.
#[derive(Debug)]
pub struct Network {
    options: Options,
    gateway: Ipv4Addr,
    mtu: u32,
    links: Links,
    records: Mutex<Records>,
    lanes: [tokio::sync::Mutex<()>; LANES],
    /// Held while the rules change, so that they say in the end what the records do.
    rules: tokio::sync::Mutex<()>,
}

impl Network {
    /// Builds bridge, rules and settings, or takes over what an earlier run has left. To be called within a tokio runtime.
    ///
    /// # Errors
    /// Bad options, no right to change the network, no `nft`.
    pub async fn start(options: Options) -> Result<Network, Error> {
        let gateway = check(&options)?;
        let records = Records::load(&options.state_dir, options.pod_cidr)?;
        sysctl::forward(&options.state_dir)?;
        let links = Links::open()?;
        let mtu = links.outward_mtu().await;
        links.ensure_bridge(&options.bridge, gateway, options.pod_cidr.prefix_len(), mtu).await?;
        // Packets to 127.0.0.1 that a host port leads to a pod would be dropped as martians otherwise. With it pods
        // could reach what listens on the host's loopback alone, so the rules refuse that first.
        nft::run(&rules::table(&options.table, &options.bridge, options.pod_cidr, records.all())).await?;
        sysctl::set(&format!("net/ipv4/conf/{}/route_localnet", options.bridge), "1")?;
        let lanes = std::array::from_fn(|_| tokio::sync::Mutex::new(()));
        Ok(Network {
            options,
            gateway,
            mtu,
            links,
            records: Mutex::new(records),
            lanes,
            rules: tokio::sync::Mutex::new(()),
        })
    }

    /// Gives the network namespace at `netns` an interface `eth0` with an address, and the host the given ports.
    /// Idempotent by sandbox: a second call finds the same address and mends what is missing. The ports of the first call count.
    ///
    /// # Errors
    /// Nothing is left behind, except if the machine refuses that too; `sweep` finds it then.
    pub async fn attach(&self, sandbox: &str, netns: &Path, ports: &[PortMapping]) -> Result<Attachment, Error> {
        let _lane = self.lane(sandbox).lock().await;
        let record = self.records().allocate(sandbox, ports)?;
        if let Err(error) = self.connect(&record, netns).await {
            if let Err(second) = self.release(sandbox).await {
                tracing::warn!(sandbox, error = %second, "could not undo a failed attachment");
            }
            return Err(error);
        }
        Ok(self.describe(&record))
    }

    async fn connect(&self, record: &Record, netns: &Path) -> Result<(), Error> {
        let pod = links::Pod {
            host_name: self.link_name(&record.sandbox),
            bridge: &self.options.bridge,
            address: record.address,
            prefix: self.options.pod_cidr.prefix_len(),
            gateway: self.gateway,
            mtu: self.mtu,
            has_ports: !record.ports.is_empty(),
        };
        self.links.connect(&pod, netns).await?;
        // Pods without host ports, nearly all, need no change of the rules.
        let Some(text) = rules::add_ports(&self.options.table, record) else { return Ok(()) };
        let _rules = self.rules.lock().await;
        nft::run(&text).await
    }

    /// Takes the sandbox out of the network and frees its address. Idempotent; its network namespace may be gone.
    ///
    /// # Errors
    /// The kernel refuses; the address stays taken then.
    pub async fn detach(&self, sandbox: &str) -> Result<(), Error> {
        let _lane = self.lane(sandbox).lock().await;
        self.release(sandbox).await
    }

    async fn release(&self, sandbox: &str) -> Result<(), Error> {
        let record = self.records().find(sandbox).cloned();
        self.links.remove(&self.link_name(sandbox)).await?;
        let Some(record) = record else { return Ok(()) };
        if record.ports.is_empty() {
            return self.records().free(sandbox);
        }
        // The table is written anew from the records. Whoever came after they were read adds its ports afterwards; whoever
        // goes finds this one's record gone.
        let _rules = self.rules.lock().await;
        let all = self.records().without(sandbox);
        let Options { table, bridge, pod_cidr, .. } = &self.options;
        nft::run(&rules::table(table, bridge, *pod_cidr, all.iter())).await?;
        self.records().free(sandbox)
    }

    /// The sandbox's address, if it has one.
    #[allow(clippy::unused_async, reason = "part of the room's contract: an implementation may have to ask")]
    pub async fn attachment(&self, sandbox: &str) -> Option<Attachment> {
        let records = self.records();
        records.find(sandbox).map(|record| self.describe(record))
    }

    /// Frees what belongs to none of the sandboxes in `live`: addresses, links, ports left by a crash.
    ///
    /// # Errors
    /// The first refusal of the kernel, after everything was tried.
    pub async fn sweep(&self, live: &BTreeSet<String>) -> Result<(), Error> {
        let mut first = Ok(());
        let dead: Vec<String> =
            self.records().all().map(|it| it.sandbox.clone()).filter(|it| !live.contains(it)).collect();
        for sandbox in dead {
            let result = self.detach(&sandbox).await;
            first = first.and(result);
        }
        let expected: BTreeSet<String> = live.iter().map(|sandbox| self.link_name(sandbox)).collect();
        for name in self.links.ports(&self.options.bridge).await? {
            if name.starts_with(links::PREFIX) && !expected.contains(&name) {
                let result = self.links.remove(&name).await;
                first = first.and(result);
            }
        }
        first
    }

    /// Removes everything of this network from the machine: links, bridge, rules, settings, records. Idempotent.
    ///
    /// # Errors
    /// The first refusal of the kernel, after everything was tried.
    pub async fn tear_down(&self) -> Result<(), Error> {
        let mut first = self.sweep(&BTreeSet::new()).await;
        let steps = [
            self.links.remove(&self.options.bridge).await,
            nft::run(&rules::no_table(&self.options.table)).await,
            sysctl::restore_forward(&self.options.state_dir),
        ];
        for step in steps {
            first = first.and(step);
        }
        first
    }

    fn describe(&self, record: &Record) -> Attachment {
        Attachment { ips: vec![IpAddr::V4(record.address)], gateway: IpAddr::V4(self.gateway) }
    }

    fn link_name(&self, sandbox: &str) -> String {
        links::host_name(&self.options.bridge, sandbox)
    }

    fn lane(&self, sandbox: &str) -> &tokio::sync::Mutex<()> {
        &self.lanes[usize::try_from(links::hash(sandbox) % LANES as u64).unwrap_or(0)]
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        // The records change by single insertions and removals, so they are whole even after a panic.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks the options; returns the gateway's address.
fn check(options: &Options) -> Result<Ipv4Addr, Error> {
    let plain =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if !plain(&options.bridge) || options.bridge.len() > 15 {
        return Err(Error::Options(format!("{:?} is no name for a bridge", options.bridge)));
    }
    if !plain(&options.table) || !options.table.starts_with(|it: char| it.is_ascii_alphabetic()) {
        return Err(Error::Options(format!("{:?} is no name for a table", options.table)));
    }
    if options.pod_cidr.prefix_len() > 29 || options.pod_cidr.prefix_len() < 8 {
        return Err(Error::Options(format!("{} is not between /8 and /29", options.pod_cidr)));
    }
    options.pod_cidr.hosts().next().ok_or_else(|| Error::Options(format!("{} has no hosts", options.pod_cidr)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_cannot_work_are_refused() {
        let good = Options {
            bridge: "sampan0".into(),
            pod_cidr: "10.90.0.0/24".parse().expect("CIDR"),
            state_dir: "/nowhere".into(),
            table: "sampan".into(),
        };
        assert_eq!(check(&good).expect("good"), Ipv4Addr::new(10, 90, 0, 1));
        assert!(check(&Options { bridge: "a bridge".into(), ..good.clone() }).is_err());
        assert!(check(&Options { bridge: "sixteen-bytes-xx".into(), ..good.clone() }).is_err());
        assert!(check(&Options { table: "t; flush ruleset".into(), ..good.clone() }).is_err());
        assert!(check(&Options { pod_cidr: "10.0.0.0/30".parse().expect("CIDR"), ..good }).is_err());
    }
}
