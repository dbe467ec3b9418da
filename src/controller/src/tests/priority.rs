//! Whose turn a PriorityClass makes it.

use bursar_api::budget::Phase;
use bursar_api::conditions::{PRIORITY_ALLOWED, WITHIN_BUDGET};
use bursar_api::{BudgetPolicy, InferenceDeployment, TrainingJob};
use bursar_apitest::faults::Faults;
use bursar_core::money::Money;
use bursar_core::plan::LimitedBy;
use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::ResourceExt;
use serde_json::json;

use super::leader::{Leader, View};
use super::sweep::Stage;
use super::watched_cluster::patch;
use super::world::{NAMESPACE, OPERATOR, World, gang};

#[tokio::test]
async fn a_job_has_the_value_of_its_class_before_its_first_pod() {
    let world = World::new().await;
    let urgent = json!({"metadata": {"name": "urgent"}, "value": 1000});
    world.create_all::<PriorityClass>(urgent).await;
    let usual = json!({"metadata": {"name": "usual"}, "value": 7, "globalDefault": true});
    world.create_all::<PriorityClass>(usual).await;
    // the oldest first; eight GPUs are there
    for (name, class) in [
        ("of-a-class-that-is-not-there", Some("none")),
        ("of-the-default-class", None),
        ("of-its-own-class", Some("urgent")),
    ] {
        let mut job = gang(name, 5);
        job["spec"]["priorityClassName"] = json!(class);
        world.create::<TrainingJob>(job).await;
    }
    let mut leader = Leader::new(&world, Faults::default());
    leader.reconcile(&world, &View::of(&world)).await.unwrap();
    let jobs = leader.explain(NAMESPACE, world.now).jobs;
    let queue: Vec<_> = jobs
        .iter()
        .map(|job| (job.name.as_str(), job.queue_position))
        .collect();
    assert_eq!(
        queue,
        [
            ("of-its-own-class", None),
            ("of-the-default-class", Some(1)),
            ("of-a-class-that-is-not-there", Some(2)),
        ]
    );
}

/// A service with one replica of the class `high`, and a job of two workers of none, under a
/// budget. A second of them all costs 0.003.
async fn two_priorities(limit: &str) -> Stage {
    let stage = Stage::new(Faults::default()).await;
    let high = json!({"metadata": {"name": "high"}, "value": 1000});
    stage.world.create_all::<PriorityClass>(high).await;
    stage.world.set_limit(limit).await;
    stage.world.create_chat(0).await;
    let class = json!({"spec": {"priorityClassName": "high"}});
    patch::<InferenceDeployment>(&stage.world, "chat", class).await;
    stage.world.create_job(None).await;
    stage
}

fn job(stage: &Stage) -> TrainingJob {
    stage.world.server.objects().remove(0)
}

fn replicas(stage: &Stage) -> Option<i32> {
    let deployments: Vec<Deployment> = stage.world.server.objects();
    deployments.first()?.spec.replicas
}

fn budget(stage: &Stage) -> BudgetPolicy {
    stage.world.server.objects().remove(0)
}

/// What Events say.
fn notes(stage: &Stage) -> Vec<String> {
    let events: Vec<Event> = stage.world.server.objects();
    events.into_iter().filter_map(|event| event.note).collect()
}

/// Seconds until something is so.
async fn until(stage: &mut Stage, most: usize, is_so: impl Fn(&Stage) -> bool) -> Option<usize> {
    for second in 0..most {
        if is_so(stage) {
            return Some(second);
        }
        stage.seconds(1).await;
    }
    None
}

fn is_limited(stage: &Stage, by: LimitedBy) -> bool {
    let status = job(stage).status;
    status.is_some_and(|status| status.limited_by == Some(by))
}

#[tokio::test]
async fn the_lower_priority_stops_first_and_the_higher_runs_to_the_limit() {
    let mut stage = two_priorities("0.09").await;
    stage.world.requests = 1;
    let stopped = |stage: &Stage| is_limited(stage, LimitedBy::Budget);
    let first = until(&mut stage, 60, stopped).await;
    assert!(first.is_some(), "{:?}", job(&stage).status);
    assert_eq!(replicas(&stage), Some(1));
    let status = budget(&stage).status.unwrap();
    assert_eq!(status.phase, Some(Phase::PartlyExhausted));
    assert_eq!(status.latch.unwrap().stops_below, Some(1000));
    let notes = notes(&stage);
    let stops = "workloads of a priority below 1000 stop until";
    assert!(notes.iter().any(|note| note.contains(stops)), "{notes:?}");
    let second = until(&mut stage, 40, |stage| replicas(stage) == Some(0)).await;
    assert!(second.is_some_and(|seconds| seconds > 5), "{second:?}");
    stage.seconds(10).await;
    let status = budget(&stage).status.unwrap();
    assert_eq!(status.phase, Some(Phase::Exhausted));
    let spent: Money = status.spent.parse().unwrap();
    assert!(spent <= "0.09".parse().unwrap(), "{spent}");
}

#[tokio::test]
async fn a_job_gives_way_to_a_service_of_higher_priority_that_waits_for_money() {
    for (preemption, expected) in [("Allow", true), ("Never", false)] {
        let mut stage = two_priorities("0.15").await;
        let useful = json!({"spec": {"minimumUsefulRun": "40s"}});
        patch::<BudgetPolicy>(&stage.world, "team", useful).await;
        let spec = json!({"spec": {"preemption": preemption}});
        patch::<TrainingJob>(&stage.world, "train", spec).await;
        stage.seconds(8).await;
        let status = job(&stage).status.unwrap();
        assert_eq!(status.workers.active, 2, "{status:?}");
        stage.world.requests = 1;
        let preempted = |stage: &Stage| is_limited(stage, LimitedBy::Preempted);
        let preempted = until(&mut stage, 12, preempted).await.is_some();
        assert_eq!(preempted, expected, "{:?}", job(&stage).status);
        if expected {
            let status = job(&stage).status.unwrap();
            assert!(status.reason.contains("gives way to chat"), "{status:?}");
            let condition = status.conditions.iter();
            let condition = condition.clone().find(|each| each.type_ == WITHIN_BUDGET);
            assert_eq!(condition.unwrap().reason, "Preempted");
            let notes = notes(&stage);
            let suspended = |note: &String| note.contains("gives way to chat, which has a higher");
            assert!(notes.iter().any(suspended), "{notes:?}");
            stage.seconds(12).await;
            assert_eq!(stage.world.serving().len(), 1);
        }
    }
}

#[tokio::test]
async fn beside_other_namespaces_a_class_counts_where_the_installation_allows_it() {
    for (allowed, first) in [
        (vec![], "older"),
        (vec!["high=another"], "older"),
        (vec!["high=team"], "train"),
        (vec!["high=*"], "train"),
    ] {
        let mut world = World::new().await;
        let allowed = allowed.into_iter().map(|each| each.parse().unwrap());
        world.allowed_classes = allowed.collect();
        let high = json!({"metadata": {"name": "high"}, "value": 1000});
        world.create_all::<PriorityClass>(high).await;
        // five of eight GPUs each: one of them runs
        world.create_gang_in(OPERATOR, "older", 5).await;
        world.now += SignedDuration::from_secs(1);
        world.server.set_clock(world.now);
        let mut job = gang("train", 5);
        job["spec"]["priorityClassName"] = json!("high");
        world.create::<TrainingJob>(job).await;
        let mut leader = Leader::new(&world, Faults::default());
        leader.reconcile(&world, &View::of(&world)).await.unwrap();
        let jobs: Vec<TrainingJob> = world.server.objects();
        let runs = jobs.iter().filter(|job| {
            let status = job.status.as_ref().unwrap();
            status.limited_by.is_none()
        });
        let runs: Vec<String> = runs.map(ResourceExt::name_any).collect();
        assert_eq!(runs, [first], "{:?}", world.allowed_classes);
        let train = jobs.iter().find(|job| job.name_any() == "train").unwrap();
        let conditions = &train.status.as_ref().unwrap().conditions;
        let condition = conditions
            .iter()
            .find(|each| each.type_ == PRIORITY_ALLOWED);
        let reason = condition.map(|condition| condition.reason.as_str());
        assert_eq!(reason, (first == "older").then_some("ClassNotAllowed"));
    }
}

#[tokio::test]
async fn a_service_says_so_too_where_its_class_does_not_count_beside_other_namespaces() {
    for (allowed, expected) in [(vec![], Some("ClassNotAllowed")), (vec!["high=team"], None)] {
        let mut stage = Stage::new(Faults::default()).await;
        let allowed = allowed.into_iter().map(|each: &str| each.parse().unwrap());
        stage.world.allowed_classes = allowed.collect();
        stage.leader = Leader::new(&stage.world, Faults::default());
        let high = json!({"metadata": {"name": "high"}, "value": 1000});
        stage.world.create_all::<PriorityClass>(high).await;
        stage.world.create_chat(0).await;
        let class = json!({"spec": {"priorityClassName": "high"}});
        patch::<InferenceDeployment>(&stage.world, "chat", class).await;
        stage.seconds(4).await;
        let services: Vec<InferenceDeployment> = stage.world.server.objects();
        let status = services[0].status.clone().unwrap();
        let mut conditions = status.conditions.iter();
        let condition = conditions.find(|each| each.type_ == PRIORITY_ALLOWED);
        let reason = condition.map(|condition| condition.reason.as_str());
        assert_eq!(reason, expected);
        let counts = "its priority 1000 counts as 0 beside other namespaces";
        assert!(condition.is_none_or(|found| found.message.starts_with(counts)));
    }
}

/// A gang that has five of eight GPUs gives them back to one of a higher class, whether that is allowed
/// beside other namespaces or not.
#[tokio::test]
async fn a_job_gives_its_gpus_back_to_one_of_a_higher_class_of_its_namespace() {
    for allowed in [vec!["high=team"], vec![]] {
        let mut stage = Stage::new(Faults::default()).await;
        let allowed = allowed.into_iter().map(|each| each.parse().unwrap());
        stage.world.allowed_classes = allowed.collect();
        stage.leader = Leader::new(&stage.world, Faults::default());
        let high = json!({"metadata": {"name": "high"}, "value": 1000});
        stage.world.create_all::<PriorityClass>(high).await;
        stage.world.create::<TrainingJob>(gang("low", 5)).await;
        stage.seconds(8).await;
        let mut job = gang("train", 5);
        job["spec"]["priorityClassName"] = json!("high");
        stage.world.create::<TrainingJob>(job).await;
        let named = |stage: &Stage, name: &str| {
            let jobs: Vec<TrainingJob> = stage.world.server.objects();
            let found = jobs.into_iter().find(|job| job.name_any() == name);
            found.and_then(|job| job.status).unwrap_or_default()
        };
        assert_eq!(named(&stage, "low").workers.active, 5);
        let preempted =
            |stage: &Stage| named(stage, "low").limited_by == Some(LimitedBy::Preempted);
        let preempted = until(&mut stage, 8, preempted).await.is_some();
        let low = named(&stage, "low");
        assert!(preempted, "{low:?}");
        let why = "gives way to job train, which has a higher priority and waits for GPUs";
        assert_eq!(low.reason, why);
        let mut conditions = low.conditions.iter();
        let budget = conditions.find(|each| each.type_ == WITHIN_BUDGET);
        assert_eq!(budget.unwrap().status, "True", "no budget is short");
        assert!(notes(&stage).iter().any(|note| note.contains(why)));
        stage.seconds(40).await;
        let active = ["low", "train"].map(|name| named(&stage, name).workers.active);
        assert_eq!(active, [0, 5]);
    }
}
