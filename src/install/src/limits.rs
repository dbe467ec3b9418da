//! How long `bursar uninstall` waits, and how often it tries.

use std::time::Duration;

/// A controller that stops releases its Lease within a few seconds.
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_secs(90);
/// What is waited for is looked at this often.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Pods get the finalizer no more this long after its policy was deleted.
pub(crate) const FINALIZER_TIMEOUT: Duration = Duration::from_secs(90);
/// Pods change while their finalizers are removed, so a conflicting write is repeated this often.
pub(crate) const MAX_ATTEMPTS: u32 = 5;
