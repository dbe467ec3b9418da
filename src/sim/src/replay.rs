//! Builds the cluster of a scenario and lets its requests and jobs happen.

use std::collections::BTreeMap;
use std::sync::Arc;

use bursar_core::calendar::whole_second;
use bursar_core::model::event::{Budget, Job, Role, Service};
use bursar_core::model::{Key, Name};
use bursar_core::pricing::{DatedPriceList, GpuPrice, PriceCatalog, PriceList, PriceScope};
use bursar_core::scaling::{self, Behavior, RequestSignal};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::cluster::{Demand, GPU, ServiceObject, node, shape};
use crate::event_queue::SimEvent;
use crate::event_queue::later;
use crate::faults::FaultRates;
use crate::latency::Latencies;
use crate::ledger::Usage;
use crate::scenario::{JobScenario, Scenario, ScenarioError, ServiceScenario};
use crate::simulation::{RequestSource, Simulation, Submission, Violation};
use crate::trace::{self, RequestStream};

/// After the last request of a trace the cluster comes to rest for so long.
const AFTERWARDS: SignedDuration = SignedDuration::from_mins(5);
/// A scenario of jobs alone lasts so long if it does not say.
const DAY: SignedDuration = SignedDuration::from_hours(24);
/// Points of a chart.
const SAMPLES: i64 = 240;
/// GPUs of the largest worker of a trace's job.
const LARGEST_WORKER: u32 = 8;
const NODE_CPU_MILLI: i64 = 192_000;
const POD_CPU_MILLI: i64 = 1_000;

/// A scenario that is ready to run.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) simulation: Simulation,
    pub(crate) start: Timestamp,
    pub(crate) end: Timestamp,
    /// From when on figures count.
    pub(crate) counts_from: Timestamp,
    /// What had been used by then.
    pub(crate) used_before: BTreeMap<Key, Usage>,
    /// All requests that will come.
    pub(crate) requests: usize,
}

impl Replay {
    /// Builds the cluster.
    pub(crate) fn new(scenario: &Scenario, seed: u64) -> Result<Self, ScenarioError> {
        let zone = TimeZone::get(&scenario.time_zone);
        let zone = zone.map_err(|error| ScenarioError::Value(format!("timeZone: {error}")))?;
        let start = scenario.start;
        let mut simulation = Simulation::new(seed, start, zone);
        simulation.cluster.catalog = catalog(scenario);
        add_nodes(&mut simulation, scenario)?;
        for _ in 0..scenario.gateways {
            simulation.add_gateway();
        }
        for budget in &scenario.budgets {
            let one = Budget {
                limit: budget.limit,
                period: budget.period,
                on_exhausted: budget.on_exhausted.into(),
                minimum_useful_run: budget.minimum_useful_run,
                latch: None,
                unmanaged: Default::default(),
                record: Default::default(),
            };
            let key = Key::new(&budget.namespace, &budget.name);
            simulation.cluster.budgets.insert(key, one);
        }
        for service in &scenario.services {
            add_service(&mut simulation, service, scenario.duration)?;
        }
        for job in &scenario.jobs {
            add_jobs(&mut simulation, job)?;
        }
        let sources = simulation.sources.iter();
        let requests = sources.clone().map(|source| source.stream.len()).sum();
        let last = sources
            .filter_map(|source| source.stream.last_arrival())
            .max();
        let end = match (scenario.duration, last) {
            (Some(duration), _) => later(start, duration),
            (None, Some(last)) => whole_second(later(last, AFTERWARDS)),
            (None, None) => later(start, DAY),
        };
        let length = end.duration_since(start);
        if length < SignedDuration::from_secs(1) {
            let what = "duration: it must be a second at least".to_owned();
            return Err(ScenarioError::Value(what));
        }
        let every = (length.as_secs() / SAMPLES).max(1);
        simulation.metrics.sample_every = SignedDuration::from_secs(every);
        simulation.event_queue.add(start, SimEvent::Sample);
        let changes = scenario.faults.leader_changes;
        for change in 1..=changes {
            let part = length.as_secs() * i64::from(change) / i64::from(changes + 1);
            let at = later(start, SignedDuration::from_secs(part));
            simulation.event_queue.add(at, SimEvent::LeaderFails);
        }
        simulation.rates = FaultRates {
            write: scenario.faults.failed_writes.min(90),
            pod_start: scenario.faults.failed_starts.min(90),
            ..FaultRates::default()
        };
        simulation.leader_begins();
        Ok(Self {
            simulation,
            start,
            end,
            counts_from: later(start, scenario.warm_up),
            used_before: BTreeMap::new(),
            requests,
        })
    }
}

impl Replay {
    /// Lets everything happen until `end`. Figures begin anew when the time to warm up is over.
    ///
    /// # Errors
    /// A decision that must not be.
    pub(crate) fn run_until(&mut self, end: Timestamp) -> Result<(), Violation> {
        let simulation = &mut self.simulation;
        let counts_from = self.counts_from;
        if simulation.now < counts_from && counts_from <= end {
            simulation.run_until(counts_from)?;
            self.used_before = simulation.ledger.usage(counts_from);
            simulation.metrics.begin_anew();
        }
        simulation.run_until(end)
    }
}

fn catalog(scenario: &Scenario) -> Arc<PriceCatalog> {
    let gpus = scenario.prices.iter().map(|(model, price)| GpuPrice {
        model: model.clone(),
        resource: GPU.to_owned(),
        nodes: PriceScope::default(),
        per_hour: *price,
        watts: None,
    });
    let list = PriceList {
        currency: scenario.currency.clone(),
        gpus: gpus.collect(),
        ..PriceList::default()
    };
    let dated = DatedPriceList {
        name: "scenario".to_owned(),
        effective_from: None,
        list,
    };
    Arc::new(PriceCatalog::new(vec![dated], scenario.start))
}

fn add_nodes(simulation: &mut Simulation, scenario: &Scenario) -> Result<(), ScenarioError> {
    for pool in &scenario.nodes {
        if !scenario.prices.contains_key(&pool.gpu) {
            let what = format!("nodes {}: prices has no {}", pool.name, pool.gpu);
            return Err(ScenarioError::Value(what));
        }
        for number in 0..pool.count {
            let name: Name = format!("{}-{number:03}", pool.name).into();
            let node = node(pool.gpus, NODE_CPU_MILLI, &pool.gpu);
            if pool.arrive_after > SignedDuration::ZERO {
                simulation.coming_nodes.insert(name.clone(), node);
                let at = later(scenario.start, pool.arrive_after);
                simulation
                    .event_queue
                    .add(at, SimEvent::NodeArrives(name.clone()));
            } else {
                simulation.add_node(name.clone(), node);
            }
            if let Some(lost) = pool.lost_after.filter(|_| number == 0) {
                let at = later(scenario.start, lost);
                simulation
                    .event_queue
                    .add(at, SimEvent::NodeLost(name.clone()));
                // the node controller evicts its pods after five minutes
                let gone = later(at, SignedDuration::from_mins(5));
                simulation
                    .event_queue
                    .add(gone, SimEvent::NodeRemoved(name));
            }
        }
    }
    Ok(())
}

fn add_service(
    simulation: &mut Simulation,
    scenario: &ServiceScenario,
    duration: Option<SignedDuration>,
) -> Result<(), ScenarioError> {
    let engine = &scenario.engine;
    let gpus = engine.tensor_parallel;
    let latencies = Latencies::measured(&engine.model, &engine.hardware, gpus)?;
    let spec = Service {
        created: simulation.now,
        priority: 0,
        cluster_priority: 0,
        weight: 100,
        min: scenario.min_replicas,
        max: scenario.max_replicas,
        request_signal: RequestSignal::Target(scenario.target.max(1)),
        signals: vec![],
        measured_by: 0,
        growth: scenario.growth.into(),
        learned: None,
        behavior: Behavior::with_scale_down_window(scenario.stabilization_window),
        idle_after: scenario.idle_after,
        schedules: vec![],
        on_signal_failure: Default::default(),
        drain_timeout: scenario.drain_timeout,
        paused: None,
        activation: scaling::Activation::OnDemand,
        replica: shape(gpus, POD_CPU_MILLI, Some(&engine.gpu)),
        grace_seconds: scenario.grace_seconds,
        workers: None,
    };
    // starts differ by a tenth
    let most = scenario.start_time + scenario.start_time / 10;
    let object = ServiceObject {
        spec: Some(spec),
        deployment: None,
        pods: Default::default(),
        endpoints: Vec::new(),
        demand: Demand::Requests(Arc::new(latencies)),
        start: (scenario.start_time, most),
        hold_timeout: scenario.hold_timeout,
        max_held: scenario.max_held_requests,
    };
    let key = Key::new(&scenario.namespace, &scenario.name);
    if simulation
        .cluster
        .services
        .insert(key.clone(), object)
        .is_some()
    {
        let what = format!("service {} is there twice", scenario.name);
        return Err(ScenarioError::Value(what));
    }
    let requests = &scenario.requests;
    let begin = later(simulation.now, requests.after);
    let stream = match (&requests.trace, requests.rate) {
        (Some(trace), None) => {
            let (scale, repeat) = (requests.scale, requests.repeat);
            RequestStream::from_trace(trace, scale, repeat, begin, &mut simulation.rng)?
        }
        (None, Some(rate)) => {
            let length = duration.unwrap_or(SignedDuration::from_hours(1)) - requests.after;
            let tokens = (requests.input_tokens, requests.output_tokens);
            RequestStream::at_rate(
                rate,
                requests.bursts,
                tokens,
                begin,
                length,
                &mut simulation.rng,
            )
        }
        _ => {
            let name = &scenario.name;
            let what = format!("service {name}: requests has one of trace and rate");
            return Err(ScenarioError::Value(what));
        }
    };
    if let Some(first) = stream.next_arrival() {
        let source = u32::try_from(simulation.sources.len()).unwrap_or(u32::MAX);
        simulation.event_queue.add(first, SimEvent::Request(source));
    }
    simulation.sources.push(RequestSource {
        service: key,
        stream,
    });
    Ok(())
}

fn add_jobs(simulation: &mut Simulation, scenario: &JobScenario) -> Result<(), ScenarioError> {
    let lines = match &scenario.trace {
        None => {
            let runs = scenario.runs;
            vec![(0.0, scenario.workers, scenario.gpus, runs)]
        }
        Some(name) => {
            let lines = trace::jobs(name)?.into_iter().take(scenario.most);
            let speed = scenario.speed.max(f64::MIN_POSITIVE);
            lines
                .map(|line| {
                    let workers = line.gpus.div_ceil(LARGEST_WORKER).max(1);
                    let gpus = line.gpus.clamp(1, LARGEST_WORKER);
                    let seconds = (line.seconds as f64 / speed) as i64;
                    let runs = SignedDuration::from_secs(seconds.max(1));
                    (line.submitted_s / speed, workers, gpus, runs)
                })
                .collect()
        }
    };
    for (number, (seconds, workers, gpus, runs)) in lines.into_iter().enumerate() {
        let name = match scenario.trace {
            None => scenario.name.clone(),
            Some(_) => format!("{}-{number:04}", scenario.name),
        };
        let role = Role {
            name: "".into(),
            replicas: workers,
            worker: shape(gpus, POD_CPU_MILLI, Some(&scenario.gpu)),
            grace_seconds: scenario.grace_seconds,
        };
        let job = Job {
            created: simulation.now,
            priority: scenario.priority,
            cluster_priority: scenario.priority,
            preemption_allowed: true,
            suspend: false,
            paused: false,
            seed: simulation.rng.u64(..),
            restarts: 3,
            restart_count: 0,
            ended_well: Default::default(),
            success_roles: Default::default(),
            resumes_whole: false,
            is_adopted: false,
            roles: vec![role],
        };
        let most = scenario.start_time + scenario.start_time / 10;
        let place = u32::try_from(simulation.submissions.len()).unwrap_or(u32::MAX);
        simulation.submissions.push(Submission {
            key: Key::new(&scenario.namespace, &name),
            job,
            runs,
            start: (scenario.start_time, most),
        });
        let after = scenario.after + SignedDuration::from_millis((seconds * 1e3) as i64);
        let at = later(simulation.now, after);
        simulation.event_queue.add(at, SimEvent::Submit(place));
    }
    Ok(())
}
