//! Signals in the status of a service.

use bursar_api::InferenceDeployment;
use bursar_api::signal::{EngineMeasure, SignalSpec, SignalStatus, SignalType};
use bursar_core::plan::Decision;
use bursar_core::scaling::{MeasuredSignal, Milli};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

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
        let name = signal.name();
        let measured = decision.signals.iter().find(|known| known.name == name);
        let (value, error) = match (signal.kind, signal.engine_measure()) {
            (SignalType::Engine, Some(EngineMeasure::QueueDepth)) => {
                let depth = decision.queue_depth;
                let value = depth.map(|depth| (Milli(depth.saturating_mul(1000)), now));
                let error = decision.unknown.clone().filter(|_| depth.is_none());
                (value, error)
            }
            (SignalType::Engine | SignalType::Gateway, _) => {
                let value = measured.and_then(MeasuredSignal::shown_value);
                let error = measured.and_then(MeasuredSignal::why_unknown);
                let at = measured
                    .and_then(MeasuredSignal::measured_at)
                    .unwrap_or(now);
                (value.map(|value| (value, at)), error.map(str::to_owned))
            }
            _ => {
                let reading = context.signal_readings.get(&key, &name);
                (reading.value, reading.error)
            }
        };
        SignalStatus {
            name,
            kind: signal.kind.as_str().to_owned(),
            value: value.map(|(value, _)| value.to_string()),
            read_at: value.map(|(_, at)| Time(at)),
            error,
        }
    };
    object
        .spec
        .signals()
        .map(|(_, signal)| status(signal))
        .collect()
}
