//! The inputs of the actor that do not come from the caches.

use bursar_api::explanation::Explanation;
use bursar_core::model::event::Event;
use tokio::sync::{mpsc, oneshot};

use crate::object_key::ObjectKey;

/// An input of the actor that does not come from the caches.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all inputs are events, and none waits for long"
)]
pub(crate) enum Input {
    /// A reading, or what a gateway holds.
    Event(Event),
    /// The status of an object may be another, though nothing new was decided.
    Status(ObjectKey),
    /// Somebody asks for the last decision over a namespace.
    Explain(String, oneshot::Sender<Option<Explanation>>),
}

/// Where inputs are sent.
pub(crate) type Inputs = mpsc::UnboundedSender<Input>;
