//! Months that are over: folded, unfolded by what comes late, and removed when they are old.

use bursar_api::{InferenceDeployment, SpendRecord, TrainingJob};
use bursar_apitest::faults::Faults;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, PostParams};

use super::leader::{Leader, View, names};
use super::sweep::{Stage, every_competing_month_close, every_crash};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn records(stage: &Stage) -> Vec<String> {
    let records: Vec<SpendRecord> = stage.world.server.objects();
    let mut names = names(&records);
    names.sort();
    names
}

/// A service runs, and all of it is settled.
async fn chat_comes_and_goes(stage: &mut Stage) {
    stage.world.create_chat(1).await;
    stage.seconds(6).await;
    stage.world.delete::<InferenceDeployment>("chat").await;
    stage.seconds(12).await;
}

/// A service and a job run in November, and all of it is settled. Months are closed from now on.
async fn closed_month(stage: &mut Stage) {
    stage.closes = true;
    stage.world.create_chat(1).await;
    stage.world.create_job(None).await;
    stage.seconds(6).await;
    stage.world.delete::<InferenceDeployment>("chat").await;
    stage.world.delete::<TrainingJob>("train").await;
    stage.seconds(12).await;
}

/// A service and a job of November, folded in December; then more of the service's November comes to light, and is folded too.
fn consolidated_twice(stage: &mut Stage) -> LocalBoxFuture<'_, ()> {
    async move {
        closed_month(stage).await;
        let before = stage.world.recorded();
        for late in [false, true] {
            if late {
                stage.world.now = at("2026-11-30T23:59:30Z");
                chat_comes_and_goes(stage).await;
            }
            let settled = stage.world.recorded();
            assert!(settled >= before, "{settled:?} after {before:?}");
            stage.world.now = at("2026-12-04T00:00:00Z");
            for _ in 0..4 {
                stage.seconds(1).await;
                assert_eq!(stage.world.recorded(), settled, "at every moment");
            }
        }
    }
    .boxed_local()
}

#[tokio::test]
async fn a_month_is_consolidated_and_a_crash_at_any_write_neither_loses_nor_doubles_anything() {
    every_crash(consolidated_twice).await;
}

#[tokio::test]
async fn a_month_is_consolidated_by_two_leaders_at_once_and_nothing_is_lost_or_doubled() {
    every_competing_month_close(consolidated_twice).await;
}

#[tokio::test]
async fn a_late_charge_reopens_the_account_of_its_workload_alone() {
    let mut stage = Stage::new(Faults::default()).await;
    closed_month(&mut stage).await;
    let before = stage.world.recorded();
    stage.world.now = at("2026-12-04T00:00:00Z");
    stage.seconds(3).await;
    let folded = "team.ns.folded.2026-11";
    assert!(records(&stage).contains(&folded.to_owned()));
    assert!(!records(&stage).contains(&"team.infd.chat.2026-11".to_owned()));
    assert_eq!(stage.world.recorded(), before);
    stage.world.now = at("2026-11-30T23:59:30Z");
    stage.world.create_chat(1).await;
    stage.seconds(4).await;
    let own = ["team.infd.chat.2026-11".to_owned(), folded.to_owned()];
    let november: Vec<String> = records(&stage)
        .into_iter()
        .filter(|name| name.ends_with("2026-11"))
        .collect();
    assert_eq!(november, own);
    assert_eq!(
        stage.world.recorded(),
        before,
        "it begins with what was folded"
    );
}

#[tokio::test]
async fn a_cache_older_than_the_consolidation_overwrites_nothing() {
    let mut stage = Stage::new(Faults::default()).await;
    chat_comes_and_goes(&mut stage).await;
    let mut old = View::of(&stage.world);
    // as a cache was before the record was made
    old.records.clear();
    stage.closes = true;
    stage.world.now = at("2026-12-04T00:00:00Z");
    stage.seconds(3).await;
    let before = stage.world.recorded();
    stage.closes = false;
    stage.world.now = at("2026-11-30T23:59:30Z");
    stage.world.create_chat(1).await;
    for _ in 0..4 {
        stage.world.turn().await;
        let mut view = View::of(&stage.world);
        view.records = old.records.clone();
        stage.leader.reconcile(&stage.world, &view).await.ok();
        assert_eq!(stage.world.recorded(), before);
    }
    let own: Vec<SpendRecord> = stage.world.server.objects();
    let own = own
        .iter()
        .find(|record| record.name_any() == "team.infd.chat.2026-11");
    let status = own.map(|record| record.status.clone());
    assert_eq!(status, Some(None), "made, and never written to");
}

#[tokio::test]
async fn records_are_removed_when_they_are_older_than_the_retention() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.closes = true;
    chat_comes_and_goes(&mut stage).await;
    stage.world.now = at("2027-12-31T23:59:00Z");
    stage.seconds(3).await;
    let has = |stage: &Stage| records(stage).contains(&"team.ns.folded.2026-11".to_owned());
    assert!(has(&stage), "{:?}", records(&stage));
    stage.world.now = at("2028-01-01T00:00:00Z");
    stage.seconds(3).await;
    assert!(!has(&stage), "{:?}", records(&stage));
}

#[tokio::test]
async fn a_record_that_is_written_to_while_it_is_consolidated_stays_and_counts() {
    let mut stage = Stage::new(Faults::default()).await;
    chat_comes_and_goes(&mut stage).await;
    let november = "team.infd.chat.2026-11";
    let client = stage.world.server.client();
    let acts = async move {
        let api: Api<SpendRecord> = Api::all(client);
        let mut record = api.get(november).await.unwrap();
        let status = record.status.as_mut().unwrap();
        status.days[0].cost.power = Some("1.00".into());
        let params = PostParams::default();
        api.replace_status(november, &params, &record)
            .await
            .unwrap();
    };
    // the folded record is made and written; then the service's own is to go
    let mut leader = Leader::new(&stage.world, Faults::competing_write(2, acts));
    leader.fill_caches(&View::of(&stage.world));
    assert_eq!(leader.close(at("2026-12-04T00:00:00Z")).await.len(), 0);
    assert_eq!(leader.faults.writes(), 3);
    let all = records(&stage);
    for name in [november, "team.ns.folded.2026-11"] {
        assert!(all.contains(&name.to_owned()), "{all:?}");
    }
    let cost = stage.world.cost()["chat"] + 1_000_000_000;
    assert_eq!(stage.world.recorded()["chat"], cost);
}

#[test]
fn a_retention_that_budgets_could_not_live_with_is_refused_with_what_would_be_right() {
    for text in ["0", "1", "-1", "a year", ""] {
        let error = crate::months(text).unwrap_err();
        assert!(error.contains("2 or more"), "{text}: {error}");
    }
    assert_eq!(crate::months("2"), Ok(2));
}
