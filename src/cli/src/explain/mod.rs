//! `kubectl bursar explain`: the numbers and reasons of the last decision, and what each figure of money is the sum of.
//!
//! | module | subject |
//! |---|---|
//! | `decision` | the decision, in words |
//! | `cost` | the pods, days, prices and corrections that figures are the sum of |

pub(crate) mod cost;
pub(crate) mod decision;
