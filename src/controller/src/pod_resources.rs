//! The resources that pods ask for and have.

use std::collections::BTreeMap;

use bursar_api::quantities;
use bursar_core::pod_set::Resources;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Amounts in thousandths of their units. The API server lets no amount through that is not a
/// quantity.
pub(crate) fn amounts(quantities: Option<&BTreeMap<String, Quantity>>) -> Resources {
    let all = quantities.into_iter().flatten();
    all.filter_map(|(name, quantity)| Some((name.clone(), quantities::milli(quantity).ok()?)))
        .collect()
}

/// What a pod asks for, as kube-scheduler and quotas count it. It is the most that it needs at once:
///
/// - while an init container runs, its own and that of all sidecars (init containers that go on
///   running) before it,
/// - afterwards the sum of its containers and sidecars.
///
/// A limit counts where no request is. CPU, memory and huge pages that it asks for as a whole stand for
/// those of its containers, and its overhead comes on top.
pub(crate) fn requests(spec: &PodSpec) -> Resources {
    total(spec, None, &asked)
}

/// What a pod has: as it asks for, or as its kubelet has allocated. The two differ while it is
/// resized in place.
pub(crate) fn allocated(pod: &Pod) -> Resources {
    let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
    let of = |container: &Container| {
        let mut all = asked(container);
        all.extend(amounts(allocated_to(status, &container.name)));
        all
    };
    spec.map(|spec| total(spec, status, &of))
        .unwrap_or_default()
}

/// What a pod takes of its node as kube-scheduler counts it: the larger of what it asks for and what its
/// kubelet has allocated.
pub(crate) fn occupied(pod: &Pod) -> Resources {
    let mut all = pod.spec.as_ref().map(requests).unwrap_or_default();
    raise(&mut all, allocated(pod));
    all
}

fn asked(container: &Container) -> Resources {
    let asked = container.resources.as_ref();
    let mut all = amounts(asked.and_then(|asked| asked.limits.as_ref()));
    all.extend(amounts(asked.and_then(|asked| asked.requests.as_ref())));
    all
}

/// What the kubelet says that it has given to a container.
fn allocated_to<'a>(
    status: Option<&'a PodStatus>,
    name: &str,
) -> Option<&'a BTreeMap<String, Quantity>> {
    let status = status?;
    let all = [&status.container_statuses, &status.init_container_statuses];
    let mut all = all.into_iter().flatten().flatten();
    let container = all.find(|container| container.name == name)?;
    let actual = container.resources.as_ref();
    let actual = actual.and_then(|actual| actual.requests.as_ref());
    container.allocated_resources.as_ref().or(actual)
}

fn add(sum: &mut Resources, more: &Resources) {
    for (name, amount) in more {
        let sum = sum.entry(name.clone()).or_default();
        *sum = sum.saturating_add(*amount);
    }
}

/// The higher of each amount.
fn raise(most: &mut Resources, other: Resources) {
    for (name, amount) in other {
        let most = most.entry(name).or_default();
        *most = (*most).max(amount);
    }
}

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn total(
    spec: &PodSpec,
    status: Option<&PodStatus>,
    of: &dyn Fn(&Container) -> Resources,
) -> Resources {
    let mut sum = Resources::new();
    for container in &spec.containers {
        add(&mut sum, &of(container));
    }
    let (mut sidecars, mut starting) = (Resources::new(), Resources::new());
    for container in spec.init_containers.iter().flatten() {
        let mut needs = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sum, &needs);
            add(&mut sidecars, &needs);
        } else {
            add(&mut needs, &sidecars);
            raise(&mut starting, needs);
        }
    }
    raise(&mut sum, starting);
    if let Some(whole) = &spec.resources {
        let is_for_pods = |(name, _): &(String, i64)| {
            matches!(name.as_str(), "cpu" | "memory") || is_huge_page(name)
        };
        let limits = amounts(whole.limits.as_ref()).into_iter();
        for (name, limit) in limits.filter(is_for_pods) {
            if is_huge_page(&name) || !sum.contains_key(&name) {
                sum.insert(name, limit);
            }
        }
        let requests = amounts(whole.requests.as_ref()).into_iter();
        sum.extend(requests.filter(is_for_pods));
        let actual = status.and_then(|status| status.resources.as_ref()?.requests.as_ref());
        sum.extend(amounts(actual).into_iter().filter(is_for_pods));
    }
    add(&mut sum, &amounts(spec.overhead.as_ref()));
    sum.insert("pods".to_owned(), 1000);
    sum
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;
    use serde_json::{Value, json};

    use super::*;

    fn spec(spec: Value) -> PodSpec {
        serde_json::from_value(spec).unwrap()
    }

    fn cpu(spec: Value) -> i64 {
        requests(&self::spec(spec))["cpu"]
    }

    fn container(name: &str, cpu: &str, sidecar: bool) -> Value {
        let policy = if sidecar {
            json!("Always")
        } else {
            Value::Null
        };
        json!({"name": name, "restartPolicy": policy, "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn a_sidecar_adds_to_each_init_container_after_it() {
        let of = |init: Value| {
            cpu(json!({"initContainers": init, "containers": [container("c", "100m", false)]}))
        };
        let (proxy, prepare) = (
            container("proxy", "100m", true),
            container("prepare", "200m", false),
        );
        assert_eq!(of(json!([proxy, prepare])), 300);
        assert_eq!(of(json!([prepare, proxy])), 200);
    }

    #[test]
    fn what_a_pod_asks_for_as_a_whole_replaces_the_sum_and_its_limit_counts_alone() {
        let of = |whole: Value, requests: Value| {
            let container = json!({"name": "c", "resources": {"requests": requests}});
            let spec = spec(
                json!({"containers": [container], "resources": whole, "overhead": {"cpu": "1"}}),
            );
            super::requests(&spec).get("cpu").copied()
        };
        assert_eq!(
            of(json!({"requests": {"cpu": "4"}}), json!({"cpu": "2"})),
            Some(5000)
        );
        assert_eq!(
            of(json!({"limits": {"cpu": "4"}}), json!({"cpu": "2"})),
            Some(3000)
        );
        assert_eq!(of(json!({"limits": {"cpu": "4"}}), json!({})), Some(5000));
    }

    #[test]
    fn while_a_pod_is_resized_its_node_holds_the_larger_amount() {
        let pod = |asked: &str, allocated: &str| -> Pod {
            let status = json!({"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "allocatedResources": {"cpu": allocated}});
            serde_json::from_value(json!({
                "metadata": {}, "spec": {"containers": [container("c", asked, false)]},
                "status": {"containerStatuses": [status]},
            }))
            .unwrap()
        };
        assert_eq!(occupied(&pod("1", "2"))["cpu"], 2000);
        assert_eq!(occupied(&pod("3", "2"))["cpu"], 3000);
        assert_eq!(allocated(&pod("3", "2"))["cpu"], 2000);
    }

    /// The most that runs at one time in the life of a pod: one moment for each init container that ends,
    /// and one for what runs in the end.
    fn documented(init: &[(i64, bool)], containers: &[i64]) -> i64 {
        let sidecars = |before: usize| -> i64 {
            let started = init[..before].iter().filter(|(_, sidecar)| *sidecar);
            started.map(|(amount, _)| amount).sum()
        };
        let ending = init.iter().enumerate().filter(|(_, (_, sidecar))| !sidecar);
        let moments = ending.map(|(index, (amount, _))| amount + sidecars(index));
        let end = sidecars(init.len()) + containers.iter().sum::<i64>();
        moments.chain([end]).max().unwrap()
    }

    #[test]
    fn requests_are_the_most_that_runs_at_one_time() {
        for seed in 0..2000 {
            let mut rng = Rng::with_seed(seed);
            let (mut init, mut containers) = (Vec::new(), Vec::new());
            (0..rng.u8(0..6)).for_each(|_| init.push((rng.i64(0..2000), rng.bool())));
            (0..rng.u8(1..4)).for_each(|_| containers.push(rng.i64(0..2000)));
            let overhead = rng.i64(0..500);
            let milli = |amount: i64| format!("{amount}m");
            let all = init
                .iter()
                .map(|(amount, sidecar)| container("i", &milli(*amount), *sidecar));
            let found = cpu(json!({
                "initContainers": all.collect::<Vec<Value>>(),
                "containers": containers.iter().map(|amount| container("c", &milli(*amount), false)).collect::<Vec<Value>>(),
                "overhead": {"cpu": milli(overhead)},
            }));
            let expected = documented(&init, &containers) + overhead;
            assert_eq!(found, expected, "seed {seed}: {init:?} {containers:?}");
        }
    }

    #[test]
    fn gpus_money_and_room_are_of_the_same_amounts() {
        let gpus = |count: &str, sidecar: bool| {
            let policy = if sidecar {
                json!("Always")
            } else {
                Value::Null
            };
            json!({"name": count, "restartPolicy": policy, "resources": {"limits": {"nvidia.com/gpu": count}}})
        };
        let spec = spec(json!({
            "initContainers": [gpus("1", true), gpus("4", false)],
            "containers": [gpus("2", false)],
        }));
        assert_eq!(requests(&spec)["nvidia.com/gpu"], 5000);
        let held = crate::pod::gpus_of(&spec);
        assert_eq!(held, [("nvidia.com/gpu".to_owned(), 5)]);
    }
}
