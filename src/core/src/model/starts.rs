//! How long replicas take to start, and how long a start is waited for.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};

/// A start is waited for so long while nothing is known of how long it takes.
const FIRST_START: SignedDuration = SignedDuration::from_hours(1);
/// A start is waited for at least so long.
const SHORTEST_WAIT: SignedDuration = SignedDuration::from_mins(10);
/// A start may take so many times the longest of the last ones.
const TIMES_LONGEST: i32 = 3;
/// The starts that are remembered.
const REMEMBERED: usize = 8;

/// How long the last replicas of a service took from their creation until they were ready, and
/// since when replicas are starting now.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Starts {
    last: VecDeque<SignedDuration>,
    /// Since when at least one replica has been starting.
    since: Option<Timestamp>,
}

impl Starts {
    /// Takes that a replica became ready for the first time.
    pub(crate) fn learn(&mut self, created: Timestamp, ready: Timestamp) {
        if self.last.len() == REMEMBERED {
            self.last.pop_front();
        }
        let took = ready.duration_since(created).max(SignedDuration::ZERO);
        self.last.push_back(took);
    }

    /// How long a start is waited for.
    pub(crate) fn patience(&self) -> SignedDuration {
        let longest = self.last.iter().max();
        longest.map_or(FIRST_START, |longest| {
            longest.saturating_mul(TIMES_LONGEST).max(SHORTEST_WAIT)
        })
    }

    /// Takes whether a replica is starting, and since when if it is the first. Returns when it is
    /// not waited for any longer. A replica that takes the place of one that was starting goes on
    /// with its start.
    pub(crate) fn observe(&mut self, starting_since: Option<Timestamp>) -> Option<Timestamp> {
        self.since = starting_since.map(|since| self.since.unwrap_or(since));
        let since = self.since?;
        Some(since.saturating_add(self.patience()).unwrap_or(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_796_000_000 + second).unwrap()
    }

    #[test]
    fn the_longest_of_the_last_starts_says_how_long_to_wait() {
        let mut starts = Starts::default();
        assert_eq!(starts.patience(), FIRST_START);
        starts.learn(at(0), at(5));
        assert_eq!(starts.patience(), SHORTEST_WAIT);
        starts.learn(at(0), at(3000));
        assert_eq!(starts.patience(), SignedDuration::from_secs(9000));
        for _ in 0..REMEMBERED {
            starts.learn(at(0), at(-1));
        }
        assert_eq!(starts.patience(), SHORTEST_WAIT);
        assert_eq!(starts.last.len(), REMEMBERED);
    }
}
