//! What became of room that was taken back for somebody.

use jiff::{SignedDuration, Timestamp};

use crate::model::capacity::{CapacityClaim, PreemptionDryRun, ReservationOwner};
use crate::model::event::{Owner, Pod, UNSCHEDULABLE_TIMEOUT};
use crate::model::preemptible::ReclaimedCapacity;
use crate::model::state::Model;

use super::priority_of;

/// Where pods of a lower priority have taken what became free, nothing more is taken for the same gang for
/// so long; for replicas, for as long as each of them may take anything.
const TAKES_AGAIN_AFTER: SignedDuration = SignedDuration::from_hours(1);

/// Whether the claim would find room if pods of a lower priority had not taken what was taken back for
/// it: schedulers do not know of claims. Whatever else gives way, they might take as well.
pub(super) fn lower_priority_took(
    model: &Model,
    dry_run: &PreemptionDryRun<'_>,
    claim: &CapacityClaim,
) -> bool {
    let Some(taken) = model.capacity_preemptions.taken.get(&claim.id()) else {
        return false;
    };
    let is_here = |pod: &Pod| {
        pod.node
            .as_ref()
            .is_some_and(|node| taken.nodes.contains(node))
    };
    // a gang that waits keeps those behind it from its nodes; where one runs on those of replicas
    // again, these have left them
    let counts = |pod: &Pod| claim.is_of_service || !matches!(pod.owner, Owner::Job(..));
    let is_lower = |pod: &Pod| pod.shape.priority < claim.pod_priority && counts(pod);
    let came = model.pods.values().filter(|found| {
        let pod = &found.pod;
        let is_new = found.bound_at.is_some_and(|at| at >= taken.at);
        is_new && is_here(pod) && is_lower(pod) && pod.ended.is_none() && pod.deletion.is_none()
    });
    let came = came.filter_map(|found| Some((found.pod.node.as_ref()?, &found.pod.shape.requests)));
    let owners = reserved_here(model, taken, claim);
    let lost = model.capacity.held(came, owners).on(&taken.nodes);
    dry_run.fits(claim, &[&lost])
}

/// Forgets what was taken for those that have their room, or that may take again.
pub(super) fn forget_taken(model: &mut Model, now: Timestamp) {
    let Model {
        capacity_preemptions,
        unschedulable,
        jobs,
        ..
    } = model;
    capacity_preemptions.taken.retain(|id, taken| {
        let waits = match id.is_of_service {
            true => unschedulable.contains(&id.key),
            false => jobs.get(&id.key).is_some_and(|state| !state.has_room()),
        };
        let again = match id.is_of_service {
            true => UNSCHEDULABLE_TIMEOUT,
            false => TAKES_AGAIN_AFTER,
        };
        waits && now.duration_since(taken.at) < again
    });
}

/// Those of a lower priority for whose pods room is reserved there: a scheduler is about to find it.
fn reserved_here(
    model: &Model,
    taken: &ReclaimedCapacity,
    claim: &CapacityClaim,
) -> Vec<ReservationOwner> {
    let counts = |owner: &ReservationOwner| {
        claim.is_of_service || !matches!(owner, ReservationOwner::Workload(_, Owner::Job(..)))
    };
    let owners = model.capacity.owners_on(&taken.nodes);
    let lower = owners.filter(|owner| {
        priority_of(model, owner).unwrap_or(0) < claim.pod_priority && counts(owner)
    });
    lower.cloned().collect()
}
