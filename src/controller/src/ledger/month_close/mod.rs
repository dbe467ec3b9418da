//! Closes months, for as long as the process leads: the records of months that are over are
//! consolidated into one record for their namespace, and records older than the retention are
//! removed.
//!
//! 1. The namespace's records of the month are read live.
//! 2. The consolidated record is written, at the version that was read.
//! 3. Only then is each record that it was made of removed, with its UID and version as they were
//!    read.
//!
//! A workload's own record counts instead of its consolidated account
//! ([`bursar_api::spend::RecordPrecedence`]), so it does not matter where this breaks off. A record
//! that was written meanwhile is not removed, and the next run consolidates it anew.

mod consolidate;

use std::collections::BTreeSet;
use std::time::Duration;

use bursar_api::SpendRecord;
use bursar_api::names::{KIND_LABEL, MONTH_LABEL, NAMESPACE_LABEL};
use bursar_api::spend::WorkloadKind;
use bursar_core::calendar::Month;
use jiff::Timestamp;
use kube::api::{Api, DeleteParams, ListParams, PostParams, Preconditions};
use kube::runtime::reflector::Store;
use kube::{Client, ResourceExt};

use self::consolidate::{Consolidation, consolidate, is_closed, is_past_retention};
use super::stored_accounts::ConsolidatedCache;
use super::write_cache::WriteCache;
use crate::api_calls::{ApiError, with_timeout};
use crate::metrics::{Metrics, MonthCloseLabel};

const INTERVAL: Duration = Duration::from_hours(1);
/// A new leader has more urgent things to do.
const FIRST_DELAY: Duration = Duration::from_secs(20);
/// Bytes of a consolidated record's accounts: etcd takes objects of 1.5 MiB.
const MAX_BYTES: usize = 1_000_000;
/// Records that one run removes; the next one goes on.
const MAX_RECORDS: usize = 2_000;
/// Records in one answer of the API server.
const LIST_LIMIT: u32 = 500;

/// What closing months reads and writes.
pub(crate) struct MonthClose<'a> {
    pub(crate) client: &'a Client,
    pub(crate) records: &'a Store<SpendRecord>,
    pub(crate) write_cache: &'a WriteCache,
    pub(crate) consolidated: &'a ConsolidatedCache,
    pub(crate) metrics: &'a Metrics,
    /// Records are kept for so many months after their own.
    pub(crate) retention_months: u32,
}

impl MonthClose<'_> {
    /// Closes every hour the months that are over.
    pub(crate) async fn run(&self) {
        tokio::time::sleep(FIRST_DELAY).await;
        loop {
            for error in self.sync_once(Timestamp::now()).await {
                tracing::warn!(%error, "closing months; the next run tries again");
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Closes the months that are over at `now`, one namespace and month after the other. An error
    /// in one does not stop the others.
    pub(crate) async fn sync_once(&self, now: Timestamp) -> Vec<ApiError> {
        let records = self.records.state();
        let is_expired = |record: &&_| is_past_retention(record, self.retention_months, now);
        let (expired, current): (Vec<_>, Vec<_>) =
            records.iter().map(AsRef::as_ref).partition(is_expired);
        let (mut left, mut errors) = (MAX_RECORDS, Vec::new());
        let closed = current.into_iter().filter(|record| is_closed(record, now));
        let due: BTreeSet<(&str, Month)> = closed
            .filter_map(|record| Some((record.spec.namespace.as_str(), record.month().ok()?)))
            .collect();
        for (namespace, month) in due {
            if left == 0 {
                break;
            }
            match self.close(namespace, month, now, left).await {
                Ok(consolidated) => left = left.saturating_sub(consolidated),
                Err(error) => errors.push(error),
            }
        }
        for record in expired.into_iter().take(left) {
            match self.remove(record).await {
                Ok(true) => {
                    let name = record.name_any();
                    tracing::info!(
                        name,
                        months = self.retention_months,
                        "removed a SpendRecord that is older than the retention"
                    );
                    self.count("removed");
                }
                Ok(false) => {}
                Err(error) => errors.push(error),
            }
        }
        for _ in &errors {
            self.count("failed");
        }
        errors
    }

    fn count(&self, outcome: &'static str) {
        let label = MonthCloseLabel { outcome };
        self.metrics.closed.get_or_create(&label).inc();
    }

    /// Consolidates the records of one namespace and month, `limit` at most; returns how many.
    async fn close(
        &self,
        namespace: &str,
        month: Month,
        now: Timestamp,
        limit: usize,
    ) -> Result<usize, ApiError> {
        let selector = format!("{NAMESPACE_LABEL}={namespace},{MONTH_LABEL}={month}");
        let records = list(self.client, &selector).await?;
        let Consolidation {
            write,
            remove,
            doubtful,
        } = consolidate(records, now, MAX_BYTES, limit);
        for why in doubtful {
            tracing::warn!(
                why,
                "a SpendRecord of a month that is over is not consolidated"
            );
        }
        for record in write {
            put(self.client, record).await?;
        }
        for record in &remove {
            if self.remove(record).await? {
                self.count("folded");
            }
        }
        if !remove.is_empty() {
            let records = remove.len();
            tracing::info!(namespace, %month, records, "consolidated a month that is over");
        }
        Ok(remove.len())
    }

    /// Removes a record as it was read. False if it was written to since, or is gone.
    async fn remove(&self, record: &SpendRecord) -> Result<bool, ApiError> {
        let api: Api<SpendRecord> = Api::all(self.client.clone());
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
                self.write_cache.forget(&name);
                self.consolidated.forget(&name);
                Ok(true)
            }
            Err(error) if error.is_stale() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The consolidated records of a namespace and month, as they are now.
pub(super) async fn list_consolidated(
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
    let mut params = ListParams::default().labels(selector).limit(LIST_LIMIT);
    let mut all = Vec::new();
    loop {
        let answer = with_timeout("list spendrecords", api.list(&params)).await?;
        all.extend(answer.items);
        match answer.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(all),
        }
    }
}

/// Writes a consolidated record, at the version that was read.
async fn put(client: &Client, mut record: SpendRecord) -> Result<(), ApiError> {
    let api: Api<SpendRecord> = Api::all(client.clone());
    let params = PostParams::default();
    if record.resource_version().is_none() {
        let bare = SpendRecord {
            status: None,
            ..record.clone()
        };
        let created = with_timeout("create spendrecord", api.create(&params, &bare)).await?;
        record.metadata = created.metadata;
    }
    let name = record.name_any();
    let replace = api.replace_status(&name, &params, &record);
    with_timeout("replace spendrecord status", replace).await?;
    Ok(())
}
