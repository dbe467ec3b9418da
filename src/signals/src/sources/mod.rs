//! Demand that a server knows: the length of a queue, the lag of a consumer group, the result of a
//! query. Tenants name the servers, so that neither a server nor what it says is believed: see
//! [`crate::dial`].
//!
//! | module | subject |
//! |---|---|
//! | [`prometheus`] | the result of a query, confined to a namespace by [`promql`] |
//! | [`redis`] | a list or stream of Redis |
//! | [`rabbitmq`] | a queue of RabbitMQ, by the management API or by [`amqp`] |
//! | [`kafka`] | the lag of a consumer group of Kafka |
//! | [`nats`] | a JetStream consumer of NATS |
//! | [`http`] | a number in a JSON document |
//! | [`http_client`] | a GET request |
//! | [`value`] | numbers as thousandths |
//! | [`error`] | why a source could not be read |

mod amqp;
mod error;
mod http;
mod http_client;
mod kafka;
mod nats;
mod prometheus;
mod promql;
mod rabbitmq;
mod redis;
mod value;

use std::time::Duration;

pub use error::{InvalidSource, SourceError, SourceErrorKind};
pub use http::Http;
pub use http_client::HttpUrl;
pub use kafka::{Kafka, Sasl, WithoutCommits};
pub use nats::Nats;
pub use prometheus::Prometheus;
pub use rabbitmq::{RabbitMq, RabbitMqProtocol};
pub use redis::{Redis, RedisMeasure, RedisMode};

pub use crate::credentials::Credentials;
pub use crate::dial::Endpoint;

use crate::dial::Dialer;

/// A read takes no longer, whatever the server does.
pub const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// A source of a signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignalSource {
    /// The result of a PromQL query.
    Prometheus(Prometheus),
    /// A list or stream of Redis.
    Redis(Redis),
    /// A queue of RabbitMQ.
    RabbitMq(RabbitMq),
    /// The lag of a consumer group of Kafka.
    Kafka(Kafka),
    /// A JetStream consumer of NATS.
    Nats(Nats),
    /// A number in a JSON document.
    Http(Http),
}

impl SignalSource {
    /// Reads the value once, over a connection that is made for this read. Returns thousandths,
    /// rounded up.
    ///
    /// # Errors
    /// There is no value: the server cannot be reached, does not answer within [`READ_TIMEOUT`],
    /// refuses the credentials, or does not say a number from 0 to 10^15.
    pub async fn read(
        &self,
        credentials: &Credentials,
        dialer: &Dialer,
    ) -> Result<u64, SourceError> {
        let read = async {
            match self {
                Self::Prometheus(source) => source.read(credentials, dialer).await,
                Self::Redis(source) => source.read(credentials, dialer).await,
                Self::RabbitMq(source) => source.read(credentials, dialer).await,
                Self::Kafka(source) => source.read(credentials, dialer).await,
                Self::Nats(source) => source.read(credentials, dialer).await,
                Self::Http(source) => source.read(credentials, dialer).await,
            }
        };
        let read = tokio::time::timeout(READ_TIMEOUT, read).await;
        read.unwrap_or_else(|_| {
            let seconds = READ_TIMEOUT.as_secs();
            let message = format!("no answer from {} within {seconds} s", self.endpoint());
            Err(SourceError::new(SourceErrorKind::Timeout, message))
        })
        .map_err(|error| error.redacted(credentials))
    }

    /// The server, as errors name it.
    fn endpoint(&self) -> String {
        match self {
            Self::Prometheus(source) => source.url.to_string(),
            Self::Redis(source) => joined(&source.addresses),
            Self::RabbitMq(source) => source.endpoint.to_string(),
            Self::Kafka(source) => joined(&source.brokers),
            Self::Nats(source) => source.endpoint.to_string(),
            Self::Http(source) => source.url.to_string(),
        }
    }
}

/// The addresses of one service, of which an error names a few.
fn joined(addresses: &[Endpoint]) -> String {
    let names: Vec<String> = addresses.iter().take(3).map(Endpoint::to_string).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests;
