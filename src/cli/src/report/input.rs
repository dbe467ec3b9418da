//! The input of a report, read from a cluster or from a backup.

use std::path::Path;

use bursar_api::PriceList;
use bursar_api::names::{MONTH_LABEL, NAMESPACE_LABEL};
use bursar_api::prices::EffectivePrices;
use bursar_core::calendar::Month;
use bursar_core::cost_report::{self, CostOwner};
use bursar_core::ledger::DailyCost;
use bursar_core::pricing::Overhead;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use serde_json::Value;

use super::args::ReportArgs;
use super::cluster::ClusterSummary;
use super::error::Error;
use super::revenue::{self, RevenueTermsByOwner};
use crate::client::{self, ClientError};
use crate::ledger::backup;
use crate::spend_corrections::{self, LoadedCorrection};
use crate::spend_records::{self, LoadedAccount};

/// The input of a report.
pub(super) struct ReportInput {
    /// Currency of the accounts, or of the first correction; empty where nothing is on record.
    pub(super) currency: String,
    /// The accounting time zone, which is the same for all; UTC where nothing is on record.
    pub(super) zone: TimeZone,
    /// Accounts of workloads.
    pub(super) accounts: Vec<LoadedAccount>,
    /// Accounts of nodes.
    pub(super) nodes: Vec<LoadedAccount>,
    pub(super) overheads: Vec<OverheadShare>,
    /// Corrections that count.
    pub(super) corrections: Vec<LoadedCorrection>,
    pub(super) revenue_terms: RevenueTermsByOwner,
    /// The bill of the cluster; only with all namespaces.
    pub(super) cluster: Option<ClusterSummary>,
}

impl ReportInput {
    /// True if nothing is on record for the report.
    pub(super) fn is_empty(&self) -> bool {
        let nodes = self.cluster.is_none() || self.nodes.is_empty();
        self.accounts.is_empty() && self.corrections.is_empty() && nodes
    }
}

/// A workload's share of overheads on one day.
pub(super) type OverheadShare = (CostOwner, Date, DailyCost);

/// Objects as the API server or a backup has them.
#[derive(Clone, Default)]
pub(super) struct LedgerObjects {
    /// The namespace of the report; `None` for all.
    pub(super) namespace: Option<String>,
    /// SpendRecords. Where a namespace has only corrections, those of other namespaces, for their
    /// currency and time zone.
    pub(super) records: Vec<Value>,
    pub(super) corrections: Vec<Value>,
    pub(super) lists: Vec<PriceList>,
    pub(super) revenue_terms: RevenueTermsByOwner,
}

/// Loads the objects of a report. A client is made only where the cluster is needed.
pub(super) async fn load<F>(
    client: impl Fn() -> F,
    args: &ReportArgs,
    now: Timestamp,
) -> Result<(LedgerObjects, Month), Error>
where
    F: Future<Output = Result<Client, ClientError>>,
{
    match &args.from {
        Some(path) => from_backup(path, args, now),
        None => from_cluster(&client().await?, args, now).await,
    }
}

impl LedgerObjects {
    /// Parses these objects, as of `now`. The second list names those that are left out.
    ///
    /// # Errors
    /// A record that cannot be read, or one in another currency than the others.
    pub(super) fn parse(
        self,
        args: &ReportArgs,
        month: Month,
        now: Timestamp,
    ) -> Result<(ReportInput, Vec<String>), Error> {
        let (accounts, mut left_out) = spend_records::load(&self.records, args.skip_unreadable)?;
        let (mut accounts, nodes) = spend_records::split_nodes(accounts);
        let all = || accounts.iter().chain(&nodes);
        let currency = spend_records::common_currency(all())?.map(str::to_owned);
        let prices = EffectivePrices::from_lists(&self.lists, currency.clone(), now);
        let first = all().next();
        let zone = first.map_or(TimeZone::UTC, |loaded| loaded.zone.clone());
        let namespace = self.namespace.as_deref();
        let (corrections, rejected) = spend_corrections::applicable(
            &self.corrections,
            namespace,
            month.bounds(&zone),
            Some(prices.lists.currency.as_str()).filter(|currency| !currency.is_empty()),
            &zone,
            now,
        );
        left_out.extend(rejected);
        // by the lists as they are now, or were in the month's last second
        let last = month.bounds(&zone).end - SignedDuration::from_secs(1);
        let monthly = prices.lists.overheads(now.min(last));
        let mut overheads = overheads(&accounts, &monthly, month, now, &zone);
        let cluster = namespace.is_none().then(|| {
            let mut bill = spend_records::cluster_bill(all(), now);
            if first.is_some() {
                // it is due, to whichever workload it is charged
                bill.overhead = cost_report::overhead_due(&monthly, month, now, &zone);
            }
            bill.corrections = spend_corrections::sum(&corrections);
            ClusterSummary {
                bill,
                overheads: args.overheads,
            }
        });
        if let Some(namespace) = namespace {
            accounts.retain(|loaded| loaded.owner.namespace == namespace);
            overheads.retain(|(holder, _, _)| holder.namespace == namespace);
        }
        let first_currency = || corrections.first().map(|each| &each.correction.currency);
        let read = ReportInput {
            currency: currency
                .or_else(|| first_currency().cloned())
                .unwrap_or_default(),
            zone,
            accounts,
            nodes,
            overheads,
            corrections,
            revenue_terms: self.revenue_terms,
            cluster,
        };
        Ok((read, left_out))
    }
}

fn from_backup(
    path: &Path,
    args: &ReportArgs,
    now: Timestamp,
) -> Result<(LedgerObjects, Month), Error> {
    let objects = backup::read_file(path)?.into_iter();
    let (corrections, records): (Vec<_>, Vec<_>) =
        objects.partition(spend_corrections::is_correction);
    let month = args.month.unwrap_or_else(|| {
        let zone = records.iter().find_map(spend_records::time_zone);
        Month::containing(now, &zone.unwrap_or(TimeZone::UTC))
    });
    let namespace = args.scope.namespace.clone();
    let mut selected = filter_records(&records, month, namespace.as_deref());
    if selected.is_empty() && !corrections.is_empty() {
        selected = filter_records(&records, month, None);
    }
    let objects = LedgerObjects {
        namespace,
        records: selected,
        corrections,
        ..LedgerObjects::default()
    };
    Ok((objects, month))
}

async fn from_cluster(
    client: &Client,
    args: &ReportArgs,
    now: Timestamp,
) -> Result<(LedgerObjects, Month), Error> {
    let month = match args.month {
        Some(month) => month,
        None => {
            let zone = spend_records::accounting_zone(client, now).await?;
            Month::containing(now, &zone)
        }
    };
    let namespace = args.scope.namespace(client);
    let revenue_terms = revenue_terms(client, args, namespace.as_deref()).await;
    // overheads are shared by what everybody used
    let read = namespace.as_deref().filter(|_| !args.overheads);
    let mut records = spend_records::list(client, &selector(month, read)).await?;
    let corrections = spend_corrections::list(client).await?;
    let are_alone = records.is_empty() && !corrections.is_empty();
    if are_alone {
        records = spend_records::list(client, &selector(month, None)).await?;
    }
    let lists = match args.overheads || records.is_empty() && are_alone {
        true => client::price_lists(client)
            .await
            .map_err(|error| Error::Prices(error.to_string()))?,
        false => Vec::new(),
    };
    let objects = LedgerObjects {
        namespace,
        records,
        corrections,
        lists,
        revenue_terms,
    };
    Ok((objects, month))
}

/// The revenue terms of services, where the report has a row for each.
async fn revenue_terms(
    client: &Client,
    args: &ReportArgs,
    namespace: Option<&str>,
) -> RevenueTermsByOwner {
    if !revenue::is_by_workload(&args.by) || args.output.is_focus() {
        return RevenueTermsByOwner::new();
    }
    let revenue_terms = revenue::list_terms(client, namespace).await;
    revenue_terms.unwrap_or_else(|why| {
        eprintln!(
            "warning: revenue is left out, because InferenceDeployments cannot be read: {why}"
        );
        RevenueTermsByOwner::new()
    })
}

fn selector(month: Month, namespace: Option<&str>) -> String {
    let namespace_term = namespace.map(|name| format!(",{NAMESPACE_LABEL}={name}"));
    format!(
        "{MONTH_LABEL}={month}{}",
        namespace_term.unwrap_or_default()
    )
}

/// The records of a backup that the selector would find in a cluster.
fn filter_records(records: &[Value], month: Month, namespace: Option<&str>) -> Vec<Value> {
    let wanted = |object: &&Value| {
        object["spec"]["month"] == month.to_string().as_str()
            && namespace.is_none_or(|name| object["spec"]["namespace"] == name)
    };
    records.iter().filter(wanted).cloned().collect()
}

/// Each workload's share of these overheads.
fn overheads(
    accounts: &[LoadedAccount],
    monthly: &[&Overhead],
    month: Month,
    now: Timestamp,
    zone: &TimeZone,
) -> Vec<OverheadShare> {
    let accounts: Vec<_> = accounts
        .iter()
        .map(|loaded| (&loaded.owner, &loaded.account))
        .collect();
    cost_report::overhead_entries(&accounts, monthly, month, now, zone)
        .into_iter()
        .map(|entry| (entry.owner.clone(), entry.date, entry.cost))
        .collect()
}
