//! What happens before Bursar runs, and before it goes.

pub mod crds;
pub mod uninstall;
