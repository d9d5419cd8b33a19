//! Following the runtime's pulls, where it tells of them, onto the board.
//!
//! [`Speeds`] is pure: how fast bytes come, from two snapshots and more. [`run`] is the shell: one stream, begun anew
//! when it breaks; a runtime without `sampan.v1` is not asked again. Start at [`run`].

use super::progress::{Board, Pull};
use crate::pod::{act::rpc, clock::Clock};
use cri::sampan::{PullProgress, WatchPullsRequest};
use jiff::{SignedDuration, Timestamp};
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Between two streams.
const AGAIN: Duration = Duration::from_secs(2);
/// The speed is that of so long.
const WINDOW: SignedDuration = SignedDuration::from_secs(3);
/// A speed is not told from less.
const WINDOW_MIN: SignedDuration = SignedDuration::from_millis(400);

/// How many bytes had come when, of each pull under way.
#[derive(Debug, Default)]
pub struct Speeds {
    samples: BTreeMap<String, VecDeque<(Timestamp, u64)>>,
}

impl Speeds {
    /// Takes in a snapshot; the same with speeds.
    pub fn take(&mut self, pulls: Vec<PullProgress>, now: Timestamp) -> Vec<Pull> {
        self.samples.retain(|image, _| pulls.iter().any(|pull| pull.image == *image));
        pulls.into_iter().map(|pull| self.pull(pull, now)).collect()
    }

    fn pull(&mut self, pull: PullProgress, now: Timestamp) -> Pull {
        let samples = self.samples.entry(pull.image.clone()).or_default();
        samples.push_back((now, pull.fetched));
        while samples.len() > 2 && samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= WINDOW) {
            samples.pop_front();
        }
        let bytes_per_second = samples.front().map_or(0, |(since, before)| {
            let took = now.duration_since(*since);
            if took < WINDOW_MIN {
                return 0;
            }
            let milliseconds = u128::try_from(took.as_millis()).unwrap_or(1).max(1);
            let bytes = u128::from(pull.fetched.saturating_sub(*before));
            u64::try_from(bytes * 1000 / milliseconds).unwrap_or(u64::MAX)
        });
        Pull {
            image: pull.image,
            fetched_bytes: pull.fetched.saturating_add(pull.present),
            total_bytes: pull.total,
            bytes_per_second,
            layers_done: usize::try_from(pull.layers_done).unwrap_or(usize::MAX),
            layers: usize::try_from(pull.layers).unwrap_or(usize::MAX),
        }
    }
}

/// Follows until cancelled, or until the runtime says that it does not tell.
pub async fn run(cri: cri::Client, board: Board, clock: Clock, cancel: CancellationToken) {
    cancel.run_until_cancelled(follow(cri, board, clock)).await;
}

async fn follow(cri: cri::Client, board: Board, clock: Clock) {
    loop {
        let mut speeds = Speeds::default();
        match rpc(cri.pulls.clone().watch_pulls(WatchPullsRequest {})).await {
            Ok(answer) => {
                let mut snapshots = answer.into_inner();
                while let Ok(Some(snapshot)) = snapshots.message().await {
                    board.take(speeds.take(snapshot.pulls, clock.now()));
                }
                board.take(Vec::new());
            }
            Err(status) if status.code() == tonic::Code::Unimplemented => return,
            Err(status) => tracing::debug!(error = status.message(), "no progress of pulls from the runtime"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(fetched: u64) -> Vec<PullProgress> {
        vec![PullProgress { image: "i".into(), total: 1000, fetched, present: 100, layers: 3, layers_done: 1 }]
    }

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(1_000_000 + milliseconds).unwrap()
    }

    #[test]
    fn the_speed_is_that_of_the_last_seconds_and_not_of_what_was_there() {
        let mut speeds = Speeds::default();
        let mut speed = |fetched, milliseconds| speeds.take(snapshot(fetched), at(milliseconds))[0].bytes_per_second;
        assert_eq!(speed(300, 0), 0, "an interrupted attempt's bytes are no speed");
        assert_eq!(speed(300, 250), 0, "too early to tell");
        assert_eq!(speed(400, 1000), 100);
        assert_eq!(speed(400, 2000), 50);
        assert_eq!(speed(400, 5000), 0, "nothing came for three seconds");
        assert!(speeds.take(Vec::new(), at(6000)).is_empty());
        let pull = &speeds.take(snapshot(10), at(9000))[0];
        assert_eq!((pull.fetched_bytes, pull.total_bytes, pull.bytes_per_second), (110, 1000, 0));
        assert_eq!((pull.layers_done, pull.layers), (1, 3));
    }
}
