//! Where the pods of a workload, and the gateways, are in the cache of pods: found without looking
//! at all pods.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use bursar_api::spend::WorkloadRef;
use bursar_core::model::{Key, Name};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::runtime::reflector::Store;

use crate::cache::cached;
use crate::pod;

/// A gateway that is not ready any more, still runs and is not being deleted stays among those that
/// take requests for this long: each change of these rewrites the endpoints of all services, and it
/// may just have been slow. A connection to one that is gone is refused at once.
const UNREADY_GRACE: SignedDuration = SignedDuration::from_secs(5);

/// What is indexed of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
struct IndexedPod {
    workload: Option<WorkloadRef>,
    gateway: Option<ObservedGateway>,
    /// Accelerators that it holds and that no rule knows.
    unknown: BTreeSet<String>,
}

/// A gateway that is not being deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ObservedGateway {
    /// One of each family that its pod has.
    addresses: BTreeSet<IpAddr>,
    is_ready: bool,
    /// All its containers run.
    is_running: bool,
    /// How often its containers were started again.
    restarts: i64,
}

/// A gateway that takes requests.
#[derive(Debug, Clone)]
struct Gateway {
    addresses: BTreeSet<IpAddr>,
    unready_since: Option<Timestamp>,
    /// How often its containers had been started again when it was last ready.
    restarts: i64,
}

/// What changed with a pod.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct IndexChange {
    /// The gateways that take requests have changed.
    pub(crate) gateways: bool,
    /// The workloads that the pod belongs to or did.
    pub(crate) workloads: BTreeSet<WorkloadRef>,
    /// The accelerators that no rule knows and that pods of the namespace hold have changed.
    pub(crate) unknown: bool,
}

/// Pods by workload, and gateways.
#[derive(Debug, Default)]
pub(crate) struct PodIndex {
    pods: HashMap<Key, IndexedPod>,
    by_workload: BTreeMap<WorkloadRef, BTreeSet<Name>>,
    /// The gateways that take requests, by the name of their pod.
    gateways: BTreeMap<Key, Gateway>,
    /// The pods that hold accelerators that no rule knows, by namespace and resource.
    unknown: BTreeMap<Name, BTreeMap<String, BTreeSet<Name>>>,
}

impl PodIndex {
    /// Puts a pod where it belongs now; `None` if it is gone.
    pub(crate) fn set(&mut self, name: &Key, pod: Option<&Pod>, now: Timestamp) -> IndexChange {
        let new = pod.map(|pod| IndexedPod {
            workload: pod::workload_of(pod),
            gateway: observed_gateway(pod),
            unknown: pod::unknown_accelerators(pod),
        });
        let gateway = new.as_ref().and_then(|new| new.gateway.clone());
        let counts = |new: &IndexedPod| {
            new.workload.is_some() || new.gateway.is_some() || !new.unknown.is_empty()
        };
        let new = new.filter(counts);
        let old = self.pods.remove(name);
        let workloads = [&old, &new].into_iter().flatten();
        let workloads = workloads.filter_map(|pod| pod.workload.clone());
        let change = IndexChange {
            gateways: self.set_gateway(name, gateway, now),
            workloads: workloads.collect(),
            unknown: self.set_unknown(name, old.as_ref(), new.as_ref()),
        };
        if old != new {
            if let Some(workload) = old.and_then(|pod| pod.workload)
                && let Some(names) = self.by_workload.get_mut(&workload)
            {
                names.remove(&name.name);
                if names.is_empty() {
                    self.by_workload.remove(&workload);
                }
            }
            if let Some(workload) = new.as_ref().and_then(|pod| pod.workload.clone()) {
                let names = self.by_workload.entry(workload).or_default();
                names.insert(name.name.clone());
            }
        }
        if let Some(new) = new {
            self.pods.insert(name.clone(), new);
        }
        change
    }

    /// Takes the accelerators of a pod that no rule knows. Returns whether those of its namespace have
    /// changed: a further pod with one of them changes nothing.
    fn set_unknown(
        &mut self,
        pod: &Key,
        old: Option<&IndexedPod>,
        new: Option<&IndexedPod>,
    ) -> bool {
        let of = |pod: Option<&IndexedPod>| pod.map(|pod| pod.unknown.clone()).unwrap_or_default();
        let (old, new) = (of(old), of(new));
        if old == new {
            return false;
        }
        let known = self.unknown.entry(pod.namespace.clone()).or_default();
        let mut has_changed = false;
        for resource in old.difference(&new) {
            if let Some(pods) = known.get_mut(resource) {
                pods.remove(&pod.name);
                has_changed |= pods.is_empty();
            }
        }
        known.retain(|_, pods| !pods.is_empty());
        for resource in new.difference(&old) {
            let pods = known.entry(resource.clone()).or_default();
            has_changed |= pods.is_empty();
            pods.insert(pod.name.clone());
        }
        if known.is_empty() {
            self.unknown.remove(&pod.namespace);
        }
        has_changed
    }

    /// The accelerators that no rule knows and that pods of a namespace hold, each with one of these
    /// pods.
    pub(crate) fn unknown_accelerators(&self, namespace: &str) -> Vec<(String, Name)> {
        let known = self.unknown.get(namespace).into_iter().flatten();
        known
            .filter_map(|(resource, pods)| Some((resource.clone(), pods.first()?.clone())))
            .collect()
    }

    /// Takes a gateway as it is now. Returns whether those that take requests have changed.
    fn set_gateway(&mut self, name: &Key, new: Option<ObservedGateway>, now: Timestamp) -> bool {
        let Some(new) = new else {
            return self.gateways.remove(name).is_some();
        };
        let known = self.gateways.get_mut(name);
        let known = known.filter(|known| known.addresses == new.addresses);
        // one that ended and was started again may run by now, and does not listen yet
        let has_ended =
            |known: &Gateway| !new.is_ready && (!new.is_running || new.restarts > known.restarts);
        if let Some(known) = known.filter(|known| !has_ended(known)) {
            match new.is_ready {
                true => (known.unready_since, known.restarts) = (None, new.restarts),
                false => known.unready_since = known.unready_since.or(Some(now)),
            }
            return false;
        }
        let former = self.gateways.remove(name);
        if new.is_ready {
            let gateway = Gateway {
                addresses: new.addresses,
                unready_since: None,
                restarts: new.restarts,
            };
            self.gateways.insert(name.clone(), gateway);
        }
        former.is_some() || new.is_ready
    }

    /// When a gateway that is not ready is taken out.
    pub(crate) fn next_expiry(&self) -> Option<Timestamp> {
        self.gateways.values().filter_map(Gateway::expiry).min()
    }

    /// Takes out the gateways that have not been ready for long enough. Returns their namespaces.
    pub(crate) fn expire_gateways(&mut self, now: Timestamp) -> BTreeSet<Name> {
        let is_over = |gateway: &Gateway| gateway.expiry().is_some_and(|at| at <= now);
        let expired = self.gateways.extract_if(.., |_, gateway| is_over(gateway));
        expired.map(|(name, _)| name.namespace).collect()
    }

    /// The addresses of the gateways of the operator's namespace that take requests.
    pub(crate) fn gateways(&self, namespace: &str) -> Vec<IpAddr> {
        let gateways = self.gateways.iter();
        let ours = gateways.filter(|(name, _)| *name.namespace == *namespace);
        ours.flat_map(|(_, gateway)| gateway.addresses.iter().copied())
            .collect()
    }

    /// The pods of a workload.
    pub(crate) fn pods_of(&self, pods: &Store<Pod>, workload: &WorkloadRef) -> Vec<Arc<Pod>> {
        let names = self.by_workload.get(workload).into_iter().flatten();
        let found = names.filter_map(|name| get(pods, &workload.namespace, name));
        found.collect()
    }
}

impl Gateway {
    fn expiry(&self) -> Option<Timestamp> {
        let since = self.unready_since?;
        Some(since.saturating_add(UNREADY_GRACE).unwrap_or(since))
    }
}

fn get(pods: &Store<Pod>, namespace: &str, name: &Name) -> Option<Arc<Pod>> {
    let key = Key {
        namespace: namespace.into(),
        name: name.clone(),
    };
    cached(pods, &key)
}

/// A gateway that goes on.
fn observed_gateway(pod: &Pod) -> Option<ObservedGateway> {
    let goes_on =
        pod::is_gateway(pod) && pod.metadata.deletion_timestamp.is_none() && !pod::is_terminal(pod);
    let status = pod.status.as_ref().filter(|_| goes_on)?;
    let all = status.pod_ips.iter().flatten().map(|each| &each.ip);
    let addresses = all.chain(&status.pod_ip);
    let addresses: BTreeSet<IpAddr> = addresses.filter_map(|each| each.parse().ok()).collect();
    let containers = || status.container_statuses.iter().flatten();
    let runs = |container: &ContainerStatus| {
        let state = container.state.as_ref();
        state.is_none_or(|state| state.waiting.is_none() && state.terminated.is_none())
    };
    (!addresses.is_empty()).then(|| ObservedGateway {
        addresses,
        is_ready: pod::is_ready(pod),
        is_running: containers().all(runs),
        restarts: containers().map(|each| i64::from(each.restart_count)).sum(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const OPERATOR: &str = "bursar-system";

    /// A gateway whose container runs or waits, and was restarted so often.
    fn gateway(is_ready: bool, state: &str, restarts: i32) -> Pod {
        let ready = if is_ready { "True" } else { "False" };
        serde_json::from_value(json!({
            "metadata": {"name": "g", "namespace": OPERATOR, "labels": {
                "app.kubernetes.io/name": "bursar", "app.kubernetes.io/component": "gateway",
            }},
            "status": {
                "phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": ready}],
                "containerStatuses": [{
                    "name": "gateway", "image": "", "imageID": "", "ready": is_ready, "restartCount": restarts,
                    "state": {state: {}},
                }],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_gateway_that_has_ended_takes_no_requests_from_then_on_and_a_slow_one_for_a_while() {
        let now = Timestamp::UNIX_EPOCH;
        let mut index = PodIndex::default();
        let key = Key::new(OPERATOR, "g");
        let mut takes_requests = |pod: Pod, seconds: i64| {
            let now = now + SignedDuration::from_secs(seconds);
            let change = index.set(&key, Some(&pod), now);
            let is_expired = !index.expire_gateways(now).is_empty();
            (
                change.gateways || is_expired,
                !index.gateways(OPERATOR).is_empty(),
            )
        };
        // it was restarted before
        assert_eq!(takes_requests(gateway(true, "running", 2), 0), (true, true));
        assert_eq!(
            takes_requests(gateway(false, "running", 2), 1),
            (false, true)
        );
        assert_eq!(
            takes_requests(gateway(true, "running", 2), 3),
            (false, true)
        );
        assert_eq!(
            takes_requests(gateway(false, "running", 3), 4),
            (true, false)
        );
        assert_eq!(
            takes_requests(gateway(false, "running", 3), 5),
            (false, false)
        );
        assert_eq!(takes_requests(gateway(true, "running", 3), 6), (true, true));
        assert_eq!(
            takes_requests(gateway(false, "waiting", 3), 7),
            (true, false)
        );
        assert_eq!(takes_requests(gateway(true, "running", 4), 8), (true, true));
        assert_eq!(
            takes_requests(gateway(false, "terminated", 4), 9),
            (true, false)
        );
        assert_eq!(
            takes_requests(gateway(true, "running", 5), 10),
            (true, true)
        );
        assert_eq!(
            takes_requests(gateway(false, "running", 5), 11),
            (false, true)
        );
        assert_eq!(
            takes_requests(gateway(false, "running", 5), 16),
            (true, false)
        );
    }
}
