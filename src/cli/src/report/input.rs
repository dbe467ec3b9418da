//! What a report is made of, read from a cluster or from a backup.

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

use super::cluster::Cluster;
use super::revenue::{self, Paid};
use super::{Asked, Error};
use crate::client;
use crate::ledger::backup;
use crate::spend_corrections::{self, Corrected};
use crate::spend_records::{self, Sheet};

/// What a report is made of.
pub(super) struct Read {
    /// That of the accounts, or of the first correction; empty where nothing is on record.
    pub(super) currency: String,
    /// The accounting time zone, which is the same for all; UTC where nothing is on record.
    pub(super) zone: TimeZone,
    /// Of workloads.
    pub(super) sheets: Vec<Sheet>,
    /// Of nodes.
    pub(super) nodes: Vec<Sheet>,
    pub(super) overheads: Vec<Borne>,
    /// Those that count.
    pub(super) corrections: Vec<Corrected>,
    pub(super) paid: Paid,
    /// Only with all namespaces.
    pub(super) cluster: Option<Cluster>,
}

impl Read {
    /// True if nothing that is asked for is on record.
    pub(super) fn is_empty(&self) -> bool {
        let nodes = self.cluster.is_none() || self.nodes.is_empty();
        self.sheets.is_empty() && self.corrections.is_empty() && nodes
    }
}

/// Whose, on which day, and what.
pub(super) type Borne = (CostOwner, Date, DailyCost);

/// Objects as they stand.
#[derive(Clone, Default)]
pub(super) struct Source {
    /// The namespace that is asked for; `None` for all.
    pub(super) namespace: Option<String>,
    /// Where a namespace has corrections alone, others' records, which say in which currency and time zone these count.
    pub(super) records: Vec<Value>,
    pub(super) corrections: Vec<Value>,
    pub(super) lists: Vec<PriceList>,
    pub(super) paid: Paid,
}

/// Reads what is asked for. A client is made only where the cluster is needed.
pub(super) async fn source<F>(client: impl Fn() -> F, asked: &Asked) -> Result<Source, Error>
where
    F: Future<Output = Result<Client, client::Error>>,
{
    match &asked.from {
        Some(path) => of_backup(path, asked),
        None => of_cluster(&client().await?, asked).await,
    }
}

impl Source {
    /// What these objects say at `now`. The second list names what is left out.
    ///
    /// # Errors
    /// A record that cannot be read, or one in another currency than the others.
    pub(super) fn read(self, asked: &Asked, now: Timestamp) -> Result<(Read, Vec<String>), Error> {
        let (sheets, mut left_out) = spend_records::read(&self.records, asked.skip_unreadable)?;
        let (mut sheets, nodes) = spend_records::apart(sheets);
        let accounts = || sheets.iter().chain(&nodes);
        let kept = spend_records::currency(accounts())?.map(str::to_owned);
        let prices = EffectivePrices::from_lists(&self.lists, kept.clone(), now);
        let first = accounts().next();
        let zone = first.map_or(TimeZone::UTC, |sheet| sheet.zone.clone());
        let namespace = self.namespace.as_deref();
        let (corrections, others) = spend_corrections::counting(
            &self.corrections,
            namespace,
            asked.month.bounds(&zone),
            Some(prices.lists.currency.as_str()).filter(|currency| !currency.is_empty()),
            &zone,
            now,
        );
        left_out.extend(others);
        // by the lists as they are now, or were in the month's last second
        let last = asked.month.bounds(&zone).end - SignedDuration::from_secs(1);
        let monthly = prices.lists.overheads(now.min(last));
        let mut overheads = overheads(&sheets, &monthly, asked.month, now, &zone);
        let cluster = namespace.is_none().then(|| {
            let mut bill = spend_records::bill(accounts(), now);
            if first.is_some() {
                // it is owed whoever bears it
                bill.overhead = cost_report::overhead_due(&monthly, asked.month, now, &zone);
            }
            bill.corrections = spend_corrections::sum(&corrections);
            Cluster {
                bill,
                overheads: asked.overheads,
            }
        });
        if let Some(namespace) = namespace {
            sheets.retain(|sheet| sheet.holder.namespace == namespace);
            overheads.retain(|(holder, _, _)| holder.namespace == namespace);
        }
        let of_first = || corrections.first().map(|each| &each.correction.currency);
        let read = Read {
            currency: kept.or_else(|| of_first().cloned()).unwrap_or_default(),
            zone,
            sheets,
            nodes,
            overheads,
            corrections,
            paid: self.paid,
            cluster,
        };
        Ok((read, left_out))
    }
}

fn of_backup(path: &Path, asked: &Asked) -> Result<Source, Error> {
    let objects = backup::load(path)?.into_iter();
    let (corrections, records): (Vec<_>, Vec<_>) = objects.partition(spend_corrections::is_one);
    let namespace = asked.scope.namespace.clone();
    let mut mine = selected(&records, asked.month, namespace.as_deref());
    if mine.is_empty() && !corrections.is_empty() {
        mine = selected(&records, asked.month, None);
    }
    Ok(Source {
        namespace,
        records: mine,
        corrections,
        ..Source::default()
    })
}

async fn of_cluster(client: &Client, asked: &Asked) -> Result<Source, Error> {
    let namespace = asked.scope.namespace(client);
    let paid = paid(client, asked, namespace.as_deref()).await;
    // overheads are shared by what everybody used
    let read = namespace.as_deref().filter(|_| !asked.overheads);
    let mut records = spend_records::list(client, &selector(asked.month, read)).await?;
    let corrections = spend_corrections::list(client).await?;
    let are_alone = records.is_empty() && !corrections.is_empty();
    if are_alone {
        records = spend_records::list(client, &selector(asked.month, None)).await?;
    }
    let lists = match asked.overheads || records.is_empty() && are_alone {
        true => client::price_lists(client)
            .await
            .map_err(|error| Error::Prices(error.to_string()))?,
        false => Vec::new(),
    };
    Ok(Source {
        namespace,
        records,
        corrections,
        lists,
        paid,
    })
}

/// What services earn, where rows are theirs.
async fn paid(client: &Client, asked: &Asked, namespace: Option<&str>) -> Paid {
    if !revenue::is_by_workload(&asked.by) || asked.output.is_focus() {
        return Paid::new();
    }
    let paid = revenue::paid(client, namespace).await;
    paid.unwrap_or_else(|why| {
        eprintln!(
            "warning: revenue is left out, because InferenceDeployments cannot be read: {why}"
        );
        Paid::new()
    })
}

fn selector(month: Month, namespace: Option<&str>) -> String {
    let of_namespace = namespace.map(|name| format!(",{NAMESPACE_LABEL}={name}"));
    format!("{MONTH_LABEL}={month}{}", of_namespace.unwrap_or_default())
}

/// The records of a backup that the selector would find in a cluster.
fn selected(records: &[Value], month: Month, namespace: Option<&str>) -> Vec<Value> {
    let wanted = |object: &&Value| {
        object["spec"]["month"] == month.to_string().as_str()
            && namespace.is_none_or(|name| object["spec"]["namespace"] == name)
    };
    records.iter().filter(wanted).cloned().collect()
}

/// What these overheads cost each workload.
fn overheads(
    sheets: &[Sheet],
    monthly: &[&Overhead],
    month: Month,
    now: Timestamp,
    zone: &TimeZone,
) -> Vec<Borne> {
    let accounts: Vec<_> = sheets
        .iter()
        .map(|sheet| (&sheet.holder, &sheet.account))
        .collect();
    cost_report::overhead_entries(&accounts, monthly, month, now, zone)
        .into_iter()
        .map(|entry| (entry.holder.clone(), entry.date, entry.line))
        .collect()
}
