//! Shutdown of a gateway.

use super::process::GatewayProcess;
use super::*;

/// A replica listens here, on the engine's port.
const REPLICA: &str = "127.83.0.1:8000";

#[tokio::test]
async fn a_gateway_that_ends_serves_what_it_holds_once_a_replica_is_ready() {
    let process = GatewayProcess::start(Duration::from_secs(60)).await;
    process.wait_for_readiness("200 OK").await;
    let first = tokio::spawn(complete(process.service));
    process.wait_for_held(1).await;
    process.stop.cancel();
    process.wait_for_readiness("503").await;
    process.leave_the_slices().await;
    // nodes that do not know yet that the gateway leaves still send requests
    let second = tokio::spawn(complete(process.service));
    process.wait_for_held(2).await;
    let closed = async {
        while TcpStream::connect(process.service).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, closed).await.unwrap();
    answer_all(TcpListener::bind(REPLICA).await.unwrap());
    process.make_replica(REPLICA).await;
    for client in [first, second] {
        let answer = client.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    process.end().await;
}

#[tokio::test]
async fn a_request_held_at_the_end_of_the_grace_period_is_refused() {
    let process = GatewayProcess::start(Duration::from_secs(2)).await;
    process.wait_for_readiness("200 OK").await;
    let held = tokio::spawn(complete(process.service));
    process.wait_for_held(1).await;
    process.stop.cancel();
    let answer = held.await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 503")
            && answer.contains("gateway_leaving")
            && answer.contains("retry-after: 1\r\n"),
        "{answer}"
    );
    process.end().await;
}
