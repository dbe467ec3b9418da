//! Headers and trailers on their way through the gateway.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::*;

/// The headers and the trailers of each request that a replica has got.
type Seen = Arc<Mutex<Vec<(HeaderMap, Option<HeaderMap>)>>>;

/// A replica that notes what it gets.
async fn noting_replica() -> (SocketAddr, Seen) {
    let (listener, address) = replica_listener().await;
    let seen = Seen::default();
    let noted = seen.clone();
    serve_connections(listener, move |stream| {
        let noted = noted.clone();
        let service = service_fn(move |request: http::Request<Incoming>| {
            let noted = noted.clone();
            async move {
                let (parts, body) = request.into_parts();
                let trailers = body.collect().await?.trailers().cloned();
                noted.lock().unwrap().push((parts.headers, trailers));
                Ok::<_, hyper::Error>(http::Response::new(Full::new(Bytes::from("ok"))))
            }
        });
        let connection = hyper::server::conn::http1::Builder::new();
        let connection = connection.serve_connection(TokioIo::new(stream), service);
        // a gateway may leave in the middle
        async move { _ = connection.await }
    });
    (address, seen)
}

#[tokio::test]
async fn no_client_takes_off_what_a_proxy_says_of_it_and_the_gateway_adds_its_address() {
    let mut gateway = TestGateway::new(json!({})).await;
    let (address, seen) = noting_replica().await;
    gateway.set_replica(Some(address));
    let request = b"GET /v1/x HTTP/1.1\r\nhost: chat\r\nx-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: https\r\nx-forwarded-user: ana\r\n\
        authorization: Bearer 1\r\nx-own: 1\r\nconnection: x-forwarded-for, X-Forwarded-Proto, x-forwarded-user, authorization, host, x-own\r\n\r\n";
    let answer = send(gateway.address, request).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (headers, _) = seen.lock().unwrap().remove(0);
    let all = |name: &str| -> Vec<String> {
        let values = headers.get_all(name).iter();
        values
            .map(|value| value.to_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(all("x-forwarded-for"), ["192.0.2.7", "127.0.0.1"]);
    assert_eq!(all("x-forwarded-proto"), ["https"]);
    assert_eq!(all("x-forwarded-user"), ["ana"]);
    assert_eq!(all("authorization"), ["Bearer 1"]);
    assert_eq!(all("host"), ["chat"]);
    assert!(
        all("x-own").is_empty() && all("connection").is_empty(),
        "{headers:?}"
    );
}

#[tokio::test]
async fn a_request_of_several_hosts_or_of_none_that_is_one_reaches_no_replica() {
    let mut gateway = TestGateway::new(json!({})).await;
    let (address, seen) = noting_replica().await;
    gateway.set_replica(Some(address));
    for (hosts, why) in [
        ("host: chat\r\nhost: other\r\n", "2 Host headers"),
        ("host: chat\r\nhost: chat\r\n", "2 Host headers"),
        ("host: a b\r\n", "no host"),
        ("host: a/b\r\n", "no host"),
    ] {
        let request = format!("GET /v1/x HTTP/1.1\r\n{hosts}\r\n");
        let answer = send(gateway.address, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{hosts:?}: {answer}");
        assert!(
            answer.contains(why) && answer.contains("invalid_host"),
            "{answer}"
        );
    }
    assert!(seen.lock().unwrap().is_empty());
    for host in [
        "host: chat.ns.svc:8000\r\n",
        "host: [::1]:80\r\n",
        "host:\r\n",
        "",
    ] {
        let request = format!("GET /v1/x HTTP/1.1\r\n{host}\r\n");
        let answer = send(gateway.address, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{host:?}: {answer}");
    }
}

#[tokio::test]
async fn no_client_gets_a_tunnel_to_a_replica() {
    let mut gateway = TestGateway::new(json!({})).await;
    let (address, seen) = noting_replica().await;
    gateway.set_replica(Some(address));
    let request = b"CONNECT chat:80 HTTP/1.1\r\nhost: chat\r\n\r\n";
    let answer = send(gateway.address, request).await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn trailers_of_a_request_reach_the_replica_whether_it_was_held_or_not() {
    let mut gateway = TestGateway::new(json!({})).await;
    let (address, seen) = noting_replica().await;
    let request = b"POST /v1/x HTTP/1.1\r\nhost: chat\r\ntransfer-encoding: chunked\r\ntrailer: x-checksum\r\n\r\n\
        5\r\nhello\r\n0\r\nx-checksum: 7\r\n\r\n";
    let gateway_address = gateway.address;
    let held = tokio::spawn(async move { send(gateway_address, request).await });
    gateway.wait_for_held(1).await;
    gateway.set_replica(Some(address));
    for answer in [held.await.unwrap(), send(gateway_address, request).await] {
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    for (_, trailers) in seen.lock().unwrap().iter() {
        let trailers = trailers.as_ref().expect("trailers");
        assert_eq!(trailers["x-checksum"], "7");
    }
    assert_eq!(seen.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn trailers_of_an_answer_reach_a_client_that_takes_them() {
    let mut gateway = TestGateway::new(json!({})).await;
    let (listener, address) = replica_listener().await;
    gateway.set_replica(Some(address));
    let request =
        b"POST /v1/x HTTP/1.1\r\nhost: chat\r\nte: trailers\r\ncontent-length: 5\r\n\r\nhello";
    let gateway_address = gateway.address;
    let client = tokio::spawn(async move { send(gateway_address, request).await });
    let (stream, _) = listener.accept().await.unwrap();
    let mut replica = BufReader::new(stream);
    let head = read_request(&mut replica).await.to_lowercase();
    assert!(head.contains("\r\nte: trailers\r\n"), "{head}");
    let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-checksum\r\n\r\n4\r\none\n\r\n0\r\nx-checksum: 7\r\n\r\n";
    replica.get_mut().write_all(answer).await.unwrap();
    let answer = client.await.unwrap();
    assert!(answer.contains("x-checksum: 7\r\n"), "{answer}");
}
