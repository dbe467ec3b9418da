//! Growth: by what was learned of a service, and by its queue alone.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bursar_e2e::{
    Access, Cluster,
    runner::ScenarioResult,
    scenario::{
        client_runtime, current_cost, delete_services, deploy_manifest, expect_all_ok, explain,
        kill_controllers, service_manifest, wait_for_field, with_min_replicas,
    },
    traffic,
};

const NAMESPACE: &str = "bursts";
/// What a leader before has learned of `chat`.
const LEARNED: &str = r#"{"status": {"learned": {"target": 4, "requestMilliseconds": 2500, "tokensPerSecond": 90, "startSeconds": 40}}}"#;
/// Requests of a burst, ...
const BURST: u32 = 12;
/// ... and the tokens of each: a replica answers all of them within some seconds.
const TOKENS: u32 = 60;

/// `chat` grows by what was learned, and `plain` by its queue.
fn services() -> String {
    let flags = r#""--startup-delay", "15s""#;
    let chat = with_min_replicas(1, &service_manifest(NAMESPACE, flags, "1h"));
    let window = |seconds| format!("stabilizationWindowSeconds: {seconds}");
    let chat = chat.replace(&window(3), &window(30));
    let plain = chat
        .replace("name: chat", "name: plain")
        .replace("  scaling:\n", "  scaling:\n    growth: Target\n");
    format!("{chat}---\n{plain}")
}

/// Bursts that one replica has answered before another one could serve: the plain rule starts more
/// for each, and what is learned starts none. Both answer all.
pub(crate) fn start_nothing_for_a_burst(cluster: &Cluster) -> ScenarioResult {
    let chat = deploy_manifest(cluster, NAMESPACE, &services())?;
    let plain = traffic::address("plain", NAMESPACE)?;
    for service in ["infd/chat", "infd/plain"] {
        wait_for_field(
            cluster,
            NAMESPACE,
            service,
            ".status.readyReplicas",
            "1",
            60,
        )?;
    }
    let mut words = vec!["-n", NAMESPACE, "patch", "infd", "chat", "--type=merge"];
    words.extend(["--subresource=status", "-p", LEARNED]);
    cluster.kubectl(&words)?;
    kill_controllers(cluster)?;
    let runtime = client_runtime()?;
    let (began, mut said) = (Instant::now(), String::new());
    while !said.contains("learned: a replica answers") {
        if began.elapsed() > Duration::from_secs(120) {
            return Err(format!("no forecast within two minutes:\n{said}").into());
        }
        let answer = runtime.block_on(traffic::complete(chat, 240));
        expect_all_ok(&[answer])?;
        said = explain(cluster, NAMESPACE, "chat")?;
    }
    for _ in 0..3 {
        let burst = |address: SocketAddr| traffic::burst(address, BURST, Duration::ZERO, TOKENS);
        let (to_chat, to_plain) =
            runtime.block_on(async { tokio::join!(burst(chat), burst(plain)) });
        expect_all_ok(&to_chat)?;
        expect_all_ok(&to_plain)?;
        std::thread::sleep(Duration::from_secs(10));
    }
    let events = |service: &str| {
        let selector = format!("involvedObject.name={service}");
        let path = "jsonpath={.items[*].message}";
        cluster.kubectl(&[
            "-n",
            NAMESPACE,
            "get",
            "events",
            "--field-selector",
            &selector,
            "-o",
            path,
        ])
    };
    let (of_chat, of_plain) = (events("chat")?, events("plain")?);
    if of_chat.contains("from 1 to") {
        return Err(format!("a burst started replicas of chat: {of_chat}").into());
    }
    if !of_plain.contains("from 1 to") {
        return Err(format!("plain did not follow its queue: {of_plain}").into());
    }
    wait_for_field(
        cluster,
        NAMESPACE,
        "infd/plain",
        ".status.readyReplicas",
        "1",
        90,
    )?;
    let (chat_cost, plain_cost) = (
        current_cost(cluster, NAMESPACE, "chat")?,
        current_cost(cluster, NAMESPACE, "plain")?,
    );
    println!("learned {chat_cost:.4} USD, by its queue {plain_cost:.4} USD");
    if plain_cost < 1.2 * chat_cost {
        return Err("what was learned saved no money".into());
    }
    delete_services(cluster, NAMESPACE, &["chat", "plain"])
}
