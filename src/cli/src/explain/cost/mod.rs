//! Where a figure of money comes from: the pods, days, prices and numbers that it is the sum of.
//!
//! | module | subject |
//! |---|---|
//! | `workload` | the figures of one workload |
//! | `charge` | a pod that holds a node, and the rows of the PriceLists that price it |
//! | `revenue` | unit costs, revenue and margin |
//! | `budget` | what a budget's spent is made of |
//! | `corrections` | the corrections in a figure |

mod budget;
mod charge;
mod corrections;
mod revenue;
#[cfg(test)]
mod tests;
mod workload;

use std::time::Duration;

use bursar_api::names::NAMESPACE_LABEL;
use bursar_api::prices::EffectivePrices;
use bursar_api::spend::{WorkloadKind, WorkloadRef};
use bursar_api::{BudgetPolicy, InferenceDeployment, TrainingJob};
use bursar_core::calendar::Period;
use bursar_core::cost_report::CostOwner;
use bursar_core::money::{Money, NANOS};
use bursar_core::unit_economics::RevenueTerms;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use kube::{Api, Client};
use serde_json::Value;

use crate::args::{Kind, Object};
use crate::client::{self, Answer, said};
use crate::format::description::{Page, WIDTH};
use crate::format::table::table;
use crate::spend_corrections;
use crate::spend_records::{self, Sheet};
use crate::top;

/// The whole ledger of a namespace, and all PriceLists, take longer to read than one object.
const LIMIT: Duration = Duration::from_secs(30);

/// What figures are traced to. Where a part cannot be read, why.
struct Books {
    /// The records of the namespace, by month.
    sheets: Vec<Sheet>,
    /// Which of them cannot be read, and why.
    skipped: Vec<String>,
    /// All corrections, as they stand.
    corrections: Vec<Value>,
    /// What this month's accounts are kept in; `None` where nothing says so.
    kept: Option<Kept>,
    /// Prices as they are now.
    prices: Result<EffectivePrices, String>,
    /// What the workload's status says of overheads: they are shared over the whole cluster.
    overhead: Option<String>,
}

impl Books {
    /// Whether any correction is of this namespace, counted or not.
    fn mentions(&self, namespace: &str) -> bool {
        let mut all = self.corrections.iter();
        all.any(|object| object["spec"]["namespace"] == namespace)
    }
}

/// The currency and the time zone of a month's accounts, which all namespaces have in common.
struct Kept {
    currency: String,
    zone: TimeZone,
}

impl Kept {
    fn of(sheet: &Sheet) -> Option<Self> {
        Some(Self {
            currency: sheet.currency()?.to_owned(),
            zone: sheet.zone.clone(),
        })
    }
}

/// What the records do not say of the object.
enum Subject {
    /// What a service is paid, if it says.
    Service(Result<Option<RevenueTerms>, String>),
    Job,
    /// What a budget is for.
    Budget(Result<Period, String>),
}

/// The part of an explanation that traces money; ends with a newline. What cannot be read is said there: it hides nothing else.
pub(crate) async fn explain(client: &Client, answer: &Answer, now: Timestamp) -> String {
    let mut page = Page::default();
    let read = async {
        let books = books(client, &answer.namespace, now).await;
        let mut books = books.map_err(|error| {
            format!("{error} (ClusterRole bursar-spend-viewer has the right to list them)")
        })?;
        books.overhead = overhead(client, &answer.object, &answer.namespace).await;
        let subject = subject(client, &answer.object, &answer.namespace).await;
        Ok((books, subject))
    };
    let late = |_| {
        Err(format!(
            "the API server did not answer within {} s",
            LIMIT.as_secs()
        ))
    };
    match tokio::time::timeout(LIMIT, read).await.unwrap_or_else(late) {
        Ok((books, subject)) => {
            render(&mut page, &books, &subject, answer, now);
            for warning in &books.skipped {
                page.wrapped("  ", &format!("note: {warning}"), 2);
            }
        }
        Err(why) => {
            page.heading("money");
            page.line("");
            page.row("not traced", &why);
        }
    }
    page.text
}

fn render(page: &mut Page, books: &Books, subject: &Subject, answer: &Answer, now: Timestamp) {
    match subject {
        Subject::Budget(period) => {
            budget::render(page, books, &answer.namespace, period, now);
        }
        Subject::Service(terms) => {
            let holder = holder(answer, WorkloadKind::InferenceDeployment);
            workload::render(page, books, &holder, Some(terms), now);
        }
        Subject::Job => {
            let holder = holder(answer, WorkloadKind::TrainingJob);
            workload::render(page, books, &holder, None, now);
        }
    }
    if let Some(share) = &books.overhead {
        let text =
            format!("{share}, as the status says: its share of this month's, beside what is spent");
        page.row("overheads", &text);
    }
}

/// The workload that is asked about.
fn holder(answer: &Answer, kind: WorkloadKind) -> CostOwner {
    let workload = WorkloadRef {
        namespace: answer.namespace.clone(),
        kind,
        name: answer.object.name.clone(),
    };
    workload.cost_owner()
}

/// What the ledger holds of a namespace.
async fn books(
    client: &Client,
    namespace: &str,
    now: Timestamp,
) -> Result<Books, spend_records::Error> {
    let objects = spend_records::list(client, &format!("{NAMESPACE_LABEL}={namespace}")).await?;
    let (mut sheets, skipped) = spend_records::read(&objects, true)?;
    sheets.sort_by_key(|sheet| sheet.account.month);
    let kept = kept(client, &sheets, now).await?;
    let prices = client::price_lists(client)
        .await
        .map(|lists| {
            EffectivePrices::from_lists(
                &lists,
                kept.as_ref().map(|kept| kept.currency.clone()),
                now,
            )
        })
        .map_err(|error| said(&error));
    // before the month's first account, that of the prices
    let listed = prices.as_ref().ok();
    let listed = listed.map(|prices| prices.lists.currency.clone());
    let listed = listed.filter(|currency| !currency.is_empty());
    let before = || {
        let last = || Some(sheets.iter().rev().find_map(Sheet::currency)?.to_owned());
        Some(Kept {
            currency: listed.or_else(last)?,
            zone: sheets.last()?.zone.clone(),
        })
    };
    Ok(Books {
        kept: kept.or_else(before),
        sheets,
        skipped,
        corrections: spend_corrections::list(client).await?,
        prices,
        overhead: None,
    })
}

/// What this month's accounts are kept in, of this namespace or of any; `None` while there are none.
async fn kept(
    client: &Client,
    sheets: &[Sheet],
    now: Timestamp,
) -> Result<Option<Kept>, spend_records::Error> {
    let of_now = |sheet: &Sheet| Kept::of(sheet).filter(|_| sheet.is_current(now));
    if let Some(kept) = sheets.iter().find_map(of_now) {
        return Ok(Some(kept));
    }
    let all = spend_records::list(client, &top::selector(None, now)).await?;
    let (all, _) = spend_records::read(&all, true)?;
    Ok(all.iter().find_map(of_now))
}

async fn subject(client: &Client, object: &Object, namespace: &str) -> Subject {
    match object.kind {
        Kind::Job => Subject::Job,
        Kind::Service => {
            let api: Api<InferenceDeployment> = Api::namespaced(client.clone(), namespace);
            let found = api.get(&object.name).await.map_err(|error| said(&error));
            let terms = |service: InferenceDeployment| {
                let revenue = service.spec.revenue.as_ref().map(|terms| terms.to_core());
                revenue.transpose().map_err(|error| error.to_string())
            };
            Subject::Service(found.and_then(terms))
        }
        Kind::Budget => {
            let api: Api<BudgetPolicy> = Api::namespaced(client.clone(), namespace);
            let found = api.get(&object.name).await.map_err(|error| said(&error));
            Subject::Budget(found.map(|budget| budget.spec.period.into()))
        }
    }
}

async fn overhead(client: &Client, object: &Object, namespace: &str) -> Option<String> {
    let spend = match object.kind {
        Kind::Service => {
            let api: Api<InferenceDeployment> = Api::namespaced(client.clone(), namespace);
            api.get(&object.name).await.ok()?.status?.spend
        }
        Kind::Job => {
            let api: Api<TrainingJob> = Api::namespaced(client.clone(), namespace);
            api.get(&object.name).await.ok()?.status?.spend
        }
        Kind::Budget => None,
    };
    spend?.overhead
}

/// What the page is about, and its currency.
fn heading(page: &mut Page, currency: Option<&str>, now: Timestamp) {
    let currency = currency.map(|currency| format!(" in {currency}"));
    page.heading(&format!(
        "money{}, exactly, at {now:.0}",
        currency.unwrap_or_default()
    ));
    page.line("");
}

/// The records in this currency; the months of the others are named, since sums of two currencies mean nothing.
fn of_one_currency<'a>(
    page: &mut Page,
    sheets: &[&'a Sheet],
    wanted: Option<&str>,
) -> Vec<&'a Sheet> {
    let mut kept = sheets.to_vec();
    kept.retain(|sheet| match sheet.currency() {
        Some(other) if Some(other) != wanted => {
            page.row(
                "left out",
                &format!("{}, kept in {other}", sheet.account.month),
            );
            false
        }
        _ => true,
    });
    kept
}

/// Amounts to so many decimals that all of them are exact; two at least.
fn exact(amounts: &[Money]) -> Vec<String> {
    let decimals = |amount: &Money| {
        let fraction = amount.nanos().abs() % NANOS;
        let text = format!("{fraction:09}");
        text.trim_end_matches('0').len()
    };
    let most = amounts.iter().map(decimals).max().unwrap_or(0).max(2);
    let amounts = amounts.iter().map(|amount| amount.rounded(most));
    amounts.collect()
}

/// A table within the page: the first column is names.
fn put(page: &mut Page, titles: &[&str], rows: &[Vec<String>]) {
    let titles: Vec<String> = titles.iter().map(|title| (*title).to_owned()).collect();
    page.line("");
    for line in table(&titles, rows, 1, Some(WIDTH - 2)).lines() {
        page.line(&format!("  {line}"));
    }
    page.line("");
}
