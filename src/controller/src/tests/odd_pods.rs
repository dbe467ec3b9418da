//! Pods as a hostile tenant writes them: whatever the API server takes in metadata and amounts, each pod's
//! GPUs are counted once, and the record of the namespace's others can be written and read.

use bursar_api::SpendRecord;
use bursar_apitest::faults::Faults;
use fastrand::Rng;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value, json};

use super::leader::View;
use super::many_pods::{ETCD_BYTES, counted_gpu_seconds};
use super::sweep::Stage;

const ROUNDS: u64 = 60;
const PODS: usize = 40;

/// Text that only its length bounds.
fn any_text(rng: &mut Rng) -> String {
    let bytes = *rng.choice(&[0, 1, 20, 300, 20_000]).unwrap_or(&0);
    let letters = [
        'a', 'Z', '0', '-', '"', '\\', '\n', '\0', '\u{7f}', 'é', '漢', '😀', '\u{202e}',
    ];
    std::iter::repeat_with(|| letters[rng.usize(..letters.len())])
        .take(bytes)
        .collect()
}

/// A label's value: the API server takes 63 letters, digits, dots, dashes and underscores.
fn label_value(rng: &mut Rng) -> String {
    let words = [
        "",
        "a",
        "InferenceDeployment",
        "TrainingJob",
        "unmanaged",
        "nodes",
        "chat",
        "true",
        "1e9",
    ];
    match rng.bool() {
        true => words[rng.usize(..words.len())].to_owned(),
        false => "x".repeat(rng.usize(1..=63)),
    }
}

/// Metadata with Bursar's own names among others.
fn metadata(rng: &mut Rng, name: &str) -> Value {
    let (mut labels, mut annotations) = (Map::new(), Map::new());
    for key in ["kind", "workload", "role", "serving", "gateway"] {
        if rng.u8(..4) == 0 {
            labels.insert(format!("bursar.dev/{key}"), json!(label_value(rng)));
        }
    }
    for key in ["pod-template-hash", "job-name", "app.kubernetes.io/name"] {
        if rng.u8(..4) == 0 {
            labels.insert(key.to_owned(), json!(label_value(rng)));
        }
    }
    for key in [
        "bursar.dev/draining-since",
        "bursar.dev/leader-uid",
        "bursar.dev/spec-hash",
        "bursar.dev/restart-at",
        "other/key",
    ] {
        if rng.u8(..3) == 0 {
            annotations.insert(key.to_owned(), json!(any_text(rng)));
        }
    }
    let mut metadata = json!({"name": name, "labels": labels, "annotations": annotations});
    if rng.bool() {
        // neither is checked against anything
        let kinds = ["ReplicaSet", "Job", "Notebook"].map(str::to_owned);
        let kind = match rng.usize(..4) {
            at @ 0..3 => kinds[at].clone(),
            _ => format!("K{}", any_text(rng)),
        };
        let owner = json!({"apiVersion": "v1", "kind": kind, "name": format!("o{}", any_text(rng)), "uid": name, "controller": true});
        metadata["ownerReferences"] = json!([owner]);
    }
    metadata
}

/// A pod, and the GPUs that it holds.
fn pod(rng: &mut Rng, name: &str) -> (Value, i64) {
    let amounts = [
        ("0", 0),
        ("1", 1),
        ("8", 8),
        ("1e1", 10),
        ("2k", 2_000),
        ("3000m", 3),
    ];
    let mut gpus = 0;
    let mut containers = Vec::new();
    for number in 0..rng.usize(1..4) {
        let (amount, count) = amounts[rng.usize(..amounts.len())];
        gpus += count;
        let mut limits = json!({"nvidia.com/gpu": amount});
        for (resource, amounts) in [
            (
                "cpu",
                &["0", "1", "1m", "1e18", "9223372036854775807", "0.000000001"][..],
            ),
            (
                "memory",
                &["0", "1", "1e18", "8Ei", "9223372036854775807", "1m"],
            ),
            ("ephemeral-storage", &["1Ki", "1e18"]),
        ] {
            if rng.u8(..3) == 0 {
                limits[resource] = json!(amounts[rng.usize(..amounts.len())]);
            }
        }
        let resources = json!({"limits": limits, "requests": limits});
        containers
            .push(json!({"name": format!("c{number}"), "image": "engine", "resources": resources}));
    }
    let pod = json!({
        "metadata": metadata(rng, name),
        "spec": {"nodeName": "node", "containers": containers},
    });
    (pod, gpus)
}

#[tokio::test]
async fn the_gpus_of_any_pod_are_counted_once_in_a_record_that_can_be_read() {
    for seed in 0..ROUNDS {
        let mut rng = Rng::with_seed(seed);
        let mut stage = Stage::new(Faults::default()).await;
        stage.world.now = "2026-11-10T10:00:00Z".parse().unwrap();
        stage.world.server.set_clock(stage.world.now);
        let bound = stage.world.now;
        let mut gpus = 0;
        for number in 0..PODS {
            let (pod, count) = pod(&mut rng, &format!("p{number}"));
            stage.world.create::<Pod>(pod).await;
            gpus += count;
        }
        for hours in [0, 1] {
            stage.world.now = bound + SignedDuration::from_hours(hours);
            stage.leader.fill_caches(&View::of(&stage.world));
            let synced = stage.leader.sync_accounts(&stage.world).await;
            assert!(synced.is_ok(), "seed {seed}: {:?}", synced.err());
        }
        assert_eq!(counted_gpu_seconds(&stage), 3_600 * gpus, "seed {seed}");
        for record in stage.world.server.objects::<SpendRecord>() {
            let bytes = serde_json::to_vec(&record).unwrap().len();
            assert!(bytes < ETCD_BYTES, "seed {seed}: {bytes} bytes");
            let read = record.to_account().map(drop);
            assert!(read.is_ok(), "seed {seed}: {:?}", read.err());
        }
    }
}
