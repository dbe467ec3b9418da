//! The faults of a stored account that no ledger can have written.

use jiff::civil::Date;

use crate::calendar::Month;

/// Why stored fields are no account: somebody else edited the record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAccount {
    /// A charge's `rates`.
    #[error("the rates of pod {uid} are not in the order of time")]
    RatesOutOfOrder {
        /// The pod's UID.
        uid: String,
    },
    /// A charge's `previous_amounts`.
    #[error("the earlier amounts of pod {uid} are not in the order of time")]
    AmountsOutOfOrder {
        /// The pod's UID.
        uid: String,
    },
    /// A charge's `posted_until`.
    #[error("pod {uid} is posted until a time before its start")]
    PostedBeforeStart {
        /// The pod's UID.
        uid: String,
    },
    /// The account's `open`.
    #[error("pod {uid} is open twice")]
    OpenTwice {
        /// The pod's UID.
        uid: String,
    },
    /// The account's `settling`.
    #[error("pod {uid} is settled and open")]
    SettledAndOpen {
        /// The pod's UID.
        uid: String,
    },
    /// The account's `days`.
    #[error("{date} is not a day of {month}")]
    DayOutsideMonth {
        /// The day.
        date: Date,
        /// The account's month.
        month: Month,
    },
}
