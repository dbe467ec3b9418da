//! Scale-in without a lost request: which replicas leave, and when each may go.
//!
//! A replica that leaves first loses the label that the Service selects on; it goes once the endpoints have followed and its engine
//! is idle, or the drain timed out. Only then does the Deployment shrink, with that replica as the cheapest to delete. All of this is
//! computed anew from what is seen, so that it goes on after a crash at any point, and turns around when demand comes back.
//!
//! A ReplicaSet deletes pods that are not ready before all others, whatever their deletion cost. So while one that stays has become
//! unready with requests on it, a ready one that has left is not deleted yet: the other would go in its place. A StatefulSet deletes its
//! highest ordinals, so those leave, and one below another that stays is not deleted.

use jiff::{SignedDuration, Timestamp};

/// How long a replica stays after the endpoints have dropped it: connections that nodes still track end in this time.
pub const SETTLE: SignedDuration = SignedDuration::from_secs(3);

/// A replica's pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// The pod's UID.
    pub uid: String,
    /// It is ready or has been, so it may have requests that have not ended.
    pub may_have_requests: bool,
    /// It is ready.
    pub ready: bool,
    /// It is bound to a node.
    pub has_node: bool,
    /// The Service's endpoints name it as ready.
    pub in_endpoints: bool,
    /// Since when it has been leaving.
    pub draining_since: Option<Timestamp>,
    /// It has left, and is the next that the Deployment deletes.
    pub marked_for_deletion: bool,
    /// Its engine has done nothing for so long that its requests are not believed.
    pub stalled: bool,
    /// Requests on its engine; `None` if unknown.
    pub busy: Option<u64>,
    /// When it was made.
    pub created: Timestamp,
    /// Its place in a StatefulSet, from 0: that deletes the highest one first, whatever pods are marked with.
    pub ordinal: Option<u32>,
}

/// What to do about a service's replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// UIDs of pods that begin to leave.
    pub drain: Vec<String>,
    /// UIDs of pods that stay after all.
    pub keep: Vec<String>,
    /// UIDs of pods that go with this change of the Deployment.
    pub remove: Vec<String>,
    /// The Deployment's replicas.
    pub replicas: u32,
    /// When to look again.
    pub requeue_at: Option<Timestamp>,
}

impl Steps {
    /// The same where pods cannot be told: the Deployment shrinks at once, and its ReplicaSet chooses.
    pub fn without_marks(self) -> Self {
        let leaving = u32::try_from(self.drain.len()).unwrap_or(u32::MAX);
        Self {
            drain: vec![],
            remove: vec![],
            replicas: self.replicas.saturating_sub(leaving),
            ..self
        }
    }
}

/// Whether a Deployment replaces pods by others of a new template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolloutState {
    /// It does not.
    None,
    /// It does: then only a scale to zero and a budget take replicas away.
    Moving,
    /// It tries to, and cannot. A Deployment that shrinks then deletes pods of the old template, so
    /// replicas that work are drained for it, and one of them stays.
    Stuck,
}

/// The state that steps are computed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainInput {
    /// The Deployment's replicas now.
    pub replicas: u32,
    /// The replicas that the plan allows.
    pub allowed: u32,
    /// Pods that are not being deleted.
    pub pods: Vec<Replica>,
    /// Whether a rollout is under way.
    pub rollout: RolloutState,
    /// A budget takes replicas away.
    pub budget: bool,
    /// How long a replica may take to leave.
    pub timeout: SignedDuration,
}

/// Replicas that neither leave nor have left. A Deployment that has shrunk already has pods left over until its controller deletes
/// them: those count no longer among its replicas.
pub fn non_draining(replicas: u32, pods: &[Replica]) -> u32 {
    replicas.saturating_sub(count(leaving(pods)) - given_up(replicas, pods))
}

fn given_up(replicas: u32, pods: &[Replica]) -> u32 {
    let released = leaving(pods).filter(|pod| pod.marked_for_deletion);
    count(pods.iter())
        .saturating_sub(replicas)
        .min(count(released))
}

fn leaving(pods: &[Replica]) -> impl Iterator<Item = &Replica> {
    pods.iter().filter(|pod| pod.draining_since.is_some())
}

fn count<'a>(pods: impl Iterator<Item = &'a Replica>) -> u32 {
    u32::try_from(pods.count()).unwrap_or(u32::MAX)
}

/// The next steps from `input` towards what is allowed.
pub fn steps(input: &DrainInput, now: Timestamp) -> Steps {
    let leaving = || leaving(&input.pods);
    let non_draining = non_draining(input.replicas, &input.pods);
    let given_up = given_up(input.replicas, &input.pods);
    let mut steps = Steps {
        replicas: input.replicas,
        ..Steps::default()
    };
    if input.allowed >= non_draining {
        // those that began to leave last have lost the least, and what was given up is not ours to keep
        let mut back: Vec<_> = leaving().collect();
        back.sort_by_key(|pod| {
            (
                pod.ordinal,
                pod.marked_for_deletion,
                std::cmp::Reverse(pod.draining_since),
            )
        });
        let ours = count(leaving()) - given_up;
        let kept = ours.min(input.allowed - non_draining);
        steps.keep = names(back.into_iter().take(kept as usize));
        steps.replicas = input.replicas.max(input.allowed);
    } else if input.rollout != RolloutState::Moving || input.budget || input.allowed == 0 {
        let keeps_broken =
            input.rollout == RolloutState::Stuck && !input.budget && input.allowed > 0;
        let mut candidates: Vec<_> = input
            .pods
            .iter()
            .filter(|pod| pod.draining_since.is_none() && (pod.may_have_requests || !keeps_broken))
            .collect();
        candidates.sort_by_key(|pod| {
            (
                std::cmp::Reverse(pod.ordinal),
                pod.has_node,
                pod.may_have_requests,
                !pod.stalled,
                pod.busy.unwrap_or(u64::MAX),
                std::cmp::Reverse(pod.created),
                pod.uid.clone(),
            )
        });
        let mut surplus = (non_draining - input.allowed) as usize;
        // replicas without a pod need no drain
        let mut podless = (non_draining as usize)
            .saturating_sub(candidates.len())
            .min(surplus)
            .min(deletable_without_pod(input));
        if keeps_broken {
            podless = 0;
            surplus = surplus.min(candidates.len().saturating_sub(1));
        }
        steps.drain = names(candidates.into_iter().take(surplus - podless));
        steps.replicas -= u32::try_from(podless).unwrap_or(0);
    }
    let is_busy_unready = |pod: &Replica| {
        pod.draining_since.is_none() && !pod.ready && pod.may_have_requests && pod.busy != Some(0)
    };
    let waits_for_others =
        !input.budget && input.allowed > 0 && input.pods.iter().any(is_busy_unready);
    let (mut going, staying): (Vec<&Replica>, Vec<&Replica>) = input
        .pods
        .iter()
        .partition(|pod| pod.draining_since.is_some() && !steps.keep.contains(&pod.uid));
    going.sort_by_key(|pod| std::cmp::Reverse(pod.ordinal));
    // below an ordinal that stays, the StatefulSet deletes nothing
    let mut lowest = staying.iter().filter_map(|pod| pod.ordinal).max();
    for pod in going {
        if pod.ordinal < lowest {
            continue;
        }
        match may_go(pod, waits_for_others && pod.ready, input.timeout, now) {
            Ok(()) => steps.remove.push(pod.uid.clone()),
            Err(at) => {
                steps.requeue_at = steps.requeue_at.into_iter().chain([at]).min();
                lowest = lowest.max(pod.ordinal);
            }
        }
    }
    let removed = u32::try_from(steps.remove.len()).unwrap_or(u32::MAX);
    steps.replicas = steps
        .replicas
        .saturating_sub(removed.saturating_sub(given_up));
    if !steps.drain.is_empty() {
        steps.requeue_at = steps.requeue_at.into_iter().chain([now + SETTLE]).min();
    }
    steps
}

/// How many replicas without a pod go first where the number shrinks: of a StatefulSet those above its
/// highest pod, else any number.
fn deletable_without_pod(input: &DrainInput) -> usize {
    let highest = input.pods.iter().filter_map(|pod| pod.ordinal).max();
    highest.map_or(usize::MAX, |highest| {
        input.replicas.saturating_sub(highest.saturating_add(1)) as usize
    })
}

/// When replicas that a budget takes away go without having been told, where none of them has shown a mark
/// that was ordered `since`: as late as one that drains.
pub fn gives_up_at(since: Timestamp, timeout: SignedDuration) -> Timestamp {
    let at = since.saturating_add(timeout.max(SETTLE));
    at.unwrap_or(since)
}

/// Whether a leaving pod may be deleted, else when to look again. If it `waits`, another one would be deleted in its place.
fn may_go(
    pod: &Replica,
    waits: bool,
    timeout: SignedDuration,
    now: Timestamp,
) -> Result<(), Timestamp> {
    // without a node it has never served anything
    if pod.marked_for_deletion || !pod.has_node {
        return Ok(());
    }
    let since = pod.draining_since.unwrap_or(now);
    // a drain that times out at once still leaves the endpoints first
    let (settled, expired) = (
        since.saturating_add(SETTLE),
        since.saturating_add(timeout.max(SETTLE)),
    );
    let (Ok(settled), Ok(expired)) = (settled, expired) else {
        return Ok(());
    };
    let idle = !waits && (!pod.may_have_requests || pod.busy == Some(0));
    if now >= expired || (now >= settled && !pod.in_endpoints && idle) {
        return Ok(());
    }
    let soon = now + SignedDuration::from_secs(1);
    Err(if now < settled {
        settled
    } else {
        soon.min(expired)
    })
}

fn names<'a>(pods: impl Iterator<Item = &'a Replica>) -> Vec<String> {
    pods.map(|pod| pod.uid.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-24T12:00:00Z".parse().unwrap()
    }

    fn ago(seconds: i64) -> Option<Timestamp> {
        Some(now() - SignedDuration::from_secs(seconds))
    }

    fn pod(name: &str, busy: u64) -> Replica {
        Replica {
            uid: name.into(),
            may_have_requests: true,
            ready: true,
            has_node: true,
            in_endpoints: true,
            draining_since: None,
            marked_for_deletion: false,
            stalled: false,
            busy: Some(busy),
            created: now(),
            ordinal: None,
        }
    }

    /// A pod of a StatefulSet.
    fn with_ordinal(ordinal: u32, busy: u64) -> Replica {
        Replica {
            ordinal: Some(ordinal),
            ..pod(&ordinal.to_string(), busy)
        }
    }

    #[test]
    fn a_stateful_set_loses_its_highest_ordinals_and_none_below_one_that_stays() {
        let drained = steps(
            &input(
                1,
                vec![with_ordinal(0, 0), with_ordinal(2, 9), with_ordinal(1, 5)],
            ),
            now(),
        );
        assert_eq!(drained.drain, ["2", "1"], "the idle one has the lowest");
        let leaving = |ordinal, busy| Replica {
            draining_since: ago(9),
            in_endpoints: false,
            ..with_ordinal(ordinal, busy)
        };
        let removed = |highest| {
            let pods = vec![with_ordinal(0, 3), leaving(1, 0), leaving(2, highest)];
            let steps = steps(&input(1, pods), now());
            (steps.remove, steps.replicas)
        };
        let nothing: Vec<String> = Vec::new();
        assert_eq!(removed(1), (nothing, 3), "2 would go in place of 1");
        assert_eq!(removed(0), (vec!["2".to_owned(), "1".to_owned()], 1));
        let kept = steps(
            &input(2, vec![with_ordinal(0, 3), leaving(2, 0), leaving(1, 0)]),
            now(),
        );
        assert_eq!(
            (kept.keep, kept.remove),
            (vec!["1".to_owned()], vec!["2".to_owned()])
        );
        // 1 is being made anew: to shrink would delete 2
        let gap = DrainInput {
            replicas: 3,
            ..input(2, vec![with_ordinal(0, 3), with_ordinal(2, 1)])
        };
        let steps = steps(&gap, now());
        assert_eq!((steps.drain, steps.replicas), (vec!["2".to_owned()], 3));
    }

    fn input(allowed: u32, pods: Vec<Replica>) -> DrainInput {
        let replicas = u32::try_from(pods.len()).unwrap();
        DrainInput {
            replicas,
            allowed,
            pods,
            rollout: RolloutState::None,
            budget: false,
            timeout: SignedDuration::from_secs(60),
        }
    }

    #[test]
    fn growth_is_immediate() {
        let steps = steps(&input(3, vec![pod("a", 9)]), now());
        assert_eq!(
            steps,
            Steps {
                replicas: 3,
                ..Steps::default()
            }
        );
    }

    #[test]
    fn the_least_busy_replica_begins_to_leave_and_the_deployment_does_not_shrink_yet() {
        let steps = steps(
            &input(1, vec![pod("a", 9), pod("b", 2), pod("c", 5)]),
            now(),
        );
        assert_eq!(
            (steps.drain, steps.replicas),
            (vec!["b".to_owned(), "c".to_owned()], 3)
        );
        assert!(steps.requeue_at.is_some());
    }

    #[test]
    fn a_replica_that_has_never_been_ready_leaves_first() {
        let pending = Replica {
            may_have_requests: false,
            ready: false,
            busy: None,
            ..pod("b", 0)
        };
        assert_eq!(
            steps(&input(1, vec![pod("a", 0), pending]), now()).drain,
            ["b"]
        );
    }

    #[test]
    fn a_leaving_replica_goes_when_endpoints_have_followed_and_it_is_idle() {
        let leaving = |seconds, in_endpoints, busy| Replica {
            draining_since: ago(seconds),
            in_endpoints,
            ..pod("a", busy)
        };
        for (pod, gone) in [
            (leaving(2, false, 0), false),
            (leaving(3, true, 0), false),
            (leaving(3, false, 1), false),
            (leaving(3, false, 0), true),
            (leaving(60, true, 7), true),
        ] {
            let unknown = Replica {
                busy: None,
                ..pod.clone()
            };
            let steps = steps(&input(0, vec![pod.clone()]), now());
            assert_eq!(steps.remove.len(), usize::from(gone), "{pod:?}");
            assert_eq!(steps.replicas, u32::from(!gone));
            let past = super::steps(&input(0, vec![unknown]), now());
            assert_eq!(
                past.remove.len(),
                usize::from(pod.draining_since == ago(60)),
                "unknown is not idle"
            );
        }
    }

    #[test]
    fn demand_that_comes_back_keeps_leaving_replicas_before_it_makes_new_ones() {
        let leaving = |name, seconds| Replica {
            draining_since: ago(seconds),
            ..pod(name, 1)
        };
        let pods = vec![pod("a", 9), leaving("b", 9), leaving("c", 4)];
        let one = steps(&input(2, pods.clone()), now());
        assert_eq!((one.keep, one.replicas), (vec!["c".to_owned()], 3));
        let all = steps(&input(5, pods), now());
        assert_eq!((all.keep.len(), all.replicas), (2, 5));
    }

    #[test]
    fn what_the_deployment_gave_up_is_not_given_up_twice_while_its_pod_is_still_there() {
        let gone = Replica {
            draining_since: ago(9),
            marked_for_deletion: true,
            ..pod("b", 0)
        };
        let after = |replicas, allowed| {
            let input = DrainInput {
                replicas,
                ..input(allowed, vec![pod("a", 9), gone.clone()])
            };
            let steps = steps(&input, now());
            (steps.drain, steps.keep, steps.replicas)
        };
        let none = Vec::new;
        assert_eq!(after(2, 1), (none(), none(), 1), "it is given up now");
        assert_eq!(after(1, 1), (none(), none(), 1), "it was given up before");
        assert_eq!(
            after(1, 2),
            (none(), none(), 2),
            "it may be deleted at any moment; another one comes"
        );
        assert_eq!(
            after(2, 2),
            (none(), vec!["b".to_owned()], 2),
            "the Deployment wants it again"
        );
        assert_eq!(after(1, 0), (vec!["a".to_owned()], none(), 1));
    }

    #[test]
    fn a_rollout_is_not_disturbed_unless_everything_goes_or_a_budget_says_so() {
        let rolling = |allowed, budget| DrainInput {
            rollout: RolloutState::Moving,
            budget,
            ..input(allowed, vec![pod("a", 0), pod("b", 0)])
        };
        assert!(steps(&rolling(1, false), now()).drain.is_empty());
        assert_eq!(steps(&rolling(1, true), now()).drain.len(), 1);
        assert_eq!(steps(&rolling(0, false), now()).drain.len(), 2);
    }

    #[test]
    fn a_stuck_rollout_keeps_its_broken_replica_and_one_that_works() {
        let broken = Replica {
            may_have_requests: false,
            ready: false,
            busy: None,
            ..pod("broken", 0)
        };
        let in_stuck_rollout = |allowed| DrainInput {
            rollout: RolloutState::Stuck,
            ..input(allowed, vec![pod("a", 0), broken.clone(), pod("b", 3)])
        };
        let drained = |allowed| steps(&in_stuck_rollout(allowed), now()).drain;
        assert_eq!(drained(2), ["a"]);
        assert_eq!(drained(1), ["a"], "one works on");
        assert_eq!(drained(0).len(), 3);
        let for_money = DrainInput {
            budget: true,
            ..in_stuck_rollout(2)
        };
        assert_eq!(steps(&for_money, now()).drain, ["broken"]);
    }

    #[test]
    fn an_idle_replica_waits_for_the_requests_of_an_unready_one_that_would_be_deleted_in_its_place()
    {
        let removed = |busy, budget, seconds| {
            let idle = Replica {
                draining_since: ago(seconds),
                in_endpoints: false,
                ..pod("idle", 0)
            };
            let unready = Replica {
                ready: false,
                busy,
                ..pod("unready", 0)
            };
            let input = DrainInput {
                budget,
                ..input(1, vec![idle, unready])
            };
            steps(&input, now()).remove
        };
        let nothing: [&str; 0] = [];
        assert_eq!(removed(Some(3), false, 30), nothing);
        assert_eq!(removed(None, false, 30), nothing, "unknown is not idle");
        assert_eq!(removed(Some(0), false, 30), ["idle"]);
        assert_eq!(removed(Some(3), false, 60), ["idle"], "the drain timed out");
        assert_eq!(removed(Some(3), true, 30), ["idle"], "money does not wait");
    }

    #[test]
    fn a_drain_that_times_out_at_once_still_waits_for_the_endpoints_to_follow() {
        let after = |seconds| {
            let leaving = Replica {
                draining_since: ago(seconds),
                ..pod("a", 7)
            };
            let input = DrainInput {
                timeout: SignedDuration::ZERO,
                ..input(0, vec![leaving])
            };
            steps(&input, now())
        };
        assert_eq!(after(2).remove, [""; 0]);
        assert!(after(2).requeue_at.is_some());
        assert_eq!(after(3).remove, ["a"]);
    }

    #[test]
    fn replicas_that_have_no_pod_yet_are_given_back_at_once() {
        let steps = steps(
            &DrainInput {
                replicas: 3,
                ..input(1, vec![pod("a", 0)])
            },
            now(),
        );
        assert_eq!((steps.drain.len(), steps.replicas), (0, 1));
    }
}
