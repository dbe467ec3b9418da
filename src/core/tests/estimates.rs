//! What a start is taken to cost before it has a node.

#![allow(clippy::unwrap_used)] // a test fails by ending

mod common;
#[path = "common/services.rs"]
mod services;

use std::sync::Arc;

use bursar_core::budget::OnExhausted;
use bursar_core::calendar::Period;
use bursar_core::model::event::{Budget, Event, GatewayPod, HeldRequests, Node, PodShape, Service};
use bursar_core::model::{Key, Model};
use bursar_core::placement::{
    NodeTerm, Operator, Placement, Requirement, Taint, TaintEffect, Toleration,
};
use bursar_core::plan::{Decision, decide};
use bursar_core::pricing::PriceCatalog;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use common::{GPU, money, price_list, shape};

use services::new_service;

fn now() -> Timestamp {
    "2026-12-14T12:00:00Z".parse().unwrap()
}

/// A T4 costs 0.526 an hour, a B300 17.80, and something that the cluster does not have 19.58.
fn catalog() -> Event {
    let models = [
        ("Tesla-T4", "0.526"),
        ("NVIDIA-B300", "17.80"),
        ("NVIDIA-GB300", "19.58"),
    ];
    let list = price_list("list", None, &models);
    Event::Prices(Arc::new(PriceCatalog::new(vec![list], now())))
}

fn node(product: &str) -> Node {
    Node {
        takes_pods: true,
        labels: [("nvidia.com/gpu.product".to_owned(), product.to_owned())].into(),
        allocatable: [(GPU.to_owned(), 8000), ("pods".to_owned(), 110_000)].into(),
        gpus: [(GPU.to_owned(), 8)].into(),
        ..Node::default()
    }
}

/// A cluster of these nodes, and a namespace that has 1.00 for a service of replicas that are placed
/// so, for which a request is held.
fn model(nodes: Vec<Node>, placement: Placement) -> Model {
    let mut model = Model::new(TimeZone::UTC, now());
    let budget = Budget {
        limit: money("1"),
        period: Period::Monthly,
        on_exhausted: OnExhausted::ScaleToZero,
        minimum_useful_run: SignedDuration::from_mins(5),
        latch: None,
        unmanaged: Default::default(),
        record: Default::default(),
    };
    let service = Service {
        max: 1,
        idle_after: SignedDuration::from_mins(5),
        drain_timeout: SignedDuration::from_mins(1),
        ..new_service(
            Arc::new(PodShape {
                placement: Arc::new(placement),
                ..PodShape::clone(&shape())
            }),
            now(),
        )
    };
    let gateway = GatewayPod {
        name: "gateway".into(),
        ready_since: Some(now()),
    };
    let chat = Key::new("small", "chat");
    let held = HeldRequests {
        requests: 1,
        in_flight: 0,
        forwarded: 0,
        since: Some(now()),
    };
    let nodes = nodes.into_iter().enumerate();
    let nodes = nodes.map(|(nth, node)| Event::Node(format!("node-{nth}").into(), Some(node)));
    let others = [
        catalog(),
        Event::Budget(Key::new("small", "team"), Some(budget)),
        Event::Service(chat.clone(), Some(service)),
        Event::Gateway("gateway".into(), Some(gateway)),
        Event::Demand("gateway".into(), [(chat, held)].into()),
    ];
    for event in nodes.chain(others) {
        model.apply(event, now());
    }
    model
}

fn decided(model: &mut Model) -> Decision {
    decide(model, now());
    while model.has_marks() {
        decide(model, now());
    }
    model.service(&Key::new("small", "chat")).unwrap().decision
}

fn taint(key: &str) -> Taint {
    Taint {
        key: key.to_owned(),
        value: String::new(),
        effect: TaintEffect::NoSchedule,
    }
}

fn tolerant(key: &str) -> Placement {
    Placement {
        tolerations: vec![Toleration {
            key: Some(key.to_owned()),
            value: None,
            effect: None,
        }],
        terms: None,
    }
}

/// Kubernetes adds a taint to a node that is cordoned.
fn cordoned(node: Node) -> Node {
    Node {
        takes_pods: false,
        taints: vec![taint("node.kubernetes.io/unschedulable")],
        ..node
    }
}

#[test]
fn a_node_that_takes_no_such_pod_makes_no_start_dearer() {
    let on_t4 = Requirement {
        key: "nvidia.com/gpu.product".to_owned(),
        operator: Operator::In,
        values: vec!["Tesla-T4".to_owned()],
    };
    let only_t4 = Placement {
        terms: Some(vec![NodeTerm {
            labels: vec![on_t4],
            names: vec![],
        }]),
        ..Placement::default()
    };
    let tainted = Node {
        taints: vec![taint("team-a")],
        ..node("NVIDIA-B300")
    };
    for (other, placement) in [
        (cordoned(node("NVIDIA-B300")), Placement::default()),
        (tainted, Placement::default()),
        (node("NVIDIA-B300"), only_t4),
    ] {
        let mut model = model(vec![node("Tesla-T4"), other], placement);
        let decision = decided(&mut model);
        assert_eq!(decision.allowed, 1, "{decision:?}");
        assert_eq!(decision.refusal, None);
    }
}

#[test]
fn a_start_is_taken_to_cost_what_the_dearest_node_does_that_takes_it() {
    let tainted = Node {
        taints: vec![taint("team-a")],
        ..node("NVIDIA-B300")
    };
    let mut model = model(vec![node("Tesla-T4"), tainted], tolerant("team-a"));
    let decision = decided(&mut model);
    assert_eq!(decision.allowed, 0);
    let message = decision.refusal.unwrap().message;
    let expected = "at 17.8000 an hour on the dearest node that takes it";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn a_cordon_makes_no_start_cheaper_that_tolerates_it() {
    for placement in [
        tolerant("node.kubernetes.io/unschedulable"),
        Placement::anywhere(),
    ] {
        let nodes = vec![node("Tesla-T4"), cordoned(node("NVIDIA-B300"))];
        let mut model = model(nodes, placement);
        assert_eq!(decided(&mut model).allowed, 0);
    }
}

#[test]
fn where_no_node_takes_it_the_message_says_what_it_is_taken_to_cost_and_why() {
    for (nodes, expected) in [
        (
            vec![cordoned(node("NVIDIA-B300"))],
            "at 17.8000 an hour on the dearest node that would take it, none of which is ready",
        ),
        (
            vec![],
            "at 19.5800 an hour by the highest listed price, since no node takes it",
        ),
    ] {
        let mut model = model(nodes, Placement::default());
        let message = decided(&mut model).refusal.unwrap().message;
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_cordon_changes_the_estimate_at_once() {
    let nodes = vec![node("Tesla-T4"), node("NVIDIA-B300"), node("NVIDIA-B300")];
    let mut model = model(nodes, Placement::default());
    for (cordon, allowed) in [("node-1", 0), ("node-2", 1)] {
        assert_eq!(decided(&mut model).allowed, 0, "it may land on a B300");
        let closed = Some(cordoned(node("NVIDIA-B300")));
        model.apply(Event::Node(cordon.into(), closed), now());
        assert_eq!(decided(&mut model).allowed, allowed, "{cordon}");
    }
}
