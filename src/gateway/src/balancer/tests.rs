use prometheus_client::registry::Registry;

use super::*;

fn balancer() -> Arc<Balancer> {
    let metrics = Metrics::new(&mut Registry::default());
    let balancers = Balancers::new(ServiceRoutes::default(), metrics);
    balancers.get(&("ns".into(), "chat".into()))
}

fn address(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 8000))
}

fn route(count: u8) -> Arc<Route> {
    Arc::new(Route {
        ready: (1..=count).map(address).collect(),
        ..Route::default()
    })
}

fn pick(balancer: &Arc<Balancer>, route: &Arc<Route>, now: Instant) -> Option<ReplicaGuard> {
    match balancer.pick(route, &Choice::default(), now) {
        Pick::Replica(replica) => Some(replica),
        Pick::Busy { .. } | Pick::NoneLeft => None,
    }
}

#[test]
fn a_replica_that_failed_is_left_out_longer_each_time_and_comes_back_by_one_request() {
    let (balancer, route, mut now) = (balancer(), route(2), Instant::now());
    let mut others = Vec::new();
    for seconds in [2, 4, 8, 16, 32, 60, 60] {
        let failed = loop {
            // the other one gets what this one does not
            match pick(&balancer, &route, now).unwrap() {
                picked if picked.address() == address(1) => break picked,
                picked => others.push(picked),
            }
        };
        failed.failed(now, "refused");
        let almost = now + Duration::from_secs(seconds) - Duration::from_millis(1);
        for _ in 0..20 {
            let picked = pick(&balancer, &route, almost).unwrap();
            assert_eq!(picked.address(), address(2), "{seconds}");
            others.push(picked);
        }
        now += Duration::from_secs(seconds);
    }
    let mut probe = pick(&balancer, &route, now).unwrap();
    assert_eq!(probe.address(), address(1));
    let second = pick(&balancer, &route, now).unwrap();
    assert_eq!(second.address(), address(2), "one request at a time");
    probe.answered();
    let third = pick(&balancer, &route, now).unwrap();
    assert_eq!(third.address(), address(1));
}

#[test]
fn a_request_that_is_long_at_work_keeps_nobody_off_its_replica() {
    let (balancer, route, now) = (balancer(), route(1), Instant::now());
    pick(&balancer, &route, now).unwrap().failed(now, "refused");
    let probe_at = now + RETRY_PAUSE;
    // its answer takes minutes to begin
    let _probe = pick(&balancer, &route, probe_at).unwrap();
    let busy = balancer.pick(&route, &Choice::default(), probe_at);
    let until = probe_at + PROBE_TIME;
    assert!(
        matches!(busy, Pick::Busy { until: Some(at) } if at == until),
        "{busy:?}"
    );
    assert!(pick(&balancer, &route, until).is_some());
}

#[test]
fn replicas_are_never_all_left_out_and_one_request_at_a_time_tries_each() {
    let (balancer, route, now) = (balancer(), route(2), Instant::now());
    let both: Vec<_> = (0..2)
        .map(|_| pick(&balancer, &route, now).unwrap())
        .collect();
    for replica in both {
        replica.failed(now, "refused");
    }
    let busy = balancer.pick(&route, &Choice::default(), now);
    let retry_at = now + RETRY_PAUSE;
    assert!(matches!(busy, Pick::Busy { until } if until == Some(retry_at)));
    let tries: Vec<_> = (0..2)
        .map(|_| pick(&balancer, &route, retry_at).unwrap().address)
        .collect();
    // both guards are dropped at once: the requests went away
    assert_eq!(tries.len(), 2);
    let first = pick(&balancer, &route, retry_at).unwrap();
    let second = pick(&balancer, &route, retry_at).unwrap();
    assert_ne!(first.address(), second.address());
    assert!(pick(&balancer, &route, retry_at).is_none());
}

#[test]
fn requests_that_fail_together_count_as_one_failure() {
    let (balancer, route, now) = (balancer(), route(2), Instant::now());
    let all = (0..20).map(|_| pick(&balancer, &route, now).unwrap());
    // the requests on the other one go on, so that nothing is left to chance
    let (failing, _others): (Vec<_>, Vec<_>) =
        all.partition(|replica| replica.address() == address(1));
    for replica in failing {
        replica.failed(now, "reset");
    }
    let later = now + FIRST_EJECTION;
    assert_eq!(
        pick(&balancer, &route, later).unwrap().address(),
        address(1)
    );
}

#[test]
fn a_replica_that_was_not_ready_for_a_time_begins_anew() {
    let (balancer, one, now) = (balancer(), route(1), Instant::now());
    pick(&balancer, &one, now).unwrap().failed(now, "refused");
    assert!(pick(&balancer, &one, now).is_none());
    let empty = balancer.pick(&route(0), &Choice::default(), now);
    assert!(matches!(empty, Pick::NoneLeft));
    assert!(pick(&balancer, &one, now).is_some());
}

#[test]
fn a_request_takes_no_replica_that_it_has_tried() {
    let (balancer, route, now) = (balancer(), route(2), Instant::now());
    let tried = [address(1)];
    let choice = Choice {
        tried: &tried,
        ..Choice::default()
    };
    for _ in 0..10 {
        let Pick::Replica(replica) = balancer.pick(&route, &choice, now) else {
            unreachable!("one is left");
        };
        assert_eq!(replica.address(), address(2));
    }
    let tried = [address(1), address(2)];
    let choice = Choice {
        tried: &tried,
        ..Choice::default()
    };
    let pick = balancer.pick(&route, &choice, now);
    assert!(matches!(pick, Pick::NoneLeft));
}

#[test]
fn the_least_busy_takes_the_next_and_the_limit_holds() {
    let (balancer, route, now) = (balancer(), route(3), Instant::now());
    let limited = Choice {
        max_in_flight: Some(4),
        ..Choice::default()
    };
    let mut guards = Vec::new();
    while let Pick::Replica(replica) = balancer.pick(&route, &limited, now) {
        guards.push(replica);
    }
    assert_eq!(guards.len(), 12);
    let on_first = |guards: &[ReplicaGuard]| {
        let on = |guard: &&ReplicaGuard| guard.address() == address(1);
        guards.iter().filter(on).count()
    };
    assert_eq!(on_first(&guards), 4);
    guards.retain(|guard| guard.address() != address(1));
    assert_eq!(
        pick(&balancer, &route, now).unwrap().address(),
        address(1),
        "what ended no longer counts"
    );
}

#[tokio::test(start_paused = true)]
async fn the_queue_goes_in_order_and_a_request_that_leaves_it_stops_nobody() {
    let (balancer, route, now) = (balancer(), route(1), Instant::now());
    fn limited(ticket: Option<&Ticket>) -> Choice<'_> {
        Choice {
            max_in_flight: Some(1),
            ticket,
            ..Choice::default()
        }
    }
    let running = pick(&balancer, &route, now).unwrap();
    let enqueue = || balancer.enqueue(3).unwrap();
    let (first, second, third) = (enqueue(), enqueue(), enqueue());
    assert!(balancer.enqueue(3).is_none(), "the queue is full");
    drop(running);
    let turn = tokio::time::timeout(Duration::from_secs(1), first.turn()).await;
    assert!(turn.is_ok(), "it is told");
    for behind in [None, Some(&second)] {
        let pick = balancer.pick(&route, &limited(behind), now);
        assert!(matches!(pick, Pick::Busy { .. }), "it is not its turn");
    }
    // the client of the first one goes away
    drop(first);
    second.turn().await;
    let pick = balancer.pick(&route, &limited(Some(&second)), now);
    assert!(matches!(pick, Pick::Replica(_)));
    drop(second);
    third.turn().await;
    drop(pick);
    let pick = balancer.pick(&route, &limited(Some(&third)), now);
    assert!(matches!(pick, Pick::Replica(_)));
}
