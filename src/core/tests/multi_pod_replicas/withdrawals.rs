//! What has no node is taken back where a budget has no money for stopping it, and nothing else with it.

use super::*;

/// Slots of an object whose replicas have ordinals: what is there of each.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Slot {
    Running,
    Pending,
    Missing,
}

/// A service of these replicas, each with so many workers.
fn model_of(slots: &[Slot], workers: u32) -> Model {
    let mut model = model();
    let replicas = u32::try_from(slots.len()).unwrap();
    let spec = Service {
        min: replicas,
        ..service(1, workers, 1)
    };
    set_service(&mut model, spec);
    set_replicas(&mut model, replicas, 0);
    for (group, slot) in (0..).zip(slots) {
        if *slot == Slot::Missing {
            continue;
        }
        let has_node = *slot == Slot::Running;
        tell(&mut model, leader(group, 1, has_node), 0);
        for index in 1..=workers {
            tell(&mut model, worker(group, index, 1, has_node), 0);
        }
    }
    model
}

/// What stopping one replica with so many workers costs.
fn stop_cost(workers: u32) -> Money {
    let graces = i64::from(1 + u32::from(workers > 0)) * (GRACE + SLACK);
    let rate = money("2").times(1 + workers);
    rate.cost_for_seconds_rounded_up(DRAIN + graces)
}

#[test]
fn a_replica_below_one_that_runs_is_in_the_reserve_like_it() {
    use Slot::{Missing, Pending, Running};
    for workers in [0, 1] {
        let reserve = |slots: &[Slot]| {
            let mut model = model_of(slots, workers);
            set_budget(&mut model, money("1000"));
            let reserve = budget_state(&mut model, 1).reserve;
            // each pod's share is rounded up
            reserve.nanos() / (stop_cost(workers).nanos() - 2)
        };
        for below in [Pending, Missing] {
            assert_eq!(reserve(&[below, Running]), 2, "{below:?}");
            assert_eq!(reserve(&[Running, below]), 1, "{below:?}");
            assert_eq!(reserve(&[below, Running, below, below]), 2, "{below:?}");
        }
        assert_eq!(reserve(&[Pending, Missing]), 0);
    }
}

#[test]
fn nothing_that_runs_is_drained_for_what_is_taken_back_for_nothing() {
    let mut rng = Rng::with_seed(11);
    let mut taken = 0;
    for _ in 0..600 {
        let number = rng.usize(1..6);
        let slots: Vec<Slot> = (0..number)
            .map(|_| {
                *rng.choice(&[Slot::Running, Slot::Pending, Slot::Missing])
                    .unwrap()
            })
            .collect();
        let workers = rng.u32(0..3);
        // pods that never came are waited for no longer after five minutes
        let second = *rng.choice(&[1, 400]).unwrap();
        let mut model = model_of(&slots, workers);
        set_budget(&mut model, money("1000"));
        let reserve = budget_state(&mut model, 0).reserve;
        let more = stop_cost(workers).times(rng.u32(1..8)) + Money::from_nanos(50);
        let parts = rng.i128(1..5);
        let limit = reserve + Money::from_nanos(more.nanos() / parts);
        let replicas = u32::try_from(slots.len()).unwrap();
        settle(&mut model, second);
        set_budget(&mut model, limit);
        let state = budget_state(&mut model, second);
        assert_eq!(state.budget.latch, None, "{slots:?}");
        let what = format!("{slots:?}, {workers} workers, after {second} s");
        let service = model.service(&key()).unwrap();
        let highest = slots.iter().rposition(|slot| *slot == Slot::Running);
        let least = highest.map_or(0, |highest| u32::try_from(highest).unwrap() + 1);
        assert!(service.current >= least, "{what}: {}", service.current);
        taken += u32::from(service.current < replicas);
    }
    assert!(taken > 100, "{taken}");
}
