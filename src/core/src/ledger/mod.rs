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
//! | [`line`] | what a day's stays on one kind of hardware cost, and what became of it |
//! | [`rest`] | a service at zero replicas, and what that saves |
//! | [`account`] | open charges and daily lines of one workload and month |

pub mod account;
pub mod charge;
pub mod line;
pub mod rest;

pub use account::{Account, Days};
pub use charge::{Charge, Counters, End, Rate, Uid, Use};
pub use line::{Line, Sku};
pub use rest::Rest;

#[cfg(test)]
mod tests;
