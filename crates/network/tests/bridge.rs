//! The built-in network on a real kernel. Each test is a "host" of its own: a new network namespace of its thread.
//! As root; needs `ip` and `nft`.
#![allow(clippy::disallowed_methods, reason = "tests start processes")]

use network::{Error, Network, Options, PortMapping, Protocol};
use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A process that holds a network namespace, as a monitor does.
struct Pod {
    holder: Child,
}

impl Pod {
    fn new() -> Pod {
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo ready && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut word = [0; 6];
        holder.stdout.as_mut().expect("piped").read_exact(&mut word).expect("ready");
        Pod { holder }
    }

    fn netns(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.holder.id()).into()
    }

    /// Runs `work` on a thread within the namespace.
    fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let netns = rustix::fs::open(self.netns(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).expect("netns");
        std::thread::spawn(move || {
            enter(&netns);
            work()
        })
        .join()
        .expect("thread")
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn enter(netns: &OwnedFd) {
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns needs root");
}

/// Makes this thread a host of its own with an uplink to a neighbour; gives the neighbour.
fn host() -> Pod {
    assert!(rustix::process::geteuid().is_root(), "these tests need root");
    let own = Pod::new();
    enter(&rustix::fs::open(own.netns(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).expect("netns"));
    // The namespace lives on in this thread.
    drop(own);
    let neighbour = Pod::new();
    let pid = neighbour.holder.id();
    run(&format!("ip link add up0 mtu 1400 type veth peer name n0 netns {pid}"));
    run("ip addr add 192.0.2.1/24 dev up0");
    run("ip link set up0 up");
    run(&format!("nsenter --net=/proc/{pid}/ns/net sh -c 'ip addr add 192.0.2.2/24 dev n0; ip link set n0 up'"));
    run("ip route add default via 192.0.2.2");
    // The link comes up by itself, a moment after both ends have; before that its flags and routes are others.
    let is_up = || run("ip -o link show up0").contains("LOWER_UP") && !run("ip route").contains("linkdown");
    for _ in 0..6000 {
        if is_up() {
            return neighbour;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the uplink does not come up: {} {}", run("ip -o link show up0"), run("ip route"));
}

fn run(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().expect("sh");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// What must be the same before and after.
fn picture() -> String {
    // Without states and link-local addresses, which come and go by themselves.
    run(
        "ip -o link | sed 's/ state [A-Z]* / /; s/<[^>]*>//'; ip -4 -o addr; ip route; nft list ruleset; cat /proc/sys/net/ipv4/ip_forward",
    )
}

struct Net {
    network: Network,
    options: Options,
    _state: tempfile::TempDir,
}

async fn network() -> Net {
    let state = tempfile::tempdir().expect("tempdir");
    let options = Options {
        bridge: "sampan0".into(),
        pod_cidr: "10.90.0.0/24".parse().expect("CIDR"),
        state_dir: state.path().join("network"),
        table: "sampan".into(),
    };
    Net { network: Network::start(options.clone()).await.expect("start"), options, _state: state }
}

impl Net {
    async fn attach(&self, sandbox: &str, pod: &Pod, ports: &[PortMapping]) -> Ipv4Addr {
        let attachment = self.network.attach(sandbox, &pod.netns(), ports).await.expect("attach");
        assert_eq!(attachment.gateway, IpAddr::V4(Ipv4Addr::new(10, 90, 0, 1)));
        match attachment.ips[..] {
            [IpAddr::V4(ip)] => ip,
            _ => panic!("{attachment:?}"),
        }
    }
}

fn port(host_port: u16, container_port: u16, host_ip: Option<Ipv4Addr>) -> PortMapping {
    PortMapping { protocol: Protocol::Tcp, container_port, host_port, host_ip }
}

/// Serves one TCP connection after the other: tells each client who it seems to be.
fn serve(pod: &Pod, port: u16) {
    let listener = pod.inside(move || TcpListener::bind(("0.0.0.0", port)).expect("bind"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let peer = stream.peer_addr().expect("peer").ip();
            let _ = write!(stream, "{peer}");
        }
    });
}

/// Who we are to the server at `address`; `None` if it cannot be reached.
fn ask(address: impl Into<SocketAddr>) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address.into(), Duration::from_secs(5)).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

#[tokio::test]
async fn pods_reach_each_other_the_host_and_the_outside() {
    let neighbour = host();
    let before = picture();
    let net = network().await;
    let (a, b) = (Pod::new(), Pod::new());
    let (ip_a, ip_b) = (net.attach("a", &a, &[]).await, net.attach("b", &b, &[]).await);
    serve(&b, 80);
    assert_eq!(a.inside(move || ask((ip_b, 80))), Some(ip_a.to_string()), "pod to pod, without NAT");
    assert_eq!(ask((ip_b, 80)), Some("10.90.0.1".into()), "host to pod");
    let listener = TcpListener::bind("0.0.0.0:7000").expect("bind");
    let accepted = std::thread::spawn(move || write!(listener.accept().expect("accept").0, "host"));
    assert_eq!(a.inside(|| ask(([10, 90, 0, 1], 7000))), Some("host".into()), "pod to host");
    accepted.join().expect("thread").expect("write");
    serve(&neighbour, 90);
    assert_eq!(a.inside(|| ask(([192, 0, 2, 2], 90))), Some("192.0.2.1".into()), "masqueraded to the outside");
    assert!(a.inside(|| run("ip link show eth0")).contains("mtu 1400"), "the uplink's MTU");
    a.inside(move || run(&format!("ping -c 1 -W 5 {ip_b} || busybox ping -c 1 -W 5 {ip_b}")));
    net.network.tear_down().await.expect("tear down");
    assert_eq!(picture(), before);
    net.network.tear_down().await.expect("again");
}

#[tokio::test]
async fn host_ports_lead_to_the_pod_from_everywhere() {
    let neighbour = host();
    let net = network().await;
    let (a, b) = (Pod::new(), Pod::new());
    let udp = PortMapping { protocol: Protocol::Udp, container_port: 53, host_port: 5353, host_ip: None };
    let only_loopback = port(9090, 80, Some(Ipv4Addr::LOCALHOST));
    let ip_a = net.attach("a", &a, &[port(8080, 80, None), only_loopback, udp]).await;
    let ip_b = net.attach("b", &b, &[]).await;
    serve(&a, 80);
    assert_eq!(
        neighbour.inside(|| ask(([192, 0, 2, 1], 8080))),
        Some("192.0.2.2".into()),
        "from outside, address kept"
    );
    assert!(ask(([192, 0, 2, 1], 8080)).is_some(), "from the host's own address");
    assert!(ask(([127, 0, 0, 1], 8080)).is_some(), "from the host's loopback");
    assert!(b.inside(|| ask(([192, 0, 2, 1], 8080))).is_some(), "from another pod");
    assert!(a.inside(|| ask(([192, 0, 2, 1], 8080))).is_some(), "from the pod itself");
    assert!(ask(([127, 0, 0, 1], 9090)).is_some());
    assert_eq!(neighbour.inside(|| ask(([192, 0, 2, 1], 9090))), None, "limited to one address");
    let server = a.inside(|| UdpSocket::bind("0.0.0.0:53").expect("bind"));
    let client = neighbour.inside(|| UdpSocket::bind("0.0.0.0:0").expect("bind"));
    client.send_to(b"question", "192.0.2.1:5353").expect("send");
    let mut bytes = [0; 64];
    server.set_read_timeout(Some(Duration::from_secs(5))).expect("time-out");
    let (length, from) = server.recv_from(&mut bytes).expect("question");
    assert_eq!((&bytes[..length], from.ip()), (&b"question"[..], IpAddr::from([192, 0, 2, 2])));
    // A port has one owner; another protocol or address is another port.
    let refused = net.network.attach("c", &Pod::new().netns(), &[port(8080, 81, None)]).await;
    assert!(matches!(refused, Err(Error::PortTaken { host_port: 8080, ref sandbox }) if sandbox == "a"), "{refused:?}");
    net.network.detach("a").await.expect("detach");
    assert_eq!(neighbour.inside(|| ask(([192, 0, 2, 1], 8080))), None, "gone with its pod");
    assert_ne!(ip_a, ip_b);
    net.network.tear_down().await.expect("tear down");
}

/// Gives the pod a way to the host's 127.0.0.1, as one with NET_ADMIN can.
fn escape(pod: &Pod) {
    pod.inside(|| run("ip addr flush dev lo && ip route add 127.0.0.0/8 via 10.90.0.1"));
}

#[tokio::test]
async fn what_listens_on_the_hosts_loopback_alone_is_no_pods_business() {
    let _neighbour = host();
    let net = network().await;
    let (a, b) = (Pod::new(), Pod::new());
    net.attach("a", &a, &[port(8080, 80, None)]).await;
    net.attach("b", &b, &[]).await;
    escape(&b);
    serve(&a, 80);
    let service = UdpSocket::bind("0.0.0.0:7001").expect("bind");
    service.set_read_timeout(Some(Duration::from_secs(60))).expect("time-out");
    let heard = || {
        let mut bytes = [0; 64];
        let length = service.recv(&mut bytes).expect("a datagram");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    // One way after the other, so what comes first tells which of them are open.
    let knock = || {
        b.inside(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
            socket.send_to(b"by the back door", "127.0.0.1:7001").expect("send");
            socket.send_to(b"by the front door", "10.90.0.1:7001").expect("send");
        });
    };
    knock();
    assert_eq!(heard(), "by the front door");
    assert!(ask(([127, 0, 0, 1], 8080)).is_some(), "the host's own loopback leads to the pod");
    // A restart of the network, as after an upgrade from a version without the rule, puts it there.
    run("nft flush chain ip sampan loopback");
    knock();
    assert_eq!([heard(), heard()], ["by the back door", "by the front door"], "nothing else keeps them out");
    let again = Network::start(net.options.clone()).await.expect("start");
    knock();
    assert_eq!(heard(), "by the front door");
    assert!(ask(([127, 0, 0, 1], 8080)).is_some());
    again.tear_down().await.expect("tear down");
}

#[tokio::test]
async fn a_pod_cannot_pass_for_the_hosts_loopback() {
    let _neighbour = host();
    let net = network().await;
    let b = Pod::new();
    net.attach("b", &b, &[]).await;
    // The kernel lets a sender do that by its own setting, and refuses here no more than 127.0.0.1 itself.
    b.inside(|| {
        run("echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet; echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet")
    });
    let service = UdpSocket::bind("10.90.0.1:7001").expect("bind");
    service.set_read_timeout(Some(Duration::from_secs(60))).expect("time-out");
    b.inside(|| {
        let masked = UdpSocket::bind("127.0.0.2:0").expect("bind");
        masked.send_to(b"masked", "10.90.0.1:7001").expect("send");
        let plain = UdpSocket::bind("0.0.0.0:0").expect("bind");
        plain.send_to(b"plain", "10.90.0.1:7001").expect("send");
    });
    let mut bytes = [0; 64];
    let length = service.recv(&mut bytes).expect("a datagram");
    assert_eq!(&bytes[..length], b"plain");
    net.network.tear_down().await.expect("tear down");
}

#[tokio::test]
async fn fifty_pods_at_once_get_fifty_addresses() {
    let _neighbour = host();
    let before = picture();
    let net = network().await;
    let pods: Vec<Pod> = (0..50).map(|_| Pod::new()).collect();
    let names: Vec<String> = (0..50).map(|number| format!("pod{number}")).collect();
    let clock = tokio::time::Instant::now();
    let attachments =
        futures_util::future::join_all(pods.iter().zip(&names).map(|(pod, name)| net.attach(name, pod, &[]))).await;
    eprintln!("50 attachments at once took {:?}", clock.elapsed());
    assert_eq!(attachments.iter().collect::<BTreeSet<_>>().len(), 50);
    let last = attachments[49];
    serve(&pods[49], 80);
    assert!(pods[0].inside(move || ask((last, 80))).is_some());
    drop(pods);
    // Their namespaces are gone, and with them the links; the addresses are still to be freed.
    let live: BTreeSet<String> = names[..10].iter().cloned().collect();
    net.network.sweep(&live).await.expect("sweep");
    assert!(net.network.attachment("pod9").await.is_some());
    assert!(net.network.attachment("pod10").await.is_none());
    net.network.tear_down().await.expect("tear down");
    assert_eq!(picture(), before);
}

/// The ports of the host that lead to a pod, as the kernel has them.
fn open_ports() -> BTreeSet<u16> {
    let text = run("nft list map ip sampan tcp_any");
    let elements = text.split_once("elements = {").map_or("", |(_, rest)| rest);
    elements.split(',').filter_map(|element| element.split(':').next()?.trim().parse().ok()).collect()
}

#[tokio::test]
async fn host_ports_that_come_and_go_at_once_are_in_the_end_those_of_the_pods_that_stay() {
    const EACH: u16 = 8;
    let _neighbour = host();
    let net = network().await;
    let pods: Vec<Pod> = (0..2 * EACH).map(|_| Pod::new()).collect();
    let names: Vec<String> = (0..2 * EACH).map(|number| format!("pod{number}")).collect();
    let attach = async |number: u16| {
        let at = usize::from(number);
        net.attach(&names[at], &pods[at], &[port(8000 + number, 80, None)]).await;
    };
    for round in 0..4 {
        let (come, go) = if round % 2 == 0 { (0..EACH, EACH..2 * EACH) } else { (EACH..2 * EACH, 0..EACH) };
        let expected: BTreeSet<u16> = come.clone().map(|number| 8000 + number).collect();
        let coming = futures_util::future::join_all(come.map(&attach));
        let going = futures_util::future::join_all(go.map(|number| net.network.detach(&names[usize::from(number)])));
        let (_, gone) = tokio::join!(coming, going);
        gone.into_iter().for_each(|gone| gone.expect("detach"));
        assert_eq!(open_ports(), expected, "round {round}");
    }
    net.network.tear_down().await.expect("tear down");
}

#[tokio::test]
async fn attaching_twice_mends_and_keeps_the_address() {
    let _neighbour = host();
    let net = network().await;
    let (a, b) = (Pod::new(), Pod::new());
    let first = net.attach("a", &a, &[port(8080, 80, None)]).await;
    serve(&a, 80);
    assert_eq!(net.attach("a", &a, &[port(8080, 80, None)]).await, first);
    // A crash may have left a record without link, a link without address, or a link into a dead namespace.
    a.inside(|| run("ip link del eth0"));
    assert_eq!(net.attach("a", &a, &[]).await, first);
    assert!(ask((first, 80)).is_some());
    a.inside(|| run("ip addr flush dev eth0"));
    assert_eq!(net.attach("a", &a, &[]).await, first);
    assert!(ask(([127, 0, 0, 1], 8080)).is_some());
    assert_eq!(net.attach("a", &b, &[]).await, first);
    serve(&b, 81);
    assert!(ask((first, 81)).is_some(), "moved to the new namespace");
    net.network.tear_down().await.expect("tear down");
}

#[tokio::test]
async fn a_restart_takes_over_and_a_sweep_frees_the_rest() {
    let _neighbour = host();
    let before = picture();
    let net = network().await;
    let (a, b) = (Pod::new(), Pod::new());
    let ip_a = net.attach("a", &a, &[port(8080, 80, None)]).await;
    net.attach("b", &b, &[]).await;
    serve(&a, 80);
    // A crash before the record of a link was written cannot be; but the record may be lost to other hands.
    let records = net.options.state_dir.join("addresses");
    for entry in std::fs::read_dir(&records).expect("records").flatten() {
        if std::fs::read_to_string(entry.path()).expect("record").starts_with("sandbox b\n") {
            std::fs::remove_file(entry.path()).expect("remove");
        }
    }
    std::fs::write(records.join("10.90.0.77"), "sandbox hal").expect("half a record");
    let again = Network::start(net.options.clone()).await.expect("start");
    assert_eq!(again.attachment("a").await.expect("kept").ips, [IpAddr::V4(ip_a)]);
    assert!(ask(([127, 0, 0, 1], 8080)).is_some(), "host ports survive");
    assert_eq!(run("ip -o link show master sampan0 | wc -l").trim(), "2");
    again.sweep(&BTreeSet::from(["a".to_owned()])).await.expect("sweep");
    assert_eq!(run("ip -o link show master sampan0 | wc -l").trim(), "1");
    assert!(ask((ip_a, 80)).is_some(), "the living one is untouched");
    again.tear_down().await.expect("tear down");
    assert_eq!(picture(), before);
}

#[tokio::test]
async fn a_failed_attachment_leaves_nothing() {
    let _neighbour = host();
    let net = network().await;
    let error = net.network.attach("a", "/proc/1/ns/nothing".as_ref(), &[]).await.expect_err("no namespace");
    assert!(matches!(error, Error::Namespace { .. }), "{error:?}");
    assert!(net.network.attachment("a").await.is_none());
    let occupied = Pod::new();
    occupied.inside(|| run("ip link add eth0 type veth peer name eth1"));
    let error = net.network.attach("b", &occupied.netns(), &[]).await.expect_err("eth0 is there");
    assert!(matches!(error, Error::Link { .. }), "{error:?}");
    assert_eq!(run("ip -o link show master sampan0 | wc -l").trim(), "0");
    assert_eq!(std::fs::read_dir(net.options.state_dir.join("addresses")).expect("records").count(), 0);
    net.network.detach("never").await.expect("detaching a stranger is done");
}

#[tokio::test]
async fn a_link_of_the_bridges_name_that_is_no_bridge_is_refused() {
    let _neighbour = host();
    run("ip link add sampan0 type veth peer name other0");
    let state = tempfile::tempdir().expect("tempdir");
    let options = Options {
        bridge: "sampan0".into(),
        pod_cidr: "10.90.0.0/24".parse().expect("CIDR"),
        state_dir: state.path().into(),
        table: "sampan".into(),
    };
    assert!(matches!(Network::start(options).await, Err(Error::Options(_))));
}

#[tokio::test]
async fn forwarding_that_was_on_stays_on() {
    let _neighbour = host();
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("sysctl");
    let net = network().await;
    net.network.tear_down().await.expect("tear down");
    assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").expect("sysctl").trim(), "1");
}

/// Prints what one attachment costs; no time is asserted.
#[tokio::test]
async fn one_attachment_after_the_other() {
    let _neighbour = host();
    let net = network().await;
    let pods: Vec<Pod> = (0..20).map(|_| Pod::new()).collect();
    let mut times = Vec::new();
    for (number, pod) in pods.iter().enumerate() {
        let clock = tokio::time::Instant::now();
        net.attach(&format!("p{number}"), pod, &[]).await;
        times.push(clock.elapsed());
    }
    times.sort();
    let clock = tokio::time::Instant::now();
    for number in 0..20 {
        net.network.detach(&format!("p{number}")).await.expect("detach");
    }
    eprintln!("attach: median {:?}, longest {:?}; 20 detachments {:?}", times[10], times[19], clock.elapsed());
    net.network.tear_down().await.expect("tear down");
}
