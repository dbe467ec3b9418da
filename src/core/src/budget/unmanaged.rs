//! Pods that no workload of Bursar made: budgets count them, and may evict them once there is no money
//! for anything.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

/// Between the warning and the first eviction of a budget: time to save work and to scale down what
/// would make the pods anew.
pub const EVICTION_NOTICE: SignedDuration = SignedDuration::from_mins(5);

/// What happens to pods that no workload made, once a budget has no money for anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Unmanaged {
    /// They run on.
    #[default]
    Leave,
    /// They are evicted, but for those of these owners, each named as `Kind/name`.
    Evict {
        /// The owners whose pods stay.
        exempt: Arc<BTreeSet<Arc<str>>>,
    },
}

impl Unmanaged {
    /// Whether pods of this owner are evicted.
    pub(crate) fn evicts(&self, owner_name: &str) -> bool {
        match self {
            Self::Leave => false,
            Self::Evict { exempt } => !exempt.contains(owner_name),
        }
    }

    /// Whether each pod that these evict is evicted by the others too.
    pub(crate) fn is_no_stricter_than(&self, others: &Self) -> bool {
        match (self, others) {
            (Self::Leave, _) => true,
            (Self::Evict { .. }, Self::Leave) => false,
            (Self::Evict { exempt }, Self::Evict { exempt: others }) => exempt.is_superset(others),
        }
    }

    /// Evicts what both evict.
    pub(crate) fn relieved_by(self, edited: &Self) -> Self {
        match (self, edited) {
            (Self::Evict { mut exempt }, Self::Evict { exempt: more }) => {
                Arc::make_mut(&mut exempt).extend(more.iter().cloned());
                Self::Evict { exempt }
            }
            (Self::Leave, _) | (_, Self::Leave) => Self::Leave,
        }
    }
}

/// The evictions of a budget that has no money for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evictions {
    /// No pod is evicted before.
    pub from: Timestamp,
    /// Pods that are to be evicted and were not told to stop yet.
    pub pods: u32,
    /// One of them that could not be evicted, and the API server's words.
    pub refused: Option<(Arc<str>, Arc<str>)>,
}
