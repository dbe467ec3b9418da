//! The last decisions, and the figures that they were made of: for statuses, metrics and people.

use jiff::Timestamp;

use crate::budget::{BudgetState, RunningCost};
use crate::plan::Decision;
use crate::scaling::LearnedThroughput;
use crate::training::JobDecision;

use super::event::{Key, Name};
use super::job::JobEnd;
use super::state::Model;

/// The last decision over a service, and what it was made of.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceView {
    /// The decision.
    pub decision: Decision,
    /// Requests that gateways hold.
    pub held: u64,
    /// Queue depth that one replica should carry; `None` where that asks for no replicas.
    pub target: Option<u32>,
    /// Replicas that it has or was given.
    pub current: u32,
    /// When something last happened; `None` if that is not known yet.
    pub last_active: Option<Timestamp>,
    /// How many pods one replica is.
    pub pods_per_replica: u32,
    /// What a new replica costs.
    pub running_cost: RunningCost,
    /// What was learned of its replicas, once that is enough.
    pub learned: Option<LearnedThroughput>,
}

/// The last decision over a TrainingJob, and how it has ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobView {
    /// The decision; `None` once it has ended, and before the first one.
    pub decision: Option<JobDecision>,
    /// How it has ended, if it has.
    pub end: Option<JobEnd>,
    /// How often a worker has failed.
    pub restarts: u32,
    /// The roles that have ended well and whose Jobs are gone.
    pub done: Vec<Name>,
    /// Whether the price of all its workers is known.
    pub has_known_price: bool,
}

/// The last decisions over a namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NamespaceView {
    /// The services, by name.
    pub services: Vec<ServiceView>,
    /// The TrainingJobs that have not ended: those that run, and the queue in its order.
    pub jobs: Vec<JobDecision>,
    /// The budgets, by name.
    pub budgets: Vec<BudgetState>,
    /// When a decision may change though nothing else does.
    pub next: Option<Timestamp>,
}

impl Model {
    /// The last decision over a service; `None` before the first one.
    pub fn service(&self, key: &Key) -> Option<ServiceView> {
        let state = self.services.get(key)?;
        Some(ServiceView {
            decision: state.decision.clone()?,
            held: self.gateways.held(key).requests,
            target: state.spec.as_ref()?.request_signal.target(),
            current: state.declared(),
            last_active: state.last_active,
            pods_per_replica: state.spec.as_ref()?.pods_per_replica(),
            running_cost: state.running_cost?,
            learned: {
                let target = state.spec.as_ref()?.request_signal.target();
                target.and_then(|target| state.learned.throughput(target, state.starts.expected()))
            },
        })
    }

    /// The last decision over a TrainingJob; `None` once it has ended.
    pub fn job(&self, key: &Key) -> Option<&JobDecision> {
        self.jobs.get(key)?.decision.as_ref()
    }

    /// Where a budget stands; `None` before the first decision over its namespace.
    pub fn budget(&self, key: &Key) -> Option<&BudgetState> {
        let namespace = self.namespaces.get(&key.namespace)?;
        namespace.budgets.get(&key.name)?.budget_state.as_ref()
    }

    /// What is known of a TrainingJob; of one that is not there, nothing.
    pub fn job_view(&self, key: &Key) -> JobView {
        let Some(state) = self.jobs.get(key) else {
            return JobView::default();
        };
        let mut estimates = state.estimates.iter();
        JobView {
            decision: state.decision.clone(),
            end: state.end(),
            restarts: state.restarts(),
            done: state.done_roles(),
            has_known_price: estimates.all(|estimate| estimate.rate().is_some()),
        }
    }

    /// Whether something of a namespace is known.
    pub fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains_key(name)
    }

    /// The last decisions over a namespace, with its budgets as of `now`. The time that this takes
    /// grows with the namespace.
    pub fn namespace(&mut self, name: &str, now: Timestamp) -> NamespaceView {
        let zone = self.zone.clone();
        let known = self.namespaces.get_mut(name);
        let mut budgets = known.map_or_else(Vec::new, |known| known.budget_states(now, &zone));
        budgets.retain(|budget_state| !budget_state.announced);
        let in_namespace = |key: &&Key| *key.namespace == *name;
        let first = Key::new(name, "");
        let services = self.services.range(first..).map(|(key, _)| key);
        let services: Vec<&Key> = services.take_while(in_namespace).collect();
        let known = self.namespaces.get(name);
        let jobs = known.into_iter().flat_map(|known| &known.jobs);
        let mut jobs: Vec<JobDecision> = jobs.filter_map(|key| self.job(key).cloned()).collect();
        jobs.sort_by_key(|decision| (decision.position, decision.name.clone()));
        let next = self.timers.next_of(name, services.iter().copied());
        let views = services.iter().filter_map(|key| self.service(key));
        NamespaceView {
            services: views.collect(),
            jobs,
            budgets,
            next,
        }
    }
}
