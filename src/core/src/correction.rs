//! Corrections: a credit, or the difference to an invoice. They are entries of their own next to
//! the ledger, which is never edited.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::calendar::{Interval, Month};
use crate::cost_report::CostOwner;
use crate::money::Money;

/// An amount that is added to the ledger's costs of a namespace or a workload, on one day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correction {
    /// The SpendCorrection's name.
    pub name: String,
    /// The owner of the cost. Its workload is empty for a correction of the whole namespace.
    pub owner: CostOwner,
    /// The day that it counts on, in the accounting time zone.
    pub date: Date,
    /// The amount that is added; negative for money that is given back.
    pub amount: Money,
    /// ISO 4217 code of the amount.
    pub currency: String,
}

impl Correction {
    /// The month whose accounts it corrects.
    pub fn month(&self) -> Month {
        Month::containing_date(self.date)
    }

    /// Why it does not count, if that month's accounts are kept in `currency`.
    pub fn rejection(&self, currency: &str) -> Option<String> {
        (self.currency != currency).then(|| {
            format!(
                "its currency is {}, and the accounts of {} are kept in {currency}: make another correction, in {currency}",
                self.currency,
                self.month()
            )
        })
    }

    /// Whether its day has come.
    pub fn is_due(&self, now: Timestamp, zone: &TimeZone) -> bool {
        self.date <= zone.to_datetime(now).date()
    }

    /// When its day comes; `None` if that is beyond what an instant can be.
    pub fn due_at(&self, zone: &TimeZone) -> Option<Timestamp> {
        let midnight = self.date.to_zoned(zone.clone()).ok()?;
        Some(midnight.timestamp())
    }

    /// Whether its day lies in `within`, which begins and ends at midnights of `zone`, and has
    /// come.
    pub fn counts_within(&self, within: Interval, now: Timestamp, zone: &TimeZone) -> bool {
        let day = |at| zone.to_datetime(at).date();
        (day(within.start)..day(within.end)).contains(&self.date) && self.is_due(now, zone)
    }
}

/// The sum of those that count in `within`.
pub fn sum<'a>(
    corrections: impl IntoIterator<Item = &'a Correction>,
    within: Interval,
    now: Timestamp,
    zone: &TimeZone,
) -> Money {
    let counted = corrections.into_iter();
    let counted = counted.filter(|correction| correction.counts_within(within, now, zone));
    counted.map(|correction| correction.amount).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calendar::Period;

    fn correction(date: &str, amount: &str) -> Correction {
        Correction {
            name: "c".into(),
            owner: CostOwner {
                namespace: "ml".into(),
                workload: String::new(),
            },
            date: date.parse().unwrap(),
            amount: amount.parse().unwrap(),
            currency: "USD".into(),
        }
    }

    #[test]
    fn a_period_has_the_corrections_of_its_own_days_from_their_days_on() {
        let zone = TimeZone::get("Asia/Kolkata").unwrap();
        let all = [
            correction("2026-10-31", "1"),
            correction("2026-11-01", "-10"),
            correction("2026-11-24", "0.000000001"),
            correction("2026-11-25", "100"),
            correction("2026-12-01", "1000"),
        ];
        let sum = |period: Period, now: &str| {
            let now = now.parse().unwrap();
            sum(&all, period.bounds(now, &zone), now, &zone).to_string()
        };
        // it is the 25th in Kolkata from 18:30 UTC on
        let evening = "2026-11-24T18:29:59Z";
        assert_eq!(sum(Period::Monthly, evening), "-9.999999999");
        assert_eq!(sum(Period::Daily, evening), "0.000000001");
        let midnight = "2026-11-24T18:30:00Z";
        assert_eq!(sum(Period::Monthly, midnight), "90.000000001");
        assert_eq!(sum(Period::Daily, midnight), "100.00");
        // from Monday the 30th of November on
        let december = "2026-12-01T12:00:00Z";
        assert_eq!(sum(Period::Weekly, december), "1000.00");
    }

    #[test]
    fn one_in_another_currency_than_its_months_accounts_does_not_count_and_says_why() {
        let credit = correction("2026-11-30", "-5");
        assert_eq!(credit.rejection("USD"), None);
        let why = credit.rejection("EUR").unwrap();
        for part in ["USD", "2026-11", "in EUR"] {
            assert!(why.contains(part), "{why}");
        }
    }
}
