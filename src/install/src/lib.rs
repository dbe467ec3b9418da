//! The commands that prepare a cluster for Bursar, and for its removal.

pub mod crds;
pub mod uninstall;
