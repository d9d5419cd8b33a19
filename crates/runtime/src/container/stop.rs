//! StopContainer: the stop signal once, also over a restart (HOOK-59), then SIGKILL at the earliest deadline that any caller
//! gave (POD-74).
//!
//! Waits for the monitor's word that the container has ended; nothing polls.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use monitor::wire::{Request, Signal, code};
use tokio::time::Instant;

use super::signal::SIGKILL;
use crate::core::Core;
use crate::error::Error;
use crate::record::SIGNALLED;
use crate::state::{Container, Stage};

/// How long the kernel may take to end what got SIGKILL.
const KILL_PATIENCE: Duration = Duration::from_secs(30);

/// Stops a container. Unknown and ended ones are fine (POD-73).
pub(crate) async fn stop(core: Arc<Core>, id: String, timeout_seconds: i64) -> Result<(), Error> {
    let Ok(container) = core.state.container(&id) else { return Ok(()) };
    // A start in progress ends one way or the other; then there is something to stop, or nothing.
    container.until(|stage| stage != Stage::Starting).await;
    if container.stage() != Stage::Running {
        return Ok(());
    }
    let timeout = Duration::from_secs(u64::try_from(timeout_seconds).unwrap_or(0));
    if timeout.is_zero() {
        return kill(&core, &container).await;
    }
    let mut stops = container.stop.subscribe();
    if hasten(&container, Instant::now() + timeout) {
        send(&core, &container, container.record.stop_signal).await?;
        // Afterwards: a signal that comes twice does less harm than one that never comes.
        let mark = core.layout.container_data(container.id()).join(SIGNALLED);
        fs::write(&mark, "").map_err(Error::file("write", &mark))?;
    }
    loop {
        let deadline = stops.borrow_and_update().deadline.unwrap_or_else(Instant::now);
        tokio::select! {
            () = container.until(|stage| stage == Stage::Exited) => return Ok(()),
            _ = stops.changed() => {}
            () = tokio::time::sleep_until(deadline) => return kill(&core, &container).await,
        }
    }
}

/// Moves the deadline earlier if this one is. Returns whether the stop signal is the caller's to send.
fn hasten(container: &Container, deadline: Instant) -> bool {
    let mut is_first = false;
    container.stop.send_modify(|stop| {
        stop.deadline = Some(stop.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
        is_first = !std::mem::replace(&mut stop.is_signalled, true);
    });
    is_first
}

/// SIGKILL, and waits for the end.
pub(crate) async fn kill(core: &Arc<Core>, container: &Arc<Container>) -> Result<(), Error> {
    container.until(|stage| stage != Stage::Starting).await;
    // No stop signal after SIGKILL.
    hasten(container, Instant::now());
    if container.stage() != Stage::Running {
        return Ok(());
    }
    send(core, container, SIGKILL).await?;
    let ended = tokio::time::timeout(KILL_PATIENCE, container.until(|stage| stage == Stage::Exited)).await;
    match ended {
        Ok(()) => Ok(()),
        Err(_) => Err(Error::DeadlineExceeded(format!("container {} does not end", container.id()))),
    }
}

async fn send(core: &Core, container: &Container, signal: u32) -> Result<(), Error> {
    let Ok(link) = container.sandbox.link() else {
        // The monitor is gone; its burial ends the container.
        core.end_unwatched(container);
        return Ok(());
    };
    let request = Signal { container: container.record.id.clone(), signal, ..Signal::default() };
    match link.ask(Request::Signal(request)).await {
        Err(failure) if !matches!(failure.code, code::NOT_FOUND | code::WRONG_STATE) => {
            Err(Error::step(format!("signal container {}", container.id()), failure))
        }
        // It has ended already; the event is on its way.
        _ => Ok(()),
    }
}
