//! What takes too long for `cargo test`: `cargo soak` runs it.

#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by ending

#[path = "../oracle/bill.rs"]
mod bill;
#[path = "../oracle/faults.rs"]
mod faults;
#[path = "../oracle/histories.rs"]
mod histories;
#[path = "../oracle/prices.rs"]
mod prices;
#[path = "../oracle/protocol.rs"]
mod protocol;
#[path = "../oracle/rates.rs"]
mod rates;
#[path = "../oracle/world.rs"]
mod world;

/// The first hundred thousand of each length are those of `cargo test`.
#[test]
fn two_million_histories_end_at_the_oracles_sums() {
    histories::play_histories(0..1_000_000, histories::Length::Long);
    histories::play_histories(0..1_000_000, histories::Length::Short);
}
