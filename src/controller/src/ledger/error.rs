//! Why the ledger of a workload could not be brought up to date.

use bursar_api::quantities::FieldError;

use crate::api_calls::ApiError;

/// Why the ledger of a workload could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A call to the API server failed.
    #[error(transparent)]
    Call(#[from] ApiError),
    /// A record cannot be read, because somebody edited it by hand.
    #[error("SpendRecord {name} cannot be read: {source}; was it edited by hand?")]
    Record {
        /// The record's name.
        name: String,
        /// What is wrong with it.
        source: FieldError,
    },
    /// A record is there that the cache cannot have.
    #[error("SpendRecord {name} cannot be read: {why}; was it edited by hand?")]
    Unreadable {
        /// The record's name.
        name: String,
        /// The field and the fault.
        why: String,
    },
    /// A record is as large as it may become, and has no room for some pods.
    #[error(
        "SpendRecord {name} is full, and {left_out} pods more count only while they are there; \
         delete pods that have ended, or spread the pods over several namespaces"
    )]
    Full {
        /// The record's name.
        name: String,
        /// How many pods are not in it.
        left_out: u32,
    },
}
