//! What is known and remembered of one service.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::budget::RunningCost;
use crate::plan::service::Decision;
use crate::scale_down_limit::ScaleDownLimit;
use crate::scaling::{History, LatencyMeasure, Milli, ReplicaLog, RequestSignal, Signal};

use super::claim::BudgetRank;
use super::event::{
    Counting, Deployment, EngineMeasures, Measurement, Name, Pod, PodCreationFailure, Reading,
    Service,
};
use super::growth::{LastRead, LearnedDemand};
use super::latency::LearnedLatencies;
use super::missing_replica_pods::MissingReplicaPods;
use super::namespace::Admission;
use super::rates::CachedRate;
use super::rollout::RolloutProgress;
use super::spending::WorkloadCost;
use super::starts::StartDurations;

/// A replica is read for the first time within this long of becoming ready.
const FIRST_READ: SignedDuration = SignedDuration::from_secs(5);
/// Replicas that do not start count as failed after this long.
const START_FAILED_AFTER: SignedDuration = SignedDuration::from_secs(60);

/// Requests are not believed to be there any more once they have been on an engine for this long while
/// none of its counters moved.
///
/// vLLM counts each token as it is written, and a prompt once it has been read: while anything runs, a
/// counter moves with each step, and requests that wait are behind others that run. Only while prompts
/// are read nothing moves: one of a million tokens takes two to three minutes at 5,000 to 10,000
/// tokens a second.
const STALL_TIMEOUT: SignedDuration = SignedDuration::from_mins(5);
/// The same where counters move when a request ends alone: longer than requests take. Gauges that keep
/// their last value at rest are believed for so long.
const STALL_TIMEOUT_AT_END: SignedDuration = SignedDuration::from_mins(30);

/// An order that no object shows after this long is given anew.
const ORDER_EXPIRES: SignedDuration = SignedDuration::from_secs(30);

/// An order that no object shows yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ordered<T> {
    pub(crate) value: T,
    pub(crate) at: Timestamp,
}

impl<T> Ordered<T> {
    /// Whether it may still be on its way.
    pub(crate) fn is_recent(&self, now: Timestamp) -> bool {
        now.duration_since(self.at) < ORDER_EXPIRES
    }

    /// When it is given anew.
    pub(crate) fn expires(&self) -> Option<Timestamp> {
        self.at.checked_add(ORDER_EXPIRES).ok()
    }
}

/// What is known of the engine of a replica.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct EngineState {
    /// Its replica has been ready: it may have work, whether it is ready now or not.
    pub(crate) has_served: bool,
    /// Requests waiting and running, as last read.
    pub(crate) busy: Option<u64>,
    counting: Counting,
    /// Why they are not known any more, or not yet.
    pub(crate) stale: Option<Name>,
    /// Since when it has had requests while no counter moved.
    pub(crate) no_progress_since: Option<Timestamp>,
    /// Its last read that showed counters.
    last_read: Option<LastRead>,
    /// When it was last read.
    read_at: Option<Timestamp>,
    /// What its last read gave of the measures that signals ask for.
    pub(crate) measures: EngineMeasures,
    /// When that was.
    measured_at: Option<Timestamp>,
}

impl EngineState {
    /// Forgets what was read of its requests before: nothing is read any more.
    pub(crate) fn forget_requests(&mut self, now: Timestamp) {
        if self.read_at == Some(now) {
            return;
        }
        *self = Self {
            has_served: self.has_served,
            measures: std::mem::take(&mut self.measures),
            measured_at: self.measured_at,
            ..Self::default()
        };
    }

    /// Forgets the measures of a time before that are asked for no more.
    pub(crate) fn retain_measures(
        &mut self,
        keeps_cache: bool,
        keeps: impl Fn(&LatencyMeasure) -> bool,
        now: Timestamp,
    ) {
        // one that comes at the same time may be of what is asked for now
        if self.measured_at == Some(now) {
            return;
        }
        self.measures.latencies.retain(|measure, _| keeps(measure));
        if !keeps_cache {
            self.measures.kv_cache_use = None;
        }
    }

    /// Nothing is known of it yet.
    pub(crate) fn is_unread(&self) -> bool {
        self.busy.is_none() && self.stale.is_none()
    }

    /// Requests waiting and running, if they are known: where they show late, none may have missed one
    /// that goes on.
    pub(crate) fn requests(&self) -> Option<u64> {
        let is_known =
            |busy: &u64| self.stale.is_none() && (*busy > 0 || self.counting != Counting::Late);
        self.busy.filter(is_known)
    }

    /// When its requests are not believed any more, if no counter moves until then.
    fn stalls_at(&self) -> Option<Timestamp> {
        let timeout = match self.counting {
            Counting::EachStep => STALL_TIMEOUT,
            Counting::AtEnd | Counting::Late => STALL_TIMEOUT_AT_END,
        };
        self.no_progress_since?.checked_add(timeout).ok()
    }

    /// Whether it has done nothing for so long that its requests are not believed.
    pub(crate) fn is_stalled(&self, now: Timestamp) -> bool {
        self.stalls_at().is_some_and(|at| now >= at)
    }

    /// Takes how many requests are on it, and whether a counter has moved. Returns whether it has done
    /// anything.
    fn set_busy(&mut self, requests: u64, moved: bool, is_counted: bool, now: Timestamp) -> bool {
        let was_busy = self.busy.is_some_and(|busy| busy > 0);
        let was_stalled = self.is_stalled(now);
        let is_active = moved || self.busy.is_none() || (requests > 0 || was_busy) && !was_stalled;
        let goes_on = was_busy && !moved && requests > 0 && is_counted;
        if !goes_on {
            self.no_progress_since = Some(now).filter(|_| requests > 0 && is_counted);
        }
        (self.busy, self.stale) = (Some(requests), None);
        is_active
    }
}

/// What is known and remembered of a service. It is there as long as something of it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ServiceState {
    pub(crate) spec: Option<Service>,
    pub(crate) deployment: Option<Deployment>,
    /// How far its rollout is.
    pub(crate) rollout: Option<RolloutProgress>,
    pub(crate) endpoints: BTreeSet<Name>,
    pub(crate) pods: BTreeSet<Name>,
    /// What was last read of its signals other than its requests.
    pub(crate) signals: BTreeMap<Name, Measurement>,
    /// Numbers asked for before; `None` until the first decision.
    pub(crate) history: Option<History>,
    /// How many replicas that were not told to leave it had.
    pub(crate) replica_log: ReplicaLog,
    /// Until when demand last asked for as much as is a burst, and whether it does still.
    pub(crate) burst: Option<(Timestamp, bool)>,
    /// Since when its demand has not been known.
    pub(crate) demand_unknown_since: Option<Timestamp>,
    /// When an engine last did something, a gateway held a request, or a start was ordered.
    pub(crate) last_active: Option<Timestamp>,
    pub(crate) starts: StartDurations,
    pub(crate) learned: LearnedDemand,
    pub(crate) latencies: LearnedLatencies,
    /// Replicas that were ordered and have no pod yet.
    pub(crate) without_pod: MissingReplicaPods,
    /// Workers that replicas with a pod lack.
    pub(crate) missing_workers: MissingReplicaPods,
    /// The replicas that the Deployment was told to have.
    pub(crate) ordered: Option<Ordered<u32>>,
    /// Pods that were told to drain (`true`) or to serve again.
    pub(crate) draining: BTreeMap<Name, Ordered<bool>>,
    /// Pods that were told to be the next to be deleted.
    pub(crate) marked_for_deletion: BTreeMap<Name, Ordered<()>>,
    /// Since when pods have been told to leave of which none has shown it.
    pub(crate) unmarked_since: Option<Timestamp>,
    pub(crate) estimate: CachedRate,
    /// The same of a worker of a replica of several pods.
    pub(crate) worker_estimate: CachedRate,
    /// What a new replica costs.
    pub(crate) running_cost: Option<RunningCost>,
    /// What the replicas cost that leave, once they come back instead of new ones, in their order.
    pub(crate) recalled_costs: Vec<RunningCost>,
    /// Replicas that were ordered, are not told to leave and have no node yet: to take them back costs nothing.
    pub(crate) starting: u32,
    /// The same of those that no pod came of, and that are waited for no longer.
    pub(crate) given_up: u32,
    /// When what it costs changes though nothing happens.
    pub(crate) cost_changes_at: Option<Timestamp>,
    /// Since when budgets have not been able to tell whether they pay for a replica.
    pub(crate) unknown_since: Option<Timestamp>,
    /// While slices of its namespace are left: so many first replicas have been paid for, and its
    /// further ones are not decided yet.
    pub(crate) first_paid: Option<u32>,
    /// The places at which it waits for money.
    pub(crate) claims: Vec<BudgetRank>,
    /// Its pods that need something else than their templates say, and for which room is reserved.
    pub(crate) pods_with_room: BTreeSet<Name>,
    /// The key under which its namespace has it.
    pub(crate) index: Option<(RunningCost, Admission)>,
    pub(crate) cost: WorkloadCost,
    /// Replicas that have no node, each with the time since when the scheduler has found none.
    pub(crate) unschedulable: BTreeMap<Name, Timestamp>,
    pub(crate) decision: Option<Decision>,
    /// Replicas that were told to leave for want of demand.
    pub(crate) scale_down_limit: ScaleDownLimit,
}

impl ServiceState {
    /// Whether pods of an earlier template are there.
    pub(crate) fn replaces_pods(&self) -> bool {
        let rollout = self.deployment.as_ref().and_then(|found| found.rollout);
        rollout.is_some_and(|rollout| rollout.replaces)
    }

    /// True once nothing of it is there.
    pub(crate) fn is_gone(&self) -> bool {
        self.spec.is_none()
            && self.deployment.is_none()
            && self.pods.is_empty()
            && self.endpoints.is_empty()
            && self.signals.is_empty()
    }

    /// The replicas that the Deployment has or was told to have.
    pub(crate) fn declared(&self) -> u32 {
        let known = self.deployment.as_ref().map_or(0, |found| found.replicas);
        self.ordered.map_or(known, |ordered| ordered.value)
    }

    /// Forgets orders that no object has shown in time. Returns whether there were any.
    pub(crate) fn expire_orders(&mut self, now: Timestamp) -> bool {
        if self.orders_expire().is_none_or(|at| now < at) {
            return false;
        }
        self.ordered = self.ordered.filter(|ordered| ordered.is_recent(now));
        self.draining.retain(|_, ordered| ordered.is_recent(now));
        self.marked_for_deletion
            .retain(|_, ordered| ordered.is_recent(now));
        true
    }

    /// When the first of its orders is given anew.
    pub(crate) fn orders_expire(&self) -> Option<Timestamp> {
        let draining = self.draining.values().filter_map(Ordered::expires);
        let released = self
            .marked_for_deletion
            .values()
            .filter_map(Ordered::expires);
        let replicas = self.ordered.as_ref().and_then(Ordered::expires);
        replicas.into_iter().chain(draining).chain(released).min()
    }

    /// Forgets what was remembered: the service is gone.
    pub(crate) fn forget(&mut self) {
        self.history = None;
        self.replica_log = ReplicaLog::default();
        self.burst = None;
        self.demand_unknown_since = None;
        self.last_active = None;
        self.starts = StartDurations::default();
        self.learned = LearnedDemand::default();
        self.latencies.forget();
        self.without_pod = MissingReplicaPods::default();
        self.missing_workers = MissingReplicaPods::default();
        self.scale_down_limit = ScaleDownLimit::default();
        self.forget_orders();
        self.unmarked_since = None;
        self.decision = None;
    }

    /// Whether pods were told to leave that do not show it yet.
    pub(crate) fn awaits_marks(&self) -> bool {
        let mut draining = self.draining.values();
        draining.any(|ordered| ordered.value) || !self.marked_for_deletion.is_empty()
    }

    /// Forgets the orders that no object has shown.
    pub(crate) fn forget_orders(&mut self) {
        self.ordered = None;
        self.draining.clear();
        self.marked_for_deletion.clear();
    }

    /// Takes what was read of a signal. Returns whether it changes anything.
    pub(crate) fn measure(
        &mut self,
        name: Name,
        measurement: Option<Measurement>,
        now: Timestamp,
    ) -> bool {
        if self.signals.get(&name) == measurement.as_ref() {
            return false;
        }
        let Some(measurement) = measurement else {
            let removed = self.signals.remove(&name);
            if removed.is_some_and(|removed| removed != Measurement::Value(Milli(0))) {
                self.last_active = Some(now);
            }
            return true;
        };
        // a queue that is empty now may have had something since it was read before
        if matches!(measurement, Measurement::Value(_)) {
            self.last_active = Some(now);
        }
        self.signals.insert(name, measurement);
        true
    }

    /// Whether its replicas take requests.
    pub(crate) fn takes_requests(&self) -> bool {
        let spec = self.spec.as_ref();
        spec.is_none_or(|spec| spec.request_signal != RequestSignal::None)
    }

    /// Whether its engines are read.
    pub(crate) fn reads_engines(&self) -> bool {
        let spec = self.spec.as_ref();
        spec.is_none_or(|spec| spec.request_signal.is_read_of_engines())
    }

    /// Takes that an engine was read.
    pub(crate) fn read(&mut self, engine: &mut EngineState, reading: Reading, now: Timestamp) {
        engine.read_at = Some(now);
        let is_active = match reading {
            Reading::Counted {
                requests,
                counting,
                moved,
                done,
            } => {
                engine.counting = counting;
                if counting == Counting::Late {
                    // neither when requests came nor how long they took is known of them
                    engine.last_read = None;
                } else {
                    let target = self.spec.as_ref();
                    let target = target.and_then(|spec| spec.request_signal.target());
                    let target = target.unwrap_or(1);
                    let last_read = engine.last_read;
                    let is_mixed = self.replaces_pods();
                    let read =
                        (self.learned).read(last_read, (requests, done), target, is_mixed, now);
                    engine.last_read = Some(read);
                }
                engine.set_busy(requests, moved, true, now)
            }
            Reading::Uncounted { requests } => {
                // an engine that has answered nothing yet shows no counters either, and none that has
                // started again has answered what was on it before
                let is_same = engine.stale.is_none();
                if is_same && engine.busy.is_some_and(|before| requests < before) {
                    self.learned.forget_throughput();
                }
                engine.set_busy(requests, false, false, now)
            }
            Reading::Stale(why) => {
                engine.stale = Some(why);
                // what it counts meanwhile is of no time that is known
                engine.measures = EngineMeasures::default();
                false
            }
        };
        if is_active {
            self.last_active = Some(now);
        }
    }

    /// Takes what a read of an engine gave of further measures. Its latencies are left out unless its requests
    /// count as well: one goes with the other. Returns whether that changes anything.
    pub(crate) fn read_measures(
        &mut self,
        engine: &mut EngineState,
        measures: EngineMeasures,
        has_requests: bool,
        now: Timestamp,
    ) -> bool {
        engine.measured_at = Some(now);
        if engine.measures == measures {
            return false;
        }
        let is_left_out = !has_requests || self.replaces_pods();
        for (measure, counted) in &measures.latencies {
            let before = engine.measures.latencies.get(measure);
            // what it has counted before its first read is not of now
            let (Ok(counted), Some(Ok(before))) = (counted, before) else {
                continue;
            };
            if let (false, Some(counted)) = (is_left_out, counted.since(before)) {
                self.latencies.add(*measure, &counted, now);
            }
        }
        engine.measures = measures;
        true
    }
}

/// A pod with the state of its engine.
pub(crate) type Replica<'a> = (&'a Name, &'a Pod, &'a EngineState);

/// Whether a replica may have requests: it is ready, or it has been and its engine has not crashed
/// since. One that takes no new requests has not ended those that it has.
pub(crate) fn may_have_requests(pod: &Pod, engine: &EngineState) -> bool {
    pod.ready_since.is_some() || engine.has_served && pod.start_failure.is_none()
}

/// The demand on engines.
pub(crate) struct EngineDemand {
    pub(crate) signal: Signal,
    /// Whose requests are not believed, and since when its counters have stood still.
    pub(crate) stalled: Option<String>,
    /// When a pod's silence begins to count, or its requests are not believed any more.
    pub(crate) next: Option<Timestamp>,
}

impl EngineDemand {
    /// That of a service whose replicas take no requests.
    pub(crate) fn none() -> Self {
        Self {
            signal: Signal::Absent,
            stalled: None,
            next: None,
        }
    }
}

/// The demand on the engines of these pods.
pub(crate) fn engine_demand(pods: &[Replica<'_>], now: Timestamp) -> EngineDemand {
    let (mut sum, mut unknown, mut next) = (None, None, None::<Timestamp>);
    let mut stalled = Vec::new();
    for (_, pod, engine) in pods {
        if pod.deletion.is_some() || !may_have_requests(pod, engine) {
            continue;
        }
        let name = &pod.key.name;
        match (engine.busy, &engine.stale) {
            (Some(busy), None) => {
                let believed = match engine.stalls_at() {
                    Some(at) if now >= at => {
                        stalled.push((name, busy, engine.no_progress_since.unwrap_or(at)));
                        0
                    }
                    stalls_at => {
                        next = next.into_iter().chain(stalls_at).min();
                        busy
                    }
                };
                sum = Some(sum.unwrap_or(0u64).saturating_add(believed));
            }
            (_, Some(why)) => {
                unknown = unknown.or_else(|| Some(format!("pod {name}: {why}")));
            }
            (None, None) => {
                let counts = first_read_by(pod);
                if now < counts {
                    next = next.into_iter().chain([counts]).min();
                } else {
                    unknown = unknown.or_else(|| Some(format!("pod {name}: not read yet")));
                }
            }
        }
    }
    let signal = match (unknown, sum) {
        (Some(why), sum) => Signal::AtLeast(sum.unwrap_or(0), why),
        (None, Some(sum)) => Signal::Known(sum),
        (None, None) => Signal::Absent,
    };
    EngineDemand {
        signal,
        stalled: describe_stalled(&stalled),
        next,
    }
}

/// Says whose requests are not believed: of the first of these pods, and how many others there are.
fn describe_stalled(stalled: &[(&Name, u64, Timestamp)]) -> Option<String> {
    let ((name, busy, since), others) = stalled.split_first()?;
    let since = Timestamp::from_second(since.as_second()).unwrap_or(*since);
    let others = match others.len() {
        0 => String::new(),
        more => format!(" (and {more} other)"),
    };
    Some(format!(
        "pod {name}{others}: no counter has moved since {since}, so its {busy} requests count as none"
    ))
}

/// Whether an engine of these pods was read or should have been.
pub(crate) fn has_reading(pods: &[Replica<'_>], now: Timestamp) -> bool {
    pods.iter().any(|(_, pod, engine)| {
        let is_read = pod.deletion.is_none() && may_have_requests(pod, engine);
        is_read && (!engine.is_unread() || now >= first_read_by(pod))
    })
}

/// When a replica that may have requests has been read for the first time.
pub(super) fn first_read_by(pod: &Pod) -> Timestamp {
    let ready = pod.ready_since.unwrap_or(Timestamp::MIN);
    ready.saturating_add(FIRST_READ).unwrap_or(ready)
}

/// Since when the first of these replicas, or of `without_pod` that have no pod, has been starting.
/// One whose start has failed is starting no more; also when the next one of them will have.
pub(crate) fn starting_since(
    pods: &[Replica<'_>],
    without_pod: u32,
    now: Timestamp,
) -> (Option<Timestamp>, Option<Timestamp>) {
    let (mut since, mut next) = ((without_pod > 0).then_some(now), None::<Timestamp>);
    for (_, pod, engine) in pods {
        let failure = pod.start_failure.as_ref();
        let fails = failure.map(|(_, since)| failed_at(*since));
        if !engine.has_served && fails.is_none_or(|at| now < at) {
            since = since.into_iter().chain([pod.created]).min();
            next = next.into_iter().chain(fails).min();
        }
    }
    (since, next)
}

/// For how long each of these replicas has been starting; `None` for one that may serve. One that is
/// broken has been for ever.
pub(crate) fn start_ages(
    pods: &[Replica<'_>],
    now: Timestamp,
) -> impl Iterator<Item = Option<SignedDuration>> {
    pods.iter().map(move |(_, pod, engine)| {
        let serves = may_have_requests(pod, engine) && !engine.is_stalled(now);
        let is_broken = engine.has_served || pod.start_failure.is_some();
        (!serves).then(|| match is_broken {
            true => SignedDuration::MAX,
            false => now.duration_since(pod.created).max(SignedDuration::ZERO),
        })
    })
}

/// When a replica that has not become ready for a reason since then has failed to start.
pub(crate) fn failed_at(since: Timestamp) -> Timestamp {
    since.saturating_add(START_FAILED_AFTER).unwrap_or(since)
}

/// Why replicas are not ready that have failed to start, and from when on that counts.
pub(crate) fn failures(pods: &[Replica<'_>]) -> Vec<(String, Timestamp)> {
    let unready = pods.iter().filter(|(_, pod, _)| pod.ready_since.is_none());
    let failing = unready.filter_map(|(_, pod, _)| {
        let (why, since) = pod.start_failure.as_ref()?;
        let why = format!("pod {}: {why}", pod.key.name);
        Some((why, failed_at(*since)))
    });
    failing.collect()
}

/// Why none of so many replicas becomes ready: each is among the failures and has failed for long, or
/// the cluster has refused the pods of others for long. `None` while one is ready or may still start;
/// then also when that may end.
pub(crate) fn start_failure(
    replicas: usize,
    failures: &[(String, Timestamp)],
    creation_failure: Option<&PodCreationFailure>,
    now: Timestamp,
) -> (Option<String>, Option<Timestamp>) {
    if failures.len() < replicas {
        return (None, None);
    }
    let refusal = creation_failure.map(|creation_failure| {
        let why = format!("the cluster refuses its pods: {}", creation_failure.why);
        (why, creation_failure.counts_at())
    });
    let all = || failures.iter().chain(&refusal);
    let counts = all().map(|(_, counts_at)| *counts_at);
    match counts.filter(|at| now < *at).max() {
        Some(next) => (None, Some(next)),
        None => (all().next().map(|(why, _)| why.clone()), None),
    }
}
