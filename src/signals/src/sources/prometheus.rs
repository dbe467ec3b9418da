//! The result of a PromQL query, from Prometheus or a server with its HTTP API.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;

use super::error::{InvalidSource, SourceError, SourceErrorKind, quoted};
use super::http_client::{self, HttpUrl};
use super::{promql, value};
use crate::credentials::Credentials;
use crate::dial::Dialer;

/// A server need not go on with a query when nobody waits for it any more.
const EVALUATION_TIMEOUT: &str = "5s";

/// A query whose result is one number: a scalar, or an instant vector of one sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prometheus {
    /// The server, with the path under which its API is: `http://prometheus.monitoring.svc:9090`.
    pub url: HttpUrl,
    /// Whether a vector without samples is 0. It is an error otherwise: a metric that is gone is
    /// not a metric of zero.
    pub empty_is_zero: bool,
    query: String,
}

impl Prometheus {
    /// A query, in which each selector gets the label `name="value"`, if there is one, instead of
    /// what it says of that label itself. Empty vectors are errors.
    ///
    /// # Errors
    /// It is not PromQL, longer than 4 KiB, or cannot be confined to the label.
    pub fn new(
        url: HttpUrl,
        query: &str,
        namespace_label: Option<(&str, &str)>,
    ) -> Result<Self, InvalidSource> {
        Ok(Self {
            url,
            empty_is_zero: false,
            query: promql::confine(query, namespace_label)?,
        })
    }

    /// The query as the server gets it.
    #[must_use]
    pub fn query(&self) -> &str {
        &self.query
    }

    pub(super) async fn read(
        &self,
        credentials: &Credentials,
        dialer: &Dialer,
    ) -> Result<u64, SourceError> {
        let query = utf8_percent_encode(&self.query, NON_ALPHANUMERIC);
        let path = format!(
            "/api/v1/query?query={query}&timeout={EVALUATION_TIMEOUT}&partial_response=false"
        );
        let answer = http_client::get(&self.url.below(&path), credentials, dialer).await?;
        let url = &self.url;
        let parsed: Result<Response, _> = serde_json::from_slice(&answer.body);
        match parsed {
            Ok(Response::Success { data }) => self.value(&data),
            Ok(Response::Error { error }) => {
                let message = format!("{url} refuses the query: {}", quoted(&error));
                Err(SourceError::new(SourceErrorKind::Protocol, message))
            }
            Err(_) => {
                let message = format!(
                    "{url} does not answer as Prometheus' API does (HTTP {}); give the URL without \
                     /api/v1",
                    answer.status.as_u16()
                );
                Err(SourceError::new(SourceErrorKind::Protocol, message))
            }
        }
    }

    fn value(&self, data: &Data) -> Result<u64, SourceError> {
        let invalid = |why: &str| {
            let message = format!("the query at {} gives {why}", self.url);
            Err(SourceError::new(SourceErrorKind::InvalidValue, message))
        };
        let sample = match (data.result_type.as_str(), data.result.as_array()) {
            ("scalar", _) => &data.result,
            ("vector", Some(samples)) => match samples.as_slice() {
                [sample] => sample.get("value").unwrap_or(&Value::Null),
                [] if self.empty_is_zero => return Ok(0),
                [] => {
                    let message = format!(
                        "the query at {} gives no sample; is the metric there, with the \
                         namespace's label? An empty result can be set to count as 0",
                        self.url
                    );
                    return Err(SourceError::new(SourceErrorKind::NotFound, message));
                }
                samples => {
                    let many = samples.len();
                    return invalid(&format!(
                        "{many} samples, not one; aggregate, as in sum(...)"
                    ));
                }
            },
            ("matrix", _) => {
                return invalid("a range of samples, not one; use a function, as in rate(...[5m])");
            }
            ("string", _) => return invalid("a string, not a number"),
            (other, _) => return invalid(&format!("a result of type `{}`", quoted(other))),
        };
        let Some(number) = sample.get(1).and_then(Value::as_str) else {
            return invalid("a sample without a value");
        };
        value::parse(number).or_else(|why| {
            let advice = if number == "NaN" {
                "; is it divided by 0?"
            } else {
                ""
            };
            invalid(&format!("{why}{advice}"))
        })
    }
}

/// An answer of the API.
#[derive(Debug, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
enum Response {
    Success { data: Data },
    Error { error: String },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    result_type: String,
    result: Value,
}
