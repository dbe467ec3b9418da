//! Kafka's protocol: frames, and the fields of requests and responses.
//!
//! The decoders of the crates that have Kafka's messages reserve memory for as many elements as a
//! response says it has, which a hostile broker may say are 2^31. Here a count reserves nothing.
//! Each request has the version that brokers from 1.0 to 4 know, the last in which lengths are
//! plain numbers.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::error::{SourceError, SourceErrorKind};
use crate::dial::{Endpoint, MAX_ANSWER_BYTES, Stream};

/// A request's key and version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Api(pub(crate) i16, pub(crate) i16);

impl Api {
    pub(crate) const LIST_OFFSETS: Self = Self(2, 1);
    /// The first version that does not create the topic.
    pub(crate) const METADATA: Self = Self(3, 4);
    pub(crate) const OFFSET_FETCH: Self = Self(9, 3);
    pub(crate) const FIND_COORDINATOR: Self = Self(10, 1);
    pub(crate) const SASL_HANDSHAKE: Self = Self(17, 1);
    pub(crate) const SASL_AUTHENTICATE: Self = Self(36, 0);
}

/// Fields of a request, encoded.
#[derive(Debug, Default)]
pub(crate) struct Encoder(Vec<u8>);

impl Encoder {
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn int8(self, value: i8) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(crate) fn int16(self, value: i16) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(crate) fn int32(self, value: i32) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(crate) fn int64(self, value: i64) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    /// A text of at most 32,767 bytes; the caller has checked it.
    pub(crate) fn string(self, text: &str) -> Self {
        let length = i16::try_from(text.len()).unwrap_or(i16::MAX);
        let bytes = &text.as_bytes()[..usize::try_from(length).unwrap_or(0)];
        self.int16(length).bytes(bytes)
    }

    pub(crate) fn blob(self, bytes: &[u8]) -> Self {
        let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
        self.int32(length).bytes(bytes)
    }

    /// An array, of which each element is encoded by `encode`.
    pub(crate) fn array<T>(
        self,
        elements: impl ExactSizeIterator<Item = T>,
        encode: impl FnMut(Self, T) -> Self,
    ) -> Self {
        let length = i32::try_from(elements.len()).unwrap_or(i32::MAX);
        elements.fold(self.int32(length), encode)
    }
}

/// A response has fewer bytes than its fields take, or a field that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Fields of a response that are not read yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array_of<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    pub(crate) fn boolean(&mut self) -> Result<bool, Malformed> {
        Ok(self.array_of::<1>()? != [0])
    }

    pub(crate) fn int16(&mut self) -> Result<i16, Malformed> {
        self.array_of().map(i16::from_be_bytes)
    }

    pub(crate) fn int32(&mut self) -> Result<i32, Malformed> {
        self.array_of().map(i32::from_be_bytes)
    }

    pub(crate) fn int64(&mut self) -> Result<i64, Malformed> {
        self.array_of().map(i64::from_be_bytes)
    }

    pub(crate) fn string(&mut self) -> Result<String, Malformed> {
        self.nullable_string()?.ok_or(Malformed)
    }

    pub(crate) fn nullable_string(&mut self) -> Result<Option<String>, Malformed> {
        let length = self.int16()?;
        if length == -1 {
            return Ok(None);
        }
        let bytes = self.take(usize::try_from(length).map_err(|_| Malformed)?)?;
        Ok(Some(String::from_utf8_lossy(bytes).into_owned()))
    }

    pub(crate) fn blob(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.int32()?;
        self.take(usize::try_from(length).map_err(|_| Malformed)?)
    }

    /// The elements of an array, each decoded by `decode`. Their number is believed as far as there
    /// are bytes.
    pub(crate) fn array<T>(
        &mut self,
        mut decode: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let length = usize::try_from(self.int32()?).map_err(|_| Malformed)?;
        let mut elements = Vec::new();
        for _ in 0..length {
            elements.push(decode(self)?);
        }
        Ok(elements)
    }
}

/// A connection to a broker.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) broker: Endpoint,
    stream: Stream,
    requests: i32,
}

impl Connection {
    pub(crate) fn new(broker: Endpoint, stream: Stream) -> Self {
        Self {
            broker,
            stream,
            requests: 0,
        }
    }

    /// Sends a request, and returns what `decode` makes of the response.
    pub(crate) async fn call<T>(
        &mut self,
        Api(key, version): Api,
        request: Encoder,
        decode: impl FnOnce(&mut Decoder) -> Result<T, Malformed>,
    ) -> Result<T, SourceError> {
        self.requests += 1;
        let header = Encoder::default()
            .int16(key)
            .int16(version)
            .int32(self.requests)
            .string("bursar");
        let message = Encoder::default().blob(&header.bytes(&request.0).0);
        let sent = async {
            self.stream.write_all(&message.0).await?;
            self.stream.flush().await
        };
        let sent = sent.await;
        sent.map_err(|error| SourceError::broken(&self.broker, &error))?;
        let response = self.frame().await?;
        let mut fields = Decoder::new(&response);
        if fields.int32() != Ok(self.requests) {
            let why = "the response belongs to no request";
            return Err(SourceError::protocol(&self.broker, why));
        }
        decode(&mut fields).map_err(|Malformed| {
            let why = format!("the response to request {key} of version {version} is malformed");
            SourceError::protocol(&self.broker, &why)
        })
    }

    async fn frame(&mut self) -> Result<Vec<u8>, SourceError> {
        let mut length = [0; 4];
        self.read(&mut length).await?;
        if length.starts_with(&[0x15, 3]) {
            let why = "it wants TLS on this port; set it for this signal";
            return Err(SourceError::protocol(&self.broker, why));
        }
        let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > MAX_ANSWER_BYTES {
            return Err(SourceError::too_long(&self.broker, MAX_ANSWER_BYTES));
        }
        let mut frame = vec![0; length];
        self.read(&mut frame).await?;
        Ok(frame)
    }

    async fn read(&mut self, bytes: &mut [u8]) -> Result<(), SourceError> {
        match self.stream.read_exact(bytes).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                let message = format!(
                    "{} closed the connection; does it want TLS or SASL on this port?",
                    self.broker
                );
                Err(SourceError::new(SourceErrorKind::Unreachable, message))
            }
            Err(error) => Err(SourceError::broken(&self.broker, &error)),
        }
    }
}
