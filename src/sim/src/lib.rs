//! The model and its decisions over a simulated cluster: what production runs, driven by traces or
//! by seeds, with a cluster that answers.
//!
//! | module | subject |
//! |---|---|
//! | `event_queue` | what will happen, in order of time |
//! | `cluster` | the objects of the cluster as they are |
//! | `controllers`, `gangs` | what the cluster's own controllers do |
//! | `engine`, `latency` | how engines serve requests, by measured latencies |
//! | `requests` | requests, and the gateways that hold them |
//! | `ledger` | charges, and what accounts have spent |
//! | `operator`, `executor` | the leader: it is told of objects, decides, and its orders arrive or do not |
//! | `simulation` | the virtual clock, and all of the above together |
//! | `faults`, `random_actions`, `random_faults`, `history` | random histories in which everything goes wrong |
//! | `scenario`, `trace`, `replay` | scenario files, and the traces that they name |
//! | `metrics`, `sampling`, `report`, `html`, `chart` | what a simulation came to |
//! | `options` | `bursar simulate` |
//! | `invariants` | which decisions must not be |
//!
//! Time is virtual, and random numbers come from a seed: the same seed gives the same result.

mod chart;
mod cluster;
mod controllers;
mod engine;
mod event_queue;
mod executor;
mod faults;
mod gangs;
mod history;
mod html;
mod invariants;
mod latency;
mod ledger;
mod metrics;
mod operator;
mod options;
mod random_actions;
mod random_faults;
mod replay;
mod report;
mod requests;
mod sampling;
mod scenario;
mod simulation;
mod trace;

pub use faults::{Fault, Tally};
pub use history::play;
pub use latency::{Latencies, NotMeasured};
pub use options::{Error, Options, Output, run, simulate};
pub use report::{
    BudgetReport, JobsReport, Report, SampleReport, ServiceReport, ServiceSampleReport,
};
pub use scenario::{
    BudgetScenario, BurstScenario, EngineScenario, ExhaustedScenario, FaultScenario,
    GrowthScenario, JobScenario, NodePool, RequestScenario, Scenario, ScenarioError,
    ServiceScenario,
};
pub use simulation::Violation;
pub use trace::TraceError;
