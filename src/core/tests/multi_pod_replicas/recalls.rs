//! A replica that leaves and comes back instead of a new one is paid for at what its own pods cost.

use super::*;

/// A service of one GPU that has one replica, which leaves and has more than its template.
fn model_with(gpus: u32, leaving: impl Fn(Pod) -> Pod) -> Model {
    let mut model = model();
    let spec = Service {
        min: 1,
        ..service(1, 0, 0)
    };
    set_service(&mut model, spec);
    set_plain_replicas(&mut model, 1);
    let pod = Pod {
        draining_since: Some(at(-30)),
        ..pod_of("dear", shape(gpus), true)
    };
    tell(&mut model, leaving(pod), 0);
    model
}

/// A Deployment of so many replicas.
fn set_plain_replicas(model: &mut Model, replicas: u32) {
    let deployment = Deployment {
        replicas,
        first_ordinal: None,
        rollout: None,
        creation_failure: None,
    };
    model.apply(Event::Deployment(key(), Some(deployment)), at(0));
}

/// What stopping a pod of so many GPUs costs from now on, if it takes so long.
fn stop_cost(gpus: u32, seconds: i64) -> Money {
    (money("2").times(gpus)).cost_for_seconds_rounded_up(seconds)
}

#[test]
fn a_recall_that_there_is_no_money_for_exhausts_no_budget() {
    let whole = DRAIN + GRACE + SLACK;
    // it has drained for half a minute, and a new replica could be paid for beside that
    let limit = stop_cost(5, whole - 30) + stop_cost(1, whole) + Money::from_nanos(10);
    assert!(limit < stop_cost(5, whole));
    let mut model = model_with(5, |pod| pod);
    set_budget(&mut model, limit);
    let state = budget_state(&mut model, 0);
    assert_eq!((state.budget.latch, allowed(&model)), (None, 0));
    let orders = settle(&mut model, 40).service_orders;
    let removed = orders.iter().flat_map(|order| &order.remove).count();
    assert_eq!(removed, 1, "it leaves: {orders:?}");
}

#[test]
fn what_was_given_up_may_come_back_until_it_is_deleted() {
    let limit = stop_cost(2, DRAIN + GRACE + SLACK);
    for is_marked in [true, false] {
        let pending = |pod: Pod| Pod {
            node: None,
            ready_since: None,
            marked_for_deletion: is_marked,
            ..pod
        };
        let mut model = model_with(5, pending);
        set_budget(&mut model, limit);
        settle(&mut model, 0);
        assert_eq!(allowed(&model), 0, "marked: {is_marked}");
        set_plain_replicas(&mut model, 0);
        settle(&mut model, 0);
        assert_eq!(allowed(&model), 0, "marked: {is_marked}");
        let deleted = Pod {
            deletion: Some(at(GRACE)),
            draining_since: Some(at(-30)),
            marked_for_deletion: true,
            ..pod_of("dear", shape(5), false)
        };
        tell(&mut model, deleted, 1);
        settle(&mut model, 1);
        assert_eq!(allowed(&model), 1, "marked: {is_marked}");
    }
}

#[test]
fn no_order_exhausts_a_budget_whichever_replicas_come_back() {
    let mut rng = Rng::with_seed(5);
    let (mut looked, mut recalled) = (0, 0);
    while looked < 1500 {
        let mut model = model();
        let workers = rng.u32(0..3);
        let spec = Service {
            min: rng.u32(0..5),
            ..service(1, workers, 1)
        };
        set_service(&mut model, spec);
        let replicas = rng.u32(0..5);
        match rng.bool() {
            true => set_replicas(&mut model, replicas, 0),
            false => set_plain_replicas(&mut model, replicas),
        }
        for group in 0..rng.u32(0..5) {
            let has_node = rng.bool();
            let leads = Pod {
                draining_since: rng.bool().then(|| at(-rng.i64(0..60))),
                marked_for_deletion: rng.u8(0..4) == 0,
                ..leader(group, rng.u32(1..7), has_node)
            };
            tell(&mut model, leads, 0);
            for index in 1..=rng.u32(0..workers + 1) {
                let works = worker(group, index, rng.u32(1..4), has_node && rng.bool());
                tell(&mut model, works, 0);
            }
        }
        let limit = stop_cost(rng.u32(1..60), DRAIN + GRACE + SLACK) + Money::from_nanos(100);
        set_budget(&mut model, limit);
        let mut as_is = model.clone().observing();
        decide(&mut as_is, at(0));
        if as_is.budget(&budget_key()).unwrap().budget.latch.is_some() {
            continue;
        }
        looked += 1;
        let orders = settle(&mut model, 0).service_orders;
        recalled += orders.iter().filter(|order| !order.keep.is_empty()).count();
        let latch = model.budget(&budget_key()).unwrap().budget.latch;
        assert_eq!(latch, None, "{orders:?}");
    }
    assert!(recalled > 100, "{recalled}");
}
