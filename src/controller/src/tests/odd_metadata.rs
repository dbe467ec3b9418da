//! What users write into annotations, labels, owner references and amounts, read as the controller reads it:
//! thousands of pods, nodes and Jobs by the readers of single objects, and hundreds by a whole controller, next to a
//! namespace of somebody else. `BURSAR_SEED=N` plays others.

mod hostile;

use std::time::{Duration, Instant};

use bursar_api::names::is_workload;
use bursar_api::{BudgetPolicy, InferenceDeployment, SpendRecord, TrainingJob, gpu_inventory};
use bursar_apitest::faults::Faults;
use bursar_core::pricing::{PricingAttributes, product_labels};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use self::hostile::Hostile;
use super::leader::View;
use super::sweep::Stage;
use super::world::NAMESPACE;
use crate::cache::{CachePolicy, prune};
use crate::ledger::worker;
use crate::pod;
use crate::pod_mark;
use crate::training::job;

/// Objects of each kind that the readers are given.
const OBJECTS: usize = 1_500;
/// Pods that a whole controller is given, among as many other objects.
const PODS: usize = 60;
/// Looks that it takes at them.
const LOOKS: usize = 3;
/// The namespace of the user who writes all that.
const HOSTILE: &str = "hostile";
/// What a cache keeps of an object's metadata at most.
const MAX_METADATA_BYTES: usize = 8 << 10;
/// No reader takes longer for an object of any size that the API server takes. A build without optimization on a busy machine
/// is some hundred times as fast.
const READ_LIMIT: Duration = Duration::from_secs(2);

fn seeds() -> Vec<u64> {
    let given = std::env::var("BURSAR_SEED").ok();
    match given.and_then(|text| text.parse().ok()) {
        Some(seed) => vec![seed],
        None => vec![1, 3],
    }
}

/// An object as a watch's decoder reads it and a cache keeps it.
fn cached<K: CachePolicy + DeserializeOwned>(object: &Value) -> K {
    let mut object: K = serde_json::from_value(object.clone()).unwrap();
    prune(&mut object);
    object
}

/// Runs a reader, and holds it to its time.
fn timed<T>(what: &str, seed: u64, reads: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let read = reads();
    let took = begin.elapsed();
    assert!(
        took < READ_LIMIT,
        "BURSAR_SEED={seed}: {what} took {took:?}"
    );
    read
}

fn assert_small_metadata<K: CachePolicy>(object: &K, seed: u64) {
    let bytes = serde_json::to_vec(object.meta()).unwrap().len();
    assert!(
        bytes < MAX_METADATA_BYTES,
        "BURSAR_SEED={seed}: {bytes} bytes are kept"
    );
}

/// What is read of a pod is within the bounds of what it is used for.
fn check_pod(pod: &Pod, seed: u64) {
    assert_small_metadata(pod, seed);
    let created = pod.metadata.creation_timestamp.as_ref().unwrap().0;
    for since in [pod_mark::draining_since(pod), pod::draining_since(pod)] {
        assert!(
            since.is_none_or(|since| since >= created),
            "BURSAR_SEED={seed}: {since:?}"
        );
    }
    let owner = pod::owner(pod);
    assert!(
        owner.chars().count() <= 2 * 253 + 16,
        "BURSAR_SEED={seed}: {owner}"
    );
    if let Some(workload) = pod::workload_of(pod) {
        let is_own = workload.namespace == HOSTILE;
        let is_name = workload.name.is_empty() || is_workload(&workload.name);
        assert!(is_own && is_name, "BURSAR_SEED={seed}: {workload:?}");
    }
    let gpus = pod::gpus(pod);
    assert!(
        gpus.iter().all(|(_, count)| *count <= pod::MAX_GPUS),
        "BURSAR_SEED={seed}: {gpus:?}"
    );
    pod::unknown_accelerators(pod);
    pod::end(pod, created);
}

#[test]
fn whatever_users_write_the_readers_of_single_objects_take_bounded_time_and_keep_little() {
    for seed in seeds() {
        let mut hostile = Hostile::new(seed, HOSTILE);
        hostile.bulk = true;
        for number in 0..OBJECTS {
            let name = format!("o{number}");
            let object = hostile.pod(&name);
            timed("a pod", seed, || check_pod(&cached(&object), seed));
            let object = hostile.node(&name);
            let (pod, resource) = (cached::<Pod>(&hostile.pod(&name)), hostile.gpu());
            timed("a node", seed, || {
                let node: Node = cached(&object);
                let gpus = pod::gpus(&pod).first().map_or(1, |(_, count)| *count);
                let attributes = PricingAttributes {
                    resource: resource.to_owned(),
                    gpus,
                    ..PricingAttributes::default()
                };
                let attributes = gpu_inventory::on_node(attributes, &node);
                let stored = serde_json::to_vec(&attributes).unwrap().len();
                assert!(
                    stored < 2_048,
                    "BURSAR_SEED={seed}: {stored} bytes are stored with a charge"
                );
                let seconds = attributes.gpu_seconds(Timestamp::UNIX_EPOCH, Timestamp::MAX);
                assert!(seconds >= 0, "BURSAR_SEED={seed}: {attributes:?}");
            });
            let object = hostile.job(&name);
            timed("a Job", seed, || {
                let found: Job = cached(&object);
                let kept = serde_json::to_vec(found.annotations()).unwrap().len();
                assert!(
                    kept < MAX_METADATA_BYTES,
                    "BURSAR_SEED={seed}: {kept} bytes are kept"
                );
                let read = job::to_core(&found);
                let why = read.retry.and_then(|retry| retry.creation_failure);
                assert!(
                    why.is_none_or(|why| why.len() < 1_500),
                    "BURSAR_SEED={seed}"
                );
                job::labelled_role(&found);
            });
        }
    }
}

/// Creates an object, with its status, if the API server takes it.
async fn try_create<K>(stage: &Stage, namespace: Option<&str>, mut object: Value) -> bool
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    object["apiVersion"] = json!(K::api_version(&()));
    object["kind"] = json!(K::kind(&()));
    let Ok(typed) = serde_json::from_value::<K>(object.clone()) else {
        return false;
    };
    let url = K::url_path(&(), namespace);
    let send = async |method: &str, url: String, body: Vec<u8>| {
        let request = http::Request::builder().method(method).uri(url);
        let request = request.header(
            "content-type",
            match method {
                "PATCH" => "application/merge-patch+json",
                _ => "application/json",
            },
        );
        let client = stage.world.server.client();
        client.request::<Value>(request.body(body).unwrap()).await
    };
    let name = object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let created = send("POST", url.clone(), serde_json::to_vec(&typed).unwrap()).await;
    if created.is_ok() && object["status"].is_object() {
        let status = serde_json::to_vec(&json!({"status": object["status"]})).unwrap();
        send("PATCH", format!("{url}/{name}/status"), status)
            .await
            .unwrap();
    }
    created.is_ok()
}

/// A sound service, job, budget and pod of one team, and a sound pod of the hostile namespace; next to them, if `odd`, all
/// that its user can think of.
async fn play(seed: u64, odd: bool) -> Stage {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create_chat(1).await;
    stage.world.create_job(None).await;
    stage.world.set_limit("1000").await;
    stage.world.create_foreign_pod("notebook").await;
    let namespace = json!({"metadata": {"name": HOSTILE}});
    assert!(try_create::<Namespace>(&stage, None, namespace).await);
    let mut nodes = Hostile::new(seed, HOSTILE);
    for number in 0..8 {
        let node = nodes.node(&format!("odd-{number}"));
        assert!(try_create::<Node>(&stage, None, node).await);
    }
    let sound = json!({"metadata": {"name": "sound"}, "spec": {"nodeName": "odd-0", "containers": [
        {"name": "c", "image": "i", "resources": {"limits": {"nvidia.com/gpu": "2"}}},
    ]}});
    assert!(try_create::<Pod>(&stage, Some(HOSTILE), sound).await);
    stage.seconds(12).await;
    if odd {
        let created = fill(&stage, seed).await;
        assert!(
            created > 3 * PODS,
            "BURSAR_SEED={seed}: only {created} objects were taken"
        );
    }
    for _ in 0..LOOKS {
        reconcile_once(&mut stage, seed).await;
    }
    stage
}

/// Creates the odd objects; returns how many the API server took.
async fn fill(stage: &Stage, seed: u64) -> usize {
    let mut hostile = Hostile::new(seed, HOSTILE);
    let (own, mut created) = (Some(HOSTILE), 0);
    for number in 0..PODS {
        let name = format!("p{number}");
        let mut taken = vec![
            try_create::<Pod>(stage, own, hostile.pod(&name)).await,
            try_create::<PersistentVolumeClaim>(stage, own, hostile.volume_claim(&name)).await,
            try_create::<Job>(stage, own, hostile.job(&name)).await,
            try_create::<Deployment>(stage, own, hostile.deployment(&name)).await,
        ];
        if number % 10 == 0 {
            taken.extend([
                try_create::<InferenceDeployment>(stage, own, hostile.service(&name)).await,
                try_create::<TrainingJob>(stage, own, hostile.training_job(&name)).await,
                try_create::<BudgetPolicy>(stage, own, hostile.budget(&name)).await,
                try_create::<Service>(stage, own, hostile.front(&name)).await,
                try_create::<EndpointSlice>(stage, own, hostile.slice(&name)).await,
            ]);
        }
        created += taken.into_iter().filter(|is_taken| *is_taken).count();
    }
    created
}

/// A second passes, in which nothing but Bursar acts.
async fn reconcile_once(stage: &mut Stage, seed: u64) {
    stage.world.now += SignedDuration::from_secs(1);
    stage.world.server.set_clock(stage.world.now);
    let view = View::of(&stage.world);
    let looked = stage.leader.reconcile(&stage.world, &view).await;
    // objects of others have names that Bursar wants, which it says of them and leaves them alone
    if let Err(error) = looked {
        let is_of_hostile = error.is_conflict() || error.to_string().contains(HOSTILE);
        assert!(is_of_hostile, "BURSAR_SEED={seed}: {error}");
    }
    let errors = worker::sync_namespace(&stage.leader.context, HOSTILE, stage.world.now).await;
    assert!(errors.is_empty(), "BURSAR_SEED={seed}: {errors:?}");
}

/// What Bursar has written about a namespace, by kind and name.
fn written(stage: &Stage, namespace: &str) -> Vec<(String, Value)> {
    fn all<K: Resource<DynamicType = ()> + Serialize + DeserializeOwned>(
        stage: &Stage,
    ) -> Vec<(String, Value)> {
        let objects = stage.world.server.objects::<K>().into_iter();
        let objects = objects.map(|object| {
            let name = object.meta().name.clone().unwrap_or_default();
            let namespace = object.meta().namespace.clone();
            let mut object = json!(object);
            let of = object["spec"]["namespace"].as_str().map(str::to_owned);
            let of = namespace.or(of).unwrap_or_default();
            object.as_object_mut().unwrap().remove("metadata");
            (format!("{of} {} {name}", K::kind(&())), object)
        });
        objects.collect()
    }
    let mut all = [
        all::<SpendRecord>(stage),
        all::<InferenceDeployment>(stage),
        all::<TrainingJob>(stage),
        all::<BudgetPolicy>(stage),
        all::<Deployment>(stage),
        all::<Job>(stage),
        all::<Service>(stage),
        all::<Pod>(stage),
    ]
    .concat();
    all.retain(|(name, _)| name.starts_with(&format!("{namespace} ")));
    all
}

/// What the sound pod of the hostile namespace costs until now.
fn cost_of_the_sound_pod(stage: &Stage) -> i128 {
    let now = stage.world.now;
    let pods: Vec<Pod> = stage.world.server.objects();
    let is_sound = |pod: &&Pod| pod.metadata.name.as_deref() == Some("sound");
    let sound = pods.iter().find(is_sound).unwrap();
    let records: Vec<SpendRecord> = stage.world.server.objects();
    let mut found = Vec::new();
    for record in records {
        let account = record.to_account().unwrap();
        if let Some(charge) = account.open_charge(pod::uid(sound)) {
            let within = bursar_core::calendar::Interval {
                start: charge.start(),
                end: now,
            };
            found.push(charge.cost(within).total().nanos());
        }
    }
    assert_eq!(found.len(), 1, "it is charged once");
    found[0]
}

#[tokio::test]
async fn whatever_a_user_writes_nobody_else_pays_waits_or_gets_less() {
    for seed in seeds() {
        let alone = play(seed, false).await;
        let beside = play(seed, true).await;
        assert_eq!(
            written(&beside, NAMESPACE),
            written(&alone, NAMESPACE),
            "BURSAR_SEED={seed}"
        );
        let (cost, undisturbed) = (
            cost_of_the_sound_pod(&beside),
            cost_of_the_sound_pod(&alone),
        );
        assert!(undisturbed > 0);
        assert_eq!(cost, undisturbed, "BURSAR_SEED={seed}");
    }
}

/// The generator knows every label and annotation that is read: those of constants, and those of nodes.
#[test]
fn every_name_that_is_read_is_written_by_the_hostile_user() {
    let names = include_str!("../../../api/src/names.rs");
    let declared = names.lines().filter(|line| line.starts_with("pub const"));
    let declared =
        declared.filter(|line| line.contains("_LABEL:") || line.contains("_ANNOTATION:"));
    let declared = declared.filter_map(|line| line.split('"').nth(1));
    let of_nodes = [
        "nvidia.com/gpu",
        "amd.com/gpu",
        "google.com/tpu",
        "aws.amazon.com/neuron",
        "habana.ai/gaudi",
    ];
    let of_nodes = of_nodes.into_iter().flat_map(product_labels);
    let missing: Vec<&str> = declared
        .chain(of_nodes)
        .filter(|name| !hostile::KEYS.contains(name))
        .collect();
    assert_eq!(missing, [""; 0]);
}
