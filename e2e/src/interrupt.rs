//! SIGINT, SIGTERM and SIGHUP, noticed instead of obeyed at once: what was made on an existing
//! cluster has to be removed first.

use std::{
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use signal_hook::{
    SigId,
    consts::{SIGHUP, SIGINT, SIGTERM},
    low_level,
};

use crate::{
    error::{Error, Result, While},
    process::POLL,
};

static REQUESTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
/// Until [`reset`].
static HANGUP: Mutex<Option<SigId>> = Mutex::new(None);

/// From now on these signals end programs that [`crate::process`] runs, and not this process.
///
/// # Errors
/// When the system refuses.
pub(crate) fn catch() -> Result<()> {
    let register = |signal| {
        signal_hook::flag::register(signal, Arc::clone(&REQUESTED))
            .while_(|| "catching signals".into())
    };
    register(SIGINT)?;
    register(SIGTERM)?;
    let hangup = register(SIGHUP)?;
    *HANGUP.lock().unwrap_or_else(PoisonError::into_inner) = Some(hangup);
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

/// Forgets the signals that came: what runs next may be interrupted once more, but not by SIGHUP. A
/// terminal that closes sends it, and then its shell sends it again.
pub(crate) fn reset() {
    let hangup = HANGUP.lock().unwrap_or_else(PoisonError::into_inner).take();
    // signal-hook leaves its handler in place, so that SIGHUP is ignored from now on
    hangup.map(low_level::unregister);
    REQUESTED.store(false, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const CHILD: &str = "BURSAR_TEST_OF_SIGNALS";

    /// Signals concern a whole process, so a process of its own gets them.
    #[test]
    fn a_second_hangup_does_not_interrupt_the_removal() {
        if std::env::var_os(CHILD).is_none() {
            let name = "interrupt::tests::a_second_hangup_does_not_interrupt_the_removal";
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", name])
                .env(CHILD, "1")
                .output();
            let child = child.unwrap();
            let said = String::from_utf8_lossy(&child.stdout);
            assert!(child.status.success(), "{}: {said}", child.status);
            assert!(said.contains("1 passed"), "{said}");
            return;
        }
        catch().unwrap();
        let is_interrupted_by = |signal| {
            low_level::raise(signal).unwrap();
            check().is_err()
        };
        assert!(is_interrupted_by(SIGHUP));
        reset();
        assert!(check().is_ok());
        assert!(!is_interrupted_by(SIGHUP));
        assert!(is_interrupted_by(SIGINT));
    }
}
