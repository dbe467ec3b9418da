//! Whether a SpendRecord is sound: readable, and consistent in itself. The controller consolidates
//! no other record, and `kubectl bursar ledger verify` and `restore` report what is found.

use std::collections::BTreeSet;

use bursar_core::money::{Money, ParseMoneyError};

use super::{SpendRecord, SpendRecordStatus, WorkloadKind};
use crate::lenient::Validate;
use crate::names::{KIND_LABEL, MONTH_LABEL, NAMESPACE_LABEL, WORKLOAD_LABEL};
use crate::quantities::FieldError;

/// Why a record is not sound. Only somebody else's edit can cause that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// A field cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(FieldError),
    /// Its name is not that of its spec.
    #[error("by its spec its name would be {expected}")]
    Name {
        /// The name that its spec has.
        expected: String,
    },
    /// A label is not that of its spec.
    #[error("its label {key} is not {value:?}, so reports do not find it")]
    Label {
        /// The label's key.
        key: &'static str,
        /// The value that its spec has.
        value: String,
    },
    /// `status.settled` is no amount.
    #[error("status.settled: {0}")]
    Settled(ParseMoneyError),
    /// `status.settled` is not the sum of its days.
    #[error("status.settled is {settled}, and its days sum to {sum}")]
    Sum {
        /// The amount in `status.settled`.
        settled: Money,
        /// The sum of its days.
        sum: Money,
    },
    /// A day is on hardware that the record does not list.
    #[error("its day {date} is on hardware {at}, and it lists {kinds} kinds")]
    Hardware {
        /// The day.
        date: String,
        /// The index of the hardware.
        at: i32,
        /// The number of kinds that are listed.
        kinds: usize,
    },
    /// A consolidated record has an account of its own.
    #[error(
        "it is consolidated, and has open charges, settled pods or days in addition to its sections"
    )]
    AccountInConsolidated,
    /// A workload's record has sections.
    #[error("it is of one workload, and has sections")]
    SectionsInAccount,
    /// A section is of a consolidated record.
    #[error("a section of it is of no workload")]
    SectionOfConsolidated,
}

impl Validate for SpendRecord {
    fn validate(&self) -> Result<(), FieldError> {
        accounts(self).map(drop)
    }
}

/// Everything that makes the record unsound; of one that cannot be read, that alone.
pub fn record_faults(record: &SpendRecord) -> Vec<RecordFault> {
    let (records, sum) = match accounts(record) {
        Ok(accounts) => accounts,
        Err(error) => return vec![RecordFault::Unreadable(error)],
    };
    let mut found: Vec<RecordFault> = records.iter().flat_map(unknown_hardware).collect();
    found.extend(identity(record));
    found.extend(settled(record, sum));
    found.extend(sections(record));
    found
}

/// The records that this one stands for, and the sum of their days.
fn accounts(record: &SpendRecord) -> Result<(Vec<SpendRecord>, Money), FieldError> {
    let expanded = record.expand()?.into_iter();
    let records: Vec<SpendRecord> = expanded.map(|(_, record)| record).collect();
    let sums = records
        .iter()
        .map(|record| Ok(record.to_account()?.settled_total()));
    let sum = sums.sum::<Result<Money, FieldError>>()?;
    Ok((records, sum))
}

fn unknown_hardware(record: &SpendRecord) -> Vec<RecordFault> {
    let status = record.status.clone().unwrap_or_default();
    let kinds = status.hardware.len();
    let unknown = |at: &i32| usize::try_from(*at).map_or(true, |at| at >= kinds);
    let days = status.days.into_iter();
    days.filter_map(|day| {
        Some(RecordFault::Hardware {
            at: day.hardware.filter(unknown)?,
            date: day.date,
            kinds,
        })
    })
    .collect()
}

/// Whether name and labels are those of the spec.
fn identity(record: &SpendRecord) -> Vec<RecordFault> {
    let mut found = Vec::new();
    let expected = record
        .month()
        .map(|month| record.workload().record_name(month));
    if let Ok(expected) = expected
        && record.metadata.name.as_ref() != Some(&expected)
    {
        found.push(RecordFault::Name { expected });
    }
    let labels = record.metadata.labels.clone().unwrap_or_default();
    for (key, value) in [
        (NAMESPACE_LABEL, record.spec.namespace.as_str()),
        (KIND_LABEL, record.spec.kind.as_str()),
        (WORKLOAD_LABEL, record.spec.name.as_str()),
        (MONTH_LABEL, record.spec.month.as_str()),
    ] {
        if labels.get(key).map(String::as_str) != Some(value) {
            let value = value.to_owned();
            found.push(RecordFault::Label { key, value });
        }
    }
    found
}

fn settled(record: &SpendRecord, sum: Money) -> Option<RecordFault> {
    let text = record.status.as_ref().map_or("", |status| &status.settled);
    let settled = match text {
        "" => Ok(Money::ZERO),
        text => text.parse(),
    };
    match settled {
        Ok(settled) if settled == sum => None,
        Ok(settled) => Some(RecordFault::Sum { settled, sum }),
        Err(error) => Some(RecordFault::Settled(error)),
    }
}

fn sections(record: &SpendRecord) -> Vec<RecordFault> {
    let empty = SpendRecordStatus::default();
    let status = record.status.as_ref().unwrap_or(&empty);
    let has_account =
        !(status.open.is_empty() && status.settling.is_empty() && status.days.is_empty());
    let kinds: BTreeSet<WorkloadKind> = status.folded.iter().map(|section| section.kind).collect();
    let mut found = Vec::new();
    if record.is_consolidated() && has_account {
        found.push(RecordFault::AccountInConsolidated);
    }
    if !record.is_consolidated() && !status.folded.is_empty() {
        found.push(RecordFault::SectionsInAccount);
    }
    if kinds.contains(&WorkloadKind::Folded) {
        found.push(RecordFault::SectionOfConsolidated);
    }
    found
}
