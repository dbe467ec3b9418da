//! An edit by which pods of others are evicted enlarges the reserve by what that costs: where it would stop
//! something that runs, it waits as any other edit does.

use std::collections::BTreeSet;
use std::sync::Arc;

use bursar_core::budget::{BudgetRecord, BudgetState, Terms, Unmanaged};
use bursar_core::calendar::Period;
use bursar_core::model::event::{Budget, Event, Owner, Pod};
use bursar_core::model::{Key, Model};
use bursar_core::money::Money;
use jiff::SignedDuration;
use jiff::tz::TimeZone;

use super::pods::new_pod;
use super::{World, at, budget, money, service, shape};

const GRACE: SignedDuration = SignedDuration::from_mins(10);

fn chat() -> Key {
    Key::new("team", "chat")
}

fn all() -> Key {
    Key::new("team", "all")
}

fn evict(exempt: &[&str]) -> Unmanaged {
    let exempt: BTreeSet<Arc<str>> = exempt.iter().map(|owner| Arc::from(*owner)).collect();
    Unmanaged::Evict {
        exempt: exempt.into(),
    }
}

fn with(limit: &str, unmanaged: Unmanaged) -> Budget {
    Budget {
        unmanaged,
        ..budget(limit)
    }
}

/// Two replicas, and eight GPUs of a notebook that may take an hour to stop: they cost 20 an hour, and 40
/// are spent.
fn running(spec: Budget) -> World {
    let model = Model::new(TimeZone::UTC, at(0)).with_change_grace(GRACE);
    let mut world = World::with(model, 10);
    world.tell(0, Event::Budget(all(), Some(spec)));
    world.tell(0, Event::Service(chat(), Some(service())));
    world.serve(0, &chat(), 2);
    world.read(0, &chat(), 8);
    for number in 0..8 {
        let uid = format!("notebook-{number}");
        let pod = Pod {
            node: Some("node".into()),
            owner_name: "StatefulSet/notebook".into(),
            grace_seconds: 3600,
            ..new_pod(Key::new("team", &uid), Owner::Other, shape(), at(0))
        };
        world.show(0, &uid, pod);
    }
    world.spend(0, "team", "40", "20");
    assert_eq!(world.orders(0).0, [] as [&str; 0]);
    world
}

fn edit(world: &mut World, second: i64, spec: Budget) -> Vec<String> {
    world.tell(second, Event::Budget(all(), Some(spec)));
    world.orders(second).0
}

fn state(world: &World) -> BudgetState {
    world.model.budget(&all()).unwrap().clone()
}

#[test]
fn an_edit_to_evict_stops_what_runs_after_the_window_and_not_once_it_is_taken_back() {
    let notebook = "StatefulSet/notebook";
    for (before, after) in [
        (Unmanaged::Leave, evict(&[])),
        (evict(&[notebook]), evict(&[])),
        (evict(&[notebook]), evict(&["StatefulSet/other"])),
    ] {
        // stopping the notebook takes 3910 s, which cost 17.4
        let mut world = running(with("52", before.clone()));
        let reserve = state(&world).reserve;
        let orders = edit(&mut world, 60, with("52", after.clone()));
        assert_eq!(orders, [] as [&str; 0], "{before:?}");
        let waits = state(&world);
        let change = waits.pending.unwrap();
        assert_eq!(change.effective_at, at(660));
        assert_eq!(change.announced.unmanaged, after);
        assert!(change.remaining < Money::ZERO, "{}", change.remaining);
        assert!(change.reserve > money("17"), "{}", change.reserve);
        assert_eq!((waits.reserve, waits.budget.latch), (reserve, None));
        assert_eq!(edit(&mut world, 61, with("52", before.clone())), [""; 0]);
        let taken_back = state(&world);
        assert_eq!((taken_back.pending, taken_back.budget.latch), (None, None));
        assert_eq!(edit(&mut world, 100, with("52", after)), [""; 0]);
        assert_eq!(world.orders(699).0, [""; 0], "{before:?}");
        assert_eq!(world.orders(700).0, ["chat: (2, 2), 2 leave"]);
        assert_eq!(state(&world).pending, None);
    }
}

#[test]
fn an_edit_to_evict_that_stops_nothing_counts_at_once_and_so_does_one_that_evicts_fewer() {
    let mut world = running(with("100", Unmanaged::Leave));
    assert_eq!(edit(&mut world, 60, with("100", evict(&[]))), [""; 0]);
    assert_eq!(state(&world).pending, None);
    assert!(state(&world).reserve > money("17"));
    let spared = with("100", evict(&["StatefulSet/notebook"]));
    assert_eq!(edit(&mut world, 61, spared), [""; 0]);
    assert!(state(&world).reserve < money("1"));
}

/// What a budget does not evict is not in its reserve, whatever others do.
#[test]
fn a_budget_beside_one_that_evicts_keeps_its_reserve() {
    let mut world = running(with("52", Unmanaged::Leave));
    let reserve = state(&world).reserve;
    let other = Key::new("team", "other");
    let new = with("1000", evict(&[]));
    world.tell(60, Event::Budget(other.clone(), Some(new)));
    assert_eq!(world.orders(60).0, [""; 0]);
    assert_eq!(state(&world).reserve, reserve);
    let other = world.model.budget(&other).unwrap();
    assert!(other.reserve > money("17"), "{}", other.reserve);
}

#[test]
fn a_new_leader_continues_the_window() {
    let recorded = Budget {
        record: BudgetRecord {
            in_force: Some(Terms {
                limit: money("52"),
                period: Period::Monthly,
                on_exhausted: budget("52").on_exhausted,
                unmanaged: Unmanaged::Leave,
            }),
            effective_at: Some(at(200)),
            ..BudgetRecord::default()
        },
        ..with("52", evict(&[]))
    };
    let mut world = running(recorded);
    assert_eq!(state(&world).pending.unwrap().effective_at, at(200));
    assert_eq!(world.orders(199).0, [""; 0]);
    assert_eq!(world.orders(200).0, ["chat: (2, 2), 2 leave"]);
}
