//! GET over HTTP/1.1 for the sources that speak it: one request a connection, no redirects, a
//! bounded answer.

use std::fmt;
use std::pin::pin;

use bytes::{Bytes, BytesMut};
use futures::future::{Either, select};
use http::header::{ACCEPT, AUTHORIZATION, HOST, USER_AGENT};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::error::{InvalidSource, SourceError, SourceErrorKind, quoted};
use crate::credentials::Credentials;
use crate::dial::{Dialer, Endpoint};

/// The bytes of a body that are read at most: once it is parsed, JSON can be a hundred times as large.
const MAX_BODY_BYTES: usize = 64 << 10;

/// Bounds the head of an answer too.
const BUFFER_BYTES: usize = 32 << 10;

/// An `http` or `https` URL without user, password and fragment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HttpUrl {
    /// Host and port: 80, or 443 with TLS, unless the URL has one.
    pub endpoint: Endpoint,
    /// The path and query, as in `/queue?name=jobs`; begins with a slash.
    pub path: String,
}

impl HttpUrl {
    /// Parses a URL.
    ///
    /// # Errors
    /// It is no URL, its scheme is another, or it has a user or password, which belong into the
    /// Secret.
    pub fn parse(text: &str) -> Result<Self, InvalidSource> {
        let shown = quoted(text);
        if text.contains('@') && text.split(['?', '#']).next().is_some_and(has_user) {
            let why = "the URL has a user or password; put them into the Secret of the signal";
            return Err(InvalidSource::new(why));
        }
        let example = "write it as in https://prometheus.monitoring.svc:9090/path";
        if text.contains('#') {
            let why = format!("the URL `{shown}` has a fragment (#); leave it out");
            return Err(InvalidSource::new(why));
        }
        let uri: Uri = text.parse().map_err(|error| {
            InvalidSource::new(format!("`{shown}` is no URL ({error}); {example}"))
        })?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => {
                let why = format!("`{shown}` is no URL of http or https; {example}");
                return Err(InvalidSource::new(why));
            }
        };
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        if host.is_empty() || port == 0 {
            let why = format!("the URL `{shown}` has no host, or port 0; {example}");
            return Err(InvalidSource::new(why));
        }
        let endpoint = Endpoint {
            host: host.to_owned(),
            port,
            tls,
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = path.to_owned();
        Ok(Self { endpoint, path })
    }

    /// This URL with a path below its own, with which its query ends.
    pub(crate) fn below(&self, path: &str) -> Self {
        let base = self.path.split('?').next().unwrap_or_default();
        Self {
            endpoint: self.endpoint.clone(),
            path: format!("{}{path}", base.trim_end_matches('/')),
        }
    }
}

/// Whether the authority of a URL has a user.
fn has_user(url: &str) -> bool {
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = after_scheme.split('/').next();
    authority.is_some_and(|authority| authority.contains('@'))
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // a query may be long, and may hold what is secret
        let path = self.path.split('?').next().unwrap_or_default();
        let scheme = if self.endpoint.tls { "https" } else { "http" };
        write!(formatter, "{scheme}://{}{}", self.endpoint, quoted(path))
    }
}

/// The answer to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// Requests the URL. Redirects and refused credentials are errors; other statuses are answers.
pub(crate) async fn get(
    url: &HttpUrl,
    credentials: &Credentials,
    dialer: &Dialer,
) -> Result<Answer, SourceError> {
    let endpoint = &url.endpoint;
    let request = request(url, credentials)?;
    let stream = dialer.connect(endpoint, credentials).await?;
    let broken = |error: hyper::Error| SourceError::broken(endpoint, &error);
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(BUFFER_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let exchange = async move {
        let answer = sender.send_request(request).await.map_err(broken)?;
        let (head, mut body) = answer.into_parts();
        check_status(url, &head)?;
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(broken)?;
            let Some(piece) = frame.data_ref() else {
                continue;
            };
            if bytes.len() + piece.len() > MAX_BODY_BYTES {
                return Err(SourceError::too_long(endpoint, MAX_BODY_BYTES));
            }
            bytes.extend_from_slice(piece);
        }
        Ok(Answer {
            status: head.status,
            body: bytes.freeze(),
        })
    };
    match select(pin!(exchange), pin!(connection)).await {
        Either::Left((answer, _)) => answer,
        // the connection ended; what it brought until then may be a whole answer
        Either::Right((_, exchange)) => exchange.await,
    }
}

fn request(url: &HttpUrl, credentials: &Credentials) -> Result<Request<Empty<Bytes>>, SourceError> {
    let mut request = Request::get(&url.path)
        .header(HOST, host_header(&url.endpoint))
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, "bursar");
    if let Some(authorization) = credentials.authorization() {
        let value = HeaderValue::try_from(authorization.trim_end());
        let mut value = value.map_err(|_| {
            let message = "the token of the Secret has a line break or another character that no \
                           HTTP header may have";
            SourceError::new(SourceErrorKind::Unauthorized, message)
        })?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    request.body(Empty::new()).map_err(|error| {
        let message = format!("{url} cannot be requested: {error}");
        SourceError::new(SourceErrorKind::Protocol, message)
    })
}

/// The host as a URL has it; without the port that its scheme implies.
fn host_header(endpoint: &Endpoint) -> String {
    let text = endpoint.to_string();
    let implied = if endpoint.tls { ":443" } else { ":80" };
    text.strip_suffix(implied).unwrap_or(&text).to_owned()
}

fn check_status(url: &HttpUrl, head: &http::response::Parts) -> Result<(), SourceError> {
    let status = head.status.as_u16();
    match status {
        401 | 403 => {
            let message = format!(
                "{url} refuses the credentials (HTTP {status}); check username and password, or \
                 token, in the Secret"
            );
            Err(SourceError::new(SourceErrorKind::Unauthorized, message))
        }
        300..=399 => {
            let message = format!(
                "{url} redirects (HTTP {status}); redirects are not followed, give the URL that \
                 answers"
            );
            Err(SourceError::new(SourceErrorKind::Protocol, message))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_scheme_a_host_and_the_port_of_its_scheme() {
        let url = HttpUrl::parse("https://queue.example/v1?name=jobs").unwrap();
        assert_eq!(url.endpoint.to_string(), "queue.example:443");
        assert_eq!(url.path, "/v1?name=jobs");
        assert!(url.endpoint.tls);
        assert_eq!(url.to_string(), "https://queue.example:443/v1");
        let url = HttpUrl::parse("http://[fd00::1]:9090").unwrap();
        assert_eq!(
            (url.endpoint.host.as_str(), url.endpoint.port),
            ("fd00::1", 9090)
        );
        assert_eq!(url.to_string(), "http://[fd00::1]:9090/");
        assert_eq!(url.below("/api").path, "/api");
        let base = HttpUrl::parse("http://a/prometheus/?x=1").unwrap();
        assert_eq!(base.below("/api").path, "/prometheus/api");
    }

    #[test]
    fn what_is_no_url_of_http_is_refused_with_what_would_be_right() {
        for (text, why) in [
            ("ftp://a/", "http or https"),
            ("prometheus:9090", "http or https"),
            ("/path", "http or https"),
            ("http://ann:hunter2@a/", "Secret"),
            ("http://a/#x", "fragment"),
            ("http://a b/", "no URL"),
            ("http://:80/", "no host"),
            ("", "no URL"),
        ] {
            let error = HttpUrl::parse(text).unwrap_err().to_string();
            assert!(
                error.contains(why) && !error.contains("hunter2"),
                "{text}: {error}"
            );
        }
    }
}
