//! Measures of engines and of gateways: how full KV caches are, requests at gateways, latencies.

use std::sync::Arc;

use bursar_core::ledger::EngineCounters;
use bursar_core::model::Model;
use bursar_core::model::event::{EngineMeasures, Event, HeldRequests, Reading, Service};
use bursar_core::plan::LimitedBy;
use bursar_core::scaling::{
    Activation, Bucket, LatencyHistogram, LatencyMeasure, Milli, RequestSignal, SignalRule,
    UNBOUNDED,
};
use jiff::SignedDuration;
use jiff::tz::TimeZone;

use crate::*;

pub(crate) const TTFT: LatencyMeasure = LatencyMeasure::TimeToFirstToken;

/// A service of at most 20 replicas that follows one signal, and whose requests keep one.
pub(crate) fn following(rule: SignalRule) -> Service {
    Service {
        max: 20,
        request_signal: RequestSignal::Activity,
        signals: vec![("measure".into(), rule)],
        ..service()
    }
}

/// A model of this service with so many replicas, each ready for long.
pub(crate) fn model_of(service: Service, names: &[&str]) -> Model {
    let mut model = Model::new(TimeZone::UTC, at(-3600));
    let count = u32::try_from(names.len()).unwrap();
    let start = [Event::Service(key(), Some(service)), replicas(count)];
    let pods = names.iter().map(|name| pod(name, -600));
    let gateways = [gateway(-600), demand(0)];
    tell(&mut model, 0, start.into_iter().chain(pods).chain(gateways));
    model
}

/// So many requests on an engine that has answered so many.
pub(crate) fn counted(pod: &str, requests: u64, answered: u64) -> Event {
    let done = EngineCounters {
        requests: answered,
        ..EngineCounters::default()
    };
    let reading = Reading::Counted {
        requests,
        counting: Default::default(),
        moved: true,
        done,
    };
    Event::Reading(pod.into(), reading)
}

/// The part of its KV cache that an engine uses, in thousandths.
fn cache(pod: &str, part: Result<u64, &str>) -> Event {
    let measures = EngineMeasures {
        kv_cache_use: Some(part.map(Milli).map_err(Into::into)),
        ..EngineMeasures::default()
    };
    Event::EngineMeasures(pod.into(), measures)
}

/// How many first tokens an engine has written so far, within 100 ms and in all, of which none took more
/// than two seconds.
pub(crate) fn first_tokens(pod: &str, fast: u64, all: u64) -> Event {
    let buckets = [(100_000, fast), (2_000_000, all), (UNBOUNDED, all)];
    let buckets = buckets.map(|(bound, count)| Bucket { bound, count });
    let histogram = LatencyHistogram::new(buckets.to_vec()).unwrap();
    let measures = EngineMeasures {
        latencies: [(TTFT, Ok(Arc::new(histogram)))].into(),
        ..EngineMeasures::default()
    };
    Event::EngineMeasures(pod.into(), measures)
}

pub(crate) fn allowed(model: &Model) -> u32 {
    model.service(&key()).unwrap().decision.allowed
}

pub(crate) fn reason(model: &Model) -> String {
    model.service(&key()).unwrap().decision.reason
}

#[test]
fn caches_that_are_fuller_than_their_target_as_a_mean_ask_for_more_replicas() {
    let mut model = model_of(following(SignalRule::KvCacheUse(Milli(800))), &["a", "b"]);
    let busy = [counted("a", 9, 0), counted("b", 9, 0)];
    let full = [cache("a", Ok(950)), cache("b", Ok(700))];
    tell(&mut model, 1, busy.into_iter().chain(full));
    assert_eq!(allowed(&model), 3, "{}", reason(&model));
    let expected = "measure 82.5 % of 2 replicas / target 80 % = 3";
    assert!(reason(&model).contains(expected), "{}", reason(&model));
    // while the third one starts, the same caches ask for the same
    tell(&mut model, 20, [replicas(3)]);
    assert_eq!(allowed(&model), 3);
    tell(&mut model, 21, [cache("a", Ok(400)), cache("b", Ok(390))]);
    tell(&mut model, 52, []);
    assert_eq!(allowed(&model), 1, "{}", reason(&model));
}

#[test]
fn a_cache_neither_wakes_a_service_nor_keeps_it_awake() {
    let mut model = model_of(following(SignalRule::KvCacheUse(Milli(800))), &["a"]);
    // blocks that are kept for prompts that come again
    tell(&mut model, 1, [counted("a", 0, 0), cache("a", Ok(600))]);
    tell(&mut model, 60, []);
    assert_eq!(allowed(&model), 1);
    tell(&mut model, 62, []);
    assert_eq!(allowed(&model), 0, "{}", reason(&model));
    tell(&mut model, 63, [Event::Pod("a".into(), None), replicas(0)]);
    let decision = model.service(&key()).unwrap().decision;
    assert_eq!((decision.allowed, decision.unknown), (0, None));
}

#[test]
fn a_measure_that_was_not_asked_for_meanwhile_is_not_read_yet() {
    let follows = following(SignalRule::KvCacheUse(Milli(800)));
    let mut model = model_of(follows.clone(), &["a", "b"]);
    let busy = ["a", "b"].map(|pod| counted(pod, 1, 0));
    let full = ["a", "b"].map(|pod| cache(pod, Ok(700)));
    tell(&mut model, 1, busy.into_iter().chain(full));
    let without = Service {
        signals: vec![],
        ..follows.clone()
    };
    tell(&mut model, 2, [Event::Service(key(), Some(without))]);
    let strict = following(SignalRule::KvCacheUse(Milli(100)));
    tell(&mut model, 20, [Event::Service(key(), Some(strict))]);
    let decision = model.service(&key()).unwrap().decision;
    assert_eq!(decision.allowed, 2, "{}", decision.reason);
    let why = decision.unknown.unwrap();
    assert!(why.contains("not read yet"), "{why}");
}

#[test]
fn latencies_of_other_metrics_are_not_compared() {
    let mut model = model_of(quick(), &["a", "b"]);
    busy_for(&mut model, 1..20, &["a", "b"], 10, false);
    // the same measure, by the counts of another metric
    let edited = Service {
        measured_by: 1,
        ..quick()
    };
    tell(&mut model, 20, [Event::Service(key(), Some(edited))]);
    busy_for(&mut model, 1_000..1_025, &["a", "b"], 10, true);
    let why = reason(&model);
    assert!(why.contains("p95 of too few requests"), "{why}");
    busy_for(&mut model, 1_025..1_032, &["a", "b"], 10, true);
    assert_eq!(allowed(&model), 4, "{}", reason(&model));
}

#[test]
fn a_cache_that_is_not_told_is_unknown_and_not_empty() {
    let rule = SignalRule::KvCacheUse(Milli(800));
    let mut model = model_of(following(rule), &["a", "b", "c"]);
    let missing = "there is no metric vllm:kv_cache_usage_perc";
    let busy = ["a", "b", "c"].map(|pod| counted(pod, 1, 0));
    let caches = [
        cache("a", Ok(100)),
        cache("b", Ok(100)),
        cache("c", Err(missing)),
    ];
    tell(&mut model, 1, busy.into_iter().chain(caches));
    tell(&mut model, 600, []);
    let decision = model.service(&key()).unwrap().decision;
    assert_eq!(
        (decision.allowed, decision.limited_by),
        (3, Some(LimitedBy::Signal))
    );
    let why = "signal measure: pod c: there is no metric vllm:kv_cache_usage_perc";
    assert_eq!(decision.unknown.as_deref(), Some(why));
    // what is known may add to them
    let full = ["a", "b"].map(|pod| cache(pod, Ok(1_000)));
    tell(&mut model, 601, full);
    assert_eq!(allowed(&model), 3);
    let mut strict = following(SignalRule::KvCacheUse(Milli(400)));
    strict.created = at(0);
    tell(&mut model, 602, [Event::Service(key(), Some(strict))]);
    assert_eq!(allowed(&model), 5, "{}", reason(&model));
}

/// A service of whose replicas nothing is read.
fn read_at_gateways() -> Service {
    Service {
        request_signal: RequestSignal::AtGateways,
        ..following(SignalRule::Gateway(Milli(4_000)))
    }
}

/// The requests that a gateway holds and forwards.
fn at_gateway(requests: u64, in_flight: u64) -> Event {
    let held = HeldRequests {
        requests,
        in_flight,
        forwarded: 0,
        since: (requests > 0).then(|| at(0)),
    };
    Event::Demand("gateway".into(), [(key(), held)].into())
}

#[test]
fn requests_at_gateways_ask_for_replicas_of_an_engine_that_tells_nothing() {
    let mut model = model_of(read_at_gateways(), &[]);
    assert_eq!(allowed(&model), 0);
    tell(&mut model, 1, [at_gateway(9, 0)]);
    assert_eq!(allowed(&model), 3, "{}", reason(&model));
    let pods = ["a", "b", "c"].map(|name| pod(name, 40));
    tell(&mut model, 40, [replicas(3)].into_iter().chain(pods));
    tell(&mut model, 41, [at_gateway(0, 9)]);
    // nothing of its engine was ever read
    tell(&mut model, 400, [at_gateway(0, 2)]);
    let decision = model.service(&key()).unwrap().decision;
    assert_eq!((decision.allowed, decision.unknown), (3, None));
    // so how many requests wait and run on it is not known, which is not zero
    assert_eq!(decision.queue_depth, None);
    let why = "0 held at gateways; measure 2 / target 4 = 1";
    assert!(
        decision.reason.contains(why) && !decision.reason.contains("queue depth"),
        "{}",
        decision.reason
    );
    tell(&mut model, 430, []);
    assert_eq!(allowed(&model), 1, "{}", reason(&model));
    tell(&mut model, 431, [at_gateway(0, 0)]);
    tell(&mut model, 492, []);
    let decision = model.service(&key()).unwrap().decision;
    assert_eq!((decision.allowed, decision.queue_depth), (0, None));
}

#[test]
fn short_requests_that_nobody_sees_in_flight_keep_a_service_awake() {
    let mut model = model_of(read_at_gateways(), &["a"]);
    let forwarded = |forwarded: u64| {
        let held = HeldRequests {
            forwarded,
            ..HeldRequests::default()
        };
        Event::Demand("gateway".into(), [(key(), held)].into())
    };
    let nothing = || Event::Demand("gateway".into(), Default::default());
    for second in (5..150).step_by(5) {
        tell(&mut model, second, [forwarded(second.unsigned_abs())]);
        assert_eq!(allowed(&model), 1, "at {second} s: {}", reason(&model));
    }
    // one that begins anew has had a request; that it no longer tells of them is none
    tell(&mut model, 160, [forwarded(1)]);
    tell(&mut model, 200, [nothing()]);
    tell(&mut model, 219, []);
    assert_eq!(allowed(&model), 1, "{}", reason(&model));
    tell(&mut model, 221, []);
    assert_eq!(allowed(&model), 0, "{}", reason(&model));
}

#[test]
fn a_new_leader_begins_the_idle_time_of_a_service_that_only_gateways_see() {
    // its replica is old, and its last request may have ended a moment ago
    let mut model = model_of(read_at_gateways(), &["a"]);
    assert_eq!(allowed(&model), 1, "{}", reason(&model));
    tell(&mut model, 59, []);
    assert_eq!(allowed(&model), 1, "{}", reason(&model));
    tell(&mut model, 61, []);
    assert_eq!(allowed(&model), 0, "{}", reason(&model));
}

#[test]
fn replicas_that_are_read_no_more_have_all_of_the_drain_timeout_when_they_leave() {
    let read = Service {
        drain_timeout: SignedDuration::from_secs(120),
        ..following(SignalRule::Gateway(Milli(4_000)))
    };
    let mut model = model_of(read.clone(), &["a", "b"]);
    let idle = ["a", "b"].map(|pod| counted(pod, 0, 9));
    tell(&mut model, 1, idle.into_iter().chain([at_gateway(0, 8)]));
    let edited = Service {
        request_signal: RequestSignal::AtGateways,
        ..read.clone()
    };
    tell(&mut model, 2, [Event::Service(key(), Some(edited))]);
    tell(&mut model, 10, [at_gateway(0, 4)]);
    let (mut left_at, mut removed_at) = (None, None);
    for second in 11..300 {
        for order in tell(&mut model, second, []).service_orders {
            for uid in &order.drain {
                let mut leaving = ready_pod(uid, -600);
                leaving.draining_since = Some(at(second));
                let shown = Event::Pod(uid.clone(), Some(Box::new(leaving)));
                tell(&mut model, second, [shown]);
                left_at = Some(second);
            }
            if !order.remove.is_empty() {
                removed_at = removed_at.or(Some(second));
            }
        }
    }
    assert_eq!(removed_at, left_at.map(|at| at + 120), "{left_at:?}");
    // and what was read long ago is not of now where it is read again
    tell(&mut model, 301, [Event::Service(key(), Some(read))]);
    let decision = model.service(&key()).unwrap().decision;
    assert!(decision.unknown.is_some(), "{}", decision.reason);
}

#[test]
fn requests_that_gateways_forward_are_no_demand_of_a_service_that_does_not_ask_for_them() {
    let service = Service {
        request_signal: RequestSignal::Target(8),
        ..service()
    };
    let mut model = model_of(service, &["a"]);
    tell(&mut model, 1, [counted("a", 3, 0), at_gateway(0, 90)]);
    assert_eq!(allowed(&model), 1);
}

#[test]
fn a_gateway_that_is_silent_takes_no_replica_away() {
    let mut model = model_of(following(SignalRule::Gateway(Milli(1_000))), &["a", "b"]);
    let busy = [counted("a", 1, 0), counted("b", 1, 0), at_gateway(0, 2)];
    tell(&mut model, 1, busy);
    let silent = Event::Silent("gateway".into(), "refused".into());
    tell(&mut model, 2, [silent]);
    tell(&mut model, 600, [counted("a", 0, 1), counted("b", 0, 1)]);
    let decision = model.service(&key()).unwrap().decision;
    assert_eq!(decision.allowed, 2);
    assert!(decision.unknown.is_some());
}

/// A service whose first tokens are to come within half a second.
pub(crate) fn quick() -> Service {
    following(SignalRule::Latency(TTFT, SignedDuration::from_millis(500)))
}

/// So many requests on each of these replicas, which writes two first tokens in each of these seconds: all
/// slow, or all fast.
pub(crate) fn busy_for(
    model: &mut Model,
    seconds: std::ops::Range<i64>,
    pods: &[&str],
    requests: u64,
    slow: bool,
) {
    for second in seconds {
        let all = 2 * u64::try_from(second).unwrap();
        let fast = if slow { 0 } else { all };
        let events = pods
            .iter()
            .flat_map(|pod| [counted(pod, requests, all), first_tokens(pod, fast, all)]);
        tell(model, second, events);
    }
}

#[test]
fn first_tokens_that_come_too_late_ask_for_more_replicas_step_by_step() {
    let mut model = model_of(quick(), &["a", "b"]);
    busy_for(&mut model, 1..32, &["a", "b"], 10, true);
    // 1.905 s instead of 0.5
    assert_eq!(allowed(&model), 4, "{}", reason(&model));
    let why = reason(&model);
    assert!(
        why.contains("measure p95 1.905 s, objective 0.5 s"),
        "{why}"
    );
    assert!(
        why.contains("10 requests a replica have missed it"),
        "{why}"
    );
    // the others start for minutes, and nothing adds up meanwhile
    tell(&mut model, 32, [replicas(4)]);
    busy_for(&mut model, 33..300, &["a", "b"], 10, true);
    assert_eq!(allowed(&model), 4, "{}", reason(&model));
}

#[test]
fn replicas_that_are_quick_with_their_requests_leave_one_by_one_and_none_that_is_needed() {
    let mut model = model_of(quick(), &["a", "b", "c", "d"]);
    let pods = ["a", "b", "c", "d"];
    busy_for(&mut model, 1..100, &pods, 2, false);
    // 95 ms: up to twice as many requests on each are expected to be within the objective
    assert_eq!(allowed(&model), 2, "{}", reason(&model));
    let why = reason(&model);
    assert!(
        why.contains("2.1 requests a replica, 4 are expected to meet it"),
        "{why}"
    );
}

#[test]
fn few_requests_tell_nothing_of_latencies_and_one_replica_for_each_is_enough() {
    let mut model = model_of(quick(), &["a", "b", "c", "d"]);
    let pods = ["a", "b", "c", "d"];
    let idle = pods
        .iter()
        .flat_map(|pod| [counted(pod, 0, 5), first_tokens(pod, 0, 5)]);
    tell(&mut model, 1, idle);
    tell(&mut model, 2, [counted("a", 1, 6), first_tokens("a", 0, 6)]);
    for second in 3..200 {
        tell(&mut model, second, []);
    }
    assert_eq!(allowed(&model), 1, "{}", reason(&model));
    let decision = model.service(&key()).unwrap().decision;
    assert_eq!(decision.signals[0].shown_value(), None);
}

#[test]
fn an_objective_that_one_request_alone_misses_grows_no_further_and_says_so() {
    let mut model = model_of(quick(), &["a", "b"]);
    busy_for(&mut model, 1..400, &["a", "b"], 1, true);
    assert_eq!(allowed(&model), 2);
    let why = reason(&model);
    assert!(why.contains("not met at one request a replica"), "{why}");
}

#[test]
fn latencies_that_are_not_told_hold_the_replicas() {
    let mut model = model_of(quick(), &["a", "b"]);
    let busy = ["a", "b"].map(|pod| counted(pod, 0, 0));
    tell(&mut model, 1, busy);
    tell(&mut model, 10, []);
    tell(
        &mut model,
        600,
        [Event::Reading("b".into(), Reading::Stale("refused".into()))],
    );
    let decision = model.service(&key()).unwrap().decision;
    assert_eq!(
        (decision.allowed, decision.limited_by),
        (2, Some(LimitedBy::Signal))
    );
}

#[test]
fn a_rollout_and_a_stopped_service_forget_what_was_learned() {
    let mut model = model_of(quick(), &["a", "b"]);
    busy_for(&mut model, 1..40, &["a", "b"], 10, true);
    assert_eq!(allowed(&model), 4);
    let mut stopped = quick();
    stopped.activation = Activation::Never;
    stopped.signals = vec![];
    tell(&mut model, 41, [Event::Service(key(), Some(stopped))]);
    tell(&mut model, 42, [Event::Service(key(), Some(quick()))]);
    assert!(
        reason(&model).contains("not read yet"),
        "{}",
        reason(&model)
    );
    busy_for(&mut model, 43..45, &["a", "b"], 10, true);
    let why = reason(&model);
    assert!(why.contains("p95 not measured yet"), "{why}");
}
