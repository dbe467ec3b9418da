//! Reads all engines, each once a second. What is read when is decided by [`Schedule`]; this is
//! its clock, its tasks and its connections.

use std::collections::HashMap;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use crate::engine::{Error, READ_TIMEOUT, Scraper};
use crate::engine_metrics::{Sample, Source};
use crate::metrics_page::KeptConnection;
use crate::request_time::RequestTime;
use crate::schedule::{Outcome, Schedule, Settings, TargetId};
use crate::store::FRESH;

/// A pod to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The namespace, among which reads are shared fairly.
    pub namespace: Arc<str>,
    /// The name of the service that the pod belongs to.
    pub service: Arc<str>,
    /// The pod's UID, by which targets are told apart.
    pub uid: Arc<str>,
    /// The pod's address.
    pub address: IpAddr,
    /// The port, path and names of the metrics.
    pub source: Arc<Source>,
}

/// What a read of a target gave.
#[derive(Debug)]
pub struct Reading {
    /// The target.
    pub target: Arc<Target>,
    /// When the read ended.
    pub at: Timestamp,
    /// The sample, or why there is none.
    pub result: Result<Sample, Error>,
    /// Whether this differs from what was known before: other numbers, the first failure after a
    /// sample, the first sample after a failure, or a last sample that has become too old to
    /// count.
    pub changed: bool,
}

/// A sample, and what is kept for the next read.
pub type ReadResult<C> = Result<(Sample, Option<C>), Error>;

/// A way to read a target once.
pub trait ReadEngine: Clone + Send + 'static {
    /// What is kept of a target between two reads.
    type Connection: Send + 'static;

    /// Reads the target, and returns what is kept for its next read. The caller limits the time.
    fn read(
        &self,
        target: &Target,
        kept: Option<Self::Connection>,
    ) -> impl Future<Output = ReadResult<Self::Connection>> + Send;
}

impl ReadEngine for Scraper {
    type Connection = KeptConnection;

    fn read(
        &self,
        target: &Target,
        kept: Option<KeptConnection>,
    ) -> impl Future<Output = ReadResult<KeptConnection>> + Send {
        self.read(target.address, &target.source, kept)
    }
}

enum Update {
    Upsert(Target),
    Remove(Arc<str>),
    WhenAllRead(oneshot::Sender<()>),
}

/// The set of targets. Changes are taken in their order.
#[derive(Debug, Clone)]
pub struct Targets {
    updates: mpsc::UnboundedSender<Update>,
}

impl Targets {
    /// Adds a target, or changes the one with its UID. One that is equal goes on as it was.
    pub fn upsert(&self, target: Target) {
        // nobody takes it at the end of leadership
        self.updates.send(Update::Upsert(target)).ok();
    }

    /// Takes a target out. No reading of it is reported any more.
    pub fn remove(&self, uid: &str) {
        self.updates.send(Update::Remove(uid.into())).ok();
    }

    /// Waits until every target has been read once, those included that are added meanwhile.
    pub async fn all_read(&self) {
        let (done, wait) = oneshot::channel();
        self.updates.send(Update::WhenAllRead(done)).ok();
        wait.await.ok();
    }
}

/// A target and what is known of it.
struct Known<C> {
    target: Arc<Target>,
    connection: Option<C>,
    /// Only of an engine whose requests are known by their time.
    request_time: Option<Box<RequestTime>>,
    last: LastReading,
}

/// Reads the targets of a [`Targets`].
pub struct EngineReads<R: ReadEngine> {
    reader: R,
    clock: fn() -> Timestamp,
    updates: mpsc::UnboundedReceiver<Update>,
    schedule: Schedule,
    by_uid: HashMap<Arc<str>, TargetId>,
    targets: HashMap<TargetId, Known<R::Connection>>,
    tasks: JoinSet<ReadResult<R::Connection>>,
    reading: HashMap<Id, TargetId>,
    waiting: Vec<oneshot::Sender<()>>,
    began: Instant,
}

impl<R: ReadEngine> EngineReads<R> {
    /// An empty set of targets, and what reads them. Readings get their time from `clock`.
    pub fn new(reader: R, settings: Settings, clock: fn() -> Timestamp) -> (Targets, Self) {
        let (sender, updates) = mpsc::unbounded_channel();
        let reads = Self {
            reader,
            clock,
            updates,
            schedule: Schedule::new(settings),
            by_uid: HashMap::new(),
            targets: HashMap::new(),
            tasks: JoinSet::new(),
            reading: HashMap::new(),
            waiting: Vec::new(),
            began: Instant::now(),
        };
        (Targets { updates: sender }, reads)
    }

    /// Reads until the last [`Targets`] is dropped, and reports each reading.
    pub async fn run(mut self, mut report: impl FnMut(Reading)) {
        loop {
            for id in self.schedule.due(self.began.elapsed()) {
                self.start(id);
            }
            if self.schedule.all_read() {
                self.waiting.drain(..).for_each(|waiting| {
                    waiting.send(()).ok();
                });
            }
            let wake = self.schedule.next_wake().map(|wake| self.began + wake);
            tokio::select! {
                update = self.updates.recv() => {
                    let Some(update) = update else { return };
                    self.update(update);
                    while let Ok(update) = self.updates.try_recv() {
                        self.update(update);
                    }
                }
                Some(ended) = self.tasks.join_next_with_id() => {
                    self.finish(ended, &mut report);
                    while let Some(ended) = self.tasks.try_join_next_with_id() {
                        self.finish(ended, &mut report);
                    }
                }
                () = tokio::time::sleep_until(wake.unwrap_or(self.began)), if wake.is_some() => {}
            }
        }
    }

    fn update(&mut self, update: Update) {
        match update {
            Update::Upsert(target) => self.upsert(target),
            Update::Remove(uid) => self.remove(&uid),
            Update::WhenAllRead(done) => self.waiting.push(done),
        }
    }

    fn upsert(&mut self, target: Target) {
        let known = self.by_uid.get(&target.uid);
        let known = known.and_then(|id| self.targets.get(id));
        if known.is_some_and(|known| *known.target == target) {
            return;
        }
        self.remove(&target.uid);
        let namespace = Arc::clone(&target.namespace);
        let id = self
            .schedule
            .add(namespace, seed(&target.uid), self.began.elapsed());
        self.by_uid.insert(Arc::clone(&target.uid), id);
        let known = Known {
            target: Arc::new(target),
            connection: None,
            request_time: None,
            last: LastReading::default(),
        };
        self.targets.insert(id, known);
    }

    fn remove(&mut self, uid: &str) {
        if let Some(id) = self.by_uid.remove(uid) {
            self.targets.remove(&id);
            self.schedule.remove(id);
        }
    }

    fn start(&mut self, id: TargetId) {
        let Some(known) = self.targets.get_mut(&id) else {
            self.schedule
                .finished(id, Outcome::Failed, self.began.elapsed());
            return;
        };
        let (reader, target) = (self.reader.clone(), Arc::clone(&known.target));
        let kept = known.connection.take();
        let task = self.tasks.spawn(async move {
            let read = tokio::time::timeout(READ_TIMEOUT, reader.read(&target, kept));
            read.await.unwrap_or(Err(Error::Slow))
        });
        self.reading.insert(task.id(), id);
    }

    fn finish(
        &mut self,
        ended: Result<(Id, ReadResult<R::Connection>), JoinError>,
        report: &mut impl FnMut(Reading),
    ) {
        let (task, read) = match ended {
            Ok(ended) => ended,
            Err(error) => (error.id(), Err(Error::Task(error.to_string()))),
        };
        let Some(id) = self.reading.remove(&task) else {
            return;
        };
        let elapsed = self.began.elapsed();
        let outcome = match &read {
            Ok(_) => Outcome::Answered,
            Err(_) => Outcome::Failed,
        };
        self.schedule.finished(id, outcome, elapsed);
        let Some(known) = self.targets.get_mut(&id) else {
            return;
        };
        let result = read.map(|(mut sample, kept)| {
            known.connection = kept;
            if let Some(micros) = sample.request_micros {
                let time = known.request_time.get_or_insert_default();
                time.add(Instant::now(), micros, sample.done.requests);
                sample.busy = sample.busy.saturating_add(time.in_progress());
            }
            sample
        });
        let changed = known.last.update(result.as_ref().ok().cloned(), elapsed);
        report(Reading {
            target: Arc::clone(&known.target),
            at: (self.clock)(),
            result,
            changed,
        });
    }
}

/// A number by which a UID gets its phase: the same in each process.
fn seed(uid: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    hasher.finish()
}

/// What is known of a target, to tell whether a reading changes it.
#[derive(Debug, Default)]
struct LastReading {
    was_read: bool,
    failed: bool,
    sample: Option<Sample>,
    sample_at: Duration,
}

impl LastReading {
    /// Takes a read's end. Returns whether anything is known differently.
    fn update(&mut self, sample: Option<Sample>, now: Duration) -> bool {
        let is_first = !std::mem::replace(&mut self.was_read, true);
        let failed_before = std::mem::replace(&mut self.failed, sample.is_none());
        let is_stale = now.saturating_sub(self.sample_at) >= FRESH.unsigned_abs();
        match sample {
            Some(_) => {
                self.sample_at = now;
                let is_other = self.sample != sample;
                self.sample = sample;
                is_first || failed_before || is_stale || is_other
            }
            None => {
                let expired = is_stale && self.sample.take().is_some();
                is_first || !failed_before || expired
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::rc::Rc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::engine_metrics::EngineMetrics;

    /// A second of the tests' own clock.
    fn clock() -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn source(port: u16) -> Arc<Source> {
        Arc::new(Source::new(
            port,
            "/metrics".into(),
            EngineMetrics::default(),
        ))
    }

    fn target(namespace: &str, uid: &str) -> Target {
        Target {
            namespace: namespace.into(),
            service: "chat".into(),
            uid: uid.into(),
            address: "127.0.0.1".parse().unwrap(),
            source: source(8_000),
        }
    }

    /// Engines of which those in the namespace `silent` take connections and never answer, and
    /// those in `broken` make the reader panic. All others have as many requests as were read.
    #[derive(Clone, Default)]
    struct FakeEngines {
        reads: Arc<AtomicU64>,
    }

    impl ReadEngine for FakeEngines {
        type Connection = ();

        async fn read(&self, target: &Target, _: Option<()>) -> ReadResult<()> {
            match &*target.namespace {
                "silent" => std::future::pending().await,
                "broken" => panic!("a fault of the reader"),
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
            let busy = self.reads.fetch_add(1, Ordering::SeqCst);
            let done = Default::default();
            Ok((
                Sample {
                    busy,
                    request_micros: None,
                    counting: Default::default(),
                    done,
                    has_counters: true,
                    measures: None,
                },
                None,
            ))
        }
    }

    type Log = Rc<RefCell<BTreeMap<Arc<str>, Vec<(Duration, Result<u64, String>, bool)>>>>;

    /// Runs for this time, and logs all readings by UID.
    async fn run(reads: EngineReads<FakeEngines>, log: &Log, time: Duration) {
        let began = Instant::now();
        let run = reads.run(|reading| {
            let result = reading.result.map(|sample| sample.busy);
            let result = result.map_err(|error| error.to_string());
            let entry = (began.elapsed(), result, reading.changed);
            let uid = Arc::clone(&reading.target.uid);
            log.borrow_mut().entry(uid).or_default().push(entry);
        });
        tokio::time::timeout(time, run).await.ok();
    }

    #[tokio::test(start_paused = true)]
    async fn silent_replicas_of_one_tenant_make_no_other_tenants_readings_stale() {
        let (targets, reads) = EngineReads::new(FakeEngines::default(), Settings::default(), clock);
        for index in 0..400 {
            targets.upsert(target("silent", &format!("fake-{index}")));
        }
        targets.upsert(target("team", "healthy"));
        let log = Log::default();
        run(reads, &log, Duration::from_secs(120)).await;
        let log = log.borrow();
        let healthy: Vec<Duration> = log["healthy"].iter().map(|(at, ..)| *at).collect();
        assert!(healthy[0] < Duration::from_millis(50), "{healthy:?}");
        let gaps = healthy.windows(2).map(|pair| pair[1] - pair[0]);
        let longest = gaps.max().unwrap();
        assert!(longest <= Duration::from_millis(1_550), "{longest:?}");
        assert!(healthy.len() >= 119, "{}", healthy.len());
        for index in 0..400 {
            let silent = &log[&*format!("fake-{index}")];
            assert!(
                silent.len() >= 4,
                "fake-{index} was read {} times",
                silent.len()
            );
            let error = Err("no answer within 2 s".to_owned());
            assert!(silent.iter().all(|(_, result, _)| *result == error));
            let changes = silent.iter().filter(|(.., changed)| *changed).count();
            assert_eq!(changes, 1, "only the first failure is news");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_removed_target_reports_nothing_and_a_new_pod_at_its_address_is_read_at_once() {
        let (targets, reads) = EngineReads::new(FakeEngines::default(), Settings::default(), clock);
        targets.upsert(target("team", "old"));
        let change = async {
            // a read is in flight
            tokio::time::sleep(Duration::from_millis(2)).await;
            targets.remove("old");
            targets.upsert(target("team", "new"));
            tokio::time::sleep(Duration::from_millis(1)).await;
            targets.upsert(target("team", "new"));
            targets.all_read().await;
            Instant::now()
        };
        let began = Instant::now();
        let log = Log::default();
        let (_, all_read) = tokio::join!(run(reads, &log, Duration::from_secs(1)), change);
        let log = log.borrow();
        assert_eq!(log.keys().map(|uid| &**uid).collect::<Vec<_>>(), ["new"]);
        let first = log["new"][0].0;
        assert_eq!(all_read - began, first);
        assert!(first <= Duration::from_millis(10), "{first:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fault_of_the_reader_is_a_failed_read() {
        let (targets, reads) = EngineReads::new(FakeEngines::default(), Settings::default(), clock);
        targets.upsert(target("broken", "a"));
        let log = Log::default();
        run(reads, &log, Duration::from_secs(9)).await;
        let log = log.borrow();
        let errors: Vec<_> = log["a"].iter().map(|(_, result, _)| result).collect();
        assert_eq!(errors.len(), 4, "at 0, 1, 3 and 7 s or a little earlier");
        assert!(
            errors[0]
                .as_ref()
                .is_err_and(|error| error.contains("panicked"))
        );
    }

    #[test]
    fn only_what_is_known_differently_is_a_change() {
        let second = Duration::from_secs;
        let sample = |busy, requests| {
            let done = bursar_core::ledger::EngineCounters {
                requests,
                ..Default::default()
            };
            Some(Sample {
                busy,
                request_micros: None,
                counting: Default::default(),
                done,
                has_counters: true,
                measures: None,
            })
        };
        let mut last = LastReading::default();
        for (at, sample, changed) in [
            (0, sample(0, 5), true),
            (1, sample(0, 5), false),
            (2, sample(1, 5), true),
            (3, sample(1, 5), false),
            (4, sample(1, 6), true),
            (5, None, true),
            (8, None, false),
            (14, None, true),
            (22, None, false),
            (30, sample(1, 6), true),
            (31, None, true),
            (32, sample(1, 6), true),
            (33, sample(1, 6), false),
            (43, sample(1, 6), true),
        ] {
            assert_eq!(last.update(sample, second(at)), changed, "at {at} s");
        }
    }
}
