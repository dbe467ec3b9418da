//! The engine: one task that owns the batch, gives its steps their time, and tells each request its tokens.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::batch::{Batch, Limits, Output, SequenceId};
use crate::latency::Latency;
use crate::metrics::{Finish, Metrics};

/// A step that is this late is not caught up with: the machine was busy, and a real engine's tokens would be late too.
const MAX_LAG: Duration = Duration::from_millis(50);

/// A sequence to generate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Tokens of the prompt.
    pub(crate) prompt: u32,
    /// Tokens after which it ends.
    pub(crate) output: u32,
    /// Why it ends there.
    pub(crate) finish: Finish,
}

/// A token of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    /// Which of the request's sequences it belongs to.
    pub(crate) choice: usize,
    /// Its place in the output, from 1.
    pub(crate) place: u32,
    /// Why it is the last one, if it is.
    pub(crate) finish: Option<Finish>,
}

/// Why the engine gave no answer: its task has ended, which happens only while the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine has stopped")]
pub(crate) struct Stopped;

#[derive(Debug)]
enum Command {
    Submit {
        id: SequenceId,
        wanted: Wanted,
        choice: usize,
        // holds no more than the tokens wanted
        tokens: mpsc::UnboundedSender<Token>,
    },
    Abort(SequenceId),
    Scrape(oneshot::Sender<String>),
}

/// A handle on the running engine.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    commands: mpsc::UnboundedSender<Command>,
    ids: Arc<AtomicU64>,
    load: watch::Receiver<usize>,
}

impl Engine {
    /// Starts it. Latencies are divided by `speedup`.
    pub(crate) fn start(metrics: Metrics, limits: Limits, latency: Latency, speedup: f64) -> Self {
        let (commands, received) = mpsc::unbounded_channel();
        let (load, seen) = watch::channel(0);
        let state = State {
            batch: Batch::new(limits),
            metrics,
            requests: HashMap::new(),
            load,
        };
        tokio::spawn(run(state, received, latency, speedup));
        Self {
            commands,
            ids: Arc::default(),
            load: seen,
        }
    }

    /// Queues the sequences of a request. They are aborted when the answer is dropped before their end.
    pub(crate) fn submit(&self, wanted: &[Wanted]) -> Generation {
        let (tokens, received) = mpsc::unbounded_channel();
        let submitted = wanted.iter().enumerate().map(|(choice, wanted)| {
            let id = self.ids.fetch_add(1, Ordering::Relaxed);
            let tokens = tokens.clone();
            // when the engine has stopped, the answer's stream ends without tokens
            let _ = self.commands.send(Command::Submit {
                id,
                wanted: *wanted,
                choice,
                tokens,
            });
            id
        });
        Generation {
            ids: submitted.collect(),
            commands: self.commands.clone(),
            tokens: received,
        }
    }

    /// The page of metrics.
    ///
    /// # Errors
    /// When the engine has stopped.
    pub(crate) async fn scrape(&self) -> Result<String, Stopped> {
        let (answer, page) = oneshot::channel();
        self.commands
            .send(Command::Scrape(answer))
            .map_err(|_| Stopped)?;
        page.await.map_err(|_| Stopped)
    }

    /// Sequences waiting and running, as they change.
    pub(crate) fn load(&self) -> watch::Receiver<usize> {
        self.load.clone()
    }
}

/// The tokens of a request as they are made.
#[derive(Debug)]
pub(crate) struct Generation {
    ids: Vec<SequenceId>,
    commands: mpsc::UnboundedSender<Command>,
    tokens: mpsc::UnboundedReceiver<Token>,
}

impl Generation {
    /// The next token; none after the last of all sequences, or when the engine has stopped.
    pub(crate) async fn next(&mut self) -> Option<Token> {
        self.tokens.recv().await
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        for id in &self.ids {
            // of no use to a sequence that has ended, and harmless
            let _ = self.commands.send(Command::Abort(*id));
        }
    }
}

#[derive(Debug)]
struct Request {
    wanted: Wanted,
    choice: usize,
    arrived: Instant,
    /// When its last token was made.
    last_token: Instant,
    tokens: mpsc::UnboundedSender<Token>,
}

#[derive(Debug)]
struct State {
    batch: Batch,
    metrics: Metrics,
    requests: HashMap<SequenceId, Request>,
    load: watch::Sender<usize>,
}

impl State {
    fn take(&mut self, command: Command) {
        match command {
            Command::Submit {
                id,
                wanted,
                choice,
                tokens,
            } => {
                self.batch.submit(id, wanted.prompt, wanted.output);
                let arrived = Instant::now();
                self.requests.insert(
                    id,
                    Request {
                        wanted,
                        choice,
                        arrived,
                        last_token: arrived,
                        tokens,
                    },
                );
            }
            Command::Abort(id) => {
                if let Some(request) = self.requests.remove(&id) {
                    self.batch.abort(id);
                    self.metrics
                        .finished(Finish::Abort, request.arrived.elapsed());
                }
            }
            Command::Scrape(answer) => {
                // the scraper may have gone
                let _ = answer.send(self.metrics.render(&self.batch));
            }
        }
        self.show_load();
    }

    fn deliver(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            let Some(request) = self.requests.get_mut(&output.id) else {
                continue;
            };
            let before = std::mem::replace(&mut request.last_token, Instant::now());
            self.metrics.token();
            match output.generated {
                1 => self
                    .metrics
                    .first_token(request.wanted.prompt, request.arrived.elapsed()),
                _ => (self.metrics).further_token(request.last_token.duration_since(before)),
            }
            let finish = output.last.then_some(request.wanted.finish);
            // a client that went away is aborted by the drop of its answer
            let _ = request.tokens.send(Token {
                choice: request.choice,
                place: output.generated,
                finish,
            });
            if let Some(finish) = finish {
                self.metrics.finished(finish, request.arrived.elapsed());
                self.requests.remove(&output.id);
            }
        }
        self.show_load();
    }

    fn show_load(&self) {
        let load = self.requests.len();
        self.load
            .send_if_modified(|shown| std::mem::replace(shown, load) != load);
    }
}

/// Steps until every handle is gone. The end of a step is counted from the end of the last one and not from the wake-up of its timer:
/// timers are as coarse as a millisecond, which is long for a step that a speed-up has shortened.
async fn run(
    mut state: State,
    mut commands: mpsc::UnboundedReceiver<Command>,
    latency: Latency,
    speedup: f64,
) {
    let mut end = Instant::now();
    loop {
        while let Ok(command) = commands.try_recv() {
            state.take(command);
        }
        let Some(step) = state.batch.begin_step() else {
            match commands.recv().await {
                Some(command) => state.take(command),
                None => return,
            }
            end = Instant::now();
            continue;
        };
        let earliest = Instant::now().checked_sub(MAX_LAG).unwrap_or(end);
        end = end.max(earliest) + latency.of(step).div_f64(speedup);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(end) => break,
                command = commands.recv() => match command {
                    Some(command) => state.take(command),
                    None => return,
                },
            }
        }
        let outputs = state.batch.finish_step();
        state.deliver(outputs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Dialect;

    const LIMITS: Limits = Limits {
        max_num_seqs: 2,
        max_batched_tokens: 2048,
        kv_blocks: 1000,
        max_model_len: 4096,
    };

    fn engine(speedup: f64) -> Engine {
        Engine::start(
            Metrics::new(Dialect::Vllm, "m"),
            LIMITS,
            Latency::measured("h100-80gb", 8).unwrap(),
            speedup,
        )
    }

    fn wanted(output: u32) -> Wanted {
        Wanted {
            prompt: 512,
            output,
            finish: Finish::Length,
        }
    }

    async fn duration_of(engine: &Engine, output: u32) -> Duration {
        let start = Instant::now();
        let mut answer = engine.submit(&[wanted(output)]);
        let mut last = None;
        while let Some(token) = answer.next().await {
            last = Some(token);
        }
        let end = Some(Token {
            choice: 0,
            place: output,
            finish: Some(Finish::Length),
        });
        assert_eq!(last, end);
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_takes_the_measured_time() {
        // 56.7 ms for the prompt and 127 steps of 29.7 ms
        let took = duration_of(&engine(1.0), 128).await.as_secs_f64();
        assert!((3.81..3.86).contains(&took), "{took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_speedup_divides_it_even_where_steps_are_shorter_than_a_timer() {
        let took = duration_of(&engine(100.0), 128).await.as_secs_f64();
        assert!((0.038..0.042).contains(&took), "{took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_answer_frees_its_place_and_counts_as_an_abort() {
        let engine = engine(1.0);
        let mut first = engine.submit(&[wanted(1000), wanted(1000)]);
        let mut waiting = engine.submit(&[wanted(1)]);
        first.next().await;
        let page = engine.scrape().await.unwrap();
        assert!(
            page.contains(r#"vllm:num_requests_waiting{engine="0",model_name="m"} 1.0"#),
            "{page}"
        );
        drop(first);
        assert!(waiting.next().await.unwrap().finish.is_some());
        let page = engine.scrape().await.unwrap();
        assert!(
            page.contains(r#"finished_reason="abort",model_name="m"} 2.0"#),
            "{page}"
        );
        assert_eq!(*engine.load().borrow(), 0);
    }
}
