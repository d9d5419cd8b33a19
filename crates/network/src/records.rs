//! Which sandbox has which address and host ports: one file an address, made with O_EXCL.
//!
//! Owns the files and the choice of addresses. A record is written before anything is made in the kernel and removed
//! after everything is gone, so after a crash the records name all that may be left. Start with [`Records`].

use crate::rules::{protocol_name, specific};
use crate::{Error, PortMapping, Protocol};
use ipnet::Ipv4Net;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// One sandbox's share of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its id.
    pub sandbox: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its ports on the host.
    pub ports: Vec<PortMapping>,
}

/// All records, in memory and on disk.
#[derive(Debug)]
pub struct Records {
    directory: PathBuf,
    pods: Ipv4Net,
    by_sandbox: BTreeMap<String, Record>,
    taken: BTreeMap<Ipv4Addr, String>,
    last: Ipv4Addr,
}

impl Records {
    /// Reads the records of an earlier run. Files that a crash has left half-written name nothing that was made, and go.
    pub fn load(state_dir: &Path, pods: Ipv4Net) -> Result<Records, Error> {
        let pods = pods.trunc();
        let directory = state_dir.join("addresses");
        let failed = |source| Error::Record { path: directory.clone(), source };
        fs::create_dir_all(&directory).map_err(failed)?;
        let (mut by_sandbox, mut taken) = (BTreeMap::new(), BTreeMap::new());
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            match read(&path) {
                Some(record) if !by_sandbox.contains_key(&record.sandbox) => {
                    taken.insert(record.address, record.sandbox.clone());
                    by_sandbox.insert(record.sandbox.clone(), record);
                }
                _ => fs::remove_file(&path).map_err(|source| Error::Record { path, source })?,
            }
        }
        let last = taken.keys().next_back().copied().unwrap_or(pods.network());
        Ok(Records { directory, pods, by_sandbox, taken, last })
    }

    /// The sandbox's record; a new one if it has none.
    pub fn allocate(&mut self, sandbox: &str, ports: &[PortMapping]) -> Result<Record, Error> {
        if let Some(record) = self.by_sandbox.get(sandbox) {
            return Ok(record.clone());
        }
        if sandbox.is_empty() || sandbox.contains(['\n', '\r']) {
            return Err(Error::Options(format!("{sandbox:?} is no id of a sandbox")));
        }
        self.check_ports(ports)?;
        let address = self.free_address().ok_or(Error::Exhausted(self.pods))?;
        let record = Record { sandbox: sandbox.into(), address, ports: ports.to_vec() };
        let path = self.directory.join(address.to_string());
        let written = OpenOptions::new().write(true).create_new(true).open(&path);
        written
            .and_then(|mut file| file.write_all(text(&record).as_bytes()))
            .map_err(|source| Error::Record { path, source })?;
        self.last = address;
        self.taken.insert(address, sandbox.into());
        self.by_sandbox.insert(sandbox.into(), record.clone());
        Ok(record)
    }

    /// The next address after the last one given, so that an address rests as long as possible before it is used again.
    fn free_address(&self) -> Option<Ipv4Addr> {
        // The network's own address, the gateway and the broadcast address are no pod's.
        let first = u32::from(self.pods.network()) + 2;
        let count = u32::from(self.pods.broadcast()) - first;
        // Where none was given yet, the last one is the network's own.
        let start = u32::from(self.last).checked_sub(first).map_or(0, |offset| (offset % count + 1) % count);
        (0..count)
            .map(|step| Ipv4Addr::from(first + (start + step) % count))
            .find(|address| !self.taken.contains_key(address))
    }

    fn check_ports(&self, ports: &[PortMapping]) -> Result<(), Error> {
        for (record, other) in self.all().flat_map(|record| record.ports.iter().map(move |port| (record, port))) {
            if let Some(port) = ports.iter().find(|port| collide(port, other)) {
                return Err(Error::PortTaken { host_port: port.host_port, sandbox: record.sandbox.clone() });
            }
        }
        Ok(())
    }

    /// Forgets the sandbox; its address is free.
    pub fn free(&mut self, sandbox: &str) -> Result<(), Error> {
        let Some(record) = self.by_sandbox.get(sandbox) else { return Ok(()) };
        let path = self.directory.join(record.address.to_string());
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(Error::Record { path, source }),
            _ => {}
        }
        self.taken.remove(&record.address);
        self.by_sandbox.remove(sandbox);
        Ok(())
    }

    /// The sandbox's record.
    pub fn find(&self, sandbox: &str) -> Option<&Record> {
        self.by_sandbox.get(sandbox)
    }

    /// Every record.
    pub fn all(&self) -> impl Iterator<Item = &Record> {
        self.by_sandbox.values()
    }

    /// Copies of every record but one.
    pub fn without(&self, sandbox: &str) -> Vec<Record> {
        self.all().filter(|record| record.sandbox != sandbox).cloned().collect()
    }
}

/// Whether two mappings want the same packets with the same right.
fn collide(one: &PortMapping, other: &PortMapping) -> bool {
    one.protocol == other.protocol && one.host_port == other.host_port && specific(one) == specific(other)
}

fn text(record: &Record) -> String {
    let mut text = format!("sandbox {}\n", record.sandbox);
    for port in &record.ports {
        let ip = port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let protocol = protocol_name(port.protocol);
        let _ = writeln!(text, "port {protocol} {ip} {} {}", port.host_port, port.container_port);
    }
    text.push_str("end\n");
    text
}

fn read(path: &Path) -> Option<Record> {
    let address = path.file_name()?.to_str()?.parse().ok()?;
    parse(address, &fs::read_to_string(path).ok()?)
}

fn parse(address: Ipv4Addr, text: &str) -> Option<Record> {
    let mut lines = text.lines();
    let sandbox = lines.next()?.strip_prefix("sandbox ")?.to_owned();
    let mut ports = Vec::new();
    for line in lines {
        if line == "end" {
            return Some(Record { sandbox, address, ports });
        }
        let words: Vec<&str> = line.split(' ').collect();
        let ["port", protocol, ip, host_port, container_port] = words[..] else { return None };
        let protocol = if protocol == "udp" { Protocol::Udp } else { Protocol::Tcp };
        let host_ip = ip.parse().ok().filter(|ip: &Ipv4Addr| !ip.is_unspecified());
        let (host_port, container_port) = (host_port.parse().ok()?, container_port.parse().ok()?);
        ports.push(PortMapping { protocol, container_port, host_port, host_ip });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(directory: &Path) -> Records {
        Records::load(directory, "10.9.0.0/29".parse().expect("CIDR")).expect("load")
    }

    fn port(host_port: u16) -> PortMapping {
        PortMapping { protocol: Protocol::Udp, container_port: 5, host_port, host_ip: Some(Ipv4Addr::LOCALHOST) }
    }

    #[test]
    fn every_address_is_given_once_until_none_is_left() {
        let directory = tempfile::tempdir().expect("tempdir");
        let mut it = records(directory.path());
        let given: Vec<String> =
            (0..5).map(|number| it.allocate(&format!("s{number}"), &[]).expect("free").address.to_string()).collect();
        assert_eq!(given, ["10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.5", "10.9.0.6"]);
        assert!(matches!(it.allocate("more", &[]), Err(Error::Exhausted(_))));
        assert_eq!(it.allocate("s2", &[]).expect("the same").address.to_string(), "10.9.0.4");
        it.free("s3").expect("free");
        it.free("s3").expect("again");
        assert_eq!(it.allocate("new", &[]).expect("free").address.to_string(), "10.9.0.5");
    }

    #[test]
    fn a_fresh_network_begins_at_its_beginning() {
        let directory = tempfile::tempdir().expect("tempdir");
        for (pods, first) in
            [("10.9.0.0/24", "10.9.0.2"), ("10.0.0.0/8", "10.0.0.2"), ("255.255.255.0/24", "255.255.255.2")]
        {
            let mut it = Records::load(&directory.path().join(first), pods.parse().expect("CIDR")).expect("load");
            assert_eq!(it.allocate("a", &[]).expect("free").address.to_string(), first, "{pods}");
        }
    }

    #[test]
    fn a_freed_address_rests_while_others_are_free() {
        let directory = tempfile::tempdir().expect("tempdir");
        let mut it = records(directory.path());
        it.allocate("a", &[]).expect("free");
        it.free("a").expect("free");
        assert_eq!(it.allocate("b", &[]).expect("free").address.to_string(), "10.9.0.3");
    }

    #[test]
    fn a_restart_finds_the_records_and_drops_half_written_ones() {
        let directory = tempfile::tempdir().expect("tempdir");
        let mut it = records(directory.path());
        let whole = it.allocate("a", &[port(53)]).expect("free");
        fs::write(directory.path().join("addresses/10.9.0.5"), "sandbox b\nport ud").expect("write");
        fs::write(directory.path().join("addresses/10.9.0.6"), "").expect("write");
        let again = records(directory.path());
        assert_eq!(again.all().collect::<Vec<_>>(), [&whole]);
        assert_eq!(fs::read_dir(directory.path().join("addresses")).expect("directory").count(), 1);
    }

    #[test]
    fn a_host_port_has_one_owner() {
        let directory = tempfile::tempdir().expect("tempdir");
        let mut it = records(directory.path());
        it.allocate("a", &[port(53)]).expect("free");
        assert!(matches!(it.allocate("b", &[port(53)]), Err(Error::PortTaken { host_port: 53, .. })));
        it.allocate(
            "b",
            &[PortMapping { host_ip: None, ..port(53) }, PortMapping { protocol: Protocol::Tcp, ..port(53) }],
        )
        .expect("other address, other protocol");
    }
}
