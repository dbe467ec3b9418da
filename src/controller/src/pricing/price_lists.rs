//! PriceLists: the default list, which the leader applies as soon as its kind is served, and the
//! statuses of all lists.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bursar_api::PriceList;
use bursar_api::conditions::{self, ACCEPTED, ConditionState, price_list_accepted};
use bursar_api::names::FIELD_MANAGER;
use bursar_api::prices::PriceListStatus;
use jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};

use crate::api_calls::{ApiError, with_timeout};
use crate::context::Context;
use crate::status;

/// How often the statuses are compared with the caches.
const PACE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_secs(10);
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// Applies the list in `file`, and tries again until that succeeds. A list of the same name that is
/// not Bursar's is left alone.
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
    let found = with_timeout("get pricelist", api.get_opt(&name))
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
    with_timeout(
        "apply pricelist",
        api.patch(&name, &params, &Patch::Apply(&list)),
    )
    .await
    .map_err(|error| error.to_string())?;
    tracing::info!(name, "applied the default price list");
    Ok(())
}

/// Keeps every list's status up to date, for as long as the process leads.
pub(crate) async fn run(context: Arc<Context>) {
    loop {
        if let Err(error) = sync_once(&context, Timestamp::now()).await {
            tracing::warn!(%error, "price lists");
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Writes the statuses that changed.
///
/// # Errors
/// The first call that failed.
pub(crate) async fn sync_once(context: &Context, now: Timestamp) -> Result<(), ApiError> {
    let prices = context.prices(now);
    let zone = context.zone.iana_name().unwrap_or("UTC");
    let currency = &prices.lists.currency;
    context.metrics.show_accounting(currency, zone);
    for list in context.stores.prices.state() {
        if context.unreadable.contains(&*list) {
            continue;
        }
        let Some(status) = next_status(&list, prices.refused.get(&list.name_any()), now) else {
            continue;
        };
        match status::write(&context.client, &*list, status).await {
            Err(error) if !error.is_stale() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The status of a list, which was refused for this reason if any; `None` if the present one is the
/// same.
fn next_status(
    list: &PriceList,
    refused: Option<&String>,
    now: Timestamp,
) -> Option<PriceListStatus> {
    let begins = list
        .spec
        .effective_from
        .as_ref()
        .map(|from| from.0)
        .filter(|from| *from > now);
    let (status, reason, message) = match (refused, begins) {
        (Some(why), _) => (false, price_list_accepted::REFUSED, why.clone()),
        (None, Some(from)) => (
            true,
            price_list_accepted::PENDING,
            format!("it comes into force at {from}"),
        ),
        (None, None) => (
            true,
            price_list_accepted::IN_FORCE,
            "its prices count".to_owned(),
        ),
    };
    let old = list.status.clone().unwrap_or_default();
    let says = vec![ConditionState {
        kind: ACCEPTED,
        status: Some(status),
        reason,
        message,
    }];
    let status = PriceListStatus {
        observed_generation: list.metadata.generation,
        conditions: conditions::updated_conditions(
            &old.conditions,
            says,
            list.metadata.generation,
            now,
        ),
    };
    (status != old).then_some(status)
}
