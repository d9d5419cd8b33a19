//! Whose layer is fetched next, over all pulls (IMG-142).
//!
//! A pull has a few layers at once, and the machine a few more. Of those that wait, a layer of the pull that has the
//! fewest under way goes first, and of these the smallest: so a small image is not kept waiting by a huge one. Who was
//! passed over often enough goes before all, so that a huge layer comes to its turn too.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// How often a layer lets others go first.
const PASSED_OVER_MAX: u32 = 8;

/// One layer's wish, as far as the order depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wish {
    pull: u64,
    remaining: u64,
    passed_over: u32,
}

/// The next to go: the index of a wish, if any may go.
fn choose(wishes: &[Wish], under_way: &BTreeMap<u64, usize>, at_once: usize) -> Option<usize> {
    let running = |wish: &Wish| under_way.get(&wish.pull).copied().unwrap_or(0);
    let able = wishes.iter().enumerate().filter(|(_, wish)| running(wish) < at_once);
    let order =
        |(index, wish): &(usize, &Wish)| (wish.passed_over < PASSED_OVER_MAX, running(wish), wish.remaining, *index);
    able.min_by_key(order).map(|(index, _)| index)
}

/// The queue of a store.
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    /// Layers of one pull at once.
    of_a_pull: usize,
    /// Layers of all pulls at once.
    of_all: usize,
}

#[derive(Default)]
struct Inner {
    waiting: Vec<(Wish, oneshot::Sender<Turn>)>,
    /// Layers under way by pull.
    under_way: BTreeMap<u64, usize>,
}

impl Inner {
    /// Takes the next one out of the queue and counts it as under way.
    fn next(&mut self, of_a_pull: usize, of_all: usize) -> Option<(u64, oneshot::Sender<Turn>)> {
        // Those who have gone take no turn.
        self.waiting.retain(|(_, waker)| !waker.is_closed());
        if self.under_way.values().sum::<usize>() >= of_all {
            return None;
        }
        let wishes: Vec<Wish> = self.waiting.iter().map(|(wish, _)| *wish).collect();
        let (wish, waker) = self.waiting.remove(choose(&wishes, &self.under_way, of_a_pull)?);
        self.waiting.iter_mut().for_each(|(other, _)| other.passed_over += 1);
        *self.under_way.entry(wish.pull).or_default() += 1;
        Some((wish.pull, waker))
    }
}

impl Queue {
    pub(crate) fn new(of_a_pull: usize, of_all: usize) -> Arc<Queue> {
        Arc::new(Queue { inner: Mutex::default(), of_a_pull: of_a_pull.max(1), of_all: of_all.max(1) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a layer's turn, which lasts until the returned value is dropped.
    pub(crate) async fn turn(self: &Arc<Self>, pull: u64, remaining: u64) -> Turn {
        let (waker, woken) = oneshot::channel();
        self.lock().waiting.push((Wish { pull, remaining, passed_over: 0 }, waker));
        self.dispatch();
        woken.await.expect("a waker leaves the queue only with a turn, or when nobody waits for it")
    }

    fn dispatch(self: &Arc<Self>) {
        loop {
            let next = self.lock().next(self.of_a_pull, self.of_all);
            let Some((pull, waker)) = next else { return };
            // Unlocked: a turn that nobody takes is given back at once.
            drop(waker.send(Turn { queue: self.clone(), pull }));
        }
    }

    fn give_back(self: &Arc<Self>, pull: u64) {
        {
            let mut inner = self.lock();
            let count = inner.under_way.get_mut(&pull).expect("whoever has a turn is counted");
            *count -= 1;
            if *count == 0 {
                inner.under_way.remove(&pull);
            }
        }
        self.dispatch();
    }
}

/// The right to fetch one layer.
pub(crate) struct Turn {
    queue: Arc<Queue>,
    pull: u64,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.queue.give_back(self.pull);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(wishes: &[(u64, u64, u32)], under_way: &[(u64, usize)], expected: Option<usize>) {
        let wishes: Vec<Wish> = wishes
            .iter()
            .map(|(pull, remaining, passed_over)| Wish {
                pull: *pull,
                remaining: *remaining,
                passed_over: *passed_over,
            })
            .collect();
        assert_eq!(choose(&wishes, &under_way.iter().copied().collect(), 3), expected, "{wishes:?} {under_way:?}");
    }

    #[test]
    fn the_pull_with_the_fewest_under_way_goes_first_then_the_smallest_layer() {
        check(&[], &[], None);
        check(&[(1, 500, 0), (1, 20, 0), (1, 300, 0)], &[], Some(1));
        check(&[(1, 20, 0), (2, 900, 0)], &[(1, 1)], Some(1));
        check(&[(1, 20, 0), (2, 900, 0)], &[(1, 1), (2, 1)], Some(0));
        check(&[(1, 20, 0)], &[(1, 3)], None);
        check(&[(1, 20, 0), (2, 20, 0)], &[], Some(0));
        check(&[(1, 20, 0), (2, 900, PASSED_OVER_MAX)], &[(2, 2)], Some(1));
    }

    #[tokio::test]
    async fn turns_are_bounded_and_given_on_even_if_a_waiter_has_gone() {
        let queue = Queue::new(2, 3);
        let one = [queue.turn(1, 10).await, queue.turn(1, 10).await];
        let two = queue.turn(2, 10).await;
        let waiting = |pull, remaining| {
            let queue = queue.clone();
            Box::pin(async move { queue.turn(pull, remaining).await })
        };
        let mut gone = waiting(3, 1);
        let mut patient = waiting(3, 5);
        assert!(futures_util::poll!(&mut gone).is_pending() && futures_util::poll!(&mut patient).is_pending());
        drop(gone);
        drop(one);
        let third = patient.await;
        assert_eq!(queue.lock().under_way, BTreeMap::from([(2, 1), (3, 1)]));
        drop((two, third));
        assert_eq!(queue.lock().under_way, BTreeMap::new());
    }

    #[tokio::test]
    async fn a_huge_layer_comes_to_its_turn_among_ever_new_small_ones() {
        let queue = Queue::new(1, 1);
        let mut now = queue.turn(0, 1).await;
        let mut huge = Box::pin({
            let queue = queue.clone();
            async move { queue.turn(1, 1 << 40).await }
        });
        assert!(futures_util::poll!(&mut huge).is_pending());
        for pull in 2..100 {
            let mut small = Box::pin({
                let queue = queue.clone();
                async move { queue.turn(pull, 1).await }
            });
            assert!(futures_util::poll!(&mut small).is_pending());
            drop(now);
            if futures_util::poll!(&mut huge).is_ready() {
                assert!(pull <= 2 + u64::from(PASSED_OVER_MAX), "{pull}");
                return;
            }
            now = small.await;
        }
        panic!("the huge layer starves");
    }
}
