//! Decides which TrainingJobs run.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::budget::BudgetAdmission;
use crate::limit::LimitedBy;
use crate::model::capacity::ReservationOwner;
use crate::model::claim::{BudgetRank, Claim, DEFAULT_WEIGHT, Part, Workload, kept_before};
use crate::model::cost::is_worker_of;
use crate::model::event::{Key, Name, Owner};
use crate::model::job::{JobEnd, JobState};
use crate::model::missing_replica_pods::{CREATION_FAILURE_TIMEOUT, LONGEST_WAIT};
use crate::model::namespace::{Admission, AnsweredJob};
use crate::model::pod_cost::pod_set;
use crate::model::preemptible::Preemptibility;
use crate::model::service::Ordered;
use crate::model::state::{Model, PodState, count};
use crate::model::timers::TimerKey;
use crate::plan::decisions::{Decisions, JobOrder};
use crate::plan::interruption::LastRun;
use crate::training::{
    self, Job, JobDecision, MissingPods, NamespaceQueue, Preemptor, Scheduled, Unscheduled,
    schedule_all,
};

/// While gangs wait for room or money, their queue is decided again after this long, so that the
/// numbers in their reasons are not old.
const WAITING_PACE: SignedDuration = SignedDuration::from_secs(10);

/// The TrainingJobs of a namespace, as its queue reads them.
struct Observed {
    /// How many there are, those that have ended included.
    number: usize,
    keys: BTreeMap<String, Key>,
    jobs: Vec<Job>,
    /// When something about those that have ended changes.
    next: Option<Timestamp>,
}

/// Decides over the TrainingJobs of these namespaces in one order, with the money that each
/// namespace has left. Returns how many there are.
pub(super) fn decide_queues(
    model: &mut Model,
    admissions: &mut BTreeMap<Name, BudgetAdmission>,
    now: Timestamp,
    decisions: &mut Decisions,
) -> usize {
    let names: Vec<Name> = admissions.keys().cloned().collect();
    let observed: Vec<Observed> = names
        .iter()
        .map(|name| observe_queue(model, name, now, decisions))
        .collect();
    let queues = observed.iter().zip(admissions.iter_mut());
    let queues = queues.map(|(observed, (name, admission))| NamespaceQueue {
        namespace: name.clone(),
        jobs: &observed.jobs,
        admission,
    });
    let node_start = model.known_node_start();
    let mut capacity = model.capacity.for_queues(names.clone());
    let scheduled = schedule_all(queues.collect(), &mut capacity, node_start, now);
    drop(capacity);
    let number = observed.iter().map(|observed| observed.number).sum();
    for ((name, observed), scheduled) in names.iter().zip(observed).zip(scheduled) {
        carry_out(model, name, observed, scheduled, now, decisions);
    }
    number
}

/// Everything that a queue reads of its TrainingJobs. Those of which nothing is left are forgotten.
fn observe_queue(
    model: &mut Model,
    name: &Name,
    now: Timestamp,
    decisions: &mut Decisions,
) -> Observed {
    let keys = model.namespace_mut(name).jobs.clone();
    let mut observed = Observed {
        number: keys.len(),
        keys: BTreeMap::new(),
        jobs: Vec::new(),
        next: None,
    };
    for key in keys {
        if model.jobs.get(&key).is_some_and(|state| state.is_gone()) {
            model.set_preemptibility(&key, Preemptibility::NotPreemptible);
            model.jobs.remove(&key);
            model.namespace_mut(name).jobs.remove(&key);
            continue;
        }
        if let Some(state) = model.jobs.get_mut(&key) {
            state.settle_deleted_roles();
        }
        if let Some(job) = observe_job(model, &key, now) {
            let job = give_up_start(model, &key, job, now);
            if let Some(state) = model.jobs.get_mut(&key) {
                state.interruption = job.restarts.interruption.clone();
            }
            observed.keys.insert(job.name.clone(), key);
            observed.jobs.push(job);
        } else if let Some(state) = model.jobs.get_mut(&key) {
            (
                state.decision,
                state.interruption,
                state.reservation_kept_since,
            ) = (None, None, None);
            let costs = state.cost_changes_at;
            let expires = stop_finished(model, &key, now, decisions);
            let looks = [observed.next, costs, expires];
            observed.next = looks.into_iter().flatten().min();
        }
    }
    observed
}

/// The job without its room, if the cluster has refused its Jobs for so long that it is taken back as if
/// it had refused their pods.
fn give_up_start(model: &mut Model, key: &Key, job: Job, now: Timestamp) -> Job {
    let Some(state) = model.jobs.get_mut(key) else {
        return job;
    };
    if state.start_rejected_until().is_none_or(|until| now < until) {
        return job;
    }
    let why = "its Jobs cannot be made or changed, see the condition PodsHealthy";
    state.give_up_start(job.next_retry(Some(why.into()), now));
    model.refresh_job(key, now);
    observe_job(model, key, now).unwrap_or(job)
}

/// Gives the orders that were decided, and remembers the decisions and what budgets answered.
fn carry_out(
    model: &mut Model,
    name: &Name,
    observed: Observed,
    scheduled: Scheduled,
    now: Timestamp,
    decisions: &mut Decisions,
) {
    let denied = scheduled.denied.into_iter();
    let denied = denied.map(|(running_costs, denied)| (running_costs, Admission::from(&denied)));
    let admitted = scheduled.admitted.into_iter();
    let admitted = admitted.map(|running_costs| (running_costs, Admission::Admitted));
    let answered_jobs: Vec<AnsweredJob> = denied.chain(admitted).collect();
    let waiting = scheduled.decisions.iter();
    let waiting: BTreeSet<&str> = waiting
        .filter(|decision| decision.waits_for_money && !model.is_observe_only(name))
        .map(|decision| decision.name.as_str())
        .collect();
    let waiting = observed
        .jobs
        .iter()
        .filter(|job| waiting.contains(job.name.as_str()));
    let claims = waiting.map(|job| {
        let running_costs = job.running_costs();
        (
            rank(job),
            Claim {
                first: vec![],
                running_costs,
                count: 1,
            },
        )
    });
    let namespace = model.namespace_mut(name);
    let is_of_service = |rank: &BudgetRank| matches!(rank.workload, Workload::Service(_));
    namespace.claims.retain(|rank, _| is_of_service(rank));
    namespace.claims.extend(claims);
    namespace.answered_jobs = answered_jobs;
    let mut next = observed.next;
    for decision in scheduled.decisions {
        let Some(key) = observed.keys.get(&decision.name) else {
            continue;
        };
        let decision = apply_pause(model, key, decision);
        let rests = [Some(LimitedBy::Suspended), Some(LimitedBy::Paused)];
        let waits = !decision.run && !rests.contains(&decision.limited_by);
        let pace = waits.then(|| now.saturating_add(WAITING_PACE).unwrap_or(now));
        order_job(model, key, &decision, now, decisions);
        let Some(state) = model.jobs.get_mut(key) else {
            continue;
        };
        let expires = state.ordered.as_ref().and_then(Ordered::expires);
        let looks = [
            next,
            pace,
            state.start_rejected_until(),
            decision.requeue_at,
            expires,
            state.cost_changes_at,
        ];
        next = looks.into_iter().flatten().min();
        if state.decision.as_ref() != Some(&decision) {
            state.decision = Some(decision.clone());
            decisions.jobs.push((key.clone(), decision));
        }
    }
    model.timers.set(TimerKey::Queue(name.clone()), next);
}

/// Tells the Jobs that go on though the gang has ended with another role to stop: they hold GPUs
/// for nothing. When that order expires.
fn stop_finished(
    model: &mut Model,
    key: &Key,
    now: Timestamp,
    decisions: &mut Decisions,
) -> Option<Timestamp> {
    let state = model.jobs.get(key)?;
    let end = state.end().filter(|_| state.shows_running())?;
    let reason = match end {
        JobEnd::Succeeded => "the roles that decide over its success have ended well",
        JobEnd::RoleFailed(_) | JobEnd::RestartsUsedUp => "one of its roles has failed",
    };
    let decision = JobDecision {
        name: key.name.to_string(),
        run: false,
        limited_by: None,
        reason: reason.to_owned(),
        position: None,
        retry: None,
        creation_failure: None,
        waits_for_money: false,
        preempted_for_gpus: false,
        restart: None,
        restarts: state.restarts(),
        keeps_reservation: false,
        requeue_at: None,
    };
    order_job(model, key, &decision, now, decisions);
    let state = model.jobs.get(key)?;
    state.ordered.as_ref().and_then(Ordered::expires)
}

/// Tells a TrainingJob's Jobs to run or not, if they do otherwise, and keeps its room and its money
/// or not.
fn order_job(
    model: &mut Model,
    key: &Key,
    decision: &JobDecision,
    now: Timestamp,
    decisions: &mut Decisions,
) {
    let is_observe_only = model.is_observe_only(&key.namespace);
    let Some(state) = model.jobs.get_mut(key) else {
        return;
    };
    if !decision.run {
        state.start_rejected_since = None;
    }
    let is_ordered = state
        .ordered
        .is_some_and(|ordered| ordered.value == decision.run);
    let is_shown = state.ordered.is_none() && state.shows(decision.run);
    let since = state.reservation_kept_since;
    let keeps_since = decision.keeps_reservation.then(|| since.unwrap_or(now));
    state.reservation_kept_since = keeps_since;
    if is_ordered || is_shown || is_observe_only {
        if since.is_some() != decision.keeps_reservation {
            model.refresh_job(key, now);
        }
        return;
    }
    let cancels_stop = decision.run && state.may_go_on();
    // what its Jobs show is as it should be then
    state.ordered = (!cancels_stop).then_some(Ordered {
        value: decision.run,
        at: now,
    });
    state.order_observed = false;
    // an order that is given anew carries what its Jobs do not show yet
    let unshown = (state.retry.take(), state.restart);
    (state.retry, state.restart) = (decision.retry.clone(), decision.restart);
    if !decision.run {
        state.retry = state.retry.take().or(unshown.0);
        state.restart = state.restart.or(unshown.1);
    }
    if decision.run {
        model.capacity_preemptions.given.remove(key);
    }
    let recreate = match decision.run && !cancels_stop {
        true => state.roles_to_renew(),
        false => Vec::new(),
    };
    state.recreate(&recreate);
    let order = JobOrder {
        job: key.clone(),
        run: decision.run,
        cancels_stop,
        retry: state.retry.clone(),
        restart: state.restart,
        restarts: decision.restarts,
        recreate,
        done: state.done_roles(),
        reason: decision.reason.clone(),
        limited_by: decision.limited_by,
        after_latch: decision.limited_by == Some(LimitedBy::Budget),
    };
    decisions.job_orders.push(order);
    model.refresh_job(key, now);
}

/// What becomes of a job that is paused, alone or with its scope: it goes on or does not start. A
/// budget stops one that is paused alone, and so does its own `suspend`.
fn apply_pause(model: &Model, key: &Key, decision: JobDecision) -> JobDecision {
    let state = model.jobs.get(key);
    let Some((state, spec)) = state.and_then(|state| Some((state, state.spec.as_ref()?))) else {
        return decision;
    };
    let running = state.is_running();
    let (run, reason) = match model.paused_by(&key.namespace) {
        Some(scope) if running && decision.run => {
            (true, format!("{scope} is paused; {}", decision.reason))
        }
        Some(scope) if running => {
            let why = &decision.reason;
            (
                true,
                format!("{scope} is paused: it goes on, and would stop otherwise; {why}"),
            )
        }
        Some(scope) => (false, format!("{scope} is paused: it does not start")),
        None if spec.paused && !running && !spec.suspend && !starts_again(state) => {
            (false, "spec.paused is true: it does not start".to_owned())
        }
        None => return decision,
    };
    JobDecision {
        run,
        limited_by: Some(LimitedBy::Paused),
        reason,
        position: None,
        retry: None,
        waits_for_money: false,
        preempted_for_gpus: false,
        requeue_at: None,
        ..decision
    }
}

/// Whether a gang that its user has paused starts again: it ran, and nothing but a restart has stopped
/// it.
fn starts_again(state: &JobState) -> bool {
    let limited_by = state.decision.as_ref().and_then(|last| last.limited_by);
    let is_between_runs = matches!(
        limited_by,
        None | Some(LimitedBy::Capacity | LimitedBy::Queue)
    );
    state.restart_at().is_some() && is_between_runs
}

/// The place of a job in the order in which money is given.
fn rank(job: &Job) -> BudgetRank {
    let workload = Workload::Job(job.name.as_str().into());
    let weight = DEFAULT_WEIGHT;
    BudgetRank::new(job.priority, Part::Further, weight, job.created, workload)
}

/// Everything that the queue reads of a TrainingJob; `None` once it has ended.
fn observe_job(model: &Model, key: &Key, now: Timestamp) -> Option<Job> {
    let state = model.jobs.get(key)?;
    let spec = state.spec.as_ref()?;
    if state.has_finished() {
        return None;
    }
    let pods: Vec<&PodState> = state
        .pods
        .iter()
        .filter_map(|uid| model.pods.get(uid))
        .collect();
    let roles = spec
        .roles
        .iter()
        .zip(&state.running_costs)
        .map(|(role, running_cost)| {
            let workers = pods
                .iter()
                .filter(|found| is_worker_of(&found.pod, &role.name));
            let workers = workers.filter(|found| state.is_of_current_run(&found.pod));
            let ended_well = state.ended_well(&role.name);
            training::Role {
                pod_set: pod_set(&role.worker, role.replicas),
                worker: *running_cost,
                with_pod: count(workers.count()).saturating_add(ended_well),
            }
        });
    let roles: Vec<training::Role> = roles.collect();
    // an order to stop that nobody has carried out is taken back
    let goes_on = state.may_go_on() && model.capacity_preemption(key).is_none();
    let running = state.is_running() || goes_on;
    // what its Jobs show while an order is on its way is from before it
    let is_shown = state.ordered.is_none() && state.shows_running();
    let unscheduled = unscheduled(&pods);
    let has_room = spec.roles.iter().all(|role| {
        let owner = Owner::Job(key.name.clone(), role.name.clone());
        let owner = ReservationOwner::Workload(key.clone(), owner);
        !model.capacity.lacks_capacity(&owner)
    });
    let last_run = LastRun::of(model, state, &pods, now);
    let last_preempted_by = state.decision.as_ref();
    let last_preempted_by =
        last_preempted_by.filter(|decision| decision.limited_by == Some(LimitedBy::Preempted));
    let mut job = Job {
        name: key.name.to_string(),
        priority: spec.priority,
        cluster_priority: spec.cluster_priority,
        created: spec.created,
        suspend: spec.suspend,
        running,
        missing: missing_pods(state, &roles, &pods).filter(|_| is_shown && !spec.is_adopted),
        unscheduled: unscheduled.filter(|_| is_shown),
        retry: state.last_retry(),
        fits_now: has_room,
        gives_up_at: last_run.requeue_at(now),
        seed: spec.seed,
        settled: state.is_settled(|role| last_run.given_up(role))
            && !last_run.previous_run_terminating
            && (state.restart_at().is_none() || last_run.has_ended()),
        restarts: last_run.restarts(state, has_room, now),
        preempted_by: None,
        last_preempted_by: last_preempted_by.map(|decision| Preemptor {
            reason: decision.reason.clone(),
            for_gpus: decision.preempted_for_gpus,
        }),
        kept: vec![],
        roles,
    };
    let is_paused = model.paused_by(&key.namespace).is_some();
    if is_paused || spec.paused {
        // it takes no room that it does not have
        job.suspend |= !running && (is_paused || !starts_again(state));
    }
    if is_paused {
        // it is not taken back. What a gang lacks that its user has paused is not kept from others for ever
        (job.missing, job.unscheduled) = (None, None);
    }
    if let Some(namespace) = model.namespaces.get(&key.namespace) {
        let preemption = namespace.preempted.get(&Workload::Job(key.name.clone()));
        job.preempted_by = preemption.map(|found| {
            let name = found.to.workload.name();
            Preemptor {
                reason: format!(
                    "gives way to {name}, which has a higher priority and waits for money"
                ),
                for_gpus: false,
            }
        });
        job.kept = kept_before(&namespace.kept, &rank(&job));
    }
    if job.preempted_by.is_none() && matches!(state.preemptibility, Preemptibility::Preemptible(_))
    {
        let preemption = model.capacity_preemption(key);
        job.preempted_by = preemption.map(|found| Preemptor {
            reason: found.describe(&key.namespace),
            for_gpus: true,
        });
    }
    Some(job)
}

/// The workers of a running gang that have no pod. How long these may be missing begins with what came
/// last: the gang's start, a pod that was made, or the end of one.
fn missing_pods(
    state: &JobState,
    roles: &[training::Role],
    pods: &[&PodState],
) -> Option<MissingPods> {
    let spec = state.spec.as_ref()?;
    let missing = |role: &training::Role| role.pod_set.workers.saturating_sub(role.with_pod);
    let workers = roles.iter().map(missing).fold(0, u32::saturating_add);
    if workers == 0 {
        return None;
    }
    let of_run = pods.iter().map(|found| &found.pod);
    let of_run: Vec<_> = of_run.filter(|pod| state.is_of_current_run(pod)).collect();
    let made_or_ended = of_run.iter().flat_map(|pod| [Some(pod.created), pod.ended]);
    let began = state.running_since.values().copied().max();
    let since = made_or_ended
        .chain([began, state.started()])
        .flatten()
        .max()?;
    let creation_failure = spec.roles.iter().zip(roles).filter_map(|(spec, role)| {
        let report = state
            .batch_jobs
            .get(&spec.name)?
            .creation_failure
            .as_ref()?;
        let of_role = of_run.iter().filter(|pod| is_worker_of(pod, &spec.name));
        let made = of_role.map(|pod| pod.created).max();
        let is_over = made.is_some_and(|made| made > report.last);
        (missing(role) > 0 && !is_over).then_some(report)
    });
    let first = creation_failure.min_by_key(|report| report.since);
    let after = |wait| since.saturating_add(wait).unwrap_or(since);
    let silent = after(LONGEST_WAIT);
    let until = first.map_or(silent, |report| {
        let creation_failure = since
            .max(report.since)
            .saturating_add(CREATION_FAILURE_TIMEOUT);
        // a report is no reason to wait for longer than without a word
        creation_failure.map_or(silent, |creation_failure| creation_failure.min(silent))
    });
    Some(MissingPods {
        workers,
        until,
        creation_failure: first.map(|report| report.why.clone()),
    })
}

/// The workers of a gang that have a pod and no node.
fn unscheduled(pods: &[&PodState]) -> Option<Unscheduled> {
    let pending = || pods.iter().filter(|found| found.pod.is_pending());
    Some(Unscheduled {
        since: pending().map(|found| found.pod.created).min()?,
        workers: count(pending().count()),
    })
}
