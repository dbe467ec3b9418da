//! The client for the cluster that kubectl would talk to, and errors in words.

use std::error::Error;
use std::path::PathBuf;

use bursar_api::PriceList;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use kube::api::ListParams;
use kube::client::{Body, ConfigExt};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tower::{BoxError, Layer, ServiceExt};

/// Which cluster, and as whom.
#[derive(Debug, clap::Args)]
pub(crate) struct Connection {
    /// Kubeconfig file [default: the one that kubectl uses].
    #[arg(long, global = true)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current context].
    #[arg(long, global = true)]
    pub(crate) context: Option<String>,
    /// Bearer token for the API server and the leader, in place of the kubeconfig's credentials.
    #[arg(long, global = true)]
    pub(crate) token: Option<String>,
}

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

/// The cluster that kubectl would talk to, and its credentials there.
pub(crate) async fn config(connection: &Connection) -> Result<Config, ClientError> {
    let options = KubeConfigOptions {
        context: connection.context.clone(),
        ..KubeConfigOptions::default()
    };
    let config = match &connection.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| no_client(&error))?;
            Config::from_custom_kubeconfig(file, &options)
                .await
                .map_err(|error| no_client(&error))
        }
        None if options.context.is_some() => Config::from_kubeconfig(&options)
            .await
            .map_err(|error| no_client(&error)),
        None => Config::infer().await.map_err(|error| no_client(&error)),
    };
    let mut config = config?;
    if let Some(token) = &connection.token {
        config.auth_info = AuthInfo {
            token: Some(token.clone().into()),
            ..AuthInfo::default()
        };
    }
    Ok(config)
}

/// A client for a cluster.
pub(crate) fn client(config: Config) -> Result<Client, ClientError> {
    Client::try_from(config).map_err(|error| no_client(&error))
}

/// The `Authorization` that the API server gets from this caller, for servers that the API server's
/// proxy reaches: the proxy does not pass it on. `None` for callers who have a certificate instead.
pub(crate) async fn authorization(config: &Config) -> Result<Option<HeaderValue>, ClientError> {
    let Some(layer) = config.auth_layer().map_err(|error| no_client(&error))? else {
        return Ok(None);
    };
    let echo = tower::service_fn(|request: Request<Body>| async move {
        let mut response = Response::new(());
        *response.headers_mut() = request.headers().clone();
        Ok::<_, BoxError>(response)
    });
    let answered = layer.layer(echo).oneshot(Request::new(Body::empty())).await;
    let mut response = answered.map_err(|error| no_client(&*error))?;
    Ok(response.headers_mut().remove(AUTHORIZATION))
}

fn no_client(error: &dyn Error) -> ClientError {
    ClientError(one_line(&error_chain(error)))
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
pub(crate) fn error_chain(error: &dyn Error) -> String {
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

    #[tokio::test]
    async fn callers_with_a_token_are_known_behind_the_proxy_too() {
        let mut config = Config::new("https://localhost".parse().unwrap());
        assert_eq!(authorization(&config).await.unwrap(), None);
        config.auth_info.token = Some("secret".to_owned().into());
        let sent = authorization(&config).await.unwrap();
        assert_eq!(sent.unwrap(), "Bearer secret");
    }

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
