//! Random histories of pods, prices and controllers that die, lag behind and overtake one another: in the end the records hold what
//! the oracle says, to the nano-unit.

use std::collections::BTreeMap;
use std::ops::Range;
use std::{panic, thread};

use bursar_core::calendar::Month;
use bursar_core::ledger::DailyCost;
use fastrand::Rng;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::bill::{Bill, Stay, bill};
use crate::faults::{Flaw, Tally, WRITES};
use crate::protocol::World;
use crate::rates::{List, Price, timeline};
use crate::world::{Ending, Ink, Pod};

/// Zones, and instants near which something happens in them: ends of months, days of 23, 24.5 and 25 hours, leap days, and a midnight
/// that does not exist.
const PLACES: [(&str, &[&str]); 6] = [
    ("UTC", &["2026-11-30T23:59:00Z", "2028-02-29T00:00:00Z"]),
    (
        "Europe/Berlin",
        &[
            "2026-10-25T00:30:00Z",
            "2027-03-28T00:30:00Z",
            "2026-12-31T22:59:59Z",
        ],
    ),
    (
        "Asia/Kolkata",
        &["2028-02-29T18:30:00Z", "2026-11-30T18:29:59Z"],
    ),
    (
        "America/St_Johns",
        &[
            "2026-11-01T04:30:00Z",
            "2027-03-14T05:30:00Z",
            "2026-12-01T03:30:00Z",
        ],
    ),
    (
        "Australia/Lord_Howe",
        &[
            "2026-10-03T15:30:00Z",
            "2027-04-03T15:00:00Z",
            "2026-11-30T13:00:00Z",
        ],
    ),
    (
        "America/Santiago",
        &[
            "2026-09-06T04:00:00Z",
            "2027-04-04T03:00:00Z",
            "2026-12-01T03:00:00Z",
        ],
    ),
];

const MINUTE: i64 = 60;
const HOUR: i64 = 3600;
const DAY: i64 = 86_400;

/// A time span between `least` and `most` seconds; short ones are as likely as long ones.
fn span(rng: &mut Rng, least: i64, most: i64) -> i64 {
    let (low, high) = ((least as f64).ln(), (most as f64).ln());
    (low + rng.f64() * (high - low)).exp() as i64
}

fn chance(rng: &mut Rng, percent: u8) -> bool {
    rng.u8(..100) < percent
}

/// How long histories last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// Minutes to months.
    Long,
    /// Seconds to minutes: clocks that differ by two seconds matter all the time.
    Short,
}

fn generate(rng: &mut Rng, length: Length) -> (TimeZone, i64, i64, Vec<Pod>, Vec<List>) {
    let (zone, instants) = PLACES[rng.usize(..PLACES.len())];
    let near: jiff::Timestamp = instants[rng.usize(..instants.len())].parse().unwrap();
    let whole = match length {
        Length::Long => span(rng, 10 * MINUTE, 75 * DAY),
        Length::Short => span(rng, 3, 10 * MINUTE),
    };
    let begin = near.as_second() - rng.i64(0..=whole);
    let end = begin + whole;
    let pods: Vec<Pod> = (0..rng.usize(1..5)).map(|_| pod(rng, begin, end)).collect();
    let lists = price_lists(rng, begin, end);
    (TimeZone::get(zone).unwrap(), begin, end, pods, lists)
}

fn pod(rng: &mut Rng, begin: i64, end: i64) -> Pod {
    let bound = rng.i64(begin..end);
    let length = span(rng, 1, (end - bound).max(2));
    let ending = match rng.u8(..10) {
        0 => Ending::Collected,
        1 => Ending::GivenUp,
        2 => Ending::Vanished,
        _ => Ending::Told,
    };
    let over = bound + length;
    let within = |rng: &mut Rng| rng.i64(bound..=over);
    let ready = chance(rng, 80).then(|| (bound + span(rng, 1, HOUR)).min(over));
    let leaving = chance(rng, 50).then(|| over - rng.i64(0..=length.min(10 * MINUTE)));
    let silence = within(rng);
    let silent = match ending {
        Ending::GivenUp => vec![(silence, i64::MAX)],
        Ending::Told if chance(rng, 20) => vec![(silence, over.min(silence + span(rng, 1, DAY)))],
        _ => Vec::new(),
    };
    let late = if chance(rng, 30) {
        rng.i64(0..=length.min(10 * MINUTE))
    } else {
        0
    };
    let shown = match ending {
        Ending::Told => over + rng.i64(0..30),
        _ => over,
    };
    Pod {
        bound,
        ready,
        leaving,
        ending,
        // nodes' clocks differ
        end: over
            + if ending == Ending::Told {
                rng.i64(-2..=2)
            } else {
                0
            },
        shown,
        deleted: match ending {
            Ending::Told | Ending::Collected => shown + span(rng, 1, 2 * DAY),
            Ending::GivenUp | Ending::Vanished => over,
        },
        silent,
        labelled: if chance(rng, 3) {
            i64::MAX
        } else {
            bound + late
        },
        cores: Vec::new(),
        units: rng.u32(1..9),
        share: [(1, 1), (1, 1), (1, 4), (2, 7)][rng.usize(..4)],
        born_guarded: chance(rng, 80),
        guarded: None,
        released: None,
    }
}

fn price_lists(rng: &mut Rng, begin: i64, end: i64) -> Vec<List> {
    let price = |rng: &mut Rng| Price {
        gpu: rng.i128(0..20_000_000_000),
        dearest: rng.i128(20_000_000_000..40_000_000_000),
        kwh: rng.i128(0..500_000) * 1000,
        core: 0,
    };
    let mut edits: Vec<i64> = (0..rng.usize(..3)).map(|_| rng.i64(begin..end)).collect();
    edits.push(begin - DAY);
    edits.sort_unstable();
    let unpriced = chance(rng, 10);
    let mut lists: Vec<List> = Vec::new();
    for (number, edited) in edits.iter().enumerate() {
        let first = Some(price(rng)).filter(|_| number > 0 || !unpriced);
        let mut steps: Vec<i64> = (0..rng.usize(..4)).map(|_| rng.i64(begin..end)).collect();
        // what comes into force while an edit is made depends on whose clock is right
        steps.retain(|step| first.is_some() && edits.iter().all(|edit| (edit - step).abs() > 5));
        steps.sort_unstable();
        steps.dedup();
        // tariffs come back to the price of before
        let day = price(rng);
        let night = price(rng);
        let steps = steps.into_iter().enumerate();
        let steps = steps.map(|(number, at)| (at, if number % 2 == 0 { day } else { night }));
        lists.push(List {
            edited: *edited,
            first,
            steps: steps.collect(),
        });
    }
    lists
}

/// Lets the amounts of pods change while they run. Histories of before stay what they were: a seed stands for one.
fn resize(rng: &mut Rng, pods: &mut [Pod], lists: &mut [List]) {
    for price in lists.iter_mut().flat_map(|list| {
        list.first
            .iter_mut()
            .chain(list.steps.iter_mut().map(|(_, price)| price))
    }) {
        price.core = rng.i128(0..200_000_000);
    }
    for pod in pods {
        let mut instants: Vec<i64> = (0..rng.usize(..5))
            .map(|_| rng.i64(pod.bound..=pod.end.max(pod.bound)))
            .collect();
        instants.sort_unstable();
        pod.cores = instants.into_iter().map(|at| (at, rng.u32(..5))).collect();
    }
}

/// Plays the history of a seed; what the records hold at the end must be what the oracle says.
fn play(seed: u64, length: Length, flaw: Option<Flaw>) -> Result<Tally, String> {
    let mut rng = Rng::with_seed(seed);
    let (zone, begin, end, mut pods, mut lists) = generate(&mut rng, length);
    let mut others = Rng::with_seed(seed ^ u64::MAX);
    if flaw.is_none() && chance(&mut others, 50) {
        resize(&mut others, &mut pods, &mut lists);
    }
    let mut times: Vec<i64> = (0..rng.usize(4..24)).map(|_| rng.i64(begin..end)).collect();
    // controllers look when something happens
    for pod in &pods {
        let moments = [
            pod.bound,
            pod.shown,
            pod.deleted,
            pod.ready.unwrap_or(pod.bound),
        ];
        let seen = moments.into_iter().filter(|_| rng.u8(..3) > 0);
        let soon = [0, 0, 1, 60];
        times.extend(seen.map(|at| at + soon[usize::try_from(at % 4).unwrap()]));
    }
    times.retain(|at| *at >= begin);
    times.sort_unstable();
    let mut world = World::new(zone, pods, lists, rng);
    world.flaw = flaw;
    for at in times {
        world.now = at;
        let who = usize::from(world.rng.bool());
        // a process that was cut off comes back at once, or the next one goes on
        while world.sync(who).is_err() && world.rng.bool() {}
    }
    settle_down(&mut world)?;
    compare(&world)?;
    Ok(world.tally)
}

/// Nothing goes wrong any more: all pods end, and are forgotten.
fn settle_down(world: &mut World) -> Result<(), String> {
    world.faults = false;
    let last = world
        .pods
        .iter()
        .map(|pod| pod.deleted.max(pod.shown))
        .max();
    world.now = world.now.max(last.unwrap_or(0)) + HOUR;
    for _ in 0..8 {
        // a conflict shows that a cache was behind; it is not any more
        let _ = world.sync(0);
    }
    world
        .sync(0)
        .map_err(|stop| format!("never at rest: {stop:?}"))?;
    for (month, record) in world.store.current() {
        let account = &record.account;
        if !account.open_charges().is_empty() || !account.settling().is_empty() {
            return Err(format!(
                "{month} still has {:?} open, {:?} settling",
                account.open_charges().keys(),
                account.settling()
            ));
        }
    }
    if let Some(pod) = world
        .pods
        .iter()
        .position(|pod| pod.view(0, world.now).is_some())
    {
        return Err(format!("pod {pod} is start_failure"));
    }
    Ok(())
}

fn compare(world: &World) -> Result<(), String> {
    for (number, pod) in world.pods.iter().enumerate() {
        let known = world
            .store
            .current()
            .values()
            .any(|record| record.ink.contains_key(&number));
        let may_be_missed = !pod.born_guarded || pod.ending == Ending::Vanished;
        if !known && !may_be_missed {
            return Err(format!("pod {number} was lost"));
        }
    }
    for (month, record) in world.store.current() {
        let mut told: BTreeMap<Date, Bill> = BTreeMap::new();
        for (pod, ink) in &record.ink {
            let days = bill(&stay(world, *pod, ink, *month), &world.zone);
            for (day, part) in days
                .into_iter()
                .filter(|(day, _)| Month::containing_date(*day) == *month)
            {
                *told.entry(day).or_default() += part;
            }
        }
        let held = record.account.days().iter().map(|(day, lines)| {
            let line: DailyCost = lines.iter().map(|(_, line)| *line).sum();
            (*day, held(&line))
        });
        let held: BTreeMap<Date, Bill> = held.collect();
        for day in told.keys().chain(held.keys()) {
            let of = |bills: &BTreeMap<Date, Bill>| bills.get(day).copied().unwrap_or_default();
            if of(&told) != of(&held) {
                let (told, held) = (of(&told), of(&held));
                return Err(format!(
                    "on {day} the oracle says\n{told:?}, the ledger\n{held:?}"
                ));
            }
        }
    }
    Ok(())
}

/// What the oracle is told of a charge in one month.
fn stay(world: &World, pod: usize, ink: &Ink, month: Month) -> Stay {
    let vanished = world.pods[pod].ending == Ending::Vanished;
    let (looks, number) = (&ink.looks, pod);
    let pod = &world.pods[number];
    let month_end = month.bounds(&world.zone).end.as_second();
    let end = if vanished { ink.end } else { Some(pod.end) };
    Stay {
        bound: pod.bound,
        end: end.unwrap_or(month_end),
        // nobody tells any more what a pod did that vanished unseen
        ready: pod.ready.filter(|_| !vanished || ink.ready),
        leaving: pod.leaving.filter(|_| !vanished || ink.leaving),
        lost: pod
            .silent
            .iter()
            .find(|(_, to)| *to == i64::MAX)
            .map(|(from, _)| *from),
        units: pod.units.into(),
        share: (pod.share.0.into(), pod.share.1.into()),
        prices: timeline(
            &world.lists,
            looks,
            pod.bound,
            pod.units.into(),
            (pod.share.0.into(), pod.share.1.into()),
        ),
        idle: BTreeMap::new(),
    }
}

/// A line of the ledger in the oracle's form.
pub(crate) fn held(line: &DailyCost) -> Bill {
    let cost = &line.cost;
    Bill {
        parts: [cost.compute, cost.storage, cost.power, cost.labour].map(|part| part.nanos()),
        starting: line.starting.nanos(),
        idle: line.idle.nanos(),
        draining: line.draining.nanos(),
        unattributed: line.unattributed.nanos(),
        carbon_mg: line.carbon_mg.into(),
        gpu_seconds: line.gpu_seconds.into(),
        unpriced_gpu_seconds: line.unpriced_gpu_seconds.into(),
    }
}

/// Plays the histories of these seeds on all cores. `BURSAR_HISTORIES=first..after` plays those instead; a failure says which one it
/// was.
pub(crate) fn play_histories(seeds: Range<u64>, length: Length) {
    let asked = std::env::var("BURSAR_HISTORIES").ok();
    let range = asked
        .as_deref()
        .map_or(Some((seeds.start, seeds.end)), |text| {
            let (first, after) = text.split_once("..")?;
            Some((first.parse().ok()?, after.parse().ok()?))
        });
    let (first, after) = range.expect("BURSAR_HISTORIES must be such as 17..18");
    let threads = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let played: Vec<Result<Tally, String>> = thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    let mut tally = Tally::default();
                    for seed in (first + thread..after).step_by(threads as usize) {
                        let one = panic::catch_unwind(|| play(seed, length, None));
                        let one = one.unwrap_or_else(|_| Err("panicked, see above".to_owned()));
                        let one = one.map_err(|wrong| {
                            let after = seed + 1;
                            format!("{length:?} history {seed}: {wrong}\nreplay it with BURSAR_HISTORIES={seed}..{after}")
                        });
                        tally.add(&one?);
                    }
                    Ok(tally)
                })
            })
            .collect();
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap())
            .collect()
    });
    let mut tally = Tally::default();
    for part in played {
        tally.add(&part.unwrap_or_else(|wrong| panic!("{wrong}")));
    }
    // short ones end before a day is booked
    if asked.is_none() && length == Length::Long {
        for write in WRITES {
            let crashes = |at: &BTreeMap<_, u64>| at.get(&write).copied().unwrap_or(0);
            assert!(crashes(&tally.before) > 0, "nobody died before a {write:?}");
            assert!(crashes(&tally.after) > 0, "nobody died after a {write:?}");
        }
        assert!(tally.conflicts > 0, "nobody was overtaken");
    }
}

/// Protocols that look right, and a history that shows each of them wrong.
#[test]
fn every_rule_of_the_protocol_is_needed() {
    for (flaw, seed) in [
        (Flaw::PricesAfterSettling, 8),
        (Flaw::SettlesMonthsOfTheStayOnly, 1898),
        (Flaw::CarriesWhatTheCacheShows, 2147),
        (Flaw::OpensWhatTheCacheShows, 2835),
        (Flaw::ForgetsAfterAConflict, 45005),
    ] {
        assert!(
            play(seed, Length::Long, Some(flaw)).is_err(),
            "{flaw:?} does no harm in history {seed}"
        );
    }
}
