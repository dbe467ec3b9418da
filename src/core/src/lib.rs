//! Domain and decisions: money, prices, overheads, the ledger, corrections, the bill, budgets,
//! scaling, training, and the plan over them.
//!
//! Nothing here talks to a cluster, reads a clock or draws a random number: time is an argument,
//! and what should be done is returned as data.

pub mod budget;
pub mod calendar;
pub mod cluster_bill;
pub mod correction;
pub mod cost_report;
pub mod currency;
pub mod drain;
pub mod ledger;
mod limit;
pub mod model;
pub mod money;
pub mod overhead;
pub mod placement;
pub mod plan;
pub mod pod_set;
pub mod pricing;
pub mod refusal;
mod scale_down_limit;
pub mod scaling;
pub mod spend_forecast;
pub mod training;
pub mod unit_economics;
