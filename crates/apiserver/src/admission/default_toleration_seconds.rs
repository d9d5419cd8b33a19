//! `DefaultTolerationSeconds`: a pod stays five minutes on a node that is not ready or out of reach.

use api::look;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request};
use crate::status::Status;

/// The plugin.
pub struct DefaultTolerationSeconds;

const SECONDS: i64 = 300;
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

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
        for taint in TAINTS {
            if !tolerations[..before].iter().any(|t| tolerates(t, taint)) {
                let toleration = json!({
                    "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
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
