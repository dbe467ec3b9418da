//! Consolidated SpendRecords: the costs of a namespace's workloads in a closed month, a section for
//! each, with all its days.

use bursar_core::calendar::Month;
use bursar_core::ledger::{Account, StoredAccount};
use bursar_core::money::Money;
use kube::ResourceExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::invalid::invalid;
use super::record::lines;
use super::{
    DayEntry, Hardware, RecordPrecedence, SpendRecord, SpendRecordSpec, SpendRecordStatus,
    WorkloadKind, WorkloadRef,
};
use crate::quantities::FieldError;

/// The name of a namespace's first consolidated record; others have their number after it.
const FOLDED: &str = "folded";

/// The account of one workload in a consolidated record.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ConsolidatedAccount {
    /// The workload's kind.
    pub kind: WorkloadKind,
    /// The workload's name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// The `resourceVersion` that the workload's own record had: of two sections of a workload the
    /// newer one counts.
    #[serde(default)]
    pub version: i64,
    /// Kinds of hardware; `days` refer to them by index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hardware: Vec<Hardware>,
    /// The posted costs, by day and kind of hardware.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<DayEntry>,
}

impl WorkloadRef {
    /// The reference of a namespace's consolidated record, or of its part of that number.
    pub fn consolidated(namespace: String, part: usize) -> Self {
        let name = match part {
            0 | 1 => FOLDED.to_owned(),
            _ => format!("{FOLDED}-{part}"),
        };
        Self {
            namespace,
            kind: WorkloadKind::Folded,
            name,
        }
    }
}

impl SpendRecord {
    /// True for a record of sections.
    pub fn is_consolidated(&self) -> bool {
        self.spec.kind == WorkloadKind::Folded
    }

    /// Its sections, if it is consolidated.
    pub fn sections(&self) -> &[ConsolidatedAccount] {
        let status = self.status.as_ref().filter(|_| self.is_consolidated());
        status.map_or(&[], |status| &status.folded)
    }

    /// The records that this one was consolidated from, as they were; itself, if it is not
    /// consolidated.
    ///
    /// # Errors
    /// When `spec.month` is not a month.
    pub fn expand(&self) -> Result<Vec<(RecordPrecedence, Self)>, FieldError> {
        if !self.is_consolidated() {
            let precedence = RecordPrecedence::of_own(self.status.is_some());
            return Ok(vec![(precedence, self.clone())]);
        }
        let month = self.month()?;
        let of_section = |section: &ConsolidatedAccount| {
            let record = section.record(&self.spec, month);
            (section.precedence(), record)
        };
        Ok(self.sections().iter().map(of_section).collect())
    }
}

impl ConsolidatedAccount {
    /// The section that a record becomes; `None` if it has no posted cost.
    pub fn from_record(record: &SpendRecord) -> Option<Self> {
        // whoever adds a field says here what becomes of it
        let SpendRecordStatus {
            open: _,
            terms: _,
            hardware,
            days,
            settling: _,
            resting: _,
            settled: _,
            folded: _,
        } = record.status.clone()?;
        let version = record.resource_version();
        (!days.is_empty()).then(|| Self {
            kind: record.spec.kind,
            name: record.spec.name.clone(),
            version: version
                .and_then(|version| version.parse().ok())
                .unwrap_or(0),
            hardware,
            days,
        })
    }

    /// The workload that it is of.
    pub fn workload(&self, namespace: &str) -> WorkloadRef {
        WorkloadRef {
            namespace: namespace.to_owned(),
            kind: self.kind,
            name: self.name.clone(),
        }
    }

    /// The account that it holds.
    ///
    /// # Errors
    /// The first field that cannot be read.
    pub fn to_account(&self, month: Month) -> Result<Account, FieldError> {
        let days = lines(&self.hardware, &self.days)?;
        let stored = StoredAccount::new(month);
        Account::restore(StoredAccount { days, ..stored }).map_err(invalid)
    }

    /// The sum of its days.
    ///
    /// # Errors
    /// The first amount that cannot be read.
    pub fn settled(&self) -> Result<Money, FieldError> {
        let costs = self
            .days
            .iter()
            .map(|day| day.cost.to_core("status.folded[].days[]"));
        costs.map(|cost| Ok(cost?.total())).sum()
    }

    /// The record that it was.
    fn record(&self, folded: &SpendRecordSpec, month: Month) -> SpendRecord {
        let workload = self.workload(&folded.namespace);
        let mut record = workload.record(month, &folded.time_zone, &folded.currency);
        record.status = Some(SpendRecordStatus {
            hardware: self.hardware.clone(),
            days: self.days.clone(),
            // a day that cannot be read is found when the account is read
            settled: self
                .settled()
                .map(|sum| sum.to_string())
                .unwrap_or_default(),
            ..SpendRecordStatus::default()
        });
        record
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(name: &str, compute: &str) -> SpendRecord {
        let workload = WorkloadRef {
            namespace: "ml".into(),
            kind: WorkloadKind::TrainingJob,
            name: name.into(),
        };
        let mut record = workload.record("2026-11".parse().unwrap(), "Europe/Berlin", "EUR");
        record.metadata.resource_version = Some("7".into());
        let status = json!({
            "hardware": [{"resource": "nvidia.com/gpu", "model": "H100"}],
            "days": [
                {"date": "2026-11-03", "hardware": 0, "compute": compute, "gpuSeconds": 60},
                {"date": "2026-11-04", "hardware": 0, "power": "0.25", "gpuSeconds": 60},
            ],
            "settled": "1.75",
        });
        record.status = Some(serde_json::from_value(status).unwrap());
        record
    }

    #[test]
    fn a_folded_record_unfolds_into_the_records_that_it_was_made_of() {
        let own = [record("llama", "1.50"), record("mistral", "1.50")];
        let mut folded = WorkloadRef::consolidated("ml".into(), 1).record(
            "2026-11".parse().unwrap(),
            "Europe/Berlin",
            "EUR",
        );
        let sections = own
            .iter()
            .filter_map(ConsolidatedAccount::from_record)
            .collect();
        folded.status = Some(SpendRecordStatus {
            folded: sections,
            ..SpendRecordStatus::default()
        });
        let text = serde_json::to_string(&folded).unwrap();
        let folded: SpendRecord = serde_json::from_str(&text).unwrap();
        assert_eq!(folded.name_any(), "ml.ns.folded.2026-11");
        for (own, (precedence, mut unfolded)) in own.iter().zip(folded.expand().unwrap()) {
            assert_eq!(precedence, RecordPrecedence::Section(7));
            unfolded.metadata.resource_version = own.resource_version();
            assert_eq!(&unfolded, own);
            let section = ConsolidatedAccount::from_record(own).unwrap();
            let month = "2026-11".parse().unwrap();
            assert_eq!(
                section.to_account(month).unwrap(),
                own.to_account().unwrap()
            );
        }
    }

    #[test]
    fn a_record_of_its_own_counts_before_a_section_and_a_section_before_a_record_without_a_status()
    {
        let written = record("llama", "1.50");
        let made = SpendRecord {
            status: None,
            ..written.clone()
        };
        let precedence = |record: &SpendRecord| record.expand().unwrap()[0].0;
        let (own, made) = (precedence(&written), precedence(&made));
        assert!(own > RecordPrecedence::Section(i64::MAX));
        assert!(RecordPrecedence::Section(8) > RecordPrecedence::Section(7));
        assert!(RecordPrecedence::Section(0) > made);
    }

    #[test]
    fn a_record_in_which_nothing_is_over_is_no_section() {
        let mut empty = record("llama", "1.50");
        empty.status = Some(SpendRecordStatus::default());
        assert_eq!(ConsolidatedAccount::from_record(&empty), None);
        empty.status = None;
        assert_eq!(ConsolidatedAccount::from_record(&empty), None);
    }
}
