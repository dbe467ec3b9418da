//! What became of room that was taken back for somebody.

use jiff::{SignedDuration, Timestamp};

use crate::model::event::{Owner, Pod};
use crate::model::preemptible::TakenRoom;
use crate::model::room::{ReservationOwner, RoomClaim, Trial};
use crate::model::state::Model;

/// Where pods of a lower priority have taken what became free, nothing more is taken for the same claim
/// for so long.
const TAKES_AGAIN_AFTER: SignedDuration = SignedDuration::from_hours(1);

/// Whether the claim would find room if pods of a lower priority had not taken what was taken back for
/// it: schedulers do not know of claims. Whatever else gives way, they might take as well.
pub(super) fn lower_priority_took(
    model: &Model,
    trial: &Trial<'_>,
    claim: &RoomClaim,
    now: Timestamp,
) -> bool {
    let Some(taken) = model.room_preemptions.taken.get(&claim.id()) else {
        return false;
    };
    if now.duration_since(taken.at) >= TAKES_AGAIN_AFTER {
        return false;
    }
    let priority = claim.rank.priority.0;
    let is_here = |pod: &Pod| {
        pod.node
            .as_ref()
            .is_some_and(|node| taken.nodes.contains(node))
    };
    let is_lower =
        |pod: &Pod| pod.shape.priority < priority && !matches!(pod.owner, Owner::Job(..));
    let came = model.pods.values().filter(|found| {
        let pod = &found.pod;
        let is_new = found.bound_at.is_some_and(|at| at >= taken.at);
        is_new && is_here(pod) && is_lower(pod) && pod.ended.is_none() && pod.deletion.is_none()
    });
    let came = came.filter_map(|found| Some((found.pod.node.as_ref()?, &found.pod.shape.requests)));
    let owners = reserved_here(model, taken, priority);
    let lost = model.room.held(came, owners).on(&taken.nodes);
    trial.fits(claim, &[&lost])
}

/// Those of a lower priority for whose pods room is reserved there: a scheduler is about to find it.
fn reserved_here(model: &Model, taken: &TakenRoom, priority: i32) -> Vec<ReservationOwner> {
    let owners = model.room.owners_on(&taken.nodes);
    let lower = owners.filter(|owner| match owner {
        ReservationOwner::Pod(uid) => {
            let found = model.pods.get(uid);
            found.is_some_and(|found| found.pod.shape.priority < priority)
        }
        ReservationOwner::Workload(key, Owner::Service(_)) => {
            let spec = model
                .services
                .get(key)
                .and_then(|state| state.spec.as_ref());
            spec.is_some_and(|spec| spec.priority < priority)
        }
        ReservationOwner::Workload(..) => false,
    });
    lower.cloned().collect()
}
