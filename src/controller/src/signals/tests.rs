//! Signals from manifests to events, and what the API server answers on the way.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bursar_api::InferenceDeployment;
use bursar_core::model::Key;
use bursar_core::model::event::{Event, Measurement};
use bursar_core::scaling::Milli;
use bursar_signals::polls::{POLL_LIMITS, Polls, ReadSignal, SignalId};
use jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use kube::runtime::watcher;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::SignalReads;
use super::external;
use super::readings::SignalReadings;
use super::secrets::Secrets;
use super::source::Source;
use super::targets::SignalTargets;
use crate::input::Input;
use crate::lock::lock;

/// A client of an API server that gives one answer to all requests, whose paths it notes.
fn answering(status: u16, body: &Value) -> (Client, Arc<Mutex<Vec<String>>>) {
    let (seen, body) = (Arc::<Mutex<Vec<String>>>::default(), body.to_string());
    let noted = Arc::clone(&seen);
    let service = tower::service_fn(move |request: http::Request<Body>| {
        lock(&noted).push(request.uri().to_string());
        let body = Body::from(body.clone().into_bytes());
        let answer = http::Response::builder().status(status).body(body);
        async move { answer }
    });
    (Client::new(service, "default"), seen)
}

fn failure(code: u16, reason: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": reason,
    })
}

#[tokio::test]
async fn an_external_metric_is_asked_for_in_the_namespace_of_its_service_and_its_values_are_added()
{
    let list = json!({
        "kind": "ExternalMetricValueList", "apiVersion": "external.metrics.k8s.io/v1beta1", "metadata": {},
        "items": [
            {"metricName": "s0-jobs", "timestamp": "2026-11-28T20:00:00Z", "value": "7"},
            {"metricName": "s0-jobs", "timestamp": "2026-11-28T20:00:00Z", "value": "500m"},
        ],
    });
    let (client, seen) = answering(200, &list);
    let read = external::read(&client, "team", "s0-jobs", "app=a b").await;
    assert_eq!(read, Ok(7_500));
    let path =
        "/apis/external.metrics.k8s.io/v1beta1/namespaces/team/s0%2Djobs?labelSelector=app%3Da%20b";
    assert_eq!(*lock(&seen), [path]);
}

#[tokio::test]
async fn a_metric_that_nobody_serves_is_unknown_and_its_error_says_what_is_missing() {
    let (client, _) = answering(404, &failure(404, "NotFound"));
    let read = external::read(&client, "team", "jobs", "").await;
    let why = read.unwrap_err();
    assert!(why.contains("has no metric jobs"), "{why}");
}

fn secret() -> Value {
    json!({
        "kind": "Secret", "apiVersion": "v1",
        "metadata": {"name": "login", "labels": {"bursar.dev/signal-credentials": "true"}},
        // s3cret
        "data": {"password": "czNjcmV0"},
    })
}

#[tokio::test(start_paused = true)]
async fn a_secret_is_kept_for_a_minute_and_asked_for_again_once_a_server_refuses_it() {
    let (client, seen) = answering(200, &secret());
    let secrets = Secrets::new(client);
    for _ in 0..3 {
        let read = secrets.get("team", "login").await.unwrap();
        assert_eq!(read.password.as_deref(), Some("s3cret"));
    }
    let asked = lock(&seen).clone();
    assert!(
        asked.len() == 1 && asked[0].starts_with("/api/v1/namespaces/team/secrets/login"),
        "{asked:?}"
    );
    secrets.refused("team", "login");
    secrets.get("team", "login").await.unwrap();
    assert_eq!(lock(&seen).len(), 1, "it was read just now");
    tokio::time::sleep(Duration::from_secs(5)).await;
    secrets.refused("team", "login");
    secrets.get("team", "login").await.unwrap();
    assert_eq!(lock(&seen).len(), 2);
    tokio::time::sleep(Duration::from_secs(61)).await;
    secrets.get("team", "login").await.unwrap();
    assert_eq!(lock(&seen).len(), 3);
}

#[tokio::test]
async fn a_secret_that_may_not_be_read_says_who_has_to_let_it_be() {
    let (client, _) = answering(403, &failure(403, "Forbidden"));
    let why = Secrets::new(client).get("team", "login").await.unwrap_err();
    assert!(
        why.contains("bind the ClusterRole bursar-signal-credentials"),
        "{why}"
    );
}

/// Every list has as many elements as its key is long.
#[derive(Clone)]
struct Lists;

impl ReadSignal for Lists {
    type Source = Source;

    async fn read(&self, _: &SignalId, source: &Source) -> Result<u64, String> {
        match source {
            Source::Invalid(why) => Err(why.clone()),
            Source::External { metric, .. } => Ok(metric.len() as u64 * 1000),
            Source::Server { .. } => Err("no server".to_owned()),
        }
    }
}

fn service(signals: Value) -> InferenceDeployment {
    serde_json::from_value(json!({
        "apiVersion": "bursar.dev/v1alpha1", "kind": "InferenceDeployment",
        "metadata": {"name": "work", "namespace": "team"},
        "spec": {
            "engine": "None", "maxReplicas": 3, "scaling": {"signals": signals},
            "template": {"spec": {"containers": [{"name": "worker", "image": "worker"}]}},
        },
    }))
    .unwrap()
}

fn external(metric: &str) -> Value {
    json!([{"type": "External", "name": "jobs", "target": 5, "external": {"metricName": metric}}])
}

struct Stage {
    targets: Arc<SignalTargets>,
    readings: SignalReadings,
    inputs: mpsc::UnboundedReceiver<Input>,
    _task: AbortOnDropHandle<()>,
}

impl Stage {
    fn new() -> Self {
        let (polled, polls) = Polls::new(Lists, POLL_LIMITS);
        let (inputs, received) = mpsc::unbounded_channel();
        let readings = SignalReadings::default();
        let targets = SignalTargets::new(polled, readings.clone(), inputs.clone(), None);
        let targets = Arc::new(targets);
        let reads = SignalReads {
            targets: Arc::clone(&targets),
            readings: readings.clone(),
            inputs,
        };
        let task = tokio::spawn(reads.run(polls, || Timestamp::UNIX_EPOCH));
        Self {
            targets,
            readings,
            inputs: received,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// What the model was told of the signal since the last call.
    async fn told(&mut self) -> Vec<Option<Measurement>> {
        tokio::time::sleep(Duration::from_secs(20)).await;
        let mut told = Vec::new();
        while let Ok(input) = self.inputs.try_recv() {
            match input {
                Input::Event(Event::Signal(key, name, change)) => {
                    assert_eq!((key, &*name), (Key::new("team", "work"), "jobs"));
                    told.push(change);
                }
                // the status shows the error
                Input::Status(_) => {}
                _ => panic!("a signal is told as something else"),
            }
        }
        told
    }
}

#[tokio::test(start_paused = true)]
async fn the_model_is_told_of_a_value_once_and_of_an_edited_signal_as_of_a_new_one() {
    let mut stage = Stage::new();
    let value = |milli| Some(Measurement::Value(Milli(milli)));
    let apply = |metric| watcher::Event::Apply(service(external(metric)));
    stage.targets.on_service(&apply("abc"));
    assert_eq!(
        stage.told().await,
        [value(3_000)],
        "though it was read four times"
    );
    stage.targets.on_service(&apply("abc"));
    assert_eq!(stage.told().await, [], "nothing of it is new");
    stage.targets.on_service(&apply("abcde"));
    assert_eq!(stage.told().await, [None, value(5_000)]);
    let key = Key::new("team", "work");
    let read = stage.readings.get(&key, "jobs").value;
    assert_eq!(read, Some((Milli(5_000), Timestamp::UNIX_EPOCH)));
    stage
        .targets
        .on_service(&watcher::Event::Delete(service(external("abcde"))));
    assert_eq!(stage.told().await, [None]);
    assert_eq!(stage.readings.get(&key, "jobs"), Default::default());
}

#[tokio::test(start_paused = true)]
async fn what_a_new_list_lacks_is_read_no_more() {
    let mut stage = Stage::new();
    stage
        .targets
        .on_service(&watcher::Event::Apply(service(external("abc"))));
    stage.told().await;
    for event in [watcher::Event::Init, watcher::Event::InitDone] {
        stage.targets.on_service(&event);
    }
    assert_eq!(stage.told().await, [None]);
}

#[tokio::test(start_paused = true)]
async fn a_query_that_cannot_be_read_is_unknown_with_its_fault() {
    let mut stage = Stage::new();
    let signal = json!([{
        "type": "Prometheus", "name": "jobs", "target": 5,
        "prometheus": {"url": "http://prometheus:9090", "query": "sum("},
    }]);
    stage
        .targets
        .on_service(&watcher::Event::Apply(service(signal)));
    let told = stage.told().await;
    assert!(matches!(&*told, [Some(Measurement::Failed(_))]), "{told:?}");
}
