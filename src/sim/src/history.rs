//! A random history: a cluster in which things go wrong for a while and then no more, and what must
//! hold at its end.

use std::collections::BTreeSet;

use bursar_core::budget::OnExhausted;
use bursar_core::calendar::{Interval, Period};
use bursar_core::model::Key;
use bursar_core::model::event::Budget;
use bursar_core::money::Money;
use bursar_core::plan::{LimitedBy, ServiceOrder};
use bursar_core::scaling;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::cluster::Demand;
use crate::event_queue::SimEvent;
use crate::event_queue::later;
use crate::faults::{Fault, FaultRates, Tally};
use crate::invariants::InvariantChecker;
use crate::random_actions::seconds;
use crate::simulation::{Chaos, Simulation, Violation};

/// A history has at least so many events ...
const MIN_EVENTS: u64 = 200;
/// ... and at least so many random acts.
const MIN_ACTS: u32 = 15;
/// Windows, idle times, drains, back-offs of gateways: all is over after this long.
const SETTLE: SignedDuration = SignedDuration::from_secs(400);
/// Under constant demand no order comes within this long.
const OBSERVE: SignedDuration = SignedDuration::from_secs(200);
/// A new leader has read all engines and heard all gateways after this long.
const NEW_LEADER: SignedDuration = SignedDuration::from_secs(8);

/// Plays the history of a seed, and returns what happened in it.
///
/// # Errors
/// What must not be.
pub fn play(seed: u64) -> Result<Tally, Violation> {
    let mut history = begin(seed);
    history.run()?;
    Ok(history.tally)
}

fn begin(seed: u64) -> Simulation {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x5eed);
    let uniform = rng.bool();
    // in half of the histories a day ends after a while
    let seconds = match rng.bool() {
        true => 1_796_083_200 - rng.i64(60..900),
        false => 1_796_040_000,
    };
    let start = Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH);
    let mut simulation = Simulation::new(seed, start, TimeZone::UTC);
    simulation.invariants = Some(InvariantChecker::new(uniform));
    simulation.rates = FaultRates {
        write: rng.u8(0..15),
        watch: rng.u8(0..10),
        ledger: rng.u8(0..10),
        pod_start: rng.u8(0..10),
    };
    let namespaces: &[&str] = match rng.bool() {
        true => &["team"],
        false => &["team", "other"],
    };
    simulation.chaos = Some(Chaos {
        namespaces: namespaces.iter().map(|name| (*name).into()).collect(),
        uniform,
        fixed_prices: rng.u8(..100) < 85,
        ..Chaos::default()
    });
    simulation.furnish();
    simulation
}

impl Simulation {
    fn furnish(&mut self) {
        self.cluster.catalog = crate::random_actions::catalog("36", "18");
        for _ in 0..self.rng.u32(1..4) {
            self.random_node(false);
        }
        for _ in 0..self.rng.u32(1..3) {
            self.add_gateway();
        }
        let limit = Money::from_nanos(i128::from(self.rng.u64(500..30_000)) * 1_000_000);
        let budget = Budget {
            limit,
            period: match self.rng.u8(..4) {
                0 => Period::Monthly,
                1 => Period::Weekly,
                _ => Period::Daily,
            },
            on_exhausted: match self.rng.u8(..6) {
                0 => OnExhausted::ScaleToMin,
                1 => OnExhausted::Freeze,
                _ => OnExhausted::ScaleToZero,
            },
            minimum_useful_run: SignedDuration::from_secs(self.rng.i64(0..120)),
            latch: None,
            unmanaged: Default::default(),
            record: Default::default(),
        };
        self.cluster
            .budgets
            .insert(Key::new("team", "budget"), budget);
        for _ in 0..self.rng.u32(1..4) {
            self.random_service();
        }
        for _ in 0..self.rng.u32(1..3) {
            self.random_job();
        }
        let node_start = seconds(self.rng.i64(60..300));
        self.cluster.node_start = (self.rng.u8(..3) == 0).then_some(node_start);
        self.leader_begins();
        self.add_within(5_000, 60_000, SimEvent::LeaderFails);
        let first = self.after(100);
        self.event_queue.add(first, SimEvent::Act);
    }

    /// True once enough has happened.
    pub(crate) fn is_eventful(&self) -> bool {
        let random_actions = self.chaos.as_ref().map_or(0, |chaos| chaos.random_actions);
        self.tally.all_events() >= MIN_EVENTS
            && random_actions >= MIN_ACTS
            && self.tally.faults.contains_key(&Fault::LeaderChange)
            && self.leader.is_some()
    }

    fn run(&mut self) -> Result<(), Violation> {
        while self.chaos.as_ref().is_some_and(|chaos| !chaos.over) {
            self.run_until(self.after(1_000))?;
        }
        self.end_all_faults();
        // what changes at midnight has changed
        let day = Period::Daily.bounds(self.now, &self.zone);
        if day.end.duration_since(self.now) < SETTLE + OBSERVE + SETTLE + NEW_LEADER {
            self.check_budgets()?;
            self.run_until(later(day.end, SignedDuration::from_secs(1)))?;
        }
        self.run_until(later(self.now, SETTLE))?;
        self.metrics.order_log = Some(Vec::new());
        let (starting, waiting) = (self.unasked_starts(), self.services_without_room());
        self.run_until(later(self.now, OBSERVE))?;
        self.check_steady(&starting, &waiting)?;
        self.let_stops_end()?;
        self.check_complete()?;
        self.metrics.order_log = Some(Vec::new());
        self.leader = None;
        self.leader_begins();
        self.run_until(later(self.now, NEW_LEADER))?;
        self.check_new_leader()?;
        self.check_budgets()
    }

    /// What a budget has stopped a moment ago is gone.
    fn let_stops_end(&mut self) -> Result<(), Violation> {
        loop {
            let ends = self.statuses.latched.map(|at| later(at, SETTLE));
            let Some(ends) = ends.filter(|ends| *ends > self.now) else {
                return Ok(());
            };
            self.run_until(ends)?;
        }
    }

    fn violation(&self, what: String) -> Violation {
        Violation { at: self.now, what }
    }

    /// Whether a budget counts in a namespace.
    fn has_budget(&self, namespace: &str) -> bool {
        let mut budgets = self.cluster.budgets.keys();
        budgets.any(|key| *key.namespace == *namespace)
    }

    /// Services whose replicas start, or have just started, though nobody asks for them any more: time
    /// alone ends that.
    fn unasked_starts(&self) -> BTreeSet<Key> {
        let services = self.cluster.services.iter();
        let starting = services.filter(|(_, service)| {
            let idle_after = service.spec.as_ref().map(|spec| spec.idle_after);
            let is_new = |ready_since: Timestamp| {
                idle_after.is_some_and(|idle| self.now.duration_since(ready_since) <= idle)
            };
            let pods = service.pods.iter();
            let mut pods = pods.filter_map(|pod| self.cluster.pods.get(pod));
            matches!(service.demand, Demand::Depth(0))
                && pods.any(|pod| pod.stays() && pod.pod.ready_since.is_none_or(is_new))
        });
        starting.map(|(key, _)| key.clone()).collect()
    }

    /// Services of which a replica has no node yet: what a budget stops may leave it one.
    fn services_without_room(&self) -> BTreeSet<Key> {
        let services = self.cluster.services.iter();
        let waiting = services.filter(|(_, service)| {
            let pods = service.pods.iter();
            let mut pods = pods.filter_map(|pod| self.cluster.pods.get(pod));
            pods.any(|pod| pod.pod.node.is_none())
        });
        waiting.map(|(key, _)| key.clone()).collect()
    }

    /// Under constant demand orders stop; where money runs out, services only lose replicas, and so do
    /// those whose replicas were `starting` unasked. Requests for one that was `waiting` for a node
    /// move to it when it has one, and may be seen nowhere meanwhile.
    fn check_steady(
        &mut self,
        starting: &BTreeSet<Key>,
        waiting: &BTreeSet<Key>,
    ) -> Result<(), Violation> {
        let log = self.metrics.order_log.clone().unwrap_or_default();
        self.tally
            .note_check("orders stopped under constant demand");
        for (nth, order) in log.iter().enumerate() {
            let key = &order.service;
            let may_lose = self.has_budget(&key.namespace) || starting.contains(key);
            if !may_lose {
                let what = format!("order under constant demand: {order:?}");
                return Err(self.violation(what));
            }
            let grows = order.replicas.1 > order.replicas.0 || !order.keep.is_empty();
            // what had no node and was taken back for money starts when others leave it some, and what
            // gave way when the others have taken less
            let took_away = |earlier: &ServiceOrder| {
                let may_return = ["have no node yet", "give way to"];
                let may_return = may_return.iter().any(|why| earlier.reason.contains(why));
                earlier.service == *key && !earlier.drain.is_empty() && !may_return
            };
            let mut before = log.iter().take(nth);
            if grows && !waiting.contains(key) && before.any(took_away) {
                let what = format!("replicas that come after some went: {order:?}");
                return Err(self.violation(what));
            }
        }
        Ok(())
    }

    /// No order is lost: everything is as it was last decided, and as the demand asks.
    fn check_complete(&mut self) -> Result<(), Violation> {
        self.tally.note_check("everything is as decided");
        for (key, service) in &self.cluster.services {
            let Some(spec) = &service.spec else {
                continue;
            };
            let name = &key.name;
            let Some(decision) = self.statuses.services.get(key) else {
                return Err(self.violation(format!("no decision over {name}")));
            };
            let replicas = service.deployment.as_ref().map(|found| found.replicas);
            let pods = service
                .pods
                .iter()
                .filter_map(|pod| self.cluster.pods.get(pod));
            let (draining, staying): (Vec<_>, Vec<_>) = pods
                .filter(|pod| pod.stays())
                .partition(|pod| pod.pod.draining_since.is_some());
            let is_starting = staying.iter().any(|pod| pod.pod.ready_since.is_none());
            let staying = staying.len();
            if self.is_on_its_way(key, false) {
                // while money runs out, replicas go one by one
                continue;
            }
            // the Deployment has those that drain until it is told to delete them
            let allowed = decision.allowed as usize;
            let told = allowed..=allowed + draining.len();
            let is_told = replicas.is_some_and(|replicas| told.contains(&(replicas as usize)));
            if !is_told || staying != allowed {
                let what =
                    format!("{name} has {replicas:?} replicas, {staying} pods: {decision:?}");
                return Err(self.violation(what));
            }
            let Demand::Depth(depth) = service.demand else {
                continue;
            };
            let is_free = !matches!(
                decision.limited_by,
                Some(
                    LimitedBy::Budget
                        | LimitedBy::PriceUnknown
                        | LimitedBy::Paused
                        | LimitedBy::Preempted
                )
            );
            let never = spec.activation == scaling::Activation::Never;
            let target = spec.request_signal.target().unwrap_or(1);
            let asked = scaling::replicas_for(depth, target);
            // a start goes on though nobody asks for it any more
            let asked = asked.max(u32::from(is_starting && decision.allowed == 1));
            let expected = asked.clamp(spec.min.min(spec.max), spec.max);
            if is_free && !never && decision.allowed != expected {
                let what = format!("{name} should have {expected} for {depth}: {decision:?}");
                return Err(self.violation(what));
            }
        }
        for (key, job) in &self.cluster.jobs {
            let Some(spec) = &job.spec else { continue };
            if job
                .batch_jobs
                .values()
                .any(|batch| batch.finished.is_some())
            {
                continue;
            }
            let Some(decision) = self.statuses.jobs.get(key) else {
                return Err(self.violation(format!("no decision over {}", key.name)));
            };
            let running = job.batch_jobs.values().any(|batch| batch.running);
            let is_on_its_way = self.is_on_its_way(key, true);
            let known: usize = job.batch_jobs.len();
            if !is_on_its_way && (running != decision.run || known != spec.roles.len()) {
                let what = format!("{} runs: {running}: {decision:?}", key.name);
                return Err(self.violation(what));
            }
        }
        Ok(())
    }

    /// Whether an order for a service, or for a TrainingJob, has not been carried out yet.
    fn is_on_its_way(&self, key: &Key, is_job: bool) -> bool {
        let leader = self.leader.as_ref();
        leader.is_some_and(|leader| leader.orders.contains_key(&(key.clone(), is_job)))
    }

    /// A leader that learns everything anew decides the same.
    fn check_new_leader(&mut self) -> Result<(), Violation> {
        self.tally.note_check("a new leader decided the same");
        let log = self.metrics.order_log.take().unwrap_or_default();
        let order = log
            .iter()
            .find(|order| !self.has_budget(&order.service.namespace));
        match order {
            Some(order) => Err(self.violation(format!("a new leader orders {order:?}"))),
            None => Ok(()),
        }
    }

    /// No budget is exceeded, but by what faults have an excuse for.
    fn check_budgets(&mut self) -> Result<(), Violation> {
        let chaos = self.chaos.clone().unwrap_or_default();
        if !chaos.fixed_prices {
            return Ok(());
        }
        for (key, budget) in &self.cluster.budgets {
            if budget.on_exhausted != OnExhausted::ScaleToZero || chaos.edited.contains(key) {
                continue;
            }
            let within = budget.period.bounds(self.now, &self.zone);
            let spent = self.ledger.spent(&key.namespace, within, self.now);
            let since = self.statuses.exhausted.get(key);
            let since = since.filter(|(_, start)| *start == within.start);
            // nothing is reserved for what nobody can stop, not even the second that runs
            let since = since.map_or(within.end, |(at, _)| *at - SignedDuration::from_secs(2));
            let beyond = self
                .ledger
                .spent_beyond_control(&key.namespace, within, since, self.now);
            let excused = self
                .excused
                .get(&key.namespace)
                .copied()
                .unwrap_or_default();
            if spent > budget.limit + beyond + excused {
                let what = format!(
                    "{} spent {spent} of {} (beyond control {beyond}, excused {excused})",
                    key.namespace, budget.limit
                );
                return Err(self.violation(what));
            }
            if since < within.end {
                self.tally
                    .note_check("an exhausted budget was not exceeded");
                if beyond + excused == Money::ZERO {
                    self.tally.note_check("the same without an excuse");
                }
            }
        }
        Ok(())
    }

    /// Faults for so many seconds excuse what the namespace costs meanwhile.
    pub(crate) fn excuse(&mut self, namespace: &str, seconds: i64) {
        if self.invariants.is_none() {
            return;
        }
        let budget_states = self.statuses.budgets.iter();
        let ordered = budget_states.filter(|(key, _)| *key.namespace == *namespace);
        let ordered = ordered.map(|(_, budget_state)| budget_state.rate).max();
        let rate = self.ledger.rate(namespace).max(ordered.unwrap_or_default());
        let amount = rate.cost_for_seconds_rounded_up(seconds);
        *self.excused.entry(namespace.into()).or_default() += amount;
    }

    /// As [`Simulation::excuse`], if the budget is so near its limit that it is stopping all, or
    /// would be.
    pub(crate) fn excuse_if_near_limit(&mut self, key: &Key, seconds: i64) {
        let Some(budget) = self.cluster.budgets.get(key) else {
            return;
        };
        if self.invariants.is_none() {
            return;
        }
        let within: Interval = budget.period.bounds(self.now, &self.zone);
        let limit = budget.limit;
        let spent = self.ledger.spent(&key.namespace, within, self.now);
        let budget_state = self.statuses.budgets.get(key);
        let reserve = budget_state.map_or(Money::ZERO, |budget_state| budget_state.reserve);
        let rate = self.ledger.rate(&key.namespace);
        let needed = rate.cost_for_seconds_rounded_up(seconds + 10) + reserve;
        if spent + needed >= limit {
            self.excuse(&key.namespace, seconds);
        }
    }
}
