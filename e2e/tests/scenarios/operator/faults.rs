//! What goes wrong: controllers that die or stay away, and services that cannot run.

use std::{
    env,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bursar_e2e::{Access, Cluster, operator, runner::ScenarioResult, traffic};

use bursar_e2e::scenario::{
    self, client_runtime, condition_reason, deploy_service, expect_all_ok, get_field,
    kill_controllers, scale_controllers, service_manifest, wait_for_field, wait_for_zero,
    wait_until, with_min_replicas,
};

const OUTAGE: Duration = Duration::from_secs(120);
const DEATHS: usize = 10;

/// Random numbers that a seed repeats: SplitMix64, <https://doi.org/10.1145/2714064.2660195>.
struct Random(u64);

impl Random {
    /// `$BURSAR_SEED`, else the time.
    fn seeded() -> Self {
        let given = env::var("BURSAR_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let time = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs())
        };
        let seed = given.unwrap_or_else(time);
        println!("(BURSAR_SEED={seed} repeats its moments)");
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// SIGKILL to both controllers at random moments, while traffic makes replicas come and go. That the money is right is for the
/// scenario that compares the ledger with the audit log.
pub(crate) fn ten_deaths(cluster: &Cluster) -> ScenarioResult {
    let address = deploy_service(cluster, "deaths", r#""--speedup", "20""#, "2s")?;
    let mut random = Random::seeded();
    let gaps: Vec<u64> = (0..10).map(|_| 4000 + random.below(6000)).collect();
    let traffic = std::thread::spawn(move || {
        client_runtime().map(|runtime| {
            runtime.block_on(async {
                let mut answers = Vec::new();
                for gap in gaps {
                    answers
                        .extend(traffic::burst(address, 24, Duration::from_millis(20), 60).await);
                    tokio::time::sleep(Duration::from_millis(gap)).await;
                }
                answers
            })
        })
    });
    for _ in 0..DEATHS {
        std::thread::sleep(Duration::from_millis(random.below(8000)));
        wait_until("both controllers to run, and to be killed", 60, || {
            Ok(kill_controllers(cluster)? >= 2)
        })?;
        // new pods start at once; killed containers of old ones wait longer each time
        let pods = [
            "delete",
            "pods",
            "-l",
            "app.kubernetes.io/component=controller",
            "--wait=false",
            "--grace-period=1",
        ];
        cluster.kubectl(&[&["-n", operator::NAMESPACE], &pods[..]].concat())?;
    }
    expect_all_ok(&traffic.join().map_err(|_| "the clients ended")??)?;
    wait_for_zero(cluster, "deaths")
}

pub(crate) fn two_minutes_down(cluster: &Cluster) -> ScenarioResult {
    let address = deploy_service(cluster, "outage", r#""--speedup", "20""#, "4s")?;
    // one that ends while nobody looks
    cluster.apply(&with_min_replicas(
        1,
        &service_manifest("unseen", r#""--speedup", "20""#, "1h"),
    ))?;
    cluster.kubectl(&[
        "-n",
        "outage",
        "patch",
        "infd",
        "chat",
        "--type=merge",
        "-p",
        r#"{"spec":{"activation":{"holdTimeout":"300s"}}}"#,
    ])?;
    wait_for_field(
        cluster,
        "unseen",
        "infd/chat",
        ".status.readyReplicas",
        "1",
        60,
    )?;
    let killed = Instant::now();
    if kill_controllers(cluster)? < 2 {
        return Err("there were no two controllers to kill".into());
    }
    scale_controllers(cluster, 0)?;
    cluster.kubectl(&["-n", "unseen", "delete", "pod", "--all", "--wait=false"])?;
    let held = std::thread::spawn(move || {
        client_runtime()
            .map(|runtime| runtime.block_on(traffic::burst(address, 10, Duration::ZERO, 4)))
    });
    wait_until("the pod to end while the controllers are down", 60, || {
        Ok(
            get_field(cluster, "unseen", "pods", ".items[*].status.phase")?
                .split(' ')
                .any(|phase| matches!(phase, "Failed" | "Succeeded")),
        )
    })?;
    std::thread::sleep(OUTAGE.saturating_sub(killed.elapsed()));
    scale_controllers(cluster, 2)?;
    expect_all_ok(&held.join().map_err(|_| "the clients ended")??)?;
    cluster.kubectl(&["-n", "unseen", "delete", "infd", "chat"])?;
    wait_for_field(cluster, "unseen", "pods", ".items[*].metadata.name", "", 60)?;
    wait_for_zero(cluster, "outage")
}

pub(crate) fn trouble(cluster: &Cluster) -> ScenarioResult {
    deploy_service(cluster, "trouble", r#""--speedup", "20""#, "1h")?;
    let named =
        |manifest: String, name: &str| manifest.replace("name: chat", &format!("name: {name}"));
    let base = || {
        with_min_replicas(
            1,
            &service_manifest("trouble", r#""--speedup", "20""#, "1h"),
        )
    };
    // an image that is not there, metrics that nobody serves, GPUs that no list prices
    cluster.apply(&named(base(), "image").replace("engine:dev", "none:dev"))?;
    let deaf = base()
        .replace(
            r#"args: ["--speedup", "20"]"#,
            r#"args: ["--speedup", "20", "--port", "8001"]"#,
        )
        .replace("path: /health, port: 8000", "path: /health, port: 8001");
    cluster.apply(&named(deaf, "deaf"))?;
    cluster.apply(&scenario::budget_manifest("trouble", "100", ""))?;
    cluster.apply(&named(base(), "priceless").replace("nvidia.com/gpu", "gpu.intel.com/xe"))?;
    wait_for_field(
        cluster,
        "trouble",
        "infd/image",
        &condition_reason("PodsHealthy"),
        "PodStuck",
        60,
    )?;
    wait_for_field(
        cluster,
        "trouble",
        "infd/deaf",
        &condition_reason("SignalsAvailable"),
        "SignalUnknown",
        60,
    )?;
    wait_for_field(
        cluster,
        "trouble",
        "infd/priceless",
        &condition_reason("Priced"),
        "PriceUnknown",
        30,
    )?;
    wait_for_field(
        cluster,
        "trouble",
        "infd/priceless",
        ".status.limitedBy",
        "PriceUnknown",
        10,
    )?;
    for (object, event) in [
        ("image", "PodStuck"),
        ("deaf", "SignalUnknown"),
        ("priceless", "PriceUnknown"),
    ] {
        wait_until(&format!("an Event {event} on {object}"), 20, || {
            let events = cluster.kubectl(&[
                "-n",
                "trouble",
                "get",
                "events",
                "--field-selector",
                &format!("involvedObject.name={object},reason={event}"),
                "-o",
                "name",
            ])?;
            Ok(!events.is_empty())
        })?;
    }
    // its neighbour works
    let address = traffic::address("chat", "trouble")?;
    expect_all_ok(&client_runtime()?.block_on(traffic::burst(address, 3, Duration::ZERO, 4)))?;
    cluster.kubectl(&["-n", "trouble", "delete", "infd", "--all"])?;
    wait_for_field(
        cluster,
        "trouble",
        "pods",
        ".items[*].metadata.name",
        "",
        90,
    )
}
