//! The way of requests to a service: to its replicas, and to gateways while none is ready; or all
//! through gateways (`activation.mode: Always`).
//!
//! A way is three objects: the Service's selector, whether its slice of gateways has them as ready, and
//! the Service that has the replicas meanwhile. What they should be next follows from what they are, so
//! a switch goes on after a crash at any write, and turns back where the mode does. Clients find a ready
//! endpoint between any two writes: gateways become ready before the selector leaves the replicas, and
//! cease to be once the cluster has put the replicas back.
//!
//! The Service keeps a selector, which no pod matches, instead of having none: the cluster then empties
//! the slices that it made itself. Of a Service without a selector it would leave them as they are, and
//! make further ones of the Endpoints that it left ([ADR 25]).
//!
//! [ADR 25]: ../../../../docs/adr/0025-all-requests-through-gateways.md

use std::collections::BTreeSet;

use bursar_api::InferenceDeployment;
use bursar_api::conditions::{ConditionState, REQUESTS_WAKE, requests_wake};
use bursar_api::inference::ActivationMode;
use bursar_api::names::{SERVED_BY_GATEWAYS, SERVING_LABEL, replicas_service};
use bursar_api::spend::{WorkloadKind, WorkloadRef};
use bursar_core::model::Key;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt;

use crate::cache::{Stores, cached};
use crate::context::Context;
use crate::gateways;
use crate::inference::build::Family;
use crate::lock::lock;
use crate::ownership::is_owned;
use crate::pod;
use crate::slice_index::{has_ready_endpoint, ready_endpoints};

/// The label by which the cluster says whose a slice is.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// What a service's way is now, as the caches show it, and what it could be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PathState {
    /// All requests should go through gateways.
    pub(crate) is_always: bool,
    /// The service says itself who may reach it, which gateways alone check.
    pub(crate) restricts_callers: bool,
    /// The service has a port on gateways, and for each family of its addresses there is one that takes
    /// requests.
    pub(crate) has_gateway: bool,
    /// There are gateways, and none has an address of one of these families.
    pub(crate) lacks_address: bool,
    /// The Service of the service's own name is there, and is not somebody else's.
    pub(crate) owns_front: bool,
    /// The Service of the replicas is there.
    pub(crate) has_replicas_service: bool,
    /// The slice has gateways, as ready ones.
    pub(crate) gateways_ready: bool,
    /// The Service selects no replica.
    pub(crate) is_through_gateways: bool,
    /// Each replica that takes requests is a ready endpoint of the Service by the cluster's slices.
    pub(crate) has_replicas: bool,
}

/// What a service's way should be next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestPath {
    /// There is a Service for the replicas.
    pub(crate) replicas_service: bool,
    /// The slice has gateways as ready, and not as a last resort.
    pub(crate) gateways_ready: bool,
    /// The slice stays as it is, with gateways that take no requests any more: the cluster has not put the
    /// replicas back yet.
    pub(crate) keeps_slice: bool,
    /// The Service selects no replica.
    pub(crate) through_gateways: bool,
}

impl RequestPath {
    /// The next step of a service in this state.
    pub(crate) fn next(state: PathState) -> Self {
        let was_begun = state.has_gateways();
        let is_back = !state.is_through_gateways && state.has_replicas;
        let gateways_ready = match state.is_always {
            true => state.has_replicas_service && state.owns_front || was_begun,
            false => was_begun && !is_back,
        };
        // without a gateway requests had better reach a replica that is ready than nobody; but not
        // those of clients that only gateways turn away
        let may_stay = state.is_through_gateways && state.restricts_callers;
        let through_gateways =
            state.is_always && (may_stay || state.has_gateway && state.gateways_ready);
        let is_left = state.is_always && !state.has_gateway && !through_gateways;
        let has_none_yet = state.is_through_gateways || !state.has_replicas;
        Self {
            replicas_service: state.is_always || was_begun,
            gateways_ready,
            keeps_slice: is_left && state.gateways_ready && has_none_yet,
            through_gateways,
        }
    }
}

impl PathState {
    /// Whether gateways are ready endpoints, or would be if there were one.
    pub(crate) fn has_gateways(&self) -> bool {
        self.gateways_ready || self.is_through_gateways
    }

    /// The state of a service, by the caches.
    pub(crate) fn of(context: &Context, object: &InferenceDeployment, has_port: bool) -> Self {
        let namespace = object.namespace().unwrap_or_default();
        let key = Key::new(&namespace, &object.name_any());
        let stores = &context.stores;
        let owner = object.metadata.uid.as_deref();
        let found = |name: &str| {
            let found = cached(&stores.front_services, &Key::new(&namespace, name))?;
            let is_kept = found.metadata.deletion_timestamp.is_none();
            (is_kept && is_owned(&*found, owner)).then_some(found)
        };
        let gateways = lock(&context.index).gateways(&context.namespace);
        let front = found(&key.name);
        let families = families(stores, &key);
        let has_address = |family: &Family| gateways.iter().any(|each| family.contains(each));
        let is_ready = |family: &Family| has_ready_gateway(stores, &key, *family);
        Self {
            is_always: is_always(object),
            restricts_callers: object.spec.activation.allow_from.is_some(),
            has_gateway: has_port && families.iter().all(has_address),
            lacks_address: !gateways.is_empty() && !families.iter().all(has_address),
            owns_front: front.is_some(),
            has_replicas_service: found(&replicas_service(&key.name)).is_some(),
            gateways_ready: families.iter().all(is_ready),
            is_through_gateways: front.is_some_and(|front| is_through_gateways(&front)),
            // it is only asked for on the way back
            has_replicas: !waits_for_replicas(stores, &key) || has_replicas(context, &key),
        }
    }
}

/// Whether all requests of a service should go through gateways.
fn is_always(object: &InferenceDeployment) -> bool {
    object.spec.activation.mode == ActivationMode::Always
}

/// Whether a Service selects no replica.
fn is_through_gateways(service: &Service) -> bool {
    let selector = service
        .spec
        .as_ref()
        .and_then(|spec| spec.selector.as_ref());
    let serving = selector.and_then(|selector| selector.get(SERVING_LABEL));
    serving.is_some_and(|value| value == SERVED_BY_GATEWAYS)
}

/// The families of a service's addresses, as the cluster has given them to its Service.
pub(crate) fn families(stores: &Stores, service: &Key) -> Vec<Family> {
    let front = cached(&stores.front_services, service);
    let spec = front.as_ref().and_then(|front| front.spec.as_ref());
    spec.map_or_else(|| vec![Family::Ipv4], Family::of)
}

/// Whether the slice of gateways of this family has one as ready.
fn has_ready_gateway(stores: &Stores, service: &Key, family: Family) -> bool {
    let slice = Key::new(&service.namespace, &family.gateway_slice(&service.name));
    cached(&stores.slices, &slice).is_some_and(|slice| has_ready_endpoint(&slice))
}

/// Whether a service goes back to its replicas, so that each change of its endpoints may be the last one
/// that it waits for: its mode is another, or there is no gateway.
pub(crate) fn waits_for_replicas(stores: &Stores, service: &Key) -> bool {
    let is_through = || {
        let front = cached(&stores.front_services, service);
        front.is_some_and(|front| is_through_gateways(&front))
    };
    let mut slices = gateways::slices_of(&stores.slices, service);
    slices.any(|slice| has_ready_endpoint(&slice))
        && cached(&stores.services, service)
            .is_some_and(|object| !is_always(&object) || !is_through())
}

/// Whether each replica that takes requests is a ready endpoint of the service's own Service, by the
/// slices that the cluster makes.
fn has_replicas(context: &Context, service: &Key) -> bool {
    let workload = WorkloadRef {
        namespace: service.namespace.to_string(),
        kind: WorkloadKind::InferenceDeployment,
        name: service.name.to_string(),
    };
    let stores = &context.stores;
    let pods = lock(&context.index).pods_of(&stores.pods, &workload);
    let slices = lock(&context.slice_index);
    let slices = slices.of(service).filter_map(|name| {
        let key = Key {
            namespace: service.namespace.clone(),
            name: name.clone(),
        };
        cached(&stores.slices, &key)
    });
    let slices: Vec<_> = slices
        .filter(|slice| {
            slice.labels().get(SERVICE_NAME_LABEL).map(String::as_str) == Some(&*service.name)
        })
        .collect();
    let endpoints: BTreeSet<&str> = slices
        .iter()
        .flat_map(|slice| ready_endpoints(slice))
        .collect();
    let mut serving = pods.iter().filter(|pod| takes_requests(pod));
    serving.all(|pod| endpoints.contains(pod::uid(pod)))
}

fn takes_requests(pod: &Pod) -> bool {
    pod::is_ready(pod)
        && pod.labels().contains_key(SERVING_LABEL)
        && pod.metadata.deletion_timestamp.is_none()
}

/// The condition of a service that requests do not wake by its Service; `None` if they do, as far as the
/// Service says it.
pub(crate) fn condition(
    context: &Context,
    object: &InferenceDeployment,
    has_port: bool,
) -> Option<ConditionState> {
    let namespace = object.namespace().unwrap_or_default();
    let name = object.name_any();
    let front = cached(&context.stores.front_services, &Key::new(&namespace, &name))?;
    let state = PathState::of(context, object, has_port);
    let (reason, why) = hindrance(&front, state, &name)?;
    Some(ConditionState {
        kind: REQUESTS_WAKE,
        status: Some(false),
        reason,
        message: why,
    })
}

/// What keeps requests that come by this Service from waking.
fn hindrance(
    front: &Service,
    state: PathState,
    name: &str,
) -> Option<(bursar_api::conditions::Reason, String)> {
    let spec = front.spec.as_ref()?;
    let fix = match state.is_always {
        true => String::new(),
        false => "; or let all requests go through gateways: activation.mode: Always".to_owned(),
    };
    if spec.cluster_ip.as_deref() == Some("None") {
        let why = format!(
            "Service {name} is headless, so clients connect to replicas, and to nothing while there is none: delete it, and Bursar makes one with an address{fix}"
        );
        return Some((requests_wake::SERVICE_HEADLESS, why));
    }
    if spec.internal_traffic_policy.as_deref() == Some("Local") {
        let why = format!(
            "Service {name} has internalTrafficPolicy: Local, so only clients on the nodes of gateways reach one: let whoever sets it stop"
        );
        return Some((requests_wake::LOCAL_TRAFFIC_POLICY, why));
    }
    if spec.publish_not_ready_addresses == Some(true) && !state.is_through_gateways {
        let why = format!(
            "Service {name} has publishNotReadyAddresses, so requests go to replicas that still load their model, and are refused: let whoever sets it stop{fix}"
        );
        return Some((requests_wake::NOT_READY_PUBLISHED, why));
    }
    if state.lacks_address {
        let families = spec.ip_families.iter().flatten().cloned();
        let families = families.collect::<Vec<_>>().join(" and ");
        let why = format!(
            "Service {name} has addresses of {families}, and no gateway has one of each: who connects by the missing family wakes nothing. Gateways need pods with addresses of the Service's families"
        );
        return Some((requests_wake::NO_GATEWAY_ADDRESS, why));
    }
    let missing = match (state.is_always, state.is_through_gateways) {
        (true, false) if !state.has_replicas_service => {
            format!("Service {} is not there", replicas_service(name))
        }
        (true, false) if !state.has_gateway => "no gateway takes its requests".to_owned(),
        (true, true) if !state.has_gateway => {
            let why = "activation.mode is Always, activation.allowFrom lets only gateways forward, and no gateway takes its requests: they are refused";
            return Some((requests_wake::GATEWAYS_NOT_IN_PATH, why.to_owned()));
        }
        _ => return None,
    };
    let why = format!(
        "activation.mode is Always, and requests go to replicas directly, since {missing}: while no replica is ready, clients that use ready endpoints alone reach nobody"
    );
    Some((requests_wake::GATEWAYS_NOT_IN_PATH, why))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const COLD: PathState = PathState {
        is_always: false,
        restricts_callers: false,
        has_gateway: true,
        lacks_address: false,
        owns_front: true,
        has_replicas_service: false,
        gateways_ready: false,
        is_through_gateways: false,
        has_replicas: true,
    };

    fn path(replicas_service: bool, gateways_ready: bool, through_gateways: bool) -> RequestPath {
        RequestPath {
            replicas_service,
            gateways_ready,
            keeps_slice: false,
            through_gateways,
        }
    }

    /// What a state becomes by one step, if the cluster puts `replicas` into the Service's slices.
    fn step(state: PathState) -> PathState {
        let next = RequestPath::next(state);
        PathState {
            has_replicas_service: next.replicas_service,
            gateways_ready: next.gateways_ready && state.has_gateway,
            is_through_gateways: next.through_gateways,
            has_replicas: !next.through_gateways,
            ..state
        }
    }

    #[test]
    fn a_service_goes_to_gateways_and_back_in_steps_that_each_leave_a_ready_endpoint() {
        assert_eq!(RequestPath::next(COLD), path(false, false, false));
        let mut state = PathState {
            is_always: true,
            ..COLD
        };
        assert_eq!(RequestPath::next(state), path(true, false, false));
        state = step(state);
        assert_eq!(RequestPath::next(state), path(true, true, false));
        state = step(state);
        assert_eq!(RequestPath::next(state), path(true, true, true));
        state = step(state);
        assert_eq!(RequestPath::next(state), path(true, true, true), "it stays");
        state.is_always = false;
        assert_eq!(RequestPath::next(state), path(true, true, false));
        state = PathState {
            has_replicas: false,
            ..step(state)
        };
        assert_eq!(
            RequestPath::next(state),
            path(true, true, false),
            "the cluster has not put the replicas back yet"
        );
        state.has_replicas = true;
        assert_eq!(RequestPath::next(state), path(true, false, false));
        state = step(state);
        assert_eq!(RequestPath::next(state), path(false, false, false));
    }

    #[test]
    fn a_switch_turns_back_wherever_it_is() {
        let mut state = PathState {
            is_always: true,
            ..COLD
        };
        for steps in 0..4 {
            let mut back = PathState {
                is_always: false,
                ..state
            };
            for _ in 0..4 {
                back = step(back);
            }
            assert_eq!(back, COLD, "after {steps} steps");
            state = step(state);
        }
    }

    #[test]
    fn without_a_gateway_requests_go_to_replicas_unless_the_service_says_who_may_reach_it() {
        let through = PathState {
            is_always: true,
            has_replicas_service: true,
            gateways_ready: true,
            is_through_gateways: true,
            has_replicas: false,
            ..COLD
        };
        let alone = PathState {
            has_gateway: false,
            ..through
        };
        let next = RequestPath::next(alone);
        assert!(!next.through_gateways);
        assert!(next.keeps_slice, "the Service is written first");
        let waits = PathState {
            is_through_gateways: false,
            ..alone
        };
        assert!(RequestPath::next(waits).keeps_slice);
        let is_back = PathState {
            has_replicas: true,
            ..waits
        };
        assert!(!RequestPath::next(is_back).keeps_slice);
        let restricted = PathState {
            restricts_callers: true,
            ..alone
        };
        assert!(!RequestPath::next(restricted).keeps_slice);
        // its slice is empty by then
        let alone = PathState {
            gateways_ready: false,
            ..alone
        };
        assert_eq!(RequestPath::next(alone), path(true, true, false));
        let restricted = PathState {
            restricts_callers: true,
            ..alone
        };
        assert!(RequestPath::next(restricted).through_gateways);
        let not_begun = PathState {
            is_through_gateways: false,
            ..restricted
        };
        assert!(!RequestPath::next(not_begun).through_gateways);
    }

    #[test]
    fn the_condition_names_what_is_in_the_way_and_the_mode_that_helps() {
        let hindrance = |spec: serde_json::Value, state: PathState| {
            let front: Service = serde_json::from_value(json!({"spec": spec})).unwrap();
            hindrance(&front, state, "chat").map(|(reason, why)| (reason.as_str(), why))
        };
        assert_eq!(hindrance(json!({"clusterIP": "10.0.0.1"}), COLD), None);
        for (spec, reason, helps) in [
            (json!({"clusterIP": "None"}), "ServiceHeadless", true),
            (
                json!({"internalTrafficPolicy": "Local"}),
                "LocalTrafficPolicy",
                false,
            ),
            (
                json!({"publishNotReadyAddresses": true}),
                "NotReadyPublished",
                true,
            ),
        ] {
            let (found, why) = hindrance(spec, COLD).unwrap();
            assert_eq!(found, reason);
            assert_eq!(why.contains("activation.mode: Always"), helps, "{why}");
        }
        let always = PathState {
            is_always: true,
            ..COLD
        };
        let (reason, why) = hindrance(json!({}), always).unwrap();
        assert_eq!(reason, "GatewaysNotInPath");
        assert!(why.contains("Service chat-replicas is not there"), "{why}");
        let lacks = PathState {
            lacks_address: true,
            ..COLD
        };
        let (reason, why) = hindrance(json!({"ipFamilies": ["IPv6", "IPv4"]}), lacks).unwrap();
        assert_eq!(reason, "NoGatewayAddress");
        assert!(why.contains("IPv6 and IPv4"), "{why}");
        let switched = step(step(step(always)));
        assert_eq!(hindrance(json!({}), switched), None);
        let not_ready = json!({"publishNotReadyAddresses": true});
        assert_eq!(hindrance(not_ready, switched), None);
    }
}
