//! Signals in the status of a service.

use bursar_api::InferenceDeployment;
use bursar_api::signal::{SignalSpec, SignalStatus, SignalType};
use bursar_core::plan::Decision;
use bursar_core::scaling::Milli;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::readings::SignalReading;
use crate::cache::key_of;
use crate::context::Context;

/// The signals of a service, as last read.
pub(crate) fn statuses(
    context: &Context,
    object: &InferenceDeployment,
    decision: &Decision,
    now: Timestamp,
) -> Vec<SignalStatus> {
    let key = key_of(object);
    let status = |signal: &SignalSpec| {
        let reading = match signal.kind {
            SignalType::Engine => SignalReading {
                value: decision
                    .queue_depth
                    .map(|depth| (Milli(depth.saturating_mul(1000)), now)),
                error: decision
                    .unknown
                    .clone()
                    .filter(|_| decision.queue_depth.is_none()),
            },
            _ => context.signal_readings.get(&key, &signal.name()),
        };
        SignalStatus {
            name: signal.name(),
            kind: signal.kind.as_str().to_owned(),
            value: reading.value.map(|(value, _)| value.to_string()),
            read_at: reading.value.map(|(_, at)| Time(at)),
            error: reading.error,
        }
    };
    object
        .spec
        .signals()
        .map(|(_, signal)| status(signal))
        .collect()
}
