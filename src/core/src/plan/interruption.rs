//! What became of the workers of a gang's last run, and whether it can go on.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::model::event::{Name, Owner, Pod};
use crate::model::job::JobState;
use crate::model::state::{Model, PodState};
use crate::training::{Interruption, Restarts};

/// A worker that was told to stop, on a node that is not ready, is given up so long after it should
/// have stopped.
pub(super) const LOST_NODE_TIMEOUT: SignedDuration = SignedDuration::from_mins(5);

/// A start is left half done where a leader ends between two Jobs. The next one completes it, but not after so
/// long: the workers that run would have waited for nothing.
const PARTIAL_START_TIMEOUT: SignedDuration = SignedDuration::from_mins(1);

/// The room of a gang that is to start again is kept for no longer: its workers stop, and it waits, for
/// less than that unless they take unusually long.
const RESERVATION_TIMEOUT: SignedDuration = SignedDuration::from_mins(15);

/// The workers of the present Jobs of a gang, whether these run or were suspended, but for those of
/// roles that have ended well.
pub(super) struct LastRun<'a> {
    pods: Vec<&'a Pod>,
    /// Those that never stop.
    lost: Vec<&'a Pod>,
    /// Those that have not ended, on nodes that are not ready: what they do is not known.
    unreachable: Vec<&'a Pod>,
    /// Those that the cluster took away since their Job has begun, and that ended well all the same.
    left_well: Vec<&'a Pod>,
    /// Workers of a run before this one still stop.
    pub(super) previous_run_terminating: bool,
    /// When the next one is taken to be lost.
    gives_up_at: Option<Timestamp>,
    /// What became of the Job of a role that is not there, though those of others run.
    missing_job: Option<String>,
    /// When a start that is half done is given up.
    half_started_until: Option<Timestamp>,
    /// Its room is kept until then at most, whatever its Jobs say of when it starts again.
    reservation_kept_until: Option<Timestamp>,
}

impl<'a> LastRun<'a> {
    /// What `pods` of the gang show at `now`.
    pub(super) fn of(
        model: &Model,
        state: &JobState,
        pods: &[&'a PodState],
        now: Timestamp,
    ) -> Self {
        let of_jobs = pods.iter().map(|found| &*found.pod);
        let earlier = of_jobs.clone().filter(|pod| {
            pod.made_by.is_some() && !state.is_of_current_run(pod) && pod.ended.is_none()
        });
        let earlier_lost_at = earlier.map(|pod| lost_at_of(model, pod));
        let stopping: Vec<Option<Timestamp>> = earlier_lost_at
            .filter(|lost_at| lost_at.is_none_or(|at| now < at))
            .collect();
        // what becomes of the pods of a role that has ended well is no matter of the gang, and neither
        // is what became of those that were told to stop when their Job was suspended before
        let pods: Vec<&Pod> = of_jobs
            .filter(|pod| state.is_of_current_run(pod) && !state.has_ended_well(&pod.owner))
            .filter(|pod| !state.was_stopped_before_present_start(pod))
            .collect();
        let mut lost_at: BTreeMap<Timestamp, Vec<&Pod>> = BTreeMap::new();
        for pod in pods.iter().copied() {
            if let Some(at) = lost_at_of(model, pod) {
                lost_at.entry(at).or_default().push(pod);
            }
        }
        let later = lost_at.keys().copied().find(|at| *at > now);
        let lost = lost_at.into_iter().take_while(|(at, _)| *at <= now);
        let half_started_until = state.role_without_job().and_then(|_| {
            let began = state.first_started()?;
            began.checked_add(PARTIAL_START_TIMEOUT).ok()
        });
        Self {
            missing_job: missing_job(state, half_started_until.is_some_and(|at| at <= now)),
            half_started_until: half_started_until.filter(|at| now < *at),
            lost: lost.flat_map(|(_, pods)| pods).collect(),
            unreachable: pods
                .iter()
                .copied()
                .filter(|pod| pod.ended.is_none() && is_on_unready_node(model, pod))
                .collect(),
            left_well: pods
                .iter()
                .copied()
                .filter(|pod| pod.failure.is_none() && pod.ended.is_some())
                .filter(|pod| pod.disrupted || was_deleted_before_end(pod))
                .collect(),
            previous_run_terminating: !stopping.is_empty(),
            pods,
            gives_up_at: stopping.into_iter().flatten().chain(later).min(),
            reservation_kept_until: state
                .reservation_kept_since
                .and_then(|since| since.checked_add(RESERVATION_TIMEOUT).ok()),
        }
    }

    /// When what was found changes though nothing happens.
    pub(super) fn requeue_at(&self, now: Timestamp) -> Option<Timestamp> {
        let until = self.reservation_kept_until.filter(|until| now < *until);
        let looks = [self.gives_up_at, until, self.half_started_until];
        looks.into_iter().flatten().min()
    }

    /// How many workers of a role are lost.
    pub(super) fn given_up(&self, role: &Name) -> u32 {
        let is_of_role =
            |pod: &&&Pod| matches!(&pod.owner, Owner::Job(_, name) if **name == **role);
        crate::model::state::count(self.lost.iter().filter(is_of_role).count())
    }

    /// Whether each worker has ended or is given up. Its Job may say so before its pod does.
    pub(super) fn has_ended(&self) -> bool {
        let mut pods = self.pods.iter();
        pods.all(|pod| pod.ended.is_some() || self.lost.iter().any(|lost| lost.key == pod.key))
    }

    /// The gang's restarts, and why it stops to start again. Room is kept for it as long as nodes have
    /// it.
    pub(super) fn restarts(&self, state: &JobState, has_room: bool, now: Timestamp) -> Restarts {
        // what the Jobs of the run before show is over once the gang is told to start again
        let starts = state.ordered.is_some_and(|ordered| ordered.value);
        let waits_until = state.restart_at().filter(|_| !starts);
        let is_let_run = state.ordered.is_none() && state.shows_running();
        let is_missing = || {
            Some(Interruption {
                why: self.missing_job.clone()?,
                is_failure: false,
            })
        };
        let interruption = match (is_let_run, waits_until) {
            (true, None) => is_missing()
                .or_else(|| self.interruption(|pod| pod.disrupted || was_deleted_before_end(pod)))
                .or_else(|| self.left_well()),
            // only some of its Jobs were told to stop, or to start again: all stop
            (true, Some(_)) => self.interruption(|pod| pod.disrupted).or_else(|| {
                Some(Interruption {
                    why: "a worker has ended".to_owned(),
                    is_failure: true,
                })
            }),
            // by now, all workers were told to stop
            (false, Some(_)) => state
                .interruption
                .clone()
                .or_else(|| self.interruption(|pod| pod.disrupted)),
            (false, None) => None,
        };
        let mut jobs = state.batch_jobs.values();
        let is_left_to_jobs = jobs.any(|job| job.replaces_workers && job.finished.is_none());
        let is_ours = !self.lost.is_empty() || self.missing_job.is_some() || !is_left_to_jobs;
        let interruption = interruption.filter(|_| is_ours && !state.is_adopted());
        Restarts {
            count: state.restarts(),
            disruptions: state.disruptions(),
            began: state.started(),
            limit: state.spec.as_ref().map_or(0, |spec| spec.restarts),
            waits_until,
            keeps_reservation: has_room
                && self.lost.is_empty()
                && self.reservation_kept_until.is_some_and(|until| now < until),
            interruption,
        }
    }

    /// A worker that was taken away and ended well is missing all the same.
    fn left_well(&self) -> Option<Interruption> {
        let pod = self.left_well.first()?;
        Some(Interruption {
            why: format!("the cluster took worker {} away", pod.key.name),
            is_failure: false,
        })
    }

    /// Why these workers cannot go on as a gang. Once the cluster has taken one of them away, the
    /// failures of the others follow from that.
    fn interruption(&self, is_taken_away: impl Fn(&Pod) -> bool) -> Option<Interruption> {
        let first = |is: &dyn Fn(&&Pod) -> bool| {
            let pods = self.pods.iter().copied().filter(|pod| is(pod));
            pods.min_by(|a, b| (a.ended, &a.key).cmp(&(b.ended, &b.key)))
        };
        let is_failure = |pod: &&Pod| pod.failure.is_some();
        let failed = first(&|pod| is_failure(pod) && !is_taken_away(pod));
        let taken_away = first(&|pod| is_failure(pod) && is_taken_away(pod))
            .or_else(|| first(&|pod| is_taken_away(pod)).filter(|_| failed.is_some()))
            .or_else(|| {
                self.unreachable
                    .first()
                    .copied()
                    .filter(|_| failed.is_some())
            });
        let how = |pod: &Pod| {
            let how = pod.failure.as_ref().map(|how| format!(": {how}"));
            how.unwrap_or_default()
        };
        let why = match (self.lost.first(), taken_away, failed) {
            (Some(pod), ..) => lost(pod),
            (_, Some(pod), _) => {
                format!("the cluster took worker {} away{}", pod.key.name, how(pod))
            }
            (_, _, Some(pod)) => format!("worker {} has failed{}", pod.key.name, how(pod)),
            _ => return None,
        };
        Some(Interruption {
            why,
            is_failure: self.lost.is_empty() && taken_away.is_none(),
        })
    }
}

/// What became of the Job of a role that is not there, though those of others run: it was seen to be deleted, or
/// it has not been made in time.
fn missing_job(state: &JobState, is_overdue: bool) -> Option<String> {
    let role = state.role_without_job()?;
    if state.deleted_roles.contains(role) {
        return Some(format!("somebody has deleted the Job of role {role}"));
    }
    is_overdue.then(|| format!("the Job of role {role} is missing"))
}

/// Whether a pod was told to stop before it ended.
fn was_deleted_before_end(pod: &Pod) -> bool {
    let deleted_at = pod.deleted_at();
    deleted_at.is_some_and(|told| pod.ended.is_none_or(|ended| ended >= told))
}

/// When a worker is given up, if nothing changes until then.
fn lost_at_of(model: &Model, pod: &Pod) -> Option<Timestamp> {
    let at = pod.deletion?.checked_add(LOST_NODE_TIMEOUT).ok();
    at.filter(|_| pod.ended.is_none() && is_on_unready_node(model, pod))
}

fn is_on_unready_node(model: &Model, pod: &Pod) -> bool {
    let is_unready = |node: &Name| model.capacity.node(node).is_none_or(|node| node.unready);
    pod.node.as_ref().is_some_and(is_unready)
}

fn lost(pod: &Pod) -> String {
    let node = pod.node.as_deref().unwrap_or_default();
    let name = &pod.key.name;
    let by = pod.deletion.map(|by| by.to_string()).unwrap_or_default();
    format!("node {node} is lost: worker {name} should have stopped by {by} and has not")
}
