//! Decides over the model: queue depth, money and room together.

mod decide;
mod decisions;
mod interruption;
mod looks;
mod namespace;
mod preemption;
mod queue;
mod replicas;
mod room_preemption;
pub(crate) mod service;
#[cfg(test)]
mod tests;

pub use crate::limit::LimitedBy;
pub use decide::decide;
pub use decisions::{Decisions, JobOrder, ServiceOrder};
pub use service::{Decision, Refusal};
