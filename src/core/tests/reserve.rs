//! What stopping everything would still cost, as budgets keep it in reserve.

#![allow(clippy::unwrap_used)] // a test fails by ending

mod common;
#[path = "common/pods.rs"]
mod pods;
#[path = "common/services.rs"]
mod services;

use std::collections::BTreeMap;
use std::sync::Arc;

use bursar_core::budget::{BudgetState, OnExhausted};
use bursar_core::calendar::Period;
use bursar_core::ledger::LinearSpend;
use bursar_core::model::event::{Budget, Deployment, Event, Node, Owner, Pod, Service};
use bursar_core::model::{AccountSpend, Key, Model, Name};
use bursar_core::money::Money;
use bursar_core::plan::decide;
use bursar_core::pricing::PriceCatalog;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use common::{GPU, money, price_list, shape};
use pods::new_pod;
use services::new_service;

fn at(second: i64) -> Timestamp {
    let start: Timestamp = "2026-12-14T12:00:00Z".parse().unwrap();
    start + SignedDuration::from_secs(second)
}

fn budget_key() -> Key {
    Key::new("team", "all")
}

/// A GPU costs these amounts an hour, each from its instant on.
fn prices(rates: &[(&str, Option<Timestamp>)]) -> Event {
    let list = |(number, (rate, from)): (usize, &(&str, Option<Timestamp>))| {
        // the list that begins last takes precedence
        let name = format!("list-{:03}", rates.len() - number);
        price_list(&name, *from, &[("H100", rate)])
    };
    let lists = rates.iter().enumerate().map(list).collect();
    Event::Prices(Arc::new(PriceCatalog::new(lists, at(0))))
}

/// A monthly budget that scales to zero, and a GPU at 2.00 an hour.
fn model(limit: &str) -> Model {
    let mut model = Model::new(TimeZone::UTC, at(0));
    model.apply(prices(&[("2", None)]), at(0));
    let budget = Budget {
        limit: money(limit),
        period: Period::Monthly,
        on_exhausted: OnExhausted::ScaleToZero,
        minimum_useful_run: SignedDuration::ZERO,
        latch: None,
        unmanaged: Default::default(),
        record: Default::default(),
    };
    model.apply(Event::Budget(budget_key(), Some(budget)), at(0));
    model
}

/// A pod that runs on a node.
fn pod(name: &str, owner: Owner) -> Pod {
    Pod {
        node: Some("node".into()),
        ..new_pod(Key::new("team", name), owner, shape(), at(0))
    }
}

fn tell_pod(model: &mut Model, pod: Pod, now: Timestamp) {
    let uid = pod.key.name.clone();
    model.apply(Event::Pod(uid, Some(Box::new(pod))), now);
}

/// What the ledger has at `now`: this much was spent, and these pods cost this much an hour.
fn tell_account(model: &mut Model, spent: &str, rates: &[(&str, &str)], now: Timestamp) {
    let rates: BTreeMap<Name, Option<Money>> = rates
        .iter()
        .map(|(uid, rate)| ((*uid).into(), Some(money(rate))))
        .collect();
    let within = Period::Monthly.bounds(now, &TimeZone::UTC);
    let rate = rates.values().flatten().copied().sum();
    let spend = LinearSpend::new(money(spent), now, rate);
    let account = AccountSpend {
        spent: [(Period::Monthly, (within, spend))].into(),
        rates,
        doubt: None,
    };
    model.apply(Event::Account(Key::new("team", "all"), Some(account)), now);
}

fn settle(model: &mut Model, now: Timestamp) -> BudgetState {
    decide(model, now);
    while model.has_marks() {
        decide(model, now);
    }
    model.budget(&budget_key()).unwrap().clone()
}

#[test]
fn the_reserve_of_one_pod_is_bounded_whoever_wrote_its_grace() {
    let month = SignedDuration::from_hours(30 * 24);
    let owners = [
        Owner::Other,
        // neither is known, so only the pod says how long it takes
        Owner::Service("gone".into()),
        Owner::Job("gone".into(), "".into()),
    ];
    for owner in owners {
        for deletion in [None, Some(at(0) + month)] {
            for grace_seconds in [month.as_secs(), i64::MAX] {
                let mut model = model("1000");
                let pod = Pod {
                    deletion,
                    grace_seconds,
                    ..pod("notebook", owner.clone())
                };
                tell_pod(&mut model, pod, at(0));
                tell_account(&mut model, "0", &[("notebook", "2")], at(0));
                let state = settle(&mut model, at(0));
                let hour = money("2").cost_for_seconds_rounded_up(3600 + 10);
                let what = format!("{owner:?}, {deletion:?}: {}", state.reserve);
                assert!(state.reserve <= hour, "{what}");
                assert!(!state.is_exhausted(), "{what}");
                if deletion.is_some() {
                    // the last hour is counted as it is
                    let last = settle(&mut model, at(0) + month - SignedDuration::from_secs(60));
                    assert!(last.reserve < hour, "{what}");
                }
            }
        }
    }
}

#[test]
fn a_negative_grace_gives_no_money_back() {
    let mut model = model("1000");
    let pod = Pod {
        grace_seconds: i64::MIN,
        ..pod("old", Owner::Service("gone".into()))
    };
    tell_pod(&mut model, pod, at(0));
    let state = settle(&mut model, at(0));
    assert_eq!(state.reserve, money("2").cost_for_seconds_rounded_up(10));
}

/// A service that wants 45 replicas, of which two run.
fn pending_replicas(limit: &str) -> Model {
    let mut model = model(limit);
    let service = Service {
        min: 45,
        max: 50,
        drain_timeout: SignedDuration::from_hours(1),
        ..new_service(shape(), at(0))
    };
    let key = Key::new("team", "chat");
    model.apply(Event::Service(key.clone(), Some(service)), at(0));
    let deployment = Deployment {
        replicas: 45,
        first_ordinal: None,
        rollout: None,
        creation_failure: None,
    };
    model.apply(Event::Deployment(key, Some(deployment)), at(0));
    for number in 0..45 {
        let pod = Pod {
            node: (number < 2).then(|| "node".into()),
            ready_since: (number < 2).then(|| at(0)),
            ..pod(&format!("p{number}"), Owner::Service("chat".into()))
        };
        tell_pod(&mut model, pod, at(0));
    }
    model
}

const RUNNING: [(&str, &str); 2] = [("p0", "2"), ("p1", "2")];

#[test]
fn a_pod_without_a_node_costs_nothing_to_stop() {
    let mut model = pending_replicas("100");
    tell_account(&mut model, "9", &RUNNING, at(0));
    let state = settle(&mut model, at(0));
    assert_eq!(state.reserve.rounded(2), "4.04");
    assert_eq!(state.rate, money("4"));
    assert!(!state.is_exhausted());
    tell_account(&mut model, "95.95", &RUNNING, at(1));
    assert!(!settle(&mut model, at(1)).is_exhausted());
    tell_account(&mut model, "95.96", &RUNNING, at(2));
    assert!(settle(&mut model, at(2)).is_exhausted());
}

#[test]
fn replicas_without_a_node_are_taken_back_before_they_could_cost_more_than_there_is() {
    let mut model = pending_replicas("100");
    // 45 replicas could be stopped for 91.00
    tell_account(&mut model, "8.99", &RUNNING, at(0));
    assert_eq!(decide(&mut model, at(0)).service_orders, []);
    tell_account(&mut model, "13", &RUNNING, at(1));
    let orders = decide(&mut model, at(1)).service_orders;
    assert_eq!(orders.len(), 1);
    assert_eq!(orders[0].drain.len(), 2, "{orders:?}");
    let running = ["p0", "p1"].map(Name::from);
    assert!(orders[0].drain.iter().all(|uid| !running.contains(uid)));
    // it asks for no further ones, and gives up no further ones, while nothing changes
    let state = settle(&mut model, at(1));
    assert!(!state.is_exhausted());
    let again = decide(&mut model, at(2)).service_orders;
    assert!(
        again.iter().all(|order| order.drain.is_empty()),
        "{again:?}"
    );
}

/// Pods of a service that is gone: each costs an hour of grace after it was told to stop.
fn long_running(model: &mut Model, pods: &[String], now: Timestamp) {
    for name in pods {
        let pod = Pod {
            grace_seconds: 3600,
            ..pod(name, Owner::Service("gone".into()))
        };
        tell_pod(model, pod, now);
    }
}

#[test]
fn what_could_still_run_at_an_announced_rise_is_reserved_at_the_price_of_then() {
    let rise = at(12 * 3600);
    let mut model = model("1000");
    let node = Node {
        takes_pods: true,
        labels: [("nvidia.com/gpu.product".to_owned(), "H100".to_owned())].into(),
        gpus: [(GPU.to_owned(), 8)].into(),
        ..Node::default()
    };
    model.apply(Event::Node("node".into(), Some(node)), at(0));
    model.apply(prices(&[("2", None), ("4", Some(rise))]), at(0));
    let pods: Vec<String> = (0..100).map(|number| format!("p{number}")).collect();
    long_running(&mut model, &pods, at(0));
    let rates: Vec<(&str, &str)> = pods.iter().map(|pod| (pod.as_str(), "2")).collect();
    tell_account(
        &mut model,
        "0",
        &rates,
        rise - SignedDuration::from_secs(7200),
    );
    let stop = SignedDuration::from_secs(3600 + 10);
    let reserve = |rate: &str| money(rate).cost_for_seconds_rounded_up(3610).times(100);
    let early = rise - stop - SignedDuration::from_secs(1);
    assert_eq!(settle(&mut model, early).reserve, reserve("2"));
    let due = model.next_timer().unwrap();
    assert!(due <= early + SignedDuration::from_secs(30), "{due}");
    assert_eq!(settle(&mut model, rise - stop).reserve, reserve("4"));
}

#[test]
fn a_later_rise_is_noticed_after_an_earlier_one() {
    let mut model = model("1000");
    let steps = [("2", None), ("3", Some(at(100))), ("4", Some(at(20_000)))];
    model.apply(prices(&steps), at(0));
    long_running(&mut model, &["p".to_owned()], at(0));
    assert_eq!(
        settle(&mut model, at(0)).reserve,
        money("3").cost_for_seconds_rounded_up(3610)
    );
    settle(&mut model, at(100));
    let state = settle(&mut model, at(20_000));
    assert_eq!(state.reserve, money("4").cost_for_seconds_rounded_up(3610));
}
