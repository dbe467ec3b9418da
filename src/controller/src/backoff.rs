//! How long a failed call waits before it is tried again.

use std::time::Duration;

use crate::api_calls::RetryPace;

/// The longest addition to a wait, in percent: calls that failed together do not come back together.
const JITTER_PERCENT: u64 = 20;

/// The failures in a row of one call. The wait doubles with each of the same [`RetryPace`] and
/// starts anew with one of another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    /// Failures in a row of the same pace.
    attempts: u32,
    pace: Option<RetryPace>,
}

impl Backoff {
    /// Counts a failure. Returns how long to wait until the next attempt. `seed` tells apart calls
    /// that fail at the same time; equal calls with equal seeds wait equally long.
    pub(crate) fn after(&mut self, pace: RetryPace, seed: u64) -> Duration {
        if self.pace != Some(pace) {
            (self.attempts, self.pace) = (0, Some(pace));
        }
        let doubled = 2_u32.saturating_pow(self.attempts);
        self.attempts = self.attempts.saturating_add(1);
        let wait = pace.first.saturating_mul(doubled).min(pace.most);
        let fraction = scramble(seed ^ u64::from(self.attempts).rotate_left(32)) % 1_000;
        let fraction = u32::try_from(fraction * JITTER_PERCENT).unwrap_or(0);
        wait.saturating_add(wait.saturating_mul(fraction) / 100_000)
    }
}

/// The finalizer of SplitMix64: near seeds give values that are far apart.
fn scramble(seed: u64) -> u64 {
    let mut value = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits of failures in a row, in milliseconds.
    fn waits(pace: RetryPace, count: usize, seed: u64) -> Vec<u128> {
        let mut backoff = Backoff::default();
        let waits = (0..count).map(|_| backoff.after(pace, seed).as_millis());
        waits.collect()
    }

    #[test]
    fn waits_double_up_to_the_longest_and_jitter_adds_a_fifth_at_most() {
        for (pace, expected) in [
            (RetryPace::STALE, vec![100, 200, 400, 800]),
            (RetryPace::OVERLOADED, vec![1_000, 2_000, 4_000, 8_000]),
            (
                RetryPace::REFUSED,
                vec![30_000, 60_000, 120_000, 240_000, 300_000],
            ),
            (RetryPace::FOREIGN, vec![60_000, 60_000]),
        ] {
            for seed in 0..500 {
                let found = waits(pace, expected.len(), seed);
                for (found, expected) in found.iter().zip(&expected) {
                    let range = *expected..=*expected * 6 / 5;
                    assert!(range.contains(found), "{found} for {expected}");
                }
            }
            // no number of failures is too large
            let last = waits(pace, 100, 1)[99];
            assert!(last >= pace.most.as_millis() && last <= pace.most.as_millis() * 6 / 5);
        }
    }

    #[test]
    fn calls_that_fail_together_do_not_come_back_together() {
        let mut waits: Vec<u128> = (0..100)
            .map(|seed| waits(RetryPace::REFUSED, 1, seed)[0])
            .collect();
        waits.sort_unstable();
        waits.dedup();
        assert!(waits.len() > 80, "{}", waits.len());
    }

    #[test]
    fn another_kind_of_failure_starts_anew() {
        let mut backoff = Backoff::default();
        for _ in 0..4 {
            backoff.after(RetryPace::OVERLOADED, 7);
        }
        assert!(backoff.after(RetryPace::STALE, 7) <= Duration::from_millis(120));
        assert!(backoff.after(RetryPace::OVERLOADED, 7) <= Duration::from_millis(1_200));
    }
}
