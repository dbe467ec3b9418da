//! Which replicas leave, and when each goes.

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

#[test]
fn what_goes_of_a_stateful_set_goes_by_its_place_and_not_by_how_many_pods_are_there() {
    // 1 is being made anew
    let gap = |allowed| DrainInput {
        replicas: 3,
        ..input(allowed, vec![with_ordinal(0, 3), with_ordinal(2, 1)])
    };
    let nothing: [&str; 0] = [];
    assert_eq!(steps(&gap(3), now()).drain, nothing);
    assert_eq!(steps(&gap(2), now()).drain, ["2"]);
    assert_eq!(
        steps(&gap(1), now()).drain,
        ["2"],
        "0 is the one that stays"
    );
    assert_eq!(steps(&gap(0), now()).drain, ["2", "0"]);
    // the surge of a rollout goes with it, not for it
    let surge = DrainInput {
        replicas: 2,
        ..input(
            1,
            vec![with_ordinal(0, 3), with_ordinal(1, 3), with_ordinal(2, 1)],
        )
    };
    assert_eq!(steps(&surge, now()).drain, ["2"]);
}

#[test]
fn a_stuck_rollout_of_a_stateful_set_goes_no_further_because_it_shrinks() {
    let broken = Replica {
        may_have_requests: false,
        ready: false,
        busy: None,
        ..with_ordinal(2, 0)
    };
    let in_stuck_rollout = |allowed, budget| {
        let input = DrainInput {
            rollout: RolloutState::Stuck,
            budget,
            ..input(
                allowed,
                vec![with_ordinal(0, 0), with_ordinal(1, 3), broken.clone()],
            )
        };
        let steps = steps(&input, now());
        (steps.drain, steps.replicas)
    };
    // 2 is the first that it would delete, and 1 the next that the rollout would break
    assert_eq!(in_stuck_rollout(2, false), (vec![], 3));
    assert_eq!(in_stuck_rollout(1, false), (vec![], 3));
    assert_eq!(in_stuck_rollout(2, true), (vec!["2".to_owned()], 3));
    assert_eq!(in_stuck_rollout(0, false).0, ["2", "1", "0"]);
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
fn all_pods_of_a_rollout_drain_before_the_last_replica_goes() {
    // three pods of two replicas: one is the surge of the rollout
    let to_zero = |pods: Vec<Replica>| {
        let input = DrainInput {
            replicas: 2,
            rollout: RolloutState::Moving,
            budget: true,
            ..input(0, pods)
        };
        steps(&input, now())
    };
    let gone = |pod: Replica| Replica {
        draining_since: ago(9),
        in_endpoints: false,
        busy: Some(0),
        ..pod
    };
    let of_set = [2, 1, 0].map(|ordinal| with_ordinal(ordinal, 3));
    let of_deployment = ["2", "1", "0"].map(|name| pod(name, 3));
    for [highest, middle, lowest] in [of_set, of_deployment] {
        let mut drained = to_zero(vec![highest.clone(), middle.clone(), lowest.clone()]).drain;
        drained.sort();
        assert_eq!(drained, ["0", "1", "2"]);
        let gone = [gone(highest), gone(middle)];
        // one that the rollout has just made, or that was not told before
        let with = |last: Replica| to_zero([&gone[..], &[last]].concat());
        let fresh = with(lowest.clone());
        assert_eq!(fresh.drain, ["0"]);
        assert_eq!((fresh.remove.len(), fresh.replicas), (2, 1));
        let draining = with(Replica {
            draining_since: ago(9),
            ..lowest.clone()
        });
        assert_eq!((draining.remove.len(), draining.replicas), (2, 1));
        let timed_out = with(Replica {
            draining_since: ago(60),
            ..lowest.clone()
        });
        assert_eq!((timed_out.remove.len(), timed_out.replicas), (3, 0));
        // nobody uses one without a node
        let pending = with(Replica {
            has_node: false,
            may_have_requests: false,
            ready: false,
            ..lowest
        });
        assert_eq!((pending.drain.len(), pending.replicas), (1, 0));
    }
}

#[test]
fn demand_that_comes_back_in_a_rollout_keeps_the_replica_that_it_asks_for() {
    let leaving = |name: &str| Replica {
        draining_since: ago(9),
        in_endpoints: false,
        ..pod(name, 0)
    };
    let input = DrainInput {
        replicas: 2,
        rollout: RolloutState::Moving,
        ..input(1, vec![leaving("a"), leaving("b"), leaving("c")])
    };
    let steps = steps(&input, now());
    assert_eq!((steps.keep.len(), steps.replicas), (1, 1));
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
fn a_stuck_rollout_with_surge_drains_no_more_replicas_than_its_deployment_deletes() {
    let broken = Replica {
        may_have_requests: false,
        ready: false,
        busy: None,
        ..pod("broken", 0)
    };
    let drained = |leaves: Option<&str>| {
        let replicas = ["a", "b", "c"].map(|name| Replica {
            draining_since: ago(1).filter(|_| leaves == Some(name)),
            ..pod(name, 1)
        });
        let pods = [&replicas[..], std::slice::from_ref(&broken)].concat();
        let in_stuck_rollout = DrainInput {
            rollout: RolloutState::Stuck,
            replicas: 3,
            ..input(2, pods)
        };
        steps(&in_stuck_rollout, now()).drain
    };
    assert_eq!(drained(None), ["a"]);
    assert_eq!(
        drained(Some("a")),
        [""; 0],
        "it keeps the others, and the broken one"
    );
}

#[test]
fn an_idle_replica_waits_for_the_requests_of_an_unready_one_that_would_be_deleted_in_its_place() {
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
