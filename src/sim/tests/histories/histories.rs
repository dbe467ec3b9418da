//! Plays histories on all cores.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::{panic, thread};

use bursar_sim::{Tally, play};

/// Events of the shortest history.
const MIN_EVENTS: u64 = 200;
/// Each check is made at least once in so many histories: a check that is never made says nothing.
const RAREST_CHECK: u64 = 100;
const CHECKS: [&str; 8] = [
    "fewer replicas while something was unknown",
    "a gang started in free room",
    "GPUs were given back for a higher priority",
    "orders stopped under constant demand",
    "everything is as decided",
    "a new leader decided the same",
    "an exhausted budget was not exceeded",
    "the same without an excuse",
];

/// Plays the history of each seed; the first that fails is named with what went wrong.
///
/// # Panics
/// If a promise is broken, or a kind of event or fault never happened.
pub(crate) fn play_histories(seeds: Range<u64>) {
    let histories = seeds.end - seeds.start;
    let next = AtomicU64::new(seeds.start);
    let failed = AtomicBool::new(false);
    let all = Mutex::new(Tally::default());
    let play_some = || {
        let mut sum = Tally::default();
        while !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            let played = panic::catch_unwind(|| play(seed));
            let tally = match played {
                Ok(Ok(tally)) => tally,
                Ok(Err(violation)) => {
                    failed.store(true, Ordering::Relaxed);
                    panic!("seed {seed}: {violation}");
                }
                Err(_) => {
                    failed.store(true, Ordering::Relaxed);
                    panic!("seed {seed} panicked");
                }
            };
            let events = tally.all_events();
            assert!(events >= MIN_EVENTS, "seed {seed} has {events} events");
            sum.add(&tally);
        }
        all.lock().unwrap().add(&sum);
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(play_some);
        }
    });
    let tally = all.into_inner().unwrap();
    println!("{histories} histories: {tally}");
    assert_eq!(tally.missing(), [""; 0], "never happened");
    for check in CHECKS {
        let made = tally.checks.get(check).copied().unwrap_or(0);
        assert!(made * RAREST_CHECK >= histories, "{check}: {made} times");
    }
}
