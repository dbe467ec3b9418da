//! What takes too long for `cargo test`: `cargo soak` runs it.

#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by ending

#[path = "../histories/histories.rs"]
mod histories;

/// The first ten thousand are those of `cargo test`.
#[test]
fn a_hundred_thousand_histories_break_no_promise() {
    histories::play_histories(0..100_000);
}
