//! SIGINT, SIGTERM and SIGHUP, noticed instead of obeyed at once: what was made on an existing
//! cluster has to be removed first.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::{
    error::{Error, Result, While},
    process::POLL,
};

static REQUESTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From now on these signals end programs that [`crate::process`] runs, and not this process.
///
/// # Errors
/// When the system refuses.
pub(crate) fn catch() -> Result<()> {
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&REQUESTED))
            .while_(|| "catching signals".into())?;
    }
    Ok(())
}

/// Fails if a signal came since the last [`reset`].
///
/// # Errors
/// [`Error::Interrupted`].
pub(crate) fn check() -> Result<()> {
    if REQUESTED.load(Ordering::Relaxed) {
        return Err(Error::Interrupted);
    }
    Ok(())
}

/// Waits for a signal.
pub(crate) async fn wait() -> Error {
    loop {
        if let Err(error) = check() {
            return error;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits for `time` or a signal.
///
/// # Errors
/// [`Error::Interrupted`].
pub(crate) fn sleep(time: Duration) -> Result<()> {
    let began = std::time::Instant::now();
    while began.elapsed() < time {
        check()?;
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Forgets the signals that came: what runs next may be interrupted once more.
pub(crate) fn reset() {
    REQUESTED.store(false, Ordering::Relaxed);
}
