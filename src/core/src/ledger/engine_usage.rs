//! An engine's usage: idle time, requests and tokens, and the counters that they are read from.

use std::ops::AddAssign;

/// The work of an engine: a part of a daily cost, or one day of an open charge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineUsage {
    /// Seconds in which it was ready and had nothing to do.
    pub idle_seconds: i64,
    /// Requests that it finished.
    pub requests: u64,
    /// Tokens that it read.
    pub input_tokens: u64,
    /// Tokens that it wrote.
    pub output_tokens: u64,
}

impl AddAssign for EngineUsage {
    fn add_assign(&mut self, other: Self) {
        self.idle_seconds += other.idle_seconds;
        self.requests += other.requests;
        self.input_tokens += other.input_tokens;
        self.output_tokens += other.output_tokens;
    }
}

/// An engine's counters as they were last read. They begin again at zero when its container
/// restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineCounters {
    /// Requests finished.
    pub requests: u64,
    /// Tokens read.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
}

impl EngineCounters {
    /// The usage since `self` was read.
    pub fn usage_until(self, later: Self) -> EngineUsage {
        // a counter that fell began again at zero
        let since = |then: u64, now: u64| now.checked_sub(then).unwrap_or(now);
        EngineUsage {
            idle_seconds: 0,
            requests: since(self.requests, later.requests),
            input_tokens: since(self.input_tokens, later.input_tokens),
            output_tokens: since(self.output_tokens, later.output_tokens),
        }
    }
}
