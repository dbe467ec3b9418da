//! What the cluster looks like, twice a second: the leader's last decision, and the objects.

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

/// One look.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    /// What became of the requests.
    pub(super) tally: Tally,
    /// Requests waiting, running and held; `None` if unknown.
    pub(super) queue: Option<u64>,
    /// Of those, held by gateways.
    pub(super) held: u64,
    /// Replicas that the Deployment asks for.
    pub(super) replicas: u64,
    /// Replicas that take requests.
    pub(super) ready: u64,
    /// Replicas that the demand asks for.
    pub(super) desired: u64,
    /// Replicas that the budget leaves.
    pub(super) allowed: u64,
    /// Pods of the service that have not gone.
    pub(super) pods: usize,
    /// OpenAI's code of what a request gets that may wake no replica.
    pub(super) refusal: Option<String>,
    /// The budget's, live.
    pub(super) spent: f64,
    /// What stopping everything would cost now.
    pub(super) reserve: f64,
    /// The budget's.
    pub(super) limit: String,
    /// Money an hour.
    pub(super) rate: f64,
    /// Of one replica.
    pub(super) replica_rate: f64,
    /// Whether the budget is spent.
    pub(super) exhausted: bool,
    /// Phase of the training job.
    pub(super) training: String,
    /// Its workers that run.
    pub(super) workers: u64,
    /// Gateways that stand in for the service while no replica is ready.
    pub(super) gateways: usize,
    /// The service's money an hour and total, as its status says.
    pub(super) chat_rate: String,
    /// See `chat_rate`.
    pub(super) chat_total: String,
    /// ISO 4217 code.
    pub(super) currency: String,
    /// Seconds that the service stood at zero since the demo applied it.
    pub(super) at_zero: f64,
    /// Why something of this could not be read.
    pub(super) error: Option<String>,
}

/// Looks until it is dropped.
pub(super) struct Sampler {
    samples: watch::Receiver<Sample>,
    task: JoinHandle<()>,
}

impl Sampler {
    /// Begins to look.
    pub(super) fn start(client: Client, load: LoadGenerator) -> Self {
        let (sender, samples) = watch::channel(Sample::default());
        let task = tokio::spawn(async move {
            let mut last = Instant::now();
            loop {
                let before = sender.borrow().clone();
                let mut sample = take_sample(&client, &load, before).await;
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

    /// The last look.
    pub(super) fn last(&self) -> Sample {
        self.samples.borrow().clone()
    }

    /// For those who want to see every look.
    pub(super) fn subscribe(&self) -> watch::Receiver<Sample> {
        self.samples.clone()
    }

    /// Waits for a look that is as asked for, and returns how long that took.
    ///
    /// # Errors
    /// [`Error::Slow`] with what was awaited and the last look.
    pub(super) async fn until(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut(&Sample) -> bool,
    ) -> Result<Duration> {
        let began = Instant::now();
        let mut samples = self.samples.clone();
        // what was seen before the caller acted says nothing
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

/// A look; what cannot be read stays as it was, and `error` says so.
async fn take_sample(client: &Client, load: &LoadGenerator, before: Sample) -> Sample {
    let mut sample = Sample {
        error: None,
        ..before
    };
    let mut errors = Vec::new();
    let read = async {
        if let Err(error) = read_decision(client, &mut sample).await {
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

/// Statuses are written sparingly; the leader answers what it knows now.
async fn read_decision(
    client: &Client,
    sample: &mut Sample,
) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), operator::NAMESPACE);
    let lease = leases.get("bursar-controller").await?;
    let leader = lease
        .spec
        .and_then(|spec| spec.holder_identity)
        .ok_or("there is no leader")?;
    let path = format!(
        "/api/v1/namespaces/{}/pods/{leader}:8080/proxy/explain/{NAMESPACE}",
        operator::NAMESPACE
    );
    let text = client
        .request_text(http::Request::get(path).body(Vec::new())?)
        .await?;
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

/// For a view: the ledger itself never uses floating point.
fn amount(value: &Value) -> f64 {
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or_default()
}
