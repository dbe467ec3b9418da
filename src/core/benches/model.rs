//! How long the model takes for an event and the decision that follows, in a large cluster.
//!
//! `cargo bench -p bursar-core --bench model` prints the figures of this machine: 10,000 workloads
//! in 100 namespaces, the largest with 1,000 workloads under one budget, 50,000 pods and 1,000
//! nodes. The times are CPU times of its only thread.

// a benchmark fails by ending
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use bursar_core::budget::OnExhausted;
use bursar_core::calendar::Period;
use bursar_core::model::event::{
    Budget, Deployment, Job, Node, Owner, Pod, PodShape, Reading, Role, Service,
};
use bursar_core::model::{Event, Key, Model, Name};
use bursar_core::money::Money;
use bursar_core::plan::decide;
use bursar_core::pricing::{
    DatedPriceList, GpuPrice, PriceCatalog, PriceList, PriceScope, PricingAttributes,
};
use bursar_core::scaling::{Activation, Behavior, RequestSignal};
use fastrand::Rng;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};

const GPU: &str = "nvidia.com/gpu";
const NAMESPACES: usize = 100;
const LARGEST: usize = 1_000;
const WORKLOADS: usize = 10_000;
const PODS: usize = 50_000;
const NODES: usize = 1_000;
/// Events of each kind that are timed.
const EVENTS: usize = 5_000;

fn main() {
    let cluster = Cluster::new();
    let began = cpu_time();
    let mut model = Model::new(TimeZone::UTC, now());
    for event in cluster.events() {
        model.apply(event, now());
    }
    let slices = settle(&mut model, now());
    println!(
        "built anew: {:.2?} with {} slices, the longest {:.2?}; {} MiB resident",
        cpu_time() - began,
        slices.len(),
        slices.iter().max().unwrap(),
        resident_mebibytes(),
    );
    let mut rng = Rng::with_seed(7);
    let mut millis = 0;
    type Make = fn(&Cluster, &mut Rng) -> Event;
    let kinds: [(&str, Make); 6] = [
        ("pod", Cluster::pod_event),
        ("pod of others", Cluster::other_pod_event),
        ("node", Cluster::node_event),
        ("reading", Cluster::reading_event),
        ("service", Cluster::service_event),
        ("job", Cluster::job_event),
    ];
    for (kind, make) in kinds {
        let mut times: Vec<Duration> = (0..EVENTS)
            .map(|_| {
                let event = make(&cluster, &mut rng);
                millis += 1;
                let now = now() + SignedDuration::from_millis(millis);
                let began = cpu_time();
                model.apply(event, now);
                settle(&mut model, now);
                cpu_time() - began
            })
            .collect();
        times.sort();
        println!(
            "{kind}: median {:.1?}, 99.9% {:.1?}, longest {:.1?}",
            times[EVENTS / 2],
            times[EVENTS * 999 / 1000],
            times[EVENTS - 1],
        );
    }
    let now = now() + SignedDuration::from_secs(60);
    // nobody has carried out what was ordered
    time_slices("orders that expire at once", &mut model, None, now);
    let prices = Event::Prices(prices(3));
    time_slices("a price list", &mut model, Some(prices), now);
    let largest = |nanos| Event::Budget(Key::new("team-0", "all"), Some(budget(nanos)));
    let exhausted = Some(largest(1));
    time_slices("the largest budget closes", &mut model, exhausted, now);
    let opened = Some(largest(LIMIT));
    time_slices("the largest budget opens", &mut model, opened, now);
    let month: Timestamp = "2026-12-01T00:00:00Z".parse().unwrap();
    time_slices("a month's end", &mut model, None, month);
}

/// Prints how long the slices take after an event, or at a moment, that touches much.
fn time_slices(name: &str, model: &mut Model, event: Option<Event>, now: Timestamp) {
    let began = cpu_time();
    if let Some(event) = event {
        model.apply(event, now);
    }
    let applied = cpu_time() - began;
    let slices = settle(model, now);
    println!(
        "{name}: applied in {applied:.2?}; {:.2?} in {} slices, the longest {:.2?}",
        slices.iter().sum::<Duration>(),
        slices.len(),
        slices.iter().max().unwrap(),
    );
}

/// A budget's limit that nothing reaches.
const LIMIT: i128 = 1_000_000_000_000_000;

fn budget(limit: i128) -> Budget {
    Budget {
        limit: Money::from_nanos(limit),
        period: Period::Monthly,
        on_exhausted: OnExhausted::ScaleToZero,
        minimum_useful_run: SignedDuration::from_mins(5),
        latch: None,
        unmanaged: Default::default(),
        record: Default::default(),
    }
}

/// Decides until nothing is marked; the times of the slices.
fn settle(model: &mut Model, now: Timestamp) -> Vec<Duration> {
    let mut slices = Vec::new();
    while model.has_marks() || slices.is_empty() {
        let began = cpu_time();
        decide(model, now);
        slices.push(cpu_time() - began);
        assert!(slices.len() < 10_000, "it does not settle");
    }
    slices
}

fn cpu_time() -> Duration {
    let clock = ClockId::CLOCK_THREAD_CPUTIME_ID;
    clock_gettime(clock).unwrap().into()
}

fn now() -> Timestamp {
    "2026-11-24T12:00:00Z".parse().unwrap()
}

fn resident_mebibytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) / 1024
}

fn prices(per_hour: i128) -> Arc<PriceCatalog> {
    let list = PriceList {
        currency: "USD".to_owned(),
        gpus: vec![GpuPrice {
            model: "H100".to_owned(),
            resource: GPU.to_owned(),
            nodes: PriceScope::default(),
            per_hour: Money::from_nanos(per_hour * 1_000_000_000),
            watts: None,
        }],
        ..PriceList::default()
    };
    let list = DatedPriceList {
        name: "ours".to_owned(),
        effective_from: None,
        list,
    };
    Arc::new(PriceCatalog::new(vec![list], Timestamp::UNIX_EPOCH))
}

fn shape(gpus: u32) -> Arc<PodShape> {
    let mut requests = bursar_core::pod_set::Resources::from([
        ("pods".to_owned(), 1000),
        ("cpu".to_owned(), 500),
        ("memory".to_owned(), 1 << 40),
    ]);
    if gpus > 0 {
        requests.insert(GPU.to_owned(), i64::from(gpus) * 1000);
    }
    let attributes = (gpus > 0).then(|| PricingAttributes {
        resource: GPU.to_owned(),
        gpus,
        ..PricingAttributes::default()
    });
    Arc::new(PodShape {
        requests,
        attributes,
        ..PodShape::default()
    })
}

/// The objects of the cluster.
struct Cluster {
    services: Vec<Key>,
    jobs: Vec<Key>,
    replica: Arc<PodShape>,
    worker: Arc<PodShape>,
    other: Arc<PodShape>,
}

impl Cluster {
    fn new() -> Self {
        let keys: Vec<Key> = (0..WORKLOADS)
            .map(|number| {
                let namespace = match number {
                    _ if number < LARGEST => 0,
                    _ => 1 + number % (NAMESPACES - 1),
                };
                Key::new(&format!("team-{namespace}"), &format!("workload-{number}"))
            })
            .collect();
        let is_job = |number: usize| number % 10 == 9;
        let numbered = || keys.iter().enumerate();
        Self {
            services: numbered()
                .filter(|(number, _)| !is_job(*number))
                .map(|(_, key)| key.clone())
                .collect(),
            jobs: numbered()
                .filter(|(number, _)| is_job(*number))
                .map(|(_, key)| key.clone())
                .collect(),
            replica: shape(1),
            worker: shape(8),
            other: shape(0),
        }
    }

    fn events(&self) -> Vec<Event> {
        let mut events = vec![Event::Prices(prices(2))];
        events.extend((0..NODES).map(|number| Event::Node(node_name(number), Some(node(false)))));
        for number in 0..NAMESPACES {
            let key = Key::new(&format!("team-{number}"), "all");
            events.push(Event::Budget(key, Some(budget(LIMIT))));
        }
        for (number, key) in self.services.iter().enumerate() {
            events.push(Event::Service(key.clone(), Some(self.service(8))));
            let replicas = u32::from(number < NODES * 7);
            let deployment = Deployment {
                replicas,
                first_ordinal: None,
                rollout: None,
                creation_failure: None,
            };
            events.push(Event::Deployment(key.clone(), Some(deployment)));
            if replicas > 0 {
                let uid = replica_uid(number);
                events.push(Event::Endpoints(key.clone(), vec![uid.clone()]));
                events.push(Event::Pod(
                    uid.clone(),
                    Some(Box::new(self.replica(number))),
                ));
                let reading = Reading::Counted {
                    requests: 1,
                    counting: Default::default(),
                    moved: true,
                    done: Default::default(),
                };
                events.push(Event::Reading(uid, reading));
            }
        }
        for (number, key) in self.jobs.iter().enumerate() {
            events.push(Event::Job(key.clone(), Some(self.job(number, 0))));
        }
        let others = PODS - self.services.len().min(NODES * 7);
        events.extend((0..others).map(|number| {
            let uid: Name = format!("other-{number}").into();
            Event::Pod(uid, Some(Box::new(self.other_pod(number, false))))
        }));
        events
    }

    fn service(&self, target: u32) -> Service {
        Service {
            created: now(),
            priority: 0,
            cluster_priority: 0,
            weight: 100,
            min: 0,
            max: 4,
            request_signal: RequestSignal::Target(target),
            signals: vec![],
            measured_by: 0,
            growth: Default::default(),
            learned: None,
            behavior: Behavior::with_scale_down_window(Some(SignedDuration::from_secs(60))),
            idle_after: SignedDuration::from_mins(10),
            schedules: vec![],
            on_signal_failure: Default::default(),
            drain_timeout: SignedDuration::from_mins(1),
            paused: None,
            activation: Activation::OnDemand,
            replica: Arc::clone(&self.replica),
            grace_seconds: 30,
            workers: None,
        }
    }

    fn job(&self, number: usize, priority: i32) -> Job {
        let role = Role {
            name: "".into(),
            replicas: 2,
            worker: Arc::clone(&self.worker),
            grace_seconds: 30,
        };
        Job {
            created: now(),
            priority,
            cluster_priority: priority,
            preemption_allowed: true,
            suspend: false,
            paused: false,
            seed: number as u64,
            restarts: 3,
            restart_count: 0,
            ended_well: Default::default(),
            success_roles: Default::default(),
            resumes_whole: false,
            is_adopted: false,
            roles: vec![role],
        }
    }

    fn replica(&self, number: usize) -> Pod {
        let service = &self.services[number];
        Pod {
            key: Key::new(&service.namespace, &replica_uid(number)),
            owner: Owner::Service(service.name.clone()),
            shape: Arc::clone(&self.replica),
            node: Some(node_name(number % NODES)),
            created: now() - SignedDuration::from_hours(1),
            ended: None,
            deletion: None,
            grace_seconds: 30,
            ready_since: Some(now() - SignedDuration::from_mins(59)),
            was_ready: false,
            draining_since: None,
            marked_for_deletion: false,
            start_failure: None,
            failure: None,
            disrupted: false,
            made_by: None,
            leader: None,
            owner_name: Default::default(),
            scheduling: bursar_core::model::event::Scheduling::Queued,
            resident: false,
        }
    }

    fn other_pod(&self, number: usize, moved: bool) -> Pod {
        Pod {
            key: Key::new("web", &format!("other-{number}")),
            owner: Owner::Other,
            shape: Arc::clone(&self.other),
            node: Some(node_name((number + usize::from(moved)) % NODES)),
            created: now(),
            ended: None,
            deletion: None,
            grace_seconds: 30,
            ready_since: Some(now()),
            was_ready: false,
            draining_since: None,
            marked_for_deletion: false,
            start_failure: None,
            failure: None,
            disrupted: false,
            made_by: None,
            leader: None,
            owner_name: Default::default(),
            scheduling: bursar_core::model::event::Scheduling::Queued,
            resident: false,
        }
    }

    fn running(&self, rng: &mut Rng) -> usize {
        rng.usize(0..self.services.len().min(NODES * 7))
    }

    fn pod_event(&self, rng: &mut Rng) -> Event {
        let number = self.running(rng);
        let pod = Pod {
            ready_since: rng.bool().then(now),
            ..self.replica(number)
        };
        Event::Pod(replica_uid(number), Some(Box::new(pod)))
    }

    fn other_pod_event(&self, rng: &mut Rng) -> Event {
        let number = rng.usize(0..40_000);
        let pod = self.other_pod(number, rng.bool());
        Event::Pod(format!("other-{number}").into(), Some(Box::new(pod)))
    }

    fn node_event(&self, rng: &mut Rng) -> Event {
        Event::Node(node_name(rng.usize(0..NODES)), Some(node(rng.bool())))
    }

    fn reading_event(&self, rng: &mut Rng) -> Event {
        let reading = Reading::Counted {
            requests: rng.u64(0..30),
            counting: Default::default(),
            moved: true,
            done: Default::default(),
        };
        Event::Reading(replica_uid(self.running(rng)), reading)
    }

    fn job_event(&self, rng: &mut Rng) -> Event {
        let number = rng.usize(0..self.jobs.len());
        let job = self.job(number, rng.i32(0..3));
        Event::Job(self.jobs[number].clone(), Some(job))
    }

    fn service_event(&self, rng: &mut Rng) -> Event {
        let key = rng.choice(&self.services).unwrap().clone();
        Event::Service(key, Some(self.service(rng.u32(1..32))))
    }
}

fn node_name(number: usize) -> Name {
    format!("node-{number:04}").into()
}

fn replica_uid(number: usize) -> Name {
    format!("replica-{number}").into()
}

fn node(cordoned: bool) -> Node {
    Node {
        takes_pods: !cordoned,
        unready: false,
        taints: Vec::new(),
        labels: [("nvidia.com/gpu.product".to_owned(), "H100".to_owned())].into(),
        allocatable: [
            (GPU.to_owned(), 8000),
            ("pods".to_owned(), 250_000),
            ("cpu".to_owned(), 128_000),
            ("memory".to_owned(), 1 << 52),
        ]
        .into(),
        gpus: [(GPU.to_owned(), 8)].into(),
    }
}
