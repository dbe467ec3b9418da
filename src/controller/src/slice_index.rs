//! Which slices of endpoints are whose: found without looking at all slices.

use std::collections::{BTreeSet, HashMap};

use bursar_api::names::WORKLOAD_LABEL;
use bursar_core::model::Key;
use bursar_core::model::event::Name;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::ResourceExt;

/// Whether an endpoint is ready.
fn is_ready(endpoint: &Endpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    conditions
        .and_then(|conditions| conditions.ready)
        .unwrap_or(true)
}

/// Whether a slice has an endpoint that is ready.
pub(crate) fn has_ready_endpoint(slice: &EndpointSlice) -> bool {
    slice.endpoints.iter().flatten().any(is_ready)
}

/// The UIDs of the pods that a slice shows as ready.
pub(crate) fn ready_endpoints(slice: &EndpointSlice) -> impl Iterator<Item = &str> {
    let endpoints = slice.endpoints.iter().flatten();
    let ready = endpoints.filter(|endpoint| is_ready(endpoint));
    ready.filter_map(|endpoint| endpoint.target_ref.as_ref()?.uid.as_deref())
}

/// The service of each slice, and the slices of each service.
#[derive(Debug, Default)]
pub(crate) struct SliceIndex {
    services: HashMap<Key, Key>,
    slices: HashMap<Key, BTreeSet<Name>>,
}

impl SliceIndex {
    /// Puts a slice where it belongs now; `None` if it is gone. Returns the services that it
    /// belongs to or did.
    pub(crate) fn set(&mut self, key: &Key, slice: Option<&EndpointSlice>) -> BTreeSet<Key> {
        let label = slice.and_then(|slice| slice.labels().get(WORKLOAD_LABEL));
        let service = label.map(|name| Key::new(&key.namespace, name));
        let former = match &service {
            Some(service) => self.services.insert(key.clone(), service.clone()),
            None => self.services.remove(key),
        };
        if let Some(former) = &former
            && let Some(slices) = self.slices.get_mut(former)
        {
            slices.remove(&key.name);
            if slices.is_empty() {
                self.slices.remove(former);
            }
        }
        if let Some(service) = &service {
            let slices = self.slices.entry(service.clone()).or_default();
            slices.insert(key.name.clone());
        }
        service.into_iter().chain(former).collect()
    }

    /// The names of a service's slices.
    pub(crate) fn of(&self, service: &Key) -> impl Iterator<Item = &Name> {
        self.slices.get(service).into_iter().flatten()
    }
}
