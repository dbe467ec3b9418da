//! The money part of a workload's status, and when a status is worth a write.

use bursar_api::spend::SpendSummary;
use bursar_core::money::Money;
use bursar_core::period::{Interval, Month, Period, whole_second};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::ledger::{self, Accounts};

/// While money is spent, figures alone are written at most this often.
const PACE: SignedDuration = SignedDuration::from_mins(5);
/// Decimals of amounts in a status.
pub(crate) const DECIMALS: usize = 4;

/// What a workload cost until `now`.
pub(crate) fn summary(
    accounts: &Accounts,
    currency: &str,
    now: Timestamp,
    zone: &TimeZone,
) -> SpendSummary {
    let month = Month::of(now, zone);
    let whole = accounts
        .keys()
        .map(|month| month.bounds(zone))
        .reduce(|all, month| Interval {
            start: all.start.min(month.start),
            end: all.end.max(month.end),
        });
    let total = whole
        .map(|whole| ledger::sum(accounts, whole, now, zone))
        .unwrap_or_default();
    let within = |interval| {
        ledger::sum(accounts, interval, now, zone)
            .cost
            .total()
            .rounded(DECIMALS)
    };
    // thousandths of an hour
    let hours = |gpu_seconds: i64| {
        Money::from_nanos(i128::from(gpu_seconds) * 1_000_000_000 / 3600).rounded(3)
    };
    SpendSummary {
        today: within(Period::Daily.bounds(now, zone)),
        month_to_date: within(month.bounds(zone)),
        total: total.cost.total().rounded(DECIMALS),
        rate_per_hour: ledger::rate(accounts, month)
            .map_or_else(|| "unknown".to_owned(), |rate| rate.rounded(DECIMALS)),
        gpu_hours: hours(total.gpu_seconds),
        currency: currency.to_owned(),
        estimated: (total.estimated != Money::ZERO).then(|| total.estimated.rounded(DECIMALS)),
        as_of: Some(Time(whole_second(now))),
        unpriced_gpu_hours: (total.unpriced_gpu_seconds != 0)
            .then(|| hours(total.unpriced_gpu_seconds)),
        ..SpendSummary::default()
    }
}

/// Whether figures that differ are worth a write by themselves: at once when nothing is being spent (they are final then), else at
/// most once in [`PACE`].
pub(crate) fn is_due(old: Option<&SpendSummary>, new: &SpendSummary, now: Timestamp) -> bool {
    let Some(old) = old else { return true };
    if old.rate_per_hour != new.rate_per_hour {
        return true;
    }
    let same = SpendSummary {
        as_of: None,
        ..old.clone()
    } == SpendSummary {
        as_of: None,
        ..new.clone()
    };
    if same {
        return false;
    }
    let at_rest = new
        .rate_per_hour
        .bytes()
        .all(|byte| matches!(byte, b'0' | b'.'));
    at_rest
        || old
            .as_of
            .as_ref()
            .is_none_or(|at| now.duration_since(at.0) >= PACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(total: &str, rate: &str, at: &str) -> SpendSummary {
        SpendSummary {
            total: total.into(),
            rate_per_hour: rate.into(),
            as_of: Some(Time(at.parse().unwrap())),
            ..SpendSummary::default()
        }
    }

    #[test]
    fn figures_alone_are_written_every_five_minutes_and_once_at_the_end() {
        let old = summary("1.0000", "4.0000", "2026-11-24T00:00:00Z");
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let grown = summary("1.1000", "4.0000", "2026-11-24T00:04:59Z");
        assert!(!is_due(Some(&old), &grown, at("2026-11-24T00:04:59Z")));
        assert!(is_due(Some(&old), &grown, at("2026-11-24T00:05:00Z")));
        assert!(
            is_due(
                Some(&old),
                &summary("1.1", "8.0000", "2026-11-24T00:00:01Z"),
                at("2026-11-24T00:00:01Z")
            ),
            "the rate changed"
        );
        let ended = summary("1.1000", "0.0000", "2026-11-24T00:00:00Z");
        assert!(is_due(
            Some(&ended),
            &summary("1.2000", "0.0000", "2026-11-24T00:00:01Z"),
            at("2026-11-24T00:00:01Z")
        ));
        assert!(!is_due(
            Some(&ended),
            &summary("1.1000", "0.0000", "2026-11-24T09:00:00Z"),
            at("2026-11-24T09:00:00Z")
        ));
    }
}
