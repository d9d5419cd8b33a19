//! Whose pull is next: so many at a time, so many a second, pods in fair turns (IMG-250 … IMG-256).
//!
//! [`Line`] is the pure core, [`Queue`] the shell around it. A slot that becomes free goes to the pod with the fewest
//! pulls under way, then to the longest wait, so that a pod with ten images does not hold up nine others. Whoever drops
//! his wait or his [`Turn`] leaves at once (IMG-254); waiting for a token never fails (IMG-256). Start at [`Queue::turn`].

use crate::pod::clock::Clock;
use jiff::{SignedDuration, Timestamp};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{oneshot, watch};

/// What a node allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// At most so many pulls at a time.
    pub parallel_max: usize,
    /// At most so many begun a second on average; 0 for no limit.
    pub per_second: u32,
    /// So many may begin at once.
    pub burst: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { parallel_max: 5, per_second: 5, burst: 10 }
    }
}

/// The waiting and the running pulls.
#[derive(Debug)]
pub struct Line {
    limits: Limits,
    /// In the order of arrival: number and pod.
    waiting: Vec<(u64, String)>,
    running: BTreeMap<u64, String>,
    last: u64,
    /// When the bucket of tokens is full again.
    full_at: Option<Timestamp>,
}

impl Line {
    /// An empty line.
    pub fn new(limits: Limits) -> Self {
        Self { limits, waiting: Vec::new(), running: BTreeMap::new(), last: 0, full_at: None }
    }

    /// Joins at the end; the number of the place.
    pub fn join(&mut self, pod: &str) -> u64 {
        self.last += 1;
        self.waiting.push((self.last, pod.to_owned()));
        self.last
    }

    /// Leaves, waiting or running.
    pub fn leave(&mut self, number: u64) {
        self.waiting.retain(|(waiting, _)| *waiting != number);
        self.running.remove(&number);
    }

    /// Lets in who may begin now.
    pub fn admit(&mut self, now: Timestamp) -> Vec<u64> {
        let mut admitted = Vec::new();
        while self.has_room() && self.token_at(now) <= now {
            let Some(index) = self.next() else { break };
            let (number, pod) = self.waiting.remove(index);
            self.running.insert(number, pod);
            if let Some(interval) = self.interval() {
                self.full_at = Some(self.full_at.map_or(now, |at| at.max(now)) + interval);
            }
            admitted.push(number);
        }
        admitted
    }

    /// When somebody may begin although nobody leaves before.
    pub fn next_at(&self, now: Timestamp) -> Option<Timestamp> {
        (!self.waiting.is_empty() && self.has_room()).then(|| self.token_at(now))
    }

    fn has_room(&self) -> bool {
        self.running.len() < self.limits.parallel_max.max(1)
    }

    fn next(&self) -> Option<usize> {
        let under_way = |pod: &str| self.running.values().filter(|running| *running == pod).count();
        let places = self.waiting.iter().enumerate();
        places.min_by_key(|(_, (number, pod))| (under_way(pod), *number)).map(|(index, _)| index)
    }

    fn interval(&self) -> Option<SignedDuration> {
        (self.limits.per_second > 0)
            .then(|| SignedDuration::from_secs(1) / i32::try_from(self.limits.per_second).unwrap_or(i32::MAX))
    }

    /// When there is a token.
    fn token_at(&self, now: Timestamp) -> Timestamp {
        match (self.interval(), self.full_at) {
            (Some(interval), Some(full_at)) => {
                let others = i32::try_from(self.limits.burst.max(1) - 1).unwrap_or(i32::MAX);
                let credit = interval.checked_mul(others).unwrap_or(SignedDuration::MAX);
                full_at.checked_sub(credit).unwrap_or(Timestamp::MIN)
            }
            _ => now,
        }
    }
}

/// The queue of a node's pulls. Clones are one queue.
#[derive(Debug, Clone)]
pub struct Queue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// Grows when somebody joined or left.
    changed: watch::Sender<u64>,
    clock: Clock,
}

#[derive(Debug)]
struct Inner {
    line: Line,
    grants: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A turn: as long as it lives its pull counts as running.
#[derive(Debug)]
pub struct Turn {
    shared: Arc<Shared>,
    number: u64,
}

impl Queue {
    /// An empty queue.
    pub fn new(limits: Limits, clock: Clock) -> Self {
        let inner = Mutex::new(Inner { line: Line::new(limits), grants: BTreeMap::new() });
        Self { shared: Arc::new(Shared { inner, changed: watch::Sender::new(0), clock }) }
    }

    /// Waits for a turn of this pod.
    pub async fn turn(&self, pod: &str) -> Turn {
        let mut changed = self.shared.changed.subscribe();
        let (grant, mut granted) = oneshot::channel();
        let turn = {
            let mut inner = self.shared.lock();
            let number = inner.line.join(pod);
            inner.grants.insert(number, grant);
            Turn { shared: self.shared.clone(), number }
        };
        loop {
            let pause = self.shared.advance();
            tokio::select! {
                biased;
                // The sender goes only with a grant or with this very turn.
                _ = &mut granted => return turn,
                _ = changed.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets in who may; how long until somebody else may although nobody leaves.
    fn advance(&self) -> Duration {
        let now = self.clock.now();
        let mut inner = self.lock();
        for number in inner.line.admit(now) {
            if let Some(grant) = inner.grants.remove(&number) {
                let _ = grant.send(());
            }
        }
        let next_at = inner.line.next_at(now);
        next_at.map_or(Duration::from_secs(3600), |at| at.duration_since(now).try_into().unwrap_or(Duration::ZERO))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        inner.line.leave(self.number);
        inner.grants.remove(&self.number);
        drop(inner);
        self.shared.changed.send_modify(|version| *version += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::task::JoinSet;

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(1_000_000_000 + milliseconds).unwrap()
    }

    fn unlimited(parallel_max: usize) -> Limits {
        Limits { parallel_max, per_second: 0, burst: 0 }
    }

    #[test]
    fn one_at_a_time_is_first_come_first_served() {
        let mut line = Line::new(unlimited(1));
        let numbers: Vec<u64> = (0..12).map(|pod| line.join(&format!("p{pod}"))).collect();
        let mut order = Vec::new();
        while let [number] = line.admit(at(0))[..] {
            assert!(line.admit(at(0)).is_empty(), "never two");
            order.push(number);
            line.leave(number);
        }
        assert_eq!(order, numbers);
    }

    #[test]
    fn a_pod_with_many_images_does_not_hold_up_others() {
        let mut line = Line::new(unlimited(2));
        let many: Vec<u64> = (0..4).map(|_| line.join("many")).collect();
        let other = line.join("other");
        assert_eq!(line.admit(at(0)), [many[0], other]);
        line.leave(other);
        assert_eq!(line.admit(at(0)), [many[1]]);
    }

    #[test]
    fn tokens_come_back_with_time() {
        let mut line = Line::new(Limits { parallel_max: 100, per_second: 5, burst: 3 });
        (0..5).for_each(|_| _ = line.join("p"));
        assert_eq!(line.admit(at(0)).len(), 3);
        assert_eq!(line.next_at(at(0)), Some(at(200)));
        assert_eq!(line.admit(at(199)).len(), 0);
        assert_eq!(line.admit(at(200)).len(), 1);
        assert_eq!(line.admit(at(400)).len(), 1);
        assert_eq!(line.next_at(at(400)), None, "nobody waits");
        (0..9).for_each(|_| _ = line.join("p"));
        assert_eq!(line.admit(at(60_000)).len(), 3, "no more than the burst is saved up");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_a_token_ends_in_time_and_never_fails() {
        let clock = Clock::virtual_from(at(0));
        let queue = Queue::new(Limits { parallel_max: 100, per_second: 1, burst: 1 }, clock);
        let mut pulls = JoinSet::new();
        for pod in 0..4 {
            let queue = queue.clone();
            pulls.spawn(async move {
                drop(queue.turn(&format!("p{pod}")).await);
                clock.now().duration_since(at(0)).as_secs()
            });
        }
        let mut began = pulls.join_all().await;
        began.sort_unstable();
        assert_eq!(began, [0, 1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_while_waiting_leaves_the_line() {
        let queue = Queue::new(unlimited(1), Clock::virtual_from(at(0)));
        let first = queue.turn("a").await;
        let mut waits = JoinSet::new();
        let (inner, mut order) = (queue.clone(), tokio::sync::mpsc::unbounded_channel());
        for pod in ["b", "c"] {
            let (queue, began) = (inner.clone(), order.0.clone());
            waits.spawn(async move {
                let turn = queue.turn(pod).await;
                began.send(pod).unwrap();
                turn
            });
            tokio::task::yield_now().await;
        }
        let deleted = queue.shared.lock().line.waiting[0].clone();
        assert_eq!(deleted.1, "b");
        // b's pod is deleted: its task is dropped.
        waits.abort_all();
        while waits.join_next().await.is_some() {}
        assert!(queue.shared.lock().line.waiting.is_empty());
        assert!(queue.shared.lock().grants.is_empty());
        drop(first);
        drop(tokio::time::timeout(Duration::from_secs(1), queue.turn("d")).await.unwrap());
        assert!(order.1.try_recv().is_err(), "nobody who left had a turn");
    }

    proptest! {
        #[test]
        fn there_are_never_too_many_and_everybody_gets_a_turn(
            parallel_max in 1..6_usize,
            per_second in 0..4_u32,
            burst in 0..4_u32,
            steps in proptest::collection::vec((0..3_u8, 0..4_u8, 0..700_i64), 1..120),
        ) {
            let mut line = Line::new(Limits { parallel_max, per_second, burst });
            let (mut now, mut running, mut waiting) = (0, Vec::new(), Vec::new());
            let mut began: Vec<i64> = Vec::new();
            for (what, pod, pause) in steps {
                match what {
                    0 => waiting.push(line.join(&format!("p{pod}"))),
                    1 if !running.is_empty() => line.leave(running.remove(usize::from(pod) % running.len())),
                    2 if !waiting.is_empty() && pod == 0 => line.leave(waiting.remove(0)),
                    _ => now += pause,
                }
                for number in line.admit(at(now)) {
                    prop_assert!(waiting.contains(&number), "who left or runs is let in");
                    waiting.retain(|w| *w != number);
                    running.push(number);
                    began.push(now);
                }
                prop_assert!(running.len() <= parallel_max);
                if per_second > 0 {
                    let last_second = began.iter().filter(|b| **b > now - 1000).count();
                    prop_assert!(last_second <= usize::try_from(per_second + burst.max(1)).unwrap());
                }
            }
            for _ in 0..1000 {
                running.drain(..).for_each(|number| line.leave(number));
                let Some(next) = line.next_at(at(now)) else { break };
                now = now.max(next.duration_since(at(0)).as_millis() as i64 + 1);
                running = line.admit(at(now));
                prop_assert!(!running.is_empty(), "the line stands still");
                waiting.retain(|w| !running.contains(w));
            }
            prop_assert!(waiting.is_empty());
        }
    }
}
