use std::collections::BTreeMap;

use jiff::SignedDuration;
use jiff::tz::TimeZone;

use super::*;
use crate::budget::{Budget, BudgetAdmission, BudgetState, OnExhausted};
use crate::calendar::Period;
use crate::money::Money;
use crate::pod_set::{BlockScope, Capacity, Node, Resources, SchedulingCapacity};

fn now() -> Timestamp {
    "2026-11-11T12:00:00Z".parse().unwrap()
}

fn gpus(amount: i64) -> Resources {
    [("nvidia.com/gpu".to_owned(), amount * 1000)].into()
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
        seed: 7,
        settled: true,
        preempted_by: None,
        last_preempted_by: None,
        kept: vec![],
        roles: vec![role(workers)],
    }
}

fn role(workers: u32) -> Role {
    Role {
        pod_set: PodSet {
            workers,
            worker: gpus(1),
            ..PodSet::default()
        },
        worker: RunningCost::constant(Some("2".parse().unwrap()), 0),
        with_pod: 0,
    }
}

fn nodes(counts: &[i64]) -> Capacity {
    let node = |count: &i64| Node {
        labels: BTreeMap::new(),
        allocatable: gpus(*count),
        free: gpus(*count),
    };
    Capacity {
        nodes: counts.iter().map(node).collect(),
        ..Capacity::default()
    }
}

fn admission(left: Option<&str>) -> BudgetAdmission {
    let budget_state = left.map(|limit| {
        let budget = Budget {
            name: "team".into(),
            limit: limit.parse().unwrap(),
            period: Period::Monthly,
            on_exhausted: OnExhausted::ScaleToZero,
            unmanaged: Default::default(),
            eviction_reserve: Money::ZERO,
            minimum_useful_run: SignedDuration::from_hours(1),
            latch: None,
            spent: Money::ZERO,
            corrections: Money::ZERO,
            doubt: None,
        };
        BudgetState::of(budget, &[], now(), &TimeZone::UTC)
    });
    BudgetAdmission::of(budget_state.into_iter().collect(), &[], now())
}

fn limits(job_decisions: &[JobDecision]) -> Vec<(&str, Option<LimitedBy>)> {
    job_decisions
        .iter()
        .map(|decision| (decision.name.as_str(), decision.limited_by))
        .collect()
}

#[test]
fn a_gang_starts_whole_or_not_at_all_and_is_not_overtaken() {
    let jobs = [job("a", 3), job("b", 2), job("c", 1)];
    let job_decisions = schedule(&jobs, &mut nodes(&[4]), &mut admission(None), now());
    assert_eq!(
        limits(&job_decisions),
        [
            ("a", None),
            ("b", Some(LimitedBy::Capacity)),
            ("c", Some(LimitedBy::Queue))
        ]
    );
    assert_eq!(
        job_decisions
            .iter()
            .map(|decision| decision.position)
            .collect::<Vec<_>>(),
        [None, Some(1), Some(2)]
    );
}

#[test]
fn a_gang_that_could_never_fit_holds_nobody_up() {
    let job_decisions = schedule(
        &[job("a", 9), job("b", 2)],
        &mut nodes(&[4]),
        &mut admission(None),
        now(),
    );
    assert_eq!(
        limits(&job_decisions),
        [("a", Some(LimitedBy::Capacity)), ("b", None)]
    );
}

/// GPUs of nodes by model, and of which model the workers of a job are.
fn of_model(model: &str, job: Job) -> Job {
    let mut job = job;
    for role in &mut job.roles {
        role.pod_set.node_selector = [("model".to_owned(), model.to_owned())].into();
    }
    job
}

/// Nodes by the model of their GPUs, with their GPUs and how many of them are free.
fn models(nodes: &[(&str, i64, i64)]) -> Capacity {
    let node = |(model, all, free): &(&str, i64, i64)| Node {
        labels: [("model".to_owned(), (*model).to_owned())].into(),
        allocatable: gpus(*all),
        free: gpus(*free),
    };
    Capacity {
        nodes: nodes.iter().map(node).collect(),
        ..Capacity::default()
    }
}

#[test]
fn a_gang_passes_one_that_waits_for_hardware_which_it_cannot_use() {
    let jobs = [of_model("H100", job("a", 2)), of_model("T4", job("b", 1))];
    let mut capacity = models(&[("H100", 2, 0), ("T4", 1, 1)]);
    let job_decisions = schedule(&jobs, &mut capacity, &mut admission(None), now());
    assert_eq!(
        limits(&job_decisions),
        [("a", Some(LimitedBy::Capacity)), ("b", None)]
    );
}

#[test]
fn a_gang_that_finds_room_only_where_the_first_one_cannot_passes_without_a_selector() {
    let jobs = [of_model("H100", job("a", 2)), job("b", 1)];
    let mut full = models(&[("H100", 2, 0), ("T4", 1, 1)]);
    let job_decisions = schedule(&jobs, &mut full, &mut admission(None), now());
    assert_eq!(job_decisions[1].limited_by, None);
    // the scheduler may bind it to the free H100
    let mut one_free = models(&[("H100", 2, 1), ("T4", 1, 1)]);
    let job_decisions = schedule(&jobs, &mut one_free, &mut admission(None), now());
    assert_eq!(job_decisions[1].limited_by, Some(LimitedBy::Queue));
    assert!(
        job_decisions[1].reason.starts_with("waits behind a,"),
        "{}",
        job_decisions[1].reason
    );
}

#[test]
fn a_node_that_is_too_small_for_the_first_gang_even_when_empty_is_of_no_use_to_it() {
    let mut large = job("large", 1);
    large.roles[0].pod_set.worker = gpus(8);
    let jobs = [large, job("small", 2)];
    let mut capacity = models(&[("a", 8, 0), ("b", 4, 2)]);
    let job_decisions = schedule(&jobs, &mut capacity, &mut admission(None), now());
    assert_eq!(
        limits(&job_decisions),
        [("large", Some(LimitedBy::Capacity)), ("small", None)]
    );
}

#[test]
fn each_gang_waits_behind_the_one_that_it_could_delay() {
    let jobs = [
        of_model("H100", job("a", 2)),
        of_model("T4", job("b", 2)),
        of_model("T4", job("c", 1)),
        of_model("H100", job("d", 1)),
        of_model("L4", job("e", 1)),
    ];
    let mut capacity = models(&[("H100", 2, 1), ("T4", 2, 1), ("L4", 1, 1)]);
    let job_decisions = schedule(&jobs, &mut capacity, &mut admission(None), now());
    let behind: Vec<&str> = job_decisions[2..4]
        .iter()
        .map(|decision| decision.reason.split(',').next().unwrap())
        .collect();
    assert_eq!(behind, ["waits behind b", "waits behind a"]);
    assert_eq!(job_decisions[4].limited_by, None);
}

#[test]
fn a_gang_on_other_hardware_does_not_take_the_money_of_one_that_waits() {
    let jobs = [of_model("H100", job("a", 2)), of_model("T4", job("b", 1))];
    let decide = |limit| {
        let mut capacity = models(&[("H100", 2, 0), ("T4", 1, 1)]);
        let decisions = schedule(&jobs, &mut capacity, &mut admission(Some(limit)), now());
        decisions[1].limited_by
    };
    // 2 an hour each, for an hour
    assert_eq!(decide("5.9"), Some(LimitedBy::Queue));
    assert_eq!(decide("6"), None);
}

#[test]
fn a_gang_that_no_period_could_pay_for_is_passed() {
    let jobs = [job("a", 8), job("b", 1)];
    let job_decisions = schedule(&jobs, &mut nodes(&[8]), &mut admission(Some("10")), now());
    assert_eq!(
        limits(&job_decisions),
        [("a", Some(LimitedBy::Budget)), ("b", None)]
    );
    assert_eq!(
        job_decisions[0].reason,
        "budget team has 10.0000 in a whole period, and running for 3600 s and stopping would take 16.0000, \
         at 2.0000 an hour each on the dearest node that takes it: it never starts unless the limit is raised"
    );
}

#[test]
fn a_gang_that_a_whole_period_pays_for_is_not_passed() {
    let jobs = [job("a", 5), job("b", 1)];
    let mut admission = admission(Some("10"));
    let running = RunningCost::constant(Some("2".parse().unwrap()), 0);
    admission.admit(running).unwrap();
    let job_decisions = schedule(&jobs, &mut nodes(&[8]), &mut admission, now());
    assert_eq!(
        limits(&job_decisions),
        [
            ("a", Some(LimitedBy::Budget)),
            ("b", Some(LimitedBy::Queue))
        ]
    );
}

#[test]
fn a_gang_whose_price_is_unknown_keeps_no_other_from_the_nodes_that_it_would_use() {
    let mut unknown = job("a", 8);
    unknown.roles[0].worker.rate = None;
    let jobs = [unknown, job("b", 4)];
    let mut capacity = nodes(&[8]);
    let job_decisions = schedule(&jobs, &mut capacity, &mut admission(Some("100")), now());
    assert_eq!(
        limits(&job_decisions),
        [("a", Some(LimitedBy::PriceUnknown)), ("b", None)]
    );
    // also while there is no room for it
    let mut capacity = models(&[("H100", 8, 4)]);
    let job_decisions = schedule(&jobs, &mut capacity, &mut admission(Some("100")), now());
    assert_eq!(
        limits(&job_decisions),
        [("a", Some(LimitedBy::PriceUnknown)), ("b", None)]
    );
}

/// No two of them are alike, so each is compared with all ahead of it: that time is taken from everybody.
#[test]
fn a_namespace_with_very_many_gangs_that_wait_has_the_first_500_looked_at() {
    let jobs: Vec<Job> = (0..502)
        .map(|number| {
            let mut job = job(&format!("{number:03}"), 1);
            let cpus = ("cpu".to_owned(), 1000 + number);
            job.roles[0].pod_set.worker.extend([cpus]);
            job
        })
        .collect();
    let mut full = nodes(&[1]);
    full.nodes[0].allocatable.insert("cpu".to_owned(), 96_000);
    full.nodes[0].free = Resources::new();
    let job_decisions = schedule(&jobs, &mut full, &mut admission(None), now());
    let clear_budgets =
        |decision: &&JobDecision| !decision.reason.contains("500 jobs of its namespace");
    let reasons: Vec<&str> = job_decisions
        .iter()
        .map(|decision| &*decision.reason)
        .collect();
    assert_eq!(
        job_decisions.iter().filter(clear_budgets).count(),
        500,
        "{reasons:?}"
    );
    assert_eq!(job_decisions[501].position, Some(502));
    assert_eq!(job_decisions[501].limited_by, Some(LimitedBy::Queue));
}

#[test]
fn priority_comes_before_age() {
    let older = Job {
        created: now() - SignedDuration::from_hours(1),
        ..job("older", 4)
    };
    let urgent = Job {
        priority: 10,
        ..job("urgent", 4)
    };
    let job_decisions = schedule(
        &[older, urgent],
        &mut nodes(&[4]),
        &mut admission(None),
        now(),
    );
    assert_eq!(
        limits(&job_decisions),
        [("urgent", None), ("older", Some(LimitedBy::Capacity))]
    );
}

#[test]
fn budgets_pay_for_whole_gangs() {
    let job_decisions = schedule(
        &[job("a", 2), job("b", 2)],
        &mut nodes(&[8]),
        &mut admission(Some("7")),
        now(),
    );
    assert_eq!(
        limits(&job_decisions),
        [("a", None), ("b", Some(LimitedBy::Budget))]
    );
}

#[test]
fn an_exhausted_budget_stops_what_runs() {
    let running = Job {
        running: true,
        ..job("a", 2)
    };
    let job_decisions = schedule(
        &[running],
        &mut nodes(&[8]),
        &mut admission(Some("0")),
        now(),
    );
    assert_eq!(limits(&job_decisions), [("a", Some(LimitedBy::Budget))]);
}

#[test]
fn nothing_resumes_while_its_last_run_is_stopping() {
    let stopping = Job {
        settled: false,
        ..job("a", 2)
    };
    let job_decisions = schedule(
        &[stopping, job("b", 2)],
        &mut nodes(&[8]),
        &mut admission(None),
        now(),
    );
    assert_eq!(
        limits(&job_decisions),
        [("a", Some(LimitedBy::Queue)), ("b", None)]
    );
}

#[test]
fn a_gang_that_stays_incomplete_is_taken_back_and_holds_nobody_up_while_it_waits() {
    let half = |since| Job {
        running: true,
        roles: vec![Role {
            with_pod: 3,
            ..role(3)
        }],
        unscheduled: Some(Unscheduled { workers: 1, since }),
        ..job("a", 3)
    };
    let decide_one = |job: &Job, now| {
        schedule(
            std::slice::from_ref(job),
            &mut nodes(&[2]),
            &mut admission(None),
            now,
        )
        .remove(0)
    };
    let patient = decide_one(&half(now()), now());
    let deadline = patient.requeue_at.unwrap();
    assert!(
        patient.run
            && deadline >= now() + SCHEDULING_TIMEOUT
            && deadline <= now() + SCHEDULING_TIMEOUT * 3 / 2
    );
    let back = decide_one(&half(now()), deadline);
    let retry = back.retry.unwrap();
    assert_eq!(
        (back.run, back.limited_by, retry.count),
        (false, Some(LimitedBy::Capacity), 1)
    );
    assert!(retry.at >= deadline + FIRST_BACKOFF, "{}", retry.at);

    let waiting = Job {
        retry: Some(retry.clone()),
        ..job("a", 3)
    };
    let both = [waiting.clone(), job("b", 2)];
    let during = schedule(&both, &mut nodes(&[3]), &mut admission(None), deadline);
    assert_eq!(
        limits(&during),
        [("a", Some(LimitedBy::Capacity)), ("b", None)]
    );
    assert_eq!(during[0].requeue_at, Some(retry.at));
    let after = schedule(&both, &mut nodes(&[3]), &mut admission(None), retry.at);
    assert_eq!(
        limits(&after),
        [("a", None), ("b", Some(LimitedBy::Capacity))]
    );
}

#[test]
fn gangs_that_block_each_other_do_not_let_go_together_and_wait_longer_each_time() {
    let since = |seed| Job {
        seed,
        unscheduled: Some(Unscheduled {
            workers: 1,
            since: now(),
        }),
        ..job("a", 3)
    };
    let taken_back = |seed| since(seed).evict_at(NodeStart::Never);
    assert_ne!(taken_back(7), taken_back(8));
    let wait = |count| {
        let retry = (count > 0).then(|| Retry {
            count,
            at: now(),
            creation_failure: None,
            had_room: false,
        });
        let job = Job {
            retry,
            ..job("a", 3)
        };
        job.next_retry(None, now()).at.duration_since(now())
    };
    assert!(wait(0) >= FIRST_BACKOFF && wait(2) >= FIRST_BACKOFF * 4);
    assert!(wait(u32::MAX) <= LONGEST_BACKOFF * 3 / 2);
}

#[test]
fn a_gang_whose_money_is_kept_for_others_holds_up_no_other_namespace() {
    let waiting = Job {
        kept: vec![(role(1).worker, 4)],
        ..job("a", 3)
    };
    let mut capacity = nodes(&[4]);
    capacity.place(&role(2).pod_set);
    let decisions = schedule(
        &[waiting, job("b", 3)],
        &mut capacity,
        &mut admission(Some("8")),
        now(),
    );
    assert_eq!(
        limits(&decisions),
        [
            ("a", Some(LimitedBy::Capacity)),
            ("b", Some(LimitedBy::Queue))
        ]
    );
    let scopes: Vec<BlockScope> = capacity
        .holders
        .iter()
        .map(|(_, _, scope)| *scope)
        .collect();
    assert_eq!(scopes, [BlockScope::Namespace; 2]);
}

#[test]
fn what_budgets_refuse_to_gangs_that_wait_is_remembered_once() {
    let jobs: Vec<Job> = (0..300)
        .map(|number| job(&format!("{number:03}"), 5))
        .collect();
    // room for none; no budget, money for one, and money for all
    for (limit, most) in [(None, 0), (Some("10"), 2), (Some("100000"), 0)] {
        let mut capacity = nodes(&[8]);
        capacity.nodes[0].free = gpus(0);
        let mut admission = admission(limit);
        let queue = NamespaceQueue {
            namespace: "team".into(),
            jobs: &jobs,
            admission: &mut admission,
        };
        let scheduled = schedule_all(vec![queue], &mut capacity, NodeStart::Never, now()).remove(0);
        assert_eq!(scheduled.decisions.len(), 300);
        let remembered = scheduled
            .denied
            .keys()
            .map(|running_costs| running_costs.len());
        assert!(remembered.sum::<usize>() <= most, "{limit:?}");
    }
}
