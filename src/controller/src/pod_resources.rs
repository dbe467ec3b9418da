//! The resources that pods ask for and have.

use std::collections::BTreeMap;

use bursar_api::quantities;
use bursar_core::capacity::Resources;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Amounts in thousandths of their units. The API server lets no amount through that is not a
/// quantity.
pub(crate) fn amounts(quantities: Option<&BTreeMap<String, Quantity>>) -> Resources {
    let all = quantities.into_iter().flatten();
    all.filter_map(|(name, quantity)| Some((name.clone(), quantities::milli(quantity).ok()?)))
        .collect()
}

/// What a pod asks for: the sum of its containers and sidecars, or its largest init container; a
/// limit counts where no request is. What it asks for as a whole stands for its containers, and its
/// overhead comes on top.
pub(crate) fn requests(spec: &PodSpec) -> Resources {
    total(spec, None)
}

/// What a pod has: as it asks for, or as its kubelet has allocated. The two differ while it is
/// resized in place.
pub(crate) fn allocated(pod: &Pod) -> Resources {
    let spec = pod.spec.as_ref();
    spec.map(|spec| total(spec, pod.status.as_ref()))
        .unwrap_or_default()
}

fn total(spec: &PodSpec, status: Option<&PodStatus>) -> Resources {
    let told = |name: &str| {
        let status = status?;
        let all = [&status.container_statuses, &status.init_container_statuses];
        let told = all
            .into_iter()
            .flatten()
            .flatten()
            .find(|told| told.name == name)?;
        let actual = told
            .resources
            .as_ref()
            .and_then(|actual| actual.requests.as_ref());
        told.allocated_resources.as_ref().or(actual)
    };
    let of = |container: &Container| {
        let asked = container.resources.as_ref();
        let mut all = amounts(asked.and_then(|asked| asked.limits.as_ref()));
        all.extend(amounts(asked.and_then(|asked| asked.requests.as_ref())));
        all.extend(amounts(told(&container.name)));
        all
    };
    let is_sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let init = || spec.init_containers.iter().flatten();
    let mut sum = Resources::from([("pods".to_owned(), 1000)]);
    for (name, amount) in spec
        .containers
        .iter()
        .chain(init().filter(is_sidecar))
        .flat_map(of)
    {
        let sum = sum.entry(name).or_default();
        *sum = sum.saturating_add(amount);
    }
    for (name, amount) in init()
        .filter(|container| !is_sidecar(container))
        .flat_map(of)
    {
        let sum = sum.entry(name).or_default();
        *sum = (*sum).max(amount);
    }
    if let Some(asked) = &spec.resources {
        let actual = status.and_then(|status| status.resources.as_ref()?.requests.as_ref());
        sum.extend(amounts(asked.requests.as_ref()));
        sum.extend(amounts(actual));
    }
    for (name, amount) in amounts(spec.overhead.as_ref()) {
        let sum = sum.entry(name).or_default();
        *sum = sum.saturating_add(amount);
    }
    sum
}
