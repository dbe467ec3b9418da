//! Random events about a small cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use fastrand::Rng;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::super::event::{
    BatchJob, Budget, Counting, Deployment, EngineMeasures, Event, GatewayPod, HeldRequests, Job,
    Key, Measurement, Name, Node, Owner, Pod, PodCreationFailure, PodCreationReport, PodShape,
    Reading, ReplicaWorkers, Role, Rollout, Scheduling, Service,
};
use super::super::spending::AccountSpend;
use crate::budget::{OnExhausted, Unmanaged};
use crate::calendar::Period;
use crate::correction::Correction;
use crate::cost_report::CostOwner;
use crate::ledger::EngineCounters;
use crate::ledger::LinearSpend;
use crate::money::Money;
use crate::placement::{Placement, Taint, TaintEffect, Toleration};
use crate::pricing::{
    DatedPriceList, GpuPrice, PriceCatalog, PriceList, PriceScope, PricingAttributes,
};
use crate::scaling::{
    Activation, Behavior, Bucket, Cron, GrowthRule, LatencyHistogram, LatencyMeasure,
    LearnedThroughput, Milli, Panic, PolicyAmount, RequestSignal, ScalingPolicy, ScalingRules,
    Schedule, ScheduleEnd, SelectPolicy, SignalFailure, SignalRule, UNBOUNDED,
};

pub(super) const NAMESPACES: [&str; 2] = ["blue", "green"];
const GPU: &str = "nvidia.com/gpu";

pub(super) fn at(millis: i64) -> Timestamp {
    // a daily budget's period ends half an hour later
    let start: Timestamp = "2026-11-24T23:30:00Z".parse().unwrap();
    start + SignedDuration::from_millis(millis)
}

pub(super) fn name(text: &str) -> Name {
    text.into()
}

fn shape(rng: &mut Rng) -> Arc<PodShape> {
    let gpus = rng.u32(1..3);
    let mut shape = PodShape {
        requests: [
            (GPU.to_owned(), i64::from(gpus) * 1000),
            ("pods".to_owned(), 1000),
        ]
        .into(),
        attributes: Some(PricingAttributes {
            resource: GPU.to_owned(),
            gpus,
            ..PricingAttributes::default()
        }),
        ..PodShape::default()
    };
    if rng.u8(0..4) == 0 {
        shape.node_selector = [("pool".to_owned(), "a".to_owned())].into();
    }
    if rng.u8(0..3) != 0 {
        shape.placement = tolerating("gpu").into();
    }
    if rng.u8(0..6) == 0 {
        shape.attributes = None;
        shape.requests.remove(GPU);
        shape.shares_gpus = gpus == 2;
    }
    shape.into()
}

fn tolerating(key: &str) -> Placement {
    let toleration = Toleration {
        key: Some(key.to_owned()),
        value: None,
        effect: None,
    };
    Placement {
        tolerations: vec![toleration],
        terms: None,
    }
}

fn learned(rng: &mut Rng) -> Option<LearnedThroughput> {
    let learned = LearnedThroughput {
        target: more(rng).u32(1..9),
        request_millis: rng.u64(1..20_000),
        tokens_per_second: rng.u64(0..1_000),
        start: SignedDuration::from_secs(rng.i64(0..600)),
    };
    some(rng, learned)
}

fn some<T>(rng: &mut Rng, value: T) -> Option<T> {
    (rng.u8(0..8) != 0).then_some(value)
}

fn key(rng: &mut Rng, kind: &str, most: u8) -> Key {
    let namespace = rng.choice(NAMESPACES).unwrap();
    Key::new(namespace, &format!("{kind}{}", rng.u8(0..most)))
}

fn pod(rng: &mut Rng, now: Timestamp) -> (Name, Option<Box<Pod>>) {
    let number = rng.u8(0..16);
    let uid = name(&format!("uid{number}"));
    // the namespace of a pod never changes, and its owner by an edit of its labels alone
    let mut of_pod = Rng::with_seed(u64::from(number));
    let (namespace, owner) = match of_pod.u8(0..4) {
        0 | 1 => {
            let key = key(&mut of_pod, "service", 3);
            (key.namespace, Owner::Service(key.name))
        }
        2 => {
            let key = key(&mut of_pod, "job", 3);
            (
                key.namespace,
                Owner::Job(key.name, name(of_pod.choice(["", "ps"]).unwrap())),
            )
        }
        _ => (name(of_pod.choice(NAMESPACES).unwrap()), Owner::Other),
    };
    let past = |rng: &mut Rng| now - SignedDuration::from_secs(rng.i64(0..200));
    let mut more = more(rng);
    let pod = Pod {
        key: Key {
            namespace,
            name: name(&format!("pod-{}", number % 5)),
        },
        owner,
        shape: shape(&mut of_pod),
        node: rng.bool().then(|| name(&format!("node{}", rng.u8(0..5)))),
        created: past(rng),
        ended: (rng.u8(0..8) == 0).then(|| past(rng)),
        deletion: (rng.u8(0..6) == 0).then(|| now + SignedDuration::from_secs(30)),
        grace_seconds: 30,
        ready_since: rng.bool().then(|| past(rng)),
        was_ready: rng.u8(0..5) == 0,
        draining_since: (rng.u8(0..6) == 0).then(|| past(rng)),
        marked_for_deletion: rng.u8(0..8) == 0,
        start_failure: (rng.u8(0..5) == 0).then(|| (name("ImagePullBackOff"), past(rng))),
        scheduling: match rng.u8(0..6) {
            0 => Scheduling::Ignored,
            1 | 2 => {
                let since = now - SignedDuration::from_secs(rng.i64(0..400));
                let why = name("0/3 nodes are available");
                Scheduling::Unschedulable { since, why }
            }
            _ => Scheduling::Queued,
        },
        resident: number.is_multiple_of(5),
        failure: (more.u8(0..8) == 0).then(|| name("exit code 1")),
        disrupted: more.u8(0..8) == 0,
        made_by: job_uid(&mut more),
        leader: leader(&mut more),
        owner_name: name(if number.is_multiple_of(2) {
            "Pod/even"
        } else {
            "Pod/odd"
        }),
    };
    (uid, some(rng, Box::new(pod)))
}

/// The event, where somebody may have edited a pod's labels, and replicas may have ordinals.
pub(super) fn relabelled(rng: &mut Rng, mut event: Event) -> Event {
    if let Event::Deployment(_, Some(deployment)) = &mut event {
        deployment.first_ordinal = more(rng).bool().then_some(0);
    }
    if let Event::Pod(_, Some(pod)) = &mut event {
        pod.owner = match (&pod.owner, rng.u8(0..8)) {
            (Owner::Other, 0) => Owner::Service(name("service0")),
            (Owner::Other, 1) => Owner::Job(name("job0"), name("")),
            (_, 0) => Owner::Other,
            (owner, _) => owner.clone(),
        };
    }
    event
}

/// Whose worker a pod says to be: of most no other one's.
fn leader(rng: &mut Rng) -> Option<Name> {
    let uid = format!("uid{}", rng.u8(0..16));
    (rng.u8(0..4) == 0).then(|| name(&uid))
}

/// The UID of a Job, or none that is known.
fn job_uid(rng: &mut Rng) -> Option<Name> {
    rng.choice([None, Some("job-uid-0"), Some("job-uid-1")])
        .flatten()
        .map(name)
}

/// Names of signals outside the replicas.
const SIGNALS: [&str; 2] = ["jobs", "lag"];
const FIRST_TOKEN: LatencyMeasure = LatencyMeasure::TimeToFirstToken;

/// Another generator, so that what is drawn from it changes nothing of what is drawn otherwise.
fn more(rng: &Rng) -> Rng {
    Rng::with_seed(!rng.clone().u64(..))
}

/// Half of all services have the default with this window.
fn behavior(rng: &mut Rng, window: SignedDuration) -> Behavior {
    let mut behavior = Behavior::with_scale_down_window(Some(window));
    if rng.bool() {
        return behavior;
    }
    let rules = |rng: &mut Rng| ScalingRules {
        window: Some(SignedDuration::from_secs(rng.i64(0..60))),
        policies: (0..rng.usize(0..3))
            .map(|_| ScalingPolicy {
                amount: match rng.bool() {
                    true => PolicyAmount::Pods(rng.u32(1..3)),
                    false => PolicyAmount::Percent(rng.u32(1..120)),
                },
                period: SignedDuration::from_secs(rng.i64(1..120)),
            })
            .collect(),
        select: match rng.u8(0..8) {
            0 => SelectPolicy::Disabled,
            1..=3 => SelectPolicy::Min,
            _ => SelectPolicy::Max,
        },
        tolerance: Milli(rng.u64(0..500) * u64::from(rng.bool())),
    };
    behavior.scale_up = rules(rng);
    behavior.scale_down = rules(rng);
    behavior.panic = rng.bool().then(|| Panic {
        threshold_percent: rng.u32(110..400),
        window: SignedDuration::from_secs(rng.i64(0..90)),
    });
    behavior
}

/// Schedules that change within minutes.
fn schedules(rng: &mut Rng) -> Vec<Schedule> {
    let schedule = |number: usize, rng: &mut Rng| Schedule {
        name: format!("schedule{number}"),
        start: Cron::parse(
            rng.choice(["*/2 * * * *", "*/3 * * * *", "0 0 * * *"])
                .unwrap(),
        )
        .unwrap(),
        end: match rng.bool() {
            true => ScheduleEnd::After(SignedDuration::from_secs(rng.i64(1..180))),
            false => ScheduleEnd::At(Cron::parse("1-59/2 * * * *").unwrap()),
        },
        zone: None,
        min: rng.bool().then(|| rng.u32(0..4)),
        max: rng.bool().then(|| rng.u32(0..6)),
    };
    (0..rng.usize(0..3))
        .map(|number| schedule(number, rng))
        .collect()
}

fn service(rng: &mut Rng, now: Timestamp) -> Service {
    let max = rng.u32(1..6);
    Service {
        created: now - SignedDuration::from_secs(rng.i64(0..5)),
        priority: [0, 0, 0, 5, 9][rng.usize(0..5)],
        cluster_priority: more(rng).i32(0..4),
        weight: rng.u32(99..102),
        min: rng.u32(0..2),
        max,
        request_signal: {
            let target = rng.u32(1..9);
            match more(rng).u8(0..8) {
                0 => RequestSignal::Activity,
                1 => RequestSignal::None,
                _ => RequestSignal::Target(target),
            }
        },
        signals: {
            let mut more = more(rng);
            let target = Milli(more.u64(500..4_000));
            let outside = SIGNALS.map(|signal| (name(signal), SignalRule::Outside(target)));
            let objective = SignedDuration::from_millis(more.i64(1..2_000));
            let measures = [
                ("gateway", SignalRule::Gateway(target)),
                ("cache", SignalRule::KvCacheUse(Milli(more.u64(1..1_000)))),
                ("first", SignalRule::Latency(FIRST_TOKEN, objective)),
            ];
            let measures = measures.map(|(signal, rule)| (name(signal), rule));
            let measures = measures.into_iter().filter(|_| more.u8(0..4) == 0);
            let measures: Vec<_> = measures.collect();
            let outside = outside.into_iter().take(more.usize(0..3));
            outside.chain(measures).collect()
        },
        measured_by: more(rng).u64(0..2),
        growth: match rng.bool() {
            true => GrowthRule::Learned,
            false => GrowthRule::Target,
        },
        learned: learned(rng),
        behavior: {
            let window = SignedDuration::from_secs(rng.i64(0..60));
            behavior(&mut more(rng), window)
        },
        idle_after: SignedDuration::from_secs(rng.i64(1..120)),
        schedules: schedules(&mut more(rng)),
        on_signal_failure: match more(rng).u8(0..3) {
            0 => SignalFailure::Replicas {
                replicas: more(rng).u32(0..6),
                after: SignedDuration::from_secs(more(rng).i64(0..120)),
            },
            _ => SignalFailure::Hold,
        },
        drain_timeout: SignedDuration::from_secs(rng.i64(0..60)),
        paused: (rng.u8(0..8) == 0).then(|| "scaling.paused is true".into()),
        activation: if rng.u8(0..6) == 0 {
            Activation::Never
        } else {
            Activation::OnDemand
        },
        replica: shape(rng),
        grace_seconds: rng.i64(0..60),
        workers: {
            let mut more = more(rng);
            let count = more.u32(0..4);
            let workers = (count > 0).then(|| ReplicaWorkers {
                count,
                shape: shape(&mut more),
                grace_seconds: more.i64(0..60),
            });
            workers.map(Box::new)
        },
    }
}

fn job(rng: &mut Rng, now: Timestamp) -> Job {
    let role = |rng: &mut Rng, role: &str| {
        // one without costs nothing, and pods that only have its labels would cost more than the gang does: it
        // would give way to what the money is enough for beside the gang alone, and start again beside that
        let mut worker = shape(rng);
        while !worker.uses_gpus() {
            worker = shape(rng);
        }
        Role {
            name: name(role),
            replicas: rng.u32(1..4),
            worker,
            grace_seconds: 30,
        }
    };
    let mut roles = vec![role(rng, "")];
    if rng.bool() {
        roles.push(role(rng, "ps"));
    }
    Job {
        created: now - SignedDuration::from_secs(rng.i64(0..5)),
        priority: rng.i32(0..3),
        cluster_priority: rng.i32(0..3),
        preemption_allowed: rng.bool(),
        suspend: rng.u8(0..6) == 0,
        paused: false,
        seed: rng.u64(..),
        restarts: more(rng).u32(0..4),
        restart_count: more(rng).u32(0..2),
        ended_well: Default::default(),
        success_roles: Default::default(),
        resumes_whole: false,
        is_adopted: false,
        roles,
    }
}

fn money(rng: &mut Rng, most: i128) -> Money {
    Money::from_nanos(rng.i128(0..most * 1_000_000_000))
}

/// The account of this number. Each pod is in one account.
fn account(rng: &mut Rng, number: u8, now: Timestamp) -> AccountSpend {
    let rate = money(rng, 8);
    let amount = money(rng, 3);
    let kinds = [Period::Daily, Period::Weekly, Period::Monthly];
    let spent = kinds.map(|kind| {
        let within = kind.bounds(now, &TimeZone::UTC);
        (kind, (within, LinearSpend::new(amount, now, rate)))
    });
    let pods = (0..rng.u8(0..4)).map(|_| name(&format!("uid{}", rng.u8(0..5) * 3 + number)));
    let pods: Vec<Name> = pods.collect();
    AccountSpend {
        spent: spent.into(),
        rates: pods
            .into_iter()
            .map(|uid| (uid, (rng.u8(0..8) != 0).then_some(rate)))
            .collect(),
        doubt: (rng.u8(0..12) == 0).then(|| "record r cannot be read".to_owned()),
    }
}

pub(super) fn prices(rng: &mut Rng) -> Arc<PriceCatalog> {
    let row = |model: &str, price: u32| GpuPrice {
        resource: GPU.to_owned(),
        model: model.to_owned(),
        per_hour: Money::from_nanos(i128::from(price) * 1_000_000_000),
        nodes: PriceScope::default(),
        watts: None,
    };
    let list = PriceList {
        currency: "USD".to_owned(),
        gpus: vec![row("H100", rng.u32(1..9)), row("A100", rng.u32(1..5))],
        ..PriceList::default()
    };
    let list = DatedPriceList {
        name: "ours".to_owned(),
        effective_from: None,
        list,
    };
    Arc::new(PriceCatalog::new(vec![list], Timestamp::UNIX_EPOCH))
}

fn node(rng: &mut Rng) -> Node {
    let gpus = rng.u32(1..5);
    let model = *rng.choice(&["H100", "A100"]).unwrap();
    let mut labels = BTreeMap::from([("nvidia.com/gpu.product".to_owned(), model.to_owned())]);
    if rng.bool() {
        labels.insert("pool".to_owned(), "a".to_owned());
    }
    let takes_pods = rng.u8(0..5) != 0;
    Node {
        takes_pods,
        unready: !takes_pods && more(rng).bool(),
        labels,
        taints: (rng.u8(0..3) == 0)
            .then(|| Taint {
                key: "gpu".to_owned(),
                value: String::new(),
                effect: TaintEffect::NoSchedule,
            })
            .into_iter()
            .collect(),
        allocatable: [
            (GPU.to_owned(), i64::from(gpus) * 1000),
            ("pods".to_owned(), 110_000),
        ]
        .into(),
        gpus: [(GPU.to_owned(), gpus)].into(),
    }
}

pub(super) fn event(rng: &mut Rng, now: Timestamp) -> Event {
    match rng.u8(0..22) {
        0 | 1 => {
            let (key, service) = (key(rng, "service", 3), service(rng, now));
            Event::Service(key, some(rng, service))
        }
        2 | 3 => {
            let deployment = Deployment {
                replicas: rng.u32(0..4),
                first_ordinal: None,
                rollout: (rng.u8(0..4) == 0).then(|| Rollout {
                    replaces: more(rng).bool(),
                    updated: rng.u32(0..3),
                    deadline_exceeded: rng.u8(0..4) == 0,
                }),
                creation_failure: (rng.u8(0..6) == 0).then(|| PodCreationFailure {
                    since: now - SignedDuration::from_secs(rng.i64(0..100)),
                    why: name("exceeded quota"),
                }),
            };
            let key = key(rng, "service", 3);
            Event::Deployment(key, some(rng, deployment))
        }
        4 => {
            let ready = (0..rng.u8(0..6)).map(|number| name(&format!("uid{number}")));
            Event::Endpoints(key(rng, "service", 3), ready.collect())
        }
        5 | 6 => {
            let (key, job) = (key(rng, "job", 3), job(rng, now));
            Event::Job(key, some(rng, job))
        }
        7 => {
            let mut more = more(rng);
            let job = BatchJob {
                uid: job_uid(&mut more),
                running: rng.bool(),
                finished: (rng.u8(0..8) == 0).then(|| rng.bool()),
                active: rng.u32(0..3),
                succeeded: rng.u32(0..2),
                failed: rng.u32(0..2),
                started: rng.bool().then_some(now),
                retry: None,
                replaces_workers: more.u8(0..4) == 0,
                restarts: more.u32(0..3),
                disruptions: more.u32(0..3),
                restart_at: (more.u8(0..4) == 0)
                    .then(|| now + SignedDuration::from_secs(more.i64(-30..60))),
                creation_failure: (more.u8(0..4) == 0).then(|| PodCreationReport {
                    since: now - SignedDuration::from_secs(more.i64(30..100)),
                    last: now - SignedDuration::from_secs(more.i64(0..30)),
                    why: name("exceeded quota"),
                }),
            };
            let role = name(rng.choice(["", "ps"]).unwrap());
            let key = key(rng, "job", 3);
            Event::BatchJob(key, role, some(rng, job))
        }
        8 => {
            let budget = Budget {
                limit: money(rng, 40),
                period: *rng.choice(&[Period::Daily, Period::Monthly]).unwrap(),
                on_exhausted: *rng
                    .choice(&[
                        OnExhausted::ScaleToZero,
                        OnExhausted::ScaleToMin,
                        OnExhausted::Freeze,
                    ])
                    .unwrap(),
                minimum_useful_run: SignedDuration::from_secs(rng.i64(0..600)),
                latch: None,
                unmanaged: match more(rng).u8(0..3) {
                    0 => Unmanaged::Leave,
                    1 => Unmanaged::Evict {
                        exempt: Default::default(),
                    },
                    _ => Unmanaged::Evict {
                        exempt: Arc::new([name("Pod/odd")].into()),
                    },
                },
                record: Default::default(),
            };
            let key = key(rng, "budget", 2);
            Event::Budget(key, some(rng, budget))
        }
        9 if rng.u8(0..4) == 0 => {
            let doubt = rng.bool().then(|| name("budget b cannot be read"));
            Event::BudgetDoubt(name(rng.choice(NAMESPACES).unwrap()), doubt)
        }
        9 => {
            let correction = correction(rng, now);
            let corrections = if rng.bool() { vec![correction] } else { vec![] };
            Event::Corrections(name(rng.choice(NAMESPACES).unwrap()), corrections)
        }
        10..=14 => {
            let (uid, pod) = pod(rng, now);
            Event::Pod(uid, pod)
        }
        15 if rng.u8(0..6) == 0 => {
            let node_start = rng
                .bool()
                .then(|| SignedDuration::from_secs(rng.i64(0..900)));
            Event::NodeStart(node_start)
        }
        15 => {
            let (name, node) = (name(&format!("node{}", rng.u8(0..5))), node(rng));
            Event::Node(name, some(rng, node))
        }
        16 if rng.u8(0..5) == 0 => Event::Prices(prices(rng)),
        16 | 17 => {
            let number = rng.u8(0..3);
            let namespace = *rng.choice(&NAMESPACES).unwrap();
            let account = account(rng, number, now);
            let key = Key::new(namespace, &format!("account{number}"));
            Event::Account(key, some(rng, account))
        }
        18 | 19 if more(rng).u8(0..5) == 0 => {
            let mut more = more(rng);
            let measurement = match more.u8(0..4) {
                0 => Measurement::Failed(name("WRONGPASS")),
                _ => Measurement::Value(Milli(more.u64(0..9_000) * u64::from(more.bool()))),
            };
            let signal = name(more.choice(SIGNALS).unwrap());
            Event::Signal(
                key(&mut more, "service", 3),
                signal,
                some(&mut more, measurement),
            )
        }
        18 | 19 if more(rng).u8(0..5) == 1 => {
            let mut more = more(rng);
            let uid = name(&format!("uid{}", more.u8(0..16)));
            Event::EngineMeasures(uid, engine_measures(&mut more))
        }
        18 | 19 => {
            let reading = match rng.u8(0..5) {
                0 => Reading::Stale(name("no answer")),
                1 => Reading::Uncounted {
                    requests: rng.u64(0..20),
                },
                _ => {
                    let requests = rng.u64(0..20) * u64::from(rng.bool());
                    let counting = match requests % 3 {
                        0 => Counting::EachStep,
                        1 => Counting::AtEnd,
                        _ => Counting::Late,
                    };
                    Reading::Counted {
                        requests,
                        counting,
                        moved: rng.bool(),
                        done: EngineCounters {
                            requests: rng.u64(0..50),
                            ..EngineCounters::default()
                        },
                    }
                }
            };
            Event::Reading(name(&format!("uid{}", rng.u8(0..16))), reading)
        }
        20 => {
            let uid = name(&format!("gateway{}", rng.u8(0..2)));
            match rng.u8(0..3) {
                0 => Event::Silent(uid, name(rng.choice(["timeout", "refused"]).unwrap())),
                1 => {
                    let pod = GatewayPod {
                        name: uid.clone(),
                        ready_since: rng.bool().then_some(now),
                    };
                    Event::Gateway(uid, some(rng, pod))
                }
                _ => {
                    let held = HeldRequests {
                        requests: rng.u64(0..20),
                        in_flight: more(rng).u64(0..20),
                        forwarded: more(rng).u64(0..3),
                        since: Some(now),
                    };
                    let held = (0..rng.u8(0..3)).map(|_| (key(rng, "service", 3), held));
                    Event::Demand(uid, held.collect())
                }
            }
        }
        _ if rng.bool() => Event::ServiceOrderFailed(key(rng, "service", 3)),
        _ => Event::JobOrderFailed(key(rng, "job", 3)),
    }
}

fn engine_measures(rng: &mut Rng) -> EngineMeasures {
    let missing = name("there is no metric");
    let counts = [rng.u64(0..20), rng.u64(0..20)];
    let buckets = [
        (500_000, counts[0]),
        (UNBOUNDED, counts[0].saturating_add(counts[1])),
    ];
    let buckets = buckets.map(|(bound, count)| Bucket { bound, count });
    let histogram = LatencyHistogram::new(buckets.to_vec()).unwrap();
    let latency = match rng.u8(0..4) {
        0 => Err(missing.clone()),
        _ => Ok(Arc::new(histogram)),
    };
    EngineMeasures {
        kv_cache_use: match rng.u8(0..4) {
            0 => None,
            1 => Some(Err(missing)),
            _ => Some(Ok(Milli(rng.u64(0..1_001)))),
        },
        latencies: [(FIRST_TOKEN, latency)].into(),
    }
}

fn correction(rng: &mut Rng, now: Timestamp) -> Correction {
    Correction {
        name: "credit".to_owned(),
        owner: CostOwner {
            namespace: "blue".to_owned(),
            workload: String::new(),
        },
        date: TimeZone::UTC.to_datetime(now).date(),
        amount: money(rng, 4),
        currency: "USD".to_owned(),
    }
}

/// What an event is about: of two events about one subject the later one counts.
pub(super) fn subject(event: &Event) -> String {
    let named = |kind: &str, key: &Key| format!("{kind} {}/{}", key.namespace, key.name);
    match event {
        Event::Service(key, _) => named("service", key),
        Event::Deployment(key, _) | Event::ServiceOrderFailed(key) => named("deployment", key),
        Event::Endpoints(key, _) => named("endpoints", key),
        Event::Signal(key, name, _) => named(&format!("signal {name}"), key),
        Event::Job(key, _) => named("job", key),
        Event::BatchJob(key, role, _) => named(role, key),
        Event::JobOrderFailed(key) => named("ps", key),
        Event::EvictionFailed(namespace, uid, _) => format!("eviction {namespace} {uid}"),
        Event::Budget(key, _) => named("budget", key),
        Event::BudgetDoubt(namespace, _) => format!("doubt {namespace}"),
        Event::Corrections(namespace, _) => format!("corrections {namespace}"),
        // engines are read once their pods are known
        Event::Pod(uid, _) | Event::Reading(uid, _) | Event::EngineMeasures(uid, _) => {
            format!("pod {uid}")
        }
        Event::Node(name, _) => format!("node {name}"),
        Event::NodeStart(_) => "node start".to_owned(),
        Event::Pauses(_) => "pauses".to_owned(),
        Event::Prices(_) => "prices".to_owned(),
        Event::Account(key, _) => named("account", key),
        Event::Gateway(uid, _) | Event::Demand(uid, _) | Event::Silent(uid, _) => uid.to_string(),
    }
}
