use proptest::prelude::*;

use super::*;

const NOON: &str = "2026-11-11T12:00:00Z";

fn now() -> Timestamp {
    NOON.parse().unwrap()
}

fn money(text: &str) -> Money {
    text.parse().unwrap()
}

fn budget(limit: &str, spent: &str) -> Budget {
    Budget {
        name: "team".into(),
        limit: money(limit),
        period: Period::Daily,
        on_exhausted: OnExhausted::ScaleToZero,
        unmanaged: Default::default(),
        eviction_reserve: Money::ZERO,
        minimum_useful_run: SignedDuration::from_mins(5),
        latch: None,
        doubt: None,
        spent: money(spent),
        corrections: Money::ZERO,
    }
}

fn running_cost(rate: &str, stop_seconds: i64) -> RunningCost {
    RunningCost::constant(Some(money(rate)), stop_seconds)
}

fn budget_state(budget: Budget, running_costs: &[RunningCost]) -> BudgetState {
    BudgetState::of(budget, running_costs, now(), &TimeZone::UTC)
}

#[test]
fn it_is_exhausted_while_stopping_can_still_be_paid_for() {
    let running_costs = [running_cost("36", 100)];
    assert_eq!(
        budget_state(budget("10", "8.99"), &running_costs).phase,
        Phase::Active
    );
    let exhausted = budget_state(budget("10", "9"), &running_costs);
    assert_eq!(
        (
            exhausted.phase,
            exhausted.reserve,
            exhausted.cap(3, 3, 1, 0)
        ),
        (Phase::Exhausted, money("1"), 0)
    );
}

#[test]
fn it_stays_exhausted_when_the_drain_ends_early_and_opens_with_a_new_limit_or_period() {
    let exhausted = budget_state(budget("10", "9.5"), &[running_cost("36", 100)]).budget;
    assert!(
        budget_state(exhausted.clone(), &[]).is_exhausted(),
        "the reserve is back, but the latch holds"
    );
    let raised = Budget {
        limit: money("11"),
        ..exhausted.clone()
    };
    assert!(!budget_state(raised, &[]).is_exhausted());
    let lowered = Budget {
        limit: money("9.9"),
        ..exhausted.clone()
    };
    assert!(
        budget_state(lowered, &[]).is_exhausted(),
        "less money opens nothing"
    );
    let tomorrow = now() + SignedDuration::from_hours(24);
    let rolled = BudgetState::of(
        Budget {
            spent: Money::ZERO,
            ..exhausted
        },
        &[],
        tomorrow,
        &TimeZone::UTC,
    );
    assert_eq!(rolled.phase, Phase::Active);
}

#[test]
fn it_opens_with_a_credit_as_with_a_raised_limit_and_not_with_money_that_only_comes_back_from_a_charge()
 {
    let corrected = |budget: &Budget, ledger: &str, corrections: &str| {
        let budget = Budget {
            spent: money(ledger) + money(corrections),
            corrections: money(corrections),
            ..budget.clone()
        };
        budget_state(budget, &[]).budget
    };
    let latched = |budget: &Budget| budget.latch.is_some();
    let exhausted = corrected(&budget("10", "0"), "10", "0");
    assert!(latched(&exhausted));
    assert!(
        !latched(&corrected(&exhausted, "10", "-2")),
        "a credit is money"
    );
    let charged = corrected(&exhausted, "10", "3");
    assert!(latched(&charged));
    let taken_back = corrected(&charged, "10", "0");
    assert!(
        latched(&taken_back),
        "an adjustment that is taken back gives nothing that was not there"
    );
    // a wrong adjustment exhausted it; the one that takes it back opens it
    let wrong = corrected(&budget("10", "0"), "4", "1000");
    assert!(latched(&wrong) && !latched(&corrected(&wrong, "4", "0")));
    assert!(
        latched(&corrected(&exhausted, "13", "-2")),
        "a credit that does not bring it under the limit opens nothing"
    );
}

#[test]
fn the_moment_of_exhaustion_follows_from_the_rate() {
    let budget_state = budget_state(budget("10", "8"), &[running_cost("36", 100)]);
    assert_eq!(
        budget_state.exhausted_at,
        Some(now() + SignedDuration::from_secs(100))
    );
    assert_eq!(budget_state.remaining(), money("1"));
}

#[test]
fn min_and_freeze_only_stop_growth() {
    let over = Budget {
        on_exhausted: OnExhausted::ScaleToMin,
        ..budget("10", "11")
    };
    let min = budget_state(over.clone(), &[]);
    assert_eq!(
        (min.phase, min.cap(5, 3, 2, 0), min.cap(5, 1, 2, 0)),
        (Phase::OverLimit, 2, 1)
    );
    let frozen = budget_state(
        Budget {
            on_exhausted: OnExhausted::Freeze,
            ..over
        },
        &[],
    );
    assert_eq!((frozen.cap(5, 3, 2, 0), frozen.cap(1, 3, 2, 0)), (3, 1));
}

#[test]
fn nothing_starts_that_could_not_run_for_a_useful_time() {
    let running_costs = [];
    let mut admission = BudgetAdmission::of(
        vec![budget_state(budget("10", "6"), &running_costs)],
        &running_costs,
        now(),
    );
    let start = running_cost("12", 60);
    // 12 an hour: 1.00 for five minutes and 0.20 to stop
    assert_eq!(admission.admit(start), Ok(()));
    assert_eq!(admission.admit(start), Ok(()));
    assert_eq!(admission.admit(start), Ok(()));
    assert!(
        matches!(admission.admit(start), Err(Denied::Budget { .. })),
        "4.80 does not fit into 4.00"
    );
}

#[test]
fn money_for_higher_priority_is_as_good_as_spent_whether_it_runs_or_will() {
    let high = RunningCost {
        priority: 2,
        ..running_cost("12", 60)
    };
    let low = running_cost("12", 60);
    // 2.40 for both as above, and 0.20 for the higher to run on while the lower stops
    for (spent, fits) in [("7.4", true), ("7.5", false)] {
        let budget_state = budget_state(budget("10", spent), &[]);
        let mut admission = BudgetAdmission::of(vec![budget_state], &[], now());
        let before = admission.check_beside(&[(low, 1)], &[(high, 1)]);
        assert_eq!(before.is_ok(), fits, "{spent}: {before:?}");
        assert_eq!(admission.admit(high), Ok(()));
        let after = admission.check(low);
        assert_eq!(after.is_ok(), fits, "{spent}: {after:?}");
    }
}

#[test]
fn an_unknown_price_starts_nothing_under_a_budget_and_anything_without() {
    let unknown = RunningCost::constant(None, 60);
    let mut admission = BudgetAdmission::of(vec![budget_state(budget("10", "0"), &[])], &[], now());
    assert!(matches!(admission.admit(unknown), Err(Denied::Unknown(_))));
    assert_eq!(
        BudgetAdmission::of(vec![], &[], now()).admit(unknown),
        Ok(())
    );
    let beside = BudgetAdmission::of(
        vec![budget_state(budget("10", "0"), &[unknown])],
        &[unknown],
        now(),
    )
    .admit(running_cost("1", 1));
    assert!(matches!(beside, Err(Denied::Unknown(_))));
}

proptest! {
    /// The promise: what runs until its exhaustion time and then stops within its stop time never costs more than the limit.
    #[test]
    fn spend_stays_within_the_limit(
        limit in 1i128..10i128.pow(13),
        rates in prop::collection::vec((1i128..10i128.pow(12), 0i64..4000), 1..6),
    ) {
        let running_costs: Vec<_> = rates
            .iter()
            .map(|(rate, stop_seconds)| RunningCost::constant(Some(Money::from_nanos(*rate)), *stop_seconds))
            .collect();
        let budget = Budget { limit: Money::from_nanos(limit), ..budget("0", "0") };
        let budget_state = budget_state(budget, &running_costs);
        let until = match (budget_state.is_exhausted(), budget_state.exhausted_at) {
            (true, _) => return Ok(()),
            (false, at) => at.unwrap_or(budget_state.period.end),
        };
        let run = until.as_second() - now().as_second();
        let spent: Money = running_costs
            .iter()
            .map(|running_cost| running_cost.rate.unwrap().cost_for_seconds(run + if until < budget_state.period.end { running_cost.stop_seconds } else { 0 }))
            .sum();
        prop_assert!(spent <= budget_state.budget.limit, "{spent} of {}", budget_state.budget.limit);
    }
}
