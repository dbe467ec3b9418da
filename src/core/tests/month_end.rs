//! The end of a month: what November's budget has stopped comes back on the first of December, by
//! priority and at the price that was announced for then, and each second of each pod is in the
//! account of one month.

#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by ending

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use bursar_core::budget::OnExhausted;
use bursar_core::calendar::{Month, Period};
use bursar_core::ledger::{Account, Charge, ChargeEnd, SpendFunction};
use bursar_core::model::event::{
    BatchJob, Budget, Deployment, Event, Job, Node, Owner, Pod, Role, Scheduling, Service,
};
use bursar_core::model::{AccountSpend, DEFAULT_WEIGHT, Key, Model, Name};
use bursar_core::money::Money;
use bursar_core::plan::{JobOrder, ServiceOrder, decide};
use bursar_core::pricing::{PriceCatalog, PricingAttributes};
use bursar_core::scaling::{Activation, Behavior, RequestSignal};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use common::{GPU, money, price_list, shape};

/// The first of December, in seconds after the beginning.
const TURN: i64 = 4 * 3600;
/// The ledger first looks so many seconds after that.
const LEDGER_LAG: i64 = 3;
/// When the days of November are posted.
const POSTED: i64 = TURN + 3600;
const END: i64 = TURN + 3 * 3600;
const GRACE: i64 = 30;
/// Workers take as long to stop as replicas to drain and stop.
const WORKER_GRACE: i64 = 630;
const UTC: TimeZone = TimeZone::UTC;

/// Those of a higher priority first; two replicas each.
const SERVICES: [(&str, i32); 3] = [("high", 10), ("middle", 5), ("low", 0)];
const JOB: &str = "train";

fn at(second: i64) -> Timestamp {
    let start: Timestamp = "2026-11-30T20:00:00Z".parse().unwrap();
    start + SignedDuration::from_secs(second)
}

fn key(name: &str) -> Key {
    Key::new("team", name)
}

fn service(priority: i32) -> Service {
    Service {
        created: at(-i64::from(priority)),
        priority,
        cluster_priority: priority,
        weight: DEFAULT_WEIGHT,
        min: 2,
        max: 2,
        request_signal: RequestSignal::Target(8),
        signals: vec![],
        measured_by: 0,
        growth: Default::default(),
        learned: None,
        behavior: Behavior::with_scale_down_window(Some(SignedDuration::from_secs(60))),
        idle_after: SignedDuration::from_hours(2),
        schedules: vec![],
        on_signal_failure: Default::default(),
        drain_timeout: SignedDuration::from_mins(10),
        paused: None,
        activation: Activation::OnDemand,
        replica: shape(),
        grace_seconds: GRACE,
        workers: None,
    }
}

fn job() -> Job {
    Job {
        created: at(0),
        priority: -10,
        cluster_priority: -10,
        preemption_allowed: true,
        suspend: false,
        paused: false,
        seed: 1,
        restarts: 3,
        restart_count: 0,
        ended_well: Default::default(),
        success_roles: Default::default(),
        resumes_whole: false,
        is_adopted: false,
        roles: vec![Role {
            name: "".into(),
            replicas: 2,
            worker: shape(),
            grace_seconds: WORKER_GRACE,
        }],
    }
}

/// 2.00 a GPU and hour in November, and 4.00 from the first of December on.
fn catalog() -> PriceCatalog {
    let lists = [
        price_list("a-new", Some(at(TURN)), &[("H100", "4")]),
        price_list("b-old", None, &[("H100", "2")]),
    ];
    PriceCatalog::new(lists.into(), at(0))
}

/// What a GPU costs in these seconds by that list, computed without the ledger: in November, and in
/// December.
fn bill(from: i64, to: i64) -> [i128; 2] {
    let nanos =
        |seconds: i64, price: i128| i128::from(seconds.max(0)) * price * 1_000_000_000 / 3600;
    [
        nanos(to.min(TURN) - from.min(TURN), 2),
        nanos(to.max(TURN) - from.max(TURN), 4),
    ]
}

/// A pod that has a node.
struct Bound {
    pod: Pod,
    since: i64,
    ends: Option<i64>,
}

/// A namespace with three services and a gang on eight GPUs. Orders are carried out at once; replicas
/// say nothing about their work, so they leave when their drain timeout is over.
struct Namespace {
    model: Model,
    catalog: PriceCatalog,
    accounts: BTreeMap<Month, Account>,
    pods: BTreeMap<Name, Bound>,
    /// From when until when those held a node that have ended.
    ended: Vec<(i64, i64)>,
    /// Those of them that the ledger has not settled.
    unsettled: Vec<(Name, i64)>,
    made: u32,
    was_exhausted: bool,
}

impl Namespace {
    fn new(limit: &str) -> Self {
        let mut model = Model::new(UTC, at(0));
        let budget = Budget {
            limit: money(limit),
            period: Period::Monthly,
            on_exhausted: OnExhausted::ScaleToZero,
            minimum_useful_run: SignedDuration::from_mins(5),
            latch: None,
            unmanaged: Default::default(),
            record: Default::default(),
        };
        let room = [(GPU.to_owned(), 8000), ("pods".to_owned(), 110_000)];
        let node = Node {
            takes_pods: true,
            labels: [("nvidia.com/gpu.product".to_owned(), "H100".to_owned())].into(),
            allocatable: room.into(),
            gpus: [(GPU.to_owned(), 8)].into(),
            ..Node::default()
        };
        for event in [
            Event::Prices(Arc::new(catalog())),
            Event::Budget(key("budget"), Some(budget)),
            Event::Node("node".into(), Some(node)),
            Event::Job(key(JOB), Some(job())),
        ] {
            model.apply(event, at(0));
        }
        for (name, priority) in SERVICES {
            let event = Event::Service(key(name), Some(service(priority)));
            model.apply(event, at(0));
        }
        Self {
            model,
            catalog: catalog(),
            accounts: BTreeMap::new(),
            pods: BTreeMap::new(),
            ended: Vec::new(),
            unsettled: Vec::new(),
            made: 0,
            was_exhausted: false,
        }
    }

    /// The ledger looks: it opens, carries forward, reprices and settles charges, and tells what was
    /// spent.
    fn sync_ledger(&mut self, now: i64) {
        let month = Month::containing(at(now), &UTC);
        let accounts = self.accounts.values();
        let open: Vec<Charge> = accounts
            .flat_map(|account| account.open_charges().values())
            .map(|charge| Charge::clone(charge))
            .collect();
        let present = self.accounts.entry(month);
        let present = present.or_insert_with(|| Account::new(month));
        for charge in &open {
            present.carry_forward(charge, &UTC);
        }
        for (uid, bound) in &self.pods {
            if !present.contains(uid) {
                let attributes = PricingAttributes {
                    model: Some("H100".to_owned()),
                    ..bound.pod.shape.attributes.clone().unwrap()
                };
                let charge = Charge::new(
                    uid.to_string(),
                    uid.to_string(),
                    attributes,
                    at(bound.since),
                );
                assert!(present.open(charge));
            }
        }
        for account in self.accounts.values_mut() {
            for charge in account.open_charges_mut() {
                charge.reprice(&self.catalog, at(now));
            }
            for (uid, end) in &self.unsettled {
                let end = ChargeEnd {
                    at: at(*end),
                    estimated: false,
                };
                if let Some(charge) = account.open_charge(uid).cloned() {
                    assert!(account.settle(&charge, end, &UTC));
                }
            }
            if now >= POSTED && account.month() < month {
                let running: Vec<String> = account.open_charges().keys().cloned().collect();
                for uid in running {
                    assert!(account.post_days_until(&uid, at(TURN), &UTC));
                }
            }
        }
        self.unsettled.clear();
        let within = Period::Monthly.bounds(at(now), &UTC);
        let spend = SpendFunction::of_accounts(self.accounts.values(), within, at(now), &UTC);
        let open = self.accounts[&month].open_charges();
        let rates = open.iter().map(|(uid, charge)| {
            let rate = charge.rate().map(|quote| quote.cost.total());
            (uid.as_str().into(), rate)
        });
        let account = AccountSpend {
            spent: [(Period::Monthly, (within, spend.spend))].into(),
            rates: rates.collect(),
            doubt: None,
        };
        let event = Event::Account(key("all"), Some(account));
        self.model.apply(event, at(now));
    }

    fn tell(&mut self, uid: &Name, now: i64) {
        let bound = self.pods.get(uid);
        let pod = bound.map(|bound| Box::new(bound.pod.clone()));
        self.model.apply(Event::Pod(uid.clone(), pod), at(now));
    }

    /// A pod that has a node and is ready at once.
    fn create(&mut self, owner: Owner, now: i64) {
        self.made += 1;
        let grace_seconds = match owner {
            Owner::Job(..) => WORKER_GRACE,
            _ => GRACE,
        };
        let uid: Name = format!("p{:03}", self.made).into();
        let pod = Pod {
            key: Key::new("team", &uid),
            owner,
            shape: shape(),
            node: Some("node".into()),
            scheduling: Scheduling::Queued,
            resident: false,
            created: at(now),
            ended: None,
            deletion: None,
            grace_seconds,
            ready_since: Some(at(now)),
            was_ready: true,
            draining_since: None,
            marked_for_deletion: false,
            start_failure: None,
            failure: None,
            disrupted: false,
            made_by: None,
            leader: None,
            owner_name: Default::default(),
        };
        let bound = Bound {
            pod,
            since: now,
            ends: None,
        };
        self.pods.insert(uid.clone(), bound);
        self.tell(&uid, now);
    }

    /// The UIDs of the pods of an owner that were not deleted; those that leave first come first.
    fn present(&self, owner: &Owner) -> Vec<Name> {
        let pods = self.pods.iter();
        let present = pods.filter(|(_, bound)| bound.pod.owner == *owner && bound.ends.is_none());
        let mut present: Vec<(bool, &Name)> = present
            .map(|(uid, bound)| (!bound.pod.marked_for_deletion, uid))
            .collect();
        present.sort();
        present.into_iter().map(|(_, uid)| uid.clone()).collect()
    }

    fn delete(&mut self, uid: &Name, now: i64) {
        let bound = self.pods.get_mut(uid).unwrap();
        let end = now + bound.pod.grace_seconds;
        bound.ends = Some(end);
        bound.pod.deletion = Some(at(end));
        self.tell(uid, now);
    }

    fn scale(&mut self, order: &ServiceOrder, now: i64) {
        for (uids, leaves) in [(&order.drain, true), (&order.keep, false)] {
            for uid in uids {
                self.pods.get_mut(uid).unwrap().pod.draining_since = leaves.then(|| at(now));
                self.tell(uid, now);
            }
        }
        for uid in &order.remove {
            self.pods.get_mut(uid).unwrap().pod.marked_for_deletion = true;
            self.tell(uid, now);
        }
        let replicas = order.replicas.1;
        let deployment = Deployment {
            replicas,
            first_ordinal: None,
            rollout: None,
            creation_failure: None,
        };
        let event = Event::Deployment(order.service.clone(), Some(deployment));
        self.model.apply(event, at(now));
        let owner = Owner::Service(order.service.name.clone());
        let present = self.present(&owner);
        for uid in present
            .iter()
            .take(present.len().saturating_sub(replicas as usize))
        {
            self.delete(uid, now);
        }
        for _ in present.len()..replicas as usize {
            self.create(owner.clone(), now);
        }
    }

    fn run_job(&mut self, order: &JobOrder, now: i64) {
        let batch = BatchJob {
            running: order.run,
            started: order.run.then(|| at(now)),
            ..BatchJob::default()
        };
        let event = Event::BatchJob(order.job.clone(), "".into(), Some(batch));
        self.model.apply(event, at(now));
        let owner = Owner::Job(order.job.name.clone(), "".into());
        if order.run {
            (0..2).for_each(|_| self.create(owner.clone(), now));
        } else {
            let present = self.present(&owner);
            present.iter().for_each(|uid| self.delete(uid, now));
        }
    }

    /// Decides, and carries out all orders, until nothing is left to do at this second.
    fn settle(&mut self, now: i64) {
        for _ in 0..100 {
            let decisions = decide(&mut self.model, at(now));
            for order in &decisions.service_orders {
                self.scale(order, now);
            }
            for order in &decisions.job_orders {
                self.run_job(order, now);
            }
            let is_done = decisions.service_orders.is_empty() && decisions.job_orders.is_empty();
            if is_done && !self.model.has_marks() {
                return;
            }
        }
        panic!("it does not settle");
    }

    fn end_pods(&mut self, now: i64) {
        let over = |bound: &Bound| bound.ends.is_some_and(|end| end <= now);
        let pods = self.pods.iter().filter(|(_, bound)| over(bound));
        let uids: Vec<Name> = pods.map(|(uid, _)| uid.clone()).collect();
        for uid in uids {
            let bound = self.pods.remove(&uid).unwrap();
            let end = bound.ends.unwrap();
            self.ended.push((bound.since, end));
            self.unsettled.push((uid.clone(), end));
            self.tell(&uid, now);
        }
    }

    /// The next second at which something happens: a minute later at most.
    fn next(&self, now: i64) -> i64 {
        let ends = self.pods.values().filter_map(|bound| bound.ends);
        let timer = self.model.next_timer().map(|next| {
            let seconds = next.duration_since(at(0)).as_millis_f64() / 1000.0;
            (seconds.ceil() as i64).max(now + 1)
        });
        let fixed = [TURN, TURN + LEDGER_LAG, POSTED, END, now + 60];
        let all = ends.chain(timer).chain(fixed);
        all.filter(|second| *second > now).min().unwrap()
    }

    /// Plays from `from` until after `to`. Returns when it has gone on.
    fn play(&mut self, from: i64, to: i64) -> i64 {
        let mut now = from;
        while now <= to {
            self.end_pods(now);
            if !(TURN..TURN + LEDGER_LAG).contains(&now) {
                self.sync_ledger(now);
            }
            self.settle(now);
            let budget = self.model.budget(&key("budget")).unwrap();
            self.was_exhausted |= budget.is_exhausted();
            now = self.next(now);
        }
        now
    }

    /// Pods of a service or gang that were not told to leave or to stop.
    fn staying(&self, owner: &Owner) -> usize {
        let pods = self.pods.values();
        let stays = |pod: &Pod| pod.draining_since.is_none() && pod.deletion.is_none();
        pods.filter(|bound| bound.pod.owner == *owner && stays(&bound.pod))
            .count()
    }

    /// How many replicas of each service stay, those of the highest priority first, and then workers.
    fn all_staying(&self) -> [usize; 4] {
        let [high, middle, low] =
            SERVICES.map(|(name, _)| self.staying(&Owner::Service(name.into())));
        [
            high,
            middle,
            low,
            self.staying(&Owner::Job(JOB.into(), "".into())),
        ]
    }

    /// What all pods have cost until `now`, in November and in December.
    fn billed(&self, now: i64) -> [i128; 2] {
        let open = self.pods.values().map(|bound| (bound.since, now));
        let bills = open.chain(self.ended.iter().copied());
        bills.fold([0, 0], |sum, (from, to)| {
            let bill = bill(from, to);
            [sum[0] + bill[0], sum[1] + bill[1]]
        })
    }

    /// The same, by the accounts.
    fn accounted(&self, now: i64) -> [i128; 2] {
        ["2026-11", "2026-12"].map(|month| {
            let month: Month = month.parse().unwrap();
            let account = &self.accounts[&month];
            let sum = account.sum(month.bounds(&UTC), at(now), &UTC);
            sum.cost.total().nanos()
        })
    }
}

/// Plays with this limit. Returns what stayed just before the turn, and what stays just after it.
fn turn_with(limit: &str) -> ([usize; 4], [usize; 4]) {
    let mut namespace = Namespace::new(limit);
    let turn = namespace.play(0, TURN - 1);
    assert_eq!(turn, TURN);
    assert!(namespace.was_exhausted, "{limit}: November's money lasts");
    let before = namespace.all_staying();
    // all decisions of the turn are made before the ledger has looked
    let next = namespace.play(TURN, TURN);
    let after = namespace.all_staying();
    let budget = namespace.model.budget(&key("budget")).unwrap();
    assert_eq!(budget.period.start, at(TURN), "{limit}");
    namespace.was_exhausted = false;
    namespace.play(next, END);
    assert!(namespace.was_exhausted, "{limit}: December's money lasts");
    assert_eq!(namespace.accounted(END), namespace.billed(END), "{limit}");
    let november = &namespace.accounts.values().next().unwrap();
    assert!(november.open_charges().is_empty(), "{limit}");
    for (month, spent) in namespace.billed(END).into_iter().enumerate() {
        let spent = Money::from_nanos(spent);
        assert!(spent <= money(limit), "{limit}, month {month}: {spent}");
    }
    (before, after)
}

#[test]
fn what_november_s_budget_stopped_comes_back_in_december() {
    for limit in ["14", "20", "30"] {
        let (before, after) = turn_with(limit);
        assert_eq!((before, after), ([0; 4], [2; 4]), "{limit}");
    }
}

#[test]
fn what_december_does_not_pay_for_all_comes_back_by_priority() {
    let mut numbers = Vec::new();
    for limit in ["1.5", "2.5", "3.5", "5", "6.5", "8.5", "10"] {
        let (before, after) = turn_with(limit);
        assert_eq!(before, [0; 4], "{limit}");
        // whoever has a replica leaves none of a higher priority without both
        let complete = after.iter().take_while(|number| **number == 2).count();
        let rest = &after[complete..];
        assert!(
            rest.iter().skip(1).all(|number| *number == 0),
            "{limit}: {after:?}"
        );
        numbers.push(after.iter().sum::<usize>());
    }
    assert!(numbers.is_sorted(), "{numbers:?}");
    assert!(
        (1..4).contains(&numbers[0]) && numbers[6] > 4,
        "{numbers:?}"
    );
}

#[test]
fn what_leaves_when_the_month_turns_stays_and_is_paid_for_in_both_months() {
    // 16.00 an hour are gone some minutes before the turn, and what runs takes ten to stop
    let mut kept = 0;
    for limit in ["67", "67.5", "68", "68.5", "69"] {
        let mut namespace = Namespace::new(limit);
        let turn = namespace.play(0, TURN - 1);
        let leaves = |bound: &Bound| bound.pod.draining_since.is_some() && bound.ends.is_none();
        let pods = namespace.pods.iter().filter(|(_, bound)| leaves(bound));
        let leaving: Vec<Name> = pods.map(|(uid, _)| uid.clone()).collect();
        let next = namespace.play(turn, TURN);
        let stays = |uid: &&Name| namespace.pods[*uid].pod.draining_since.is_none();
        assert!(leaving.iter().all(|uid| stays(&uid)), "{limit}");
        kept += leaving.len();
        assert_eq!(namespace.all_staying()[..3], [2; 3], "{limit}");
        // a gang starts again once its workers have stopped
        let next = namespace.play(next, TURN + WORKER_GRACE + 60);
        assert_eq!(namespace.all_staying(), [2; 4], "{limit}");
        namespace.play(next, END);
        assert_eq!(namespace.accounted(END), namespace.billed(END), "{limit}");
        for spent in namespace.billed(END) {
            assert!(Money::from_nanos(spent) <= money(limit), "{limit}: {spent}");
        }
    }
    assert!(kept > 3, "{kept}");
}
