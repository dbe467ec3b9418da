//! Prices: the lists in force, what they cost a pod before it has a node, and what statuses say of
//! them.
//!
//! | module | subject |
//! |---|---|
//! | `effective` | the prices in force, cached, and estimates by them |
//! | `price_lists` | the default list, and the statuses of all lists |
//! | `condition` | the condition `Priced` of a workload |

pub(crate) mod condition;
pub(crate) mod effective;
pub(crate) mod price_lists;
