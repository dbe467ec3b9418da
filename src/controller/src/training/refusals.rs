//! Why the cluster refuses to make pods of Jobs: a quota, a webhook, PodSecurity, a missing class or account.
//!
//! The Job controller writes no condition for that, unlike those of ReplicaSets: it tries again, and says the
//! API server's words in an Event of the Job. So Events are read of those Jobs that run and have fewer pods
//! than they should, of one Job at a time, by its UID. All other Events are left alone.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use bursar_api::lenient::bounded_text;
use bursar_core::model::Key;
use bursar_core::model::event::RefusalReport;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::events::v1::Event;
use kube::Client;
use kube::api::{Api, ListParams};
use tokio::sync::Notify;

use crate::api_calls::{ApiError, with_timeout};
use crate::cache::{CacheChange, CacheChanges, CachedKind};
use crate::context::Context;
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
    report: Option<RefusalReport>,
}

/// The Jobs that run and have fewer pods than they should, and what was read of them.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    jobs: Mutex<BTreeMap<Key, IncompleteJob>>,
    added: Notify,
}

impl Refusals {
    /// Takes a Job as it is now; `None` if it is gone.
    pub(crate) fn observe(&self, key: &Key, job: Option<&Job>, now: Timestamp) {
        let mut jobs = lock(&self.jobs);
        let Some(run) = job.and_then(incomplete_run) else {
            jobs.remove(key);
            return;
        };
        if jobs.get(key).is_some_and(|known| known.run == run) {
            return;
        }
        let job = IncompleteJob {
            run,
            next_read: now.saturating_add(FIRST_WAIT).unwrap_or(now),
            wait: FIRST_WAIT,
            report: None,
        };
        jobs.insert(key.clone(), job);
        drop(jobs);
        self.added.notify_one();
    }

    /// Why the cluster refuses pods of a Job that has too few, as far as that was read.
    pub(crate) fn report(&self, key: &Key) -> Option<RefusalReport> {
        lock(&self.jobs).get(key)?.report.clone()
    }

    /// When Events are to be read next.
    fn next_read(&self) -> Option<Timestamp> {
        lock(&self.jobs).values().map(|job| job.next_read).min()
    }

    /// Reads the Events of all Jobs for which that is due. Returns those of which something new was read.
    pub(crate) async fn read_due(&self, client: &Client, now: Timestamp) -> Vec<Key> {
        let due: Vec<(Key, JobRun)> = lock(&self.jobs)
            .iter()
            .filter(|(_, job)| job.next_read <= now)
            .map(|(key, job)| (key.clone(), job.run.clone()))
            .collect();
        let mut changed = Vec::new();
        for (key, run) in due {
            let read = read(client, &key, &run).await;
            if let Err(error) = &read {
                let (namespace, name) = (&*key.namespace, &*key.name);
                tracing::warn!(namespace, name, %error, "why pods are missing cannot be read");
            }
            if self.note(&key, &run, read.ok().flatten(), now) {
                changed.push(key);
            }
        }
        changed
    }

    /// Takes what was read. Returns whether it is new.
    fn note(&self, key: &Key, run: &JobRun, report: Option<RefusalReport>, now: Timestamp) -> bool {
        let mut jobs = lock(&self.jobs);
        let Some(job) = jobs.get_mut(key).filter(|job| job.run == *run) else {
            return false;
        };
        job.wait = (job.wait * 2).min(LONGEST_WAIT);
        job.next_read = now.saturating_add(job.wait).unwrap_or(now);
        let is_new = report.is_some() && job.report != report;
        job.report = report.or(job.report.take());
        is_new
    }
}

/// Reads Events whenever that is due.
pub(crate) async fn run(context: &Context, changes: CacheChanges) {
    const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
    let refusals = &context.refusals;
    loop {
        for key in refusals.read_due(&context.client, Timestamp::now()).await {
            if changes
                .send(CacheChange::Object(CachedKind::Job, key))
                .is_err()
            {
                return;
            }
        }
        let next = refusals.next_read();
        let wait = next.map(|at| Duration::try_from(at.duration_since(Timestamp::now())));
        let wait = wait.map_or(LONGEST_SLEEP, Result::unwrap_or_default);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = refusals.added.notified() => {}
        }
    }
}

async fn read(client: &Client, key: &Key, run: &JobRun) -> Result<Option<RefusalReport>, ApiError> {
    let events: Api<Event> = Api::namespaced(client.clone(), &key.namespace);
    let fields = format!("regarding.uid={},reason={FAILED_CREATE}", run.uid);
    let params = ListParams::default().fields(&fields).limit(MAX_EVENTS);
    let found = with_timeout("list events", events.list(&params)).await?;
    Ok(report_of(&found.items, run.started))
}

/// What Events say of pods that could not be made since the Job began to run.
fn report_of(events: &[Event], started: Timestamp) -> Option<RefusalReport> {
    let since = started.saturating_sub(START_SLACK).unwrap_or(started);
    let seen = events
        .iter()
        .filter_map(|event| Some((first_seen(event)?, last_seen(event)?, event)));
    let recent: Vec<_> = seen.filter(|(_, last, _)| *last >= since).collect();
    let (_, last, newest) = recent.iter().max_by_key(|(_, last, _)| *last)?;
    let first = recent.iter().map(|(first, _, _)| *first).min()?;
    Some(RefusalReport {
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
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).unwrap()
    }

    fn event(note: &str, times: Value) -> Event {
        let mut event = json!({"metadata": {}, "note": note, "eventTime": null});
        event
            .as_object_mut()
            .unwrap()
            .extend(times.as_object().unwrap().clone());
        serde_json::from_value(event).unwrap()
    }

    fn core(note: &str, first: i64, last: i64) -> Event {
        let (first, last) = (at(first).to_string(), at(last).to_string());
        event(
            note,
            json!({"deprecatedFirstTimestamp": first, "deprecatedLastTimestamp": last}),
        )
    }

    #[test]
    fn the_newest_event_of_this_run_has_the_word() {
        let events = [
            core("Error creating: old", 0, 40),
            core("Error creating: first", 101, 101),
            core(
                "(combined from similar events): Error creating: pods \"a\" is forbidden",
                103,
                130,
            ),
            core("Error creating: second", 107, 107),
        ];
        let report = report_of(&events, at(100)).unwrap();
        assert_eq!((report.since, report.last), (at(101), at(130)));
        assert_eq!(&*report.why, "pods \"a\" is forbidden");
        assert_eq!(report_of(&events[..1], at(100)), None, "of a run before");
        // the first try is made before the start is written
        let report = report_of(&events[1..2], at(102)).unwrap();
        assert_eq!((report.since, report.last), (at(102), at(102)));
    }

    #[test]
    fn events_of_the_new_form_are_read_as_well() {
        let micro = |second| format!("{}", at(second).strftime("%Y-%m-%dT%H:%M:%S.000000Z"));
        let series = json!({"count": 3, "lastObservedTime": micro(120)});
        let event = event("denied", json!({"eventTime": micro(101), "series": series}));
        let report = report_of(&[event], at(100)).unwrap();
        assert_eq!((report.since, report.last), (at(101), at(120)));
    }

    fn job(suspend: bool, status: Value) -> Job {
        let spec = json!({"suspend": suspend, "completions": 4, "template": {}});
        serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": spec, "status": status}))
            .unwrap()
    }

    #[test]
    fn only_jobs_that_run_with_too_few_pods_are_read() {
        let start = at(100).to_string();
        let key = Key::new("team", "train");
        let refusals = Refusals::default();
        let is_read = |job: &Job| {
            refusals.observe(&key, Some(job), at(110));
            refusals.next_read() == Some(at(113))
        };
        assert!(is_read(&job(
            false,
            json!({"startTime": start, "active": 1, "succeeded": 2})
        )));
        for complete in [
            job(true, json!({"startTime": start})),
            job(
                false,
                json!({"startTime": start, "active": 1, "succeeded": 2, "terminating": 1}),
            ),
            job(false, json!({})),
            job(
                false,
                json!({"startTime": start, "conditions": [{"type": "Suspended", "status": "True"}]}),
            ),
            job(
                false,
                json!({"startTime": start, "conditions": [{"type": "Failed", "status": "True"}]}),
            ),
        ] {
            assert!(!is_read(&complete), "{complete:?}");
        }
    }

    #[test]
    fn what_was_read_counts_for_this_run_of_the_job_alone() {
        let key = Key::new("team", "train");
        let refusals = Refusals::default();
        let started = |second| job(false, json!({"startTime": at(second).to_string()}));
        refusals.observe(&key, Some(&started(100)), at(100));
        let run = JobRun {
            uid: "u".into(),
            started: at(100),
        };
        let report = report_of(&[core("Error creating: denied", 101, 101)], at(100));
        assert!(refusals.note(&key, &run, report.clone(), at(103)));
        assert!(
            !refusals.note(&key, &run, report.clone(), at(109)),
            "no news"
        );
        // a read that finds nothing takes no word back
        assert!(!refusals.note(&key, &run, None, at(121)));
        assert_eq!(refusals.report(&key), report);
        assert_eq!(refusals.next_read(), Some(at(121 + 24)));
        refusals.observe(&key, Some(&started(200)), at(200));
        assert_eq!(refusals.report(&key), None);
        assert!(
            !refusals.note(&key, &run, report, at(203)),
            "of the run before"
        );
        refusals.observe(&key, None, at(204));
        assert_eq!(refusals.next_read(), None);
    }
}
