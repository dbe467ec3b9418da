//! Accounts and charges as a record stores them, and what is wrong with a record that no ledger can
//! have written.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::civil::Date;

use super::account::DailyCosts;
use super::charge::{Charge, EngineCounters, EngineUsage, PreviousAmounts, RatePeriod, Uid};
use super::zero_replica_savings::ZeroReplicaPeriod;
use crate::calendar::Month;
use crate::pricing::PricingAttributes;

/// The fields of an account, which [`Account::restore`](super::Account::restore) checks.
#[derive(Clone, Debug)]
pub struct StoredAccount {
    /// The month.
    pub month: Month,
    /// The charges of pods that still occupy a node.
    pub open: Vec<Charge>,
    /// The pods whose charges are settled and whose finalizer may still be there.
    pub settling: BTreeSet<Uid>,
    /// The time at zero replicas that has not ended.
    pub zero_replica_period: Option<ZeroReplicaPeriod>,
    /// The costs that are posted, by day and hardware.
    pub days: DailyCosts,
}

impl StoredAccount {
    /// The fields of an account without a charge.
    pub fn new(month: Month) -> Self {
        Self {
            month,
            open: Vec::new(),
            settling: BTreeSet::new(),
            zero_replica_period: None,
            days: DailyCosts::new(),
        }
    }
}

/// The fields of a charge, which [`Charge::restore`] checks.
#[derive(Clone, Debug)]
pub struct StoredCharge {
    /// The pod's UID; a key of its own for a node.
    pub uid: Uid,
    /// The pod's name, or the node's.
    pub pod: String,
    /// The owner that made the pod, where that is not Bursar: `Kind/name`.
    pub owner: Option<String>,
    /// The attributes that it is priced by.
    pub attributes: PricingAttributes,
    /// The amounts that it had before those in `attributes`, in the order of time.
    pub previous_amounts: Vec<PreviousAmounts>,
    /// When the pod was bound to its node.
    pub start: Timestamp,
    /// The instant until which the account's days have the cost, if some days were posted.
    pub posted_until: Option<Timestamp>,
    /// The rates in the order of time; none while no price is known.
    pub rates: Vec<RatePeriod>,
    /// When the pod was first ready.
    pub ready_since: Option<Timestamp>,
    /// Since when the pod has been draining or terminating.
    pub draining_since: Option<Timestamp>,
    /// Since when nothing has been heard of the node.
    pub node_lost_since: Option<Timestamp>,
    /// The engine's usage by day, of days that are not posted.
    pub usage: BTreeMap<Date, EngineUsage>,
    /// The engine's counters as `usage` has them.
    pub counters: EngineCounters,
}

impl StoredCharge {
    /// The fields of a charge that begins, without a price yet.
    pub fn new(uid: Uid, pod: String, attributes: PricingAttributes, start: Timestamp) -> Self {
        Self {
            uid,
            pod,
            owner: None,
            attributes,
            previous_amounts: Vec::new(),
            start,
            posted_until: None,
            rates: Vec::new(),
            ready_since: None,
            draining_since: None,
            node_lost_since: None,
            usage: BTreeMap::new(),
            counters: EngineCounters::default(),
        }
    }
}

/// Why stored fields are no account: somebody else edited the record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAccount {
    /// A charge's `rates`.
    #[error("the rates of pod {uid} are not in the order of time")]
    RatesOutOfOrder {
        /// The pod's UID.
        uid: Uid,
    },
    /// A charge's `previous_amounts`.
    #[error("the earlier amounts of pod {uid} are not in the order of time")]
    AmountsOutOfOrder {
        /// The pod's UID.
        uid: Uid,
    },
    /// A charge's `posted_until`.
    #[error("pod {uid} is posted until a time before its start")]
    PostedBeforeStart {
        /// The pod's UID.
        uid: Uid,
    },
    /// The account's `open`.
    #[error("pod {uid} is open twice")]
    OpenTwice {
        /// The pod's UID.
        uid: Uid,
    },
    /// The account's `settling`.
    #[error("pod {uid} is settled and open")]
    SettledAndOpen {
        /// The pod's UID.
        uid: Uid,
    },
    /// The account's `days`.
    #[error("{date} is not a day of {month}")]
    DayOutsideMonth {
        /// The day.
        date: Date,
        /// The account's month.
        month: Month,
    },
}
