//! The objects of the cluster as they are, whatever the leader knows of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bursar_core::correction::Correction;
use bursar_core::ledger::EngineCounters;
use bursar_core::model::event::{
    BatchJob, Budget, Deployment, HeldRequests, Job, Node, Owner, Pod, PodShape, Service,
};
use bursar_core::model::{Key, Name};
use bursar_core::pod_set::Resources;
use bursar_core::pricing::{PriceCatalog, PricingAttributes};
use jiff::{SignedDuration, Timestamp};

use crate::engine::{Engine, Request};
use crate::latency::Latencies;

/// The resource of a GPU.
pub(crate) const GPU: &str = "nvidia.com/gpu";
/// The label of a node that names its GPUs.
pub(crate) const PRODUCT: &str = "nvidia.com/gpu.product";

/// What a pod asks for that holds so many GPUs of a model.
pub(crate) fn shape(gpus: u32, cpu_milli: i64, product: Option<&str>) -> Arc<PodShape> {
    let mut requests = Resources::from([("cpu".to_owned(), cpu_milli)]);
    let attributes = (gpus > 0).then(|| {
        requests.insert(GPU.to_owned(), i64::from(gpus) * 1000);
        PricingAttributes {
            resource: GPU.to_owned(),
            gpus,
            ..PricingAttributes::default()
        }
    });
    let selector = product.map(|product| (PRODUCT.to_owned(), product.to_owned()));
    Arc::new(PodShape {
        requests,
        node_selector: selector.into_iter().collect(),
        attributes,
        ..PodShape::default()
    })
}

/// A node with so many GPUs of a model.
pub(crate) fn node(gpus: u32, cpu_milli: i64, product: &str) -> Node {
    Node {
        takes_pods: true,
        labels: [(PRODUCT.to_owned(), product.to_owned())].into(),
        allocatable: [
            (GPU.to_owned(), i64::from(gpus) * 1000),
            ("cpu".to_owned(), cpu_milli),
        ]
        .into(),
        gpus: [(GPU.to_owned(), gpus)].into(),
        ..Node::default()
    }
}

/// A node.
#[derive(Debug)]
pub(crate) struct NodeObject {
    pub(crate) node: Node,
    /// What bound pods request.
    pub(crate) used: Resources,
    /// Its kubelet is not heard of.
    pub(crate) lost: bool,
}

impl NodeObject {
    /// Whether a pod of this shape can be bound to it.
    pub(crate) fn takes(&self, shape: &PodShape) -> bool {
        let mut selector = shape.node_selector.iter();
        let fits = |(name, amount): (&String, &i64)| {
            let of = |amounts: &Resources| amounts.get(name).copied().unwrap_or(0);
            *amount == 0 || of(&self.node.allocatable) - of(&self.used) >= *amount
        };
        self.node.takes_pods
            && selector.all(|(key, value)| self.node.labels.get(key) == Some(value))
            && shape.requests.iter().all(fits)
    }

    /// Adds a pod's requests, so many times.
    pub(crate) fn add(&mut self, requests: &Resources, times: i64) {
        for (name, amount) in requests {
            *self.used.entry(name.clone()).or_default() += amount * times;
        }
    }
}

/// A pod.
#[derive(Debug)]
pub(crate) struct PodObject {
    pub(crate) pod: Pod,
    /// From binding to readiness.
    pub(crate) start: SignedDuration,
    /// Its engine, if requests are served one by one.
    pub(crate) engine: Option<Engine>,
    /// Requests on it, if they are only counted.
    pub(crate) depth: u64,
    /// What was done so far, and up to when, if requests are only counted.
    pub(crate) counted: Option<(Timestamp, EngineCounters)>,
    /// It takes no new requests, and has ended what it has begun by then.
    pub(crate) busy_until: Option<Timestamp>,
    /// It has served a request since it was last read.
    pub(crate) served: bool,
    /// It is busy, and will be read again though its requests stay the same.
    pub(crate) read_again: bool,
    /// Its engine cannot be read.
    pub(crate) unreadable: bool,
    /// The same happens to it again and again: it does not become ready.
    pub(crate) fails_to_start: bool,
}

impl PodObject {
    /// It is neither ended nor told to stop.
    pub(crate) fn stays(&self) -> bool {
        self.pod.ended.is_none() && self.pod.deletion.is_none()
    }

    /// It is ready and its Service selects it.
    pub(crate) fn serves(&self) -> bool {
        self.stays() && self.pod.ready_since.is_some() && self.pod.draining_since.is_none()
    }

    /// What it has done by now. Each request that is only counted is answered within ten seconds, and
    /// another one comes in its place.
    pub(crate) fn done(&mut self, now: Timestamp) -> EngineCounters {
        if let Some(engine) = &self.engine {
            return engine.done;
        }
        let (at, mut done) = self.counted.unwrap_or((now, EngineCounters::default()));
        let millis = u64::try_from(now.duration_since(at).as_millis()).unwrap_or(0);
        let answered = self.depth * millis / 10_000;
        if answered > 0 || self.depth == 0 {
            done.requests += answered;
            self.counted = Some((now, done));
        } else {
            self.counted = Some((at, done));
        }
        done
    }

    /// Requests on it.
    pub(crate) fn busy(&self) -> u64 {
        self.engine.as_ref().map_or(self.depth, Engine::busy)
    }
}

/// The demand for a service.
#[derive(Clone, Debug)]
pub(crate) enum Demand {
    /// So many requests wait or run all the time.
    Depth(u64),
    /// Requests one by one, served by engines with these latencies.
    Requests(Arc<Latencies>),
}

/// A service with its Deployment and endpoints.
#[derive(Debug)]
pub(crate) struct ServiceObject {
    /// `None` once it is deleted.
    pub(crate) spec: Option<Service>,
    pub(crate) deployment: Option<Deployment>,
    pub(crate) pods: BTreeSet<u32>,
    /// The pods that its endpoints show as ready.
    pub(crate) endpoints: Vec<u32>,
    pub(crate) demand: Demand,
    /// From a pod's binding to its readiness: at least, at most.
    pub(crate) start: (SignedDuration, SignedDuration),
    pub(crate) hold_timeout: SignedDuration,
    pub(crate) max_held: usize,
}

/// A TrainingJob with the Jobs of its roles.
#[derive(Debug)]
pub(crate) struct JobObject {
    /// `None` once it is deleted.
    pub(crate) spec: Option<Job>,
    pub(crate) batch_jobs: BTreeMap<Name, BatchJob>,
    pub(crate) pods: BTreeMap<Name, BTreeSet<u32>>,
    /// How long all workers must still run together.
    pub(crate) remaining: SignedDuration,
    /// Since when all of them have.
    pub(crate) complete_since: Option<Timestamp>,
    /// Counts the times at which they began to.
    pub(crate) runs: u32,
    /// From a worker's binding to its readiness.
    pub(crate) start: (SignedDuration, SignedDuration),
}

/// A gateway.
#[derive(Debug)]
pub(crate) struct GatewayObject {
    pub(crate) ready: Timestamp,
    /// Nothing is heard of it.
    pub(crate) silent: bool,
    /// Requests that it holds, one by one.
    pub(crate) requests: BTreeMap<Key, VecDeque<Request>>,
    /// Requests that it holds, counted.
    pub(crate) counted: BTreeMap<Key, HeldRequests>,
}

impl GatewayObject {
    pub(crate) fn new(ready: Timestamp) -> Self {
        Self {
            ready,
            silent: false,
            requests: BTreeMap::new(),
            counted: BTreeMap::new(),
        }
    }

    /// All that it holds.
    pub(crate) fn held(&self) -> BTreeMap<Key, HeldRequests> {
        let mut held = self.counted.clone();
        for (key, requests) in &self.requests {
            if let Some(first) = requests.front() {
                let one = HeldRequests {
                    requests: requests.len() as u64,
                    in_flight: 0,
                    forwarded: 0,
                    since: Some(first.arrived),
                };
                held.insert(key.clone(), one);
            }
        }
        held
    }
}

/// All objects.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) nodes: BTreeMap<Name, NodeObject>,
    /// How long a node is said to take to start, where nodes are made for pods.
    pub(crate) node_start: Option<SignedDuration>,
    pub(crate) pods: BTreeMap<u32, PodObject>,
    /// Pods without a node, in the order of their creation.
    pub(crate) pending: BTreeSet<u32>,
    pub(crate) services: BTreeMap<Key, ServiceObject>,
    pub(crate) jobs: BTreeMap<Key, JobObject>,
    pub(crate) budgets: BTreeMap<Key, Budget>,
    /// Namespaces with a budget that cannot be read.
    pub(crate) unreadable_budgets: BTreeSet<Name>,
    pub(crate) corrections: BTreeMap<Name, Vec<Correction>>,
    pub(crate) catalog: Arc<PriceCatalog>,
    pub(crate) gateways: BTreeMap<u32, GatewayObject>,
    pub(crate) made_pods: u32,
    pub(crate) made_jobs: u32,
    pub(crate) made_gateways: u32,
}

/// The key of the workload that a pod belongs to.
pub(crate) fn workload_key(pod: &Pod) -> Option<Key> {
    let name = match &pod.owner {
        Owner::Service(name) | Owner::Job(name, _) => name,
        Owner::Other => return None,
    };
    Some(Key {
        namespace: pod.key.namespace.clone(),
        name: name.clone(),
    })
}

/// The account that a pod is charged to.
pub(crate) fn account_key(pod: &Pod) -> Key {
    let name = match &pod.owner {
        Owner::Service(name) => format!("infd/{name}"),
        Owner::Job(name, _) => format!("tj/{name}"),
        Owner::Other => "pods".to_owned(),
    };
    Key {
        namespace: pod.key.namespace.clone(),
        name: name.into(),
    }
}
