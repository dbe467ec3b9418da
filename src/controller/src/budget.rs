//! What a BudgetPolicy's status says.

use bursar_api::BudgetPolicy;
use bursar_api::budget::{BudgetPolicyStatus, BudgetTerms, Latch, Phase};
use bursar_api::conditions::{
    self, ACCELERATORS_KNOWN, BUDGET_CHANGE_PENDING, ConditionState, SPEND_RECORDED,
    UNMANAGED_EVICTED, WITHIN_BUDGET, accelerators_known, budget_change_pending,
    budget_within_budget, spend_recorded, unmanaged_evicted,
};
use bursar_api::names::APPLY_NOW_ANNOTATION;
use bursar_core::budget::{self, BudgetState, Evictions, OnExhausted, PendingChange};
use bursar_core::calendar::whole_second;
use bursar_core::model::Name;
use bursar_core::money::Money;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::spend_status::{DECIMALS, is_zero};
use crate::status_pacing::{
    Change, NextStatus, Readings, StatusPacing, decisive_conditions, messages,
};

/// The status that says where the budget stands, if it is due, and when to look again. `others` are
/// conditions that it has only while they say something.
pub(crate) fn next(
    object: &BudgetPolicy,
    pacing: &mut StatusPacing,
    budget_state: &BudgetState,
    others: Vec<ConditionState>,
    running: &[String],
    currency: &str,
    now: Timestamp,
) -> NextStatus<BudgetPolicyStatus> {
    let empty = BudgetPolicyStatus::default();
    let old = object.status.as_ref().unwrap_or(&empty);
    let amount = |amount: Money| amount.rounded(DECIMALS);
    let budget = &budget_state.budget;
    let pending = budget_state.pending.as_ref();
    let evictions = budget_state.evictions.as_ref();
    let in_force = budget_state.terms_in_force();
    let mut status = BudgetPolicyStatus {
        observed_generation: object.metadata.generation,
        period_start: Some(Time(budget_state.period.start)),
        period_end: Some(Time(budget_state.period.end)),
        spent: amount(budget.spent),
        corrections: (budget.corrections != Money::ZERO).then(|| amount(budget.corrections)),
        reserve: amount(budget_state.reserve),
        remaining: amount(budget_state.announced_remaining()),
        rate_per_hour: amount(budget_state.rate),
        currency: currency.to_owned(),
        exhaustion_time: budget_state.exhausted_at.map(|at| Time(whole_second(at))),
        phase: Some(Phase::from(budget_state.phase)),
        latch: budget.latch.as_ref().map(Latch::from),
        in_force: in_force.as_ref().map(BudgetTerms::from),
        change_effective_at: pending.map(|change| Time(change.effective_at)),
        evictions_from: evictions.map(|evictions| Time(whole_second(evictions.from))),
        as_of: Some(Time(whole_second(now))),
        conditions: Vec::new(),
    };
    let (holds, reason, message) = match budget_state.phase {
        budget::Phase::Active => (
            Some(true),
            budget_within_budget::ACTIVE,
            "there is money left".to_owned(),
        ),
        budget::Phase::PartlyExhausted => (
            Some(false),
            budget_within_budget::PARTLY_EXHAUSTED,
            format!(
                "workloads of a priority below {} are stopped until {}, or until its limit is \
                 raised or a credit is given",
                budget_state.stops_below().unwrap_or_default(),
                budget_state.period.end
            ),
        ),
        budget::Phase::Exhausted => (
            Some(false),
            budget_within_budget::EXHAUSTED,
            format!(
                "exhausted until {}, or until its limit is raised or a credit is given",
                budget_state.period.end
            ),
        ),
        budget::Phase::OverLimit => {
            let over = amount(budget.spent - budget.limit);
            (
                Some(false),
                budget_within_budget::OVER_LIMIT,
                format!("over its limit by {over} when last written"),
            )
        }
        budget::Phase::Unknown => (
            None,
            budget_within_budget::PRICE_UNKNOWN,
            budget.doubt.clone().unwrap_or_else(|| {
                "something runs that no PriceList names; nothing new starts".to_owned()
            }),
        ),
    };
    let (recorded, doubt) = match &budget.doubt {
        None => (
            spend_recorded::RECORDED,
            "SpendRecords hold what is spent".to_owned(),
        ),
        Some(doubt) => (spend_recorded::SPEND_UNKNOWN, doubt.clone()),
    };
    let mut says = vec![
        ConditionState {
            kind: WITHIN_BUDGET,
            status: holds,
            reason,
            message,
        },
        ConditionState {
            kind: SPEND_RECORDED,
            status: Some(budget.doubt.is_none()),
            reason: recorded,
            message: doubt,
        },
    ];
    says.extend(pending.map(|change| pending_change(object, budget_state, change, running)));
    says.extend(evictions.map(evictions_condition));
    says.extend(others);
    status.conditions =
        conditions::updated_conditions(&old.conditions, says, object.metadata.generation, now);
    let change = Change {
        at_once: object.status.is_none() || decisive(old) != decisive(&status),
        counts: false,
        written: readings(old),
        present: readings(&status),
        figures: figures(old) != figures(&status),
        spending: budget_state.rate != Money::ZERO,
        as_of: old.as_of.as_ref().map(|at| at.0),
        changes_at: None,
    };
    pacing.next(object, object.status.as_ref(), status, change, now)
}

/// The condition that says what becomes of pods of no workload.
fn evictions_condition(evictions: &Evictions) -> ConditionState {
    let Evictions {
        from,
        pods,
        refused,
    } = evictions;
    let (reason, message) = match (pods, refused) {
        (0, _) => (
            unmanaged_evicted::NONE_LEFT,
            "no GPU pod that Bursar did not make holds a node, but for exempt ones".to_owned(),
        ),
        (_, None) => (
            unmanaged_evicted::NOTICE_GIVEN,
            format!(
                "{pods} GPU pods that Bursar did not make are evicted from {from:.0} on, or ten seconds \
                 after they got a node"
            ),
        ),
        (_, Some((pod, why))) => (
            unmanaged_evicted::EVICTION_REFUSED,
            format!(
                "{pods} GPU pods that Bursar did not make run on without money; pod {pod} is not \
                 evicted, and it is tried again, a minute apart at most where a PodDisruptionBudget \
                 forbids it: {why}"
            ),
        ),
    };
    ConditionState {
        kind: UNMANAGED_EVICTED,
        status: Some(*pods == 0),
        reason,
        message,
    }
}

/// The condition that names accelerators of the namespace's pods which cost nothing, as no rule knows
/// them, each with one of the pods.
pub(crate) fn accelerators_known(unknown: &[(String, Name)]) -> Option<ConditionState> {
    const NAMED: usize = 5;
    if unknown.is_empty() {
        return None;
    }
    let named = unknown.iter().take(NAMED);
    let named: Vec<String> = named
        .map(|(resource, pod)| format!("{resource} (pod {pod})"))
        .collect();
    let mut named = named.join(", ");
    if unknown.len() > NAMED {
        named += &format!(" and {} more", unknown.len() - NAMED);
    }
    let message = format!(
        "pods hold {named}, which no price can be for: they cost nothing and count in no budget. The \
         names that count: docs/prices.md. For all nodes: kubectl bursar prices check"
    );
    Some(ConditionState {
        kind: ACCELERATORS_KNOWN,
        status: Some(false),
        reason: accelerators_known::UNKNOWN_RESOURCE,
        message,
    })
}

/// The condition that says what stops when the grace window ends.
fn pending_change(
    object: &BudgetPolicy,
    budget_state: &BudgetState,
    change: &PendingChange,
    running: &[String],
) -> ConditionState {
    const NAMED: usize = 5;
    let budget = &budget_state.budget;
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    let mut what = running
        .iter()
        .take(NAMED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if running.len() > NAMED {
        what += &format!(" and {} more", running.len() - NAMED);
    }
    let what = match what.as_str() {
        "" => "everything that it counts".to_owned(),
        _ => what,
    };
    let action = match change.announced.on_exhausted {
        OnExhausted::ScaleToZero => "stops",
        OnExhausted::ScaleToMin => "shrinks to its minimum or is suspended",
        OnExhausted::Freeze => "is suspended, if it trains",
    };
    let message = format!(
        "at {:.0} {what} {action}, because {} spent and {} in reserve reach the limit of {}, or will \
         by then; nothing new starts meanwhile. At once: kubectl annotate budget {name} -n \
         {namespace} {APPLY_NOW_ANNOTATION}=true",
        change.effective_at,
        budget.spent.rounded(2),
        change.reserve.rounded(2),
        change.announced.limit.rounded(2),
    );
    ConditionState {
        kind: BUDGET_CHANGE_PENDING,
        status: Some(true),
        reason: budget_change_pending::WOULD_STOP,
        message,
    }
}

/// A status without what follows readings, and without figures.
fn decisive(status: &BudgetPolicyStatus) -> BudgetPolicyStatus {
    let mut status = status.clone();
    (status.spent, status.reserve, status.remaining) = Default::default();
    (status.rate_per_hour, status.corrections) = Default::default();
    (status.exhaustion_time, status.as_of) = (None, None);
    decisive_conditions(&mut status.conditions, &[]);
    status
}

/// The amounts that stay once nothing changes.
fn readings(status: &BudgetPolicyStatus) -> Readings {
    let corrections = status.corrections.clone().unwrap_or_default();
    let mut amounts = vec![status.rate_per_hour.clone(), corrections];
    if is_zero(&status.rate_per_hour) {
        let final_amounts = [&status.spent, &status.reserve, &status.remaining];
        amounts.extend(final_amounts.map(Clone::clone));
    }
    Readings {
        amounts,
        ..Readings::default()
    }
}

fn figures(status: &BudgetPolicyStatus) -> ([&str; 3], Vec<&str>) {
    let amounts = [&status.spent, &status.reserve, &status.remaining];
    (amounts.map(String::as_str), messages(&status.conditions))
}

#[cfg(test)]
mod tests {
    use bursar_core::budget::Budget;
    use bursar_core::calendar::{Interval, Period};
    use jiff::SignedDuration;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_latch_is_written_at_once_and_a_rate_once_it_settles() {
        let start: Timestamp = "2026-11-26T00:00:00Z".parse().unwrap();
        let mut object: BudgetPolicy = serde_json::from_value(json!({
            "metadata": {"name": "team", "uid": "team"}, "spec": {"limit": "5", "period": "Daily"},
        }))
        .unwrap();
        let mut budget_state = BudgetState {
            budget: Budget {
                name: "team".to_owned(),
                limit: "5".parse().unwrap(),
                period: Period::Daily,
                on_exhausted: OnExhausted::ScaleToZero,
                unmanaged: Default::default(),
                eviction_reserve: Money::ZERO,
                minimum_useful_run: SignedDuration::ZERO,
                latch: None,
                spent: "1".parse().unwrap(),
                corrections: Money::ZERO,
                doubt: None,
            },
            period: Interval {
                start,
                end: start + SignedDuration::from_hours(24),
            },
            reserve: Money::ZERO,
            rate: "2".parse().unwrap(),
            phase: budget::Phase::Active,
            exhausted_at: None,
            margin: Money::ZERO,
            announced: false,
            pending: None,
            evictions: None,
        };
        let mut pacing = StatusPacing::default();
        let mut now = start + SignedDuration::from_hours(1);
        let mut look = |budget_state: &BudgetState, now| {
            let next = next(
                &object,
                &mut pacing,
                budget_state,
                Vec::new(),
                &[],
                "USD",
                now,
            );
            let writes = next.status.is_some();
            object.status = next.status.or(object.status.take());
            (
                writes,
                next.look_at.map(|at| at.duration_since(now).as_secs()),
            )
        };
        assert_eq!(
            look(&budget_state, now),
            (true, Some(300)),
            "the first status"
        );
        budget_state.rate = "4".parse().unwrap();
        assert_eq!(look(&budget_state, now), (false, Some(2)));
        now += SignedDuration::from_secs(2);
        assert_eq!(look(&budget_state, now), (true, Some(300)));
        budget_state.budget.spent = "1.1".parse().unwrap();
        now += SignedDuration::from_secs(299);
        assert_eq!(look(&budget_state, now), (false, Some(1)));
        budget_state.budget.latch = Some(budget::Latch {
            period_start: start,
            limit: budget_state.budget.limit,
            corrections: Money::ZERO,
            stops_below: None,
        });
        budget_state.phase = budget::Phase::Exhausted;
        assert_eq!(look(&budget_state, now), (true, Some(300)));
        budget_state.rate = Money::ZERO;
        now += SignedDuration::from_secs(1);
        assert_eq!(
            look(&budget_state, now),
            (false, Some(2)),
            "five quiet minutes came before"
        );
        now += SignedDuration::from_secs(2);
        assert_eq!(
            look(&budget_state, now),
            (true, None),
            "at rest time changes nothing"
        );
    }
}
