//! `/hooks/NAMESPACE/POD`: the runs of a pod's hooks, also for a while after it has gone (HOOK-65).
//!
//! Who may ask is decided by the API server, as for logs: what a hook printed is in here. The shape is in
//! docs/walls/node-port.md.

use super::{Answer, Node, json, query::Query, text};
use crate::hooks::run::Run;
use http::StatusCode;
use serde_json::json as value;

/// All runs, or those of one container, oldest first.
pub(super) async fn answer(node: &Node, [namespace, pod]: [&str; 2], query: &Query) -> Answer {
    let (journal, names) = (node.hooks.journal.clone(), (namespace.to_owned(), pod.to_owned()));
    let found = tokio::task::spawn_blocking(move || journal.runs(&names.0, &names.1)).await;
    let Ok(mut runs) = found else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "the runs of hooks cannot be read");
    };
    if let Some(container) = query.get("container") {
        runs.retain(|run: &Run| run.begun.container == container);
    }
    json(&value!({ "kind": "HookRunList", "apiVersion": "node.sampan.dev/v1", "items": runs }))
}
