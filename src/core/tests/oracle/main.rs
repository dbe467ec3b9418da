//! The ledger against an independent oracle: random histories through a model of the settling protocol, and real ones.
//!
//! | module | subject |
//! |---|---|
//! | `bill` | the oracle: what a stay costs. Shares nothing with the core |
//! | `rates` | the oracle: which price held when |
//! | `prices` | price lists in the core's form |
//! | `world` | pods as the API server shows them, records with versions |
//! | `protocol` | what the controller does |
//! | `faults` | what may go wrong in between |
//! | `histories` | random histories |
//! | `real` | histories that happened |

#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by ending

mod bill;
mod faults;
mod histories;
mod prices;
mod protocol;
mod rates;
mod real;
mod world;

use histories::Length;

#[test]
fn the_oracle_shares_nothing_with_the_core() {
    for source in [include_str!("bill.rs"), include_str!("rates.rs")] {
        assert!(!source.contains("bursar_core"));
    }
}

/// Ten times as many are played by `cargo soak`.
#[test]
fn a_hundred_thousand_histories_end_at_the_oracles_sums() {
    histories::play_histories(0..100_000, Length::Long);
}

#[test]
fn short_histories_end_at_the_oracles_sums() {
    histories::play_histories(0..100_000, Length::Short);
}
