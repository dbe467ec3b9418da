//! The controller against an in-memory API server, with every other part of a cluster played by [`world`]: what it does when it dies
//! at any write, when somebody writes first, and when its caches are old.

pub(crate) use adopted_jobs::kinds;

mod accounts;
mod adopted_job_ends;
mod adopted_job_kinds;
mod adopted_job_pods;
mod adopted_jobs;
mod adoption;
mod adoption_groups;
mod budget_changes;
mod budgets;
mod claims;
mod closing;
mod corrections;
mod devices;
mod edge;
mod engines;
mod evictions;
mod foreign_edits;
mod frameworks;
mod gang_restarts;
mod gang_scheduling;
mod gangs;
mod leader;
mod lease;
mod ledger;
mod many_pods;
mod nodes;
mod odd_pods;
mod pause;
mod ports;
mod prices;
mod priority;
mod refused_pods;
mod request_path;
mod role_restarts;
mod roles;
mod service;
mod stops;
mod sweep;
mod training;
mod troubles;
mod unknown_accelerators;
mod unreadable;
mod watched_cluster;
mod world;
