//! Refusals, in OpenAI's error form, always with `Retry-After`.

use bursar_api::inference::RefusalStatus;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use jiff::Timestamp;
use serde_json::json;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Refusal {
    /// The controller says so: a budget, mostly.
    Told(RefusalStatus),
    /// Requests may not wake this service.
    Stopped,
    /// As many as may wait do.
    QueueFull,
    /// No replica came in time.
    HoldExpired(i64),
    /// The service is gone.
    Gone,
    /// The body is larger than what may wait.
    TooLarge,
    /// The body could not be read.
    BadBody(String),
    /// The body did not come in time.
    BodyLate,
    /// This gateway ends.
    Leaving,
    /// The replica broke off before it answered.
    Upstream(String),
}

impl Refusal {
    /// A word for metrics.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Self::Told(told) if told.status == 429 => "budget",
            Self::Told(told) if told.code == "start_failed" => "start_failed",
            Self::Told(_) | Self::Stopped => "stopped",
            Self::QueueFull => "queue_full",
            Self::HoldExpired(_) => "hold_expired",
            Self::Gone => "gone",
            Self::TooLarge | Self::BadBody(_) | Self::BodyLate => "bad_request",
            Self::Leaving => "leaving",
            Self::Upstream(_) => "upstream",
        }
    }

    /// Status, OpenAI's error type and code, message, and seconds until another try makes sense.
    fn parts(&self, now: Timestamp) -> (u16, &'static str, &str, String, i64) {
        let server = "server_error";
        match self {
            Self::Told(told) => {
                let kind = if told.status == 429 {
                    "insufficient_quota"
                } else {
                    server
                };
                let at = told.retry_at.as_ref().map(|at| at.0);
                let message = match at {
                    Some(at) if told.status == 429 => {
                        format!("{}; the budget reopens at {at}", told.message)
                    }
                    _ => told.message.clone(),
                };
                let status = u16::try_from(told.status).ok();
                (
                    status
                        .filter(|status| (400..600).contains(status))
                        .unwrap_or(503),
                    kind,
                    &told.code,
                    message,
                    at.map_or(10, |at| at.duration_since(now).as_secs()),
                )
            }
            Self::Stopped => (
                503,
                server,
                "service_stopped",
                "the service has no replica, and its activation.mode is Never".into(),
                60,
            ),
            Self::QueueFull => (
                503,
                server,
                "queue_full",
                "as many requests, or bytes of them, as may wait for this service do".into(),
                5,
            ),
            Self::HoldExpired(seconds) => (
                504,
                server,
                "hold_expired",
                format!("no replica was ready within {seconds} s (activation.holdTimeout)"),
                10,
            ),
            Self::Gone => (
                404,
                "invalid_request_error",
                "not_found",
                "there is no such service any more".into(),
                60,
            ),
            Self::TooLarge => (
                413,
                "invalid_request_error",
                "request_too_large",
                "the request's body is too large to wait".into(),
                60,
            ),
            Self::BadBody(why) => (
                400,
                "invalid_request_error",
                "bad_body",
                format!("the request's body broke off: {why}"),
                1,
            ),
            Self::BodyLate => (
                408,
                "invalid_request_error",
                "request_timeout",
                "the request's body did not come in time".into(),
                1,
            ),
            Self::Leaving => (
                503,
                server,
                "gateway_leaving",
                "this gateway ends before a replica was ready; another takes the request".into(),
                1,
            ),
            Self::Upstream(why) => (
                502,
                server,
                "replica_failed",
                format!("the replica broke off before it answered: {why}"),
                1,
            ),
        }
    }

    /// The answer.
    pub(crate) fn response(&self, now: Timestamp) -> Response<Full<Bytes>> {
        let (status, kind, code, message, retry) = self.parts(now);
        let body =
            json!({"error": {"message": message, "type": kind, "param": null, "code": code}});
        let mut response = Response::new(Full::from(body.to_string()));
        *response.status_mut() =
            StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(header::RETRY_AFTER, HeaderValue::from(retry.max(1)));
        response
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    #[tokio::test]
    async fn a_budget_says_429_with_the_time_it_reopens() {
        let now: Timestamp = "2026-11-30T23:00:00Z".parse().unwrap();
        let told = RefusalStatus {
            status: 429,
            code: "insufficient_quota".into(),
            message: "budget team is exhausted".into(),
            retry_at: Some(Time("2026-12-01T00:00:00Z".parse().unwrap())),
        };
        let response = Refusal::Told(told).response(now);
        assert_eq!(
            (
                response.status().as_u16(),
                response.headers()[header::RETRY_AFTER].to_str().unwrap()
            ),
            (429, "3600")
        );
        let body: serde_json::Value =
            serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes())
                .unwrap();
        assert_eq!(body["error"]["code"], "insufficient_quota");
        assert!(
            body["error"]["message"]
                .as_str()
                .unwrap()
                .contains("2026-12-01T00:00:00Z"),
            "{body}"
        );
    }

    #[test]
    fn every_refusal_says_when_to_try_again() {
        let now = Timestamp::UNIX_EPOCH;
        for (refusal, status) in [
            (Refusal::Stopped, 503),
            (Refusal::QueueFull, 503),
            (Refusal::HoldExpired(120), 504),
            (Refusal::Gone, 404),
            (Refusal::TooLarge, 413),
            (Refusal::BodyLate, 408),
            (Refusal::Leaving, 503),
            (Refusal::Upstream("reset".into()), 502),
        ] {
            let response = refusal.response(now);
            assert_eq!(response.status().as_u16(), status, "{refusal:?}");
            assert!(
                response.headers().contains_key(header::RETRY_AFTER),
                "{refusal:?}"
            );
        }
    }
}
