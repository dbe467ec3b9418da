use jiff::civil::date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::charge::QUICK_CHANGES;
use super::*;
use crate::calendar::{Interval, Month};
use crate::money::{Cost, Money};
use crate::pricing::{
    CapacityType, DatedPriceList, GpuPrice, PriceCatalog, PriceList, PriceScope, PricingAttributes,
    ResourceAmounts, Share,
};

const START: i64 = 1_796_000_000;
const ZONES: [&str; 5] = [
    "UTC",
    "Europe/Berlin",
    "Asia/Kolkata",
    "America/St_Johns",
    "Australia/Lord_Howe",
];

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(START + seconds).unwrap()
}

fn span(from: i64, to: i64) -> Interval {
    Interval {
        start: at(from),
        end: at(to),
    }
}

fn compute(nanos: i128) -> Cost {
    Cost {
        compute: Money::from_nanos(nanos),
        ..Cost::ZERO
    }
}

fn attributes() -> PricingAttributes {
    PricingAttributes {
        resource: "nvidia.com/gpu".into(),
        gpus: 2,
        node_gpus: 8,
        model: Some("H100".into()),
        ..PricingAttributes::default()
    }
}

/// What is known while the node has no labels.
fn unlabelled() -> PricingAttributes {
    PricingAttributes {
        model: None,
        ..attributes()
    }
}

fn charge(nanos_per_hour: i128) -> Charge {
    charge_of("u1", attributes(), vec![rate(0, nanos_per_hour)])
}

fn charge_of(uid: &str, attributes: PricingAttributes, rates: Vec<RatePeriod>) -> Charge {
    let stored = StoredCharge::new(uid.into(), "chat-0".into(), attributes, at(0));
    Charge::restore(StoredCharge { rates, ..stored }).unwrap()
}

fn rate(from: i64, nanos_per_hour: i128) -> RatePeriod {
    RatePeriod {
        from: at(from),
        quote: compute(nanos_per_hour).into(),
        provisional: false,
    }
}

fn cores(count: u32) -> ResourceAmounts {
    ResourceAmounts {
        cpu_milli: count * 1000,
        ..ResourceAmounts::default()
    }
}

/// A list in which one H100 costs `nanos` an hour from `from` on, and a core as much. Of two lists
/// the one with the lower rank counts.
fn list(rank: usize, from: Option<i64>, nanos: i128) -> DatedPriceList {
    let gpu = GpuPrice {
        model: "H100".into(),
        resource: "nvidia.com/gpu".into(),
        nodes: PriceScope::default(),
        per_hour: Money::from_nanos(nanos),
        watts: None,
    };
    DatedPriceList {
        name: format!("{rank:04}"),
        effective_from: from.map(at),
        list: PriceList {
            currency: "USD".into(),
            gpus: vec![gpu],
            core_hour: Some(Money::from_nanos(nanos)),
            ..PriceList::default()
        },
    }
}

/// One price, and what it becomes at these instants; edited last at `known`.
fn lists_known(first: i128, later: &[(i64, i128)], known: Timestamp) -> PriceCatalog {
    let later = later
        .iter()
        .enumerate()
        .map(|(i, (from, nanos))| list(999 - i, Some(*from), *nanos));
    PriceCatalog::new(
        [list(1000, None, first)].into_iter().chain(later).collect(),
        known,
    )
}

fn lists(first: i128, later: &[(i64, i128)]) -> PriceCatalog {
    lists_known(first, later, Timestamp::MIN)
}

fn exact(seconds: i64) -> ChargeEnd {
    ChargeEnd {
        at: at(seconds),
        estimated: false,
    }
}

fn accounts(charge: &Charge, end: ChargeEnd, zone: &TimeZone) -> Vec<Account> {
    let stay = Interval {
        start: charge.start(),
        end: end.at,
    };
    let settle = |month| {
        let mut account = Account::new(month);
        account.settle(charge, end, zone);
        account
    };
    stay.months(zone).map(settle).collect()
}

fn whole(account: &Account) -> DailyCost {
    account
        .days()
        .values()
        .flatten()
        .map(|(_, line)| *line)
        .sum()
}

fn total(accounts: &[Account]) -> Money {
    accounts
        .iter()
        .map(|account| whole(account).cost.total())
        .sum()
}

#[test]
fn the_amount_is_floored_since_the_start_of_the_rate() {
    // 1000 nano-units an hour: 277 after 1000 s, and the part after it has what the floor left
    let charge = charge(1000);
    assert_eq!(charge.cost(span(0, 1000)).total().nanos(), 277);
    assert_eq!(charge.cost(span(1000, 2000)).total().nanos(), 278);
}

#[test]
fn a_listed_change_counts_from_its_instant_also_when_nobody_looked_then() {
    let lists = lists(3600, &[(100, 7200), (200, 1800)]);
    let mut watched = Charge::new("u".into(), "p".into(), attributes(), at(0));
    for second in 0..300 {
        watched.reprice(&lists, at(second));
    }
    let mut slept = Charge::new("u".into(), "p".into(), attributes(), at(0));
    slept.reprice(&lists, at(299));
    assert_eq!(watched, slept);
    // two GPUs: 2, 4 and 1 nano-units a second
    assert_eq!(slept.cost(span(0, 300)).total().nanos(), 200 + 400 + 100);
}

#[test]
fn an_edit_counts_from_when_it_was_made_and_before_it_the_old_price_goes_on() {
    let mut charge = Charge::new("u".into(), "p".into(), attributes(), at(0));
    charge.reprice(&lists(3600, &[]), at(10));
    // while nobody looks, a list that changes at 50 is edited at 80
    let edited = lists_known(7200, &[(50, 1800)], at(80));
    charge.reprice(&edited, at(100));
    let from: Vec<i64> = charge
        .rates()
        .iter()
        .map(|rate| rate.from.as_second() - START)
        .collect();
    assert_eq!(from, [0, 80]);
}

#[test]
fn two_edits_within_one_second_both_count_from_it() {
    let mut charge = Charge::new("u".into(), "p".into(), attributes(), at(0));
    charge.reprice(&lists(3600, &[]), at(10));
    charge.reprice(&lists_known(7200, &[], at(20)), at(21));
    assert!(charge.reprice(&lists_known(1800, &[], at(20)), at(30)));
    let from: Vec<_> = (charge.rates().iter())
        .map(|rate| (rate.from, rate.quote.cost.compute.nanos()))
        .collect();
    assert_eq!(from, [(at(0), 2 * 3600), (at(20), 2 * 1800)]);
    assert!(!charge.reprice(&lists_known(1800, &[], at(20)), at(40)));
}

#[test]
fn a_clock_that_steps_back_or_lags_behind_the_server_changes_no_rate() {
    let changed = lists(3600, &[(50, 7200)]);
    let mut steady = Charge::new("u".into(), "p".into(), attributes(), at(0));
    steady.reprice(&changed, at(52));
    let mut stepped = steady.clone();
    assert!(!stepped.reprice(&changed, at(48)), "50 has passed already");
    // an edit of 80, read when this clock shows 78
    let edited = lists_known(1800, &[], at(80));
    stepped.reprice(&edited, at(78));
    steady.reprice(&edited, at(81));
    assert_eq!(stepped, steady);
    assert_eq!(stepped.rates()[2].from, at(80));
}

#[test]
fn days_without_a_price_wait_for_one() {
    let zone = TimeZone::UTC;
    let mut account = Account::new(Month::containing(at(0), &zone));
    account.open(Charge::new("u".into(), "p".into(), attributes(), at(0)));
    let midnight = account.month().bounds(&zone).end;
    assert!(!account.post_days_until("u", midnight, &zone));
    let charge = account.open_charge_mut("u").unwrap();
    charge.reprice(&lists(3600, &[]), midnight);
    let seconds = i128::from(midnight.as_second() - START);
    assert!(account.post_days_until("u", midnight, &zone));
    assert_eq!(whole(&account).cost.total().nanos(), 2 * seconds);
}

#[test]
fn a_first_price_counts_from_the_start_and_none_is_never_zero() {
    let mut charge = Charge::new("u".into(), "p".into(), attributes(), at(0));
    charge.reprice(&PriceCatalog::default(), at(50));
    assert_eq!(charge.rate(), None);
    let line = |charge: &Charge| whole(&accounts(charge, exact(60), &TimeZone::UTC)[0]);
    assert_eq!(line(&charge).unpriced_gpu_seconds, 120);
    charge.reprice(&lists(3600, &[]), at(100));
    assert_eq!(
        (
            line(&charge).cost.total().nanos(),
            line(&charge).unpriced_gpu_seconds
        ),
        (120, 0)
    );
    charge.reprice(&PriceCatalog::default(), at(200));
    assert!(charge.rate().is_some(), "the last known rate goes on");
}

#[test]
fn labels_that_come_late_count_from_the_start_unless_the_price_was_exact() {
    let lists = lists(3600, &[]);
    let mut charge = Charge::new("u".into(), "p".into(), unlabelled(), at(0));
    charge.reprice(&lists, at(0));
    assert!(charge.rates()[0].provisional);
    assert!(charge.update_attributes(&attributes(), &lists, at(90)));
    assert_eq!(
        (
            charge.rates().len(),
            charge.rates()[0].from,
            charge.rates()[0].provisional
        ),
        (1, at(0), false)
    );
    assert!(
        !charge.update_attributes(&unlabelled(), &lists, at(95)),
        "a node that loses its labels changes nothing"
    );
}

#[test]
fn labels_that_go_for_a_while_take_nothing_away_of_what_they_have_said() {
    let lists = lists(3600, &[]);
    let shared = PricingAttributes {
        share: Share::WHOLE.divided_by(4),
        capacity_type: Some(CapacityType::Spot),
        ..attributes()
    };
    for less in [
        PricingAttributes {
            share: Share::WHOLE,
            ..shared.clone()
        },
        PricingAttributes {
            capacity_type: None,
            ..shared.clone()
        },
    ] {
        let mut charge = Charge::new("u".into(), "p".into(), shared.clone(), at(0));
        charge.reprice(&lists, at(0));
        assert!(!charge.update_attributes(&less, &lists, at(600)));
        assert_eq!(charge.attributes(), &shared);
        // what is said anew is taken
        let mut charge = Charge::new("u".into(), "p".into(), less, at(0));
        charge.reprice(&lists, at(0));
        assert!(charge.update_attributes(&shared, &lists, at(600)));
        assert!(!charge.update_attributes(&attributes(), &lists, at(1_000)));
    }
}

#[test]
fn amounts_that_change_cost_from_then_on_and_what_was_before_stays() {
    let lists = lists(3600, &[]);
    let mut charge = Charge::new("u".into(), "p".into(), attributes(), at(0));
    charge.reprice(&lists, at(0));
    assert!(charge.resize(&cores(4), &lists, at(100)));
    assert!(!charge.resize(&cores(4), &lists, at(150)));
    assert!(charge.resize(&cores(1), &lists, at(200)));
    charge.reprice(&lists, at(300));
    // two GPUs: 2, 6 and 3 nano-units a second
    assert_eq!(charge.cost(span(0, 300)).total().nanos(), 200 + 600 + 300);
}

#[test]
fn amounts_that_change_all_the_time_count_from_time_to_time() {
    let lists = lists(3600, &[]);
    let mut charge = Charge::new("u".into(), "p".into(), attributes(), at(0));
    charge.reprice(&lists, at(0));
    for second in 1..=3_600_u32 {
        charge.resize(&cores(1 + second % 7), &lists, at(second.into()));
    }
    let changes = charge.previous_amounts();
    let quick = changes.iter().take(QUICK_CHANGES);
    assert!(quick.map(|change| change.until).eq((1..=32).map(at)));
    let slow: Vec<_> = changes
        .iter()
        .skip(QUICK_CHANGES)
        .map(|change| change.until)
        .collect();
    assert_eq!(slow, [at(32 + 900), at(32 + 1800), at(32 + 2700)]);
}

#[test]
fn amounts_that_change_rewrite_no_price_that_passed_before_them() {
    // while the pod has no core, a core is dear for a while, and a GPU never
    let dear = |from, nanos| {
        let mut list = list(999, Some(from), 3600);
        list.list.core_hour = Some(Money::from_nanos(nanos));
        list
    };
    let mut lists = vec![list(1000, None, 3600), dear(50, 7200)];
    lists.push(DatedPriceList {
        name: "0998".into(),
        ..dear(60, 3600)
    });
    let lists = PriceCatalog::new(lists, Timestamp::MIN);
    let mut charge = Charge::new("u".into(), "p".into(), attributes(), at(0));
    charge.reprice(&lists, at(90));
    charge.resize(&cores(1), &lists, at(100));
    charge.resize(&cores(0), &lists, at(200));
    charge.reprice(&lists, at(300));
    let from: Vec<i64> = charge
        .rates()
        .iter()
        .map(|rate| rate.from.as_second() - START)
        .collect();
    assert_eq!(from, [0, 100, 200]);
}

#[test]
fn amounts_count_from_their_change_when_labels_come_by_a_clock_that_lags() {
    let before = lists(3600, &[]);
    let mut charge = Charge::new("u".into(), "p".into(), unlabelled(), at(0));
    // a price without labels does not depend on the cores, so this begins no rate
    charge.resize(&cores(4), &before, at(13));
    // another controller's clock is a second behind
    charge.update_attributes(&attributes(), &before, at(12));
    // nobody looks again until the list is edited: the edit says nothing of the time before
    charge.reprice(&lists_known(7200, &[], at(46)), at(50));
    // two GPUs, and four cores from 13 on: 2, then 6, and after the edit 12 nano-units a second
    let cost = |from, to| charge.cost(span(from, to)).total().nanos();
    assert_eq!(
        [cost(0, 13), cost(13, 46), cost(46, 50)],
        [2 * 13, 6 * 33, 12 * 4]
    );
}

#[test]
fn labels_that_come_by_a_clock_that_lags_take_no_price_back() {
    let before = lists(3600, &[(20, 7200)]);
    let edited = lists_known(1800, &[], at(46));
    let mut charge = Charge::new("u".into(), "p".into(), unlabelled(), at(0));
    charge.reprice(&before, at(21));
    // another controller's clock is two seconds behind, and nobody looks again until the edit
    charge.update_attributes(&attributes(), &before, at(19));
    charge.resize(&cores(1), &before, at(19));
    charge.reprice(&edited, at(50));
    // two GPUs, and a core from 20 on: a change that is noted later does not count earlier
    let cost = |from, to| charge.cost(span(from, to)).total().nanos();
    assert_eq!([cost(0, 20), cost(20, 46)], [2 * 20, 6 * 26]);
}

#[test]
fn a_rate_that_goes_on_over_the_end_of_a_month_is_rounded_from_its_start() {
    let zone = TimeZone::UTC;
    let lists = lists(1000, &[]);
    let month = Month::containing(at(0), &zone).next();
    let midnight = month.bounds(&zone).start.as_second() - START;
    let mut whole = Charge::new("u".into(), "p".into(), attributes(), at(midnight - 7));
    whole.reprice(&lists, at(midnight - 7));
    whole.resize(&cores(1), &lists, at(midnight - 1));
    let mut account = Account::new(month);
    account.carry_forward(&whole, &zone);
    // another controller's clock is two seconds behind: it replaces the last rate, by the first
    let carried = account.open_charge_mut("u").unwrap();
    for charge in [&mut whole, carried] {
        charge.resize(&cores(0), &lists, at(midnight - 2));
        assert_eq!(charge.rates().len(), 1);
    }
    let part = span(midnight, midnight + 2);
    // 2000 an hour, from seven seconds before: 5 - 3; from one second before it would be 1 - 0
    let cost = [carried.cost(part), whole.cost(part)];
    assert_eq!(cost, [compute(2), compute(2)]);
}

#[test]
fn amounts_before_what_is_booked_are_forgotten() {
    let zone = TimeZone::UTC;
    let lists = lists(3600, &[]);
    let mut account = Account::new(Month::containing(at(0), &zone));
    let day = 86_400;
    let midnight = account.month().first().to_zoned(zone.clone()).unwrap();
    let midnight = midnight.timestamp().as_second() - START;
    let mut charge = Charge::new("u".into(), "p".into(), attributes(), at(midnight));
    for hour in 0..48 {
        charge.resize(
            &cores(hour % 3),
            &lists,
            at(midnight + i64::from(hour) * 3600),
        );
    }
    account.open(charge);
    account.post_days_until("u", at(midnight + day), &zone);
    let open = &account.open_charges()["u"];
    assert_eq!(
        (open.previous_amounts().len(), open.rates().len()),
        (24, 25),
        "what began at midnight may yet be replaced, and then needs what was before"
    );
    assert_eq!(open.previous_amounts()[0].until, at(midnight + day));
}

#[test]
fn stages_are_told_apart_and_never_exceed_the_whole() {
    let zone = TimeZone::UTC;
    let mut charge = charge(3_600_000);
    charge.note_ready(at(100));
    charge.note_draining(Some(at(900)));
    let day = zone.to_datetime(at(0)).date();
    charge.add_usage(
        day,
        Some(EngineCounters {
            requests: 5,
            input_tokens: 50,
            output_tokens: 500,
        }),
        200,
    );
    charge.add_usage(
        day,
        Some(EngineCounters {
            requests: 2,
            input_tokens: 20,
            output_tokens: 200,
        }),
        0,
    );
    let line = whole(&accounts(&charge, exact(1000), &zone)[0]);
    let nanos = |money: Money| money.nanos();
    assert_eq!(
        (
            nanos(line.starting),
            nanos(line.idle),
            nanos(line.draining),
            nanos(line.cost.total())
        ),
        (100_000, 200_000, 100_000, 1_000_000)
    );
    assert_eq!(
        line.usage.requests, 7,
        "a counter that fell began again at zero"
    );
}

#[test]
fn time_on_a_lost_node_is_nobodys_until_it_is_known() {
    let mut charge = charge(3_600_000);
    charge.note_node_lost(at(400));
    let line = whole(
        &accounts(
            &charge,
            ChargeEnd {
                at: at(1000),
                estimated: true,
            },
            &TimeZone::UTC,
        )[0],
    );
    assert_eq!(
        (line.cost.total().nanos(), line.unattributed.nanos()),
        (400_000, 600_000)
    );
}

#[test]
fn a_node_that_tells_the_end_was_not_lost() {
    let mut charge = charge(3_600_000);
    charge.note_node_lost(at(400));
    let line = whole(&accounts(&charge, exact(1000), &TimeZone::UTC)[0]);
    assert_eq!(
        (line.cost.total().nanos(), line.unattributed.nanos()),
        (1_000_000, 0)
    );
}

#[test]
fn a_pod_is_settled_once_and_not_opened_again() {
    let zone = TimeZone::UTC;
    let charge = charge(3600);
    let mut account = Account::new(Month::containing(at(0), &zone));
    assert!(account.open(charge.clone()));
    assert!(!account.open(charge.clone()));
    assert!(account.settle(&charge, exact(60), &zone));
    assert!(!account.settle(&charge, exact(90), &zone));
    assert!(!account.open(charge.clone()));
    assert_eq!(whole(&account).cost.total().nanos(), 60);
    assert!(account.forget_settled("u1") && !account.forget_settled("u1"));
}

#[test]
fn a_stored_account_that_no_ledger_can_have_written_is_refused() {
    let month = Month::containing(at(0), &TimeZone::UTC);
    let stored = || StoredAccount::new(month);
    let open = |uid: &str| Charge::new(uid.into(), "p".into(), attributes(), at(0));
    let uid = || "u".to_owned();
    let twice = StoredAccount {
        open: vec![open("u"), open("u")],
        ..stored()
    };
    let both = StoredAccount {
        open: vec![open("u")],
        settling: [uid()].into(),
        ..stored()
    };
    let date = month.next().first();
    let outside = StoredAccount {
        days: [(date, Vec::new())].into(),
        ..stored()
    };
    for (stored, error) in [
        (twice, InvalidAccount::OpenTwice { uid: uid() }),
        (both, InvalidAccount::SettledAndOpen { uid: uid() }),
        (outside, InvalidAccount::DayOutsideMonth { date, month }),
    ] {
        assert_eq!(Account::restore(stored), Err(error));
    }
    let sound = StoredAccount {
        open: vec![open("u"), open("v")],
        settling: ["w".to_owned()].into(),
        ..stored()
    };
    let mut sound = Account::restore(sound).unwrap();
    assert!(!sound.open(open("w")), "it is settled");
}

#[test]
fn a_stored_charge_that_no_ledger_can_have_written_is_refused() {
    let stored = || StoredCharge::new("u".into(), "p".into(), attributes(), at(100));
    let uid = || "u".to_owned();
    let amounts = |until| PreviousAmounts {
        until: at(until),
        amounts: cores(1),
    };
    let rates = StoredCharge {
        rates: vec![rate(200, 1), rate(150, 2)],
        ..stored()
    };
    let previous = StoredCharge {
        previous_amounts: vec![amounts(200), amounts(150)],
        ..stored()
    };
    let posted = StoredCharge {
        posted_until: Some(at(99)),
        ..stored()
    };
    for (stored, error) in [
        (rates, InvalidAccount::RatesOutOfOrder { uid: uid() }),
        (previous, InvalidAccount::AmountsOutOfOrder { uid: uid() }),
        (posted, InvalidAccount::PostedBeforeStart { uid: uid() }),
    ] {
        assert_eq!(Charge::restore(stored), Err(error));
    }
    // stored times have no fractions of a second
    let sound = StoredCharge {
        rates: vec![rate(100, 1), rate(100, 2)],
        previous_amounts: vec![amounts(150), amounts(150)],
        posted_until: Some(at(100)),
        ..stored()
    };
    assert!(Charge::restore(sound).is_ok());
}

#[test]
fn what_a_pod_and_its_node_were_first_stays_where_it_must() {
    let mut charge = charge(3600);
    charge.note_ready(at(10));
    charge.note_ready(at(20));
    assert_eq!(charge.ready_since(), Some(at(10)), "the first time counts");
    charge.note_draining(Some(at(30)));
    charge.note_draining(None);
    assert_eq!(charge.draining_since(), None, "the drain was called off");
    charge.note_node_lost(at(40));
    charge.note_node_gone(at(50));
    assert_eq!(charge.node_lost_since(), Some(at(40)));
    charge.note_node_back();
    charge.note_node_gone(at(60));
    assert_eq!(charge.node_lost_since(), Some(at(60)));
}

#[test]
fn a_period_at_zero_replicas_is_not_replaced_while_it_lasts() {
    let zone = TimeZone::UTC;
    let period = |end| ZeroReplicaPeriod::after_last_replica(&charge(3600), exact(end)).unwrap();
    let mut account = Account::new(Month::containing(at(0), &zone));
    assert!(account.begin_zero_replica_period(period(0)));
    assert!(!account.begin_zero_replica_period(period(50)));
    assert_eq!(account.zero_replica_period().unwrap().since, at(0));
    assert!(account.end_zero_replica_period(at(100), &zone));
    assert!(account.begin_zero_replica_period(period(200)));
}

#[test]
fn accounts_that_differ_in_usage_alone_are_told_from_others() {
    let zone = TimeZone::UTC;
    let mut before = Account::new(Month::containing(at(0), &zone));
    before.open(charge(3600));
    let change = |change: &dyn Fn(&mut Charge)| {
        let mut account = before.clone();
        change(account.open_charge_mut("u1").unwrap());
        account
    };
    let used = change(&|charge| charge.add_usage(zone.to_datetime(at(0)).date(), None, 5));
    assert!(used != before && used.equals_but_for_usage(&before));
    let ready = change(&|charge| charge.note_ready(at(5)));
    assert!(!ready.equals_but_for_usage(&before));
    let mut settled = used;
    settled.settle(&charge(3600), exact(60), &zone);
    assert!(!settled.equals_but_for_usage(&before));
}

#[test]
fn an_account_tells_so_many_kinds_of_hardware_apart_and_loses_none() {
    let zone = TimeZone::UTC;
    let mut account = Account::new(Month::containing(at(0), &zone));
    for number in 0..200 {
        let attributes = PricingAttributes {
            model: Some(format!("model-{}", number % 100)),
            ..attributes()
        };
        let charge = charge_of(&format!("u{number}"), attributes, vec![rate(0, 3600)]);
        account.settle(&charge, exact(60), &zone);
    }
    let lines: usize = account.days().values().map(Vec::len).sum();
    assert_eq!(
        (lines, whole(&account).cost.total().nanos()),
        (65, 200 * 60)
    );
}

#[test]
fn days_of_a_long_stay_are_booked_and_its_rates_forgotten() {
    let zone = TimeZone::UTC;
    let time = |text: &str| text.parse::<Timestamp>().unwrap();
    let start = time("2026-11-02T12:00:00Z");
    let rate = |day: i8| RatePeriod {
        from: date(2026, 11, day)
            .at(12, 0, 0, 0)
            .to_zoned(TimeZone::UTC)
            .unwrap()
            .timestamp(),
        quote: compute(i128::from(day)).into(),
        provisional: false,
    };
    let stored = StoredCharge::new("u1".into(), "p".into(), attributes(), start);
    let rates = (2..12).map(rate).collect();
    let long = Charge::restore(StoredCharge { rates, ..stored }).unwrap();
    let mut account = Account::new(Month::containing(long.start(), &zone));
    account.open(long);
    let until = time("2026-11-11T00:00:00Z");
    assert!(
        account.post_days_until("u1", until, &zone) && !account.post_days_until("u1", until, &zone)
    );
    let open = &account.open_charges()["u1"];
    assert_eq!(
        (open.rates(), open.posted_until()),
        (&[rate(10), rate(11)][..], Some(until))
    );
    assert_eq!(account.days().len(), 9);
    assert!(account.post_days_until("u1", time("2026-12-02T00:00:00Z"), &zone));
    assert_eq!(
        (account.open_charges().len(), account.days().len()),
        (0, 29),
        "December is not this account's"
    );
}

proptest! {
    #[test]
    fn money_is_conserved_over_days_and_months(
        prices in prop::collection::vec((1i64..4_000_000, 0i128..10i128.pow(14)), 1..5),
        length in 0i64..12_000_000,
        zone in prop::sample::select(ZONES.to_vec()),
    ) {
        let zone = TimeZone::get(zone).unwrap();
        let mut now = 0;
        let later: Vec<(i64, i128)> = prices.iter().map(|(later, nanos)| { now += later; (now, *nanos) }).collect();
        let mut charge = Charge::new("u1".into(), "p".into(), attributes(), at(0));
        charge.reprice(&lists(prices[0].1, &later), at(now));
        let sum = charge.cost(span(0, length)).total();
        prop_assert_eq!(total(&accounts(&charge, exact(length), &zone)), sum);
    }

    #[test]
    fn labels_that_come_late_price_the_amounts_of_each_time_as_if_they_had_been_there(
        prices in prop::collection::vec((1i64..1000, 0i128..10i128.pow(12)), 1..5),
        sizes in prop::collection::vec((0i64..1000, 0u32..4), 0..6),
        first in 0i64..2000,
        late in 0i64..6000,
    ) {
        let mut now = 0;
        let later: Vec<(i64, i128)> = prices.iter().map(|(later, nanos)| { now += later; (now, *nanos) }).collect();
        let lists = lists(prices[0].1, &later);
        let mut labelled = Charge::new("u".into(), "p".into(), attributes(), at(0));
        let mut slow = Charge::new("u".into(), "p".into(), unlabelled(), at(0));
        let mut now = 0;
        let mut told = false;
        for (later, count) in sizes {
            now += later;
            labelled.resize(&cores(count), &lists, at(now));
            // nobody looks at its price before `first`
            let known = if now < first { &PriceCatalog::default() } else { &lists };
            slow.resize(&cores(count), known, at(now));
            if now >= late && !told {
                told = slow.update_attributes(&attributes(), &lists, at(now));
            }
        }
        let end = at(now.max(late).max(first) + 1);
        slow.reprice(&lists, end);
        slow.update_attributes(&attributes(), &lists, end);
        labelled.reprice(&lists, end);
        prop_assert_eq!(slow, labelled);
    }

    #[test]
    fn what_is_open_sums_to_what_will_be_settled(nanos in 0i128..10i128.pow(14), length in 1i64..6_000_000) {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let charge = charge(nanos);
        for account in accounts(&charge, exact(length), &zone) {
            let mut open = Account::new(account.month());
            open.open(charge.clone());
            let month = account.month().bounds(&zone);
            prop_assert_eq!(open.sum(month, at(length), &zone), account.sum(month, at(length), &zone));
            let lines: DailyCost = open.daily_costs(at(length), &zone).into_values().sum();
            prop_assert_eq!(lines, whole(&account));
        }
    }

    #[test]
    fn booking_days_early_changes_no_sum(
        nanos in 0i128..10i128.pow(14),
        length in 1i64..6_000_000,
        changes in prop::collection::vec((1i64..2_000_000, 0i128..10i128.pow(14)), 0..4),
        stops in prop::collection::vec(0i64..80, 0..12),
        zone in prop::sample::select(ZONES.to_vec()),
    ) {
        let zone = TimeZone::get(zone).unwrap();
        let mut rates = vec![rate(0, nanos)];
        let mut from = 0;
        for (later, nanos) in changes {
            from += later;
            rates.push(rate(from, nanos));
        }
        let mut charge = charge_of("u1", attributes(), rates);
        let day = zone.to_datetime(at(0)).date();
        charge.add_usage(day, Some(EngineCounters { requests: 3, ..EngineCounters::default() }), 5);
        for settled in accounts(&charge, exact(length), &zone) {
            let mut booked = Account::new(settled.month());
            booked.open(charge.clone());
            for stop in &stops {
                let date = day.saturating_add(jiff::Span::new().days(*stop));
                let midnight = date.to_zoned(zone.clone()).unwrap().timestamp();
                if midnight <= at(length) {
                    booked.post_days_until("u1", midnight, &zone);
                }
            }
            // a month that is booked to its end has nothing left to settle
            if let Some(open) = booked.open_charge("u1").cloned() {
                booked.settle(&open, exact(length), &zone);
            }
            prop_assert_eq!(whole(&booked), whole(&settled));
        }
    }
}

proptest! {
    #[test]
    fn a_rest_saves_the_last_rate_and_its_days_and_months_sum_to_the_whole(
        nanos in 0i128..10_000_000_000,
        length in 0i64..100 * 86_400,
        zone in prop::sample::select(ZONES.to_vec()),
    ) {
        let zone = TimeZone::get(zone).unwrap();
        let (began, woken) = (at(0), at(length));
        let rest = ZeroReplicaPeriod::after_last_replica(&charge(nanos), exact(0)).unwrap();
        let expected = nanos * i128::from(length) / 3600;
        let (mut running, mut over) = (Money::ZERO, Money::ZERO);
        for month in span(0, length.max(1)).months(&zone) {
            let mut account = Account::new(month);
            assert!(account.begin_zero_replica_period(rest.clone()));
            let bounds = month.bounds(&zone);
            let sum = account.sum(bounds, woken, &zone).saved;
            let lines: Money = account.daily_costs(woken, &zone).values().map(|line| line.saved).sum();
            prop_assert_eq!(sum, lines);
            running += sum;
            prop_assert!(account.end_zero_replica_period(woken, &zone));
            prop_assert!(!account.end_zero_replica_period(at(length + 5), &zone), "it is over");
            over += account.sum(bounds, at(length + 86_400), &zone).saved;
        }
        prop_assert_eq!(running.nanos(), expected);
        prop_assert_eq!(over.nanos(), expected);
        prop_assert_eq!(rest.saved(rest.interval_until(began - SignedDuration::from_secs(9))), Money::ZERO);
    }
}

#[test]
fn a_day_of_use_is_kept_on_its_day() {
    let mut charge = charge(0);
    charge.add_usage(
        date(2026, 11, 29),
        Some(EngineCounters {
            requests: 4,
            ..EngineCounters::default()
        }),
        0,
    );
    charge.add_usage(
        date(2026, 11, 30),
        Some(EngineCounters {
            requests: 9,
            ..EngineCounters::default()
        }),
        7,
    );
    let of = |day| charge.usage()[&day];
    assert_eq!(
        (
            of(date(2026, 11, 29)).requests,
            of(date(2026, 11, 30)).requests
        ),
        (4, 5)
    );
    assert_eq!(of(date(2026, 11, 30)).idle_seconds, 7);
}
