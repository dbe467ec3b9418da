//! Classes of nodes that are alike for prices.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::SignedDuration;

use super::super::event::{Event, Key, Node, PodShape, Service};
use super::*;
use crate::pricing::PricingAttributes;
use crate::scaling::{Activation, Behavior, RequestSignal};

const GPU: &str = "nvidia.com/gpu";

fn node(name: &str, product: &str, pool: &str) -> Event {
    let labels = [("nvidia.com/gpu.product", product), ("pool", pool)];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let node = Node {
        takes_pods: true,
        labels: labels.into(),
        gpus: [(GPU.to_owned(), 1)].into(),
        ..Node::default()
    };
    Event::Node(name.into(), Some(node))
}

fn service(namespace: &str, selector: BTreeMap<String, String>) -> Event {
    let attributes = PricingAttributes {
        resource: GPU.to_owned(),
        gpus: 1,
        ..PricingAttributes::default()
    };
    let replica = PodShape {
        attributes: Some(attributes),
        node_selector: selector,
        ..PodShape::default()
    };
    let service = Service {
        created: at(0),
        priority: 0,
        cluster_priority: 0,
        weight: 100,
        min: 0,
        max: 3,
        request_signal: RequestSignal::Target(8),
        signals: vec![],
        measured_by: 0,
        growth: Default::default(),
        learned: None,
        behavior: Behavior::with_scale_down_window(Some(SignedDuration::from_secs(60))),
        idle_after: SignedDuration::from_secs(600),
        schedules: vec![],
        on_signal_failure: Default::default(),
        drain_timeout: SignedDuration::from_secs(60),
        paused: None,
        activation: Activation::OnDemand,
        replica: Arc::new(replica),
        grace_seconds: 30,
        workers: None,
    };
    Event::Service(Key::new(namespace, "chat"), Some(service))
}

/// What is decided after these events, in this order and in the other.
fn both_orders(events: [Event; 2]) -> [Decisions; 2] {
    let mut model = model();
    model.apply(service("team", BTreeMap::new()), at(0));
    model.apply(node("a", "H100", "x"), at(0));
    settle(&mut model, at(0));
    let [first, second] = events;
    [[first.clone(), second.clone()], [second, first]].map(|events| {
        let mut model = model.clone();
        for event in events {
            model.apply(event, at(1000));
        }
        decide(&mut model, at(1000))
    })
}

#[test]
fn a_class_whose_last_node_goes_as_another_comes_changes_no_estimate() {
    let decisions = both_orders([node("a", "none", "x"), node("b", "H100", "x")]);
    // a class has come, whichever node was told first
    assert!(decisions[0].namespaces.contains("team"));
    assert_eq!(decisions[0], decisions[1]);
    let gone = Event::Node("a".into(), None);
    let decisions = both_orders([gone, node("b", "H100", "x")]);
    assert!(decisions[0].namespaces.is_empty(), "{:?}", decisions[0]);
    assert_eq!(decisions[0], decisions[1]);
}

#[test]
fn a_label_that_is_first_named_changes_no_estimate_of_the_others() {
    let selector = [("pool".to_owned(), "y".to_owned())].into();
    let decisions = both_orders([node("a", "H100", "y"), service("other", selector)]);
    let namespaces: Vec<&str> = decisions[0].namespaces.iter().map(|name| &**name).collect();
    assert_eq!(namespaces, ["other"]);
    assert_eq!(decisions[0], decisions[1]);
}

#[test]
fn a_label_that_no_node_has_is_not_kept_however_many_are_named() {
    let mut model = model();
    model.apply(node("a", "H100", "x"), at(0));
    let named = |key: &str| BTreeMap::from([(key.to_owned(), "y".to_owned())]);
    for number in 0..100 {
        let key = format!("tenant/{number}");
        model.apply(service("team", named(&key)), at(number));
        settle(&mut model, at(number));
    }
    assert_eq!(model.rates.learned_keys().len(), 0);
    model.apply(service("team", named("pool")), at(200));
    settle(&mut model, at(200));
    assert_eq!(model.rates.learned_keys().len(), 1);
    model.apply(Event::Node("a".into(), None), at(201));
    settle(&mut model, at(201));
    assert_eq!(model.rates.learned_keys().len(), 0);
    model.check().unwrap();
}

#[test]
fn who_names_a_label_is_decided_anew_once_the_first_node_has_it() {
    let mut model = model();
    model.apply(node("a", "A100", "x"), at(0));
    let named = |value: &str| BTreeMap::from([("zone".to_owned(), value.to_owned())]);
    model.apply(service("team", named("b")), at(0));
    settle(&mut model, at(0));
    assert!(model.rates.learned_keys().is_empty());
    let Event::Node(name, Some(mut other)) = node("b", "A100", "x") else {
        unreachable!()
    };
    // but for that label it is like the node that is there
    other.labels.extend(named("b"));
    model.apply(Event::Node(name, Some(other)), at(1000));
    let decided = decide(&mut model, at(1000));
    assert!(decided.namespaces.contains("team"));
    model.check().unwrap();
}
