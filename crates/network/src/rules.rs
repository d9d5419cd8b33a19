//! The nftables table as text. Pure.
//!
//! One table of our own: removing it removes every rule. Host ports are elements of maps, so that one
//! more pod costs one element. Start with [`table`].

use crate::records::Record;
use crate::{PortMapping, Protocol};
use ipnet::Ipv4Net;
use std::fmt::Write;
use std::net::Ipv4Addr;

/// The whole table, in place of a former one, with the ports of `records`.
pub fn table<'a>(name: &str, bridge: &str, pods: Ipv4Net, records: impl Iterator<Item = &'a Record>) -> String {
    let pods = pods.trunc();
    let mut text = no_table(name);
    let _ = write!(
        text,
        r#"table ip {name} {{
  map tcp_any {{ type inet_service : ipv4_addr . inet_service; }}
  map udp_any {{ type inet_service : ipv4_addr . inet_service; }}
  map tcp_one {{ type ipv4_addr . inet_service : ipv4_addr . inet_service; }}
  map udp_one {{ type ipv4_addr . inet_service : ipv4_addr . inet_service; }}
  chain ports {{
    dnat ip addr . port to ip daddr . tcp dport map @tcp_one
    dnat ip addr . port to ip daddr . udp dport map @udp_one
    dnat ip addr . port to tcp dport map @tcp_any
    dnat ip addr . port to udp dport map @udp_any
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local jump ports
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    fib daddr type local jump ports
  }}
  chain loopback {{
    type filter hook prerouting priority raw; policy accept;
    iifname "{bridge}" ip daddr 127.0.0.0/8 drop
    iifname "{bridge}" ip saddr 127.0.0.0/8 drop
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {pods} ip daddr != {pods} ip daddr != 224.0.0.0/4 oifname != "{bridge}" masquerade
    ct status dnat ip saddr {pods} oifname "{bridge}" masquerade
    ip saddr 127.0.0.0/8 oifname "{bridge}" masquerade
  }}
}}
"#
    );
    for record in records {
        text.extend(add_ports(name, record));
    }
    text
}

/// Removes the table, whether it is there or not.
pub fn no_table(name: &str) -> String {
    format!("add table ip {name}\ndelete table ip {name}\n")
}

/// Adds the host ports of one sandbox; `None` if it has none. Adding what is there is fine.
pub fn add_ports(table: &str, record: &Record) -> Option<String> {
    let mut text = String::new();
    for port in &record.ports {
        let protocol = protocol_name(port.protocol);
        let (target, inner, outer) = (record.address, port.container_port, port.host_port);
        let _ = match specific(port) {
            Some(ip) => {
                writeln!(text, "add element ip {table} {protocol}_one {{ {ip} . {outer} : {target} . {inner} }}")
            }
            None => writeln!(text, "add element ip {table} {protocol}_any {{ {outer} : {target} . {inner} }}"),
        };
    }
    (!text.is_empty()).then_some(text)
}

/// The host address that a mapping is limited to.
pub fn specific(port: &PortMapping) -> Option<Ipv4Addr> {
    port.host_ip.filter(|ip| !ip.is_unspecified())
}

/// As `nft` and the records write it.
pub fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_become_elements_of_the_right_map() {
        let port = |protocol, host_port, host_ip| PortMapping { protocol, container_port: 80, host_port, host_ip };
        let record = Record {
            sandbox: "s".into(),
            address: Ipv4Addr::new(10, 9, 0, 2),
            ports: vec![
                port(Protocol::Tcp, 8080, None),
                port(Protocol::Udp, 53, Some(Ipv4Addr::LOCALHOST)),
                port(Protocol::Tcp, 81, Some(Ipv4Addr::UNSPECIFIED)),
            ],
        };
        let expected = "add element ip t tcp_any { 8080 : 10.9.0.2 . 80 }\n\
                        add element ip t udp_one { 127.0.0.1 . 53 : 10.9.0.2 . 80 }\n\
                        add element ip t tcp_any { 81 : 10.9.0.2 . 80 }\n";
        assert_eq!(add_ports("t", &record).as_deref(), Some(expected));
        assert_eq!(add_ports("t", &Record { ports: vec![], ..record.clone() }), None);
        let all = table("t", "b", "10.9.0.0/24".parse().expect("CIDR"), [record].iter());
        assert!(all.starts_with("add table ip t\ndelete table ip t\n") && all.ends_with(expected));
    }
}
