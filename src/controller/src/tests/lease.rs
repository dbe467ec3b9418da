//! The Lease of a leader that ends.

use std::time::Duration;

use bursar_apitest::Server;
use bursar_runtime::leader_election::Candidate;
use k8s_openapi::api::coordination::v1::Lease;
use tokio_util::sync::CancellationToken;

use super::world::OPERATOR;
use crate::{Error, while_leading};

#[tokio::test]
async fn a_leader_that_fails_gives_the_lease_back() {
    let server = Server::new(&[OPERATOR]);
    let candidate = Candidate {
        namespace: OPERATOR.to_owned(),
        name: "controller".to_owned(),
        identity: "a".to_owned(),
        duration: Duration::from_secs(15),
    };
    let stop = CancellationToken::new();
    let leadership = candidate.acquire(server.client(), &stop).await.unwrap();
    let holder = || {
        let leases: Vec<Lease> = server.objects();
        let spec = leases[0].spec.clone().unwrap();
        spec.holder_identity.unwrap_or_default()
    };
    assert_eq!(holder(), "a");
    let ended = while_leading(leadership, async { Err(Error::Unsynced) }).await;
    assert!(matches!(ended, Err(Error::Unsynced)));
    assert_eq!(holder(), "");
}
