//! What a change triggers: a decision over one namespace, or over all.

use tokio::sync::mpsc;

/// The namespaces that a change triggers a decision over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// One namespace.
    Namespace(String),
    /// Every namespace that has workloads: a price or a node changed.
    All,
}

/// Where triggers are sent.
pub(crate) type Triggers = mpsc::UnboundedSender<Trigger>;
