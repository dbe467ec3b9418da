//! Signals that are measured outside the replicas: which are read, how, and what they said.
//!
//! | module | subject |
//! |---|---|
//! | [`targets`] | which signals are read, by the services that name them |
//! | [`source`] | a signal of a manifest as something that can be read |
//! | [`reader`] | one read: credentials, connection, value |
//! | [`secrets`] | credentials of Secrets |
//! | [`external`] | metrics of the external metrics API |
//! | [`addresses`] | addresses that no signal is read from |
//! | [`readings`] | what was last read |
//! | [`status`] | that in the status of a service |

pub(crate) mod addresses;
mod external;
pub(crate) mod reader;
pub(crate) mod readings;
mod secrets;
mod source;
pub(crate) mod status;
pub(crate) mod targets;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bursar_core::model::Key;
use bursar_core::model::event::Event;
use bursar_signals::polls::{PollResult, Polls, ReadSignal};
use jiff::Timestamp;

use crate::input::{Input, Inputs};
use crate::object_key::ObjectKey;
use readings::SignalReadings;
use source::Source;
use targets::SignalTargets;

/// Keeps what is read of signals, and tells the model of what changed.
pub(crate) struct SignalReads {
    pub(crate) targets: Arc<SignalTargets>,
    pub(crate) readings: SignalReadings,
    pub(crate) inputs: Inputs,
}

impl SignalReads {
    /// Reads for as long as the process leads.
    pub(crate) async fn run<R: ReadSignal<Source = Source>>(
        self,
        polls: Polls<R>,
        clock: fn() -> Timestamp,
    ) {
        polls.run(|read| self.take(&read, clock())).await;
    }

    /// Keeps a read, and tells the model of it if it changes what is known. That it fails is told once it
    /// has failed for a while: the last value counts until then, and the status says at once what is wrong.
    fn take(&self, read: &PollResult<Source>, now: Timestamp) {
        let id = &read.id;
        let key = Key {
            namespace: id.namespace.clone(),
            name: id.service.clone(),
        };
        // nothing comes back that was read of a signal before it was edited or went
        self.targets.if_current(&key, &id.signal, &read.source, || {
            let change = self
                .readings
                .record(&key, &id.signal, read.result.clone(), now);
            if change.status {
                let object = ObjectKey::Service(key.clone());
                // nobody listens at the end of leadership
                self.inputs.send(Input::Status(object)).ok();
            }
            if let Some(measurement) = change.measurement {
                let event = Event::Signal(key.clone(), id.signal.clone(), Some(measurement));
                self.inputs.send(Input::Event(event)).ok();
            }
        });
    }
}
