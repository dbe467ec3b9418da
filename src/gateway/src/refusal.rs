//! Refusals in OpenAI's error form, always with `Retry-After`. Only this file knows the HTTP form
//! of a reason.

use std::time::Duration;

use bursar_api::inference::RefusalStatus;
use bursar_core::refusal::RefusalReason;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::held_bytes::ShareUsed;

/// A refused request: the reason, and the message for the client.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) reason: RefusalReason,
    message: String,
    /// The time at which another try makes sense, if it is known.
    retry_at: Option<Timestamp>,
}

/// The form of a reason in HTTP and in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HttpForm {
    status: StatusCode,
    /// OpenAI's error type.
    error_type: &'static str,
    /// OpenAI's error code.
    code: &'static str,
    /// Seconds until another try makes sense, if the refusal itself has no time.
    retry_after: i64,
    /// The value of the metrics' label `outcome`.
    outcome: &'static str,
}

impl HttpForm {
    fn of(reason: RefusalReason) -> Self {
        let (status, error_type, code, retry_after, outcome) = match reason {
            RefusalReason::BudgetExhausted | RefusalReason::PriceUnknown => (
                StatusCode::TOO_MANY_REQUESTS,
                "insufficient_quota",
                "insufficient_quota",
                10,
                "budget",
            ),
            RefusalReason::StartFailed => unavailable("start_failed", 10, "start_failed"),
            RefusalReason::ActivationNever => unavailable("service_unavailable", 60, "stopped"),
            RefusalReason::ScalingPaused => unavailable("service_paused", 10, "stopped"),
            RefusalReason::ScheduledToZero => unavailable("service_unavailable", 60, "stopped"),
            RefusalReason::NoModelNeeded => unavailable("no_replica", 10, "no_replica"),
            RefusalReason::QueueFull => unavailable("queue_full", 5, "queue_full"),
            RefusalReason::CallerNotAllowed => invalid(
                StatusCode::FORBIDDEN,
                "caller_not_allowed",
                60,
                "not_allowed",
            ),
            RefusalReason::WakeLimit => (
                StatusCode::TOO_MANY_REQUESTS,
                "requests",
                "rate_limit_exceeded",
                60,
                "wake_limit",
            ),
            RefusalReason::CallerUnknown => unavailable("caller_unknown", 5, "caller_unknown"),
            RefusalReason::GatewayShutdown => unavailable("gateway_leaving", 1, "leaving"),
            RefusalReason::HoldTimeout => (
                StatusCode::GATEWAY_TIMEOUT,
                "server_error",
                "hold_expired",
                10,
                "hold_expired",
            ),
            RefusalReason::ReplicaFailed => (
                StatusCode::BAD_GATEWAY,
                "server_error",
                "replica_failed",
                1,
                "upstream",
            ),
            RefusalReason::ReplicaTimeout => (
                StatusCode::GATEWAY_TIMEOUT,
                "server_error",
                "replica_timeout",
                10,
                "upstream",
            ),
            RefusalReason::ServiceDeleted => {
                invalid(StatusCode::NOT_FOUND, "not_found", 60, "gone")
            }
            RefusalReason::BodyTooLarge => invalid(
                StatusCode::PAYLOAD_TOO_LARGE,
                "request_too_large",
                60,
                "bad_request",
            ),
            RefusalReason::BodyIncomplete => {
                invalid(StatusCode::BAD_REQUEST, "bad_body", 1, "bad_request")
            }
            RefusalReason::MethodNotAllowed => invalid(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                60,
                "bad_request",
            ),
            RefusalReason::InvalidHost => {
                invalid(StatusCode::BAD_REQUEST, "invalid_host", 60, "bad_request")
            }
            RefusalReason::BodyTimeout => invalid(
                StatusCode::REQUEST_TIMEOUT,
                "request_timeout",
                1,
                "bad_request",
            ),
        };
        Self {
            status,
            error_type,
            code,
            retry_after,
            outcome,
        }
    }
}

type Fields = (StatusCode, &'static str, &'static str, i64, &'static str);

fn unavailable(code: &'static str, retry_after: i64, outcome: &'static str) -> Fields {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    (status, "server_error", code, retry_after, outcome)
}

fn invalid(
    status: StatusCode,
    code: &'static str,
    retry_after: i64,
    outcome: &'static str,
) -> Fields {
    (status, "invalid_request_error", code, retry_after, outcome)
}

/// The reason that a controller wrote. Older controllers wrote OpenAI's codes. A newer controller's
/// reason may be unknown here; then the service is unavailable.
fn parse_reason(written: &str) -> RefusalReason {
    match written {
        "insufficient_quota" => RefusalReason::BudgetExhausted,
        "start_failed" => RefusalReason::StartFailed,
        "service_paused" => RefusalReason::ScalingPaused,
        name => name.parse().unwrap_or(RefusalReason::ActivationNever),
    }
}

fn unconnected(error: &str) -> String {
    format!("a replica is ready, and the gateway cannot connect: {error}")
}

impl From<&RefusalStatus> for Refusal {
    fn from(status: &RefusalStatus) -> Self {
        Self {
            reason: parse_reason(&status.reason),
            message: status.message.clone(),
            retry_at: status.retry_at.as_ref().map(|time| time.0),
        }
    }
}

impl Refusal {
    fn new(reason: RefusalReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            retry_at: None,
        }
    }

    pub(crate) fn activation_never() -> Self {
        let message = "the service has no replica, and its activation.mode is Never";
        Self::new(RefusalReason::ActivationNever, message)
    }

    pub(crate) fn wakes_nothing() -> Self {
        let message = "no replica is ready, and this request wakes none: it needs no model, or activation.wakeOn does not have its path";
        Self::new(RefusalReason::NoModelNeeded, message)
    }

    pub(crate) fn caller_not_allowed(why: String) -> Self {
        Self::new(RefusalReason::CallerNotAllowed, why)
    }

    pub(crate) fn caller_unknown(why: String) -> Self {
        Self::new(RefusalReason::CallerUnknown, why)
    }

    pub(crate) fn queue_full() -> Self {
        let message = "the hold queue of this service is full";
        Self::new(RefusalReason::QueueFull, message)
    }

    /// The service may be woken `per_hour` times an hour, and again after `wait`.
    pub(crate) fn wake_limit(per_hour: u32, wait: Duration) -> Self {
        let seconds = wait.as_secs() + 1;
        let message = format!(
            "no replica is ready, and requests may wake this service {per_hour} times an hour (activation.maxWakesPerHour): the next one may in {seconds} s"
        );
        let wait = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
        Self {
            retry_at: Timestamp::now().checked_add(wait).ok(),
            ..Self::new(RefusalReason::WakeLimit, message)
        }
    }

    /// As [`Self::queue_full`]; `connect_error` is the last error of connecting to a replica.
    pub(crate) fn queue_full_after(connect_error: Option<&str>) -> Self {
        let mut refusal = Self::queue_full();
        if let Some(error) = connect_error {
            refusal.message = format!("{}; {}", refusal.message, unconnected(error));
        }
        refusal
    }

    /// The namespace holds as many bytes as it may.
    pub(crate) fn share_used(share: ShareUsed) -> Self {
        Self::new(RefusalReason::QueueFull, share.to_string())
    }

    /// The hold timeout is over. The message says what was in the way last: `connect_error` is the
    /// last error of connecting to a replica, which may still be ready.
    pub(crate) fn hold_timeout(
        timeout: Duration,
        is_ready: bool,
        connect_error: Option<&str>,
    ) -> Self {
        let limit = format!("{} s (activation.holdTimeout)", timeout.as_secs());
        let message = match connect_error {
            Some(error) if is_ready => format!("{}; gave up after {limit}", unconnected(error)),
            Some(error) => format!(
                "no replica that the gateway can connect to was ready within {limit}; the last one: {error}"
            ),
            None => format!("no replica was ready within {limit}"),
        };
        Self::new(RefusalReason::HoldTimeout, message)
    }

    pub(crate) fn service_deleted() -> Self {
        Self::new(RefusalReason::ServiceDeleted, "the service was deleted")
    }

    pub(crate) fn body_too_large() -> Self {
        let message = "the body of the request is too large to be held";
        Self::new(RefusalReason::BodyTooLarge, message)
    }

    /// A body that cannot wait for the replica that it starts.
    pub(crate) fn large_body_wakes() -> Self {
        let message = "the body of the request is too large to be held until a replica is ready; one is being started: send it again";
        Self::new(RefusalReason::QueueFull, message)
    }

    pub(crate) fn body_incomplete(error: impl std::fmt::Display) -> Self {
        let message = format!("the body of the request broke off: {error}");
        Self::new(RefusalReason::BodyIncomplete, message)
    }

    pub(crate) fn body_timeout() -> Self {
        let message = "the body of the request did not arrive in time";
        Self::new(RefusalReason::BodyTimeout, message)
    }

    pub(crate) fn connect_not_allowed() -> Self {
        let message = "the request asks for a tunnel (CONNECT), which no service has";
        Self::new(RefusalReason::MethodNotAllowed, message)
    }

    pub(crate) fn invalid_host(why: impl std::fmt::Display) -> Self {
        Self::new(RefusalReason::InvalidHost, format!("the request {why}"))
    }

    /// `connect_error` is the last error of connecting to a replica.
    pub(crate) fn gateway_shutdown(connect_error: Option<&str>) -> Self {
        let message = match connect_error {
            Some(error) => format!("the gateway shuts down; {}; try again", unconnected(error)),
            None => "the gateway shut down before a replica was ready; try again".to_owned(),
        };
        Self::new(RefusalReason::GatewayShutdown, message)
    }

    pub(crate) fn replica_failed(error: impl std::fmt::Display) -> Self {
        let message = format!("the replica broke the connection before it answered: {error}");
        Self::new(RefusalReason::ReplicaFailed, message)
    }

    pub(crate) fn replica_timeout(limit: Duration) -> Self {
        let seconds = limit.as_secs();
        let message = format!("the replica did not begin its answer within {seconds} s");
        Self::new(RefusalReason::ReplicaTimeout, message)
    }

    /// The value of the metrics' label `outcome`.
    pub(crate) fn outcome(&self) -> &'static str {
        HttpForm::of(self.reason).outcome
    }

    /// The response that a client gets at `now`.
    pub(crate) fn response(&self, now: Timestamp) -> Response<Full<Bytes>> {
        let form = HttpForm::of(self.reason);
        let message = match self.retry_at {
            Some(at) if form.code == "insufficient_quota" => {
                format!("{}; the budget reopens at {at}", self.message)
            }
            _ => self.message.clone(),
        };
        let retry_after = self
            .retry_at
            .map_or(form.retry_after, |at| at.duration_since(now).as_secs());
        let error = json!({
            "message": message, "type": form.error_type, "param": null, "code": form.code,
        });
        let body = json!({"error": error}).to_string();
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = form.status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after.max(1)));
        response
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn from_controller(reason: &str, retry_at: Option<&str>) -> Refusal {
        Refusal::from(&RefusalStatus {
            status: 0,
            reason: reason.into(),
            message: "budget team is exhausted".into(),
            retry_at: retry_at.map(|at| Time(at.parse().unwrap())),
        })
    }

    /// Status, OpenAI's type and code, `Retry-After` and message of a response.
    async fn parts(refusal: &Refusal, now: Timestamp) -> (u16, String, String, String, String) {
        let response = refusal.response(now);
        let status = response.status().as_u16();
        let retry_after = response.headers()[header::RETRY_AFTER].to_str().unwrap();
        let retry_after = retry_after.to_owned();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let text = |field: &str| body["error"][field].as_str().unwrap().to_owned();
        (
            status,
            text("type"),
            text("code"),
            retry_after,
            text("message"),
        )
    }

    #[tokio::test]
    async fn every_reason_has_one_status_type_code_and_retry_time() {
        #[rustfmt::skip]
        let expected = [
            (429, "insufficient_quota", "insufficient_quota", "10", "budget"),
            (429, "insufficient_quota", "insufficient_quota", "10", "budget"),
            (503, "server_error", "start_failed", "10", "start_failed"),
            (503, "server_error", "service_unavailable", "60", "stopped"),
            (503, "server_error", "service_paused", "10", "stopped"),
            (503, "server_error", "service_unavailable", "60", "stopped"),
            (503, "server_error", "queue_full", "5", "queue_full"),
            (504, "server_error", "hold_expired", "10", "hold_expired"),
            (404, "invalid_request_error", "not_found", "60", "gone"),
            (413, "invalid_request_error", "request_too_large", "60", "bad_request"),
            (400, "invalid_request_error", "bad_body", "1", "bad_request"),
            (408, "invalid_request_error", "request_timeout", "1", "bad_request"),
            (405, "invalid_request_error", "method_not_allowed", "60", "bad_request"),
            (400, "invalid_request_error", "invalid_host", "60", "bad_request"),
            (503, "server_error", "gateway_leaving", "1", "leaving"),
            (502, "server_error", "replica_failed", "1", "upstream"),
            (503, "server_error", "no_replica", "10", "no_replica"),
            (504, "server_error", "replica_timeout", "10", "upstream"),
            (403, "invalid_request_error", "caller_not_allowed", "60", "not_allowed"),
            (503, "server_error", "caller_unknown", "5", "caller_unknown"),
            (429, "requests", "rate_limit_exceeded", "60", "wake_limit"),
        ];
        assert_eq!(expected.len(), RefusalReason::ALL.len());
        for (reason, expected) in RefusalReason::ALL.into_iter().zip(expected) {
            let refusal = Refusal::new(reason, "message");
            let (status, error_type, code, retry_after, message) =
                parts(&refusal, Timestamp::UNIX_EPOCH).await;
            let found = (
                status,
                &*error_type,
                &*code,
                &*retry_after,
                refusal.outcome(),
            );
            assert_eq!(found, expected, "{reason}");
            assert_eq!(message, "message");
        }
    }

    #[tokio::test]
    async fn a_budget_says_429_with_the_time_it_reopens() {
        let now: Timestamp = "2026-11-30T23:00:00Z".parse().unwrap();
        let refusal = from_controller("BudgetExhausted", Some("2026-12-01T00:00:00Z"));
        let (status, _, code, retry_after, message) = parts(&refusal, now).await;
        assert_eq!(
            (status, &*code, &*retry_after),
            (429, "insufficient_quota", "3600")
        );
        assert!(message.contains("2026-12-01T00:00:00Z"), "{message}");
    }

    #[test]
    fn reasons_of_older_and_newer_controllers_are_understood() {
        for reason in RefusalReason::ALL {
            assert_eq!(from_controller(reason.name(), None).reason, reason);
        }
        for (written, reason) in [
            ("insufficient_quota", RefusalReason::BudgetExhausted),
            ("start_failed", RefusalReason::StartFailed),
            ("service_paused", RefusalReason::ScalingPaused),
            ("service_unavailable", RefusalReason::ActivationNever),
            ("ReasonOfALaterVersion", RefusalReason::ActivationNever),
        ] {
            assert_eq!(from_controller(written, None).reason, reason, "{written}");
        }
    }
}
