//! Requests in progress on an engine that has no gauge of them, by the time that it counts for its
//! requests.
//!
//! The time that all requests together took grows, in each second, by as many seconds as requests
//! were in progress. Over a time in which as many begin as end, the growth divided by that time is
//! therefore the mean number in progress: J. D. C. Little, *A Proof for the Queuing Formula
//! L = λW*, Operations Research 9 (1961). Engines count a request when it ends, so that one which
//! takes longer than [`WINDOW`] is not seen before.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The mean is over this time, or as much of it as has been read.
const WINDOW: Duration = Duration::from_secs(10);

/// The counter of one engine, as read in the last seconds.
#[derive(Debug, Default)]
pub(crate) struct RequestTime {
    /// When it was read, and its value in seconds. The first may be older than the window.
    readings: VecDeque<(Instant, f64)>,
}

impl RequestTime {
    /// Takes the counter's value. One that is less than the last begins anew: the engine has.
    pub(crate) fn add(&mut self, at: Instant, seconds: f64) {
        if self
            .readings
            .back()
            .is_some_and(|(_, last)| *last > seconds)
        {
            self.readings.clear();
        }
        self.readings.push_back((at, seconds));
        let begins = |(second, _): &(Instant, f64)| at.duration_since(*second) >= WINDOW;
        while self.readings.get(1).is_some_and(begins) {
            self.readings.pop_front();
        }
    }

    /// The mean number of requests in progress, rounded; `None` until it was read twice.
    pub(crate) fn in_progress(&self) -> Option<f64> {
        let ((began, before), (ended, after)) = (self.readings.front()?, self.readings.back()?);
        let seconds = ended.duration_since(*began).as_secs_f64();
        (seconds > 0.0).then(|| ((after - before) / seconds).round())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_growth_of_the_time_is_the_mean_in_progress_of_the_last_seconds() {
        let began = Instant::now();
        let mut time = RequestTime::default();
        let mut add = |second: u64, value: f64| {
            time.add(began + Duration::from_secs(second), value);
            time.in_progress()
        };
        assert_eq!(add(0, 1_000.0), None, "what came before is not known");
        assert_eq!(add(1, 1_003.0), Some(3.0));
        assert_eq!(add(2, 1_004.0), Some(2.0));
        for second in 3..=12 {
            add(second, 1_004.0);
        }
        assert_eq!(add(13, 1_004.0), Some(0.0), "the window is over");
        assert_eq!(
            add(43, 1_034.0),
            Some(1.0),
            "the mean of a gap in the reads"
        );
        assert_eq!(add(44, 5.0), None, "the engine began anew");
        assert_eq!(add(45, 6.6), Some(2.0));
    }

    #[test]
    fn readings_of_one_instant_tell_nothing_and_few_are_kept() {
        let began = Instant::now();
        let mut time = RequestTime::default();
        time.add(began, 1.0);
        time.add(began, 2.0);
        assert_eq!(time.in_progress(), None);
        for tenth in 0..1_000 {
            time.add(began + Duration::from_millis(tenth * 1_000), 2.0);
        }
        assert!(time.readings.len() <= 12, "{}", time.readings.len());
    }
}
