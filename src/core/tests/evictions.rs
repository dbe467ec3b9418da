//! Pods of no workload, where a budget that has no money for anything evicts them.

#![allow(clippy::unwrap_used)] // a test fails by ending

mod common;
#[path = "common/pods.rs"]
mod pods;

use std::collections::BTreeSet;
use std::sync::Arc;

use bursar_core::budget::{
    BudgetRecord, BudgetState, EVICTION_NOTICE, Latch, OnExhausted, Unmanaged,
};
use bursar_core::calendar::Period;
use bursar_core::ledger::LinearSpend;
use bursar_core::model::event::{Budget, Event, Owner, Pod, PodShape};
use bursar_core::model::{AccountSpend, Key, Model, Name, Pauses};
use bursar_core::money::Money;
use bursar_core::plan::{Decisions, decide};
use bursar_core::pricing::PriceCatalog;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use common::{money, price_list, shape};
use pods::new_pod;

/// Money an hour of a GPU: one a second.
const RATE: &str = "3600";

fn at(second: i64) -> Timestamp {
    let start: Timestamp = "2026-12-14T12:00:00Z".parse().unwrap();
    start + SignedDuration::from_secs(second)
}

fn notice() -> i64 {
    EVICTION_NOTICE.as_secs()
}

fn evict(exempt: &[&str]) -> Unmanaged {
    let exempt: BTreeSet<Arc<str>> = exempt.iter().map(|owner| Arc::from(*owner)).collect();
    Unmanaged::Evict {
        exempt: exempt.into(),
    }
}

fn budget(limit: &str, unmanaged: Unmanaged) -> Budget {
    Budget {
        limit: money(limit),
        period: Period::Monthly,
        on_exhausted: OnExhausted::ScaleToZero,
        minimum_useful_run: SignedDuration::ZERO,
        unmanaged,
        latch: None,
        record: Default::default(),
    }
}

/// A notebook that runs on a node, with 30 s of grace.
fn notebook(name: &str) -> Pod {
    Pod {
        node: Some("node".into()),
        owner_name: format!("StatefulSet/{name}").into(),
        ..new_pod(Key::new("team", name), Owner::Other, shape(), at(0))
    }
}

struct Situation {
    model: Model,
}

impl Situation {
    /// A GPU costs one a second.
    fn new(budget: Budget) -> Self {
        let mut model = Model::new(TimeZone::UTC, at(0));
        let list = price_list("list", None, &[("H100", RATE)]);
        let catalog = PriceCatalog::new(vec![list], at(0));
        model.apply(Event::Prices(Arc::new(catalog)), at(0));
        let mut situation = Self { model };
        situation.tell_budget(budget, 0);
        situation
    }

    /// The same, with a notebook, and everything spent at the first second.
    fn exhausted(unmanaged: Unmanaged) -> Self {
        let mut situation = Self::new(budget("1000", unmanaged));
        situation.tell_pod(notebook("jupyter"), 0);
        situation.tell_spent("1000", 0);
        situation
    }

    fn tell_budget(&mut self, budget: Budget, second: i64) {
        let event = Event::Budget(Key::new("team", "all"), Some(budget));
        self.model.apply(event, at(second));
    }

    fn tell_pod(&mut self, pod: Pod, second: i64) {
        let uid = pod.key.name.clone();
        self.model
            .apply(Event::Pod(uid, Some(Box::new(pod))), at(second));
    }

    /// So much is spent, and nothing more.
    fn tell_spent(&mut self, spent: &str, second: i64) {
        self.tell_account(spent, Money::ZERO, second);
    }

    fn tell_account(&mut self, spent: &str, rate: Money, second: i64) {
        let now = at(second);
        let within = Period::Monthly.bounds(now, &TimeZone::UTC);
        let spend = LinearSpend::new(money(spent), now, rate);
        let account = AccountSpend {
            spent: [(Period::Monthly, (within, spend))].into(),
            rates: [("jupyter".into(), Some(rate))].into(),
            doubt: None,
        };
        let event = Event::Account(Key::new("team", "all"), Some(account));
        self.model.apply(event, now);
    }

    fn decide(&mut self, second: i64) -> Decisions {
        let mut all = Decisions::default();
        loop {
            let more = decide(&mut self.model, at(second));
            all.eviction_notices.extend(more.eviction_notices);
            all.evictions.extend(more.evictions);
            self.model.check().unwrap();
            if !self.model.has_marks() {
                return all;
            }
        }
    }

    /// The pods that are warned, with the second at which they are evicted; those that are evicted, and
    /// those that stay after all.
    fn told(&mut self, second: i64) -> Told {
        let decisions = self.decide(second);
        let name = |key: &Key| key.name.to_string();
        let notices = decisions.eviction_notices.iter();
        let told = |evict: bool| {
            let orders = decisions.evictions.iter();
            let orders = orders.filter(|order| order.evict == evict);
            orders.map(|order| name(&order.pod)).collect()
        };
        Told {
            warned: notices
                .map(|notice| {
                    let seconds = notice.at.duration_since(at(0)).as_secs();
                    (name(&notice.pod), seconds)
                })
                .collect(),
            evicted: told(true),
            kept: told(false),
        }
    }

    fn state(&self) -> &BudgetState {
        self.model.budget(&Key::new("team", "all")).unwrap()
    }
}

#[derive(Debug, Default, PartialEq)]
struct Told {
    warned: Vec<(String, i64)>,
    evicted: Vec<String>,
    kept: Vec<String>,
}

fn warned(name: &str, second: i64) -> Told {
    Told {
        warned: vec![(name.to_owned(), second)],
        ..Told::default()
    }
}

fn evicted(name: &str) -> Told {
    Told {
        evicted: vec![name.to_owned()],
        ..Told::default()
    }
}

fn kept(name: &str) -> Told {
    Told {
        kept: vec![name.to_owned()],
        ..Told::default()
    }
}

#[test]
fn a_pod_of_no_workload_is_warned_and_evicted_once_the_notice_is_over() {
    let mut situation = Situation::exhausted(evict(&[]));
    assert_eq!(situation.told(0), warned("jupyter", notice()));
    assert_eq!(
        situation
            .model
            .next_timer()
            .map(|at| at <= self::at(notice())),
        Some(true)
    );
    assert_eq!(situation.told(notice() - 1), Told::default());
    assert_eq!(situation.told(notice()), evicted("jupyter"));
    let state = situation.state().evictions.clone().unwrap();
    assert_eq!((state.from, state.pods), (at(notice()), 1));
    let stopping = Pod {
        deletion: Some(at(notice() + 30)),
        ..notebook("jupyter")
    };
    situation.tell_pod(stopping, notice() + 1);
    assert_eq!(situation.told(notice() + 1), Told::default());
    let state = situation.state().evictions.clone().unwrap();
    assert_eq!(state.pods, 0);
}

#[test]
fn by_default_and_while_there_is_money_it_runs_on() {
    let mut situation = Situation::exhausted(Unmanaged::Leave);
    for second in [0, notice(), 2 * notice()] {
        assert_eq!(situation.told(second), Told::default());
    }
    assert!(situation.state().is_exhausted());
    assert_eq!(situation.state().evictions, None);
    let mut situation = Situation::new(budget("1000", evict(&[])));
    situation.tell_pod(notebook("jupyter"), 0);
    situation.tell_spent("1", 0);
    for second in [0, notice()] {
        assert_eq!(situation.told(second), Told::default());
    }
}

#[test]
fn a_budget_that_lets_its_own_workloads_run_evicts_nobody() {
    for on_exhausted in [OnExhausted::ScaleToMin, OnExhausted::Freeze] {
        let spec = Budget {
            on_exhausted,
            ..budget("1000", evict(&[]))
        };
        let mut situation = Situation::new(spec);
        situation.tell_pod(notebook("jupyter"), 0);
        situation.tell_spent("1000", 0);
        assert_eq!(situation.told(0), Told::default());
        assert_eq!(situation.told(notice()), Told::default());
    }
}

#[test]
fn some_pods_are_never_evicted() {
    let without_gpus = PodShape {
        attributes: None,
        ..(*shape()).clone()
    };
    let system = ["kube-system", "kube-public", "kube-node-lease"];
    let system = system.map(|namespace| Pod {
        key: Key::new(namespace, "jupyter"),
        ..notebook("jupyter")
    });
    let others = [
        Pod {
            resident: true,
            ..notebook("jupyter")
        },
        Pod {
            node: None,
            ..notebook("jupyter")
        },
        Pod {
            ended: Some(at(0)),
            ..notebook("jupyter")
        },
        Pod {
            deletion: Some(at(3600)),
            ..notebook("jupyter")
        },
        Pod {
            owner: Owner::Service("gone".into()),
            ..notebook("jupyter")
        },
        Pod {
            owner: Owner::Job("gone".into(), "".into()),
            ..notebook("jupyter")
        },
        Pod {
            shape: Arc::new(without_gpus),
            ..notebook("jupyter")
        },
    ];
    for pod in system.into_iter().chain(others) {
        let namespace = pod.key.namespace.clone();
        let mut situation = Situation::new(budget("1000", evict(&[])));
        let event = Event::Budget(Key::new(&namespace, "all"), Some(budget("0", evict(&[]))));
        situation.model.apply(event, at(0));
        situation.tell_pod(pod.clone(), 0);
        for second in [0, notice(), 2 * notice()] {
            assert_eq!(situation.told(second), Told::default(), "{pod:?}");
        }
    }
}

#[test]
fn a_pod_that_becomes_a_workload_s_after_the_order_stays() {
    let mut situation = Situation::exhausted(evict(&[]));
    situation.told(0);
    assert_eq!(situation.told(notice()), evicted("jupyter"));
    let relabelled = Pod {
        owner: Owner::Service("chat".into()),
        ..notebook("jupyter")
    };
    situation.tell_pod(relabelled, notice() + 1);
    assert_eq!(situation.told(notice() + 1), kept("jupyter"));
    assert_eq!(situation.told(notice() + 60), Told::default());
}

#[test]
fn pods_that_share_a_device_are_warned_and_evicted_together() {
    let sharing = Arc::new(PodShape {
        attributes: None,
        shares_gpus: true,
        ..(*shape()).clone()
    });
    let mut situation = Situation::exhausted(evict(&[]));
    for name in ["second", "third"] {
        let pod = Pod {
            shape: Arc::clone(&sharing),
            ..notebook(name)
        };
        situation.tell_pod(pod, 0);
    }
    let names = ["jupyter", "second", "third"].map(str::to_owned);
    let told = situation.told(0);
    assert_eq!(told.warned, names.clone().map(|name| (name, notice())));
    assert_eq!(situation.told(notice()).evicted, names);
    let state = situation.state().evictions.clone().unwrap();
    assert_eq!(state.pods, 3);
    // one that shares nothing any more is no concern of the budget
    let alone = Pod {
        shape: Arc::new(PodShape {
            shares_gpus: false,
            ..(*sharing).clone()
        }),
        ..notebook("third")
    };
    situation.tell_pod(alone, notice() + 1);
    assert_eq!(situation.told(notice() + 1), kept("third"));
}

#[test]
fn what_the_budget_exempts_stays_and_an_edit_of_that_counts_at_once() {
    let mut situation = Situation::exhausted(evict(&["StatefulSet/jupyter"]));
    situation.tell_pod(notebook("other"), 0);
    assert_eq!(situation.told(0), warned("other", notice()));
    assert_eq!(situation.told(notice()), evicted("other"));
    situation.tell_budget(budget("1000", evict(&["StatefulSet/other"])), notice() + 1);
    let told = situation.told(notice() + 1);
    assert_eq!(told.kept, ["other"]);
    // the notice of the budget is over
    assert_eq!(told.warned, [("jupyter".to_owned(), notice() + 11)]);
    assert_eq!(situation.told(notice() + 11), evicted("jupyter"));
}

#[test]
fn each_budget_that_evicts_counts_the_pods_whichever_of_them_evicts_them_first() {
    let mut situation = Situation::exhausted(evict(&[]));
    situation.tell_pod(notebook("other"), 0);
    for (name, unmanaged) in [
        ("second", evict(&[])),
        ("third", evict(&["StatefulSet/other"])),
    ] {
        let event = Event::Budget(Key::new("team", name), Some(budget("1000", unmanaged)));
        situation.model.apply(event, at(0));
    }
    situation.decide(0);
    for (name, pods) in [("all", 2), ("second", 2), ("third", 1)] {
        let state = situation.model.budget(&Key::new("team", name)).unwrap();
        let evictions = state.evictions.as_ref().unwrap();
        assert_eq!(evictions.pods, pods, "{name}");
    }
}

#[test]
fn a_pod_that_comes_after_the_notice_has_no_notice_of_its_own() {
    let mut situation = Situation::exhausted(evict(&[]));
    situation.decide(0);
    situation.decide(notice());
    let gone = Event::Pod("jupyter".into(), None);
    situation.model.apply(gone, at(notice() + 40));
    situation.tell_pod(notebook("again"), 400);
    assert_eq!(situation.told(400), warned("again", 410));
    assert_eq!(situation.told(409), Told::default());
    assert_eq!(situation.told(410), evicted("again"));
}

#[test]
fn a_refused_eviction_is_ordered_again_and_named() {
    let mut situation = Situation::exhausted(evict(&[]));
    situation.decide(0);
    assert_eq!(situation.told(notice()), evicted("jupyter"));
    let why: Name = "Cannot evict pod as it would violate the pod's disruption budget.".into();
    let failed = Event::EvictionFailed("team".into(), "jupyter".into(), Some(why.clone()));
    situation.model.apply(failed, at(notice() + 1));
    assert_eq!(situation.told(notice() + 1), evicted("jupyter"));
    let state = situation.state().evictions.clone().unwrap();
    assert_eq!(state.refused, Some(("jupyter".into(), why.clone())));
    // somebody else changed the pod meanwhile: what was said before still holds
    let stale = Event::EvictionFailed("team".into(), "jupyter".into(), None);
    situation.model.apply(stale, at(notice() + 2));
    assert_eq!(situation.told(notice() + 2), evicted("jupyter"));
    let state = situation.state().evictions.clone().unwrap();
    assert_eq!(state.refused, Some(("jupyter".into(), why)));
}

#[test]
fn an_order_that_no_pod_shows_is_given_again() {
    let mut situation = Situation::exhausted(evict(&[]));
    situation.decide(0);
    assert_eq!(situation.told(notice()), evicted("jupyter"));
    assert_eq!(situation.told(notice() + 29), Told::default());
    assert_eq!(situation.told(notice() + 30), evicted("jupyter"));
}

#[test]
fn money_that_is_given_keeps_the_pods_and_the_next_exhaustion_has_a_notice_of_its_own() {
    let mut situation = Situation::exhausted(evict(&[]));
    situation.decide(0);
    assert_eq!(situation.told(notice()), evicted("jupyter"));
    situation.tell_budget(budget("9000", evict(&[])), notice() + 1);
    assert_eq!(situation.told(notice() + 1), kept("jupyter"));
    assert_eq!(situation.state().evictions, None);
    situation.tell_spent("9000", 1000);
    assert_eq!(situation.told(1000), warned("jupyter", 1000 + notice()));
    assert_eq!(situation.told(1000 + notice()), evicted("jupyter"));
}

#[test]
fn a_paused_namespace_evicts_nobody_and_begins_anew_when_it_is_resumed() {
    let mut situation = Situation::exhausted(evict(&[]));
    situation.decide(0);
    let paused = Pauses {
        cluster: false,
        namespaces: ["team".into()].into(),
    };
    situation.model.apply(Event::Pauses(paused), at(1));
    assert_eq!(situation.told(1), Told::default());
    assert_eq!(situation.told(notice()), Told::default());
    let resumed = Event::Pauses(Pauses::default());
    situation.model.apply(resumed, at(400));
    assert_eq!(situation.told(400), warned("jupyter", 400 + notice()));
}

#[test]
fn an_edit_to_evict_gives_the_notice_however_long_the_budget_was_exhausted() {
    let mut situation = Situation::exhausted(Unmanaged::Leave);
    situation.decide(0);
    situation.decide(4000);
    situation.tell_budget(budget("1000", evict(&[])), 5000);
    assert_eq!(situation.told(5000), warned("jupyter", 5000 + notice()));
}

#[test]
fn a_new_leader_goes_on_with_the_notice_on_record_and_warns_again() {
    let month = Period::Monthly.bounds(at(0), &TimeZone::UTC);
    let on_record = |period_start, from: i64| Budget {
        latch: Some(Latch {
            period_start,
            limit: money("1000"),
            corrections: Money::ZERO,
            stops_below: None,
        }),
        record: BudgetRecord {
            evictions_from: Some(at(from)),
            ..BudgetRecord::default()
        },
        ..budget("1000", evict(&[]))
    };
    let before =
        Period::Monthly.bounds(month.start - SignedDuration::from_hours(1), &TimeZone::UTC);
    for (period_start, from, expected) in [
        (month.start, 120, 120),
        // its own warning comes first
        (month.start, -500, 10),
        // nobody lengthens the notice by what he writes
        (month.start, 90_000, notice()),
        // that was another exhaustion
        (before.start, -500, notice()),
    ] {
        let mut situation = Situation::new(on_record(period_start, from));
        situation.tell_pod(notebook("jupyter"), 0);
        situation.tell_spent("1000", 0);
        assert_eq!(situation.told(0), warned("jupyter", expected), "{from}");
        assert_eq!(situation.told(expected), evicted("jupyter"), "{from}");
    }
}

#[test]
fn the_reserve_has_what_evicting_costs_and_so_the_limit_holds() {
    let stop = notice() + 30 + 10;
    for (unmanaged, reserve) in [
        (evict(&[]), stop),
        (evict(&["StatefulSet/jupyter"]), 0),
        (Unmanaged::Leave, 0),
    ] {
        let mut situation = Situation::new(budget("1000", unmanaged.clone()));
        situation.tell_pod(notebook("jupyter"), 0);
        situation.tell_account("0", money(RATE), 0);
        situation.decide(0);
        assert_eq!(situation.state().reserve.rounded(0), reserve.to_string());
        situation.tell_budget(budget("1000", Unmanaged::Leave), 0);
        situation.decide(0);
        assert_eq!(situation.state().reserve, Money::ZERO, "an edit counts");
        situation.tell_budget(budget("1000", unmanaged), 0);
        situation.decide(0);
        assert_eq!(situation.state().reserve.rounded(0), reserve.to_string());
    }
    // one a second: it is told to stop when grace and slack are left
    let mut situation = Situation::new(budget("1000", evict(&[])));
    situation.tell_pod(notebook("jupyter"), 0);
    situation.tell_account("0", money(RATE), 0);
    situation.decide(0);
    let mut ordered = None;
    while ordered.is_none() {
        let next = situation.model.next_timer().unwrap();
        let second = next.duration_since(at(0)).as_secs();
        assert!(second <= 1000, "it is never told to stop");
        let evicts = !situation.told(second).evicted.is_empty();
        ordered = evicts.then_some(second);
    }
    let ends = ordered.unwrap() + 30;
    assert!(ends <= 1000, "it ends at {ends}");
    assert!(ends >= 980, "it had no need to end at {ends}");
}
