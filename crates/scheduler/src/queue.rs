//! Pods that wait for a node, in the order of their turns: the highest priority first, then the oldest.
//!
//! Pure, and no step looks at all pods but [`Queue::wake`]. A pod is *ready* when something has changed since it was
//! last tried, and has its turn when its pause is over as well.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use crate::act::Posted;
use crate::view::Pod;

/// A pod without a node.
pub struct Waiting {
    pub pod: Pod,
    /// Its place among pods of the same priority.
    arrival: u64,
    pub attempts: u32,
    /// Whether something has changed since the last attempt.
    pub ready: bool,
    pub not_before: Instant,
    pub posted: Option<Posted>,
    /// What is being told of it.
    pub telling: Option<String>,
}

impl Waiting {
    fn turn(&self) -> (Reverse<i64>, u64) {
        (Reverse(self.pod.priority), self.arrival)
    }
}

/// Those pods by uid, and the ready ones in two orders.
#[derive(Default)]
pub struct Queue {
    pods: BTreeMap<String, Waiting>,
    /// The uids of those that ask something of other pods.
    wishing: BTreeSet<String>,
    /// Ready, while their pauses last: by the end of the pause.
    resting: BTreeSet<(Instant, String)>,
    /// Ready, with their pauses over: by their turns.
    turns: BTreeSet<((Reverse<i64>, u64), String)>,
    arrivals: u64,
}

impl Queue {
    /// A pod that was not here yet; its turn is at once.
    pub fn arrive(&mut self, pod: Pod, now: Instant) {
        self.arrivals += 1;
        let arrival = self.arrivals;
        self.put(Waiting { pod, arrival, attempts: 0, ready: true, not_before: now, posted: None, telling: None });
    }

    /// Takes a pod back, or in.
    pub fn put(&mut self, waiting: Waiting) {
        let uid = waiting.pod.uid.clone();
        if waiting.ready {
            self.resting.insert((waiting.not_before, uid.clone()));
        }
        if waiting.pod.wishes.is_some() {
            self.wishing.insert(uid.clone());
        }
        self.pods.insert(uid, waiting);
    }

    /// Takes a pod out.
    pub fn remove(&mut self, uid: &str) -> Option<Waiting> {
        let waiting = self.pods.remove(uid)?;
        self.wishing.remove(uid);
        if waiting.ready {
            self.resting.remove(&(waiting.not_before, uid.to_owned()));
            self.turns.remove(&(waiting.turn(), uid.to_owned()));
        }
        Some(waiting)
    }

    /// Changes a pod; says whether it is here.
    pub fn change(&mut self, uid: &str, change: impl FnOnce(&mut Waiting)) -> bool {
        let Some(mut waiting) = self.remove(uid) else { return false };
        change(&mut waiting);
        self.put(waiting);
        true
    }

    /// Makes all pods ready.
    pub fn wake(&mut self) {
        for (uid, waiting) in self.pods.iter_mut().filter(|(_, waiting)| !waiting.ready) {
            waiting.ready = true;
            self.resting.insert((waiting.not_before, uid.clone()));
        }
    }

    /// Makes those pods ready that ask something of others.
    pub fn wake_wishing(&mut self) {
        for uid in &self.wishing {
            let Some(waiting) = self.pods.get_mut(uid).filter(|waiting| !waiting.ready) else { continue };
            waiting.ready = true;
            self.resting.insert((waiting.not_before, uid.clone()));
        }
    }

    /// Takes out the pod whose turn it is.
    pub fn next(&mut self, now: Instant) -> Option<Waiting> {
        while self.resting.first().is_some_and(|(until, _)| *until <= now) {
            let Some((_, uid)) = self.resting.pop_first() else { break };
            let Some(waiting) = self.pods.get(&uid) else { continue };
            self.turns.insert((waiting.turn(), uid));
        }
        let (_, uid) = self.turns.first()?.clone();
        self.remove(&uid)
    }

    /// When there will be a turn, if nothing happens before: with an instant in the past there is one.
    pub fn wake_at(&self) -> Option<Instant> {
        let turn = self.turns.first().and_then(|(_, uid)| self.pods.get(uid)).map(|waiting| waiting.not_before);
        turn.or_else(|| self.resting.first().map(|(until, _)| *until))
    }

    /// The uids of all pods.
    pub fn uids(&self) -> impl Iterator<Item = &str> {
        self.pods.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn pod(uid: &str, priority: i64) -> Pod {
        let object = serde_json::json!({"metadata": {"uid": uid, "name": uid}, "spec": {"priority": priority}});
        Pod::from(serde_json::from_value::<crate::view::PodObject>(object).unwrap())
    }

    fn next(queue: &mut Queue, now: Instant) -> Option<String> {
        queue.next(now).map(|waiting| waiting.pod.uid)
    }

    #[tokio::test]
    async fn the_most_important_is_first_and_then_the_oldest() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for (uid, priority) in [("b", 0), ("a", 0), ("urgent", 9), ("gone", 10)] {
            queue.arrive(pod(uid, priority), now);
        }
        assert!(queue.remove("gone").is_some());
        assert!(queue.wake_at() == Some(now));
        assert_eq!(
            [(); 4].map(|()| next(&mut queue, now)),
            [Some("urgent".into()), Some("b".into()), Some("a".into()), None]
        );
        assert_eq!(queue.wake_at(), None);
    }

    #[tokio::test]
    async fn a_pod_rests_until_its_pause_is_over_and_something_has_changed() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let later = now + Duration::from_secs(1);
        queue.arrive(pod("a", 0), now);
        let mut tried = queue.next(now).unwrap();
        (tried.ready, tried.not_before) = (false, later);
        queue.put(tried);
        assert_eq!((queue.wake_at(), next(&mut queue, later)), (None, None));
        queue.wake();
        assert_eq!((queue.wake_at(), next(&mut queue, now)), (Some(later), None));
        assert!(queue.change("a", |waiting| waiting.not_before = now) && !queue.change("b", |_| ()));
        assert_eq!(next(&mut queue, now).as_deref(), Some("a"));
    }
}
