//! The progress of a long build: which program of how many, the minutes so far, and an estimate of
//! those that are left.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// The time between two lines about the same program, where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(60);
const STYLE: &str = "  {bar:24} {wide_msg}";

/// Shows the progress on standard error: a bar on a terminal, lines elsewhere.
pub(crate) struct Progress {
    estimate: Estimate,
    bar: ProgressBar,
    /// The number of programs whose build has begun, and of all.
    begun: usize,
    total: usize,
    program: &'static str,
    start: Instant,
    program_start: Instant,
    last_line: Instant,
}

impl Progress {
    /// `weights` are the seconds that each program took on the machine on which they were measured,
    /// in the order of the build.
    pub(crate) fn new(weights: Vec<u32>) -> Self {
        let now = Instant::now();
        // It has no thread of its own: a process may only move into a cluster's network while it
        // has a single thread.
        let bar = ProgressBar::new(weights.iter().copied().map(u64::from).sum());
        if let Ok(style) = ProgressStyle::with_template(STYLE) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self {
            begun: 0,
            total: weights.len(),
            estimate: Estimate { weights },
            bar,
            program: "",
            start: now,
            program_start: now,
            last_line: now,
        }
    }

    /// Begins the next program.
    pub(crate) fn begin(&mut self, program: &'static str) {
        self.begun += 1;
        self.program = program;
        self.program_start = Instant::now();
        self.show();
    }

    /// Brings the display up to date; to be called several times a second.
    pub(crate) fn tick(&mut self) {
        if !self.bar.is_hidden() || self.last_line.elapsed() >= LINE_EVERY {
            self.show();
        }
    }

    /// Removes the bar.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }

    fn show(&mut self) {
        let done = self.begun.saturating_sub(1);
        let (elapsed, of_program) = (self.start.elapsed(), self.program_start.elapsed());
        let message = format!(
            "{} of {}: {}; {} so far, about {} left",
            self.begun,
            self.total,
            self.program,
            minutes(elapsed),
            minutes(self.estimate.left(done, elapsed, of_program))
        );
        self.last_line = Instant::now();
        if self.bar.is_hidden() {
            eprintln!("setup: building {message}");
        } else {
            let position = self.estimate.position(done, elapsed, of_program);
            self.bar.set_position(position);
            self.bar.set_message(message);
        }
    }
}

/// Estimates the rest of a build from the pace of its first part.
struct Estimate {
    weights: Vec<u32>,
}

impl Estimate {
    /// The time that is left when `done` programs are built, `elapsed` since the build's start and
    /// `of_program` since the start of the program after those.
    fn left(&self, done: usize, elapsed: Duration, of_program: Duration) -> Duration {
        let (_, current, later) = self.split(done);
        let pace = self.pace(done, elapsed, of_program);
        let of_program = of_program.as_secs_f64();
        // One that takes longer than expected is not done at once either.
        let current = (pace * current - of_program).max(of_program / 5.0);
        Duration::from_secs_f64(current + pace * later)
    }

    /// The weight that is done.
    fn position(&self, done: usize, elapsed: Duration, of_program: Duration) -> u64 {
        let (finished, current, _) = self.split(done);
        let expected = self.pace(done, elapsed, of_program) * current;
        let share = of_program.as_secs_f64() / expected.max(f64::EPSILON);
        (finished + current * share.min(1.0)) as u64
    }

    /// Seconds for one unit of weight: the mean of the programs that are done, or more if the
    /// current one already takes longer.
    fn pace(&self, done: usize, elapsed: Duration, of_program: Duration) -> f64 {
        let (finished, current, _) = self.split(done);
        let measured = if finished > 0.0 {
            elapsed.saturating_sub(of_program).as_secs_f64() / finished
        } else {
            1.0
        };
        measured.max(elapsed.as_secs_f64() / (finished + current).max(1.0))
    }

    /// Weights of the programs that are done, of the one that is being built, and of those after
    /// it.
    fn split(&self, done: usize) -> (f64, f64, f64) {
        let sum = |weights: &[u32]| weights.iter().copied().map(f64::from).sum();
        let (finished, rest) = self.weights.split_at(done.min(self.weights.len()));
        let (current, later) = rest.split_at(rest.len().min(1));
        (sum(finished), sum(current), sum(later))
    }
}

/// `40 s`, `12 min`.
fn minutes(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..90 => format!("{seconds} s"),
        seconds => format!("{} min", (seconds + 30) / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn left(done: usize, elapsed: u32, of_program: u32) -> u64 {
        let estimate = Estimate {
            weights: vec![300, 60, 40],
        };
        estimate
            .left(done, SECOND * elapsed, SECOND * of_program)
            .as_secs()
    }

    #[test]
    fn the_estimate_follows_the_pace_of_this_machine() {
        assert_eq!(left(0, 0, 0), 400, "nothing is known of this machine yet");
        assert_eq!(left(0, 100, 100), 300);
        assert_eq!(left(1, 600, 0), 200, "it is half as fast");
        assert_eq!(left(1, 30, 0), 10, "most of it lay in Go's cache");
        assert_eq!(left(2, 370, 10), 30);
        assert_eq!(left(3, 400, 0), 0);
    }

    #[test]
    fn a_program_that_takes_longer_than_expected_raises_the_estimate_of_the_others() {
        assert_eq!(left(0, 300, 300), 60 + 100);
        assert_eq!(left(0, 600, 600), 120 + 200);
        assert_eq!(left(1, 420, 120), 70);
    }

    #[test]
    fn the_bar_never_goes_back_nor_over_its_end() {
        let estimate = Estimate {
            weights: vec![300, 60, 40],
        };
        let mut last = 0;
        for (done, elapsed, of_program) in [
            (0, 0, 0),
            (0, 150, 150),
            (0, 500, 500),
            (1, 500, 0),
            (1, 900, 400),
            (2, 900, 0),
            (2, 2000, 1100),
            (3, 2000, 0),
        ] {
            let position = estimate.position(done, SECOND * elapsed, SECOND * of_program);
            assert!((last..=400).contains(&position), "{last} then {position}");
            last = position;
        }
        assert_eq!(last, 400);
    }

    #[test]
    fn times_are_written_as_people_say_them() {
        assert_eq!(minutes(SECOND * 40), "40 s");
        assert_eq!(minutes(SECOND * 751), "13 min");
    }
}
