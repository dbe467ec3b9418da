//! What ranks say to each other: lines of JSON over TCP, each waited for no longer than a limit.

use std::io;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// No message is longer, in bytes.
const MAX_LINE: u64 = 1024;

/// From a rank to rank 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Report {
    /// It is here.
    Hello {
        /// Which it is.
        rank: u32,
        /// How many it thinks there are.
        world_size: u32,
    },
    /// It will compute what it is told to, whatever signal comes.
    Ready,
    /// It has computed a step.
    Done {
        /// Which step.
        step: u64,
        /// It was told to end.
        stop: bool,
    },
}

/// From rank 0 to all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Order {
    /// All are here.
    Gathered,
    /// All are ready: compute this step.
    Start {
        /// Which attempt this is, from 1.
        attempt: u64,
        /// The first step.
        step: u64,
    },
    /// All have computed a step.
    Commit {
        /// Which step.
        step: u64,
        /// What comes after it.
        then: Then,
    },
}

/// What the gang does after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Then {
    /// The next step.
    Continue,
    /// End; the steps so far are in the checkpoint.
    Stop,
    /// End; that was the last step.
    Finish,
}

/// Why nothing was heard from a peer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    /// The connection.
    #[error("connection lost: {0}")]
    Lost(#[from] io::Error),
    /// The peer closed it.
    #[error("connection closed")]
    Closed,
    /// Not a message.
    #[error("not a message: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Another message than the protocol has here.
    #[error("{0:?} is not what comes here")]
    Unexpected(String),
    /// Nothing for too long.
    #[error("silent for {:.1} s", .0.as_secs_f64())]
    Silent(Duration),
}

/// A connection with another rank.
#[derive(Debug)]
pub(crate) struct Peer {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Peer {
    /// Speaks over a stream.
    pub(crate) fn new(stream: TcpStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self {
            reader: BufReader::new(reader),
            writer,
        }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(crate) async fn send(&mut self, message: impl Serialize) -> Result<(), WireError> {
        let line = serde_json::to_string(&message)? + "\n";
        Ok(self.writer.write_all(line.as_bytes()).await?)
    }

    /// The next message.
    ///
    /// # Errors
    /// When there is none within `limit`, the peer is gone, or what it says is no message.
    pub(crate) async fn receive<T: DeserializeOwned>(
        &mut self,
        limit: Duration,
    ) -> Result<T, WireError> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.reader).take(MAX_LINE);
        let read = tokio::time::timeout(limit, bounded.read_until(b'\n', &mut line)).await;
        match read {
            Err(_) => Err(WireError::Silent(limit)),
            Ok(Err(error)) => Err(error.into()),
            Ok(Ok(0)) => Err(WireError::Closed),
            Ok(Ok(_)) => Ok(serde_json::from_slice(&line)?),
        }
    }
}
