//! The phases of a run, one after the other. Every wait has a limit, and its error names the
//! awaited state.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bursar_client::trace::{self, Arrival};
use tokio::task::JoinSet;

use super::{
    journal::{Event, Phase},
    load_generator::LoadGenerator,
    manifests::{self, Cents, NAMESPACE, SPEEDUP, VIEWER, Workloads},
    recorder::Recorder,
    sampler::{Sample, Sampler},
    summary::Summary,
    terminal::{ProgressView, Terminal},
    training_steps::StepLog,
    wake_ups,
};
use crate::{Access, Error, Result, access, operator};

/// Cents that are left to spend when the budget's limit is lowered.
const UNTIL_EXHAUSTED: u64 = 2;
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(90);

/// A run on a cluster in which the service, the job and the budget are applied.
pub(super) struct Run<'a> {
    cluster: &'a dyn Access,
    workloads: &'a Workloads,
    terminal: &'a Terminal,
    sampler: Sampler,
    load: LoadGenerator,
    trace: Vec<Arrival>,
    steps: Arc<StepLog>,
    wake_up_ms: Arc<Mutex<Vec<u64>>>,
    recorder: Recorder,
    _progress: ProgressView,
    _background: [JoinSet<()>; 2],
}

impl<'a> Run<'a> {
    /// Applies everything and waits until the service takes requests.
    pub(super) async fn start(
        cluster: &'a dyn Access,
        workloads: &'a Workloads,
        terminal: &'a Terminal,
        recorder: Recorder,
        requests: u32,
    ) -> Result<Self> {
        let trace = trace::trace(requests).map_err(|error| Error::Malformed {
            what: "azure-conversation.csv".into(),
            why: error.to_string(),
        })?;
        let limit = generous_limit(&trace, workloads);
        terminal.log(&format!(
            "applying to namespace `{NAMESPACE}`: chat service (0 to {} replicas), training job of 2, budget of {limit} a month",
            workloads.max_replicas
        ));
        cluster.apply(&workloads.work(limit))?;
        recorder.begin();
        let kube = access::client(&cluster.kubeconfig()).await?;
        let load = LoadGenerator::new(kube.clone());
        let token = operator::token(cluster, NAMESPACE, VIEWER)?;
        let sampler = Sampler::start(kube.clone(), token, load.clone());
        sampler
            .until(
                "both gateways to stand in for the service",
                START_LIMIT,
                |sample| sample.gateways == 2 && !sample.limit.is_empty(),
            )
            .await?;
        load.wait_until_reachable(START_LIMIT).await?;
        let progress = terminal.show_progress(&sampler, requests, workloads.max_replicas);
        let steps = Arc::new(StepLog::start(kube.clone()));
        let wake_up_ms = Arc::<Mutex<Vec<u64>>>::default();
        let (log, journal) = (Arc::clone(&wake_up_ms), recorder.clone());
        let wake_ups = wake_ups::follow(kube, move |milliseconds| {
            journal.record(Event::Woken { milliseconds });
            log.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(milliseconds);
        });
        let recording = recorder.follow(&sampler, Arc::clone(&steps));
        Ok(Self {
            cluster,
            workloads,
            terminal,
            sampler,
            load,
            trace,
            steps,
            wake_up_ms,
            recorder,
            _progress: progress,
            _background: [wake_ups, recording],
        })
    }

    /// Runs all phases, with this many wake-ups after the one with which the replay begins.
    pub(super) async fn phases(&self, wakes: u32) -> Result<Summary> {
        let begins = |name| self.recorder.record(Event::Phase { name });
        begins(Phase::Traffic);
        self.replay_traffic().await?;
        begins(Phase::Idle);
        let idle_seconds = self.scale_to_zero().await?;
        begins(Phase::WakeUps);
        self.wake_up(wakes).await?;
        begins(Phase::Exhaustion);
        let (spent_and_limit, refusal) = self.exhaust_budget().await?;
        begins(Phase::MoreMoney);
        self.raise_budget().await?;
        let steps = self.steps.done();
        let last = self.sampler.last();
        let tally = self.load.tally().await?;
        let wake_up_ms = self.wake_up_ms.lock();
        let summary = Summary {
            tally,
            max_replicas: self.workloads.max_replicas,
            idle_seconds,
            at_zero: last.at_zero,
            lifetime: self.recorder.elapsed(),
            wake_up_ms: wake_up_ms.unwrap_or_else(PoisonError::into_inner).clone(),
            spent: last.chat_total.parse().unwrap_or_default(),
            replica_rate: last.replica_rate,
            currency: last.currency,
            spent_and_limit,
            refusal,
            steps,
        };
        self.recorder.record(Event::Result(summary.outcome()));
        Ok(summary)
    }

    async fn replay_traffic(&self) -> Result<()> {
        let span = self
            .trace
            .last()
            .map(|last| last.at(SPEEDUP))
            .unwrap_or_default();
        self.terminal.log(&format!(
            "replaying {} requests of the Azure conversation trace, arrivals and engine {SPEEDUP} times as fast as measured: {:.0} s",
            self.trace.len(),
            span.as_secs_f32()
        ));
        let requests = u32::try_from(self.trace.len()).unwrap_or(u32::MAX);
        let tally = self.load.replay(requests, span).await?;
        self.terminal.log(&format!(
            "all have ended: {} served, {} lost, {} answered with 5xx",
            tally.served(),
            tally.lost,
            tally.server_errors()
        ));
        if let Some(example) = tally.example {
            self.terminal
                .log(&format!("the first that was not served: {example}"));
        }
        Ok(())
    }

    async fn wait_for_zero(&self) -> Result<Duration> {
        self.sampler
            .until("the service to go to zero replicas", STOP_LIMIT, |sample| {
                sample.replicas == 0 && sample.pods == 0
            })
            .await
    }

    async fn scale_to_zero(&self) -> Result<f64> {
        self.terminal
            .log("no more requests: the service drains and goes to zero once idle for 10 s");
        let seconds = self.wait_for_zero().await?.as_secs_f64();
        self.terminal.log(&format!("at zero after {seconds:.1} s"));
        Ok(seconds)
    }

    async fn wake_up(&self, times: u32) -> Result<()> {
        self.terminal.log(&format!(
            "one request wakes it, {times} times (idle for 1 s is enough from here on)"
        ));
        self.cluster.apply(&self.workloads.chat("1s"))?;
        for _ in 0..times {
            self.wait_for_zero().await?;
            let began = Instant::now();
            // the tally counts the answer and decides on the exit code
            self.load.send(32, 8).await?.ok();
            self.terminal.log(&format!(
                "woken: answered after {:.1} s, 2 s of it the engine's start",
                began.elapsed().as_secs_f32()
            ));
        }
        Ok(())
    }

    /// Lowers the limit, so that it is reached soon, and waits until nothing runs.
    async fn exhaust_budget(&self) -> Result<((f64, String), String)> {
        self.wait_for_zero().await?;
        self.cluster.apply(&self.workloads.chat("10m"))?;
        self.load.send(32, 8).await?.ok();
        self.sampler
            .until("a replica to stay", START_LIMIT, |sample| {
                sample.ready == 1 && sample.allowed == 1
            })
            .await?;
        self.sampler
            .until("training to run", START_LIMIT, is_training)
            .await?;
        let now = self.sampler.last();
        let limit = Cents::above(now.spent + now.reserve).plus(UNTIL_EXHAUSTED);
        self.terminal.log(&format!(
            "the budget's limit becomes {limit}: {:.4} is spent, stopping everything costs {:.4}, {UNTIL_EXHAUSTED} cents are left",
            now.spent, now.reserve
        ));
        self.cluster.apply(&manifests::budget(limit))?;
        self.sampler
            .until("the budget to be exhausted", START_LIMIT, |sample| {
                sample.exhausted
            })
            .await?;
        self.terminal
            .log("exhausted: the service drains, the workers get SIGTERM and write a checkpoint");
        self.sampler
            .until(
                "the service and the workers to stop, and requests to be refused",
                STOP_LIMIT,
                |sample| {
                    sample.pods == 0
                        && sample.refusal.is_some()
                        && sample.training == "Suspended"
                        && sample.rate == 0.0
                },
            )
            .await?;
        let spent = self.sampler.last().spent;
        let code = "insufficient_quota";
        let refusal = match self.load.send_expecting_refusal().await? {
            Ok((status @ 429, text)) if text.contains(code) => {
                self.recorder.record(Event::Refused {
                    status,
                    code: code.to_owned(),
                });
                format!("a request got {status} {code}")
            }
            other => {
                return Err(Error::Malformed {
                    what: "the answer to a request that the budget keeps out".into(),
                    why: format!("is {other:?}, not 429 insufficient_quota"),
                });
            }
        };
        self.terminal.log(&format!(
            "all has stopped at {spent:.4} of {limit}; {refusal}"
        ));
        Ok(((spent, limit.to_string()), refusal))
    }

    /// Raises the limit and waits until work goes on.
    async fn raise_budget(&self) -> Result<()> {
        let limit = generous_limit(&self.trace, self.workloads).plus(100);
        self.terminal.log(&format!(
            "money is added: the limit becomes {limit}, and requests come again"
        ));
        self.cluster.apply(&self.workloads.chat("2s"))?;
        self.cluster.apply(&manifests::budget(limit))?;
        self.sampler
            .until("requests to be taken again", START_LIMIT, |sample| {
                !sample.exhausted && sample.refusal.is_none()
            })
            .await?;
        let begin = self
            .trace
            .iter()
            .take(20)
            .map(|arrival| self.load.send(arrival.prompt, arrival.answer));
        let answers = futures::future::join_all(begin).await;
        let served = answers
            .iter()
            .filter(|answer| matches!(answer, Ok(Ok((200, _)))))
            .count();
        self.sampler
            .until("training to resume", START_LIMIT, is_training)
            .await?;
        self.terminal.log(&format!(
            "{served} of {} served, and training runs again",
            answers.len()
        ));
        self.wait_for_zero().await?;
        self.sampler
            .until(
                "the service's last charge to be in its status",
                START_LIMIT,
                |sample| sample.chat_rate.parse() == Ok(0.0),
            )
            .await
            .map(drop)
    }
}

fn is_training(sample: &Sample) -> bool {
    sample.training == "Running" && sample.workers == 2
}

/// A limit that the whole run stays below: twice the cost of all replicas and workers at 7 an hour
/// each.
fn generous_limit(trace: &[Arrival], workloads: &Workloads) -> Cents {
    let replayed = trace.last().map_or(Duration::ZERO, |last| last.at(SPEEDUP));
    let seconds = replayed.as_secs_f64() + 240.0;
    let hours = f64::from(workloads.most_pods()) * seconds / 3600.0;
    Cents(200 * (7.0 * hours).ceil() as u64)
}
