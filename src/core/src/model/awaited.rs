//! Replicas and workers that were ordered and have no pod: how long room and money are kept for them.

use jiff::{SignedDuration, Timestamp};

use super::event::PodsRefused;

/// The cluster has refused an order that had no pod for so long.
pub(crate) const REFUSED_AFTER: SignedDuration = SignedDuration::from_secs(60);
/// Without a word from the cluster, pods are waited for so long.
pub(crate) const LONGEST_WAIT: SignedDuration = SignedDuration::from_mins(5);

/// Waits of different ages that are told apart. Those that begin after so many end with the last of them.
const MOST_WAITS: usize = 16;

/// Replicas that were ordered and have no pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Awaited {
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

impl Awaited {
    /// Takes how many there are at `now`, and why the cluster makes no pods for them, if it says so.
    /// Those that are added do not prolong the wait for the others, and the oldest are gone first: what is
    /// given up is what is taken back.
    pub(crate) fn observe(&mut self, replicas: u32, refused: Option<&PodsRefused>, now: Timestamp) {
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
            let time = match refused {
                Some(refused) if refused.since > wait.since => {
                    REFUSED_AFTER + refused.since.duration_since(wait.since)
                }
                // what is ordered while the cluster refuses pods has its own minute
                Some(_) => REFUSED_AFTER,
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
        let refused = PodsRefused {
            since: at(0),
            why: "exceeded quota".into(),
        };
        let mut awaited = Awaited::default();
        awaited.observe(3, Some(&refused), at(0));
        awaited.observe(3, Some(&refused), at(60));
        assert_eq!((awaited.kept(at(59)), awaited.kept(at(60))), (3, 0));
        // taking some of them back keeps nothing again, ordering them anew does, for those alone
        awaited.observe(1, Some(&refused), at(60));
        assert_eq!(awaited.given_up(at(60)), 1);
        awaited.observe(2, Some(&refused), at(60));
        assert_eq!((awaited.kept(at(119)), awaited.kept(at(120))), (1, 0));
        awaited.observe(1, Some(&refused), at(70));
        assert_eq!(
            awaited.kept(at(70)),
            1,
            "the one that was given up is taken back"
        );
    }

    #[test]
    fn one_more_replica_every_50_seconds_keeps_no_room_for_the_others() {
        let refused = PodsRefused {
            since: at(0),
            why: "no service account".into(),
        };
        let mut awaited = Awaited::default();
        awaited.observe(500, Some(&refused), at(0));
        for step in 1..=100 {
            let second = 50 * i64::from(step);
            awaited.observe(500 + step, Some(&refused), at(second));
            assert_eq!(awaited.replicas(), 500 + step);
            let kept = awaited.kept(at(second + 10));
            assert_eq!(kept, u32::from(step <= 15), "step {step}");
            let until = Some(at(second + 60)).filter(|_| step <= 15);
            assert_eq!(awaited.changes_at(at(second + 10)), until);
        }
        awaited.observe(0, None, at(6000));
        assert_eq!(awaited, Awaited::default());
    }
}
