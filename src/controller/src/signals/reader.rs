//! One read of a signal: credentials, connection, value.

use std::sync::Arc;

use bursar_signals::dial::Dialer;
use bursar_signals::polls::{ReadSignal, SignalId};
use kube::Client;

use super::external;
use super::secrets::Secrets;
use super::source::Source;

/// Reads signals from servers and from the API server.
#[derive(Clone)]
pub(crate) struct SignalReader {
    client: Client,
    secrets: Arc<Secrets>,
    dialer: Dialer,
}

impl SignalReader {
    /// A reader that connects to servers as `dialer` does.
    pub(crate) fn new(client: Client, dialer: Dialer) -> Self {
        Self {
            secrets: Arc::new(Secrets::new(client.clone())),
            client,
            dialer,
        }
    }
}

impl ReadSignal for SignalReader {
    type Source = Source;

    async fn read(&self, id: &SignalId, source: &Source) -> Result<u64, String> {
        match source {
            Source::Invalid(why) => Err(why.clone()),
            Source::External { metric, selector } => {
                external::read(&self.client, &id.namespace, metric, selector).await
            }
            Source::Server { source, secret } => {
                let credentials = match secret {
                    None => Arc::default(),
                    Some(name) => self.secrets.get(&id.namespace, name).await?,
                };
                let read = source.read(&credentials, &self.dialer).await;
                if let (Err(_), Some(name)) = (&read, secret) {
                    // they may have changed
                    self.secrets.forget(&id.namespace, name);
                }
                read.map_err(|error| error.to_string())
            }
        }
    }
}
