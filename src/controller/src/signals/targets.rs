//! Which signals are read: those that InferenceDeployments name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use bursar_api::InferenceDeployment;
use bursar_api::signal::{SignalSpec, SignalType};
use bursar_core::model::event::Event as ModelEvent;
use bursar_core::model::{Key, Name};
use bursar_signals::polls::{PolledSignals, SignalId};
use kube::runtime::watcher::Event;

use super::readings::SignalReadings;
use super::source::{self, Source};
use crate::cache::key_of;
use crate::input::{Input, Inputs};
use crate::lock::lock;

/// What is read of a signal, and how often.
#[derive(Clone, PartialEq)]
struct Poll {
    source: Source,
    interval: Duration,
}

/// The signals of a service.
#[derive(Default)]
struct Known {
    /// As its manifest has them: a status that is written changes none.
    specs: Vec<SignalSpec>,
    polls: BTreeMap<Name, Poll>,
}

#[derive(Default)]
struct State {
    services: HashMap<Key, Known>,
    /// The services of a list that is not complete yet.
    listed: Option<BTreeSet<Key>>,
}

/// Tells the reader of signals which to read.
pub(crate) struct SignalTargets {
    state: Mutex<State>,
    polled: PolledSignals<Source>,
    readings: SignalReadings,
    inputs: Inputs,
    /// The label by which series of Prometheus tell their namespace; `None` confines no query.
    namespace_label: Option<String>,
}

impl SignalTargets {
    /// No signals yet.
    pub(crate) fn new(
        polled: PolledSignals<Source>,
        readings: SignalReadings,
        inputs: Inputs,
        namespace_label: Option<String>,
    ) -> Self {
        Self {
            state: Mutex::default(),
            polled,
            readings,
            inputs,
            namespace_label,
        }
    }

    /// Takes an event of the watch of InferenceDeployments.
    pub(crate) fn on_service(&self, event: &Event<InferenceDeployment>) {
        let mut state = lock(&self.state);
        match event {
            Event::Init => state.listed = Some(BTreeSet::new()),
            Event::InitApply(service) | Event::Apply(service) => {
                let key = key_of(service);
                if let Some(listed) = &mut state.listed {
                    listed.insert(key.clone());
                }
                let specs = &service.spec.scaling.signals;
                let known = state.services.get(&key);
                if known.is_none_or(|known| known.specs != *specs) {
                    self.set(
                        &mut state,
                        key,
                        Known {
                            specs: specs.clone(),
                            polls: self.polls(service),
                        },
                    );
                }
            }
            Event::Delete(service) => self.set(&mut state, key_of(service), Known::default()),
            Event::InitDone => {
                let listed = state.listed.take().unwrap_or_default();
                let gone = state.services.keys().filter(|key| !listed.contains(key));
                for key in gone.cloned().collect::<Vec<_>>() {
                    self.set(&mut state, key, Known::default());
                }
            }
        }
    }

    /// Does this if the service still names this signal with this source. It does not change meanwhile.
    pub(super) fn if_current(
        &self,
        service: &Key,
        signal: &Name,
        source: &Source,
        act: impl FnOnce(),
    ) {
        let state = lock(&self.state);
        let known = state.services.get(service);
        let poll = known.and_then(|known| known.polls.get(signal));
        if poll.is_some_and(|poll| poll.source == *source) {
            act();
        }
    }

    /// Waits until every signal has been read once.
    pub(crate) async fn all_read(&self) {
        self.polled.all_read().await;
    }

    /// The signals that a service names, but for those of its engine and of gateways.
    fn polls(&self, service: &InferenceDeployment) -> BTreeMap<Name, Poll> {
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let signals = service.spec.signals();
        let measured = signals
            .filter(|(_, signal)| !matches!(signal.kind, SignalType::Engine | SignalType::Gateway));
        let poll = |(field, signal): (String, &SignalSpec)| {
            // a service whose numbers cannot be read is not decided over
            let interval = signal.polling_interval(&field).ok()?;
            let source = source::source(signal, namespace, self.namespace_label.as_deref());
            let poll = Poll {
                source,
                interval: Duration::try_from(interval).ok()?,
            };
            Some((signal.name().into(), poll))
        };
        measured.filter_map(poll).collect()
    }

    /// Replaces the signals of a service. What was read for one that changed is forgotten. Changes are
    /// sent while the state is locked, so that they arrive in its order.
    fn set(&self, state: &mut State, key: Key, service: Known) {
        let known = state.services.remove(&key).unwrap_or_default().polls;
        let polls = &service.polls;
        let id = |signal: &Name| SignalId {
            namespace: key.namespace.clone(),
            service: key.name.clone(),
            signal: signal.clone(),
        };
        for (signal, before) in &known {
            let now = polls.get(signal);
            if now.map(|poll| &poll.source) != Some(&before.source) {
                self.polled.remove(id(signal));
                self.readings.forget(&key, signal);
                let event = ModelEvent::Signal(key.clone(), signal.clone(), None);
                // nobody listens at the end of leadership
                self.inputs.send(Input::Event(event)).ok();
            }
        }
        for (signal, poll) in polls {
            if known.get(signal) != Some(poll) {
                let Poll { source, interval } = poll.clone();
                self.polled.upsert(id(signal), source, interval);
            }
        }
        if !service.specs.is_empty() {
            state.services.insert(key, service);
        }
    }
}
