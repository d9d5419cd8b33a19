//! Bridge, veth pairs, addresses and routes, by rtnetlink.
//!
//! Owns every change of links in the kernel; each is idempotent. Knows no record. Start with [`Links`].

use crate::Error;
use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection,
};
use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// Start of the host's names of all links into sandboxes.
pub const PREFIX: &str = "sp";
/// The interface's name in the sandbox.
const POD_LINK: &str = "eth0";
/// Its index in a fresh namespace: nothing but the loopback device, 1, is there before it.
const FIRST_INDEX: u32 = 2;
/// Of a machine without default route.
const MTU: u32 = 1500;
/// The kernel answers in microseconds unless something is very wrong.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to the kernel's network configuration in one namespace.
#[derive(Debug)]
pub struct Links {
    handle: Handle,
    /// Index of the bridge, once it was looked up; 0 before.
    bridge: AtomicU32,
    /// Carries the messages; ends when this is dropped.
    _carrier: Mutex<JoinSet<()>>,
}

/// A sandbox's end of the network.
#[derive(Debug)]
pub struct Pod<'a> {
    /// Name of the host's end.
    pub host_name: String,
    /// Name of the bridge.
    pub bridge: &'a str,
    /// Address of the pod's end.
    pub address: Ipv4Addr,
    /// Prefix length of the pod CIDR.
    pub prefix: u8,
    /// Default gateway.
    pub gateway: Ipv4Addr,
    /// Of both ends.
    pub mtu: u32,
    /// Whether the host has ports that lead to it.
    pub has_ports: bool,
}

impl Links {
    /// Connects in the calling thread's network namespace.
    pub fn open() -> Result<Links, Error> {
        let failed = |source| Error::Link { step: "netlink socket".into(), source };
        let (connection, handle, _) = new_connection().map_err(failed)?;
        let mut carrier = JoinSet::new();
        carrier.spawn(connection);
        Ok(Links { handle, bridge: AtomicU32::new(0), _carrier: Mutex::new(carrier) })
    }

    /// Connects in the namespace of `netns`, by a thread of its own that ends at once.
    async fn open_in(netns: OwnedFd, path: &Path) -> Result<Links, Error> {
        let runtime = tokio::runtime::Handle::current();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let enter = move || {
            let result = move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(io::Error::from)
                .and_then(|()| {
                    let _context = runtime.enter();
                    new_connection()
                });
            let _ = sender.send(result);
        };
        let failed = |source| Error::Namespace { path: path.into(), source };
        std::thread::Builder::new().name("netns".into()).stack_size(256 * 1024).spawn(enter).map_err(failed)?;
        let (connection, handle, _) =
            receiver.await.map_err(|_| failed(io::ErrorKind::BrokenPipe.into()))?.map_err(failed)?;
        let mut carrier = JoinSet::new();
        carrier.spawn(connection);
        Ok(Links { handle, bridge: AtomicU32::new(0), _carrier: Mutex::new(carrier) })
    }

    /// The MTU of the device with the default route.
    pub async fn outward_mtu(&self) -> u32 {
        let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let mut routes = Box::pin(self.handle.route().get(query).execute());
        let mut device = None;
        while let Some(Ok(route)) = routes.next().await {
            device = device.or_else(|| default_route_device(&route));
        }
        let Some(index) = device else { return MTU };
        let links: Result<Vec<LinkMessage>, _> =
            self.handle.link().get().match_index(index).execute().try_collect().await;
        links.ok().and_then(|links| links.first().and_then(mtu_of)).unwrap_or(MTU)
    }

    /// Makes the bridge with its address, or completes it.
    pub async fn ensure_bridge(&self, name: &str, address: Ipv4Addr, prefix: u8, mtu: u32) -> Result<(), Error> {
        let link = match self.find(name).await? {
            Some(link) if is_bridge(&link) => link,
            Some(_) => return Err(Error::Options(format!("{name} exists and is no bridge"))),
            None => {
                // With an address of its own the bridge does not change it whenever a port comes or goes.
                let message = LinkBridge::new(name).mtu(mtu).address(hardware_address(address)).build();
                at(self.handle.link().add(message).execute().await, || format!("adding bridge {name}"))?;
                self.find(name).await?.ok_or_else(|| vanished(name))?
            }
        };
        let index = link.header.index;
        let add = self.handle.address().add(index, IpAddr::V4(address), prefix).execute().await;
        unless_exists(add, || format!("giving {name} the address {address}"))?;
        let up = LinkUnspec::new_with_index(index).up().build();
        at(self.handle.link().set(up).execute().await, || format!("setting {name} up"))
    }

    /// Connects a sandbox: a veth pair from the bridge to `eth0`, address and default route.
    pub async fn connect(&self, pod: &Pod<'_>, netns: &Path) -> Result<(), Error> {
        let whole = self.connect_without_limit(pod, netns);
        let late =
            || Error::Link { step: format!("connecting {}", pod.host_name), source: io::ErrorKind::TimedOut.into() };
        tokio::time::timeout(PATIENCE, whole).await.map_err(|_| late())?
    }

    /// Every message takes the kernel's one lock for links, so a new pod costs as few as can be: the pair in one, then
    /// address, state and route together. What is found half made is mended on a second way.
    async fn connect_without_limit(&self, pod: &Pod<'_>, netns: &Path) -> Result<(), Error> {
        let failed = |source: io::Error| Error::Namespace { path: netns.into(), source };
        let namespace =
            rustix::fs::open(netns, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|it| failed(it.into()))?;
        let inside = Links::open_in(namespace.try_clone().map_err(failed)?, netns).await?;
        let is_new = self.add_pair(pod, &namespace).await.is_ok();
        if !is_new {
            self.mend_pair(pod, &namespace, &inside).await?;
        }
        if pod.has_ports {
            // With br_netfilter loaded, what a host port leads back to its own pod never leaves the bridge's ports.
            let port = LinkBridgePort::new(0).name(&pod.host_name).hairpin(true).build();
            at(self.handle.link().set_port(port).execute().await, || format!("setting up the port {}", pod.host_name))?;
        }
        if is_new && inside.configure(FIRST_INDEX, pod).await.is_ok() {
            return Ok(());
        }
        let link = inside.find(POD_LINK).await?.ok_or_else(|| vanished(POD_LINK))?;
        inside.configure(link.header.index, pod).await
    }

    async fn add_pair(&self, pod: &Pod<'_>, namespace: &OwnedFd) -> Result<(), Error> {
        let pair = veth_pair(pod, self.bridge_index(pod.bridge).await?, namespace);
        at(self.handle.link().add(pair).execute().await, || format!("adding {}", pod.host_name))
    }

    /// The pair is there already, or half of it, or it leads into a namespace that is no more, or the bridge was made
    /// anew.
    async fn mend_pair(&self, pod: &Pod<'_>, namespace: &OwnedFd, inside: &Links) -> Result<(), Error> {
        self.bridge.store(0, Ordering::Relaxed);
        if self.find(&pod.host_name).await?.is_some() && inside.find(POD_LINK).await?.is_some() {
            return Ok(());
        }
        self.remove(&pod.host_name).await?;
        self.add_pair(pod, namespace).await
    }

    async fn bridge_index(&self, name: &str) -> Result<u32, Error> {
        let known = self.bridge.load(Ordering::Relaxed);
        if known != 0 {
            return Ok(known);
        }
        let index = self.find(name).await?.ok_or_else(|| vanished(name))?.header.index;
        self.bridge.store(index, Ordering::Relaxed);
        Ok(index)
    }

    async fn configure(&self, index: u32, pod: &Pod<'_>) -> Result<(), Error> {
        // Not while the pair is made: one end cannot be up before it knows the other.
        let up = LinkUnspec::new_with_index(index).up().build();
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(pod.gateway).output_interface(index).build();
        // Sent in this order without waiting; the kernel takes one after the other.
        let (address, up, route) = futures_util::future::join3(
            self.handle.address().add(index, IpAddr::V4(pod.address), pod.prefix).execute(),
            self.handle.link().set(up).execute(),
            self.handle.route().add(route).execute(),
        )
        .await;
        unless_exists(address, || format!("giving {POD_LINK} the address {}", pod.address))?;
        at(up, || format!("setting {POD_LINK} up"))?;
        unless_exists(route, || format!("adding the default route by {}", pod.gateway))
    }

    /// Removes a link, and with it the other end of a pair. What is not there is removed already.
    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        let message = LinkUnspec::new_with_name(name).build();
        match self.handle.link().del_with_message(message).execute().await {
            Err(error) if errno(&error) == Some(rustix::io::Errno::NODEV.raw_os_error()) => Ok(()),
            result => at(result, || format!("removing {name}")),
        }
    }

    /// Names of the links that are ports of the bridge.
    pub async fn ports(&self, bridge: &str) -> Result<Vec<String>, Error> {
        let Some(bridge) = self.find(bridge).await? else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        let mut links = Box::pin(self.handle.link().get().execute());
        while let Some(link) = links.next().await {
            let link = at(link, || "listing links".into())?;
            if link.attributes.contains(&LinkAttribute::Controller(bridge.header.index)) {
                names.extend(name_of(&link));
            }
        }
        Ok(names)
    }

    async fn find(&self, name: &str) -> Result<Option<LinkMessage>, Error> {
        let links: Result<Vec<LinkMessage>, _> =
            self.handle.link().get().match_name(name.to_owned()).execute().try_collect().await;
        match links {
            Ok(links) => Ok(links.into_iter().next()),
            Err(error) if errno(&error) == Some(rustix::io::Errno::NODEV.raw_os_error()) => Ok(None),
            Err(error) => at(Err(error), || format!("looking for {name}")),
        }
    }
}

fn veth_pair(pod: &Pod<'_>, bridge: u32, namespace: &OwnedFd) -> LinkMessage {
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(POD_LINK)
        .mtu(pod.mtu)
        .address(hardware_address(pod.address))
        .setns_by_fd(namespace.as_raw_fd())
        .build();
    LinkMessageBuilder::<LinkVeth>::new(&pod.host_name, POD_LINK)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .mtu(pod.mtu)
        .controller(bridge)
        .up()
        .build()
}

/// Follows from the IP address, so that whoever has an old entry in its ARP cache is right all the same.
fn hardware_address(address: Ipv4Addr) -> Vec<u8> {
    let [a, b, c, d] = address.octets();
    vec![0x02, 0x53, a, b, c, d]
}

/// The host's name of the link into a sandbox, at most 15 bytes.
pub fn host_name(bridge: &str, sandbox: &str) -> String {
    format!("{PREFIX}{:012x}", hash(&format!("{bridge}/{sandbox}")) >> 16)
}

/// FNV-1a: the same for ever, unlike std's hash.
pub fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn default_route_device(route: &RouteMessage) -> Option<u32> {
    if route.header.destination_prefix_length != 0 {
        return None;
    }
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn mtu_of(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

fn name_of(link: &LinkMessage) -> Option<String> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

fn is_bridge(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Bridge)),
        _ => false,
    })
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(-message.raw_code()),
        _ => None,
    }
}

/// Names the step of a failure.
fn at<T>(result: Result<T, rtnetlink::Error>, step: impl FnOnce() -> String) -> Result<T, Error> {
    result.map_err(|error| {
        let source = errno(&error).map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error);
        Error::Link { step: step(), source }
    })
}

/// Likewise, where what exists already is no failure.
fn unless_exists(result: Result<(), rtnetlink::Error>, step: impl FnOnce() -> String) -> Result<(), Error> {
    match result {
        Err(error) if errno(&error) == Some(rustix::io::Errno::EXIST.raw_os_error()) => Ok(()),
        result => at(result, step),
    }
}

fn vanished(name: &str) -> Error {
    Error::Link { step: format!("looking for {name}"), source: io::ErrorKind::NotFound.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_links_are_short_and_stable() {
        let name = host_name("sampan0", &"f".repeat(64));
        assert_eq!(name.len(), 14);
        assert_eq!(name, host_name("sampan0", &"f".repeat(64)));
        assert_ne!(name, host_name("sampan1", &"f".repeat(64)));
        assert_eq!(hash(""), 0xcbf2_9ce4_8422_2325);
    }
}
