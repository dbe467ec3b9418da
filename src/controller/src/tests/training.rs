//! A TrainingJob's life: started, suspended by the budget, resumed, deleted.

use bursar_api::TrainingJob;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use k8s_openapi::api::batch::v1::Job;

use super::sweep::{Stage, every_competing_write, every_crash};
use crate::pod;

fn workers(stage: &Stage) -> usize {
    stage
        .world
        .pods()
        .iter()
        .filter(|pod| pod::is_ready(pod) && pod.metadata.deletion_timestamp.is_none())
        .count()
}

fn suspended(stage: &Stage) -> Option<bool> {
    stage
        .world
        .server
        .objects::<Job>()
        .first()
        .and_then(|job| job.spec.as_ref()?.suspend)
}

fn life(stage: &mut Stage) -> LocalBoxFuture<'_, ()> {
    async move {
        stage.world.set_limit("0.01").await;
        stage.world.create_job(None).await;
        stage.seconds(4).await;
        assert_eq!(
            suspended(stage),
            Some(true),
            "there is no money for a useful run"
        );
        stage.world.set_limit("9").await;
        stage.seconds(8).await;
        assert_eq!((suspended(stage), workers(stage)), (Some(false), 2));
        stage.world.set_limit("0.02").await;
        stage.seconds(8).await;
        assert_eq!((suspended(stage), workers(stage)), (Some(true), 0));
        stage.world.set_limit("9").await;
        stage.seconds(10).await;
        assert_eq!((suspended(stage), workers(stage)), (Some(false), 2));
        stage.world.delete::<TrainingJob>("train").await;
    }
    .boxed_local()
}

#[tokio::test]
async fn a_crash_at_any_write_changes_nothing_in_the_end() {
    every_crash(life).await;
}

#[tokio::test]
async fn a_competing_write_before_any_write_changes_nothing_in_the_end() {
    every_competing_write(life).await;
}
