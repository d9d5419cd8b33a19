//! Every component and every door between them.
//!
//! The only module that knows how rooms meet: which identity a client of the API carries, which socket serves what.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use apiserver::{ApiServer, UserInfo};
use kube::Client;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::certificates::Certificates;
use crate::settings::Resolved;
use crate::supervise;

/// How long components may take to end after cancellation.
const END_WITHIN: Duration = Duration::from_secs(5);
/// How long a start may take until the node is Ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// The executor of every role.
pub fn executor() -> anyhow::Result<tokio::runtime::Runtime> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().context("start the executor")
}

/// The instance's certificates, made or renewed where needed.
pub fn certificates(resolved: &Resolved) -> anyhow::Result<Certificates> {
    // One provider for every library that asks for the process's default.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut addresses: Vec<IpAddr> = vec![resolved.listen.ip(), resolved.node_ip];
    addresses.extend(resolved.node_external_ip);
    Certificates::ensure(&resolved.instance.data_dir.join("pki"), &resolved.node_name, &addresses)
}
