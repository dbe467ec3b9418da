//! Random histories of a cluster in which everything goes wrong: what a leader decides never breaks
//! a promise.

#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by ending

mod histories;

#[test]
fn ten_thousand_histories_break_no_promise() {
    histories::play_histories(0..10_000);
}
