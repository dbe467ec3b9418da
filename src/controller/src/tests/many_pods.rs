//! Accounts of more pods than anybody thought of, and pods whose labels say what is not so.

use std::collections::BTreeMap;

use bursar_api::spend::{WorkloadKind, WorkloadRef};
use bursar_api::{PriceList, SpendRecord};
use bursar_apitest::faults::{CrashPoint, Faults};
use bursar_core::calendar::{Interval, Month};
use bursar_core::ledger::Account;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::leader::{Leader, View};
use super::sweep::Stage;
use super::world::NAMESPACE;
use crate::ledger::{NamespaceInputs, worker};

const PRICE_AN_HOUR: &str = "3.6";
/// What etcd takes as one object.
pub(super) const ETCD_BYTES: usize = 1_572_864;

async fn stage(now: &str) -> Stage {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.now = now.parse().unwrap();
    stage.world.server.set_clock(stage.world.now);
    stage
}

fn accounts(stage: &Stage) -> Vec<Account> {
    let records: Vec<SpendRecord> = stage.world.server.objects();
    records
        .iter()
        .map(|record| record.to_account().unwrap())
        .collect()
}

fn bytes_of_the_largest(stage: &Stage) -> usize {
    let records: Vec<SpendRecord> = stage.world.server.objects();
    let bytes = records
        .iter()
        .map(|record| serde_json::to_vec(record).unwrap().len());
    bytes.max().unwrap_or(0)
}

/// GPU-seconds that count for the budget, on record or not.
pub(super) fn counted_gpu_seconds(stage: &Stage) -> i64 {
    let (now, zone) = (stage.world.now, TimeZone::UTC);
    let month = Month::containing(now, &zone).bounds(&zone);
    let within = Interval {
        start: month.start,
        end: month.end,
    };
    let views = stage.leader.context.ledger.by_namespace();
    let views = views.into_values().flatten().map(|(_, view)| view);
    views
        .map(|view| crate::ledger::sum(&view.accounts, within, now, &zone).gpu_seconds)
        .sum()
}

async fn sync(stage: &mut Stage) -> Result<(), String> {
    stage.leader.fill_caches(&View::of(&stage.world));
    let synced = stage.leader.sync_accounts(&stage.world).await;
    synced.map_err(|error| error.to_string())
}

/// A GPU pod that runs, with this much of an owner's name.
async fn create_owned_pod(stage: &Stage, name: &str, owner: &str) {
    let owner = json!([{"apiVersion": "v1", "kind": "Notebook", "name": owner, "uid": "o", "controller": true}]);
    let limits = json!({"nvidia.com/gpu": "1"});
    let containers = json!([{"name": "c", "image": "engine", "resources": {"limits": limits}}]);
    let pod = json!({
        "metadata": {"name": name, "ownerReferences": owner},
        "spec": {"nodeName": "node", "containers": containers},
    });
    stage.world.create::<Pod>(pod).await;
}

async fn label(stage: &Stage, pod: &str, labels: Value) {
    let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
    let api = stage.world.api::<Pod>();
    api.patch(pod, &PatchParams::default(), &patch)
        .await
        .unwrap();
}

/// Case M1: a bound on what is remembered was a bound on what ends.
#[tokio::test]
async fn an_ended_pod_is_settled_however_many_others_nobody_deletes() {
    let mut stage = stage("2026-11-10T10:00:00Z").await;
    for number in 0..1_001 {
        stage
            .world
            .create_foreign_pod(&format!("notebook-{number}"))
            .await;
    }
    let bound = stage.world.now;
    // some were seen while they ran, some were not
    sync(&mut stage).await.unwrap();
    stage.world.create_foreign_pod("late").await;
    stage.world.now = bound + SignedDuration::from_mins(1);
    for pod in stage.world.pods() {
        stage.world.end(&pod, bound).await;
    }
    stage.world.now = bound + SignedDuration::from_hours(10);
    sync(&mut stage).await.unwrap();
    sync(&mut stage).await.unwrap();
    let account = &accounts(&stage)[0];
    assert_eq!(
        (account.open_charges().len(), account.settling().len()),
        (0, 1_002)
    );
    assert_eq!(counted_gpu_seconds(&stage), 60 * 1_002);
    let settled = account.settled_total();
    assert_eq!(
        settled,
        "60.12".parse().unwrap(),
        "at {PRICE_AN_HOUR} an hour"
    );
}

/// Case M13: a record that outgrows etcd takes nothing in any more, and lets nothing end.
#[tokio::test]
async fn pods_for_which_a_record_has_no_room_count_all_the_same_and_the_others_end() {
    let mut stage = stage("2026-11-10T10:00:00Z").await;
    let bound = stage.world.now;
    for number in 0..1_500 {
        let name = format!("{number:05}-{}", "n".repeat(240));
        // no two of them have much in common
        create_owned_pod(&stage, &name, &format!("{number:05}-{}", "o".repeat(240))).await;
        let patch = Patch::Merge(json!({"spec": {"containers": [{
            "name": "c", "image": "engine",
            "resources": {"limits": {"nvidia.com/gpu": "1"}, "requests": {"cpu": format!("{}m", 1_000 + number)}},
        }]}}));
        let api = stage.world.api::<Pod>();
        api.patch(&name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }
    let full = sync(&mut stage).await.unwrap_err();
    assert!(full.contains("is full"), "{full}");
    let open = accounts(&stage)[0].open_charges().len();
    assert!((500..1_500).contains(&open), "{open}");
    assert!(bytes_of_the_largest(&stage) < ETCD_BYTES);
    stage.world.now = bound + SignedDuration::from_hours(1);
    assert_eq!(counted_gpu_seconds(&stage), 3_600 * 1_500);
    for pod in stage.world.pods().iter().take(1_200) {
        stage.world.end(pod, bound).await;
    }
    // what has ended makes room for the others
    stage.world.now = bound + SignedDuration::from_hours(2);
    sync(&mut stage).await.ok();
    sync(&mut stage).await.unwrap();
    let account = &accounts(&stage)[0];
    assert_eq!(
        (account.open_charges().len(), account.settling().len()),
        (300, 1_200)
    );
    assert_eq!(counted_gpu_seconds(&stage), 3_600 * (1_200 + 2 * 300));
}

/// Case T8.
#[tokio::test]
async fn a_label_makes_no_record() {
    let mut stage = stage("2026-11-10T10:00:00Z").await;
    let containers = json!([{"name": "c", "image": "busybox"}]);
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "node", "containers": containers}});
    stage.world.create::<Pod>(pod).await;
    for number in 0..5 {
        let labels =
            json!({"bursar.dev/kind": "TrainingJob", "bursar.dev/workload": format!("w{number}")});
        label(&stage, "p", labels).await;
        stage.seconds(2).await;
    }
    assert!(stage.world.server.objects::<SpendRecord>().is_empty());
    assert!(stage.leader.context.ledger.by_namespace().is_empty());
}

/// A sibling of case T8: labels can be changed while a pod runs.
#[tokio::test]
async fn a_pod_that_is_relabelled_stays_in_the_account_that_has_it() {
    let mut stage = stage("2026-11-10T10:00:00Z").await;
    let bound = stage.world.now;
    stage.world.create_foreign_pod("p").await;
    for number in 0..5 {
        stage.seconds(2).await;
        let labels =
            json!({"bursar.dev/kind": "TrainingJob", "bursar.dev/workload": format!("w{number}")});
        label(&stage, "p", labels).await;
    }
    let pod = stage.world.pods().remove(0);
    let seconds = stage.world.now.duration_since(bound).as_secs();
    stage.world.end(&pod, bound).await;
    stage.seconds(2).await;
    label(&stage, "p", json!({"bursar.dev/workload": "w7"})).await;
    stage.seconds(2).await;
    let accounts = accounts(&stage);
    assert_eq!(accounts.len(), 1);
    assert_eq!(counted_gpu_seconds(&stage), seconds);
}

/// Labels a pod as one of this workload.
async fn give(stage: &Stage, pod: &str, workload: &str) {
    let labels = json!({"bursar.dev/kind": "TrainingJob", "bursar.dev/workload": workload});
    label(stage, pod, labels).await;
}

fn holders(stage: &Stage) -> Vec<String> {
    let records: Vec<SpendRecord> = stage.world.server.objects();
    let open = records.iter().flat_map(|record| {
        let status = record.status.iter();
        let pods = status
            .map(|status| status.open.len() + status.settling.len())
            .sum();
        std::iter::repeat_n(record.spec.name.clone(), pods)
    });
    open.collect()
}

/// The caches of two syncs differ in the pod's labels, and the first has written nothing when the second
/// reads the records.
#[tokio::test]
async fn a_pod_that_is_relabelled_between_a_records_load_and_its_write_is_charged_once() {
    let mut stage = stage("2026-11-10T10:00:00Z").await;
    stage.world.create_foreign_pod("p").await;
    give(&stage, "p", "a").await;
    stage.seconds(1).await;
    let account = |name: &str| WorkloadRef {
        namespace: NAMESPACE.to_owned(),
        kind: WorkloadKind::TrainingJob,
        name: name.to_owned(),
    };
    stage.world.create_foreign_pod("q").await;
    give(&stage, "q", "b").await;
    let mut inputs = Vec::new();
    for workload in ["b", "c"] {
        give(&stage, "q", workload).await;
        stage.leader.fill_caches(&View::of(&stage.world));
        let (context, now) = (&stage.leader.context, stage.world.now);
        inputs.push(NamespaceInputs::load(context, NAMESPACE, now));
    }
    for (inputs, name) in inputs.iter().zip(["b", "c"]) {
        let (context, now) = (&stage.leader.context, stage.world.now);
        let synced = worker::sync_account(context, inputs, &account(name), now).await;
        synced.unwrap();
    }
    assert_eq!(holders(&stage), ["a", "b"]);
    stage.seconds(2).await;
    assert_eq!(holders(&stage), ["a", "b"], "and it stays there");
}

/// Another process opened the charge, by other labels, and the new leader's cache of records does not
/// show that yet; it may die at any write, and the pod may have ended meanwhile.
#[tokio::test]
async fn a_charge_that_two_leaders_opened_in_two_accounts_is_charged_once_whoever_dies_when() {
    for ends_early in [false, true] {
        for write in 0..12 {
            for moment in [CrashPoint::Before, CrashPoint::After] {
                let mut stage = stage("2026-11-10T10:00:00Z").await;
                let bound = stage.world.now;
                stage.world.create_foreign_pod("p").await;
                give(&stage, "p", "b").await;
                let before = View::of(&stage.world);
                stage.seconds(2).await;
                assert_eq!(holders(&stage), ["b"]);
                give(&stage, "p", "a").await;
                stage.leader = Leader::new(&stage.world, Faults::crash(write, moment));
                let mut view = View::of(&stage.world);
                view.records = before.records;
                stage.leader.reconcile(&stage.world, &view).await.ok();
                let pod = stage.world.pods().remove(0);
                if !ends_early {
                    stage.seconds(5).await;
                }
                let seconds = stage.world.now.duration_since(bound).as_secs();
                stage.world.end(&pod, bound).await;
                stage.seconds(5).await;
                stage.world.remove(&stage.world.pods().remove(0)).await;
                stage.seconds(5).await;
                let died = format!("{ends_early}, it died {moment:?} write {write}");
                assert_eq!(holders(&stage), Vec::<String>::new(), "{died}");
                let accounts = accounts(&stage);
                let lines = accounts.iter().flat_map(|account| account.days().values());
                let charged: i64 = lines.flatten().map(|(_, line)| line.gpu_seconds).sum();
                assert_eq!(charged, seconds, "{died}");
            }
        }
    }
}

/// What a pod costs by day, in nano-units: whole numbers, a calendar and nothing of Bursar's.
#[derive(Default)]
struct Counted {
    by_day: BTreeMap<String, (i64, i128)>,
}

impl Counted {
    /// A pod from `start` to `end` by this rate of nano-units an hour, rounded down since its start.
    fn add(&mut self, start: i64, end: i64, rate: i128) {
        const DAY: i64 = 86_400;
        let until = |at: i64| rate * i128::from(at - start) / 3_600;
        let mut at = start;
        while at < end {
            let next = ((at / DAY + 1) * DAY).min(end);
            let day = Timestamp::from_second(at).unwrap();
            let day = day.to_zoned(TimeZone::UTC).date().to_string();
            let sum = self.by_day.entry(day).or_default();
            sum.0 += next - at;
            sum.1 += until(next) - until(at);
            at = next;
        }
    }
}

/// A record that many jobs fill in a month: nobody deletes the pods that have ended.
#[tokio::test]
async fn a_month_of_twelve_thousand_ended_pods_and_two_thousand_that_run_is_exact_and_fits_into_a_record()
 {
    const DAYS: usize = 24;
    const ENDED: usize = 500;
    const OPEN: usize = 2_000;
    // no whole number of nano-units a second
    const RATE: i128 = 1_234_567_891;
    let mut stage = stage("2026-11-02T22:00:00Z").await;
    stage.world.delete_prices().await;
    let gpus = json!([{"model": "H100", "pricePerHour": "1.234567891"}]);
    let list = json!({"metadata": {"name": "odd"}, "spec": {"currency": "USD", "gpus": gpus}});
    stage.world.create_all::<PriceList>(list).await;
    let begin = stage.world.now;
    let set_clock = |stage: &mut Stage, at: Timestamp| {
        stage.world.now = at;
        stage.world.server.set_clock(at);
    };
    let mut counted = Counted::default();
    for day in 0..DAYS {
        let bound = begin + SignedDuration::from_hours(24 * day as i64);
        set_clock(&mut stage, bound);
        let mut names = Vec::new();
        for number in 0..ENDED {
            let name = format!("job-{day}-{number}");
            stage.world.create_foreign_pod(&name).await;
            names.push(name);
        }
        // every second one is not seen before it has ended
        if day % 2 == 0 {
            sync(&mut stage).await.unwrap();
        }
        for (number, name) in names.iter().enumerate() {
            // some past midnight
            let seconds = 1 + 17 * number as i64;
            stage.world.now = bound + SignedDuration::from_secs(seconds);
            let pod = stage.world.api::<Pod>().get(name).await.unwrap();
            stage.world.end(&pod, bound).await;
            let start = bound.as_second();
            counted.add(start, start + seconds, RATE);
        }
        set_clock(&mut stage, bound + SignedDuration::from_hours(3));
        sync(&mut stage).await.unwrap();
        sync(&mut stage).await.unwrap();
    }
    let bound = stage.world.now;
    for number in 0..OPEN {
        stage
            .world
            .create_foreign_pod(&format!("notebook-{number}"))
            .await;
    }
    sync(&mut stage).await.unwrap();
    let end = "2026-11-29T12:34:56Z".parse().unwrap();
    set_clock(&mut stage, end);
    sync(&mut stage).await.unwrap();
    for _ in 0..OPEN {
        counted.add(bound.as_second(), end.as_second(), RATE);
    }
    let account = &accounts(&stage)[0];
    assert_eq!(
        (account.open_charges().len(), account.settling().len()),
        (OPEN, DAYS * ENDED)
    );
    let mut by_day: BTreeMap<String, (i64, i128)> = BTreeMap::new();
    for ((day, _), line) in account.daily_costs(end, &TimeZone::UTC) {
        let sum = by_day.entry(day.to_string()).or_default();
        sum.0 += line.gpu_seconds;
        sum.1 += line.cost.total().nanos();
        assert_eq!(line.estimated.nanos(), 0, "{day}");
    }
    assert_eq!(by_day, counted.by_day);
    let bytes = bytes_of_the_largest(&stage);
    assert!(bytes < ETCD_BYTES, "{bytes}");
}
