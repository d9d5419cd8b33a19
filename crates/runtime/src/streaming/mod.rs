//! The streaming server: Exec and Attach hand out an address on the loopback, one-time and short-lived; whoever comes
//! with it gets the streams over a WebSocket.
//!
//! Owns tickets and the HTTP side. [`channel`] is the framing, [`session`] moves the bytes. Only WebSocket subprotocols
//! `v5.channel.k8s.io` and `v4.channel.k8s.io` are spoken; SPDY is answered with 400 and the reason.

mod channel;
mod session;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use cri::v1::{AttachRequest, ExecRequest};
use http::StatusCode;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::core::Core;
use crate::error::Error;
use crate::state::{fresh_id, lock};
use channel::Version;

/// How long an address is good for.
const LIFE: Duration = Duration::from_secs(60);
/// Addresses that may wait at once.
const TICKETS_MAX: usize = 1000;
/// Longest message that a client may send, in bytes.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// What an address was given for.
#[derive(Clone, Debug)]
pub(crate) enum Ticket {
    Exec(ExecRequest),
    Attach(AttachRequest),
}

impl Ticket {
    fn path(&self) -> &'static str {
        match self {
            Ticket::Exec(_) => "exec",
            Ticket::Attach(_) => "attach",
        }
    }
}

/// Addresses that were given and not used.
pub(crate) struct Tickets {
    address: SocketAddr,
    waiting: Mutex<HashMap<String, (Instant, Ticket)>>,
}

impl Tickets {
    pub(crate) fn new(address: SocketAddr) -> Tickets {
        Tickets { address, waiting: Mutex::default() }
    }

    /// Gives an address out.
    pub(crate) fn issue(&self, ticket: Ticket) -> Result<String, Error> {
        let token = fresh_id()?;
        let url = format!("http://{}/{}/{token}", self.address, ticket.path());
        let now = Instant::now();
        let mut waiting = lock(&self.waiting);
        waiting.retain(|_, (until, _)| *until > now);
        if waiting.len() >= TICKETS_MAX {
            return Err(Error::WrongState("too many streams wait for their clients".into()));
        }
        waiting.insert(token, (now + LIFE, ticket));
        Ok(url)
    }

    /// Takes an address back: it is good for one use.
    fn redeem(&self, path: &str, token: &str) -> Option<Ticket> {
        let mut waiting = lock(&self.waiting);
        let (until, ticket) = waiting.remove(token)?;
        (until > Instant::now() && ticket.path() == path).then_some(ticket)
    }
}

/// Serves until the runtime is cancelled.
pub(crate) async fn serve(core: Arc<Core>, listener: TcpListener) {
    let cancel = core.cancel.clone();
    let router = Router::new().route("/{path}/{token}", any(open)).with_state(core);
    let served = cancel.run_until_cancelled(async { axum::serve(listener, router).await }).await;
    if let Some(Err(error)) = served {
        tracing::error!(%error, "the streaming server ended");
    }
}

fn refuse(status: StatusCode, text: impl Into<String>) -> Response {
    (status, format!("{}\n", text.into())).into_response()
}

async fn open(
    State(core): State<Arc<Core>>,
    Path((path, token)): Path<(String, String)>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    // The ticket is kept for a client that tries another protocol first.
    let Ok(upgrade) = upgrade else {
        return refuse(
            StatusCode::BAD_REQUEST,
            "only WebSocket streams are supported (v5.channel.k8s.io, v4.channel.k8s.io)",
        );
    };
    let upgrade = upgrade.protocols([Version::V5.name(), Version::V4.name()]).max_message_size(MESSAGE_BYTES_MAX);
    let Some(version) = upgrade.selected_protocol().and_then(|name| Version::parse(name.to_str().ok()?)) else {
        return refuse(
            StatusCode::BAD_REQUEST,
            "no common subprotocol: v5.channel.k8s.io and v4.channel.k8s.io are supported",
        );
    };
    let Some(ticket) = core.tickets.redeem(&path, &token) else {
        return refuse(StatusCode::NOT_FOUND, "unknown, used or expired stream");
    };
    match ticket {
        Ticket::Exec(request) => {
            let tasks = core.tasks.clone();
            upgrade.on_upgrade(move |socket| async move {
                // A task of ours, so that the runtime's end awaits it.
                let _ = tasks.spawn(session::exec(core, request, socket, version)).await;
            })
        }
        Ticket::Attach(request) => {
            let tasks = core.tasks.clone();
            upgrade.on_upgrade(move |socket| async move {
                let _ = tasks.spawn(session::attach(core, request, socket, version)).await;
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets() -> Tickets {
        Tickets::new("127.0.0.1:1".parse().unwrap())
    }

    fn issue(tickets: &Tickets) -> String {
        let url = tickets.issue(Ticket::Exec(ExecRequest::default())).unwrap();
        url.strip_prefix("http://127.0.0.1:1/exec/").unwrap().to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_good_once_and_for_its_purpose() {
        let tickets = tickets();
        let token = issue(&tickets);
        assert!(tickets.redeem("exec", &token).is_some());
        assert!(tickets.redeem("exec", &token).is_none());
        let token = issue(&tickets);
        assert!(tickets.redeem("attach", &token).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_expires() {
        let tickets = tickets();
        let token = issue(&tickets);
        tokio::time::advance(LIFE).await;
        assert!(tickets.redeem("exec", &token).is_none());
    }
}
