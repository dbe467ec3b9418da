//! What is observed again when something changes that others are made of, and what is not.

use std::sync::Arc;

use bursar_api::InferenceDeployment;
use bursar_api::names::{
    RESTART_AT_ANNOTATION, RESTARTS_ANNOTATION, RETRIES_ANNOTATION, RETRY_AT_ANNOTATION,
    WORKLOAD_LABEL,
};
use bursar_api::spend::WorkloadRef;
use bursar_apitest::faults::Faults;
use bursar_core::model::Key;
use bursar_core::model::event::{BatchJob, Event};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::json;

use super::claims::{claim, notebook, uses};
use super::leader::{Leader, View};
use super::sweep::Stage;
use super::world::{NAMESPACE, OPERATOR, World};
use crate::cache::{CacheChange, CachedKind};
use crate::edge::Edge;
use crate::lock::lock;

#[tokio::test]
async fn a_claim_that_went_while_a_watch_was_broken_changes_what_a_replica_costs() {
    let world = World::new().await;
    let volume = json!({"name": "models", "persistentVolumeClaim": {"claimName": "models"}});
    let container = json!({
        "name": "engine", "image": "engine", "resources": {"limits": {"nvidia.com/gpu": "1"}},
    });
    let template = json!({"spec": {"containers": [container], "volumes": [volume]}});
    let service = json!({
        "metadata": {"name": "chat"},
        "spec": {"engine": "vLLM", "maxReplicas": 1, "template": template},
    });
    world.create::<InferenceDeployment>(service).await;
    let claim = json!({
        "metadata": {"name": "models"},
        "spec": {"resources": {"requests": {"storage": "100Gi"}}},
    });
    world.create::<PersistentVolumeClaim>(claim).await;
    let mut leader = Leader::new(&world, Faults::default());
    let mut view = View::of(&world);
    leader.fill_caches(&view);
    let mut edge = Edge::new(Arc::clone(&leader.context));
    edge.observe(world.now);
    view.volume_claims.clear();
    leader.fill_caches(&view);
    edge.note(CacheChange::Listed(CachedKind::PersistentVolumeClaim));
    let observed = edge.observe(world.now).events;
    let is_service = |event: &Event| matches!(event, Event::Service(key, Some(_)) if *key == Key::new(NAMESPACE, "chat"));
    assert!(observed.iter().any(is_service), "{observed:?}");
}

#[tokio::test]
async fn a_pod_of_a_tenant_that_is_labelled_as_a_gateway_is_none() {
    let world = World::new().await;
    world.create_chat(0).await;
    let mut leader = Leader::new(&world, Faults::default());
    let mut view = View::of(&world);
    leader.fill_caches(&view);
    let mut edge = Edge::new(Arc::clone(&leader.context));
    edge.observe(world.now);
    let labels =
        json!({"app.kubernetes.io/name": "bursar", "app.kubernetes.io/component": "gateway"});
    for (namespace, compared) in [(NAMESPACE, false), (OPERATOR, true)] {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "gateway", "namespace": namespace, "uid": namespace, "labels": labels},
            "status": {
                "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}],
            },
        }))
        .unwrap();
        view.pods.push(pod);
        leader.fill_caches(&view);
        let key = Key::new(namespace, "gateway");
        edge.note(CacheChange::Object(CachedKind::Pod, key));
        let owners = edge.observe(world.now).owners;
        assert_eq!(!owners.is_empty(), compared, "{owners:?}");
    }
}

/// A gateway pod of the operator.
fn gateway(name: &str, address: &str, ready: &str, is_leaving: bool) -> Pod {
    let labels =
        json!({"app.kubernetes.io/name": "bursar", "app.kubernetes.io/component": "gateway"});
    let deletion = is_leaving.then_some("2026-11-30T23:58:50Z");
    serde_json::from_value(json!({
        "metadata": {
            "name": name, "namespace": OPERATOR, "uid": name, "labels": labels,
            "deletionTimestamp": deletion,
        },
        "status": {"podIP": address, "conditions": [{"type": "Ready", "status": ready}]},
    }))
    .unwrap()
}

/// The services that are compared after gateways have become these, and the gateways in slices.
struct GatewayEdge {
    leader: Leader,
    view: View,
    edge: Edge,
}

impl GatewayEdge {
    /// One service.
    async fn new() -> (Self, Timestamp) {
        let world = World::new().await;
        world.create_chat(0).await;
        let mut leader = Leader::new(&world, Faults::default());
        let view = View::of(&world);
        leader.fill_caches(&view);
        let mut edge = Edge::new(Arc::clone(&leader.context));
        edge.observe(world.now);
        (Self { leader, view, edge }, world.now)
    }

    fn observe(&mut self, gateways: &[Pod], now: Timestamp) -> (usize, usize) {
        self.view.pods = gateways.to_vec();
        self.leader.fill_caches(&self.view);
        for name in ["a", "b"] {
            let change = CacheChange::Object(CachedKind::Pod, Key::new(OPERATOR, name));
            self.edge.note(change);
        }
        let owners = self.edge.observe(now).owners;
        let listed = lock(&self.leader.context.index).gateways(OPERATOR);
        (owners.len(), listed.len())
    }
}

#[tokio::test]
async fn a_gateway_that_flaps_changes_no_service_and_one_that_stays_unready_does_once() {
    let (mut gateways, start) = GatewayEdge::new().await;
    let at = |second| start + SignedDuration::from_secs(second);
    let ready = |name: &str| gateway(name, &format!("10.0.0.{}", name.len()), "True", false);
    let unready = |name: &str| gateway(name, &format!("10.0.0.{}", name.len()), "False", false);
    assert_eq!(gateways.observe(&[ready("a")], at(0)), (1, 1), "at once");
    for flap in 0..10 {
        let (down, up) = (at(2 * flap + 1), at(2 * flap + 2));
        assert_eq!(gateways.observe(&[unready("a")], down), (0, 1));
        assert_eq!(gateways.observe(&[ready("a")], up), (0, 1));
    }
    assert_eq!(gateways.observe(&[unready("a")], at(30)), (0, 1));
    let next = gateways.edge.next().unwrap();
    assert!(next <= at(35), "{next}");
    let expired = gateways.edge.observe(next).owners;
    assert_eq!(expired.len(), 1);
    assert_eq!(gateways.observe(&[unready("a")], at(36)), (0, 0), "once");
}

#[tokio::test]
async fn a_gateway_that_leaves_or_has_another_address_is_taken_out_at_once() {
    let (mut gateways, start) = GatewayEdge::new().await;
    let ready = |address: &str| gateway("a", address, "True", false);
    let leaving = gateway("a", "10.0.0.2", "False", true);
    assert_eq!(gateways.observe(&[ready("10.0.0.1")], start), (1, 1));
    assert_eq!(gateways.observe(&[ready("10.0.0.2")], start), (1, 1));
    assert_eq!(gateways.observe(&[leaving], start), (1, 0));
    assert_eq!(gateways.observe(&[ready("10.0.0.2")], start), (1, 1));
    assert_eq!(gateways.observe(&[], start), (1, 0), "it is gone");
}

#[tokio::test]
async fn an_account_whose_open_charges_are_the_same_has_no_pod_with_claims_read_again() {
    let mut stage = Stage::new(Faults::default()).await;
    claim(&stage, "pair", "gpu.nvidia.com", &["gpu-0"]).await;
    notebook(&stage, "book", uses("pair")).await;
    stage.seconds(3).await;
    let mut edge = Edge::new(Arc::clone(&stage.leader.context));
    edge.observe(stage.world.now);
    let account = WorkloadRef::unmanaged(NAMESPACE.to_owned());
    let mut pods_after = |now| {
        edge.note_accounts([account.clone()]);
        let events = edge.observe(now).events;
        let is_account = |event: &&Event| matches!(event, Event::Account(..));
        assert_eq!(events.iter().filter(is_account).count(), 1);
        let is_pod = |event: &&Event| matches!(event, Event::Pod(..));
        events.iter().filter(is_pod).count()
    };
    let now = stage.world.now;
    assert_eq!(pods_after(now), 1, "a new leader does not know it");
    assert_eq!(pods_after(now), 0);
    // whose charge has the devices decides who goes on with them
    let book = stage.world.api::<Pod>().get("book").await.unwrap();
    stage.world.end(&book, now).await;
    stage.seconds(3).await;
    assert_eq!(pods_after(stage.world.now), 1);
}

/// A TrainingJob was deleted and made anew, and the Job of the one before is not collected yet.
#[tokio::test]
async fn a_job_of_another_owner_says_nothing_but_that_it_is_there() {
    let world = World::new().await;
    world.create_job(None).await;
    let mut leader = Leader::new(&world, Faults::default());
    let mut view = View::of(&world);
    let owner = |uid: &str| {
        json!({
            "apiVersion": "bursar.dev/v1alpha1", "kind": "TrainingJob", "name": "train", "uid": uid,
        })
    };
    let old: Job = serde_json::from_value(json!({
        "metadata": {
            "name": "train", "namespace": NAMESPACE, "uid": "old-job",
            "labels": {WORKLOAD_LABEL: "train"}, "ownerReferences": [owner("old")],
            "annotations": {
                RESTARTS_ANNOTATION: "9", RESTART_AT_ANNOTATION: "2026-12-01T10:00:00Z",
                RETRIES_ANNOTATION: "9", RETRY_AT_ANNOTATION: "2026-12-01T10:00:00Z",
            },
        },
        "spec": {"completions": 2, "template": {}},
        "status": {
            "active": 1, "succeeded": 2, "failed": 3, "startTime": "2026-12-01T10:00:00Z",
            "conditions": [{"type": "Complete", "status": "True"}],
        },
    }))
    .unwrap();
    view.batch_jobs.push(old);
    leader.fill_caches(&view);
    let mut edge = Edge::new(Arc::clone(&leader.context));
    let events = edge.observe(world.now).events;
    let said = events.into_iter().find_map(|event| match event {
        Event::BatchJob(_, _, Some(job)) => Some(job),
        _ => None,
    });
    let expected = BatchJob {
        active: 1,
        uid: Some("old-job".into()),
        ..BatchJob::default()
    };
    assert_eq!(said, Some(expected));
}

/// The pods that the model is told of.
fn told_of(events: &[Event]) -> usize {
    let pods = events
        .iter()
        .filter(|event| matches!(event, Event::Pod(..)));
    pods.count()
}

#[tokio::test]
async fn what_happens_to_one_pod_or_claim_is_no_event_of_all_others_with_claims() {
    const PODS: usize = 40;
    let mut stage = Stage::new(Faults::default()).await;
    let shared = json!({"name": "models", "persistentVolumeClaim": {"claimName": "models"}});
    for number in 0..PODS {
        let own =
            json!({"name": "own", "persistentVolumeClaim": {"claimName": format!("own-{number}")}});
        notebook(
            &stage,
            &format!("book-{number}"),
            json!({"volumes": [shared, own]}),
        )
        .await;
        claim(
            &stage,
            &format!("device-{number}"),
            "gpu.nvidia.com",
            &["gpu-0"],
        )
        .await;
        notebook(
            &stage,
            &format!("dra-{number}"),
            uses(&format!("device-{number}")),
        )
        .await;
    }
    stage.leader.fill_caches(&View::of(&stage.world));
    let mut edge = Edge::new(Arc::clone(&stage.leader.context));
    let first = edge.observe(stage.world.now).events;
    assert!(told_of(&first) >= 2 * PODS, "all of them at first");
    let changes = [
        (CachedKind::Pod, "book-7"),
        (CachedKind::Pod, "dra-7"),
        (CachedKind::PersistentVolumeClaim, "own-7"),
        (CachedKind::ResourceClaim, "device-7"),
    ];
    for (kind, name) in changes {
        let key = Key::new(NAMESPACE, name);
        edge.note(CacheChange::Object(kind, key));
        let events = edge.observe(stage.world.now).events;
        assert_eq!(told_of(&events), 1, "{kind:?} {name}");
    }
}

#[tokio::test]
async fn a_claim_that_is_seen_after_its_pods_concerns_all_of_them() {
    let mut stage = Stage::new(Faults::default()).await;
    claim(&stage, "pair", "gpu.nvidia.com", &["gpu-0"]).await;
    for name in ["first", "second", "third"] {
        notebook(&stage, name, uses("pair")).await;
    }
    let view = View::of(&stage.world);
    let mut before = view.clone();
    before.device_claims.clear();
    stage.leader.fill_caches(&before);
    let mut edge = Edge::new(Arc::clone(&stage.leader.context));
    edge.observe(stage.world.now);
    stage.leader.fill_caches(&view);
    let claim = Key::new(NAMESPACE, "pair");
    edge.note(CacheChange::Object(CachedKind::ResourceClaim, claim));
    let events = edge.observe(stage.world.now).events;
    assert_eq!(told_of(&events), 3);
}
