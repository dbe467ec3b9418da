//! `bursar crds`: prints or applies the CustomResourceDefinitions. Helm installs a chart's `crds/`
//! once and never upgrades them.

use std::time::Duration;

use bursar_api::crds;
use bursar_api::names::FIELD_MANAGER;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::await_condition;
use kube::{Client, ResourceExt};

const LIMIT: Duration = Duration::from_secs(60);

/// Arguments of `bursar crds`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Apply the definitions to the cluster and wait until they are served, instead of printing
    /// them.
    #[arg(long)]
    pub apply: bool,
}

/// The error with which `bursar crds` failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused a request, or could not be reached.
    #[error("{0}")]
    Api(#[from] kube::Error),
    /// A definition could not be written as YAML.
    #[error("a definition cannot be written as YAML: {0}")]
    Yaml(String),
    /// A definition was not served in time.
    #[error("{name} is not established after {} s; kubectl describe crd {name} says why", LIMIT.as_secs())]
    NotEstablished {
        /// The definition's name.
        name: String,
    },
}

/// Prints or applies all definitions.
///
/// # Errors
/// Fails at the first definition that cannot be applied.
pub async fn run(options: Options) -> Result<(), Error> {
    if !options.apply {
        for crd in crds::all() {
            print!(
                "---\n{}",
                crds::yaml(&crd).map_err(|error| Error::Yaml(error.to_string()))?
            );
        }
        return Ok(());
    }
    let api: Api<CustomResourceDefinition> = Api::all(Client::try_default().await?);
    for crd in crds::all() {
        let name = crd.name_any();
        api.patch(
            &name,
            &PatchParams::apply(FIELD_MANAGER).force(),
            &Patch::Apply(&crd),
        )
        .await?;
        let served = tokio::time::timeout(
            LIMIT,
            await_condition(api.clone(), &name, is_crd_established()),
        )
        .await;
        served
            .ok()
            .and_then(Result::ok)
            .ok_or_else(|| Error::NotEstablished { name: name.clone() })?;
        tracing::info!(name, "applied");
    }
    Ok(())
}
