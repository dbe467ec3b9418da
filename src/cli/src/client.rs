//! The client for the cluster that kubectl would talk to, and errors in words.

use std::path::PathBuf;

use bursar_api::PriceList;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

/// Where Bursar is installed.
#[derive(Debug, clap::Args)]
pub(crate) struct Installation {
    /// Namespace in which Bursar is installed.
    #[arg(long, default_value = "bursar-system")]
    pub(crate) operator_namespace: String,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[error("no cluster to ask: {0}")]
pub(crate) struct ClientError(String);

/// A client for the cluster that kubectl would talk to.
pub(crate) async fn client(
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
) -> Result<Client, ClientError> {
    let failed = |error: &dyn std::error::Error| ClientError(one_line(&error_chain(error)));
    let options = KubeConfigOptions {
        context,
        ..KubeConfigOptions::default()
    };
    let config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| failed(&error))?;
            Config::from_custom_kubeconfig(file, &options)
                .await
                .map_err(|error| failed(&error))?
        }
        None if options.context.is_some() => Config::from_kubeconfig(&options)
            .await
            .map_err(|error| failed(&error))?,
        None => Config::infer().await.map_err(|error| failed(&error))?,
    };
    Client::try_from(config).map_err(|error| failed(&error))
}

/// All PriceLists of the cluster.
pub(crate) async fn price_lists(client: &Client) -> Result<Vec<PriceList>, kube::Error> {
    let api: Api<PriceList> = Api::all(client.clone());
    Ok(api.list(&ListParams::default()).await?.items)
}

/// The API server's own words, or an error with its causes, on one line.
pub(crate) fn api_error(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => {
            format!("{} ({})", status.message.trim(), status.code)
        }
        other => one_line(&error_chain(other)),
    }
}

fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

/// An error and its causes, without those that an earlier one quotes.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Chained {
        text: &'static str,
        #[source]
        cause: Option<Box<Chained>>,
    }

    #[test]
    fn causes_are_named_once_each() {
        let refused = Chained {
            text: "connection refused",
            cause: None,
        };
        let connecting = Chained {
            text: "connecting",
            cause: Some(Box::new(refused)),
        };
        let outer = Chained {
            text: "error while connecting",
            cause: Some(Box::new(connecting)),
        };
        assert_eq!(
            error_chain(&outer),
            "error while connecting: connection refused"
        );
    }
}
