//! The ledger: the cost of each pod's lifetime on a node, and the account of every workload and
//! month.
//!
//! A [`Charge`] is open from its pod's binding until the pod's containers have ended. It enters an
//! [`Account`]'s [`DailyCosts`] exactly once: day by day once a day is over
//! ([`Account::post_days_until`]), and what is left when it ends ([`Account::settle`], once for
//! each pod UID and month). The amount of a charge up to time t is, for each of its rates and each
//! part of the cost, `floor(nano-units an hour * whole seconds / 3600)` since the start of that
//! rate; the amount of any part of the charge is the difference of two such amounts, so that parts
//! always sum to the whole.
//!
//! | module | subject |
//! |---|---|
//! | [`charge`] | one pod's lifetime: rates, stages, usage |
//! | [`daily_cost`] | the cost of a day on one kind of hardware, and its parts |
//! | [`engine_usage`] | idle time, requests and tokens of an engine |
//! | [`zero_replica_savings`] | a service at zero replicas, and the money that it saves |
//! | [`linear_spend`] | spend as a linear function of time |
//! | [`spend_sum`] | the sum of many accounts' spend, kept one account at a time |
//! | [`account`] | open charges and daily costs of one workload and month |
//! | [`invalid`] | the faults of a stored account |

pub mod account;
pub mod charge;
pub mod daily_cost;
pub mod engine_usage;
pub mod invalid;
pub mod linear_spend;
pub mod zero_replica_savings;

pub use account::{Account, DailyCosts, OpenCharges, StoredAccount};
pub use charge::{Charge, ChargeEnd, PreviousAmounts, RatePeriod, StoredCharge, Uid};
pub use daily_cost::{CostKey, DailyCost};
pub use engine_usage::{EngineCounters, EngineUsage};
pub use invalid::InvalidAccount;
pub use linear_spend::{LinearSpend, SpendFunction};
pub use zero_replica_savings::ZeroReplicaPeriod;

#[cfg(test)]
mod tests;
