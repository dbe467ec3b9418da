//! The commands that prepare a cluster for Bursar, and for its removal.

pub mod crds;
mod endpoints;
mod error;
mod job_targets;
mod limits;
mod targets;
pub mod uninstall;
