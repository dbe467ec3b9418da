//! Objects that go, and others of their names.

use std::sync::Arc;

use jiff::SignedDuration;

use super::super::event::{BatchJob, Budget, Event, Key, Owner, Pod, PodShape, Service};
use super::super::spending::AccountSpend;
use super::*;
use crate::budget::OnExhausted;
use crate::calendar::Period;
use crate::ledger::LinearSpend;
use crate::scaling::{Activation, Behavior, RequestSignal};

fn key() -> Key {
    Key::new("team", "chat")
}

fn service(created: i64) -> Service {
    Service {
        created: at(created),
        priority: 0,
        cluster_priority: 0,
        weight: 100,
        min: 1,
        max: 3,
        request_signal: RequestSignal::Target(8),
        signals: vec![],
        measured_by: 0,
        growth: Default::default(),
        learned: None,
        behavior: Behavior::with_scale_down_window(Some(SignedDuration::from_secs(60))),
        idle_after: SignedDuration::from_secs(600),
        schedules: vec![],
        on_signal_failure: Default::default(),
        drain_timeout: SignedDuration::from_secs(60),
        paused: None,
        activation: Activation::OnDemand,
        replica: Arc::new(PodShape::default()),
        grace_seconds: 30,
        workers: None,
    }
}

#[test]
fn a_service_that_is_made_anew_remembers_no_order_of_the_former_one() {
    let mut model = model();
    model.apply(Event::Service(key(), Some(service(0))), at(0));
    assert_eq!(settle(&mut model, at(0)).service_orders.len(), 1);
    // nobody has seen it go
    model.apply(Event::Service(key(), Some(service(1_000))), at(1_000));
    let orders = settle(&mut model, at(1_000)).service_orders;
    assert_eq!(orders.len(), 1, "it has no Deployment");
    assert_eq!(orders[0].replicas, (0, 1));
}

#[test]
fn nothing_is_kept_of_what_never_was() {
    let mut model = model();
    let before = model.clone();
    model.apply(Event::Service(key(), None), at(0));
    model.apply(Event::Deployment(key(), None), at(0));
    model.apply(Event::Endpoints(key(), Vec::new()), at(0));
    model.apply(Event::Job(key(), None), at(0));
    model.apply(Event::BatchJob(key(), "".into(), None), at(0));
    assert!(model == before, "{model:?}");
    model.apply(
        Event::BatchJob(key(), "".into(), Some(BatchJob::default())),
        at(0),
    );
    model.apply(Event::BatchJob(key(), "".into(), None), at(0));
    settle(&mut model, at(0));
    assert!(model.jobs.is_empty());
}

#[test]
fn where_a_budget_stands_is_told_every_half_minute_while_money_is_spent() {
    let mut model = model();
    let budget = Budget {
        limit: "1000000".parse().unwrap(),
        period: Period::Daily,
        on_exhausted: OnExhausted::ScaleToZero,
        minimum_useful_run: SignedDuration::ZERO,
        latch: None,
        unmanaged: Default::default(),
        record: Default::default(),
    };
    model.apply(Event::Budget(Key::new("team", "all"), Some(budget)), at(0));
    let shape = PodShape {
        attributes: Some(Default::default()),
        ..PodShape::default()
    };
    let pod = Pod {
        key: Key::new("team", "busybox"),
        owner: Owner::Other,
        shape: Arc::new(shape),
        node: Some("n".into()),
        created: at(0),
        ended: None,
        deletion: None,
        grace_seconds: 30,
        ready_since: None,
        was_ready: false,
        draining_since: None,
        marked_for_deletion: false,
        start_failure: None,
        failure: None,
        disrupted: false,
        made_by: None,
        leader: None,
        owner_name: Default::default(),
        scheduling: crate::model::event::Scheduling::Queued,
        resident: false,
    };
    model.apply(Event::Pod("uid".into(), Some(Box::new(pod))), at(0));
    let within = Period::Daily.bounds(at(0), &TimeZone::UTC);
    let rate = "3600".parse().unwrap();
    let account = AccountSpend {
        spent: [(
            Period::Daily,
            (within, LinearSpend::new(Default::default(), at(0), rate)),
        )]
        .into(),
        rates: [("uid".into(), Some(rate))].into(),
        doubt: None,
    };
    model.apply(Event::Account(Key::new("team", "a"), Some(account)), at(0));
    settle(&mut model, at(0));
    let told = |model: &mut Model, now| {
        let next = model.next_timer();
        let decisions = decide(model, now);
        let spent = decisions.budgets.first();
        let spent = spent.map(|(_, budget_state)| budget_state.budget.spent.to_string());
        (next.is_some_and(|next| next <= now), spent)
    };
    assert_eq!(told(&mut model, at(29_999)), (false, None));
    let spent = Some("30.00".to_owned());
    assert_eq!(told(&mut model, at(30_000)), (true, spent));
}
