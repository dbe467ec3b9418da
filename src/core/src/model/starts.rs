//! How long replicas take to start, and how long a start is waited for.

use std::collections::{BTreeMap, VecDeque};

use jiff::{SignedDuration, Timestamp};

use super::event::Name;

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
pub(crate) struct StartDurations {
    /// The kind of node on which each was, and how long it took.
    last: VecDeque<(Name, SignedDuration)>,
    /// What somebody has learned before, until one is seen here.
    recalled: Option<SignedDuration>,
    /// Since when at least one replica has been starting.
    since: Option<Timestamp>,
    /// How many starts in a row were not waited for to their end.
    timed_out_starts: u32,
}

impl StartDurations {
    /// Takes that a replica became ready for the first time.
    /// `kind` is that of its node.
    pub(crate) fn learn(&mut self, kind: Name, created: Timestamp, ready: Timestamp) {
        if self.last.len() == REMEMBERED {
            self.last.pop_front();
        }
        let took = ready.duration_since(created).max(SignedDuration::ZERO);
        self.last.push_back((kind, took));
        self.timed_out_starts = 0;
    }

    /// Begins with what somebody has learned before.
    pub(crate) fn recall(&mut self, took: SignedDuration) {
        self.recalled = Some(took.clamp(SignedDuration::ZERO, FIRST_START));
    }

    /// How long a start takes: the median of the last ones on a kind of node, of the slowest kind, as
    /// nobody knows which one will take the next replica.
    pub(crate) fn expected(&self) -> Option<SignedDuration> {
        let mut kinds: BTreeMap<&Name, Vec<SignedDuration>> = BTreeMap::new();
        for (kind, took) in &self.last {
            kinds.entry(kind).or_default().push(*took);
        }
        let medians = kinds.into_values().filter_map(|mut took| {
            took.sort();
            took.get(took.len() / 2).copied()
        });
        medians.max().or(self.recalled)
    }

    /// How long a start is waited for: twice as long after each one that was cut off, since a start that
    /// is never waited for is never learned.
    pub(crate) fn start_timeout(&self) -> SignedDuration {
        let longest = self.last.iter().map(|(_, took)| took).max();
        longest.map_or(FIRST_START, |longest| {
            let usual = longest.saturating_mul(TIMES_LONGEST).max(SHORTEST_WAIT);
            let longer = usual.saturating_mul(1 << self.timed_out_starts.min(10));
            longer.min(FIRST_START).max(usual)
        })
    }

    /// Takes whether a replica is starting, and since when if it is the first. Returns when it is
    /// not waited for any longer. A replica that takes the place of one that was starting goes on
    /// with its start.
    pub(crate) fn observe(
        &mut self,
        starting_since: Option<Timestamp>,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let before = self.since;
        self.since = starting_since.map(|since| before.unwrap_or(since));
        let is_cut_off = |since| now.duration_since(since) >= self.start_timeout();
        if self.since.is_none() && before.is_some_and(is_cut_off) {
            self.timed_out_starts = self.timed_out_starts.saturating_add(1);
        }
        let since = self.since?;
        Some(since.saturating_add(self.start_timeout()).unwrap_or(since))
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
        let mut starts = StartDurations::default();
        assert_eq!(starts.start_timeout(), FIRST_START);
        starts.learn("h100".into(), at(0), at(5));
        assert_eq!(starts.start_timeout(), SHORTEST_WAIT);
        starts.learn("h100".into(), at(0), at(3000));
        assert_eq!(starts.start_timeout(), SignedDuration::from_secs(9000));
        for _ in 0..REMEMBERED {
            starts.learn("h100".into(), at(0), at(-1));
        }
        assert_eq!(starts.start_timeout(), SHORTEST_WAIT);
        for (start, minutes) in [(0, 20), (10_000, 40), (20_000, 60), (30_000, 60)] {
            starts.observe(Some(at(start)), at(start));
            starts.observe(None, at(start + 3600));
            assert_eq!(starts.start_timeout(), SignedDuration::from_mins(minutes));
        }
        // one that ended sooner was not waited for at all
        starts.learn("h100".into(), at(0), at(5));
        starts.observe(Some(at(50_000)), at(50_000));
        starts.observe(None, at(50_100));
        assert_eq!(starts.start_timeout(), SHORTEST_WAIT);
        assert_eq!(starts.last.len(), REMEMBERED);
    }

    #[test]
    fn a_start_takes_as_long_as_most_do_on_the_slowest_kind_of_node() {
        let mut starts = StartDurations::default();
        assert_eq!(starts.expected(), None);
        starts.recall(SignedDuration::from_secs(40));
        assert_eq!(starts.expected(), Some(SignedDuration::from_secs(40)));
        for (kind, seconds) in [("h100", 60), ("h100", 600), ("h100", 70), ("a100", 90)] {
            starts.learn(kind.into(), at(0), at(seconds));
        }
        assert_eq!(starts.expected(), Some(SignedDuration::from_secs(90)));
        starts.recall(SignedDuration::from_secs(3_000));
        assert_eq!(starts.expected(), Some(SignedDuration::from_secs(90)));
    }
}
