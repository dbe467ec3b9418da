//! Workloads that exist and that an InferenceDeployment scales by `targetRef`: how they are read, whose
//! pods are theirs, how they are told another number of replicas, and how they are given back.
//!
//! | module | subject |
//! |---|---|
//! | [`registry`] | what is known of each target, and what is read next |
//! | [`target`], [`state`], [`view`], [`pod_owner`] | the values of that: one as read, all, one with its problem, and whose a pod may be |
//! | [`autoscalers`] | which HorizontalPodAutoscalers of a namespace scale what |
//! | [`leader_worker_set`] | replicas of several pods |
//! | [`read`] | one read of a target: its template, its replicas, who else scales it |
//! | [`service`] | the Service of a `serviceRef` |
//! | [`pod_maker`], [`makers`] | what made a pod, and what made that: read, and remembered |
//! | [`emptied`] | since when a target has no replicas, and whether its pods should have ended |
//! | [`replica_pods`] | the pods of a target get the labels of replicas |
//! | [`apply`] | orders, and the gateways' endpoints |
//! | [`release`] | replicas are given back |
//! | [`status`] | that in the status of an InferenceDeployment |
//!
//! No kind of target is watched: it may be any kind, and a watch would need the right to list all of it.
//! Each target is read every 15 s, and at once where its InferenceDeployment was edited, its pods change or its
//! replicas were ordered ([ADR 28]).
//!
//! [ADR 28]: ../../../../docs/adr/0028-targets-are-read-and-not-watched.md

pub(crate) mod apply;
mod autoscalers;
mod emptied;
mod leader_worker_set;
mod makers;
mod pod_maker;
mod pod_owner;
mod read;
mod registry;
pub(crate) mod release;
pub(crate) mod replica_pods;
mod service;
mod state;
pub(crate) mod status;
mod target;
mod view;

pub(crate) use autoscalers::Autoscalers;
pub(crate) use registry::ScaleTargets;
pub(crate) use status::NOT_LABELLED;
pub(crate) use target::{ScaleTarget, TargetProblem, is_recorded, was_adopted};
pub(crate) use view::TargetView;
