//! A latency objective over a simulated service: Poisson arrivals, replicas with a bounded batch and a queue,
//! and starts of a minute. The model is told what engines would show, and its orders are carried out.

use std::collections::VecDeque;
use std::sync::Arc;

use bursar_core::ledger::EngineCounters;
use bursar_core::model::Model;
use bursar_core::model::event::{EngineMeasures, Event, Pod, Reading, Service};
use bursar_core::plan::ServiceOrder;
use bursar_core::scaling::{
    Behavior, Bucket, LatencyHistogram, LatencyMeasure, RequestSignal, SignalRule, UNBOUNDED,
};
use fastrand::Rng;
use jiff::SignedDuration;
use jiff::tz::TimeZone;

use crate::*;

/// Milliseconds within which 95 of 100 first tokens are to come.
const OBJECTIVE: i64 = 500;
/// The most replicas.
const MOST: u32 = 12;
/// A replica serves so many seconds after its order.
const START: i64 = 60;
/// Requests that a replica runs at the same time; others wait.
const BATCH: usize = 8;
/// Milliseconds that a request runs.
const RUNS: i64 = 5_000;
/// Milliseconds for which a request waits before its client gives up.
const GIVES_UP: i64 = 20_000;
/// Milliseconds that the first token takes for each request that runs.
const PREFILL: i64 = 40;
/// Milliseconds of a step.
const STEP: i64 = 100;
/// The bounds of vLLM's buckets, in milliseconds.
const BOUNDS: [i64; 16] = [
    1, 5, 10, 20, 40, 60, 80, 100, 250, 500, 750, 1_000, 2_500, 5_000, 7_500, 10_000,
];

struct SimulatedReplica {
    pod: Pod,
    /// When requests that run end.
    running: Vec<i64>,
    /// When requests that wait came.
    waiting: VecDeque<i64>,
    answered: u64,
    /// First tokens by the bound of their bucket, and those beyond all bounds.
    first_tokens: [u64; BOUNDS.len() + 1],
}

impl SimulatedReplica {
    fn new(number: u32, second: i64) -> Self {
        let mut pod = ready_pod(&format!("replica-{number}"), second + START);
        (pod.created, pod.ready_since) = (at(second), None);
        Self {
            pod,
            running: Vec::new(),
            waiting: VecDeque::new(),
            answered: 0,
            first_tokens: [0; BOUNDS.len() + 1],
        }
    }

    fn name(&self) -> &str {
        &self.pod.key.name
    }

    fn takes_requests(&self) -> bool {
        self.pod.ready_since.is_some() && self.pod.draining_since.is_none()
    }

    /// Goes on to this time. Returns how long the first tokens took that were written.
    fn step(&mut self, now: i64) -> Vec<i64> {
        let before = self.running.len();
        self.running.retain(|ends| *ends > now);
        self.answered += (before - self.running.len()) as u64;
        self.waiting.retain(|came| now - came < GIVES_UP);
        let mut taken = Vec::new();
        while self.running.len() < BATCH
            && let Some(came) = self.waiting.pop_front()
        {
            self.running.push(now + RUNS);
            let first = now - came + PREFILL * self.running.len() as i64;
            let bucket = BOUNDS.iter().position(|bound| first <= *bound);
            self.first_tokens[bucket.unwrap_or(BOUNDS.len())] += 1;
            taken.push(first);
        }
        taken
    }

    /// What its engine shows.
    fn events(&self) -> [Event; 2] {
        let requests = (self.running.len() + self.waiting.len()) as u64;
        let reading = Reading::Counted {
            requests,
            counting: Default::default(),
            moved: true,
            done: EngineCounters {
                requests: self.answered,
                ..EngineCounters::default()
            },
        };
        let bounds = BOUNDS.iter().map(|millis| *millis as u64 * 1_000);
        let mut count = 0;
        let buckets = bounds.chain([UNBOUNDED]).zip(self.first_tokens);
        let buckets = buckets.map(|(bound, more)| {
            count += more;
            Bucket { bound, count }
        });
        let histogram = LatencyHistogram::new(buckets.collect()).unwrap();
        let measures = EngineMeasures {
            latencies: [(LatencyMeasure::TimeToFirstToken, Ok(Arc::new(histogram)))].into(),
            ..EngineMeasures::default()
        };
        [
            Event::Reading(self.name().into(), reading),
            Event::EngineMeasures(self.name().into(), measures),
        ]
    }
}

/// What happened in one minute.
#[derive(Clone, Debug, Default)]
struct Minute {
    /// First tokens that came within the objective, and all.
    within: u32,
    all: u32,
    /// Replicas that were ordered at its end.
    replicas: u32,
}

struct Simulation {
    model: Model,
    replicas: Vec<SimulatedReplica>,
    ordered: u32,
    made: u32,
    minutes: Vec<Minute>,
}

impl Simulation {
    fn new() -> Self {
        let objective = SignedDuration::from_millis(OBJECTIVE);
        let rule = SignalRule::Latency(LatencyMeasure::TimeToFirstToken, objective);
        let service = Service {
            max: MOST,
            min: 1,
            request_signal: RequestSignal::Activity,
            signals: vec![("first-token".into(), rule)],
            behavior: Behavior::with_scale_down_window(Some(SignedDuration::from_mins(5))),
            ..service()
        };
        let mut model = Model::new(TimeZone::UTC, at(-3600));
        let start = [
            Event::Service(key(), Some(service)),
            gateway(-600),
            demand(0),
            replicas(0),
        ];
        let decisions = tell(&mut model, 0, start);
        let mut simulation = Self {
            model,
            replicas: Vec::new(),
            ordered: 0,
            made: 0,
            minutes: Vec::new(),
        };
        let events = simulation.carry_out(decisions.service_orders, 0);
        tell(&mut simulation.model, 0, events);
        simulation
    }

    /// Carries orders out. Returns the events that show it.
    fn carry_out(&mut self, orders: Vec<ServiceOrder>, second: i64) -> Vec<Event> {
        let mut events = Vec::new();
        for order in orders {
            let is_in = |names: &[bursar_core::model::Name], pod: &Pod| {
                names.iter().any(|name| **name == *pod.key.name)
            };
            for replica in &mut self.replicas {
                let pod = &mut replica.pod;
                if is_in(&order.drain, pod) {
                    pod.draining_since = Some(at(second));
                } else if is_in(&order.keep, pod) {
                    (pod.draining_since, pod.marked_for_deletion) = (None, false);
                }
                pod.marked_for_deletion |= is_in(&order.remove, pod);
                events.push(Event::Pod(
                    pod.key.name.clone(),
                    Some(Box::new(pod.clone())),
                ));
            }
            self.ordered = order.replicas.1;
            assert!(self.ordered <= MOST, "{}", order.reason);
            while self.replicas.len() < self.ordered as usize {
                self.made += 1;
                self.replicas.push(SimulatedReplica::new(self.made, second));
            }
            while self.replicas.len() > self.ordered as usize {
                let marked = self
                    .replicas
                    .iter()
                    .rposition(|known| known.pod.marked_for_deletion);
                let gone = self
                    .replicas
                    .remove(marked.unwrap_or(self.replicas.len() - 1));
                events.push(Event::Pod(gone.name().into(), None));
            }
            events.push(replicas(self.ordered));
        }
        events
    }

    /// Lets so many requests a second come for so many seconds.
    fn run(&mut self, seconds: std::ops::Range<i64>, a_second: f64, rng: &mut Rng) {
        for second in seconds {
            if second % 60 == 0 {
                self.minutes.push(Minute::default());
            }
            for millis in (0..1_000).step_by(STEP as usize) {
                let now = second * 1_000 + millis;
                let takes: Vec<usize> = (0..self.replicas.len())
                    .filter(|index| self.replicas[*index].takes_requests())
                    .collect();
                if rng.f64() < a_second * STEP as f64 / 1_000.0
                    && let Some(index) = rng.choice(takes)
                {
                    self.replicas[index].waiting.push_back(now);
                }
                let firsts = self
                    .replicas
                    .iter_mut()
                    .flat_map(|replica| replica.step(now));
                let firsts: Vec<i64> = firsts.collect();
                let minute = self.minutes.last_mut().unwrap();
                minute.all += firsts.len() as u32;
                minute.within += firsts.iter().filter(|first| **first <= OBJECTIVE).count() as u32;
            }
            let mut events = Vec::new();
            for replica in &mut self.replicas {
                let is_ready = at(second) >= replica.pod.created + SignedDuration::from_secs(START);
                if is_ready && replica.pod.ready_since.is_none() {
                    replica.pod.ready_since = Some(at(second));
                }
                let pod = Box::new(replica.pod.clone());
                events.push(Event::Pod(replica.name().into(), Some(pod)));
                if replica.pod.ready_since.is_some() {
                    events.extend(replica.events());
                }
            }
            let decisions = tell(&mut self.model, second, events);
            let events = self.carry_out(decisions.service_orders, second);
            tell(&mut self.model, second, events);
            self.minutes.last_mut().unwrap().replicas = self.ordered;
        }
    }
}

#[test]
fn an_objective_is_held_after_a_step_of_the_load_and_replicas_come_back_down() {
    for seed in 1..=4 {
        let mut rng = Rng::with_seed(seed);
        let mut simulation = Simulation::new();
        simulation.run(0..900, 0.8, &mut rng);
        simulation.run(900..4_500, 4.0, &mut rng);
        simulation.run(4_500..9_000, 0.8, &mut rng);
        let minutes = &simulation.minutes;
        let shown: Vec<u32> = minutes.iter().map(|minute| minute.replicas).collect();
        // 4 requests a second need three full replicas at least
        let late = &minutes[45..75];
        let (within, all) = late.iter().fold((0, 0), |(within, all), minute| {
            (within + minute.within, all + minute.all)
        });
        assert!(all > 5_000, "seed {seed}: {shown:?}");
        let part = f64::from(within) / f64::from(all);
        assert!(
            part >= 0.93,
            "seed {seed}: {part} within the objective, {shown:?}"
        );
        let changes = late
            .windows(2)
            .filter(|pair| pair[0].replicas != pair[1].replicas);
        assert!(changes.count() <= 6, "seed {seed}: {shown:?}");
        let mean = late.iter().map(|minute| minute.replicas).sum::<u32>() / 30;
        assert!((3..=9).contains(&mean), "seed {seed}: {shown:?}");
        // a fifth of the load needs no more than it did before
        let last = &shown[140..];
        assert!(
            last.iter().all(|replicas| *replicas <= 3),
            "seed {seed}: {shown:?}"
        );
        // a miss by chance is believed for a while
        let after = &shown[90..];
        assert!(
            after.contains(&2) || after.contains(&1),
            "seed {seed}: {shown:?}"
        );
        assert!(
            shown[..14].iter().all(|replicas| *replicas <= 3),
            "seed {seed}: {shown:?}"
        );
        println!("seed {seed}: {part:.3} within the objective, {shown:?}");
    }
}
