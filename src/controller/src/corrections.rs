//! SpendCorrections: which of them count, and their statuses.

use std::collections::BTreeMap;
use std::time::Duration;

use bursar_api::conditions::{
    self, ACCEPTED, ConditionState, Reason, accepted, correction_accepted,
};
use bursar_api::correction::SpendCorrectionStatus;
use bursar_api::{SpendCorrection, SpendRecord};
use bursar_core::calendar::Month;
use bursar_core::correction::Correction;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use kube::runtime::reflector::Store;

use crate::api_calls::ApiError;
use crate::context::Context;
use crate::pricing::effective;
use crate::status;

/// How often the statuses are compared with the caches.
const PACE: Duration = Duration::from_secs(2);

/// The currency of each month's accounts; that of the prices where there are none.
struct Currencies<'a> {
    records: &'a Store<SpendRecord>,
    prices: &'a str,
    months: BTreeMap<Month, String>,
}

impl<'a> Currencies<'a> {
    fn new(records: &'a Store<SpendRecord>, prices: &'a str) -> Self {
        Self {
            records,
            prices,
            months: BTreeMap::new(),
        }
    }

    fn of(&mut self, month: Month) -> &str {
        let currency = || {
            effective::month_currency(self.records, month).unwrap_or_else(|| self.prices.to_owned())
        };
        self.months.entry(month).or_insert_with(currency)
    }

    /// The correction, if it counts; else the reason and a sentence that says why not.
    fn validate(&mut self, object: &SpendCorrection) -> Result<Correction, (Reason, String)> {
        let correction = object
            .to_core()
            .map_err(|error| (accepted::UNREADABLE, error.to_string()))?;
        match correction.rejection(self.of(correction.month())) {
            None => Ok(correction),
            Some(why) => Err((correction_accepted::OTHER_CURRENCY, why)),
        }
    }
}

/// The corrections of a namespace that count, each from its day on.
pub(crate) fn accepted(
    corrections: &Store<SpendCorrection>,
    records: &Store<SpendRecord>,
    prices: &str,
    namespace: &str,
) -> Vec<Correction> {
    let mut currencies = Currencies::new(records, prices);
    let all = corrections.state();
    let in_namespace = all
        .iter()
        .filter(|object| object.spec.namespace == namespace);
    in_namespace
        .filter_map(|object| currencies.validate(object).ok())
        .collect()
}

/// Keeps every correction's status up to date, for as long as the process leads.
pub(crate) async fn run(context: &Context) {
    loop {
        if let Err(error) = sync_once(context, Timestamp::now()).await {
            tracing::warn!(%error, "corrections");
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Writes the statuses that changed.
///
/// # Errors
/// The first call that failed.
pub(crate) async fn sync_once(context: &Context, now: Timestamp) -> Result<(), ApiError> {
    let all = context.stores.corrections.state();
    let prices = context.prices(now);
    let mut currencies = Currencies::new(&context.stores.records, &prices.lists.currency);
    let readable = all
        .iter()
        .filter(|object| !context.unreadable.contains(&***object));
    for object in readable {
        let Some(status) = next_status(object, currencies.validate(object), now, &context.zone)
        else {
            continue;
        };
        match status::write(&context.client, &**object, status).await {
            Err(error) if !error.is_stale() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The status of a correction after validation; `None` if the present one is the same.
fn next_status(
    object: &SpendCorrection,
    validated: Result<Correction, (Reason, String)>,
    now: Timestamp,
    zone: &TimeZone,
) -> Option<SpendCorrectionStatus> {
    let (status, reason, message) = match validated {
        Err((reason, why)) => (false, reason, why),
        Ok(correction) if !correction.is_due(now, zone) => (
            true,
            correction_accepted::PENDING,
            format!("it counts from {} on", correction.date),
        ),
        Ok(_) => (
            true,
            correction_accepted::COUNTS,
            "it is a part of what was spent".to_owned(),
        ),
    };
    let old = object.status.clone().unwrap_or_default();
    let says = vec![ConditionState {
        kind: ACCEPTED,
        status: Some(status),
        reason,
        message,
    }];
    let generation = object.metadata.generation;
    let status = SpendCorrectionStatus {
        observed_generation: generation,
        conditions: conditions::updated_conditions(&old.conditions, says, generation, now),
    };
    (status != old).then_some(status)
}
