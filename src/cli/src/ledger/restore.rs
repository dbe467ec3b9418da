//! Restores records from a backup. A record that exists is the ledger, and a backup is only its
//! past: what the record has settled since must not be lost, and what the backup has open must not
//! be charged again. Consolidated records are compared account by account, whatever the records
//! that hold it: an account that the cluster has otherwise, or not at all, is restored as a record
//! of its workload's own, which counts instead of a section, and which the controller consolidates
//! again.

use std::collections::{BTreeMap, BTreeSet};

use bursar_api::spend::{RecordPrecedence, authoritative};
use bursar_api::{SpendCorrection, SpendRecord};
use bursar_core::money::Money;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

use super::{Error, RestoreArgs, faults_error, verify};
use crate::client::api_error;
use crate::spend_corrections;
use crate::spend_records::{self, object_name};

/// The action for one record of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    /// The cluster lacks it.
    Create,
    /// It exists and holds nothing: a restore was cut short, or the controller has just made it.
    Fill,
    /// It exists and differs.
    Replace,
    /// It exists and is the same.
    Same,
    /// It exists, differs, and stays as it is.
    Keep(String),
}

/// Restores a backup; returns a message for each record.
pub(super) async fn run(
    client: &Client,
    backup: &[Value],
    args: &RestoreArgs,
) -> Result<Vec<String>, Error> {
    let findings = verify::check(backup);
    if !findings.is_empty() {
        return Err(faults_error(args.file.display().to_string(), &findings));
    }
    let (corrected, backup): (Vec<Value>, Vec<Value>) = backup
        .iter()
        .cloned()
        .partition(spend_corrections::is_correction);
    let backup = backup.as_slice();
    let live = spend_records::list(client, "").await?;
    let there = accounts_by_name(&live)?;
    let backup = &expand_consolidated(backup, &there)?;
    let steps = plan(backup, &live, &there, args.replace);
    // a fault that is there already is no reason to leave other records missing
    let known = verify::check(&live);
    let mut findings = verify::check(&ledger_after(backup, &live, &steps));
    findings.retain(|finding| !known.contains(finding));
    if !findings.is_empty() {
        return Err(faults_error(
            "the ledger, once this is restored,",
            &findings,
        ));
    }
    let mut messages = Vec::new();
    for (record, step) in backup.iter().zip(&steps) {
        if !args.dry_run {
            write(client, record, step, &live).await?;
        }
        let (done, would) = match step {
            Action::Create => ("made", "would be made"),
            Action::Fill => ("filled", "would be filled"),
            Action::Replace => ("replaced", "would be replaced"),
            Action::Same => continue,
            Action::Keep(why) => {
                messages.push(format!("{}: left as it is: {why}", object_name(record)));
                continue;
            }
        };
        let word = if args.dry_run { would } else { done };
        messages.push(format!("{}: {word}", object_name(record)));
    }
    let same = steps.iter().filter(|step| **step == Action::Same).count();
    messages.push(format!(
        "{same} of {} records are there already, and the same",
        backup.len()
    ));
    messages.extend(restore_corrections(client, &corrected, args.dry_run).await?);
    Ok(messages)
}

/// Creates the corrections that the cluster lacks; returns a message for each. Their specs cannot
/// change, so one that exists stays.
async fn restore_corrections(
    client: &Client,
    backup: &[Value],
    dry_run: bool,
) -> Result<Vec<String>, Error> {
    if backup.is_empty() {
        return Ok(Vec::new());
    }
    let live = spend_corrections::list(client).await?;
    let api: Api<SpendCorrection> = Api::all(client.clone());
    let (mut messages, mut same) = (Vec::new(), 0);
    for object in backup {
        let failed = |why: String| Error::Write {
            record: format!("SpendCorrection {}", object_name(object)),
            why,
        };
        let word = match live
            .iter()
            .find(|there| object_name(there) == object_name(object))
        {
            Some(there) if there["spec"] == object["spec"] => {
                same += 1;
                continue;
            }
            Some(_) => {
                "left as it is: it differs from the backup's, and a SpendCorrection cannot change"
            }
            None if dry_run => "would be made",
            None => {
                // the controller says anew whether it counts
                let wanted = SpendCorrection {
                    status: None,
                    ..serde_json::from_value(object.clone())
                        .map_err(|error| failed(error.to_string()))?
                };
                let made = api.create(&PostParams::default(), &wanted).await;
                made.map_err(|error| failed(api_error(&error)))?;
                "made"
            }
        };
        messages.push(format!("{}: {word}", object_name(object)));
    }
    messages.push(format!(
        "{same} of {} corrections are there already, and the same",
        backup.len()
    ));
    Ok(messages)
}

/// Each account of these records by the name of its own record, as that is or as it was
/// consolidated; and the consolidated records too.
fn accounts_by_name(records: &[Value]) -> Result<BTreeMap<String, Value>, Error> {
    let mut all = Vec::new();
    for record in records {
        all.extend(sections(record)?);
        let precedence = RecordPrecedence::of_own(!record["status"].is_null());
        all.push((precedence, record.clone()));
    }
    let by_name = |(precedence, record): (RecordPrecedence, Value)| {
        (object_name(&record).to_owned(), precedence, record)
    };
    Ok(authoritative(all.into_iter().map(by_name)))
}

/// The records that a consolidated one was made of; none if it is not consolidated, or cannot be
/// read.
fn sections(record: &Value) -> Result<Vec<(RecordPrecedence, Value)>, Error> {
    let folded = serde_json::from_value::<SpendRecord>(record.clone()).ok();
    let Some(folded) = folded.filter(SpendRecord::is_consolidated) else {
        return Ok(Vec::new());
    };
    let written = |(precedence, record): (RecordPrecedence, SpendRecord)| {
        Ok((
            precedence,
            serde_json::to_value(record).map_err(|error| error.to_string())?,
        ))
    };
    let sections = folded.expand().map_err(|error| error.to_string());
    let sections = sections.and_then(|sections| sections.into_iter().map(written).collect());
    sections.map_err(|why| Error::Write {
        record: object_name(record).to_owned(),
        why,
    })
}

/// The backup, with each consolidated record expanded that the cluster has in part, or with other
/// values.
fn expand_consolidated(
    backup: &[Value],
    there: &BTreeMap<String, Value>,
) -> Result<Vec<Value>, Error> {
    let own: BTreeSet<&str> = backup.iter().map(object_name).collect();
    let mut all = Vec::new();
    for record in backup {
        let sections = sections(record)?;
        let same = there.get(object_name(record));
        let is_whole = match same {
            Some(same) if same["status"] == record["status"] => true,
            same => {
                same.is_none_or(|same| is_empty(&same["status"]))
                    && !sections
                        .iter()
                        .any(|(_, section)| there.contains_key(object_name(section)))
            }
        };
        if sections.is_empty() || is_whole {
            all.push(record.clone());
            continue;
        }
        // where the backup has the workload's own record too, that counts
        let sections = sections.into_iter().map(|(_, section)| section);
        all.extend(sections.filter(|section| !own.contains(object_name(section))));
    }
    Ok(all)
}

/// The action for each record, where the cluster has these accounts `there`.
fn plan(
    backup: &[Value],
    live: &[Value],
    there: &BTreeMap<String, Value>,
    replace: bool,
) -> Vec<Action> {
    let has_own = |of: &str| live.iter().any(|record| object_name(record) == of);
    let step = |record: &Value| match there.get(object_name(record)) {
        None => Action::Create,
        Some(there) if there["spec"] != record["spec"] => {
            Action::Keep("its spec differs, and a SpendRecord's spec cannot change".into())
        }
        Some(there) if is_same(&there["status"], &record["status"]) => Action::Same,
        Some(there) if is_empty(&there["status"]) => Action::Fill,
        Some(_) if !replace => Action::Keep("it differs from the backup's; see --replace".into()),
        Some(there) => match unsafe_to_replace(&there["status"], &record["status"]) {
            None if has_own(object_name(record)) => Action::Replace,
            // it counts instead of the section
            None => Action::Create,
            Some(why) => Action::Keep(why),
        },
    };
    backup.iter().map(step).collect()
}

fn is_same(one: &Value, other: &Value) -> bool {
    one == other || is_empty(one) && is_empty(other)
}

fn is_empty(status: &Value) -> bool {
    let lists = ["open", "days", "settling", "folded"];
    status["resting"].is_null()
        && lists
            .iter()
            .all(|list| status[*list].as_array().is_none_or(Vec::is_empty))
}

/// Why a record must not be replaced; `None` if no pod's charge can be lost or doubled by it. Reads
/// the bare JSON, since a record is replaced when it cannot be read any more.
fn unsafe_to_replace(there: &Value, backup: &Value) -> Option<String> {
    let open = |status: &Value| -> BTreeSet<String> {
        let charges = status["open"].as_array().into_iter().flatten();
        charges
            .map(|charge| charge["uid"].as_str().unwrap_or("?").to_owned())
            .collect()
    };
    let settling = |status: &Value| -> BTreeSet<String> {
        let uids = status["settling"].as_array().into_iter().flatten();
        uids.map(|uid| uid.as_str().unwrap_or("?").to_owned())
            .collect()
    };
    let settled = |status: &Value| {
        status["settled"]
            .as_str()
            .and_then(|text| text.parse::<Money>().ok())
    };
    if open(there) != open(backup) {
        return Some("other pods are open in it than in the backup's".into());
    }
    if settling(there) != settling(backup) {
        return Some("other pods are settled in it than in the backup's".into());
    }
    match (settled(there), settled(backup)) {
        (Some(there), Some(backup)) if there > backup => Some(format!(
            "{there} are settled in it and {backup} in the backup's: what was settled since would be lost"
        )),
        _ => None,
    }
}

/// The ledger after these actions.
fn ledger_after(backup: &[Value], live: &[Value], steps: &[Action]) -> Vec<Value> {
    let written = |step: &Action| matches!(step, Action::Create | Action::Fill | Action::Replace);
    let restored: Vec<&Value> = backup
        .iter()
        .zip(steps)
        .filter(|(_, step)| written(step))
        .map(|(record, _)| record)
        .collect();
    let names: BTreeSet<&str> = restored.iter().map(|record| object_name(record)).collect();
    let untouched = live
        .iter()
        .filter(|record| !names.contains(object_name(record)));
    untouched.chain(restored).cloned().collect()
}

/// Writes one record: the spec, then the status, at the version that was read.
async fn write(
    client: &Client,
    record: &Value,
    step: &Action,
    live: &[Value],
) -> Result<(), Error> {
    if matches!(step, Action::Same | Action::Keep(_)) {
        return Ok(());
    }
    let failed = |why: String| Error::Write {
        record: format!("SpendRecord {}", object_name(record)),
        why,
    };
    let api: Api<SpendRecord> = Api::all(client.clone());
    let mut wanted: SpendRecord =
        serde_json::from_value(record.clone()).map_err(|error| failed(error.to_string()))?;
    let version = match step {
        Action::Create => {
            let bare = SpendRecord {
                status: None,
                ..wanted.clone()
            };
            let made = api.create(&PostParams::default(), &bare).await;
            made.map_err(|error| failed(api_error(&error)))?
                .resource_version()
        }
        _ => {
            let there = live
                .iter()
                .find(|there| object_name(there) == object_name(record));
            there
                .and_then(|there| there["metadata"]["resourceVersion"].as_str())
                .map(str::to_owned)
        }
    };
    if wanted.status.is_some() {
        wanted.metadata.resource_version = version;
        let name = wanted.name_any();
        let written = api
            .replace_status(&name, &PostParams::default(), &wanted)
            .await;
        written.map_err(|error| failed(api_error(&error)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bursar_apitest::Server;
    use serde_json::json;

    use super::*;
    use crate::ledger::backup;
    use crate::samples;

    fn args(words: &str) -> RestoreArgs {
        RestoreArgs {
            file: "ledger.jsonl".into(),
            dry_run: words.contains("dry"),
            replace: words.contains("replace"),
        }
    }

    /// The server's records as a backup has them.
    async fn stored(client: &Client) -> Vec<Value> {
        let records = spend_records::list(client, "").await.unwrap();
        backup::decode(
            "b",
            &backup::encode(&records, jiff::Timestamp::UNIX_EPOCH).unwrap(),
        )
        .unwrap()
    }

    fn as_written(records: &[Value]) -> Vec<Value> {
        let typed = |record: &Value| {
            serde_json::to_value(serde_json::from_value::<SpendRecord>(record.clone()).unwrap())
                .unwrap()
        };
        let mut typed: Vec<Value> = records.iter().map(typed).collect();
        // as a list has them
        typed.sort_by(|one, other| object_name(one).cmp(object_name(other)));
        typed
    }

    #[tokio::test]
    async fn an_empty_cluster_gets_all_records_and_a_second_run_changes_nothing() {
        let client = Server::new(&[]).client();
        let records = as_written(&samples::records());
        let dry = run(&client, &records, &args("dry")).await.unwrap();
        assert!(dry[0].ends_with("would be made"), "{dry:?}");
        assert_eq!(stored(&client).await.len(), 0);
        run(&client, &records, &args("")).await.unwrap();
        assert_eq!(stored(&client).await, records);
        let again = run(&client, &records, &args("")).await.unwrap();
        assert_eq!(again, ["6 of 6 records are there already, and the same"]);
    }

    #[tokio::test]
    async fn corrections_that_lack_are_made_and_one_that_differs_is_named_and_left() {
        let client = Server::new(&[]).client();
        let corrections = samples::corrections();
        let all = [as_written(&samples::records()), corrections.clone()].concat();
        let dry = run(&client, &all, &args("dry")).await.unwrap();
        assert!(dry.contains(&"credit: would be made".to_owned()), "{dry:?}");
        assert_eq!(spend_corrections::list(&client).await.unwrap().len(), 0);
        run(&client, &all, &args("")).await.unwrap();
        let mut later = all.clone();
        later[samples::records().len()]["spec"]["amount"] = "-41.00".into();
        let messages = run(&client, &later, &args("replace")).await.unwrap();
        let left = "credit: left as it is: it differs from the backup's, and a SpendCorrection cannot change";
        assert_eq!(
            messages,
            [
                "6 of 6 records are there already, and the same",
                left,
                "4 of 5 corrections are there already, and the same"
            ]
        );
        let specs =
            |all: &[Value]| -> Vec<Value> { all.iter().map(|each| each["spec"].clone()).collect() };
        let stored = spend_corrections::list(&client).await.unwrap();
        assert_eq!(specs(&stored), specs(&corrections));
    }

    #[tokio::test]
    async fn a_record_that_exists_is_replaced_only_where_no_charge_is_lost_or_doubled() {
        let client = Server::new(&[]).client();
        let records = as_written(&samples::records());
        run(&client, &records, &args("")).await.unwrap();
        type Change = fn(&mut Value);
        let changes: [(Change, &str); 5] = [
            (|status| status["open"] = json!([]), "other pods are open"),
            (
                |status| status["settling"] = json!(["u0", "u7"]),
                "other pods are settled",
            ),
            (
                |status| status["settled"] = "999.00".into(),
                "999.00 are settled in it",
            ),
            (
                |status| status["days"][0]["compute"] = "0.01".into(),
                "replaced",
            ),
            (|status| *status = json!({}), "filled"),
        ];
        for (change, outcome) in changes {
            let api: Api<SpendRecord> = Api::all(client.clone());
            let mut record =
                serde_json::to_value(api.get("ml.infd.chat.2026-11").await.unwrap()).unwrap();
            record["status"] = records[0]["status"].clone();
            change(&mut record["status"]);
            let damaged: SpendRecord = serde_json::from_value(record).unwrap();
            api.replace_status("ml.infd.chat.2026-11", &PostParams::default(), &damaged)
                .await
                .unwrap();
            let before = stored(&client).await;
            if outcome != "filled" {
                let kept = run(&client, &records, &args("")).await.unwrap();
                assert!(kept[0].contains("see --replace"), "{kept:?}");
                assert_eq!(stored(&client).await, before);
            }
            let messages = run(&client, &records, &args("replace")).await.unwrap();
            assert!(messages[0].contains(outcome), "{outcome}: {messages:?}");
            let restored = !messages[0].contains("left as it is");
            assert_eq!(
                stored(&client).await,
                if restored { records.clone() } else { before }
            );
        }
    }

    #[tokio::test]
    async fn a_month_that_was_folded_since_the_backup_is_there_already() {
        let client = Server::new(&[]).client();
        let (own, folded) = (
            as_written(&samples::closed()),
            as_written(&samples::consolidated()),
        );
        run(&client, &folded, &args("")).await.unwrap();
        assert_eq!(stored(&client).await, folded);
        // one says nothing of any day
        let mut with_days = own.clone();
        with_days.retain(|record| record["status"]["days"].is_array());
        assert_eq!(with_days.len(), own.len() - 1);
        let messages = run(&client, &with_days, &args("replace")).await.unwrap();
        assert_eq!(messages, ["5 of 5 records are there already, and the same"]);
        let mut more = own[1].clone();
        more["status"]["days"][0]["compute"] = "1.5625".into();
        more["status"]["settled"] = "1.5725".into();
        let more = as_written(&[more]);
        let kept = run(&client, &more, &args("")).await.unwrap();
        assert!(kept[0].contains("see --replace"), "{kept:?}");
        let made = run(&client, &more, &args("replace")).await.unwrap();
        assert_eq!(made[0], "ml.infd.embed.2026-11: made");
        assert_eq!(
            verify::check(&spend_records::list(&client, "").await.unwrap()),
            []
        );
    }

    #[tokio::test]
    async fn a_folded_backup_is_restored_account_by_account_where_the_cluster_has_a_part_of_it() {
        let client = Server::new(&[]).client();
        let (own, folded) = (
            as_written(&samples::closed()),
            as_written(&samples::consolidated()),
        );
        run(&client, &own[..1], &args("")).await.unwrap();
        let messages = run(&client, &folded, &args("")).await.unwrap();
        assert_eq!(
            messages,
            [
                "ml.infd.embed.2026-11: made",
                "nodes.7.2026-11: made",
                "nodes.c.2026-11: made",
                "research.ns.folded.2026-11: made",
                "1 of 5 records are there already, and the same",
            ]
        );
        let again = run(&client, &folded, &args("")).await.unwrap();
        assert_eq!(again, ["5 of 5 records are there already, and the same"]);
    }

    #[tokio::test]
    async fn a_faulty_backup_or_ledger_to_be_restores_nothing() {
        let client = Server::new(&[]).client();
        let mut records = as_written(&samples::records());
        let whole = records.clone();
        records[0]["status"]["settled"] = "1.00".into();
        let error = run(&client, &records, &args(""))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("ledger.jsonl has 1 faults") && error.contains("status.settled is 1.00"),
            "{error}"
        );
        assert_eq!(stored(&client).await.len(), 0);
        // a pod that another workload's record has charged by now
        let mut other = whole[1].clone();
        other["status"]["settling"] = json!(["u1"]);
        run(&client, &[other], &args("")).await.unwrap();
        let error = run(&client, &whole[..1], &args(""))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("once this is restored") && error.contains("pod u1"),
            "{error}"
        );
        assert_eq!(stored(&client).await.len(), 1);
    }
}
