//! What a BudgetPolicy's status says.

use bursar_api::BudgetPolicy;
use bursar_api::budget::{BudgetPolicyStatus, Latch, Phase};
use bursar_api::conditions::{
    self, ConditionState, SPEND_RECORDED, WITHIN_BUDGET, budget_within_budget, spend_recorded,
};
use bursar_core::budget::{self, Standing};
use bursar_core::calendar::whole_second;
use bursar_core::money::Money;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::spend_status::DECIMALS;

/// While money is spent, figures alone are written at most this often.
const PACE: SignedDuration = SignedDuration::from_mins(5);

/// The status that says where the budget stands; `None` if the present one is good enough.
pub(crate) fn next(
    object: &BudgetPolicy,
    standing: &Standing,
    currency: &str,
    now: Timestamp,
) -> Option<BudgetPolicyStatus> {
    let empty = BudgetPolicyStatus::default();
    let old = object.status.as_ref().unwrap_or(&empty);
    let amount = |amount: Money| amount.rounded(DECIMALS);
    let budget = &standing.budget;
    let mut status = BudgetPolicyStatus {
        observed_generation: object.metadata.generation,
        period_start: Some(Time(standing.period.start)),
        period_end: Some(Time(standing.period.end)),
        spent: amount(budget.spent),
        corrections: (budget.corrections != Money::ZERO).then(|| amount(budget.corrections)),
        reserve: amount(standing.reserve),
        remaining: amount(standing.remaining()),
        rate_per_hour: amount(standing.rate),
        currency: currency.to_owned(),
        exhaustion_time: standing.exhausted_at.map(|at| Time(whole_second(at))),
        phase: Some(Phase::from(standing.phase)),
        latch: budget.latch.as_ref().map(Latch::from),
        as_of: Some(Time(whole_second(now))),
        conditions: Vec::new(),
    };
    let (holds, reason, message) = match standing.phase {
        budget::Phase::Active => (
            Some(true),
            budget_within_budget::ACTIVE,
            "there is money left".to_owned(),
        ),
        budget::Phase::Exhausted => (
            Some(false),
            budget_within_budget::EXHAUSTED,
            format!(
                "exhausted until {}, or until its limit is raised or a credit is given",
                standing.period.end
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
        Some(doubt) => (spend_recorded::IN_DOUBT, doubt.clone()),
    };
    let says = vec![
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
    status.conditions =
        conditions::updated_conditions(&old.conditions, says, object.metadata.generation, now);
    let at_rest = standing.rate == Money::ZERO;
    let old_enough = at_rest
        || old
            .as_of
            .as_ref()
            .is_none_or(|at| now.duration_since(at.0) >= PACE);
    let figures = |status: &BudgetPolicyStatus| {
        [&status.spent, &status.reserve, &status.remaining].map(Clone::clone)
    };
    let due = old_enough && figures(old) != figures(&status);
    (due || decisive(old) != decisive(&status)).then_some(status)
}

/// A status without what changes all the time.
fn decisive(status: &BudgetPolicyStatus) -> BudgetPolicyStatus {
    let mut status = status.clone();
    (status.spent, status.reserve, status.remaining) = Default::default();
    (status.exhaustion_time, status.as_of) = (None, None);
    status
        .conditions
        .iter_mut()
        .for_each(|condition| condition.message.clear());
    status
}
