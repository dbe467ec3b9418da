//! The fields of a record that no ledger can have written.

use bursar_core::ledger::InvalidAccount;

use crate::quantities::FieldError;

/// The field of the record that is wrong.
pub(super) fn invalid(error: InvalidAccount) -> FieldError {
    let field = match error {
        InvalidAccount::RatesOutOfOrder { .. } => "status.open[].rates[].from",
        InvalidAccount::AmountsOutOfOrder { .. } => "status.open[].earlier[].until",
        InvalidAccount::PostedBeforeStart { .. } => "status.open[].booked",
        InvalidAccount::OpenTwice { .. } => "status.open[].uid",
        InvalidAccount::SettledAndOpen { .. } => "status.settling[]",
        InvalidAccount::DayOutsideMonth { .. } => "status.days[].date",
    };
    FieldError::new(field, error)
}
