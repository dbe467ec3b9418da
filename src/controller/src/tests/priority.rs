//! Whose turn a PriorityClass makes it.

use bursar_apitest::faults::Faults;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::json;

use super::leader::{Leader, View};
use super::world::{NAMESPACE, World};
use crate::scene::Scene;

/// The priority of the namespace's job, before it has a pod.
async fn priority(world: &World) -> i32 {
    let mut leader = Leader::new(world, Faults::default());
    leader.fill_caches(&View::of(world));
    let scene = Scene::of(&leader.context, NAMESPACE, world.now);
    scene
        .snapshot(&leader.context, &Default::default(), &Default::default())
        .jobs[0]
        .priority
}

#[tokio::test]
async fn a_job_has_the_value_of_its_class_before_its_first_pod() {
    for (class, expected) in [(Some("urgent"), 1000), (None, 7), (Some("none"), 0)] {
        let world = World::new().await;
        world
            .create_all::<PriorityClass>(json!({"metadata": {"name": "urgent"}, "value": 1000}))
            .await;
        world
            .create_all::<PriorityClass>(
                json!({"metadata": {"name": "usual"}, "value": 7, "globalDefault": true}),
            )
            .await;
        world.create_job(class).await;
        assert_eq!(priority(&world).await, expected, "{class:?}");
    }
}
