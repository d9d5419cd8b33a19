//! `TaintNodesByCondition`: a new node takes no pods until it has said that it is ready. The controllers take the taint
//! away then.

use api::look;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request};
use crate::status::Status;

/// The plugin.
pub struct TaintNodesByCondition;

const KEY: &str = "node.kubernetes.io/not-ready";
const EFFECT: &str = "NoSchedule";

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    async fn mutate(&self, request: &Request<'_>, node: &mut Value) -> Result<(), Status> {
        if !request.is_on("", "nodes") || request.operation != Operation::Create {
            return Ok(());
        }
        let spec = look::child(node, "spec");
        let mut taints = look::list(spec, "taints").to_vec();
        if !taints.iter().any(|taint| look::text(taint, "key") == KEY && look::text(taint, "effect") == EFFECT) {
            taints.push(json!({"key": KEY, "effect": EFFECT}));
            look::set(spec, "taints", taints);
        }
        Ok(())
    }
}
