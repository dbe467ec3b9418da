//! Reads signals that are measured outside the replicas, each at an interval of its own. What is read
//! when is decided by [`Schedule`]; this is its clock and its tasks.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use crate::schedule::{Limits, Outcome, Schedule, Settings, TargetId};

/// No read takes longer, whatever its reader does.
const POLL_TIMEOUT: Duration = Duration::from_secs(15);

/// A read counts as in flight for at least so long: with [`POLL_LIMITS`] that bounds how many are made a
/// second, 240 for a namespace and 1,920 in all, however fast servers answer.
const SHORTEST_READ: Duration = Duration::from_millis(200);

/// Reads in flight: few servers are asked by many services, and none of a tenant's takes those of
/// another.
pub const POLL_LIMITS: Settings = Settings {
    prompt: Limits {
        total: 256,
        shared: 128,
        per_namespace: 32,
    },
    doubtful: Limits {
        total: 128,
        shared: 64,
        per_namespace: 16,
    },
};

/// Names a signal of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SignalId {
    /// The service's namespace, among which reads are shared fairly.
    pub namespace: Arc<str>,
    /// The service's name.
    pub service: Arc<str>,
    /// The signal's name.
    pub signal: Arc<str>,
}

/// A way to read a signal once.
pub trait ReadSignal: Clone + Send + 'static {
    /// What is read.
    type Source: Clone + PartialEq + Send + Sync + 'static;

    /// Reads the value, in thousandths, or says why there is none.
    fn read(
        &self,
        id: &SignalId,
        source: &Self::Source,
    ) -> impl Future<Output = Result<u64, String>> + Send;
}

/// What a read of a signal gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollResult<S> {
    /// The signal.
    pub id: SignalId,
    /// What was read: the signal may have been edited meanwhile.
    pub source: Arc<S>,
    /// Its value in thousandths, or why there is none.
    pub result: Result<u64, String>,
}

enum Update<S> {
    Upsert(SignalId, S, Duration),
    Remove(SignalId),
    WhenAllRead(oneshot::Sender<()>),
}

/// The set of signals. Changes are taken in their order.
pub struct PolledSignals<S> {
    updates: mpsc::UnboundedSender<Update<S>>,
}

impl<S> PolledSignals<S> {
    /// Reads this source at this interval under this name, instead of what it read before. One that is
    /// equal goes on as it was.
    pub fn upsert(&self, id: SignalId, source: S, interval: Duration) {
        // nobody takes it at the end of leadership
        self.updates.send(Update::Upsert(id, source, interval)).ok();
    }

    /// Takes a signal out. No read of it is reported any more.
    pub fn remove(&self, id: SignalId) {
        self.updates.send(Update::Remove(id)).ok();
    }

    /// Waits until every signal has been read once.
    pub async fn all_read(&self) {
        let (done, wait) = oneshot::channel();
        self.updates.send(Update::WhenAllRead(done)).ok();
        wait.await.ok();
    }
}

/// A signal and what is known of it.
struct Known<S> {
    id: SignalId,
    source: Arc<S>,
    interval: Duration,
}

/// Reads the signals of a [`PolledSignals`].
pub struct Polls<R: ReadSignal> {
    reader: R,
    updates: mpsc::UnboundedReceiver<Update<R::Source>>,
    schedule: Schedule,
    targets: HashMap<SignalId, TargetId>,
    known: HashMap<TargetId, Known<R::Source>>,
    tasks: JoinSet<Result<u64, String>>,
    reading: HashMap<Id, TargetId>,
    waiting: Vec<oneshot::Sender<()>>,
    began: Instant,
}

impl<R: ReadSignal> Polls<R> {
    /// An empty set of signals, and what reads them.
    pub fn new(reader: R, settings: Settings) -> (PolledSignals<R::Source>, Self) {
        let (sender, updates) = mpsc::unbounded_channel();
        let polls = Self {
            reader,
            updates,
            schedule: Schedule::new(settings),
            targets: HashMap::new(),
            known: HashMap::new(),
            tasks: JoinSet::new(),
            reading: HashMap::new(),
            waiting: Vec::new(),
            began: Instant::now(),
        };
        (PolledSignals { updates: sender }, polls)
    }

    /// Reads until the [`PolledSignals`] are dropped, and reports each read.
    pub async fn run(mut self, mut report: impl FnMut(PollResult<R::Source>)) {
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
                Some(ended) = self.tasks.join_next_with_id() => self.finish(ended, &mut report),
                () = tokio::time::sleep_until(wake.unwrap_or(self.began)), if wake.is_some() => {}
            }
        }
    }

    fn update(&mut self, update: Update<R::Source>) {
        match update {
            Update::Upsert(id, source, interval) => self.upsert(id, source, interval),
            Update::Remove(id) => self.remove(&id),
            Update::WhenAllRead(done) => self.waiting.push(done),
        }
    }

    fn upsert(&mut self, id: SignalId, source: R::Source, interval: Duration) {
        let target = self.targets.get(&id);
        let is_same = target
            .and_then(|target| self.known.get(target))
            .is_some_and(|known| *known.source == source && known.interval == interval);
        if is_same {
            return;
        }
        self.remove(&id);
        let namespace = Arc::clone(&id.namespace);
        let elapsed = self.began.elapsed();
        let target = self
            .schedule
            .add_every(namespace, seed(&id), interval, elapsed);
        self.targets.insert(id.clone(), target);
        let known = Known {
            id,
            source: Arc::new(source),
            interval,
        };
        self.known.insert(target, known);
    }

    fn remove(&mut self, id: &SignalId) {
        if let Some(target) = self.targets.remove(id) {
            self.known.remove(&target);
            self.schedule.remove(target);
        }
    }

    fn start(&mut self, target: TargetId) {
        let Some(known) = self.known.get(&target) else {
            let elapsed = self.began.elapsed();
            self.schedule.finished(target, Outcome::Failed, elapsed);
            return;
        };
        let (reader, id, source) = (self.reader.clone(), known.id.clone(), known.source.clone());
        let task = self.tasks.spawn(async move {
            let read = reader.read(&id, &source);
            let read = tokio::time::timeout(POLL_TIMEOUT, read);
            let (read, ()) = tokio::join!(read, tokio::time::sleep(SHORTEST_READ));
            read.unwrap_or_else(|_| Err(format!("not read within {} s", POLL_TIMEOUT.as_secs())))
        });
        self.reading.insert(task.id(), target);
    }

    fn finish(
        &mut self,
        ended: Result<(Id, Result<u64, String>), JoinError>,
        report: &mut impl FnMut(PollResult<R::Source>),
    ) {
        let (task, result) = match ended {
            Ok(ended) => ended,
            Err(error) => (error.id(), Err(format!("the reader failed: {error}"))),
        };
        let Some(target) = self.reading.remove(&task) else {
            return;
        };
        let outcome = match &result {
            Ok(_) => Outcome::Answered,
            Err(_) => Outcome::Failed,
        };
        let elapsed = self.began.elapsed();
        self.schedule.finished(target, outcome, elapsed);
        let Some(known) = self.known.get(&target) else {
            return;
        };
        report(PollResult {
            id: known.id.clone(),
            source: Arc::clone(&known.source),
            result,
        });
    }
}

/// A number by which a signal gets its phase: the same in each process.
fn seed(id: &SignalId) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    /// Sources that are `silent` never answer, those that are `broken` make the reader panic, and all
    /// others are the value.
    #[derive(Clone)]
    struct Values;

    impl ReadSignal for Values {
        type Source = Arc<str>;

        async fn read(&self, _: &SignalId, source: &Arc<str>) -> Result<u64, String> {
            match &**source {
                "silent" => std::future::pending().await,
                "broken" => panic!("a fault of the reader"),
                value => value.parse().map_err(|_| format!("{value} is no number")),
            }
        }
    }

    fn id(namespace: &str, signal: &str) -> SignalId {
        SignalId {
            namespace: namespace.into(),
            service: "chat".into(),
            signal: signal.into(),
        }
    }

    type Log = Rc<RefCell<Vec<(u64, String, Result<u64, String>)>>>;

    /// Runs for so many seconds, and logs what is read, with the second.
    async fn run(polls: Polls<Values>, log: &Log, seconds: u64) {
        let began = Instant::now();
        let run = polls.run(|read| {
            let signal = read.id.signal.to_string();
            let second = began.elapsed().as_secs();
            let entry = (second, signal, read.result);
            log.borrow_mut().push(entry);
        });
        tokio::time::timeout(Duration::from_secs(seconds), run)
            .await
            .ok();
    }

    #[tokio::test(start_paused = true)]
    async fn each_signal_is_read_at_once_and_then_at_its_own_interval() {
        let (signals, polls) = Polls::new(Values, POLL_LIMITS);
        signals.upsert(id("team", "fast"), "5".into(), Duration::from_secs(2));
        signals.upsert(id("team", "slow"), "7".into(), Duration::from_secs(60));
        let log = Log::default();
        run(polls, &log, 121).await;
        let reads = |signal: &str| {
            let log = log.borrow();
            let reads = log.iter().filter(|(_, name, ..)| name == signal);
            reads.map(|(second, ..)| *second).collect::<Vec<_>>()
        };
        assert_eq!(reads("fast")[0], 0);
        assert!(
            (59..=62).contains(&reads("fast").len()),
            "{:?}",
            reads("fast")
        );
        assert_eq!(reads("slow")[0], 0);
        assert!(
            (2..=3).contains(&reads("slow").len()),
            "{:?}",
            reads("slow")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_fails_is_read_no_more_often_than_one_that_answers() {
        let (signals, polls) = Polls::new(Values, POLL_LIMITS);
        signals.upsert(id("team", "wrong"), "many".into(), Duration::from_secs(60));
        signals.upsert(
            id("team", "broken"),
            "broken".into(),
            Duration::from_secs(60),
        );
        let log = Log::default();
        run(polls, &log, 181).await;
        for signal in ["wrong", "broken"] {
            let log = log.borrow();
            let reads = log.iter().filter(|(_, name, ..)| name == signal).count();
            assert!((3..=5).contains(&reads), "{signal} was read {reads} times");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silent_servers_of_one_tenant_delay_no_signal_of_another() {
        let (signals, polls) = Polls::new(Values, POLL_LIMITS);
        for index in 0..500 {
            let id = id("tenant", &format!("silent-{index}"));
            signals.upsert(id, "silent".into(), Duration::from_secs(1));
        }
        signals.upsert(id("team", "jobs"), "5".into(), Duration::from_secs(1));
        let log = Log::default();
        run(polls, &log, 60).await;
        let log = log.borrow();
        let jobs: Vec<u64> = log
            .iter()
            .filter(|(_, name, ..)| name == "jobs")
            .map(|(second, ..)| *second)
            .collect();
        assert!(jobs.len() >= 58, "{jobs:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn signals_of_one_namespace_are_read_at_a_bounded_rate() {
        let (signals, polls) = Polls::new(Values, POLL_LIMITS);
        for index in 0..2_000 {
            let id = id("tenant", &format!("jobs-{index}"));
            signals.upsert(id, "5".into(), Duration::from_secs(1));
        }
        let log = Log::default();
        run(polls, &log, 30).await;
        let reads = log.borrow().len();
        assert!((2_000..=30 * 245).contains(&reads), "{reads} in 30 s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_was_edited_is_read_at_once_and_the_former_is_not_reported() {
        let (signals, polls) = Polls::new(Values, POLL_LIMITS);
        signals.upsert(id("team", "jobs"), "silent".into(), Duration::from_secs(60));
        let edit = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            signals.upsert(id("team", "jobs"), "5".into(), Duration::from_secs(60));
            signals.all_read().await;
            signals.remove(id("team", "jobs"));
        };
        let log = Log::default();
        tokio::join!(edit, run(polls, &log, 40));
        let expected = (3, "jobs".to_owned(), Ok(5));
        assert_eq!(*log.borrow(), [expected]);
    }
}
