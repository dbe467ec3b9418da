//! The simulation: a virtual clock, the cluster, its ledger, and a leader that is told of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bursar_core::budget::{BudgetState, Latch};
use bursar_core::model::{Key, Model, Name};
use bursar_core::plan::{Decision, JobOrder, ServiceOrder};
use bursar_core::training::JobDecision;
use fastrand::Rng;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::agenda::{Agenda, Happening, Subject, later};
use crate::cluster::Cluster;
use crate::faults::{Fault, FaultRates, Tally};
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::trace::RequestStream;
use crate::witness::Witness;

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
    pub(crate) deliveries: BTreeSet<Subject>,
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
    pub(crate) agenda: Agenda,
    pub(crate) cluster: Cluster,
    pub(crate) ledger: Ledger,
    pub(crate) leader: Option<Leader>,
    pub(crate) statuses: Statuses,
    pub(crate) rates: FaultRates,
    pub(crate) tally: Tally,
    /// Checks each decision, if there is one.
    pub(crate) witness: Option<Witness>,
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
    pub(crate) acts: u32,
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
    PodsRefused(Key),
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
            agenda: Agenda::default(),
            cluster: Cluster::default(),
            leader: None,
            statuses: Statuses::default(),
            rates: FaultRates::default(),
            tally: Tally::default(),
            witness: None,
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
    pub(crate) fn add_within(&mut self, least: i64, most: i64, happening: Happening) {
        let millis = self.rng.i64(least..=most.max(least));
        let at = self.after(millis);
        self.agenda.add(at, happening);
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
        while let Some(at) = self.agenda.next().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            while let Some(happening) = self.agenda.take(self.now) {
                self.handle(happening)?;
            }
            self.decide()?;
        }
        self.now = self.now.max(end);
        Ok(())
    }

    fn handle(&mut self, happening: Happening) -> Result<(), Violation> {
        match happening {
            Happening::Deliver(subject) => self.deliver(&subject),
            Happening::ShareDemand(key) => self.share_demand(&key),
            Happening::ReadAgain(pod) => self.read_again(pod),
            Happening::Timer => self.timer_due(),
            Happening::Write(key, is_job) => self.write_order(&key, is_job),
            Happening::WriteLatch(key) => self.write_latch(&key),
            Happening::ReconcileDeployment(key) => self.reconcile_deployment(&key),
            Happening::ReconcileJob(key) => self.reconcile_job(&key),
            Happening::PublishEndpoints(key) => self.publish_endpoints(&key),
            Happening::Schedule => self.schedule_pods(),
            Happening::PodReady(pod) => self.pod_ready(pod),
            Happening::PodEnded(pod) => self.end_pod(pod),
            Happening::PodRemoved(pod) => self.remove_pod(pod),
            Happening::JobDone(key, run) => self.job_done(&key, run),
            Happening::NodeRemoved(name) => self.remove_node(&name),
            Happening::NodeArrives(name) => self.node_arrives(&name),
            Happening::NodeLost(name) => self.lose_node(&name),
            Happening::Request(source) => self.request(source),
            Happening::EngineStep(pod, generation) => self.engine_step(pod, generation),
            Happening::HoldExpires(key) => self.expire_held(&key),
            Happening::Submit(number) => self.submit(number),
            Happening::LeaderFails => self.leader_fails(),
            Happening::LeaderBegins => self.leader_begins(),
            Happening::Sample => self.sample(),
            Happening::Act => self.act()?,
            Happening::FaultEnds(number) => self.end_fault(number),
        }
        Ok(())
    }

    /// The leader is told of an object after the delay of a watch.
    pub(crate) fn tell(&mut self, subject: Subject) {
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
    pub(crate) fn tell_within(&mut self, subject: Subject, millis: i64) -> bool {
        self.tell_at(subject, self.after(millis))
    }

    /// As [`Simulation::tell_within`], at an instant.
    pub(crate) fn tell_at(&mut self, subject: Subject, at: Timestamp) -> bool {
        let Some(leader) = &mut self.leader else {
            return false;
        };
        let is_new = leader.deliveries.insert(subject.clone());
        if is_new {
            self.agenda.add(at, Happening::Deliver(subject));
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
        if self.tell_within(Subject::Account(key), millis) && is_late {
            self.note(Fault::LedgerLate);
        }
    }
}
