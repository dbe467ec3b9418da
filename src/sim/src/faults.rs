//! The kinds of events and of faults, and how often each happened.

use std::collections::BTreeMap;
use std::fmt;

use bursar_core::model::Event;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // each says what it is
pub enum Fault {
    LeaderChange,
    LeaderFailedWithOrderOnItsWay,
    WriteRefused,
    WriteHalfDone,
    WriteAnswerLost,
    WriteNeverArrived,
    LatchRefused,
    WatchLate,
    ReadFailed,
    GatewayDied,
    GatewaySilent,
    NodeLost,
    NodeLostAndBack,
    NodeLate,
    NodeNeverCame,
    NodeCordoned,
    PodStartFailed,
    PodNotReady,
    PodEvicted,
    WorkerFailed,
    LedgerLate,
    LedgerInDoubt,
    BudgetUnreadable,
    PriceUnknown,
    ForeignPod,
    Rollout,
    PodCreationFailure,
}

impl Fault {
    /// All kinds.
    pub const ALL: [Self; 27] = [
        Self::LeaderChange,
        Self::LeaderFailedWithOrderOnItsWay,
        Self::WriteRefused,
        Self::WriteHalfDone,
        Self::WriteAnswerLost,
        Self::WriteNeverArrived,
        Self::LatchRefused,
        Self::WatchLate,
        Self::ReadFailed,
        Self::GatewayDied,
        Self::GatewaySilent,
        Self::NodeLost,
        Self::NodeLostAndBack,
        Self::NodeLate,
        Self::NodeNeverCame,
        Self::NodeCordoned,
        Self::PodStartFailed,
        Self::PodNotReady,
        Self::PodEvicted,
        Self::WorkerFailed,
        Self::LedgerLate,
        Self::LedgerInDoubt,
        Self::BudgetUnreadable,
        Self::PriceUnknown,
        Self::ForeignPod,
        Self::Rollout,
        Self::PodCreationFailure,
    ];
}

/// The names of all kinds of events.
const EVENT_KINDS: [&str; 20] = [
    "Service",
    "Deployment",
    "Endpoints",
    "Job",
    "BatchJob",
    "Budget",
    "BudgetDoubt",
    "Corrections",
    "Pod",
    "Node",
    "NodeStart",
    "Prices",
    "Account",
    "Reading",
    "StaleReading",
    "Gateway",
    "Demand",
    "Silent",
    "ServiceOrderFailed",
    "JobOrderFailed",
];

/// The name of an event's kind.
pub(crate) fn kind(event: &Event) -> &'static str {
    use bursar_core::model::event::Reading;
    match event {
        Event::Service(..) => "Service",
        Event::Deployment(..) => "Deployment",
        Event::Endpoints(..) => "Endpoints",
        Event::Job(..) => "Job",
        Event::BatchJob(..) => "BatchJob",
        Event::Budget(..) => "Budget",
        Event::BudgetDoubt(..) => "BudgetDoubt",
        Event::Corrections(..) => "Corrections",
        Event::Pod(..) => "Pod",
        Event::Node(..) => "Node",
        Event::NodeStart(..) => "NodeStart",
        Event::Pauses(..) => "Pauses",
        Event::Prices(..) => "Prices",
        Event::Account(..) => "Account",
        Event::Reading(_, Reading::Counted { .. } | Reading::Uncounted { .. }) => "Reading",
        Event::EngineMeasures(..) => "EngineMeasures",
        Event::Reading(_, Reading::Stale(_)) => "StaleReading",
        Event::Signal(..) => "Signal",
        Event::Gateway(..) => "Gateway",
        Event::Demand(..) => "Demand",
        Event::Silent(..) => "Silent",
        Event::ServiceOrderFailed(..) => "ServiceOrderFailed",
        Event::JobOrderFailed(..) => "JobOrderFailed",
        Event::EvictionFailed(..) => "EvictionFailed",
    }
}

/// How often each kind of event and fault happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events by kind.
    pub events: BTreeMap<&'static str, u64>,
    /// Faults by kind.
    pub faults: BTreeMap<Fault, u64>,
    /// Checks that were made, by name.
    pub checks: BTreeMap<&'static str, u64>,
    /// Decisions.
    pub decisions: u64,
}

impl Tally {
    /// All events.
    pub fn all_events(&self) -> u64 {
        self.events.values().sum()
    }

    /// Adds those of another tally.
    pub fn add(&mut self, other: &Self) {
        for (kind, count) in &other.events {
            *self.events.entry(kind).or_default() += count;
        }
        for (fault, count) in &other.faults {
            *self.faults.entry(*fault).or_default() += count;
        }
        for (check, count) in &other.checks {
            *self.checks.entry(check).or_default() += count;
        }
        self.decisions += other.decisions;
    }

    pub(crate) fn note_event(&mut self, event: &Event) {
        *self.events.entry(kind(event)).or_default() += 1;
    }

    pub(crate) fn note_fault(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_default() += 1;
    }

    pub(crate) fn note_check(&mut self, check: &'static str) {
        *self.checks.entry(check).or_default() += 1;
    }

    /// Kinds of events and faults that never happened.
    pub fn missing(&self) -> Vec<String> {
        let events = EVENT_KINDS
            .iter()
            .filter(|kind| !self.events.contains_key(*kind));
        let faults = Fault::ALL
            .iter()
            .filter(|fault| !self.faults.contains_key(fault));
        let events = events.map(|kind| (*kind).to_owned());
        events
            .chain(faults.map(|fault| format!("{fault:?}")))
            .collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "{} events, {} decisions",
            self.all_events(),
            self.decisions
        )?;
        for (kind, count) in &self.events {
            writeln!(formatter, "  event {kind}: {count}")?;
        }
        for (fault, count) in &self.faults {
            writeln!(formatter, "  fault {fault:?}: {count}")?;
        }
        for (check, count) in &self.checks {
            writeln!(formatter, "  check {check}: {count}")?;
        }
        Ok(())
    }
}

/// How often writes, watches and the ledger go wrong, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FaultRates {
    pub(crate) write: u8,
    pub(crate) watch: u8,
    pub(crate) ledger: u8,
    pub(crate) pod_start: u8,
}
