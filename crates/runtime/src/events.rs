//! What happens, as GetContainerEvents tells it: at once, in order, with the statuses of that moment.
//!
//! Owns the channel to listeners. Must not wait for them: one that lags behind loses its stream and lists anew.

use cri::v1::{ContainerEventResponse, ContainerEventType};
use tokio::sync::broadcast;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::BroadcastStream;
use tonic::Status;

/// Events that a listener may lag behind.
const LAG_MAX: usize = 1024;

/// The channel.
pub(crate) struct Events(broadcast::Sender<ContainerEventResponse>);

impl Events {
    pub(crate) fn new() -> Events {
        Events(broadcast::Sender::new(LAG_MAX))
    }

    /// Whether anybody listens; statuses need not be gathered if not.
    pub(crate) fn is_heard(&self) -> bool {
        self.0.receiver_count() > 0
    }

    pub(crate) fn send(&self, event: ContainerEventResponse) {
        // Nobody listening is no error.
        let _ = self.0.send(event);
    }

    /// All events from now on.
    pub(crate) fn stream(&self) -> cri::Stream<ContainerEventResponse> {
        let events = BroadcastStream::new(self.0.subscribe());
        Box::pin(events.map(|event| event.map_err(|lag| Status::data_loss(format!("events were missed: {lag}")))))
    }
}

/// Word of an event for the log.
pub(crate) fn word(kind: ContainerEventType) -> &'static str {
    match kind {
        ContainerEventType::ContainerCreatedEvent => "created",
        ContainerEventType::ContainerStartedEvent => "started",
        ContainerEventType::ContainerStoppedEvent => "stopped",
        ContainerEventType::ContainerDeletedEvent => "deleted",
    }
}
