//! Domain and decisions: money, prices, overheads, the ledger, corrections, the bill, budgets, scaling, training, and the plan over them.
//!
//! Nothing here talks to a cluster, reads a clock or draws a random number: time is an argument, and what should be done is
//! returned as data.

pub mod bill;
pub mod budget;
pub mod capacity;
pub mod correction;
pub mod currency;
pub mod economics;
pub mod forecast;
pub mod ledger;
pub mod money;
pub mod overhead;
pub mod period;
pub mod plan;
pub mod price;
pub mod report;
pub mod scaling;
pub mod training;
