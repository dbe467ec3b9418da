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
use crate::client::{self, Answer, api_error};
use crate::format::description::{Page, WIDTH};
use crate::format::table::table;
use crate::spend_corrections;
use crate::spend_records::{self, LoadedAccount};
use crate::top;

/// The whole ledger of a namespace, and all PriceLists, take longer to read than one object.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What figures are traced to. Where a part cannot be read, why.
struct NamespaceCosts {
    /// The records of the namespace, by month.
    accounts: Vec<LoadedAccount>,
    /// Which of them cannot be read, and why.
    skipped: Vec<String>,
    /// All corrections, as they stand.
    corrections: Vec<Value>,
    /// What this month's accounts are kept in; `None` where nothing says so.
    settings: Option<LedgerSettings>,
    /// Prices as they are now.
    prices: Result<EffectivePrices, String>,
    /// What the workload's status says of overheads: they are shared over the whole cluster.
    overhead: Option<String>,
}

impl NamespaceCosts {
    /// Whether any correction is of this namespace, counted or not.
    fn mentions_correction_of(&self, namespace: &str) -> bool {
        let mut all = self.corrections.iter();
        all.any(|object| object["spec"]["namespace"] == namespace)
    }
}

/// The currency and the time zone of a month's accounts, which all namespaces have in common.
struct LedgerSettings {
    currency: String,
    zone: TimeZone,
}

impl LedgerSettings {
    fn of_account(loaded: &LoadedAccount) -> Option<Self> {
        Some(Self {
            currency: loaded.currency()?.to_owned(),
            zone: loaded.zone.clone(),
        })
    }
}

/// What the records do not say of the object.
enum SpecDetails {
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
        let costs = load_costs(client, &answer.namespace, now).await;
        let mut costs = costs.map_err(|error| {
            format!("{error} (ClusterRole bursar-spend-viewer has the right to list them)")
        })?;
        costs.overhead = overhead(client, &answer.object, &answer.namespace).await;
        let details = spec_details(client, &answer.object, &answer.namespace).await;
        Ok((costs, details))
    };
    let late = |_| {
        Err(format!(
            "the API server did not answer within {} s",
            TIMEOUT.as_secs()
        ))
    };
    match tokio::time::timeout(TIMEOUT, read)
        .await
        .unwrap_or_else(late)
    {
        Ok((costs, details)) => {
            render(&mut page, &costs, &details, answer, now);
            for warning in &costs.skipped {
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

fn render(
    page: &mut Page,
    costs: &NamespaceCosts,
    details: &SpecDetails,
    answer: &Answer,
    now: Timestamp,
) {
    match details {
        SpecDetails::Budget(period) => {
            budget::render(page, costs, &answer.namespace, period, now);
        }
        SpecDetails::Service(terms) => {
            let owner = owner(answer, WorkloadKind::InferenceDeployment);
            workload::render(page, costs, &owner, Some(terms), now);
        }
        SpecDetails::Job => {
            let owner = owner(answer, WorkloadKind::TrainingJob);
            workload::render(page, costs, &owner, None, now);
        }
    }
    if let Some(share) = &costs.overhead {
        let text =
            format!("{share}, as the status says: its share of this month's, beside what is spent");
        page.row("overheads", &text);
    }
}

/// The workload that is asked about.
fn owner(answer: &Answer, kind: WorkloadKind) -> CostOwner {
    let workload = WorkloadRef {
        namespace: answer.namespace.clone(),
        kind,
        name: answer.object.name.clone(),
    };
    workload.cost_owner()
}

/// What the ledger holds of a namespace.
async fn load_costs(
    client: &Client,
    namespace: &str,
    now: Timestamp,
) -> Result<NamespaceCosts, spend_records::Error> {
    let objects = spend_records::list(client, &format!("{NAMESPACE_LABEL}={namespace}")).await?;
    let (mut accounts, skipped) = spend_records::load(&objects, true)?;
    accounts.sort_by_key(|loaded| loaded.account.month);
    let settings = current_settings(client, &accounts, now).await?;
    let prices = client::price_lists(client)
        .await
        .map(|lists| {
            EffectivePrices::from_lists(
                &lists,
                settings.as_ref().map(|settings| settings.currency.clone()),
                now,
            )
        })
        .map_err(|error| api_error(&error));
    // before the month's first account, that of the prices
    let listed = prices.as_ref().ok();
    let listed = listed.map(|prices| prices.lists.currency.clone());
    let listed = listed.filter(|currency| !currency.is_empty());
    let before = || {
        let last = || {
            Some(
                accounts
                    .iter()
                    .rev()
                    .find_map(LoadedAccount::currency)?
                    .to_owned(),
            )
        };
        Some(LedgerSettings {
            currency: listed.or_else(last)?,
            zone: accounts.last()?.zone.clone(),
        })
    };
    Ok(NamespaceCosts {
        settings: settings.or_else(before),
        accounts,
        skipped,
        corrections: spend_corrections::list(client).await?,
        prices,
        overhead: None,
    })
}

/// What this month's accounts are kept in, of this namespace or of any; `None` while there are none.
async fn current_settings(
    client: &Client,
    accounts: &[LoadedAccount],
    now: Timestamp,
) -> Result<Option<LedgerSettings>, spend_records::Error> {
    let current = |loaded: &LoadedAccount| {
        LedgerSettings::of_account(loaded).filter(|_| loaded.is_current(now))
    };
    if let Some(settings) = accounts.iter().find_map(current) {
        return Ok(Some(settings));
    }
    let all = spend_records::list(client, &top::selector(None, now)).await?;
    let (all, _) = spend_records::load(&all, true)?;
    Ok(all.iter().find_map(current))
}

async fn spec_details(client: &Client, object: &Object, namespace: &str) -> SpecDetails {
    match object.kind {
        Kind::Job => SpecDetails::Job,
        Kind::Service => {
            let api: Api<InferenceDeployment> = Api::namespaced(client.clone(), namespace);
            let found = api
                .get(&object.name)
                .await
                .map_err(|error| api_error(&error));
            let terms = |service: InferenceDeployment| {
                let revenue = service.spec.revenue.as_ref().map(|terms| terms.to_core());
                revenue.transpose().map_err(|error| error.to_string())
            };
            SpecDetails::Service(found.and_then(terms))
        }
        Kind::Budget => {
            let api: Api<BudgetPolicy> = Api::namespaced(client.clone(), namespace);
            let found = api
                .get(&object.name)
                .await
                .map_err(|error| api_error(&error));
            SpecDetails::Budget(found.map(|budget| budget.spec.period.into()))
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
fn add_heading(page: &mut Page, currency: Option<&str>, now: Timestamp) {
    let currency = currency.map(|currency| format!(" in {currency}"));
    page.heading(&format!(
        "money{}, exactly, at {now:.0}",
        currency.unwrap_or_default()
    ));
    page.line("");
}

/// The records in this currency; the months of the others are named, since sums of two currencies mean nothing.
fn accounts_in_currency<'a>(
    page: &mut Page,
    accounts: &[&'a LoadedAccount],
    wanted: Option<&str>,
) -> Vec<&'a LoadedAccount> {
    let mut selected = accounts.to_vec();
    selected.retain(|loaded| match loaded.currency() {
        Some(other) if Some(other) != wanted => {
            page.row(
                "left out",
                &format!("{}, kept in {other}", loaded.account.month),
            );
            false
        }
        _ => true,
    });
    selected
}

/// Amounts to so many decimals that all of them are exact; two at least.
fn exact_amounts(amounts: &[Money]) -> Vec<String> {
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
fn add_table(page: &mut Page, titles: &[&str], rows: &[Vec<String>]) {
    let titles: Vec<String> = titles.iter().map(|title| (*title).to_owned()).collect();
    page.line("");
    for line in table(&titles, rows, 1, Some(WIDTH - 2)).lines() {
        page.line(&format!("  {line}"));
    }
    page.line("");
}
