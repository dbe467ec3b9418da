//! Which gangs of a namespace start, and behind which others they wait: through the events and
//! decisions of the model.

#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by ending

#[path = "common/pods.rs"]
mod pods;

use std::sync::Arc;

use bursar_core::budget::OnExhausted;
use bursar_core::calendar::Period;
use bursar_core::model::event::{
    BatchJob, Budget, Event, Job, Node, Owner, Pod, PodShape, Role, Scheduling,
};
use bursar_core::model::{Key, Model};
use bursar_core::placement::{
    NodeTerm, Operator, Placement, Requirement, Taint, TaintEffect, Toleration,
};
use bursar_core::plan::LimitedBy;
use bursar_core::plan::decide;
use bursar_core::pricing::{
    DatedPriceList, GpuPrice, PriceCatalog, PriceList, PriceScope, PricingAttributes,
};
use bursar_core::training::JobDecision;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use pods::new_pod;

const GPU: &str = "nvidia.com/gpu";
const PRODUCT: &str = "nvidia.com/gpu.product";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_796_000_000 + second).unwrap()
}

/// A model with nodes of so many GPUs of a product each.
fn model(nodes: &[(&str, i64)]) -> Model {
    let mut model = Model::new(TimeZone::UTC, at(0));
    for (number, (product, gpus)) in nodes.iter().enumerate() {
        let node = Node {
            takes_pods: true,
            labels: [(PRODUCT.to_owned(), (*product).to_owned())].into(),
            allocatable: [(GPU.to_owned(), gpus * 1000), ("pods".to_owned(), 110_000)].into(),
            gpus: [(GPU.to_owned(), u32::try_from(*gpus).unwrap())].into(),
            ..Node::default()
        };
        let name = format!("node-{number}").as_str().into();
        model.apply(Event::Node(name, Some(node)), at(0));
    }
    model
}

/// A gang of these roles that was made at a second and may run.
fn new_job(second: i64, roles: Vec<Role>) -> Job {
    Job {
        created: at(second),
        priority: 0,
        cluster_priority: 0,
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
        roles,
    }
}

/// A gang of workers with so many GPUs of a product each, made at a second.
fn add(model: &mut Model, name: &str, second: i64, (product, workers, gpus): (&str, u32, u32)) {
    let mut worker = PodShape {
        requests: [(GPU.to_owned(), i64::from(gpus) * 1000)].into(),
        attributes: Some(PricingAttributes {
            resource: GPU.to_owned(),
            gpus,
            ..PricingAttributes::default()
        }),
        ..PodShape::default()
    };
    if !product.is_empty() {
        worker.node_selector = [(PRODUCT.to_owned(), product.to_owned())].into();
    }
    let role = Role {
        name: "".into(),
        replicas: workers,
        worker: Arc::new(worker),
        grace_seconds: 30,
    };
    let job = new_job(second, vec![role]);
    model.apply(Event::Job(Key::new("lab", name), Some(job)), at(second));
}

fn run(model: &mut Model, name: &str) {
    let job = BatchJob {
        running: true,
        started: Some(at(0)),
        ..BatchJob::default()
    };
    let key = Key::new("lab", name);
    model.apply(Event::BatchJob(key, "".into(), Some(job)), at(0));
}

/// What limits each of the gangs.
fn limits(model: &mut Model, second: i64) -> Vec<(String, Option<LimitedBy>)> {
    let decided = decide(model, at(second)).jobs;
    let limits = decided.into_iter();
    limits
        .map(|(key, decision)| (key.name.to_string(), decision.limited_by))
        .collect()
}

fn named<const N: usize>(
    limits: [(&str, Option<LimitedBy>); N],
) -> Vec<(String, Option<LimitedBy>)> {
    let limits = limits.into_iter();
    limits
        .map(|(name, limit)| (name.to_owned(), limit))
        .collect()
}

#[test]
fn a_gang_passes_one_that_waits_for_other_hardware() {
    let mut model = model(&[("H100", 8), ("H100", 8), ("T4", 1)]);
    add(&mut model, "first", 0, ("H100", 1, 8));
    run(&mut model, "first");
    add(&mut model, "a", 1, ("H100", 2, 8));
    add(&mut model, "b", 2, ("T4", 1, 1));
    add(&mut model, "c", 3, ("H100", 1, 1));
    assert_eq!(
        limits(&mut model, 3),
        named([
            ("first", None),
            ("a", Some(LimitedBy::Capacity)),
            ("b", None),
            ("c", Some(LimitedBy::Queue))
        ])
    );
}

/// A GPU costs 2 an hour, and the budget has so much.
fn prices_and_budget(model: &mut Model, limit: &str) {
    let row = GpuPrice {
        resource: GPU.to_owned(),
        model: "H100".to_owned(),
        per_hour: "2".parse().unwrap(),
        nodes: PriceScope::default(),
        watts: None,
    };
    let list = PriceList {
        currency: "USD".to_owned(),
        gpus: vec![row],
        ..PriceList::default()
    };
    let list = DatedPriceList {
        name: "ours".to_owned(),
        effective_from: None,
        list,
    };
    let catalog = PriceCatalog::new(vec![list], Timestamp::UNIX_EPOCH);
    model.apply(Event::Prices(Arc::new(catalog)), at(0));
    let budget = Budget {
        limit: limit.parse().unwrap(),
        period: Period::Monthly,
        on_exhausted: OnExhausted::ScaleToZero,
        minimum_useful_run: SignedDuration::from_hours(1),
        latch: None,
        unmanaged: Default::default(),
        record: Default::default(),
    };
    model.apply(Event::Budget(Key::new("lab", "team"), Some(budget)), at(0));
}

#[test]
fn a_gang_passes_one_that_no_period_of_the_budget_could_pay_for() {
    let mut model = model(&[("H100", 8)]);
    prices_and_budget(&mut model, "10");
    add(&mut model, "a", 1, ("", 8, 1));
    add(&mut model, "b", 2, ("", 1, 1));
    assert_eq!(
        limits(&mut model, 2),
        named([("a", Some(LimitedBy::Budget)), ("b", None)])
    );
}

/// A launcher asks for no GPU and is charged for nothing: it makes the gang's price no more unknown than its
/// workers do, and finds room on a node without GPUs.
#[test]
fn a_role_without_gpus_is_paid_with_nothing_and_placed_where_no_gpu_is() {
    let mut model = model(&[("H100", 8)]);
    let node = Node {
        takes_pods: true,
        allocatable: [("pods".to_owned(), 110_000), ("cpu".to_owned(), 4000)].into(),
        ..Node::default()
    };
    model.apply(Event::Node("cpu-0".into(), Some(node)), at(0));
    prices_and_budget(&mut model, "100");
    add(&mut model, "a", 1, ("", 1, 8));
    let key = Key::new("lab", "a");
    let launched = |cpu: i64| {
        let launcher = PodShape {
            requests: [("cpu".to_owned(), cpu), ("pods".to_owned(), 1000)].into(),
            ..PodShape::default()
        };
        let role = |name: &str, worker: PodShape| Role {
            name: name.into(),
            replicas: 1,
            worker: Arc::new(worker),
            grace_seconds: 30,
        };
        let worker = PodShape {
            requests: [(GPU.to_owned(), 8000), ("pods".to_owned(), 1000)].into(),
            attributes: Some(PricingAttributes {
                resource: GPU.to_owned(),
                gpus: 8,
                ..PricingAttributes::default()
            }),
            ..PodShape::default()
        };
        vec![role("launcher", launcher), role("worker", worker)]
    };
    let spec = |cpu| new_job(1, launched(cpu));
    model.apply(Event::Job(key.clone(), Some(spec(5000))), at(2));
    let limits_before = limits(&mut model, 2);
    assert_eq!(limits_before, named([("a", Some(LimitedBy::Capacity))]));
    assert!(model.job_view(&key).has_known_price);
    model.apply(Event::Job(key.clone(), Some(spec(4000))), at(3));
    let decided = decide(&mut model, at(3));
    assert!(decided.job_orders[0].run, "{decided:?}");
}

/// A pod of no workload without a node.
fn pending(number: u32, gpus: i64, scheduling: Scheduling) -> Event {
    let shape = PodShape {
        requests: [(GPU.to_owned(), gpus * 1000), ("pods".to_owned(), 1000)].into(),
        ..PodShape::default()
    };
    let pod = Pod {
        scheduling,
        ..new_pod(
            Key::new("other", &format!("pod-{number}")),
            Owner::Other,
            Arc::new(shape),
            at(0),
        )
    };
    let uid = format!("uid-{number}").as_str().into();
    Event::Pod(uid, Some(Box::new(pod)))
}

/// The pod of an event, changed.
fn with(event: Event, change: impl FnOnce(&mut Pod)) -> Event {
    let Event::Pod(uid, Some(mut pod)) = event else {
        panic!("{event:?} is no pod");
    };
    change(&mut pod);
    Event::Pod(uid, Some(pod))
}

fn limit(model: &mut Model, second: i64) -> Option<LimitedBy> {
    limits(model, second).remove(0).1
}

fn tainted() -> Vec<Taint> {
    vec![Taint {
        key: GPU.to_owned(),
        value: "present".to_owned(),
        effect: TaintEffect::NoSchedule,
    }]
}

fn tolerating() -> Arc<Placement> {
    let toleration = Toleration {
        key: Some(GPU.to_owned()),
        value: None,
        effect: None,
    };
    Arc::new(Placement {
        tolerations: vec![toleration],
        terms: None,
    })
}

/// A node of eight GPUs that keeps pods away which do not tolerate them.
fn tainted_model() -> Model {
    let mut model = Model::new(TimeZone::UTC, at(0));
    let node = Node {
        takes_pods: true,
        taints: tainted(),
        allocatable: [(GPU.to_owned(), 8000), ("pods".to_owned(), 110_000)].into(),
        ..Node::default()
    };
    model.apply(Event::Node("node".into(), Some(node)), at(0));
    model
}

fn add_tolerating(model: &mut Model, name: &str) {
    let worker = PodShape {
        requests: [(GPU.to_owned(), 1000)].into(),
        placement: tolerating(),
        ..PodShape::default()
    };
    let job = Job {
        created: at(0),
        priority: 0,
        cluster_priority: 0,
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
            replicas: 8,
            worker: Arc::new(worker),
            grace_seconds: 30,
        }],
    };
    model.apply(Event::Job(Key::new("lab", name), Some(job)), at(0));
}

#[test]
fn pending_pods_take_no_room_on_nodes_whose_taints_they_do_not_tolerate() {
    let mut model = tainted_model();
    for number in 0..300 {
        model.apply(pending(number, 1, Scheduling::Queued), at(0));
    }
    add_tolerating(&mut model, "train");
    assert_eq!(limit(&mut model, 0), None);
}

#[test]
fn pending_pods_that_tolerate_the_taint_take_room() {
    let mut model = tainted_model();
    let pod = with(pending(0, 1, Scheduling::Queued), |pod| {
        Arc::make_mut(&mut pod.shape).placement = tolerating();
    });
    model.apply(pod, at(0));
    add_tolerating(&mut model, "train");
    assert_eq!(limit(&mut model, 0), Some(LimitedBy::Capacity));
}

#[test]
fn a_gang_that_does_not_tolerate_the_taint_fits_no_node() {
    let mut model = tainted_model();
    add(&mut model, "train", 0, ("", 1, 1));
    let decided = decide(&mut model, at(0)).jobs.remove(0).1;
    assert_eq!(decided.limited_by, Some(LimitedBy::Capacity));
    assert!(
        decided.reason.starts_with("its workers fit no node"),
        "{}",
        decided.reason
    );
}

#[test]
fn pods_that_no_scheduler_looks_at_take_no_room() {
    let mut model = model(&[("H100", 8)]);
    for number in 0..500 {
        model.apply(pending(number, 1, Scheduling::Ignored), at(0));
    }
    add(&mut model, "train", 0, ("", 8, 1));
    assert_eq!(limit(&mut model, 0), None);
}

#[test]
fn a_pod_that_is_no_longer_ignored_takes_room() {
    let mut model = model(&[("H100", 8)]);
    model.apply(pending(0, 1, Scheduling::Ignored), at(0));
    model.apply(pending(0, 1, Scheduling::Queued), at(1));
    add(&mut model, "train", 1, ("", 8, 1));
    assert_eq!(limit(&mut model, 1), Some(LimitedBy::Capacity));
}

#[test]
fn an_unschedulable_pod_gives_its_room_up_after_five_minutes() {
    let mut model = model(&[("H100", 8)]);
    let unschedulable = Scheduling::Unschedulable {
        since: at(10),
        why: "0/1 nodes are available".into(),
    };
    model.apply(pending(0, 1, unschedulable), at(10));
    add(&mut model, "train", 10, ("", 8, 1));
    assert_eq!(limit(&mut model, 10), Some(LimitedBy::Capacity));
    decide(&mut model, at(309));
    let orders = decide(&mut model, at(310)).job_orders;
    assert_eq!(orders.len(), 1, "the model looks again by itself");
    assert!(orders[0].run);
}

/// Two nodes with eight CPUs, an agent on each that takes 0.2 of them, and a gang whose two workers
/// ask for so many thousandths of a CPU.
fn decide_beside_agents(is_bound: bool, cpu: i64) -> JobDecision {
    let mut model = Model::new(TimeZone::UTC, at(0));
    for name in ["node-0", "node-1"] {
        let node = Node {
            takes_pods: true,
            allocatable: [("cpu".to_owned(), 8000)].into(),
            ..Node::default()
        };
        model.apply(Event::Node(name.into(), Some(node)), at(0));
    }
    for (number, node) in [(0, "node-0"), (1, "node-1")] {
        let agent = with(pending(number, 0, Scheduling::Queued), |pod| {
            let shape = Arc::make_mut(&mut pod.shape);
            shape.requests = [("cpu".to_owned(), 200)].into();
            let named = Requirement {
                key: "metadata.name".to_owned(),
                operator: Operator::In,
                values: vec![node.to_owned()],
            };
            let term = NodeTerm {
                names: vec![named],
                ..NodeTerm::default()
            };
            shape.placement = Arc::new(Placement {
                tolerations: vec![],
                terms: Some(vec![term]),
            });
            pod.node = is_bound.then(|| node.into());
            pod.resident = true;
        });
        model.apply(agent, at(0));
    }
    let worker = PodShape {
        requests: [("cpu".to_owned(), cpu)].into(),
        ..PodShape::default()
    };
    let job = Job {
        created: at(0),
        priority: 0,
        cluster_priority: 0,
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
            replicas: 2,
            worker: Arc::new(worker),
            grace_seconds: 30,
        }],
    };
    model.apply(Event::Job(Key::new("lab", "greedy"), Some(job)), at(0));
    decide(&mut model, at(0)).jobs.remove(0).1
}

#[test]
fn pods_of_daemon_sets_count_in_what_a_node_takes_when_it_is_empty() {
    let decided = decide_beside_agents(true, 8000);
    assert_eq!(decided.limited_by, Some(LimitedBy::Capacity));
    assert!(
        decided.reason.starts_with("its workers fit no node"),
        "{}",
        decided.reason
    );
    assert_eq!(decide_beside_agents(true, 7800).limited_by, None);
}

#[test]
fn before_they_have_a_node_they_take_room_like_other_pods() {
    // whoever writes pods can name the node and the DaemonSet
    let decided = decide_beside_agents(false, 8000);
    assert_eq!(decided.limited_by, Some(LimitedBy::Capacity));
    assert!(
        decided
            .reason
            .starts_with("there is room for 0 of its 2 workers now"),
        "{}",
        decided.reason
    );
    assert_eq!(decide_beside_agents(false, 7800).limited_by, None);
}
