//! The live view: a block that is drawn anew every second on a terminal, a line every five seconds elsewhere.

use std::{
    io::{IsTerminal, Write},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bursar_client::Tally;
use tokio::task::JoinHandle;

use super::{load_generator::LoadGenerator, sampler::Sampler};

const BAR: usize = 40;
const REDRAW: Duration = Duration::from_secs(1);
const LINE_EVERY: u32 = 5;

/// What is on the terminal.
#[derive(Clone)]
pub(super) struct Terminal {
    state: Arc<Mutex<State>>,
    began: Instant,
}

struct State {
    is_terminal: bool,
    /// Lines of the block that stands at the cursor.
    drawn: usize,
}

impl Terminal {
    pub(super) fn new() -> Self {
        let state = State {
            is_terminal: std::io::stdout().is_terminal(),
            drawn: 0,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            began: Instant::now(),
        }
    }

    /// A line of the story, which stays.
    pub(super) fn log(&self, text: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.clear();
        println!("[{:>5.1} s] {text}", self.began.elapsed().as_secs_f32());
    }

    /// Lines without a time.
    pub(super) fn print(&self, text: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.clear();
        println!("{text}");
    }

    /// Draws what is seen, until the handle is dropped.
    pub(super) fn show_progress(
        &self,
        sampler: &Sampler,
        load: &LoadGenerator,
        total: u32,
    ) -> ProgressView {
        let (terminal, samples, load) = (self.clone(), sampler.subscribe(), load.clone());
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(REDRAW);
            let mut tally = Tally::default();
            for count in 0_u32.. {
                ticks.tick().await;
                tally = load.tally().await.unwrap_or(tally);
                let sample = samples.borrow().clone();
                let mut state = terminal
                    .state
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                if state.is_terminal {
                    state.draw(&block(&sample, &tally, total));
                } else if count % LINE_EVERY == 0 {
                    let seconds = terminal.began.elapsed().as_secs_f32();
                    println!("[{seconds:>5.1} s]   {}", line(&sample, &tally));
                }
            }
        });
        ProgressView(task)
    }
}

impl State {
    fn clear(&mut self) {
        if self.drawn > 0 {
            print!("\x1b[{}A\x1b[J", self.drawn);
            self.drawn = 0;
        }
    }

    fn draw(&mut self, lines: &[String]) {
        self.clear();
        lines.iter().for_each(|line| println!("{line}"));
        self.drawn = lines.len();
        std::io::stdout().flush().ok();
    }
}

/// A view that is kept up to date.
pub(super) struct ProgressView(JoinHandle<()>);

impl Drop for ProgressView {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn block(sample: &super::sampler::Sample, tally: &Tally, total: u32) -> Vec<String> {
    let answered = tally.served();
    let total = (total as usize).max(tally.sent);
    let mut lines = vec![
        String::new(),
        format!(
            "  requests  {}  {answered} of {total} served, {} lost",
            bar(answered as f64, total as f64),
            tally.lost
        ),
        match sample.queue {
            Some(depth) => format!(
                "  queue     {}  {depth} waiting, running and held; {} held",
                bar(depth as f64, 64.0),
                sample.held
            ),
            None => format!("  queue     {}  unknown", bar(0.0, 1.0)),
        },
        format!(
            "  replicas  {}  {} ready, {} asked for, {} allowed",
            bar(sample.ready as f64, 4.0),
            sample.ready,
            sample.desired,
            sample.allowed
        ),
        format!(
            "  budget    {}  {:.4} of {} {}{}",
            bar(sample.spent, sample.limit.parse().unwrap_or(1.0)),
            sample.spent,
            sample.limit,
            sample.currency,
            if sample.exhausted { ": exhausted" } else { "" }
        ),
        format!(
            "  rate      {:.2} {} an hour; training: {}, {} workers ready",
            sample.rate, sample.currency, sample.training, sample.workers
        ),
    ];
    if let Some(error) = &sample.error {
        lines.push(format!(
            "  cannot see: {}",
            error.chars().take(100).collect::<String>()
        ));
    }
    lines
}

fn line(sample: &super::sampler::Sample, tally: &Tally) -> String {
    let queue = sample
        .queue
        .map_or("unknown".into(), |depth| depth.to_string());
    format!(
        "served {} of {} sent | queue {queue} (held {}) | replicas {} ready, {} allowed | training {} | spent {:.4} of {} {}, {:.2}/h{}",
        tally.served(),
        tally.sent,
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

fn bar(value: f64, full: f64) -> String {
    let share = if full > 0.0 {
        (value / full).clamp(0.0, 1.0)
    } else {
        0.0
    };
    let filled = (share * BAR as f64).round() as usize;
    format!("{}{}", "█".repeat(filled), "░".repeat(BAR - filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_full_as_its_share_and_never_overflows() {
        assert_eq!(bar(2.0, 4.0).matches('█').count(), BAR / 2);
        assert_eq!(bar(9.0, 4.0).chars().count(), BAR);
        assert_eq!(bar(1.0, 0.0).matches('█').count(), 0);
    }
}
