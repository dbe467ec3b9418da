//! The ledger: what each pod's stay on a node costs, and the account that every workload has for every month.
//!
//! A [`Charge`] is open from its pod's binding until the pod's containers have ended. It enters an [`Account`]'s daily [`Line`]s
//! exactly once: day by day once a day is over ([`Account::book`]), and what is left when it ends ([`Account::settle`], once for each
//! pod UID and month). The amount of a charge up to time t is, for each of its rates and each part of the cost,
//! `floor(nano-units an hour * whole seconds / 3600)` since the start of that rate; the amount of any part of the charge is the
//! difference of two such amounts, so that parts always sum to the whole.
//!
//! | module | subject |
//! |---|---|
//! | [`charge`] | one pod's stay: rates, stages, use |
//! | [`daily_cost`] | what a day's stays on one kind of hardware cost, and what became of it |
//! | [`zero_replica_savings`] | a service at zero replicas, and what that saves |
//! | [`account`] | open charges and daily lines of one workload and month |

pub mod account;
pub mod charge;
pub mod daily_cost;
pub mod stored;
pub mod zero_replica_savings;

pub use account::{Account, DailyCosts};
pub use charge::{
    Charge, ChargeEnd, EngineCounters, EngineUsage, PreviousAmounts, RatePeriod, Uid,
};
pub use daily_cost::{CostKey, DailyCost};
pub use stored::{InvalidAccount, StoredAccount, StoredCharge};
pub use zero_replica_savings::ZeroReplicaPeriod;

#[cfg(test)]
mod tests;
