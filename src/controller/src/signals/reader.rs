//! One read of a signal: credentials, connection, value.

use std::sync::Arc;

use bursar_signals::dial::Dialer;
use bursar_signals::polls::{ReadSignal, SignalId};
use bursar_signals::sources::SourceErrorKind;
use kube::Client;
use tokio::sync::Semaphore;

use super::external;
use super::secrets::Secrets;
use super::source::Source;

/// External metrics that are asked for at once: orders and the Lease go by the same client.
const MAX_API_READS: usize = 8;

/// Reads signals from servers and from the API server.
#[derive(Clone)]
pub(crate) struct SignalReader {
    client: Client,
    secrets: Arc<Secrets>,
    dialer: Dialer,
    api_reads: Arc<Semaphore>,
}

impl SignalReader {
    /// A reader that connects to servers as `dialer` does.
    pub(crate) fn new(client: Client, dialer: Dialer) -> Self {
        Self {
            secrets: Arc::new(Secrets::new(client.clone())),
            client,
            dialer,
            api_reads: Arc::new(Semaphore::new(MAX_API_READS)),
        }
    }
}

impl ReadSignal for SignalReader {
    type Source = Source;

    async fn read(&self, id: &SignalId, source: &Source) -> Result<u64, String> {
        match source {
            Source::Invalid(why) => Err(why.clone()),
            Source::External { metric, selector } => {
                let _permit = self.api_reads.acquire().await;
                external::read(&self.client, &id.namespace, metric, selector).await
            }
            Source::Server { source, secret } => {
                let credentials = match secret {
                    None => Arc::default(),
                    Some(name) => self.secrets.get(&id.namespace, name).await?,
                };
                let dialer = self.dialer.of_tenant(&id.namespace);
                let read = source.read(&credentials, &dialer).await;
                if let (Err(error), Some(name)) = (&read, secret)
                    && error.kind() == SourceErrorKind::Unauthorized
                {
                    self.secrets.refused(&id.namespace, name);
                }
                read.map_err(|error| error.to_string())
            }
        }
    }
}
