//! What the model is told: small values made of objects, readings and answers, without anything
//! that no decision reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::budget::{BudgetRecord, Latch, OnExhausted, Unmanaged};
use crate::calendar::Period;
use crate::correction::Correction;
use crate::ledger::EngineCounters;
use crate::money::Money;
use crate::placement::{Placement, Taint};
use crate::pod_set::Resources;
use crate::pricing::{PriceCatalog, PricingAttributes};
use crate::scaling::{
    Activation, Behavior, Bounds, GrowthRule, LatencyHistogram, LatencyMeasure, LearnedThroughput,
    Milli, RequestSignal, Schedule, SignalFailure, SignalRule,
};
use crate::training::Retry;

use super::missing_replica_pods::CREATION_FAILURE_TIMEOUT;
use super::pause::Pauses;
use super::spending::AccountSpend;

/// A name of Kubernetes: of an object, a namespace, or a UID.
pub type Name = Arc<str>;

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The namespace.
    pub namespace: Name,
    /// The name.
    pub name: Name,
}

impl Key {
    /// The key of an object.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The first key that can be in a namespace.
    pub(crate) fn first_in(namespace: &Name) -> Self {
        Self {
            namespace: namespace.clone(),
            name: "".into(),
        }
    }
}

/// What a pod belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// The InferenceDeployment of this name in the pod's namespace.
    Service(Name),
    /// The role of the second name of the TrainingJob of the first in the pod's namespace.
    Job(Name, Name),
    /// No workload of Bursar.
    Other,
}

/// What a pod asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodShape {
    /// The resources that it requests.
    pub requests: Resources,
    /// The labels that its node must have.
    pub node_selector: BTreeMap<String, String>,
    /// What else its node must be.
    pub placement: Arc<Placement>,
    /// What it is priced by, without a node; `None` if it holds no GPU that it is charged for.
    pub attributes: Option<PricingAttributes>,
    /// It uses GPUs that another pod is charged for.
    pub shares_gpus: bool,
    /// Its priority, by which schedulers order the pods that wait; 0 of a template, whose workload has one.
    pub priority: i32,
}

impl PodShape {
    /// Whether it uses GPUs, whoever is charged for them.
    pub(crate) fn uses_gpus(&self) -> bool {
        self.attributes.is_some() || self.shares_gpus
    }
}

/// What becomes of a pod without a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scheduling {
    /// A scheduler looks for a node.
    #[default]
    Queued,
    /// No scheduler looks at it: it has a scheduling gate, or names a scheduler that has not been
    /// heard of.
    Ignored,
    /// The scheduler has found no node for it since then, and says why. A node may still come: this is
    /// no failure.
    Unschedulable {
        /// When it first found none.
        since: Timestamp,
        /// The scheduler's words.
        why: Name,
    },
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace and name.
    pub key: Key,
    /// What it belongs to.
    pub owner: Owner,
    /// What it asks for.
    pub shape: Arc<PodShape>,
    /// The node that it is bound to.
    pub node: Option<Name>,
    /// What becomes of it while it has no node.
    pub scheduling: Scheduling,
    /// It says that it is there as long as its node: a pod of a DaemonSet, or one that its kubelet made.
    pub resident: bool,
    /// When it was created.
    pub created: Timestamp,
    /// When its containers ended for good.
    pub ended: Option<Timestamp>,
    /// It was told to stop, and must have stopped by then.
    pub deletion: Option<Timestamp>,
    /// Seconds between SIGTERM and SIGKILL.
    pub grace_seconds: i64,
    /// Since when it is ready.
    pub ready_since: Option<Timestamp>,
    /// It shows that it was ready before and is not now. What the model has seen counts as well.
    pub was_ready: bool,
    /// Since when it has been draining, by its annotation.
    pub draining_since: Option<Timestamp>,
    /// Its ReplicaSet deletes it before others.
    pub marked_for_deletion: bool,
    /// Why it does not start, and since when it has not been ready.
    pub start_failure: Option<(Name, Timestamp)>,
    /// It has ended, not well, and how.
    pub failure: Option<Name>,
    /// The cluster takes it away, or never let it begin: that it ends is no failure of its own.
    pub disrupted: bool,
    /// The UID of the object that made it, if that is known.
    pub made_by: Option<Name>,
    /// The UID of the pod that leads its replica, if it is a worker of one that has several pods. A pod that
    /// is a replica of its own, or leads one, has none.
    pub leader: Option<Name>,
    /// What made it, as `Kind/name`: itself if nothing did. Read of pods of no workload.
    pub owner_name: Name,
}

/// So long after the scheduler first found no node for a pod, room that seems to be free is of no use
/// to it: kube-scheduler tries each pod again within five minutes, whatever happens.
pub(crate) const UNSCHEDULABLE_TIMEOUT: SignedDuration = SignedDuration::from_mins(5);

/// The namespaces of Kubernetes itself.
const SYSTEM_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

impl Pod {
    /// Whether room is reserved for it: it has no node, and a scheduler may find one.
    pub(crate) fn waits_for_room(&self, now: Timestamp) -> bool {
        self.is_pending()
            && match self.scheduling {
                Scheduling::Queued => true,
                Scheduling::Ignored => false,
                Scheduling::Unschedulable { .. } => {
                    self.gives_up_room_at().is_none_or(|at| now < at)
                }
            }
    }

    /// When it was told to stop.
    pub(crate) fn deleted_at(&self) -> Option<Timestamp> {
        let by = self.deletion?;
        let grace = SignedDuration::from_secs(self.grace_seconds);
        Some(by.checked_sub(grace).unwrap_or(by))
    }

    /// Whether it uses GPUs and belongs to no workload.
    pub(crate) fn is_unowned(&self) -> bool {
        self.owner == Owner::Other && self.shape.uses_gpus()
    }

    /// Whether a budget may evict it: it uses GPUs and has a node, and belongs to no workload, to no
    /// DaemonSet, to no kubelet and to no namespace of Kubernetes itself. A pod that shares the GPUs of
    /// another one would be charged for them next, so both go at once.
    pub(crate) fn may_be_evicted(&self) -> bool {
        let is_foreign = self.is_unowned() && self.node.is_some() && !self.resident;
        let is_system = SYSTEM_NAMESPACES.contains(&&*self.key.namespace);
        is_foreign && !is_system && self.ended.is_none() && self.deletion.is_none()
    }

    /// Whether it has no node, and may get one.
    pub(crate) fn is_pending(&self) -> bool {
        self.node.is_none() && self.ended.is_none()
    }

    /// What it waits for before it has a node, if that is more than the scheduler's next look.
    pub(crate) fn waits_for(&self) -> Option<String> {
        let name = &self.key.name;
        match &self.scheduling {
            _ if !self.is_pending() => None,
            Scheduling::Queued => None,
            Scheduling::Ignored => Some(format!("pod {name} waits: no scheduler looks at it")),
            Scheduling::Unschedulable { why, .. } => {
                Some(format!("pod {name} waits for a node: {why}"))
            }
        }
    }

    /// Whether it is a worker of a gang that was told to stop and has not ended.
    pub(crate) fn is_stopping_worker(&self) -> bool {
        self.deletion.is_some() && self.ended.is_none() && matches!(self.owner, Owner::Job(..))
    }

    /// Whether it was told to stop, and holds its node still.
    pub(crate) fn is_terminating(&self) -> bool {
        self.deletion.is_some() && self.ended.is_none() && self.node.is_some()
    }

    /// When no room is reserved for it any more.
    pub(crate) fn gives_up_room_at(&self) -> Option<Timestamp> {
        match self.scheduling {
            Scheduling::Unschedulable { since, .. } if self.is_pending() => {
                since.checked_add(UNSCHEDULABLE_TIMEOUT).ok()
            }
            _ => None,
        }
    }

    /// The node on which it is for as long as that is there. One without a node has none: its author
    /// wrote for which node it is, and says who made it.
    pub(crate) fn resident_on(&self) -> Option<Name> {
        let is_there = self.resident && self.ended.is_none();
        self.node.clone().filter(|_| is_there)
    }
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// It is ready and not cordoned.
    pub takes_pods: bool,
    /// It is not ready: nobody knows whether its pods run, and nobody stops them.
    pub unready: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints that keep pods away.
    pub taints: Vec<Taint>,
    /// What pods may use in all.
    pub allocatable: Resources,
    /// How many of each GPU resource it has.
    pub gpus: BTreeMap<String, u32>,
}

/// An InferenceDeployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// When it was created: the older one gets money first.
    pub created: Timestamp,
    /// The value of its PriorityClass: a higher one gets money first and stops last.
    pub priority: i32,
    /// What that counts beside workloads of other namespaces: those of a lower one give GPUs back.
    pub cluster_priority: i32,
    /// Within a priority, a heavier one gets money for further replicas first.
    pub weight: u32,
    /// The fewest replicas.
    pub min: u32,
    /// The most replicas.
    pub max: u32,
    /// What its requests say of the replicas that it needs.
    pub request_signal: RequestSignal,
    /// Its signals other than its queue depth, each with a name of its own. Of each measure of its engines
    /// there is at most one.
    pub signals: Vec<(Name, SignalRule)>,
    /// Stands for where and by which metrics its engines are read: what they measured by others is
    /// not compared.
    pub measured_by: u64,
    /// Which rule makes replicas of a queue.
    pub growth: GrowthRule,
    /// What its status has on record of its replicas: a new leader begins with that.
    pub learned: Option<LearnedThroughput>,
    /// How fast its replicas follow what is asked for.
    pub behavior: Behavior,
    /// Bounds that hold at times.
    pub schedules: Vec<Schedule>,
    /// What becomes of it while its demand is not known.
    pub on_signal_failure: SignalFailure,
    /// How long nothing may happen before it goes to its minimum.
    pub idle_after: SignedDuration,
    /// How long a replica may take to finish its requests when it leaves.
    pub drain_timeout: SignedDuration,
    /// Why demand changes nothing, if it does not: its user has paused it, or its target is not there to be scaled.
    pub paused: Option<Name>,
    /// Whether requests wake it.
    pub activation: Activation,
    /// What one replica asks for; of one that has several pods, the pod that leads it.
    pub replica: Arc<PodShape>,
    /// Seconds between a replica's SIGTERM and SIGKILL.
    pub grace_seconds: i64,
    /// The other pods of each replica, where one is several pods.
    pub workers: Option<Box<ReplicaWorkers>>,
}

/// The workers of one replica: its pods beside the one that leads it, which alone takes requests. They are
/// told to stop once that one has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaWorkers {
    /// How many, at least one.
    pub count: u32,
    /// What one of them asks for.
    pub shape: Arc<PodShape>,
    /// Seconds between a worker's SIGTERM and SIGKILL.
    pub grace_seconds: i64,
}

impl Service {
    /// What the pods of its replicas ask for.
    pub(crate) fn shapes(&self) -> impl Iterator<Item = &Arc<PodShape>> {
        let workers = self.workers.iter().map(|workers| &workers.shape);
        std::iter::once(&self.replica).chain(workers)
    }

    /// How many pods one replica is.
    pub(crate) fn pods_per_replica(&self) -> u32 {
        let workers = self.workers.as_ref().map_or(0, |workers| workers.count);
        workers.saturating_add(1)
    }

    /// Its bounds at `now`, by its schedules. Those of a paused service are its own: nothing changes it
    /// at times. `zone` is that of schedules without one of their own.
    pub(crate) fn bounds(&self, zone: &TimeZone, now: Timestamp) -> Bounds {
        match self.paused {
            Some(_) => Bounds::fixed(self.min, self.max),
            None => Bounds::scheduled((self.min, self.max), &self.schedules, zone, now),
        }
    }
}

/// The Deployment that a service owns, or the workload that it has adopted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// Its replicas.
    pub replicas: u32,
    /// The first ordinal of a StatefulSet: the names of its pods end in ordinals, and the highest one is
    /// deleted first. `None` of other kinds.
    pub first_ordinal: Option<u32>,
    /// It replaces pods by others of a new template, and has not ended that.
    pub rollout: Option<Rollout>,
    /// The cluster refuses its pods.
    pub creation_failure: Option<PodCreationFailure>,
}

/// A rollout that is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rollout {
    /// Pods of the new template.
    pub updated: u32,
    /// Pods of an earlier template are there. Without them its controller may just be about to see that
    /// it is scaled.
    pub replaces: bool,
    /// The Deployment's own deadline for progress is over.
    pub deadline_exceeded: bool,
}

/// That the cluster refuses to make pods: a quota is used up, a webhook or PodSecurity denies them, a
/// class or account is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodCreationFailure {
    /// Since when.
    pub since: Timestamp,
    /// The API server's words.
    pub why: Name,
}

impl PodCreationFailure {
    /// When it counts as a failure. Until then it may be a matter of seconds.
    pub(crate) fn counts_at(&self) -> Timestamp {
        let since = self.since;
        since
            .saturating_add(CREATION_FAILURE_TIMEOUT)
            .unwrap_or(since)
    }
}

/// That the cluster refused to make pods of a Job, as Events of it tell. Nothing tells when that is over,
/// but pods that are made later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodCreationReport {
    /// The first time since the Job began to run.
    pub since: Timestamp,
    /// The last time.
    pub last: Timestamp,
    /// The API server's words of the last time.
    pub why: Name,
}

/// Workers of a gang that are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// Its name; empty for the only role of the short form.
    pub name: Name,
    /// Its workers.
    pub replicas: u32,
    /// What one worker asks for.
    pub worker: Arc<PodShape>,
    /// Seconds between a worker's SIGTERM and SIGKILL.
    pub grace_seconds: i64,
}

/// A TrainingJob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// When it was created; the older one goes first.
    pub created: Timestamp,
    /// The value of its PriorityClass.
    pub priority: i32,
    /// What that counts beside gangs of other namespaces.
    pub cluster_priority: i32,
    /// It is suspended where a workload of higher priority waits for money or GPUs.
    pub preemption_allowed: bool,
    /// Its user wants it not to run.
    pub suspend: bool,
    /// Its user wants it to go on if it runs, and not to start: only budgets stop it.
    pub paused: bool,
    /// A number of its own, for waits that differ from gang to gang.
    pub seed: u64,
    /// How often a worker may fail, each time restarting all, before the job has failed.
    pub restarts: u32,
    /// How often a worker has failed, as its status has on record.
    pub restart_count: u32,
    /// The roles that have ended well, as its status has on record: their Jobs may be gone.
    pub ended_well: BTreeSet<Name>,
    /// The roles that decide over its success: once all workers of these have ended well, the gang has
    /// succeeded, and the other workers are stopped. None: all roles do.
    pub success_roles: BTreeSet<Name>,
    /// Its workers wait for each other, those that had ended well before it was suspended included: it
    /// resumes with all workers of the roles that have not ended.
    pub resumes_whole: bool,
    /// Another controller makes its workers, when it sees fit, and starts them again: none is missing, and what
    /// becomes of one is no failure of the gang.
    pub is_adopted: bool,
    /// Its roles, at least one.
    pub roles: Vec<Role>,
}

impl Job {
    /// The roles that decide over its success: those that it names, and all where it names none that it
    /// has.
    pub(crate) fn deciding_roles(&self) -> impl Iterator<Item = &Role> {
        let is_named = |role: &Role| self.success_roles.contains(&role.name);
        let names_some = self.roles.iter().any(is_named);
        let roles = self.roles.iter();
        roles.filter(move |role| !names_some || is_named(role))
    }
}

/// The Job of one role of a TrainingJob.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchJob {
    /// It is not suspended.
    pub running: bool,
    /// Whether it has ended well, if it has ended.
    pub finished: Option<bool>,
    /// Its pods that have not ended.
    pub active: u32,
    /// Its workers that have ended well.
    pub succeeded: u32,
    /// Its pods that have failed.
    pub failed: u32,
    /// Its UID. Workers of a Job before it of the same name are none of its own.
    pub uid: Option<Name>,
    /// When it last began to run.
    pub started: Option<Timestamp>,
    /// What its gang was suspended for before, if it stayed incomplete.
    pub retry: Option<Retry>,
    /// It replaces workers that fail and counts them, as Jobs of an earlier version do. Else all workers of
    /// the gang start again.
    pub replaces_workers: bool,
    /// How often a worker of its gang has failed.
    pub restarts: u32,
    /// How often in a row the cluster has interrupted its gang.
    pub disruptions: u32,
    /// Its gang was stopped to start again, and does not start before; of a Job that has not run
    /// since.
    pub restart_at: Option<Timestamp>,
    /// It has fewer pods than it should have, and the cluster refused to make more.
    pub creation_failure: Option<PodCreationReport>,
}

/// A BudgetPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Money for one period.
    pub limit: Money,
    /// The period.
    pub period: Period,
    /// What happens when it is exhausted.
    pub on_exhausted: OnExhausted,
    /// What starts must be able to run for at least this long.
    pub minimum_useful_run: SignedDuration,
    /// What happens then to pods of no workload.
    pub unmanaged: Unmanaged,
    /// The latch on record.
    pub latch: Option<Latch>,
    /// What else is on record of it.
    pub record: BudgetRecord,
}

/// The requests that a gateway has for one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldRequests {
    /// How many it holds.
    pub requests: u64,
    /// How many it forwards to replicas.
    pub in_flight: u64,
    /// How many it has forwarded, those that have ended included; 0 if it does not tell.
    pub forwarded: u64,
    /// When the oldest of those that it holds came.
    pub since: Option<Timestamp>,
}

impl HeldRequests {
    /// Whether requests have come or ended between these counts and later ones of the same gateway. It
    /// counts from 0 again where it begins anew or has told of no request for long: what it does not tell
    /// any more is no request.
    pub(crate) fn is_changed_by(&self, later: &Self) -> bool {
        let further = later.forwarded != self.forwarded && later.forwarded > 0;
        let now = |held: &Self| (held.requests, held.in_flight, held.since);
        further || now(self) != now(later)
    }
}

/// The pod of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayPod {
    /// Its name.
    pub name: Name,
    /// Since when it takes requests; `None` if it takes none: it is not ready, or it ends.
    pub ready_since: Option<Timestamp>,
}

impl GatewayPod {
    /// Whether it takes requests.
    pub(crate) fn takes_requests(&self) -> bool {
        self.ready_since.is_some()
    }
}

/// How soon what is read of an engine shows what it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Counting {
    /// Requests are those of now, and a counter moves with each step of one.
    #[default]
    EachStep,
    /// Requests are those of now, and a counter moves when one ends.
    AtEnd,
    /// A request may go on that is not among them: they are a mean of the last seconds, or so old.
    Late,
}

/// What one read of an engine gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Requests waiting and running.
    Counted {
        /// How many.
        requests: u64,
        /// How soon requests and counters show what the engine does.
        counting: Counting,
        /// Its counters have moved since the read before, or there was none.
        moved: bool,
        /// What the engine has done since it began.
        done: EngineCounters,
    },
    /// Requests waiting and running on an engine that shows no counters, which could confirm them.
    Uncounted {
        /// How many.
        requests: u64,
    },
    /// The last good read is too old, and why no newer one is there.
    Stale(Name),
}

/// What one read of an engine gave of the measures that the signals of its service ask for, or why a
/// measure is not on its page. Others are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineMeasures {
    /// The part of its KV cache that is used.
    pub kv_cache_use: Option<Result<Milli, Name>>,
    /// What it has counted of latencies since it began.
    pub latencies: BTreeMap<LatencyMeasure, Result<Arc<LatencyHistogram>, Name>>,
}

/// What one read of a signal outside the replicas gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Measurement {
    /// Its value.
    Value(Milli),
    /// It cannot be read, and why.
    Failed(Name),
}

/// The latest state of something, or that it is gone.
pub type Change<T> = Option<T>;

/// Something that happened. States are absolute: the same event twice changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An InferenceDeployment.
    Service(Key, Change<Service>),
    /// The Deployment of the service of this name.
    Deployment(Key, Change<Deployment>),
    /// The UIDs of pods that the endpoints of the service of this name show as ready.
    Endpoints(Key, Vec<Name>),
    /// A TrainingJob.
    Job(Key, Change<Job>),
    /// The Job of the role of this name.
    BatchJob(Key, Name, Change<BatchJob>),
    /// A BudgetPolicy.
    Budget(Key, Change<Budget>),
    /// A budget of the namespace cannot be read, and why: `None` when all can be.
    BudgetDoubt(Name, Option<Name>),
    /// The SpendCorrections of a namespace that count.
    Corrections(Name, Vec<Correction>),
    /// A pod, by its UID.
    Pod(Name, Change<Box<Pod>>),
    /// A node, by its name.
    Node(Name, Change<Node>),
    /// How long a node takes at most until it is ready, where a node autoscaler makes nodes for
    /// pods that wait; `None` where nodes do not follow pods.
    NodeStart(Option<SignedDuration>),
    /// What the platform has paused, all of it.
    Pauses(Pauses),
    /// The prices in force.
    Prices(Arc<PriceCatalog>),
    /// What an account of the namespace has on record and in memory.
    Account(Key, Change<AccountSpend>),
    /// A read of the engine of the pod of this UID that changed something.
    Reading(Name, Reading),
    /// What a read of the engine of the pod of this UID gave of further measures.
    EngineMeasures(Name, EngineMeasures),
    /// A read of the signal of this name of a service that changed something; `None` once nobody reads
    /// it, or what is read for it has changed.
    Signal(Key, Name, Change<Measurement>),
    /// A gateway, by its UID.
    Gateway(Name, Change<GatewayPod>),
    /// The requests that a gateway has, all of them; it is heard of.
    Demand(Name, BTreeMap<Key, HeldRequests>),
    /// A gateway has been silent for too long or cannot be heard at all, and why.
    Silent(Name, Name),
    /// An order for this service was refused by the API server or took too long: it is decided anew.
    ServiceOrderFailed(Key),
    /// The same for a TrainingJob.
    JobOrderFailed(Key),
    /// The pod of this UID in this namespace was not evicted, and what the API server said; `None` if
    /// the next try will do.
    EvictionFailed(Name, Name, Option<Name>),
}
