//! Objects that cannot be read, among others that can be: what the others see of them, nothing, and
//! what becomes of what they own.

use bursar_api::lenient::Lenient;
use bursar_api::names::SPEND_FINALIZER;
use bursar_api::spend::WorkloadKind;
use bursar_api::{BudgetPolicy, InferenceDeployment, SpendRecord, TrainingJob};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use super::watched_cluster::{WatchedCluster, create, patch};
use super::world::World;
use crate::cache::MAX_FAULTS;
use crate::ledger::nodes::{self, MatchedNodes};
use crate::pod;

/// The port that no type for ports holds, and that the API server takes.
const PORT: u32 = 3_000_000_000;
const FIELD: &str = "spec.template.spec.containers[0].livenessProbe.httpGet.port";

fn containers(port: Value) -> Value {
    json!([{
        "name": "c", "image": "engine", "resources": {"limits": {"nvidia.com/gpu": "1"}},
        "livenessProbe": {"httpGet": {"path": "/", "port": port}},
    }])
}

/// Case T1.
fn bad_service(name: &str) -> Value {
    let template = json!({"spec": {"containers": containers(json!(PORT))}});
    json!({"metadata": {"name": name}, "spec": {"engine": "vLLM", "maxReplicas": 1, "template": template}})
}

fn template(port: Value) -> Value {
    json!({"spec": {"template": {"spec": {"containers": containers(port)}}}})
}

/// Status, reason and message of the condition `Accepted`.
fn accepted(object: &Value) -> Option<(String, String, String)> {
    let all = object["status"]["conditions"].as_array()?;
    let condition = all.iter().find(|each| each["type"] == "Accepted")?;
    let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    Some((text("status"), text("reason"), text("message")))
}

fn unreadable(object: &Value, field: &str) {
    let (status, reason, message) = accepted(object).unwrap_or_default();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Unreadable"));
    assert!(message.starts_with(&format!("{field}: ")), "{message}");
}

#[tokio::test]
async fn a_service_that_cannot_be_read_in_the_first_list_stops_no_other() {
    let world = World::new().await;
    create::<InferenceDeployment>(&world, bad_service("bad")).await;
    world.create_chat(0).await;
    let mut cluster = WatchedCluster::led(world).await;
    cluster.world.requests = 2;
    cluster.seconds(4).await;
    assert_eq!(cluster.replicas("chat"), Some(1));
    assert_eq!(cluster.replicas("bad"), None);
    let writes = cluster.leader.faults.writes();
    assert_eq!(cluster.report().await, 2, "the second compares");
    let writes = cluster.leader.faults.writes() - writes;
    assert_eq!(writes, 2, "the condition and its Event");
    let bad = cluster.get::<InferenceDeployment>("bad").await;
    unreadable(&bad, FIELD);
    let (_, _, message) = accepted(&bad).unwrap();
    assert!(
        message.contains("3000000000") && message.contains("1 to 65535"),
        "{message}"
    );
    cluster.seconds(3).await;
    assert_eq!(cluster.report().await, 0);
    let after = cluster.get::<InferenceDeployment>("bad").await;
    assert_eq!(
        after["metadata"]["resourceVersion"],
        bad["metadata"]["resourceVersion"]
    );
}

#[tokio::test]
async fn a_service_that_becomes_unreadable_keeps_its_replicas_until_it_is_readable_again() {
    let world = World::new().await;
    world.create_chat(0).await;
    let mut cluster = WatchedCluster::led(world).await;
    cluster.world.requests = 6;
    cluster.seconds(8).await;
    assert_eq!(cluster.replicas("chat"), Some(2));
    patch::<InferenceDeployment>(&cluster.world, "chat", template(json!(PORT))).await;
    cluster.report().await;
    let before = cluster.get::<InferenceDeployment>("chat").await;
    unreadable(&before, FIELD);
    assert_eq!(
        before["status"]["conditions"].as_array().map(Vec::len),
        Some(6),
        "{before}"
    );
    cluster.world.requests = 0;
    cluster.seconds(20).await;
    assert_eq!(
        cluster.replicas("chat"),
        Some(2),
        "demand takes nothing away"
    );
    // the next leader knows no version of it
    cluster.change_leader().await;
    cluster.seconds(20).await;
    assert_eq!(cluster.replicas("chat"), Some(2));
    let after = cluster.get::<InferenceDeployment>("chat").await;
    assert_eq!(
        before["metadata"]["resourceVersion"],
        after["metadata"]["resourceVersion"]
    );
    patch::<InferenceDeployment>(&cluster.world, "chat", template(json!(8000))).await;
    cluster.seconds(25).await;
    assert_eq!(
        accepted(&cluster.get::<InferenceDeployment>("chat").await),
        None
    );
    assert_eq!(cluster.replicas("chat"), Some(0));
}

#[tokio::test]
async fn a_budget_stops_a_service_by_the_last_version_that_could_be_read() {
    let world = World::new().await;
    world.create_chat(1).await;
    world.set_limit("9").await;
    let mut cluster = WatchedCluster::led(world).await;
    cluster.seconds(6).await;
    assert_eq!(cluster.replicas("chat"), Some(1));
    patch::<InferenceDeployment>(&cluster.world, "chat", template(json!(PORT))).await;
    cluster.seconds(2).await;
    assert_eq!(cluster.replicas("chat"), Some(1));
    cluster.world.set_limit("0.001").await;
    cluster.seconds(12).await;
    assert_eq!(cluster.replicas("chat"), Some(0));
}

#[tokio::test]
async fn a_service_that_cannot_be_read_keeps_its_port() {
    let world = World::new().await;
    world.create_chat(0).await;
    let mut cluster = WatchedCluster::led(world).await;
    cluster.seconds(2).await;
    let port = |cluster: &WatchedCluster, name: &str| {
        let all: Vec<EndpointSlice> = cluster.world.server.objects();
        let found = all
            .iter()
            .find(|slice| slice.name_any() == format!("{name}-bursar-gateway"));
        found.and_then(|slice| slice.ports.as_ref()?.first()?.port)
    };
    let of_chat = port(&cluster, "chat");
    assert!(of_chat.is_some());
    patch::<InferenceDeployment>(&cluster.world, "chat", template(json!(PORT))).await;
    cluster.change_leader().await;
    let mut other = bad_service("other");
    other["spec"]["template"] = template(json!(8000))["spec"]["template"].clone();
    create::<InferenceDeployment>(&cluster.world, other).await;
    cluster.seconds(2).await;
    let of_other = port(&cluster, "other");
    assert!(of_other.is_some() && of_other != of_chat, "{of_other:?}");
    assert_eq!(port(&cluster, "chat"), of_chat);
}

/// Case M14: what the budgets of a namespace do while one of them cannot be read.
#[tokio::test]
async fn a_budget_that_cannot_be_read_starts_nothing_stops_nothing_and_keeps_its_status() {
    let world = World::new().await;
    world.create_chat(0).await;
    world.set_limit("9").await;
    let mut cluster = WatchedCluster::led(world).await;
    cluster.world.requests = 2;
    cluster.seconds(6).await;
    assert_eq!(cluster.replicas("chat"), Some(1));
    let policy =
        json!({"metadata": {"name": "broken"}, "spec": {"limit": "0.0001", "period": "Monthly"}});
    create::<BudgetPolicy>(&cluster.world, policy).await;
    let latch = json!({"limit": "ten", "periodStart": "2026-11-01T00:00:00Z"});
    patch::<BudgetPolicy>(
        &cluster.world,
        "broken",
        json!({"status": {"latch": latch}}),
    )
    .await;
    cluster.world.create_job(None).await;
    cluster.world.requests = 12;
    cluster.seconds(8).await;
    assert_eq!(
        cluster.replicas("chat"),
        Some(1),
        "nothing grows, nothing stops"
    );
    let job: TrainingJob = cluster.world.server.objects().remove(0);
    let reason = job.status.unwrap().reason;
    assert!(
        reason.contains("BudgetPolicy broken cannot be read: status.latch.limit"),
        "{reason}"
    );
    cluster.report().await;
    let broken = cluster.get::<BudgetPolicy>("broken").await;
    unreadable(&broken, "status.latch.limit");
    assert_eq!(
        broken["status"]["latch"], latch,
        "its latch is not forgotten"
    );
    // the other budget stops all the same
    cluster.world.set_limit("0.001").await;
    cluster.seconds(12).await;
    assert_eq!(cluster.replicas("chat"), Some(0));
    // and the broken one is mended
    patch::<BudgetPolicy>(&cluster.world, "broken", json!({"spec": {"limit": "90"}})).await;
    patch::<BudgetPolicy>(&cluster.world, "broken", json!({"status": {"latch": null}})).await;
    cluster.world.set_limit("9").await;
    cluster.seconds(8).await;
    assert_eq!(accepted(&cluster.get::<BudgetPolicy>("broken").await), None);
    assert_eq!(cluster.replicas("chat"), Some(3));
}

#[tokio::test]
async fn a_job_that_cannot_be_read_does_not_start_and_one_that_runs_goes_on() {
    let world = World::new().await;
    world.create_job(None).await;
    let mut cluster = WatchedCluster::led(world).await;
    cluster.seconds(4).await;
    let suspended = |cluster: &WatchedCluster, name: &str| {
        let all: Vec<Job> = cluster.world.server.objects();
        let job = all.iter().find(|job| job.name_any() == name);
        job.map(|job| job.spec.as_ref().unwrap().suspend == Some(true))
    };
    assert_eq!(suspended(&cluster, "train"), Some(false));
    // seven workers find no room next to those two
    let template = template(json!(80))["spec"]["template"].clone();
    let spec = json!({"framework": "PyTorch", "replicas": 7, "template": template});
    let queued = json!({"metadata": {"name": "queued"}, "spec": spec});
    create::<TrainingJob>(&cluster.world, queued).await;
    cluster.seconds(2).await;
    let bad = json!({"spec": {"restarts": PORT}});
    for name in ["train", "queued"] {
        patch::<TrainingJob>(&cluster.world, name, bad.clone()).await;
    }
    cluster.seconds(6).await;
    assert_eq!(suspended(&cluster, "train"), Some(false));
    cluster.report().await;
    for name in ["train", "queued"] {
        unreadable(&cluster.get::<TrainingJob>(name).await, "spec.restarts");
    }
    cluster.world.delete::<Lenient<TrainingJob>>("train").await;
    cluster.seconds(8).await;
    assert_ne!(suspended(&cluster, "queued"), Some(false));
    let mended = json!({"spec": {"restarts": 3}});
    patch::<TrainingJob>(&cluster.world, "queued", mended).await;
    cluster.seconds(4).await;
    assert_eq!(suspended(&cluster, "queued"), Some(false));
}

#[tokio::test]
async fn a_record_that_its_type_does_not_hold_is_doubt_and_not_written() {
    let world = World::new().await;
    world.create_chat(1).await;
    world.set_limit("9").await;
    let mut cluster = WatchedCluster::led(world).await;
    cluster.seconds(6).await;
    let name = cluster
        .world
        .server
        .objects::<SpendRecord>()
        .remove(0)
        .name_any();
    let records: Api<DynamicObject> = Api::all_with(
        cluster.world.server.client(),
        &ApiResource::erase::<SpendRecord>(&()),
    );
    let change = Patch::Merge(json!({"status": {"days": "none"}}));
    records
        .patch_status(&name, &PatchParams::default(), &change)
        .await
        .unwrap();
    for _ in 0..2 {
        cluster.world.create_job(None).await;
        for _ in 0..6 {
            cluster.world.turn().await;
            cluster.wait_for_caches().await;
            let looked = cluster.leader.reconcile_caches(&cluster.world).await;
            let error = looked.map_err(|error| error.to_string()).unwrap_err();
            assert!(
                error.contains(&format!("SpendRecord {name} cannot be read: status.days")),
                "{error}"
            );
        }
        assert_eq!(cluster.replicas("chat"), Some(1));
        let job: TrainingJob = cluster.world.server.objects().remove(0);
        assert_eq!(
            job.status.unwrap().limited_by.unwrap().as_str(),
            "PriceUnknown"
        );
        cluster.world.delete::<Lenient<TrainingJob>>("train").await;
        cluster.change_leader().await;
    }
}

#[tokio::test]
async fn what_a_workload_owns_and_cannot_be_read_is_left_alone_and_named() {
    let world = World::new().await;
    world.create_chat(1).await;
    let mut cluster = WatchedCluster::led(world).await;
    cluster.seconds(4).await;
    patch::<Service>(&cluster.world, "chat", json!({"spec": {"ports": 80}})).await;
    for _ in 0..2 {
        let before = cluster.get::<Service>("chat").await;
        cluster.seconds(4).await;
        let service = cluster.get::<InferenceDeployment>("chat").await;
        let all = service["status"]["conditions"].as_array().unwrap();
        let healthy = all
            .iter()
            .find(|each| each["type"] == "PodsHealthy")
            .unwrap();
        assert_eq!(healthy["reason"], "ApplyFailed");
        let message = healthy["message"].as_str().unwrap();
        assert!(
            message.contains("Service chat cannot be read: spec.ports"),
            "{message}"
        );
        assert_eq!(cluster.get::<Service>("chat").await, before);
        cluster.change_leader().await;
    }
}

/// No API server lets such a pod in; its charge stays open all the same.
#[tokio::test]
async fn a_pod_that_cannot_be_read_goes_on_costing() {
    let world = World::new().await;
    world.create_chat(1).await;
    let mut cluster = WatchedCluster::led(world).await;
    cluster.seconds(6).await;
    let pod = cluster.world.pods().remove(0);
    let is_open = |cluster: &WatchedCluster| {
        let records: Vec<SpendRecord> = cluster.world.server.objects();
        let mut accounts = records.iter().map(|record| record.to_account().unwrap());
        accounts.any(|account| account.open_charges().contains_key(pod::uid(&pod)))
    };
    assert!(is_open(&cluster));
    let name = pod.name_any();
    patch::<Pod>(&cluster.world, &name, json!({"spec": {"priority": "high"}})).await;
    for _ in 0..2 {
        cluster.seconds(4).await;
        assert!(is_open(&cluster));
        cluster.change_leader().await;
    }
    patch::<Pod>(&cluster.world, &name, json!({"spec": {"priority": 0}})).await;
    cluster.world.delete::<InferenceDeployment>("chat").await;
    cluster.seconds(12).await;
    let held = |pod: &Pod| pod::has_finalizer(pod, SPEND_FINALIZER);
    assert!(!cluster.world.pods().iter().any(held));
    assert!(!is_open(&cluster));
}

/// No API server lets such a node in; its charge stays open, and the other nodes' are kept.
#[tokio::test]
async fn a_node_that_cannot_be_read_goes_on_costing() {
    let world = World::new().await;
    world.create_chat(1).await;
    let mut cluster = WatchedCluster::led(world).await;
    cluster.seconds(6).await;
    let mut matched = MatchedNodes::new();
    let objects: Api<DynamicObject> = Api::all_with(
        cluster.world.server.client(),
        &ApiResource::erase::<Node>(&()),
    );
    for (change, charged) in [(None, 1), (Some(json!({"status": {"capacity": 5}})), 2)] {
        if let Some(change) = change {
            let (params, patch) = (PatchParams::default(), Patch::Merge(change));
            objects.patch_status("node", &params, &patch).await.unwrap();
            cluster.world.create_node("second").await;
            cluster.change_leader().await;
        }
        cluster.wait_for_caches().await;
        let context = &cluster.leader.context;
        let errors = nodes::sync_once(context, &mut matched, cluster.world.now).await;
        assert!(errors.is_empty(), "{errors:?}");
        let records: Vec<SpendRecord> = cluster.world.server.objects();
        let record = records
            .iter()
            .find(|record| record.spec.kind == WorkloadKind::Node);
        let account = record.unwrap().to_account().unwrap();
        assert_eq!(account.open_charges().len(), charged);
    }
}

#[tokio::test]
async fn a_hundred_objects_that_cannot_be_read_cost_bounded_memory_and_all_say_so() {
    let world = World::new().await;
    for number in 0..100 {
        create::<InferenceDeployment>(&world, bad_service(&format!("bad-{number}"))).await;
    }
    world.create_chat(0).await;
    let mut cluster = WatchedCluster::led(world).await;
    cluster.world.requests = 2;
    cluster.seconds(3).await;
    assert_eq!(cluster.replicas("chat"), Some(1));
    cluster.report().await;
    let mut named = 0;
    for number in 0..100 {
        let object = cluster
            .get::<InferenceDeployment>(&format!("bad-{number}"))
            .await;
        let (status, reason, message) = accepted(&object).unwrap();
        assert_eq!((status.as_str(), reason.as_str()), ("False", "Unreadable"));
        assert!(message.len() < 600, "{message}");
        named += usize::from(message.starts_with(FIELD));
    }
    assert_eq!(named, MAX_FAULTS);
    for number in 0..100 {
        cluster
            .world
            .delete::<Lenient<InferenceDeployment>>(&format!("bad-{number}"))
            .await;
    }
    cluster.wait_for_caches().await;
    let left = cluster
        .leader
        .context
        .unreadable
        .all::<InferenceDeployment>();
    assert_eq!(left, []);
}
