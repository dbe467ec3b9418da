//! Makes the cluster what was decided: orders, owned objects, statuses.
//!
//! | module | subject |
//! |---|---|
//! | `order` | the newest wanted state of what a workload owns |
//! | `queue` | what is done next, and what waits for what |
//! | `status` | the statuses of workloads and budgets |
//!
//! For each object one task runs at a time, and the newest order is carried out. Latches of budgets
//! go first, then orders, then evictions, of which few run at a time, then owned objects that may
//! differ from what they should be, then statuses.
//!
//! An order that stops something because of a budget waits until its latch is on record, and the
//! first pod of a workload until the workload's record is there: each ten seconds at most. An order
//! that fails is dropped; the actor is told, and decides again. Its object waits before the next
//! try, longer with each failure in a row, and no other object waits for it.

mod order;
mod queue;
mod status;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bursar_core::model::{Key, Name};
use bursar_core::plan::{EvictionNotice, JobOrder};
use jiff::Timestamp;
use kube::Resource;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::api_calls::Unapplied;
use crate::cache::{Trigger, cached};
use crate::context::Context;
use crate::events;
use crate::evictions;
use crate::inference;
use crate::job_target;
use crate::metrics::ResultLabel;
use crate::object_key::ObjectKey;
use crate::scale_target::release;
use crate::training;

pub(crate) use order::{Order, ServiceChange};
use queue::{Lane, Outcome, Task, WorkQueue};
pub(crate) use status::StatusInput;

/// Workloads whose objects are changed at the same time.
const APPLIES: usize = 32;
/// Those of them that are evictions: a namespace may have a thousand pods to evict at once.
const EVICTIONS: usize = 4;
/// Statuses that are written at the same time: while orders wait, and while none do.
const STATUSES_MEANWHILE: usize = 1;
const STATUSES: usize = 8;

/// What is wanted of the cluster since the last decision.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// Orders, each for the workload of the same kind.
    pub(crate) orders: Vec<(ObjectKey, Order)>,
    /// Warnings that pods of no workload will be evicted.
    pub(crate) eviction_notices: Vec<EvictionNotice>,
    /// Budgets whose latch is to be on record.
    pub(crate) latches: Vec<Key>,
    /// Objects whose specification was edited.
    pub(crate) edited: Vec<ObjectKey>,
    /// Workloads whose owned objects may differ from what they should be.
    pub(crate) owners: Vec<ObjectKey>,
    /// Workloads whose record may be there now.
    pub(crate) recorded: Vec<ObjectKey>,
    /// Objects whose status may be another.
    pub(crate) statuses: Vec<(ObjectKey, StatusInput)>,
}

impl Wanted {
    /// Whether nothing is wanted.
    pub(crate) fn is_empty(&self) -> bool {
        self.orders.is_empty()
            && self.eviction_notices.is_empty()
            && self.latches.is_empty()
            && self.edited.is_empty()
            && self.owners.is_empty()
            && self.recorded.is_empty()
            && self.statuses.is_empty()
    }
}

/// How the objects of a workload were changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Applied {
    /// The workload.
    pub(crate) subject: ObjectKey,
    /// An order was not carried out, or only in part.
    pub(crate) failed: bool,
    /// What its condition says has changed.
    pub(crate) status_changed: bool,
    /// The UID of the pod that was not evicted, and the API server's words; none if the next try will
    /// do.
    pub(crate) not_evicted: Option<(Name, Option<Name>)>,
}

/// How many tasks of each kind run.
#[derive(Debug, Clone, Copy, Default)]
struct Running {
    /// Changes of objects, evictions among them.
    applies: usize,
    evictions: usize,
    statuses: usize,
}

impl Running {
    /// The numbers of this kind of task.
    fn of(&mut self, task: &Task) -> Vec<&mut usize> {
        match task {
            Task::Apply(_, Some(Order::Eviction(_))) => {
                vec![&mut self.applies, &mut self.evictions]
            }
            Task::Apply(..) => vec![&mut self.applies],
            Task::Status(..) => vec![&mut self.statuses],
        }
    }

    /// What may begin beside them, while orders wait or not.
    fn lanes(self, orders_wait: bool) -> Vec<Lane> {
        let mut lanes = vec![Lane::Latch];
        if self.applies < APPLIES {
            lanes.push(Lane::Order);
            lanes.extend((self.evictions < EVICTIONS).then_some(Lane::Eviction));
            lanes.push(Lane::Owned);
        }
        let statuses = match orders_wait {
            true => STATUSES_MEANWHILE,
            false => STATUSES,
        };
        lanes.extend((self.statuses < statuses).then_some(Lane::Status));
        lanes
    }
}

/// Carries out what is wanted.
pub(crate) struct Executor {
    context: Arc<Context>,
    queue: WorkQueue,
}

impl Executor {
    /// Nothing is wanted yet.
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            queue: WorkQueue::default(),
        }
    }

    /// Takes what is wanted.
    pub(crate) fn want(&mut self, wanted: Wanted, now: Timestamp) {
        for notice in &wanted.eviction_notices {
            evictions::warn(&self.context, notice);
        }
        for budget in wanted.latches {
            self.queue.latch(&budget, now);
        }
        for (subject, order) in wanted.orders {
            self.queue.order(subject, order, now);
        }
        for subject in wanted.edited {
            self.queue.retry(&subject, now);
        }
        for subject in wanted.owners {
            // the endpoints of services follow the gateways though nothing else is compared
            let is_compared = !self.context.observe_only
                || matches!(subject, ObjectKey::Service(_))
                || is_release(&self.context, &subject);
            if is_compared {
                self.queue.compare(subject, now);
            }
        }
        for subject in wanted.recorded {
            self.queue.record_changed(&subject, now);
        }
        for (subject, input) in wanted.statuses {
            self.queue.status(subject, input, now);
        }
    }

    /// Carries out what is wanted, for as long as somebody wants something. Tells `applied` how
    /// each workload's objects were changed.
    pub(crate) async fn run(
        mut self,
        mut wanted: mpsc::UnboundedReceiver<Wanted>,
        applied: mpsc::UnboundedSender<Applied>,
        clock: impl Fn() -> Timestamp,
    ) {
        let mut tasks: JoinSet<(Task, Outcome)> = JoinSet::new();
        let mut running = Running::default();
        loop {
            let now = clock();
            let orders_wait = self.queue.has_due_order(now);
            self.context.orders_wait.store(orders_wait, Relaxed);
            while let Some(task) = self.next(running, now) {
                running
                    .of(&task)
                    .into_iter()
                    .for_each(|number| *number += 1);
                let (context, failure) = (Arc::clone(&self.context), self.failure(&task));
                tasks.spawn(async move {
                    let outcome = perform(&context, &task, failure, now).await;
                    (task, outcome)
                });
            }
            let due = self.queue.next_due().filter(|at| *at > now);
            let wait = due.and_then(|at| at.duration_since(now).try_into().ok());
            let sleep = tokio::time::sleep(wait.unwrap_or_default());
            tokio::select! {
                received = wanted.recv() => match received {
                    Some(more) => self.want(more, clock()),
                    None => return,
                },
                Some(done) = tasks.join_next() => {
                    // a task that panicked has left its entry as it was, which nobody expects
                    let Ok((task, outcome)) = done else { return };
                    running.of(&task).into_iter().for_each(|number| *number -= 1);
                    if let Some(result) = self.finish(&task, &outcome, clock())
                        && applied.send(result).is_err()
                    {
                        return;
                    }
                }
                () = sleep, if wait.is_some() => {}
            }
        }
    }

    /// Carries out what is due, one after the other. Returns how workloads' objects were changed,
    /// and why tasks failed: `None` if somebody wrote first.
    #[cfg(test)]
    pub(crate) async fn run_due(&mut self, now: Timestamp) -> (Vec<Applied>, Vec<Option<String>>) {
        let (mut applied, mut failures) = (Vec::new(), Vec::new());
        while let Some(task) = self.next(Running::default(), now) {
            let failure = self.failure(&task);
            let outcome = perform(&self.context, &task, failure, now).await;
            match (&task, &outcome) {
                // its workload's condition says so
                (
                    Task::Apply(..),
                    Outcome::Failed {
                        message: Some(_), ..
                    },
                ) => {}
                (_, Outcome::Failed { message, .. }) => failures.push(message.clone()),
                _ => {}
            }
            applied.extend(self.finish(&task, &outcome, now));
        }
        (applied, failures)
    }

    fn next(&mut self, running: Running, now: Timestamp) -> Option<Task> {
        let lanes = running.lanes(self.queue.has_due_order(now));
        self.queue.take(&lanes, now)
    }

    fn failure(&self, task: &Task) -> Option<String> {
        match task {
            Task::Apply(..) => None,
            Task::Status(subject, _) => self.queue.failure(subject),
        }
    }

    fn finish(&mut self, task: &Task, outcome: &Outcome, now: Timestamp) -> Option<Applied> {
        let status_changed = self.queue.finish(task, outcome, now);
        let (subject, order) = match task {
            Task::Apply(subject, order) => (subject, order),
            Task::Status(ObjectKey::Budget(key), _) => {
                self.warn_of_latch(key, outcome, now);
                return None;
            }
            Task::Status(..) => return None,
        };
        let failed = matches!(
            outcome,
            Outcome::Failed {
                order_done: false,
                ..
            }
        ) && order.is_some();
        let not_evicted = match (order, outcome) {
            (Some(Order::Eviction(order)), Outcome::Failed { message, .. }) => {
                let why = message
                    .as_deref()
                    .map(|why| evictions::truncated(why).into());
                Some((order.uid.clone(), why))
            }
            _ => None,
        };
        (failed || status_changed).then(|| Applied {
            subject: subject.clone(),
            failed,
            status_changed,
            not_evicted,
        })
    }
}

impl Executor {
    /// Says that a budget stops workloads though its latch could not be written: the status, which
    /// would say so, is what cannot be written.
    fn warn_of_latch(&self, budget: &Key, outcome: &Outcome, now: Timestamp) {
        let Outcome::Failed { message, .. } = outcome else {
            return;
        };
        if !self.queue.is_latch_overdue(budget, now) {
            return;
        }
        let Some(object) = cached(&self.context.stores.budgets, budget) else {
            return;
        };
        let why = message.as_deref().unwrap_or("somebody else writes it");
        let event = events::of_unwritten_latch(why);
        self.context.events.send(object.object_ref(&()), event);
    }
}

/// Carries out a task, and counts how it ended.
async fn perform(
    context: &Context,
    task: &Task,
    failure: Option<String>,
    now: Timestamp,
) -> Outcome {
    let done = match task {
        Task::Apply(subject, order) => apply(context, subject, order.as_ref(), now).await,
        Task::Status(subject, input) => status::write(context, subject, input, failure, now)
            .await
            .map_err(Unapplied::before_order),
    };
    let (result, outcome) = match done {
        Ok(outcome) => ("ok", outcome),
        Err(Unapplied {
            error,
            order_done,
            is_aside,
        }) => {
            let key = task.subject().key();
            let (namespace, name) = (&*key.namespace, &*key.name);
            let result = match error.is_stale() {
                true => "conflict",
                false => {
                    tracing::warn!(namespace, name, %error, "a call failed");
                    "error"
                }
            };
            let outcome = Outcome::Failed {
                pace: error.retry_pace(),
                message: (!error.is_stale()).then(|| error.to_string()),
                order_done,
                is_aside,
            };
            (result, outcome)
        }
    };
    let label = ResultLabel { result };
    context.metrics.reconciles.get_or_create(&label).inc();
    outcome
}

async fn apply(
    context: &Context,
    subject: &ObjectKey,
    order: Option<&Order>,
    now: Timestamp,
) -> Result<Outcome, Unapplied> {
    // what is deleted waits for no pause
    let is_left = context.observe_only || context.paused_by(&subject.key().namespace).is_some();
    if is_left && !is_release(context, subject) {
        // the model forgets the order, and compares all owned objects once it is resumed
        if let ObjectKey::Service(key) = subject {
            inference::apply_endpoints(context, key, now).await?;
        }
        return Ok(Outcome::Done(None));
    }
    if let Some(until) = wait_for_record(context, subject, order, now) {
        return Ok(Outcome::Waits(until));
    }
    match (subject, order) {
        (ObjectKey::Service(key), Some(Order::Service(change))) => {
            inference::apply(context, key, Some(change), now).await?;
        }
        (ObjectKey::Service(key), _) => inference::apply(context, key, None, now).await?,
        (ObjectKey::Job(key), order) => {
            let order: Option<&JobOrder> = match order {
                Some(Order::Job(order)) => Some(order),
                _ => None,
            };
            let look_at = training::apply(context, key, order, now).await?;
            return Ok(Outcome::Done(look_at));
        }
        (ObjectKey::Pod(_), Some(Order::Eviction(order))) => {
            let evicted = evictions::apply(context, order).await;
            evicted.map_err(Unapplied::before_order)?;
        }
        (ObjectKey::Budget(_) | ObjectKey::Pod(_), _) => {}
    }
    Ok(Outcome::Done(None))
}

/// Whether a workload waits for its target to be given back.
fn is_release(context: &Context, subject: &ObjectKey) -> bool {
    let stores = &context.stores;
    match subject {
        ObjectKey::Service(key) => {
            let object = cached(&stores.services, key);
            object.is_some_and(|object| release::is_pending(&object))
        }
        ObjectKey::Job(key) => {
            let object = cached(&stores.jobs, key);
            object.is_some_and(|object| job_target::release::is_pending(&object))
        }
        ObjectKey::Budget(_) | ObjectKey::Pod(_) => false,
    }
}

/// Until when a workload that has no pod yet has to wait for its record, which is asked for.
fn wait_for_record(
    context: &Context,
    subject: &ObjectKey,
    order: Option<&Order>,
    now: Timestamp,
) -> Option<Timestamp> {
    let starts = order?.starts();
    let workload = subject.workload().filter(|_| starts)?;
    let until = context.ledger.start_waits_until(&workload, now)?;
    // the worker ends with the process, and this task does too
    let _ = context.ledger_triggers.send(Trigger::Workload(workload));
    Some(until)
}
