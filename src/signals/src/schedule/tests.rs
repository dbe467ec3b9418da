use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::BinaryHeap;

use proptest::prelude::*;

use super::*;

const MILLISECOND: Duration = Duration::from_millis(1);
const TINY: Settings = Settings {
    prompt: Limits {
        total: 3,
        shared: 2,
        per_namespace: 2,
    },
    doubtful: Limits {
        total: 2,
        shared: 2,
        per_namespace: 1,
    },
};
/// Enough for those that answer, and too little for those that do not.
const SMALL: Settings = Settings {
    prompt: Limits {
        total: 40,
        shared: 32,
        per_namespace: 16,
    },
    doubtful: Limits {
        total: 8,
        shared: 6,
        per_namespace: 5,
    },
};

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn namespace(name: usize) -> Arc<str> {
    format!("namespace-{name}").into()
}

/// A number that looks random, for the index of a target.
fn seed(index: usize) -> u64 {
    let mut seed = (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    seed ^= seed >> 29;
    seed.wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// How a target behaves when it is read: the time to the read's end, and the outcome.
#[derive(Debug, Clone, Copy)]
enum Behaviour {
    Quick(u16),
    Slow,
    Silent,
    Refuses,
}

impl Behaviour {
    fn read(self) -> (Duration, Outcome) {
        match self {
            Self::Quick(latency) => (MILLISECOND * u32::from(latency), Outcome::Answered),
            Self::Slow => (seconds(1.9), Outcome::Answered),
            Self::Silent => (seconds(2.0), Outcome::Failed),
            Self::Refuses => (MILLISECOND, Outcome::Failed),
        }
    }
}

/// Plays targets against a schedule.
struct Simulation {
    schedule: Schedule,
    settings: Settings,
    now: Duration,
    targets: BTreeMap<TargetId, (usize, Behaviour)>,
    ends: BinaryHeap<Reverse<(Duration, TargetId, bool)>>,
    in_flight: BTreeSet<TargetId>,
    /// When reads of each target began.
    starts: BTreeMap<TargetId, Vec<Duration>>,
}

impl Simulation {
    fn new(settings: Settings) -> Self {
        Self {
            schedule: Schedule::new(settings),
            settings,
            now: Duration::ZERO,
            targets: BTreeMap::new(),
            ends: BinaryHeap::new(),
            in_flight: BTreeSet::new(),
            starts: BTreeMap::new(),
        }
    }

    fn add(&mut self, of: usize, behaviour: Behaviour) -> TargetId {
        let seed = seed(self.targets.len() + self.starts.len());
        let id = self.schedule.add(namespace(of), seed, self.now);
        self.targets.insert(id, (of, behaviour));
        id
    }

    fn remove(&mut self, id: TargetId) {
        self.targets.remove(&id);
        self.schedule.remove(id);
    }

    /// Begins what is due, and checks the bounds.
    fn start(&mut self) {
        for id in self.schedule.due(self.now) {
            let (_, behaviour) = self.targets[&id];
            assert!(self.in_flight.insert(id), "two reads of {id:?} in flight");
            self.starts.entry(id).or_default().push(self.now);
            let (latency, outcome) = behaviour.read();
            let answered = outcome == Outcome::Answered;
            self.ends.push(Reverse((self.now + latency, id, answered)));
        }
        assert_eq!(self.schedule.due(self.now), [], "not all at once");
        let pools = [
            (&self.schedule.prompt, self.settings.prompt),
            (&self.schedule.doubtful, self.settings.doubtful),
        ];
        for (pool, limits) in pools {
            assert!(pool.total_in_flight() <= limits.total);
            assert!(pool.most_in_flight() <= limits.per_namespace);
        }
        let counted =
            self.schedule.prompt.total_in_flight() + self.schedule.doubtful.total_in_flight();
        assert_eq!(counted, self.in_flight.len());
    }

    /// Goes on until `until`, from one instant at which something happens to the next.
    fn run_until(&mut self, until: Duration) {
        loop {
            self.start();
            let end = self.ends.peek().map(|Reverse((at, ..))| *at);
            let wake = self.schedule.next_wake();
            assert!(wake.is_none_or(|at| at > self.now), "woken for nothing");
            let Some(next) = end.into_iter().chain(wake).min().filter(|at| *at <= until) else {
                self.now = until;
                return;
            };
            self.now = next;
            while let Some(Reverse((at, id, answered))) = self.ends.peek().copied()
                && at <= self.now
            {
                self.ends.pop();
                self.in_flight.remove(&id);
                let outcome = if answered {
                    Outcome::Answered
                } else {
                    Outcome::Failed
                };
                self.schedule.finished(id, outcome, self.now);
            }
        }
    }

    /// The longest time without a read's beginning, from the first read to now.
    fn longest_gap(&self, id: TargetId) -> Duration {
        let starts = &self.starts[&id];
        let ends = starts[1..].iter().copied().chain([self.now]);
        let gaps = starts.iter().zip(ends).map(|(start, end)| end - *start);
        gaps.max().unwrap_or_default()
    }
}

fn is_empty(schedule: &Schedule) -> bool {
    schedule.entries.is_empty()
        && schedule.timers.is_empty()
        && schedule.prompt.is_empty()
        && schedule.doubtful.is_empty()
        && schedule.all_read()
}

#[test]
fn a_target_that_answers_is_read_once_a_second_at_its_phase() {
    let mut simulation = Simulation::new(Settings::default());
    let ids: Vec<_> = (0..1_000)
        .map(|_| simulation.add(0, Behaviour::Quick(3)))
        .collect();
    simulation.run_until(seconds(10.0));
    let mut slots = BTreeMap::<u128, usize>::new();
    for id in ids {
        let starts = &simulation.starts[&id];
        assert!(starts[0] < seconds(0.1), "a new target waits");
        let gap = starts[1] - starts[0];
        assert!((seconds(0.5)..=seconds(1.52)).contains(&gap), "{gap:?}");
        let rest = &starts[1..];
        assert!(rest.windows(2).all(|pair| pair[1] - pair[0] == PERIOD));
        *slots.entry(rest[0].as_millis() % 1_000).or_default() += 1;
    }
    assert_eq!(slots.len(), 50);
    let (fewest, most) = (slots.values().min(), slots.values().max());
    assert!(fewest > Some(&5) && most < Some(&45), "{slots:?}");
}

#[test]
fn the_wait_after_failures_doubles_up_to_its_bound_and_ends_with_an_answer() {
    let mut schedule = Schedule::new(Settings::default());
    let id = schedule.add(namespace(0), seed(7), Duration::ZERO);
    let mut now = Duration::ZERO;
    for longest in [1, 2, 4, 8, 8, 8] {
        assert_eq!(schedule.due(now), [id]);
        schedule.finished(id, Outcome::Failed, now);
        let next = schedule.next_wake().unwrap();
        let wait = (next - now).as_secs_f64();
        let longest = f64::from(longest);
        assert!(
            wait >= 0.75 * longest && wait <= longest + 0.02,
            "{wait} of {longest}"
        );
        assert_eq!(schedule.due(next - MILLISECOND), []);
        now = next;
    }
    assert_eq!(schedule.due(now), [id]);
    schedule.finished(id, Outcome::Answered, now);
    assert!(schedule.next_wake().unwrap() - now <= seconds(1.5));
    assert_eq!(schedule.due(schedule.next_wake().unwrap()), [id]);
    schedule.finished(id, Outcome::Failed, now);
    assert!(
        schedule.next_wake().unwrap() - now <= seconds(2.6),
        "it begins anew"
    );
}

#[test]
fn silent_targets_of_other_namespaces_delay_nobody() {
    let mut simulation = Simulation::new(Settings::default());
    for of in 1..=10 {
        for index in 0..400 {
            let behaviour = match index % 3 {
                0 => Behaviour::Slow,
                1 => Behaviour::Refuses,
                _ => Behaviour::Silent,
            };
            simulation.add(of, behaviour);
        }
    }
    simulation.run_until(seconds(5.5));
    let id = simulation.add(0, Behaviour::Quick(5));
    simulation.run_until(seconds(30.0));
    let starts = &simulation.starts[&id];
    assert!(starts[0] < seconds(5.6), "{:?}", starts[0]);
    assert!(simulation.longest_gap(id) <= seconds(1.52), "{starts:?}");
    assert!(starts.len() >= 24, "{}", starts.len());
}

#[test]
fn among_namespaces_that_wait_the_one_with_the_fewest_reads_in_flight_is_next() {
    let limits = Limits {
        total: 6,
        shared: 5,
        per_namespace: 4,
    };
    let settings = Settings {
        prompt: limits,
        doubtful: limits,
    };
    let mut schedule = Schedule::new(settings);
    let now = Duration::ZERO;
    let first: Vec<_> = (0..10)
        .map(|_| schedule.add(namespace(0), 1, now))
        .collect();
    assert_eq!(schedule.due(now).len(), 4, "the limit of a namespace");
    let second: Vec<_> = (0..10)
        .map(|_| schedule.add(namespace(1), 1, now))
        .collect();
    assert_eq!(
        schedule.due(now),
        second[..2],
        "the second one is beyond the shared part"
    );
    for (ended, next) in [(0, None), (1, Some(first[4]))] {
        schedule.finished(first[ended], Outcome::Failed, now);
        assert_eq!(
            schedule.due(now),
            Vec::from_iter(next),
            "a tie goes to who waited longer"
        );
    }
    let third: Vec<_> = (0..10)
        .map(|_| schedule.add(namespace(2), 1, now))
        .collect();
    assert_eq!(schedule.due(now), [third[0]], "the limit in total");
    for ended in [first[2], first[3]] {
        schedule.finished(ended, Outcome::Failed, now);
    }
    let next = [first[5], third[1]];
    assert_eq!(schedule.due(now), next, "the fewest in flight go first");
}

#[test]
fn a_target_removed_while_it_is_read_counts_until_the_end_and_is_then_forgotten() {
    let mut schedule = Schedule::new(TINY);
    let old = schedule.add(namespace(0), 1, Duration::ZERO);
    assert_eq!(schedule.due(Duration::ZERO), [old]);
    schedule.remove(old);
    assert!(schedule.all_read());
    let new = schedule.add(namespace(0), 1, Duration::ZERO);
    assert!(!schedule.all_read());
    assert_eq!(schedule.due(Duration::ZERO), [], "the limit is one");
    schedule.finished(old, Outcome::Answered, seconds(1.0));
    assert_eq!(schedule.due(seconds(1.0)), [new]);
    schedule.finished(old, Outcome::Answered, seconds(1.0));
    schedule.finished(new, Outcome::Answered, seconds(1.0));
    assert!(schedule.all_read());
    schedule.remove(new);
    assert!(is_empty(&schedule));
}

#[test]
fn a_clock_that_jumps_forward_makes_one_read_due_and_one_that_goes_back_none() {
    let mut schedule = Schedule::new(Settings::default());
    let id = schedule.add(namespace(0), 3, Duration::ZERO);
    assert_eq!(schedule.due(Duration::ZERO), [id]);
    schedule.finished(id, Outcome::Answered, Duration::ZERO);
    let later = seconds(7_200.001);
    assert_eq!(schedule.due(later), [id]);
    schedule.finished(id, Outcome::Answered, later);
    assert_eq!(schedule.due(later), []);
    let next = schedule.next_wake().unwrap();
    assert!(next > later && next - later <= seconds(1.5));
    assert_eq!(schedule.due(seconds(1.0)), []);
    assert_eq!(schedule.next_wake(), Some(next));
    assert_eq!(schedule.due(next), [id]);
}

fn behaviours() -> impl Strategy<Value = Behaviour> {
    prop_oneof![
        (0..60_u16).prop_map(Behaviour::Quick),
        Just(Behaviour::Slow),
        Just(Behaviour::Silent),
        Just(Behaviour::Refuses),
    ]
}

/// Adds a target to a namespace, or removes one, after a time in milliseconds.
type Step = (u16, Option<(usize, Behaviour)>, prop::sample::Index);

fn steps(namespaces: usize) -> impl Strategy<Value = Vec<Step>> {
    let change = prop::option::weighted(0.7, (0..namespaces, behaviours()));
    prop::collection::vec((0..700_u16, change, any::<prop::sample::Index>()), 1..80)
}

fn play(simulation: &mut Simulation, steps: Vec<Step>) {
    for (pause, change, chosen) in steps {
        match change {
            Some((of, behaviour)) => drop(simulation.add(of + 1, behaviour)),
            None => {
                let all: Vec<_> = simulation
                    .targets
                    .iter()
                    .filter(|(_, (of, _))| *of > 0)
                    .collect();
                if !all.is_empty() {
                    let id = *chosen.get(&all).0;
                    simulation.remove(id);
                }
            }
        }
        let until = simulation.now + MILLISECOND * u32::from(pause);
        simulation.run_until(until);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_others_do_a_namespace_that_answers_is_read_every_second(steps in steps(8)) {
        let mut simulation = Simulation::new(SMALL);
        let ids: Vec<_> = (0..5).map(|_| simulation.add(0, Behaviour::Quick(5))).collect();
        play(&mut simulation, steps);
        let end = simulation.now + seconds(2.0);
        simulation.run_until(end);
        for id in ids {
            prop_assert!(simulation.longest_gap(id) <= seconds(1.52));
        }
    }

    #[test]
    fn under_any_limits_nobody_is_forgotten_and_nothing_is_left_behind(steps in steps(6)) {
        let mut simulation = Simulation::new(TINY);
        play(&mut simulation, steps);
        let ids: Vec<_> = simulation.targets.keys().copied().collect();
        let began = simulation.now;
        // each read takes a place of two for two seconds at most, and each target backs off for eight
        let round = seconds(8.0) + seconds(2.0) * u32::try_from(ids.len()).unwrap();
        simulation.run_until(began + 2 * round);
        for id in &ids {
            let starts = &simulation.starts[id];
            prop_assert!(starts.iter().any(|at| *at >= began), "{id:?} of {}: {starts:?}", ids.len());
        }
        prop_assert!(simulation.schedule.all_read());
        ids.into_iter().for_each(|id| simulation.remove(id));
        let end = simulation.now + seconds(3.0);
        simulation.run_until(end);
        prop_assert!(is_empty(&simulation.schedule));
    }
}
