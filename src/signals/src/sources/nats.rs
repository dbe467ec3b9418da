//! What a JetStream consumer of NATS has not done yet.
//!
//! The few lines of NATS' text protocol are written here, because async-nats makes its own
//! connections, also to the servers that a server names in `connect_urls`, and neither can be led
//! over connections that were checked. Whatever a server says of other servers is ignored here.

use std::hash::{BuildHasher, RandomState};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::error::{SourceError, SourceErrorKind, quoted};
use crate::credentials::Credentials;
use crate::dial::{Dialer, Endpoint, MAX_ANSWER_BYTES, Stream};

/// The messages of a stream that a consumer has not acknowledged: those not yet delivered
/// (`num_pending`) and those delivered (`num_ack_pending`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nats {
    /// The server. TLS begins after its first line, as NATS has it.
    pub endpoint: Endpoint,
    /// The stream's name.
    pub stream: String,
    /// The durable consumer's name.
    pub consumer: String,
}

/// The first line of a server.
#[derive(Debug, Deserialize)]
struct Info {
    #[serde(default)]
    tls_required: bool,
    #[serde(default)]
    auth_required: bool,
}

/// The first line of a client.
#[derive(Serialize)]
struct Connect<'a> {
    verbose: bool,
    pedantic: bool,
    tls_required: bool,
    name: &'a str,
    lang: &'a str,
    version: &'a str,
    /// Without headers nobody says that JetStream does not answer.
    headers: bool,
    no_responders: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pass: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_token: Option<&'a str>,
}

/// JetStream's answer.
#[derive(Debug, Deserialize)]
struct ConsumerInfo {
    error: Option<ApiError>,
    num_pending: Option<u64>,
    num_ack_pending: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct ApiError {
    code: u16,
    #[serde(default)]
    description: String,
}

impl Nats {
    pub(super) async fn read(
        &self,
        credentials: &Credentials,
        dialer: &Dialer,
    ) -> Result<u64, SourceError> {
        for (what, name) in [("stream", &self.stream), ("consumer", &self.consumer)] {
            check_name(what, name)?;
        }
        let mut connection = Connection::open(&self.endpoint, credentials, dialer).await?;
        let subject = format!("$JS.API.CONSUMER.INFO.{}.{}", self.stream, self.consumer);
        match connection.request(&subject).await? {
            Answer::NoResponder => {
                let message = format!(
                    "JetStream does not answer at {}: enable it there, and for the user's account",
                    self.endpoint
                );
                Err(SourceError::new(SourceErrorKind::NotFound, message))
            }
            Answer::Message(payload) => self.value(&payload),
        }
    }

    fn value(&self, payload: &[u8]) -> Result<u64, SourceError> {
        let endpoint = &self.endpoint;
        let info: ConsumerInfo = serde_json::from_slice(payload)
            .map_err(|_| SourceError::protocol(endpoint, "JetStream's answer is no JSON"))?;
        if let Some(error) = info.error {
            let kind = match error.code {
                404 => SourceErrorKind::NotFound,
                _ => SourceErrorKind::Protocol,
            };
            let message = format!(
                "JetStream at {endpoint} says of consumer `{}` of stream `{}`: {}",
                quoted(&self.consumer),
                quoted(&self.stream),
                quoted(&error.description)
            );
            return Err(SourceError::new(kind, message));
        }
        match (info.num_pending, info.num_ack_pending) {
            (Some(pending), Some(unacknowledged)) => {
                Ok(pending.saturating_add(unacknowledged).saturating_mul(1000))
            }
            _ => {
                let why = "JetStream's answer has no num_pending and num_ack_pending";
                Err(SourceError::protocol(endpoint, why))
            }
        }
    }
}

/// Names become parts of a subject, and a line of the protocol.
fn check_name(what: &str, name: &str) -> Result<(), SourceError> {
    let is_reserved = |c: char| c.is_whitespace() || c.is_control() || ".*>/\\".contains(c);
    if !name.is_empty() && !name.contains(is_reserved) {
        return Ok(());
    }
    let message = format!(
        "`{}` is no name of a {what}; one has no spaces and none of . * > / \\",
        quoted(name)
    );
    Err(SourceError::new(SourceErrorKind::NotFound, message))
}

enum Answer {
    Message(Vec<u8>),
    NoResponder,
}

struct Connection<'a> {
    endpoint: &'a Endpoint,
    stream: BufReader<Stream>,
}

impl<'a> Connection<'a> {
    /// Connects, and returns once the server has accepted the credentials.
    async fn open(
        endpoint: &'a Endpoint,
        credentials: &Credentials,
        dialer: &Dialer,
    ) -> Result<Self, SourceError> {
        let stream = BufReader::new(dialer.connect_plain(endpoint).await?);
        let mut connection = Self { endpoint, stream };
        let line = connection.line().await?;
        let info = line.strip_prefix("INFO ");
        let info: Info = info
            .and_then(|json| serde_json::from_str(json).ok())
            .ok_or_else(|| SourceError::protocol(endpoint, "a NATS server begins with INFO"))?;
        if info.tls_required && !endpoint.tls {
            let message = format!("{endpoint} wants TLS; set it for this signal");
            return Err(SourceError::new(SourceErrorKind::Unreachable, message));
        }
        if endpoint.tls {
            // what came before TLS is nobody's word
            if !connection.stream.buffer().is_empty() {
                return Err(SourceError::protocol(
                    endpoint,
                    "it goes on before TLS begins",
                ));
            }
            let plain = connection.stream.into_inner();
            let secured = dialer.start_tls(plain, endpoint, credentials).await?;
            connection.stream = BufReader::new(secured);
        }
        let has_credentials = credentials.token.is_some()
            || credentials.username.is_some()
            || credentials.certificate.is_some();
        if info.auth_required && !has_credentials {
            let why = "it wants a user or a token";
            return Err(unauthorized(endpoint, why));
        }
        let connect = Connect {
            verbose: false,
            pedantic: false,
            tls_required: endpoint.tls,
            name: "bursar",
            lang: "rust",
            version: env!("CARGO_PKG_VERSION"),
            headers: true,
            no_responders: true,
            user: credentials.username.as_deref(),
            pass: credentials.password.as_deref(),
            auth_token: credentials.token.as_deref(),
        };
        let connect = serde_json::to_string(&connect)
            .map_err(|error| SourceError::protocol(endpoint, &error.to_string()))?;
        connection
            .send(&format!("CONNECT {connect}\r\nPING\r\n"))
            .await?;
        while connection.control_line().await? != "PONG" {}
        Ok(connection)
    }

    /// Sends an empty request, and returns the answer.
    async fn request(&mut self, subject: &str) -> Result<Answer, SourceError> {
        // each read has a subject of its own, so that none takes the answer of another
        let inbox = format!(
            "_INBOX.bursar.{:016x}",
            RandomState::new().hash_one(subject)
        );
        let request = format!("SUB {inbox} 1\r\nPUB {subject} {inbox} 0\r\n\r\n");
        self.send(&request).await?;
        let line = self.control_line().await?;
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words.as_slice() {
            ["MSG", to, _, .., bytes] if *to == inbox => {
                Ok(Answer::Message(self.payload(bytes).await?))
            }
            ["HMSG", to, _, .., header_bytes, bytes] if *to == inbox => {
                let mut payload = self.payload(bytes).await?;
                if payload.starts_with(b"NATS/1.0 503") {
                    return Ok(Answer::NoResponder);
                }
                let header_bytes = header_bytes.parse().unwrap_or(0);
                payload.drain(..payload.len().min(header_bytes));
                Ok(Answer::Message(payload))
            }
            _ => {
                let why = format!("`{}` is no answer to a request", quoted(&line));
                Err(SourceError::protocol(self.endpoint, &why))
            }
        }
    }

    async fn payload(&mut self, bytes: &str) -> Result<Vec<u8>, SourceError> {
        let length = bytes
            .parse()
            .ok()
            .filter(|length| *length <= MAX_ANSWER_BYTES);
        let length: usize =
            length.ok_or_else(|| SourceError::too_long(self.endpoint, MAX_ANSWER_BYTES))?;
        let mut payload = vec![0; length];
        let read = self.stream.read_exact(&mut payload).await;
        read.map_err(|error| SourceError::broken(self.endpoint, &error))?;
        Ok(payload)
    }

    /// The next line that is neither a ping, which is answered, nor news of the server.
    async fn control_line(&mut self) -> Result<String, SourceError> {
        loop {
            let line = self.line().await?;
            if let Some(said) = line.strip_prefix("-ERR ") {
                return Err(self.refused(said));
            }
            match line.split(' ').next() {
                Some("PING") => self.send("PONG\r\n").await?,
                Some("INFO" | "+OK") => {}
                _ => return Ok(line),
            }
        }
    }

    async fn line(&mut self) -> Result<String, SourceError> {
        let mut line = Vec::new();
        let read = self.stream.read_until(b'\n', &mut line).await;
        read.map_err(|error| SourceError::broken(self.endpoint, &error))?;
        if line.pop() != Some(b'\n') {
            let message = format!("{} closed the connection", self.endpoint);
            return Err(SourceError::new(SourceErrorKind::Unreachable, message));
        }
        let line = String::from_utf8_lossy(&line);
        Ok(line.trim_end_matches('\r').to_owned())
    }

    async fn send(&mut self, text: &str) -> Result<(), SourceError> {
        let sent = async {
            self.stream.write_all(text.as_bytes()).await?;
            self.stream.flush().await
        };
        sent.await
            .map_err(|error| SourceError::broken(self.endpoint, &error))
    }

    fn refused(&self, said: &str) -> SourceError {
        let said = said.trim_matches('\'');
        let lower = said.to_ascii_lowercase();
        match lower.contains("authorization") || lower.contains("permissions") {
            true => unauthorized(self.endpoint, said),
            false => {
                let message = format!("{} says: {}", self.endpoint, quoted(said));
                SourceError::new(SourceErrorKind::Protocol, message)
            }
        }
    }
}

fn unauthorized(endpoint: &Endpoint, why: &str) -> SourceError {
    let message = format!(
        "{endpoint} refuses the credentials: {}; check username and password, or token, in the \
         Secret",
        quoted(why)
    );
    SourceError::new(SourceErrorKind::Unauthorized, message)
}
