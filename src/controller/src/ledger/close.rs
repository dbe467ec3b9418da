//! Closes months, for as long as the process leads: records of months that are over are folded into one of their namespace, and those
//! older than the retention are removed.
//!
//! 1. The namespace's records of the month are read live.
//! 2. The folded record is written, at the version that was read.
//! 3. Only then is each record that it was made of removed, as the UID and version that were read.
//!
//! A record of a workload's own counts instead of its section ([`bursar_api::spend::Standing`]), so it does not matter where this
//! breaks off. What was written meanwhile is not removed, and the next round folds it anew.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bursar_api::SpendRecord;
use bursar_api::names::{KIND_LABEL, MONTH_LABEL, NAMESPACE_LABEL};
use bursar_api::spend::WorkloadKind;
use bursar_core::calendar::Month;
use jiff::Timestamp;
use kube::api::{Api, DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Client, ResourceExt};

use super::fold::{Consolidation, consolidate, is_closed, is_past_retention};
use crate::api_calls::{ApiError, with_timeout};
use crate::context::Context;
use crate::metrics::Closed;

const PACE: Duration = Duration::from_hours(1);
/// A new leader has more urgent things to do.
const SOON: Duration = Duration::from_secs(20);
/// Bytes of a folded record's sections: etcd takes objects of 1.5 MiB.
const MOST_BYTES: usize = 1_000_000;
/// Records that one round removes; the next one goes on.
const MOST_RECORDS: usize = 2_000;
/// Records in one answer of the API server.
const PAGE: u32 = 500;

/// Closes what is over every hour. Records are kept for so many months.
pub(crate) async fn run(context: Arc<Context>, months: u32) {
    tokio::time::sleep(SOON).await;
    loop {
        for error in sync_once(&context, months, Timestamp::now()).await {
            tracing::warn!(%error, "closing months; the next round tries again");
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Closes what is over now, one namespace and month after the other. What fails does not stop the others.
pub(crate) async fn sync_once(context: &Context, months: u32, now: Timestamp) -> Vec<ApiError> {
    let records = context.stores.records.state();
    let (old, kept): (Vec<_>, Vec<_>) = records
        .iter()
        .partition(|record| is_past_retention(record, months, now));
    let (mut left, mut failures) = (MOST_RECORDS, Vec::new());
    let closed = kept.iter().filter(|record| is_closed(record, now));
    let due: BTreeSet<(&str, Month)> = closed
        .filter_map(|record| Some((record.spec.namespace.as_str(), record.month().ok()?)))
        .collect();
    for (namespace, month) in due {
        if left == 0 {
            break;
        }
        match close(context, namespace, month, now, left).await {
            Ok(folded) => left = left.saturating_sub(folded),
            Err(failure) => failures.push(failure),
        }
    }
    for record in old.into_iter().take(left) {
        match remove(context, record).await {
            Ok(true) => {
                let name = record.name_any();
                tracing::info!(
                    name,
                    months,
                    "removed a SpendRecord that is older than the retention"
                );
                count(context, Closed { outcome: "removed" });
            }
            Ok(false) => {}
            Err(failure) => failures.push(failure),
        }
    }
    for _ in &failures {
        count(context, Closed { outcome: "failed" });
    }
    failures
}

fn count(context: &Context, closed: Closed) {
    context.metrics.closed.get_or_create(&closed).inc();
}

/// Folds the records of one namespace and month, `most` at most; returns how many.
async fn close(
    context: &Context,
    namespace: &str,
    month: Month,
    now: Timestamp,
    most: usize,
) -> Result<usize, ApiError> {
    let selector = format!("{NAMESPACE_LABEL}={namespace},{MONTH_LABEL}={month}");
    let records = list(&context.client, &selector).await?;
    let Consolidation {
        write,
        remove: folded,
        doubtful,
    } = consolidate(records, now, MOST_BYTES, most);
    for why in doubtful {
        tracing::warn!(why, "a SpendRecord of a month that is over is not folded");
    }
    for record in write {
        put(&context.client, record).await?;
    }
    for record in &folded {
        if remove(context, record).await? {
            count(context, Closed { outcome: "folded" });
        }
    }
    if !folded.is_empty() {
        let records = folded.len();
        tracing::info!(namespace, %month, records, "folded a month that is over");
    }
    Ok(folded.len())
}

/// The folded records of a namespace and month, as they are now.
pub(super) async fn folded(
    client: &Client,
    namespace: &str,
    month: Month,
) -> Result<Vec<SpendRecord>, ApiError> {
    let kind = WorkloadKind::Folded.as_str();
    let selector =
        format!("{NAMESPACE_LABEL}={namespace},{MONTH_LABEL}={month},{KIND_LABEL}={kind}");
    list(client, &selector).await
}

async fn list(client: &Client, selector: &str) -> Result<Vec<SpendRecord>, ApiError> {
    let api: Api<SpendRecord> = Api::all(client.clone());
    let mut params = ListParams::default().labels(selector).limit(PAGE);
    let mut all = Vec::new();
    loop {
        let page = with_timeout("list spendrecords", api.list(&params)).await?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(all),
        }
    }
}

/// Writes a folded record, at the version that it was read at.
async fn put(client: &Client, mut record: SpendRecord) -> Result<(), ApiError> {
    let api: Api<SpendRecord> = Api::all(client.clone());
    let params = PostParams::default();
    if record.resource_version().is_none() {
        let bare = SpendRecord {
            status: None,
            ..record.clone()
        };
        let made = with_timeout("create spendrecord", api.create(&params, &bare)).await?;
        record.metadata = made.metadata;
    }
    let name = record.name_any();
    let replaced = api.replace_status(&name, &params, &record);
    with_timeout("replace spendrecord status", replaced).await?;
    Ok(())
}

/// Removes a record as it was read. False if it was written to since, or is gone.
async fn remove(context: &Context, record: &SpendRecord) -> Result<bool, ApiError> {
    let api: Api<SpendRecord> = Api::all(context.client.clone());
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: record.uid(),
            resource_version: record.resource_version(),
        }),
        ..DeleteParams::default()
    };
    let name = record.name_any();
    match with_timeout("delete spendrecord", api.delete(&name, &params)).await {
        Ok(_) => {
            context.written.forget(&name);
            context.folded.forget(&name);
            Ok(true)
        }
        Err(ApiError::Conflict { .. } | ApiError::Gone { .. }) => Ok(false),
        Err(failure) => Err(failure),
    }
}
