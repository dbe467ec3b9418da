//! Continuous batching with a bounded KV cache, as a state machine without a clock.
//!
//! A step is scheduled by [`Batch::begin_step`] and its tokens appear at [`Batch::finish_step`]; how long it takes in between is
//! decided elsewhere. The rules are those of vLLM's scheduler: running sequences first and in order of arrival, then waiting ones
//! while there is room; long prompts are computed in chunks; when the cache is full the youngest running sequence gives its blocks
//! back and computes them again later.

use std::collections::VecDeque;

/// Tokens in a block of the KV cache.
pub(crate) const BLOCK_TOKENS: u32 = 16;

/// Names a sequence for as long as the engine runs.
pub(crate) type SequenceId = u64;

/// What a batch may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Sequences that run at the same time.
    pub(crate) max_num_seqs: usize,
    /// Tokens computed in one step.
    pub(crate) max_batched_tokens: u32,
    /// Blocks of the KV cache, of [`BLOCK_TOKENS`] tokens each.
    pub(crate) kv_blocks: u32,
    /// Tokens of a sequence, prompt and output together.
    pub(crate) max_model_len: u32,
}

impl Limits {
    /// The longest sequence, in tokens, that the model takes and the cache can hold.
    pub(crate) fn context(&self) -> u32 {
        self.max_model_len
            .min(self.kv_blocks.saturating_mul(BLOCK_TOKENS))
    }
}

/// The work of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    /// Prompt tokens computed.
    pub(crate) prefill_tokens: u32,
    /// Sequences that get one further token.
    pub(crate) decoding: u32,
}

/// A token that a step made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Output {
    /// Whose token it is.
    pub(crate) id: SequenceId,
    /// Tokens made so far, this one included.
    pub(crate) generated: u32,
    /// Whether it is the last.
    pub(crate) last: bool,
}

#[derive(Debug)]
struct Sequence {
    id: SequenceId,
    prompt: u32,
    output: u32,
    generated: u32,
    /// Tokens whose keys and values are in the cache.
    computed: u32,
    blocks: u32,
    /// Tokens that the current step computes.
    scheduled: u32,
}

impl Sequence {
    fn pending(&self) -> u32 {
        self.prompt + self.generated - self.computed
    }

    fn further_blocks(&self, tokens: u32) -> u32 {
        (self.computed + tokens)
            .div_ceil(BLOCK_TOKENS)
            .saturating_sub(self.blocks)
    }

    fn schedule(&mut self, tokens: u32, free_blocks: &mut u32) -> bool {
        let further = self.further_blocks(tokens);
        if further > *free_blocks {
            return false;
        }
        *free_blocks -= further;
        self.blocks += further;
        self.scheduled = tokens;
        true
    }
}

/// Sequences that wait and sequences that run.
#[derive(Debug)]
pub(crate) struct Batch {
    limits: Limits,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    free_blocks: u32,
    preemptions: u64,
}

impl Batch {
    /// An empty batch.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            waiting: VecDeque::new(),
            running: Vec::new(),
            free_blocks: limits.kv_blocks,
            preemptions: 0,
        }
    }

    /// Queues a sequence of `prompt` tokens that ends after `output` tokens. Both are at least 1, and their sum at most
    /// [`Limits::context`]: a longer one would wait for ever, so the edge refuses it.
    pub(crate) fn submit(&mut self, id: SequenceId, prompt: u32, output: u32) {
        self.waiting.push_back(Sequence {
            id,
            prompt: prompt.max(1),
            output: output.max(1),
            generated: 0,
            computed: 0,
            blocks: 0,
            scheduled: 0,
        });
    }

    /// Forgets a sequence, in the middle of a step too. Returns whether it was there.
    pub(crate) fn abort(&mut self, id: SequenceId) -> bool {
        let held = self.waiting.len() + self.running.len();
        self.waiting.retain(|sequence| sequence.id != id);
        let freed: u32 = self
            .running
            .extract_if(.., |sequence| sequence.id == id)
            .map(|sequence| sequence.blocks)
            .sum();
        self.free_blocks += freed;
        self.waiting.len() + self.running.len() < held
    }

    /// Schedules the next step; none when there is nothing to do.
    pub(crate) fn begin_step(&mut self) -> Option<Step> {
        let mut budget = self.limits.max_batched_tokens.max(1);
        let preempted = self.schedule_running(&mut budget);
        // blocks that were taken from a sequence a moment ago are not for newcomers
        if !preempted {
            self.admit_waiting(&mut budget);
        }
        let scheduled = self
            .running
            .iter()
            .filter(|sequence| sequence.scheduled > 0);
        let (mut prefill_tokens, mut decoding) = (0, 0);
        for sequence in scheduled {
            if sequence.computed >= sequence.prompt && sequence.scheduled == 1 {
                decoding += 1;
            } else {
                prefill_tokens += sequence.scheduled;
            }
        }
        (prefill_tokens + decoding > 0).then_some(Step {
            prefill_tokens,
            decoding,
        })
    }

    fn schedule_running(&mut self, budget: &mut u32) -> bool {
        let mut preempted = false;
        let mut index = 0;
        while *budget > 0 {
            let Some(sequence) = self.running.get_mut(index) else {
                break;
            };
            let tokens = sequence.pending().min(*budget);
            if sequence.schedule(tokens, &mut self.free_blocks) {
                *budget -= tokens;
                index += 1;
            } else {
                self.preempt_youngest();
                preempted = true;
            }
        }
        preempted
    }

    fn preempt_youngest(&mut self) {
        if let Some(mut sequence) = self.running.pop() {
            self.free_blocks += sequence.blocks;
            sequence.blocks = 0;
            sequence.computed = 0;
            self.waiting.push_front(sequence);
            self.preemptions += 1;
        }
    }

    fn admit_waiting(&mut self, budget: &mut u32) {
        while *budget > 0 && self.running.len() < self.limits.max_num_seqs {
            let Some(mut sequence) = self.waiting.pop_front() else {
                break;
            };
            let tokens = sequence.pending().min(*budget);
            if !sequence.schedule(tokens, &mut self.free_blocks) {
                self.waiting.push_front(sequence);
                break;
            }
            *budget -= tokens;
            self.running.push(sequence);
        }
    }

    /// Ends the step: the tokens it made, in the order of the batch. Sequences that made their last one are gone after it.
    pub(crate) fn finish_step(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        for sequence in &mut self.running {
            sequence.computed += std::mem::take(&mut sequence.scheduled);
            if sequence.pending() == 0 {
                sequence.generated += 1;
                outputs.push(Output {
                    id: sequence.id,
                    generated: sequence.generated,
                    last: sequence.generated == sequence.output,
                });
            }
        }
        let freed: u32 = self
            .running
            .extract_if(.., |sequence| sequence.generated == sequence.output)
            .map(|sequence| sequence.blocks)
            .sum();
        self.free_blocks += freed;
        outputs
    }

    /// Sequences that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sequences that run.
    pub(crate) fn running(&self) -> usize {
        self.running.len()
    }

    /// The share of the KV cache that is in use, 0 to 1.
    pub(crate) fn kv_usage(&self) -> f64 {
        let used = self.limits.kv_blocks - self.free_blocks;
        f64::from(used) / f64::from(self.limits.kv_blocks.max(1))
    }

    /// How often a sequence lost its blocks to an older one.
    pub(crate) fn preemptions(&self) -> u64 {
        self.preemptions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const ROOMY: Limits = Limits {
        max_num_seqs: 4,
        max_batched_tokens: 1024,
        kv_blocks: 1024,
        max_model_len: 4096,
    };

    fn step(batch: &mut Batch) -> (Step, Vec<Output>) {
        let step = batch.begin_step().expect("there is work");
        (step, batch.finish_step())
    }

    #[test]
    fn a_prompt_is_computed_in_one_step_and_every_later_step_makes_one_token() {
        let mut batch = Batch::new(ROOMY);
        batch.submit(7, 100, 3);
        assert_eq!((batch.waiting(), batch.running()), (1, 0));

        let (first, tokens) = step(&mut batch);
        assert_eq!((first.prefill_tokens, first.decoding), (100, 0));
        assert_eq!(
            tokens,
            [Output {
                id: 7,
                generated: 1,
                last: false
            }]
        );

        let (second, _) = step(&mut batch);
        assert_eq!((second.prefill_tokens, second.decoding), (0, 1));

        let (_, tokens) = step(&mut batch);
        assert!(tokens[0].last);
        assert_eq!((batch.running(), batch.kv_usage()), (0, 0.0));
        assert_eq!(batch.begin_step(), None);
    }

    #[test]
    fn a_newcomer_joins_between_two_steps_of_the_others() {
        let mut batch = Batch::new(ROOMY);
        batch.submit(1, 10, 9);
        step(&mut batch);
        batch.submit(2, 20, 9);
        let (mixed, tokens) = step(&mut batch);
        assert_eq!((mixed.prefill_tokens, mixed.decoding), (20, 1));
        assert_eq!(tokens.len(), 2);
    }

    #[test]
    fn no_more_than_max_num_seqs_run_and_the_rest_wait_in_order() {
        let mut batch = Batch::new(ROOMY);
        for id in 0..6 {
            batch.submit(id, 10, 2);
        }
        batch.begin_step();
        assert_eq!((batch.waiting(), batch.running()), (2, 4));
        batch.finish_step();
        step(&mut batch);
        let (_, tokens) = step(&mut batch);
        let ids: Vec<_> = tokens.iter().map(|token| token.id).collect();
        assert_eq!(ids, [4, 5]);
    }

    #[test]
    fn a_long_prompt_is_computed_in_chunks_and_makes_no_token_before_the_last() {
        let mut batch = Batch::new(ROOMY);
        batch.submit(1, 2500, 1);
        let made: Vec<_> = (0..3).map(|_| step(&mut batch).1.len()).collect();
        assert_eq!(made, [0, 0, 1]);
    }

    #[test]
    fn a_sequence_waits_while_the_kv_cache_is_full() {
        let mut batch = Batch::new(Limits {
            kv_blocks: 10,
            ..ROOMY
        });
        batch.submit(1, 100, 2);
        batch.submit(2, 100, 2);
        batch.begin_step();
        assert_eq!((batch.waiting(), batch.running()), (1, 1));
        assert!((batch.kv_usage() - 0.7).abs() < 1e-9);
        batch.finish_step();
        step(&mut batch);
        batch.begin_step();
        assert_eq!((batch.waiting(), batch.running()), (0, 1));
    }

    #[test]
    fn when_the_cache_fills_up_the_youngest_gives_way_and_still_makes_all_its_tokens() {
        let mut batch = Batch::new(Limits {
            kv_blocks: 4,
            ..ROOMY
        });
        batch.submit(1, 16, 40);
        batch.submit(2, 16, 40);
        let mut made = BTreeMap::new();
        while batch.begin_step().is_some() {
            for token in batch.finish_step() {
                let before = made.insert(token.id, token.generated).unwrap_or(0);
                assert_eq!(token.generated, before + 1);
            }
        }
        assert!(batch.preemptions() > 0);
        assert_eq!(made, BTreeMap::from([(1, 40), (2, 40)]));
    }

    #[test]
    fn an_aborted_sequence_gives_its_blocks_back_even_in_the_middle_of_a_step() {
        let mut batch = Batch::new(ROOMY);
        batch.submit(1, 100, 5);
        batch.begin_step();
        assert!(batch.abort(1));
        assert_eq!(batch.finish_step(), []);
        assert_eq!(batch.kv_usage(), 0.0);
        assert!(!batch.abort(1));
    }

    proptest! {
        #[test]
        fn every_sequence_ends_and_no_block_is_lost(
            work in prop::collection::vec((1u32..200, 1u32..60, any::<bool>()), 1..40),
            max_num_seqs in 1usize..8,
            max_batched_tokens in 1u32..300,
            kv_blocks in 17u32..60,
        ) {
            let mut batch = Batch::new(Limits { max_num_seqs, max_batched_tokens, kv_blocks, max_model_len: 260 });
            let mut last = BTreeMap::new();
            for (id, (prompt, output, abort)) in (0..).zip(&work) {
                batch.submit(id, *prompt, *output);
                if batch.begin_step().is_some() {
                    prop_assert!(batch.running() <= max_num_seqs);
                    if *abort && !last.contains_key(&id) {
                        prop_assert!(batch.abort(id));
                        last.insert(id, *output);
                    }
                    record(&mut last, batch.finish_step());
                }
            }
            let mut steps = 0;
            while batch.begin_step().is_some() {
                record(&mut last, batch.finish_step());
                steps += 1;
                prop_assert!(steps < 1_000_000, "the batch makes no progress");
            }
            prop_assert_eq!(last.len(), work.len());
            for (id, (_, output, _)) in (0..).zip(&work) {
                prop_assert_eq!(last[&id], *output);
            }
            prop_assert_eq!(batch.kv_usage(), 0.0);
            prop_assert_eq!(batch.waiting() + batch.running(), 0);
        }
    }

    fn record(last: &mut BTreeMap<SequenceId, u32>, outputs: Vec<Output>) {
        for output in outputs.into_iter().filter(|output| output.last) {
            last.insert(output.id, output.generated);
        }
    }
}
