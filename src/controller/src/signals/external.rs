//! Metrics of the external metrics API, as KEDA's scalers and metrics adapters serve it.

use std::fmt;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Client;
use kube::client::Body;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use crate::api_calls::with_timeout;
use bursar_api::quantities;

/// Bytes of an answer that are read.
const MOST_BYTES: usize = 256 << 10;
/// The body follows its head within this long.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Characters of what an adapter says.
const MOST_CHARACTERS: usize = 160;
/// Values of one metric that are added.
const MOST_VALUES: usize = 1_000;
/// Nano-units in a thousandth.
const NANOS_PER_MILLI: i128 = 1_000_000;

/// A list of values, as `external.metrics.k8s.io/v1beta1` has it.
#[derive(Deserialize)]
struct ExternalMetricValueList {
    items: Vec<ExternalMetricValue>,
}

#[derive(Deserialize)]
struct ExternalMetricValue {
    value: Quantity,
}

/// The sum of a metric's values in a namespace, in thousandths, or why there is none.
pub(super) async fn read(
    client: &Client,
    namespace: &str,
    metric: &str,
    selector: &str,
) -> Result<u64, String> {
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let mut path = format!(
        "/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{}",
        encoded(metric)
    );
    if !selector.is_empty() {
        path = format!("{path}?labelSelector={}", encoded(selector));
    }
    let failed = |why: &dyn fmt::Display| {
        // whatever an answer says, not all of it
        let why: String = why.to_string().chars().take(MOST_CHARACTERS).collect();
        format!("external metric {metric}: {why}")
    };
    let request = http::Request::get(&path)
        .body(Body::empty())
        .map_err(|error| failed(&error))?;
    let answer = with_timeout("get external metric", client.send(request)).await;
    let answer = answer.map_err(|error| failed(&error))?;
    let status = answer.status();
    if status == http::StatusCode::NOT_FOUND {
        return Err(format!(
            "the external metrics API has no metric {metric} in this namespace, or the cluster has no \
             such API: is KEDA or a metrics adapter installed?"
        ));
    }
    if !status.is_success() {
        return Err(failed(&format!("the API server answers {status}")));
    }
    let body = Limited::new(answer.into_body(), MOST_BYTES).collect();
    let body = tokio::time::timeout(BODY_TIMEOUT, body).await;
    let body = body.map_err(|_| failed(&"its answer does not end"))?;
    let body = body.map_err(|error| failed(&error))?.to_bytes();
    let list: ExternalMetricValueList =
        serde_json::from_slice(&body).map_err(|error| failed(&error))?;
    sum(&list).map_err(|why| format!("external metric {metric} {why}"))
}

fn sum(list: &ExternalMetricValueList) -> Result<u64, String> {
    match list.items.len() {
        0 => return Err("has no value".to_owned()),
        many if many > MOST_VALUES => {
            return Err(format!(
                "has {many} values: at most {MOST_VALUES} are added"
            ));
        }
        _ => {}
    }
    let mut milli = 0u64;
    for item in &list.items {
        let nanos = quantities::nanos(&item.value).map_err(|error| format!("is {error}"))?;
        let value = nanos.div_euclid(NANOS_PER_MILLI) + i128::from(nanos % NANOS_PER_MILLI > 0);
        let value = u64::try_from(value).map_err(|_| format!("is {}, below zero", item.value.0))?;
        milli = milli.saturating_add(value);
    }
    Ok(milli)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Result<u64, String> {
        let items = values.iter().map(|value| ExternalMetricValue {
            value: Quantity((*value).to_owned()),
        });
        sum(&ExternalMetricValueList {
            items: items.collect(),
        })
    }

    #[test]
    fn values_are_added_and_rounded_up_to_thousandths() {
        for (values, milli) in [
            (vec!["0"], 0),
            (vec!["2", "1500m"], 3_500),
            (vec!["1u"], 1),
            (vec!["3k"], 3_000_000),
        ] {
            assert_eq!(read(&values), Ok(milli), "{values:?}");
        }
    }

    #[test]
    fn no_value_and_one_below_zero_are_errors_and_not_zero() {
        assert_eq!(read(&[]), Err("has no value".to_owned()));
        assert_eq!(read(&["-1"]), Err("is -1, below zero".to_owned()));
        assert!(read(&["many"]).unwrap_err().contains("is not a quantity"));
    }
}
