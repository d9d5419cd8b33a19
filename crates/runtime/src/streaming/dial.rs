//! Connections to a port on the loopback inside a sandbox's network namespace (POD-71).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

use crate::error::Error;
use crate::sandbox;
use crate::state::Sandbox;

/// The loopback answers at once, unless the queue of whoever listens is full.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects to 127.0.0.1, then to ::1.
pub(super) async fn dial(sandbox: &Sandbox, port: u16) -> Result<TcpStream, Error> {
    // Says so if the sandbox has ended: its namespace is gone then.
    sandbox.link()?;
    let first = dial_at(sandbox, (Ipv4Addr::LOCALHOST, port).into()).await;
    let Err(error) = first else { return first.map_err(|error| failed(port, &error)) };
    dial_at(sandbox, (Ipv6Addr::LOCALHOST, port).into()).await.map_err(|_| failed(port, &error))
}

fn failed(port: u16, error: &io::Error) -> Error {
    Error::step(format!("connect to 127.0.0.1:{port} in the sandbox"), error)
}

async fn dial_at(sandbox: &Sandbox, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if sandbox::is_on_host_network(&sandbox.record.config) {
        socket(address.ip())?
    } else {
        socket_in(format!("/proc/{}/ns/net", sandbox.live().pid), address.ip()).await?
    };
    // A socket stays in the namespace in which it was made, whoever uses it.
    let socket = TcpSocket::from_std_stream(socket.into());
    let stream = tokio::time::timeout(PATIENCE, socket.connect(address)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Makes a socket by a thread that enters the namespace and ends at once.
async fn socket_in(namespace: String, of: IpAddr) -> io::Result<OwnedFd> {
    let (sender, receiver) = oneshot::channel();
    let enter = move || {
        let made = rustix::fs::open(namespace, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|namespace| move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)))
            .map_err(io::Error::from)
            .and_then(|()| socket(of));
        // Who asked may have gone.
        let _ = sender.send(made);
    };
    std::thread::Builder::new().name("netns".into()).stack_size(256 << 10).spawn(enter)?;
    receiver.await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?
}

fn socket(of: IpAddr) -> io::Result<OwnedFd> {
    let family = if of.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, SocketType::STREAM, flags, None)?)
}
