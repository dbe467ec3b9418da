//! Samples the cluster twice a second: the leader's last decision, the objects, and the load
//! generator's counts.

use std::time::{Duration, Instant};

use k8s_openapi::api::{apps::v1::Deployment, coordination::v1::Lease, core::v1::Pod};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use serde_json::Value;
use tokio::{sync::watch, task::JoinHandle};

use bursar_client::Tally;

use super::{load_generator::LoadGenerator, manifests::NAMESPACE};
use crate::{Error, Result, operator};

const INTERVAL: Duration = Duration::from_millis(500);
/// A call that takes longer counts as failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The state of the cluster at one time.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    /// The load generator's counts.
    pub(super) tally: Tally,
    /// Requests waiting, running and held; `None` if unknown.
    pub(super) queue: Option<u64>,
    /// Requests held by gateways; `queue` contains them.
    pub(super) held: u64,
    /// The Deployment's `spec.replicas`.
    pub(super) replicas: u64,
    /// Replicas that are ready.
    pub(super) ready: u64,
    /// Replicas that the demand calls for.
    pub(super) desired: u64,
    /// Replicas that the budget allows.
    pub(super) allowed: u64,
    /// Pods of the service, those that terminate included.
    pub(super) pods: usize,
    /// OpenAI's error code with which a request is refused that may not wake a replica.
    pub(super) refusal: Option<String>,
    /// Money that the budget's workloads have spent.
    pub(super) spent: f64,
    /// Money that stopping everything would cost now.
    pub(super) reserve: f64,
    /// The budget's limit; empty until it is known.
    pub(super) limit: String,
    /// Money an hour that the budget's workloads cost.
    pub(super) rate: f64,
    /// Money an hour that one replica costs.
    pub(super) replica_rate: f64,
    /// Whether the budget is spent.
    pub(super) exhausted: bool,
    /// Phase of the training job.
    pub(super) training: String,
    /// Workers of the training job that are ready.
    pub(super) workers: u64,
    /// Gateways that are endpoints of the service while no replica is ready.
    pub(super) gateways: usize,
    /// The service's money an hour, as its status says.
    pub(super) chat_rate: String,
    /// The service's money in total, as its status says.
    pub(super) chat_total: String,
    /// ISO 4217 code.
    pub(super) currency: String,
    /// Seconds without a pod of the service since it was applied.
    pub(super) at_zero: f64,
    /// Why a part of the sample could not be read and has its old value.
    pub(super) error: Option<String>,
}

/// Takes samples until it is dropped.
pub(super) struct Sampler {
    samples: watch::Receiver<Sample>,
    task: JoinHandle<()>,
}

impl Sampler {
    /// Begins to take samples. The token's user may get explanations of the demo's namespace.
    pub(super) fn start(client: Client, token: String, load: LoadGenerator) -> Self {
        let (sender, samples) = watch::channel(Sample::default());
        let task = tokio::spawn(async move {
            let mut last = Instant::now();
            loop {
                let before = sender.borrow().clone();
                let mut sample = take_sample(&client, &token, &load, before).await;
                let now = Instant::now();
                if sample.pods == 0 && sample.error.is_none() {
                    sample.at_zero += now.duration_since(last).as_secs_f64();
                }
                last = now;
                if sender.send(sample).is_err() {
                    return;
                }
                tokio::time::sleep(INTERVAL).await;
            }
        });
        Self { samples, task }
    }

    /// The last sample.
    pub(super) fn last(&self) -> Sample {
        self.samples.borrow().clone()
    }

    /// Receives every sample.
    pub(super) fn subscribe(&self) -> watch::Receiver<Sample> {
        self.samples.clone()
    }

    /// Waits for a sample that satisfies the condition, and returns how long that took.
    ///
    /// # Errors
    /// [`Error::Slow`] with `what` and the last sample.
    pub(super) async fn until(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut(&Sample) -> bool,
    ) -> Result<Duration> {
        let began = Instant::now();
        let mut samples = self.samples.clone();
        // a sample from before the caller acted says nothing about the action
        samples.mark_unchanged();
        let seen = async {
            loop {
                if samples.changed().await.is_err() {
                    return false;
                }
                let sample = samples.borrow_and_update();
                if sample.error.is_none() && condition(&sample) {
                    return true;
                }
            }
        };
        match tokio::time::timeout(limit, seen).await {
            Ok(true) => Ok(began.elapsed()),
            _ => Err(Error::Slow {
                what: format!("waiting for {what}"),
                limit,
                tail: format!("{:#?}", self.last()),
            }),
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Takes a sample. A part that cannot be read keeps its old value, and `error` says why.
async fn take_sample(client: &Client, token: &str, load: &LoadGenerator, before: Sample) -> Sample {
    let mut sample = Sample {
        error: None,
        ..before
    };
    let mut errors = Vec::new();
    let read = async {
        if let Err(error) = read_decision(client, token, &mut sample).await {
            errors.push(format!("the leader's decision: {error}"));
        }
        if let Err(error) = read_objects(client, &mut sample).await {
            errors.push(format!("the objects: {error}"));
        }
    };
    let read = tokio::time::timeout(CALL_TIMEOUT, read);
    // the load generator bounds its calls itself
    let (read, tally) = futures::join!(read, load.tally());
    if let Ok(tally) = tally {
        sample.tally = tally;
    }
    if read.is_err() {
        errors.push(format!(
            "the API server took longer than {} s",
            CALL_TIMEOUT.as_secs()
        ));
    }
    sample.error = (!errors.is_empty()).then(|| errors.join("; "));
    sample
}

/// Asks the leader: statuses are written less often than it decides.
async fn read_decision(
    client: &Client,
    token: &str,
    sample: &mut Sample,
) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), operator::NAMESPACE);
    let lease = leases.get("bursar-controller").await?;
    let leader = lease
        .spec
        .and_then(|spec| spec.holder_identity)
        .ok_or("there is no leader")?;
    let path = format!("/explain/{NAMESPACE}");
    let text = operator::get_secure(client, &leader, &path, token).await?;
    let decision: Value = serde_json::from_str(&text)?;
    let service = &decision["services"][0];
    sample.queue = service["queueDepth"].as_u64();
    sample.held = service["held"].as_u64().unwrap_or_default();
    sample.desired = service["desired"].as_u64().unwrap_or_default();
    sample.allowed = service["allowed"].as_u64().unwrap_or_default();
    let budget = &decision["budgets"][0];
    sample.spent = amount(&budget["spent"]);
    sample.reserve = amount(&budget["reserve"]);
    sample.limit = budget["limit"].as_str().unwrap_or_default().into();
    sample.rate = amount(&budget["ratePerHour"]);
    sample.exhausted = budget["exhausted"].as_bool().unwrap_or_default();
    let rate = amount(&service["replicaRatePerHour"]);
    if rate > 0.0 {
        sample.replica_rate = rate;
    }
    Ok(())
}

async fn read_objects(
    client: &Client,
    sample: &mut Sample,
) -> std::result::Result<(), kube::Error> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    if let Some(deployment) = deployments.get_opt("chat").await? {
        let count = |number: Option<i32>| number.and_then(|number| u64::try_from(number).ok());
        let status = deployment.status.unwrap_or_default();
        sample.ready = count(status.ready_replicas).unwrap_or_default();
        sample.replicas = count(deployment.spec.replicas).unwrap_or_default();
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let chat_pods = ListParams::default().labels("bursar.dev/workload=chat");
    sample.pods = pods.list_metadata(&chat_pods).await?.items.len();
    let slices: Api<k8s_openapi::api::discovery::v1::EndpointSlice> =
        Api::namespaced(client.clone(), NAMESPACE);
    sample.gateways = slices
        .get_opt("chat-bursar-gateway")
        .await?
        .map_or(0, |slice| slice.endpoints.into_iter().flatten().count());
    if let Some(chat) = bursar_api(client, "InferenceDeployment")
        .get_opt("chat")
        .await?
    {
        let status = &chat.data["status"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        sample.refusal = status["activation"]["refusal"]["code"]
            .as_str()
            .map(Into::into);
        sample.chat_rate = text(&status["spend"]["ratePerHour"]);
        sample.chat_total = text(&status["spend"]["total"]);
        sample.currency = text(&status["spend"]["currency"]);
    }
    if let Some(train) = bursar_api(client, "TrainingJob").get_opt("train").await? {
        let phase = &train.data["status"]["phase"];
        sample.training = phase.as_str().unwrap_or("Queued").into();
        sample.workers = train.data["status"]["workers"]["ready"]
            .as_u64()
            .unwrap_or_default();
    }
    Ok(())
}

fn bursar_api(client: &Client, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("bursar.dev", "v1alpha1", kind));
    Api::namespaced_with(client.clone(), NAMESPACE, &resource)
}

/// An amount of money for display; accounting never uses floating point.
fn amount(value: &Value) -> f64 {
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or_default()
}
