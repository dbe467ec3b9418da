//! Orders to a target, and the gateways' endpoints of its Service.

use bursar_api::InferenceDeployment;
use bursar_api::inference::TargetStatus;
use bursar_api::names::{FIELD_MANAGER, TARGET_FINALIZER};
use bursar_core::model::Key;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::json;

use super::{ScaleTarget, is_recorded, release, status, was_adopted};
use crate::api_calls::{ApiError, Unapplied, with_timeout};
use crate::context::Context;
use crate::executor::ServiceChange;
use crate::gateways;
use crate::inference::build::Front;
use crate::inference::gateway_slices::{apply_gateway_slices, empty_slices};
use crate::inference::{mark_pods, note_change, port};

/// Writes at versions that somebody else has made stale meanwhile are repeated so often.
const MAX_ATTEMPTS: u32 = 3;

/// Carries out an order, and makes the gateways endpoints of the target's Service.
///
/// # Errors
/// The first call that failed. The endpoints keep no order from being carried out.
pub(crate) async fn apply(
    context: &Context,
    key: &Key,
    object: &InferenceDeployment,
    change: Option<&ServiceChange>,
    now: Timestamp,
) -> Result<(), Unapplied> {
    if object.metadata.deletion_timestamp.is_some() {
        let released = release::release(context, key, object, now).await;
        return released.map_err(Unapplied::before_order);
    }
    let view = context.scale_targets.view(key);
    let is_adopted = view.as_ref().is_some_and(|view| view.is_adopted);
    match (context.scale_targets.scalable(key), change) {
        (Ok(target), change) => {
            let adopted = adopt(context, key, object, &target).await;
            adopted.map_err(Unapplied::before_order)?;
            let is_late = context.scale_targets.is_adopted_late(key, now);
            let may_be_carried_out =
                |change: &ServiceChange| is_adopted || is_late && change.is_for_money();
            if change.is_some_and(|change| !may_be_carried_out(change)) {
                // pods that nobody knows yet would go without a drain
                let error = ApiError::Conflict {
                    call: "adopt target",
                };
                return Err(Unapplied::before_order(error));
            }
            if let Some(change) = change {
                let applied = apply_order(context, key, object, (&target, change), now).await;
                applied.map_err(Unapplied::before_order)?;
            }
        }
        // whoever else scales it: what there is no money for goes, and demand takes nothing away meanwhile
        (Err(error), Some(change)) => {
            let target = view.and_then(|view| view.target);
            let target = target.filter(|_| !change.grows() && was_adopted(object));
            let Some(target) = target else {
                return Err(Unapplied::before_order(error));
            };
            let applied = apply_order(context, key, object, (&target, change), now).await;
            applied.map_err(Unapplied::before_order)?;
        }
        // the condition TargetReady says why
        (Err(_), None) => {}
    }
    let path = apply_path(context, key, object, now).await;
    path.map_err(Unapplied::after_order)
}

/// Notes what the target gets back, before anything of it is changed: the finalizer, and the replicas
/// that it has.
async fn adopt(
    context: &Context,
    key: &Key,
    object: &InferenceDeployment,
    target: &ScaleTarget,
) -> Result<(), ApiError> {
    let api: Api<InferenceDeployment> = Api::namespaced(context.client.clone(), &key.namespace);
    let params = PatchParams::default();
    let mut version = object.resource_version();
    let mut finalizers = object.finalizers().to_vec();
    if !is_recorded(object) {
        finalizers.push(TARGET_FINALIZER.to_owned());
        let metadata =
            json!({"uid": object.uid(), "resourceVersion": version, "finalizers": finalizers});
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let patched = api.patch_metadata(&key.name, &params, &patch);
        let patched = with_timeout("add finalizer", patched).await?;
        version = patched.resource_version();
    }
    let known = object
        .status
        .as_ref()
        .and_then(|status| status.target.as_ref());
    if known.is_some_and(|known| known.uid == *target.uid && known.replicas_before.is_some()) {
        return Ok(());
    }
    let status = TargetStatus {
        replicas_before: i32::try_from(target.state.replicas).ok(),
        ..status::target_status(object, target)
    };
    let patch = json!({"metadata": {"uid": object.uid(), "resourceVersion": version}, "status": {"target": status}});
    let patch = Patch::Merge(patch);
    let patched = api.patch_status(&key.name, &params, &patch);
    with_timeout("note replicas of target", patched)
        .await
        .map(drop)
}

/// Tells the pods and the target what was ordered.
async fn apply_order(
    context: &Context,
    key: &Key,
    object: &InferenceDeployment,
    (target, change): (&ScaleTarget, &ServiceChange),
    now: Timestamp,
) -> Result<(), ApiError> {
    let marked = mark_pods(context, key, &change.pods, now).await;
    let replicas = change.order.replicas.1;
    // which pods go first does not matter where all go
    if replicas > 0 {
        marked?;
        return scale(context, key, object, (target, change), now).await;
    }
    scale(context, key, object, (target, change), now).await?;
    marked
}

async fn scale(
    context: &Context,
    key: &Key,
    object: &InferenceDeployment,
    (target, change): (&ScaleTarget, &ServiceChange),
    now: Timestamp,
) -> Result<(), ApiError> {
    let (known, wanted) = (target.state.replicas, change.order.replicas.1);
    if known != wanted {
        let api = target.api(&context.client, &key.namespace);
        match set_replicas(&api, &target.name, Some(known), wanted).await? {
            Scaled::Done => context.scale_targets.note_replicas(key, wanted, now),
            Scaled::Otherwise(found) => {
                // somebody else scaled it: what was ordered is decided anew
                context.scale_targets.note_replicas(key, found, now);
                return Err(ApiError::Conflict {
                    call: "scale target",
                });
            }
        }
    }
    note_change(context, object, change, known != wanted);
    Ok(())
}

/// What became of replicas that a target was to have.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scaled {
    /// It has them.
    Done,
    /// It had so many, and not those that were known.
    Otherwise(u32),
}

/// Tells a target by its scale how many replicas it has, at the version that was read. If it does not have
/// those that are `known`, nothing is written.
///
/// # Errors
/// A call failed.
pub(super) async fn set_replicas(
    api: &Api<DynamicObject>,
    name: &str,
    known: Option<u32>,
    wanted: u32,
) -> Result<Scaled, ApiError> {
    let call = "scale target";
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    for left in (0..MAX_ATTEMPTS).rev() {
        let found = with_timeout("get scale of target", api.get_scale(name)).await?;
        let replicas = found.spec.and_then(|spec| spec.replicas).unwrap_or(0);
        let replicas = u32::try_from(replicas).unwrap_or(0);
        if replicas == wanted {
            return Ok(Scaled::Done);
        }
        if known.is_some_and(|known| known != replicas) {
            return Ok(Scaled::Otherwise(replicas));
        }
        let version = found.metadata.resource_version;
        let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"replicas": wanted}});
        let patch = Patch::Merge(patch);
        let patched = api.patch_scale(name, &params, &patch);
        match with_timeout(call, patched).await {
            Err(ApiError::Conflict { .. }) if left > 0 => {}
            other => return other.map(|_| Scaled::Done),
        }
    }
    Err(ApiError::Conflict { call })
}

/// Puts the gateways into the slices of the target's Service, or takes them out where it may have none.
pub(crate) async fn apply_path(
    context: &Context,
    key: &Key,
    object: &InferenceDeployment,
    now: Timestamp,
) -> Result<(), ApiError> {
    let port = port(context, object, now).ok();
    let view = context.scale_targets.view(key);
    let Some(view) = view else {
        // it was not read yet: what gateways there are stay
        return Ok(());
    };
    // while somebody else scales it, nobody would answer what gateways hold
    let is_held = view
        .problem
        .as_ref()
        .is_some_and(|problem| problem.stands());
    let front = view.target.as_ref().filter(|_| !is_held);
    let front = front.and_then(|target| target.front());
    match front {
        Some(found) => {
            let front = Front {
                service: &found.name,
                port_name: found.port_name.as_deref(),
            };
            let families = &found.families;
            apply_gateway_slices(context, key, object, (port, false), (&front, families), now).await
        }
        None => {
            // the slices keep the port that they have, which may be another service's by now
            let port = gateways::slice_port(&context.stores.slices, key);
            empty_slices(context, key, object, port, now).await
        }
    }
}
