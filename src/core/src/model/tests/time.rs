//! What changes with time alone is decided when it does.

use std::sync::Arc;

use jiff::SignedDuration;

use super::super::event::{
    Budget, Deployment, Event, Key, Owner, Pod, PodShape, Reading, Scheduling, Service,
};
use super::super::spending::AccountSpend;
use super::*;
use crate::budget::OnExhausted;
use crate::calendar::Period;
use crate::correction::Correction;
use crate::cost_report::CostOwner;
use crate::ledger::LinearSpend;
use crate::money::Money;
use crate::pricing::{
    DatedPriceList, GpuPrice, PriceCatalog, PriceList, PriceScope, PricingAttributes,
};
use crate::scaling::{Activation, Behavior, RequestSignal};

const GPU: &str = "nvidia.com/gpu";

fn money(text: &str) -> Money {
    text.parse().unwrap()
}

fn seconds(number: i64) -> SignedDuration {
    SignedDuration::from_secs(number)
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

fn key() -> Key {
    Key::new("team", "chat")
}

/// Each GPU costs 4 an hour.
pub(super) fn four_an_hour() -> Event {
    let row = GpuPrice {
        resource: GPU.to_owned(),
        model: "H100".to_owned(),
        per_hour: money("4"),
        nodes: PriceScope::default(),
        watts: None,
    };
    let list = PriceList {
        currency: "USD".to_owned(),
        gpus: vec![row],
        ..PriceList::default()
    };
    let list = DatedPriceList {
        name: "ours".to_owned(),
        effective_from: None,
        list,
    };
    let catalog = PriceCatalog::new(vec![list], Timestamp::UNIX_EPOCH);
    Event::Prices(Arc::new(catalog))
}

/// The budget of the namespace.
pub(super) fn budget(limit: &str, period: Period, useful: i64) -> Event {
    let budget = Budget {
        limit: money(limit),
        period,
        on_exhausted: OnExhausted::ScaleToZero,
        minimum_useful_run: seconds(useful),
        latch: None,
        unmanaged: Default::default(),
        record: Default::default(),
    };
    Event::Budget(Key::new("team", "all"), Some(budget))
}

/// A service at zero, whose replica would cost 4 an hour and take 100 s to stop.
fn model_of(limit: &str, period: Period, useful: i64) -> Model {
    let mut model = Model::new(TimeZone::UTC, at(0));
    model.apply(four_an_hour(), at(0));
    let service = Service {
        created: at(0),
        priority: 0,
        cluster_priority: 0,
        weight: 100,
        min: 0,
        max: 3,
        request_signal: RequestSignal::Target(8),
        signals: vec![],
        measured_by: 0,
        growth: Default::default(),
        learned: None,
        behavior: Behavior::with_scale_down_window(Some(seconds(60))),
        idle_after: seconds(600),
        schedules: vec![],
        on_signal_failure: Default::default(),
        drain_timeout: seconds(60),
        paused: None,
        activation: Activation::OnDemand,
        replica: shape(),
        grace_seconds: 30,
        workers: None,
    };
    model.apply(Event::Service(key(), Some(service)), at(0));
    model.apply(budget(limit, period, useful), at(0));
    model
}

/// An account that has spent so much, and spends so much in each second.
fn account(spent: &str, each_second: u32) -> AccountSpend {
    let rate = money("3600").times(each_second);
    let within = Period::Daily.bounds(at(0), &TimeZone::UTC);
    let spent = LinearSpend::new(money(spent), at(0), rate);
    AccountSpend {
        spent: [(Period::Daily, (within, spent))].into(),
        rates: [("uid".into(), Some(rate))].into(),
        doubt: None,
    }
}

fn tell_account(model: &mut Model, account: AccountSpend) {
    model.apply(Event::Account(Key::new("team", "a"), Some(account)), at(0));
}

/// Lets time go by, while what is due is decided and compared with a decision over everything.
/// Returns the seconds at which a request was refused for want of money or was not any more.
fn changes(model: &mut Model, seconds: std::ops::Range<i64>) -> Vec<i64> {
    let (mut changes, mut was_refused) = (Vec::new(), None);
    for half in seconds.start * 2..seconds.end * 2 {
        let now = at(half * 500);
        settle(model, now);
        let mut everything = model.clone();
        everything.mark_all();
        settle(&mut everything, now);
        let ours = essence(&model.services[&key()]);
        assert_eq!(ours, essence(&everything.services[&key()]), "{now}");
        let budget = |model: &Model| model.budget(&Key::new("team", "all")).cloned();
        let is_exhausted = |model| budget(model).map(|state| state.is_exhausted());
        assert_eq!(is_exhausted(model), is_exhausted(&everything), "{now}");
        let creation_failure = ours.and_then(|(_, _, refusal)| refusal);
        if was_refused.is_some_and(|was| was != creation_failure) {
            changes.push(half / 2);
        }
        was_refused = Some(creation_failure);
    }
    changes
}

#[test]
fn a_start_is_refused_from_the_second_on_in_which_the_money_for_it_is_spent() {
    // 100 s and 62 s at 4 an hour cost 0.18
    let mut model = model_of("50", Period::Daily, 62);
    tell_account(&mut model, account("0", 1));
    assert_eq!(changes(&mut model, 0..60), [50]);
    // what is spent besides is not among what is known to run: that takes nothing of the reserve
    let mut model = model_of("50.19", Period::Daily, 62);
    tell_account(&mut model, account("0", 1));
    assert_eq!(changes(&mut model, 0..60), [51]);
}

#[test]
fn a_budget_is_exhausted_by_what_accounts_show_though_less_is_known_to_run() {
    let mut model = model_of("45.5", Period::Daily, 0);
    tell_account(&mut model, account("0", 1));
    settle(&mut model, at(0));
    for second in 1..60 {
        settle(&mut model, at(second * 1000));
        let budget = model.budget(&Key::new("team", "all")).unwrap();
        assert_eq!(budget.is_exhausted(), second >= 46, "{second}");
    }
}

#[test]
fn a_start_is_admitted_from_the_second_on_in_which_stopping_pods_leave_the_money_for_it() {
    let mut model = model_of("71", Period::Daily, 31);
    let pod = Pod {
        key: Key::new("team", "busybox"),
        owner: Owner::Other,
        shape: shape(),
        node: Some("n".into()),
        created: at(0),
        ended: None,
        deletion: Some(at(60_250)),
        grace_seconds: 60,
        ready_since: None,
        was_ready: false,
        draining_since: None,
        marked_for_deletion: false,
        start_failure: None,
        failure: None,
        disrupted: false,
        made_by: None,
        leader: None,
        owner_name: Default::default(),
        scheduling: Scheduling::Queued,
        resident: false,
    };
    model.apply(Event::Pod("uid".into(), Some(Box::new(pod))), at(0));
    let mut account = account("0", 1);
    account.spent.clear();
    tell_account(&mut model, account);
    // 10 s more than it may take are kept in reserve; with the start, that and 31 s are to be paid
    assert_eq!(changes(&mut model, 0..60), [30]);
}

#[test]
fn a_start_is_admitted_once_the_period_ends_soon_enough() {
    let mut model = model_of("1", Period::Daily, 600);
    tell_account(&mut model, account("0.4", 0));
    // the day ends after 1800 s; 540 s at 4 an hour, each part rounded up, cost more than 0.6
    assert_eq!(changes(&mut model, 1150..1500), [1361]);
}

#[test]
fn a_correction_counts_from_its_day_on() {
    let mut model = model_of("40", Period::Monthly, 0);
    let correction = Correction {
        name: "invoice".to_owned(),
        owner: CostOwner {
            namespace: "team".to_owned(),
            workload: String::new(),
        },
        date: "2026-11-25".parse().unwrap(),
        amount: money("50"),
        currency: "USD".to_owned(),
    };
    model.apply(Event::Corrections("team".into(), vec![correction]), at(0));
    assert_eq!(changes(&mut model, 1700..1900), [1800]);
}

#[test]
fn a_service_is_idle_once_the_starts_of_its_replicas_have_failed() {
    let mut model = model_of("1000", Period::Daily, 0);
    let pod = |number: u8, failed: i64| Pod {
        key: Key::new("team", &format!("chat-{number}")),
        owner: Owner::Service("chat".into()),
        shape: shape(),
        node: Some("n".into()),
        created: at(-2_000_000),
        ended: None,
        deletion: None,
        grace_seconds: 30,
        ready_since: None,
        was_ready: number == 0,
        draining_since: None,
        marked_for_deletion: false,
        start_failure: (number > 0).then(|| ("ImagePullBackOff".into(), at(failed))),
        failure: None,
        disrupted: false,
        made_by: None,
        leader: None,
        owner_name: Default::default(),
        scheduling: Scheduling::Queued,
        resident: false,
    };
    let deployment = Deployment {
        replicas: 2,
        first_ordinal: None,
        rollout: None,
        creation_failure: None,
    };
    model.apply(Event::Deployment(key(), Some(deployment)), at(0));
    for (number, failed) in [(0, 0), (1, -20_250)] {
        let uid = format!("uid{number}").into();
        let pod = Event::Pod(uid, Some(Box::new(pod(number, failed))));
        model.apply(pod, at(0));
    }
    let reading = Reading::Counted {
        requests: 0,
        counting: Default::default(),
        moved: false,
        done: Default::default(),
    };
    model.apply(Event::Reading("uid0".into(), reading), at(-700_000));
    // one waits for an hour at most, and gives up a start that has failed for a minute
    changes(&mut model, 0..60);
    let decision = model.services[&key()].decision.as_ref().unwrap();
    assert_eq!(decision.desired, 0);
}
