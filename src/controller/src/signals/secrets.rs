//! Credentials of Secrets. A Secret is read only where its namespace lets the controller `get` it and
//! its label says that it is for signals: who may write an InferenceDeployment could otherwise have
//! any Secret of the namespace sent to a server that he names.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bursar_api::names::SIGNAL_CREDENTIALS_LABEL;
use bursar_signals::sources::Credentials;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt};
use tokio::time::Instant;

use crate::api_calls::with_timeout;
use crate::lock::lock;

/// A Secret is asked for again after this long; ...
const KEPT_FOR: Duration = Duration::from_mins(1);
/// ... and after this long where a server refuses what it has.
const KEPT_WHILE_REFUSED: Duration = Duration::from_secs(5);
/// Secrets that are kept; with more of them all are asked for anew.
const MOST_KEPT: usize = 1_000;
/// Bytes of one key.
const MOST_BYTES: usize = 64 << 10;

type Kept = HashMap<(String, String), (Instant, Arc<Credentials>)>;

/// Secrets as last read, by namespace and name.
pub(super) struct Secrets {
    client: Client,
    kept: Mutex<Kept>,
}

impl Secrets {
    /// None yet.
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            kept: Mutex::default(),
        }
    }

    /// The credentials of a Secret, or why there are none.
    pub(super) async fn get(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Credentials>, String> {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some((read_at, credentials)) = lock(&self.kept).get(&key)
            && read_at.elapsed() < KEPT_FOR
        {
            return Ok(Arc::clone(credentials));
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let found = with_timeout("get Secret", api.get_opt(name)).await;
        let secret = match found {
            Ok(Some(secret)) => secret,
            Ok(None) => return Err(format!("there is no Secret {name}")),
            Err(error) if error.is_forbidden() => {
                return Err(format!(
                    "the controller may not get Secret {name}: bind the ClusterRole \
                     bursar-signal-credentials to its ServiceAccount in this namespace"
                ));
            }
            Err(error) => return Err(format!("Secret {name}: {error}")),
        };
        let credentials = Arc::new(credentials(&secret)?);
        let mut kept = lock(&self.kept);
        kept.retain(|_, (read_at, _)| read_at.elapsed() < KEPT_FOR);
        if kept.len() >= MOST_KEPT {
            kept.clear();
        }
        kept.insert(key, (Instant::now(), Arc::clone(&credentials)));
        Ok(credentials)
    }

    /// Takes that a server refuses the credentials of a Secret: it may have changed since it was read.
    pub(super) fn refused(&self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        let mut kept = lock(&self.kept);
        let read_at = kept.get(&key).map(|(read_at, _)| *read_at);
        if read_at.is_some_and(|read_at| read_at.elapsed() >= KEPT_WHILE_REFUSED) {
            kept.remove(&key);
        }
    }
}

/// The credentials that a Secret has, if it is one for signals.
fn credentials(secret: &Secret) -> Result<Credentials, String> {
    let label = secret.labels().get(SIGNAL_CREDENTIALS_LABEL);
    if label.is_none_or(|value| value != "true") {
        return Err(format!(
            "Secret {} is not for signals: it has no label {SIGNAL_CREDENTIALS_LABEL}=true",
            secret.name_any()
        ));
    }
    let data = secret.data.as_ref();
    let large = data.and_then(|data| data.iter().find(|(_, value)| value.0.len() > MOST_BYTES));
    if let Some((key, _)) = large {
        return Err(format!(
            "`{key}` of Secret {} has over {} KiB",
            secret.name_any(),
            MOST_BYTES >> 10
        ));
    }
    let bytes = |key: &str| data?.get(key).map(|value| value.0.clone());
    let text = |key: &str| match bytes(key).map(String::from_utf8) {
        None => Ok(None),
        // an editor or `base64` may have left the end of a line
        Some(Ok(text)) => Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned())),
        Some(Err(_)) => Err(format!(
            "`{key}` of Secret {} is no text in UTF-8",
            secret.name_any()
        )),
    };
    Ok(Credentials {
        username: text("username")?,
        password: text("password")?,
        token: text("token")?,
        ca: bytes("ca.crt"),
        certificate: bytes("tls.crt"),
        key: bytes("tls.key"),
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn secret(label: Option<&str>, data: &[(&str, &[u8])]) -> Secret {
        let mut secret = Secret::default();
        secret.metadata.name = Some("login".to_owned());
        secret.metadata.labels =
            label.map(|value| [(SIGNAL_CREDENTIALS_LABEL.to_owned(), value.to_owned())].into());
        let data = data.iter();
        let data = data.map(|(key, value)| ((*key).to_owned(), ByteString(value.to_vec())));
        secret.data = Some(data.collect());
        secret
    }

    #[test]
    fn only_a_secret_that_is_labelled_for_signals_is_used() {
        for label in [None, Some("false"), Some("")] {
            let refused = credentials(&secret(label, &[("password", b"x")])).unwrap_err();
            assert!(
                refused.contains("no label bursar.dev/signal-credentials=true"),
                "{refused}"
            );
        }
        let read = credentials(&secret(Some("true"), &[("password", b"x\n")])).unwrap();
        assert_eq!(read.password.as_deref(), Some("x"));
        assert_eq!(read.username, None);
    }

    #[test]
    fn what_is_no_text_is_named_by_its_key() {
        let refused = credentials(&secret(Some("true"), &[("token", b"\xff")])).unwrap_err();
        assert_eq!(refused, "`token` of Secret login is no text in UTF-8");
    }
}
