//! Sources in a cluster.

use bursar_apitest::Server;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Service;
use kube::api::PostParams;
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::super::SourceKind;
use super::super::cluster::{dry_run, import};
use super::super::objects::Objects;
use super::super::report::Fate;
use super::samples::{DEPLOYMENT, HPA};

async fn create<K>(server: &Server, text: &str)
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
{
    let kind = K::kind(&());
    for object in Objects::from_text(text).unwrap().all {
        if object["kind"] != *kind {
            continue;
        }
        let object: K = serde_json::from_value(object).unwrap();
        let api: Api<K> = Api::namespaced(server.client(), "team");
        api.create(&PostParams::default(), &object).await.unwrap();
    }
}

#[tokio::test]
async fn a_source_in_the_cluster_is_read_with_its_target_and_services() {
    let server = Server::new(&["team"]);
    server.serve::<HorizontalPodAutoscaler>();
    create::<HorizontalPodAutoscaler>(&server, HPA).await;
    create::<Deployment>(&server, DEPLOYMENT).await;
    create::<Service>(&server, DEPLOYMENT).await;
    let imported = import(&server.client(), SourceKind::Hpa, "chat", Some("team")).await;
    let imported = imported.unwrap().remove(0);
    let spec = &imported.manifest["spec"];
    assert_eq!(spec["engine"], "vLLM");
    assert_eq!(spec["serviceRef"], json!({"name": "chat", "port": "http"}));
    assert_eq!(
        imported.fields(Fate::Dropped),
        ["spec.metrics[1] (Resource cpu)"]
    );
}

#[tokio::test]
async fn a_deployment_in_the_cluster_is_its_own_target() {
    let server = Server::new(&["team"]);
    create::<Deployment>(&server, DEPLOYMENT).await;
    create::<Service>(&server, DEPLOYMENT).await;
    let imported = import(
        &server.client(),
        SourceKind::Deployment,
        "chat",
        Some("team"),
    )
    .await;
    let imported = imported.unwrap().remove(0);
    assert!(imported.is_whole(), "{:#?}", imported.findings);
    assert_eq!(imported.manifest["spec"]["serviceRef"]["name"], "chat");
}

#[tokio::test]
async fn what_cannot_be_read_is_said_where_it_is_missing() {
    let server = Server::new(&["team"]);
    server.serve::<HorizontalPodAutoscaler>();
    create::<HorizontalPodAutoscaler>(&server, HPA).await;
    let imported = import(&server.client(), SourceKind::Hpa, "chat", Some("team")).await;
    let imported = imported.unwrap().remove(0);
    let why = imported.why("spec.engine");
    assert!(why.contains("Deployment chat: "), "{why}");
    let error = import(&server.client(), SourceKind::Hpa, "other", Some("team")).await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("no HorizontalPodAutoscaler team/other"),
        "{error}"
    );
}

#[tokio::test]
async fn a_dry_run_says_what_the_api_server_refuses() {
    let server = Server::new(&["team"]);
    let nameless = json!({"apiVersion": "bursar.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": ""}, "spec": {}});
    let why = dry_run(&server.client(), &nameless, Some("team")).await;
    assert_eq!(why, Err("metadata.name is missing".to_owned()));
    let elsewhere = json!({"apiVersion": "bursar.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "a", "namespace": "nowhere"}, "spec": {}});
    let why = dry_run(&server.client(), &elsewhere, Some("team"))
        .await
        .unwrap_err();
    assert!(why.contains("nowhere"), "{why}");
}
