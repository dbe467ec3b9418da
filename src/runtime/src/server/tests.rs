use std::net::{Ipv4Addr, SocketAddr};

use axum::routing::get;
use bursar_apitest::https::TestCertificate;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

async fn free_port() -> u16 {
    let listener = listen(0).await.unwrap();
    listener.local_addr().unwrap().port()
}

/// Serves `ok` on a free port.
async fn start(port: impl FnOnce(u16) -> Port) -> (SocketAddr, CancellationToken) {
    let number = free_port().await;
    let stop = CancellationToken::new();
    let routes = Router::new().route("/", get(|| async { "ok" }));
    tokio::spawn(serve(port(number), routes, stop.clone()));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, number));
    while TcpStream::connect(address).await.is_err() {
        tokio::task::yield_now().await;
    }
    (address, stop)
}

/// What is answered to a request on a connection; nothing if it is closed.
async fn answer(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    // a connection that was closed at once may be reset
    if stream.write_all(REQUEST).await.is_ok() {
        stream.read_to_string(&mut answer).await.ok();
    }
    answer
}

#[tokio::test]
async fn connections_that_send_nothing_leave_room_for_other_addresses() {
    let (address, stop) = start(Port::plain).await;
    let idle: Vec<TcpStream> = {
        let mut idle = Vec::new();
        for _ in 0..100 {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        idle
    };
    assert_eq!(answer(TcpStream::connect(address).await.unwrap()).await, "");
    let other = tokio::net::TcpSocket::new_v4().unwrap();
    other.bind((Ipv4Addr::new(127, 0, 0, 2), 0).into()).unwrap();
    let other = other.connect(address).await.unwrap();
    let answered = answer(other).await;
    assert!(answered.starts_with("HTTP/1.1 200"), "{answered}");
    drop(idle);
    stop.cancel();
}

#[tokio::test]
async fn a_certificate_that_was_renewed_is_used_for_further_connections() {
    let (first, second) = (
        TestCertificate::new().unwrap(),
        TestCertificate::new().unwrap(),
    );
    let files = CertificateFiles {
        certificate: first.certificate(),
        key: first.key(),
    };
    let (address, stop) = start(|number| Port::tls(number, files.clone())).await;
    for _ in 0..2 {
        assert!(first.get(address, "/", "").await.is_ok());
    }
    for (new, old) in [
        (second.certificate(), &files.certificate),
        (second.key(), &files.key),
    ] {
        std::fs::copy(new, old).unwrap();
        let written = SystemTime::now() + Duration::from_secs(1);
        let file = std::fs::File::options().write(true).open(old).unwrap();
        file.set_modified(written).unwrap();
    }
    assert!(first.get(address, "/", "").await.is_err());
    assert!(second.get(address, "/", "").await.is_ok());
    stop.cancel();
}
