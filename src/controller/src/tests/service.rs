//! An InferenceDeployment's life: woken, scaled out, drained, idle, deleted.

use bursar_api::InferenceDeployment;
use bursar_apitest::faults::Faults;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::leader::{Leader, View};
use super::sweep::{self, Stage, every_competing_write, every_crash};
use crate::pod;
use crate::pod_mark::draining_since;

fn replicas(stage: &Stage) -> Option<i32> {
    stage
        .world
        .server
        .objects::<Deployment>()
        .first()
        .and_then(|found| found.spec.replicas)
}

/// From the first request to the last pod's end, over the end of a month.
fn life(stage: &mut Stage) -> LocalBoxFuture<'_, ()> {
    async move {
        stage.world.create_chat(0).await;
        stage.seconds(3).await;
        stage.world.requests = 2;
        stage.seconds(6).await;
        stage.world.requests = 12;
        stage.seconds(10).await;
        let ready = stage
            .world
            .pods()
            .iter()
            .filter(|pod| pod::is_ready(pod))
            .count();
        assert_eq!((replicas(stage), ready), (Some(3), 3));
        stage.world.requests = 4;
        stage.seconds(16).await;
        assert_eq!(replicas(stage), Some(1));
        stage.world.requests = 0;
        stage.seconds(20).await;
        assert_eq!(replicas(stage), Some(0));
        stage.world.requests = 1;
        stage.seconds(30).await;
        assert_eq!(replicas(stage), Some(1));
        stage.world.requests = 0;
        stage.world.delete::<InferenceDeployment>("chat").await;
    }
    .boxed_local()
}

#[tokio::test]
async fn a_service_lives_and_every_second_of_it_is_paid() {
    let writes = sweep::undisturbed(life).await;
    assert!(writes > 20, "{writes}");
}

#[tokio::test]
async fn a_crash_at_any_write_changes_nothing_in_the_end() {
    every_crash(life).await;
}

#[tokio::test]
async fn a_competing_write_before_any_write_changes_nothing_in_the_end() {
    every_competing_write(life).await;
}

fn life_without_admission(stage: &mut Stage) -> LocalBoxFuture<'_, ()> {
    stage.world.admission = false;
    life(stage)
}

#[tokio::test]
async fn pods_get_their_finalizer_on_sight_where_no_policy_gives_it() {
    sweep::undisturbed(life_without_admission).await;
}

/// The pods of replicas that the Deployment gave up are still there when the controller looks again.
#[tokio::test]
async fn no_replica_is_removed_twice_where_the_deployment_controller_is_slow() {
    for phase in 0..3 {
        let mut stage = Stage::new(Faults::default()).await;
        stage.world.slow = true;
        stage.world.create_chat(1).await;
        stage.world.requests = 12;
        stage.seconds(12 + phase).await;
        assert_eq!(replicas(&stage), Some(3));
        stage.world.requests = 4;
        let mut seen = Vec::new();
        for _ in 0..20 {
            stage.seconds(1).await;
            seen.extend(replicas(&stage));
        }
        seen.dedup();
        assert_eq!(seen, [3, 1]);
        assert_eq!(stage.world.cut, [] as [&str; 0]);
    }
}

/// A leader that was paused acts on what it saw long ago, while another leads.
#[tokio::test]
async fn a_former_leader_changes_nothing() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create_chat(0).await;
    stage.seconds(3).await;
    let mut seen = Vec::new();
    for (requests, seconds) in [(2, 6), (12, 10), (4, 4), (12, 3)] {
        stage.world.requests = requests;
        for _ in 0..seconds {
            stage.seconds(1).await;
            seen.push(View::of(&stage.world));
        }
    }
    let leaving = |view: &View| view.pods.iter().any(|pod| draining_since(pod).is_some());
    assert!(
        seen.iter().any(leaving) && !leaving(&View::of(&stage.world)),
        "none began to leave and stayed after all"
    );
    let mut former = Leader::new(&stage.world, Faults::default());
    let before = stage.world.state();
    for view in &seen {
        former.reconcile(&stage.world, view).await.ok();
    }
    assert_eq!(stage.world.state(), before);
    assert!(former.faults.writes() > 0, "it tried nothing");
}

#[tokio::test]
async fn at_rest_nothing_is_written_though_there_is_no_gateway() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create_chat(0).await;
    stage.seconds(10).await;
    let slices: Vec<EndpointSlice> = stage.world.server.objects();
    let gateways = slices.iter().find(|slice| slice.ports.is_some()).unwrap();
    assert_eq!(gateways.endpoints, None, "no gateway, and no empty list");
    let writes = stage.leader.faults.writes();
    stage.seconds(20).await;
    assert_eq!(stage.leader.faults.writes(), writes);
}
