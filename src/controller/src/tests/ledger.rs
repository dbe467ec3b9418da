//! The ledger is kept apart: no decision waits for it, and what it cannot write counts.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bursar_api::lenient::Lenient;
use bursar_api::names::SPEND_FINALIZER;
use bursar_api::spend::{WorkloadKind, WorkloadRef};
use bursar_api::{BudgetPolicy, InferenceDeployment, SpendRecord};
use bursar_apitest::faults::{Faults, WriteFault};
use bursar_core::calendar::Month;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::leader::{Leader, View};
use super::sweep::Stage;
use super::world::NAMESPACE;
use crate::cache::{Trigger, Triggers};
use crate::context::Context;
use crate::ledger::{AccountView, StoredAccounts, sum, worker};
use crate::metrics::ResultLabel;

const RECORDS: &str = "spendrecords";
const SLOW: WriteFault = WriteFault::Slow(Duration::from_millis(50));

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn workload(name: &str) -> WorkloadRef {
    WorkloadRef {
        namespace: NAMESPACE.to_owned(),
        kind: WorkloadKind::InferenceDeployment,
        name: name.to_owned(),
    }
}

fn replicas(stage: &Stage, name: &str) -> Option<i32> {
    let deployments: Vec<Deployment> = stage.world.server.objects();
    let found = deployments.iter().find(|each| each.name_any() == name)?;
    found.spec.replicas
}

/// The account as decisions read it.
fn view(context: &Context, account: &WorkloadRef, now: Timestamp) -> Arc<AccountView> {
    let records = StoredAccounts::load(context.records_in(NAMESPACE), &context.folded);
    let month = Month::containing(now, &TimeZone::UTC);
    let on_record = || AccountView::on_record(&records, account, "USD", month);
    context.ledger.view(account, "USD", now, on_record)
}

/// A pod of a workload, bound from its creation on.
async fn bind_pod(stage: &Stage, workload: &str, name: &str) {
    let container =
        json!({"name": "c", "image": "engine", "resources": {"limits": {"nvidia.com/gpu": "1"}}});
    let labels = json!({"bursar.dev/workload": workload, "bursar.dev/kind": "InferenceDeployment"});
    let metadata = json!({"name": name, "labels": labels, "finalizers": [SPEND_FINALIZER]});
    let spec = json!({"nodeName": "node", "containers": [container]});
    stage
        .world
        .create::<Pod>(json!({"metadata": metadata, "spec": spec}))
        .await;
}

/// Notes that the cluster has this object, of which no cache has a version.
fn note_unreadable<K>(context: &Context, metadata: &Value)
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Debug,
{
    let object = json!({"metadata": metadata, "spec": "none"});
    let object: Lenient<K> = serde_json::from_value(object).unwrap();
    let unreadable = object.into_result().unwrap_err();
    context.unreadable.insert::<K>(&unreadable);
}

/// Why accounts are in doubt.
fn doubts(context: &Context, now: Timestamp) -> Vec<String> {
    let views = context.ledger.views(NAMESPACE);
    views.iter().filter_map(|view| view.doubt(now)).collect()
}

/// Seconds in which errors of the ledger are expected.
pub(super) async fn troubled(stage: &mut Stage, seconds: usize) {
    for _ in 0..seconds {
        stage.world.turn().await;
        let view = View::of(&stage.world);
        stage.leader.reconcile(&stage.world, &view).await.ok();
    }
}

/// The worker of a stage's leader, with a clock that can be moved.
struct Worker {
    triggers: Triggers,
    started: Instant,
    base: Timestamp,
    moved: Arc<AtomicI64>,
    _task: AbortOnDropHandle<()>,
}

impl Worker {
    fn start(stage: &mut Stage, base: Timestamp) -> Self {
        stage.leader.fill_caches(&View::of(&stage.world));
        let (triggers, received) = mpsc::unbounded_channel();
        let (started, moved) = (Instant::now(), Arc::new(AtomicI64::new(0)));
        let clock = {
            let moved = Arc::clone(&moved);
            move || now(base, started, &moved)
        };
        let task = worker::run(Arc::clone(&stage.leader.context), received, clock);
        Self {
            triggers,
            started,
            base,
            moved,
            _task: AbortOnDropHandle::new(tokio::spawn(task)),
        }
    }

    fn now(&self) -> Timestamp {
        now(self.base, self.started, &self.moved)
    }

    fn move_to(&self, at: Timestamp) {
        let seconds = at.duration_since(self.now()).as_secs();
        self.moved.fetch_add(seconds, Ordering::SeqCst);
    }
}

fn now(base: Timestamp, started: Instant, moved: &AtomicI64) -> Timestamp {
    let elapsed = SignedDuration::try_from(started.elapsed()).unwrap();
    base + elapsed + SignedDuration::from_secs(moved.load(Ordering::SeqCst))
}

async fn milliseconds(count: u64) {
    tokio::time::sleep(Duration::from_millis(count)).await;
}

/// Charges that are open in the records of a month, and days that are posted.
fn on_record(stage: &Stage, month: &str) -> (usize, usize) {
    let records: Vec<SpendRecord> = stage.world.server.objects();
    let of_month = records.iter().filter(|record| record.spec.month == month);
    let accounts = of_month.map(|record| record.to_account().unwrap());
    accounts.fold((0, 0), |(open, days), account| {
        (
            open + account.open_charges().len(),
            days + account.days().len(),
        )
    })
}

#[tokio::test(start_paused = true)]
async fn a_month_s_start_and_a_day_s_end_of_a_thousand_accounts_delay_no_decision() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create_chat(0).await;
    stage.seconds(3).await;
    for number in 0..1000 {
        let name = format!("bulk-{number}");
        bind_pod(&stage, &name, &name).await;
    }
    stage.leader.fill_caches(&View::of(&stage.world));
    stage.leader.sync_accounts(&stage.world).await.unwrap();
    let worker = Worker::start(&mut stage, at("2026-11-30T23:59:55Z"));
    milliseconds(2_000).await;
    assert_eq!(on_record(&stage, "2026-11"), (1000, 0));
    stage.leader.faults.set_write_fault(RECORDS, Some(SLOW));
    milliseconds(2_000).await;
    let context = Arc::clone(&stage.leader.context);
    for (time, requests, wanted, month) in [
        ("2026-12-01T00:00:01Z", 1, 1, "2026-12"),
        ("2026-12-01T01:00:01Z", 8, 2, "2026-11"),
    ] {
        worker.move_to(at(time));
        milliseconds(1_000).await;
        let (_, posted) = on_record(&stage, "2026-11");
        let (carried, _) = on_record(&stage, "2026-12");
        assert!(carried < 1000 || posted < 1000, "{month} is under way");
        stage.world.requests = requests;
        stage.world.now = worker.now();
        stage.leader.receive_demand(&stage.world);
        let began = Instant::now();
        stage.leader.decide(worker.now()).await.unwrap();
        assert!(began.elapsed() < Duration::from_millis(100));
        assert_eq!(replicas(&stage, "chat"), Some(wanted));
        // neither does its account wait for the others'
        bind_pod(&stage, "chat", &format!("chat-{wanted}")).await;
        stage.leader.fill_caches(&View::of(&stage.world));
        worker
            .triggers
            .send(Trigger::Workload(workload("chat")))
            .unwrap();
        milliseconds(200).await;
        let chat = view(&context, &workload("chat"), worker.now());
        let open = chat.accounts.values().next_back().unwrap().open_charges();
        assert_eq!(open.len(), wanted as usize);
        milliseconds(30_000).await;
    }
    assert_eq!(on_record(&stage, "2026-11"), (0, 1001), "all are posted");
    assert_eq!(on_record(&stage, "2026-12").0, 1002);
    let most = stage.leader.faults.most_in_flight(RECORDS);
    assert!((2..=8).contains(&most), "{most} writes at a time");
}

/// Case M9.
#[tokio::test(start_paused = true)]
async fn charges_of_a_namespace_that_went_while_nobody_looked_have_ended() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.now = at("2026-12-02T10:00:00Z");
    stage.world.server.set_clock(stage.world.now);
    stage.world.create_foreign_pod("notebook").await;
    stage.seconds(2).await;
    assert_eq!(on_record(&stage, "2026-12").0, 1);
    let pod = stage.world.pods().remove(0);
    stage.world.remove(&pod).await;
    stage.leader = Leader::new(&stage.world, Faults::default());
    let worker = Worker::start(&mut stage, at("2026-12-02T10:01:00Z"));
    milliseconds(1_000).await;
    assert_eq!(on_record(&stage, "2026-12"), (0, 1));
    let record = |stage: &Stage| stage.world.records()[0].status.clone().unwrap();
    let settled = record(&stage).settled;
    worker.move_to(at("2026-12-20T10:00:00Z"));
    milliseconds(10_000).await;
    assert_eq!(record(&stage).settled, settled);
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_events_on_one_account_is_one_sync_at_a_time_and_the_newest_state_wins() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create_chat(0).await;
    stage.seconds(3).await;
    let now = stage.world.now;
    let worker = Worker::start(&mut stage, now);
    milliseconds(1_000).await;
    stage.leader.faults.set_write_fault(RECORDS, Some(SLOW));
    let before = stage.leader.faults.writes();
    for number in 0..20 {
        bind_pod(&stage, "chat", &format!("chat-{number}")).await;
        stage.leader.fill_caches(&View::of(&stage.world));
        for _ in 0..5 {
            let trigger = Trigger::Workload(workload("chat"));
            worker.triggers.send(trigger).unwrap();
        }
        milliseconds(5).await;
    }
    milliseconds(300).await;
    assert_eq!(on_record(&stage, "2026-11").0, 20);
    assert_eq!(stage.leader.faults.most_in_flight(RECORDS), 1);
    let writes = stage.leader.faults.writes() - before;
    assert!((2..=5).contains(&writes), "{writes} writes");
}

#[tokio::test]
async fn what_cannot_be_written_stops_for_money_all_the_same_and_is_said_to_be_in_doubt() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.now = at("2026-12-10T00:00:00Z");
    stage.world.set_limit("0.2").await;
    stage.world.create_chat(1).await;
    stage.world.requests = 1;
    stage.seconds(6).await;
    let refused = Some(WriteFault::Refused);
    stage.leader.faults.set_write_fault(RECORDS, refused);
    stage.world.requests = 8;
    troubled(&mut stage, 8).await;
    assert_eq!(replicas(&stage, "chat"), Some(2), "it has not lasted");
    let unwritten = || stage.leader.context.metrics.unwritten_accounts.get();
    assert_eq!(unwritten(), 1);
    assert_eq!(on_record(&stage, "2026-12").0, 1, "one of them is not");
    troubled(&mut stage, 6).await;
    stage.world.requests = 12;
    troubled(&mut stage, 4).await;
    assert_eq!(replicas(&stage, "chat"), Some(2), "nothing new starts");
    let condition = |stage: &Stage| {
        let budget: BudgetPolicy = stage.world.server.objects().remove(0);
        let conditions = budget.status.unwrap().conditions;
        let recorded = conditions
            .into_iter()
            .find(|each| each.type_ == "SpendRecorded");
        let recorded = recorded.unwrap();
        (recorded.status, recorded.reason, recorded.message)
    };
    let (status, reason, message) = condition(&stage);
    assert_eq!(
        (status.as_str(), reason.as_str()),
        ("False", "SpendUnknown")
    );
    assert!(
        message.contains("infd/chat: its cost has not been on record since 2026-12-10T00:00:0")
    );
    let service: InferenceDeployment = stage.world.server.objects().remove(0);
    let conditions = service.status.unwrap().conditions;
    let priced = conditions.iter().find(|each| each.type_ == "Priced");
    assert_eq!(priced.unwrap().reason, "SpendUnknown");
    troubled(&mut stage, 100).await;
    assert_eq!(replicas(&stage, "chat"), Some(0), "the money is gone");
    assert!(stage.world.pods().iter().all(crate::pod::is_terminal));
    let cost = stage.world.cost()["chat"];
    assert!((100_000_000..=200_000_000).contains(&cost), "{cost}");
    assert_eq!(stage.world.recorded(), Default::default());
    stage.leader.faults.set_write_fault(RECORDS, None);
    stage.world.requests = 0;
    stage.seconds(5).await;
    assert_eq!(stage.world.recorded()["chat"], cost, "to the nano-unit");
    assert_eq!(stage.leader.context.metrics.unwritten_accounts.get(), 0);
    assert_eq!(condition(&stage).0, "True");
    assert!(stage.world.pods().is_empty());
}

#[tokio::test]
async fn a_charge_that_cannot_be_opened_counts_by_what_the_caches_say() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.now = at("2026-12-10T00:00:00Z");
    stage.world.admission = false;
    let refused = Some(WriteFault::Refused);
    // a charge is opened only for a pod that has the finalizer
    stage.leader.faults.set_write_fault("pods", refused);
    stage.world.create_chat(1).await;
    troubled(&mut stage, 10).await;
    assert_eq!(on_record(&stage, "2026-12").0, 0);
    let (context, now) = (Arc::clone(&stage.leader.context), stage.world.now);
    let (bound, _) = stage.world.times()[0];
    let month = Month::containing(now, &TimeZone::UTC).bounds(&TimeZone::UTC);
    let views = context.ledger.views(NAMESPACE);
    let costs = views
        .iter()
        .map(|view| sum(&view.accounts, month, now, &TimeZone::UTC).cost);
    let spent: i128 = costs.map(|cost| cost.total().nanos()).sum();
    let seconds = now.duration_since(bound).as_secs();
    assert_eq!(spent, i128::from(seconds) * 1_000_000);
    assert_eq!(context.metrics.unwritten_accounts.get(), 1);
    stage.leader.faults.set_write_fault("pods", None);
    stage.seconds(1).await;
    assert_eq!(on_record(&stage, "2026-12").0, 1);
}

#[tokio::test]
async fn a_first_pod_waits_for_its_own_record_alone_and_not_for_ever() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create_chat(0).await;
    stage.seconds(3).await;
    let refused = Some(WriteFault::Refused);
    stage.leader.faults.set_write_fault(RECORDS, refused);
    let mut other: InferenceDeployment = stage.world.server.objects().remove(0);
    let template = other.spec.template.take();
    let spec = json!({"engine": "vLLM", "minReplicas": 1, "maxReplicas": 1, "template": template});
    stage
        .world
        .create::<InferenceDeployment>(json!({"metadata": {"name": "other"}, "spec": spec}))
        .await;
    stage.world.requests = 1;
    troubled(&mut stage, 2).await;
    assert_eq!(replicas(&stage, "chat"), Some(1), "it has a record");
    assert_eq!(replicas(&stage, "other"), None);
    troubled(&mut stage, 7).await;
    assert_eq!(replicas(&stage, "other"), None, "it has none yet");
    troubled(&mut stage, 3).await;
    assert_eq!(replicas(&stage, "other"), Some(1));
}

#[tokio::test]
async fn a_first_pod_starts_as_soon_as_its_record_is_there() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create_chat(1).await;
    stage.world.turn().await;
    stage.leader.fill_caches(&View::of(&stage.world));
    let now = stage.world.now;
    stage.leader.decide(now).await.unwrap();
    assert_eq!(replicas(&stage, "chat"), None, "no record yet");
    stage.leader.sync_accounts(&stage.world).await.unwrap();
    // no cache shows the record yet, nor the status
    stage.leader.decide(now).await.ok();
    assert_eq!(replicas(&stage, "chat"), Some(1));
}

#[tokio::test]
async fn a_budget_s_new_period_begins_although_no_account_was_synced_since() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.set_limit("100").await;
    stage.world.create_chat(1).await;
    stage.seconds(20).await;
    let half_a_minute = at("2026-12-01T00:00:30Z");
    stage.leader.decide(half_a_minute).await.unwrap();
    let budget: BudgetPolicy = stage.world.server.objects().remove(0);
    let status = budget.status.unwrap();
    assert_eq!(status.period_start.unwrap().0, at("2026-12-01T00:00:00Z"));
    assert_eq!(status.spent, "0.0300", "a GPU costs 0.001 a second");
}

#[tokio::test]
async fn a_workload_that_is_gone_gets_no_records_of_later_months() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create_chat(1).await;
    stage.seconds(10).await;
    stage.world.delete::<InferenceDeployment>("chat").await;
    stage.seconds(10).await;
    stage.world.now = at("2026-12-02T02:00:00Z");
    stage.seconds(3).await;
    let records: Vec<SpendRecord> = stage.world.server.objects();
    let names: Vec<String> = records.iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, ["team.infd.chat.2026-11"]);
}

#[tokio::test]
async fn a_service_that_cannot_be_read_is_not_gone_and_gets_records_of_later_months() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create_chat(1).await;
    stage.seconds(10).await;
    stage.world.delete::<InferenceDeployment>("chat").await;
    let metadata = json!({"name": "chat", "namespace": NAMESPACE});
    note_unreadable::<InferenceDeployment>(&stage.leader.context, &metadata);
    stage.seconds(10).await;
    stage.world.now = at("2026-12-02T02:00:00Z");
    stage.seconds(3).await;
    let records: Vec<SpendRecord> = stage.world.server.objects();
    let mut names: Vec<String> = records.iter().map(ResourceExt::name_any).collect();
    names.sort();
    assert_eq!(names, ["team.infd.chat.2026-11", "team.infd.chat.2026-12"]);
}

#[tokio::test(start_paused = true)]
async fn an_account_whose_only_record_was_never_read_is_in_doubt_until_the_record_is_gone() {
    let mut stage = Stage::new(Faults::default()).await;
    let (context, now) = (Arc::clone(&stage.leader.context), stage.world.now);
    let name = "team.infd.old.2026-11";
    note_unreadable::<SpendRecord>(&context, &json!({"name": name}));
    let _worker = Worker::start(&mut stage, now);
    milliseconds(1_000).await;
    let why = doubts(&context, now);
    assert!(why.len() == 1 && why[0].contains(name), "{why:?}");
    // no watch was there to tell
    context.unreadable.remove::<SpendRecord>("", name);
    milliseconds(60_000).await;
    assert_eq!(doubts(&context, now), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_consolidated_record_is_synced_as_soon_as_that_can_be_read() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create_chat(0).await;
    let (context, now) = (Arc::clone(&stage.leader.context), stage.world.now);
    let name = "team.ns.team.2026-10";
    note_unreadable::<SpendRecord>(&context, &json!({"name": name}));
    let worker = Worker::start(&mut stage, now);
    milliseconds(20_000).await;
    let why = doubts(&context, now);
    assert!(why.len() == 1 && why[0].contains(name), "{why:?}");
    context.unreadable.remove::<SpendRecord>("", name);
    milliseconds(500).await;
    assert_eq!(doubts(&context, now).len(), 1, "it waits after a failure");
    let all = Trigger::Accounts(NAMESPACE.to_owned());
    worker.triggers.send(all).unwrap();
    milliseconds(500).await;
    assert_eq!(doubts(&context, now), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn events_about_a_whole_namespace_sync_its_accounts_ten_times_a_second_at_most() {
    let mut stage = Stage::new(Faults::default()).await;
    for number in 0..5 {
        let name = format!("bulk-{number}");
        bind_pod(&stage, &name, &name).await;
    }
    let now = stage.world.now;
    let worker = Worker::start(&mut stage, now);
    milliseconds(2_000).await;
    let label = ResultLabel { result: "ok" };
    let syncs = &stage.leader.context.metrics.account_syncs;
    let before = syncs.get_or_create(&label).get();
    for _ in 0..50 {
        let trigger = Trigger::Accounts(NAMESPACE.to_owned());
        worker.triggers.send(trigger).unwrap();
        milliseconds(10).await;
    }
    milliseconds(1_000).await;
    let count = syncs.get_or_create(&label).get() - before;
    assert!((5..=5 * 7).contains(&count), "{count} syncs");
}
