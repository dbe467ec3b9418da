//! The default price list: applied by the leader as soon as its kind is served.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bursar_api::PriceList;
use bursar_api::names::FIELD_MANAGER;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};

use crate::calls::bounded;

const PAUSE: Duration = Duration::from_secs(10);
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// Applies the list in `file`, and tries again until that succeeds. A list of the same name that is not Bursar's is left alone.
pub(crate) async fn install(client: Client, file: PathBuf) {
    loop {
        match apply(&client, &file).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(file = %file.display(), error, "cannot apply the default price list")
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn apply(client: &Client, file: &Path) -> Result<(), String> {
    let text = tokio::fs::read_to_string(file)
        .await
        .map_err(|error| error.to_string())?;
    let list: PriceList = serde_saphyr::from_str(&text).map_err(|error| error.to_string())?;
    let api: Api<PriceList> = Api::all(client.clone());
    let name = list.name_any();
    let found = bounded("get pricelist", api.get_opt(&name))
        .await
        .map_err(|error| error.to_string())?;
    if let Some(found) = found {
        if found.labels().get(MANAGED_BY).map(String::as_str) != Some("bursar") {
            tracing::info!(
                name,
                "a price list of this name is not Bursar's; it stays as it is"
            );
            return Ok(());
        }
        if found.spec == list.spec {
            return Ok(());
        }
    }
    let params = PatchParams::apply(FIELD_MANAGER).force();
    bounded(
        "apply pricelist",
        api.patch(&name, &params, &Patch::Apply(&list)),
    )
    .await
    .map_err(|error| error.to_string())?;
    tracing::info!(name, "applied the default price list");
    Ok(())
}
