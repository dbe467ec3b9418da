//! Writes the run's journal while it happens.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use tokio::task::JoinSet;

use super::{
    journal::{self, Event, Journal, Observation, State},
    sampler::{Sample, Sampler},
    training_steps::StepLog,
};

/// Records the events of one run; its clones write into the same journal.
#[derive(Clone)]
pub(super) struct Recorder {
    recording: Arc<Mutex<(Instant, Journal)>>,
}

impl Recorder {
    /// A recorder for this journal.
    pub(super) fn new(journal: Journal) -> Self {
        Self {
            recording: Arc::new(Mutex::new((Instant::now(), journal))),
        }
    }

    /// Counts times from now on.
    pub(super) fn begin(&self) {
        self.with(|(began, _)| *began = Instant::now());
    }

    /// Seconds since the beginning.
    pub(super) fn elapsed(&self) -> f64 {
        self.with(|(began, _)| began.elapsed().as_secs_f64())
    }

    /// Records what happens now.
    pub(super) fn record(&self, event: Event) {
        self.with(|(began, journal)| journal.push(began.elapsed().as_secs_f64(), event));
    }

    /// A copy of the journal so far.
    pub(super) fn journal(&self) -> Journal {
        self.with(|(_, journal)| journal.clone())
    }

    fn with<T>(&self, act: impl FnOnce(&mut (Instant, Journal)) -> T) -> T {
        act(&mut self
            .recording
            .lock()
            .unwrap_or_else(PoisonError::into_inner))
    }

    /// Records every sample and what changed since the one before, until the result is dropped.
    pub(super) fn follow(&self, sampler: &Sampler, steps: Arc<StepLog>) -> JoinSet<()> {
        let (recorder, mut samples) = (self.clone(), sampler.subscribe());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut before = Observation::default();
            while samples.changed().await.is_ok() {
                let sample = samples.borrow_and_update().clone();
                // a sample with an error has old values in it
                if sample.error.is_some() {
                    continue;
                }
                let now = observation(&sample, before, steps.latest_attempt());
                for event in journal::changes(&before, &now, steps.done().0) {
                    recorder.record(event);
                }
                recorder.record(Event::Sample(state(&sample)));
                before = now;
            }
        });
        task
    }
}

/// `attempt` is the number and the first step of the training job's latest attempt.
fn observation(sample: &Sample, before: Observation, attempt: (u64, u64)) -> Observation {
    let runs = sample.training == "Running" && sample.workers == 2;
    let has_resumed = runs && attempt.0 > before.attempt.0;
    let suspended = sample.training == "Suspended" || (before.suspended && !has_resumed);
    Observation {
        limit: sample.limit.parse().ok(),
        exhausted: sample.exhausted,
        pods: sample.pods,
        suspended,
        attempt: if suspended { before.attempt } else { attempt },
    }
}

fn state(sample: &Sample) -> State {
    State {
        sent: sample.tally.sent as u64,
        served: sample.tally.served() as u64,
        queue: sample.queue,
        held: sample.held,
        replicas: sample.replicas,
        desired: sample.desired,
        allowed: sample.allowed,
        ready: sample.ready,
        workers: sample.workers,
        spent: sample.spent,
        reserve: sample.reserve,
        limit: sample.limit.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspended_job_has_resumed_once_all_of_its_workers_run_and_do_steps() {
        let sample = |phase: &str, workers| Sample {
            training: phase.into(),
            workers,
            ..Sample::default()
        };
        let mut seen = Observation::default();
        let mut is_suspended = |phase, workers, attempt| {
            seen = observation(&sample(phase, workers), seen, attempt);
            seen.suspended
        };
        let (first, second) = ((1, 0), (2, 7));
        assert!(!is_suspended("Queued", 0, (0, 0)));
        assert!(!is_suspended("Running", 2, first));
        assert!(is_suspended("Suspended", 0, first));
        assert!(is_suspended("Queued", 0, first));
        assert!(is_suspended("Running", 1, first));
        assert!(is_suspended("Running", 2, first));
        assert!(!is_suspended("Running", 2, second));
        assert_eq!(seen.attempt, second);
    }
}
