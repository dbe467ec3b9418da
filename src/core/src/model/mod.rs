//! What is known of the cluster and what is remembered, as small values that change with each
//! event in a time that does not grow with the cluster.
//!
//! | module | subject |
//! |---|---|
//! | `event` | what the model is told |
//! | `state` | the whole of what is known and remembered |
//! | `apply` | how an event changes it, and what must be decided anew |
//! | `service`, `job` | what is known and remembered of a workload |
//! | `growth` | what is learned of a service's requests: how fast they arrive and are answered |
//! | `namespace` | the budgets of a namespace, and the sums that they are compared with |
//! | `budget_terms` | which terms of a budget are in force, and which wait |
//! | `claim` | who waits for the money of budgets, and in which order it is given |
//! | `evictions`, `planned_eviction` | pods of no workload that budgets evict |
//! | `replica_pods` | replicas of several pods, which count once |
//! | `draining` | replicas as the steps of a drain see them |
//! | `cost` | what workloads cost while they run, and the room reserved for them |
//! | `pod_cost` | what one pod adds to that |
//! | `spending` | money spent as a function of time, and what runs |
//! | `capacity` | the room on nodes, and what is reserved for pods that have no node yet |
//! | `rates` | what a pod that has no charge yet will cost |
//! | `selector_keys` | the labels by which selectors tell nodes apart |
//! | `preemptible` | gangs that may give their GPUs back, by priority, and those that do |
//! | `capacity_preemption` | how these and replicas that wait for GPUs are known |
//! | `workers` | which pods are workers of gangs, whatever their labels say |
//! | `pause` | what the platform has paused |
//! | `gateways` | the requests that gateways hold |
//! | `view` | the last decisions and what they were made of, for statuses, metrics and people |
//! | `timers` | when something must be decided anew though nothing happens |
//!
//! The model is changed by [`Model::apply`] and by [`crate::plan::decide()`], which both are
//! deterministic: time is an argument, and nothing depends on an order that is not defined.

mod apply;
mod budget_terms;
pub(crate) mod capacity;
mod capacity_preemption;
pub(crate) mod claim;
pub(crate) mod cost;
pub(crate) mod draining;
pub mod event;
mod evictions;
pub(crate) mod gateways;
pub(crate) mod growth;
pub(crate) mod job;
pub(crate) mod latency;
mod load_history;
pub(crate) mod missing_replica_pods;
pub(crate) mod namespace;
mod pause;
pub(crate) mod planned_eviction;
pub(crate) mod pod_cost;
pub(crate) mod preemptible;
pub(crate) mod rates;
pub(crate) mod replica_pods;
pub(crate) mod rollout;
mod selector_keys;
pub(crate) mod service;
pub(crate) mod signals;
pub(crate) mod spending;
mod starts;
pub(crate) mod state;
#[cfg(test)]
mod tests;
pub(crate) mod timers;
pub mod view;
pub(crate) mod workers;

pub use claim::DEFAULT_WEIGHT;
pub use event::{Event, Key, Name};
pub use job::JobEnd;
pub use pause::{PauseScope, Pauses};
pub use spending::{AccountSpend, MAX_GRACE_SECONDS, SLACK_SECONDS};
pub use state::Model;
pub use view::{JobView, NamespaceView, ServiceView};
