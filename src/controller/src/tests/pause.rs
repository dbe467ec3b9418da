//! What the platform has paused keeps what it has, and nothing of it is written but statuses and
//! the ledger.

use bursar_api::conditions::PAUSED;
use bursar_api::names::PAUSE_CONFIG_MAP;
use bursar_api::{BudgetPolicy, InferenceDeployment, TrainingJob};
use bursar_apitest::faults::Faults;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::leader::Leader;
use super::sweep::Stage;
use super::watched_cluster::{WatchedCluster, patch};
use super::world::{NAMESPACE, OPERATOR, World};

/// Sets the entries of the ConfigMap that pauses; null takes one away.
pub(super) async fn set(world: &World, entries: Value) {
    let api: Api<ConfigMap> = Api::namespaced(world.server.client(), OPERATOR);
    if api.get_opt(PAUSE_CONFIG_MAP).await.unwrap().is_none() {
        let mut config_map = ConfigMap::default();
        config_map.metadata.name = Some(PAUSE_CONFIG_MAP.to_owned());
        api.create(&PostParams::default(), &config_map)
            .await
            .unwrap();
    }
    let patch = Patch::Merge(json!({"data": entries}));
    let params = PatchParams::default();
    api.patch(PAUSE_CONFIG_MAP, &params, &patch).await.unwrap();
}

fn replicas(stage: &Stage) -> Option<i32> {
    let deployments: Vec<Deployment> = stage.world.server.objects();
    deployments.first()?.spec.replicas
}

fn suspended(stage: &Stage) -> Option<bool> {
    let jobs: Vec<Job> = stage.world.server.objects();
    jobs.first()?.spec.as_ref()?.suspend
}

fn condition(conditions: &[Condition]) -> Option<(String, String)> {
    let found = conditions.iter().find(|each| each.type_ == PAUSED)?;
    assert_eq!(found.status, "True");
    Some((found.reason.clone(), found.message.clone()))
}

/// A service with a replica and a gang of two workers, which run.
async fn running() -> Stage {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.set_limit("9").await;
    stage.world.create_chat(0).await;
    stage.world.create_job(None).await;
    stage.world.requests = 2;
    stage.seconds(12).await;
    assert_eq!(
        (replicas(&stage), suspended(&stage)),
        (Some(1), Some(false))
    );
    stage
}

#[tokio::test]
async fn nothing_of_a_paused_namespace_is_changed_also_over_its_budget() {
    let mut stage = running().await;
    set(&stage.world, json!({"namespace.team": "since now"})).await;
    stage.world.requests = 12;
    stage.seconds(3).await;
    stage.world.set_limit("0.01").await;
    stage.seconds(10).await;
    let template = json!({"spec": {"template": {"metadata": {"labels": {"new": "one"}}}}});
    patch::<InferenceDeployment>(&stage.world, "chat", template).await;
    stage.seconds(3).await;
    assert_eq!(
        (replicas(&stage), suspended(&stage)),
        (Some(1), Some(false))
    );
    let deployments: Vec<Deployment> = stage.world.server.objects();
    let labels = deployments[0].spec.template.metadata.as_ref().unwrap();
    assert!(!labels.labels.as_ref().unwrap().contains_key("new"));
    let service: InferenceDeployment = stage.world.server.objects().remove(0);
    let (reason, message) = condition(&service.status.unwrap().conditions).unwrap();
    assert_eq!(reason, "NamespacePaused");
    assert!(message.contains("also over its budget"), "{message}");
    assert!(
        message.contains("kubectl bursar resume -n team"),
        "{message}"
    );
    let job: TrainingJob = stage.world.server.objects().remove(0);
    assert!(condition(&job.status.unwrap().conditions).is_some());
    let budget: BudgetPolicy = stage.world.server.objects().remove(0);
    let status = budget.status.unwrap();
    // it decides and accounts
    assert!(status.latch.is_some());
    let (_, message) = condition(&status.conditions).unwrap();
    assert!(message.contains("stops nothing"), "{message}");
    let paused = stage.leader.explain(NAMESPACE, stage.world.now).paused;
    assert_eq!(paused.as_deref(), Some("namespace"));
    // another leader finds the pause
    stage.leader = Leader::new(&stage.world, Faults::default());
    stage.seconds(5).await;
    assert_eq!(
        (replicas(&stage), suspended(&stage)),
        (Some(1), Some(false))
    );
    set(&stage.world, json!({"namespace.team": null})).await;
    stage.seconds(12).await;
    assert_eq!((replicas(&stage), suspended(&stage)), (Some(0), Some(true)));
    let service: InferenceDeployment = stage.world.server.objects().remove(0);
    assert_eq!(condition(&service.status.unwrap().conditions), None);
}

#[tokio::test]
async fn an_edit_of_the_template_is_carried_out_once_the_cluster_is_resumed() {
    let mut stage = running().await;
    set(&stage.world, json!({"cluster": "since now"})).await;
    let template = json!({"spec": {"template": {"metadata": {"labels": {"new": "one"}}}}});
    patch::<InferenceDeployment>(&stage.world, "chat", template).await;
    stage.seconds(3).await;
    let label = |stage: &Stage| {
        let deployments: Vec<Deployment> = stage.world.server.objects();
        let metadata = deployments[0].spec.template.metadata.clone().unwrap();
        metadata.labels.unwrap().contains_key("new")
    };
    assert!(!label(&stage));
    set(&stage.world, json!({"cluster": null})).await;
    stage.seconds(1).await;
    assert!(label(&stage));
}

#[tokio::test]
async fn a_service_that_is_made_in_a_paused_cluster_gets_nothing_but_a_status() {
    let mut stage = Stage::new(Faults::default()).await;
    set(&stage.world, json!({"cluster": ""})).await;
    stage.world.create_chat(1).await;
    stage.world.create_job(None).await;
    stage.seconds(5).await;
    let owned = |state: &std::collections::BTreeMap<String, String>| {
        let mut kinds: Vec<String> = state.keys().cloned().collect();
        kinds.retain(|key| {
            !key.starts_with("InferenceDeployment") && !key.starts_with("SpendRecord")
        });
        kinds
    };
    assert_eq!(owned(&stage.world.state()), [] as [&str; 0]);
    let service: InferenceDeployment = stage.world.server.objects().remove(0);
    let status = service.status.unwrap();
    let refusal = status.activation.unwrap().refusal.unwrap();
    assert_eq!(refusal.reason, "ScalingPaused");
    set(&stage.world, json!({"cluster": null})).await;
    stage.seconds(3).await;
    assert_eq!(replicas(&stage), Some(1));
}

#[tokio::test]
async fn a_tenant_that_pauses_its_own_workloads_does_not_escape_its_budget() {
    let mut stage = running().await;
    let paused = json!({"spec": {"scaling": {"paused": true}}});
    patch::<InferenceDeployment>(&stage.world, "chat", paused).await;
    let paused = json!({"spec": {"paused": true}});
    patch::<TrainingJob>(&stage.world, "train", paused).await;
    // neither does an entry in a ConfigMap of its own, whatever its name
    let api: Api<ConfigMap> = Api::namespaced(stage.world.server.client(), NAMESPACE);
    let mut config_map = ConfigMap::default();
    config_map.metadata.name = Some(PAUSE_CONFIG_MAP.to_owned());
    config_map.data = Some([("cluster".to_owned(), String::new())].into());
    api.create(&PostParams::default(), &config_map)
        .await
        .unwrap();
    stage.seconds(3).await;
    let service: InferenceDeployment = stage.world.server.objects().remove(0);
    let (reason, message) = condition(&service.status.unwrap().conditions).unwrap();
    assert_eq!(reason, "WorkloadPaused");
    assert!(message.contains("only a budget stops it"), "{message}");
    stage.world.set_limit("0.01").await;
    stage.seconds(12).await;
    assert_eq!((replicas(&stage), suspended(&stage)), (Some(0), Some(true)));
}

#[tokio::test]
async fn the_pause_is_watched_where_it_is_kept() {
    let mut cluster = WatchedCluster::led(World::new().await).await;
    cluster.world.create_chat(1).await;
    cluster.seconds(2).await;
    assert_eq!(cluster.replicas("chat"), Some(1));
    set(&cluster.world, json!({"cluster": ""})).await;
    cluster.world.requests = 12;
    cluster.seconds(3).await;
    assert_eq!(cluster.replicas("chat"), Some(1));
    cluster.change_leader().await;
    cluster.seconds(3).await;
    assert_eq!(cluster.replicas("chat"), Some(1));
    set(&cluster.world, json!({"cluster": null})).await;
    cluster.seconds(3).await;
    assert_eq!(cluster.replicas("chat"), Some(3));
}
