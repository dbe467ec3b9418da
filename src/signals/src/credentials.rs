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
    /// it was sent.
    pub(crate) fn redact(&self, text: &str) -> String {
        let basic = self.basic();
        let encoded_password = self.password.as_ref().map(|text| STANDARD.encode(text));
        let secrets = [
            basic.as_ref(),
            encoded_password.as_ref(),
            self.password.as_ref(),
            self.token.as_ref(),
        ];
        let mut text = text.to_owned();
        for secret in secrets
            .into_iter()
            .flatten()
            .filter(|text| !text.is_empty())
        {
            text = text.replace(secret.as_str(), "(redacted)");
        }
        text
    }
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
}
