//! Why the cluster refuses to make pods of Jobs: a quota, a webhook, PodSecurity, a missing class or account.
//!
//! The Job controller writes no condition for that, unlike those of ReplicaSets: it tries again, and says the
//! API server's words in an Event of the Job. So Events are read of those Jobs that run and have fewer pods
//! than they should, of one Job at a time, by its UID. All other Events are left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use bursar_api::lenient::bounded_text;
use bursar_core::model::event::PodCreationReport;
use bursar_core::model::{Key, Name};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::events::v1::Event;
use kube::Client;
use kube::api::{Api, ListParams};
use tokio::sync::Notify;

use crate::api_calls::{ApiError, with_timeout};
use crate::cache::{CacheChange, CacheChanges, CachedKind};
use crate::lock::lock;
use crate::training::job::{JobRun, incomplete_run};

/// Events of a Job are read so long after it was seen without some of its pods, which may just be on their way,
/// ...
const FIRST_WAIT: SignedDuration = SignedDuration::from_secs(3);
/// ... and again after waits that double up to this, for as long as pods are missing.
const LONGEST_WAIT: SignedDuration = SignedDuration::from_secs(60);
/// So many Events of a Job are looked at. Who may write Events can make each of them a megabyte long, and they
/// are held in memory while they are read.
const MAX_EVENTS: u32 = 8;
/// Lists of Events at a time. The API server answers each by a look at all Events of the namespace,
/// so a namespace has one of them, ...
const MAX_READS: usize = 8;
/// ... with this pause before the next.
const PAUSE: Duration = Duration::from_millis(100);
/// The reason of the Job controller's Events about pods that it could not make.
const FAILED_CREATE: &str = "FailedCreate";
/// A Job's start is written after the first try to make its pods.
const START_SLACK: SignedDuration = SignedDuration::from_secs(10);

/// A Job that runs and has fewer pods than it should.
#[derive(Debug, Clone)]
struct IncompleteJob {
    run: JobRun,
    next_read: Timestamp,
    wait: SignedDuration,
    report: Option<PodCreationReport>,
}

/// The reads of one namespace.
#[derive(Debug, Default)]
struct NamespaceReads {
    /// When the Events of each Job are read next, but for the one whose Events are being read.
    next: BTreeSet<(Timestamp, Name)>,
    is_reading: bool,
    /// Which of all reads its last one was.
    last: u64,
}

/// What is known of all Jobs, and whose Events are read when.
#[derive(Debug, Default)]
struct State {
    jobs: BTreeMap<Key, IncompleteJob>,
    namespaces: BTreeMap<Name, NamespaceReads>,
    /// How many reads have begun.
    begun: u64,
}

impl State {
    fn schedule(&mut self, key: &Key, at: Timestamp) {
        let reads = self.namespaces.entry(key.namespace.clone()).or_default();
        reads.next.insert((at, key.name.clone()));
    }

    fn remove(&mut self, key: &Key) {
        if let (Some(job), Some(reads)) = (
            self.jobs.remove(key),
            self.namespaces.get_mut(&key.namespace),
        ) {
            reads.next.remove(&(job.next_read, key.name.clone()));
        }
        self.forget_if_idle(&key.namespace);
    }

    fn forget_if_idle(&mut self, namespace: &Name) {
        let is_idle = |reads: &NamespaceReads| reads.next.is_empty() && !reads.is_reading;
        if self.namespaces.get(namespace).is_some_and(is_idle) {
            self.namespaces.remove(namespace);
        }
    }
}

/// The Jobs that run and have fewer pods than they should, and what was read of them.
#[derive(Debug, Default)]
pub(crate) struct PodCreationFailures {
    state: Mutex<State>,
    added: Notify,
}

impl PodCreationFailures {
    /// Takes a Job as it is now; `None` if it is gone.
    pub(crate) fn observe(&self, key: &Key, job: Option<&Job>, now: Timestamp) {
        let mut state = lock(&self.state);
        let Some(run) = job.and_then(incomplete_run) else {
            state.remove(key);
            return;
        };
        if state.jobs.get(key).is_some_and(|known| known.run == run) {
            return;
        }
        state.remove(key);
        let job = IncompleteJob {
            run,
            next_read: now.saturating_add(FIRST_WAIT).unwrap_or(now),
            wait: FIRST_WAIT,
            report: None,
        };
        state.schedule(key, job.next_read);
        state.jobs.insert(key.clone(), job);
        drop(state);
        self.added.notify_one();
    }

    /// Why the cluster refuses pods of a Job that has too few, as far as that was read.
    pub(crate) fn report(&self, key: &Key) -> Option<PodCreationReport> {
        lock(&self.state).jobs.get(key)?.report.clone()
    }

    /// When Events are to be read next, of namespaces of which none are being read.
    fn next_read(&self) -> Option<Timestamp> {
        let state = lock(&self.state);
        let idle = state.namespaces.values().filter(|reads| !reads.is_reading);
        idle.filter_map(|reads| reads.next.first())
            .map(|(at, _)| *at)
            .min()
    }

    /// Takes the Job whose Events are read now: of the namespace whose last read was the longest ago.
    fn take_due(&self, now: Timestamp) -> Option<(Key, JobRun)> {
        let mut state = lock(&self.state);
        let is_due = |reads: &NamespaceReads| {
            !reads.is_reading && reads.next.first().is_some_and(|(at, _)| *at <= now)
        };
        let due = state.namespaces.iter().filter(|(_, reads)| is_due(reads));
        let namespace = due.min_by_key(|(_, reads)| reads.last)?.0.clone();
        state.begun += 1;
        let begun = state.begun;
        let reads = state.namespaces.get_mut(&namespace)?;
        (reads.is_reading, reads.last) = (true, begun);
        let (_, name) = reads.next.pop_first()?;
        let key = Key { namespace, name };
        let run = state.jobs.get(&key)?.run.clone();
        Some((key, run))
    }

    /// Takes what was read of a Job that was taken. Returns whether it is new.
    fn note(
        &self,
        key: &Key,
        run: &JobRun,
        report: Option<PodCreationReport>,
        now: Timestamp,
    ) -> bool {
        let mut state = lock(&self.state);
        let Some(job) = state.jobs.get_mut(key).filter(|job| job.run == *run) else {
            return false;
        };
        job.wait = (job.wait * 2).min(LONGEST_WAIT);
        job.next_read = now.saturating_add(job.wait).unwrap_or(now);
        let is_new = report.is_some() && job.report != report;
        job.report = report.or(job.report.take());
        let next = job.next_read;
        state.schedule(key, next);
        is_new
    }

    /// The next Job of the namespace may be read.
    fn end_turn(&self, namespace: &Name) {
        let mut state = lock(&self.state);
        if let Some(reads) = state.namespaces.get_mut(namespace) {
            reads.is_reading = false;
        }
        state.forget_if_idle(namespace);
    }

    /// Reads the Events of a Job that was taken. Returns whether something new was read.
    async fn read_taken(
        &self,
        client: &Client,
        (key, run): (&Key, &JobRun),
        clock: impl Fn() -> Timestamp,
    ) -> bool {
        let read = read(client, key, run).await;
        if let Err(error) = &read {
            let (namespace, name) = (&*key.namespace, &*key.name);
            tracing::warn!(namespace, name, %error, "why pods are missing cannot be read");
        }
        // a read may take longer than the wait after it
        self.note(key, run, read.ok().flatten(), clock())
    }

    /// Reads the Events of all Jobs for which that is due, one after the other. Returns what the
    /// model is to be told.
    #[cfg(test)]
    pub(crate) async fn read_due(&self, client: &Client, now: Timestamp) -> Vec<CacheChange> {
        let mut told = Vec::new();
        while let Some((key, run)) = self.take_due(now) {
            let is_new = self.read_taken(client, (&key, &run), || now).await;
            self.end_turn(&key.namespace);
            told.extend(is_new.then_some(CacheChange::Object(CachedKind::Job, key)));
        }
        told
    }
}

/// Reads Events whenever that is due, and tells at once of which Jobs something new was read.
/// Namespaces take turns: one with many Jobs, or whose reads are slow, delays no other.
pub(crate) async fn run(
    refusals: &PodCreationFailures,
    client: &Client,
    changes: CacheChanges,
    clock: impl Fn() -> Timestamp,
) {
    const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
    let turn = async |(key, run): (Key, JobRun)| {
        let is_new = refusals.read_taken(client, (&key, &run), &clock).await;
        let namespace = key.namespace.clone();
        let change = CacheChange::Object(CachedKind::Job, key);
        // nobody decides at the end of leadership
        let is_over = is_new && changes.send(change).is_err();
        tokio::time::sleep(PAUSE).await;
        refusals.end_turn(&namespace);
        is_over
    };
    let mut turns = FuturesUnordered::new();
    loop {
        while turns.len() < MAX_READS
            && let Some(job) = refusals.take_due(clock())
        {
            turns.push(turn(job));
        }
        let next = refusals.next_read().filter(|_| turns.len() < MAX_READS);
        let wait = next.map(|at| Duration::try_from(at.duration_since(clock())));
        let wait = wait.map_or(LONGEST_SLEEP, Result::unwrap_or_default);
        tokio::select! {
            Some(is_over) = turns.next() => if is_over {
                return;
            },
            () = tokio::time::sleep(wait) => {}
            () = refusals.added.notified() => {}
        }
    }
}

async fn read(
    client: &Client,
    key: &Key,
    run: &JobRun,
) -> Result<Option<PodCreationReport>, ApiError> {
    let events: Api<Event> = Api::namespaced(client.clone(), &key.namespace);
    let found = with_timeout("list events", events.list(&list_params(run))).await?;
    Ok(report_of(&found.items, run.started))
}

/// Which Events are asked for, and how many of them at most.
fn list_params(run: &JobRun) -> ListParams {
    let fields = format!("regarding.uid={},reason={FAILED_CREATE}", run.uid);
    ListParams::default().fields(&fields).limit(MAX_EVENTS)
}

/// What Events say of pods that could not be made since the Job began to run.
fn report_of(events: &[Event], started: Timestamp) -> Option<PodCreationReport> {
    let since = started.saturating_sub(START_SLACK).unwrap_or(started);
    let seen = events
        .iter()
        .filter_map(|event| Some((first_seen(event)?, last_seen(event)?, event)));
    let recent: Vec<_> = seen.filter(|(_, last, _)| *last >= since).collect();
    let (_, last, newest) = recent.iter().max_by_key(|(_, last, _)| *last)?;
    let first = recent.iter().map(|(first, _, _)| *first).min()?;
    Some(PodCreationReport {
        since: first.max(started),
        last: (*last).max(started),
        why: words(newest.note.as_deref().unwrap_or_default()).into(),
    })
}

fn first_seen(event: &Event) -> Option<Timestamp> {
    let first = event.deprecated_first_timestamp.as_ref().map(|time| time.0);
    first.or_else(|| event.event_time.as_ref().map(|time| time.0))
}

fn last_seen(event: &Event) -> Option<Timestamp> {
    let series = event
        .series
        .as_ref()
        .map(|series| series.last_observed_time.0);
    let last = event.deprecated_last_timestamp.as_ref().map(|time| time.0);
    series.or(last).or_else(|| first_seen(event))
}

/// The API server's words in a note of the Job controller.
fn words(note: &str) -> String {
    let note = note
        .strip_prefix("(combined from similar events): ")
        .unwrap_or(note);
    bounded_text(note.strip_prefix("Error creating: ").unwrap_or(note))
}

#[cfg(test)]
mod tests;
