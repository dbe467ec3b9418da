//! Scale-in without a lost request: which replicas leave, and when each may go.
//!
//! A replica that leaves first loses the label that the Service selects on; it goes once the endpoints have followed and its engine
//! is idle, or the drain timed out. Only then does the Deployment shrink, with that replica as the cheapest to delete. All of this is
//! computed anew from what is seen, so that it goes on after a crash at any point, and turns around when demand comes back.
//!
//! A ReplicaSet deletes pods that are not ready before all others, whatever their deletion cost. So while one that stays has become
//! unready with requests on it, a ready one that has left is not deleted yet: the other would go in its place. A StatefulSet deletes its
//! highest ordinals, so those leave, and one below another that stays is not deleted.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

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
/// them: those count no longer among its replicas. During a rollout it has more pods than replicas, of which some leave: those that
/// stay are replicas.
pub fn non_draining(replicas: u32, pods: &[Replica]) -> u32 {
    let staying = count(pods.iter()) - count(leaving(pods));
    without_leaving(replicas, pods).max(staying.min(replicas))
}

/// The replicas that are left once those that leave have gone.
fn without_leaving(replicas: u32, pods: &[Replica]) -> u32 {
    let ours = count(leaving(pods)) - given_up(replicas, pods);
    replicas.saturating_sub(ours)
}

fn given_up(replicas: u32, pods: &[Replica]) -> u32 {
    let released = leaving(pods).filter(|pod| pod.marked_for_deletion);
    count(pods.iter())
        .saturating_sub(replicas)
        .min(count(released))
}

/// The replicas that come back instead of new ones where more are wanted, in their order, each with whether it does for
/// certain: what was given up may be deleted at any moment, and is not ours to keep.
pub(crate) fn coming_back(replicas: u32, pods: &[Replica]) -> Vec<(&Replica, bool)> {
    // those that began to leave last have lost the least
    let mut back: Vec<_> = leaving(pods).collect();
    back.sort_by_key(|pod| {
        (
            pod.ordinal,
            pod.marked_for_deletion,
            std::cmp::Reverse(pod.draining_since),
        )
    });
    let ours = back.len() - given_up(replicas, pods) as usize;
    let numbered = back.into_iter().enumerate();
    numbered.map(|(nth, pod)| (pod, nth < ours)).collect()
}

fn leaving(pods: &[Replica]) -> impl Iterator<Item = &Replica> {
    pods.iter().filter(|pod| pod.draining_since.is_some())
}

fn count<'a>(pods: impl Iterator<Item = &'a Replica>) -> u32 {
    u32::try_from(pods.count()).unwrap_or(u32::MAX)
}

/// The next steps from `input` towards what is allowed.
pub fn steps(input: &DrainInput, now: Timestamp) -> Steps {
    let mut steps = Steps {
        replicas: input.replicas,
        ..Steps::default()
    };
    if input.allowed < non_draining(input.replicas, &input.pods) {
        begin(input, &mut steps);
    } else {
        recall(input, &mut steps);
    }
    finish(input, now, &mut steps);
    steps
}

/// Lets replicas stay that leave, before new ones are made.
fn recall(input: &DrainInput, steps: &mut Steps) {
    let non_draining = non_draining(input.replicas, &input.pods);
    let back = coming_back(input.replicas, &input.pods);
    let wanted = input.allowed.saturating_sub(non_draining);
    let kept = back.into_iter().filter(|(_, is_ours)| *is_ours);
    steps.keep = names(kept.map(|(pod, _)| pod).take(wanted as usize));
    steps.replicas = input.replicas.max(input.allowed);
}

/// Tells replicas to leave that are more than is allowed.
fn begin(input: &DrainInput, steps: &mut Steps) {
    // a rollout has pods beyond the replicas, and these go with the last replica
    let all_go = input.allowed == 0;
    let has_ordinals = input.pods.iter().any(|pod| pod.ordinal.is_some());
    let waits_for_rollout = match input.rollout {
        RolloutState::None => false,
        RolloutState::Moving => true,
        // a StatefulSet would delete the broken one, and break the next
        RolloutState::Stuck => has_ordinals,
    };
    if waits_for_rollout && !input.budget && !all_go {
        return;
    }
    let non_draining = non_draining(input.replicas, &input.pods);
    let keeps_broken = input.rollout == RolloutState::Stuck && !input.budget && !all_go;
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
    let mut surplus = non_draining.saturating_sub(input.allowed) as usize;
    // replicas without a pod need no drain
    let mut podless = (non_draining as usize)
        .saturating_sub(candidates.len())
        .min(surplus)
        .min(deletable_without_pod(input));
    if keeps_broken {
        podless = 0;
        // a rollout with surge has pods beyond the replicas, which its controller keeps
        let left = without_leaving(input.replicas, &input.pods);
        let shrinks_by = left.saturating_sub(input.allowed);
        surplus = surplus
            .min(candidates.len().saturating_sub(1))
            .min(shrinks_by as usize);
    }
    let drained = if all_go {
        candidates.len()
    } else if has_ordinals {
        let goes = |pod: &&&Replica| staying_above(input, pod) < surplus;
        candidates.iter().take_while(goes).count()
    } else {
        surplus - podless
    };
    steps.drain = names(candidates.into_iter().take(drained));
    steps.replicas -= u32::try_from(podless).unwrap_or(0);
}

/// How many places of a StatefulSet above that of a pod do not leave, whether there is a pod or not: all of
/// them go before it.
fn staying_above(input: &DrainInput, pod: &Replica) -> usize {
    let ordinals = input.pods.iter().filter_map(|pod| pod.ordinal);
    // a rollout may have pods beyond the replicas
    let places = ordinals
        .max()
        .map_or(0, |highest| highest.saturating_add(1));
    let places = places.max(input.replicas);
    let above = pod.ordinal.map_or(0, |ordinal| {
        places.saturating_sub(ordinal.saturating_add(1))
    });
    let leaving = leaving(&input.pods).filter(|other| other.ordinal > pod.ordinal);
    above.saturating_sub(count(leaving)) as usize
}

/// Removes replicas that have left.
fn finish(input: &DrainInput, now: Timestamp, steps: &mut Steps) {
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
    let beyond_replicas = given_up(input.replicas, &input.pods);
    // with the last replica go all pods that are left
    let is_in_use = |pod: &Replica| pod.has_node && !steps.remove.contains(&pod.uid);
    let some_is_in_use = input.pods.iter().any(is_in_use);
    let least = input.allowed.max(u32::from(some_is_in_use));
    steps.replicas = steps
        .replicas
        .saturating_sub(removed.saturating_sub(beyond_replicas))
        .max(least.min(steps.replicas));
    if !steps.drain.is_empty() {
        steps.requeue_at = steps.requeue_at.into_iter().chain([now + SETTLE]).min();
    }
}

/// The UIDs of replicas without a node that are not taken back for nothing: in a StatefulSet, one above them goes first
/// that has a node.
pub(crate) fn held(pods: &[Replica]) -> BTreeSet<&str> {
    let highest = highest_with_node(pods);
    let held = pods
        .iter()
        .filter(|pod| !pod.has_node && pod.ordinal.is_some() && pod.ordinal < highest);
    held.map(|pod| pod.uid.as_str()).collect()
}

/// How many places without a pod are below a replica of a StatefulSet that has a node, which goes before them.
pub(crate) fn held_without_pod(pods: &[Replica]) -> u32 {
    let Some(highest) = highest_with_node(pods) else {
        return 0;
    };
    let ordinals = pods.iter().filter_map(|pod| pod.ordinal);
    let below: BTreeSet<u32> = ordinals.filter(|ordinal| *ordinal < highest).collect();
    highest.saturating_sub(u32::try_from(below.len()).unwrap_or(u32::MAX))
}

fn highest_with_node(pods: &[Replica]) -> Option<u32> {
    let with_node = pods.iter().filter(|pod| pod.has_node);
    with_node.filter_map(|pod| pod.ordinal).max()
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
