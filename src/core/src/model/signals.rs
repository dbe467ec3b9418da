//! The signals of a service other than its queue depth, as a decision finds them.

use std::sync::Arc;

use jiff::Timestamp;

use crate::scaling::{
    LatencyHistogram, LatencyMeasure, MeasuredSignal, Milli, SignalRule, SignalTarget, SignalValue,
    Unmeasured,
};

use super::event::{EngineMeasures, HeldRequests, Measurement, Name};
use super::latency::ReplicaState;
use super::load_history::LoadNow;
use super::service::{Replica, ServiceState, first_read_by};

/// What signals are read from, at one time.
pub(crate) struct SignalSources<'a> {
    /// The replicas that do not leave.
    pub(crate) replicas: &'a [Replica<'a>],
    /// How many replicas there are, those that start included.
    pub(crate) current: u32,
    /// The requests that gateways have.
    pub(crate) at_gateways: HeldRequests,
    /// Why there may be more of them.
    pub(crate) unreachable_gateway: Option<&'a str>,
}

impl ServiceState {
    /// Its signals other than its queue depth, and when they may change though nothing happens. Takes the
    /// requests on replicas from now on, of which latencies are learned.
    pub(crate) fn measure_signals(
        &mut self,
        sources: &SignalSources<'_>,
        now: Timestamp,
    ) -> (Vec<MeasuredSignal>, Option<Timestamp>) {
        let replicas = sources.replicas.iter().map(|replica| {
            let (uid, pod, _) = replica;
            let state = match &pod.start_failure {
                _ if serves(replica) => ReplicaState::Serves,
                Some(_) => ReplicaState::Crashed,
                None => ReplicaState::Unready,
            };
            (*uid, state)
        });
        let load = load(sources.replicas, now);
        self.latencies.observe(load, replicas, now);
        let signals = self.spec.iter().flat_map(|spec| &spec.signals);
        let measured = signals.map(|(name, rule)| {
            let (target, value) = self.measured_signal(name, *rule, sources, now);
            MeasuredSignal {
                name: name.to_string(),
                target,
                value,
            }
        });
        let measured: Vec<MeasuredSignal> = measured.collect();
        let is_of_engines =
            |signal: &MeasuredSignal| !matches!(signal.target, SignalTarget::AverageValue(_));
        // one that is not read by then is unknown
        let unread = serving(sources.replicas).map(|(_, pod, _)| first_read_by(pod));
        let unread = unread.filter(|at| now < *at && measured.iter().any(is_of_engines));
        let changes = unread.chain(self.latencies.changes_at()).min();
        (measured, changes)
    }

    fn measured_signal(
        &self,
        name: &Name,
        rule: SignalRule,
        sources: &SignalSources<'_>,
        now: Timestamp,
    ) -> (SignalTarget, SignalValue) {
        match rule {
            SignalRule::Outside(target) => {
                let value = match self.signals.get(name) {
                    Some(Measurement::Value(value)) => SignalValue::Known(*value),
                    Some(Measurement::Failed(why)) => SignalValue::Unknown(why.to_string()),
                    None => SignalValue::Unknown("not read yet".to_owned()),
                };
                (SignalTarget::AverageValue(target), value)
            }
            SignalRule::Gateway(target) => {
                let HeldRequests {
                    requests,
                    in_flight,
                    ..
                } = sources.at_gateways;
                let value = Milli(requests.saturating_add(in_flight).saturating_mul(1000));
                let value = match sources.unreachable_gateway {
                    Some(why) => SignalValue::AtLeast(value, why.to_owned()),
                    None => SignalValue::Known(value),
                };
                (SignalTarget::AverageValue(target), value)
            }
            SignalRule::KvCacheUse(target) => {
                let parts = of_engines(sources.replicas, now, |measures| {
                    measures.kv_cache_use.as_ref()
                });
                let sum = parts.known.iter().map(|part| part.0).sum();
                let target = SignalTarget::Utilization {
                    target,
                    replicas: u32::try_from(parts.known.len()).unwrap_or(u32::MAX),
                };
                (target, parts.value(Some(Milli(sum))))
            }
            SignalRule::Latency(measure, _) => self.latency_signal(measure, sources, now),
        }
    }

    /// Whether some signal says how many replicas there should be, if only a little.
    fn has_opinion(&self) -> bool {
        let has_opinion = |rule: &SignalRule| match rule {
            SignalRule::Latency(measure, _) => !self.abstains(*measure),
            SignalRule::Outside(_) | SignalRule::Gateway(_) | SignalRule::KvCacheUse(_) => true,
        };
        let spec = self.spec.as_ref();
        spec.is_some_and(|spec| {
            spec.request_signal.target().is_some()
                || spec.signals.iter().any(|(_, rule)| has_opinion(rule))
        })
    }

    /// Whether a latency says nothing of how many replicas there should be. In a rollout its values are left out,
    /// which is no sign that there are none.
    fn abstains(&self, measure: LatencyMeasure) -> bool {
        !self.replaces_pods() && self.latencies.has_no_opinion(measure)
    }

    fn latency_signal(
        &self,
        measure: LatencyMeasure,
        sources: &SignalSources<'_>,
        now: Timestamp,
    ) -> (SignalTarget, SignalValue) {
        let Some(mut demand) = self.latencies.demand(measure, sources.current) else {
            // its objective is set with the signal
            let target = SignalTarget::AverageValue(Milli(1));
            return (target, SignalValue::Absent);
        };
        let parts: EngineParts<'_, Arc<LatencyHistogram>> =
            of_engines(sources.replicas, now, |measures| {
                measures.latencies.get(&measure)
            });
        if self.abstains(measure) && self.has_opinion() {
            demand.abstain();
        }
        if self.replaces_pods() {
            demand.measured = Err(Unmeasured::Rollout);
        }
        let millis = demand.measured.ok();
        let millis = millis.map(|measured| Milli(measured.p95.at_least() / 1000));
        let value = match demand.unverifiable() {
            Some(why) => SignalValue::Unknown(why),
            None => parts.value(millis),
        };
        (SignalTarget::Latency(demand), value)
    }
}

/// A measure of the engines that tell it.
struct EngineParts<'a, T> {
    known: Vec<&'a T>,
    /// Why it is not known of the first of the others.
    unknown: Option<String>,
}

impl<T> EngineParts<'_, T> {
    /// The value of a signal, where this is made of what is known; `None` if that tells nothing.
    fn value(&self, known: Option<Milli>) -> SignalValue {
        let is_known = !self.known.is_empty();
        match (&self.unknown, known.filter(|_| is_known)) {
            (None, Some(value)) => SignalValue::Known(value),
            (None, None) => SignalValue::Absent,
            (Some(why), Some(value)) => SignalValue::AtLeast(value, why.clone()),
            (Some(why), None) => SignalValue::Unknown(why.clone()),
        }
    }
}

/// Replicas that take requests.
fn serving<'a>(replicas: &'a [Replica<'a>]) -> impl Iterator<Item = &'a Replica<'a>> {
    replicas.iter().filter(|replica| serves(replica))
}

fn serves((_, pod, _): &Replica<'_>) -> bool {
    pod.ready_since.is_some() && pod.deletion.is_none()
}

/// A measure of the engines of replicas that take requests.
fn of_engines<'a, T: 'a>(
    replicas: &'a [Replica<'a>],
    now: Timestamp,
    measure: impl Fn(&'a EngineMeasures) -> Option<&'a Result<T, Name>>,
) -> EngineParts<'a, T> {
    let mut parts = EngineParts {
        known: Vec::new(),
        unknown: None,
    };
    for (_, pod, engine) in serving(replicas) {
        let why = match (&engine.stale, measure(&engine.measures)) {
            (Some(why), _) => why.as_ref(),
            (None, Some(Ok(value))) => {
                parts.known.push(value);
                continue;
            }
            (None, Some(Err(why))) => why.as_ref(),
            (None, None) if now < first_read_by(pod) => continue,
            (None, None) => "not read yet",
        };
        if parts.unknown.is_none() {
            parts.unknown = Some(format!("pod {}: {why}", pod.key.name));
        }
    }
    parts
}

/// The requests on a replica that serves, if they are believed. Its latencies count only then: they are of these
/// requests.
pub(crate) fn measured_requests(replica: &Replica<'_>, now: Timestamp) -> Option<u64> {
    let (_, _, engine) = replica;
    let is_measured = serves(replica) && !engine.is_stalled(now);
    engine.requests().filter(|_| is_measured)
}

/// The requests on replicas, as far as they are known; `None` if nothing is.
fn load(replicas: &[Replica<'_>], now: Timestamp) -> Option<LoadNow> {
    let known = replicas
        .iter()
        .filter_map(|replica| measured_requests(replica, now));
    let load = known.fold(None, |load: Option<LoadNow>, requests| {
        let load = load.unwrap_or(LoadNow {
            requests: 0,
            serving: 0,
        });
        Some(LoadNow {
            requests: load.requests.saturating_add(requests),
            serving: load.serving.saturating_add(1),
        })
    });
    let is_empty = serving(replicas).next().is_none();
    load.or(is_empty.then_some(LoadNow {
        requests: 0,
        serving: 0,
    }))
}
