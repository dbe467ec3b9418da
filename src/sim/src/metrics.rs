//! Figures of a simulation: what requests, replicas and money did over time.

use std::collections::BTreeMap;

use bursar_core::model::Key;
use bursar_core::money::Money;
use bursar_core::plan::ServiceOrder;
use jiff::{SignedDuration, Timestamp};

use crate::engine::StepResult;

/// Figures of one service.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServiceFigures {
    pub(crate) requests: u64,
    pub(crate) finished: u64,
    /// Milliseconds from each request's arrival to its first token.
    pub(crate) first_token_ms: Vec<u32>,
    /// Those since the last sample.
    pub(crate) window: Vec<u32>,
    /// Milliseconds from the first held request to the first ready replica.
    pub(crate) cold_start_ms: Vec<u32>,
    pub(crate) refusals: BTreeMap<&'static str, u64>,
    pub(crate) orders: u64,
}

/// Figures of a service at one instant, and since the instant before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServiceSample {
    pub(crate) ready: u32,
    pub(crate) ordered: u32,
    /// Requests waiting, running and held.
    pub(crate) queue: u64,
    /// Milliseconds to the first token, at the median and at p95; `None` if there was none.
    pub(crate) first_token_ms: Option<(u32, u32)>,
}

/// Figures at one instant.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) at: Timestamp,
    pub(crate) services: BTreeMap<Key, ServiceSample>,
    /// Spend of each budget's namespace in its period, and the limit.
    pub(crate) budgets: BTreeMap<Key, (Money, Money)>,
    /// Workers of jobs that run.
    pub(crate) workers: u32,
    /// GPUs of pods with a node, and of all nodes.
    pub(crate) gpus: (i64, i64),
}

/// All figures.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) services: BTreeMap<Key, ServiceFigures>,
    pub(crate) samples: Vec<Sample>,
    /// The time between two samples.
    pub(crate) sample_every: SignedDuration,
    /// Requests that broke off or were refused a connection.
    pub(crate) broken: u64,
    pub(crate) job_orders: u64,
    pub(crate) jobs_done: u64,
    pub(crate) exhaustions: u64,
    /// Requests that have come.
    pub(crate) requests: u64,
    /// The orders for services since somebody has watched them.
    pub(crate) order_log: Option<Vec<ServiceOrder>>,
}

/// The value at a share of the sorted values; `None` if there is none.
pub(crate) fn percentile(values: &mut [u32], percent: usize) -> Option<u32> {
    let last = values.len().checked_sub(1)?;
    let (_, value, _) = values.select_nth_unstable(last * percent / 100);
    Some(*value)
}

impl Metrics {
    /// Forgets all figures but those over time.
    pub(crate) fn begin_anew(&mut self) {
        let samples = std::mem::take(&mut self.samples);
        *self = Self {
            samples,
            sample_every: self.sample_every,
            order_log: self.order_log.take(),
            ..Self::default()
        };
    }

    fn service(&mut self, key: &Key) -> &mut ServiceFigures {
        if !self.services.contains_key(key) {
            self.services.insert(key.clone(), ServiceFigures::default());
        }
        self.services.entry(key.clone()).or_default()
    }

    pub(crate) fn note_order(&mut self, order: &ServiceOrder) {
        self.service(&order.service).orders += 1;
        if let Some(log) = &mut self.order_log {
            log.push(order.clone());
        }
    }

    pub(crate) fn note_request(&mut self, key: &Key) {
        self.requests += 1;
        self.service(key).requests += 1;
    }

    pub(crate) fn note_refusal(&mut self, key: &Key, reason: &'static str) {
        *self.service(key).refusals.entry(reason).or_default() += 1;
    }

    pub(crate) fn note_cold_start(&mut self, key: &Key, time: SignedDuration) {
        let millis = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        self.service(key).cold_start_ms.push(millis);
    }

    pub(crate) fn note_step(&mut self, key: &Key, result: &StepResult, now: Timestamp) {
        if result.finished == 0 && result.first_tokens.is_empty() {
            return;
        }
        let figures = self.service(key);
        figures.finished += result.finished;
        for request in &result.first_tokens {
            let time = now.duration_since(request.arrived);
            let millis = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
            figures.first_token_ms.push(millis);
            figures.window.push(millis);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_there() {
        let mut values: Vec<u32> = (0..=100).rev().collect();
        assert_eq!(percentile(&mut values, 50), Some(50));
        assert_eq!(percentile(&mut values, 99), Some(99));
        assert_eq!(percentile(&mut [7], 99), Some(7));
        assert_eq!(percentile(&mut [], 50), None);
    }
}
