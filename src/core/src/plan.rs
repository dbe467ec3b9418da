//! Decides over the model: queue depth, money and room together.

mod budget_preemption;
mod budget_timers;
mod capacity_preemption;
mod decide;
mod decisions;
mod evictions;
mod interruption;
mod namespace;
mod queue;
mod replicas;
pub(crate) mod service;
#[cfg(test)]
mod tests;

pub use crate::limit::LimitedBy;
pub use decide::decide;
pub use decisions::{Decisions, EvictionNotice, EvictionOrder, JobOrder, ServiceOrder};
pub use service::{Decision, Refusal};
