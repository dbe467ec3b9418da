//! Why a source could not be read, in words that name what is wrong, where, and what would be
//! right.

use crate::credentials::Credentials;
use crate::dial::{DialError, Endpoint};

/// The characters of a message at most.
const MAX_CHARACTERS: usize = 200;

/// What kind of failure a [`SourceError`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceErrorKind {
    /// There is no connection: no such name, nobody listens, TLS failed, the connection broke.
    Unreachable,
    /// The address is one that signals may not be read from.
    AddressRefused,
    /// There was no answer in time.
    Timeout,
    /// The server does not accept the credentials, or a right is missing.
    Unauthorized,
    /// The queue, topic, metric or field is not there.
    NotFound,
    /// There is an answer that is no value: no number, negative, several, of another type.
    InvalidValue,
    /// The answer is not what such a server sends, or is too long.
    Protocol,
}

/// Why a source could not be read: one line of at most 200 characters, without credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    kind: SourceErrorKind,
    message: String,
}

impl SourceError {
    /// An error with a message, of which control characters and what is too long are cut.
    pub(crate) fn new(kind: SourceErrorKind, message: impl AsRef<str>) -> Self {
        let message = shortened(message.as_ref(), MAX_CHARACTERS);
        Self { kind, message }
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> SourceErrorKind {
        self.kind
    }

    /// The connection broke, or its bytes are too many.
    pub(crate) fn broken(endpoint: &Endpoint, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut cause = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        let cause = cause.to_string();
        let too_long = crate::dial::TooLong.to_string();
        if cause.contains(&too_long) {
            return Self::protocol(endpoint, &too_long);
        }
        let message = format!("the connection to {endpoint} broke: {cause}");
        Self::new(SourceErrorKind::Unreachable, message)
    }

    /// The answer is not one of this protocol.
    pub(crate) fn protocol(endpoint: &Endpoint, why: &str) -> Self {
        let message = format!("{endpoint} does not answer as expected: {why}");
        Self::new(SourceErrorKind::Protocol, message)
    }

    /// The answer has more bytes than any should.
    pub(crate) fn too_long(endpoint: &Endpoint, bound: usize) -> Self {
        let bound = match bound >> 20 {
            0 => format!("{} KiB", bound >> 10),
            mebibytes => format!("{mebibytes} MiB"),
        };
        Self::protocol(endpoint, &format!("the answer is longer than {bound}"))
    }

    /// The same error with what a server repeated of the credentials cut out.
    pub(crate) fn redacted(self, credentials: &Credentials) -> Self {
        Self::new(self.kind, credentials.redact(&self.message))
    }
}

impl From<DialError> for SourceError {
    fn from(error: DialError) -> Self {
        let kind = match &error {
            DialError::Refused { .. } => SourceErrorKind::AddressRefused,
            DialError::Certificate { .. } => SourceErrorKind::Unauthorized,
            DialError::Lookup { .. } | DialError::Connect { .. } | DialError::Tls { .. } => {
                SourceErrorKind::Unreachable
            }
        };
        Self::new(kind, error.to_string())
    }
}

/// What a resource says of a source cannot be right, whatever the server answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSource(pub(crate) String);

impl InvalidSource {
    /// With a message of at most 200 characters.
    pub fn new(message: impl AsRef<str>) -> Self {
        Self(shortened(message.as_ref(), MAX_CHARACTERS))
    }
}

/// One line of at most this many characters, which ends with an ellipsis where it is cut.
pub(crate) fn shortened(text: &str, characters: usize) -> String {
    let line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short: String = line.clone().take(characters).collect();
    if line.clone().nth(characters).is_some() {
        short.pop();
        short.push('…');
    }
    short
}

/// What a server said, short enough to leave room for what it was about.
pub(crate) fn quoted(said: &str) -> String {
    shortened(said.trim(), 80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_of_two_hundred_characters() {
        let long = format!("a\nb{}", "é".repeat(400));
        let error = SourceError::new(SourceErrorKind::Protocol, long).to_string();
        assert_eq!(error.chars().count(), 200);
        assert!(error.starts_with("a b") && error.ends_with('…'), "{error}");
        assert_eq!(shortened("abc", 3), "abc");
    }
}
