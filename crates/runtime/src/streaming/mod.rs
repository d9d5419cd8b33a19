//! The streaming server: Exec, Attach and PortForward hand out an address on the loopback, one-time and short-lived;
//! whoever comes with it gets the streams, over a WebSocket or over SPDY/3.1 (POD-69).
//!
//! Owns the HTTP side: which protocol is spoken. `ticket` are the addresses. A client of a command is a pair of
//! [`client`] behind which stand `websocket` (framing: `channel`) and `command` (on `spdy`); `session` moves its bytes. A
//! client of ports is served by `forward` on `spdy`, in a WebSocket too (`tunnel`), or by `forward_channels`; `dial`
//! reaches into the sandbox.

mod channel;
mod client;
mod command;
mod dial;
mod forward;
mod forward_channels;
mod session;
mod spdy;
mod ticket;
mod tunnel;
mod websocket;

use std::sync::Arc;

use axum::Router;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts as _, Path, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use cri::v1::PortForwardRequest;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::core::Core;
use channel::Version;
use command::Wanted;
use spdy::{Connection, Outlet};
pub(crate) use ticket::{Ticket, Tickets};

/// Longest message that a client may send on a WebSocket, in bytes.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// What a client asks to switch to, and what it speaks within.
const SPDY: &str = "SPDY/3.1";
const STREAM_VERSION: &str = "x-stream-protocol-version";
const ACCEPTED_VERSIONS: &str = "x-accepted-stream-protocol-versions";

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

/// The address is kept for a client that asks for another protocol first.
async fn open(
    State(core): State<Arc<Core>>,
    Path((path, token)): Path<(String, String)>,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    let wants_spdy =
        parts.headers.get(header::UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(SPDY.as_bytes()));
    let opened = match wants_spdy {
        true => open_spdy(core, &path, &token, parts),
        false => open_websocket(core, &path, &token, parts).await,
    };
    opened.unwrap_or_else(|refusal| *refusal)
}

type Opened = Result<Response, Box<Response>>;

fn redeem(core: &Core, path: &str, token: &str) -> Result<Ticket, Box<Response>> {
    let ticket = core.tickets.redeem(path, token);
    ticket.ok_or_else(|| Box::new(refuse(StatusCode::NOT_FOUND, "unknown, used or expired stream")))
}

fn open_spdy(core: Arc<Core>, path: &str, token: &str, mut parts: Parts) -> Opened {
    let names: Vec<&'static str> = match path {
        "portforward" => vec![forward::PROTOCOL],
        _ => command::VERSIONS.iter().map(|version| version.name).collect(),
    };
    let name = negotiate(&parts.headers, &names)?;
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let upgrade =
        upgrade.ok_or_else(|| Box::new(refuse(StatusCode::BAD_REQUEST, "the connection cannot be upgraded")))?;
    let ticket = redeem(&core, path, token)?;
    let tasks = core.tasks.clone();
    tasks.spawn(async move {
        let upgraded = match upgrade.await {
            Ok(upgraded) => upgraded,
            Err(error) => return tracing::debug!(%error, "an upgrade did not happen"),
        };
        let (from, to) = tokio::io::split(TokioIo::new(upgraded));
        let connection = Connection::start(from, Outlet::Plain(to), &core.tasks, &core.cancel);
        spdy_session(core, ticket, connection, name).await;
    });
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(SPDY));
    headers.insert(STREAM_VERSION, HeaderValue::from_static(name));
    Ok(response)
}

async fn spdy_session(core: Arc<Core>, ticket: Ticket, connection: Connection, name: &str) {
    if let Ticket::PortForward(request) = &ticket {
        // Gone since: the connection ends.
        let Ok(sandbox) = core.state.sandbox(&request.pod_sandbox_id) else { return };
        return forward::serve(sandbox, connection).await;
    }
    let Some(version) = command::VERSIONS.into_iter().find(|version| version.name == name) else { return };
    let Some(client) = command::client(connection, version, wanted(&ticket)).await else { return };
    match ticket {
        Ticket::Exec(request) => session::exec(core, request, client).await,
        Ticket::Attach(request) => session::attach(core, request, client).await,
        Ticket::PortForward(_) => {}
    }
}

fn wanted(ticket: &Ticket) -> Wanted {
    let [stdin, stdout, stderr] = match ticket {
        Ticket::Exec(request) => [request.stdin, request.stdout, request.stderr],
        Ticket::Attach(request) => [request.stdin, request.stdout, request.stderr],
        Ticket::PortForward(_) => [false; 3],
    };
    Wanted { stdin, stdout, stderr }
}

/// The first protocol of the client's list that we speak. Clients older than the list speak the last of ours.
fn negotiate(headers: &HeaderMap, ours: &[&'static str]) -> Result<&'static str, Box<Response>> {
    let values = headers.get_all(STREAM_VERSION).iter().filter_map(|value| value.to_str().ok());
    let offered: Vec<&str> = values.flat_map(|list| list.split(',')).map(str::trim).collect();
    if let (true, Some(last)) = (offered.is_empty(), ours.last()) {
        return Ok(last);
    }
    let common = offered.iter().find_map(|offer| ours.iter().find(|name| *name == offer));
    if let Some(name) = common {
        return Ok(name);
    }
    let text = format!("unable to negotiate protocol: client supports {offered:?}, server accepts {ours:?}");
    let mut response = refuse(StatusCode::FORBIDDEN, text);
    for name in ours {
        response.headers_mut().append(ACCEPTED_VERSIONS, HeaderValue::from_static(name));
    }
    Err(Box::new(response))
}

async fn open_websocket(core: Arc<Core>, path: &str, token: &str, mut parts: Parts) -> Opened {
    let bad = |text: String| Box::new(refuse(StatusCode::BAD_REQUEST, text));
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &core).await;
    let upgrade = upgrade.map_err(|_| bad(format!("streams are upgraded to WebSocket or {SPDY}")))?;
    let versions: &[Version] = if path == "portforward" { &channel::PORTS } else { &channel::COMMANDS };
    let mut names: Vec<&'static str> = versions.iter().map(|version| version.name).collect();
    // Clients that name no protocol speak the oldest one.
    let silent = if path == "portforward" { channel::PORTS[0] } else { channel::COMMANDS[3] };
    if path == "portforward" {
        names.insert(0, tunnel::PROTOCOL);
    }
    let upgrade = upgrade.protocols(names.iter().copied()).max_message_size(MESSAGE_BYTES_MAX);
    let selected = upgrade.selected_protocol().and_then(|name| name.to_str().ok());
    let names_none = !parts.headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL);
    let within = match selected {
        Some(tunnel::PROTOCOL) => None,
        Some(name) => versions.iter().copied().find(|version| version.name == name),
        None if names_none => Some(silent),
        None => return Err(bad(format!("no common subprotocol: {} are supported", names.join(", ")))),
    };
    let ticket = redeem(&core, path, token)?;
    let tasks = core.tasks.clone();
    Ok(upgrade.on_upgrade(move |socket| async move {
        // A task of ours, so that the runtime's end awaits it.
        let _ = tasks.spawn(websocket_session(core, ticket, socket, within)).await;
    }))
}

/// Without a version the socket is a tunnel.
async fn websocket_session(core: Arc<Core>, ticket: Ticket, socket: WebSocket, within: Option<Version>) {
    match (ticket, within) {
        (Ticket::Exec(request), Some(version)) => {
            session::exec(core, request, websocket::client(socket, version)).await;
        }
        (Ticket::Attach(request), Some(version)) => {
            session::attach(core, request, websocket::client(socket, version)).await;
        }
        (Ticket::PortForward(request), within) => forward_in(core, request, socket, within).await,
        // Only ports are promised a tunnel.
        (Ticket::Exec(_) | Ticket::Attach(_), None) => {}
    }
}

async fn forward_in(core: Arc<Core>, request: PortForwardRequest, socket: WebSocket, within: Option<Version>) {
    // Gone since: the connection ends.
    let Ok(sandbox) = core.state.sandbox(&request.pod_sandbox_id) else { return };
    let Some(version) = within else {
        let (from, to) = tunnel::open(socket);
        let connection = Connection::start(from, to, &core.tasks, &core.cancel);
        return forward::serve(sandbox, connection).await;
    };
    let ports: Vec<u16> = request.port.iter().filter_map(|port| u16::try_from(*port).ok()).collect();
    let ports = ports.into_iter().take(forward_channels::PORTS_MAX).collect();
    forward_channels::serve(sandbox, socket, version, ports).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiated(offers: &[&'static str]) -> Result<&'static str, u16> {
        let mut headers = HeaderMap::new();
        for offer in offers {
            headers.append(STREAM_VERSION, HeaderValue::from_static(offer));
        }
        let ours: Vec<_> = command::VERSIONS.iter().map(|version| version.name).collect();
        negotiate(&headers, &ours).map_err(|refusal| refusal.status().as_u16())
    }

    #[test]
    fn the_clients_order_decides_the_version() {
        assert_eq!(
            negotiated(&["v9.channel.k8s.io", "v3.channel.k8s.io", "v4.channel.k8s.io"]),
            Ok("v3.channel.k8s.io")
        );
        assert_eq!(negotiated(&["v4.channel.k8s.io, v3.channel.k8s.io"]), Ok("v4.channel.k8s.io"));
        assert_eq!(negotiated(&[]), Ok("channel.k8s.io"));
        assert_eq!(negotiated(&["portforward.k8s.io"]), Err(403));
    }
}
