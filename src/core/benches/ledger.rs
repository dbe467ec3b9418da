//! How fast the ledger settles and sums: a million charges, by namespace and day.
//!
//! `cargo bench -p bursar-core` prints the figures of this machine. Plain timing is enough: the promise is a bound on a whole run, not
//! a difference of nanoseconds.

// a benchmark fails by ending, and needs the clock
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bursar_core::calendar::Month;
use bursar_core::ledger::{Account, Charge, ChargeEnd, DailyCost, RatePeriod, StoredCharge};
use bursar_core::money::{Cost, Money};
use bursar_core::pricing::{HourlyRate, PricingAttributes};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

const NAMESPACES: usize = 20;
const WORKLOADS: usize = 50;
const CHARGES: usize = 1_000;
const HOUR: i64 = 3600;
/// Runs of which the fastest counts: a shared machine slows some of them down.
const RUNS: usize = 5;

fn main() {
    let zone = TimeZone::get("Europe/Berlin").unwrap();
    let start: Timestamp = "2026-11-01T00:00:00Z".parse().unwrap();
    let month = Month::containing(start, &zone);
    let charges: Vec<(Charge, ChargeEnd)> = (0..CHARGES)
        .map(|number| charge(number, start.as_second()))
        .collect();
    let settled = fastest(|| {
        let mut sums: BTreeMap<(usize, Date), DailyCost> = BTreeMap::new();
        for namespace in 0..NAMESPACES {
            for _ in 0..WORKLOADS {
                let mut account = Account::new(month);
                for (charge, end) in &charges {
                    account.settle(charge, *end, &zone);
                }
                for (day, lines) in account.days() {
                    let sum = sums.entry((namespace, *day)).or_default();
                    lines.iter().for_each(|(_, line)| *sum += *line);
                }
            }
        }
        let total: Money = sums.values().map(|line| line.cost.total()).sum();
        assert!(total > Money::ZERO && sums.len() >= NAMESPACES * 29);
    });
    let number = NAMESPACES * WORKLOADS * CHARGES;
    println!(
        "{number} charges settled and summed by namespace and day: {settled:.2?} (bound: 1 s)"
    );

    let mut account = Account::new(month);
    for (charge, end) in &charges {
        account.settle(charge, *end, &zone);
    }
    let namespace = vec![account; 1_000];
    let (within, now) = (month.bounds(&zone), month.bounds(&zone).end);
    let summed = fastest(|| {
        let sum: DailyCost = namespace
            .iter()
            .map(|account| account.sum(within, now, &zone))
            .sum();
        assert!(sum.cost.total() > Money::ZERO);
    });
    println!(
        "a month of {} workloads summed: {summed:.2?} (bound: 1 ms)",
        namespace.len()
    );
}

fn fastest(run: impl Fn()) -> Duration {
    let timed = || {
        let begun = Instant::now();
        run();
        begun.elapsed()
    };
    (0..RUNS).map(|_| timed()).min().unwrap_or_default()
}

/// A replica that started, served and drained, for one to eight hours of the month.
fn charge(number: usize, month: i64) -> (Charge, ChargeEnd) {
    let number = i64::try_from(number).unwrap();
    let at = |seconds: i64| Timestamp::from_second(month + seconds).unwrap();
    let begin = number * 2_500 + number % 61;
    let end = begin + (1 + number % 8) * HOUR + number % 59;
    let facts = PricingAttributes {
        resource: "nvidia.com/gpu".into(),
        gpus: 1,
        node_gpus: 8,
        model: Some("NVIDIA-H100-80GB-HBM3".into()),
        instance_type: Some("p5.48xlarge".into()),
        region: Some("us-east-1".into()),
        ..PricingAttributes::default()
    };
    let cost = Cost {
        compute: Money::from_nanos(3_900_000_000 + i128::from(number)),
        storage: Money::from_nanos(20_000_000),
        power: Money::from_nanos(78_400_000),
        labour: Money::ZERO,
    };
    let uid = format!("{number:08x}-1f0a-4c1e-9c53-5d0d2f6f3a11");
    let rate = RatePeriod {
        from: at(begin),
        quote: HourlyRate {
            carbon_mg: 280_000,
            ..HourlyRate::from(cost)
        },
        provisional: false,
    };
    let charge = Charge::restore(StoredCharge {
        rates: vec![rate],
        ready_since: Some(at(begin + 90)),
        draining_since: Some(at(end - 30)),
        ..StoredCharge::new(uid, format!("chat-{number}"), facts, at(begin))
    })
    .unwrap();
    let end = ChargeEnd {
        at: at(end),
        estimated: false,
    };
    (charge, end)
}
