//! What takes something away waits: for the end of a pause, and for what was announced.

#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by ending

mod changes;
#[path = "../common/mod.rs"]
mod common;
mod pause;
#[path = "../common/pods.rs"]
mod pods;
mod removals;
#[path = "../common/services.rs"]
mod services;
mod synced;
mod unmanaged;

use std::collections::BTreeMap;
use std::sync::Arc;

use bursar_core::budget::OnExhausted;
use bursar_core::calendar::Period;
use bursar_core::ledger::LinearSpend;
use bursar_core::model::event::{
    BatchJob, Budget, Deployment, Event, GatewayPod, HeldRequests, Job, Node, Owner, Pod, Reading,
    Role, Service,
};
use bursar_core::model::{AccountSpend, Key, Model, Name};
use bursar_core::plan::{Decision, Decisions, decide};
use bursar_core::pricing::PriceCatalog;
use bursar_core::scaling::Behavior;
use bursar_core::training::JobDecision;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use pods::new_pod;
use services::new_service;

pub(crate) use common::{GPU, money, price_list, shape};

pub(crate) fn at(second: i64) -> Timestamp {
    let start: Timestamp = "2026-12-14T12:00:00Z".parse().unwrap();
    start + SignedDuration::from_secs(second)
}

pub(crate) fn service() -> Service {
    Service {
        max: 20,
        behavior: Behavior::with_scale_down_window(Some(SignedDuration::from_secs(30))),
        idle_after: SignedDuration::from_secs(60),
        ..new_service(shape(), at(0))
    }
}

pub(crate) fn job(workers: u32) -> Job {
    Job {
        created: at(0),
        priority: 0,
        cluster_priority: 0,
        preemption_allowed: true,
        suspend: false,
        paused: false,
        restarts: 3,
        restart_count: 0,
        ended_well: Default::default(),
        success_roles: Default::default(),
        resumes_whole: false,
        is_adopted: false,
        seed: 1,
        roles: vec![Role {
            name: "".into(),
            replicas: workers,
            worker: shape(),
            grace_seconds: 30,
        }],
    }
}

/// A price list of one row.
pub(crate) fn prices(per_hour: &str) -> Event {
    let list = price_list("list", None, &[("H100", per_hour)]);
    Event::Prices(Arc::new(PriceCatalog::new(vec![list], at(0))))
}

pub(crate) fn budget(limit: &str) -> Budget {
    Budget {
        limit: money(limit),
        period: Period::Monthly,
        on_exhausted: OnExhausted::ScaleToZero,
        minimum_useful_run: SignedDuration::from_secs(300),
        latch: None,
        unmanaged: Default::default(),
        record: Default::default(),
    }
}

/// A cluster of GPUs at 2.00 an hour, and a gateway.
pub(crate) struct World {
    pub(crate) model: Model,
    pub(crate) pods: BTreeMap<Name, Pod>,
}

impl World {
    pub(crate) fn new(gpus: u32) -> Self {
        Self::with(Model::new(TimeZone::UTC, at(0)), gpus)
    }

    pub(crate) fn with(model: Model, gpus: u32) -> Self {
        let pods = BTreeMap::new();
        let mut world = Self { model, pods };
        let room = [
            (GPU.to_owned(), i64::from(gpus) * 1000),
            ("pods".to_owned(), 1_000_000),
        ];
        let node = Node {
            takes_pods: true,
            labels: [("nvidia.com/gpu.product".to_owned(), "H100".to_owned())].into(),
            allocatable: room.into(),
            gpus: [(GPU.to_owned(), gpus)].into(),
            ..Node::default()
        };
        let gateway = GatewayPod {
            name: "gateway".into(),
            ready_since: Some(at(-3600)),
        };
        world.tell(0, prices("2"));
        world.tell(0, Event::Node("node".into(), Some(node)));
        world.tell(0, Event::Gateway("gateway".into(), Some(gateway)));
        world.hold(0, &[]);
        world
    }

    pub(crate) fn tell(&mut self, second: i64, event: Event) {
        self.model.apply(event, at(second));
    }

    /// Requests that the gateway holds.
    pub(crate) fn hold(&mut self, second: i64, held: &[(Key, u64)]) {
        let held = held.iter().map(|(key, requests)| {
            let held = HeldRequests {
                requests: *requests,
                in_flight: 0,
                forwarded: 0,
                since: Some(at(second)),
            };
            (key.clone(), held)
        });
        self.tell(second, Event::Demand("gateway".into(), held.collect()));
    }

    /// The Deployment of a service has so many replicas, and all are ready.
    pub(crate) fn serve(&mut self, second: i64, key: &Key, replicas: u32) {
        self.scale(second, key, replicas);
        for number in 0..replicas {
            let uid = format!("{}-{}-{number}", key.namespace, key.name);
            let owner = Owner::Service(key.name.clone());
            let mut pod = self.pod(second, &key.namespace, &uid, owner);
            pod.ready_since = Some(at(second));
            self.show(second, &uid, pod);
        }
    }

    pub(crate) fn scale(&mut self, second: i64, key: &Key, replicas: u32) {
        let deployment = Deployment {
            replicas,
            first_ordinal: None,
            rollout: None,
            creation_failure: None,
        };
        self.tell(second, Event::Deployment(key.clone(), Some(deployment)));
    }

    /// The Job of a TrainingJob runs, with so many workers.
    pub(crate) fn train(&mut self, second: i64, key: &Key, workers: u32) {
        let job = BatchJob {
            running: true,
            started: Some(at(second)),
            active: workers,
            ..BatchJob::default()
        };
        self.tell(second, Event::BatchJob(key.clone(), "".into(), Some(job)));
        for number in 0..workers {
            let uid = format!("{}-{}-{number}", key.namespace, key.name);
            let owner = Owner::Job(key.name.clone(), "".into());
            let pod = self.pod(second, &key.namespace, &uid, owner);
            self.show(second, &uid, pod);
        }
    }

    fn pod(&self, second: i64, namespace: &str, name: &str, owner: Owner) -> Pod {
        Pod {
            node: Some("node".into()),
            ..new_pod(Key::new(namespace, name), owner, shape(), at(second))
        }
    }

    pub(crate) fn show(&mut self, second: i64, uid: &str, pod: Pod) {
        self.pods.insert(uid.into(), pod.clone());
        self.tell(second, Event::Pod(uid.into(), Some(Box::new(pod))));
    }

    /// So many requests on each engine of a service.
    pub(crate) fn read(&mut self, second: i64, key: &Key, requests: u64) {
        let owner = Owner::Service(key.name.clone());
        let pods = self.pods.iter();
        let its = pods.filter(|(_, pod)| pod.owner == owner && pod.key.namespace == key.namespace);
        let uids: Vec<Name> = its.map(|(uid, _)| uid.clone()).collect();
        for uid in uids {
            self.tell(second, Event::Reading(uid, Reading::Uncounted { requests }));
        }
    }

    /// So much was spent in a namespace by now, and so much is an hour.
    pub(crate) fn spend(&mut self, second: i64, namespace: &str, spent: &str, rate: &str) {
        self.spend_in(second, namespace, Period::Monthly, spent, rate);
    }

    pub(crate) fn spend_in(
        &mut self,
        second: i64,
        namespace: &str,
        period: Period,
        spent: &str,
        rate: &str,
    ) {
        let within = period.bounds(at(second), &TimeZone::UTC);
        let spend = LinearSpend::new(money(spent), at(second), money(rate));
        let account = AccountSpend {
            spent: [(period, (within, spend))].into(),
            rates: BTreeMap::new(),
            doubt: None,
        };
        let key = Key::new(namespace, "all");
        self.tell(second, Event::Account(key, Some(account)));
    }

    /// Every pod of a namespace is charged at so much an hour, after so much was spent.
    pub(crate) fn charge(&mut self, second: i64, namespace: &str, spent: &str, each: &str) {
        let within = Period::Monthly.bounds(at(second), &TimeZone::UTC);
        let pods = self.pods.iter();
        let charged = pods.filter(|(_, pod)| &*pod.key.namespace == namespace);
        let each = money(each);
        let rates: BTreeMap<Name, _> = charged.map(|(uid, _)| (uid.clone(), Some(each))).collect();
        let rate = each.times(u32::try_from(rates.len()).unwrap());
        let spend = LinearSpend::new(money(spent), at(second), rate);
        let account = AccountSpend {
            spent: [(Period::Monthly, (within, spend))].into(),
            rates,
            doubt: None,
        };
        let key = Key::new(namespace, "all");
        self.tell(second, Event::Account(key, Some(account)));
    }

    /// Decides until nothing is left.
    pub(crate) fn decide(&mut self, second: i64) -> Decisions {
        let mut all = decide(&mut self.model, at(second));
        for round in 0.. {
            if !self.model.has_marks() {
                break;
            }
            assert!(round < 100, "it never ends");
            let more = decide(&mut self.model, at(second));
            all.service_orders.extend(more.service_orders);
            all.job_orders.extend(more.job_orders);
            all.latches.extend(more.latches);
        }
        all
    }

    /// What the orders of these decisions are: services with their replicas, jobs with whether they
    /// run.
    pub(crate) fn orders(&mut self, second: i64) -> (Vec<String>, Decisions) {
        let decisions = self.decide(second);
        let services = decisions.service_orders.iter().map(|order| {
            let (name, drain) = (&order.service.name, order.drain.len());
            format!("{name}: {:?}, {drain} leave", order.replicas)
        });
        let jobs = decisions.job_orders.iter();
        let jobs = jobs.map(|order| format!("{}: {}", order.job.name, order.run));
        (services.chain(jobs).collect(), decisions)
    }

    pub(crate) fn service(&self, key: &Key) -> Decision {
        self.model.service(key).unwrap().decision
    }

    pub(crate) fn job(&self, key: &Key) -> JobDecision {
        self.model.job(key).unwrap().clone()
    }
}
