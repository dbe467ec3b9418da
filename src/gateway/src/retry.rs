//! Which requests may be sent to a second replica after the first one broke off.

use http::request::Parts;

/// The most replicas that a request is sent to. Those that nothing was sent to do not count.
const MAX_SENDS: u32 = 2;
/// Clients set it to say that a request may be repeated.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Whether a request may be sent again after it was sent `sends` times, and the replica may have
/// done it: if doing it twice is the same as doing it once (RFC 9110, section 9.2.2).
pub(crate) fn may_send_again(request: &Parts, sends: u32) -> bool {
    let is_repeatable =
        request.method.is_idempotent() || request.headers.contains_key(IDEMPOTENCY_KEY);
    is_repeatable && sends < MAX_SENDS
}

#[cfg(test)]
mod tests {
    use http::{Method, Request};

    use super::*;

    #[test]
    fn only_what_may_be_done_twice_is_sent_twice_and_no_more() {
        let parts = |method: Method, key: bool| {
            let mut request = Request::new(());
            *request.method_mut() = method;
            if key {
                let value = http::HeaderValue::from_static("1");
                request.headers_mut().insert(IDEMPOTENCY_KEY, value);
            }
            request.into_parts().0
        };
        for (method, key, again) in [
            (Method::GET, false, true),
            (Method::HEAD, false, true),
            (Method::OPTIONS, false, true),
            (Method::PUT, false, true),
            (Method::DELETE, false, true),
            (Method::POST, false, false),
            (Method::PATCH, false, false),
            (Method::CONNECT, false, false),
            (Method::POST, true, true),
        ] {
            let request = parts(method.clone(), key);
            assert_eq!(may_send_again(&request, 1), again, "{method} {key}");
            assert!(!may_send_again(&request, 2), "{method}");
        }
    }
}
