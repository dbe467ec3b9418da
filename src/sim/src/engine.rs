//! An engine that batches continuously, approximated: it fills prompts in steps of a bounded number
//! of tokens, during which no output token is made; otherwise all running requests get one token
//! each in the time of a token at that batch.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use bursar_core::ledger::EngineCounters;
use jiff::{SignedDuration, Timestamp};

use crate::latency::Latencies;

/// Prompt tokens of one step, as vLLM bounds them (`max_num_batched_tokens`).
const STEP_TOKENS: u32 = 8192;

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// When it came to the service.
    pub(crate) arrived: Timestamp,
    /// Tokens of its prompt.
    pub(crate) input: u32,
    /// Tokens of its answer, at least one.
    pub(crate) output: u32,
}

/// What ended in a step.
#[derive(Debug, Default)]
pub(crate) struct StepResult {
    /// Requests whose first token was made.
    pub(crate) first_tokens: Vec<Request>,
    /// Requests that were answered in full.
    pub(crate) finished: u64,
}

/// The engine of one replica.
#[derive(Debug)]
pub(crate) struct Engine {
    latencies: Arc<Latencies>,
    waiting: VecDeque<Request>,
    /// Requests of the step that fills prompts, and its end.
    prefill: Option<(Vec<Request>, Timestamp)>,
    /// Of running requests, the number of tokens made in all at which each ends.
    running: BinaryHeap<Reverse<u64>>,
    /// Thousandths of tokens that each running request has got so far, in all.
    progress: u64,
    /// Up to when `progress` is right.
    at: Timestamp,
    /// What it has done so far.
    pub(crate) done: EngineCounters,
    /// Counts the states, so that the end of a step is known to be out of date.
    pub(crate) generation: u32,
}

impl Engine {
    pub(crate) fn new(latencies: Arc<Latencies>, now: Timestamp) -> Self {
        Self {
            latencies,
            waiting: VecDeque::new(),
            prefill: None,
            running: BinaryHeap::new(),
            progress: 0,
            at: now,
            done: EngineCounters::default(),
            generation: 0,
        }
    }

    /// Requests waiting and running.
    pub(crate) fn busy(&self) -> u64 {
        let filling = self.prefill.as_ref().map_or(0, |(batch, _)| batch.len());
        (self.waiting.len() + filling + self.running.len()) as u64
    }

    /// Takes a request. Returns when the engine's next step ends, if that has changed.
    pub(crate) fn add(&mut self, request: Request, now: Timestamp) -> Option<Timestamp> {
        self.waiting.push_back(request);
        if self.prefill.is_some() {
            return None;
        }
        self.advance(now);
        self.plan(now)
    }

    /// Ends the step that ends at `now`. Returns what ended with it, and when the next one ends.
    pub(crate) fn step(&mut self, now: Timestamp) -> (StepResult, Option<Timestamp>) {
        let mut result = StepResult::default();
        match self.prefill.take() {
            Some((batch, _)) => {
                self.at = now;
                for request in batch {
                    result.first_tokens.push(request);
                    self.done.input_tokens += u64::from(request.input);
                    self.done.output_tokens += u64::from(request.output.max(1));
                    match request.output {
                        0 | 1 => result.finished += 1,
                        more => {
                            let end = self.progress + u64::from(more - 1) * 1000;
                            self.running.push(Reverse(end));
                        }
                    }
                }
            }
            None => {
                // the step was planned to end with a request, whatever was rounded
                let next = self
                    .running
                    .peek()
                    .map_or(self.progress, |Reverse(end)| *end);
                self.advance(now);
                self.progress = self.progress.max(next);
            }
        }
        while self
            .running
            .peek()
            .is_some_and(|Reverse(end)| *end <= self.progress)
        {
            self.running.pop();
            result.finished += 1;
        }
        self.done.requests += result.finished;
        let next = self.plan(now);
        (result, next)
    }

    fn batch(&self) -> u32 {
        u32::try_from(self.running.len()).unwrap_or(u32::MAX)
    }

    /// Makes tokens until `now`.
    fn advance(&mut self, now: Timestamp) {
        if !self.running.is_empty() {
            let passed = now.duration_since(self.at).as_micros() as f64;
            self.progress += (passed * 1000.0 / self.latencies.token_us(self.batch())) as u64;
        }
        self.at = now;
    }

    /// Begins the next step, and returns when it ends.
    fn plan(&mut self, now: Timestamp) -> Option<Timestamp> {
        self.generation = self.generation.wrapping_add(1);
        let room = self.latencies.max_batch().saturating_sub(self.batch());
        let micros = if !self.waiting.is_empty() && room > 0 {
            let (mut batch, mut tokens) = (Vec::new(), 0u32);
            while let Some(next) = self.waiting.front() {
                let is_full = batch.len() >= room as usize
                    || !batch.is_empty() && tokens.saturating_add(next.input) > STEP_TOKENS;
                if is_full {
                    break;
                }
                tokens = tokens.saturating_add(next.input);
                batch.extend(self.waiting.pop_front());
            }
            let micros = self.latencies.prefill_us(tokens).max(1);
            let end = after_micros(now, micros);
            self.prefill = Some((batch, end));
            return Some(end);
        } else {
            let Reverse(end) = self.running.peek()?;
            let tokens = end.saturating_sub(self.progress) as f64 / 1000.0;
            (tokens * self.latencies.token_us(self.batch())) as i64 + 1
        };
        Some(after_micros(now, micros))
    }
}

fn after_micros(now: Timestamp, micros: i64) -> Timestamp {
    let later = now.saturating_add(SignedDuration::from_micros(micros));
    later.unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Timestamp {
        Timestamp::from_second(1_796_000_000).unwrap()
    }

    fn request(input: u32, output: u32) -> Request {
        Request {
            arrived: start(),
            input,
            output,
        }
    }

    fn engine() -> Engine {
        let latencies = Latencies::measured("llama2-70b", "h100-80gb", 8).unwrap();
        Engine::new(Arc::new(latencies), start())
    }

    /// Runs the engine until nothing is left. Returns the times of first tokens and of the end, in
    /// milliseconds, and how many were answered.
    fn run(engine: &mut Engine, mut next: Option<Timestamp>) -> (Vec<i64>, i64, u64) {
        let (mut first, mut end, mut finished) = (Vec::new(), 0, 0);
        while let Some(at) = next {
            let (result, following) = engine.step(at);
            let millis = at.duration_since(start()).as_millis() as i64;
            first.extend(result.first_tokens.iter().map(|_| millis));
            finished += result.finished;
            (end, next) = (millis, following);
        }
        (first, end, finished)
    }

    #[test]
    fn a_request_alone_takes_a_prefill_and_its_tokens() {
        let mut engine = engine();
        let next = engine.add(request(512, 101), start());
        assert_eq!(engine.busy(), 1);
        let (first, end, finished) = run(&mut engine, next);
        assert_eq!((first, finished), (vec![55], 1));
        // 55.2 ms, and 100 more tokens of 30.7 ms each
        assert!((3120..3135).contains(&end), "{end}");
        assert_eq!(engine.busy(), 0);
    }

    #[test]
    fn prompts_of_one_step_are_filled_together_and_output_waits_meanwhile() {
        let mut engine = engine();
        let first = engine.add(request(512, 1000), start());
        let (_, next) = engine.step(first.unwrap());
        let at = next.unwrap() - SignedDuration::from_secs(10);
        for _ in 0..16 {
            engine.add(request(512, 1), at);
        }
        assert_eq!(engine.busy(), 17);
        let (_, end, finished) = run(&mut engine, Some(at + SignedDuration::from_millis(55)));
        assert_eq!((finished, engine.busy()), (17, 0));
        assert!(end > 30_000, "{end}");
    }

    #[test]
    fn a_larger_batch_makes_each_token_slower_and_all_of_them_faster() {
        let time = |requests: u32| {
            let mut engine = engine();
            let mut next = None;
            for _ in 0..requests {
                next = engine.add(request(128, 200), start()).or(next);
            }
            run(&mut engine, next)
        };
        let ((_, one, _), (_, many, finished)) = (time(1), time(64));
        assert_eq!(finished, 64);
        assert!(many > one && many < 64 * one / 10, "{one} and {many}");
    }

    #[test]
    fn no_more_requests_run_than_were_measured() {
        let mut engine = engine();
        let mut next = None;
        for _ in 0..200 {
            next = engine.add(request(128, 500), start()).or(next);
        }
        for _ in 0..20 {
            let Some(at) = next else { break };
            next = engine.step(at).1;
            assert!(engine.running.len() <= 64);
        }
    }
}
