//! Which gangs of a namespace start, and behind which others they wait: through the events and
//! decisions of the model.

use std::sync::Arc;

use bursar_core::budget::OnExhausted;
use bursar_core::calendar::Period;
use bursar_core::model::event::{BatchJob, Budget, Event, Job, Node, PodShape, Role};
use bursar_core::model::{Key, Model};
use bursar_core::plan::LimitedBy;
use bursar_core::plan::decide;
use bursar_core::pricing::{
    DatedPriceList, GpuPrice, PriceCatalog, PriceList, PriceScope, PricingAttributes,
};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

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
            allocatable: [(GPU.to_owned(), gpus * 1000)].into(),
            gpus: [(GPU.to_owned(), u32::try_from(*gpus).unwrap())].into(),
        };
        let name = format!("node-{number}").as_str().into();
        model.apply(Event::Node(name, Some(node)), at(0));
    }
    model
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
    let job = Job {
        created: at(second),
        priority: 0,
        suspend: false,
        seed: 1,
        roles: vec![Role {
            name: "".into(),
            replicas: workers,
            worker: Arc::new(worker),
            grace_seconds: 30,
        }],
    };
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

#[test]
fn a_gang_passes_one_that_no_period_of_the_budget_could_pay_for() {
    let mut model = model(&[("H100", 8)]);
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
        limit: "10".parse().unwrap(),
        period: Period::Monthly,
        on_exhausted: OnExhausted::ScaleToZero,
        minimum_useful_run: SignedDuration::from_hours(1),
        latch: None,
    };
    model.apply(Event::Budget(Key::new("lab", "team"), Some(budget)), at(0));
    add(&mut model, "a", 1, ("", 8, 1));
    add(&mut model, "b", 2, ("", 1, 1));
    assert_eq!(
        limits(&mut model, 2),
        named([("a", Some(LimitedBy::Budget)), ("b", None)])
    );
}
