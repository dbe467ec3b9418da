//! What must hold in SpendRecords, and between them, and in SpendCorrections.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bursar_api::names::{KIND_LABEL, MONTH_LABEL, NAMESPACE_LABEL, WORKLOAD_LABEL};
use bursar_api::spend::{SpendRecordStatus, WorkloadRef};
use bursar_core::money::Money;
use jiff::tz::TimeZone;
use serde_json::Value;

use crate::corrections::{self, Corrected};
use crate::records::{Sheet, name};

/// What does not hold, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    record: String,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.record, self.what)
    }
}

/// Checks records by themselves, and then against each other.
pub(crate) fn check(records: &[Value]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut sheets = Vec::new();
    let mut seen = BTreeSet::new();
    for record in records {
        let mut say = |what: String| {
            findings.push(Finding {
                record: name(record).to_owned(),
                what,
            });
        };
        if !seen.insert((corrections::is_one(record), name(record))) {
            say("it is there twice".into());
        }
        if corrections::is_one(record) {
            if let Err(why) = Corrected::read(record, &TimeZone::UTC) {
                say(format!("it cannot be read: {why}"));
            }
            continue;
        }
        match Sheet::read(record) {
            Ok(sheet) => {
                alone(&sheet).into_iter().for_each(say);
                sheets.push(sheet);
            }
            Err(why) => say(format!("it cannot be read: {why}")),
        }
    }
    findings.extend(between(&sheets));
    findings
}

/// What does not hold in one record.
fn alone(sheet: &Sheet) -> Vec<String> {
    let mut wrong = Vec::new();
    let record = &sheet.record;
    let workload = record.workload();
    let expected = workload.record_name(sheet.account.month);
    if record.metadata.name.as_ref() != Some(&expected) {
        wrong.push(format!("by its spec its name would be {expected}"));
    }
    let labels = record.metadata.labels.clone().unwrap_or_default();
    for (key, value) in [
        (NAMESPACE_LABEL, &record.spec.namespace),
        (KIND_LABEL, &record.spec.kind.as_str().to_owned()),
        (WORKLOAD_LABEL, &record.spec.name),
        (MONTH_LABEL, &record.spec.month),
    ] {
        if labels.get(key) != Some(value) {
            wrong.push(format!(
                "its label {key} is not {value:?}, so reports do not find it"
            ));
        }
    }
    let empty = SpendRecordStatus::default();
    let status = record.status.as_ref().unwrap_or(&empty);
    let lines = sheet.account.days().values().flatten();
    let sum: Money = lines.map(|(_, line)| line.cost.total()).sum();
    let settled = match status.settled.as_str() {
        "" => Ok(Money::ZERO),
        text => text.parse(),
    };
    match settled {
        Ok(settled) if settled == sum => {}
        Ok(settled) => wrong.push(format!(
            "status.settled is {settled}, and its days sum to {sum}"
        )),
        Err(error) => wrong.push(format!("status.settled: {error}")),
    }
    let kinds = status.hardware.len();
    let unknown = |at: &i32| usize::try_from(*at).map_or(true, |at| at >= kinds);
    for day in &status.days {
        if let Some(at) = day.hardware.filter(unknown) {
            wrong.push(format!(
                "its day {} is on hardware {at}, and it lists {kinds} kinds",
                day.date
            ));
        }
    }
    let mut open = BTreeSet::new();
    for charge in &status.open {
        if !open.insert(&charge.uid) {
            wrong.push(format!("pod {} is open twice", charge.uid));
        }
    }
    for uid in status.settling.iter().filter(|uid| open.contains(uid)) {
        wrong.push(format!("pod {uid} is settled and open"));
    }
    wrong
}

/// What does not hold between records: one pod is one workload's.
fn between(sheets: &[Sheet]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut holders: BTreeMap<&str, WorkloadRef> = BTreeMap::new();
    for sheet in sheets {
        let workload = sheet.record.workload();
        let uids = sheet.account.open.keys().chain(&sheet.account.settling);
        for uid in uids {
            let holder = holders.entry(uid).or_insert_with(|| workload.clone());
            if *holder != workload {
                findings.push(Finding {
                    record: sheet.record.metadata.name.clone().unwrap_or_default(),
                    what: format!(
                        "pod {uid} is charged to {} {}/{} too",
                        holder.kind.as_str(),
                        holder.namespace,
                        holder.name
                    ),
                });
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::samples;

    #[test]
    fn records_as_bursar_writes_them_hold() {
        assert_eq!(check(&samples::records()), []);
    }

    #[test]
    fn a_correction_that_cannot_be_read_is_found_and_one_that_does_not_count_is_none() {
        let mut all = [samples::records(), samples::corrections()].concat();
        assert_eq!(check(&all), []);
        let credit = samples::records().len();
        all[credit]["spec"]["amount"] = "40.00".into();
        let findings: Vec<String> = check(&all).iter().map(Finding::to_string).collect();
        assert_eq!(findings.len(), 1);
        assert!(
            findings[0].starts_with("credit: it cannot be read: spec.amount"),
            "{findings:?}"
        );
    }

    #[test]
    fn each_fault_is_found_and_named() {
        type Damage = fn(&mut [Value]);
        let faults: [(Damage, &str); 11] = [
            (
                |records| records[0]["status"]["settled"] = "1.00".into(),
                "status.settled is 1.00, and its days sum to 253.845678901",
            ),
            (
                |records| records[0]["status"]["settled"] = "x".into(),
                "status.settled: ",
            ),
            (
                |records| records[0]["status"]["settling"] = json!(["u1"]),
                "pod u1 is settled and open",
            ),
            (
                |records| records[2]["status"]["open"][0]["uid"] = "u1".into(),
                "pod u1 is charged to InferenceDeployment ml/chat too",
            ),
            (
                |records| records[1]["status"]["settling"] = json!(["u1"]),
                "pod u1 is charged to InferenceDeployment ml/chat too",
            ),
            (
                |records| records[0]["status"]["days"][0]["date"] = "2026-12-01".into(),
                "it cannot be read: status.days[].date: 2026-12-01",
            ),
            (
                |records| records[0]["status"]["days"][0]["hardware"] = 7.into(),
                "is on hardware 7, and it lists 1 kinds",
            ),
            (
                |records| records[0]["metadata"]["name"] = "x".into(),
                "by its spec its name would be ml.infd.chat.2026-11",
            ),
            (
                |records| records[0]["metadata"]["labels"]["bursar.dev/month"] = "2026-10".into(),
                "its label bursar.dev/month",
            ),
            (
                |records| records[1] = records[0].clone(),
                "it is there twice",
            ),
            (
                |records| records[0]["spec"]["kind"] = "Deployment".into(),
                "it cannot be read: ",
            ),
        ];
        for (damage, named) in faults {
            let mut records = samples::records();
            damage(&mut records);
            let findings: Vec<String> = check(&records).iter().map(Finding::to_string).collect();
            assert!(
                findings.iter().any(|finding| finding.contains(named)),
                "{named:?} is not in {findings:?}"
            );
        }
    }

    #[test]
    fn a_pod_that_runs_over_a_months_end_is_in_both_months_records() {
        let mut records = samples::records();
        let mut next = records[0].clone();
        next["metadata"]["name"] = "ml.infd.chat.2026-12".into();
        next["metadata"]["labels"]["bursar.dev/month"] = "2026-12".into();
        next["spec"]["month"] = "2026-12".into();
        next["status"] = json!({"open": next["status"]["open"]});
        records.push(next);
        assert_eq!(check(&records), []);
    }
}
