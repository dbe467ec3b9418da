//! Requests: replicas follow them, and none is lost on the way to zero and back.

use std::time::{Duration, Instant};

use bursar_e2e::{
    Access, Cluster,
    runner::Outcome,
    traffic::{self, Answer},
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ListParams};

use crate::support::{all_served, at_least, becomes, gone, runtime, serve, service};

/// From the moment that the API server knows of a replica's unreadiness until every node acts on it.
const KNOWN: Duration = Duration::from_millis(1500);

pub(crate) fn scaling(cluster: &Cluster) -> Outcome {
    let address = serve(cluster, "scaling", r#""--startup-delay", "1s""#, "5s")?;
    let answers = runtime()?.block_on(traffic::burst(address, 24, Duration::from_millis(20), 60));
    all_served(&answers)?;
    let events = cluster.kubectl(&[
        "-n",
        "scaling",
        "get",
        "events",
        "-o",
        "jsonpath={.items[*].message}",
    ])?;
    if !events.contains("from 0 to 1") && !events.contains("from 0 to 4") {
        return Err(format!("it was not woken: {events}").into());
    }
    if !events.contains("to 4") {
        return Err(
            format!("24 requests at 4 a replica did not bring 4 replicas: {events}").into(),
        );
    }
    gone(cluster, "scaling")
}

/// Bursts with gaps in which the service goes to zero, is draining, or has just gone.
pub(crate) fn through_zero(cluster: &Cluster) -> Outcome {
    let flags = r#""--speedup", "20", "--on-sigterm", "close""#;
    let address = serve(cluster, "zero", flags, "1s")?;
    let mut answers = Vec::new();
    let runtime = runtime()?;
    for gap in [0, 2, 4, 5, 6, 7, 8, 10, 6, 5] {
        std::thread::sleep(Duration::from_secs(gap));
        answers.extend(runtime.block_on(traffic::burst(
            address,
            100,
            Duration::from_millis(10),
            4,
        )));
    }
    all_served(&answers)?;
    gone(cluster, "zero")
}

/// The only replica crashes under load. Kubernetes itself sends requests to it until its unreadiness is seen; from then on none may be
/// refused.
pub(crate) fn last_replica_crashes(cluster: &Cluster) -> Outcome {
    let flags = r#""--speedup", "20", "--startup-delay", "2s", "--allow-crash""#;
    let address = serve(cluster, "crash", flags, "1h")?;
    cluster.apply(&at_least(1, &service("crash", flags, "1h")))?;
    becomes(
        cluster,
        "crash",
        "infd/chat",
        ".status.readyReplicas",
        "1",
        60,
    )?;
    let (answers, unready) = runtime()?.block_on(async {
        let client = cluster.client().await?;
        let began = Instant::now();
        let crash = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            traffic::post(address, "/crash").await;
            unready(client, "crash").await.map(|()| began.elapsed())
        };
        let (answers, unready) = tokio::join!(
            traffic::burst(address, 400, Duration::from_millis(20), 4),
            crash
        );
        Ok::<_, Box<dyn std::error::Error>>((answers, unready?))
    })?;
    let (late, early): (Vec<Answer>, Vec<Answer>) = answers
        .into_iter()
        .partition(|answer| answer.sent > unready + KNOWN);
    let refused = early
        .iter()
        .filter(|answer| answer.status != Some(200))
        .count();
    println!(
        "({refused} of {} were refused before the crash was seen, {:.1} s after the start)",
        early.len(),
        unready.as_secs_f32()
    );
    if late.len() < 100 {
        return Err(format!("only {} requests came after the crash was seen", late.len()).into());
    }
    all_served(&late)?;
    cluster.kubectl(&["-n", "crash", "delete", "infd", "chat"])?;
    becomes(cluster, "crash", "pods", ".items[*].metadata.name", "", 60)
}

/// Waits until no endpoint of the namespace's Service is ready.
async fn unready(client: kube::Client, namespace: &str) -> Result<(), Box<dyn std::error::Error>> {
    let api: Api<EndpointSlice> = Api::namespaced(client, namespace);
    let limit = Instant::now() + Duration::from_secs(20);
    loop {
        let slices = api.list(&ListParams::default()).await?;
        let endpoints = slices
            .items
            .iter()
            .flat_map(|slice| slice.endpoints.iter().flatten());
        let ready = |conditions: &k8s_openapi::api::discovery::v1::EndpointConditions| {
            conditions.ready != Some(false)
        };
        if !endpoints
            .filter_map(|endpoint| endpoint.conditions.as_ref())
            .any(ready)
        {
            return Ok(());
        }
        if Instant::now() > limit {
            return Err("the crash was not seen within 20 s".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
