//! The actor owns the model. It takes all events that wait, decides once, and hands to the executor
//! what is wanted. Under load each decision takes more events, so lateness does not add up. It
//! makes no call to the API server and waits for none.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bursar_api::spend::WorkloadRef;
use bursar_core::model::event::Event;
use bursar_core::model::{Model, Name};
use bursar_core::plan::{Decisions, decide};
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::cache::CacheChange;
use crate::context::Context;
use crate::decision_metrics;
use crate::edge::Edge;
use crate::executor::{Applied, Order, ServiceChange, StatusInput, Wanted};
use crate::explain::{Explanation, explanation};
use crate::input::Input;
use crate::object_key::ObjectKey;

/// Inputs that are taken at a time.
const MAX_INPUTS: usize = 4_096;
/// Nothing is decided more often than this for time alone.
const SHORTEST_WAIT: Duration = Duration::from_millis(5);
/// However far the next timer is, time is looked at again: a clock may be set.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What the actor receives from.
pub(crate) struct Sources {
    /// The caches.
    pub(crate) changes: mpsc::UnboundedReceiver<CacheChange>,
    /// Signals, and questions.
    pub(crate) inputs: mpsc::UnboundedReceiver<Input>,
    /// The executor.
    pub(crate) applied: mpsc::UnboundedReceiver<Applied>,
}

/// Takes what waits, up to a bound.
fn take_waiting<T>(source: &mut mpsc::UnboundedReceiver<T>, taken: &mut Vec<T>) {
    while taken.len() < MAX_INPUTS
        && let Ok(input) = source.try_recv()
    {
        taken.push(input);
    }
}

/// The owner of the model.
pub(crate) struct Actor {
    context: Arc<Context>,
    model: Model,
    edge: Edge,
    events: Vec<Event>,
    /// When each namespace was last decided over.
    decided_at: HashMap<Name, Timestamp>,
    /// Workloads of which something new is to be said, though nothing new was decided.
    applied: Vec<ObjectKey>,
}

impl Actor {
    /// A leader that knows nothing yet.
    pub(crate) fn new(context: Arc<Context>) -> Self {
        let model = Model::new(context.zone.clone(), context.began);
        let model = model.with_change_grace(context.change_grace);
        let model = match context.observe_only {
            true => model.observing(),
            false => model,
        };
        Self {
            edge: Edge::new(Arc::clone(&context)),
            context,
            model,
            events: Vec::new(),
            decided_at: HashMap::new(),
            applied: Vec::new(),
        }
    }

    /// The same, which is yet to be told whether nodes are made for pods that wait.
    pub(crate) fn awaiting_node_start(self) -> Self {
        Self {
            model: self.model.awaiting_node_start(),
            ..self
        }
    }

    /// Decides for as long as the process leads, and hands over what is wanted.
    pub(crate) async fn run(
        mut self,
        mut sources: Sources,
        wanted: mpsc::UnboundedSender<Wanted>,
        clock: impl Fn() -> Timestamp,
    ) {
        let context = Arc::clone(&self.context);
        let (mut changes, mut inputs, mut applied) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            // whatever waits is decided in one step
            let accounts = context.ledger.take_changes();
            self.note_accounts(accounts);
            take_waiting(&mut sources.changes, &mut changes);
            take_waiting(&mut sources.inputs, &mut inputs);
            take_waiting(&mut sources.applied, &mut applied);
            changes.drain(..).for_each(|change| self.edge.note(change));
            applied
                .drain(..)
                .for_each(|result| self.note_applied(result));
            let (now, began) = (clock(), Instant::now());
            inputs.drain(..).for_each(|input| self.take(input, now));
            let more = self.decide(now);
            let seconds = began.elapsed().as_secs_f64();
            context.metrics.decision_seconds.observe(seconds);
            if !more.is_empty() && wanted.send(more).is_err() {
                return;
            }
            let wait = self.wait(clock());
            let received = tokio::select! {
                count = sources.changes.recv_many(&mut changes, MAX_INPUTS) => count,
                count = sources.inputs.recv_many(&mut inputs, MAX_INPUTS) => count,
                count = sources.applied.recv_many(&mut applied, MAX_INPUTS) => count,
                accounts = context.ledger.changes() => {
                    self.note_accounts(accounts);
                    1
                }
                () = tokio::time::sleep(wait) => 1,
            };
            if received == 0 {
                return;
            }
        }
    }

    /// How long nothing changes with time.
    fn wait(&self, now: Timestamp) -> Duration {
        if self.model.has_marks() {
            return Duration::ZERO;
        }
        let next = self.model.next_timer().into_iter().chain(self.edge.next());
        let wait = next
            .min()
            .map(|at| Duration::try_from(at.duration_since(now)));
        let wait = wait.map(|wait| wait.unwrap_or_default().max(SHORTEST_WAIT));
        wait.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT)
    }

    /// Takes an input.
    fn take(&mut self, input: Input, now: Timestamp) {
        match input {
            Input::Event(event) => self.note_event(event),
            Input::Status(subject) => self.applied.push(subject),
            Input::Explain(namespace, answer) => {
                // whoever asked may not wait any more
                let _ = answer.send(self.explain(&namespace, now));
            }
        }
    }

    /// The last decision over a namespace; `None` if there was none.
    pub(crate) fn explain(&mut self, namespace: &str, now: Timestamp) -> Option<Explanation> {
        let decided_at = self.decided_at.get(namespace).copied();
        explanation(&mut self.model, namespace, decided_at, now)
    }

    /// Takes an event of a signal.
    pub(crate) fn note_event(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Takes that a cache changed.
    #[cfg(test)]
    pub(crate) fn note_change(&mut self, change: CacheChange) {
        self.edge.note(change);
    }

    /// Whether a part of what changed is decided in the next step.
    #[cfg(test)]
    pub(crate) fn has_more(&self) -> bool {
        self.model.has_marks()
    }

    /// Takes that accounts changed.
    pub(crate) fn note_accounts(&mut self, accounts: impl IntoIterator<Item = WorkloadRef>) {
        self.edge.note_accounts(accounts);
    }

    /// Takes how the objects of a workload were changed.
    pub(crate) fn note_applied(&mut self, applied: Applied) {
        if applied.failed {
            self.events.extend(match &applied.subject {
                ObjectKey::Service(key) => Some(Event::ServiceOrderFailed(key.clone())),
                ObjectKey::Job(key) => Some(Event::JobOrderFailed(key.clone())),
                ObjectKey::Pod(key) => applied
                    .not_evicted
                    .map(|(uid, why)| Event::EvictionFailed(key.namespace.clone(), uid, why)),
                ObjectKey::Budget(_) => None,
            });
        }
        if applied.status_changed {
            self.applied.push(applied.subject);
        }
    }

    /// Decides by what has become known, as of `now`.
    pub(crate) fn decide(&mut self, now: Timestamp) -> Wanted {
        let observed = self.edge.observe(now);
        for event in observed.events.into_iter().chain(self.events.drain(..)) {
            decision_metrics::forget(&self.context.metrics, &event);
            self.model.apply(event, now);
        }
        let decisions = decide(&mut self.model, now);
        decision_metrics::show(&self.context.metrics, &self.model, &decisions);
        for namespace in &decisions.namespaces {
            match self.model.has_namespace(namespace) {
                true => drop(self.decided_at.insert(namespace.clone(), now)),
                false => drop(self.decided_at.remove(namespace)),
            }
        }
        let mut statuses = observed.statuses;
        statuses.extend(self.applied.drain(..));
        let recorded: Vec<ObjectKey> = statuses.iter().cloned().collect();
        let mut wanted = Wanted {
            edited: observed.edited.into_iter().collect(),
            owners: observed.owners.into_iter().collect(),
            recorded,
            ..Wanted::default()
        };
        self.want(decisions, &mut wanted, &mut statuses);
        let inputs = statuses.into_iter().filter_map(|subject| {
            let input = self.status(&subject)?;
            Some((subject, input))
        });
        wanted.statuses.extend(inputs);
        wanted
    }

    fn want(&self, decisions: Decisions, wanted: &mut Wanted, statuses: &mut BTreeSet<ObjectKey>) {
        let Decisions {
            service_orders,
            job_orders,
            eviction_notices,
            evictions,
            latches,
            services,
            jobs,
            namespaces: _,
            budgets,
        } = decisions;
        wanted.eviction_notices = eviction_notices;
        for order in evictions {
            let subject = ObjectKey::Pod(order.pod.clone());
            wanted.orders.push((subject, Order::Eviction(order)));
        }
        wanted.latches = latches.into_iter().map(|(budget, _)| budget).collect();
        for order in service_orders {
            let Some(view) = self.model.service(&order.service) else {
                continue;
            };
            let subject = ObjectKey::Service(order.service.clone());
            let change = ServiceChange::new(order, view.decision);
            wanted
                .orders
                .push((subject, Order::Service(Box::new(change))));
        }
        for order in job_orders {
            let subject = ObjectKey::Job(order.job.clone());
            wanted.orders.push((subject, Order::Job(order)));
        }
        let services = services.into_iter().map(|(key, _)| ObjectKey::Service(key));
        let jobs = jobs.into_iter().map(|(key, _)| ObjectKey::Job(key));
        statuses.extend(services.chain(jobs));
        statuses.extend(budgets.into_iter().map(|(key, _)| ObjectKey::Budget(key)));
    }

    /// What the status of an object tells of the last decision; `None` if nothing was decided.
    fn status(&self, subject: &ObjectKey) -> Option<StatusInput> {
        match subject {
            ObjectKey::Service(key) => self.model.service(key).map(StatusInput::Service),
            ObjectKey::Job(key) => Some(StatusInput::Job(self.model.job_view(key))),
            ObjectKey::Budget(key) => self.model.budget(key).cloned().map(StatusInput::Budget),
            ObjectKey::Pod(_) => None,
        }
    }
}
