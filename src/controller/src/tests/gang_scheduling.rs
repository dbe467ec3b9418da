//! Gangs as PodGroups, where the API server has these.

use bursar_api::TrainingJob;
use bursar_apitest::faults::Faults;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::scheduling::v1beta1::PodGroup;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::sweep::Stage;
use super::world::{NAMESPACE, gang};

/// A cluster that has PodGroups, in which a TrainingJob was just made.
async fn with(job: Value) -> Stage {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.server.serve::<PodGroup>();
    stage.world.create::<TrainingJob>(job).await;
    stage.seconds(8).await;
    stage
}

fn jobs(stage: &Stage) -> Vec<Job> {
    stage.world.server.objects()
}

fn groups(stage: &Stage) -> Vec<PodGroup> {
    stage.world.server.objects()
}

/// The groups that the pods of each Job belong to.
fn groups_of_pods(stage: &Stage) -> Vec<Option<String>> {
    let pod_specs = jobs(stage).into_iter().map(|job| {
        let spec = job.spec.unwrap();
        spec.template.spec.unwrap()
    });
    let groups = pod_specs.map(|spec| spec.scheduling_group?.pod_group_name);
    groups.collect()
}

/// A gang of a leader and of workers, whose pods are of these priority classes.
fn two_roles(classes: [Option<&str>; 2]) -> Value {
    let mut job = gang("train", 1);
    let template = job["spec"]["template"].take();
    let role = |name: &str, replicas: u32, class: Option<&str>| {
        let mut role = json!({"name": name, "replicas": replicas, "template": template});
        role["template"]["spec"]["priorityClassName"] = json!(class);
        role
    };
    let spec = job["spec"].as_object_mut().unwrap();
    spec.remove("replicas");
    spec.remove("template");
    let [leader, workers] = classes;
    job["spec"]["roles"] = json!([role("leader", 1, leader), role("worker", 2, workers)]);
    job
}

async fn suspend(stage: &mut Stage, suspend: bool) {
    let patch = Patch::Merge(json!({"spec": {"suspend": suspend}}));
    let api = stage.world.api::<TrainingJob>();
    let params = PatchParams::default();
    api.patch("train", &params, &patch).await.unwrap();
    stage.seconds(40).await;
}

#[tokio::test]
async fn all_roles_of_a_gang_are_one_group_of_which_all_are_placed_or_none() {
    let stage = with(two_roles([Some("high"), Some("high")])).await;
    let groups = groups(&stage);
    let [group] = &groups[..] else {
        panic!("{groups:?}")
    };
    let policy = group.spec.scheduling_policy.gang.as_ref().unwrap();
    assert_eq!(policy.min_count, 3);
    assert_eq!(group.spec.priority_class_name.as_deref(), Some("high"));
    let disruptions = group.spec.disruption_mode.as_ref().unwrap();
    assert!(disruptions.all.is_some() && disruptions.single.is_none());
    assert_eq!(group.owner_references()[0].name, "train");
    let name = Some(group.name_any());
    assert_eq!(groups_of_pods(&stage), [name.clone(), name]);
}

#[tokio::test]
async fn a_gang_that_stops_and_goes_on_stays_in_its_group() {
    let mut stage = with(gang("train", 2)).await;
    let before = groups_of_pods(&stage);
    assert!(before[0].is_some());
    suspend(&mut stage, true).await;
    // somebody tidies up: without it the pods would wait for ever
    stage
        .world
        .delete::<PodGroup>(before[0].as_ref().unwrap())
        .await;
    suspend(&mut stage, false).await;
    assert_eq!(groups_of_pods(&stage), before);
    assert_eq!(groups(&stage)[0].name_any(), *before[0].as_ref().unwrap());
    // a new run has new Jobs
    let uid = jobs(&stage)[0].uid();
    let worker = stage.world.pods().remove(0);
    stage.world.fail(&worker, 1).await;
    stage.seconds(40).await;
    assert_ne!(jobs(&stage)[0].uid(), uid);
    assert_eq!(groups_of_pods(&stage), before);
    assert_eq!(groups(&stage).len(), 1);
}

#[tokio::test]
async fn a_gang_that_ran_before_the_cluster_had_groups_gets_none() {
    let mut stage = Stage::new(Faults::default()).await;
    stage
        .world
        .create::<TrainingJob>(two_roles([None, None]))
        .await;
    stage.seconds(8).await;
    assert_eq!(groups_of_pods(&stage), [None, None]);
    suspend(&mut stage, true).await;
    stage.world.server.serve::<PodGroup>();
    suspend(&mut stage, false).await;
    assert_eq!(groups_of_pods(&stage), [None, None]);
    assert_eq!(groups(&stage).len(), 0);
}

#[tokio::test]
async fn what_kube_scheduler_would_refuse_as_a_group_is_none() {
    let of_two_classes = two_roles([Some("high"), Some("low")]);
    let mut own = two_roles([None, None]);
    for role in own["spec"]["roles"].as_array_mut().unwrap() {
        role["template"]["spec"]["schedulingGroup"] = json!({"podGroupName": "mine"});
    }
    for (job, expected) in [
        (of_two_classes, [None, None]),
        (own, [Some("mine".to_owned()), Some("mine".to_owned())]),
        (gang("train", 1), [None, None]),
    ] {
        let stage = with(job).await;
        let of_pods = groups_of_pods(&stage);
        assert_eq!(of_pods, expected[..of_pods.len()]);
        assert_eq!(groups(&stage).len(), 0);
    }
}

#[tokio::test]
async fn a_group_of_that_name_that_is_somebody_elses_stops_the_start_and_is_named() {
    let stage = with(gang("train", 2)).await;
    let name = groups(&stage)[0].name_any();
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.server.serve::<PodGroup>();
    let spec = json!({"schedulingPolicy": {"basic": {}}});
    let theirs = json!({"metadata": {"name": name}, "spec": spec});
    stage.world.create::<PodGroup>(theirs).await;
    stage.world.create::<TrainingJob>(gang("train", 2)).await;
    stage.seconds(8).await;
    assert_eq!(jobs(&stage).len(), 0);
    let jobs: Vec<TrainingJob> = stage.world.server.objects();
    let said = serde_json::to_string(&jobs[0].status).unwrap();
    let expected = format!("PodGroup {name} exists and is not Bursar's");
    assert!(said.contains(&expected), "{said}");
    assert_eq!(jobs[0].namespace().as_deref(), Some(NAMESPACE));
}

/// Workers of a framework wait for all ranks, and start again with those that had ended well.
#[tokio::test]
async fn workers_that_have_ended_well_are_waited_for_only_if_they_start_again() {
    for (framework, expected) in [("Plain", 2), ("PyTorch", 3)] {
        let mut job = gang("train", 3);
        job["spec"]["framework"] = json!(framework);
        let mut stage = with(job).await;
        let min_count = |stage: &Stage| {
            let group = groups(stage).remove(0);
            group.spec.scheduling_policy.gang.unwrap().min_count
        };
        suspend(&mut stage, true).await;
        assert_eq!(min_count(&stage), 3);
        let ended = Patch::Merge(json!({"status": {"succeeded": 1}}));
        let params = PatchParams::default();
        let job = stage.world.api::<Job>();
        job.patch_status("train", &params, &ended).await.unwrap();
        suspend(&mut stage, false).await;
        assert_eq!(min_count(&stage), expected, "{framework}");
    }
}
