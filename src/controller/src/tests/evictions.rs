//! GPU pods that no workload made, in a namespace whose budget evicts them once it has no money.

use std::collections::BTreeSet;

use bursar_api::BudgetPolicy;
use bursar_apitest::faults::{CrashPoint, Faults};
use bursar_core::budget::EVICTION_NOTICE;
use bursar_core::model::Key;
use bursar_core::plan::EvictionOrder;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::claims::{claim, devices, notebook, uses};
use super::leader::Leader;
use super::pause;
use super::sweep::Stage;
use super::watched_cluster::patch;
use crate::evictions;

/// A notebook that runs, and a budget without money.
async fn exhausted(more: Value) -> Stage {
    let mut stage = Stage::new(Faults::default()).await;
    // the month, in which the budget is exhausted, does not end before the test
    stage.world.now += SignedDuration::from_mins(3);
    stage.seconds(1).await;
    stage.world.create_foreign_pod("notebook").await;
    let labels = json!({"metadata": {"labels": {"app": "notebook"}}});
    patch::<Pod>(&stage.world, "notebook", labels).await;
    let running = json!({"status": {"phase": "Running"}});
    patch::<Pod>(&stage.world, "notebook", running).await;
    let mut spec = json!({"limit": "0.01", "period": "Monthly", "unmanaged": "Evict"});
    let more = more.as_object().unwrap().clone();
    spec.as_object_mut().unwrap().extend(more);
    let budget = json!({"metadata": {"name": "team"}, "spec": spec});
    stage.world.create::<BudgetPolicy>(budget).await;
    stage.seconds(2).await;
    stage
}

/// Nobody looks until a few seconds before the notice is over.
async fn pass_notice(stage: &mut Stage) {
    stage.world.now += SignedDuration::from_secs(EVICTION_NOTICE.as_secs() - 6);
    stage.seconds(2).await;
}

fn is_told_to_stop(stage: &Stage) -> bool {
    let pods: Vec<Pod> = stage.world.server.objects();
    let pod = pods
        .iter()
        .find(|pod| pod.name_any() == "notebook")
        .unwrap();
    pod.metadata.deletion_timestamp.is_some()
}

fn reasons(stage: &Stage) -> Vec<String> {
    let events: Vec<Event> = stage.world.server.objects();
    events
        .into_iter()
        .filter_map(|event| event.reason)
        .collect()
}

fn condition(stage: &Stage) -> Option<Condition> {
    let budget: BudgetPolicy = stage.world.server.objects().remove(0);
    let mut conditions = budget.status?.conditions.into_iter();
    conditions.find(|condition| condition.type_ == "UnmanagedEvicted")
}

fn condition_reason(stage: &Stage) -> Option<String> {
    condition(stage).map(|condition| condition.reason)
}

#[tokio::test]
async fn a_pod_without_money_is_warned_and_evicted_after_the_notice() {
    let mut stage = exhausted(json!({})).await;
    assert!(reasons(&stage).contains(&"EvictionPlanned".to_owned()));
    let budget: BudgetPolicy = stage.world.server.objects().remove(0);
    let from = budget.status.unwrap().evictions_from.unwrap().0;
    let left = from.duration_since(stage.world.now);
    assert!(
        left > EVICTION_NOTICE - SignedDuration::from_secs(3),
        "{left}"
    );
    assert_eq!(condition_reason(&stage).as_deref(), Some("NoticeGiven"));
    pass_notice(&mut stage).await;
    assert!(!is_told_to_stop(&stage), "the notice is not over");
    stage.seconds(5).await;
    assert!(is_told_to_stop(&stage));
    assert!(reasons(&stage).contains(&"Evicted".to_owned()));
    stage.seconds(3).await;
    assert_eq!(condition_reason(&stage).as_deref(), Some("NoneLeft"));
}

#[tokio::test]
async fn pods_that_share_a_device_are_warned_and_evicted_together() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.now += SignedDuration::from_mins(3);
    stage.seconds(1).await;
    devices(&stage).await;
    claim(&stage, "pair", "gpu.nvidia.com", &["gpu-0", "gpu-1"]).await;
    let names = ["first", "second", "third"];
    for name in names {
        notebook(&stage, name, uses("pair")).await;
    }
    let spec = json!({"limit": "0.01", "period": "Monthly", "unmanaged": "Evict"});
    let budget = json!({"metadata": {"name": "team"}, "spec": spec});
    stage.world.create::<BudgetPolicy>(budget).await;
    stage.seconds(4).await;
    let events: Vec<Event> = stage.world.server.objects();
    let planned = events.into_iter().filter(|event| {
        let reason = event.reason.as_deref();
        reason == Some("EvictionPlanned")
    });
    let warned: BTreeSet<String> = planned.filter_map(|event| event.regarding?.name).collect();
    assert_eq!(warned, names.map(str::to_owned).into());
    pass_notice(&mut stage).await;
    stage.seconds(5).await;
    let pods: Vec<Pod> = stage.world.server.objects();
    let stopping = pods
        .iter()
        .map(|pod| pod.metadata.deletion_timestamp.is_some());
    assert_eq!(stopping.collect::<Vec<_>>(), [true; 3]);
}

#[tokio::test]
async fn by_default_and_for_exempt_owners_nothing_is_evicted() {
    for more in [
        json!({"unmanaged": "Leave"}),
        json!({"exemptOwners": ["Pod/notebook"]}),
    ] {
        let mut stage = exhausted(more.clone()).await;
        pass_notice(&mut stage).await;
        stage.seconds(20).await;
        assert!(!is_told_to_stop(&stage), "{more}");
        assert!(
            !reasons(&stage).contains(&"EvictionPlanned".to_owned()),
            "{more}"
        );
    }
}

#[tokio::test]
async fn money_that_comes_within_the_notice_keeps_the_pod() {
    let mut stage = exhausted(json!({})).await;
    pass_notice(&mut stage).await;
    stage.world.set_limit("100").await;
    stage.seconds(20).await;
    assert!(!is_told_to_stop(&stage));
    assert_eq!(condition(&stage), None);
}

/// A PodDisruptionBudget forbids it: the try is repeated ever more seldom, and a condition says so.
#[tokio::test]
async fn a_pod_disruption_budget_holds_and_is_named_until_it_allows_the_eviction() {
    let mut stage = exhausted(json!({})).await;
    let selector = json!({"matchLabels": {"app": "notebook"}});
    let guard =
        json!({"metadata": {"name": "guard"}, "spec": {"minAvailable": 1, "selector": selector}});
    stage.world.create::<PodDisruptionBudget>(guard).await;
    pass_notice(&mut stage).await;
    stage.seconds(5).await;
    let before = stage.leader.faults.writes();
    stage.seconds(60).await;
    assert!(!is_told_to_stop(&stage));
    let condition = condition(&stage).unwrap();
    assert_eq!(condition.status, "False");
    assert_eq!(condition.reason, "EvictionRefused");
    for words in ["pod notebook", "would violate the pod's disruption budget"] {
        assert!(condition.message.contains(words), "{}", condition.message);
    }
    // charges and the status are written meanwhile, too
    let writes = stage.leader.faults.writes() - before;
    assert!((2..=20).contains(&writes), "{writes} writes in a minute");
    let allowed = json!({"status": {"disruptionsAllowed": 1}});
    patch::<PodDisruptionBudget>(&stage.world, "guard", allowed).await;
    stage.seconds(80).await;
    assert!(
        is_told_to_stop(&stage),
        "a wait is a minute and a fifth at most"
    );
    assert_eq!(condition_reason(&stage).as_deref(), Some("NoneLeft"));
}

#[tokio::test]
async fn a_leader_that_dies_at_any_write_evicts_no_earlier_and_no_other_pod() {
    let mut undisturbed = exhausted(json!({})).await;
    pass_notice(&mut undisturbed).await;
    let before = undisturbed.leader.faults.writes();
    undisturbed.seconds(8).await;
    assert!(is_told_to_stop(&undisturbed));
    let writes = undisturbed.leader.faults.writes();
    assert!(writes > before);
    for write in 0..writes - before {
        for moment in [CrashPoint::Before, CrashPoint::After] {
            let mut stage = exhausted(json!({})).await;
            stage.world.now += SignedDuration::from_secs(EVICTION_NOTICE.as_secs() - 6);
            let server = &stage.world.server;
            let uids =
                |pods: Vec<Pod>| pods.iter().filter_map(ResourceExt::uid).collect::<Vec<_>>();
            let pods = uids(server.objects());
            stage.leader = Leader::new(&stage.world, Faults::crash(write, moment));
            stage.seconds(2).await;
            assert!(!is_told_to_stop(&stage), "it died {moment:?} write {write}");
            stage.seconds(20).await;
            // one that begins with a cache of before the notice gives it anew
            pass_notice(&mut stage).await;
            stage.seconds(20).await;
            assert!(is_told_to_stop(&stage), "it died {moment:?} write {write}");
            assert_eq!(uids(stage.world.server.objects()), pods);
        }
    }
}

#[tokio::test]
async fn another_pod_of_the_same_name_is_not_meant_and_one_that_changed_is_looked_at_again() {
    let stage = exhausted(json!({})).await;
    let pod = Key::new("team", "notebook");
    let order = |uid: &str| EvictionOrder {
        pod: pod.clone(),
        uid: uid.into(),
        evict: true,
        budget: "team".into(),
    };
    let context = &stage.leader.context;
    evictions::apply(context, &order("other")).await.unwrap();
    assert!(!is_told_to_stop(&stage));
    let known: Pod = stage.world.server.objects().remove(0);
    let labels = json!({"metadata": {"labels": {"bursar.dev/kind": "TrainingJob"}}});
    patch::<Pod>(&stage.world, "notebook", labels).await;
    let uid = known.uid().unwrap();
    let stale = evictions::apply(context, &order(&uid)).await.unwrap_err();
    assert!(stale.is_stale(), "{stale}");
    assert!(
        !is_told_to_stop(&stage),
        "the cache does not show what it is now"
    );
}

#[tokio::test]
async fn a_paused_namespace_evicts_nobody() {
    let mut stage = exhausted(json!({})).await;
    pause::set(&stage.world, json!({"cluster": "since now"})).await;
    pass_notice(&mut stage).await;
    stage.seconds(20).await;
    assert!(!is_told_to_stop(&stage));
}
