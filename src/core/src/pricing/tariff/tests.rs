use jiff::SignedDuration;
use jiff::civil::time;
use proptest::prelude::*;

use super::*;

fn money(text: &str) -> Money {
    text.parse().unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

const ALL_DAYS: [Weekday; 7] = [
    Weekday::Monday,
    Weekday::Tuesday,
    Weekday::Wednesday,
    Weekday::Thursday,
    Weekday::Friday,
    Weekday::Saturday,
    Weekday::Sunday,
];

fn period(days: &[Weekday], from: Time, to: Time, price: &str) -> TariffPeriod {
    TariffPeriod {
        days: days.to_vec(),
        from,
        to,
        per_kwh: money(price),
    }
}

fn tariff(zone: &str, periods: Vec<TariffPeriod>) -> Tariff {
    Tariff::new(money("0.1"), TimeZone::get(zone).unwrap(), periods).unwrap()
}

fn changes(tariff: Tariff, from: &str, to: &str) -> Vec<String> {
    let changes = tariff
        .changes(at(from))
        .take_while(|change| *change <= at(to));
    changes.map(|change| change.to_string()).collect()
}

#[test]
fn a_tariff_follows_the_clock_on_the_wall_through_daylight_saving_time() {
    let day = || {
        tariff(
            "Europe/Berlin",
            vec![period(
                &ALL_DAYS,
                time(7, 0, 0, 0),
                time(22, 0, 0, 0),
                "0.3",
            )],
        )
    };
    // the clocks go back on 25 October: 7 o'clock is an hour later in UTC
    assert_eq!(
        changes(day(), "2026-10-24T00:00:00Z", "2026-10-25T21:00:00Z"),
        [
            "2026-10-24T05:00:00Z",
            "2026-10-24T20:00:00Z",
            "2026-10-25T06:00:00Z",
            "2026-10-25T21:00:00Z"
        ]
    );
    // half past two comes twice, and the hour in which it does is charged by the clock both times
    let night = tariff(
        "Europe/Berlin",
        vec![period(
            &ALL_DAYS,
            time(2, 30, 0, 0),
            time(5, 0, 0, 0),
            "0.05",
        )],
    );
    assert_eq!(
        changes(
            night.clone(),
            "2026-10-24T22:00:00Z",
            "2026-10-25T10:00:00Z"
        ),
        [
            "2026-10-25T00:30:00Z",
            "2026-10-25T01:00:00Z",
            "2026-10-25T01:30:00Z",
            "2026-10-25T04:00:00Z"
        ]
    );
    // in March it is skipped: the period begins as the clocks go forward
    assert_eq!(
        changes(night, "2026-03-28T23:00:00Z", "2026-03-29T10:00:00Z"),
        ["2026-03-29T01:00:00Z", "2026-03-29T03:00:00Z"]
    );
}

#[test]
fn half_hour_zones_and_nights_past_midnight() {
    let night = tariff(
        "Asia/Kolkata",
        vec![period(
            &[Weekday::Sunday],
            time(22, 0, 0, 0),
            time(6, 0, 0, 0),
            "0.02",
        )],
    );
    assert_eq!(
        changes(night, "2026-11-16T00:00:00Z", "2026-11-24T00:00:00Z"),
        [
            "2026-11-16T00:30:00Z",
            "2026-11-22T16:30:00Z",
            "2026-11-23T00:30:00Z"
        ]
    );
}

#[test]
fn periods_that_speak_of_the_same_hour_are_refused_by_their_numbers() {
    let weekday = period(&ALL_DAYS[..5], time(7, 0, 0, 0), time(22, 0, 0, 0), "0.3");
    let sunday_night = period(
        &[Weekday::Sunday],
        time(22, 0, 0, 0),
        time(7, 30, 0, 0),
        "0.1",
    );
    let new = |periods| Tariff::new(money("0.1"), TimeZone::UTC, periods);
    assert_eq!(
        new(vec![weekday.clone(), sunday_night.clone()]),
        Err(OverlappingPeriods(0, 1))
    );
    let sunday_night = TariffPeriod {
        to: time(7, 0, 0, 0),
        ..sunday_night
    };
    let saturday = period(
        &[Weekday::Saturday],
        time(7, 0, 0, 0),
        time(22, 0, 0, 0),
        "0.2",
    );
    assert!(new(vec![weekday.clone(), sunday_night, saturday]).is_ok());
    assert_eq!(
        new(vec![weekday.clone(), weekday]),
        Err(OverlappingPeriods(0, 1))
    );
}

/// Half of them at night, when clocks are changed.
fn hour() -> impl Strategy<Value = i8> {
    prop_oneof![0i8..4, 0i8..24]
}

proptest! {
    #[test]
    fn changes_are_those_that_a_look_at_every_minute_finds(
        zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "Asia/Kolkata", "America/St_Johns", "Australia/Lord_Howe", "Africa/Cairo"]),
        start in prop::sample::select(vec![
            "2026-03-27T00:00:00Z", "2026-10-23T00:00:00Z", "2026-03-07T00:00:00Z", "2026-04-03T00:00:00Z", "2026-04-23T00:00:00Z",
            "2026-11-01T00:00:00Z",
        ]),
        periods in prop::collection::vec((0u8..128, hour(), prop::sample::select(vec![0i8, 15, 30]), hour(), 1u8..4), 0..4),
    ) {
        let periods = periods.into_iter().map(|(days, from, minute, to, price)| {
            let days: Vec<Weekday> = (0..7).filter(|day| days >> day & 1 == 1).map(|day| ALL_DAYS[day]).collect();
            period(&days, time(from, minute, 0, 0), time(to, 0, 0, 0), &format!("0.{price}"))
        });
        let zone = TimeZone::get(zone).unwrap();
        let Ok(tariff) = Tariff::new(money("0.1"), zone, periods.collect()) else { return Ok(()) };
        let (from, until) = (at(start), at(start) + SignedDuration::from_hours(24 * 5));
        let minutes = (1..=5 * 24 * 60).map(|minute| from + SignedDuration::from_mins(minute));
        let price = |at: Timestamp| tariff.per_kwh(at);
        let expected: Vec<Timestamp> = minutes
            .filter(|at| price(*at) != price(*at - SignedDuration::from_mins(1)))
            .collect();
        let found: Vec<Timestamp> = tariff.changes(from).take_while(|at| *at <= until).collect();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn a_price_that_stays_the_same_has_no_change_to_look_for() {
    let all_day = period(&ALL_DAYS, Time::midnight(), Time::midnight(), "0.3");
    assert_eq!(
        tariff("UTC", vec![all_day])
            .changes(at("1970-01-01T00:00:00Z"))
            .next(),
        None
    );
    let base = period(&ALL_DAYS, time(7, 0, 0, 0), time(22, 0, 0, 0), "0.1");
    assert_eq!(
        tariff("UTC", vec![base])
            .changes(at("1970-01-01T00:00:00Z"))
            .next(),
        None
    );
    let end = Timestamp::MAX - SignedDuration::from_hours(1);
    let night = period(&ALL_DAYS, time(22, 0, 0, 0), time(6, 0, 0, 0), "0.3");
    assert!(tariff("UTC", vec![night]).changes(end).count() < 3);
}
