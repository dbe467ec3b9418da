//! Nodes as clouds label them, priced by the default list: what a node and its pods cost an hour.

#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by ending

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use bursar_api::PriceList;
use bursar_api::gpu_inventory::{DevicePools, gpu_offers, on_node};
use bursar_api::prices::EffectivePrices;
use bursar_core::money::Money;
use bursar_core::pricing::{PriceCatalog, PriceLookup, PricingAttributes};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use proptest::prelude::*;
use serde_json::json;

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The default list.
static PRICES: LazyLock<PriceCatalog> = LazyLock::new(|| {
    let list = folder().join("../../charts/bursar/files/default-prices.yaml");
    let text = std::fs::read_to_string(list).unwrap();
    let list: PriceList = serde_saphyr::from_str(&text).unwrap();
    EffectivePrices::from_lists([&list], None, Timestamp::UNIX_EPOCH).lists
});

/// The first document of a file, which is a node.
fn node(file: &str) -> Node {
    let text = std::fs::read_to_string(folder().join("tests/nodes").join(file)).unwrap();
    let first = text.split("\n---\n").next().unwrap();
    serde_saphyr::from_str(first).unwrap()
}

fn money(text: &str) -> Money {
    text.parse().unwrap()
}

/// The compute cost of an hour, and whether a row is listed for it.
fn compute(attributes: &PricingAttributes) -> (Money, bool) {
    match PRICES.price(attributes, Timestamp::UNIX_EPOCH) {
        PriceLookup::Listed(rate) => (rate.cost.compute, true),
        PriceLookup::Provisional(rate) => (rate.cost.compute, false),
        PriceLookup::Unknown => panic!("no price for {attributes:?}"),
    }
}

fn node_cost(node: &Node) -> Money {
    let offers = gpu_offers(node, &DevicePools::default());
    offers
        .iter()
        .map(|offer| compute(&offer.attributes).0)
        .sum()
}

/// A pod that holds `count` of a resource of the node.
fn pod(node: &Node, resource: &str, count: u32) -> PricingAttributes {
    let capacity = node.status.as_ref().unwrap().capacity.as_ref().unwrap();
    let pod = PricingAttributes {
        resource: resource.into(),
        gpus: count,
        ..PricingAttributes::default()
    };
    let offered = capacity[resource].0.parse().unwrap();
    let labels = node.metadata.labels.clone().unwrap_or_default();
    pod.on_node("n", offered, &labels)
}

#[test]
fn a_gpu_that_is_shared_or_cut_costs_its_row_and_a_pod_its_part() {
    for (file, part) in [
        ("gke-time-sharing-node.yaml", "0.918346250"),
        ("gke-partitioned-node.yaml", "0.524769285"),
    ] {
        let node = node(file);
        assert_eq!(node_cost(&node), money("3.673385"), "{file}");
        let pod = pod(&node, "nvidia.com/gpu", 1);
        assert_eq!(compute(&pod), (money(part), true), "{file}");
        assert!(!pod.share.is_whole(), "{file}: its watts are nobody's");
    }
}

/// A node of a type whose row counts eight GPUs at 55.04 an hour, which is 6.88 a GPU.
fn p5(labels: &[(&str, &str)], capacity: &[(&str, u32)], allocatable: &[(&str, u32)]) -> Node {
    let mut all = BTreeMap::from([("node.kubernetes.io/instance-type", "p5.48xlarge")]);
    all.extend(labels.iter().copied());
    let amounts = |amounts: &[(&str, u32)]| -> serde_json::Map<String, serde_json::Value> {
        let amounts = amounts.iter();
        amounts
            .map(|(name, count)| ((*name).to_owned(), json!(count.to_string())))
            .collect()
    };
    serde_json::from_value(json!({
        "metadata": {"name": "n", "labels": all},
        "status": {"capacity": amounts(capacity), "allocatable": amounts(allocatable)},
    }))
    .unwrap()
}

const PRODUCT: &str = "nvidia.com/gpu.product";
const GPU: &str = "nvidia.com/gpu";

#[test]
fn more_gpus_than_boards_share_the_boards_whoever_says_so_or_nobody_does() {
    for (labels, resource, offered, pod_costs) in [
        // time-slicing, as feature discovery says it, as it counts boards, and without a word of it
        (
            vec![(PRODUCT, "X-SHARED"), ("nvidia.com/gpu.replicas", "4")],
            GPU,
            32,
            "1.72",
        ),
        (vec![("nvidia.com/gpu.count", "8")], GPU, 32, "1.72"),
        (vec![], GPU, 32, "1.72"),
        (
            vec![("nvidia.com/gpu.replicas", "4")],
            "nvidia.com/gpu.shared",
            32,
            "1.72",
        ),
        // MIG's single strategy counts parts
        (
            vec![
                (PRODUCT, "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb"),
                ("nvidia.com/gpu.count", "56"),
            ],
            GPU,
            56,
            "0.982857142",
        ),
        // a profile that is time-sliced under its own name
        (
            vec![
                ("nvidia.com/mig-1g.10gb.product", "X-MIG-1g.10gb-SHARED"),
                ("nvidia.com/mig-1g.10gb.replicas", "2"),
            ],
            "nvidia.com/mig-1g.10gb",
            112,
            "0.491428571",
        ),
        // a label without measure
        (
            vec![
                (PRODUCT, "X-SHARED"),
                ("nvidia.com/gpu.replicas", "4000000000"),
            ],
            GPU,
            32,
            "1.72",
        ),
    ] {
        let node = p5(&labels, &[(resource, offered)], &[(resource, offered)]);
        let cost = node_cost(&node);
        let row = money("55.04");
        assert!(cost <= row, "{labels:?}: the node costs {cost:?}");
        let pod = compute(&pod(&node, resource, 1)).0;
        assert!(pod.times(offered) <= row, "{labels:?}");
        if !labels.contains(&("nvidia.com/gpu.replicas", "4000000000")) {
            assert_eq!(pod, money(pod_costs), "{labels:?}");
            assert_eq!(cost, row, "{labels:?}");
        }
    }
}

#[test]
fn what_another_mig_layout_left_behind_is_charged_to_nobody() {
    let (old, new) = ("nvidia.com/mig-1g.10gb", "nvidia.com/mig-3g.40gb");
    // the kubelet keeps the capacity of a resource whose plugin is gone, and lets nobody have it
    let left = p5(&[], &[(old, 56), (new, 16)], &[(old, 0), (new, 16)]);
    let names = |node: &Node| -> Vec<String> {
        let offers = gpu_offers(node, &DevicePools::default());
        offers.into_iter().map(|offer| offer.name).collect()
    };
    assert_eq!(names(&left), [new]);
    // a plugin that is down for a while leaves none that could be had: all are paid for
    let down = p5(&[], &[(GPU, 7), (old, 7)], &[(GPU, 0), (old, 0)]);
    assert_eq!(names(&down), [GPU, old]);
    assert_eq!(node_cost(&down), money("55.04"));
    // both can still be had, and make 16 GPUs
    let both = p5(&[], &[(GPU, 8), (old, 56)], &[(GPU, 8), (old, 56)]);
    assert_eq!(node_cost(&both), money("55.04"));
}

#[test]
fn a_model_is_told_by_the_clouds_own_label_where_nothing_else_tells_it() {
    let t4 = node("gke-t4-node.yaml");
    let pod = pod(&t4, GPU, 1);
    assert_eq!(compute(&pod), (money("0.870625"), true));
    assert_eq!(node_cost(&t4), money("0.870625"));
    for (label, value, price) in [
        (
            "cloud.google.com/gke-accelerator",
            "nvidia-tesla-t4",
            "0.870625",
        ),
        (
            "cloud.google.com/gke-accelerator",
            "nvidia-h100-mega-80gb",
            "4.76",
        ),
        ("karpenter.k8s.aws/instance-gpu-name", "t4", "0.870625"),
        (
            "k8s.amazonaws.com/accelerator",
            "nvidia-tesla-t4",
            "0.870625",
        ),
        ("gpu.nvidia.com/model", "H100_NVLINK_80GB", "4.76"),
        ("gpu.nvidia.com/class", "H100", "4.76"),
        (
            "node.kubernetes.io/instance-type",
            "Standard_NC8as_T4_v3",
            "0.870625",
        ),
        (
            "node.kubernetes.io/instance-type",
            "Standard_ND96isr_H100_v5",
            "4.76",
        ),
    ] {
        let labelled = on_labels(&[(label, value)]);
        assert_eq!(compute(&labelled), (money(price), true), "{label}={value}");
    }
    // the vendor's own label counts before the cloud's, and a vendor is no model
    let both = [(PRODUCT, "Tesla-T4"), ("gpu.nvidia.com/class", "H100")];
    assert_eq!(compute(&on_labels(&both)).0, money("0.870625"));
    let vendor = [("kubernetes.azure.com/accelerator", "nvidia")];
    assert_eq!(on_labels(&vendor).model, None);
    // as long as labels never are
    let long = "x".repeat(1_000_000);
    for key in [
        PRODUCT,
        "node.kubernetes.io/instance-type",
        "topology.kubernetes.io/zone",
    ] {
        let stored = serde_json::to_string(&on_labels(&[(key, &long)])).unwrap();
        assert!(stored.len() < 200, "{key}");
    }
}

#[test]
fn amds_gpus_are_told_by_their_device_and_models_that_are_sold_have_rows() {
    let amd = node("mi300x-node.yaml");
    assert_eq!(
        compute(&pod(&amd, "amd.com/gpu", 1)),
        (money("3.925"), true)
    );
    assert_eq!(node_cost(&amd), money("31.4"));
    let nvl = node("h100-nvl-node.yaml");
    assert_eq!(compute(&pod(&nvl, GPU, 1)), (money("5.395"), true));
    for (resource, label, value) in [
        ("amd.com/gpu", "beta.amd.com/gpu.device-id", "74a1"),
        ("amd.com/gpu", "beta.amd.com/gpu.device-id.74a1", "8"),
        (
            "amd.com/gpu",
            "amd.com/gpu.product-name",
            "AMD_Instinct_MI300X_OAM",
        ),
        (
            "amd.com/gpu",
            "amd.com/gpu.product-name",
            "AMD_Instinct_MI325X_VF",
        ),
        ("amd.com/cpx_nps4", "amd.com/gpu.device-id", "75a3"),
        (GPU, PRODUCT, "NVIDIA-H200-NVL"),
        (GPU, PRODUCT, "NVIDIA-GB200"),
        (
            "google.com/tpu",
            "cloud.google.com/gke-tpu-accelerator",
            "tpu-v5-lite-podslice",
        ),
        (
            "google.com/tpu",
            "cloud.google.com/gke-tpu-accelerator",
            "tpu-v6e-slice",
        ),
        (
            "habana.ai/gaudi",
            "node.kubernetes.io/instance-type",
            "dl1.24xlarge",
        ),
        (
            "aws.amazon.com/neuron",
            "karpenter.k8s.aws/instance-accelerator-name",
            "trainium",
        ),
    ] {
        let on_node = resource_on_labels(resource, &[(label, value)]);
        assert!(compute(&on_node).1, "{resource} {label}={value}");
    }
    // a name that says nothing hides no device
    let generic = [
        ("amd.com/gpu.product-name", "AMD_Radeon_Graphics"),
        ("amd.com/gpu.device-id", "74a5"),
    ];
    let model = resource_on_labels("amd.com/gpu", &generic).model;
    assert_eq!(model.as_deref(), Some("MI325X"));
}

#[test]
fn what_stands_in_for_a_price_is_of_a_gpu_with_as_much_memory_or_there_is_none() {
    let unlisted = |resource: &str, memory: (&str, &str)| {
        let labels = [
            (PRODUCT, "NVIDIA-X1"),
            ("amd.com/gpu.product-name", "X1"),
            memory,
        ];
        let on_node = resource_on_labels(resource, &labels);
        PRICES.price(&on_node, Timestamp::UNIX_EPOCH)
    };
    let cost = |resource: &str, memory| match unlisted(resource, memory) {
        PriceLookup::Provisional(rate) => Some(rate.cost.compute),
        PriceLookup::Unknown => None,
        PriceLookup::Listed(_) => panic!("no row is for it"),
    };
    let nvidia = |mebibytes| cost(GPU, ("nvidia.com/gpu.memory", mebibytes));
    // an H100 NVL's, not a B300's
    assert_eq!(nvidia("95830"), Some(money("5.395")));
    assert!(nvidia("15360") < nvidia("95830") && nvidia("95830") < nvidia("275040"));
    assert_eq!(nvidia("500000"), None, "all that is listed has less");
    assert_eq!(
        nvidia("x"),
        Some(money("21.3625")),
        "its memory is not known"
    );
    let amd = |vram| cost("amd.com/gpu", ("amd.com/gpu.vram", vram));
    assert_eq!(amd("192G"), Some(money("3.925")), "and no small Radeon's");
    assert_eq!(amd("432G"), None);
    assert!(amd("16G") >= amd("8G"));
}

#[test]
fn a_core_is_a_part_of_a_chip_and_a_chip_of_three_names_is_one() {
    let neuron = node("neuron-core.yaml");
    assert_eq!(node_cost(&neuron), money("6.49063"));
    let core = compute(&pod(&neuron, "aws.amazon.com/neuroncore", 1));
    assert_eq!(core, (money("0.540885833"), true));
    for chip in ["aws.amazon.com/neuron", "aws.amazon.com/neurondevice"] {
        assert_eq!(compute(&pod(&neuron, chip, 1)).0, money("1.081771666"));
    }
}

fn resource_on_labels(resource: &str, labels: &[(&str, &str)]) -> PricingAttributes {
    let labels = labels.iter();
    let labels: BTreeMap<String, String> = labels
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    let pod = PricingAttributes {
        resource: resource.into(),
        gpus: 1,
        ..PricingAttributes::default()
    };
    pod.on_node("n", 1, &labels)
}

fn on_labels(labels: &[(&str, &str)]) -> PricingAttributes {
    resource_on_labels(GPU, labels)
}

/// Numbers near each other, and some without measure.
fn count() -> impl Strategy<Value = u32> {
    prop_oneof![0..20_u32, Just(56_u32), 0..=u32::MAX]
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    let key = prop::sample::select(vec![
        PRODUCT,
        "nvidia.com/gpu.count",
        "nvidia.com/gpu.replicas",
        "nvidia.com/mig-1g.10gb.count",
        "nvidia.com/mig-1g.10gb.replicas",
        "nvidia.com/mig-1g.10gb.product",
        "cloud.google.com/gke-max-shared-clients-per-gpu",
        "cloud.google.com/gke-gpu-partition-size",
        "cloud.google.com/gke-accelerator-count",
        "gpu.nvidia.com/count",
    ]);
    let value = prop_oneof![
        count().prop_map(|count| count.to_string()),
        prop::sample::select(vec!["X-SHARED", "X-MIG-3g.40gb", "1g.10gb", "7g.80gb", ""])
            .prop_map(str::to_owned),
    ];
    prop::collection::btree_map(key.prop_map(str::to_owned), value, 0..5)
}

proptest! {
    #[test]
    fn a_node_costs_no_more_than_its_row_and_its_pods_no_more_than_the_node(
        labels in labels(),
        gpus in count(), shared in count(), small in count(), large in count(),
        held in prop::collection::vec((0..4_usize, 1..12_u32), 0..20),
    ) {
            let resources = [GPU, "nvidia.com/gpu.shared", "nvidia.com/mig-1g.10gb", "nvidia.com/mig-3g.40gb"];
        let offered: Vec<(&str, u32)> = resources.into_iter().zip([gpus, shared, small, large]).collect();
        let labels: Vec<(&str, &str)> = labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let node = p5(&labels, &offered, &offered);
        let row = money("55.04");
        let cost = node_cost(&node);
        prop_assert!(cost <= row, "the node costs {cost:?}");
        // what a scheduler would let pods of one resource have
        for (resource, count) in offered {
            let mut left = count;
            let mut pods = Money::ZERO;
            for (_, asked) in held.iter().filter(|(which, _)| resources[*which] == resource) {
                if *asked <= left {
                    left -= *asked;
                    pods += compute(&pod(&node, resource, *asked)).0;
                }
            }
            prop_assert!(pods <= row, "pods of {resource} cost {pods:?}");
        }
        let mut left: BTreeMap<&str, u32> = resources.into_iter().zip([gpus, shared, small, large]).collect();
        let mut pods = Money::ZERO;
        for (which, asked) in held {
            let resource = resources[which];
            let there = left.get_mut(resource).unwrap();
            if asked <= *there {
                *there -= asked;
                let pod = PricingAttributes { resource: resource.into(), gpus: asked, ..PricingAttributes::default() };
                pods += compute(&on_node(pod, &node)).0;
            }
        }
        prop_assert!(pods <= cost, "pods cost {pods:?} of {cost:?}");
    }
}
