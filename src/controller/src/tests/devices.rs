//! What the accounts of nodes say whose GPUs are devices, and what of them is idle.

use bursar_api::SpendRecord;
use bursar_api::spend::WorkloadKind;
use bursar_apitest::faults::Faults;
use bursar_core::cluster_bill::{ClusterBill, CostSource};
use bursar_core::ledger::{Account, Charge, DailyCost};
use jiff::tz::TimeZone;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use super::claims::{claim, notebook, set_status, uses};
use super::leader::View;
use super::sweep::Stage;
use crate::ledger::nodes::{self, MatchedNodes};

/// Nano-units that one of the world's GPUs costs a second.
const SECOND: i64 = 1_000_000;
const DRIVER: &str = "gpu.nvidia.com";

/// The world, with a second node, `dra`, that offers this.
struct Cluster {
    stage: Stage,
    matched: MatchedNodes,
}

impl Cluster {
    async fn new(capacity: Value) -> Self {
        let mut stage = Stage::new(Faults::default()).await;
        stage.world.now = "2026-12-10T00:00:00Z".parse().unwrap();
        stage.seconds(1).await;
        let node = json!({"metadata": {"name": "dra"}});
        stage.world.create_all::<Node>(node).await;
        stage.world.offer("dra", capacity).await;
        Self {
            stage,
            matched: MatchedNodes::new(),
        }
    }

    async fn seconds(&mut self, count: usize) {
        for _ in 0..count {
            self.stage.seconds(1).await;
            let view = View::of(&self.stage.world);
            self.stage.leader.fill_caches(&view);
            let now = self.stage.world.now;
            let errors = nodes::sync_once(&self.stage.leader.context, &mut self.matched, now).await;
            assert!(errors.is_empty(), "{errors:?}");
        }
    }

    /// So many GPUs, and a network card, are what the drivers of `dra` offer in `count` slices, of which there is one.
    async fn publish(&self, generation: i64, count: i64, gpus: usize) {
        let attributes = json!({"productName": {"string": "H100"}});
        let gpu = |i| json!({"name": format!("gpu-{i}"), "attributes": attributes});
        let gpus: Vec<Value> = (0..gpus).map(gpu).collect();
        for (driver, devices) in [(DRIVER, json!(gpus)), ("dra.example.com", json!([gpu(0)]))] {
            let pool =
                json!({"name": "node", "generation": generation, "resourceSliceCount": count});
            let spec =
                json!({"driver": driver, "nodeName": "dra", "pool": pool, "devices": devices});
            let name = format!("dra-{driver}");
            let slice = json!({"metadata": {"name": name}, "spec": spec});
            if generation == 1 {
                self.stage.world.create_all::<ResourceSlice>(slice).await;
                continue;
            }
            let api: Api<ResourceSlice> = Api::all(self.stage.world.server.client());
            let params = PatchParams::default();
            api.patch(&name, &params, &Patch::Merge(slice))
                .await
                .unwrap();
        }
    }

    /// The charges of `dra` that are open.
    fn open(&self) -> Vec<Charge> {
        let records: Vec<SpendRecord> = self.stage.world.server.objects();
        let of_nodes = records
            .iter()
            .filter(|record| record.spec.kind == WorkloadKind::Node);
        let accounts: Vec<Account> = of_nodes
            .map(|record| record.to_account().unwrap())
            .collect();
        let open = accounts
            .iter()
            .flat_map(|account| account.open_charges().values());
        open.filter(|charge| charge.pod() == "dra")
            .map(|charge| Charge::clone(charge))
            .collect()
    }

    fn offered(&self) -> Vec<(String, u32)> {
        let open = self.open().into_iter();
        open.map(|charge| {
            (
                charge.attributes().resource.clone(),
                charge.attributes().gpus,
            )
        })
        .collect()
    }

    fn bill(&self) -> ClusterBill {
        let mut bill = ClusterBill::default();
        for record in self.stage.world.server.objects::<SpendRecord>() {
            let account = record.to_account().unwrap();
            let lines = account.daily_costs(self.stage.world.now, &TimeZone::UTC);
            bill.add(record.spec.kind.cost_source(), lines);
        }
        bill
    }
}

#[tokio::test]
async fn a_node_of_devices_is_charged_as_a_whole_and_idle_is_what_no_claim_holds() {
    let mut cluster = Cluster::new(json!({"cpu": "64", "memory": "512Gi"})).await;
    cluster.publish(1, 1, 4).await;
    claim(&cluster.stage, "pair", DRIVER, &["gpu-0", "gpu-1"]).await;
    let mut book = uses("pair");
    book["nodeName"] = json!("dra");
    notebook(&cluster.stage, "book", book).await;
    cluster.seconds(30).await;
    assert_eq!(cluster.offered(), [(DRIVER.to_owned(), 4)]);
    let (node, now) = (cluster.open().remove(0), cluster.stage.world.now);
    let amounts = &node.attributes().amounts;
    assert_eq!(
        (amounts.cpu_milli, amounts.memory_mib),
        (64_000, 512 * 1024)
    );
    let records: Vec<SpendRecord> = cluster.stage.world.server.objects();
    let book = records
        .iter()
        .find(|record| record.spec.kind == WorkloadKind::Unmanaged);
    let book = book.unwrap().to_account().unwrap();
    let book = book.open_charges().values().next().unwrap();
    let stood = |charge: &Charge| now.as_second() - charge.start().as_second();
    assert!(stood(&node) >= 28 && stood(book) >= 28);
    let bill = cluster.bill();
    let idle: DailyCost = bill
        .idle()
        .filter(|(_, sku, _)| sku.resource == DRIVER)
        .map(|(_, _, line)| line)
        .sum();
    let seconds = 4 * stood(&node) - 2 * stood(book);
    assert_eq!(idle.gpu_seconds, seconds);
    assert_eq!(idle.cost.total().nanos(), i128::from(seconds * SECOND));
}

#[tokio::test]
async fn gpus_that_are_an_extended_resource_and_devices_are_charged_once_on_the_way_from_one_to_the_other()
 {
    let mut cluster = Cluster::new(json!({"nvidia.com/gpu": "4"})).await;
    let labels = json!({"metadata": {"labels": {"nvidia.com/gpu.product": "H100"}}});
    let nodes = cluster.stage.world.nodes();
    nodes
        .patch("dra", &PatchParams::default(), &Patch::Merge(labels))
        .await
        .unwrap();
    cluster.publish(1, 1, 4).await;
    cluster.stage.world.create_foreign_pod("notebook").await;
    cluster.seconds(5).await;
    let extended = [("nvidia.com/gpu".to_owned(), 4)];
    assert_eq!(cluster.offered(), extended);
    let begun = cluster.open()[0].start();
    // the device plugin is gone
    let world = &cluster.stage.world;
    world.offer("dra", json!({"nvidia.com/gpu": "0"})).await;
    cluster.seconds(5).await;
    assert_eq!(cluster.offered(), [(DRIVER.to_owned(), 4)]);
    let writes = cluster.stage.leader.faults.writes();
    cluster.publish(2, 2, 1).await;
    cluster.seconds(5).await;
    assert_eq!(
        cluster.offered(),
        [(DRIVER.to_owned(), 4)],
        "the pool is not complete"
    );
    assert_eq!(cluster.stage.leader.faults.writes(), writes, "at rest");
    cluster.publish(3, 1, 3).await;
    cluster.seconds(5).await;
    assert_eq!(cluster.offered(), [(DRIVER.to_owned(), 3)]);
    let now = cluster.stage.world.now;
    let three = now.as_second() - cluster.open()[0].start().as_second();
    let all = now.as_second() - begun.as_second();
    let records: Vec<SpendRecord> = cluster.stage.world.server.objects();
    let mut sum = DailyCost::default();
    for record in records
        .iter()
        .filter(|record| record.spec.kind.cost_source() == CostSource::Nodes)
    {
        let lines = record
            .to_account()
            .unwrap()
            .daily_costs(now, &TimeZone::UTC);
        sum += lines.into_values().sum();
    }
    // the world's other node of eight stood as long
    let gpu_seconds = (8 + 4) * all - three;
    assert_eq!(sum.gpu_seconds, gpu_seconds);
    assert_eq!(sum.cost.total().nanos(), i128::from(gpu_seconds * SECOND));
}

#[tokio::test]
async fn an_extended_resource_that_is_devices_is_charged_by_what_the_devices_are() {
    let mut cluster = Cluster::new(json!({"cpu": "64"})).await;
    cluster.publish(1, 1, 4).await;
    claim(&cluster.stage, "made", DRIVER, &["gpu-3"]).await;
    notebook(&cluster.stage, "book", json!({"nodeName": "dra"})).await;
    let mapping =
        json!({"containerName": "c", "requestName": "r", "resourceName": "nvidia.com/gpu"});
    let made = json!({"resourceClaimName": "made", "requestMappings": [mapping]});
    let status = json!({"extendedResourceClaimStatus": made});
    set_status::<Pod>(&cluster.stage, "book", status).await;
    cluster.seconds(5).await;
    let held = cluster
        .bill()
        .idle()
        .filter(|(_, sku, _)| sku.resource == DRIVER)
        .map(|(_, _, line)| line)
        .sum::<DailyCost>();
    let node = cluster.open().remove(0);
    let stood = cluster.stage.world.now.as_second() - node.start().as_second();
    assert!(
        stood > 2 && held.gpu_seconds < 4 * stood,
        "the pod holds one of the four"
    );
}
