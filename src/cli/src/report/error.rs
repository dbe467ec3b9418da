//! Why there is no report.

use crate::client::ClientError;
use crate::ledger::backup::FileError;
use crate::{focus, spend_records};

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Records(#[from] spend_records::Error),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Backup(#[from] FileError),
    #[error(transparent)]
    Focus(#[from] focus::Error),
    #[error("writing {to}: {why}")]
    Write { to: String, why: String },
    #[error("reading PriceLists: {0}")]
    Prices(String),
    #[error("Parquet is not for terminals: name a file with -O, or pipe it")]
    Terminal,
}
