//! Gangs that want the same GPUs, of one namespace and of two, while their pods come late.

use bursar_apitest::faults::Faults;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::leader::{Leader, View};
use super::sweep::Stage;
use super::world::{NAMESPACE, OPERATOR, World};
use crate::ledger::worker;
use crate::pod;

/// Names of the Jobs that are let run.
fn running(world: &World) -> Vec<String> {
    let mut jobs: Vec<Job> = world.server.objects();
    jobs.retain(|job| job.spec.as_ref().unwrap().suspend == Some(false));
    jobs.iter().map(ResourceExt::name_any).collect()
}

fn workers(world: &World) -> usize {
    let works = |pod: &&Pod| pod::is_ready(pod) && pod.metadata.deletion_timestamp.is_none();
    world.pods().iter().filter(works).count()
}

/// Eight GPUs are there.
#[tokio::test]
async fn two_gangs_of_five_do_not_both_start_on_eight_gpus_while_their_pods_come_late() {
    for phase in 0..3 {
        let mut stage = Stage::new(Faults::default()).await;
        stage.world.slow = true;
        stage.seconds(phase).await;
        stage.world.create_gang_in(NAMESPACE, "one", 5).await;
        stage.seconds(1).await;
        stage.world.create_gang_in(NAMESPACE, "two", 5).await;
        for _ in 0..12 {
            stage.seconds(1).await;
            assert_eq!(running(&stage.world), ["one"], "phase {phase}");
        }
        assert_eq!(workers(&stage.world), 5);
    }
}

#[tokio::test]
async fn namespaces_that_are_decided_over_at_the_same_time_do_not_get_the_same_room() {
    let world = World::new().await;
    world.create_gang_in(NAMESPACE, "one", 5).await;
    world.create_gang_in(OPERATOR, "two", 5).await;
    let mut leader = Leader::new(&world, Faults::default());
    leader.fill_caches(&View::of(&world));
    for namespace in [NAMESPACE, OPERATOR] {
        let errors = worker::sync_namespace(&leader.context, namespace, world.now).await;
        assert!(errors.is_empty(), "{errors:?}");
    }
    leader.decide(world.now).await.unwrap();
    let first = running(&world);
    assert_eq!(first.len(), 1, "{first:?}");
    // the caches show nothing of what the first was given
    leader.decide(world.now).await.ok();
    assert_eq!(running(&world), first);
    // a new leader sees the Job, whose pods are still not there
    let mut next = Leader::new(&world, Faults::default());
    next.fill_caches(&View::of(&world));
    next.decide(world.now).await.unwrap();
    assert_eq!(running(&world), first);
}

#[tokio::test]
async fn an_incomplete_gang_is_evicted_and_starts_again_when_there_is_room() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.slow = true;
    stage.world.create_gang_in(NAMESPACE, "one", 5).await;
    while running(&stage.world).is_empty() {
        stage.seconds(1).await;
    }
    // somebody else is faster
    for name in ["a", "b", "c", "d"] {
        stage.world.create_foreign_pod(name).await;
    }
    stage.seconds(100).await;
    assert_eq!(
        (running(&stage.world), workers(&stage.world)),
        (vec!["one".to_owned()], 4)
    );
    stage.seconds(100).await;
    assert_eq!(
        (running(&stage.world).len(), workers(&stage.world)),
        (0, 0),
        "half a gang gives its GPUs back"
    );
    for name in ["a", "b", "c", "d"] {
        stage.world.delete::<Pod>(name).await;
    }
    let pods: Vec<Pod> = stage.world.server.objects();
    for pod in pods {
        stage.world.remove(&pod).await;
    }
    stage.seconds(60).await;
    assert_eq!((running(&stage.world).len(), workers(&stage.world)), (1, 5));
}
