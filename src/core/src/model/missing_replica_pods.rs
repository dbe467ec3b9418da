//! Replicas and workers that were ordered and have no pod: how long room and money are kept for them.

use jiff::{SignedDuration, Timestamp};

use super::event::PodCreationFailure;

/// The cluster has refused an order that had no pod for so long.
pub(crate) const CREATION_FAILURE_TIMEOUT: SignedDuration = SignedDuration::from_secs(60);
/// Without a word from the cluster, pods are waited for so long.
pub(crate) const LONGEST_WAIT: SignedDuration = SignedDuration::from_mins(5);

/// Waits of different ages that are told apart. Those that begin after so many end with the last of them.
const MOST_WAITS: usize = 16;

/// Replicas that were ordered and have no pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MissingReplicaPods {
    /// The oldest first.
    waits: Vec<Wait>,
}

/// Replicas that have been waited for since the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wait {
    replicas: u32,
    since: Timestamp,
    /// Until when room and money are kept for them.
    until: Timestamp,
}

impl MissingReplicaPods {
    /// Takes how many there are at `now`, and why the cluster makes no pods for them, if it says so.
    /// Those that are added do not prolong the wait for the others, and the oldest are gone first: what is
    /// given up is what is taken back.
    pub(crate) fn observe(
        &mut self,
        replicas: u32,
        creation_failure: Option<&PodCreationFailure>,
        now: Timestamp,
    ) {
        let known = self.replicas();
        let (added, mut gone) = (
            replicas.saturating_sub(known),
            known.saturating_sub(replicas),
        );
        self.waits.retain_mut(|wait| {
            let here = gone.min(wait.replicas);
            gone -= here;
            wait.replicas -= here;
            wait.replicas > 0
        });
        let is_full = self.waits.len() == MOST_WAITS;
        match self.waits.last_mut() {
            _ if added == 0 => {}
            Some(last) if is_full => last.replicas += added,
            _ => self.waits.push(Wait {
                replicas: added,
                since: now,
                until: now,
            }),
        }
        for wait in &mut self.waits {
            let time = match creation_failure {
                Some(creation_failure) if creation_failure.since > wait.since => {
                    CREATION_FAILURE_TIMEOUT + creation_failure.since.duration_since(wait.since)
                }
                // what is ordered while the cluster refuses pods has its own minute
                Some(_) => CREATION_FAILURE_TIMEOUT,
                None => LONGEST_WAIT,
            };
            wait.until = wait.since.saturating_add(time).unwrap_or(wait.since);
        }
    }

    /// How many there are.
    pub(crate) fn replicas(&self) -> u32 {
        self.waits.iter().map(|wait| wait.replicas).sum()
    }

    /// How many room and money are kept for at `now`.
    pub(crate) fn kept(&self, now: Timestamp) -> u32 {
        let kept = self.waits.iter().filter(|wait| now < wait.until);
        kept.map(|wait| wait.replicas).sum()
    }

    /// How many nothing is kept for at `now`.
    pub(crate) fn given_up(&self, now: Timestamp) -> u32 {
        self.replicas() - self.kept(now)
    }

    /// When more of them are given up.
    pub(crate) fn changes_at(&self, now: Timestamp) -> Option<Timestamp> {
        let ends = self.waits.iter().map(|wait| wait.until);
        ends.filter(|until| now < *until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_796_000_000 + second).unwrap()
    }

    #[test]
    fn what_is_ordered_while_the_cluster_refuses_pods_has_its_own_minute() {
        let creation_failure = PodCreationFailure {
            since: at(0),
            why: "exceeded quota".into(),
        };
        let mut without_pod = MissingReplicaPods::default();
        without_pod.observe(3, Some(&creation_failure), at(0));
        without_pod.observe(3, Some(&creation_failure), at(60));
        assert_eq!((without_pod.kept(at(59)), without_pod.kept(at(60))), (3, 0));
        // taking some of them back keeps nothing again, ordering them anew does, for those alone
        without_pod.observe(1, Some(&creation_failure), at(60));
        assert_eq!(without_pod.given_up(at(60)), 1);
        without_pod.observe(2, Some(&creation_failure), at(60));
        assert_eq!(
            (without_pod.kept(at(119)), without_pod.kept(at(120))),
            (1, 0)
        );
        without_pod.observe(1, Some(&creation_failure), at(70));
        assert_eq!(
            without_pod.kept(at(70)),
            1,
            "the one that was given up is taken back"
        );
    }

    #[test]
    fn one_more_replica_every_50_seconds_keeps_no_room_for_the_others() {
        let creation_failure = PodCreationFailure {
            since: at(0),
            why: "no service account".into(),
        };
        let mut without_pod = MissingReplicaPods::default();
        without_pod.observe(500, Some(&creation_failure), at(0));
        for step in 1..=100 {
            let second = 50 * i64::from(step);
            without_pod.observe(500 + step, Some(&creation_failure), at(second));
            assert_eq!(without_pod.replicas(), 500 + step);
            let kept = without_pod.kept(at(second + 10));
            assert_eq!(kept, u32::from(step <= 15), "step {step}");
            let until = Some(at(second + 60)).filter(|_| step <= 15);
            assert_eq!(without_pod.changes_at(at(second + 10)), until);
        }
        without_pod.observe(0, None, at(6000));
        assert_eq!(without_pod, MissingReplicaPods::default());
    }
}
