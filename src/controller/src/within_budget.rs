//! The condition `WithinBudget` of a workload of either kind.

use bursar_api::conditions::{ConditionState, WITHIN_BUDGET, workload_within_budget as reason};
use bursar_core::plan::LimitedBy;

/// What budgets do to a workload that is limited by this. One that stops for GPUs stops for no budget.
pub(crate) fn within_budget(limited_by: Option<LimitedBy>, stops_for_gpus: bool) -> ConditionState {
    let (status, reason, message) = match limited_by {
        Some(LimitedBy::Budget) => (
            Some(false),
            reason::BUDGET_LIMITS,
            "a budget holds it back; see reason",
        ),
        Some(LimitedBy::Preempted) if !stops_for_gpus => (
            Some(false),
            reason::PREEMPTED,
            "it gives way to a workload of higher priority; see reason",
        ),
        Some(LimitedBy::PriceUnknown) => (
            None,
            reason::PRICE_UNKNOWN,
            "what it costs, or what was spent, is not known, so budgets let nothing start; see reason",
        ),
        _ => (Some(true), reason::WITHIN_BUDGET, "no budget holds it back"),
    };
    ConditionState {
        kind: WITHIN_BUDGET,
        status,
        reason,
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_that_lets_nothing_start_is_never_said_to_hold_nothing_back() {
        let status = |limited_by, for_gpus| within_budget(limited_by, for_gpus).status;
        assert_eq!(status(None, false), Some(true));
        assert_eq!(status(Some(LimitedBy::Capacity), false), Some(true));
        assert_eq!(status(Some(LimitedBy::Budget), false), Some(false));
        assert_eq!(status(Some(LimitedBy::Preempted), false), Some(false));
        assert_eq!(status(Some(LimitedBy::Preempted), true), Some(true));
        assert_eq!(status(Some(LimitedBy::PriceUnknown), false), None);
    }
}
