//! What pods hold that changes while they run, or that they hold by claims.

use std::sync::Arc;

use bursar_api::spend::WorkloadKind;
use bursar_api::{InferenceDeployment, PriceList, SpendRecord};
use bursar_apitest::faults::{Faults, WriteFault};
use bursar_core::ledger::{Account, Charge};
use bursar_core::money::Money;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use kube::Resource;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::leader::{Leader, View};
use super::ledger::troubled;
use super::sweep::Stage;
use super::world::NAMESPACE;
use crate::gpu_allocation::{ChargedDevices, GpuAllocations, charged_devices};
use crate::lock::lock;
use crate::pod;

/// A day without a month's end, and prices for what pods hold beside GPUs.
async fn stage() -> Stage {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.now = "2026-12-10T00:00:00Z".parse().unwrap();
    let spec = json!({
        "currency": "USD", "cpu": {"pricePerCoreHour": "3.6"},
        // a nano-unit a gibibyte and second
        "storage": {"persistent": [{"storageClass": "fast", "pricePerGibibyteMonth": "0.002628"}]},
    });
    stage
        .world
        .create_all::<PriceList>(json!({"metadata": {"name": "rest"}, "spec": spec}))
        .await;
    stage.seconds(1).await;
    stage
}

/// A pod of somebody's, on `node` where the spec names no other.
pub(super) async fn notebook(stage: &Stage, name: &str, mut spec: Value) {
    if spec.get("nodeName").is_none() {
        spec["nodeName"] = json!("node");
    }
    if spec.get("containers").is_none() {
        let limits = json!({"limits": {"nvidia.com/gpu": "1"}});
        spec["containers"] = json!([{"name": "c", "resources": limits}]);
    }
    stage
        .world
        .create::<Pod>(json!({"metadata": {"name": name}, "spec": spec}))
        .await;
}

pub(super) async fn set_status<K>(stage: &Stage, name: &str, status: Value)
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug,
{
    let patch = Patch::Merge(json!({"status": status}));
    let params = PatchParams::default();
    let api = stage.world.api::<K>();
    api.patch_status(name, &params, &patch).await.unwrap();
}

async fn remove(stage: &Stage, name: &str) {
    let pod = stage.world.api::<Pod>().get(name).await.unwrap();
    stage.world.remove(&pod).await;
}

fn account(stage: &Stage) -> Account {
    let records: Vec<SpendRecord> = stage.world.server.objects();
    let mut ours = records
        .iter()
        .filter(|record| record.spec.kind == WorkloadKind::Unmanaged);
    ours.next_back().unwrap().to_account().unwrap()
}

fn open(stage: &Stage, name: &str) -> Option<Charge> {
    let account = account(stage);
    let mut open = account.open_charges().values();
    let charge = open.find(|charge| charge.pod() == name)?;
    Some(Charge::clone(charge))
}

fn gib(stage: &Stage, name: &str) -> Option<u32> {
    let charge = open(stage, name).unwrap();
    charge.attributes().amounts.volumes.get("fast").copied()
}

fn seconds(from: Timestamp, to: Timestamp) -> i128 {
    (to.as_second() - from.as_second()).into()
}

/// A kubelet admits a pod that names its node itself without the resources that the node does not list.
#[tokio::test]
async fn what_a_node_does_not_offer_is_held_by_no_pod_and_takes_no_price_from_the_rest() {
    let mut stage = stage().await;
    let pod =
        |limits: Value| json!({"containers": [{"name": "c", "resources": {"limits": limits}}]});
    let with_another = json!({"nvidia.com/gpu": "2", "gpu.intel.com/xe": "5"});
    notebook(&stage, "free", pod(with_another)).await;
    let nothing = json!({"gpu.intel.com/xe": "1000000"});
    notebook(&stage, "nothing", pod(nothing)).await;
    stage.seconds(5).await;
    let charge = open(&stage, "free").unwrap();
    assert_eq!(charge.rate().unwrap().cost.compute, "7.2".parse().unwrap());
    assert!(charge.attributes().other_gpus.is_empty());
    assert!(open(&stage, "nothing").is_none());
    let limits = json!({"nvidia.com/gpu": "8"});
    let mut nowhere = pod(limits);
    nowhere["nodeName"] = json!("nowhere");
    notebook(&stage, "ghost", nowhere).await;
    stage.seconds(5).await;
    assert!(open(&stage, "ghost").is_none());
}

/// Case T3: every GPU resource counts, whatever stands first.
#[tokio::test]
async fn all_kinds_of_gpus_that_a_pod_holds_are_charged() {
    let mut stage = stage().await;
    let capacity = json!({"nvidia.com/gpu": "8", "nvidia.com/mig-1g.10gb": "7", "nvidia.com/mig-7g.80gb": "1",
        "amd.com/gpu": "0", "cpu": "64", "memory": "512Gi", "pods": "110"});
    stage.world.offer("node", capacity).await;
    let limits = json!({"amd.com/gpu": "0", "nvidia.com/mig-1g.10gb": "7"});
    let other = json!({"nvidia.com/mig-7g.80gb": "1"});
    let containers = json!([{"name": "c", "resources": {"limits": limits}}, {"name": "d", "resources": {"limits": other}}]);
    notebook(&stage, "both", json!({"containers": containers})).await;
    stage.seconds(2).await;
    let charge = open(&stage, "both").unwrap();
    let kinds = charge
        .attributes()
        .other_gpus
        .iter()
        .map(|other| (other.resource.as_str(), other.gpus));
    assert_eq!(charge.attributes().gpus, 7);
    assert_eq!(kinds.collect::<Vec<_>>(), [("nvidia.com/mig-7g.80gb", 1)]);
    let price: bursar_core::money::Money = "3.6".parse().unwrap();
    let rate = charge.rate().unwrap().cost.total();
    assert!(rate > price, "seven sevenths and a whole one: {rate}");
}

#[tokio::test]
async fn a_resize_in_place_costs_from_when_the_kubelet_has_allocated_it() {
    let mut stage = stage().await;
    let asks = |cpu: &str| json!({"limits": {"nvidia.com/gpu": "1"}, "requests": {"cpu": cpu}});
    let containers = json!([{"name": "c", "resources": asks("2")}]);
    notebook(&stage, "book", json!({"containers": containers})).await;
    stage.seconds(10).await;
    let begin = open(&stage, "book").unwrap();
    assert_eq!(begin.rates().len(), 1);
    let containers = json!([{"name": "c", "resources": asks("6")}]);
    let patch = Patch::Merge(json!({"spec": {"containers": containers}}));
    let pods = stage.world.api::<Pod>();
    pods.patch("book", &PatchParams::default(), &patch)
        .await
        .unwrap();
    let told = |cpu: &str| {
        json!({"phase": "Running", "containerStatuses": [{
            "name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}},
            "resources": {"requests": {"cpu": cpu}},
        }]})
    };
    set_status::<Pod>(&stage, "book", told("2")).await;
    stage.seconds(10).await;
    let waiting = open(&stage, "book").unwrap();
    assert_eq!(
        waiting.rates().len(),
        1,
        "what is only asked for is not held"
    );
    set_status::<Pod>(&stage, "book", told("6")).await;
    stage.seconds(10).await;
    let resized = open(&stage, "book").unwrap();
    let at = resized.rates()[1].from;
    assert_eq!(
        (
            resized.previous_amounts().len(),
            resized.previous_amounts()[0].until
        ),
        (1, at)
    );
    remove(&stage, "book").await;
    stage.seconds(2).await;
    let (_, line) = account(&stage).days().values().next().unwrap()[0].clone();
    // a GPU and two cores, then a GPU and six: millions of nano-units a second
    let end = begin.start().as_second() + line.gpu_seconds;
    let end = Timestamp::from_second(end).unwrap();
    let cost = (3 * seconds(begin.start(), at) + 7 * seconds(at, end)) * 1_000_000;
    assert_eq!(line.cost.compute, Money::from_nanos(cost));
}

#[tokio::test]
async fn a_volume_is_charged_to_the_pod_that_was_bound_first_and_then_to_the_next() {
    let mut stage = stage().await;
    let claim = |name: &str| {
        let spec =
            json!({"storageClassName": "fast", "resources": {"requests": {"storage": "10Gi"}}});
        json!({"metadata": {"name": name}, "spec": spec})
    };
    for name in ["shared", "late-scratch"] {
        stage
            .world
            .create::<PersistentVolumeClaim>(claim(name))
            .await;
    }
    let shared = json!({"name": "data", "persistentVolumeClaim": {"claimName": "shared"}});
    let scratch = json!({"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": claim("x")["spec"]}}});
    let other = json!({"name": "token", "projected": {}});
    notebook(&stage, "early", json!({"volumes": [shared, other]})).await;
    stage.seconds(5).await;
    assert_eq!(gib(&stage, "early"), None, "nothing is provisioned yet");
    set_status::<PersistentVolumeClaim>(
        &stage,
        "shared",
        json!({"capacity": {"storage": "10737418241"}}),
    )
    .await;
    set_status::<PersistentVolumeClaim>(
        &stage,
        "late-scratch",
        json!({"capacity": {"storage": "3Gi"}}),
    )
    .await;
    notebook(&stage, "late", json!({"volumes": [shared, scratch]})).await;
    stage.seconds(5).await;
    assert_eq!(
        (gib(&stage, "early"), gib(&stage, "late")),
        (Some(11), Some(3))
    );
    set_status::<PersistentVolumeClaim>(&stage, "shared", json!({"capacity": {"storage": "20Gi"}}))
        .await;
    stage.seconds(5).await;
    assert_eq!(
        (gib(&stage, "early"), gib(&stage, "late")),
        (Some(20), Some(3))
    );
    let storage = open(&stage, "early").unwrap().rate().unwrap().cost.storage;
    assert_eq!(storage.nanos(), 20 * 3600);
    remove(&stage, "early").await;
    stage.seconds(5).await;
    assert_eq!(gib(&stage, "late"), Some(23));
    let late = open(&stage, "late").unwrap();
    assert_eq!(
        late.rates().len(),
        2,
        "it counts from when the other one went"
    );
}

/// The API server takes any quantity: two of these are more gibibytes than a number of 32 bits has.
#[tokio::test]
async fn volumes_of_any_size_are_charged_and_stop_nothing() {
    let mut stage = stage().await;
    let mut volumes = Vec::new();
    for name in ["large", "larger"] {
        let asked = json!({"requests": {"storage": "8Ei"}});
        let spec = json!({"storageClassName": "fast", "resources": asked});
        let claim = json!({"metadata": {"name": name}, "spec": spec});
        stage.world.create::<PersistentVolumeClaim>(claim).await;
        volumes.push(json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
    }
    let limits = json!({"limits": {"nvidia.com/gpu": "1"}});
    let container = json!({"name": "c", "image": "engine", "resources": limits});
    let template = json!({"spec": {"containers": [container], "volumes": volumes}});
    let spec = json!({"engine": "vLLM", "minReplicas": 0, "maxReplicas": 3, "template": template});
    let service = json!({"metadata": {"name": "chat"}, "spec": spec});
    stage.world.create::<InferenceDeployment>(service).await;
    stage.seconds(2).await;
    let explained = stage.leader.explain("team", stage.world.now);
    let rate = explained.services[0].replica_rate_per_hour.unwrap();
    assert!(rate > "3.6".parse().unwrap(), "they are not free: {rate}");
    for name in ["large", "larger"] {
        let capacity = json!({"capacity": {"storage": "8Ei"}});
        set_status::<PersistentVolumeClaim>(&stage, name, capacity).await;
    }
    notebook(&stage, "book", json!({"volumes": volumes})).await;
    stage.seconds(2).await;
    assert_eq!(gib(&stage, "book"), Some(u32::MAX));
}

#[tokio::test]
async fn a_replica_that_has_no_node_yet_is_estimated_with_the_volumes_that_are_charged_to_nobody() {
    let mut stage = stage().await;
    let asked = json!({"requests": {"storage": "730Gi"}});
    let spec = json!({"storageClassName": "fast", "resources": asked});
    let claim = json!({"metadata": {"name": "weights"}, "spec": spec});
    stage.world.create::<PersistentVolumeClaim>(claim).await;
    let volume = json!({"name": "weights", "persistentVolumeClaim": {"claimName": "weights"}});
    let limits = json!({"limits": {"nvidia.com/gpu": "1"}});
    let container = json!({"name": "c", "image": "engine", "resources": limits});
    let template = json!({"spec": {"containers": [container], "volumes": [volume]}});
    let signals = json!([{"type": "Engine", "target": 4}]);
    stage
        .world
        .create::<InferenceDeployment>(json!({"metadata": {"name": "chat"}, "spec": {
            "engine": "vLLM", "minReplicas": 0, "maxReplicas": 3, "scaling": {"signals": signals}, "template": template,
        }}))
        .await;
    let estimate = |stage: &mut Stage| -> Money {
        let explained = stage.leader.explain("team", stage.world.now);
        explained.services[0].replica_rate_per_hour.unwrap()
    };
    stage.seconds(2).await;
    let with_volume: Money = "3.602628".parse().unwrap();
    assert_eq!(estimate(&mut stage), with_volume);
    notebook(&stage, "book", json!({"volumes": [volume]})).await;
    stage.seconds(2).await;
    assert_eq!(
        estimate(&mut stage),
        "3.6".parse().unwrap(),
        "the notebook bears it"
    );
}

pub(super) async fn devices(stage: &Stage) {
    let product = json!({"productName": {"string": "NVIDIA H100"}});
    let part = json!({"gpu.nvidia.com/productName": {"string": "NVIDIA H100"}, "profile": {"string": "3g.40gb"}});
    let device = |name: &str, attributes: &Value| json!({"name": name, "attributes": attributes});
    let devices = [
        device("gpu-0", &product),
        device("gpu-1", &product),
        device("mig-0", &part),
    ];
    stage
        .world
        .create_all::<ResourceSlice>(json!({
            "metadata": {"name": "node-gpus"},
            "spec": {"driver": "gpu.nvidia.com", "nodeName": "node", "devices": devices,
                "pool": {"name": "node", "generation": 1, "resourceSliceCount": 1}},
        }))
        .await;
    stage
        .world
        .create_all::<PriceList>(json!({
            "metadata": {"name": "devices"},
            "spec": {"currency": "USD", "gpus": [{"model": "NVIDIA-H100", "pricePerHour": "7.2"}]},
        }))
        .await;
}

/// A claim that holds devices of a driver's pool `node`.
pub(super) async fn claim(stage: &Stage, name: &str, driver: &str, devices: &[&str]) {
    let request = json!({"name": "r", "exactly": {"deviceClassName": driver}});
    let spec = json!({"devices": {"requests": [request]}});
    stage
        .world
        .create::<ResourceClaim>(json!({"metadata": {"name": name}, "spec": spec}))
        .await;
    let result =
        |device: &&str| json!({"request": "r", "driver": driver, "pool": "node", "device": device});
    let results: Vec<Value> = devices.iter().map(result).collect();
    set_status::<ResourceClaim>(
        stage,
        name,
        json!({"allocation": {"devices": {"results": results}}}),
    )
    .await;
}

pub(super) fn uses(claim: &str) -> Value {
    let container = json!({"name": "c", "resources": {"claims": [{"name": "gpu"}]}});
    json!({"containers": [container], "resourceClaims": [{"name": "gpu", "resourceClaimName": claim}]})
}

#[tokio::test]
async fn devices_that_a_claim_holds_are_charged_by_what_they_say_of_themselves() {
    let mut stage = stage().await;
    devices(&stage).await;
    claim(&stage, "pair", "gpu.nvidia.com", &["gpu-0", "gpu-1"]).await;
    claim(&stage, "part", "gpu.nvidia.com", &["mig-0"]).await;
    claim(&stage, "nic", "dra.example.com", &["nic-0"]).await;
    notebook(&stage, "net", uses("nic")).await;
    stage.seconds(3).await;
    let records: Vec<SpendRecord> = stage.world.server.objects();
    assert!(records.is_empty(), "other devices concern nobody");
    notebook(&stage, "whole", uses("pair")).await;
    // made from a template: the status says which one it is
    let template = json!({"name": "gpu", "resourceClaimTemplateName": "t"});
    let containers = uses("")["containers"].clone();
    notebook(
        &stage,
        "slice",
        json!({"containers": containers, "resourceClaims": [template]}),
    )
    .await;
    let made = json!([{"name": "gpu", "resourceClaimName": "part"}]);
    set_status::<Pod>(&stage, "slice", json!({"resourceClaimStatuses": made})).await;
    stage.seconds(3).await;
    let compute = |name: &str| {
        let charge = open(&stage, name).unwrap();
        let rate = charge.rates()[0];
        assert!(!rate.provisional);
        (
            charge.attributes().gpus,
            charge.attributes().node_gpus,
            rate.quote.cost.compute.to_string(),
        )
    };
    assert_eq!(compute("whole"), (2, 2, "14.40".to_owned()));
    assert_eq!(
        compute("slice"),
        (1, 4, "3.085714285".to_owned()),
        "3/7 of 7.2"
    );
    assert_eq!(open(&stage, "net"), None);
    // the claim goes with its pod, which is settled nevertheless
    let claims = stage.world.api::<ResourceClaim>();
    claims.delete("pair", &Default::default()).await.unwrap();
    let ended = json!([{
        "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": 0, "finishedAt": stage.world.now.to_string()}},
    }]);
    let status = json!({"phase": "Succeeded", "containerStatuses": ended});
    set_status::<Pod>(&stage, "whole", status).await;
    stage.seconds(3).await;
    assert_eq!(open(&stage, "whole"), None);
    let (_, line) = account(&stage).days().values().next().unwrap()[0].clone();
    assert!(line.cost.total() > Money::ZERO && line.estimated == Money::ZERO);
}

/// A pod that names a claim is bound by its user to a cheap node, before the pod that uses the devices.
#[tokio::test]
async fn a_claim_is_charged_to_a_pod_on_the_node_of_its_devices() {
    let mut stage = stage().await;
    devices(&stage).await;
    let labels = json!({"node.kubernetes.io/instance-type": "small"});
    let node = json!({"metadata": {"name": "cheap", "labels": labels}});
    stage.world.create_all::<Node>(node).await;
    let rows = json!([{"instanceType": "small", "gpus": 1, "pricePerHour": "0.36"}]);
    let list = json!({"metadata": {"name": "a"}, "spec": {"currency": "USD", "nodes": rows}});
    stage.world.create_all::<PriceList>(list).await;
    let mut decoy = uses("pair");
    decoy["nodeName"] = json!("cheap");
    notebook(&stage, "decoy", decoy).await;
    stage.seconds(3).await;
    claim(&stage, "pair", "gpu.nvidia.com", &["gpu-0", "gpu-1"]).await;
    let here = json!([{"key": "metadata.name", "operator": "In", "values": ["node"]}]);
    let selector = json!({"nodeSelectorTerms": [{"matchFields": here}]});
    set_status::<ResourceClaim>(
        &stage,
        "pair",
        json!({"allocation": {"nodeSelector": selector}}),
    )
    .await;
    notebook(&stage, "real", uses("pair")).await;
    stage.seconds(5).await;
    assert!(open(&stage, "decoy").is_none());
    let rate = open(&stage, "real").unwrap().rate().unwrap();
    assert_eq!(rate.cost.compute, "14.4".parse().unwrap());
}

/// A pod goes on with the devices of a claim that is gone; another claim of its name has others.
#[tokio::test]
async fn a_claim_that_is_made_anew_is_charged_to_the_pod_that_began_after_it() {
    let mut stage = stage().await;
    devices(&stage).await;
    claim(&stage, "one", "gpu.nvidia.com", &["gpu-0"]).await;
    notebook(&stage, "first", uses("one")).await;
    let running = |stage: &Stage| {
        json!({"phase": "Running", "containerStatuses": [{
            "name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"running": {"startedAt": stage.world.now.to_string()}},
        }]})
    };
    let status = running(&stage);
    set_status::<Pod>(&stage, "first", status).await;
    stage.seconds(5).await;
    let claims = stage.world.api::<ResourceClaim>();
    claims
        .delete("one", &DeleteParams::default())
        .await
        .unwrap();
    stage.seconds(2).await;
    claim(&stage, "one", "gpu.nvidia.com", &["gpu-1"]).await;
    notebook(&stage, "second", uses("one")).await;
    stage.seconds(2).await;
    let status = running(&stage);
    set_status::<Pod>(&stage, "second", status).await;
    stage.seconds(10).await;
    for name in ["first", "second"] {
        let charge = open(&stage, name).unwrap();
        assert_eq!(charge.attributes().gpus, 1, "{name}");
    }
}

#[tokio::test]
async fn devices_that_pods_share_are_charged_once() {
    for failures in [0, 1, 3] {
        let mut stage = stage().await;
        devices(&stage).await;
        claim(&stage, "pair", "gpu.nvidia.com", &["gpu-0", "gpu-1"]).await;
        notebook(&stage, "first", uses("pair")).await;
        stage.seconds(2).await;
        notebook(&stage, "second", uses("pair")).await;
        stage.seconds(30).await;
        assert!(open(&stage, "first").is_some() && open(&stage, "second").is_none());
        remove(&stage, "first").await;
        let gone = stage.world.now + jiff::SignedDuration::from_secs(1);
        let faults = Arc::clone(&stage.leader.faults);
        faults.set_write_fault("spendrecords", Some(WriteFault::Refused));
        troubled(&mut stage, failures).await;
        faults.set_write_fault("spendrecords", None);
        assert!(open(&stage, "second").is_none());
        stage.seconds(10).await;
        let second = open(&stage, "second").unwrap();
        assert_eq!(
            second.start(),
            gone,
            "what the first one bore is not charged again, after {failures} failures"
        );
    }
}

#[tokio::test]
async fn a_charge_has_the_devices_that_only_its_pod_uses_before_those_that_it_shares() {
    let mut stage = stage().await;
    devices(&stage).await;
    for (name, device) in [("cache", "gpu-0"), ("of-x", "gpu-1"), ("of-y", "mig-0")] {
        claim(&stage, name, "gpu.nvidia.com", &[device]).await;
    }
    for (name, own) in [("x", "of-x"), ("y", "of-y")] {
        let mut spec = uses("cache");
        let more = json!({"name": "own", "resourceClaimName": own});
        spec["resourceClaims"].as_array_mut().unwrap().push(more);
        notebook(&stage, name, spec).await;
    }
    stage.leader.fill_caches(&View::of(&stage.world));
    let context = &stage.leader.context;
    let pods = context.pods_in(NAMESPACE);
    for counts in [[1, 2], [2, 1]] {
        let charged = |count| [("gpu.nvidia.com".to_owned(), count)].into();
        let open = pods.iter().zip(counts);
        let open = open.map(|(pod, count)| (pod::uid(pod).to_owned(), charged(count)));
        let open: ChargedDevices = open.collect();
        let allocations = GpuAllocations::new(&context.stores, &pods, &open);
        let held = pods.iter().map(|pod| {
            let attributes = allocations.attributes(pod, None).unwrap();
            (
                pod::uid(pod).to_owned(),
                charged_devices(attributes.units()),
            )
        });
        assert_eq!(held.collect::<ChargedDevices>(), open, "three in all");
    }
}

/// A pod with an extended GPU that uses a claim too.
fn uses_too(claim: &str) -> Value {
    let resources = json!({"limits": {"nvidia.com/gpu": "1"}, "claims": [{"name": "gpu"}]});
    let mut spec = uses(claim);
    spec["containers"] = json!([{"name": "c", "resources": resources}]);
    spec
}

fn devices_since(charge: &Charge) -> Vec<(u32, Option<Timestamp>)> {
    let others = charge.attributes().other_gpus.iter();
    let devices = others.filter(|other| other.resource == "gpu.nvidia.com");
    devices.map(|other| (other.gpus, other.since)).collect()
}

/// GPU-seconds and nano-units of compute of one day's account.
fn sums(stage: &Stage) -> (i64, i128) {
    let account = account(stage);
    let lines = account.days().values().flatten();
    lines.fold((0, 0), |(seconds, cost), (_, line)| {
        (seconds + line.gpu_seconds, cost + line.cost.compute.nanos())
    })
}

#[tokio::test]
async fn devices_come_to_a_pod_with_gpus_of_its_own_when_their_first_user_is_gone() {
    for restarts in [false, true] {
        let mut stage = stage().await;
        devices(&stage).await;
        claim(&stage, "pair", "gpu.nvidia.com", &["gpu-0", "gpu-1"]).await;
        notebook(&stage, "first", uses("pair")).await;
        stage.seconds(2).await;
        notebook(&stage, "second", uses_too("pair")).await;
        stage.seconds(30).await;
        let begun = open(&stage, "second").unwrap();
        let first = open(&stage, "first").unwrap().start();
        assert_eq!(devices_since(&begun), [], "they are charged to the first");
        remove(&stage, "first").await;
        if restarts {
            stage.leader = Leader::new(&stage.world, Faults::default());
        }
        stage.seconds(1).await;
        let gone = stage.world.now;
        stage.seconds(10).await;
        let second = open(&stage, "second").unwrap();
        assert_eq!(devices_since(&second), [(2, Some(gone))], "{restarts}");
        assert_eq!(second.start(), begun.start());
        let at_first = sums(&stage);
        let held = seconds(first, gone);
        assert_eq!(at_first, (2 * held as i64, 4_000_000 * held));
        remove(&stage, "second").await;
        stage.seconds(2).await;
        let end = stage.world.now.as_second() - 1;
        let end = Timestamp::from_second(end).unwrap();
        let alone = seconds(begun.start(), gone);
        let both = seconds(gone, end);
        let (gpu_seconds, cost) = sums(&stage);
        // a GPU of 3.6 an hour, and two of 7.2 with it
        assert_eq!(
            i128::from(gpu_seconds - at_first.0),
            alone + 3 * both,
            "{restarts}"
        );
        assert_eq!(cost - at_first.1, 1_000_000 * alone + 5_000_000 * both);
    }
}

#[tokio::test]
async fn devices_that_are_seen_after_the_charge_began_are_charged_from_its_start() {
    let mut stage = stage().await;
    devices(&stage).await;
    let request = json!({"name": "r", "exactly": {"deviceClassName": "gpu.nvidia.com"}});
    let spec = json!({"devices": {"requests": [request]}});
    let late = json!({"metadata": {"name": "late"}, "spec": spec});
    stage.world.create::<ResourceClaim>(late).await;
    notebook(&stage, "book", uses_too("late")).await;
    stage.seconds(10).await;
    assert_eq!(devices_since(&open(&stage, "book").unwrap()), []);
    let results = ["gpu-0", "gpu-1"].map(
        |device| json!({"request": "r", "driver": "gpu.nvidia.com", "pool": "node", "device": device}),
    );
    let allocation = json!({"allocation": {"devices": {"results": results}}});
    set_status::<ResourceClaim>(&stage, "late", allocation).await;
    stage.seconds(5).await;
    let charge = open(&stage, "book").unwrap();
    assert_eq!(devices_since(&charge), [(2, None)]);
    let rates: Vec<String> = (charge.rates().iter())
        .map(|rate| rate.quote.cost.compute.to_string())
        .collect();
    assert_eq!(rates, ["18.00"], "3.6 and twice 7.2, from the start");
    // a claim that is gone before its pod takes nothing back
    let claims = stage.world.api::<ResourceClaim>();
    claims.delete("late", &Default::default()).await.unwrap();
    stage.seconds(5).await;
    assert_eq!(
        open(&stage, "book").unwrap().attributes(),
        charge.attributes()
    );
}

#[tokio::test]
async fn measured_watts_are_charged_where_electricity_is_and_changes_stay_few() {
    let mut stage = stage().await;
    notebook(&stage, "book", json!({})).await;
    let measure = async |stage: &mut Stage, minutes: usize, watts: f64| {
        for _ in 0..minutes {
            stage.world.now += jiff::SignedDuration::from_secs(59);
            let key = ("team".to_owned(), "book".to_owned());
            let now = stage.world.now;
            lock(&stage.leader.context.measured).take([(key, watts)].into(), now);
            stage.seconds(1).await;
        }
        open(stage, "book").unwrap()
    };
    stage.seconds(1).await;
    let free = measure(&mut stage, 20, 400.0).await;
    assert_eq!(
        (free.rates().len(), free.previous_amounts().len()),
        (1, 0),
        "no list charges electricity"
    );
    let spec = json!({"currency": "USD", "power": {"pricePerKilowattHour": "0.5", "pue": "1.2"}});
    let list = json!({"metadata": {"name": "power"}, "spec": spec});
    stage.world.create_all::<PriceList>(list).await;
    let charged = measure(&mut stage, 2, 400.0).await;
    assert_eq!(
        charged.rate().unwrap().cost.power.to_string(),
        "0.24",
        "0.4 x 1.2 x 0.5"
    );
    let same = measure(&mut stage, 20, 420.0).await;
    assert_eq!(
        same.rates(),
        charged.rates(),
        "a twentieth more changes nothing"
    );
    let rising = measure(&mut stage, 60, 700.0).await;
    assert!(
        rising.rates().len() <= same.rates().len() + 4,
        "at most four an hour"
    );
    assert_eq!(rising.attributes().amounts.watts, Some(700));
}
