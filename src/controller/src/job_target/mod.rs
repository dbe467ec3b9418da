//! Jobs that exist and that a TrainingJob adopts by `targetRef`: which kinds, how they are read, whose pods are
//! theirs, how they are let run and suspended, and how they are given back.
//!
//! | module | subject |
//! |---|---|
//! | [`table`], [`path`] | the kinds of the chart's value `jobTargets`, and where their fields are |
//! | [`registry`] | what is known of each job, and what is read next |
//! | [`target`], [`state`], [`view`], [`pod_owner`] | the values of that: one as read, all, one with its problem, and whose a pod is |
//! | [`read`] | one read of a job |
//! | [`record`] | what is on record of a job, whatever is read of it later |
//! | [`worker_pods`] | the pods of a job get the labels of workers |
//! | [`events`] | what the model is told |
//! | [`apply`] | orders |
//! | [`release`] | jobs are given back |
//! | [`status`] | that in the status of a TrainingJob |
//!
//! No kind is watched, as no target of a service is: each job is read every 15 s, and at once where its TrainingJob
//! was edited, its pods change or it was told something ([ADR 29]).
//!
//! [ADR 29]: ../../../../docs/adr/0029-adopted-jobs-are-suspended-by-a-field.md

pub(crate) mod apply;
pub(crate) mod events;
mod path;
mod pod_owner;
mod read;
mod record;
mod registry;
pub(crate) mod release;
mod state;
pub(crate) mod status;
mod table;
mod target;
#[cfg(test)]
mod tests;
mod view;
pub(crate) mod worker_pods;

pub(crate) use registry::JobTargets;
pub use table::JobTargetKinds;
