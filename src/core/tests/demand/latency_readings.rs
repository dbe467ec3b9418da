//! Of which requests and which first tokens measurements of latencies are made: replicas that cannot be read
//! for a while, that leave, and that show their requests late.

use bursar_core::model::Model;
use bursar_core::model::event::{Counting, Deployment, Event, Reading, Rollout, Service};
use bursar_core::scaling::RequestSignal;

use crate::measures::{allowed, busy_for, counted, first_tokens, model_of, quick, reason};
use crate::*;

#[test]
fn a_replica_that_cannot_be_read_now_and_then_does_not_keep_an_overloaded_service_from_being_measured()
 {
    let mut model = model_of(quick(), &["a", "b"]);
    let mut most = 0;
    for second in 1..300 {
        // once it has many requests, its page times out for ten seconds of each forty
        let is_silent = second >= 20 && (second - 20) % 40 < 11;
        if is_silent {
            busy_for(&mut model, second..second + 1, &["a"], 10, true);
            let silent = Event::Reading("b".into(), Reading::Stale("no answer".into()));
            tell(&mut model, second, [silent]);
        } else {
            busy_for(&mut model, second..second + 1, &["a", "b"], 10, true);
        }
        most = most.max(allowed(&model));
    }
    assert_eq!(most, 4, "{}", reason(&model));
}

#[test]
fn a_probe_that_fails_now_and_then_does_not_keep_an_overloaded_service_from_being_measured() {
    let mut model = model_of(quick(), &["a"]);
    for second in 1..300 {
        if second % 25 == 0 {
            let mut unready = ready_pod("a", -600);
            (unready.ready_since, unready.was_ready) = (None, true);
            tell(
                &mut model,
                second,
                [Event::Pod("a".into(), Some(Box::new(unready)))],
            );
        }
        if second % 25 == 2 {
            tell(&mut model, second, [pod("a", second)]);
        }
        busy_for(&mut model, second..second + 1, &["a"], 10, true);
    }
    assert_eq!(allowed(&model), 2, "{}", reason(&model));
}

#[test]
fn nothing_is_measured_before_requests_have_found_a_replica_that_takes_the_place_of_another() {
    let mut model = model_of(quick(), &["a", "b"]);
    busy_for(&mut model, 1..20, &["a", "b"], 10, true);
    // as many as before, and one of them is new
    let begins = [counted("c", 10, 40), first_tokens("c", 0, 40)];
    let change = [Event::Pod("b".into(), None), pod("c", 20)];
    tell(&mut model, 20, change.into_iter().chain(begins));
    busy_for(&mut model, 20..70, &["a", "c"], 10, true);
    assert_eq!(allowed(&model), 2, "{}", reason(&model));
    busy_for(&mut model, 70..90, &["a", "c"], 10, true);
    assert_eq!(allowed(&model), 4, "{}", reason(&model));
}

#[test]
fn a_replica_that_leaves_adds_no_latencies_as_it_adds_no_requests() {
    let service = Service { min: 2, ..quick() };
    let mut model = model_of(service, &["a", "b", "c", "d"]);
    for name in ["c", "d"] {
        let mut leaving = ready_pod(name, -600);
        leaving.draining_since = Some(at(0));
        tell(
            &mut model,
            1,
            [Event::Pod(name.into(), Some(Box::new(leaving)))],
        );
    }
    for second in 1..100 {
        busy_for(&mut model, second..second + 1, &["a", "b"], 2, false);
        // what waited there is slow
        busy_for(&mut model, second..second + 1, &["c", "d"], 30, true);
    }
    let why = reason(&model);
    let fast = "p95 0.095 s, objective 0.5 s (2 requests a replica, 4 are expected to meet it)";
    assert!(why.contains(fast), "{why}");
}

/// What an engine shows that counts requests at their end.
fn counted_late(pod: &str, requests: u64) -> Event {
    let reading = Reading::Counted {
        requests,
        counting: Counting::Late,
        moved: true,
        done: Default::default(),
    };
    Event::Reading(pod.into(), reading)
}

#[test]
fn latencies_of_engines_whose_requests_do_not_show_yet_tell_nothing() {
    let service = Service { min: 2, ..quick() };
    let mut model = model_of(service, &["a", "b"]);
    let run = |model: &mut Model, seconds: std::ops::Range<i64>, requests| {
        for second in seconds {
            let all = 2 * u64::try_from(second).unwrap();
            let shown = ["a", "b"].into_iter();
            let shown =
                shown.flat_map(|pod| [counted_late(pod, requests), first_tokens(pod, 0, all)]);
            tell(model, second, shown);
        }
    };
    // each has ten that take longer than this
    run(&mut model, 1..60, 0);
    let why = reason(&model);
    assert!(!why.contains("not met"), "{why}");
    run(&mut model, 60..100, 10);
    let why = reason(&model);
    assert!(
        why.contains("10 requests a replica have missed it"),
        "{why}"
    );
    assert_eq!(allowed(&model), 4, "{why}");
}

#[test]
fn an_objective_of_which_too_little_is_known_holds_no_replica_that_another_signal_lets_go() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let with_depth = Service {
        request_signal: RequestSignal::Target(64),
        ..quick()
    };
    for (service, expected) in [(with_depth, 1), (quick(), 6)] {
        let mut model = model_of(service, &names);
        // two long requests on each, and eight first tokens in two minutes
        let few = |second: i64| u64::try_from(second / 15).unwrap();
        let mut least = 6;
        for second in 1..240 {
            let first = first_tokens("a", few(second), few(second));
            let busy = names.iter().map(|pod| counted(pod, 2, few(second)));
            let others = names[1..].iter().map(|pod| first_tokens(pod, 0, 0));
            tell(&mut model, second, busy.chain(others).chain([first]));
            if second < 120 {
                assert_eq!(allowed(&model), 6, "at {second} s: {}", reason(&model));
            }
            least = least.min(allowed(&model));
        }
        assert_eq!(least, expected, "{}", reason(&model));
    }
}

#[test]
fn a_long_rollout_leaves_a_busy_service_its_replicas_though_nothing_is_measured() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let service = Service {
        request_signal: RequestSignal::Target(64),
        ..quick()
    };
    let mut model = model_of(service, &names);
    busy_for(&mut model, 1..40, &names, 10, true);
    let deployment = Deployment {
        replicas: 6,
        first_ordinal: None,
        rollout: Some(Rollout {
            replaces: true,
            ..Rollout::default()
        }),
        creation_failure: None,
    };
    tell(&mut model, 40, [Event::Deployment(key(), Some(deployment))]);
    for second in 41..400 {
        busy_for(&mut model, second..second + 1, &names, 10, true);
        assert!(allowed(&model) >= 6, "at {second} s: {}", reason(&model));
    }
}
