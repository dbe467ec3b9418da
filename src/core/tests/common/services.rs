//! Services of which a test says only what it is about.

use std::sync::Arc;

use bursar_core::model::event::{PodShape, Service};
use bursar_core::scaling::{Activation, Behavior, RequestSignal};
use jiff::{SignedDuration, Timestamp};

/// A service of at most four replicas that runs on demand.
pub(crate) fn new_service(replica: Arc<PodShape>, created: Timestamp) -> Service {
    Service {
        created,
        priority: 0,
        cluster_priority: 0,
        weight: 100,
        min: 0,
        max: 4,
        request_signal: RequestSignal::Target(8),
        signals: vec![],
        measured_by: 0,
        growth: Default::default(),
        learned: None,
        behavior: Behavior::with_scale_down_window(Some(SignedDuration::from_secs(60))),
        idle_after: SignedDuration::from_mins(10),
        schedules: vec![],
        on_signal_failure: Default::default(),
        drain_timeout: SignedDuration::from_secs(60),
        paused: None,
        activation: Activation::OnDemand,
        replica,
        grace_seconds: 30,
        workers: None,
    }
}
