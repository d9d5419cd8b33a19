//! A node on virtual time: pods end when their grace is over or before, announcements come and go.

use super::*;
use crate::shutdown::policy::{Given, Group};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A pod of the node.
#[derive(Debug, Clone)]
struct FakePod {
    priority: i32,
    grace_seconds: i64,
    /// How long it needs once it is asked; `None` for one that never ends.
    needs_seconds: Option<i64>,
    /// When it was asked, and the grace that it got.
    asked: Option<(i64, i64)>,
    is_told: bool,
}

fn fake_pod(priority: i32, grace_seconds: i64, needs_seconds: Option<i64>) -> FakePod {
    FakePod { priority, grace_seconds, needs_seconds, asked: None, is_told: true }
}

struct Node {
    policy: Policy,
    machine: Machine,
    pods: BTreeMap<&'static str, FakePod>,
    is_complete: bool,
    seconds: i64,
    wake_at: Option<Timestamp>,
}

impl Node {
    fn new(groups: &[(i32, i64)], pods: &[(&'static str, FakePod)]) -> Node {
        let by_priority = groups.iter().map(|(priority, seconds)| Group { priority: *priority, seconds: *seconds });
        let policy = Policy::parse(&Given { by_priority: by_priority.collect(), ..Given::default() }).unwrap();
        let pods = pods.iter().cloned().collect();
        Node { policy, machine: Machine::default(), pods, is_complete: true, seconds: 0, wake_at: None }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + self.seconds).unwrap()
    }

    fn end(&self, pod: &FakePod) -> End {
        let over = pod.asked.zip(pod.needs_seconds).is_some_and(|((at, _), needs)| self.seconds >= at + needs);
        match (over, pod.is_told) {
            (false, _) => End::Not,
            (true, false) => End::Ended,
            (true, true) => End::Told,
        }
    }

    fn view(&self) -> View {
        let pods = self.pods.iter().map(|(uid, pod)| PodView {
            uid: (*uid).to_owned(),
            priority: pod.priority,
            grace_seconds: pod.grace_seconds,
            is_asked: pod.asked.is_some(),
            end: self.end(pod),
        });
        View { pods: pods.collect(), is_complete: self.is_complete }
    }

    fn hear(&mut self, news: News) {
        self.machine = self.machine.hear(news, &self.policy, self.now());
        self.look();
    }

    fn look(&mut self) {
        let (machine, plan) = self.machine.step(&self.policy, &self.view(), self.now());
        self.machine = machine;
        self.wake_at = plan.wake_at;
        for ending in plan.end {
            let pod = self.pods.get_mut(ending.uid.as_str()).unwrap();
            assert_eq!(pod.asked, None, "nobody is asked twice");
            pod.asked = Some((self.seconds, ending.grace_seconds));
        }
    }

    /// Lets time pass until the lock is released; how long that took.
    fn over_after(&mut self) -> i64 {
        let began = self.seconds;
        while self.machine.stage() != Stage::Over {
            assert!(self.seconds - began < 10_000, "it never ends: {:?}", self.machine);
            self.seconds += 1;
            self.look();
        }
        self.seconds - began
    }

    /// When each pod was asked, and the grace that it got.
    fn asked(&self) -> Vec<(&'static str, Option<(i64, i64)>)> {
        self.pods.iter().map(|(uid, pod)| (*uid, pod.asked)).collect()
    }
}

const CRITICAL: i32 = 2_000_000_000;

#[test]
fn hook_97_the_lowest_group_ends_first_and_each_pod_has_the_lesser_of_two_graces() {
    let mut node = Node::new(
        &[(0, 20), (CRITICAL, 10)],
        &[
            ("a", fake_pod(0, 5, Some(3))),
            ("b", fake_pod(1000, 60, Some(12))),
            ("c", fake_pod(CRITICAL, 30, Some(4))),
            ("d", fake_pod(CRITICAL + 1000, 7, Some(6))),
            ("e", fake_pod(-10, 20, Some(1))),
        ],
    );
    node.hear(News::Announced);
    assert!(node.machine.refuses_pods() && node.machine.holds_lock());
    let took = node.over_after();
    assert_eq!(
        node.asked(),
        [("a", Some((0, 5))), ("b", Some((0, 20))), ("c", Some((12, 10))), ("d", Some((12, 7))), ("e", Some((0, 20)))],
        "the second group begins when the first has ended, not before"
    );
    assert_eq!(took, 18);
    assert!(node.machine.refuses_pods() && !node.machine.holds_lock());
}

#[test]
fn tr_16_a_group_whose_time_is_out_is_waited_for_no_longer() {
    let pods = [("stuck", fake_pod(0, 600, None)), ("critical", fake_pod(CRITICAL, 600, None))];
    let mut node = Node::new(&[(0, 20), (CRITICAL, 10)], &pods);
    node.hear(News::Announced);
    assert_eq!(node.over_after(), 30);
    assert_eq!(node.asked(), [("critical", Some((20, 10))), ("stuck", Some((0, 20)))]);
}

#[test]
fn a_group_without_pods_takes_no_time_and_one_without_time_is_asked_all_the_same() {
    let pods = [("low", fake_pod(0, 30, Some(3))), ("high", fake_pod(2000, 30, Some(3)))];
    let mut node = Node::new(&[(0, 0), (1000, 600), (2000, 5), (3000, 600)], &pods);
    node.hear(News::Announced);
    assert_eq!(node.asked(), [("high", Some((0, 5))), ("low", Some((0, 0)))]);
    assert_eq!(node.over_after(), 3);
    let mut empty = Node::new(&[(0, 600)], &[]);
    empty.hear(News::Announced);
    assert_eq!(empty.machine.stage(), Stage::Over, "a node without pods holds nobody up");
}

#[test]
fn the_api_is_told_before_the_lock_is_released_but_not_waited_for_for_long() {
    let mut node = Node::new(&[(0, 20)], &[("a", FakePod { is_told: false, ..fake_pod(0, 5, Some(3)) })]);
    node.hear(News::Announced);
    node.seconds = 3;
    node.look();
    assert_eq!(node.machine.stage(), Stage::Telling { until: node.now() + TELL_MAX });
    assert_eq!(node.over_after(), 2);
    let mut node = Node::new(&[(0, 20)], &[("a", FakePod { is_told: false, ..fake_pod(0, 5, Some(3)) })]);
    node.hear(News::Announced);
    node.seconds = 4;
    node.look();
    node.pods.get_mut("a").unwrap().is_told = true;
    node.look();
    assert_eq!(node.machine.stage(), Stage::Over, "it knows");
}

#[test]
fn a_cancelled_shutdown_lets_those_be_whose_turn_had_not_come() {
    let pods = [("low", fake_pod(0, 30, Some(9))), ("high", fake_pod(CRITICAL, 30, Some(1)))];
    let mut node = Node::new(&[(0, 20), (CRITICAL, 10)], &pods);
    node.hear(News::Announced);
    node.seconds = 5;
    node.hear(News::Cancelled);
    assert_eq!((node.machine, node.wake_at), (Machine::default(), None));
    node.seconds = 60;
    node.look();
    assert_eq!(node.asked(), [("high", None), ("low", Some((0, 20)))]);
    // Announced once more, only the others are left.
    node.hear(News::Announced);
    assert_eq!(node.asked(), [("high", Some((60, 10))), ("low", Some((0, 20)))]);
    assert_eq!(node.over_after(), 1);
    node.hear(News::Cancelled);
    assert!(node.machine.holds_lock() && !node.machine.refuses_pods(), "the lock is taken again");
}

#[test]
fn an_agent_that_comes_back_goes_on_with_what_is_left_and_waits_until_it_knows_all_pods() {
    let mut asked_before = fake_pod(0, 30, Some(9));
    asked_before.asked = Some((-4, 20));
    let mut node = Node::new(&[(0, 20), (CRITICAL, 10)], &[("asked", asked_before)]);
    node.is_complete = false;
    node.hear(News::Announced);
    node.seconds = 6;
    node.pods.insert("late", fake_pod(0, 30, Some(2)));
    node.look();
    assert_eq!(node.asked(), [("asked", Some((-4, 20))), ("late", Some((6, 14)))], "in what is left of the time");
    node.seconds = 8;
    node.look();
    assert!(matches!(node.machine.stage(), Stage::Ending { group: 0, .. }), "there may be others");
    node.is_complete = true;
    node.look();
    assert_eq!(node.machine.stage(), Stage::Over);
}

#[test]
fn an_announcement_that_nobody_can_cancel_any_more_does_not_hold_for_ever() {
    let mut node = Node::new(&[(0, 20)], &[("a", fake_pod(0, 5, Some(3)))]);
    node.hear(News::Announced);
    node.hear(News::Unheard);
    node.over_after();
    assert_eq!(node.wake_at, Some(Timestamp::from_second(1_800_000_000).unwrap() + UNSURE_MAX));
    node.seconds = 299;
    node.hear(News::Unheard);
    assert!(node.machine.refuses_pods());
    node.seconds = 300;
    node.look();
    assert!(!node.machine.refuses_pods() && node.machine.holds_lock());
    // Heard of again, it holds.
    node.hear(News::Announced);
    assert!(node.machine.refuses_pods());
}

#[test]
fn nothing_begins_where_shutdowns_are_not_waited_for() {
    let mut node = Node::new(&[], &[("a", fake_pod(0, 5, Some(3)))]);
    node.hear(News::Announced);
    assert_eq!((node.machine, node.asked()), (Machine::default(), vec![("a", None)]));
}

#[derive(Debug, Clone)]
enum Happening {
    Hear(News),
    Crash,
    Pass(i64),
    Come(i32, i64, Option<i64>),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => prop_oneof![Just(News::Announced), Just(News::Cancelled), Just(News::Unheard)].prop_map(Happening::Hear),
        1 => Just(Happening::Crash),
        4 => (0_i64..15).prop_map(Happening::Pass),
        2 => (-5_i32..30, 0_i64..20, proptest::option::of(0_i64..25)).prop_map(|(p, g, n)| Happening::Come(p, g, n)),
    ]
}

const NAMES: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];

proptest! {
    #[test]
    fn hook_97_no_order_of_announcements_crashes_and_ends_leaves_the_node_refusing_pods(
        seconds in proptest::collection::vec(0_i64..20, 1..4),
        happenings in proptest::collection::vec(happening(), 0..30),
        is_announced_last: bool,
    ) {
        let groups: Vec<(i32, i64)> = (0..).step_by(10).zip(seconds.iter().copied()).collect();
        let mut node = Node::new(&groups, &[]);
        let total = node.policy.total().as_secs();
        let mut announced = false;
        for happening in happenings {
            match happening {
                Happening::Hear(news) => {
                    announced = (announced && news != News::Cancelled) || news == News::Announced;
                    node.hear(news);
                }
                // The next agent asks what is announced; what it had asked of pods is on disk.
                Happening::Crash => {
                    node.machine = Machine::default();
                    node.hear(if announced { News::Announced } else { News::Cancelled });
                }
                Happening::Pass(seconds) => {
                    for _ in 0..seconds {
                        node.seconds += 1;
                        node.look();
                    }
                }
                Happening::Come(priority, grace, needs) => {
                    // Admission keeps pods out meanwhile.
                    if let Some(name) = NAMES.get(node.pods.len()).filter(|_| !node.machine.refuses_pods()) {
                        node.pods.insert(name, fake_pod(priority, grace, needs));
                    }
                    node.look();
                }
            }
            prop_assert!(!node.machine.refuses_pods() || announced, "only an announcement keeps pods out");
            if let Stage::Ending { group, .. } = node.machine.stage() {
                for pod in node.pods.values().filter(|pod| node.policy.group_of(pod.priority) <= group) {
                    prop_assert!(pod.asked.is_some(), "whose turn has come is asked: {pod:?}");
                }
            }
            for pod in node.pods.values().filter_map(|pod| Some((pod, pod.asked?))) {
                let (pod, (_, grace)) = pod;
                let group = node.policy.groups()[node.policy.group_of(pod.priority)];
                prop_assert!(grace <= pod.grace_seconds && grace <= group.seconds);
            }
        }
        if is_announced_last {
            node.hear(News::Announced);
            prop_assert!(node.over_after() <= total + TELL_MAX.as_secs(), "the machine waits no longer than is set");
        }
        node.hear(News::Cancelled);
        prop_assert_eq!(node.machine, Machine::default());
    }
}
