//! Keeps what the engines report: the reader's readings go into the store of each service, and a
//! changed one is an event for the model.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bursar_core::model::event::{self, Counting, Event};
use bursar_signals::engine_reads::{self, ReadEngine, Reading};

use crate::context::SharedReadings;
use crate::engine_targets::{EngineTargets, Gone};
use crate::input::{Input, Inputs};
use crate::lock::lock;

/// What is gone is looked at this often.
const PERIOD: Duration = Duration::from_secs(1);
/// The readings of a pod that is gone stay for so many periods: its charge ends by its last
/// counters.
const GONE_PERIODS: u64 = 10;

/// Keeps readings, and tells the model of those that changed.
pub(crate) struct EngineReads {
    pub(crate) targets: Arc<EngineTargets>,
    pub(crate) readings: SharedReadings,
    pub(crate) inputs: Inputs,
}

impl EngineReads {
    /// Reads for as long as the process leads.
    pub(crate) async fn run<R: ReadEngine>(self, reads: engine_reads::EngineReads<R>) {
        let reads = reads.run(|reading| {
            let Some(changed) = self.take(&reading) else {
                return;
            };
            let uid = &reading.target.uid;
            let measures = reading.result.ok().and_then(|sample| sample.measures);
            let measures = measures
                .map(|measures| Event::EngineMeasures(uid.clone(), Arc::unwrap_or_clone(measures)));
            for event in [Event::Reading(uid.clone(), changed)]
                .into_iter()
                .chain(measures)
            {
                // nobody listens at the end of leadership
                self.inputs.send(Input::Event(event)).ok();
            }
        });
        let periods = async {
            let mut gone = GoneReplicas::default();
            let mut ticks = tokio::time::interval(PERIOD);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while !self.inputs.is_closed() {
                ticks.tick().await;
                for gone in gone.next_period(self.targets.take_gone()) {
                    self.forget(&gone);
                }
            }
        };
        tokio::select! {
            () = reads => {}
            () = periods => {}
        }
    }

    /// Keeps a reading. Returns what the model is told of it, if it changes what is known.
    fn take(&self, reading: &Reading) -> Option<event::Reading> {
        let target = &reading.target;
        let (namespace, service) = (&*target.namespace, &*target.service);
        let mut readings = lock(&self.readings);
        // what was forgotten does not come back
        if !self.targets.has_replica(namespace, service, &target.uid) {
            return None;
        }
        let key = (namespace.to_owned(), service.to_owned());
        let readings = readings.entry(key).or_default();
        let moved = match &reading.result {
            Ok(sample) => readings.sample(&target.uid, sample.clone(), reading.at),
            Err(error) => {
                readings.failure(&target.uid, error.to_string());
                false
            }
        };
        if !reading.changed {
            return None;
        }
        let counting = readings.counting(&target.uid);
        // an engine that shows late may have requests before it shows a counter
        let is_counted = readings.has_counters(&target.uid) || counting == Counting::Late;
        Some(match readings.busy(&target.uid, reading.at) {
            Some(requests) if is_counted => event::Reading::Counted {
                requests,
                counting,
                moved,
                done: readings.last_done(&target.uid).unwrap_or_default(),
            },
            Some(requests) => event::Reading::Uncounted { requests },
            None => {
                let why = readings.error(&target.uid).unwrap_or("not read for long");
                event::Reading::Stale(why.into())
            }
        })
    }

    /// Forgets what was read of a pod that is gone, and a service that is gone with its last pod.
    fn forget(&self, gone: &Gone) {
        let mut all = lock(&self.readings);
        let (namespace, service) = &gone.service;
        let key = (namespace.to_string(), service.to_string());
        let Some(readings) = all.get_mut(&key) else {
            return;
        };
        if let Some(uid) = &gone.uid
            && !self.targets.has_replica(namespace, service, uid)
        {
            readings.forget(uid);
        }
        if readings.is_empty() && !self.targets.has_service(&gone.service) {
            all.remove(&key);
        }
    }
}

/// Services and pods that are gone, until their time is over.
#[derive(Debug, Default)]
struct GoneReplicas {
    period: u64,
    waiting: VecDeque<(u64, Gone)>,
}

impl GoneReplicas {
    /// Begins the next period. Takes what went in the last one, and returns what is to be
    /// forgotten now.
    fn next_period(&mut self, gone: Vec<Gone>) -> Vec<Gone> {
        self.period += 1;
        let until = self.period + GONE_PERIODS;
        self.waiting
            .extend(gone.into_iter().map(|gone| (until, gone)));
        let mut over = Vec::new();
        while let Some((_, gone)) = self
            .waiting
            .pop_front_if(|(until, _)| *until <= self.period)
        {
            over.push(gone);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use bursar_api::InferenceDeployment;
    use bursar_signals::engine::Error;
    use bursar_signals::engine_metrics::Sample;
    use bursar_signals::engine_reads::{ReadResult, Target};
    use bursar_signals::schedule::Settings;
    use bursar_signals::store::Readings;
    use jiff::{SignedDuration, Timestamp};
    use k8s_openapi::api::core::v1::Pod;
    use kube::runtime::watcher;
    use serde_json::json;
    use tokio::sync::mpsc;
    use tokio::time::Instant;

    use super::*;

    thread_local! {
        static BEGAN: Instant = Instant::now();
    }

    /// The time on the test's paused clock.
    fn clock() -> Timestamp {
        let elapsed = BEGAN.with(|began| began.elapsed());
        Timestamp::from_second(1_796_000_000).unwrap() + elapsed
    }

    /// Engines without requests. Those of the namespace `tenant` take connections and are silent.
    #[derive(Clone)]
    struct Engines;

    impl ReadEngine for Engines {
        type Connection = ();

        async fn read(&self, target: &Target, _: Option<()>) -> ReadResult<()> {
            if &*target.namespace == "tenant" {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            if &*target.service == "broken" {
                return Err(Error::Status(503));
            }
            let sample = Sample {
                has_counters: true,
                ..Sample::default()
            };
            Ok((sample, None))
        }
    }

    fn service(namespace: &str, name: &str) -> InferenceDeployment {
        let template = json!({"spec": {"containers": [{"name": "engine", "image": "engine"}]}});
        serde_json::from_value(json!({
            "apiVersion": "bursar.dev/v1alpha1", "kind": "InferenceDeployment",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"engine": "vLLM", "maxReplicas": 3, "template": template},
        }))
        .unwrap()
    }

    fn pod(namespace: &str, service: &str, uid: &str) -> Pod {
        let labels =
            json!({"bursar.dev/kind": "InferenceDeployment", "bursar.dev/workload": service});
        let ready = json!({"type": "Ready", "status": "True"});
        serde_json::from_value(json!({
            "metadata": {"name": uid, "namespace": namespace, "uid": uid, "labels": labels},
            "status": {"phase": "Running", "podIP": "127.1.0.1", "conditions": [ready]},
        }))
        .unwrap()
    }

    struct Stage {
        targets: Arc<EngineTargets>,
        readings: SharedReadings,
        inputs: mpsc::UnboundedReceiver<Input>,
        _task: tokio_util::task::AbortOnDropHandle<()>,
    }

    impl Stage {
        fn new() -> Self {
            let (targets, reads) =
                engine_reads::EngineReads::new(Engines, Settings::default(), clock);
            let targets = Arc::new(EngineTargets::new(targets));
            let readings = SharedReadings::default();
            let (sender, inputs) = mpsc::unbounded_channel();
            let engine_reads = EngineReads {
                targets: Arc::clone(&targets),
                readings: Arc::clone(&readings),
                inputs: sender,
            };
            let task = tokio::spawn(engine_reads.run(reads));
            Self {
                targets,
                readings,
                inputs,
                _task: tokio_util::task::AbortOnDropHandle::new(task),
            }
        }

        fn create(&self, namespace: &str, name: &str, pods: impl IntoIterator<Item = String>) {
            let service = service(namespace, name);
            self.targets.on_service(&watcher::Event::Apply(service));
            for uid in pods {
                let pod = pod(namespace, name, &uid);
                self.targets.on_pod(&watcher::Event::Apply(pod));
            }
        }

        fn readings<T>(&self, namespace: &str, read: impl FnOnce(&Readings) -> T) -> Option<T> {
            let all = lock(&self.readings);
            all.get(&(namespace.to_owned(), "chat".to_owned()))
                .map(read)
        }
    }

    /// The readings that the model was told of since the last call, by UID.
    fn readings_told(stage: &mut Stage) -> Vec<(String, event::Reading)> {
        let mut readings = Vec::new();
        while let Ok(input) = stage.inputs.try_recv() {
            match input {
                Input::Event(Event::Reading(uid, reading)) => {
                    readings.push((uid.to_string(), reading));
                }
                _ => panic!("a reading is told as something else"),
            }
        }
        readings
    }

    #[tokio::test(start_paused = true)]
    async fn silent_replicas_of_one_tenant_leave_an_idle_service_of_another_read_and_idle() {
        let mut stage = Stage::new();
        stage.create(
            "tenant",
            "chat",
            (0..400).map(|index| format!("fake-{index}")),
        );
        stage.create("team", "chat", ["healthy".to_owned()]);
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let first = event::Reading::Counted {
            requests: 0,
            counting: Default::default(),
            // the first read is the first look at its counters
            moved: true,
            done: Default::default(),
        };
        let told = readings_told(&mut stage);
        assert!(told.contains(&("healthy".to_owned(), first)), "{told:?}");
        for second in 0..60 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            // a reading of the last two seconds counts for eight more
            let later = clock() + SignedDuration::from_secs(8);
            let busy = stage.readings("team", |readings| readings.busy("healthy", later));
            assert_eq!(busy.flatten(), Some(0), "after {second} s");
        }
        let told = readings_told(&mut stage);
        assert!(
            told.iter().all(|(uid, _)| uid != "healthy"),
            "nothing of it changed"
        );
        // each fake fails once, in the first minute
        assert_eq!(told.len(), 400);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_told_once_with_its_reason() {
        let mut stage = Stage::new();
        stage.create("team", "broken", ["a".to_owned()]);
        stage.targets.all_read().await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        let stale = event::Reading::Stale("HTTP status 503".into());
        assert_eq!(readings_told(&mut stage), [("a".to_owned(), stale)]);
    }

    #[tokio::test(start_paused = true)]
    async fn readings_outlive_their_pod_for_ten_seconds_and_not_their_service() {
        let stage = Stage::new();
        stage.create("team", "chat", ["a".to_owned(), "b".to_owned()]);
        stage.targets.all_read().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        stage
            .targets
            .on_pod(&watcher::Event::Delete(pod("team", "chat", "a")));
        let contains = |uid| stage.readings("team", |readings| readings.knows(uid));
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert_eq!(contains("a"), Some(true));
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!((contains("a"), contains("b")), (Some(false), Some(true)));
        stage
            .targets
            .on_service(&watcher::Event::Delete(service("team", "chat")));
        stage
            .targets
            .on_pod(&watcher::Event::Delete(pod("team", "chat", "b")));
        tokio::time::sleep(Duration::from_secs(12)).await;
        assert_eq!(contains("b"), None);
    }
}
