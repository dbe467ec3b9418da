//! The benchmark of the two growth rules on a real control plane: the demo's trace and bursts, by each rule.

use std::{
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use bursar_client::trace::{self, Arrival};

use crate::{
    Access, Cluster, NodeOptions, Options as ClusterOptions,
    bench_cluster::measure_on,
    image, interrupt, operator,
    scale::table::{Table, percentile, seconds},
    scenario::{client_runtime, current_cost, get_field, wait_for_field, wait_until},
    traffic::{self, Answer},
};

const CLUSTER: &str = "bench-growth";
const IMAGE: &str = "bursar.local/growth:dev";
const NAMESPACE: &str = "growth";
/// Arrivals and engines are so many times as fast as measured, as in the demo.
const SPEEDUP: u32 = 4;
/// Requests of a burst, ...
const BURST: u32 = 12;
/// ... and the tokens of each: one replica answers all of them within some seconds.
const BURST_TOKENS: u32 = 60;
const BURSTS: u32 = 6;
const BURST_PAUSE: Duration = Duration::from_secs(20);
/// A rule that has not learned enough after so many replays never will.
const MOST_REPLAYS: usize = 12;

type Failed = Box<dyn std::error::Error>;

/// What is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// Requests of the demo's trace in each replay.
    pub requests: u32,
    /// How long an engine takes to start.
    pub start: Duration,
}

/// The services, one for each rule.
const RULES: [&str; 2] = ["Target", "Learned"];

/// Boots a cluster, measures, prints a table on standard output, and removes all it made.
///
/// # Errors
/// When a phase fails or a signal ends it. The cluster is stopped then too; after a failure its
/// logs stay.
pub fn run(options: &Options) -> std::result::Result<(), Failed> {
    interrupt::catch()?;
    crate::setup()?;
    progress("building the operator and the engine");
    let image = image::bundle(IMAGE)?;
    progress("booting a control plane with a node of 8 H100");
    let cluster = ClusterOptions {
        nodes: vec![NodeOptions::h100(8)],
        images: vec![image],
        ..ClusterOptions::new(CLUSTER)
    };
    measure_on(&cluster, |cluster| measure(options, cluster))
}

fn progress(what: &str) {
    eprintln!("growth: {what}");
}

fn name(rule: &str) -> String {
    rule.to_lowercase()
}

/// A service as the demo's, that grows by this rule and keeps a replica.
fn manifest(rule: &str, start: Duration) -> String {
    let (name, start) = (name(rule), start.as_millis());
    format!(
        r#"apiVersion: bursar.dev/v1alpha1
kind: InferenceDeployment
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  engine: vLLM
  minReplicas: 1
  maxReplicas: 4
  scaling:
    growth: {rule}
    signals: [{{type: Engine, target: 8}}]
    behavior: {{scaleDown: {{stabilizationWindowSeconds: 10}}}}
  drain: {{timeout: 20s}}
  template:
    spec:
      terminationGracePeriodSeconds: 15
      containers:
        - name: engine
          image: {IMAGE}
          imagePullPolicy: Never
          command: [/bursar-engine]
          args: ["--speedup={SPEEDUP}", "--startup-delay={start}ms"]
          readinessProbe: {{httpGet: {{path: /health, port: 8000}}, periodSeconds: 1}}
          resources: {{limits: {{nvidia.com/gpu: 1}}}}
"#
    )
}

fn measure(options: &Options, cluster: &Cluster) -> std::result::Result<(), Failed> {
    operator::install(cluster, IMAGE, &[])?;
    let namespace =
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n---\n");
    let services = RULES.map(|rule| manifest(rule, options.start));
    cluster.apply(&(namespace + &services.join("---\n")))?;
    let trace = trace::trace(options.requests)?;
    let mut table = Table::new(&[
        "load",
        "growth",
        "requests",
        "first token p50",
        "p95",
        "p99",
        "USD",
        "most replicas",
    ]);
    let mut rows = Vec::new();
    for rule in RULES {
        let service = Service::wait(cluster, rule)?;
        service.learn(&trace)?;
        progress(&format!("the demo's trace by {rule}"));
        let replay = service.observe(replay(service.address, &trace))?;
        progress(&format!("bursts by {rule}"));
        let bursts = service.observe(bursts(service.address))?;
        rows.push(("demo's trace", rule, replay));
        rows.push(("bursts", rule, bursts));
        // what is idle costs nothing while the other one is measured
        cluster.kubectl(&["-n", NAMESPACE, "delete", "infd", &name(rule), "--wait"])?;
    }
    rows.sort_by_key(|(load, ..)| *load != "demo's trace");
    for (load, rule, observed) in rows {
        let mut first_tokens: Vec<f64> = observed.answers.iter().filter_map(first_token).collect();
        first_tokens.sort_by(f64::total_cmp);
        let at = |part| percentile(&first_tokens, part).map_or_else(String::new, seconds);
        table.row(vec![
            load.to_owned(),
            rule.to_owned(),
            first_tokens.len().to_string(),
            at(0.5),
            at(0.95),
            at(0.99),
            format!("{:.4}", observed.cost),
            observed.most_replicas.to_string(),
        ]);
    }
    println!(
        "engine starts in {} s, {} requests of the trace, {BURSTS} bursts of {BURST}\n{table}",
        options.start.as_secs_f64(),
        trace.len()
    );
    Ok(())
}

/// Seconds from sending a request to the first part of its answer.
fn first_token(answer: &Answer) -> Option<f64> {
    Some(answer.first_part?.as_secs_f64())
}

/// What came of a load.
struct Observed {
    answers: Vec<Answer>,
    /// What the service cost meanwhile, until it had one replica again.
    cost: f64,
    most_replicas: usize,
}

/// A service that is measured.
struct Service<'a> {
    cluster: &'a Cluster,
    rule: &'static str,
    address: SocketAddr,
}

impl<'a> Service<'a> {
    /// Waits until it serves with one replica.
    fn wait(cluster: &'a Cluster, rule: &'static str) -> std::result::Result<Self, Failed> {
        // the cluster's DNS takes a moment to know a new Service
        wait_until("the Service to have a name", 30, || {
            Ok(traffic::address(&name(rule), NAMESPACE).is_ok())
        })?;
        let address = traffic::address(&name(rule), NAMESPACE)?;
        let service = Self {
            cluster,
            rule,
            address,
        };
        service.settle()?;
        wait_until("the Service to take connections", 30, || {
            Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
        })?;
        Ok(service)
    }

    /// Waits until one replica is there and ready.
    fn settle(&self) -> std::result::Result<(), Failed> {
        let object = format!("deployment/{}", name(self.rule));
        for path in [
            ".spec.replicas",
            ".status.readyReplicas",
            ".status.replicas",
        ] {
            wait_for_field(self.cluster, NAMESPACE, &object, path, "1", 240)?;
        }
        Ok(())
    }

    /// Replays the trace until the leader says what it has learned. The plain rule gets one replay, so that
    /// both are measured warm.
    fn learn(&self, trace: &[Arrival]) -> std::result::Result<(), Failed> {
        for number in 1..=MOST_REPLAYS {
            interrupt::check()?;
            progress(&format!("warming up {}, replay {number}", self.rule));
            client_runtime()?.block_on(replay(self.address, trace));
            self.settle()?;
            let learned = self.status(".status.learned.requestMilliseconds")?;
            if self.rule == "Target" || !learned.is_empty() {
                return Ok(());
            }
        }
        Err(format!("nothing was learned in {MOST_REPLAYS} replays").into())
    }

    fn status(&self, path: &str) -> std::result::Result<String, Failed> {
        let service = format!("infd/{}", name(self.rule));
        get_field(self.cluster, NAMESPACE, &service, path)
    }

    fn cost(&self) -> std::result::Result<f64, Failed> {
        current_cost(self.cluster, NAMESPACE, &name(self.rule))
    }

    /// Sends a load, and waits until one replica is left.
    fn observe(
        &self,
        load: impl Future<Output = Vec<Answer>>,
    ) -> std::result::Result<Observed, Failed> {
        let before = self.cost()?;
        let runtime = client_runtime()?;
        let (answers, most_replicas) = runtime.block_on(async {
            let mut most = 1;
            let mut load = std::pin::pin!(load);
            loop {
                tokio::select! {
                    answers = &mut load => break (answers, most),
                    () = tokio::time::sleep(Duration::from_secs(2)) => most = most.max(self.pods()),
                }
            }
        });
        self.settle()?;
        Ok(Observed {
            answers,
            cost: self.cost()? - before,
            most_replicas,
        })
    }

    fn pods(&self) -> usize {
        let selector = format!("bursar.dev/workload={}", name(self.rule));
        let pods = [
            "-n", NAMESPACE, "get", "pods", "-l", &selector, "-o", "name",
        ];
        // one that cannot be read counts with the next look
        let listed = self.cluster.kubectl(&pods).unwrap_or_default();
        listed.lines().count()
    }
}

/// Sends the trace, each request at its time.
async fn replay(address: SocketAddr, trace: &[Arrival]) -> Vec<Answer> {
    let began = Instant::now();
    let sent = trace.iter().map(|arrival| async move {
        tokio::time::sleep_until((began + arrival.at(SPEEDUP)).into()).await;
        traffic::stream(address, arrival.prompt, arrival.answer).await
    });
    futures::future::join_all(sent).await
}

async fn bursts(address: SocketAddr) -> Vec<Answer> {
    let mut all = Vec::new();
    for _ in 0..BURSTS {
        let burst = (0..BURST).map(|_| traffic::stream(address, 8, BURST_TOKENS));
        all.extend(futures::future::join_all(burst).await);
        tokio::time::sleep(BURST_PAUSE).await;
    }
    all
}
