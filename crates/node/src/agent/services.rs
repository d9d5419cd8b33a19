//! The node's services beside its pods: heartbeat and node port.

use super::Options;
use crate::pod::act::Actor;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

impl Options {
    /// Begins the services in the background.
    pub(super) fn serve_node(&self, _actor: &Arc<Actor>, _background: &mut JoinSet<()>, _cancel: CancellationToken) {}
}
