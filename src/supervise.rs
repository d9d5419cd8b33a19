//! Keeps components running: an error or a panic in one is logged, contained and followed by a restart with back-off.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A component that ran this long is healthy: its next failure starts at the first pause again.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// Runs what `start` makes until it ends by cancellation.
pub async fn keep<F, R, E>(name: &'static str, cancel: CancellationToken, mut start: F)
where
    F: FnMut() -> R,
    R: Future<Output = Result<(), E>> + Send + 'static,
    E: Display + Send + 'static,
{
    let mut pause = FIRST_PAUSE;
    while !cancel.is_cancelled() {
        let began = tokio::time::Instant::now();
        let mut task = JoinSet::new();
        task.spawn(start());
        match task.join_next().await {
            Some(Ok(Ok(()))) | None if cancel.is_cancelled() => return,
            Some(Ok(Ok(()))) | None => tracing::warn!(component = name, "ended without being asked to"),
            Some(Ok(Err(error))) => tracing::error!(component = name, %error, "failed; it is started again"),
            Some(Err(panic)) => tracing::error!(component = name, %panic, "panicked; it is started again"),
        }
        if began.elapsed() > HEALTHY_AFTER {
            pause = FIRST_PAUSE;
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_contained_and_the_component_starts_again() {
        let cancel = CancellationToken::new();
        let starts = Arc::new(AtomicU32::new(0));
        let (counted, end) = (starts.clone(), cancel.clone());
        keep("test", cancel, move || {
            let (nth, end) = (counted.fetch_add(1, Ordering::SeqCst), end.clone());
            async move {
                match nth {
                    0 => panic!("first"),
                    1 => Err("second"),
                    _ => {
                        end.cancel();
                        Ok(())
                    }
                }
            }
        })
        .await;
        assert_eq!(starts.load(Ordering::SeqCst), 3);
    }
}
