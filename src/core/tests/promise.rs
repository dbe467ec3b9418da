//! The promise of a budget that scales to zero: while decisions are carried out, what is spent in a
//! period is at most the limit, whatever prices are announced and however long pods take to stop.

#![allow(clippy::unwrap_used)] // a test fails by ending

#[path = "common/pods.rs"]
mod pods;
#[path = "common/services.rs"]
mod services;

use std::collections::BTreeMap;
use std::sync::Arc;

use bursar_core::budget::OnExhausted;
use bursar_core::calendar::{Interval, Period};
use bursar_core::ledger::LinearSpend;
use bursar_core::model::event::{
    Budget, Deployment, Event, Node, Owner, Pod, PodShape, Reading, Service,
};
use bursar_core::model::{AccountSpend, Key, Model, Name};
use bursar_core::money::Money;
use bursar_core::plan::{ServiceOrder, decide};
use bursar_core::pricing::{
    DatedPriceList, GpuPrice, PriceCatalog, PriceList, PriceScope, PricingAttributes,
};
use bursar_core::scaling::Behavior;
use fastrand::Rng;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use pods::new_pod;
use services::new_service;

const GPU: &str = "nvidia.com/gpu";

fn at(second: i64) -> Timestamp {
    // the day ends four hours later
    let start: Timestamp = "2026-12-14T20:00:00Z".parse().unwrap();
    start + SignedDuration::from_secs(second)
}

/// A pod, when it will be bound, become ready and end.
struct Replica {
    pod: Pod,
    binds: i64,
    ready: i64,
    bound: Option<i64>,
    ends: Option<i64>,
}

/// A namespace with services whose orders are carried out at once.
struct Namespace {
    rng: Rng,
    model: Model,
    /// Cents an hour of a GPU, each from its second on, in their order.
    prices: Vec<(i64, u32)>,
    services: BTreeMap<Name, (Service, u32)>,
    pods: BTreeMap<Name, Replica>,
    ended: Vec<(i64, i64)>,
    made: u32,
    exhausted: bool,
    budget: Budget,
    /// A new limit, from this second on.
    edit: Option<(i64, Money)>,
    /// What would have been spent, had all stopped when the edit took effect.
    at_effect: Money,
    /// The edit waited.
    waited: bool,
}

fn shape() -> Arc<PodShape> {
    let attributes = PricingAttributes {
        resource: GPU.to_owned(),
        gpus: 1,
        ..PricingAttributes::default()
    };
    Arc::new(PodShape {
        attributes: Some(attributes),
        ..PodShape::default()
    })
}

fn cents(amount: u32) -> Money {
    "0.01".parse::<Money>().unwrap().times(amount)
}

fn catalog(prices: &[(i64, u32)]) -> PriceCatalog {
    let list = |(number, (from, price)): (usize, &(i64, u32))| DatedPriceList {
        name: format!("list-{}", 9 - number),
        effective_from: (*from > 0).then(|| at(*from)),
        list: PriceList {
            currency: "USD".to_owned(),
            gpus: vec![GpuPrice {
                model: "H100".to_owned(),
                resource: GPU.to_owned(),
                nodes: PriceScope::default(),
                per_hour: cents(*price),
                watts: None,
            }],
            ..PriceList::default()
        },
    };
    PriceCatalog::new(prices.iter().enumerate().map(list).collect(), at(0))
}

impl Namespace {
    fn new(seed: u64, limit: Money) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut model = Model::new(TimeZone::UTC, at(0));
        let mut prices = vec![(0, rng.u32(50..500))];
        for _ in 0..rng.u8(0..4) {
            prices.push((rng.i64(600..14_000), rng.u32(50..1500)));
        }
        prices.sort_unstable();
        model.apply(Event::Prices(Arc::new(catalog(&prices))), at(0));
        let node = Node {
            takes_pods: true,
            labels: [("nvidia.com/gpu.product".to_owned(), "H100".to_owned())].into(),
            gpus: [(GPU.to_owned(), 64)].into(),
            ..Node::default()
        };
        model.apply(Event::Node("node".into(), Some(node)), at(0));
        let budget = Budget {
            limit,
            period: Period::Daily,
            on_exhausted: OnExhausted::ScaleToZero,
            minimum_useful_run: SignedDuration::from_secs(rng.i64(0..600)),
            latch: None,
            unmanaged: Default::default(),
            record: Default::default(),
        };
        let event = Event::Budget(Key::new("team", "all"), Some(budget.clone()));
        model.apply(event, at(0));
        let mut services = BTreeMap::new();
        for number in 0..rng.u8(1..4) {
            let service = Service {
                priority: *rng.choice(&[0, 0, 10]).unwrap(),
                min: rng.u32(1..6),
                max: 6,
                behavior: Behavior::with_scale_down_window(Some(SignedDuration::from_secs(30))),
                idle_after: SignedDuration::from_secs(600),
                schedules: vec![],
                on_signal_failure: Default::default(),
                drain_timeout: SignedDuration::from_secs(*rng.choice(&[0, 60, 900, 3600]).unwrap()),
                grace_seconds: *rng.choice(&[0, 30, 600, 3600]).unwrap(),
                ..new_service(shape(), at(i64::from(number)))
            };
            let name: Name = format!("s{number}").into();
            let key = Key::new("team", &name);
            model.apply(Event::Service(key, Some(service.clone())), at(0));
            services.insert(name, (service, 0));
        }
        Self {
            rng,
            model,
            prices,
            services,
            pods: BTreeMap::new(),
            ended: Vec::new(),
            made: 0,
            exhausted: false,
            budget,
            edit: None,
            at_effect: Money::ZERO,
            waited: false,
        }
    }

    fn price(&self, second: i64) -> Money {
        let mut begun = self.prices.iter().rev();
        cents(begun.find(|(from, _)| *from <= second).unwrap().1)
    }

    /// What all pods have cost until `now`.
    fn spent(&self, now: i64) -> Money {
        let open = self.pods.values();
        let open = open.filter_map(|replica| Some((replica.bound?, now)));
        let parts = open.chain(self.ended.iter().copied());
        let cost = parts.map(|(start, end)| {
            let mut changes: Vec<i64> = self.prices.iter().map(|(from, _)| *from).collect();
            changes.retain(|at| start < *at && *at < end);
            changes.insert(0, start);
            changes.push(end);
            let spans = changes.windows(2);
            let spans = spans.map(|span| self.price(span[0]).cost_for_seconds(span[1] - span[0]));
            spans.sum::<Money>()
        });
        cost.sum()
    }

    fn tell(&mut self, uid: &Name, now: i64) {
        let pod = self
            .pods
            .get(uid)
            .map(|replica| Box::new(replica.pod.clone()));
        self.model.apply(Event::Pod(uid.clone(), pod), at(now));
    }

    fn tell_account(&mut self, now: i64) {
        let price = self.price(now);
        let bound = self
            .pods
            .iter()
            .filter(|(_, replica)| replica.bound.is_some());
        let rates: BTreeMap<Name, Option<Money>> =
            bound.map(|(uid, _)| (uid.clone(), Some(price))).collect();
        let rate = rates.values().flatten().copied().sum();
        let within: Interval = Period::Daily.bounds(at(now), &TimeZone::UTC);
        let spend = LinearSpend::new(self.spent(now), at(now), rate);
        let account = AccountSpend {
            spent: [(Period::Daily, (within, spend))].into(),
            rates,
            doubt: None,
        };
        let event = Event::Account(Key::new("team", "all"), Some(account));
        self.model.apply(event, at(now));
    }

    /// What happens to pods at `now`.
    fn advance(&mut self, now: i64) {
        let uids: Vec<Name> = self.pods.keys().cloned().collect();
        for uid in uids {
            let replica = self.pods.get_mut(&uid).unwrap();
            let mut changed = false;
            if replica.bound.is_none() && replica.binds <= now {
                (replica.bound, replica.pod.node) = (Some(now), Some("node".into()));
                changed = true;
            }
            if replica.pod.ready_since.is_none() && replica.bound.is_some() && replica.ready <= now
            {
                replica.pod.ready_since = Some(at(now));
                changed = true;
            }
            if replica.ends.is_some_and(|end| end <= now) {
                self.ended.push((replica.bound.unwrap(), now));
                self.pods.remove(&uid);
                self.tell(&uid, now);
            } else if changed {
                self.tell(&uid, now);
                // some engines are idle, and others are never read
                if self.rng.bool() {
                    let reading = Reading::Counted {
                        requests: 0,
                        counting: Default::default(),
                        moved: true,
                        done: Default::default(),
                    };
                    self.model.apply(Event::Reading(uid, reading), at(now));
                }
            }
        }
    }

    fn carry_out(&mut self, order: &ServiceOrder, now: i64) {
        for (uids, leaves) in [(&order.drain, true), (&order.keep, false)] {
            for uid in uids {
                if let Some(replica) = self.pods.get_mut(uid) {
                    replica.pod.draining_since = leaves.then(|| at(now));
                    self.tell(uid, now);
                }
            }
        }
        for uid in &order.remove {
            if let Some(replica) = self.pods.get_mut(uid) {
                replica.pod.marked_for_deletion = true;
                self.tell(uid, now);
            }
        }
        let name = order.service.name.clone();
        let replicas = order.replicas.1;
        let (service, declared) = self.services.get_mut(&name).unwrap();
        *declared = replicas;
        let service = service.clone();
        let deployment = Deployment {
            replicas,
            first_ordinal: None,
            rollout: None,
            creation_failure: None,
        };
        let event = Event::Deployment(order.service.clone(), Some(deployment));
        self.model.apply(event, at(now));
        let owner = Owner::Service(name);
        let live = |replica: &Replica| replica.pod.owner == owner && replica.pod.deletion.is_none();
        let mut present: Vec<(Name, bool, bool)> = Vec::new();
        for (uid, replica) in self.pods.iter().filter(|(_, replica)| live(replica)) {
            let (released, bound) = (replica.pod.marked_for_deletion, replica.bound.is_some());
            present.push((uid.clone(), bound, !released));
        }
        present.sort_by_key(|(uid, bound, stays)| (*bound, *stays, uid.clone()));
        let surplus = present.len().saturating_sub(replicas as usize);
        for (uid, bound, _) in present.drain(..surplus) {
            if bound {
                let grace = service.grace_seconds;
                // it ends early, at its last moment, or is seen to have ended late
                let ends = match self.rng.u8(0..3) {
                    0 => self.rng.i64(0..=grace),
                    1 => grace,
                    _ => grace + 8,
                };
                let replica = self.pods.get_mut(&uid).unwrap();
                replica.pod.deletion = Some(at(now + grace));
                replica.ends = Some(now + ends.max(1));
            } else {
                self.pods.remove(&uid);
            }
            self.tell(&uid, now);
        }
        for _ in present.len()..replicas as usize {
            self.made += 1;
            let uid: Name = format!("p{:04}", self.made).into();
            let binds = match self.rng.u8(0..4) {
                0 => now + 1,
                1 => i64::MAX,
                // several nodes come at once
                2 => (now / 3000 + 1) * 3000,
                _ => now + self.rng.i64(1..3000),
            };
            let pod = Pod {
                grace_seconds: service.grace_seconds,
                ..new_pod(Key::new("team", &uid), owner.clone(), shape(), at(now))
            };
            let replica = Replica {
                pod,
                binds,
                ready: binds.saturating_add(self.rng.i64(1..300)),
                bound: None,
                ends: None,
            };
            self.pods.insert(uid.clone(), replica);
            self.tell(&uid, now);
        }
    }

    /// The next second after `now` at which something happens.
    fn next(&self, now: i64) -> i64 {
        let of_pods = self.pods.values().flat_map(|replica| {
            let (binds, ready) = (replica.binds, replica.ready);
            [Some(binds), Some(ready), replica.ends]
                .into_iter()
                .flatten()
        });
        let edit = self.edit.map(|(second, _)| second);
        let changes = self.prices.iter().map(|(from, _)| *from).chain(edit);
        let timer = self.model.next_timer().map(|next| {
            let seconds = next.duration_since(at(0)).as_millis_f64() / 1000.0;
            seconds.ceil() as i64
        });
        let all = of_pods.chain(changes).filter(|at| *at > now);
        all.chain(timer.map(|at| at.max(now + 1))).min().unwrap()
    }

    /// Runs until the day ends. Returns what was spent.
    fn run(&mut self) -> Money {
        let (mut now, end) = (0, 4 * 3600);
        while now < end {
            self.advance(now);
            self.tell_account(now);
            if let Some((_, limit)) = self.edit.filter(|(second, _)| *second == now) {
                self.budget.limit = limit;
                let event = Event::Budget(Key::new("team", "all"), Some(self.budget.clone()));
                self.model.apply(event, at(now));
            }
            let waits = |namespace: &Self| {
                let budget = namespace.model.budget(&Key::new("team", "all"));
                budget.is_some_and(|budget| budget.pending.is_some())
            };
            let waited = waits(self);
            for _ in 0..100 {
                let decisions = decide(&mut self.model, at(now));
                for order in &decisions.service_orders {
                    self.carry_out(order, now);
                }
                if !self.model.has_marks() {
                    break;
                }
            }
            let budget = self.model.budget(&Key::new("team", "all")).unwrap();
            self.exhausted |= budget.is_exhausted();
            let is_edited = self.edit.is_some_and(|(second, _)| second == now);
            if (waited || is_edited) && budget.pending.is_none() {
                self.at_effect = budget.budget.spent + budget.reserve;
                self.waited |= waited;
            }
            now = self.next(now).min(end);
        }
        self.advance(now);
        self.spent(end)
    }
}

#[test]
fn spend_in_a_period_is_at_most_the_limit() {
    let (mut exhausted, mut used) = (0, 0);
    for seed in 0..200 {
        let limit = cents(Rng::with_seed(seed ^ 0xb0d6).u32(200..6000));
        let mut namespace = Namespace::new(seed, limit);
        let spent = namespace.run();
        exhausted += u32::from(namespace.exhausted);
        used += u32::from(spent.times(2) > limit);
        assert!(spent <= limit, "seed {seed}: {spent} of {limit}");
    }
    assert!(
        exhausted > 40 && used > 60,
        "{exhausted} exhausted, {used} used"
    );
}

#[test]
fn after_an_edit_the_promise_counts_from_the_end_of_the_window() {
    let (mut waited, mut over) = (0, 0);
    for seed in 0..200 {
        let mut rng = Rng::with_seed(seed ^ 0xed17);
        let former = cents(rng.u32(2000..6000));
        let limit = cents(rng.u32(100..2000));
        let mut namespace = Namespace::new(seed, former);
        let grace = SignedDuration::from_mins(10);
        namespace.model = namespace.model.with_change_grace(grace);
        namespace.edit = Some((rng.i64(600..12_000), limit));
        let spent = namespace.run();
        assert!(spent <= former, "seed {seed}: {spent} of {former}");
        // what ran when the edit took effect stopped then, if it was too much
        let most = namespace.at_effect.max(limit);
        assert!(spent <= most, "seed {seed}: {spent} of {limit}, or {most}");
        waited += u32::from(namespace.waited);
        over += u32::from(spent > limit);
    }
    assert!(waited > 30 && over > 10, "{waited} waited, {over} over");
}
