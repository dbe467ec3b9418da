//! Whether nodes are made for pods that wait: as the operator says, or as the cluster shows.

use std::time::Duration;

use bursar_core::model::event::Event;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::Api;

use crate::api_calls::{ApiError, with_timeout};
use crate::input::{Input, Inputs};

/// How often the cluster is asked.
const PACE: Duration = Duration::from_mins(1);
/// So often at first, if there is no answer, ...
const FIRST_TRIES: u32 = 3;
/// ... with this wait between two tries.
const FIRST_PACE: Duration = Duration::from_secs(1);
/// The namespace and the name of the ConfigMap that cluster-autoscaler writes, also where a cloud
/// runs it.
const STATUS: (&str, &str) = ("kube-system", "cluster-autoscaler-status");
/// The API group of Karpenter, and of the clouds' services that are built on it.
const KARPENTER: &str = "karpenter.sh";

/// Whether nodes are made for pods that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum NodeAutoscaling {
    /// They are if the cluster shows cluster-autoscaler or Karpenter.
    #[default]
    Auto,
    /// They are.
    Enabled,
    /// They are not.
    Disabled,
}

/// Finds out whether nodes are made for pods that wait, and tells the actor.
pub(crate) struct NodeAutoscalingWatch {
    client: Client,
    inputs: Inputs,
    setting: NodeAutoscaling,
    /// How long a node takes at most until it is ready.
    timeout: SignedDuration,
    /// What the actor was told, if it was told something.
    told: Option<Option<SignedDuration>>,
}

impl NodeAutoscalingWatch {
    /// The actor was told nothing yet, and takes no gang back for want of nodes.
    pub(crate) fn new(
        client: Client,
        inputs: Inputs,
        setting: NodeAutoscaling,
        timeout: Duration,
    ) -> Self {
        Self {
            client,
            inputs,
            setting,
            timeout: SignedDuration::try_from(timeout).unwrap_or(SignedDuration::MAX),
            told: None,
        }
    }

    /// Finds out for the first time: an API server that gives no answer is asked again. If it gives
    /// none, no nodes are taken to be made until it does: gangs do not keep for ever what they hold.
    async fn detect_first(&mut self) {
        for _ in 0..FIRST_TRIES {
            if self.detect().await {
                return;
            }
            tokio::time::sleep(FIRST_PACE).await;
        }
        self.tell(None);
    }

    /// Finds out once. What cannot be found out stays as it was. Returns whether it could.
    async fn detect(&mut self) -> bool {
        let is_enabled = match self.setting {
            NodeAutoscaling::Enabled => true,
            NodeAutoscaling::Disabled => false,
            NodeAutoscaling::Auto => match shows_autoscaler(&self.client).await {
                Ok(shows) => shows,
                Err(error) => {
                    tracing::warn!(%error, "whether nodes are made for pods cannot be found out");
                    return false;
                }
            },
        };
        self.tell(is_enabled.then_some(self.timeout));
        true
    }

    fn tell(&mut self, node_start: Option<SignedDuration>) {
        if self.told == Some(node_start) {
            return;
        }
        self.told = Some(node_start);
        tracing::info!(is_enabled = node_start.is_some(), "node autoscaling");
        // whoever reads it may have ended
        let _ = self.inputs.send(Input::Event(Event::NodeStart(node_start)));
    }

    /// Finds out again and again.
    pub(crate) async fn run(mut self) {
        self.detect_first().await;
        loop {
            tokio::time::sleep(PACE).await;
            self.detect().await;
        }
    }
}

/// Whether the cluster shows a node autoscaler: the status of cluster-autoscaler, or the API of
/// Karpenter. Nodes show none where they are all of pools that are empty now, and labels of a
/// cloud's node pools say nothing of whether these grow.
async fn shows_autoscaler(client: &Client) -> Result<bool, ApiError> {
    let groups = with_timeout("list API groups", client.list_api_groups()).await?;
    if groups.groups.iter().any(|group| group.name == KARPENTER) {
        return Ok(true);
    }
    let (namespace, name) = STATUS;
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let status = config_maps.get_metadata_opt(name);
    let status = with_timeout("get the status of cluster-autoscaler", status).await?;
    Ok(status.is_some())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;
    use tokio::sync::mpsc;

    use super::*;
    use crate::lock::lock;

    /// What a cluster shows: API groups, and the status code for cluster-autoscaler's ConfigMap.
    type Shown = Arc<Mutex<(Vec<&'static str>, u16)>>;

    fn client(shown: Shown) -> Client {
        let service = tower::service_fn(move |request: Request<Body>| {
            let (groups, code) = lock(&shown).clone();
            let (code, body) = match request.uri().path() {
                "/apis" => {
                    let group = |name: &&str| json!({"name": name, "versions": [{"groupVersion": "g/v1", "version": "v1"}]});
                    let groups: Vec<_> = groups.iter().map(group).collect();
                    (200, json!({"kind": "APIGroupList", "groups": groups}))
                }
                "/api/v1/namespaces/kube-system/configmaps/cluster-autoscaler-status"
                    if code == 200 =>
                {
                    let metadata = json!({"name": "cluster-autoscaler-status"});
                    let (kind, version) = ("PartialObjectMetadata", "meta.k8s.io/v1");
                    let object = json!({"kind": kind, "apiVersion": version, "metadata": metadata});
                    (200, object)
                }
                _ => {
                    let reason = if code == 404 { "NotFound" } else { "Forbidden" };
                    let status = json!({"kind": "Status", "status": "Failure", "reason": reason, "code": code});
                    (code, status)
                }
            };
            let body = Body::from(serde_json::to_vec(&body).unwrap());
            let response = Response::builder().status(code).body(body).unwrap();
            async move { Ok::<_, std::convert::Infallible>(response) }
        });
        Client::new(service, "default")
    }

    async fn told(
        setting: NodeAutoscaling,
        answers: &[(&[&'static str], u16)],
    ) -> Vec<Option<i64>> {
        let shown = Shown::default();
        let (inputs, mut received) = mpsc::unbounded_channel();
        let client = client(Arc::clone(&shown));
        let timeout = Duration::from_mins(15);
        let mut watch = NodeAutoscalingWatch::new(client, inputs, setting, timeout);
        for (groups, code) in answers {
            *lock(&shown) = (groups.to_vec(), *code);
            watch.detect().await;
        }
        let mut told = Vec::new();
        while let Ok(Input::Event(Event::NodeStart(start))) = received.try_recv() {
            told.push(start.map(|start| start.as_secs()));
        }
        told
    }

    #[tokio::test]
    async fn either_autoscaler_shows_that_nodes_are_made() {
        use NodeAutoscaling::Auto;
        assert_eq!(told(Auto, &[(&["apps"], 404)]).await, [None]);
        assert_eq!(told(Auto, &[(&["apps"], 200)]).await, [Some(900)]);
        let karpenter: &[&str] = &["apps", "karpenter.sh"];
        assert_eq!(told(Auto, &[(karpenter, 404)]).await, [Some(900)]);
        let installed_and_removed = [(karpenter, 404), (karpenter, 404), (&["apps"], 404)];
        assert_eq!(
            told(Auto, &installed_and_removed).await,
            [Some(900), None],
            "only changes are told"
        );
    }

    #[tokio::test]
    async fn what_cannot_be_found_out_stays_as_it_was() {
        let answers: [(&[&str], u16); 2] = [(&["apps"], 200), (&["apps"], 403)];
        assert_eq!(told(NodeAutoscaling::Auto, &answers).await, [Some(900)]);
    }

    #[tokio::test]
    async fn a_setting_needs_no_answer_of_the_cluster() {
        let refused: [(&[&str], u16); 1] = [(&[], 403)];
        assert_eq!(told(NodeAutoscaling::Enabled, &refused).await, [Some(900)]);
        let shown: [(&[&str], u16); 1] = [(&["karpenter.sh"], 200)];
        assert_eq!(told(NodeAutoscaling::Disabled, &shown).await, [None]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_that_does_not_say_it_is_not_waited_for_longer_than_a_minute() {
        let shown = Arc::new(Mutex::new((vec!["apps"], 403)));
        let (inputs, mut received) = mpsc::unbounded_channel();
        let (client, timeout) = (client(Arc::clone(&shown)), Duration::from_mins(15));
        let watch = NodeAutoscalingWatch::new(client, inputs, NodeAutoscaling::Auto, timeout);
        let watch = tokio::spawn(watch.run());
        let limit = Duration::from_mins(1);
        let told = tokio::time::timeout(limit, received.recv()).await.unwrap();
        assert!(matches!(told, Some(Input::Event(Event::NodeStart(None)))));
        *lock(&shown) = (vec!["apps"], 200);
        let told = tokio::time::timeout(limit * 2, received.recv()).await;
        let is_told = |input| matches!(input, Some(Input::Event(Event::NodeStart(Some(_)))));
        assert!(is_told(told.unwrap()));
        watch.abort();
    }
}
