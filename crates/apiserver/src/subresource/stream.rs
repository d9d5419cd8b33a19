//! `pods/exec`, `pods/attach`, `pods/portforward`, `nodes/proxy`: requests that are passed on to the node port.
//!
//! Upgraded connections (WebSocket or SPDY alike) are raw bytes here; only the runtime's end speaks their protocol.

use api::look;
use axum::body::Body;
use axum::response::Response;
use http::{Request, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use super::node_port::{NodePort, Target};
use crate::query::{Query, percent_encode};
use crate::serve::Seat;
use crate::status::Status;

const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The container meant by a request: the named one, the only one, or the one that the pod declares its default.
pub fn container(pod: &Value, wanted: Option<&str>) -> Result<String, Status> {
    let name = look::text_at(pod, &["metadata", "name"]);
    let spec = &pod["spec"];
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let names: Vec<&str> =
        lists.iter().flat_map(|list| look::list(spec, list)).map(|container| look::text(container, "name")).collect();
    if let Some(wanted) = wanted {
        return match names.contains(&wanted) {
            true => Ok(wanted.to_owned()),
            false => Err(Status::bad_request(format!("container {wanted} is not valid for pod {name}"))),
        };
    }
    let default = look::text_at(pod, &["metadata", "annotations", DEFAULT_CONTAINER]);
    match look::list(spec, "containers") {
        [only] => Ok(look::text(only, "name").to_owned()),
        _ if names.contains(&default) => Ok(default.to_owned()),
        [] => Err(Status::bad_request(format!("a container name must be specified for pod {name}"))),
        _ => Err(Status::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            names.join(" ")
        ))),
    }
}

/// What a request for a stream asks for, as the object that admission judges: PodExecOptions and its like.
pub fn options(subresource: &str, query: &Query) -> Result<Value, Status> {
    let mut options = json!({});
    if subresource == "portforward" {
        let ports: Result<Vec<u16>, _> =
            query.all("ports").flat_map(|ports| ports.split(',')).map(str::parse).collect();
        let ports = ports.map_err(|error| Status::bad_request(format!("the ports cannot be read: {error}")))?;
        if !ports.is_empty() {
            look::set(&mut options, "ports", ports);
        }
        return Ok(options);
    }
    for stream in ["stdin", "stdout", "stderr", "tty"].into_iter().filter(|stream| query.flag(stream)) {
        look::set(&mut options, stream, true);
    }
    if let Some(container) = query.get("container") {
        look::set(&mut options, "container", container);
    }
    let command: Vec<&str> = query.all("command").collect();
    if subresource == "exec" && !command.is_empty() {
        look::set(&mut options, "command", command);
    }
    Ok(options)
}

/// Path and query at the node port for the options of a stream.
pub fn location(pod: &Value, subresource: &str, options: &Value) -> Result<String, Status> {
    let name = look::text_at(pod, &["metadata", "name"]);
    let namespace = look::text_at(pod, &["metadata", "namespace"]);
    if subresource == "portforward" {
        let ports: Vec<String> = look::list(options, "ports").iter().map(Value::to_string).collect();
        let ports = if ports.is_empty() { String::new() } else { format!("?port={}", ports.join(",")) };
        return Ok(format!("/portForward/{namespace}/{name}{ports}"));
    }
    let wanted = Some(look::text(options, "container")).filter(|name| !name.is_empty());
    let container = container(pod, wanted)?;
    let mut parameters: Vec<String> =
        look::texts(options, "command").into_iter().map(|word| format!("command={}", percent_encode(word))).collect();
    let streams = [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];
    let asked = streams.iter().filter(|(ours, _)| look::flag(options, ours));
    parameters.extend(asked.map(|(_, node)| format!("{node}=1")));
    Ok(format!("/{subresource}/{namespace}/{name}/{container}?{}", parameters.join("&")))
}

/// Whether a request asks to leave HTTP.
pub fn is_upgrade(request: &Request<Body>) -> bool {
    let connection = request.headers().get(header::CONNECTION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    connection.to_ascii_lowercase().contains("upgrade") && request.headers().contains_key(header::UPGRADE)
}

/// Passes a request to the node and joins both ends if the node agrees to the upgrade.
pub async fn proxy(port: &NodePort, node: &Value, path: &str, mut request: Request<Body>) -> Result<Response, Status> {
    let client = is_upgrade(&request).then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let mut onward = Request::builder().method(parts.method).uri(path);
    for (name, value) in &parts.headers {
        if passes(name.as_str()) {
            onward = onward.header(name, value);
        }
    }
    let body = if client.is_some() { Body::empty() } else { body };
    let onward = onward.body(body).map_err(Status::internal)?;
    let mut response = port.send(&Target::of_node(node)?, onward).await?;
    if response.status() == http::StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = client
    {
        let node_end = hyper::upgrade::on(&mut response);
        let seat = parts.extensions.get::<Seat>().cloned();
        port.tasks.spawn(async move {
            join(client, node_end).await;
            drop(seat);
        });
    }
    let (parts, body) = response.into_parts();
    Ok(Response::from_parts(parts, Body::new(body)))
}

/// Credentials of the client end here: the node sees this server's certificate.
fn passes(name: &str) -> bool {
    !matches!(name, "authorization" | "host" | "cookie" | "content-length" | "transfer-encoding")
        && !name.starts_with("impersonate-")
}

async fn join(client: hyper::upgrade::OnUpgrade, node: hyper::upgrade::OnUpgrade) {
    let (client, node) = match tokio::try_join!(client, node) {
        Ok(ends) => ends,
        Err(error) => return tracing::debug!(%error, "an upgrade did not happen"),
    };
    // Either end closing is the ordinary end of a stream.
    if let Err(error) = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(node)).await {
        tracing::debug!(%error, "a stream ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Value {
        json!({
            "metadata": {"name": "p", "namespace": "n"},
            "spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b"}]},
        })
    }

    #[test]
    fn the_container_must_be_named_if_there_are_several() {
        let text = container(&pod(), None).unwrap_err().message;
        assert_eq!(text, "a container name must be specified for pod p, choose one of: [i a b]");
        assert_eq!(container(&pod(), Some("i")).unwrap(), "i");
        assert_eq!(container(&pod(), Some("x")).unwrap_err().message, "container x is not valid for pod p");
        let mut declared = pod();
        declared["metadata"]["annotations"] = json!({DEFAULT_CONTAINER: "b"});
        assert_eq!(container(&declared, None).unwrap(), "b");
    }

    #[test]
    fn the_query_is_translated_to_the_node_ports_words() {
        let query =
            Query::parse(Some("container=a&command=sh&command=-c&command=echo+%26+x&stdout=true&stdin=false&tty=1"));
        let asked = options("exec", &query).unwrap();
        let expected = json!({"container": "a", "command": ["sh", "-c", "echo & x"], "stdout": true, "tty": true});
        assert_eq!(asked, expected);
        let path = location(&pod(), "exec", &asked).unwrap();
        assert_eq!(path, "/exec/n/p/a?command=sh&command=-c&command=echo%20%26%20x&output=1&tty=1");
        let forward = |text: &str| options("portforward", &Query::parse(Some(text)));
        for (text, path) in [("ports=80", "?port=80"), ("ports=80&ports=81,82", "?port=80,81,82"), ("", "")] {
            let found = location(&pod(), "portforward", &forward(text).unwrap()).unwrap();
            assert_eq!(found, format!("/portForward/n/p{path}"));
        }
        assert_eq!(forward("ports=http").unwrap_err().code, 400);
    }
}
