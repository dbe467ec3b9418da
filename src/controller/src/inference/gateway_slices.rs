//! The slices of endpoints by which gateways are in the way of a Service's requests.

use bursar_api::InferenceDeployment;
use bursar_core::model::Key;
use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::Api;
use serde_json::json;

use crate::api_calls::{ApiError, apply_if_changed, is_as_asked, is_shown};
use crate::cache::cached;
use crate::context::Context;
use crate::gateways;
use crate::inference::build::{self, Family, Front};
use crate::inference::request_path::families;
use crate::lock::lock;

/// The endpoints by which the gateways serve on this port: a slice of IPv4, and one of IPv6 where the Service
/// has such an address. One that it had before is emptied, and all are where the service has no port.
pub(super) async fn apply_slices(
    context: &Context,
    key: &Key,
    object: &InferenceDeployment,
    (port, ready): (Option<u16>, bool),
    now: Timestamp,
) -> Result<(), ApiError> {
    let families = families(&context.stores, key);
    let front = Front::of(object, &key.name);
    apply_gateway_slices(
        context,
        key,
        object,
        (port, ready),
        (&front, &families),
        now,
    )
    .await
}

/// The same for any Service that has addresses of these families.
pub(crate) async fn apply_gateway_slices(
    context: &Context,
    key: &Key,
    object: &InferenceDeployment,
    (port, ready): (Option<u16>, bool),
    (front, families): (&Front<'_>, &[Family]),
    now: Timestamp,
) -> Result<(), ApiError> {
    let Some(port) = port else {
        // the port in its slices may be another service's before long
        return empty_slices(context, key, object, None, now).await;
    };
    let gateways = lock(&context.index).gateways(&context.namespace);
    let slice =
        |family, gateways| build::gateway_endpoints(object, front, family, port, gateways, ready);
    let ipv4 = slice(Family::Ipv4, gateways.clone());
    let ipv4 = apply_slice(context, key, ipv4, now).await;
    let has_ipv6 = families.contains(&Family::Ipv6);
    let name = Key::new(&key.namespace, &Family::Ipv6.gateway_slice(&key.name));
    if !has_ipv6 && cached(&context.stores.slices, &name).is_none() {
        return ipv4;
    }
    let gateways = match has_ipv6 {
        true => gateways,
        false => Vec::new(),
    };
    let ipv6 = slice(Family::Ipv6, gateways);
    apply_slice(context, key, ipv6, now).await.and(ipv4)
}

async fn apply_slice(
    context: &Context,
    key: &Key,
    wanted: EndpointSlice,
    now: Timestamp,
) -> Result<(), ApiError> {
    let slice = Key {
        namespace: key.namespace.clone(),
        name: wanted.name_any().as_str().into(),
    };
    context.check_readable::<EndpointSlice>(&slice.namespace, &slice.name)?;
    let (endpoints, ports) = (wanted.endpoints.clone(), wanted.ports.clone());
    let api: Api<EndpointSlice> = Api::namespaced(context.client.clone(), &key.namespace);
    let found = cached(&context.stores.slices, &slice);
    let edited = found
        .as_deref()
        .filter(|found| is_as_asked(*found, &wanted));
    if let Some(found) = edited {
        let patch = |found: &EndpointSlice| {
            let same = is_shown(&found.endpoints, &endpoints) && is_shown(&found.ports, &ports);
            (!same).then(|| json!({"endpoints": endpoints, "ports": ports}))
        };
        let edits = &context.foreign_edits;
        return edits.put_back_fields(&api, found, patch, now).await;
    }
    apply_if_changed(&api, found.as_deref(), wanted, |_| true)
        .await
        .map(drop)
}

/// Takes all gateways out of the slices that a service has. Without a port they keep the one that they
/// have.
pub(crate) async fn empty_slices(
    context: &Context,
    key: &Key,
    object: &InferenceDeployment,
    port: Option<u16>,
    now: Timestamp,
) -> Result<(), ApiError> {
    let port = port.or_else(|| gateways::slice_port(&context.stores.slices, key));
    let Some(port) = port else { return Ok(()) };
    let mut emptied = Ok(());
    for family in Family::ALL {
        let slice = Key::new(&key.namespace, &family.gateway_slice(&key.name));
        if cached(&context.stores.slices, &slice).is_some() {
            let front = Front::of(object, &key.name);
            let wanted = build::gateway_endpoints(object, &front, family, port, [], false);
            emptied = apply_slice(context, key, wanted, now).await.and(emptied);
        }
    }
    emptied
}
