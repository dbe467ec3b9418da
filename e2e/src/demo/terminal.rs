//! The demo's output: lines with their times, and below them on a terminal a live view, which
//! becomes a line every five seconds elsewhere. Colours go by `NO_COLOR`.
//!
//! Output that cannot be written is lost: a terminal that was closed must not keep the demo from
//! removing what it made. `println!` would panic.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

use super::sampler::{Sample, Sampler};

const REDRAW: Duration = Duration::from_secs(1);
const LINE_EVERY: u32 = 5;
/// The queue's bar is full at this depth.
const FULL_QUEUE: u64 = 64;

/// Standard output, with a live view if it is a terminal.
#[derive(Clone)]
pub(super) struct Terminal {
    bars: MultiProgress,
    /// Held while a line is written, or the live view is drawn below it.
    drawing: Arc<Mutex<()>>,
    is_terminal: bool,
    began: Instant,
}

impl Terminal {
    pub(super) fn new() -> Self {
        Self {
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::stdout()),
            drawing: Arc::default(),
            is_terminal: io::stdout().is_terminal(),
            began: Instant::now(),
        }
    }

    /// A line with the time at which it is printed.
    pub(super) fn log(&self, text: &str) {
        self.print(&format!("{} {text}", self.time()));
    }

    /// Lines without a time.
    pub(super) fn print(&self, text: &str) {
        // `suspend` of the bars would panic where the terminal was closed
        let _drawing = self.lock_drawing();
        self.bars.clear().ok();
        write_line(&mut io::stdout(), text);
    }

    /// Lines on standard error.
    pub(super) fn print_error(&self, text: &str) {
        write_line(&mut io::stderr(), text);
    }

    /// Shows the samples until the result is dropped. `requests` are those of the trace, `replicas`
    /// the most of the service.
    pub(super) fn show_progress(
        &self,
        sampler: &Sampler,
        requests: u32,
        replicas: u32,
    ) -> ProgressView {
        let (terminal, samples) = (self.clone(), sampler.subscribe());
        let bars = self
            .is_terminal
            .then(|| Bars::new(&self.bars, u64::from(requests), u64::from(replicas)));
        let shown = bars.clone();
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(REDRAW);
            for count in 0_u32.. {
                ticks.tick().await;
                let sample = samples.borrow().clone();
                if let Some(bars) = &shown {
                    let _drawing = terminal.lock_drawing();
                    bars.show(&sample);
                } else if count % LINE_EVERY == 0 {
                    terminal.log(&format!("  {}", line(&sample)));
                }
            }
        });
        ProgressView { task, bars }
    }

    fn lock_drawing(&self) -> MutexGuard<'_, ()> {
        self.drawing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn time(&self) -> String {
        format!("[{:>5.1} s]", self.began.elapsed().as_secs_f32())
    }
}

fn write_line(output: &mut dyn Write, text: &str) {
    writeln!(output, "{text}").ok();
}

/// A view that is kept up to date.
pub(super) struct ProgressView {
    task: JoinHandle<()>,
    bars: Option<Bars>,
}

impl Drop for ProgressView {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(bars) = &self.bars {
            bars.clear();
        }
    }
}

/// The live view of a terminal.
#[derive(Clone)]
struct Bars {
    requests: ProgressBar,
    queue: ProgressBar,
    replicas: ProgressBar,
    budget: ProgressBar,
    rate: ProgressBar,
}

impl Bars {
    fn new(all: &MultiProgress, requests: u64, replicas: u64) -> Self {
        let bar = |name: &str, length, colour: &str| {
            let template = format!("  {name:<10}{{bar:40.{colour}}}  {{msg}}");
            let bar = all.add(ProgressBar::new(length));
            let style = ProgressStyle::with_template(&template);
            bar.set_style(
                style
                    .unwrap_or_else(|_| ProgressStyle::default_bar())
                    .progress_chars("█▉▊▋▌▍▎▏░"),
            );
            bar
        };
        let view = Self {
            requests: bar("requests", requests, "blue"),
            queue: bar("queue", FULL_QUEUE, "blue"),
            replicas: bar("replicas", replicas, "green"),
            budget: bar("budget", 1, "magenta"),
            rate: all.add(ProgressBar::new(0)),
        };
        if let Ok(style) = ProgressStyle::with_template("  rate      {msg}") {
            view.rate.set_style(style);
        }
        view
    }

    fn show(&self, sample: &Sample) {
        let tally = &sample.tally;
        let sent = tally.sent as u64;
        self.requests
            .set_length(self.requests.length().unwrap_or(0).max(sent));
        self.requests.set_position(tally.served() as u64);
        self.requests.set_message(format!(
            "{} of {} served, {} lost",
            tally.served(),
            self.requests.length().unwrap_or(sent),
            tally.lost
        ));
        self.queue
            .set_position(sample.queue.unwrap_or_default().min(FULL_QUEUE));
        self.queue.set_message(match sample.queue {
            Some(depth) => {
                format!("{depth} waiting, running and held; {} held", sample.held)
            }
            None => "unknown".into(),
        });
        self.replicas.set_position(sample.ready);
        self.replicas.set_message(format!(
            "{} ready, {} asked for, {} allowed",
            sample.ready, sample.desired, sample.allowed
        ));
        let limit: f64 = sample.limit.parse().unwrap_or(1.0);
        self.budget.set_length(ten_thousandths(limit).max(1));
        self.budget
            .set_position(ten_thousandths(sample.spent.min(limit)));
        self.budget.set_message(format!(
            "{:.4} of {} {}{}",
            sample.spent,
            sample.limit,
            sample.currency,
            if sample.exhausted { ": exhausted" } else { "" }
        ));
        let error = sample.error.as_ref().map_or(String::new(), |error| {
            let error: String = error.chars().take(100).collect();
            format!("\n  cannot see: {error}")
        });
        self.rate.set_message(format!(
            "{:.2} {} an hour; training: {}, {} workers ready{error}",
            sample.rate, sample.currency, sample.training, sample.workers
        ));
    }

    fn clear(&self) {
        for bar in [
            &self.requests,
            &self.queue,
            &self.replicas,
            &self.budget,
            &self.rate,
        ] {
            bar.finish_and_clear();
        }
    }
}

fn ten_thousandths(money: f64) -> u64 {
    (money * 1e4).round().max(0.0) as u64
}

fn line(sample: &Sample) -> String {
    let queue = sample
        .queue
        .map_or("unknown".into(), |depth| depth.to_string());
    format!(
        "served {} of {} sent | queue {queue} (held {}) | replicas {} ready, {} allowed | training {} | spent {:.4} of {} {}, {:.2}/h{}",
        sample.tally.served(),
        sample.tally.sent,
        sample.held,
        sample.ready,
        sample.allowed,
        sample.training,
        sample.spent,
        sample.limit,
        sample.currency,
        sample.rate,
        sample
            .error
            .as_ref()
            .map_or(String::new(), |why| format!(" | cannot see: {why}"))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_output_loses_lines_and_nothing_else() {
        // every write to it fails, as to a terminal that was closed
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
        write_line(&mut full.unwrap(), "lost");
    }

    #[test]
    fn the_view_shows_what_is_known() {
        let hidden = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        let bars = Bars::new(&hidden, 40, 4);
        let mut sample = Sample {
            queue: Some(90),
            ready: 2,
            spent: 0.5,
            limit: "1.00".into(),
            currency: "USD".into(),
            ..Sample::default()
        };
        sample.tally.sent = 41;
        bars.show(&sample);
        assert_eq!(bars.requests.message(), "0 of 41 served, 0 lost");
        assert_eq!(bars.queue.position(), FULL_QUEUE);
        assert_eq!(bars.budget.length(), Some(2 * bars.budget.position()));
        assert_eq!(bars.budget.message(), "0.5000 of 1.00 USD");
        sample.queue = None;
        sample.limit = String::new();
        sample.error = Some("no leader".into());
        bars.show(&sample);
        assert_eq!(bars.queue.message(), "unknown");
        assert!(bars.rate.message().ends_with("cannot see: no leader"));
    }
}
