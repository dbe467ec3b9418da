//! Who gets the money of a budget first, who gives it back for others, and who stops first.

#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by ending

mod common;
#[path = "common/pods.rs"]
mod pods;
#[path = "common/services.rs"]
mod services;

use std::collections::BTreeMap;
use std::sync::Arc;

use bursar_core::budget::{BudgetState, OnExhausted, Phase};
use bursar_core::calendar::Period;
use bursar_core::ledger::LinearSpend;
use bursar_core::model::event::{
    BatchJob, Budget, Deployment, Event, GatewayPod, HeldRequests, Job, Node, Owner, Pod, PodShape,
    Reading, Role, Service,
};
use bursar_core::model::{AccountSpend, DEFAULT_WEIGHT, Key, Model, Name};
use bursar_core::money::Money;
use bursar_core::plan::{Decision, JobOrder, LimitedBy, ServiceOrder, decide};
use bursar_core::pricing::PriceCatalog;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use common::{GPU, money, price_list, shape};
use pods::new_pod;
use services::new_service;

/// The value of a PriorityClass for what matters.
const HIGH: i32 = 1_000_000;

fn at(second: i64) -> Timestamp {
    let start: Timestamp = "2026-12-14T12:00:00Z".parse().unwrap();
    start + SignedDuration::from_secs(second)
}

fn key(name: &str) -> Key {
    Key::new("team", name)
}

/// A service whose replicas take an hour to leave.
fn service(created: i64, priority: i32) -> Service {
    Service {
        priority,
        cluster_priority: priority,
        max: 20,
        idle_after: SignedDuration::from_hours(2),
        drain_timeout: SignedDuration::from_hours(1),
        ..new_service(shape(), at(created))
    }
}

fn job(priority: i32, workers: u32) -> Job {
    Job {
        created: at(0),
        priority,
        cluster_priority: priority,
        preemption_allowed: true,
        suspend: false,
        paused: false,
        seed: 1,
        restarts: 3,
        restart_count: 0,
        ended_well: Default::default(),
        success_roles: Default::default(),
        resumes_whole: false,
        is_adopted: false,
        roles: vec![Role {
            name: "".into(),
            replicas: workers,
            worker: shape(),
            grace_seconds: 30,
        }],
    }
}

/// A namespace with one monthly budget that scales to zero, in a cluster of 100 GPUs at 2.00 an hour.
struct World {
    model: Model,
    pods: BTreeMap<Name, Pod>,
    held: BTreeMap<Key, HeldRequests>,
    made: u32,
    spent: Money,
}

impl World {
    fn new(limit: &str) -> Self {
        let mut model = Model::new(TimeZone::UTC, at(0));
        let list = price_list("list", None, &[("H100", "2")]);
        let catalog = PriceCatalog::new(vec![list], at(0));
        let budget = Budget {
            limit: money(limit),
            period: Period::Monthly,
            on_exhausted: OnExhausted::ScaleToZero,
            minimum_useful_run: SignedDuration::from_secs(300),
            latch: None,
            unmanaged: Default::default(),
            record: Default::default(),
        };
        let room = [(GPU.to_owned(), 100_000), ("pods".to_owned(), 1_000_000)];
        let node = Node {
            takes_pods: true,
            allocatable: room.into(),
            gpus: [(GPU.to_owned(), 100)].into(),
            ..Node::default()
        };
        let gateway = GatewayPod {
            name: "gateway".into(),
            ready_since: Some(at(-3600)),
        };
        for event in [
            Event::Prices(Arc::new(catalog)),
            Event::Budget(key("budget"), Some(budget)),
            Event::Node("node".into(), Some(node)),
            Event::Gateway("gateway".into(), Some(gateway)),
            Event::Demand("gateway".into(), BTreeMap::new()),
        ] {
            model.apply(event, at(0));
        }
        Self {
            model,
            pods: BTreeMap::new(),
            held: BTreeMap::new(),
            made: 0,
            spent: Money::ZERO,
        }
    }

    /// Lets ten seconds pass in which all pods cost 2.00 an hour, and settles. Replicas that leave have
    /// done their work after a minute.
    fn pass(&mut self, second: i64) -> BudgetState {
        let leaving = self.pods.iter();
        let leaving = leaving.filter(|(_, pod)| {
            let since = pod.draining_since;
            since.is_some_and(|since| at(second).duration_since(since).as_secs() >= 60)
        });
        let done: Vec<Name> = leaving.map(|(uid, _)| uid.clone()).collect();
        for uid in done {
            let reading = Reading::Counted {
                requests: 0,
                counting: Default::default(),
                moved: false,
                done: Default::default(),
            };
            self.model.apply(Event::Reading(uid, reading), at(second));
        }
        let number = u32::try_from(self.pods.len()).unwrap();
        self.spent += money("2").times(number).cost_for_seconds(10);
        self.spend(&self.spent.to_string(), second);
        self.settle(second)
    }

    fn add(&mut self, name: &str, service: Service) {
        self.model
            .apply(Event::Service(key(name), Some(service)), at(0));
    }

    /// So many requests are held for a service.
    fn ask(&mut self, name: &str, requests: u64, second: i64) {
        let held = HeldRequests {
            requests,
            in_flight: 0,
            forwarded: 0,
            since: Some(at(second)),
        };
        self.held.insert(key(name), held);
        let event = Event::Demand("gateway".into(), self.held.clone());
        self.model.apply(event, at(second));
    }

    /// This much was spent; all pods cost 2.00 an hour.
    fn spend(&mut self, spent: &str, second: i64) {
        let rates = self.pods.keys();
        let rates: BTreeMap<Name, Option<Money>> =
            rates.map(|uid| (uid.clone(), Some(money("2")))).collect();
        let rate = rates.values().flatten().copied().sum();
        let within = Period::Monthly.bounds(at(second), &TimeZone::UTC);
        let account = AccountSpend {
            spent: [(
                Period::Monthly,
                (within, LinearSpend::new(money(spent), at(second), rate)),
            )]
            .into(),
            rates,
            doubt: None,
        };
        let event = Event::Account(key("all"), Some(account));
        self.model.apply(event, at(second));
    }

    /// Decides, and carries out all orders at once, until nothing is left to do at this second.
    fn settle(&mut self, second: i64) -> BudgetState {
        for _ in 0..100 {
            let decisions = decide(&mut self.model, at(second));
            for order in &decisions.service_orders {
                self.scale(order, second);
            }
            for order in &decisions.job_orders {
                self.run(order, second);
            }
            let is_done = decisions.service_orders.is_empty() && decisions.job_orders.is_empty();
            if is_done && !self.model.has_marks() {
                return self.model.budget(&key("budget")).unwrap().clone();
            }
        }
        panic!("it does not settle");
    }

    fn tell(&mut self, uid: &Name, second: i64) {
        let pod = self.pods.get(uid).cloned().map(Box::new);
        self.model.apply(Event::Pod(uid.clone(), pod), at(second));
    }

    fn scale(&mut self, order: &ServiceOrder, second: i64) {
        for (uids, leaves) in [(&order.drain, true), (&order.keep, false)] {
            for uid in uids {
                let pod = self.pods.get_mut(uid).unwrap();
                pod.draining_since = leaves.then(|| at(second));
                self.tell(uid, second);
            }
        }
        let deployment = Deployment {
            replicas: order.replicas.1,
            first_ordinal: None,
            rollout: None,
            creation_failure: None,
        };
        let event = Event::Deployment(order.service.clone(), Some(deployment));
        self.model.apply(event, at(second));
        for uid in &order.remove {
            self.pods.remove(uid);
            self.tell(uid, second);
        }
        let owner = Owner::Service(order.service.name.clone());
        for _ in self.pods_of(&order.service.name)..order.replicas.1 as usize {
            self.create(owner.clone(), second);
        }
    }

    fn run(&mut self, order: &JobOrder, second: i64) {
        let batch = BatchJob {
            running: order.run,
            started: order.run.then(|| at(second)),
            ..BatchJob::default()
        };
        let event = Event::BatchJob(order.job.clone(), "".into(), Some(batch));
        self.model.apply(event, at(second));
        let owner = Owner::Job(order.job.name.clone(), "".into());
        let workers = self.model.job(&order.job).map_or(0, |_| 2);
        if order.run {
            (0..workers).for_each(|_| self.create(owner.clone(), second));
            return;
        }
        let pods = self.pods.iter();
        let pods = pods.filter(|(_, pod)| pod.owner == owner);
        let uids: Vec<Name> = pods.map(|(uid, _)| uid.clone()).collect();
        for uid in uids {
            self.pods.remove(&uid);
            self.tell(&uid, second);
        }
    }

    /// A pod that is ready at once.
    fn create(&mut self, owner: Owner, second: i64) {
        self.made += 1;
        let uid: Name = format!("p{:03}", self.made).into();
        let pod = Pod {
            node: Some("node".into()),
            ready_since: Some(at(second)),
            was_ready: true,
            ..new_pod(Key::new("team", &uid), owner, shape(), at(second))
        };
        self.pods.insert(uid.clone(), pod);
        self.tell(&uid, second);
    }

    /// Pods of a service that were not told to leave.
    fn staying(&self, name: &str) -> usize {
        let owner = Owner::Service(name.into());
        let pods = self.pods.values();
        pods.filter(|pod| pod.owner == owner && pod.draining_since.is_none())
            .count()
    }

    fn pods_of(&self, name: &str) -> usize {
        let owner = Owner::Service(name.into());
        self.pods.values().filter(|pod| pod.owner == owner).count()
    }

    fn decision(&self, name: &str) -> Decision {
        self.model.service(&key(name)).unwrap().decision.clone()
    }
}

/// A service `toy` that has all the money, and `production` at zero.
fn toy_has_all(priority_of_production: i32) -> World {
    let mut world = World::new("20");
    world.add("toy", service(0, 0));
    world.add("production", service(300, priority_of_production));
    world.ask("toy", 160, 400);
    world.settle(400);
    world.spend("0", 400);
    world.settle(400);
    world
}

#[test]
fn a_service_of_higher_priority_gets_the_money_of_further_replicas_of_a_lower_one() {
    let mut world = toy_has_all(HIGH);
    let before = world.staying("toy");
    assert!((8..10).contains(&before), "{before}");
    // the gateway must not refuse what others give way to
    assert_eq!(world.decision("production").refusal, None);
    world.ask("production", 1, 480);
    world.settle(480);
    assert_eq!(world.decision("production").refusal, None);
    let toy = world.decision("toy");
    assert_eq!(toy.limited_by, Some(LimitedBy::Preempted), "{}", toy.reason);
    assert!(world.staying("toy") < before && world.staying("toy") > 5);
    // its replicas leave, and none comes back
    let mut toy = world.staying("toy");
    let mut ready = None;
    for second in (490..490 + 3700).step_by(10) {
        let state = world.pass(second);
        assert!(world.staying("toy") <= toy, "{second}");
        assert!(state.budget.spent <= state.budget.limit, "{second}");
        toy = world.staying("toy");
        ready = ready.or((world.staying("production") == 1).then_some(second));
    }
    assert!(ready.is_some_and(|second| second <= 570), "{ready:?}");
    assert_eq!(world.staying("production"), 1);
}

#[test]
fn of_two_services_of_one_priority_none_gives_way() {
    let mut world = toy_has_all(0);
    let before = world.staying("toy");
    assert!(world.decision("production").refusal.is_some());
    world.ask("production", 1, 480);
    world.settle(480);
    assert_eq!(
        (world.staying("toy"), world.staying("production")),
        (before, 0)
    );
}

#[test]
fn first_replicas_get_money_before_anybodys_further_ones() {
    let mut world = World::new("7");
    world.add("old", service(0, 0));
    world.add("young", service(1, 0));
    world.ask("old", 160, 10);
    world.ask("young", 160, 10);
    world.settle(10);
    // three replicas could be stopped for 6.07
    assert_eq!((world.staying("old"), world.staying("young")), (2, 1));
}

#[test]
fn the_heavier_service_gets_money_for_further_replicas_first() {
    let mut world = World::new("9.5");
    world.add("old", service(0, 0));
    let heavy = Service {
        weight: DEFAULT_WEIGHT + 1,
        ..service(1, 0)
    };
    world.add("heavy", heavy);
    world.ask("old", 160, 10);
    world.ask("heavy", 160, 10);
    world.settle(10);
    assert_eq!((world.staying("old"), world.staying("heavy")), (1, 3));
}

#[test]
fn the_lowest_priority_stops_first_and_the_others_run_on_until_the_limit() {
    let mut world = World::new("20");
    world.add("low", service(0, 0));
    world.add("high", service(1, HIGH));
    world.ask("low", 8, 10);
    world.ask("high", 8, 10);
    world.settle(10);
    assert_eq!((world.staying("low"), world.staying("high")), (1, 1));
    // both could be stopped for 4.05, and while `low` stops, `high` would spend 2.03
    world.spend("13.9", 20);
    assert_eq!(world.settle(20).phase, Phase::Active);
    world.spend("13.95", 30);
    let state = world.settle(30);
    assert_eq!(state.phase, Phase::PartlyExhausted);
    assert_eq!(state.stops_below(), Some(HIGH));
    assert_eq!((world.staying("low"), world.staying("high")), (0, 1));
    let low = world.decision("low");
    assert_eq!(low.limited_by, Some(LimitedBy::Budget));
    assert!(low.refusal.is_some(), "{}", low.reason);
    // it left early: what that frees is for the others, and does not start it again
    let uids: Vec<Name> = world.pods.keys().cloned().collect();
    for uid in uids {
        if world.pods[&uid].draining_since.is_some() {
            world.pods.remove(&uid);
            world.tell(&uid, 40);
        }
    }
    world.model.apply(
        Event::Deployment(
            key("low"),
            Some(Deployment {
                replicas: 0,
                first_ordinal: None,
                rollout: None,
                creation_failure: None,
            }),
        ),
        at(40),
    );
    world.spend("17.9", 50);
    assert_eq!(world.settle(50).phase, Phase::PartlyExhausted);
    assert_eq!((world.staying("low"), world.staying("high")), (0, 1));
    world.spend("17.98", 60);
    assert_eq!(world.settle(60).phase, Phase::Exhausted);
    assert_eq!((world.staying("low"), world.staying("high")), (0, 0));
}

#[test]
fn training_of_lower_priority_gives_way_unless_it_never_does() {
    for preemption_allowed in [true, false] {
        let mut world = World::new("3");
        let low = Job {
            preemption_allowed,
            ..job(0, 2)
        };
        world
            .model
            .apply(Event::Job(key("train"), Some(low)), at(0));
        world.settle(0);
        assert_eq!(world.pods.len(), 2, "it runs");
        world.spend("0.5", 10);
        world.add("chat", service(5, HIGH));
        world.settle(10);
        world.ask("chat", 1, 20);
        world.settle(20);
        assert_eq!(world.staying("chat"), usize::from(preemption_allowed));
        let refused = world.decision("chat").refusal.is_some();
        assert_eq!(refused, !preemption_allowed);
        let workers = world.pods.len() - world.staying("chat");
        assert_eq!(workers, if preemption_allowed { 0 } else { 2 });
    }
}

/// It costs nothing, and would start again at once.
#[test]
fn a_gang_of_which_only_workers_without_gpus_are_left_gives_way_to_nobody() {
    let mut world = World::new("3");
    let event = Event::Job(key("train"), Some(job(0, 2)));
    world.model.apply(event, at(0));
    world.settle(0);
    // the younger one would give way first
    let mut launcher = job(0, 1);
    launcher.created = at(5);
    launcher.roles[0].worker = Arc::new(PodShape {
        requests: [("pods".to_owned(), 1000)].into(),
        ..PodShape::default()
    });
    let running = BatchJob {
        running: true,
        started: Some(at(5)),
        ..BatchJob::default()
    };
    for event in [
        Event::Job(key("launcher"), Some(launcher)),
        Event::BatchJob(key("launcher"), "".into(), Some(running)),
    ] {
        world.model.apply(event, at(5));
    }
    world.spend("0.5", 10);
    world.add("chat", service(5, HIGH));
    world.settle(10);
    world.ask("chat", 1, 20);
    world.settle(20);
    let runs = |name: &str| world.model.job(&key(name)).unwrap().run;
    assert_eq!(world.staying("chat"), 1);
    assert_eq!((runs("train"), runs("launcher")), (false, true));
}

/// The budget pays for one gang of two. The first one was stopped because the cluster took a worker
/// away, and starts again after ten seconds.
#[test]
fn a_gang_that_waits_to_start_again_takes_no_money_yet_and_is_not_passed() {
    let mut world = World::new("0.6");
    let stopped = BatchJob {
        started: Some(at(-100)),
        restart_at: Some(at(10)),
        ..BatchJob::default()
    };
    let next = Job {
        created: at(1),
        ..job(0, 2)
    };
    for event in [
        Event::Job(key("train"), Some(job(0, 2))),
        Event::BatchJob(key("train"), "".into(), Some(stopped)),
        Event::Job(key("next"), Some(next)),
    ] {
        world.model.apply(event, at(2));
    }
    world.settle(2);
    let runs = |world: &World, name: &str| world.model.job(&key(name)).unwrap().run;
    assert_eq!(
        (runs(&world, "train"), runs(&world, "next")),
        (false, false)
    );
    assert_eq!(world.model.next_timer(), Some(at(10)));
    world.settle(10);
    assert_eq!((runs(&world, "train"), runs(&world, "next")), (true, false));
}
