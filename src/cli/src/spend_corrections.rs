//! SpendCorrections, listed and parsed, and which of them count.

use bursar_api::SpendCorrection;
use bursar_core::calendar::Interval;
use bursar_core::correction::Correction;
use bursar_core::money::Money;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use kube::Client;
use serde_json::Value;

use crate::spend_records::{self, object_name};

/// A correction, parsed.
#[derive(Debug, Clone)]
pub(crate) struct LoadedCorrection {
    /// The object.
    pub(crate) object: SpendCorrection,
    /// Its amount, date and workload.
    pub(crate) correction: Correction,
    /// The accounting time zone that its date is in.
    pub(crate) zone: TimeZone,
}

impl LoadedCorrection {
    /// Parses a correction.
    pub(crate) fn from_object(object: &Value, zone: &TimeZone) -> Result<Self, String> {
        let object: SpendCorrection =
            serde_json::from_value(object.clone()).map_err(|error| error.to_string())?;
        let correction = object.to_core().map_err(|error| error.to_string())?;
        Ok(Self {
            object,
            correction,
            zone: zone.clone(),
        })
    }
}

/// All SpendCorrections, by name; none where the cluster does not know the kind yet.
pub(crate) async fn list(client: &Client) -> Result<Vec<Value>, spend_records::Error> {
    match spend_records::list_of::<SpendCorrection>(client, "").await {
        Err(spend_records::Error::UnknownKind(_)) => Ok(Vec::new()),
        listed => listed,
    }
}

/// True for a SpendCorrection in a backup.
pub(crate) fn is_correction(object: &Value) -> bool {
    object["kind"] == "SpendCorrection"
}

/// The corrections of a namespace, or of all, that count in `within` for accounts of this currency
/// and zone. Where the currency is not known, it is that of the first correction. The second list
/// names those that do not count, and why.
pub(crate) fn applicable(
    objects: &[Value],
    namespace: Option<&str>,
    within: Interval,
    currency: Option<&str>,
    zone: &TimeZone,
    now: Timestamp,
) -> (Vec<LoadedCorrection>, Vec<String>) {
    let (mut applicable, mut rejected) = (Vec::new(), Vec::new());
    let mut currency = currency.map(str::to_owned);
    let wanted = |object: &&Value| namespace.is_none_or(|name| object["spec"]["namespace"] == name);
    for object in objects.iter().filter(wanted) {
        let read = LoadedCorrection::from_object(object, zone);
        if let Ok(read) = &read
            && !read.correction.counts_within(within, now, zone)
        {
            continue;
        }
        let checked = read.and_then(|read| {
            let kept = currency.get_or_insert_with(|| read.correction.currency.clone());
            read.correction.rejection(kept).map_or(Ok(read), Err)
        });
        match checked {
            Ok(read) => applicable.push(read),
            Err(why) => rejected.push(format!(
                "SpendCorrection {} does not count: {why}",
                object_name(object)
            )),
        }
    }
    (applicable, rejected)
}

/// The sum of corrections.
pub(crate) fn sum<'a>(corrections: impl IntoIterator<Item = &'a LoadedCorrection>) -> Money {
    let amounts = corrections.into_iter().map(|each| each.correction.amount);
    amounts.sum()
}
