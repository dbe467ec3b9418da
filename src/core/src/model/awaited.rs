//! Replicas and workers that were ordered and have no pod: how long room and money are kept for them.

use jiff::{SignedDuration, Timestamp};

use super::event::PodsRefused;

/// The cluster has refused an order that had no pod for so long.
pub(crate) const REFUSED_AFTER: SignedDuration = SignedDuration::from_secs(60);
/// Without a word from the cluster, pods are waited for so long.
pub(crate) const LONGEST_WAIT: SignedDuration = SignedDuration::from_mins(5);

/// Replicas that were ordered and have no pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Awaited {
    /// How many.
    pub(crate) replicas: u32,
    /// Since when it has been so many or more.
    since: Option<Timestamp>,
    /// Until when room and money are kept for them; `None` if there are none.
    pub(crate) until: Option<Timestamp>,
}

impl Awaited {
    /// Takes how many there are at `now`, and why the cluster makes no pods for them, if it says so.
    pub(crate) fn observe(&mut self, replicas: u32, refused: Option<&PodsRefused>, now: Timestamp) {
        let known = self.since.filter(|_| replicas <= self.replicas);
        let since = known.unwrap_or(now);
        let wait = match refused {
            Some(refused) if refused.since > since => {
                REFUSED_AFTER + refused.since.duration_since(since)
            }
            // what is ordered while the cluster refuses pods has its own minute
            Some(_) => REFUSED_AFTER,
            None => LONGEST_WAIT,
        };
        let until = since.saturating_add(wait).unwrap_or(since);
        *self = Self {
            replicas,
            since: (replicas > 0).then_some(since),
            until: (replicas > 0).then_some(until),
        };
    }

    /// How many room and money are kept for at `now`.
    pub(crate) fn kept(&self, now: Timestamp) -> u32 {
        match self.until {
            Some(until) if now < until => self.replicas,
            _ => 0,
        }
    }

    /// How many nothing is kept for at `now`.
    pub(crate) fn given_up(&self, now: Timestamp) -> u32 {
        self.replicas - self.kept(now)
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
        // taking some of them back keeps nothing again, ordering them anew does
        awaited.observe(1, Some(&refused), at(60));
        assert_eq!(awaited.given_up(at(60)), 1);
        awaited.observe(2, Some(&refused), at(60));
        assert_eq!((awaited.kept(at(119)), awaited.kept(at(120))), (2, 0));
    }
}
