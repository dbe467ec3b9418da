//! What a source of signals is asked with, from a Secret.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The contents of a Secret, under the keys that Kubernetes uses for them.
#[derive(Default, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// `username`
    pub username: Option<String>,
    /// `password`
    pub password: Option<String>,
    /// `token`: a bearer token; of NATS the token of its configuration.
    pub token: Option<String>,
    /// `ca.crt`: the certificates, in PEM, that sign the server's, instead of the public ones.
    pub ca: Option<Vec<u8>>,
    /// `tls.crt`: the client's certificates, in PEM.
    pub certificate: Option<Vec<u8>>,
    /// `tls.key`: the client's key, in PEM.
    pub key: Option<Vec<u8>>,
}

impl Credentials {
    /// The value of the header `Authorization`.
    pub(crate) fn authorization(&self) -> Option<String> {
        if let Some(token) = &self.token {
            return Some(format!("Bearer {token}"));
        }
        self.basic().map(|basic| format!("Basic {basic}"))
    }

    fn basic(&self) -> Option<String> {
        let username = self.username.as_deref().unwrap_or_default();
        let password = self.password.as_deref().unwrap_or_default();
        let is_empty = self.username.is_none() && self.password.is_none();
        (!is_empty).then(|| STANDARD.encode(format!("{username}:{password}")))
    }

    /// The text without what is secret in it. Errors quote servers, and a server may repeat what
    /// it was sent. The text is one line, and may be cut at ellipses.
    pub(crate) fn redact(&self, text: &str) -> String {
        let basic = self.basic();
        let encoded_password = self.password.as_ref().map(|text| STANDARD.encode(text));
        let secrets = [
            basic.as_deref(),
            encoded_password.as_deref(),
            self.password.as_deref(),
            self.token.as_deref(),
        ];
        let mut text = text.to_owned();
        for secret in secrets.into_iter().flatten() {
            // as lines of text have it: a Secret that was made of a file often ends with a break
            let secret = secret.replace(char::is_control, " ");
            let secret = secret.trim();
            if !secret.is_empty() {
                text = text.replace(secret, REDACTED);
                text = redact_cut(&text, secret);
            }
        }
        text
    }
}

const REDACTED: &str = "(redacted)";
const ELLIPSIS: char = '…';
/// Shorter beginnings tell nothing, and are in many words.
const MIN_CUT_CHARACTERS: usize = 3;

/// The text without beginnings of the secret that end at an ellipsis.
fn redact_cut(text: &str, secret: &str) -> String {
    let ends = secret.char_indices().skip(MIN_CUT_CHARACTERS);
    let ends: Vec<usize> = ends.map(|(end, _)| end).collect();
    let mut pieces: Vec<String> = text.split(ELLIPSIS).map(str::to_owned).collect();
    let last = pieces.len() - 1;
    for piece in &mut pieces[..last] {
        let kept = ends
            .iter()
            .rev()
            .find_map(|end| piece.strip_suffix(&secret[..*end]));
        if let Some(kept) = kept {
            *piece = format!("{kept}{REDACTED}");
        }
    }
    pieces.join("…")
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = |is_set: bool| if is_set { "set" } else { "unset" };
        formatter
            .debug_struct("Credentials")
            .field("username", &state(self.username.is_some()))
            .field("password", &state(self.password.is_some()))
            .field("token", &state(self.token.is_some()))
            .field("ca", &state(self.ca.is_some()))
            .field("certificate", &state(self.certificate.is_some()))
            .field("key", &state(self.key.is_some()))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> Credentials {
        Credentials {
            username: Some("ann".into()),
            password: Some("hunter2".into()),
            ..Credentials::default()
        }
    }

    #[test]
    fn credentials_are_not_printed() {
        let text = format!("{:?}", credentials());
        assert!(!text.contains("hunter2") && !text.contains("ann"), "{text}");
        assert!(text.contains("password: \"set\""), "{text}");
    }

    #[test]
    fn what_a_server_repeats_of_the_credentials_is_cut_out() {
        let credentials = credentials();
        let header = credentials.authorization().unwrap();
        assert_eq!(header, "Basic YW5uOmh1bnRlcjI=");
        let said = format!("password hunter2 of ann is wrong, {header}");
        let redacted = credentials.redact(&said);
        let expected = "password (redacted) of ann is wrong, Basic (redacted)";
        assert_eq!(redacted, expected);
    }

    #[test]
    fn the_beginning_of_a_secret_that_was_cut_is_cut_out_too() {
        let credentials = credentials();
        for (said, redacted) in [
            ("is hunter…; check", "is (redacted)…; check"),
            ("is hun…", "is (redacted)…"),
            ("… hunter2 … hunt… hu…", "… (redacted) … (redacted)… hu…"),
            ("hunting…", "hunting…"),
        ] {
            assert_eq!(credentials.redact(said), redacted);
        }
    }

    #[test]
    fn a_secret_that_ends_with_a_line_break_is_cut_out_of_a_line() {
        let credentials = Credentials {
            token: Some("s3cret\n".into()),
            ..Credentials::default()
        };
        assert_eq!(credentials.redact("no s3cret "), "no (redacted) ");
    }
}
