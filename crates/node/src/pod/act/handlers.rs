//! What the runtime says of its handlers, and what of a pod a handler cannot do (RTC-50 … RTC-52).
//!
//! Asked anew each time: handlers come and go while a node is up. Start at [`Actor::unfit`].

use super::{Actor, CRI_TIMEOUT, limited, rpc};
use crate::object::{Container, Pod};
use cri::v1;

/// Why a pod cannot have a sandbox of its handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unfit {
    pub text: String,
    /// The runtime does not know the handler (RTC-38).
    pub is_unknown: bool,
}

impl Actor {
    /// The handlers that the runtime lists; none from a runtime without a list, or that does not answer.
    pub(super) async fn offered(&self) -> Vec<v1::RuntimeHandler> {
        let request = limited(v1::StatusRequest { verbose: false }, CRI_TIMEOUT);
        match rpc(self.cri.runtime.clone().status(request)).await {
            Ok(answer) => answer.into_inner().runtime_handlers,
            Err(_) => Vec::new(),
        }
    }

    /// What can be said before the runtime is asked to make anything.
    pub(super) async fn unfit(&self, pod: &Pod, handler: &str) -> Option<Unfit> {
        if handler.is_empty() && pod.spec.host_users != Some(false) {
            return None;
        }
        unfit(pod, handler, &self.offered().await, &self.ctx.node_name)
    }

    /// Whether mounts of this container can be read-only all the way down; asked only where it matters (RTC-51).
    pub(super) async fn mounts_read_only_below(&self, container: &Container, handler: &str) -> bool {
        let asks = container.volume_mounts.iter().any(|mount| !matches!(&*mount.recursive_read_only, "" | "Disabled"));
        asks && features(&self.offered().await, handler).recursive_read_only_mounts
    }
}

fn unfit(pod: &Pod, handler: &str, offered: &[v1::RuntimeHandler], node: &str) -> Option<Unfit> {
    // RTC-52: whoever lists its handlers has no others.
    if !handler.is_empty() && !offered.is_empty() && offered.iter().all(|known| known.name != handler) {
        let named: Vec<&str> = offered.iter().map(|known| &*known.name).filter(|name| !name.is_empty()).collect();
        let available = if named.is_empty() { "only the default".to_owned() } else { named.join(", ") };
        let text = format!("node {node} has no runtime handler {handler:?}; available: {available}");
        return Some(Unfit { text, is_unknown: true });
    }
    // RTC-50. Users are not mapped by this node at all yet, so that a handler which could do it does not help.
    let refusal = match (pod.spec.host_users, handler) {
        (Some(false), _) if features(offered, handler).user_namespaces => "this node does not map users".to_owned(),
        (Some(false), "") => "runtime does not support user namespaces".to_owned(),
        (Some(false), _) => format!("RuntimeClass handler {handler:?} does not support user namespaces"),
        _ => return None,
    };
    Some(Unfit { text: format!("can't set `spec.hostUsers: false`, {refusal}"), is_unknown: false })
}

/// What a handler can do; one that is not listed can do nothing of it.
fn features(offered: &[v1::RuntimeHandler], handler: &str) -> v1::RuntimeHandlerFeatures {
    offered.iter().find(|known| known.name == handler).and_then(|known| known.features).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn handler(name: &str, user_namespaces: bool) -> v1::RuntimeHandler {
        let features = v1::RuntimeHandlerFeatures { user_namespaces, ..Default::default() };
        v1::RuntimeHandler { name: name.into(), features: Some(features) }
    }

    #[test]
    fn rtc_50_52_what_a_handler_cannot_do_is_said_before_it_is_asked() {
        let offered = [handler("", false), handler("runc", false), handler("kata", true)];
        for (spec, wanted, offered, expected) in [
            (json!({}), "", &offered[..], None),
            (json!({}), "runc", &offered[..], None),
            (json!({}), "gone", &[][..], None),
            (
                json!({}),
                "gone",
                &offered[..],
                Some((r#"node n1 has no runtime handler "gone"; available: runc, kata"#, true)),
            ),
            (
                json!({}),
                "gone",
                &offered[..1],
                Some((r#"node n1 has no runtime handler "gone"; available: only the default"#, true)),
            ),
            (json!({"hostUsers": true}), "runc", &offered[..], None),
            (
                json!({"hostUsers": false}),
                "",
                &offered[..],
                Some(("can't set `spec.hostUsers: false`, runtime does not support user namespaces", false)),
            ),
            (
                json!({"hostUsers": false}),
                "runc",
                &offered[..],
                Some((
                    "can't set `spec.hostUsers: false`, RuntimeClass handler \"runc\" does not support user namespaces",
                    false,
                )),
            ),
            (
                json!({"hostUsers": false}),
                "kata",
                &offered[..],
                Some(("can't set `spec.hostUsers: false`, this node does not map users", false)),
            ),
        ] {
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            let expected = expected.map(|(text, is_unknown)| Unfit { text: text.into(), is_unknown });
            assert_eq!(unfit(&pod, wanted, offered, "n1"), expected, "{wanted:?}");
        }
    }
}
