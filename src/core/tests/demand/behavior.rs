//! How fast replicas follow what is asked for, and what becomes of them while that is not known.

use bursar_core::model::Model;
use bursar_core::model::event::{Event, Measurement, Service};
use bursar_core::plan::LimitedBy;
use bursar_core::scaling::{
    Activation, Milli, Panic, PolicyAmount, RequestSignal, ScalingPolicy, ScalingRules,
    SelectPolicy, SignalFailure, SignalRule,
};
use jiff::tz::TimeZone;

use crate::*;

/// Workers that take jobs from a queue, one each.
fn workers(behavior: Behavior) -> Service {
    Service {
        max: 20,
        request_signal: RequestSignal::None,
        signals: vec![("jobs".into(), SignalRule::Outside(Milli(1_000)))],
        behavior,
        ..service()
    }
}

fn jobs(number: u32) -> Event {
    let value = Measurement::Value(Milli::from_units(number));
    Event::Signal(key(), "jobs".into(), Some(value))
}

fn failed() -> Event {
    Event::Signal(
        key(),
        "jobs".into(),
        Some(Measurement::Failed("refused".into())),
    )
}

fn pods(pods: u32, seconds: i64) -> ScalingRules {
    ScalingRules {
        policies: vec![ScalingPolicy {
            amount: PolicyAmount::Pods(pods),
            period: SignedDuration::from_secs(seconds),
        }],
        ..ScalingRules::default()
    }
}

/// A model and the pods that its orders have made. Each is ready at once.
struct Cluster {
    model: Model,
    pods: BTreeMap<String, Pod>,
}

impl Cluster {
    fn new(service: Service) -> Self {
        let mut model = Model::new(TimeZone::UTC, at(-3600));
        let start = [Event::Service(key(), Some(service)), replicas(0)];
        tell(&mut model, 0, start);
        let pods = BTreeMap::new();
        Self { model, pods }
    }

    /// Tells the model of these and carries out what it orders. Returns how many replicas it allows.
    fn tell(&mut self, second: i64, events: impl IntoIterator<Item = Event>) -> u32 {
        let mut orders = tell(&mut self.model, second, events).service_orders;
        let mut count = 0;
        while let Some(order) = orders.pop() {
            let known = self.pods.clone();
            for uid in &order.drain {
                self.pods.get_mut(&**uid).unwrap().draining_since = Some(at(second));
            }
            for uid in &order.remove {
                self.pods.get_mut(&**uid).unwrap().marked_for_deletion = true;
            }
            let wanted = order.replicas.1 as usize;
            while self.pods.len() > wanted {
                let leaves = |pod: &Pod| (pod.marked_for_deletion, pod.draining_since.is_some());
                let (name, _) = self.pods.iter().max_by_key(|(_, pod)| leaves(pod)).unwrap();
                let name = name.clone();
                self.pods.remove(&name);
            }
            while self.pods.len() < wanted {
                let name = format!("pod-{second}-{count}-{}", self.pods.len());
                self.pods.insert(name.clone(), ready_pod(&name, second));
            }
            let gone = known.keys().filter(|name| !self.pods.contains_key(*name));
            let gone = gone.map(|name| Event::Pod(name.as_str().into(), None));
            let there = self.pods.iter();
            let there = there.map(|(name, pod)| (name.as_str(), Box::new(pod.clone())));
            let there = there.map(|(name, pod)| Event::Pod(name.into(), Some(pod)));
            let events = [replicas(order.replicas.1)]
                .into_iter()
                .chain(gone)
                .chain(there);
            let events: Vec<Event> = events.collect();
            orders = tell(&mut self.model, second, events).service_orders;
            count += 1;
            assert!(count < 20, "it does not settle: {orders:?}");
        }
        self.model.service(&key()).unwrap().decision.allowed
    }
}

fn reason(cluster: &Cluster) -> (Option<LimitedBy>, String) {
    let decision = cluster.model.service(&key()).unwrap().decision;
    (decision.limited_by, decision.reason.clone())
}

#[test]
fn without_a_policy_a_jump_is_followed_at_once() {
    let mut cluster = Cluster::new(workers(Behavior::default()));
    assert_eq!(cluster.tell(1, [jobs(15)]), 15);
}

#[test]
fn policies_limit_each_period_and_not_the_first_replica() {
    let mut cluster = Cluster::new(workers(Behavior {
        scale_up: pods(2, 60),
        ..Behavior::default()
    }));
    assert_eq!(cluster.tell(1, [jobs(9)]), 2);
    let (limited_by, why) = reason(&cluster);
    assert_eq!(limited_by, Some(LimitedBy::ScalingPolicy));
    assert_eq!(
        why,
        "jobs 9 / target 1 = 9; scaleUp policy Pods 2 in 60 s, from 0: 2 now"
    );
    assert_eq!(cluster.tell(60, []), 2);
    assert_eq!(cluster.tell(61, []), 4, "nothing but time has passed");
    assert_eq!(cluster.tell(121, []), 6);

    let mut disabled = Cluster::new(workers(Behavior {
        scale_up: ScalingRules {
            select: SelectPolicy::Disabled,
            ..pods(5, 60)
        },
        ..Behavior::default()
    }));
    assert_eq!(disabled.tell(1, [jobs(9)]), 1);
    assert_eq!(disabled.tell(900, [jobs(10)]), 1);
}

#[test]
fn scale_down_waits_for_its_window_and_goes_by_its_policies() {
    let mut rules = pods(1, 100);
    rules.window = Some(SignedDuration::from_secs(30));
    let mut cluster = Cluster::new(workers(Behavior {
        scale_down: rules,
        ..Behavior::default()
    }));
    assert_eq!(cluster.tell(1, [jobs(6)]), 6);
    // six were asked for until then, though nothing was read meanwhile
    assert_eq!(cluster.tell(600, [jobs(3)]), 6);
    assert_eq!(reason(&cluster).0, Some(LimitedBy::Stabilization));
    assert_eq!(cluster.tell(629, []), 6);
    assert_eq!(cluster.tell(630, []), 5);
    assert_eq!(reason(&cluster).0, Some(LimitedBy::ScalingPolicy));
    assert_eq!(cluster.tell(729, []), 5);
    assert_eq!(cluster.tell(730, []), 4);
    // a lower maximum counts at once
    let mut lower = workers(Behavior {
        scale_down: pods(1, 100),
        ..Behavior::default()
    });
    lower.max = 1;
    assert_eq!(cluster.tell(731, [Event::Service(key(), Some(lower))]), 1);
}

#[test]
fn a_higher_number_waits_for_its_window_and_the_first_replica_does_not() {
    let mut cluster = Cluster::new(workers(Behavior {
        scale_up: ScalingRules {
            window: Some(SignedDuration::from_secs(60)),
            ..ScalingRules::default()
        },
        ..Behavior::default()
    }));
    cluster.tell(1, [jobs(0)]);
    assert_eq!(cluster.tell(100, [jobs(5)]), 1);
    assert_eq!(cluster.tell(159, []), 1);
    assert_eq!(cluster.tell(160, []), 5);
    let (_, why) = reason(&cluster);
    assert_eq!(why, "jobs 5 / target 1 = 5");
}

#[test]
fn small_differences_are_tolerated() {
    let mut behavior = Behavior::default();
    behavior.scale_up.tolerance = Milli(200);
    let mut cluster = Cluster::new(workers(behavior));
    assert_eq!(cluster.tell(1, [jobs(10)]), 10);
    assert_eq!(cluster.tell(2, [jobs(12)]), 10);
    let (_, why) = reason(&cluster);
    assert_eq!(
        why,
        "jobs 12 / target 1 = 12; 10 are within the tolerance 0.2"
    );
    assert_eq!(cluster.tell(3, [jobs(13)]), 13);
}

#[test]
fn a_burst_is_limited_by_no_policy_and_nothing_leaves_for_a_while_after_it() {
    let mut down = pods(20, 10);
    down.window = Some(SignedDuration::ZERO);
    let mut cluster = Cluster::new(workers(Behavior {
        scale_up: pods(1, 60),
        scale_down: down,
        panic: Some(Panic {
            threshold_percent: 200,
            window: SignedDuration::from_secs(90),
        }),
    }));
    assert_eq!(cluster.tell(1, [jobs(1)]), 1);
    assert_eq!(cluster.tell(500, [jobs(8)]), 8, "more than twice as many");
    assert_eq!(cluster.tell(520, [jobs(2)]), 8);
    assert_eq!(reason(&cluster).0, Some(LimitedBy::Stabilization));
    assert_eq!(cluster.tell(589, []), 8);
    assert_eq!(cluster.tell(590, []), 2);
    assert_eq!(cluster.tell(700, [jobs(3)]), 3);
}

/// Workers whose jobs and lag may each be unknown, and what stands for that after five minutes.
fn workers_with_fallback(behavior: Behavior, replicas: u32) -> Cluster {
    let mut service = workers(behavior);
    service.on_signal_failure = SignalFailure::Replicas {
        replicas,
        after: SignedDuration::from_secs(300),
    };
    service
        .signals
        .push(("lag".into(), SignalRule::Outside(Milli(1_000))));
    Cluster::new(service)
}

fn lag(number: u32) -> Event {
    let value = Measurement::Value(Milli::from_units(number));
    Event::Signal(key(), "lag".into(), Some(value))
}

#[test]
fn what_is_known_of_a_demand_keeps_its_window_while_the_rest_is_not_known() {
    let down = Some(SignedDuration::from_secs(300));
    let mut cluster = workers_with_fallback(Behavior::with_scale_down_window(down), 2);
    assert_eq!(cluster.tell(1, [jobs(8), lag(7)]), 8);
    cluster.tell(1000, [failed()]);
    assert_eq!(cluster.tell(1300, []), 7);
    assert_eq!(cluster.tell(1310, [lag(3)]), 7, "a passing dip");
    assert_eq!(cluster.tell(1320, [lag(7)]), 7);
    assert_eq!(cluster.tell(1400, [lag(3)]), 7);
    assert_eq!(cluster.tell(1699, []), 7);
    assert_eq!(cluster.tell(1700, []), 3, "one that lasts");
}

#[test]
fn a_fallback_is_no_burst() {
    let mut cluster = workers_with_fallback(
        Behavior {
            scale_up: pods(1, 60),
            panic: Some(Panic {
                threshold_percent: 200,
                window: SignedDuration::from_secs(60),
            }),
            ..Behavior::default()
        },
        8,
    );
    assert_eq!(cluster.tell(1, [jobs(1), lag(0)]), 1);
    cluster.tell(1000, [failed()]);
    assert_eq!(cluster.tell(1300, []), 2, "policies limit the way there");
    assert_eq!(cluster.tell(1360, []), 3);
}

#[test]
fn short_times_without_a_value_do_not_begin_a_window_anew() {
    let down = Some(SignedDuration::from_secs(300));
    let service = workers(Behavior::with_scale_down_window(down));
    let mut cluster = Cluster::new(service);
    assert_eq!(cluster.tell(0, [jobs(10)]), 10);
    cluster.tell(1000, [jobs(2)]);
    assert_eq!(cluster.tell(1240, [failed()]), 10);
    assert_eq!(cluster.tell(1252, [jobs(2)]), 10);
    assert_eq!(cluster.tell(1290, [failed()]), 10);
    assert_eq!(cluster.tell(1300, [jobs(2)]), 10);
    // 300 s without the 22 in which nothing was known
    assert_eq!(cluster.tell(1321, []), 10);
    assert_eq!(cluster.tell(1322, []), 2);
}

#[test]
fn a_part_of_a_replica_within_the_tolerance_starts_none() {
    let mut behavior = Behavior::default();
    behavior.scale_up.tolerance = Milli(100);
    let mut service = workers(behavior);
    service.signals = vec![("jobs".into(), SignalRule::Outside(Milli(8_000)))];
    let mut cluster = Cluster::new(service);
    assert_eq!(cluster.tell(1, [jobs(24)]), 3);
    assert_eq!(cluster.tell(2, [jobs(26)]), 3, "3.25 of 3");
    assert_eq!(cluster.tell(3, [jobs(27)]), 4);
}

#[test]
fn orders_that_fail_use_no_period_of_a_policy() {
    let mut model = Model::new(TimeZone::UTC, at(-3600));
    let service = workers(Behavior {
        scale_up: pods(2, 60),
        ..Behavior::default()
    });
    let there = ["a", "b", "c", "d", "e"].map(|name| pod(name, -600));
    let start = [Event::Service(key(), Some(service)), replicas(5), jobs(5)];
    tell(&mut model, 0, start.into_iter().chain(there));
    let allowed = |model: &Model| model.service(&key()).unwrap().decision.allowed;
    tell(&mut model, 1000, [jobs(20)]);
    tell(&mut model, 1000, [jobs(21)]);
    assert_eq!(allowed(&model), 7);
    for second in (1010..1300).step_by(10) {
        tell(&mut model, second, [Event::ServiceOrderFailed(key())]);
        // the next look comes while the order is on its way
        tell(&mut model, second, [jobs(20)]);
        assert_eq!(allowed(&model), 7, "at {second} five are there");
    }
}

#[test]
fn what_is_not_known_of_requests_that_wake_nothing_does_not_matter() {
    let mut service = workers(Behavior::default());
    service.request_signal = RequestSignal::Target(8);
    service.activation = Activation::Never;
    service.on_signal_failure = SignalFailure::Replicas {
        replicas: 3,
        after: SignedDuration::from_secs(300),
    };
    let mut cluster = Cluster::new(service);
    // a gateway that takes requests, and has never been heard
    cluster.tell(0, [gateway(-600), jobs(0)]);
    assert_eq!(cluster.tell(1000, []), 0);
    assert_eq!(cluster.tell(1001, [jobs(1)]), 1);
}

#[test]
fn a_demand_that_is_not_known_for_long_has_the_replicas_that_were_stated() {
    let mut cluster = workers_with_fallback(Behavior::default(), 4);
    assert_eq!(cluster.tell(1, [jobs(9), lag(0)]), 9);
    assert_eq!(cluster.tell(1000, [failed()]), 9);
    assert_eq!(cluster.tell(1299, []), 9);
    assert_eq!(cluster.tell(1300, []), 4);
    let (limited_by, why) = reason(&cluster);
    assert_eq!(limited_by, Some(LimitedBy::Signal));
    let since = at(1000);
    let expected =
        format!("demand unknown since {since} (signal jobs: refused): onSignalFailure asks for 4");
    assert!(why.ends_with(&expected), "{why}");
    assert_eq!(
        cluster.tell(1301, [lag(6)]),
        6,
        "what is known asks for more"
    );
    assert_eq!(cluster.tell(1400, [jobs(7)]), 7, "it is known again");
    assert_eq!(
        cluster.tell(1500, [failed()]),
        7,
        "and the time begins anew"
    );
}
