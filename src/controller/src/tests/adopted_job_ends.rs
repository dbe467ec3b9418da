//! How adopted jobs end, whether anybody sees it or not.

use bursar_api::TrainingJob;
use bursar_api::training::JobPhase;
use k8s_openapi::api::batch::v1::Job;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::adopted_jobs::{
    adopted, batch_job, condition, labelled, phase, suspended, target_ready, train,
};
use super::sweep::Stage;

async fn end_old(stage: &Stage, condition: &str) {
    let condition =
        json!({"type": condition, "status": "True", "reason": "Told", "message": "by the test"});
    let patch = Patch::Merge(json!({"status": {"conditions": [condition]}}));
    let api = stage.world.api::<Job>();
    let params = PatchParams::default();
    api.patch_status("old", &params, &patch).await.unwrap();
}

#[tokio::test]
async fn its_end_is_that_of_its_target_and_stays_when_that_is_deleted_or_made_anew() {
    for (told, expected) in [
        ("Complete", JobPhase::Succeeded),
        ("Failed", JobPhase::Failed),
    ] {
        let mut stage = adopted(true).await;
        stage.seconds(12).await;
        end_old(&stage, told).await;
        stage.seconds(18).await;
        assert_eq!(phase(&stage), expected);
        let (_, _, message) = condition(&stage, "train", "Ready").unwrap();
        assert!(message.contains("Told by the test"), "{message}");
        stage.world.delete::<Job>("old").await;
        stage.seconds(20).await;
        assert_eq!(phase(&stage), expected);
        let before = train(&stage).unwrap().status.unwrap();
        assert_eq!(target_ready(&stage).1, "TargetDeleted");
        // another one of its name is nobody's
        stage.world.create::<Job>(batch_job(true)).await;
        stage.seconds(40).await;
        assert!(suspended(&stage));
        let after = train(&stage).unwrap().status.unwrap();
        assert_eq!(after.phase, expected);
        assert_eq!(after.completion_time, before.completion_time);
        assert_eq!(
            after.completion_time.is_some(),
            expected == JobPhase::Succeeded
        );
        let (_, _, message) = condition(&stage, "train", "Ready").unwrap();
        assert!(message.contains("Told by the test"), "{message}");
        stage.world.delete::<TrainingJob>("train").await;
        stage.seconds(3).await;
        assert_eq!(train(&stage), None, "it holds nothing");
    }
}

/// As a Job with `ttlSecondsAfterFinished: 0` is.
#[tokio::test]
async fn a_job_that_is_gone_before_its_end_was_seen_has_failed_for_that_reason() {
    for is_made_anew in [false, true] {
        let mut stage = adopted(true).await;
        stage.seconds(12).await;
        assert_eq!(phase(&stage), JobPhase::Running);
        end_old(&stage, "Complete").await;
        stage.world.delete::<Job>("old").await;
        if is_made_anew {
            stage.world.create::<Job>(batch_job(true)).await;
        }
        stage.seconds(40).await;
        assert_eq!(phase(&stage), JobPhase::Failed);
        let (status, why, message) = condition(&stage, "train", "Ready").unwrap();
        assert_eq!((&*status, &*why), ("False", "TargetDeleted"));
        assert!(
            message.contains("how it ended is not known") != is_made_anew,
            "{message}"
        );
        if is_made_anew {
            assert!(suspended(&stage), "it is another one");
            assert_eq!(labelled(&stage), 0);
        }
        stage.world.delete::<TrainingJob>("train").await;
        stage.seconds(3).await;
        assert_eq!(train(&stage), None, "it holds nothing");
    }
}
