//! Why `bursar uninstall` fails.

use bursar_api::names::SPEND_FINALIZER;

use crate::limits::{FINALIZER_TIMEOUT, STOP_TIMEOUT};

/// The labels of the controller's pods.
pub(crate) const CONTROLLER_POD_SELECTOR: &str =
    "app.kubernetes.io/name=bursar,app.kubernetes.io/component=controller";

/// The error with which `bursar uninstall` failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused a request, or could not be reached.
    #[error("{what}: {source}")]
    Api {
        /// The step that failed.
        what: String,
        /// The error of the request.
        source: Box<kube::Error>,
    },
    /// Pods of the controller did not end in time.
    #[error("pods of the controller are still there after {} s; kubectl -n {namespace} get pods -l {CONTROLLER_POD_SELECTOR} says why", STOP_TIMEOUT.as_secs())]
    ControllerStillRuns {
        /// The namespace in which Bursar is installed.
        namespace: String,
    },
    /// Pods got the finalizer again after its policy was deleted.
    #[error("pods still get the finalizer {SPEND_FINALIZER} {} s after its policy has gone: stop what else adds it, such as a controller outside the cluster", FINALIZER_TIMEOUT.as_secs())]
    FinalizersReappear,
}

/// Adds the step to an error, and turns "not found" into `None`.
pub(crate) trait NotFoundAsNone<T> {
    fn not_found_as_none(self, what: &str) -> Result<Option<T>, Error>;
}

impl<T> NotFoundAsNone<T> for Result<T, kube::Error> {
    fn not_found_as_none(self, what: &str) -> Result<Option<T>, Error> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(source) => Err(Error::Api {
                what: what.to_owned(),
                source: Box::new(source),
            }),
        }
    }
}
