//! `pods/log`: checks the options, then streams the node's answer.

use api::look;
use axum::body::Body;
use axum::response::Response;
use http::Method;
use http_body_util::{BodyExt, Limited};
use serde_json::Value;

use super::node_port::{NodePort, Target};
use super::stream::container;
use crate::answer;
use crate::query::{Query, percent_encode};
use crate::status::Status;

const PASSED: [&str; 8] =
    ["follow", "previous", "timestamps", "sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream"];
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// Streams a container's log.
pub async fn log(port: &NodePort, pod: &Value, node: Option<&Value>, query: &Query) -> Result<Response, Status> {
    let name = look::text_at(pod, &["metadata", "name"]);
    check(name, query)?;
    let container = container(pod, query.get("container"))?;
    let Some(node) = node else {
        // A pod without a node has an empty log.
        return Ok(answer::typed(200, "text/plain", Body::empty()));
    };
    let namespace = look::text_at(pod, &["metadata", "namespace"]);
    let mut parameters: Vec<String> = Vec::new();
    for key in PASSED {
        match key {
            "follow" | "previous" | "timestamps" if query.flag(key) => parameters.push(format!("{key}=true")),
            "follow" | "previous" | "timestamps" => {}
            _ => parameters.extend(query.get(key).map(|value| format!("{key}={}", percent_encode(value)))),
        }
    }
    let path = format!("/containerLogs/{namespace}/{name}/{container}?{}", parameters.join("&"));
    let request = http::Request::builder().method(Method::GET).uri(path).body(Body::empty());
    let request = request.map_err(Status::internal)?;
    let response = port.send(&Target::of_node(node)?, request).await?;
    if response.status().is_success() {
        return Ok(answer::typed(200, "text/plain", Body::new(response.into_body())));
    }
    let code = response.status().as_u16();
    let body = Limited::new(response.into_body(), ERROR_BYTES_MAX).collect().await;
    let text = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).trim().to_owned()).unwrap_or_default();
    Err(refused(code, name, &text))
}

/// The node's refusal in the words of this server.
fn refused(code: u16, name: &str, text: &str) -> Status {
    match code {
        400 => Status::bad_request(text),
        404 => Status::plain(
            404,
            "NotFound",
            format!("the server could not find the requested resource ( pods/log {name}): {text}"),
        ),
        _ => Status::plain(
            500,
            "InternalError",
            format!("an error on the server ({text:?}) has prevented the request from succeeding ( pods/log {name})"),
        ),
    }
}

fn check(name: &str, query: &Query) -> Result<(), Status> {
    let invalid = |text: &str| Err(Status::plain(422, "Invalid", format!("PodLogOptions {name:?} is invalid: {text}")));
    for key in ["tailLines", "limitBytes", "sinceSeconds"] {
        let minimum = i64::from(key != "tailLines");
        if let Some(number) = query.integer(key)?
            && number < minimum
        {
            let bound = if minimum == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
            return invalid(&format!("{key}: Invalid value: {number}: {bound}"));
        }
    }
    if query.get("sinceSeconds").is_some() && query.get("sinceTime").is_some() {
        return invalid("<nil>: Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified");
    }
    Ok(())
}
