//! Condition types and reasons, all in one place, and how a list of conditions changes.
//!
//! A [`Reason`] can only be made in this file.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// A replica takes requests, or the service may wake one.
pub const READY: &str = "Ready";
/// Budgets leave what the demand asks for.
pub const WITHIN_BUDGET: &str = "WithinBudget";
/// Every signal can be read.
pub const SIGNALS_AVAILABLE: &str = "SignalsAvailable";
/// A price is known for what runs.
pub const PRICED: &str = "Priced";
/// SpendRecords hold what a budget counts.
pub const SPEND_RECORDED: &str = "SpendRecorded";
/// No pod is stuck.
pub const PODS_HEALTHY: &str = "PodsHealthy";
/// The workload's PriorityClass counts beside other namespaces. It has the condition only while it does
/// not.
pub const PRIORITY_ALLOWED: &str = "PriorityAllowed";
/// Gateways can connect to the replicas that are ready. A service has the condition only while they
/// cannot.
pub const REPLICAS_REACHABLE: &str = "ReplicasReachable";
/// The service has a port on gateways, so requests can wake it. It has the condition only while it has
/// none.
pub const PORT_ASSIGNED: &str = "PortAssigned";
/// Requests that come by the service's Service wake it. It has the condition only while something in
/// their way keeps them from it.
pub const REQUESTS_WAKE: &str = "RequestsWake";
/// The workload of a targetRef can be read and scaled, or started and suspended. Workloads with a targetRef
/// alone have the condition.
pub const TARGET_READY: &str = "TargetReady";
/// Replicas get no new requests once they are to leave. A service with a targetRef has the condition
/// only while they do.
pub const REPLICAS_DRAIN: &str = "ReplicasDrain";
/// An edit of a BudgetPolicy or of prices would stop something that runs, and waits. A BudgetPolicy
/// has the condition only meanwhile.
pub const BUDGET_CHANGE_PENDING: &str = "BudgetChangePending";
/// No GPU pod that Bursar did not make runs without money. A BudgetPolicy has the condition only while it
/// evicts such pods.
pub const UNMANAGED_EVICTED: &str = "UnmanagedEvicted";
/// Every accelerator that pods of the namespace hold is one that some price may be for. A BudgetPolicy
/// has the condition only while one is not, and costs nothing.
pub const ACCELERATORS_KNOWN: &str = "AcceleratorsKnown";
/// Nothing is changed. Workloads and BudgetPolicies have the condition only while they are paused.
pub const PAUSED: &str = "Paused";
/// The resource can be read.
pub const ACCEPTED: &str = "Accepted";

/// Why a condition is as it is, in one word for programs. Only this file makes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason(&'static str);

impl Reason {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

/// Declares reasons of one condition.
macro_rules! reasons {
    ($(#[$module_doc:meta])* $module:ident: $($(#[$doc:meta])* $name:ident = $word:literal;)*) => {
        $(#[$module_doc])*
        pub mod $module {
            use super::Reason;
            $($(#[$doc])* pub const $name: Reason = Reason($word);)*
        }
    };
}

reasons! {
    /// Reasons of [`READY`](super::READY) of an InferenceDeployment.
    service_ready:
    /// Replicas take requests.
    SERVING = "Serving";
    /// No replica takes requests yet.
    STARTING = "Starting";
    /// None of the replicas starts.
    START_FAILED = "StartFailed";
    /// No replica runs; the next demand starts one.
    AT_ZERO = "AtZero";
    /// No replica runs, and none may start.
    REFUSING = "Refusing";
}

reasons! {
    /// Reasons of [`READY`](super::READY) of a TrainingJob.
    job_ready:
    /// All workers run.
    RUNNING = "Running";
    /// All workers ended well.
    SUCCEEDED = "Succeeded";
    /// Workers failed more often than restarts are allowed.
    FAILED = "Failed";
    /// The job that it adopted was deleted before its end was seen.
    TARGET_DELETED = "TargetDeleted";
    /// The job does not run.
    WAITING = "Waiting";
}

reasons! {
    /// Reasons of [`WITHIN_BUDGET`](super::WITHIN_BUDGET) of a workload.
    workload_within_budget:
    /// No budget limits the workload.
    WITHIN_BUDGET = "WithinBudget";
    /// A budget limits the workload.
    BUDGET_LIMITS = "BudgetLimits";
    /// It gives way to a workload of higher priority, which waits for money.
    PREEMPTED = "Preempted";
    /// What it costs, or what was spent, is not known, so budgets let nothing start.
    PRICE_UNKNOWN = "PriceUnknown";
}

reasons! {
    /// Reasons of [`WITHIN_BUDGET`](super::WITHIN_BUDGET) of a BudgetPolicy.
    budget_within_budget:
    /// There is money left.
    ACTIVE = "Active";
    /// Workloads of lower priority are stopped, so that the others can run on.
    PARTLY_EXHAUSTED = "PartlyExhausted";
    /// The limit is reached.
    EXHAUSTED = "Exhausted";
    /// More is spent than the limit.
    OVER_LIMIT = "OverLimit";
    /// The price of something that runs is not known.
    PRICE_UNKNOWN = "PriceUnknown";
}

reasons! {
    /// Reasons of [`SPEND_RECORDED`](super::SPEND_RECORDED).
    spend_recorded:
    /// The SpendRecords hold everything, but for what is under way.
    RECORDED = "Recorded";
    /// A SpendRecord cannot be read or written.
    SPEND_UNKNOWN = "SpendUnknown";
}

reasons! {
    /// Reasons of [`SIGNALS_AVAILABLE`](super::SIGNALS_AVAILABLE).
    signals_available:
    /// Every signal can be read.
    READ = "Read";
    /// A signal cannot be read.
    SIGNAL_UNKNOWN = "SignalUnknown";
    /// A replica has requests, and its counters have stood still for minutes.
    ENGINE_STALLED = "EngineStalled";
}

reasons! {
    /// Reasons of [`PRICED`](super::PRICED).
    priced:
    /// A price is known.
    LISTED = "Listed";
    /// A part of the spend is estimated.
    ESTIMATED = "Estimated";
    /// The highest listed price stands in, because no row matches.
    PROVISIONAL = "Provisional";
    /// No price is known.
    PRICE_UNKNOWN = "PriceUnknown";
    /// A SpendRecord cannot be read or written.
    SPEND_UNKNOWN = "SpendUnknown";
}

reasons! {
    /// Reasons of [`PODS_HEALTHY`](super::PODS_HEALTHY).
    pods_healthy:
    /// No pod is stuck.
    HEALTHY = "Healthy";
    /// A container does not start, or crashes again and again.
    POD_STUCK = "PodStuck";
    /// The cluster refuses to make pods.
    PODS_REFUSED = "PodsRefused";
    /// A rollout cannot finish.
    ROLLOUT_STUCK = "RolloutStuck";
    /// No node takes a pod.
    UNSCHEDULABLE = "Unschedulable";
    /// The API server refused what the decision needs.
    APPLY_FAILED = "ApplyFailed";
    /// Bursar decides, and changes nothing.
    OBSERVE_ONLY = "ObserveOnly";
}

reasons! {
    /// Reasons of [`PRIORITY_ALLOWED`](super::PRIORITY_ALLOWED).
    priority_allowed:
    /// The installation does not allow the class in this namespace.
    CLASS_NOT_ALLOWED = "ClassNotAllowed";
}

reasons! {
    /// Reasons of [`REPLICAS_REACHABLE`](super::REPLICAS_REACHABLE).
    replicas_reachable:
    /// A replica is ready, and takes no connection of a gateway.
    GATEWAY_CANNOT_CONNECT = "GatewayCannotConnect";
}

reasons! {
    /// Reasons of [`PORT_ASSIGNED`](super::PORT_ASSIGNED).
    port_assigned:
    /// The services of its namespace have as many ports as remain for all others.
    NAMESPACE_SHARE_USED = "NamespaceShareUsed";
    /// No port is free.
    PORTS_EXHAUSTED = "PortsExhausted";
}

reasons! {
    /// Reasons of [`REQUESTS_WAKE`](super::REQUESTS_WAKE).
    requests_wake:
    /// The Service is headless: clients connect to the addresses of replicas.
    SERVICE_HEADLESS = "ServiceHeadless";
    /// Nodes send requests of the Service to endpoints of their own alone.
    LOCAL_TRAFFIC_POLICY = "LocalTrafficPolicy";
    /// The Service has replicas that are not ready as ready endpoints.
    NOT_READY_PUBLISHED = "NotReadyPublished";
    /// The Service has addresses of a family of which no gateway has one.
    NO_GATEWAY_ADDRESS = "NoGatewayAddress";
    /// All requests should go through gateways, and go to replicas.
    GATEWAYS_NOT_IN_PATH = "GatewaysNotInPath";
    /// No Service is named by which requests come.
    NO_SERVICE = "NoService";
    /// The Service of the serviceRef is not there, or may not be read.
    SERVICE_NOT_READ = "ServiceNotRead";
    /// The Service has no pods of its own: it is an alias, or others write its endpoints.
    SERVICE_WITHOUT_PODS = "ServiceWithoutPods";
    /// The Service has no such port, or several of which none is named.
    SERVICE_PORT_UNKNOWN = "ServicePortUnknown";
    /// An older InferenceDeployment has gateways in the Service.
    SERVICE_IN_USE = "ServiceInUse";
    /// The Service sends requests to another port than the engine's.
    SERVICE_PORT_DIFFERS = "ServicePortDiffers";
}

reasons! {
    /// Reasons of [`TARGET_READY`](super::TARGET_READY).
    target_ready:
    /// It is read, and scaled.
    ADOPTED = "Adopted";
    /// Its pods do not all have the labels of replicas yet.
    ADOPTING = "Adopting";
    /// It was not read yet, or the API server does not answer.
    NOT_READ = "NotRead";
    /// There is no such workload.
    NOT_FOUND = "NotFound";
    /// The controller has no right to read or to scale it.
    FORBIDDEN = "Forbidden";
    /// Its kind has no scale subresource, or no pod template that makes one pod a replica.
    KIND_NOT_SUPPORTED = "KindNotSupported";
    /// It belongs to somebody who decides over its replicas.
    OWNED_BY_OTHER = "OwnedByOther";
    /// A HorizontalPodAutoscaler or another InferenceDeployment scales it.
    SCALED_BY_OTHER = "ScaledByOther";
    /// The installation lists no such kind of jobs.
    KIND_NOT_LISTED = "KindNotListed";
    /// The job that was adopted is gone, or another one has its name.
    TARGET_DELETED = "TargetDeleted";
    /// The API server does not serve the version of its kind that the installation lists.
    KIND_NOT_SERVED = "KindNotServed";
    /// It has no pod templates where its kind has them.
    NO_TEMPLATES = "NoTemplates";
    /// Kueue starts and suspends it.
    MANAGED_BY_KUEUE = "ManagedByKueue";
    /// Another controller starts and suspends it.
    MANAGED_BY_OTHER = "ManagedByOther";
    /// Its controller refuses to suspend it as it is.
    NOT_SUSPENDABLE = "NotSuspendable";
    /// Somebody has suspended it after Bursar let it run.
    SUSPENDED_BY_OTHERS = "SuspendedByOthers";
    /// It is suspended, or has had no replicas, for minutes and still has pods.
    PODS_REMAIN = "PodsRemain";
    /// An older TrainingJob has the same target.
    IN_USE = "InUse";
    /// Bursar made it for a workload of its own.
    MADE_BY_BURSAR = "MadeByBursar";
}

reasons! {
    /// Reasons of [`REPLICAS_DRAIN`](super::REPLICAS_DRAIN).
    replicas_drain:
    /// The Service does not select by the label that a leaving replica loses.
    SELECTOR_LACKS_LABEL = "SelectorLacksLabel";
}

reasons! {
    /// Reasons of [`BUDGET_CHANGE_PENDING`](super::BUDGET_CHANGE_PENDING).
    budget_change_pending:
    /// Something that runs stops when the grace window ends.
    WOULD_STOP = "WouldStop";
}

reasons! {
    /// Reasons of [`UNMANAGED_EVICTED`](super::UNMANAGED_EVICTED).
    unmanaged_evicted:
    /// No such pod holds a node.
    NONE_LEFT = "NoneLeft";
    /// Such pods were warned, or were told to stop.
    NOTICE_GIVEN = "NoticeGiven";
    /// The API server refuses to evict one.
    EVICTION_REFUSED = "EvictionRefused";
}

reasons! {
    /// Reasons of [`ACCELERATORS_KNOWN`](super::ACCELERATORS_KNOWN).
    accelerators_known:
    /// Pods hold a resource that looks like an accelerator, and that no rule knows.
    UNKNOWN_RESOURCE = "UnknownResource";
}

reasons! {
    /// Reasons of [`PAUSED`](super::PAUSED).
    paused:
    /// All namespaces are paused.
    CLUSTER_PAUSED = "ClusterPaused";
    /// The namespace is paused.
    NAMESPACE_PAUSED = "NamespacePaused";
    /// The workload alone is paused: budgets stop it all the same.
    WORKLOAD_PAUSED = "WorkloadPaused";
}

reasons! {
    /// Reasons of [`ACCEPTED`](super::ACCEPTED) of any kind. Workloads and BudgetPolicies have the
    /// condition only while they cannot be read.
    accepted:
    /// A field of the resource cannot be read.
    UNREADABLE = "Unreadable";
}

reasons! {
    /// Reasons of [`ACCEPTED`](super::ACCEPTED) of a PriceList.
    price_list_accepted:
    /// The prices count.
    IN_FORCE = "InForce";
    /// The prices count from a later time.
    PENDING = "Pending";
    /// The list contradicts another one.
    REFUSED = "Refused";
}

reasons! {
    /// Reasons of [`ACCEPTED`](super::ACCEPTED) of a SpendCorrection.
    correction_accepted:
    /// The correction is a part of the spend.
    COUNTS = "Counts";
    /// The correction counts from a later day.
    PENDING = "Pending";
    /// The accounts of the correction's month are in another currency.
    OTHER_CURRENCY = "OtherCurrency";
}

/// The present value of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConditionState {
    /// Its type.
    pub kind: &'static str,
    /// True, false, or not known.
    pub status: Option<bool>,
    /// A word for programs.
    pub reason: Reason,
    /// A sentence for people.
    pub message: String,
}

/// The conditions that follow `old`. The transition time moves only when a status changes.
pub fn updated_conditions(
    old: &[Condition],
    states: Vec<ConditionState>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    states
        .into_iter()
        .map(|state| {
            let status = match state.status {
                Some(true) => "True",
                Some(false) => "False",
                None => "Unknown",
            };
            let since = old
                .iter()
                .find(|condition| condition.type_ == state.kind && condition.status == status)
                .map_or_else(
                    || Time(bursar_core::calendar::whole_second(now)),
                    |condition| condition.last_transition_time.clone(),
                );
            Condition {
                type_: state.kind.to_owned(),
                status: status.to_owned(),
                reason: state.reason.as_str().to_owned(),
                message: state.message,
                last_transition_time: since,
                observed_generation: generation,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_moves_with_the_status_only() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let states = |status, message: &str| {
            vec![ConditionState {
                kind: READY,
                status,
                reason: Reason("R"),
                message: message.into(),
            }]
        };
        let first = updated_conditions(&[], states(Some(true), "a"), None, at(1));
        let second = updated_conditions(&first, states(Some(true), "b"), None, at(2));
        assert_eq!(
            (second[0].last_transition_time.0, second[0].message.as_str()),
            (at(1), "b")
        );
        assert_eq!(
            updated_conditions(&second, states(None, "c"), None, at(3))[0]
                .last_transition_time
                .0,
            at(3)
        );
    }
}
