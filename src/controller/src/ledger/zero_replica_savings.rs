//! When a service has no replica because of no demand, which is what scaling to zero saves.

use bursar_core::calendar::{Interval, Month, whole_second};
use bursar_core::ledger::{ChargeEnd, ZeroReplicaPeriod};

use super::error::Error;
use super::month_accounts::MonthAccounts;

/// Begins the zero-replica period of a service at the end of its last replica if it is `idle`, and
/// ends it when the next replica is bound or the service is not idle any more. A period that lasts
/// over the end of a month goes on in the next month's account. `end_of` tells when a settled pod
/// ended.
pub(super) fn sync(
    accounts: &mut MonthAccounts<'_>,
    idle: bool,
    end_of: impl Fn(&str) -> ChargeEnd,
) -> Result<(), Error> {
    carry_forward(accounts)?;
    let (zone, now) = (accounts.zone(), accounts.now());
    let present = Month::containing(now, zone);
    let first_start = accounts.months.get(&present).and_then(|month| {
        let open = month.account.open_charges().values();
        open.map(|charge| charge.start()).min()
    });
    if first_start.is_some() || !idle {
        let end = first_start.unwrap_or_else(|| whole_second(now));
        for month in accounts.months.values_mut() {
            month.account.end_zero_replica_period(end, zone);
        }
    } else if let Some(month) = accounts.months.get_mut(&present)
        && month.account.zero_replica_period().is_none()
    {
        let open_before = month.before.open_charges().values();
        let ended = open_before.map(|charge| (end_of(charge.uid()), charge));
        let last = ended.max_by_key(|(end, _)| end.at);
        let period =
            last.and_then(|(end, charge)| ZeroReplicaPeriod::after_last_replica(charge, end));
        if let Some(period) = period {
            month.account.begin_zero_replica_period(period);
        }
    }
    Ok(())
}

/// Carries a period forward into the months that have begun since. A month ends its part once the
/// next one has the period on record.
fn carry_forward(accounts: &mut MonthAccounts<'_>) -> Result<(), Error> {
    let (zone, now) = (accounts.zone(), accounts.now());
    let Some((first, period)) = accounts
        .months
        .iter()
        .find_map(|(month, at)| Some((*month, at.account.zero_replica_period().cloned()?)))
    else {
        return Ok(());
    };
    let since = Interval {
        start: first.bounds(zone).start,
        end: now,
    };
    let months: Vec<Month> = since.months(zone).collect();
    for month in &months {
        accounts.ensure_month(*month)?;
        if let Some(month) = accounts.months.get_mut(month) {
            month.account.begin_zero_replica_period(period.clone());
        }
    }
    for month in months {
        let next = accounts.months.get(&month.next());
        let carried = next.is_some_and(|next| next.before.zero_replica_period().is_some());
        if let Some(at) = accounts.months.get_mut(&month).filter(|_| carried) {
            let end = month.bounds(zone).end;
            at.account.end_zero_replica_period(end, zone);
        }
    }
    Ok(())
}
