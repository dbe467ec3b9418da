//! Growth by what was learned: throughput, arrivals and start time, from readings to orders.

use bursar_core::ledger::EngineCounters;
use bursar_core::model::Model;
use bursar_core::model::event::{Deployment, Event, Reading, Rollout, Service};
use bursar_core::plan::Decisions;
use bursar_core::scaling::{Behavior, GrowthRule, LearnedThroughput, RequestSignal};
use jiff::SignedDuration;
use jiff::tz::TimeZone;

use crate::*;

/// A request is on a busy replica for so many seconds.
const EACH: u64 = 4;

fn growing() -> Service {
    Service {
        max: 40,
        growth: GrowthRule::Learned,
        ..service()
    }
}

/// So many requests on an engine that has answered so many.
fn counted(pod: &str, requests: u64, answered: u64) -> Event {
    let done = EngineCounters {
        requests: answered,
        output_tokens: 100 * answered,
        ..EngineCounters::default()
    };
    let moved = true;
    Event::Reading(
        pod.into(),
        Reading::Counted {
            requests,
            counting: Default::default(),
            moved,
            done,
        },
    )
}

/// One replica, which started within `start` seconds and is ready at second 0.
fn one_replica(spec: Service, start: i64) -> Model {
    let mut model = Model::new(TimeZone::UTC, at(-3600));
    let mut starting = ready_pod("a", 0);
    (starting.created, starting.ready_since) = (at(-start), None);
    let starting = Event::Pod("a".into(), Some(Box::new(starting)));
    let service = Event::Service(key(), Some(spec));
    let begin = [service, replicas(1), gateway(-1000), demand(0), starting];
    tell(&mut model, -start, begin);
    let mut ready = ready_pod("a", 0);
    ready.created = at(-start);
    tell(
        &mut model,
        0,
        [Event::Pod("a".into(), Some(Box::new(ready)))],
    );
    model
}

/// Eight requests on the replica in each of so many seconds: two a second are answered, and two arrive.
fn busy_for(model: &mut Model, from: i64, seconds: i64) -> Decisions {
    let mut last = tell(model, from, []);
    for second in from..=from + seconds {
        let answered = u64::try_from(second).unwrap() * 8 / EACH;
        last = tell(model, second, [counted("a", 8, answered)]);
    }
    last
}

fn reason(model: &Model) -> String {
    model.service(&key()).unwrap().decision.reason
}

fn asked(model: &Model) -> u32 {
    model.service(&key()).unwrap().decision.recommended
}

#[test]
fn the_plain_rule_holds_until_five_minutes_of_busy_replicas_were_read() {
    let mut model = one_replica(growing(), 60);
    busy_for(&mut model, 0, 299);
    let answered = 299 * 2;
    tell(&mut model, 299, [counted("a", 46, answered)]);
    assert_eq!(asked(&model), 6, "{}", reason(&model));
    assert_eq!(model.service(&key()).unwrap().learned, None);
    tell(&mut model, 299, [counted("a", 8, answered)]);
    busy_for(&mut model, 300, 0);
    tell(&mut model, 301, [counted("a", 46, 602)]);
    let learned = model.service(&key()).unwrap().learned.unwrap();
    let expected = LearnedThroughput {
        target: 8,
        request_millis: 1000 * EACH,
        tokens_per_second: 200,
        start: SignedDuration::from_secs(60),
    };
    assert!(
        learned.request_millis.abs_diff(1000 * EACH) < 50,
        "{learned:?}"
    );
    assert_eq!(
        LearnedThroughput {
            request_millis: 1000 * EACH,
            ..learned
        },
        expected
    );
    assert!(asked(&model) < 6, "{}", reason(&model));
}

#[test]
fn a_burst_starts_nothing_and_both_numbers_are_named() {
    let mut model = one_replica(growing(), 180);
    busy_for(&mut model, 0, 400);
    // the load before was one request a second
    for second in 401..1000 {
        let answered = 800 + u64::try_from(second - 400).unwrap();
        tell(&mut model, second, [counted("a", 4, answered)]);
    }
    tell(&mut model, 1000, [counted("a", 46, 1400)]);
    assert_eq!(asked(&model), 1, "{}", reason(&model));
    let reason = reason(&model);
    for part in [
        "queue depth 46 (46 on replicas, 0 held) / target 8 = 6",
        "a replica answers 2.0 requests a second",
        "a start takes 180 s: 1",
    ] {
        assert!(reason.contains(part), "{part:?} is not in {reason:?}");
    }
}

#[test]
fn what_lasts_starts_enough_before_the_queue_is_long() {
    let mut model = one_replica(growing(), 180);
    busy_for(&mut model, 0, 400);
    // six a second arrive, and one replica answers two
    let mut largest = (0, 0);
    for second in 401..=460 {
        let since = u64::try_from(second - 400).unwrap();
        tell(
            &mut model,
            second,
            [counted("a", 8 + 4 * since, 800 + 2 * since)],
        );
        largest = largest.max((asked(&model), second));
    }
    assert!(
        (4..=15).contains(&largest.0),
        "{largest:?}: {}",
        reason(&model)
    );
    let plain: u64 = (8 + 4 * 60) / 8;
    assert!(u64::from(largest.0) <= plain / 2, "{largest:?} and {plain}");
}

#[test]
fn held_requests_of_a_service_at_zero_ask_for_what_will_serve_them() {
    let mut model = one_replica(growing(), 3);
    busy_for(&mut model, 0, 400);
    tell(&mut model, 401, [Event::Pod("a".into(), None), replicas(0)]);
    tell(&mut model, 1000, []);
    tell(&mut model, 1003, [demand(46)]);
    assert!((1..3).contains(&asked(&model)), "{}", reason(&model));
}

#[test]
fn a_new_leader_begins_with_what_the_status_has_on_record() {
    let learned = LearnedThroughput {
        target: 8,
        request_millis: 1000 * EACH,
        tokens_per_second: 200,
        start: SignedDuration::from_secs(60),
    };
    let spec = Service {
        learned: Some(learned),
        ..growing()
    };
    let mut model = Model::new(TimeZone::UTC, at(-3600));
    let service = Event::Service(key(), Some(spec.clone()));
    let begin = [
        service,
        replicas(1),
        gateway(-1000),
        demand(0),
        pod("a", -100),
    ];
    tell(&mut model, 0, begin);
    assert_eq!(model.service(&key()).unwrap().learned, Some(learned));
    tell(&mut model, 0, [counted("a", 46, 0)]);
    // how many arrive is not known at first
    assert_eq!(asked(&model), 6, "{}", reason(&model));
    for second in 1..=60 {
        tell(
            &mut model,
            second,
            [counted("a", 2, u64::try_from(second).unwrap())],
        );
    }
    tell(&mut model, 61, [counted("a", 46, 61)]);
    assert!(asked(&model) <= 3, "{}", reason(&model));
    // what it learned itself is not replaced by what its status says later
    let slower = LearnedThroughput {
        target: 8,
        request_millis: 60_000,
        ..learned
    };
    let edited = Service {
        learned: Some(slower),
        ..spec
    };
    tell(&mut model, 62, [Event::Service(key(), Some(edited))]);
    let known = model.service(&key()).unwrap().learned.unwrap();
    assert!(known.request_millis < 5000, "{known:?}");
}

#[test]
fn a_rollout_forgets_how_fast_the_former_replicas_were() {
    let mut model = one_replica(growing(), 60);
    busy_for(&mut model, 0, 400);
    assert!(model.service(&key()).unwrap().learned.is_some());
    let mut deployment = Deployment {
        replicas: 1,
        first_ordinal: None,
        rollout: Some(Rollout {
            replaces: true,
            ..Rollout::default()
        }),
        creation_failure: None,
    };
    tell(
        &mut model,
        401,
        [Event::Deployment(key(), Some(deployment.clone()))],
    );
    assert_eq!(model.service(&key()).unwrap().learned, None);
    deployment.rollout = None;
    tell(
        &mut model,
        402,
        [Event::Deployment(key(), Some(deployment))],
    );
    tell(&mut model, 403, [counted("a", 46, 803)]);
    assert_eq!(asked(&model), 6);
}

/// A new replica that has answered nothing shows no counters, whatever is on it.
#[test]
fn an_engine_without_counters_yet_forgets_nothing() {
    let mut model = one_replica(growing(), 60);
    busy_for(&mut model, 0, 400);
    let learned = model.service(&key()).unwrap().learned;
    assert!(learned.is_some());
    tell(&mut model, 401, [pod("b", 401), replicas(2)]);
    for (second, requests) in [(402, 0), (403, 5), (404, 12)] {
        tell(&mut model, second, [reading("b", requests)]);
        assert_eq!(model.service(&key()).unwrap().learned, learned);
    }
    tell(&mut model, 405, [counted("b", 11, 1)]);
    assert_eq!(model.service(&key()).unwrap().learned, learned);
}

/// It would be taken for one whose requests are never answered.
#[test]
fn an_engine_that_answers_and_counts_nothing_forgets_how_fast_replicas_are() {
    let mut model = one_replica(growing(), 60);
    busy_for(&mut model, 0, 400);
    tell(&mut model, 401, [pod("b", 401), replicas(2)]);
    tell(&mut model, 402, [reading("b", 5)]);
    tell(&mut model, 403, [reading("b", 4)]);
    assert_eq!(model.service(&key()).unwrap().learned, None);
}

/// It has ended its container and started again.
#[test]
fn an_engine_that_crashes_forgets_nothing() {
    let mut model = one_replica(growing(), 60);
    busy_for(&mut model, 0, 400);
    let learned = model.service(&key()).unwrap().learned;
    let stale = Event::Reading("a".into(), Reading::Stale("connection refused".into()));
    tell(&mut model, 401, [stale]);
    tell(&mut model, 430, [reading("a", 0)]);
    assert_eq!(model.service(&key()).unwrap().learned, learned);
    assert!(learned.is_some());
}

/// Hours after the last request, whatever it is that cannot be heard.
#[test]
fn nothing_known_wakes_no_service_whatever_was_learned() {
    let mut model = one_replica(growing(), 180);
    busy_for(&mut model, 0, 400);
    tell(&mut model, 401, [Event::Pod("a".into(), None), replicas(0)]);
    tell(&mut model, 460, []);
    let silent = Event::Silent("gateway".into(), "no connection within 3 s".into());
    tell(&mut model, 8000, [silent]);
    for second in 8001..8100 {
        assert_eq!(tell(&mut model, second, []).service_orders, [], "{second}");
    }
    let decision = model.service(&key()).unwrap().decision;
    assert!(decision.reason.contains("unknown"), "{}", decision.reason);
}

#[test]
fn an_engine_that_cannot_be_read_takes_nothing_away_and_what_is_known_adds() {
    let mut model = one_replica(growing(), 60);
    busy_for(&mut model, 0, 400);
    let before = model.service(&key()).unwrap().decision.desired;
    let stale = Event::Reading("a".into(), Reading::Stale("no answer".into()));
    tell(&mut model, 401, [stale]);
    assert_eq!(model.service(&key()).unwrap().decision.desired, before);
    tell(&mut model, 402, [demand(4000)]);
    let decision = model.service(&key()).unwrap().decision;
    assert!(decision.desired > 10, "{}", decision.reason);
    assert!(
        decision.reason.contains("more may be unknown"),
        "{}",
        decision.reason
    );
}

#[test]
fn a_lower_number_is_followed_after_the_time_of_a_start_unless_the_service_says_otherwise() {
    for (window, start, expected) in [
        (None, 3, 60),
        (None, 120, 120),
        (None, 900, 300),
        (Some(10), 120, 10),
    ] {
        let spec = Service {
            min: 1,
            behavior: Behavior::with_scale_down_window(window.map(SignedDuration::from_secs)),
            ..growing()
        };
        let mut model = one_replica(spec, start);
        busy_for(&mut model, 0, 400);
        tell(&mut model, 401, [pod("b", 401), pod("c", 401), replicas(3)]);
        let busy = [
            counted("a", 200, 802),
            counted("b", 200, 0),
            counted("c", 200, 0),
        ];
        tell(&mut model, 402, busy);
        let mut kept_until = 0;
        for second in 403..1500 {
            let idle = [counted("a", 0, 802), counted("b", 1, 0), counted("c", 0, 0)];
            tell(&mut model, second, idle);
            let decision = model.service(&key()).unwrap().decision;
            if decision.desired >= 3 {
                kept_until = second;
            }
        }
        // some seconds more, until the rate of arrivals has fallen
        let kept = kept_until - 402;
        assert!(
            (expected - 1..expected + 130).contains(&kept),
            "{window:?} {start}: {kept}"
        );
    }
}

#[test]
fn a_service_at_rest_is_not_looked_at_again_and_again() {
    let spec = Service {
        min: 1,
        idle_after: SignedDuration::from_secs(60),
        ..growing()
    };
    let mut model = one_replica(spec, 180);
    busy_for(&mut model, 0, 400);
    tell(&mut model, 401, [counted("a", 0, 808)]);
    let mut looks = 0;
    while let Some(next) = model.next_timer() {
        looks += 1;
        assert!(looks < 500, "{}", reason(&model));
        decide(&mut model, next);
    }
    assert!(looks > 10, "arrivals that stop are learned too: {looks}");
    // nothing can be forecast where no start was seen
    let mut model = Model::new(TimeZone::UTC, at(-3600));
    let service = Event::Service(
        key(),
        Some(Service {
            min: 1,
            ..growing()
        }),
    );
    let begin = [
        service,
        replicas(1),
        gateway(-1000),
        demand(0),
        pod("a", -100),
    ];
    tell(&mut model, 0, begin);
    busy_for(&mut model, 1, 400);
    assert_eq!(
        model.next_timer(),
        Some(at(701)),
        "when its counters have stood still"
    );
}

/// What it asks for with so many requests more than before, all on the first replica.
fn asked_with(model: &mut Model, second: i64, requests: u64) -> u32 {
    let answered = 2 * u64::try_from(second).unwrap();
    tell(model, second, [counted("a", requests, answered)]);
    asked(model)
}

#[test]
fn an_order_that_its_controller_has_not_seen_yet_is_no_rollout() {
    let mut model = one_replica(growing(), 60);
    busy_for(&mut model, 0, 400);
    let learned = model.service(&key()).unwrap().learned;
    let behind = Deployment {
        replicas: 3,
        first_ordinal: None,
        rollout: Some(Rollout::default()),
        creation_failure: None,
    };
    tell(&mut model, 401, [Event::Deployment(key(), Some(behind))]);
    assert!(learned.is_some());
    assert_eq!(model.service(&key()).unwrap().learned, learned);
}

#[test]
fn what_was_learned_with_another_target_is_forgotten() {
    let mut model = one_replica(growing(), 60);
    busy_for(&mut model, 0, 400);
    let edited = Service {
        request_signal: RequestSignal::Target(64),
        ..growing()
    };
    tell(
        &mut model,
        401,
        [Event::Service(key(), Some(edited.clone()))],
    );
    assert_eq!(model.service(&key()).unwrap().learned, None);
    // nor is it recalled with another one
    let learned = LearnedThroughput {
        target: 8,
        request_millis: 4000,
        tokens_per_second: 0,
        start: SignedDuration::from_secs(60),
    };
    let recalled = Service {
        learned: Some(learned),
        ..edited
    };
    let mut model = one_replica(recalled, 60);
    tell(&mut model, 1, []);
    assert_eq!(model.service(&key()).unwrap().learned, None);
}

#[test]
fn what_came_while_demand_was_unknown_has_not_come_at_once() {
    let mut model = one_replica(growing(), 60);
    busy_for(&mut model, 0, 400);
    for second in 401..700 {
        tell(
            &mut model,
            second,
            [counted("a", 4, 2 * u64::try_from(second).unwrap())],
        );
    }
    assert_eq!(asked_with(&mut model, 700, 4), 1);
    let silent = Event::Silent("gateway".into(), "no answer".into());
    tell(&mut model, 701, [silent]);
    for second in 702..1300 {
        tell(
            &mut model,
            second,
            [counted("a", 4, 2 * u64::try_from(second).unwrap())],
        );
    }
    tell(&mut model, 1300, [demand(0)]);
    assert_eq!(asked_with(&mut model, 1301, 4), 1, "{}", reason(&model));
}

/// Prompts that take ten times as long: what a replica answers now is believed sooner than what it
/// answered in the last minutes.
#[test]
fn replicas_that_are_far_slower_than_before_follow_the_plain_rule_within_a_minute() {
    let mut model = one_replica(growing(), 300);
    busy_for(&mut model, 0, 600);
    let read = |model: &mut Model, since: u64| {
        let second = 600 + i64::try_from(since).unwrap();
        let (arrived, answered) = (since / 2, since / 5);
        let queue = 8 + arrived - answered;
        tell(model, second, [counted("a", queue, 1200 + answered)]);
        queue
    };
    for since in 1..=20 {
        read(&mut model, since);
    }
    assert_eq!(asked(&model), 1, "{}", reason(&model));
    let mut queue = 0;
    for since in 21..=62 {
        queue = read(&mut model, since);
    }
    assert_eq!(
        u64::from(asked(&model)),
        queue.div_ceil(8),
        "{}",
        reason(&model)
    );
    // once it is fast again, and that was seen, its past counts again
    for second in 700..1000 {
        let answered = 1240 + 2 * u64::try_from(second - 700).unwrap();
        tell(&mut model, second, [counted("a", 8, answered)]);
    }
    tell(&mut model, 1000, [counted("a", 30, 1840)]);
    assert!(reason(&model).contains("learned"), "{}", reason(&model));
}

#[test]
fn a_clock_that_is_set_back_adds_up_nothing() {
    let mut model = one_replica(growing(), 60);
    busy_for(&mut model, 0, 900);
    for second in 301..900 {
        let answered = 1800 + 2 * u64::try_from(second - 300).unwrap();
        tell(&mut model, second, [counted("a", 4, answered)]);
    }
    assert!(asked(&model) <= 2, "{}", reason(&model));
}

#[test]
fn a_replica_that_has_crashed_does_not_count_as_one_that_serves() {
    let ask = |crashed: bool| {
        let mut model = one_replica(growing(), 180);
        busy_for(&mut model, 0, 400);
        let mut second = ready_pod("b", 401);
        tell(
            &mut model,
            401,
            [
                Event::Pod("b".into(), Some(Box::new(second.clone()))),
                replicas(2),
            ],
        );
        tell(&mut model, 402, [counted("b", 0, 0)]);
        if crashed {
            second.ready_since = None;
            second.start_failure = Some(("CrashLoopBackOff".into(), at(403)));
            tell(
                &mut model,
                403,
                [Event::Pod("b".into(), Some(Box::new(second)))],
            );
        }
        for second in 404..=500 {
            let answered = 2 * u64::try_from(second).unwrap();
            let more = u64::try_from(second - 404).unwrap();
            tell(&mut model, second, [counted("a", 8 + more, answered)]);
        }
        asked(&model)
    };
    assert_eq!(ask(false), 2);
    assert!(ask(true) > 2, "{}", ask(true));
}

#[test]
fn a_deployment_that_somebody_gave_a_billion_replicas_costs_no_memory() {
    let mut model = one_replica(growing(), 60);
    busy_for(&mut model, 0, 400);
    tell(&mut model, 401, [replicas(2_000_000_000)]);
    tell(&mut model, 402, [counted("a", 46, 806)]);
    assert!(asked(&model) <= 40);
}
