//! The API server over the memory store, for trying kubectl by hand: prints the path of a kubeconfig and serves until
//! its standard input closes.
//!
//! `cargo run -p apiserver --example apiserver [DIR]`
#![allow(clippy::disallowed_macros)] // It talks to a person.

use std::io::Read;
use std::sync::Arc;

use apiserver::{ApiServer, Options};
use tokio_util::sync::CancellationToken;

#[path = "../tests/pki/mod.rs"]
mod pki;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).map_or_else(std::env::temp_dir, std::path::PathBuf::from);
    let pki = pki::Pki::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let cancel = CancellationToken::new();
    let store = Arc::new(store::memory::MemoryStore::new());
    let server = ApiServer::start(Options::new(store), cancel.clone()).await?;
    let path = dir.join("apiserver.kubeconfig");
    std::fs::write(&path, pki.kubeconfig(address, "kubernetes-admin", "system:masters"))?;
    println!("{}", path.display());
    let ended = cancel.clone();
    let waiting = tokio::task::spawn_blocking(move || {
        // Whatever ends the input ends the server.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        ended.cancel();
    });
    server.serve(listener, pki.server_config(), cancel).await?;
    waiting.await?;
    Ok(())
}
