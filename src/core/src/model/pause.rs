//! What the platform has paused: it is decided over and accounted for, and nothing of it is changed.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// What the platform has paused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pauses {
    /// Everything is.
    pub cluster: bool,
    /// These namespaces are.
    pub namespaces: BTreeSet<Arc<str>>,
}

impl Pauses {
    /// What paused the workloads of a namespace; `None` if nothing did.
    pub fn scope_of(&self, namespace: &str) -> Option<PauseScope> {
        if self.cluster {
            return Some(PauseScope::Cluster);
        }
        let is_paused = self.namespaces.contains(namespace);
        is_paused.then_some(PauseScope::Namespace)
    }
}

/// How much was paused together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseScope {
    /// All namespaces.
    Cluster,
    /// One namespace.
    Namespace,
}

impl fmt::Display for PauseScope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Cluster => "the cluster",
            Self::Namespace => "the namespace",
        })
    }
}
