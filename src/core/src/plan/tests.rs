//! The functions that decisions are made of, over a namespace at one moment.

use std::collections::BTreeMap;

use proptest::prelude::*;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::service::Allotment;
use super::*;
use crate::budget::{Budget, BudgetAdmission, BudgetState, OnExhausted, Phase, RunningCost};
use crate::calendar::Period;
use crate::model::claim::Part;
use crate::money::Money;
use crate::pod_set::{Capacity, PodSet, SchedulingCapacity};
use crate::refusal::RefusalReason;
use crate::scaling::{Activation, Bounds, History, RequestSignal, Service, Signal, recommend};
use crate::training::{Job, JobDecision, Role, schedule};

/// Everything that a decision over one namespace reads.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Snapshot {
    /// InferenceDeployments.
    services: Vec<Service>,
    /// TrainingJobs that have not finished.
    jobs: Vec<Job>,
    /// BudgetPolicies.
    budgets: Vec<Budget>,
    /// Every GPU pod that costs money or is about to. What is ordered and has no pod yet is not among them.
    running_costs: Vec<RunningCost>,
    /// The cluster's room that this namespace may use, without what its own pods and other namespaces take.
    capacity: Capacity,
    /// The accounting time zone.
    zone: TimeZone,
}

/// A decision over a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    /// The services, in the order of the snapshot.
    services: Vec<Decision>,
    /// The jobs, in the order of the queue.
    jobs: Vec<JobDecision>,
    /// The budgets, in the order of the snapshot.
    budgets: Vec<BudgetState>,
    /// When the answer may change though nothing else does.
    requeue_at: Option<Timestamp>,
}

/// Decides over a namespace at once, by the functions that decide over the model step by step. Services come first, in the snapshot's order; then the queue of jobs gets what is left.
///
/// What was ordered before and has no pod yet has its room and its money already, as though it were there.
fn plan(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let (running_costs, mut capacity) = ordered(snapshot);
    let running_costs = &running_costs;
    let budget_states = snapshot
        .budgets
        .iter()
        .map(|budget| BudgetState::of(budget.clone(), running_costs, now, &snapshot.zone))
        .collect();
    let mut admission = BudgetAdmission::of(budget_states, running_costs, now);
    let mut requeue_at = NextLook(None);
    let services = snapshot
        .services
        .iter()
        .map(|service| {
            let recommendation = recommend(service, now);
            requeue_at.at(recommendation.requeue_at);
            let mut allotment = Allotment::new(service.clone(), recommendation, 0, &admission);
            allotment.pay(Part::First, &[], &mut admission);
            allotment.pay(Part::Further, &[], &mut admission);
            let (_, decision) = allotment.decide(&admission, now);
            let workers = decision.allowed.saturating_sub(service.current);
            capacity.place(&PodSet {
                workers,
                ..service.replica.clone()
            });
            decision
        })
        .collect();
    let jobs = schedule(&snapshot.jobs, &mut capacity, &mut admission, now);
    for decision in &jobs {
        requeue_at.at(decision.requeue_at);
    }
    let budgets = admission.into_standings();
    for budget_state in &budgets {
        requeue_at.at(budget_state.exhausted_at);
        requeue_at.at(Some(budget_state.period.end));
    }
    Plan {
        services,
        jobs,
        budgets,
        requeue_at: requeue_at
            .0
            .map(|at| at.max(now + SignedDuration::from_millis(100))),
    }
}

/// The loads and the room, with what is on its way.
fn ordered(snapshot: &Snapshot) -> (Vec<RunningCost>, Capacity) {
    let (mut running_costs, mut capacity) =
        (snapshot.running_costs.clone(), snapshot.capacity.clone());
    let services = snapshot.services.iter().map(|service| {
        (
            service.without_pod(),
            &service.replica,
            service.running_cost,
        )
    });
    let jobs = snapshot.jobs.iter().flat_map(|job| {
        let roles = job.roles.iter();
        roles.map(|role| (job.without_pod(role), &role.pod_set, role.worker))
    });
    for (workers, pod_set, running_cost) in services.chain(jobs) {
        running_costs.extend(std::iter::repeat_n(running_cost, workers as usize));
        capacity.place(&PodSet {
            workers,
            ..pod_set.clone()
        });
    }
    (running_costs, capacity)
}

struct NextLook(Option<Timestamp>);

impl NextLook {
    fn at(&mut self, at: Option<Timestamp>) {
        self.0 = self.0.into_iter().chain(at).min();
    }
}

fn now() -> Timestamp {
    "2026-11-11T12:00:00Z".parse().unwrap()
}

fn ago(seconds: i64) -> Timestamp {
    now() - SignedDuration::from_secs(seconds)
}

fn service(current: u32, engine: Signal, held: u64) -> Service {
    Service {
        name: "chat".into(),
        bounds: Bounds::fixed(0, 5),
        request_signal: RequestSignal::Target(8),
        signals: vec![],
        forecast: None,
        forecast_changes: None,
        behavior: Default::default(),
        window: SignedDuration::from_secs(60),
        on_signal_failure: Default::default(),
        demand_unknown_since: None,
        idle_after: SignedDuration::from_secs(600),
        paused: None,
        activation: Activation::OnDemand,
        engine,
        held,
        stalled: None,
        unreachable_gateway: None,
        last_active: Some(now()),
        current,
        decided: current,
        with_pod: current,
        start: None,
        waits_for: None,
        start_failure: None,
        rollout: None,
        history: History::default(),
        replica_log: Default::default(),
        last_burst: None,
        running_cost: RunningCost::constant(Some("12".parse().unwrap()), 60),
        recalled_costs: vec![],
        replica: PodSet {
            workers: 1,
            worker: BTreeMap::new(),
            ..PodSet::default()
        },
    }
}

fn budget(limit: &str, spent: &str) -> Budget {
    Budget {
        name: "team".into(),
        limit: limit.parse().unwrap(),
        period: Period::Monthly,
        on_exhausted: OnExhausted::ScaleToZero,
        unmanaged: Default::default(),
        eviction_reserve: Money::ZERO,
        minimum_useful_run: SignedDuration::from_mins(5),
        latch: None,
        spent: spent.parse().unwrap(),
        corrections: Money::ZERO,
        doubt: None,
    }
}

fn snapshot(service: Service, budgets: Vec<Budget>) -> Snapshot {
    let running_costs = vec![service.running_cost; service.current as usize];
    Snapshot {
        services: vec![service],
        jobs: vec![],
        budgets,
        running_costs,
        capacity: Capacity::default(),
        zone: TimeZone::UTC,
    }
}

fn decide(service: Service, budgets: Vec<Budget>) -> Decision {
    plan(&snapshot(service, budgets), now()).services.remove(0)
}

#[test]
fn desired_is_queue_depth_over_target_within_the_bounds() {
    for (engine, held, desired, limited_by) in [
        (17, 0, 3, None),
        (16, 1, 3, None),
        (1, 0, 1, None),
        (200, 0, 5, Some(LimitedBy::MaxReplicas)),
    ] {
        let decision = decide(service(1, Signal::Known(engine), held), vec![]);
        assert_eq!(
            (decision.desired, decision.allowed, decision.limited_by),
            (desired, desired, limited_by),
            "{engine}+{held}"
        );
    }
}

#[test]
fn the_first_held_request_wakes_a_service_at_zero() {
    assert_eq!(decide(service(0, Signal::Absent, 1), vec![]).allowed, 1);
    assert_eq!(decide(service(0, Signal::Absent, 0), vec![]).allowed, 0);
}

#[test]
fn an_unknown_signal_takes_nothing_away_and_held_requests_still_add() {
    let unknown = || Signal::AtLeast(0, "connection refused".into());
    let holds = decide(
        Service {
            last_active: Some(ago(9000)),
            ..service(3, unknown(), 0)
        },
        vec![],
    );
    assert_eq!(
        (holds.allowed, holds.limited_by, holds.queue_depth),
        (3, Some(LimitedBy::Signal), None)
    );
    assert_eq!(decide(service(0, unknown(), 9), vec![]).allowed, 2);
}

#[test]
fn nothing_goes_to_zero_before_it_was_idle_for_long_enough() {
    let quiet = |last_active| Service {
        last_active,
        ..service(2, Signal::Known(0), 0)
    };
    assert_eq!(
        decide(quiet(None), vec![]).allowed,
        2,
        "its counters have not been read"
    );
    let waits = plan(&snapshot(quiet(Some(ago(599))), vec![]), now());
    assert_eq!(waits.services[0].allowed, 1);
    assert_eq!(
        waits.requeue_at,
        Some(now() + SignedDuration::from_secs(1)),
        "it knows when to look again"
    );
    assert_eq!(decide(quiet(Some(ago(600))), vec![]).allowed, 0);
    let floor = Service {
        bounds: Bounds::fixed(1, 5),
        ..quiet(Some(ago(600)))
    };
    assert_eq!(decide(floor, vec![]).allowed, 1);
}

#[test]
fn a_lower_number_waits_for_the_window() {
    let mut busy = service(4, Signal::Known(1), 0);
    busy.history
        .record(4, (busy.window, SignedDuration::ZERO), ago(59));
    let held_back = decide(busy.clone(), vec![]);
    assert_eq!(
        (
            held_back.allowed,
            held_back.recommended,
            held_back.limited_by
        ),
        (4, 1, Some(LimitedBy::Stabilization))
    );
    let mut over = service(4, Signal::Known(1), 0);
    let windows = (over.window, SignedDuration::ZERO);
    over.history.record(4, windows, ago(90));
    over.history.record(1, windows, ago(60));
    assert_eq!(decide(over, vec![]).allowed, 1);
}

#[test]
fn a_paused_service_stays_but_an_exhausted_budget_still_stops_it() {
    let paused = Service {
        paused: Some("scaling.paused is true".into()),
        ..service(2, Signal::Known(80), 0)
    };
    assert_eq!(decide(paused.clone(), vec![]).allowed, 2);
    assert_eq!(decide(paused, vec![budget("10", "10")]).allowed, 0);
}

#[test]
fn a_budget_pays_for_as_many_replicas_as_it_can() {
    // 12 an hour: each new replica needs 0.20 to stop and 1.00 for five minutes
    let decision = decide(service(0, Signal::Absent, 30), vec![budget("10", "7.5")]);
    assert_eq!(
        (decision.desired, decision.allowed, decision.limited_by),
        (4, 2, Some(LimitedBy::Budget))
    );
    assert_eq!(decision.refusal, None, "what is held will be served");
}

#[test]
fn a_request_that_the_budget_keeps_out_is_told_so_before_it_comes() {
    let decision = decide(service(0, Signal::Absent, 0), vec![budget("10", "9.5")]);
    assert_eq!(
        decision.limited_by,
        Some(LimitedBy::Budget),
        "its status says so as long as it holds"
    );
    let refusal = decision.refusal.unwrap();
    assert_eq!(refusal.reason, RefusalReason::BudgetExhausted);
    assert_eq!(
        refusal.retry_at,
        Some("2026-12-01T00:00:00Z".parse().unwrap())
    );
    assert!(
        refusal.message.contains("budget team"),
        "{}",
        refusal.message
    );
}

#[test]
fn the_tightest_of_several_budgets_wins() {
    let wide = Budget {
        name: "wide".into(),
        ..budget("1000", "0")
    };
    let plan = plan(
        &snapshot(
            service(2, Signal::Known(9), 0),
            vec![wide, budget("10", "9.9")],
        ),
        now(),
    );
    assert_eq!(plan.services[0].allowed, 0);
    assert_eq!(
        plan.budgets
            .iter()
            .map(|budget_state| budget_state.phase)
            .collect::<Vec<_>>(),
        [Phase::Active, Phase::Exhausted]
    );
}

fn job(name: &str, workers: u32) -> Job {
    Job {
        name: name.into(),
        priority: 0,
        cluster_priority: 0,
        created: now(),
        suspend: false,
        running: false,
        missing: None,
        unscheduled: None,
        restarts: Default::default(),
        fits_now: false,
        gives_up_at: None,
        retry: None,
        seed: 0,
        settled: true,
        preempted_by: None,
        last_preempted_by: None,
        kept: vec![],
        roles: vec![Role {
            pod_set: PodSet {
                workers,
                worker: [("nvidia.com/gpu".to_owned(), 1000)].into(),
                ..PodSet::default()
            },
            worker: RunningCost::constant(Some("12".parse().unwrap()), 60),
            with_pod: 0,
        }],
    }
}

/// Two jobs, and a node with this many GPUs.
fn jobs(jobs: Vec<Job>, gpus: i64, budgets: Vec<Budget>) -> Vec<(String, Option<LimitedBy>)> {
    let capacity: BTreeMap<_, _> = [("nvidia.com/gpu".to_owned(), gpus * 1000)].into();
    let node = crate::pod_set::Node {
        labels: BTreeMap::new(),
        allocatable: capacity.clone(),
        free: capacity,
    };
    let snapshot = Snapshot {
        services: vec![],
        jobs,
        budgets,
        running_costs: vec![],
        capacity: Capacity {
            nodes: vec![node],
            ..Capacity::default()
        },
        zone: TimeZone::UTC,
    };
    let job_decisions = plan(&snapshot, now()).jobs.into_iter();
    job_decisions
        .map(|decision| (decision.name, decision.limited_by))
        .collect()
}

#[test]
fn a_gang_whose_pods_are_not_there_yet_has_its_room_already() {
    let ordered = Job {
        running: true,
        ..job("a", 2)
    };
    let waits = [
        ("a".to_owned(), None),
        ("b".to_owned(), Some(LimitedBy::Capacity)),
    ];
    assert_eq!(jobs(vec![ordered.clone(), job("b", 2)], 2, vec![]), waits);
    assert_eq!(jobs(vec![ordered.clone(), job("b", 2)], 3, vec![]), waits);
    let room_for_both = jobs(vec![ordered, job("b", 2)], 4, vec![]);
    assert_eq!(room_for_both[1].1, None);
}

#[test]
fn a_gang_whose_pods_are_not_there_yet_has_its_money_already() {
    // 12 an hour: each worker needs 0.20 to stop and 1.00 for five minutes, so a gang of two 2.40
    let ordered = Job {
        running: true,
        ..job("a", 2)
    };
    let limit = |limit| {
        jobs(
            vec![ordered.clone(), job("b", 2)],
            9,
            vec![budget(limit, "0")],
        )[1]
        .1
    };
    assert_eq!(limit("4.7"), Some(LimitedBy::Budget));
    assert_eq!(limit("4.8"), None);
}

#[test]
fn a_replica_whose_pod_is_not_there_yet_has_its_room_and_its_money_already() {
    let ordered = Service {
        with_pod: 0,
        replica: job("a", 1).roles.remove(0).pod_set,
        ..service(1, Signal::Absent, 1)
    };
    let capacity: BTreeMap<_, _> = [("nvidia.com/gpu".to_owned(), 1000)].into();
    let node = crate::pod_set::Node {
        labels: BTreeMap::new(),
        allocatable: capacity.clone(),
        free: capacity,
    };
    let snapshot = Snapshot {
        services: vec![ordered],
        jobs: vec![job("b", 1)],
        budgets: vec![budget("10", "0")],
        running_costs: vec![],
        capacity: Capacity {
            nodes: vec![node],
            ..Capacity::default()
        },
        zone: TimeZone::UTC,
    };
    let plan = plan(&snapshot, now());
    assert_eq!(plan.jobs[0].limited_by, Some(LimitedBy::Capacity));
    assert_eq!(plan.budgets[0].rate, "12".parse().unwrap());
}

#[test]
fn what_a_gateway_that_was_not_heard_may_hold_is_not_zero() {
    let unreachable_gateway = |current, held| Service {
        unreachable_gateway: Some("gateway g has not been heard".into()),
        last_active: Some(ago(9000)),
        ..service(current, Signal::Absent, held)
    };
    let holds = decide(unreachable_gateway(1, 0), vec![]);
    assert_eq!(
        (holds.allowed, holds.limited_by, holds.queue_depth),
        (1, Some(LimitedBy::Signal), None)
    );
    assert_eq!(
        decide(unreachable_gateway(0, 9), vec![]).allowed,
        2,
        "what is known adds"
    );
    let heard = Service {
        unreachable_gateway: None,
        ..unreachable_gateway(1, 0)
    };
    assert_eq!(decide(heard, vec![]).allowed, 0);
}

#[test]
fn an_unknown_demand_is_told_whatever_else_limits_the_service() {
    let unknown = Signal::AtLeast(0, "connection refused".into());
    let paused = Service {
        paused: Some("scaling.paused is true".into()),
        ..service(2, unknown, 0)
    };
    let decision = decide(paused, vec![budget("10", "10")]);
    assert_eq!(decision.limited_by, Some(LimitedBy::Budget));
    assert_eq!(decision.unknown.as_deref(), Some("connection refused"));
}

#[test]
fn a_service_whose_replicas_cannot_start_says_so_until_they_can() {
    let start_failure = Service {
        start_failure: Some("pod chat-1: container vllm: ErrImagePull".into()),
        ..service(1, Signal::Absent, 3)
    };
    let refusal = decide(start_failure.clone(), vec![]).refusal.unwrap();
    assert_eq!(refusal.reason, RefusalReason::StartFailed);
    assert!(refusal.message.contains("ErrImagePull"));
    assert!(refusal.retry_at.is_some());
    let starts = Service {
        start_failure: None,
        ..start_failure
    };
    assert_eq!(decide(starts, vec![]).refusal, None);
}

#[test]
fn a_paused_service_at_zero_refuses_instead_of_letting_requests_wait() {
    let paused = |current| Service {
        paused: Some("scaling.paused is true".into()),
        ..service(current, Signal::Absent, 1)
    };
    let refusal = decide(paused(0), vec![]).refusal.unwrap();
    assert_eq!(refusal.reason, RefusalReason::ScalingPaused);
    assert_eq!(decide(paused(1), vec![]).refusal, None);
}

#[test]
fn nothing_new_starts_while_what_was_spent_is_not_known() {
    let doubtful = Budget {
        doubt: Some("SpendRecord ns.infd.chat.2026-11 cannot be read".into()),
        ..budget("10", "0")
    };
    let wakes = decide(service(0, Signal::Absent, 1), vec![doubtful.clone()]);
    assert_eq!(
        (wakes.allowed, wakes.limited_by),
        (0, Some(LimitedBy::PriceUnknown))
    );
    assert!(wakes.reason.contains("ns.infd.chat.2026-11"));
    assert_eq!(
        decide(service(2, Signal::Known(9), 0), vec![doubtful]).allowed,
        2,
        "what runs goes on"
    );
}

fn any_service() -> impl Strategy<Value = Service> {
    let signal = prop_oneof![
        (0u64..100).prop_map(Signal::Known),
        Just(Signal::Absent),
        (0u64..100).prop_map(|known| Signal::AtLeast(known, "refused".into()))
    ];
    (
        signal,
        0u64..50,
        0u32..8,
        0u32..4,
        1u32..8,
        0i64..1200,
        prop::option::of(0i128..20),
    )
        .prop_map(|(engine, held, current, min, extra, idle, rate)| Service {
            bounds: Bounds::fixed(min, min + extra),
            last_active: Some(ago(idle)),
            running_cost: RunningCost::constant(
                rate.map(|rate| Money::from_nanos(rate * 1_000_000_000)),
                60,
            ),
            ..service(current, engine, held)
        })
}

proptest! {
    #[test]
    fn allowed_never_exceeds_desired_nor_the_maximum(service in any_service(), limit in 0i128..20, spent in 0i128..20) {
        let budget = Budget {
            limit: Money::from_nanos(limit * 1_000_000_000),
            spent: Money::from_nanos(spent * 1_000_000_000),
            ..budget("0", "0")
        };
        let max = service.bounds.max;
        let decision = decide(service, vec![budget]);
        prop_assert!(decision.allowed <= decision.desired && decision.desired <= max);
        prop_assert!(decision.allowed == decision.desired || decision.limited_by.is_some());
    }

    #[test]
    fn a_part_that_is_unknown_takes_nothing_away_and_hides_nothing(service in any_service()) {
        let known = service.engine.at_least();
        let engine = Signal::AtLeast(known, "refused".into());
        let partial = decide(Service { engine, ..service.clone() }, vec![]);
        let whole = decide(Service { engine: Signal::Known(known), ..service.clone() }, vec![]);
        prop_assert!(partial.desired >= whole.desired, "{partial:?} {whole:?}");
        prop_assert!(partial.desired >= service.current.min(service.bounds.max), "{partial:?}");
        let carried = u64::from(partial.desired) * u64::from(service.request_signal.target().unwrap());
        prop_assert!(carried >= known + service.held || partial.desired == service.bounds.max);
    }

    #[test]
    fn more_money_never_gives_less(service in any_service(), limit in 1i128..20, more in 0i128..20) {
        let with = |limit: i128| {
            let budget = Budget { limit: Money::from_nanos(limit * 1_000_000_000), ..budget("0", "1") };
            decide(service.clone(), vec![budget]).allowed
        };
        prop_assert!(with(limit) <= with(limit + more));
    }

    #[test]
    fn constant_input_does_not_oscillate(service in any_service()) {
        let first = decide(service.clone(), vec![]);
        let mut then = Service { current: first.allowed, decided: first.allowed, with_pod: first.allowed, ..service };
        if first.allowed == 0 {
            then.engine = Signal::Absent;
        }
        let second = decide(then, vec![]);
        prop_assert!(second.allowed == first.allowed || first.limited_by == Some(LimitedBy::Paused), "{first:?} {second:?}");
    }
}
