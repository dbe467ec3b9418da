//! What was asked for before, and how many replicas there were.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};

/// A number of replicas that demand once asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastRecommendation {
    /// Until when.
    pub at: Timestamp,
    /// How many.
    pub replicas: u32,
}

/// Recommendations of the last windows, to see that another number is not a passing one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Ever lower ones: of two, an older and lower one never decides again.
    highest: Vec<PastRecommendation>,
    /// Ever higher ones.
    lowest: Vec<PastRecommendation>,
    /// Since when nothing has been asked for: the demand is not known, or not followed.
    paused: Option<Timestamp>,
}

impl History {
    /// The highest number asked for within `window` before `now`, `replicas` asked for now included,
    /// and until when. The last one that was recorded has been asked for until now, or until the history
    /// was paused.
    pub fn highest(
        &self,
        replicas: u32,
        window: SignedDuration,
        now: Timestamp,
    ) -> PastRecommendation {
        let asked_now = PastRecommendation { at: now, replicas };
        self.within(&self.highest, window, now)
            .chain([asked_now])
            .max_by_key(|past| (past.replicas, past.at))
            .unwrap_or(asked_now)
    }

    /// The lowest number asked for within `window` before `now`, as [`History::highest`] has the highest.
    pub fn lowest(
        &self,
        replicas: u32,
        window: SignedDuration,
        now: Timestamp,
    ) -> PastRecommendation {
        let asked_now = PastRecommendation { at: now, replicas };
        self.within(&self.lowest, window, now)
            .chain([asked_now])
            .min_by_key(|past| (past.replicas, std::cmp::Reverse(past.at)))
            .unwrap_or(asked_now)
    }

    /// Nothing is asked for from now on. What was asked for last was so until now.
    pub fn pause(&mut self, now: Timestamp) {
        if self.paused.is_none() {
            self.extend_last(now);
            self.paused = Some(now);
        }
    }

    /// Takes the time since it was paused out of all windows, as if it had not been.
    pub fn resume(&mut self, now: Timestamp) {
        let Some(since) = self.paused.take() else {
            return;
        };
        let pause = now.duration_since(since).max(SignedDuration::ZERO);
        for past in self.highest.iter_mut().chain(&mut self.lowest) {
            past.at = past.at.checked_add(pause).unwrap_or(now).min(now);
        }
    }

    fn extend_last(&mut self, now: Timestamp) {
        for past in [&mut self.highest, &mut self.lowest] {
            if let Some(last) = past.last_mut() {
                last.at = now;
            }
        }
    }

    /// Keeps what is asked for from now on, and drops what can no longer matter: what is older than the
    /// window of lower numbers, or than that of higher ones. It ends a pause, whose time has passed for
    /// all windows.
    pub fn record(
        &mut self,
        replicas: u32,
        (down, up): (SignedDuration, SignedDuration),
        now: Timestamp,
    ) {
        if self.paused.take().is_none() {
            self.extend_last(now);
        }
        // a clock that was set back leaves nothing in the future
        for past in self.highest.iter_mut().chain(&mut self.lowest) {
            past.at = past.at.min(now);
        }
        let is_recent = |past: &PastRecommendation, window| now.duration_since(past.at) < window;
        self.highest
            .retain(|past| is_recent(past, down) && past.replicas > replicas);
        self.lowest
            .retain(|past| is_recent(past, up) && past.replicas < replicas);
        let asked_now = PastRecommendation { at: now, replicas };
        self.highest.push(asked_now);
        self.lowest.push(asked_now);
    }

    /// Those of `past` that were asked for within `window` before `now`.
    fn within(
        &self,
        past: &[PastRecommendation],
        window: SignedDuration,
        now: Timestamp,
    ) -> impl Iterator<Item = PastRecommendation> {
        let last = past.last().filter(|_| self.paused.is_none());
        let last = last.map(|last| PastRecommendation { at: now, ..*last });
        let all = past.iter().copied().chain(last);
        let all = all.map(move |past| PastRecommendation {
            // the clock may have been set back
            at: past.at.min(now),
            ..past
        });
        all.filter(move |past| now.duration_since(past.at) < window)
    }
}

/// The longest period of a policy.
pub const LONGEST_PERIOD: SignedDuration = SignedDuration::from_mins(30);

/// How many replicas there were at each time of the last [`LONGEST_PERIOD`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaLog(VecDeque<(Timestamp, u32)>);

impl ReplicaLog {
    /// So many changes are kept. Of a service that changes more often, what is older counts as the
    /// first of those.
    const MOST: usize = 1000;

    /// Takes that there are so many now.
    pub fn observe(&mut self, replicas: u32, now: Timestamp) {
        // what a clock that was set back left in the future
        while self.0.back().is_some_and(|(at, _)| *at > now) {
            self.0.pop_back();
        }
        if self.0.back().is_some_and(|(_, last)| *last == replicas) {
            return;
        }
        let is_over = |at: Timestamp| now.duration_since(at) >= LONGEST_PERIOD;
        // the last one before a period says how many there were when it began
        while self.0.len() >= Self::MOST || self.0.get(1).is_some_and(|(at, _)| is_over(*at)) {
            self.0.pop_front();
        }
        self.0.push_back((now, replicas));
    }

    /// How many there were at a time. Before the first that is known, as many as that: nothing was
    /// changed since.
    pub fn at(&self, time: Timestamp) -> Option<u32> {
        let past = self.0.iter().rev().find(|(at, _)| *at <= time);
        past.or(self.0.front()).map(|(_, replicas)| *replicas)
    }

    /// The first change after a time.
    pub fn next_change(&self, time: Timestamp) -> Option<Timestamp> {
        let changes = self.0.iter().skip(1).map(|(at, _)| *at);
        changes.filter(|at| *at > time).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_796_000_000 + seconds).unwrap()
    }

    #[test]
    fn a_lower_number_waits_until_no_higher_one_is_in_the_window() {
        let window = SignedDuration::from_secs(60);
        let mut history = History::default();
        history.record(5, (window, window), at(0));
        assert_eq!(
            history.highest(1, window, at(600)).replicas,
            5,
            "it was asked for until now"
        );
        history.record(2, (window, window), at(10));
        history.record(1, (window, window), at(20));
        assert_eq!(history.highest(1, window, at(69)).replicas, 5);
        assert_eq!(history.highest(1, window, at(70)).replicas, 2);
        assert_eq!(history.highest(1, window, at(80)).replicas, 1);
        let higher = history.highest(7, window, at(60)).replicas;
        assert_eq!(higher, 7, "a higher number does not wait");
    }

    #[test]
    fn a_higher_number_waits_until_no_lower_one_is_in_the_window() {
        let window = SignedDuration::from_secs(60);
        let mut history = History::default();
        history.record(2, (window, window), at(0));
        history.record(5, (window, window), at(10));
        history.record(9, (window, window), at(20));
        assert_eq!(history.lowest(9, window, at(69)).replicas, 2);
        assert_eq!(history.lowest(9, window, at(70)).replicas, 5);
        assert_eq!(history.lowest(9, window, at(80)).replicas, 9);
        assert_eq!(history.lowest(1, window, at(80)).replicas, 1);
        let none = SignedDuration::ZERO;
        assert_eq!(history.lowest(12, none, at(80)).replicas, 12);
    }

    #[test]
    fn a_pause_stops_the_clock_of_all_windows() {
        let window = SignedDuration::from_secs(60);
        let mut history = History::default();
        history.record(5, (window, window), at(0));
        history.record(2, (window, window), at(10));
        history.pause(at(30));
        history.pause(at(40));
        assert_eq!(history.highest(2, window, at(69)).replicas, 5);
        history.resume(at(130));
        history.record(2, (window, window), at(130));
        assert_eq!(history.highest(2, window, at(169)).replicas, 5);
        assert_eq!(history.highest(2, window, at(170)).replicas, 2);
        // time that has passed counts where what was asked for before is over
        let mut history = History::default();
        history.record(5, (window, window), at(0));
        history.pause(at(30));
        assert_eq!(history.highest(2, window, at(89)).replicas, 5);
        assert_eq!(history.highest(2, window, at(90)).replicas, 2);
        history.record(2, (window, window), at(80));
        assert_eq!(history.highest(1, window, at(89)).replicas, 5);
        assert_eq!(history.highest(1, window, at(90)).replicas, 2);
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_window_longer() {
        let window = SignedDuration::from_secs(60);
        let mut history = History::default();
        history.record(10, (window, window), at(3600));
        history.record(2, (window, window), at(3610));
        assert_eq!(history.highest(2, window, at(10)).replicas, 10);
        history.record(2, (window, window), at(10));
        assert_eq!(history.highest(2, window, at(69)).replicas, 10);
        assert_eq!(history.highest(2, window, at(70)).replicas, 2);
    }

    #[test]
    fn what_is_kept_stays_small() {
        let window = SignedDuration::from_secs(300);
        let mut history = History::default();
        let mut log = ReplicaLog::default();
        for second in 0..10_000 {
            let replicas = if second % 2 == 0 { 3 } else { 4 };
            history.record(replicas, (window, window), at(second));
            log.observe(replicas, at(second));
        }
        assert!(history.highest.len() <= 2, "{}", history.highest.len());
        assert!(history.lowest.len() <= 2, "{}", history.lowest.len());
        assert_eq!(log.0.len(), ReplicaLog::MOST);
    }

    #[test]
    fn the_log_knows_how_many_replicas_there_were() {
        let mut log = ReplicaLog::default();
        assert_eq!(log.at(at(0)), None);
        for (second, replicas) in [(0, 1), (10, 4), (20, 4), (30, 2)] {
            log.observe(replicas, at(second));
        }
        for (second, replicas) in [(-5, 1), (0, 1), (9, 1), (10, 4), (29, 4), (30, 2), (99, 2)] {
            assert_eq!(log.at(at(second)), Some(replicas), "{second}");
        }
        assert_eq!(log.next_change(at(-5)), Some(at(10)));
        assert_eq!(log.next_change(at(10)), Some(at(30)));
        assert_eq!(log.next_change(at(30)), None);
        log.observe(7, at(30 + 1800));
        assert_eq!(log.at(at(30)), Some(2), "when the longest period began");
        log.observe(8, at(30 + 1801));
        assert_eq!(log.0.len(), 3, "{log:?}");
        log.observe(8, at(40));
        assert_eq!(log.at(at(9999)), Some(8), "the clock was set back");
    }
}
