//! Hundreds of services on simulated nodes, with the operator as a process of this checkout: what
//! it writes, how soon, and what it takes. `cargo bench -p bursar-e2e --bench scale` measures, a
//! suite of scenarios counts.
//!
//! | module | subject |
//! |---|---|
//! | [`installation`] | the chart, and the programs that stand for its pods: operator, gateway, a fleet of engines |
//! | [`services`] | the InferenceDeployments, over the API |
//! | [`fleet`] | queue depths and pages of the engines |
//! | [`audit`] | writes to the API server, by its audit log |
//! | [`usage`] | processor time and memory of a process |
//! | [`floor`] | the bare reader and the bare client that the operator is compared with |
//! | [`bench`] | the phases of the benchmark |
//! | [`table`] | what it prints |

pub mod audit;
pub mod bench;
pub mod fleet;
pub mod floor;
pub mod installation;
pub mod services;
pub mod table;
pub mod usage;

pub use installation::{Installation, Programs};
pub use services::Services;

/// How often a condition on the cluster is looked at.
const LOOK: std::time::Duration = std::time::Duration::from_millis(500);
