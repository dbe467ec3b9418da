//! What will happen, in order of time.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use bursar_core::model::{Key, Name};
use jiff::{SignedDuration, Timestamp};

/// An object whose latest state the leader is told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum WatchedObject {
    Node(Name),
    Pod(u32),
    Service(Key),
    Deployment(Key),
    Endpoints(Key),
    Job(Key),
    BatchJob(Key, Name),
    Budget(Key),
    BudgetDoubt(Name),
    Corrections(Name),
    Prices,
    /// Whether nodes are made for pods that wait.
    NodeStart,
    Account(Key),
    Gateway(u32),
    /// What a gateway holds.
    Demand(u32),
    /// A gateway has been silent for too long.
    Silent(u32),
    /// A read of the engine of a pod.
    Reading(u32),
    /// An order for a service failed.
    ServiceOrderFailed(Key),
    /// An order for a TrainingJob failed.
    JobOrderFailed(Key),
}

/// Something that happens in the cluster.
#[derive(Clone, Debug)]
pub(crate) enum SimEvent {
    /// The leader's watch delivers an object.
    Deliver(WatchedObject),
    /// A replica that leaves has ended some requests.
    ShareDemand(Key),
    /// A busy engine's counters have moved.
    ReadAgain(u32),
    /// A timer of the model is due.
    Timer,
    /// The first order in the queue of a workload reaches the API server.
    Write(Key, bool),
    /// A latch is put on record.
    WriteLatch(Key),
    /// The Deployment's controllers act.
    ReconcileDeployment(Key),
    /// The Job controller acts.
    ReconcileJob(Key),
    /// The endpoints' controller acts.
    PublishEndpoints(Key),
    /// The scheduler looks for nodes for pending pods.
    Schedule,
    /// The containers of a pod are ready.
    PodReady(u32),
    /// The containers of a pod have ended.
    PodEnded(u32),
    /// A pod is removed.
    PodRemoved(u32),
    /// A worker's share of a job is done, if the job has run without a break since.
    JobDone(Key, u32),
    /// The kubelet's node is evicted or removed after it was lost.
    NodeRemoved(Name),
    /// A node arrives.
    NodeArrives(Name),
    /// A node is lost.
    NodeLost(Name),
    /// The next request of a service's trace comes.
    Request(u32),
    /// An engine ends a step, unless its state changed since.
    EngineStep(u32, u32),
    /// Requests that were held for too long are refused.
    HoldExpires(Key),
    /// A job of a trace is submitted.
    Submit(u32),
    /// The leader fails.
    LeaderFails,
    /// Another leader begins.
    LeaderBegins,
    /// Figures are noted for the charts.
    Sample,
    /// The history does something at random.
    Act,
    /// A fault of this number ends.
    FaultEnds(u32),
}

#[derive(Debug)]
struct Entry {
    at: Timestamp,
    number: u64,
    happening: SimEvent,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// What will happen. Of what happens at one instant, the first that was added comes first.
#[derive(Debug, Default)]
pub(crate) struct EventQueue {
    entries: BinaryHeap<Reverse<Entry>>,
    number: u64,
}

impl EventQueue {
    /// Adds something.
    pub(crate) fn add(&mut self, at: Timestamp, happening: SimEvent) {
        self.number += 1;
        self.entries.push(Reverse(Entry {
            at,
            number: self.number,
            happening,
        }));
    }

    /// When the next thing happens.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.entries.peek().map(|Reverse(entry)| entry.at)
    }

    /// Takes out the next thing that happens at `now` or before.
    pub(crate) fn take(&mut self, now: Timestamp) -> Option<SimEvent> {
        if self.next()? > now {
            return None;
        }
        self.entries.pop().map(|Reverse(entry)| entry.happening)
    }
}

/// `at` and so much.
pub(crate) fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.saturating_add(by).unwrap_or(at)
}
