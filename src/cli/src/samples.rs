//! The sample ledger, `samples/2026-11.jsonl`: two teams in November 2026, with a service of which
//! one replica runs, one on parts of a GPU, a training run that is over, and a pod without a price;
//! and the accounts of nodes, which begin on the 20th.

use bursar_api::SpendRecord;
use bursar_api::spend::{ConsolidatedAccount, SpendRecordStatus, WorkloadRef};
use bursar_core::money::Money;
use serde_json::{Value, json};

use crate::ledger::backup;

/// Its SpendRecords.
pub(crate) fn records() -> Vec<Value> {
    let bytes = include_bytes!("../samples/2026-11.jsonl");
    backup::decode("samples/2026-11.jsonl", bytes).unwrap_or_else(|error| panic!("{error}"))
}

/// Its SpendRecords without open charges, which no consolidated record has.
pub(crate) fn closed() -> Vec<Value> {
    let mut records = records();
    for record in &mut records {
        let status = record["status"].as_object_mut();
        status.into_iter().for_each(|status| {
            status.remove("open");
            status.remove("settling");
        });
    }
    records
}

/// Its SpendRecords, consolidated: one for each namespace, and those of nodes as they are.
pub(crate) fn consolidated() -> Vec<Value> {
    let is_node = |record: &Value| record["spec"]["kind"] == "Node";
    let nodes = closed().into_iter().filter(is_node);
    let own: Vec<SpendRecord> = closed()
        .into_iter()
        .map(|record| serde_json::from_value(record).unwrap_or_else(|error| panic!("{error}")))
        .collect();
    let consolidated = ["ml", "research"].map(|namespace| {
        let ours = own
            .iter()
            .filter(|record| record.spec.namespace == namespace);
        let sections: Vec<ConsolidatedAccount> =
            ours.filter_map(ConsolidatedAccount::from_record).collect();
        let settled: Money = sections
            .iter()
            .filter_map(|section| section.settled().ok())
            .sum();
        let spec = &own[0].spec;
        let mut record = WorkloadRef::consolidated(namespace.to_owned(), 1).record(
            spec.month.parse().unwrap_or_else(|error| panic!("{error}")),
            &spec.time_zone,
            &spec.currency,
        );
        record.status = Some(SpendRecordStatus {
            settled: settled.to_string(),
            folded: sections,
            ..SpendRecordStatus::default()
        });
        serde_json::to_value(record).unwrap_or_else(|error| panic!("{error}"))
    });
    consolidated.into_iter().chain(nodes).collect()
}

/// Corrections of the same month: a credit, an adjustment of a deleted namespace, one that does not
/// count, and two of later dates.
pub(crate) fn corrections() -> Vec<Value> {
    let correction = |name: &str, spec: Value| {
        json!({
            "apiVersion": "bursar.dev/v1alpha1", "kind": "SpendCorrection", "metadata": {"name": name, "labels": null},
            "spec": spec, "status": null,
        })
    };
    vec![
        correction(
            "credit",
            json!({
                "namespace": "research", "workload": {"kind": "TrainingJob", "name": "finetune"}, "date": "2026-11-20",
                "amount": "-40.00", "currency": "USD", "category": "Credit", "reason": "GPUs that were lost", "reference": "CASE-7",
                "corrects": "2026-10",
            }),
        ),
        correction(
            "december",
            json!({
                "namespace": "ml", "date": "2026-12-01", "amount": "1", "currency": "USD", "category": "Adjustment", "reason": "r",
            }),
        ),
        correction(
            "in-euros",
            json!({
                "namespace": "ml", "date": "2026-11-20", "amount": "7", "currency": "EUR", "category": "Adjustment", "reason": "r",
            }),
        ),
        correction(
            "invoice",
            json!({
                "namespace": "gone", "date": "2026-11-24", "amount": "5.50", "currency": "USD", "category": "Adjustment",
                "reason": "the invoice says more",
            }),
        ),
        correction(
            "tomorrow",
            json!({
                "namespace": "ml", "date": "2026-11-25", "amount": "9", "currency": "USD", "category": "Adjustment", "reason": "r",
            }),
        ),
    ]
}
