//! The messages of a queue of RabbitMQ, by AMQP or by the management API.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::amqp;
use super::error::{SourceError, SourceErrorKind, quoted};
use super::http_client::{self, HttpUrl};
use crate::credentials::Credentials;
use crate::dial::{Dialer, Endpoint};

/// AMQP's bound for names, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// A queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RabbitMq {
    /// The server: its port for AMQP, or that of the management API.
    pub endpoint: Endpoint,
    /// How the queue is asked for.
    pub protocol: RabbitMqProtocol,
    /// The virtual host; RabbitMQ's own is `/`.
    pub vhost: String,
    /// The queue's name.
    pub queue: String,
}

/// How a queue is asked for, which decides what is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RabbitMqProtocol {
    /// A passive declaration over AMQP 0-9-1: the messages that are ready for delivery. Those that
    /// consumers hold unacknowledged do not count. The user needs no permission but to connect to
    /// the vhost.
    Amqp,
    /// The HTTP API of the management plugin: messages that are ready, and those that consumers
    /// hold unacknowledged. Its numbers are up to 5 s old. The user needs the tag `monitoring` or
    /// `management`.
    Management,
}

/// What the management API says of a queue, of what counts here.
#[derive(Debug, Deserialize)]
struct Queue {
    messages: Option<i64>,
}

impl RabbitMq {
    pub(super) async fn read(
        &self,
        credentials: &Credentials,
        dialer: &Dialer,
    ) -> Result<u64, SourceError> {
        for (what, name) in [("vhost", &self.vhost), ("queue", &self.queue)] {
            if name.is_empty() || name.len() > MAX_NAME_BYTES {
                let bytes = name.len();
                let message = format!(
                    "the name of the {what} has {bytes} bytes; from 1 to {MAX_NAME_BYTES} may be"
                );
                return Err(SourceError::new(SourceErrorKind::NotFound, message));
            }
        }
        let messages = match self.protocol {
            RabbitMqProtocol::Amqp => {
                let (vhost, queue) = (&self.vhost, &self.queue);
                let read = amqp::ready_messages(&self.endpoint, vhost, queue, credentials, dialer);
                read.await?.into()
            }
            RabbitMqProtocol::Management => self.messages(credentials, dialer).await?,
        };
        Ok(messages.saturating_mul(1000))
    }

    async fn messages(
        &self,
        credentials: &Credentials,
        dialer: &Dialer,
    ) -> Result<u64, SourceError> {
        let encoded = |name| utf8_percent_encode(name, NON_ALPHANUMERIC);
        let url = HttpUrl {
            endpoint: self.endpoint.clone(),
            path: format!(
                "/api/queues/{}/{}",
                encoded(&self.vhost),
                encoded(&self.queue)
            ),
        };
        let answer = http_client::get(&url, credentials, dialer).await?;
        let endpoint = &self.endpoint;
        let (queue, vhost) = (quoted(&self.queue), quoted(&self.vhost));
        match answer.status.as_u16() {
            200 => {}
            404 => {
                let message = format!("{endpoint} has no queue `{queue}` in vhost `{vhost}`");
                return Err(SourceError::new(SourceErrorKind::NotFound, message));
            }
            status => {
                let why = format!("HTTP {status}; is it the management API (port 15672)?");
                return Err(SourceError::protocol(endpoint, &why));
            }
        }
        let parsed: Result<Queue, _> = serde_json::from_slice(&answer.body);
        let parsed = parsed.map_err(|_| {
            let why = "no queue of the management API; its port is 15672 by default";
            SourceError::protocol(endpoint, why)
        })?;
        let Some(messages) = parsed.messages else {
            let message = format!(
                "{endpoint} does not know yet how many messages queue `{queue}` has; it counts a \
                 new queue within 5 s"
            );
            return Err(SourceError::new(SourceErrorKind::InvalidValue, message));
        };
        u64::try_from(messages).map_err(|_| {
            let message = format!("queue `{queue}` at {endpoint} has {messages} messages");
            SourceError::new(SourceErrorKind::InvalidValue, message)
        })
    }
}
