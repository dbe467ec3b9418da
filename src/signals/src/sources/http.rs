//! A number in a JSON document that an HTTP server gives: APIs like that of SQS, and services of
//! one's own.

use serde_json::Value;

use super::error::{InvalidSource, SourceError, SourceErrorKind, quoted};
use super::http_client::{self, HttpUrl};
use super::value;
use crate::credentials::Credentials;
use crate::dial::Dialer;

/// A JSON document, requested by GET, and the value in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Where the document is.
    pub url: HttpUrl,
    /// Where the value is in the document, as RFC 6901 has it: `/Attributes/Messages`. The empty
    /// pointer is the whole document. The value is a number, or a string that is one.
    pub pointer: String,
}

impl Http {
    /// A source with a pointer that is well-formed.
    ///
    /// # Errors
    /// The pointer does not begin with a slash, or has a `~` that is neither `~0` nor `~1`.
    pub fn new(url: HttpUrl, pointer: &str) -> Result<Self, InvalidSource> {
        let has_slash = pointer.is_empty() || pointer.starts_with('/');
        let mut escapes = pointer.split('~').skip(1);
        if !has_slash || !escapes.all(|rest| rest.starts_with(['0', '1'])) {
            let pointer = quoted(pointer);
            let why = format!(
                "`{pointer}` is no JSON pointer; write it as in /data/0/depth (~1 for a slash in a \
                 name, ~0 for a tilde)"
            );
            return Err(InvalidSource::new(why));
        }
        Ok(Self {
            url,
            pointer: pointer.to_owned(),
        })
    }

    pub(super) async fn read(
        &self,
        credentials: &Credentials,
        dialer: &Dialer,
    ) -> Result<u64, SourceError> {
        let url = &self.url;
        let answer = http_client::get(url, credentials, dialer).await?;
        if !answer.status.is_success() {
            let kind = match answer.status.as_u16() {
                404 | 410 => SourceErrorKind::NotFound,
                _ => SourceErrorKind::Protocol,
            };
            let message = format!("{url} answers HTTP {}, not 200", answer.status.as_u16());
            return Err(SourceError::new(kind, message));
        }
        let document: Value = serde_json::from_slice(&answer.body).map_err(|error| {
            let message = format!("{url} does not answer with JSON: {error}");
            SourceError::new(SourceErrorKind::Protocol, message)
        })?;
        let pointer = quoted(&self.pointer);
        let Some(pointed) = document.pointer(&self.pointer) else {
            let message = format!("the JSON of {url} has nothing at `{pointer}`");
            return Err(SourceError::new(SourceErrorKind::NotFound, message));
        };
        number(pointed).map_err(|why| {
            let message = format!("the value at `{pointer}` of {url} is {why}");
            SourceError::new(SourceErrorKind::InvalidValue, message)
        })
    }
}

fn number(value: &Value) -> Result<u64, String> {
    let kind = match value {
        Value::Number(number) => return value::parse(&number.to_string()),
        Value::String(text) => return value::parse(text),
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    Err(format!("{kind}, not a number"))
}
