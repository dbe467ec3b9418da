//! Compares the two rules of `scaling.growth` over all built-in traces of requests, generated loads and
//! four start times, and prints the table of docs/growth.md, which says how.
//!
//! An argument limits it to the loads whose names contain it.

#![allow(clippy::expect_used)] // what is wrong here is the program's fault

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bursar_sim::{GrowthScenario, Scenario, simulate};
use jiff::SignedDuration;

/// Seconds that a replica takes to start.
const STARTS: [i64; 4] = [3, 30, 180, 600];
const TARGETS: [u32; 15] = [2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 28, 32, 40, 48, 64];
/// A first token is as good as at once within so many seconds, ...
const AT_ONCE: f64 = 0.1;
/// ... and nobody sees so much of a difference.
const NEARLY: f64 = 1.05;

/// Requests of a service.
struct Load {
    name: &'static str,
    /// As a scenario file has them.
    requests: &'static str,
    /// How long they last.
    seconds: i64,
}

const LOADS: [Load; 8] = [
    Load {
        name: "azure-llm-2023-conv",
        requests: "trace: azure-llm-2023-conv, repeat: 2",
        seconds: 7_000,
    },
    Load {
        name: "mooncake-conversation, two fifths of it",
        requests: "trace: mooncake-conversation, repeat: 2, scale: 0.4",
        seconds: 7_080,
    },
    Load {
        name: "aibrix-up-and-down, again and again",
        requests: "trace: aibrix-up-and-down, repeat: 8",
        seconds: 3_640,
    },
    Load {
        name: "servegen-m-large-48",
        requests: "trace: servegen-m-large-48",
        seconds: 28_800,
    },
    Load {
        name: "azure-functions-d0763a",
        requests: "trace: azure-functions-d0763a",
        seconds: 28_800,
    },
    Load {
        name: "1/s, and 10/s more for 30 s in 10 min",
        requests: "rate: 1.0, bursts: {rate: 10.0, every: 10m, lasts: 30s}",
        seconds: 14_400,
    },
    Load {
        name: "1/s, and 6/s more for 20 min in an hour",
        requests: "rate: 1.0, bursts: {rate: 6.0, every: 1h, lasts: 20m}",
        seconds: 21_600,
    },
    Load {
        name: "4/s for 1 min in 15 min",
        requests: "rate: 0.0, bursts: {rate: 4.0, every: 15m, lasts: 1m}",
        seconds: 14_400,
    },
];

/// Half of a load.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    First,
    Second,
}

/// What one run came to.
#[derive(Clone, Copy)]
struct Outcome {
    target: u32,
    gpu_hours: f64,
    /// Seconds to the first token at p95.
    p95: f64,
}

fn run(load: &Load, start: i64, growth: GrowthScenario, target: u32, half: Half) -> Outcome {
    let text = format!(
        "prices: {{H100: \"1.00\"}}\n\
         nodes: [{{name: h100, count: 16, gpu: H100, gpus: 8}}]\n\
         services:\n\
         - {{name: chat, maxReplicas: 16, target: {target}, idleAfter: 5m, startTime: {start}s, \
         holdTimeout: 30m, maxHeldRequests: 100000, requests: {{{}}}}}\n",
        load.requests
    );
    let mut scenario = Scenario::parse(&text).expect("it is a scenario");
    for service in &mut scenario.services {
        service.growth = growth;
    }
    let length = SignedDuration::from_secs(load.seconds);
    (scenario.warm_up, scenario.duration) = match half {
        // at first all waits for the first replica
        Half::First => (length / 4, Some(length / 2)),
        Half::Second => (length / 2, Some(length)),
    };
    let report = simulate(&scenario, 1, |_, _, _| ()).expect("no decision breaks a promise");
    let service = report.services.first().expect("there is a service");
    let p95 = service.first_token_seconds.map(|[_, p95, _]| p95);
    Outcome {
        target,
        gpu_hours: service.gpu_hours,
        p95: p95.unwrap_or(f64::INFINITY),
    }
}

/// The outcomes of both rules on the second half, with the targets that were best on the first.
fn compare(load: &Load, start: i64) -> [Outcome; 2] {
    let rules = [GrowthScenario::Target, GrowthScenario::Learned];
    let first = rules.map(|rule| TARGETS.map(|target| run(load, start, rule, target, Half::First)));
    let [plain, _] = &first;
    let best = plain
        .iter()
        .map(|one| one.p95)
        .fold(f64::INFINITY, f64::min);
    let objective = (best * NEARLY).max(AT_ONCE);
    let chosen = first.map(|outcomes| {
        let good = outcomes.iter().filter(|one| one.p95 <= objective);
        let cheapest = good.min_by(|a, b| a.gpu_hours.total_cmp(&b.gpu_hours));
        let fastest = outcomes.iter().min_by(|a, b| a.p95.total_cmp(&b.p95));
        cheapest.or(fastest).expect("there are targets").target
    });
    let [plain, learned] = chosen;
    [
        run(load, start, GrowthScenario::Target, plain, Half::Second),
        run(load, start, GrowthScenario::Learned, learned, Half::Second),
    ]
}

/// How much more the second is than the first.
fn percent(first: f64, second: f64) -> String {
    format!("{:+.0} %", (second / first - 1.0) * 100.0)
}

fn main() {
    let filter = std::env::args().nth(1).unwrap_or_default();
    let loads = LOADS.iter().filter(|load| load.name.contains(&filter));
    let rows: Vec<(&Load, i64)> = loads
        .flat_map(|load| STARTS.map(|start| (load, start)))
        .collect();
    let outcomes = Mutex::new(vec![None; rows.len()]);
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((number, (load, start))) = {
            let number = next.fetch_add(1, Ordering::Relaxed);
            rows.get(number).map(|row| (number, row))
        } {
            let found = compare(load, *start);
            if let Some(place) = outcomes.lock().expect("no thread panics").get_mut(number) {
                *place = Some(found);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    println!(
        "| requests | start | `Target`: target | GPU-hours | p95 | `Learned`: target | GPU-hours | p95 | GPU-hours | p95 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let (mut plain_hours, mut learned_hours) = (0.0, 0.0);
    let outcomes = outcomes.into_inner().expect("no thread panics");
    for ((load, start), found) in rows.iter().zip(outcomes) {
        let [plain, learned] = found.expect("each row was compared");
        plain_hours += plain.gpu_hours;
        learned_hours += learned.gpu_hours;
        println!(
            "| {} | {start} s | {} | {:.1} | {:.3} s | {} | {:.1} | {:.3} s | {} | {} |",
            load.name,
            plain.target,
            plain.gpu_hours,
            plain.p95,
            learned.target,
            learned.gpu_hours,
            learned.p95,
            percent(plain.gpu_hours, learned.gpu_hours),
            percent(plain.p95, learned.p95),
        );
    }
    let more = percent(plain_hours, learned_hours);
    println!("| all | | | {plain_hours:.1} | | | {learned_hours:.1} | | {more} | |");
}
