//! What sends requests to a service: Ingresses, HTTPRoutes and VirtualServices of its namespace.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::Ingress;
use kube::ResourceExt;
use serde_json::Value;

use super::cluster::{Seen, front};
use super::{Finding, Verdict, instead, is_always, unknown};

/// The annotation by which each of these ingress controllers sends to a Service's address. To others it
/// says nothing.
const TO_ADDRESS: [(&str, &str); 2] = [
    (
        "k8s.io/ingress-nginx",
        "nginx.ingress.kubernetes.io/service-upstream",
    ),
    ("nginx.org/ingress-controller", "nginx.org/use-cluster-ip"),
];
/// The annotations of a Service that do the same.
const NATIVE: [&str; 2] = [
    "traefik.ingress.kubernetes.io/service.nativelb",
    "traefik.io/service.nativelb",
];
/// Ingress controllers that use ready endpoints alone.
const READY_ALONE: [&str; 3] = [
    "k8s.io/ingress-nginx",
    "nginx.org/ingress-controller",
    "traefik.io/ingress-controller",
];

fn is_set(annotations: &BTreeMap<String, String>, names: &[&str]) -> bool {
    let mut values = names.iter().filter_map(|name| annotations.get(*name));
    values.any(|value| value.eq_ignore_ascii_case("true"))
}

/// Ingresses that send to the Service.
pub(super) fn ingresses(seen: &Seen) -> Vec<Finding> {
    let Some(name) = front(&seen.object) else {
        return Vec::new();
    };
    let all = match &seen.ingresses {
        Ok(all) => all,
        Err(why) => return vec![unknown("Ingresses", why)],
    };
    let services = seen.services.iter().flatten();
    let mut own = services.filter(|service| service.name_any() == name);
    let is_native = own.any(|service| is_set(service.annotations(), &NATIVE));
    let to_it = all
        .iter()
        .filter(|ingress| backends(ingress).contains(&&*name));
    to_it
        .map(|ingress| {
            let class = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_ref());
            let old = ingress.annotations().get("kubernetes.io/ingress.class");
            let class = class.or(old).map_or("", String::as_str);
            let controller = seen.classes.as_ref().ok().and_then(|classes| classes.get(class));
            let of = controller.map_or_else(|| format!("class {class:?}"), Clone::clone);
            let what = format!("Ingress {} ({of})", ingress.name_any());
            if is_always(seen) {
                return (Verdict::Wakes, format!("{what} finds gateways as ready endpoints"));
            }
            let is_traefik = controller.is_some_and(|controller| controller.starts_with("traefik.io"));
            let mut to_address = TO_ADDRESS.iter();
            let is_to_address = to_address.any(|(of, annotation)| {
                controller.is_some_and(|controller| controller == of)
                    && is_set(ingress.annotations(), &[annotation])
            });
            if is_to_address || is_native && is_traefik {
                return (Verdict::Wakes, format!("{what} sends to the Service's address"));
            }
            match controller.is_some_and(|controller| READY_ALONE.contains(&&**controller)) {
                true => (
                    Verdict::Hindered,
                    format!("{what} uses ready endpoints alone, and at zero there is none: {}", instead(seen)),
                ),
                false => (
                    Verdict::Unknown,
                    format!("{what}: most ingress controllers use ready endpoints alone; if it does, {}", instead(seen)),
                ),
            }
        })
        .collect()
}

/// The Services that an Ingress sends to.
fn backends(ingress: &Ingress) -> Vec<&str> {
    let Some(spec) = &ingress.spec else {
        return Vec::new();
    };
    let paths = spec.rules.iter().flatten();
    let paths = paths.flat_map(|rule| rule.http.iter().flat_map(|http| &http.paths));
    let backends = paths.map(|path| &path.backend).chain(&spec.default_backend);
    let services = backends.filter_map(|backend| Some(&*backend.service.as_ref()?.name));
    services.collect()
}

/// HTTPRoutes and VirtualServices of the namespace that send to the Service.
pub(super) fn routes(seen: &Seen) -> Vec<Finding> {
    let Some(name) = front(&seen.object) else {
        return Vec::new();
    };
    let namespace = seen.object.namespace().unwrap_or_default();
    let mut found = Vec::new();
    match &seen.routes {
        Err(why) => found.push(unknown("HTTPRoutes", why)),
        Ok(routes) => {
            let to_it = routes.iter().filter(|route| {
                let refs = values(&route.data, "backendRefs");
                let mut refs = refs.into_iter().filter_map(Value::as_array).flatten();
                refs.any(|backend| backend["name"] == *name)
            });
            found.extend(to_it.map(|route| {
                let what = format!("HTTPRoute {}", route.name_any());
                match is_always(seen) {
                    true => (Verdict::Wakes, format!("{what} finds gateways as ready endpoints")),
                    false => (
                        Verdict::Unknown,
                        format!("{what}: whether its implementation uses ready endpoints alone is not known; if it does, {}", instead(seen)),
                    ),
                }
            }));
        }
    }
    match &seen.virtual_services {
        Err(why) => found.push(unknown("VirtualServices", why)),
        Ok(all) => {
            let hosts = [
                name.clone(),
                format!("{name}.{namespace}"),
                format!("{name}.{namespace}.svc"),
                format!("{name}.{namespace}.svc.cluster.local"),
            ];
            let to_it = all.iter().filter(|object| {
                let mut hosts_of = values(&object.data, "host").into_iter();
                hosts_of.any(|host| hosts.iter().any(|each| *host == **each))
            });
            found.extend(to_it.map(|object| {
                let what = format!("VirtualService {}", object.name_any());
                match is_always(seen) {
                    true => (Verdict::Wakes, format!("{what} finds gateways as ready endpoints")),
                    false => (
                        Verdict::Hindered,
                        format!("{what}: Istio uses ready endpoints alone, and at zero there is none: {}", instead(seen)),
                    ),
                }
            }));
        }
    }
    found
}

/// All values of this field, however deep.
fn values<'a>(value: &'a Value, field: &str) -> Vec<&'a Value> {
    match value {
        Value::Object(fields) => {
            let own = fields.get(field).into_iter();
            let below = fields.values().flat_map(|value| values(value, field));
            own.chain(below).collect()
        }
        Value::Array(items) => items.iter().flat_map(|item| values(item, field)).collect(),
        _ => Vec::new(),
    }
}
