//! What waits in the queue of the executor: nothing wanted is lost, and nothing waits for what it
//! does not depend on.

use std::collections::{BTreeMap, BTreeSet};

use bursar_core::budget::{self, Budget, BudgetState, OnExhausted};
use bursar_core::calendar::{Interval, Period};
use bursar_core::model::JobView;
use bursar_core::money::Money;
use bursar_core::plan::{Decision, EvictionOrder, ServiceOrder};
use bursar_core::training::JobDecision;

use super::*;
use crate::executor::order::ServiceChange;
use crate::executor::{EVICTIONS, Running};
use crate::pod_mark::PodMark;

const LANES: [Lane; 5] = [
    Lane::Latch,
    Lane::Order,
    Lane::Eviction,
    Lane::Owned,
    Lane::Status,
];

fn at(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(1_796_000_000_000 + milliseconds).unwrap()
}

fn service(name: &str) -> ObjectKey {
    ObjectKey::Service(Key::new("team", name))
}

fn order(name: &str, from: u32, to: u32, after_latch: bool) -> Order {
    let order = ServiceOrder {
        service: Key::new("team", name),
        drain: Vec::new(),
        keep: Vec::new(),
        remove: Vec::new(),
        replicas: (from, to),
        reason: String::new(),
        held_since: None,
        after_latch,
    };
    let decision = Decision {
        name: name.to_owned(),
        queue_depth: None,
        signals: Vec::new(),
        recommended: to,
        desired: to,
        allowed: to,
        limited_by: None,
        reason: String::new(),
        unknown: None,
        stalled: None,
        rollout_stuck: None,
        refusal: None,
    };
    Order::Service(Box::new(ServiceChange::new(order, decision)))
}

fn status(number: u64) -> StatusInput {
    let decision = JobDecision {
        name: String::new(),
        run: true,
        limited_by: None,
        reason: number.to_string(),
        position: None,
        restart: None,
        restarts: 0,
        keeps_reservation: false,
        retry: None,
        creation_failure: None,
        waits_for_money: false,
        preempted_for_gpus: false,
        requeue_at: None,
    };
    StatusInput::Job(JobView {
        decision: Some(decision),
        end: None,
        restarts: 0,
        done: vec![],
        has_known_price: true,
    })
}

fn budget_state(latched: bool) -> StatusInput {
    let start = at(0);
    let limit: Money = "5".parse().unwrap();
    let latch = budget::Latch {
        period_start: start,
        limit,
        corrections: Money::ZERO,
        stops_below: None,
    };
    StatusInput::Budget(BudgetState {
        budget: Budget {
            name: "team".to_owned(),
            limit,
            period: Period::Daily,
            on_exhausted: OnExhausted::ScaleToZero,
            unmanaged: Default::default(),
            eviction_reserve: Money::ZERO,
            minimum_useful_run: SignedDuration::ZERO,
            latch: latched.then_some(latch),
            spent: Money::ZERO,
            corrections: Money::ZERO,
            doubt: None,
        },
        period: Interval {
            start,
            end: at(86_400_000),
        },
        reserve: Money::ZERO,
        rate: Money::ZERO,
        phase: budget::Phase::Active,
        exhausted_at: None,
        margin: Money::ZERO,
        announced: false,
        pending: None,
        evictions: None,
    })
}

fn failed(pace: RetryPace, order_done: bool) -> Outcome {
    Outcome::Failed {
        pace,
        message: Some("no".to_owned()),
        order_done,
        is_aside: false,
    }
}

/// The replicas that the next task tells, if it carries out an order.
fn take_target(queue: &mut WorkQueue, now: Timestamp) -> Option<u32> {
    match queue.take(&LANES, now)? {
        Task::Apply(_, Some(Order::Service(change))) => Some(change.order.replicas.1),
        _ => None,
    }
}

#[test]
fn an_order_that_came_while_a_comparison_failed_is_carried_out_at_once() {
    let mut queue = WorkQueue::default();
    queue.compare(service("chat"), at(0));
    let comparison = queue.take(&LANES, at(0)).unwrap();
    queue.order(service("chat"), order("chat", 1, 0, false), at(1));
    queue.finish(&comparison, &failed(RetryPace::FOREIGN, false), at(2));
    assert_eq!(take_target(&mut queue, at(2)), Some(0));
}

#[test]
fn an_order_does_not_wait_for_the_retry_of_what_else_the_service_owns() {
    let mut queue = WorkQueue::default();
    queue.order(service("chat"), order("chat", 0, 1, false), at(0));
    let start = queue.take(&LANES, at(0)).unwrap();
    queue.finish(&start, &failed(RetryPace::FOREIGN, true), at(1));
    assert_eq!(queue.take(&LANES, at(1_000)), None, "the Service waits");
    queue.order(service("chat"), order("chat", 1, 2, false), at(2_000));
    assert_eq!(take_target(&mut queue, at(2_000)), Some(2));
}

#[test]
fn a_failure_that_stands_alone_is_tried_again_later_and_holds_no_comparison_up() {
    for comes_while_running in [false, true] {
        let mut queue = WorkQueue::default();
        queue.compare(service("chat"), at(0));
        let first = queue.take(&LANES, at(0)).unwrap();
        if comes_while_running {
            queue.compare(service("chat"), at(1));
        }
        let aside = Outcome::Failed {
            pace: RetryPace::FOREIGN,
            message: Some("no".to_owned()),
            order_done: true,
            is_aside: true,
        };
        queue.finish(&first, &aside, at(2));
        if !comes_while_running {
            assert_eq!(queue.take(&LANES, at(1_000)), None, "nothing is new");
            queue.compare(service("chat"), at(1_000));
        }
        let second = queue.take(&LANES, at(1_000)).unwrap();
        queue.finish(&second, &aside, at(1_001));
        assert_eq!(queue.take(&LANES, at(2_000)), None);
        let again = queue.take(&LANES, at(130_000));
        assert!(matches!(again, Some(Task::Apply(_, None))), "{again:?}");
    }
}

#[test]
fn an_order_that_was_refused_waits_and_another_one_does_not() {
    let mut queue = WorkQueue::default();
    queue.order(service("chat"), order("chat", 1, 5, false), at(0));
    let growth = queue.take(&LANES, at(0)).unwrap();
    queue.finish(&growth, &failed(RetryPace::REFUSED, false), at(0));
    queue.order(service("chat"), order("chat", 1, 5, false), at(1));
    assert_eq!(queue.take(&LANES, at(20_000)), None, "it would be refused");
    queue.order(service("chat"), order("chat", 1, 0, true), at(20_000));
    assert_eq!(take_target(&mut queue, at(20_000)), Some(0));
}

#[test]
fn a_record_lets_the_newest_order_go_whenever_it_comes() {
    for comes_while_running in [false, true] {
        let mut queue = WorkQueue::default();
        queue.order(service("chat"), order("chat", 0, 1, false), at(0));
        let start = queue.take(&LANES, at(0)).unwrap();
        if comes_while_running {
            queue.record_changed(&service("chat"), at(1));
        }
        queue.finish(&start, &Outcome::Waits(at(10_000)), at(2));
        if !comes_while_running {
            queue.order(service("chat"), order("chat", 1, 3, false), at(100));
            assert_eq!(queue.take(&LANES, at(150)), None, "no record yet");
            queue.record_changed(&service("chat"), at(200));
        }
        let target = take_target(&mut queue, at(200));
        assert_eq!(target, Some(if comes_while_running { 1 } else { 3 }));
    }
}

#[test]
fn a_stop_does_not_wait_for_the_record_that_a_start_waited_for() {
    let mut queue = WorkQueue::default();
    queue.order(service("chat"), order("chat", 0, 1, false), at(0));
    let start = queue.take(&LANES, at(0)).unwrap();
    queue.finish(&start, &Outcome::Waits(at(10_000)), at(2));
    queue.order(service("chat"), order("chat", 1, 0, false), at(100));
    assert_eq!(take_target(&mut queue, at(100)), Some(0));
}

#[test]
fn a_stop_waits_for_its_latch_ten_seconds_at_most_whatever_the_clock_does() {
    let latched = || {
        let mut queue = WorkQueue::default();
        queue.latch(&Key::new("team", "budget"), at(0));
        queue.order(service("chat"), order("chat", 2, 0, true), at(0));
        assert_eq!(queue.take(&LANES, at(0)), None);
        queue
    };
    let mut queue = latched();
    assert_eq!(queue.take(&LANES, at(9_999)), None);
    assert_eq!(take_target(&mut queue, at(10_000)), Some(0));
    // set back by an hour
    let mut queue = latched();
    assert_eq!(take_target(&mut queue, at(-3_600_000)), Some(0));
    // on record
    let mut queue = latched();
    let budget = ObjectKey::Budget(Key::new("team", "budget"));
    queue.status(budget, budget_state(true), at(1));
    let write = queue.take(&LANES, at(1)).unwrap();
    queue.finish(&write, &Outcome::Done(None), at(2));
    assert_eq!(take_target(&mut queue, at(2)), Some(0));
}

#[test]
fn a_status_is_looked_at_again_if_something_changed_while_it_was_written() {
    let mut queue = WorkQueue::default();
    queue.status(service("chat"), status(1), at(0));
    let write = queue.take(&LANES, at(0)).unwrap();
    // a pod became ready, which the decision does not tell
    queue.status(service("chat"), status(1), at(1));
    queue.finish(&write, &Outcome::Done(None), at(2));
    assert_eq!(queue.take(&LANES, at(2)), Some(write));
}

#[test]
fn what_a_budget_stops_waits_for_the_latch_though_a_later_order_needs_none() {
    let drain = |mark: PodMark, after_latch| {
        let Order::Service(mut change) = order("chat", 3, 3, after_latch) else {
            panic!("an order for a service");
        };
        change.pods.insert("uid".into(), mark);
        Order::Service(change)
    };
    for (later, waits) in [
        (order("chat", 3, 3, false), true),
        (drain(PodMark::Keep, false), false),
    ] {
        let mut queue = WorkQueue::default();
        queue.latch(&Key::new("team", "budget"), at(0));
        queue.order(service("chat"), drain(PodMark::Drain, true), at(0));
        queue.order(service("chat"), later, at(1));
        assert_eq!(queue.take(&LANES, at(1)).is_none(), waits);
    }
}

fn evict(queue: &mut WorkQueue, name: &str, uid: &str, now: Timestamp) {
    let order = EvictionOrder {
        pod: Key::new("team", name),
        uid: uid.into(),
        evict: true,
        budget: "team".into(),
    };
    let subject = ObjectKey::Pod(order.pod.clone());
    queue.order(subject, Order::Eviction(order), now);
}

#[test]
fn an_order_for_a_service_passes_a_thousand_evictions_of_which_few_run_at_a_time() {
    let mut queue = WorkQueue::default();
    for number in 0..1_000 {
        let name = format!("notebook-{number}");
        evict(&mut queue, &name, &name, at(0));
    }
    let mut running = Running::default();
    while let Some(task) = queue.take(&running.lanes(false), at(1)) {
        running
            .of(&task)
            .into_iter()
            .for_each(|number| *number += 1);
    }
    assert_eq!((running.evictions, running.applies), (EVICTIONS, EVICTIONS));
    queue.order(service("chat"), order("chat", 1, 0, false), at(2));
    assert!(queue.has_due_order(at(2)));
    assert_eq!(take_target(&mut queue, at(2)), Some(0));
    assert!(!queue.has_due_order(at(2)), "statuses wait for no eviction");
}

#[test]
fn an_eviction_waits_for_the_latch_of_its_budget_and_goes_once_it_is_on_record() {
    let mut queue = WorkQueue::default();
    queue.latch(&Key::new("team", "budget"), at(0));
    evict(&mut queue, "notebook", "uid", at(0));
    assert_eq!(queue.take(&LANES, at(0)), None);
    let budget = ObjectKey::Budget(Key::new("team", "budget"));
    queue.status(budget, budget_state(true), at(1));
    let write = queue.take(&LANES, at(1)).unwrap();
    queue.finish(&write, &Outcome::Done(None), at(2));
    assert!(queue.take(&LANES, at(2)).is_some());
}

#[test]
fn a_pod_of_the_same_name_does_not_wait_as_its_predecessor_did() {
    let mut queue = WorkQueue::default();
    for second in 0..4 {
        evict(&mut queue, "notebook-0", "first", at(second * 100_000));
        let task = queue.take(&LANES, at(second * 100_000)).unwrap();
        let refused = failed(RetryPace::OVERLOADED, false);
        queue.finish(&task, &refused, at(second * 100_000));
    }
    evict(&mut queue, "notebook-0", "first", at(300_001));
    assert_eq!(queue.take(&LANES, at(300_002)), None);
    evict(&mut queue, "notebook-0", "second", at(300_002));
    let task = queue.take(&LANES, at(300_002)).unwrap();
    let refused = failed(RetryPace::OVERLOADED, false);
    queue.finish(&task, &refused, at(300_002));
    evict(&mut queue, "notebook-0", "second", at(300_003));
    let due = queue.next_due().unwrap();
    assert!(due < at(302_000), "it waits until {due}");
}

/// Numbers that look random: SplitMix64.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (value ^ (value >> 31)) % most
    }
}

/// A queue, and what was wanted of it and is not done.
struct Stage {
    queue: WorkQueue,
    numbers: Numbers,
    now: i64,
    running: Vec<Task>,
    orders: BTreeMap<ObjectKey, u32>,
    statuses: BTreeMap<ObjectKey, StatusInput>,
    compares: BTreeSet<ObjectKey>,
}

impl Stage {
    fn new(seed: u64) -> Self {
        Self {
            queue: WorkQueue::default(),
            numbers: Numbers(seed),
            now: 0,
            running: Vec::new(),
            orders: BTreeMap::new(),
            statuses: BTreeMap::new(),
            compares: BTreeSet::new(),
        }
    }

    fn want_order(&mut self, subject: &ObjectKey, to: u32) {
        let from = u32::try_from(self.numbers.below(3)).unwrap();
        let after_latch = to == 0 && self.numbers.below(2) == 0;
        let order = order(&subject.key().name, from, to, after_latch);
        self.orders.insert(subject.clone(), to);
        self.queue.order(subject.clone(), order, at(self.now));
    }

    fn want_something(&mut self) {
        let name = ["a", "b", "c"][usize::try_from(self.numbers.below(3)).unwrap()];
        let (subject, now) = (service(name), at(self.now));
        match self.numbers.below(8) {
            0 | 1 => {
                let to = u32::try_from(self.numbers.below(4)).unwrap();
                self.want_order(&subject, to);
            }
            2 => {
                self.compares.insert(subject.clone());
                self.queue.compare(subject, now);
            }
            3 | 4 => {
                let input = status(self.numbers.below(1_000));
                self.statuses.insert(subject.clone(), input.clone());
                self.queue.status(subject, input, now);
            }
            5 => {
                let key = Key::new("team", "budget");
                let budget = ObjectKey::Budget(key.clone());
                let input = budget_state(self.numbers.below(2) == 0);
                if self.numbers.below(2) == 0 {
                    self.queue.latch(&key, now);
                }
                self.statuses.insert(budget.clone(), input.clone());
                self.queue.status(budget, input, now);
            }
            6 => self.queue.record_changed(&subject, now),
            _ => self.queue.retry(&subject, now),
        }
    }

    /// Takes everything that is due: each object has one task of each kind at a time.
    fn take_all(&mut self) {
        while let Some(task) = self.queue.take(&LANES, at(self.now)) {
            let same = |other: &Task| {
                let kind = |task: &Task| matches!(task, Task::Apply(..));
                other.subject() == task.subject() && kind(other) == kind(&task)
            };
            assert!(!self.running.iter().any(same), "two at a time");
            if let Task::Apply(subject, _) = &task {
                self.compares.remove(subject);
            }
            self.running.push(task);
        }
        let due = self.queue.next_due();
        assert!(due.is_none_or(|due| due > at(self.now)), "it is forgotten");
    }

    fn finish(&mut self, task: Task, outcome: Outcome) {
        self.queue.finish(&task, &outcome, at(self.now));
        let done = match outcome {
            Outcome::Done(_) => true,
            Outcome::Failed { order_done, .. } => order_done,
            Outcome::Waits(_) => false,
        };
        let is_failed = matches!(outcome, Outcome::Failed { .. });
        match task {
            Task::Apply(subject, order) => {
                if !matches!(outcome, Outcome::Done(_)) {
                    self.compares.insert(subject.clone());
                }
                let Some(Order::Service(change)) = order else {
                    return;
                };
                let target = change.order.replicas.1;
                if done && self.orders.get(&subject) == Some(&target) {
                    self.orders.remove(&subject);
                } else if is_failed
                    && !done
                    && let Some(newest) = self.orders.get(&subject).copied()
                {
                    // it is decided anew
                    self.want_order(&subject, newest);
                }
            }
            Task::Status(subject, input) => {
                if done && !is_failed && self.statuses.get(&subject) == Some(&input) {
                    self.statuses.remove(&subject);
                }
            }
        }
    }

    fn outcome(&mut self) -> Outcome {
        let paces = [
            RetryPace::STALE,
            RetryPace::OVERLOADED,
            RetryPace::REFUSED,
            RetryPace::FOREIGN,
        ];
        let pace = paces[usize::try_from(self.numbers.below(4)).unwrap()];
        match self.numbers.below(4) {
            0 => failed(pace, self.numbers.below(2) == 0),
            1 => Outcome::Waits(at(self.now + 10_000)),
            _ => Outcome::Done(None),
        }
    }

    fn finish_one(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let count = u64::try_from(self.running.len()).unwrap();
        let index = usize::try_from(self.numbers.below(count)).unwrap();
        let task = self.running.swap_remove(index);
        let outcome = match (&task, self.outcome()) {
            (Task::Apply(_, None), Outcome::Waits(_)) => Outcome::Done(None),
            (_, outcome) => outcome,
        };
        self.finish(task, outcome);
    }

    fn settle(&mut self) {
        for _ in 0..10 {
            self.take_all();
            for task in std::mem::take(&mut self.running) {
                self.finish(task, Outcome::Done(None));
            }
            self.now += 15 * 60 * 1_000;
        }
    }
}

#[test]
fn nothing_wanted_is_lost_and_nothing_is_left_in_the_end() {
    for seed in 0..3_000 {
        let mut stage = Stage::new(seed);
        for _ in 0..60 {
            match stage.numbers.below(10) {
                0..=3 => stage.want_something(),
                4..=5 => stage.take_all(),
                6..=7 => stage.finish_one(),
                8 => stage.now += i64::try_from(stage.numbers.below(20_000)).unwrap(),
                // the clock is set
                _ => stage.now -= i64::try_from(stage.numbers.below(4_000_000) / 8).unwrap(),
            }
        }
        stage.settle();
        assert_eq!(stage.orders, BTreeMap::new(), "orders of seed {seed}");
        assert_eq!(stage.statuses, BTreeMap::new(), "statuses of seed {seed}");
        assert_eq!(stage.compares, BTreeSet::new(), "compares of seed {seed}");
        assert!(stage.queue.entries.is_empty(), "seed {seed}");
        let mut lanes = stage.queue.lanes.values();
        assert!(lanes.all(BTreeSet::is_empty), "seed {seed}");
    }
}
