//! What is observed again when something changes that others are made of, and what is not.

use std::sync::Arc;

use bursar_api::InferenceDeployment;
use bursar_apitest::faults::Faults;
use bursar_core::model::Key;
use bursar_core::model::event::Event;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::json;

use super::leader::{Leader, View};
use super::world::{NAMESPACE, OPERATOR, World};
use crate::cache::{CacheChange, CachedKind};
use crate::edge::Edge;

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
