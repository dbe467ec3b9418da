//! The few methods of AMQP 0-9-1 by which the length of a queue is asked for.
//!
//! lapin makes its own connections, by a runtime of its own kind, and cannot be led over one that
//! was checked; it goes on connecting where one read is wanted. A passive declaration is six
//! methods.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::error::{SourceError, SourceErrorKind, quoted};
use crate::credentials::Credentials;
use crate::dial::{Dialer, Endpoint, MAX_ANSWER_BYTES, Stream};

/// A method's class and number.
type Method = (u16, u16);

const CONNECTION_START: Method = (10, 10);
const CONNECTION_START_OK: Method = (10, 11);
const CONNECTION_TUNE: Method = (10, 30);
const CONNECTION_TUNE_OK: Method = (10, 31);
const CONNECTION_OPEN: Method = (10, 40);
const CONNECTION_OPEN_OK: Method = (10, 41);
const CONNECTION_CLOSE: Method = (10, 50);
const CHANNEL_OPEN: Method = (20, 10);
const CHANNEL_OPEN_OK: Method = (20, 11);
const CHANNEL_CLOSE: Method = (20, 40);
const QUEUE_DECLARE: Method = (50, 10);
const QUEUE_DECLARE_OK: Method = (50, 11);

const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";
const FRAME_METHOD: u8 = 1;
const FRAME_HEARTBEAT: u8 = 8;
const FRAME_END: u8 = 0xCE;
/// The least that every server takes.
const FRAME_MAX: u32 = 4096;
const PASSIVE: u8 = 1;

/// The messages of a queue that wait for a consumer.
pub(super) async fn ready_messages(
    endpoint: &Endpoint,
    vhost: &str,
    queue: &str,
    credentials: &Credentials,
    dialer: &Dialer,
) -> Result<u32, SourceError> {
    let stream = dialer.connect(endpoint, credentials).await?;
    let mut connection = Connection { endpoint, stream };
    connection.send(PROTOCOL_HEADER).await?;
    connection.expect(CONNECTION_START).await?;
    let login = Arguments::default()
        .table(CLIENT_PROPERTIES)
        .short_string("PLAIN")
        .long_string(&plain(credentials))
        .short_string("en_US");
    connection.call(0, CONNECTION_START_OK, login).await?;
    connection.expect(CONNECTION_TUNE).await?;
    // one channel, small frames, no heartbeat
    let tuning = Arguments::default().short(1).long(FRAME_MAX).short(0);
    connection.call(0, CONNECTION_TUNE_OK, tuning).await?;
    let opening = Arguments::default()
        .short_string(vhost)
        .short_string("")
        .octet(0);
    connection.call(0, CONNECTION_OPEN, opening).await?;
    connection.expect(CONNECTION_OPEN_OK).await?;
    connection
        .call(1, CHANNEL_OPEN, Arguments::default().short_string(""))
        .await?;
    connection.expect(CHANNEL_OPEN_OK).await?;
    let declaration = Arguments::default()
        .short(0)
        .short_string(queue)
        .octet(PASSIVE)
        .table(&[]);
    connection.call(1, QUEUE_DECLARE, declaration).await?;
    let declared = connection.expect(QUEUE_DECLARE_OK).await?;
    let closing = Arguments::default()
        .short(200)
        .short_string("")
        .short(0)
        .short(0);
    // the answer is there; whether the farewell arrives does not matter
    connection.call(0, CONNECTION_CLOSE, closing).await.ok();
    message_count(&declared).ok_or_else(|| {
        SourceError::protocol(endpoint, "the answer to a declaration has no message count")
    })
}

/// The second argument of `queue.declare-ok`: after the queue's name, before the consumers.
fn message_count(arguments: &[u8]) -> Option<u32> {
    let (name_length, rest) = arguments.split_first()?;
    let count = rest.get(usize::from(*name_length)..)?.first_chunk()?;
    Some(u32::from_be_bytes(*count))
}

/// `{capabilities: {authentication_failure_close: true}}`: a server says why it does not accept
/// the credentials, instead of closing the connection without a word.
const CLIENT_PROPERTIES: &[u8] =
    b"\x0ccapabilitiesF\x00\x00\x00\x1f\x1cauthentication_failure_closet\x01";

/// The response of SASL's PLAIN. Without credentials it is that of RabbitMQ's own user, as for all
/// clients.
fn plain(credentials: &Credentials) -> Vec<u8> {
    let username = credentials.username.as_deref().unwrap_or("guest");
    let password = credentials.password.as_deref().unwrap_or("guest");
    format!("\0{username}\0{password}").into_bytes()
}

/// The arguments of a method, encoded.
#[derive(Debug, Default)]
struct Arguments(Vec<u8>);

impl Arguments {
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn octet(self, value: u8) -> Self {
        self.bytes(&[value])
    }

    fn short(self, value: u16) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    fn long(self, value: u32) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    /// A text of at most 255 bytes; the caller has checked it.
    fn short_string(self, text: &str) -> Self {
        let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
        self.octet(length)
            .bytes(&text.as_bytes()[..usize::from(length)])
    }

    fn long_string(self, bytes: &[u8]) -> Self {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.long(length).bytes(bytes)
    }

    /// A table whose entries are encoded.
    fn table(self, entries: &[u8]) -> Self {
        self.long_string(entries)
    }
}

struct Connection<'a> {
    endpoint: &'a Endpoint,
    stream: Stream,
}

impl Connection<'_> {
    async fn send(&mut self, bytes: &[u8]) -> Result<(), SourceError> {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        sent.await
            .map_err(|error| SourceError::broken(self.endpoint, &error))
    }

    async fn call(
        &mut self,
        channel: u16,
        (class, method): Method,
        arguments: Arguments,
    ) -> Result<(), SourceError> {
        let payload = Arguments::default()
            .short(class)
            .short(method)
            .bytes(&arguments.0);
        let frame = Arguments::default()
            .octet(FRAME_METHOD)
            .short(channel)
            .long_string(&payload.0)
            .octet(FRAME_END);
        self.send(&frame.0).await
    }

    /// The arguments of the next method, which must be this one.
    async fn expect(&mut self, expected: Method) -> Result<Vec<u8>, SourceError> {
        let payload = self.method_frame().await?;
        let Some((header, arguments)) = payload.split_first_chunk::<4>() else {
            return Err(SourceError::protocol(
                self.endpoint,
                "a method without a number",
            ));
        };
        let [class_high, class_low, method_high, method_low] = *header;
        let method = (
            u16::from_be_bytes([class_high, class_low]),
            u16::from_be_bytes([method_high, method_low]),
        );
        match method {
            _ if method == expected => Ok(arguments.to_vec()),
            CONNECTION_CLOSE | CHANNEL_CLOSE => Err(self.closed(arguments)),
            (class, method) => {
                let why = format!("method {class}.{method} of AMQP was not asked for");
                Err(SourceError::protocol(self.endpoint, &why))
            }
        }
    }

    async fn method_frame(&mut self) -> Result<Vec<u8>, SourceError> {
        loop {
            let mut header = [0; 7];
            self.read(&mut header).await?;
            let [kind, _, _, length @ ..] = header;
            if !matches!(kind, FRAME_METHOD | FRAME_HEARTBEAT) {
                let why = "it does not speak AMQP 0-9-1, or not on this port (5672, with TLS 5671)";
                return Err(SourceError::protocol(self.endpoint, why));
            }
            let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            if length > MAX_ANSWER_BYTES {
                return Err(SourceError::too_long(self.endpoint, MAX_ANSWER_BYTES));
            }
            let mut payload = vec![0; length];
            self.read(&mut payload).await?;
            let mut end = [0];
            self.read(&mut end).await?;
            if end != [FRAME_END] {
                return Err(SourceError::protocol(
                    self.endpoint,
                    "a frame of AMQP has no end",
                ));
            }
            if kind == FRAME_METHOD {
                return Ok(payload);
            }
        }
    }

    async fn read(&mut self, bytes: &mut [u8]) -> Result<(), SourceError> {
        let read = self.stream.read_exact(bytes).await;
        read.map(drop)
            .map_err(|error| SourceError::broken(self.endpoint, &error))
    }

    /// What the server says as it closes the channel or the connection: a code and a text.
    fn closed(&self, arguments: &[u8]) -> SourceError {
        let code = arguments
            .first_chunk()
            .map_or(0, |code| u16::from_be_bytes(*code));
        let text = arguments.get(3..).unwrap_or_default();
        let length = arguments.get(2).map_or(0, |length| usize::from(*length));
        let text = String::from_utf8_lossy(&text[..length.min(text.len())]).into_owned();
        let (kind, advice) = match code {
            403 => (
                SourceErrorKind::Unauthorized,
                "; check username, password and permissions",
            ),
            404 => (SourceErrorKind::NotFound, ""),
            530 => (
                SourceErrorKind::NotFound,
                "; check the vhost, and the user's access to it",
            ),
            _ => (SourceErrorKind::Protocol, ""),
        };
        let message = format!("{} says: {}{advice}", self.endpoint, quoted(&text));
        SourceError::new(kind, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lengths_within_the_client_properties_are_right() {
        let inner = b"\x1cauthentication_failure_closet\x01";
        assert_eq!(usize::from(inner[0]), b"authentication_failure_close".len());
        let name = b"\x0ccapabilities";
        assert_eq!(usize::from(name[0]), name.len() - 1);
        let length = u32::try_from(inner.len()).unwrap().to_be_bytes();
        let expected = [&name[..], b"F", &length, inner].concat();
        assert_eq!(CLIENT_PROPERTIES, expected);
    }
}
