//! The accounts of one workload by month, and what they sum to.

use std::collections::BTreeMap;
use std::sync::Arc;

use bursar_core::calendar::{Interval, Month};
use bursar_core::ledger::{Account, Charge, DailyCost};
use bursar_core::money::Money;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The accounts of one workload, by month.
pub(crate) type Accounts = BTreeMap<Month, Arc<Account>>;

/// The sum of `accounts` within an interval of whole days.
pub(crate) fn sum(
    accounts: &Accounts,
    within: Interval,
    now: Timestamp,
    zone: &TimeZone,
) -> DailyCost {
    accounts
        .values()
        .map(|account| account.sum(within, now, zone))
        .sum()
}

/// The cost per hour of all open charges; `None` if one has no price.
pub(crate) fn rate(accounts: &Accounts, month: Month) -> Option<Money> {
    accounts.get(&month).map_or(Some(Money::ZERO), |account| {
        account
            .open_charges()
            .values()
            .map(|charge| charge.rate().map(|quote| quote.cost.total()))
            .sum()
    })
}

/// Carries a charge that is open in `last` forward into the months after it, until `present`.
pub(super) fn carry_forward(
    accounts: &mut Accounts,
    last: Month,
    present: Month,
    charge: &Charge,
    zone: &TimeZone,
) {
    let mut month = last.next();
    while month <= present {
        let account = accounts
            .entry(month)
            .or_insert_with(|| Arc::new(Account::new(month)));
        Arc::make_mut(account).carry_forward(charge, zone);
        month = month.next();
    }
}
