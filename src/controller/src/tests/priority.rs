//! Whose turn a PriorityClass makes it.

use bursar_api::TrainingJob;
use bursar_apitest::faults::Faults;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::json;

use super::leader::{Leader, View};
use super::world::{NAMESPACE, World, gang};

#[tokio::test]
async fn a_job_has_the_value_of_its_class_before_its_first_pod() {
    let world = World::new().await;
    let urgent = json!({"metadata": {"name": "urgent"}, "value": 1000});
    world.create_all::<PriorityClass>(urgent).await;
    let usual = json!({"metadata": {"name": "usual"}, "value": 7, "globalDefault": true});
    world.create_all::<PriorityClass>(usual).await;
    // the oldest first; eight GPUs are there
    for (name, class) in [
        ("of-a-class-that-is-not-there", Some("none")),
        ("of-the-default-class", None),
        ("of-its-own-class", Some("urgent")),
    ] {
        let mut job = gang(name, 5);
        job["spec"]["priorityClassName"] = json!(class);
        world.create::<TrainingJob>(job).await;
    }
    let mut leader = Leader::new(&world, Faults::default());
    leader.reconcile(&world, &View::of(&world)).await.unwrap();
    let jobs = leader.explain(NAMESPACE, world.now).jobs;
    let queue: Vec<_> = jobs
        .iter()
        .map(|job| (job.name.as_str(), job.queue_position))
        .collect();
    assert_eq!(
        queue,
        [
            ("of-its-own-class", None),
            ("of-the-default-class", Some(1)),
            ("of-a-class-that-is-not-there", Some(2)),
        ]
    );
}
