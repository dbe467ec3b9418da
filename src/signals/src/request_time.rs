//! Requests in progress on an engine that has no gauge of them, by the time that it counts for its
//! requests.
//!
//! The time that all requests together took grows, in each second, by as many seconds as requests
//! were in progress. Over a time in which as many begin as end, the growth divided by that time is
//! therefore the mean number in progress: J. D. C. Little, *A Proof for the Queuing Formula
//! L = λW*, Operations Research 9 (1961). Engines count a request when it ends: its whole time
//! comes at once, so that the mean is over a time in which several end.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The mean is over this time at least; less tells nothing.
const SHORTEST_WINDOW: Duration = Duration::from_secs(10);
/// And over no more than this, however long requests take.
const LONGEST_WINDOW: Duration = Duration::from_secs(300);
/// The mean is over as many times the mean duration of a request.
const REQUESTS_IN_WINDOW: f64 = 3.0;
/// Readings are kept this far apart.
const STEP: Duration = Duration::from_secs(1);

/// The counters of an engine at one instant.
#[derive(Debug, Clone, Copy)]
struct Counters {
    at: Instant,
    /// Microseconds that requests took.
    micros: u64,
    /// Requests that ended.
    requests: u64,
}

/// The counters of one engine, as read in the last minutes.
#[derive(Debug, Default)]
pub(crate) struct RequestTime {
    readings: VecDeque<Counters>,
}

impl RequestTime {
    /// Takes how many microseconds how many requests took, as read at an instant. Counters that are
    /// less than the last ones begin anew: the engine has.
    pub(crate) fn add(&mut self, at: Instant, micros: u64, requests: u64) {
        let reading = Counters {
            at,
            micros,
            requests,
        };
        let is_less = |last: &Counters| last.micros > micros || last.requests > requests;
        if self.readings.back().is_some_and(is_less) {
            self.readings.clear();
        }
        let len = self.readings.len();
        let is_close = |before: &Counters| at.duration_since(before.at) < STEP;
        if len > 1 && is_close(&self.readings[len - 2]) {
            self.readings.pop_back();
        }
        self.readings.push_back(reading);
        let is_over = |second: &Counters| at.duration_since(second.at) >= LONGEST_WINDOW;
        while self.readings.get(1).is_some_and(is_over) {
            self.readings.pop_front();
        }
    }

    /// The mean number of requests in progress, rounded; 0 until the shortest window has been read,
    /// which is no sign that there are none.
    pub(crate) fn in_progress(&self) -> u64 {
        let Some((oldest, last)) = self.readings.front().zip(self.readings.back()) else {
            return 0;
        };
        let since = |first: &Counters| (last.micros - first.micros) as f64;
        let duration = since(oldest) / (last.requests - oldest.requests).max(1) as f64;
        let several = Duration::from_micros((REQUESTS_IN_WINDOW * duration) as u64);
        let window = several.clamp(SHORTEST_WINDOW, LONGEST_WINDOW);
        let age = |first: &Counters| last.at.duration_since(first.at);
        let mut readings = self.readings.iter().rev();
        let first = readings.find(|first| age(first) >= window);
        let first = first.unwrap_or(oldest);
        match age(first) >= SHORTEST_WINDOW {
            true => (since(first) / age(first).as_micros() as f64).round() as u64,
            false => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    /// What is told after each second, in which an engine's counters grow as said.
    fn told(grow: impl Fn(u64) -> (u64, u64), seconds: u64) -> Vec<u64> {
        let began = Instant::now();
        let mut time = RequestTime::default();
        let (mut micros, mut requests) = (7 * SECOND, 3);
        let tell = |second| {
            let (further_micros, further_requests) = grow(second);
            (micros, requests) = (micros + further_micros, requests + further_requests);
            time.add(began + Duration::from_secs(second), micros, requests);
            time.in_progress()
        };
        (0..seconds).map(tell).collect()
    }

    #[test]
    fn short_requests_are_counted_over_the_last_ten_seconds() {
        // 30 requests of 100 ms a second for 20 s, and none thereafter
        let busy = |second| {
            if second < 20 {
                (3 * SECOND, 30)
            } else {
                (0, 0)
            }
        };
        let told = told(busy, 40);
        assert_eq!(told[..10], [0; 10], "less tells nothing");
        assert_eq!(told[10..20], [3; 10]);
        assert_eq!((told[24], told[29], told[30]), (2, 0, 0));
    }

    #[test]
    fn long_requests_do_not_come_in_heaps() {
        // two in progress, of 60 s each: one ends every 30 s
        let busy = |second| match second % 30 {
            0 => (60 * SECOND, 1),
            _ => (0, 0),
        };
        let told = told(busy, 900);
        let later = &told[300..];
        assert!(later.iter().all(|told| (1..=3).contains(told)), "{later:?}");
        assert!(told.iter().all(|told| *told <= 6), "{told:?}");
    }

    #[test]
    fn an_engine_that_begins_anew_is_counted_anew() {
        let began = Instant::now();
        let mut time = RequestTime::default();
        for second in 0..=20 {
            time.add(began + Duration::from_secs(second), second * SECOND, second);
        }
        assert_eq!(time.in_progress(), 1);
        time.add(began + Duration::from_secs(21), 0, 0);
        assert_eq!(time.in_progress(), 0);
        time.add(began + Duration::from_secs(41), 40 * SECOND, 20);
        assert_eq!(time.in_progress(), 2, "and goes on over a gap in the reads");
    }

    #[test]
    fn few_readings_are_kept_however_often_it_is_read() {
        let began = Instant::now();
        let mut time = RequestTime::default();
        for tenth in 0..10_000 {
            time.add(began + Duration::from_millis(tenth * 100), 0, 0);
        }
        assert!(time.readings.len() <= 340, "{}", time.readings.len());
    }
}
