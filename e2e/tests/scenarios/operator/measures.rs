//! Signals of services beyond the queue depth: an objective for first tokens, and the requests at gateways.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use bursar_e2e::{
    Access, Cluster,
    runner::ScenarioResult,
    scenario::{
        apply_service, client_runtime, delete_services, expect_all_ok, get_field, service_manifest,
        wait_until,
    },
    traffic::{self, Answer},
};
use futures::future::join_all;
use serde_json::json;

use super::{signal_example::SignalExample, signals};

/// A replica runs two requests at a time, which use some percent of its cache.
const FLAGS: &str = r#""--max-num-seqs", "2", "--kv-blocks", "64""#;
/// They take about half a second.
const ANSWER_TOKENS: u32 = 24;
const DEFAULT_SIGNALS: &str = "[{type: Engine, target: 4}]";

/// First tokens that come late add replicas, which leave again when nobody asks.
pub(crate) fn late_first_tokens_add_replicas(cluster: &Cluster) -> ScenarioResult {
    let namespace = "late-tokens";
    signals::install(cluster)?;
    let mut signals = SignalExample::new("latency", json!({})).signals()?;
    // the latency and the cache alone, with what this engine can be late by
    signals.truncate(2);
    signals[0]["targetLatency"] = json!("400ms");
    signals[1]["target"] = json!(100);
    let signals = json!(signals).to_string();
    let manifest = service_manifest(namespace, FLAGS, "5s").replace(DEFAULT_SIGNALS, &signals);
    let address = apply_service(cluster, namespace, &manifest)?;
    // of six on one replica, four wait for others to end
    under_load(address, 6, ANSWER_TOKENS, || {
        wait_for_replicas(cluster, namespace, "more than one", 180, |pods| pods > 1)?;
        for (signal, least) in [("first-token", 0.4), ("kv-cache", 1.0)] {
            let path = format!(r#".status.signals[?(@.name=="{signal}")].value"#);
            wait_until(&format!("a value of {signal}"), 60, || {
                let value = get_field(cluster, namespace, "infd/chat", &path)?;
                Ok(value.parse().is_ok_and(|value: f64| value >= least))
            })?;
        }
        Ok(())
    })?;
    // a latency says nothing about zero: that nobody asks does
    wait_for_replicas(cluster, namespace, "none", 120, |pods| pods == 0)?;
    delete_services(cluster, namespace, &["chat"])
}

/// A server without metrics has the replicas that requests at gateways ask for: those that are held, and those that are forwarded.
pub(crate) fn requests_at_gateways_add_replicas(cluster: &Cluster) -> ScenarioResult {
    let namespace = "unmeasured";
    signals::install(cluster)?;
    let signals = SignalExample::new("gateway", json!({"target": 2})).signals()?;
    let manifest = service_manifest(namespace, r#""--speedup", "1""#, "5s")
        .replace(DEFAULT_SIGNALS, &json!(signals).to_string())
        .replace(
            "engine: vLLM",
            "engine: Custom\n  engineOptions: {port: 8000, healthPath: /health}\n  activation: {mode: Always}",
        );
    let address = apply_service(cluster, namespace, &manifest)?;
    under_load(address, 6, 20 * ANSWER_TOKENS, || {
        wait_for_replicas(cluster, namespace, "three", 60, |pods| pods == 3)
    })?;
    wait_for_replicas(cluster, namespace, "none", 120, |pods| pods == 0)?;
    delete_services(cluster, namespace, &["chat"])
}

fn wait_for_replicas(
    cluster: &Cluster,
    namespace: &str,
    number: &str,
    seconds: u64,
    is_right: impl Fn(usize) -> bool,
) -> ScenarioResult {
    wait_until(&format!("{number} of the replicas"), seconds, || {
        let pods = cluster.kubectl(&["-n", namespace, "get", "pods", "-o", "name"])?;
        Ok(is_right(pods.lines().count()))
    })
}

/// While so many clients ask one request after the other, does `task`. All of their requests must be served.
fn under_load(
    address: SocketAddr,
    clients: usize,
    max_tokens: u32,
    task: impl FnOnce() -> ScenarioResult,
) -> ScenarioResult {
    let is_over = AtomicBool::new(false);
    let runtime = client_runtime()?;
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            let client = || ask_until(&is_over, address, max_tokens);
            runtime.block_on(join_all((0..clients).map(|_| client())))
        });
        let done = task();
        is_over.store(true, Ordering::Relaxed);
        let answers = load.join().map_err(|_| "the clients panicked")?.concat();
        done?;
        expect_all_ok(&answers)
    })
}

async fn ask_until(is_over: &AtomicBool, address: SocketAddr, max_tokens: u32) -> Vec<Answer> {
    let mut answers = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        answers.push(traffic::complete(address, max_tokens).await);
        // one that is refused at once would be asked again without a pause
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    answers
}
