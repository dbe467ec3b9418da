//! The ledger of a namespace, with the prices and corrections that its figures are traced to.

use bursar_api::names::NAMESPACE_LABEL;
use bursar_api::prices::EffectivePrices;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use kube::Client;
use serde_json::Value;

use crate::client::{api_error, price_lists};
use crate::format::description::Description;
use crate::spend_corrections;
use crate::spend_records::{self, LoadedAccount};

/// The accounts and corrections of a namespace, and prices. Where a part cannot be read, why.
pub(super) struct NamespaceCosts {
    /// The accounts of the namespace, by month.
    pub(super) accounts: Vec<LoadedAccount>,
    /// Records that cannot be read, and why.
    pub(super) skipped: Vec<String>,
    /// SpendCorrections of all namespaces, as they stand.
    pub(super) corrections: Vec<Value>,
    /// Currency and time zone of this month's accounts; `None` where nothing says so.
    pub(super) settings: Option<LedgerSettings>,
    /// Prices as they are now.
    pub(super) prices: Result<EffectivePrices, String>,
    /// The workload's share of overheads by its status: they are shared over the whole cluster.
    pub(super) overhead: Option<String>,
}

impl NamespaceCosts {
    /// Reads what the cluster holds of a namespace.
    pub(super) async fn load(
        client: &Client,
        namespace: &str,
        now: Timestamp,
    ) -> Result<Self, spend_records::Error> {
        let objects =
            spend_records::list(client, &format!("{NAMESPACE_LABEL}={namespace}")).await?;
        let (mut accounts, skipped) = spend_records::load(&objects, true)?;
        accounts.sort_by_key(|loaded| loaded.account.month());
        let settings = current_settings(client, &accounts, now).await?;
        let prices = price_lists(client)
            .await
            .map(|lists| {
                let currency = settings.as_ref().map(|settings| settings.currency.clone());
                EffectivePrices::from_lists(&lists, currency, now)
            })
            .map_err(|error| api_error(&error));
        // before the month's first account, that of the prices
        let listed = prices.as_ref().ok();
        let listed = listed.map(|prices| prices.lists.currency.clone());
        let listed = listed.filter(|currency| !currency.is_empty());
        let latest = || {
            let last = || {
                let mut latest_first = accounts.iter().rev();
                Some(latest_first.find_map(LoadedAccount::currency)?.to_owned())
            };
            Some(LedgerSettings {
                currency: listed.or_else(last)?,
                zone: accounts.last()?.zone.clone(),
            })
        };
        Ok(Self {
            settings: settings.or_else(latest),
            accounts,
            skipped,
            corrections: spend_corrections::list(client).await?,
            prices,
            overhead: None,
        })
    }

    /// True if any correction is of this namespace, applicable or not.
    pub(super) fn has_corrections_of(&self, namespace: &str) -> bool {
        let mut all = self.corrections.iter();
        all.any(|object| object["spec"]["namespace"] == namespace)
    }
}

/// The currency and the time zone of a month's accounts, which all namespaces have in common.
pub(super) struct LedgerSettings {
    pub(super) currency: String,
    pub(super) zone: TimeZone,
}

impl LedgerSettings {
    /// The settings of one account; `None` for one that has no currency yet.
    pub(super) fn of_account(loaded: &LoadedAccount) -> Option<Self> {
        Some(Self {
            currency: loaded.currency()?.to_owned(),
            zone: loaded.zone.clone(),
        })
    }
}

/// The settings of this month's accounts, of this namespace or of any; `None` while there are none.
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
    let selector = spend_records::current_month_selector(None, now);
    let all = spend_records::list(client, &selector).await?;
    let (all, _) = spend_records::load(&all, true)?;
    Ok(all.iter().find_map(current))
}

/// Adds the heading of figures of money, with their currency.
pub(super) fn add_heading(page: &mut Description, currency: Option<&str>, now: Timestamp) {
    let currency = currency.map(|currency| format!(" in {currency}"));
    page.heading(&format!(
        "money{}, exactly, at {now:.0}",
        currency.unwrap_or_default()
    ));
    page.line("");
}

/// The accounts in this currency; the months of the others are named, since sums of two currencies
/// mean nothing.
pub(super) fn accounts_in_currency<'a>(
    page: &mut Description,
    accounts: &[&'a LoadedAccount],
    wanted: Option<&str>,
) -> Vec<&'a LoadedAccount> {
    let mut selected = accounts.to_vec();
    selected.retain(|loaded| match loaded.currency() {
        Some(other) if Some(other) != wanted => {
            page.row(
                "left out",
                &format!("{}, kept in {other}", loaded.account.month()),
            );
            false
        }
        _ => true,
    });
    selected
}
