//! `DefaultTolerationSeconds`: a pod stays five minutes on a node that is not ready or out of reach.

use api::look;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request};
use crate::status::Status;

/// The plugin: for how many seconds pods tolerate each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultTolerationSeconds {
    /// `--default-not-ready-toleration-seconds`.
    pub not_ready: i64,
    /// `--default-unreachable-toleration-seconds`.
    pub unreachable: i64,
}

impl Default for DefaultTolerationSeconds {
    fn default() -> Self {
        Self { not_ready: 300, unreachable: 300 }
    }
}

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    async fn mutate(&self, request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
        if !request.is_on("", "pods") || request.operation == Operation::Delete {
            return Ok(());
        }
        let spec = look::child(pod, "spec");
        let mut tolerations = look::list(spec, "tolerations").to_vec();
        let before = tolerations.len();
        let wanted =
            [("node.kubernetes.io/not-ready", self.not_ready), ("node.kubernetes.io/unreachable", self.unreachable)];
        for (taint, seconds) in wanted {
            if !tolerations[..before].iter().any(|t| tolerates(t, taint)) {
                let toleration = json!({
                    "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds,
                });
                tolerations.push(toleration);
            }
        }
        if tolerations.len() > before {
            look::set(spec, "tolerations", tolerations);
        }
        Ok(())
    }
}

/// An empty key stands for every taint, an empty effect for every effect.
fn tolerates(toleration: &Value, taint: &str) -> bool {
    let key = look::text(toleration, "key");
    let effect = look::text(toleration, "effect");
    (key == taint || key.is_empty()) && (effect == "NoExecute" || effect.is_empty())
}
