//! The runtime's container events: one stream, reconnected when it breaks.
//!
//! A break loses events, so each new connection begins with a request to list everything again.

use crate::pod::act::{limited, rpc, rpc_text};
use cri::v1;
use std::{sync::Arc, time::Duration};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

const QUEUE_LENGTH: usize = 1024;
const RECONNECT: Duration = Duration::from_secs(1);

const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// What the runtime calls itself; the embedded one's name if it does not answer now.
pub(super) async fn name(cri: &cri::Client) -> Arc<str> {
    let request = limited(v1::VersionRequest::default(), VERSION_TIMEOUT);
    match rpc(cri.runtime.clone().version(request)).await {
        Ok(answer) => answer.into_inner().runtime_name.into(),
        Err(status) => {
            tracing::warn!(error = rpc_text(&status), "the runtime does not tell its name");
            "sampan".into()
        }
    }
}

/// What comes from the runtime.
#[derive(Debug)]
pub(super) enum RuntimeEvent {
    /// Something happened to a container.
    Container(Box<v1::ContainerEventResponse>),
    /// The stream began, or there is none: list.
    Relist,
}

/// Subscribes to the runtime's events in the background.
pub(super) fn subscribe(
    cri: cri::Client,
    cancel: CancellationToken,
    background: &mut JoinSet<()>,
) -> mpsc::Receiver<RuntimeEvent> {
    let (sender, receiver) = mpsc::channel(QUEUE_LENGTH);
    background.spawn(async move {
        cancel.run_until_cancelled(follow(cri, sender)).await;
    });
    receiver
}

async fn follow(cri: cri::Client, sender: mpsc::Sender<RuntimeEvent>) {
    while !sender.is_closed() {
        match rpc(cri.runtime.clone().get_container_events(v1::GetEventsRequest {})).await {
            Ok(answer) => {
                let mut stream = answer.into_inner();
                let _ = sender.send(RuntimeEvent::Relist).await;
                while let Ok(Some(event)) = stream.message().await {
                    let _ = sender.send(RuntimeEvent::Container(Box::new(event))).await;
                }
            }
            // A runtime without events is listed once a second.
            Err(status) if status.code() == tonic::Code::Unimplemented => {
                let _ = sender.send(RuntimeEvent::Relist).await;
            }
            Err(status) => tracing::warn!(error = rpc_text(&status), "no events from the runtime"),
        }
        tokio::time::sleep(RECONNECT).await;
    }
}
