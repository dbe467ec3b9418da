//! Which requests may be sent to a second replica after the first one broke off.

use bursar_api::inference::ActivationRetry;
use http::request::Parts;

/// The most replicas that a request is sent to. Those that nothing was sent to do not count.
const MAX_SENDS: u32 = 2;
/// Clients set it to say that a request may be repeated.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Whether a request may be sent again after it was sent `sends` times, and the replica may have
/// done it (RFC 9110, section 9.2).
pub(crate) fn may_send_again(retry: ActivationRetry, request: &Parts, sends: u32) -> bool {
    let is_repeatable = match retry {
        ActivationRetry::Safe => request.method.is_safe(),
        ActivationRetry::Idempotent => {
            request.method.is_idempotent() || request.headers.contains_key(IDEMPOTENCY_KEY)
        }
        ActivationRetry::Always => true,
    };
    is_repeatable && sends < MAX_SENDS
}

#[cfg(test)]
mod tests {
    use ActivationRetry::{Always, Idempotent, Safe};
    use http::{HeaderValue, Method, Request};

    use super::*;

    #[test]
    fn only_what_may_be_done_twice_is_sent_twice_and_no_more() {
        let parts = |method: Method, key: bool| {
            let mut request = Request::new(());
            *request.method_mut() = method;
            if key {
                let value = HeaderValue::from_static("1");
                request.headers_mut().insert(IDEMPOTENCY_KEY, value);
            }
            request.into_parts().0
        };
        for (method, key, safe, idempotent) in [
            (Method::GET, false, true, true),
            (Method::HEAD, false, true, true),
            (Method::OPTIONS, false, true, true),
            (Method::PUT, false, false, true),
            (Method::DELETE, false, false, true),
            (Method::POST, false, false, false),
            (Method::PATCH, false, false, false),
            (Method::CONNECT, false, false, false),
            (Method::POST, true, false, true),
        ] {
            let request = parts(method.clone(), key);
            for (retry, again) in [(Safe, safe), (Idempotent, idempotent), (Always, true)] {
                let found = may_send_again(retry, &request, 1);
                assert_eq!(found, again, "{retry:?} {method} {key}");
                assert!(!may_send_again(retry, &request, 2), "{retry:?} {method}");
            }
        }
    }
}
