//! The simulation: a virtual clock, the cluster, its ledger, and a leader that is told of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bursar_core::budget::{BudgetState, Latch};
use bursar_core::model::{Key, Model, Name};
use bursar_core::plan::{Decision, JobOrder, ServiceOrder};
use bursar_core::training::JobDecision;
use fastrand::Rng;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::cluster::Cluster;
use crate::event_queue::{EventQueue, SimEvent, WatchedObject, later};
use crate::faults::{Fault, FaultRates, Tally};
use crate::invariants::InvariantChecker;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::trace::RequestStream;

/// Something that must not happen, with the time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at {at}: {what}")]
pub struct Violation {
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: String,
}

/// An order on its way to the API server.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    Service(ServiceOrder),
    Job(JobOrder),
}

/// The orders for one workload, in order.
#[derive(Debug, Default)]
pub(crate) struct OrderQueue {
    pub(crate) orders: VecDeque<Order>,
    /// One has failed, and the others are void with it.
    pub(crate) failed: bool,
}

/// The leader: its model, and what it has ordered and decided.
#[derive(Debug)]
pub(crate) struct Leader {
    pub(crate) model: Model,
    /// Something was told that is not decided yet.
    pub(crate) dirty: bool,
    /// When its timer was set to.
    pub(crate) timer: Option<Timestamp>,
    /// Objects whose latest state is on its way to it.
    pub(crate) deliveries: BTreeSet<WatchedObject>,
    /// Orders on their way, by workload and whether it is a job.
    pub(crate) orders: BTreeMap<(Key, bool), OrderQueue>,
    /// Latches on their way to the record, and when they arrive.
    pub(crate) latches: BTreeMap<Key, (Option<Latch>, Timestamp)>,
}

/// What was last decided, as statuses show it.
#[derive(Debug, Default)]
pub(crate) struct Statuses {
    pub(crate) services: BTreeMap<Key, Decision>,
    pub(crate) jobs: BTreeMap<Key, JobDecision>,
    pub(crate) budgets: BTreeMap<Key, BudgetState>,
    /// When each budget was first exhausted in its period, and the period's start.
    pub(crate) exhausted: BTreeMap<Key, (Timestamp, Timestamp)>,
    /// When a budget last stopped something.
    pub(crate) latched: Option<Timestamp>,
}

/// A service's requests, one by one.
#[derive(Debug)]
pub(crate) struct RequestSource {
    pub(crate) service: Key,
    pub(crate) stream: RequestStream,
}

/// A job that will be submitted.
#[derive(Clone, Debug)]
pub(crate) struct Submission {
    pub(crate) key: Key,
    pub(crate) job: bursar_core::model::event::Job,
    pub(crate) runs: SignedDuration,
    pub(crate) start: (SignedDuration, SignedDuration),
}

/// A whole simulation.
#[derive(Debug)]
pub(crate) struct Simulation {
    pub(crate) now: Timestamp,
    pub(crate) zone: TimeZone,
    pub(crate) rng: Rng,
    pub(crate) event_queue: EventQueue,
    pub(crate) cluster: Cluster,
    pub(crate) ledger: Ledger,
    pub(crate) leader: Option<Leader>,
    pub(crate) statuses: Statuses,
    pub(crate) rates: FaultRates,
    pub(crate) tally: Tally,
    /// Checks each decision, if there is one.
    pub(crate) invariants: Option<InvariantChecker>,
    pub(crate) metrics: Metrics,
    pub(crate) sources: Vec<RequestSource>,
    pub(crate) submissions: Vec<Submission>,
    /// The scheduler has been told to look.
    pub(crate) scheduling: bool,
    /// Faults that end, by number.
    pub(crate) running_faults: BTreeMap<u32, RunningFault>,
    /// Money for which faults give an excuse, by namespace.
    pub(crate) excused: BTreeMap<Name, bursar_core::money::Money>,
    /// Nodes that arrive later.
    pub(crate) coming_nodes: BTreeMap<Name, bursar_core::model::event::Node>,
    /// What a random history does.
    pub(crate) chaos: Option<Chaos>,
}

/// The bounds of a random history.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chaos {
    /// Its namespaces.
    pub(crate) namespaces: Vec<Name>,
    /// Acts so far.
    pub(crate) random_actions: u32,
    /// All pods ask for one GPU of one class.
    pub(crate) uniform: bool,
    /// Prices never change.
    pub(crate) fixed_prices: bool,
    /// It does nothing more.
    pub(crate) over: bool,
    /// Numbers of what was made.
    pub(crate) made: u32,
    /// Periods of budgets in which the promise has been broken by an edit.
    pub(crate) edited: BTreeSet<Key>,
}

/// A fault that ends.
#[derive(Clone, Debug)]
pub(crate) enum RunningFault {
    Unreadable(u32),
    Silent(u32),
    NotReady(u32),
    StartFails(u32),
    Cordoned(Name),
    Lost(Name),
    Doubt(Key),
    BudgetUnreadable(Name),
    Rollout(Key),
    /// Of a Deployment whose pods the cluster refuses.
    PodCreationFailure(Key),
    NoPrices(std::sync::Arc<bursar_core::pricing::PriceCatalog>),
    Foreign(u32),
}

impl Simulation {
    /// An empty cluster at `now`, without a leader.
    pub(crate) fn new(seed: u64, now: Timestamp, zone: TimeZone) -> Self {
        Self {
            now,
            ledger: Ledger::new(zone.clone(), now),
            zone,
            rng: Rng::with_seed(seed),
            event_queue: EventQueue::default(),
            cluster: Cluster::default(),
            leader: None,
            statuses: Statuses::default(),
            rates: FaultRates::default(),
            tally: Tally::default(),
            invariants: None,
            metrics: Metrics::default(),
            sources: Vec::new(),
            submissions: Vec::new(),
            scheduling: false,
            running_faults: BTreeMap::new(),
            excused: BTreeMap::new(),
            coming_nodes: BTreeMap::new(),
            chaos: None,
        }
    }

    /// The instant so many milliseconds from now.
    pub(crate) fn after(&self, millis: i64) -> Timestamp {
        later(self.now, SignedDuration::from_millis(millis))
    }

    /// Something happens between `least` and `most` milliseconds from now.
    pub(crate) fn add_within(&mut self, least: i64, most: i64, happening: SimEvent) {
        let millis = self.rng.i64(least..=most.max(least));
        let at = self.after(millis);
        self.event_queue.add(at, happening);
    }

    /// True in so many of a hundred cases.
    pub(crate) fn chance(&mut self, percent: u8) -> bool {
        percent > 0 && self.rng.u8(..100) < percent
    }

    /// A duration between two.
    pub(crate) fn between(&mut self, bounds: (SignedDuration, SignedDuration)) -> SignedDuration {
        let (least, most) = (bounds.0.as_millis() as i64, bounds.1.as_millis() as i64);
        SignedDuration::from_millis(self.rng.i64(least..=most.max(least)))
    }

    /// Notes a fault.
    pub(crate) fn note(&mut self, fault: Fault) {
        self.tally.note_fault(fault);
    }

    /// Lets everything happen until `end`.
    ///
    /// # Errors
    /// A decision that must not be.
    pub(crate) fn run_until(&mut self, end: Timestamp) -> Result<(), Violation> {
        while let Some(at) = self.event_queue.next().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            while let Some(happening) = self.event_queue.take(self.now) {
                self.handle(happening)?;
            }
            self.decide()?;
        }
        self.now = self.now.max(end);
        Ok(())
    }

    fn handle(&mut self, happening: SimEvent) -> Result<(), Violation> {
        match happening {
            SimEvent::Deliver(subject) => self.deliver(&subject),
            SimEvent::ShareDemand(key) => self.share_demand(&key),
            SimEvent::ReadAgain(pod) => self.read_again(pod),
            SimEvent::Timer => self.timer_due(),
            SimEvent::Write(key, is_job) => self.write_order(&key, is_job),
            SimEvent::WriteLatch(key) => self.write_latch(&key),
            SimEvent::ReconcileDeployment(key) => self.reconcile_deployment(&key),
            SimEvent::ReconcileJob(key) => self.reconcile_job(&key),
            SimEvent::PublishEndpoints(key) => self.publish_endpoints(&key),
            SimEvent::Schedule => self.schedule_pods(),
            SimEvent::PodReady(pod) => self.pod_ready(pod),
            SimEvent::PodEnded(pod) => self.end_pod(pod),
            SimEvent::PodRemoved(pod) => self.remove_pod(pod),
            SimEvent::JobDone(key, run) => self.job_done(&key, run),
            SimEvent::NodeRemoved(name) => self.remove_node(&name),
            SimEvent::NodeArrives(name) => self.node_arrives(&name),
            SimEvent::NodeLost(name) => self.lose_node(&name),
            SimEvent::Request(source) => self.request(source),
            SimEvent::EngineStep(pod, generation) => self.engine_step(pod, generation),
            SimEvent::HoldExpires(key) => self.expire_held(&key),
            SimEvent::Submit(number) => self.submit(number),
            SimEvent::LeaderFails => self.leader_fails(),
            SimEvent::LeaderBegins => self.leader_begins(),
            SimEvent::Sample => self.sample(),
            SimEvent::Act => self.act()?,
            SimEvent::FaultEnds(number) => self.end_fault(number),
        }
        Ok(())
    }

    /// The leader is told of an object after the delay of a watch.
    pub(crate) fn tell(&mut self, subject: WatchedObject) {
        let is_late = self.chance(self.rates.watch);
        let millis = match is_late {
            true => self.rng.i64(500..3_000),
            false => self.rng.i64(2..40),
        };
        if self.tell_within(subject, millis) && is_late {
            self.note(Fault::WatchLate);
        }
    }

    /// The leader is told of an object after so many milliseconds. Returns false if it would have
    /// been anyway.
    pub(crate) fn tell_within(&mut self, subject: WatchedObject, millis: i64) -> bool {
        self.tell_at(subject, self.after(millis))
    }

    /// As [`Simulation::tell_within`], at an instant.
    pub(crate) fn tell_at(&mut self, subject: WatchedObject, at: Timestamp) -> bool {
        let Some(leader) = &mut self.leader else {
            return false;
        };
        let is_new = leader.deliveries.insert(subject.clone());
        if is_new {
            self.event_queue.add(at, SimEvent::Deliver(subject));
        }
        is_new
    }

    /// Some of the ledger's spend has changed.
    pub(crate) fn tell_account(&mut self, key: Key) {
        let is_late = self.chance(self.rates.ledger);
        let millis = match is_late {
            true => self.rng.i64(1_000..3_000),
            false => self.rng.i64(5..100),
        };
        if self.tell_within(WatchedObject::Account(key), millis) && is_late {
            self.note(Fault::LedgerLate);
        }
    }
}
