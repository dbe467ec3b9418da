//! Pods of which a test says only what it is about.

use std::sync::Arc;

use bursar_core::model::Key;
use bursar_core::model::event::{Owner, Pod, PodShape};
use jiff::Timestamp;

/// A pod that was just made and has no node.
pub(crate) fn new_pod(key: Key, owner: Owner, shape: Arc<PodShape>, created: Timestamp) -> Pod {
    Pod {
        key,
        owner,
        shape,
        node: None,
        scheduling: Default::default(),
        resident: false,
        created,
        ended: None,
        deletion: None,
        grace_seconds: 30,
        ready_since: None,
        was_ready: false,
        draining_since: None,
        marked_for_deletion: false,
        start_failure: None,
        failure: None,
        disrupted: false,
        made_by: None,
        leader: None,
        owner_name: Default::default(),
    }
}
