//! What gateways hold: the message, and the leader's end of the stream that brings it.
//!
//! Counts are absolute and keyed by gateway, so a lost message is made good by the next. A gateway
//! that is not heard is unknown for as long as it is ready.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A message of a gateway: all services for which it holds or forwards requests, or has just done so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// The gateway pod's UID.
    pub gateway: String,
    /// When it was sent.
    pub at: Timestamp,
    /// The services.
    pub services: Vec<ServiceDemand>,
}

/// What a gateway has for one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceDemand {
    /// The service's namespace.
    pub namespace: String,
    /// The InferenceDeployment's name.
    pub name: String,
    /// Requests that wait for a replica.
    pub held: u64,
    /// Requests that are being forwarded.
    pub in_flight: u64,
    /// Requests that were forwarded so far, those that have ended included: its growth tells of those
    /// that began and ended between two messages. It begins anew at 0 where the gateway does, and where
    /// the service has had none for long. Gateways of earlier versions do not tell.
    #[serde(default)]
    pub forwarded: u64,
    /// When the oldest held one came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_held_at: Option<Timestamp>,
    /// Why the gateway cannot connect to a replica that is ready, if it has not been able to for
    /// seconds; of at most [`MAX_CONNECT_ERROR`] characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_error: Option<String>,
}

/// Characters of an error of connecting that are told.
pub const MAX_CONNECT_ERROR: usize = 200;

/// A gateway sends at least this often.
pub const HEARTBEAT: Duration = Duration::from_secs(2);
/// What a gateway that was not heard of for this long held is not known any more.
pub const GONE: Duration = Duration::from_secs(60);
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// A stream that is silent for this long is broken.
pub const SILENCE: Duration = Duration::from_secs(10);
/// No message is longer.
const MAX_MESSAGE: usize = 4 << 20;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{}: {why}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The connection.
    #[error("{0}")]
    Connection(String),
    /// Nobody took the connection in time.
    #[error("no connection to its port within {} s", CONNECT_LIMIT.as_secs())]
    NoConnection,
    /// The gateway's answer was not 200.
    #[error("the gateway answered {0}")]
    Refused(u16),
    /// No message came for too long.
    #[error("silent for {} s", SILENCE.as_secs())]
    Silent,
}

/// How the leader proves itself to gateways, and knows them.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The certificate authority of the gateways.
    pub ca: PathBuf,
    /// The leader's token, renewed by the kubelet.
    pub token: PathBuf,
    /// The name in the gateways' certificate.
    pub server_name: String,
}

impl Credentials {
    async fn connector(&self) -> Result<TlsConnector, Error> {
        let refuse = |why: String| Error::File {
            path: self.ca.clone(),
            why,
        };
        let pem = read(&self.ca).await?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
            roots
                .add(certificate)
                .map_err(|error| refuse(error.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config
            .map_err(|error| refuse(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, Error> {
    tokio::fs::read(path).await.map_err(|error| Error::File {
        path: path.to_owned(),
        why: error.to_string(),
    })
}

/// Reads one gateway's stream and hands every message to `take`, until it ends.
///
/// # Errors
/// Why it ended; it never ends well.
pub async fn follow(
    address: SocketAddr,
    credentials: &Credentials,
    mut take: impl FnMut(Message),
) -> Result<(), Error> {
    let broken = |error: &dyn std::fmt::Display| Error::Connection(error.to_string());
    let connector = credentials.connector().await?;
    let token = String::from_utf8_lossy(&read(&credentials.token).await?)
        .trim()
        .to_owned();
    let name =
        ServerName::try_from(credentials.server_name.clone()).map_err(|error| broken(&error))?;
    let connect = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        connector.connect(name, stream).await
    };
    let stream = tokio::time::timeout(CONNECT_LIMIT, connect)
        .await
        .map_err(|_| Error::NoConnection)?
        .map_err(|error| broken(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    let connection = tokio::spawn(connection);
    let request = http::Request::get("/v1/demand")
        .header(http::header::HOST, &credentials.server_name)
        .header(http::header::AUTHORIZATION, format!("Bearer {token}"))
        .body(Empty::<Bytes>::new())
        .map_err(|error| broken(&error))?;
    let response = tokio::time::timeout(SILENCE, sender.send_request(request))
        .await
        .map_err(|_| Error::Silent)?;
    let response = response.map_err(|error| broken(&error))?;
    if response.status() != http::StatusCode::OK {
        return Err(Error::Refused(response.status().as_u16()));
    }
    let mut body = response.into_body();
    let mut pending = Vec::new();
    let ended = loop {
        match tokio::time::timeout(SILENCE, body.frame()).await {
            Err(_) => break Error::Silent,
            Ok(None) => break Error::Connection("the stream ended".to_owned()),
            Ok(Some(Err(error))) => break broken(&error),
            Ok(Some(Ok(frame))) => {
                pending.extend_from_slice(&frame.into_data().unwrap_or_default())
            }
        }
        if let Err(error) = lines(&mut pending, &mut take) {
            break error;
        }
    };
    connection.abort();
    Err(ended)
}

/// Takes all whole lines out of `pending`.
fn lines(pending: &mut Vec<u8>, take: &mut impl FnMut(Message)) -> Result<(), Error> {
    while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
        let line: Vec<u8> = pending.drain(..=end).collect();
        take(
            serde_json::from_slice(&line)
                .map_err(|error| Error::Connection(format!("not a message: {error}")))?,
        );
    }
    if pending.len() > MAX_MESSAGE {
        Err(Error::Connection("a message is too long".to_owned()))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_796_000_000 + second).unwrap()
    }

    fn message(gateway: &str, second: i64, held: u64) -> Message {
        let service = ServiceDemand {
            namespace: "ns".into(),
            name: "chat".into(),
            held,
            in_flight: 0,
            forwarded: 0,
            first_held_at: (held > 0).then(|| at(second)),
            connect_error: None,
        };
        Message {
            gateway: gateway.into(),
            at: at(second),
            services: if held > 0 { vec![service] } else { vec![] },
        }
    }

    #[test]
    fn messages_are_read_across_frames() {
        let text = format!("{}\n", serde_json::to_string(&message("a", 0, 1)).unwrap());
        let (mut pending, mut taken) = (Vec::new(), Vec::new());
        for half in [&text[..20], &text[20..]] {
            pending.extend_from_slice(half.as_bytes());
            lines(&mut pending, &mut |message| taken.push(message)).unwrap();
        }
        assert_eq!(taken, [message("a", 0, 1)]);
        // one of an earlier version
        pending.extend_from_slice(text.replace("\"forwarded\":0,", "").as_bytes());
        lines(&mut pending, &mut |message| taken.push(message)).unwrap();
        assert_eq!(taken, [message("a", 0, 1), message("a", 0, 1)]);
        pending.extend_from_slice(b"nonsense\n");
        assert!(lines(&mut pending, &mut |_| ()).is_err());
    }
}
