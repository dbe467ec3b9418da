//! What is observed again when something changes that others are made of, and what is not.

use std::sync::Arc;

use bursar_api::InferenceDeployment;
use bursar_apitest::faults::Faults;
use bursar_core::model::Key;
use bursar_core::model::event::Event;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde_json::json;

use super::leader::{Leader, View};
use super::world::{NAMESPACE, World};
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
