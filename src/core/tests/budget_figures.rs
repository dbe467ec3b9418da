//! What is said of a budget while nothing happens.

#![allow(clippy::unwrap_used)] // a test fails by ending

use bursar_core::budget::OnExhausted;
use bursar_core::calendar::Period;
use bursar_core::ledger::LinearSpend;
use bursar_core::model::event::{Budget, Event};
use bursar_core::model::{AccountSpend, Key, Model};
use bursar_core::money::Money;
use bursar_core::plan::decide;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_796_000_000 + second).unwrap()
}

fn money(text: &str) -> Money {
    text.parse().unwrap()
}

/// A budget, and an account that had spent 1 when it was reported and spends this much an hour.
fn model(rate: &str) -> Model {
    let mut model = Model::new(TimeZone::UTC, at(0));
    let budget = Budget {
        limit: money("1000"),
        period: Period::Monthly,
        on_exhausted: OnExhausted::Freeze,
        minimum_useful_run: SignedDuration::ZERO,
        latch: None,
        unmanaged: Default::default(),
        record: Default::default(),
    };
    let within = Period::Monthly.bounds(at(0), &TimeZone::UTC);
    let account = AccountSpend {
        spent: [(
            Period::Monthly,
            (within, LinearSpend::new(money("1"), at(0), money(rate))),
        )]
        .into(),
        ..AccountSpend::default()
    };
    model.apply(Event::Budget(Key::new("team", "all"), Some(budget)), at(0));
    let key = Key::new("team", "InferenceDeployment/chat");
    model.apply(Event::Account(key, Some(account)), at(0));
    model
}

#[test]
fn the_figures_of_a_budget_grow_while_money_is_spent_and_nothing_happens() {
    let mut model = model("3600");
    assert_eq!(
        decide(&mut model, at(0)).budgets[0].1.budget.spent,
        money("1")
    );
    let next = model.next_timer().unwrap();
    assert!(next <= at(60), "{next}");
    let seconds = next.duration_since(at(0)).as_secs();
    let later = decide(&mut model, next).budgets;
    let expected = money("1") + money("1").times(u32::try_from(seconds).unwrap());
    assert_eq!(later[0].1.budget.spent, expected);
    let view = model.namespace("team", at(100));
    assert_eq!(
        view.budgets[0].budget.spent,
        money("101"),
        "as of the question"
    );
}

#[test]
fn a_budget_that_nothing_is_spent_of_is_not_looked_at_before_its_period_ends() {
    let mut model = model("0");
    decide(&mut model, at(0));
    let end = Period::Monthly.bounds(at(0), &TimeZone::UTC).end;
    assert_eq!(model.next_timer(), Some(end));
}
