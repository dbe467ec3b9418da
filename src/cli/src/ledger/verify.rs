//! Checks of SpendRecords, alone and against each other, and of SpendCorrections.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bursar_api::SpendRecord;
use bursar_api::spend::{self, RecordFault, RecordPrecedence, WorkloadRef};
use jiff::tz::TimeZone;
use serde_json::Value;

use crate::spend_corrections::{self, LoadedCorrection};
use crate::spend_records::{LoadedAccount, authoritative_accounts, object_name};

/// A fault of a record.
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

/// Checks each record alone, and then records against each other.
pub(crate) fn check(records: &[Value]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut accounts = Vec::new();
    let mut seen = BTreeSet::new();
    for record in records {
        let mut report = |what: String| {
            findings.push(Finding {
                record: object_name(record).to_owned(),
                what,
            });
        };
        if !seen.insert((
            spend_corrections::is_correction(record),
            object_name(record),
        )) {
            report("it is there twice".into());
        }
        if spend_corrections::is_correction(record) {
            if let Err(why) = LoadedCorrection::from_object(record, &TimeZone::UTC) {
                report(format!("it cannot be read: {why}"));
            }
            continue;
        }
        for read in LoadedAccount::from_record(record) {
            match read {
                Ok(loaded) => accounts.push((object_name(record), loaded)),
                Err(why) => report(format!("it cannot be read: {why}")),
            }
        }
        let read = serde_json::from_value::<SpendRecord>(record.clone());
        let unsound = read.iter().flat_map(spend::record_faults);
        // unreadable parts are reported already
        unsound
            .filter(|unsound| !matches!(unsound, RecordFault::Unreadable(_)))
            .for_each(|unsound| report(unsound.to_string()));
    }
    findings.extend(check_duplicates(&accounts));
    let accounts = accounts.into_iter().map(|(_, loaded)| loaded).collect();
    findings.extend(check_pods(&authoritative_accounts(accounts)));
    findings
}

/// Finds accounts that are consolidated twice. A section in addition to its workload's own record
/// is no fault: the month is being consolidated, or a charge came late.
fn check_duplicates(accounts: &[(&str, LoadedAccount)]) -> Vec<Finding> {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    let mut findings = Vec::new();
    for (folded, loaded) in accounts {
        let own = loaded.record.metadata.name.as_deref().unwrap_or_default();
        if !matches!(loaded.precedence, RecordPrecedence::Section(_)) {
            continue;
        }
        if let Some(other) = seen.insert(own, folded) {
            findings.push(Finding {
                record: (*folded).to_owned(),
                what: format!("its section of {own} is in {other} too; the newer one counts"),
            });
        }
    }
    findings
}

/// Checks that each pod is charged to one workload only.
fn check_pods(accounts: &[LoadedAccount]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut owners: BTreeMap<&str, WorkloadRef> = BTreeMap::new();
    for loaded in accounts {
        let workload = loaded.record.workload();
        let uids = loaded
            .account
            .open_charges()
            .keys()
            .chain(loaded.account.settling());
        for uid in uids {
            let owner = owners.entry(uid).or_insert_with(|| workload.clone());
            if *owner != workload {
                findings.push(Finding {
                    record: loaded.record.metadata.name.clone().unwrap_or_default(),
                    what: format!(
                        "pod {uid} is charged to {} {}/{} too",
                        owner.kind.as_str(),
                        owner.namespace,
                        owner.name
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
        assert_eq!(check(&samples::consolidated()), []);
        let mut folding = [samples::consolidated(), samples::closed()].concat();
        folding.sort_by(|one, other| object_name(one).cmp(object_name(other)));
        folding.dedup();
        assert_eq!(check(&folding), [], "a month that is being consolidated");
    }

    /// Fails unless a finding says this.
    fn assert_names(records: &[Value], named: &str) {
        let findings: Vec<String> = check(records).iter().map(Finding::to_string).collect();
        assert!(
            findings.iter().any(|finding| finding.contains(named)),
            "{named:?} is not in {findings:?}"
        );
    }

    #[test]
    fn each_fault_of_a_folded_record_is_found_and_named() {
        type Damage = fn(&mut Vec<Value>);
        let faults: [(Damage, &str); 5] = [
            (
                |records| records[0]["status"]["settled"] = "1.00".into(),
                "status.settled is 1.00, and its days sum to 254.418178901",
            ),
            (
                |records| {
                    let section = records[0]["status"]["folded"][0].clone();
                    let sections = records[0]["status"]["folded"].as_array_mut();
                    sections.unwrap().push(section);
                },
                "its section of ml.infd.chat.2026-11 is in ml.ns.folded.2026-11 too",
            ),
            (
                |records| records[0]["status"]["folded"][0]["days"][0]["hardware"] = 7.into(),
                "is on hardware 7, and it lists 1 kinds",
            ),
            (
                |records| records[0]["status"]["settling"] = json!(["u1"]),
                "it is consolidated, and has open charges",
            ),
            (
                |records| {
                    records[0]["status"]["folded"][0]["days"][0]["date"] = "2026-12-01".into()
                },
                "status.folded[] of infd/chat: status.days[].date: 2026-12-01",
            ),
        ];
        for (damage, named) in faults {
            let mut records = samples::consolidated();
            damage(&mut records);
            assert_names(&records, named);
        }
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
            assert_names(&records, named);
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
