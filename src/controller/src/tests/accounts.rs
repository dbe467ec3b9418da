//! What accounts say of lifetimes that outlast days and months, and of pods that no workload made.

use bursar_api::SpendRecord;
use bursar_api::spend::WorkloadKind;
use bursar_api::{BudgetPolicy, InferenceDeployment, PriceList};
use bursar_apitest::faults::{CrashPoint, Faults};
use bursar_core::ledger::Account;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;

use super::sweep::{Stage, Story, every_competing_write, every_crash};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn accounts(stage: &Stage, kind: WorkloadKind) -> Vec<Account> {
    let records: Vec<SpendRecord> = stage.world.server.objects();
    let ours = records.iter().filter(|record| record.spec.kind == kind);
    ours.map(|record| record.to_account().unwrap()).collect()
}

/// From the last minute of November into the third of December; the world's journal says what it must have cost.
fn long_lifetime(stage: &mut Stage) -> LocalBoxFuture<'_, ()> {
    async move {
        stage.world.create_chat(1).await;
        stage.seconds(20).await;
        for morning in [
            "2026-12-01T01:30:00Z",
            "2026-12-02T01:30:00Z",
            "2026-12-03T01:30:00Z",
        ] {
            stage.world.now = at(morning);
            stage.seconds(4).await;
        }
        stage.world.delete::<InferenceDeployment>("chat").await;
    }
    .boxed_local()
}

#[tokio::test]
async fn days_are_posted_and_a_crash_at_any_write_changes_nothing_in_the_end() {
    every_crash(long_lifetime).await;
}

#[tokio::test]
async fn days_are_posted_and_a_competing_write_before_any_write_changes_nothing_in_the_end() {
    every_competing_write(long_lifetime).await;
}

#[tokio::test]
async fn a_month_that_is_over_drops_the_charges_of_pods_that_run_on() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create_chat(1).await;
    stage.seconds(20).await;
    let open = |stage: &Stage| -> Vec<usize> {
        let accounts = accounts(stage, WorkloadKind::InferenceDeployment);
        accounts
            .iter()
            .map(|account| account.open_charges().len())
            .collect()
    };
    assert_eq!(open(&stage), [1]);
    stage.world.now = at("2026-12-01T00:30:00Z");
    stage.seconds(3).await;
    assert_eq!(open(&stage), [1, 1], "within the hour nothing is booked");
    stage.world.now = at("2026-12-01T01:00:01Z");
    stage.seconds(3).await;
    assert_eq!(open(&stage), [0, 1]);
    let november = &accounts(&stage, WorkloadKind::InferenceDeployment)[0];
    assert!(november.settling().is_empty() && november.days().len() == 1);
}

/// Nothing has a price when a service begins.
fn prices_that_come_late(stage: &mut Stage) -> LocalBoxFuture<'_, ()> {
    async move {
        stage.world.delete_prices().await;
        stage.world.create_chat(1).await;
        stage.seconds(10).await;
        stage.world.create_prices().await;
        stage.seconds(10).await;
        stage.world.delete::<InferenceDeployment>("chat").await;
    }
    .boxed_local()
}

#[tokio::test]
async fn a_record_made_before_any_price_is_known_takes_the_currency_of_the_first() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.delete_prices().await;
    stage.world.create_chat(1).await;
    stage.seconds(10).await;
    let currency = |stage: &Stage| stage.world.records()[0].spec.currency.clone();
    assert_eq!(currency(&stage), "");
    stage.world.create_prices().await;
    stage.seconds(2).await;
    assert_eq!(currency(&stage), "USD");
    // and is kept in it
    let spec = json!({"currency": "EUR", "gpus": [{"model": "H100", "pricePerHour": "7.2"}]});
    let list = json!({"metadata": {"name": "first"}, "spec": spec});
    stage.world.create_all::<PriceList>(list).await;
    stage.seconds(2).await;
    let account = &accounts(&stage, WorkloadKind::InferenceDeployment)[0];
    let charge = account.open_charges().values().next().unwrap();
    assert_eq!(
        (currency(&stage).as_str(), charge.rates().len()),
        ("USD", 1)
    );
}

#[tokio::test]
async fn prices_come_late_and_a_crash_at_any_write_changes_nothing_in_the_end() {
    every_crash(prices_that_come_late).await;
}

/// A service that has no price in November, where accounts are in euros, and one in dollars from
/// December on. It lives into the next year.
fn another_currency(stage: &mut Stage) -> LocalBoxFuture<'_, ()> {
    async move {
        stage.world.delete_prices().await;
        let spec = json!({"currency": "EUR", "gpus": [{"model": "A100", "pricePerHour": "1"}]});
        let list = json!({"metadata": {"name": "euros"}, "spec": spec});
        stage.world.create_all::<PriceList>(list).await;
        stage.world.create_chat(0).await;
        stage.seconds(3).await;
        stage.world.delete_all::<PriceList>("euros").await;
        stage.world.requests = 1;
        stage.seconds(10).await;
        stage.world.create_prices().await;
        for night in [
            "2026-12-01T00:30:00Z",
            "2027-01-01T00:30:00Z",
            "2027-01-01T01:30:00Z",
        ] {
            stage.world.now = at(night);
            stage.seconds(4).await;
        }
    }
    .boxed_local()
}

#[tokio::test]
async fn a_month_is_posted_once_though_an_earlier_one_never_gets_a_price() {
    let mut stage = Stage::new(Faults::default()).await;
    another_currency(&mut stage).await;
    let writes = stage.leader.faults.writes();
    for write in 0..writes {
        for moment in [CrashPoint::Before, CrashPoint::After] {
            let mut stage = Stage::new(Faults::crash(write, moment)).await;
            another_currency(&mut stage).await;
            let died = format!("it died {moment:?} write {write} of {writes}");
            let open = |stage: &Stage| -> Vec<usize> {
                let accounts = accounts(stage, WorkloadKind::InferenceDeployment);
                accounts
                    .iter()
                    .map(|account| account.open_charges().len())
                    .collect()
            };
            let open_in_january = open(&stage);
            stage.world.delete::<InferenceDeployment>("chat").await;
            stage.seconds(10).await;
            let (_, ended) = stage.world.times()[0];
            let (december, january) = (at("2026-12-01T00:00:00Z"), at("2027-01-01T00:00:00Z"));
            let ended = ended.expect("it is gone");
            let cost: Vec<i128> = accounts(&stage, WorkloadKind::InferenceDeployment)
                .iter()
                .map(|account| account.settled_total().nanos())
                .collect();
            let expected = [0, seconds(december, january), seconds(january, ended)];
            assert_eq!(cost, expected, "{died}");
            assert_eq!(open_in_january, [1, 0, 1], "{died}");
            assert_eq!(open(&stage), [0, 0, 0], "{died}");
        }
    }
}

#[tokio::test]
async fn a_month_is_posted_when_prices_are_in_its_currency_again() {
    let mut stage = Stage::new(Faults::default()).await;
    another_currency(&mut stage).await;
    stage.world.delete_prices().await;
    let spec = json!({"currency": "EUR", "gpus": [{"model": "H100", "pricePerHour": "3.6"}]});
    let list = json!({"metadata": {"name": "euros"}, "spec": spec});
    stage.world.create_all::<PriceList>(list).await;
    for night in ["2027-02-01T00:30:00Z", "2027-02-01T01:30:00Z"] {
        stage.world.now = at(night);
        stage.seconds(4).await;
    }
    let accounts = accounts(&stage, WorkloadKind::InferenceDeployment);
    let open: Vec<usize> = accounts
        .iter()
        .map(|account| account.open_charges().len())
        .collect();
    assert_eq!(open, [0, 0, 0, 1]);
    let (bound, _) = stage.world.times()[0];
    let cost = accounts[0].settled_total().nanos();
    assert_eq!(cost, seconds(bound, at("2026-12-01T00:00:00Z")));
}

#[tokio::test]
async fn a_pod_first_seen_after_the_currency_changed_has_no_price_in_the_month_before() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create_foreign_pod("notebook").await;
    stage.seconds(6).await;
    // bound in November, whose account is in dollars
    stage.world.create_foreign_pod("other").await;
    stage.world.delete_prices().await;
    let spec = json!({"currency": "EUR", "gpus": [{"model": "H100", "pricePerHour": "7.2"}]});
    let list = json!({"metadata": {"name": "euros"}, "spec": spec});
    stage.world.create_all::<PriceList>(list).await;
    stage.world.now = at("2026-12-01T00:00:05Z");
    stage.seconds(3).await;
    let accounts = accounts(&stage, WorkloadKind::Unmanaged);
    let rates = |account: &Account, pod: &str| -> Vec<String> {
        let mut open = account.open_charges().values();
        let charge = open.find(|charge| charge.pod() == pod).unwrap();
        let rates = charge.rates().iter();
        rates
            .map(|rate| rate.quote.cost.total().to_string())
            .collect()
    };
    let (november, december) = (&accounts[0], &accounts[1]);
    assert_eq!(rates(november, "notebook"), ["3.60"]);
    assert_eq!(rates(november, "other"), [""; 0]);
    assert_eq!(rates(december, "other"), ["7.20"]);
}

/// What services at zero saved by the records, in nano-units, by month.
fn saved(stage: &Stage, now: Timestamp) -> Vec<i128> {
    let accounts = accounts(stage, WorkloadKind::InferenceDeployment);
    let bounds = |account: &Account| account.month().bounds(&TimeZone::UTC);
    accounts
        .iter()
        .map(|account| {
            let sum = account.sum(bounds(account), now, &TimeZone::UTC);
            sum.saved.nanos()
        })
        .collect()
}

/// At 3.6 an hour a second is worth 10⁶ nano-units.
fn seconds(from: Timestamp, to: Timestamp) -> i128 {
    i128::from(to.duration_since(from).as_secs()) * 1_000_000
}

#[tokio::test]
async fn a_service_at_zero_replicas_saves_its_last_replica_until_the_next_is_bound() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create_chat(0).await;
    stage.seconds(3).await;
    assert_eq!(saved(&stage, stage.world.now), [0], "nothing ever ran");
    stage.world.requests = 2;
    stage.seconds(6).await;
    stage.world.requests = 0;
    stage.seconds(20).await;
    let (_, ended) = stage.world.times()[0];
    let ended = ended.expect("it is at zero");
    assert_eq!(
        saved(&stage, stage.world.now),
        [seconds(ended, stage.world.now)]
    );
    let turn = at("2026-12-01T00:00:00Z");
    stage.world.now = at("2026-12-01T01:30:00Z");
    stage.seconds(4).await;
    let rests = accounts(&stage, WorkloadKind::InferenceDeployment);
    let rests: Vec<bool> = rests
        .iter()
        .map(|account| account.zero_replica_period().is_some())
        .collect();
    assert_eq!(rests, [false, true], "the month that is over is done");
    stage.world.requests = 2;
    stage.seconds(6).await;
    let (bound, _) = stage.world.times()[1];
    let whole = [seconds(ended, turn), seconds(turn, bound)];
    assert_eq!(saved(&stage, stage.world.now), whole);
    stage.world.now = at("2026-12-01T03:00:00Z");
    assert_eq!(saved(&stage, stage.world.now), whole, "it is over");
}

#[tokio::test]
async fn a_service_that_money_keeps_at_zero_or_that_is_gone_saves_nothing() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create_chat(0).await;
    stage.world.requests = 2;
    stage.seconds(9).await;
    stage.world.set_limit("0.01").await;
    stage.seconds(20).await;
    assert!(stage.world.pods().is_empty(), "the budget is exhausted");
    assert_eq!(saved(&stage, stage.world.now), [0]);

    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create_chat(0).await;
    stage.world.requests = 2;
    stage.seconds(9).await;
    stage.world.requests = 0;
    stage.seconds(20).await;
    stage.world.delete::<InferenceDeployment>("chat").await;
    stage.seconds(2).await;
    let then = saved(&stage, stage.world.now);
    assert!(then[0] > 0);
    stage.seconds(20).await;
    assert_eq!(saved(&stage, stage.world.now), then);
}

#[tokio::test]
async fn a_pod_that_no_workload_made_is_charged_to_its_namespace_and_held_by_nothing() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.now = at("2026-12-10T00:00:00Z");
    stage.seconds(1).await;
    stage.world.set_limit("100").await;
    stage.world.create_foreign_pod("notebook").await;
    stage.seconds(30).await;
    let pod = &stage.world.pods()[0];
    assert!(
        pod.finalizers().is_empty(),
        "only its namespace can ask for that"
    );
    let open = accounts(&stage, WorkloadKind::Unmanaged)[0]
        .open_charges()
        .clone();
    assert_eq!(
        open[pod.metadata.uid.as_ref().unwrap()].owner(),
        Some("Pod/notebook")
    );
    let pod = pod.clone();
    stage.world.remove(&pod).await;
    stage.seconds(2).await;
    let account = &accounts(&stage, WorkloadKind::Unmanaged)[0];
    let (sku, line) = &account.days().values().next().unwrap()[0];
    assert_eq!(
        (account.open_charges().len(), sku.owner.as_deref()),
        (0, Some("Pod/notebook"))
    );
    // its end was seen by nobody, so all of it is estimated
    assert!(line.cost.total() >= "0.03".parse().unwrap() && line.estimated == line.cost.total());
    let budget = &stage.world.server.objects::<BudgetPolicy>()[0];
    let spent = budget.status.as_ref().map(|status| status.spent.clone());
    assert_ne!(
        spent.as_deref(),
        Some("0.0000"),
        "a team's month is the team's month"
    );
}

/// A replica ends in the last seconds of November: by then a clock that runs ahead has December.
fn ended_at_the_turn(stage: &mut Stage) -> LocalBoxFuture<'_, ()> {
    async move {
        stage.world.create_chat(1).await;
        stage.seconds(20).await;
        stage.world.now = at("2026-11-30T23:59:52Z");
        stage.world.delete::<InferenceDeployment>("chat").await;
        stage.seconds(7).await;
        let end = stage.world.times()[0].1.unwrap();
        assert!(at("2026-11-30T23:59:55Z") <= end && end < at("2026-12-01T00:00:00Z"));
        stage.seconds(6).await;
    }
    .boxed_local()
}

/// A replica ends in November, and nobody looks before December.
fn ended_while_nobody_looked(stage: &mut Stage) -> LocalBoxFuture<'_, ()> {
    async move {
        stage.world.create_chat(1).await;
        stage.seconds(20).await;
        stage.world.delete::<InferenceDeployment>("chat").await;
        unwatched(stage, 7).await;
        stage.world.now = at("2026-12-01T00:10:00Z");
        stage.seconds(6).await;
    }
    .boxed_local()
}

/// A replica is bound and ends in November, and nobody looks before December: it has no charge yet.
fn bound_and_ended_while_nobody_looked(stage: &mut Stage) -> LocalBoxFuture<'_, ()> {
    async move {
        stage.world.create_chat(1).await;
        while stage.world.server.objects::<Deployment>().is_empty() {
            stage.seconds(1).await;
        }
        while stage.world.lifetimes() == 0 {
            unwatched(stage, 1).await;
        }
        stage.world.delete::<InferenceDeployment>("chat").await;
        unwatched(stage, 7).await;
        assert_eq!(
            accounts(stage, WorkloadKind::InferenceDeployment)[0]
                .open_charges()
                .len(),
            0
        );
        stage.world.now = at("2026-12-01T00:10:00Z");
        stage.seconds(6).await;
    }
    .boxed_local()
}

/// Seconds pass in which no controller is there.
async fn unwatched(stage: &mut Stage, seconds: usize) {
    for _ in 0..seconds {
        stage.world.turn().await;
    }
}

#[tokio::test]
async fn a_pod_that_ended_near_a_month_s_end_is_settled_whenever_the_controller_crashes() {
    for story in [
        ended_at_the_turn as Story,
        ended_while_nobody_looked,
        bound_and_ended_while_nobody_looked,
    ] {
        every_crash(story).await;
    }
}

#[tokio::test]
async fn a_pod_that_ended_near_a_month_s_end_is_settled_whoever_else_writes() {
    for story in [
        ended_at_the_turn as Story,
        ended_while_nobody_looked,
        bound_and_ended_while_nobody_looked,
    ] {
        every_competing_write(story).await;
    }
}

/// GPU-seconds of the namespace's other pods by the records, by month.
fn gpu_seconds(stage: &Stage) -> Vec<i64> {
    let accounts = accounts(stage, WorkloadKind::Unmanaged);
    let lines = accounts
        .iter()
        .map(|account| account.daily_costs(stage.world.now, &TimeZone::UTC));
    lines
        .map(|lines| lines.values().map(|line| line.gpu_seconds).sum())
        .collect()
}

/// A pod that nothing holds runs from the last minute of November into December; nobody looks in the first five seconds of that.
async fn notebook_in_december(stage: &mut Stage) -> Pod {
    stage.world.create_foreign_pod("notebook").await;
    stage.seconds(6).await;
    stage.world.now = at("2026-12-01T00:00:05Z");
    stage.world.pods()[0].clone()
}

fn gone_unseen(stage: &mut Stage) -> LocalBoxFuture<'_, ()> {
    async move {
        let pod = notebook_in_december(stage).await;
        stage.world.remove(&pod).await;
        stage.seconds(6).await;
    }
    .boxed_local()
}

/// It is seen for a second after its end.
fn gone_when_seen(stage: &mut Stage) -> LocalBoxFuture<'_, ()> {
    async move {
        let pod = notebook_in_december(stage).await;
        let bound = pod.creation_timestamp().unwrap().0;
        stage.world.end(&pod, bound).await;
        stage.seconds(1).await;
        stage.world.remove(&pod).await;
        stage.seconds(6).await;
    }
    .boxed_local()
}

#[tokio::test]
async fn a_pod_that_nothing_holds_costs_in_both_months_whenever_the_controller_crashes() {
    for story in [gone_unseen, gone_when_seen] {
        let mut stage = Stage::new(Faults::default()).await;
        let turn = at("2026-12-01T00:00:00Z");
        let november = turn.duration_since(stage.world.now).as_secs();
        story(&mut stage).await;
        let writes = stage.leader.faults.writes();
        for write in 0..writes {
            for moment in [CrashPoint::Before, CrashPoint::After] {
                let mut stage = Stage::new(Faults::crash(write, moment)).await;
                story(&mut stage).await;
                let seconds = gpu_seconds(&stage);
                let died = format!("it died {moment:?} write {write} of {writes}: {seconds:?}");
                assert_eq!(seconds.len(), 2, "{died}");
                assert!((november - 2..=november).contains(&seconds[0]), "{died}");
                assert!((5..=11).contains(&seconds[1]), "{died}");
            }
        }
    }
}
