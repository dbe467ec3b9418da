//! Decides which gangs run, in one order over the namespaces.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::budget::{BudgetAdmission, BudgetState, Denied, RunningCost};
use crate::limit::LimitedBy;
use crate::pod_set::{BlockScope, PodSet, SchedulingCapacity, SchedulingRank};

use super::{Incomplete, Interruption, Job, JobDecision, NodeStart, Preemptor, Restart, Retry};

/// So many gangs that wait are looked at in a namespace: each is compared with all ahead of it, and nobody's
/// decision may take long because one namespace has very many.
const MOST_AHEAD: usize = 500;

/// Decides who runs in one namespace, as [`schedule_all`] does in all.
#[cfg(test)]
pub(crate) fn schedule(
    jobs: &[Job],
    capacity: &mut impl SchedulingCapacity,
    admission: &mut BudgetAdmission,
    now: Timestamp,
) -> Vec<JobDecision> {
    let queue = NamespaceQueue {
        namespace: "team".into(),
        jobs,
        admission,
    };
    let mut scheduled = schedule_all(vec![queue], capacity, NodeStart::Never, now);
    scheduled.remove(0).decisions
}

/// The jobs of a namespace, and the money that what runs there has left.
pub(crate) struct NamespaceQueue<'a> {
    pub(crate) namespace: Arc<str>,
    pub(crate) jobs: &'a [Job],
    pub(crate) admission: &'a mut BudgetAdmission,
}

/// What becomes of the jobs of a namespace.
#[derive(Debug, Default)]
pub(crate) struct Scheduled {
    /// The decisions, in the order in which they were made.
    pub(crate) decisions: Vec<JobDecision>,
    /// What budgets refused to pay for, and why: with another answer, one of the jobs might run. That
    /// a budget is exhausted is no answer to any one.
    pub(crate) denied: BTreeMap<Vec<(RunningCost, u32)>, Denied>,
    /// The most that budgets would pay for, to gangs that wait for room and hold up those of other
    /// namespaces: with another answer, they hold up nobody there.
    pub(crate) admitted: Option<Vec<(RunningCost, u32)>>,
}

/// Decides who runs, in one order over all these namespaces: by priority, then by age. Within a
/// namespace its jobs' own priorities count, and beside those of others what these count in the
/// cluster. Running jobs go on while there is money; a gang starts when all of it fits and the
/// budgets admit all of it.
///
/// A gang that waits for room or money is passed only by one that cannot delay it: nodes on which
/// that one finds room are of no use to the gang that waits, and the budgets pay for both. A gang
/// that can never run as things are holds nobody up: no node could take it, no period has the
/// money, or its price is unknown. Neither does one that was taken back because some of its
/// workers found no node.
///
/// Money is a matter of a namespace. So a gang holds up those of other namespaces only for room,
/// and only if the budgets would pay for it and for those ahead of it, and if the nodes could take
/// it beside the pods that are of no gang, which may stay for ever.
///
/// Where nodes are made for pods that wait, a gang for which there is too little room starts all the same, so that nodes are
/// made for the rest of it. It takes the room that it finds, and holds nobody up otherwise. One
/// that was taken back because no node came first waits for nodes that exist, if they are enough,
/// for as long as it waited for new ones.
///
/// `capacity` and the queues' admissions are those left by what runs, workers that have no pod yet
/// included. Gangs of other namespaces that wait are known to `capacity`.
pub(crate) fn schedule_all(
    queues: Vec<NamespaceQueue<'_>>,
    capacity: &mut impl SchedulingCapacity,
    node_start: NodeStart,
    now: Timestamp,
) -> Vec<Scheduled> {
    let mut order: Vec<(usize, SchedulingRank, &Job)> = Vec::new();
    for (place, queue) in queues.iter().enumerate() {
        let ranked = in_order(&queue.namespace, queue.jobs, now);
        order.extend(ranked.into_iter().map(|(rank, job)| (place, rank, job)));
    }
    // those of a namespace that rank alike stay in its order
    order.sort_by_key(|(place, rank, job)| (!job.has_room(), rank.priority, rank.created, *place));
    let mut lines: Vec<QueueState<'_>> = queues
        .into_iter()
        .map(|queue| QueueState {
            admission: queue.admission,
            ahead: Vec::new(),
            ahead_costs: BTreeMap::new(),
            ahead_exceeds_budget: false,
            scheduled: Scheduled::default(),
            waiting: 0,
        })
        .collect();
    for (place, rank, job) in order {
        let Some(line) = lines.get_mut(place) else {
            continue;
        };
        capacity.ask_for(&rank);
        let mut queue = Queue {
            capacity,
            line,
            namespace: &rank.namespace,
            node_start,
        };
        let decision = queue.decide_one(job, now);
        line.scheduled.decisions.push(decision);
    }
    lines.into_iter().map(|line| line.scheduled).collect()
}

/// The jobs of a namespace by their own priorities and ages, with their ranks in the cluster. Those that have
/// lost their place come last.
fn in_order<'a>(
    namespace: &Arc<str>,
    jobs: &'a [Job],
    now: Timestamp,
) -> Vec<(SchedulingRank, &'a Job)> {
    let mut jobs: Vec<&Job> = jobs.iter().collect();
    let has_lost_place = |job: &Job| job.deprioritized_at(now).is_some();
    jobs.sort_by_key(|job| {
        let place = (Reverse(job.priority), job.created, &job.name);
        (has_lost_place(job), place)
    });
    let mut last = (Reverse(i32::MAX), Timestamp::MIN);
    let ranked = jobs.into_iter().map(|job| {
        let priority = match has_lost_place(job) {
            true => i32::MIN,
            false => job.cluster_priority,
        };
        let own = (Reverse(priority), job.created);
        let (priority, created) = own.max(last);
        if !job.has_room() && !job.suspend {
            last = (priority, created);
        }
        let rank = SchedulingRank {
            priority,
            created,
            namespace: namespace.clone(),
            name: job.name.as_str().into(),
        };
        (rank, job)
    });
    ranked.collect()
}

/// What is left of the queue of one namespace, and who waits in it.
struct QueueState<'a> {
    admission: &'a mut BudgetAdmission,
    /// The jobs that wait for room or money, the first one first.
    ahead: Vec<&'a Job>,
    /// What these cost: so many of each.
    ahead_costs: BTreeMap<RunningCost, u32>,
    /// Budgets did not pay for one of them beside those ahead of it, so they pay for none behind it.
    ahead_exceeds_budget: bool,
    scheduled: Scheduled,
    /// How many jobs wait, for whatever it is.
    waiting: u32,
}

/// Why a job does not run.
struct Blocked {
    limited_by: Option<LimitedBy>,
    reason: String,
    /// It starts as soon as there is room and money for it: whose gangs behind it may not delay it.
    blocks: Option<BlockScope>,
    /// It is stopped to start again.
    restart: Option<Restart>,
    /// Its room and its money are kept.
    keeps_reservation: bool,
    /// Why the cluster refuses its pods, if that is why.
    creation_failure: Option<Arc<str>>,
    /// It stops for a workload that waits for GPUs.
    preempted_for_gpus: bool,
    /// GPUs may be taken back for it.
    may_preempt: bool,
}

impl Blocked {
    /// It waits for something else than room or money, or for what never comes.
    fn not_blocking(limited_by: LimitedBy, reason: impl Into<String>) -> Self {
        Self {
            limited_by: Some(limited_by),
            reason: reason.into(),
            blocks: None,
            restart: None,
            keeps_reservation: false,
            creation_failure: None,
            preempted_for_gpus: false,
            may_preempt: false,
        }
    }

    /// It stops for a workload of higher priority.
    fn preempted_by(to: &Preemptor) -> Self {
        Self {
            preempted_for_gpus: to.for_gpus,
            ..Self::not_blocking(LimitedBy::Preempted, to.reason.as_str())
        }
    }

    /// It stops, waits for nothing but to start again, or has failed.
    fn between_runs(job: &Job, restart: Restart, keeps_reservation: bool) -> Self {
        Self {
            limited_by: None,
            reason: job.restarts.describe(restart),
            blocks: None,
            restart: Some(restart),
            keeps_reservation,
            creation_failure: None,
            preempted_for_gpus: false,
            may_preempt: false,
        }
    }

    /// Its workers stop because of this interruption. A gang whose worker failed by itself keeps the room
    /// that it has, as the nodes are well, unless it waits for longer than it has run.
    fn interrupted(job: &Job, interruption: &Interruption, now: Timestamp) -> Self {
        let restarts = &job.restarts;
        let restart = restarts.next(interruption, now);
        let goes_on = restart.count <= restarts.limit && restarts.is_worth_room(restart, now);
        let keeps_reservation = interruption.is_failure && goes_on && job.fits_now;
        Self::between_runs(job, restart, keeps_reservation)
    }

    /// It waits for room or money.
    fn next(limited_by: LimitedBy, reason: impl Into<String>, scope: BlockScope) -> Self {
        Self {
            blocks: Some(scope),
            ..Self::not_blocking(limited_by, reason)
        }
    }

    fn denied(denied: Denied) -> Self {
        match denied {
            Denied::Budget {
                message,
                in_no_period: false,
                ..
            } => Self::next(LimitedBy::Budget, message, BlockScope::Namespace),
            Denied::Budget { message, .. } => Self::not_blocking(LimitedBy::Budget, message),
            Denied::Unknown(why) => Self::not_blocking(LimitedBy::PriceUnknown, why),
        }
    }
}

/// The room, and the money of one namespace, that jobs are given one after the other.
struct Queue<'q, 'a, R> {
    capacity: &'q mut R,
    line: &'q mut QueueState<'a>,
    namespace: &'q Arc<str>,
    node_start: NodeStart,
}

impl<'a, R: SchedulingCapacity> Queue<'_, 'a, R> {
    fn decide_one(&mut self, job: &'a Job, now: Timestamp) -> JobDecision {
        let blocked = match self.decide(job, now) {
            Ok(reason) => {
                return JobDecision {
                    name: job.name.clone(),
                    run: true,
                    limited_by: None,
                    reason,
                    position: None,
                    retry: None,
                    creation_failure: job.creation_failure(),
                    waits_for_money: false,
                    preempted_for_gpus: false,
                    restart: None,
                    restarts: job.restarts.count,
                    keeps_reservation: false,
                    requeue_at: [job.evict_at(self.node_start), job.gives_up_at]
                        .into_iter()
                        .flatten()
                        .min(),
                };
            }
            Err(blocked) => blocked,
        };
        let taken_back = job.running && blocked.limited_by == Some(LimitedBy::Capacity);
        let retry = taken_back.then(|| job.next_retry(blocked.creation_failure.clone(), now));
        let waits = [
            retry.as_ref().or(job.retry.as_ref()).map(|retry| retry.at),
            blocked.restart.map(|restart| restart.at),
            job.restarts.waits_until,
            job.gives_up_at,
            job.place_kept_until(),
            self.pends_again_at(job),
        ];
        let waits_until = waits.into_iter().flatten().filter(|at| *at > now).min();
        let is_for_money = blocked.limited_by == Some(LimitedBy::Budget);
        let waits_for_money = blocked.blocks.is_some() && is_for_money;
        if let Some(scope) = blocked.blocks {
            self.wait(job, scope, blocked.may_preempt);
        }
        let is_in_queue = !matches!(blocked.limited_by, None | Some(LimitedBy::Suspended));
        let position = is_in_queue.then(|| {
            self.line.waiting += 1;
            self.line.waiting
        });
        JobDecision {
            name: job.name.clone(),
            run: false,
            limited_by: blocked.limited_by,
            reason: blocked.reason,
            position,
            retry,
            creation_failure: blocked.creation_failure,
            waits_for_money,
            preempted_for_gpus: blocked.preempted_for_gpus,
            restart: blocked.restart,
            restarts: blocked
                .restart
                .map_or(job.restarts.count, |restart| restart.count),
            keeps_reservation: blocked.keeps_reservation,
            requeue_at: waits_until,
        }
    }

    /// The job waits for room or money: those behind it may not delay it.
    fn wait(&mut self, job: &'a Job, scope: BlockScope, may_preempt: bool) {
        self.capacity
            .block_nodes(&job.pod_sets(), scope, may_preempt);
        self.line.ahead.push(job);
        if job.has_known_price() && self.has_budgets() {
            for (running_cost, count) in job.running_costs() {
                let ahead_costs = self.line.ahead_costs.entry(running_cost).or_default();
                *ahead_costs = ahead_costs.saturating_add(count);
            }
        }
    }

    /// Why it runs, or why it does not. Why it was interrupted stays known while it waits for something
    /// else.
    fn decide(&mut self, job: &Job, now: Timestamp) -> Result<String, Blocked> {
        self.decide_run(job, now).map_err(|mut blocked| {
            let interruption = job.restarts.interruption.as_ref().filter(|_| !job.running);
            if let (Some(found), Some(LimitedBy::Capacity | LimitedBy::Queue)) =
                (interruption, blocked.limited_by)
            {
                blocked.reason = format!("{}; {}", found.why, blocked.reason);
            }
            blocked
        })
    }

    fn decide_run(&mut self, job: &Job, now: Timestamp) -> Result<String, Blocked> {
        let restarts = &job.restarts;
        let restart = restarts.under_way();
        if let Some(restart) = restart.filter(|_| restarts.are_used_up() && !job.running) {
            return Err(Blocked::between_runs(job, restart, false));
        }
        if job.suspend {
            let reason = "spec.suspend is true";
            return Err(Blocked::not_blocking(LimitedBy::Suspended, reason));
        }
        let mut budget_states = self.line.admission.budget_states().iter();
        // announced terms stop nothing, and so not what has its room until it starts again
        let stop_reason = |state: &BudgetState| match job.has_room() {
            true => state.stop_reason_running(job.priority),
            false => state.stop_reason(job.priority),
        };
        if let Some(reason) = budget_states.find_map(stop_reason) {
            return Err(Blocked::not_blocking(LimitedBy::Budget, reason));
        }
        if job.running {
            if let Some(Incomplete {
                what,
                creation_failure,
            }) = job.incomplete(self.node_start, now)
            {
                let reason =
                    format!("{what}; all are taken back, and it waits for its decision again");
                return Err(Blocked {
                    creation_failure,
                    ..Blocked::not_blocking(LimitedBy::Capacity, reason)
                });
            }
            if let Some(interruption) = &restarts.interruption {
                return Err(Blocked::interrupted(job, interruption, now));
            }
        }
        if job.has_room()
            && let Some(to) = &job.preempted_by
        {
            return Err(Blocked::preempted_by(to));
        }
        if job.running {
            return Ok(job.running_reason(self.node_start));
        }
        if let Some(restart) = restart.filter(|_| restarts.keeps_reservation) {
            return match job.settled && restart.at <= now {
                true => Ok(format!("{} workers run", job.workers())),
                false => Err(Blocked::between_runs(job, restart, true)),
            };
        }
        if !job.settled {
            if let Some(to) = &job.last_preempted_by {
                return Err(Blocked::preempted_by(to));
            }
            let reason = "its workers of the last run are still stopping";
            return Err(Blocked::not_blocking(LimitedBy::Queue, reason));
        }
        if self.line.ahead.len() >= MOST_AHEAD {
            let reason = format!(
                "{} jobs of its namespace wait ahead of it: it is looked at once they are fewer than \
                 {MOST_AHEAD}",
                self.line.ahead.len()
            );
            return Err(Blocked::not_blocking(LimitedBy::Queue, reason));
        }
        let (workers, pod_sets, running_costs) =
            (job.workers(), job.pod_sets(), job.running_costs());
        let could = self.capacity.could_fit(&pod_sets);
        if could < workers && !matches!(self.node_start, NodeStart::Within(_)) {
            let reason = if could == 0 {
                "its workers fit no node: none that is ready takes one of them, even without other \
                 pods than those of DaemonSets"
                    .to_owned()
            } else {
                format!(
                    "all ready nodes together take {could} of its {workers} workers, even without \
                     other pods than those of DaemonSets"
                )
            };
            return Err(Blocked::not_blocking(LimitedBy::Capacity, reason));
        }
        let waits_for_money = match self.check(&running_costs) {
            Err(blocked) if blocked.blocks.is_none() => return Err(blocked),
            other => other,
        };
        if let Some(retry) = job.retry.as_ref().filter(|retry| retry.at > now) {
            let Retry {
                count,
                at,
                creation_failure,
                ..
            } = retry;
            let what = match creation_failure {
                Some(why) => format!(
                    "the cluster refused pods of its workers: {why}; it was taken back {count} \
                     times so far, and"
                ),
                None => format!(
                    "some of its workers found no node or were given no pod, {count} times so far; it"
                ),
            };
            return Err(Blocked {
                creation_failure: creation_failure.clone(),
                ..Blocked::not_blocking(LimitedBy::Capacity, format!("{what} tries again at {at}"))
            });
        }
        if let Some(restart) = restart.filter(|restart| restart.at > now) {
            // whether there is money now is not asked: an answer that changes with what others get
            // until then would be asked for again and again
            return Err(Blocked {
                blocks: Some(BlockScope::Namespace),
                ..Blocked::between_runs(job, restart, false)
            });
        }
        let fit = self.capacity.fits(&pod_sets);
        if let Some(first) = self.capacity.blocking_gang(&pod_sets, fit < workers) {
            let reason = if first.namespace == *self.namespace {
                format!(
                    "waits behind {}, which waits for the same nodes",
                    first.name
                )
            } else {
                format!(
                    "waits behind a job of another namespace, of priority {}, which waits for the \
                     same nodes",
                    first.priority.0
                )
            };
            let pays = waits_for_money.is_ok() && self.pays_beside_kept(job, &running_costs);
            let starts_after = self
                .capacity
                .blocking_gang_in_namespace(&pod_sets)
                .is_none();
            let scope = match starts_after {
                true => self.scope(&pod_sets, &running_costs, pays),
                // it cannot start before one that waits for something else than nodes
                false => BlockScope::Namespace,
            };
            let reason = after_others(reason, job, now);
            return Err(Blocked::next(LimitedBy::Queue, reason, scope));
        }
        let waits_for_nodes = fit < workers && self.may_wait_for_nodes(job, could, now);
        if fit < workers && !waits_for_nodes {
            let reason = format!("there is room for {fit} of its {workers} workers now");
            let pays = waits_for_money.is_ok() && self.pays_beside_kept(job, &running_costs);
            let scope = self.scope(&pod_sets, &running_costs, pays);
            return Err(Blocked {
                may_preempt: pays && self.may_preempt(job, now),
                ..Blocked::next(LimitedBy::Capacity, after_others(reason, job, now), scope)
            });
        }
        let is_paid = waits_for_money.is_ok() && self.pays_beside_those_ahead(&running_costs);
        if !is_paid && let Some(first) = self.line.ahead.first() {
            let name = &first.name;
            let reason = format!("waits behind {name}, which goes first when there is money");
            return Err(Blocked::next(
                LimitedBy::Queue,
                reason,
                BlockScope::Namespace,
            ));
        }
        waits_for_money?;
        if !job.kept.is_empty() {
            let answer = self.line.admission.check_beside(&running_costs, &job.kept);
            answer.map_err(Blocked::denied)?;
        }
        let admitted = self.line.admission.admit_all(&running_costs);
        admitted.map_err(Blocked::denied)?;
        for pod_set in pod_sets {
            self.capacity.place(pod_set);
        }
        Ok(match waits_for_nodes {
            true => format!(
                "there is room for {fit} of its {workers} workers now; it starts, so that a node \
                 autoscaler makes nodes for the others"
            ),
            false => format!("{workers} workers run"),
        })
    }

    /// Whether a gang that finds too little room starts, so that nodes are made for its pods.
    fn may_wait_for_nodes(&self, job: &Job, could: u32, now: Timestamp) -> bool {
        let makes_nodes = matches!(self.node_start, NodeStart::Within(_));
        let is_first = job.retry.is_none() || could < job.workers();
        makes_nodes && (is_first || self.pends_again_at(job).is_some_and(|at| at <= now))
    }

    /// When a gang that was taken back since it found no node may start again without room, so that
    /// nodes are made for its pods.
    fn pends_again_at(&self, job: &Job) -> Option<Timestamp> {
        match self.node_start {
            NodeStart::Within(node_start) => job.retry.as_ref()?.at.checked_add(node_start).ok(),
            NodeStart::Never | NodeStart::Unknown => None,
        }
    }

    /// Whether it would start with the GPUs of others: not one that found no node where there was room,
    /// or whose pods the cluster refused, but for a second try; and where nodes are made for pods, not before
    /// it has waited for those.
    fn may_preempt(&self, job: &Job, now: Timestamp) -> bool {
        if job.retry.is_none() {
            return self.node_start == NodeStart::Never;
        }
        let second_try = |at| at <= now && !job.has_tried();
        job.place_kept_until().is_none_or(second_try)
    }

    /// Whether budgets pay for it beside what is kept for others.
    fn pays_beside_kept(&self, job: &Job, running_costs: &[(RunningCost, u32)]) -> bool {
        let admission = &self.line.admission;
        job.kept.is_empty() || admission.check_beside(running_costs, &job.kept).is_ok()
    }

    /// Whether budgets pay for these, noted if not.
    fn check(&mut self, running_costs: &[(RunningCost, u32)]) -> Result<(), Blocked> {
        let answer = self.line.admission.check_all(running_costs);
        answer.map_err(|denied| {
            let known = &mut self.line.scheduled.denied;
            known
                .entry(running_costs.to_vec())
                .or_insert_with(|| denied.clone());
            Blocked::denied(denied)
        })
    }

    fn has_budgets(&self) -> bool {
        !self.line.admission.budget_states().is_empty()
    }

    /// Whether budgets pay for these and for those that wait ahead of them. Of those for which they do
    /// not, each has the one before among those ahead of it: while they do not pay for the first, they
    /// pay for none.
    fn pays_beside_those_ahead(&mut self, running_costs: &[(RunningCost, u32)]) -> bool {
        if self.line.ahead.is_empty() || !self.has_budgets() {
            return true;
        }
        if self.line.ahead_exceeds_budget {
            return false;
        }
        let both = self.with_those_ahead(running_costs);
        let is_paid = self.check(&both).is_ok();
        self.line.ahead_exceeds_budget = !is_paid;
        is_paid
    }

    /// These, and what those cost that wait ahead of them.
    fn with_those_ahead(&self, running_costs: &[(RunningCost, u32)]) -> Vec<(RunningCost, u32)> {
        let mut both = self.line.ahead_costs.clone();
        for (running_cost, count) in running_costs {
            let ahead_costs = both.entry(*running_cost).or_default();
            *ahead_costs = ahead_costs.saturating_add(*count);
        }
        both.into_iter().collect()
    }

    /// Whom a gang holds up that waits for room.
    fn scope(
        &mut self,
        pod_sets: &[&PodSet],
        running_costs: &[(RunningCost, u32)],
        pays: bool,
    ) -> BlockScope {
        let starts_with_room = pays
            && self.pays_beside_those_ahead(running_costs)
            && self.capacity.could_fit_with_other_pods(pod_sets);
        if !starts_with_room {
            return BlockScope::Namespace;
        }
        if self.has_budgets() {
            // those ahead of the next one are more
            self.line.scheduled.admitted = Some(self.with_those_ahead(running_costs));
        }
        BlockScope::Cluster
    }
}

/// A reason, with why others go first.
fn after_others(reason: String, job: &Job, now: Timestamp) -> String {
    let why = || {
        let at = job.deprioritized_at(now)?;
        let why = match job.retry.as_ref()?.creation_failure.is_some() {
            true => "the cluster refused its pods",
            false => "it found no node although there was room",
        };
        Some(format!(
            "{reason}; others go first since {at}, because {why}"
        ))
    };
    why().unwrap_or_else(|| reason.clone())
}
