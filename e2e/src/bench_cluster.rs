//! The cluster of a benchmark: booted for it, and removed whatever becomes of it.

use crate::{Cluster, Error, Options, interrupt};

/// Boots a cluster, measures on it, and removes it.
///
/// # Errors
/// When `measure` fails or a signal ends it. The cluster is stopped then too; after a failure its logs stay.
pub(crate) fn measure_on<E: From<Error>>(
    options: &Options,
    measure: impl FnOnce(&Cluster) -> Result<(), E>,
) -> Result<(), E> {
    let cluster = Cluster::start(options)?;
    let joined = cluster.join().map_err(E::from);
    let measured = joined.and_then(|()| measure(&cluster));
    // a program that ran at that moment got the signal too, and its end is the error
    let interrupted = interrupt::check().is_err();
    // what follows is ended by another signal only
    interrupt::reset();
    if measured.is_ok() || interrupted {
        cluster.stop()?;
    } else {
        let logs = cluster.stop_and_keep_logs()?;
        eprintln!("logs: {}", logs.join("log").display());
    }
    if interrupted {
        return Err(Error::Interrupted.into());
    }
    measured
}
