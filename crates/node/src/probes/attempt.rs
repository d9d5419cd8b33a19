//! One attempt of one probe: exec, http, tcp or grpc.
//!
//! Start at [`attempt`]. Output is cut to what fits an event.

use super::http;
use crate::object::{ContainerPort, ExecAction, GrpcAction, IntOrString, Probe};
use crate::pod::act::rpc;
use cri::v1;
use std::time::Duration;
use tokio::{net::TcpStream, time::timeout};
use tonic_prost::ProstCodec;

/// Exec output beyond this is dropped (POD-59).
const OUTPUT_BYTES_MAX: usize = 10 * 1024;
/// The runtime gets this much longer than the command itself.
const CRI_SLACK: Duration = Duration::from_secs(5);

/// How one attempt ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Success,
    /// Success, with something to tell.
    Warning(String),
    Failure(String),
    /// The probe could not be carried out; counts neither way.
    Error(String),
}

impl Outcome {
    /// Passed, failed, or nothing known.
    pub fn verdict(&self) -> Option<bool> {
        match self {
            Self::Success | Self::Warning(_) => Some(true),
            Self::Failure(_) => Some(false),
            Self::Error(_) => None,
        }
    }
}

/// Where the container is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub ip: String,
    pub container_id: String,
    pub ports: Vec<ContainerPort>,
}

impl Place {
    /// The number of a port given by number or by name.
    pub fn port(&self, port: &IntOrString) -> Result<u16, Outcome> {
        let number = match port {
            IntOrString::Int(number) => u16::try_from(*number).ok(),
            IntOrString::String(name) => {
                let named = self.ports.iter().find(|p| p.name == *name).map(|p| p.container_port);
                named.and_then(|p| u16::try_from(p).ok()).or_else(|| name.parse().ok())
            }
        };
        number.filter(|n| *n > 0).ok_or_else(|| Outcome::Error(format!("couldn't find port: {port}")))
    }
}

/// Carries the probe out once.
pub(super) async fn attempt(probe: &Probe, place: &Place, cri: &cri::Client, limit: Duration) -> Outcome {
    let or_own = |host: &str| if host.is_empty() { place.ip.clone() } else { host.to_owned() };
    let port = |port: &IntOrString| place.port(port);
    match probe {
        Probe { exec: Some(action), .. } => exec(action, place, cri, limit).await,
        Probe { http_get: Some(action), .. } => match port(&action.port) {
            Ok(port) => http::get(action, &or_own(&action.host), port, limit).await,
            Err(outcome) => outcome,
        },
        Probe { tcp_socket: Some(action), .. } => match port(&action.port) {
            Ok(port) => tcp(&or_own(&action.host), port, limit).await,
            Err(outcome) => outcome,
        },
        Probe { grpc: Some(action), .. } => grpc(action, &place.ip, limit).await,
        _ => Outcome::Error("missing probe handler".to_owned()),
    }
}

async fn exec(action: &ExecAction, place: &Place, cri: &cri::Client, limit: Duration) -> Outcome {
    let mut request = tonic::Request::new(v1::ExecSyncRequest {
        container_id: place.container_id.clone(),
        cmd: action.command.clone(),
        timeout: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
    });
    request.set_timeout(limit + CRI_SLACK);
    match rpc(cri.runtime.clone().exec_sync(request)).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            if answer.exit_code == 0 {
                return Outcome::Success;
            }
            let mut output = answer.stdout.to_vec();
            output.extend_from_slice(&answer.stderr);
            output.truncate(OUTPUT_BYTES_MAX);
            Outcome::Failure(String::from_utf8_lossy(&output).into_owned())
        }
        Err(status) if status.code() == tonic::Code::DeadlineExceeded => Outcome::Failure(format!(
            "command timed out: {:?} timed out after {}s",
            action.command.join(" "),
            limit.as_secs()
        )),
        Err(status) => Outcome::Error(format!("rpc error: code = {:?} desc = {}", status.code(), status.message())),
    }
}

async fn tcp(host: &str, port: u16, limit: Duration) -> Outcome {
    let place = authority(host, port);
    match timeout(limit, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Outcome::Success,
        Ok(Err(error)) => Outcome::Failure(dial_text(&place, &error)),
        Err(_) => Outcome::Failure(format!("dial tcp {place}: i/o timeout")),
    }
}

/// `host:port`, with brackets around IPv6.
pub(super) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A failed connection in the words that users know.
pub(super) fn dial_text(place: &str, error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    let cause = match error.kind() {
        ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {place}: {cause}")
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`; 1 is SERVING.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

async fn grpc(action: &GrpcAction, ip: &str, limit: Duration) -> Outcome {
    let Ok(port) = u16::try_from(action.port) else { return Outcome::Error("invalid port".to_owned()) };
    let place = authority(ip, port);
    match timeout(limit, rpc(health(&place, action.service.clone().unwrap_or_default()))).await {
        Ok(Ok(1)) => Outcome::Success,
        Ok(Ok(status)) => {
            let word = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
            let word = usize::try_from(status).ok().and_then(|s| word.get(s)).unwrap_or(&"UNKNOWN");
            Outcome::Failure(format!("service unhealthy (responded with {word:?})"))
        }
        Ok(Err(text)) => Outcome::Failure(text),
        Err(_) => Outcome::Failure(format!("timeout: failed to connect service {place:?} within {}s", limit.as_secs())),
    }
}

async fn health(place: &str, service: String) -> Result<i32, String> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{place}")).map_err(|e| e.to_string())?;
    let channel = endpoint.connect().await.map_err(|e| format!("error: failed to connect service {place:?}: {e}"))?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|e| e.to_string())?;
    let path = http_path("/grpc.health.v1.Health/Check");
    let codec: ProstCodec<HealthRequest, HealthResponse> = ProstCodec::default();
    let answer = client.unary(tonic::Request::new(HealthRequest { service }), path, codec).await;
    match answer {
        Ok(answer) => Ok(answer.into_inner().status),
        Err(status) if status.code() == tonic::Code::Unimplemented => {
            Err("error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned())
        }
        Err(status) => Err(format!("error: health rpc failed: {}", status.message())),
    }
}

fn http_path(path: &'static str) -> ::http::uri::PathAndQuery {
    ::http::uri::PathAndQuery::from_static(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tcp_probe_is_a_connection() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(tcp("127.0.0.1", port, Duration::from_secs(30)).await, Outcome::Success);
        // Taken, and nobody listens there.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = socket.local_addr().unwrap().port();
        let expect = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(tcp("127.0.0.1", port, Duration::from_secs(30)).await, Outcome::Failure(expect));
    }

    #[test]
    fn ports_are_found_by_number_and_name() {
        let ports = vec![ContainerPort { name: "web".into(), container_port: 80, ..Default::default() }];
        let place = Place { ip: String::new(), container_id: String::new(), ports };
        assert_eq!(place.port(&IntOrString::Int(8080)), Ok(8080));
        assert_eq!(place.port(&IntOrString::String("web".into())), Ok(80));
        assert_eq!(
            place.port(&IntOrString::String("none".into())),
            Err(Outcome::Error("couldn't find port: none".into()))
        );
    }
}
