//! Histories that happened: a month of a GPU cluster's jobs, and a day of services that come and go (`../data/README.md`).

use std::collections::BTreeMap;

use bursar_core::calendar::{Interval, Month, midnight_before};
use bursar_core::ledger::{Account, Charge, ChargeEnd, DailyCost, RatePeriod, StoredCharge};
use bursar_core::money::{Cost, Money};
use bursar_core::pricing::HourlyRate;
use flate2::read::GzDecoder;
use jiff::civil::{Date, DateTime, date};
use jiff::tz::TimeZone;

use crate::bill::{Bill, Hourly, Segment, Stay, bill};
use crate::histories::held;
use crate::prices::{facts, time};

const JOBS: &[u8] = include_bytes!("../data/philly-2017-10.csv.gz");
const CALLS: &[u8] = include_bytes!("../data/azure-functions-day.csv.gz");

const MINUTE: i64 = 60;
const HOUR: i64 = 3600;
/// Hours of UTC at which the tariff changes.
const TARIFF: [i64; 2] = [5, 14];

/// Sums by day, of the oracle and of the ledger.
type Sums = BTreeMap<(String, Date), Bill>;

fn rows(file: &[u8]) -> Vec<csv::StringRecord> {
    let mut reader = csv::Reader::from_reader(GzDecoder::new(file));
    reader.records().map(Result::unwrap).collect()
}

/// A tariff with a night and a day.
fn prices(bound: i64, end: i64, units: i128) -> Vec<Segment> {
    let hourly = |at: i64| {
        let day = (TARIFF[0]..TARIFF[1]).contains(&(at.rem_euclid(24 * HOUR) / HOUR));
        let power = if day { 87_777_777 } else { 31_333_331 };
        Hourly {
            nanos: [
                1_459_999_999 * units,
                12_345_671,
                power * units,
                250_000_007,
            ],
            carbon_mg: 135_001 * units,
        }
    };
    let today = bound - bound.rem_euclid(24 * HOUR);
    let days = (today..end).step_by(24 * 3600);
    let changes = days.flat_map(|day| TARIFF.map(|hour| day + hour * HOUR));
    let changes = changes.filter(|at| *at > bound && *at < end);
    [bound]
        .into_iter()
        .chain(changes)
        .map(|at| (at, hourly(at)))
        .collect()
}

/// The oracle's stay as the core's charge.
fn charge(uid: usize, stay: &Stay) -> Charge {
    let units = u32::try_from(stay.units).unwrap();
    let rates = stay
        .prices
        .iter()
        .map(|(from, hourly)| {
            let [compute, storage, power, labour] = hourly.nanos.map(Money::from_nanos);
            RatePeriod {
                from: time(*from),
                quote: HourlyRate {
                    cost: Cost {
                        compute,
                        storage,
                        power,
                        labour,
                    },
                    carbon_mg: i64::try_from(hourly.carbon_mg).unwrap(),
                },
                provisional: false,
            }
        })
        .collect();
    let stored = StoredCharge::new(
        format!("u{uid}"),
        format!("pod-{uid}"),
        facts(units, (1, 1), true),
        time(stay.bound),
    );
    let mut charge = Charge::restore(StoredCharge {
        rates,
        ready_since: stay.ready.map(time),
        draining_since: stay.leaving.map(time),
        ..stored
    })
    .unwrap();
    for (day, seconds) in &stay.idle {
        charge.add_usage(*day, None, *seconds);
    }
    charge
}

/// All stays through the ledger, day by day as the controller would, and through the oracle.
fn count(stays: &[(String, Stay)], zone: &TimeZone) -> (Sums, Sums) {
    let mut accounts: BTreeMap<(String, Month), Account> = BTreeMap::new();
    let mut told = Sums::new();
    for (uid, (workload, stay)) in stays.iter().enumerate() {
        let charge = charge(uid, stay);
        let end = time(stay.end);
        let whole = Interval {
            start: charge.start(),
            end,
        };
        let months: Vec<Month> = whole.months(zone).collect();
        for month in &months {
            let key = (workload.clone(), *month);
            let account = accounts.entry(key).or_insert_with(|| Account::new(*month));
            assert!(
                account.carry_forward(&charge, zone),
                "{workload} knows {uid} already"
            );
            for (_, day) in whole.days(zone) {
                account.post_days_until(charge.uid(), midnight_before(day.start, zone), zone);
            }
            let end = ChargeEnd {
                at: end,
                estimated: false,
            };
            if account.open_charges().contains_key(charge.uid()) {
                account.settle(&charge, end, zone);
            }
            account.forget_settled(charge.uid());
        }
        for (day, part) in bill(stay, zone) {
            *told.entry((workload.clone(), day)).or_default() += part;
        }
    }
    let mut sums = Sums::new();
    for ((workload, _), account) in accounts {
        assert!(account.open_charges().is_empty() && account.settling().is_empty());
        for (day, lines) in account.days() {
            let line: DailyCost = lines.iter().map(|(_, line)| *line).sum();
            sums.insert((workload.clone(), *day), held(&line));
        }
    }
    (told, sums)
}

fn assert_same(told: &Sums, held: &Sums) {
    for (key, bill) in told {
        assert_eq!(
            Some(bill),
            held.get(key),
            "{key:?}: the oracle's is on the left"
        );
    }
    assert_eq!(
        told.len(),
        held.len(),
        "the ledger knows days that the oracle does not"
    );
}

#[test]
fn a_month_of_a_clusters_jobs_costs_what_the_oracle_says() {
    let zone = TimeZone::get("America/Los_Angeles").unwrap();
    let job = |row: csv::StringRecord| {
        let submitted: DateTime = row[0].parse().unwrap();
        let bound = submitted
            .to_zoned(zone.clone())
            .unwrap()
            .timestamp()
            .as_second();
        let (units, seconds): (i128, i64) = (row[1].parse().unwrap(), row[2].parse().unwrap());
        let stay = Stay {
            bound,
            end: bound + seconds,
            ready: Some(bound + seconds.min(MINUTE)),
            leaving: None,
            lost: None,
            units,
            share: (1, 1),
            prices: prices(bound, bound + seconds, units),
            idle: BTreeMap::new(),
        };
        (row[3].to_owned(), stay)
    };
    let stays: Vec<(String, Stay)> = rows(JOBS).into_iter().map(job).collect();
    assert_eq!(stays.len(), 47_192);
    let (told, held) = count(&stays, &zone);
    assert_same(&told, &held);
}

#[test]
fn a_day_of_services_that_come_and_go_costs_what_the_oracle_says() {
    let zone = TimeZone::get("Asia/Kolkata").unwrap();
    let midnight = date(2026, 11, 30)
        .to_zoned(TimeZone::UTC)
        .unwrap()
        .timestamp()
        .as_second();
    let mut minutes: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for row in rows(CALLS) {
        minutes
            .entry(row[0].to_owned())
            .or_default()
            .push(row[1].parse().unwrap());
    }
    assert_eq!(minutes.len(), 869);
    let mut stays = Vec::new();
    for (service, mut minutes) in minutes {
        minutes.sort_unstable();
        // a replica leaves after ten minutes without a call
        for busy in minutes.chunk_by(|one, next| next - one <= 10) {
            stays.push((service.clone(), replica(midnight, busy, &zone)));
        }
    }
    let (told, held) = count(&stays, &zone);
    assert_same(&told, &held);
    assert!(
        told.values()
            .any(|bill| bill.idle > 0 && bill.starting > 0 && bill.draining > 0)
    );
}

/// A replica that serves these minutes, and waits in between and for ten minutes after.
fn replica(midnight: i64, busy: &[i64], zone: &TimeZone) -> Stay {
    let (first, last) = (busy[0], busy[busy.len() - 1]);
    let bound = midnight + first * MINUTE;
    let end = midnight + (last + 11) * MINUTE + 30;
    let mut idle: BTreeMap<Date, i64> = BTreeMap::new();
    for minute in (first..last + 11).filter(|minute| busy.binary_search(minute).is_err()) {
        let day = zone.to_datetime(time(midnight + minute * MINUTE)).date();
        *idle.entry(day).or_default() += MINUTE;
    }
    Stay {
        bound,
        end,
        ready: Some(bound + 45),
        leaving: Some(end - 30),
        lost: None,
        units: 1,
        share: (1, 1),
        prices: prices(bound, end, 1),
        idle,
    }
}
