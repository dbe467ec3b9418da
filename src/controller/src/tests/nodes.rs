//! What the accounts of nodes say, whoever holds them, and what is idle.

use bursar_api::PriceList;
use bursar_api::SpendRecord;
use bursar_api::spend::{WorkloadKind, WorkloadRef};
use bursar_apitest::faults::{CrashPoint, Faults};
use bursar_core::cluster_bill::{ClusterBill, CostSource};
use bursar_core::ledger::{Account, DailyCost};
use bursar_core::money::Money;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::leader::{Leader, View};
use super::sweep::Stage;
use super::world::World;
use crate::ledger::nodes::{self, MatchedNodes};
use crate::{cluster_bill, metrics};

/// Nano-units that one of the world's GPUs costs a second.
const SECOND: i128 = 1_000_000;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn seconds(from: &str, to: &str) -> i128 {
    i128::from(at(to).as_second() - at(from).as_second())
}

/// A cluster in which nothing but nodes comes and goes, and whoever keeps their accounts.
struct Fleet {
    world: World,
    leader: Leader,
    matched: MatchedNodes,
    /// What a new leader's caches show at its first look.
    stale: View,
    crashes: usize,
}

impl Fleet {
    /// With a node of eight GPUs since 23:58:50 on the last of November, and a workload that has an account.
    async fn new(faults: Faults) -> Self {
        let world = World::new().await;
        let fleet = Self {
            leader: Leader::new(&world, faults),
            world,
            matched: MatchedNodes::new(),
            stale: View::default(),
            crashes: 0,
        };
        fleet.open_account().await;
        fleet
    }

    async fn open_account(&self) {
        let chat = WorkloadRef {
            namespace: "team".into(),
            kind: WorkloadKind::InferenceDeployment,
            name: "chat".into(),
        };
        let record = chat.record("2026-11".parse().unwrap(), "UTC", "USD");
        let record = serde_json::to_value(record).unwrap();
        self.world.create_all::<SpendRecord>(record).await;
    }

    /// Looks at this moment. Whoever dies is followed by one whose caches are old at first.
    async fn sync_at(&mut self, now: &str) {
        self.world.now = at(now);
        self.world.server.set_clock(self.world.now);
        // an account that was made begins, and one that runs on is carried, in one look; what is settled is forgotten in the next
        for _ in 0..3 {
            let view = View::of(&self.world);
            self.fill_caches(&view).await;
            if self.leader.faults.has_crashed() {
                self.crashes += 1;
                self.leader = Leader::new(&self.world, Faults::default());
                self.matched = MatchedNodes::new();
                let stale = self.stale.clone();
                self.fill_caches(&stale).await;
                self.fill_caches(&View::of(&self.world)).await;
            }
            self.stale = view;
        }
    }

    async fn fill_caches(&mut self, view: &View) {
        self.leader.fill_caches(view);
        let now = self.world.now;
        let errors = nodes::sync_once(&self.leader.context, &mut self.matched, now).await;
        if !self.leader.faults.has_crashed() {
            for error in errors {
                let text = error.to_string();
                let late = [
                    "has changed since",
                    "of that name already",
                    "no such object",
                ];
                assert!(late.iter().any(|why| text.contains(why)), "{text}");
            }
        }
    }

    async fn label(&self, name: &str, labels: Value) {
        let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
        let (nodes, params) = (self.world.nodes(), PatchParams::default());
        nodes.patch(name, &params, &patch).await.unwrap();
    }

    async fn remove(&mut self, name: &str) {
        let (nodes, params) = (self.world.nodes(), DeleteParams::default());
        nodes.delete(name, &params).await.unwrap();
    }

    fn accounts(&self) -> Vec<Account> {
        let mut records: Vec<SpendRecord> = self.world.server.objects();
        records.retain(|record| record.spec.kind == WorkloadKind::Node);
        records.sort_by_key(ResourceExt::name_any);
        let accounts = records.iter().map(|record| record.to_account().unwrap());
        accounts.collect()
    }

    fn sum(&self) -> DailyCost {
        let now = self.world.now;
        let lines = self.accounts();
        let lines = lines
            .iter()
            .flat_map(|account| account.daily_costs(now, &TimeZone::UTC).into_values());
        lines.sum()
    }

    fn open(&self) -> Vec<usize> {
        let accounts = self.accounts();
        accounts
            .iter()
            .map(|account| account.open_charges().len())
            .collect()
    }
}

#[tokio::test]
async fn a_node_costs_from_its_creation_until_it_is_gone_and_nothing_is_written_at_rest() {
    let mut fleet = Fleet::new(Faults::default()).await;
    // it was there before: accounts begin now
    fleet.sync_at("2026-11-30T23:59:00Z").await;
    let begun = fleet.leader.faults.writes();
    fleet.sync_at("2026-11-30T23:59:10Z").await;
    assert_eq!(fleet.leader.faults.writes(), begun, "at rest");
    // made at :10, offers GPUs and is seen later
    fleet.world.create_node("two").await;
    fleet.sync_at("2026-11-30T23:59:20Z").await;
    let two = fleet.world.nodes().get("two").await.unwrap();
    fleet.remove("two").await;
    let tombstones = &fleet.leader.context.tombstones;
    tombstones.put_node(two.metadata.uid.unwrap(), at("2026-11-30T23:59:28.7Z"));
    fleet.sync_at("2026-11-30T23:59:30Z").await;
    let sum = fleet.sum();
    assert_eq!(sum.cost.total().nanos(), (30 + 18) * 8 * SECOND);
    assert_eq!(
        (sum.estimated, sum.starting, sum.gpu_seconds),
        (Money::ZERO, Money::ZERO, 48 * 8)
    );
    assert_eq!(fleet.open(), [1]);
    assert!(fleet.accounts()[0].settling().is_empty());
}

#[tokio::test]
async fn nodes_have_no_accounts_before_anybody_has_one() {
    let world = World::new().await;
    let mut fleet = Fleet {
        leader: Leader::new(&world, Faults::default()),
        world,
        matched: MatchedNodes::new(),
        stale: View::default(),
        crashes: 0,
    };
    fleet.sync_at("2026-11-30T23:59:00Z").await;
    assert_eq!(fleet.accounts(), [], "they do not choose the currency");
    fleet.open_account().await;
    fleet.sync_at("2026-11-30T23:59:05Z").await;
    fleet.sync_at("2026-11-30T23:59:15Z").await;
    assert_eq!(fleet.sum().cost.total().nanos(), 10 * 8 * SECOND);
}

#[tokio::test]
async fn a_node_that_nobody_saw_go_ends_when_that_is_noticed_and_says_so() {
    let mut fleet = Fleet::new(Faults::default()).await;
    fleet.sync_at("2026-11-30T23:59:00Z").await;
    fleet.remove("node").await;
    fleet.sync_at("2026-11-30T23:59:40Z").await;
    let sum = fleet.sum();
    assert_eq!(sum.cost.total().nanos(), 40 * 8 * SECOND);
    assert_eq!(sum.estimated, sum.cost.total());
    // another node of that name is another node
    fleet.world.create_node("node").await;
    fleet.sync_at("2026-11-30T23:59:50Z").await;
    assert_eq!(fleet.sum().cost.total().nanos(), (40 + 10) * 8 * SECOND);
    assert_eq!(fleet.open(), [1]);
}

#[tokio::test]
async fn a_node_that_only_an_old_cache_shows_is_not_charged_again() {
    let mut fleet = Fleet::new(Faults::default()).await;
    fleet.sync_at("2026-11-30T23:59:00Z").await;
    let before = View::of(&fleet.world);
    fleet.remove("node").await;
    fleet.sync_at("2026-11-30T23:59:40Z").await;
    let stale = View {
        nodes: before.nodes,
        ..View::of(&fleet.world)
    };
    fleet.fill_caches(&stale).await;
    assert_eq!(
        (fleet.open(), fleet.accounts()[0].settling().len()),
        (vec![0], 0)
    );
}

#[tokio::test]
async fn a_record_that_only_an_old_cache_shows_is_not_carried_forward() {
    let mut fleet = Fleet::new(Faults::default()).await;
    fleet.sync_at("2026-11-30T23:59:00Z").await;
    let november = View::of(&fleet.world).records;
    fleet.remove("node").await;
    fleet.sync_at("2026-12-01T00:00:05Z").await;
    let (cost, mut stale) = (fleet.sum().cost, View::of(&fleet.world));
    stale
        .records
        .retain(|record| record.spec.month == "2026-12");
    stale.records.extend(november);
    fleet.leader = Leader::new(&fleet.world, Faults::default());
    fleet.fill_caches(&stale).await;
    assert_eq!((fleet.open(), fleet.sum().cost), (vec![0, 0], cost));
}

#[tokio::test]
async fn another_layout_begins_another_charge_and_a_plugin_that_is_down_ends_none() {
    let mut fleet = Fleet::new(Faults::default()).await;
    fleet.sync_at("2026-11-30T23:59:00Z").await;
    let mixed = json!({"nvidia.com/gpu": "6", "nvidia.com/mig-1g.10gb": "14"});
    fleet.world.offer("node", mixed).await;
    fleet.sync_at("2026-11-30T23:59:10Z").await;
    assert_eq!(fleet.open(), [2]);
    let nothing = json!({"nvidia.com/gpu": "0", "nvidia.com/mig-1g.10gb": null});
    fleet.world.offer("node", nothing).await;
    fleet.sync_at("2026-11-30T23:59:20Z").await;
    assert_eq!(fleet.open(), [2], "it is paid for all the same");
    fleet
        .world
        .offer("node", json!({"nvidia.com/gpu": "8"}))
        .await;
    fleet.sync_at("2026-11-30T23:59:30Z").await;
    let whole = json!({"nvidia.com/gpu": "6", "nvidia.com/mig-1g.10gb": "14"});
    fleet.world.offer("node", whole).await;
    fleet.sync_at("2026-11-30T23:59:40Z").await;
    fleet.sync_at("2026-11-30T23:59:50Z").await;
    let sum = fleet.sum();
    assert_eq!(sum.cost.total().nanos(), 50 * 8 * SECOND);
    assert_eq!((sum.estimated, sum.gpu_seconds), (Money::ZERO, 50 * 8));
    let resources: Vec<String> = fleet.accounts()[0]
        .daily_costs(fleet.world.now, &TimeZone::UTC)
        .into_keys()
        .map(|(_, sku)| sku.resource)
        .collect();
    assert_eq!(resources, ["nvidia.com/gpu", "nvidia.com/mig-1g.10gb"]);
    // cores and memory are with one of them
    let accounts = fleet.accounts();
    let cores: Vec<u32> = accounts[0]
        .open_charges()
        .values()
        .map(|charge| charge.attributes().amounts.cpu_milli)
        .collect();
    assert_eq!(cores, [0, 64_000]);
}

#[tokio::test]
async fn labels_that_come_late_count_from_the_start() {
    let mut fleet = Fleet::new(Faults::default()).await;
    let world = &fleet.world;
    world
        .create_all::<Node>(json!({"metadata": {"name": "bare"}}))
        .await;
    world.offer("bare", json!({"nvidia.com/gpu": "4"})).await;
    fleet.sync_at("2026-11-30T23:59:00Z").await;
    fleet.world.now = at("2026-11-30T23:59:05Z");
    let provisional = Money::from_nanos(5 * 4 * SECOND);
    assert_eq!(fleet.sum().estimated, provisional);
    let labels = json!({"nvidia.com/gpu.product": "H100"});
    fleet.label("bare", labels).await;
    fleet.sync_at("2026-11-30T23:59:10Z").await;
    let sum = fleet.sum();
    assert_eq!(sum.cost.total().nanos(), 10 * 12 * SECOND);
    assert_eq!(sum.estimated, Money::ZERO);
}

/// The type of a machine has a price before feature discovery says that its GPU is shared.
#[tokio::test]
async fn labels_that_divide_the_gpus_of_a_known_machine_count_from_the_start() {
    let mut fleet = Fleet::new(Faults::default()).await;
    let labels = json!({"node.kubernetes.io/instance-type": "Standard_NC4as_T4_v3"});
    let node = json!({"metadata": {"name": "aks", "labels": labels}});
    fleet.world.create_all::<Node>(node).await;
    let rows = json!([{"model": "Tesla-T4", "pricePerHour": "3.6"}]);
    let list = json!({"metadata": {"name": "t4"}, "spec": {"currency": "USD", "gpus": rows}});
    fleet.world.create_all::<PriceList>(list).await;
    fleet
        .world
        .offer("aks", json!({"nvidia.com/gpu": "4"}))
        .await;
    fleet.sync_at("2026-11-30T23:59:00Z").await;
    fleet.world.now = at("2026-11-30T23:59:10Z");
    assert_eq!(fleet.sum().cost.total().nanos(), 10 * (8 + 4) * SECOND);
    let labels = json!({
        "nvidia.com/gpu.product": "Tesla-T4-SHARED", "nvidia.com/gpu.replicas": "4", "nvidia.com/gpu.count": "1",
    });
    fleet.label("aks", labels).await;
    fleet.sync_at("2026-11-30T23:59:20Z").await;
    assert_eq!(fleet.sum().cost.total().nanos(), 20 * (8 + 1) * SECOND);
}

#[tokio::test]
async fn a_node_whose_reservation_ends_costs_what_it_does_without_from_then_on() {
    let mut fleet = Fleet::new(Faults::default()).await;
    let labels =
        json!({"nvidia.com/gpu.product": "H200", "karpenter.sh/capacity-type": "reserved"});
    let node = json!({"metadata": {"name": "block", "labels": labels}});
    fleet.world.create_all::<Node>(node).await;
    let rows = json!([
        {"model": "H200", "pricePerHour": "3.6", "capacityType": "Reserved"},
        {"model": "H200", "pricePerHour": "7.2"},
    ]);
    let list = json!({"metadata": {"name": "h200"}, "spec": {"currency": "USD", "gpus": rows}});
    fleet.world.create_all::<PriceList>(list).await;
    fleet
        .world
        .offer("block", json!({"nvidia.com/gpu": "1"}))
        .await;
    fleet.sync_at("2026-11-30T23:59:00Z").await;
    fleet.sync_at("2026-12-01T00:20:00Z").await;
    let at_the_end = fleet.sum().cost.total();
    let on_demand = json!({"karpenter.sh/capacity-type": "on-demand"});
    fleet.label("block", on_demand).await;
    fleet.sync_at("2026-12-01T00:20:00Z").await;
    assert_eq!(fleet.sum().cost.total(), at_the_end);
    fleet.sync_at("2026-12-01T00:20:10Z").await;
    let since = fleet.sum().cost.total() - at_the_end;
    assert_eq!(since.nanos(), 10 * (8 + 2) * SECOND);
}

/// Nodes over a month's end, with a price that changes, another layout, and days that are booked.
fn long_story(fleet: &mut Fleet) -> LocalBoxFuture<'_, ()> {
    async move {
        fleet.sync_at("2026-11-30T23:59:00Z").await;
        fleet.world.create_node("two").await;
        fleet.world.create_node("three").await;
        let dearer = json!({"currency": "USD", "effectiveFrom": "2026-12-01T12:00:00Z", "gpus": [{"model": "H100", "pricePerHour": "7.2"}]});
        let dearer = json!({"metadata": {"name": "dearer"}, "spec": dearer});
        fleet.world.create_all::<PriceList>(dearer).await;
        fleet.sync_at("2026-11-30T23:59:30Z").await;
        // nobody sees it go, so it is charged in both months
        fleet.remove("three").await;
        fleet.sync_at("2026-12-01T00:00:05Z").await;
        fleet.sync_at("2026-12-01T01:30:00Z").await;
        let mixed = json!({"nvidia.com/gpu": "7", "nvidia.com/mig-1g.10gb": "7"});
        fleet.world.offer("two", mixed).await;
        fleet.sync_at("2026-12-01T02:00:00Z").await;
        fleet.sync_at("2026-12-02T01:30:00Z").await;
        fleet.remove("node").await;
        fleet.sync_at("2026-12-02T02:00:00Z").await;
        fleet.remove("two").await;
        fleet.sync_at("2026-12-03T03:00:00Z").await;
    }
    .boxed_local()
}

/// What the story costs, by the clock alone.
fn long_story_cost() -> [i128; 2] {
    // two and three were made in the second of the first look
    let in_november = 3 * 60;
    let cheap = 2 * seconds("2026-12-01T00:00:00Z", "2026-12-01T12:00:00Z");
    let dear = seconds("2026-12-01T12:00:00Z", "2026-12-02T02:00:00Z")
        + seconds("2026-12-01T12:00:00Z", "2026-12-03T03:00:00Z");
    [in_november, 5 + cheap + 2 * dear].map(|node_seconds| node_seconds * 8 * SECOND)
}

fn assert_recorded(fleet: &Fleet, what: &str) {
    let accounts = fleet.accounts();
    let told: Vec<i128> = accounts
        .iter()
        .map(|account| {
            let lines = account.days().values().flatten();
            lines.map(|(_, line)| line.cost.total().nanos()).sum()
        })
        .collect();
    assert_eq!(told, long_story_cost(), "{what}");
    for account in &accounts {
        assert!(
            account.open_charges().is_empty() && account.settling().is_empty(),
            "{what}"
        );
    }
}

#[tokio::test]
async fn a_crash_at_any_write_changes_nothing_of_what_nodes_cost() {
    let mut fleet = Fleet::new(Faults::default()).await;
    long_story(&mut fleet).await;
    assert_recorded(&fleet, "undisturbed");
    let writes = fleet.leader.faults.writes();
    for write in 0..writes {
        for moment in [CrashPoint::Before, CrashPoint::After] {
            let mut fleet = Fleet::new(Faults::crash(write, moment)).await;
            long_story(&mut fleet).await;
            let what = format!("it died {moment:?} write {write} of {writes}");
            assert_eq!(fleet.crashes, 1, "{what}");
            assert_recorded(&fleet, &what);
        }
    }
}

#[tokio::test]
async fn whoever_writes_first_changes_nothing_of_what_nodes_cost() {
    let mut fleet = Fleet::new(Faults::default()).await;
    long_story(&mut fleet).await;
    let writes = fleet.leader.faults.writes();
    for write in 0..writes {
        let mut fleet = Fleet::new(Faults::default()).await;
        let server = fleet.world.server.clone();
        let acts = async move {
            let api: Api<SpendRecord> = Api::all(server.client());
            for record in server.objects::<SpendRecord>() {
                let patch = Patch::Merge(json!({"metadata": {"labels": {"rival": "was-here"}}}));
                let params = PatchParams::default();
                api.patch(&record.name_any(), &params, &patch)
                    .await
                    .unwrap();
            }
        };
        fleet.leader = Leader::new(&fleet.world, Faults::competing_write(write, acts));
        long_story(&mut fleet).await;
        assert_recorded(&fleet, &format!("a rival before write {write} of {writes}"));
    }
}

#[tokio::test]
async fn the_bill_is_what_nodes_cost_and_idle_is_what_no_pod_held() {
    let mut stage = Stage::new(Faults::default()).await;
    let mut seen = MatchedNodes::new();
    stage.world.now = at("2026-12-10T00:00:00Z");
    stage.world.create_chat(1).await;
    for second in 0..60 {
        if second == 20 {
            stage.world.create_foreign_pod("notebook").await;
        }
        stage.seconds(1).await;
        stage.leader.fill_caches(&View::of(&stage.world));
        let errors = nodes::sync_once(&stage.leader.context, &mut seen, stage.world.now).await;
        assert!(errors.is_empty(), "{errors:?}");
    }
    let now = stage.world.now;
    let mut bill = ClusterBill::default();
    let mut held = 0;
    for record in stage.world.server.objects::<SpendRecord>() {
        let account = record.to_account().unwrap();
        let side = record.spec.kind.cost_source();
        if side != CostSource::Nodes {
            let open = account.open_charges().values();
            held += open
                .map(|charge| now.as_second() - charge.start().as_second())
                .sum::<i64>();
        }
        bill.add(side, account.daily_costs(now, &TimeZone::UTC));
    }
    let records: Vec<SpendRecord> = stage.world.server.objects();
    let node = records
        .iter()
        .find(|record| record.spec.kind == WorkloadKind::Node)
        .unwrap();
    let account = node.to_account().unwrap();
    let start = account.open_charges().values().next().unwrap().start();
    let stood = now.as_second() - start.as_second();
    assert!(stood >= 55 && held > 80, "{stood} {held}");
    let idle = bill.idle_sum();
    assert_eq!(i128::from(idle.gpu_seconds), i128::from(stood * 8 - held));
    assert_eq!(
        idle.cost.total().nanos(),
        i128::from(stood * 8 - held) * SECOND
    );
    assert_eq!(bill.total().nanos(), i128::from(stood * 8) * SECOND);

    cluster_bill::refresh(&stage.leader.context, now);
    let shown = stage
        .leader
        .context
        .metrics
        .nodes
        .values(metrics::IDLE_COST_MONTH);
    assert_eq!(shown, [metrics::gauge_value(idle.cost.total())]);
}

#[tokio::test]
async fn a_workloads_status_has_its_share_of_overheads_in_addition_to_its_cost() {
    let mut stage = Stage::new(Faults::default()).await;
    let overheads = json!([{"name": "people", "part": "Labour", "pricePerMonth": "3000", "shareBy": "GpuHours"}]);
    let list = json!({"metadata": {"name": "people"}, "spec": {"currency": "USD", "overheads": overheads}});
    stage.world.create_all::<PriceList>(list).await;
    stage.world.now = at("2026-12-10T23:59:30Z");
    stage.world.create_chat(1).await;
    stage.seconds(10).await;
    let status = |stage: &Stage| {
        let services: Vec<bursar_api::InferenceDeployment> = stage.world.server.objects();
        services[0].status.clone().unwrap().spend.unwrap()
    };
    assert_eq!(status(&stage).overhead, None, "nobody has shared them yet");
    // a third of December is over
    cluster_bill::refresh(&stage.leader.context, at("2026-12-11T08:00:00Z"));
    stage.world.now = at("2026-12-11T00:10:00Z");
    stage.seconds(2).await;
    let spend = status(&stage);
    assert_eq!(spend.overhead.as_deref(), Some("1000.0000"));
    assert!(spend.month_to_date.parse::<Money>().unwrap() < "1".parse().unwrap());
    assert!(spend.components.labour.is_none());
}
