//! Sources against scripted servers on loopback, good and hostile ones.

mod dialing;
mod http;
mod kafka;
mod nats;
mod prometheus;
mod rabbitmq;
mod redis;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::address_policy::StandardPolicy;

/// A dialer to which loopback addresses alone are allowed, of all that are special.
fn dialer() -> Dialer {
    let allowed = vec!["127.0.0.0/8".parse().unwrap()];
    Dialer::new(Arc::new(StandardPolicy { allowed }))
}

/// A server on loopback that serves each connection with `serve`.
async fn server<S, F>(serve: S) -> Endpoint
where
    S: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    endpoint(port)
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint {
        host: "127.0.0.1".into(),
        port,
        tls: false,
    }
}

/// A server that reads a request and answers with these bytes, whatever was asked.
async fn answering(answer: impl Into<Vec<u8>>) -> Endpoint {
    let answer = Arc::new(answer.into());
    server(move |mut stream| {
        let answer = answer.clone();
        async move {
            read_some(&mut stream).await;
            // who has read enough closes the connection
            stream.write_all(&answer).await.ok();
            read_to_end(&mut stream).await;
        }
    })
    .await
}

/// A server that answers with `head` and then with `piece`, without end.
async fn endless(head: &'static str, piece: &'static str) -> Endpoint {
    server(move |mut stream| async move {
        read_some(&mut stream).await;
        stream.write_all(head.as_bytes()).await.ok();
        let pieces = piece.repeat(4096);
        while stream.write_all(pieces.as_bytes()).await.is_ok() {}
    })
    .await
}

/// A server that sends one byte of `answer` a second.
async fn dripping(answer: &'static str) -> Endpoint {
    server(move |mut stream| async move {
        for byte in answer.bytes().cycle() {
            if stream.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await
}

async fn read_some(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = vec![0; 8 << 10];
    let read = stream.read(&mut bytes).await.unwrap_or(0);
    bytes.truncate(read);
    bytes
}

async fn read_to_end(stream: &mut TcpStream) {
    while !read_some(stream).await.is_empty() {}
}

async fn read(source: impl Into<SignalSource>) -> Result<u64, SourceError> {
    read_with(source, &Credentials::default()).await
}

async fn read_with(
    source: impl Into<SignalSource>,
    credentials: &Credentials,
) -> Result<u64, SourceError> {
    let (source, credentials) = (source.into(), credentials.clone());
    // as tasks read it
    let read = tokio::spawn(async move { source.read(&credentials, &dialer()).await });
    read.await.unwrap()
}

/// Asserts that there is an error of this kind, whose message has these words and is short.
#[track_caller]
fn assert_fails(read: &Result<u64, SourceError>, kind: SourceErrorKind, words: &[&str]) {
    let error = read.as_ref().expect_err("an error");
    let message = error.to_string();
    assert_eq!(error.kind(), kind, "{message}");
    for word in words {
        assert!(message.contains(word), "no `{word}` in: {message}");
    }
    assert!(message.chars().count() <= 200, "{message}");
    println!("{message}");
}

impl From<Http> for SignalSource {
    fn from(source: Http) -> Self {
        Self::Http(source)
    }
}

impl From<Prometheus> for SignalSource {
    fn from(source: Prometheus) -> Self {
        Self::Prometheus(source)
    }
}

impl From<Redis> for SignalSource {
    fn from(source: Redis) -> Self {
        Self::Redis(source)
    }
}

impl From<Nats> for SignalSource {
    fn from(source: Nats) -> Self {
        Self::Nats(source)
    }
}

impl From<RabbitMq> for SignalSource {
    fn from(source: RabbitMq) -> Self {
        Self::RabbitMq(source)
    }
}

impl From<Kafka> for SignalSource {
    fn from(source: Kafka) -> Self {
        Self::Kafka(source)
    }
}
