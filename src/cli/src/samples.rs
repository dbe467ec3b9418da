//! The sample ledger, `samples/2026-11.jsonl`: two teams in November 2026, with a service of which one replica runs, one on parts of
//! a GPU, a training run that is over, and a pod without a price; and the accounts of nodes, which begin on the 20th.

use serde_json::Value;

use crate::ledger::backup;

/// Its SpendRecords.
pub(crate) fn records() -> Vec<Value> {
    let bytes = include_bytes!("../samples/2026-11.jsonl");
    backup::read("samples/2026-11.jsonl", bytes).unwrap_or_else(|error| panic!("{error}"))
}
