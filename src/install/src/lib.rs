//! The commands that prepare a cluster for Bursar, and for its removal.

pub mod crds;
mod endpoints;
mod job_targets;
mod targets;
pub mod uninstall;
