//! Where pods find the API server (decision 0311). Pure. Start at [`Resolved::api_address_of_pods`].

use std::net::{Ipv4Addr, SocketAddr};

use crate::settings::Resolved;

impl Resolved {
    /// Where pods with an address of their own reach the API: what it listens on, or the bridge where that is out of
    /// their reach.
    pub fn api_address_of_pods(&self) -> Option<SocketAddr> {
        let (ip, port) = (self.listen.ip(), self.listen.port());
        if port == 0 {
            return None;
        }
        if !ip.is_loopback() && !ip.is_unspecified() {
            return Some(self.listen);
        }
        let gateway = self.pod_cidr.hosts().next()?;
        Some(SocketAddr::new(gateway.into(), port))
    }

    /// Where pods on the host network reach the API.
    pub fn api_address_of_host(&self) -> Option<SocketAddr> {
        let (ip, port) = (self.listen.ip(), self.listen.port());
        let ip = if ip.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { ip };
        (port != 0).then(|| SocketAddr::new(ip, port))
    }
}
