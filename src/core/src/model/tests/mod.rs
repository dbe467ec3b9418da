//! Random events: every derived value equals one that is computed from scratch, the order of events
//! at one instant does not matter, and nothing that should be marked is missed.

mod budget_preemption;
mod capacity;
mod classes;
mod gangs;
mod lifetime;
mod random_events;
mod slices;
mod time;

use std::collections::BTreeMap;
use std::ops::Range;

use fastrand::Rng;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::event::{Event, Key};
use super::pause::Pauses;
use super::service::ServiceState;
use super::state::Model;
use crate::plan::{Decisions, JobOrder, ServiceOrder, decide};
use crate::refusal::RefusalReason;
use crate::training::JobDecision;

use self::random_events::{NAMESPACES, at, event, name, prices, relabelled, subject};

fn model() -> Model {
    let mut model = Model::new(TimeZone::UTC, at(0));
    model.apply(Event::Prices(prices(&mut Rng::with_seed(1))), at(0));
    model
}

/// The seeds of a property: so many, or those that `BURSAR_SEEDS` says, as `5000` or `759..760`.
fn seeds(number: u64) -> Range<u64> {
    let Ok(asked) = std::env::var("BURSAR_SEEDS") else {
        return 0..number;
    };
    let (start, end) = asked.split_once("..").unwrap_or(("0", &asked));
    start.parse().unwrap()..end.parse().unwrap()
}

/// Decides until nothing is marked.
fn settle(model: &mut Model, now: Timestamp) -> Decisions {
    let mut all = Decisions::default();
    for _ in 0..1000 {
        let more = decide(model, now);
        all.service_orders.extend(more.service_orders);
        all.job_orders.extend(more.job_orders);
        all.services.extend(more.services);
        all.jobs.extend(more.jobs);
        all.latches.extend(more.latches);
        if !model.has_marks() {
            // orders for one object stay in their order
            all.service_orders.sort_by(|a, b| a.service.cmp(&b.service));
            all.job_orders.sort_by(|a, b| a.job.cmp(&b.job));
            return all;
        }
    }
    panic!("it does not settle: {:?}", model.marks);
}

/// Each cost equals one that is computed anew.
fn assert_fresh(model: &Model, now: Timestamp, when: &str) {
    let mut fresh = model.clone();
    for (key, state) in &model.services {
        fresh.refresh_service(key, now);
        let fresh = &fresh.services[key];
        assert_eq!(fresh.cost, state.cost, "{when}, {key:?}");
        assert_eq!(fresh.unschedulable, state.unschedulable, "{when}, {key:?}");
    }
    for (key, state) in &model.jobs {
        fresh.refresh_job(key, now);
        let fresh = &fresh.jobs[key];
        assert_eq!(fresh.cost, state.cost, "{when}, {key:?}");
        assert_eq!(
            fresh.preemptibility, state.preemptibility,
            "{when}, {key:?}"
        );
    }
    for Key { name: uid, .. } in &model.unowned {
        fresh.refresh_other(uid, now);
        assert_eq!(fresh.pods[uid].cost, model.pods[uid].cost, "{when}, {uid}");
    }
}

#[test]
fn derived_values_equal_those_from_scratch_after_any_events() {
    for seed in seeds(400) {
        let mut rng = Rng::with_seed(seed);
        let (mut model, mut millis) = (model(), 0);
        for step in 0..150 {
            millis += if rng.u8(0..10) == 0 {
                rng.i64(0..200_000)
            } else {
                rng.i64(0..2000)
            };
            for _ in 0..rng.u8(1..4) {
                let event = event(&mut rng, at(millis));
                let event = relabelled(&mut rng, event);
                model.apply(event.clone(), at(millis));
                if let Err(value) = model.check() {
                    panic!("seed {seed}, step {step}: {value} after {event:?}");
                }
            }
            settle(&mut model, at(millis));
            if let Err(value) = model.check() {
                panic!("seed {seed}, step {step}: {value} after a decision");
            }
        }
    }
}

#[test]
fn decisions_that_nobody_carries_out_come_to_an_end() {
    for seed in seeds(400) {
        let mut rng = Rng::with_seed(seed);
        let (mut model, mut millis) = (model().observing(), 0);
        for _ in 0..100 {
            millis += rng.i64(0..20_000);
            for _ in 0..rng.u8(1..4) {
                let event = event(&mut rng, at(millis));
                model.apply(event, at(millis));
            }
            let decided = settle(&mut model, at(millis));
            assert_eq!(decided.service_orders, []);
            assert_eq!(decided.job_orders, []);
        }
    }
}

/// What somebody pauses, now and then.
fn pauses(rng: &mut Rng) -> Pauses {
    let namespaces = NAMESPACES.into_iter().filter(|_| rng.bool());
    Pauses {
        namespaces: namespaces.map(name).collect(),
        cluster: rng.u8(0..4) == 0,
    }
}

#[test]
fn no_order_is_given_in_what_is_paused_and_what_is_marked_is_decided_as_everything_is() {
    for seed in seeds(300) {
        let mut rng = Rng::with_seed(seed);
        let (mut model, mut millis) = (model(), 0);
        for step in 0..80 {
            let when = format!("seed {seed}, step {step}");
            millis += rng.i64(0..20_000);
            let now = at(millis);
            for _ in 0..rng.u8(1..4) {
                let event = match rng.u8(0..8) {
                    0 => Event::Pauses(pauses(&mut rng)),
                    _ => event(&mut rng, now),
                };
                model.apply(event, now);
            }
            let mut everything = model.clone();
            everything.mark_all();
            let decided = settle(&mut model, now);
            let namespaces = decided.service_orders.iter().map(|order| &order.service);
            let jobs = decided.job_orders.iter().map(|order| &order.job);
            for key in namespaces.chain(jobs) {
                assert_eq!(model.paused_by(&key.namespace), None, "{when}: {key:?}");
            }
            if let Err(value) = model.check() {
                panic!("{when}: {value} after a decision");
            }
            let expected = settle(&mut everything, now);
            assert_eq!(orders(&decided), orders(&expected), "{when}");
            assert_eq!(job_orders(&decided), job_orders(&expected), "{when}");
        }
    }
}

#[test]
fn events_at_one_instant_give_the_same_plan_in_any_order() {
    for seed in seeds(400) {
        let mut rng = Rng::with_seed(seed);
        let (mut one, mut millis) = (model(), 0);
        for step in 0..60 {
            millis += rng.i64(0..20_000);
            let now = at(millis);
            let mut events = BTreeMap::new();
            for _ in 0..rng.u8(2..12) {
                let event = event(&mut rng, now);
                events.insert(subject(&event), event);
            }
            let mut other = one.clone();
            let mut shuffled: Vec<Event> = events.values().cloned().collect();
            rng.shuffle(&mut shuffled);
            for event in events.values() {
                one.apply(event.clone(), now);
            }
            for event in &shuffled {
                other.apply(event.clone(), now);
            }
            let (a, b) = (settle(&mut one, now), settle(&mut other, now));
            assert_eq!(a, b, "seed {seed}, step {step}: {shuffled:?}");
        }
    }
}

/// What of a decision over a service does not depend on the moment, as numbers in its reason do.
fn essence(state: &ServiceState) -> Option<(u32, u32, Option<RefusalReason>)> {
    let decision = state.decision.as_ref()?;
    let refusal = decision.refusal.as_ref().map(|refusal| refusal.reason);
    Some((decision.desired, decision.allowed, refusal))
}

/// Orders without their reasons, of which the numbers are those of the moment.
fn orders(decisions: &Decisions) -> Vec<ServiceOrder> {
    let orders = decisions.service_orders.iter().cloned();
    let without_reason = orders.map(|order| ServiceOrder {
        reason: String::new(),
        ..order
    });
    without_reason.collect()
}

fn job_orders(decisions: &Decisions) -> Vec<JobOrder> {
    let orders = decisions.job_orders.iter().cloned();
    let without_reason = orders.map(|order| JobOrder {
        reason: String::new(),
        ..order
    });
    without_reason.collect()
}

/// Calls `check` again and again with a model that some events have changed, which it settles.
fn after_random_events(mut check: impl FnMut(&mut Model, Timestamp, &str)) {
    for seed in seeds(400) {
        let mut rng = Rng::with_seed(seed);
        let (mut model, mut millis) = (model(), 0);
        for step in 0..80 {
            millis += rng.i64(0..20_000);
            let now = at(millis);
            for _ in 0..rng.u8(1..5) {
                let event = event(&mut rng, now);
                model.apply(event, now);
            }
            check(&mut model, now, &format!("seed {seed}, step {step}"));
        }
    }
}

#[test]
fn what_is_not_marked_would_be_decided_as_before() {
    after_random_events(|model, now, when| {
        settle(model, now);
        assert_fresh(model, now, when);
        let mut again = model.clone();
        again.mark_all();
        let more = settle(&mut again, now);
        assert_eq!(more.service_orders, [], "{when}");
        assert_eq!(more.job_orders, [], "{when}");
    });
}

#[test]
fn decisions_over_what_is_marked_equal_those_over_everything() {
    after_random_events(|model, now, when| {
        let mut everything = model.clone();
        everything.mark_all();
        let ours = settle(model, now);
        let expected = settle(&mut everything, now);
        // jobs take what services have left, in the order in which they are decided
        assert_eq!(orders(&ours), orders(&expected), "{when}");
        for (key, state) in &everything.services {
            let ours = &model.services[key];
            assert_eq!(essence(ours), essence(state), "{when}, {key:?}");
        }
    });
}

/// The orders, where those are one that only add replicas of a service one after the other: its
/// first ones may be in another slice than its further ones.
fn merged(orders: Vec<ServiceOrder>) -> Vec<ServiceOrder> {
    let mut merged: Vec<ServiceOrder> = Vec::new();
    let moves_none = |order: &ServiceOrder| {
        order.drain.is_empty() && order.keep.is_empty() && order.remove.is_empty()
    };
    let only_grows =
        |order: &ServiceOrder| moves_none(order) && order.replicas.0 < order.replicas.1;
    // a Deployment that is not there yet is made without replicas
    let loses_none =
        |order: &ServiceOrder| moves_none(order) && order.replicas.0 <= order.replicas.1;
    for mut order in orders {
        // where a slice ends, it is looked whether a budget stops something
        order.after_latch = false;
        match merged.last_mut() {
            Some(last)
                if last.service == order.service && loses_none(last) && only_grows(&order) =>
            {
                last.replicas.1 = order.replicas.1;
                last.held_since = order.held_since;
            }
            _ => merged.push(order),
        }
    }
    merged
}

#[test]
fn it_does_not_matter_where_slices_end() {
    after_random_events(|model, now, when| {
        let mut sliced = model.clone();
        sliced.slice = 1;
        let (ours, expected) = (settle(&mut sliced, now), settle(model, now));
        let (our_orders, expected_orders) = (merged(orders(&ours)), merged(orders(&expected)));
        assert_eq!(our_orders, expected_orders, "{when}");
        assert_eq!(job_orders(&ours), job_orders(&expected), "{when}");
        for (key, state) in &model.services {
            let ours = &sliced.services[key];
            assert_eq!(essence(ours), essence(state), "{when}, {key:?}");
        }
        for (key, state) in &model.jobs {
            // the numbers in a reason are those of the moment
            let essence = |decision: &Option<JobDecision>| {
                let decision = decision.as_ref()?;
                Some((
                    decision.run,
                    decision.limited_by,
                    decision.position,
                    decision.retry.clone(),
                ))
            };
            let ours = &sliced.jobs[key].decision;
            assert_eq!(essence(ours), essence(&state.decision), "{when}, {key:?}");
        }
        let budget_states = |model: &Model| {
            let namespaces = model.namespaces.iter();
            let states = namespaces.map(|(name, namespace)| (name.clone(), namespace.clone()));
            let states = states.map(|(name, namespace)| {
                let budgets = namespace.budgets.into_iter();
                let budget_states = budgets.map(|(budget, state)| (budget, state.budget_state));
                (name, budget_states.collect::<Vec<_>>())
            });
            states.collect::<Vec<_>>()
        };
        assert_eq!(budget_states(&sliced), budget_states(model), "{when}");
    });
}
