//! The work that workloads and jobs of a `targetRef` give: they are read, and their pods are labelled, each when it is due and
//! so many at a time. `scale_target` and `job_target` say what is due, and do it.

use std::time::Duration;

use bursar_api::spend::WorkloadRef;
use bursar_api::template::grace_seconds;
use bursar_core::model::{Key, Name};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use tokio::sync::Notify;

use crate::api_calls::ApiError;
use crate::cache::{CacheChange, CacheChanges, Trigger, Triggers};

/// So long after a pod of a target has changed, or the target was ordered something, it is read: more changes follow.
pub(crate) const SETTLE: SignedDuration = SignedDuration::from_secs(1);
/// A pod that may be a target's is in no other account for this long after its creation.
pub(crate) const OWNER_TIMEOUT: SignedDuration = SignedDuration::from_secs(10);
/// The wait after the first failure with a pod, ...
pub(crate) const FIRST_RETRY: SignedDuration = SignedDuration::from_millis(500);
/// ... and the longest.
const LONGEST_RETRY: SignedDuration = SignedDuration::from_secs(60);
/// Pods of a target that was stopped may take so long to end, beyond their grace.
const TIME_TO_END: SignedDuration = SignedDuration::from_mins(5);
/// The longest grace that is believed: it is the template's, so the tenant's.
const LONGEST_GRACE: SignedDuration = SignedDuration::from_hours(1);
/// How often a target is read though nothing happens, ...
const READ_INTERVAL: SignedDuration = SignedDuration::from_secs(15);
/// ... and how many are read in a second at most for this reason: with more targets the interval grows.
const READS_A_SECOND: i64 = 50;
/// One that is not there may come: the wait doubles from this.
const MISSING_INTERVAL: SignedDuration = SignedDuration::from_secs(5);
/// Reads of targets at a time.
const MAX_READS: usize = 8;
/// Pods that are labelled, and owners of pods that are read, at a time.
const MAX_PODS: usize = 16;
/// The pause of each such place after a read: 50 reads a second are the most of all places together.
const PAUSE: Duration = Duration::from_millis(160);

/// What is to be done for targets of one kind of workload.
pub(crate) trait TargetWork {
    /// A piece of it.
    type Work;

    /// Takes the read of a target that is due.
    fn take_read(&self, now: Timestamp) -> Option<Self::Work>;
    /// Takes what is due for a pod.
    fn take_pod(&self, now: Timestamp) -> Option<Self::Work>;
    /// When something is due next.
    fn next_due(&self) -> Option<Timestamp>;
    /// Tells of work that is due earlier than was said.
    fn added(&self) -> &Notify;
}

/// Does the work for as long as the process leads. `perform` does a piece of it and returns what the model is to be told.
pub(crate) async fn run<T: TargetWork, F: Future<Output: IntoIterator<Item = CacheChange>>>(
    targets: &T,
    perform: impl Fn(T::Work) -> F,
    changes: CacheChanges,
    clock: impl Fn() -> Timestamp,
) {
    const LONGEST_SLEEP: Duration = Duration::from_secs(60);
    let perform = async |work: T::Work, is_read: bool| {
        let mut told = perform(work).await.into_iter();
        // nobody decides at the end of leadership
        let is_over = told.any(|change| changes.send(change).is_err());
        if is_read {
            tokio::time::sleep(PAUSE).await;
        }
        (is_read, is_over)
    };
    let mut tasks = FuturesUnordered::new();
    let (mut reads, mut pods) = (0, 0);
    loop {
        while reads < MAX_READS
            && let Some(work) = targets.take_read(clock())
        {
            reads += 1;
            tasks.push(perform(work, true));
        }
        while pods < MAX_PODS
            && let Some(work) = targets.take_pod(clock())
        {
            pods += 1;
            tasks.push(perform(work, false));
        }
        let next = targets.next_due();
        let next = next.filter(|_| reads < MAX_READS && pods < MAX_PODS);
        let wait = next.map(|at| Duration::try_from(at.duration_since(clock())));
        let wait = wait.map_or(LONGEST_SLEEP, Result::unwrap_or_default);
        tokio::select! {
            Some((was_read, is_over)) = tasks.next() => {
                if is_over {
                    return;
                }
                match was_read {
                    true => reads -= 1,
                    false => pods -= 1,
                }
            }
            () = tokio::time::sleep(wait.max(Duration::from_millis(1))) => {}
            () = targets.added().notified() => {}
        }
    }
}

/// Does all that is due, one after the other. Returns what the model is to be told.
#[cfg(test)]
pub(crate) async fn run_due<T: TargetWork, F: Future<Output: IntoIterator<Item = CacheChange>>>(
    targets: &T,
    perform: impl Fn(T::Work) -> F,
    now: Timestamp,
) -> Vec<CacheChange> {
    let mut told = Vec::new();
    while let Some(work) = targets.take_read(now).or_else(|| targets.take_pod(now)) {
        told.extend(perform(work).await);
    }
    told
}

/// A time so long after another.
pub(crate) fn after(now: Timestamp, wait: SignedDuration) -> Timestamp {
    now.saturating_add(wait).unwrap_or(now)
}

/// After so long all pods of these templates have ended, if what made them was told to stop them.
pub(crate) fn time_to_end<'a>(
    templates: impl IntoIterator<Item = &'a PodTemplateSpec>,
) -> SignedDuration {
    let templates = templates.into_iter();
    let grace = templates.map(|template| SignedDuration::from_secs(grace_seconds(template)));
    grace.max().unwrap_or_default().min(LONGEST_GRACE) + TIME_TO_END
}

/// How long a target that nothing happens to waits for its next read, where there are so many of them.
pub(crate) fn read_interval(targets: usize) -> SignedDuration {
    let interval = i64::try_from(targets).unwrap_or(i64::MAX) / READS_A_SECOND;
    READ_INTERVAL.max(SignedDuration::from_secs(interval))
}

/// How long one waits that was missing so many times in a row, where others wait for `interval`.
pub(crate) fn missing_interval(times: u32, interval: SignedDuration) -> SignedDuration {
    let wait = MISSING_INTERVAL.saturating_mul(1 << times.min(6));
    wait.min(interval.max(LONGEST_RETRY))
}

/// How long a pod waits with which nothing could be done, after so many failures before.
pub(crate) fn retry_wait(failures: u32) -> SignedDuration {
    FIRST_RETRY
        .saturating_mul(1 << failures.min(7))
        .min(LONGEST_RETRY)
}

/// The account of pods of no workload may have one more.
pub(crate) fn sync_unmanaged(triggers: &Triggers, namespace: &Name) {
    let account = WorkloadRef::unmanaged(namespace.to_string());
    // the worker ends with the process, and this task does too
    let _ = triggers.send(Trigger::Workload(account));
}

pub(crate) fn warn(pod: &Key, error: &ApiError, what: &str) {
    let (namespace, name) = (&*pod.namespace, &*pod.name);
    tracing::warn!(namespace, name, %error, "{what}");
}
