//! The table of paths.
//!
//! Start at [`answer`].

use super::{
    Answer, Node, hooks, images, json, logs, metrics, query::Query, query::decode, seek, stream, stream::Upgrades, text,
};
use crate::pod::act::rpc;
use cri::v1;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use std::time::Duration;

/// `/run` waits at most so long for its command.
const RUN_TIMEOUT: Duration = Duration::from_secs(120);

/// The parts of a path, decoded.
pub(super) fn parts(path: &str) -> Vec<String> {
    path.split('/').filter(|p| !p.is_empty()).map(decode).collect()
}

/// Answers one request of an admitted caller.
pub(super) async fn answer(node: &Node, parts: &[&str], request: Request<Incoming>, upgrades: &Upgrades) -> Answer {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let is_stream = matches!(*request.method(), Method::GET | Method::POST);
    match parts {
        ["healthz", ..] => text(StatusCode::OK, "ok"),
        ["pods"] => match seek::pods(node).await {
            Ok(list) => json(&list),
            Err(refusal) => *refusal,
        },
        ["metrics"] => metrics::answer(node).await,
        ["hooks", namespace, pod] => hooks::answer(node, [namespace, pod], &query).await,
        ["pulls"] => images::pulls(node, &query),
        ["images", "collection"] if *request.method() == Method::POST => images::collect(node).await,
        ["images", "collection"] => images::collection(node).await,
        ["containerLogs", namespace, pod, container] => logs::answer(node, [namespace, pod, container], &query).await,
        ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] if is_stream => {
            match seek::running(node, namespace, pod, container).await {
                Ok(id) => streamed(exec_url(node, id, &query).await, request, upgrades).await,
                Err(refusal) => *refusal,
            }
        }
        ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] if is_stream => {
            match seek::running(node, namespace, pod, container).await {
                Ok(id) => streamed(attach_url(node, id, &query).await, request, upgrades).await,
                Err(refusal) => *refusal,
            }
        }
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] if is_stream => {
            match seek::sandbox(node, namespace, pod).await {
                Ok(id) => streamed(forward_url(node, id, &query).await, request, upgrades).await,
                Err(refusal) => *refusal,
            }
        }
        ["run", namespace, pod, container] | ["run", namespace, pod, _, container]
            if *request.method() == Method::POST =>
        {
            match seek::running(node, namespace, pod, container).await {
                Ok(id) => run(node, id, &query).await,
                Err(refusal) => *refusal,
            }
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

/// Passes the connection on to the stream that the runtime offers.
async fn streamed(url: Result<String, tonic::Status>, request: Request<Incoming>, upgrades: &Upgrades) -> Answer {
    match url {
        Ok(url) => stream::pass_on(&url, request, upgrades).await,
        Err(status) => text(StatusCode::INTERNAL_SERVER_ERROR, seek::rpc_text(&status)),
    }
}

/// The streams that a query asks for, in the words of the node port or of the API.
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

fn wanted(query: &Query) -> Wanted {
    let either = |own: &str, api: &str| query.flag(own) || query.flag(api);
    let tty = query.flag("tty");
    Wanted {
        stdin: either("input", "stdin"),
        stdout: either("output", "stdout"),
        // A terminal has one stream of output.
        stderr: either("error", "stderr") && !tty,
        tty,
    }
}

async fn exec_url(node: &Node, container_id: String, query: &Query) -> Result<String, tonic::Status> {
    let Wanted { stdin, stdout, stderr, tty } = wanted(query);
    let cmd = query.all("command");
    let request = v1::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr };
    Ok(rpc(node.cri.runtime.clone().exec(seek::limited(request))).await?.into_inner().url)
}

async fn attach_url(node: &Node, container_id: String, query: &Query) -> Result<String, tonic::Status> {
    let Wanted { stdin, stdout, stderr, tty } = wanted(query);
    let request = v1::AttachRequest { container_id, stdin, tty, stdout, stderr };
    Ok(rpc(node.cri.runtime.clone().attach(seek::limited(request))).await?.into_inner().url)
}

async fn forward_url(node: &Node, pod_sandbox_id: String, query: &Query) -> Result<String, tonic::Status> {
    let lists = query.all("port").into_iter().chain(query.all("ports"));
    let port = lists.flat_map(|list| list.split(',').filter_map(|p| p.parse().ok()).collect::<Vec<i32>>()).collect();
    let request = v1::PortForwardRequest { pod_sandbox_id, port };
    Ok(rpc(node.cri.runtime.clone().port_forward(seek::limited(request))).await?.into_inner().url)
}

/// The command's output, stdout first.
async fn run(node: &Node, container_id: String, query: &Query) -> Answer {
    let cmd = query.get("cmd").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let timeout = i64::try_from(RUN_TIMEOUT.as_secs()).unwrap_or(i64::MAX);
    let mut request = tonic::Request::new(v1::ExecSyncRequest { container_id, cmd, timeout });
    request.set_timeout(RUN_TIMEOUT + Duration::from_secs(5));
    match rpc(node.cri.runtime.clone().exec_sync(request)).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            let mut output = answer.stdout.to_vec();
            output.extend_from_slice(&answer.stderr);
            match answer.exit_code {
                0 => text(StatusCode::OK, output),
                code => {
                    output.extend_from_slice(format!("command terminated with exit code {code}").as_bytes());
                    text(StatusCode::INTERNAL_SERVER_ERROR, output)
                }
            }
        }
        Err(status) => text(StatusCode::INTERNAL_SERVER_ERROR, seek::rpc_text(&status)),
    }
}
