//! Watches InferenceDeployments, their pods, the EndpointSlices of gateways and NetworkPolicies, and
//! keeps the route table current.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bursar_api::lenient::Lenient;
use bursar_api::names::{GATEWAY_LABEL, KIND_LABEL, SERVING_LABEL, WORKLOAD_LABEL};
use futures::{Stream, StreamExt};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Client;
use kube::runtime::watcher::Event;
use tokio::sync::Notify;

use crate::Error;
use crate::access::directory::Directory;
use crate::route::{RouteTable, ServiceRoutes};
use crate::routed_objects::{RoutedService, ServingPod};
use crate::service_key::{ServiceKey, service_key};
use crate::watch_events::{EventHandler, MAX_EVENTS, watch};

/// NetworkPolicies are listed again no more often than this, because some were left out.
const RELIST_INTERVAL: Duration = Duration::from_secs(60);

enum WatchEvent {
    Service(Box<Event<RoutedService>>),
    Pod(Box<Event<ServingPod>>),
    Slice(Box<Event<Lenient<EndpointSlice>>>),
    NetworkPolicy(Box<Event<Lenient<NetworkPolicy>>>),
}

/// The route table, kept current by four watches.
pub(crate) struct RouteWatch {
    events: Pin<Box<dyn Stream<Item = Vec<WatchEvent>> + Send>>,
    services: EventHandler<RoutedService, RouteTable>,
    /// Services that cannot be read: each is logged once.
    unreadable: BTreeSet<ServiceKey>,
    pods: EventHandler<ServingPod, RouteTable>,
    slices: EventHandler<Lenient<EndpointSlice>, RouteTable>,
    network_policies: EventHandler<Lenient<NetworkPolicy>, RouteTable>,
    /// Asks for a list of all NetworkPolicies.
    relist: Arc<Notify>,
    table: RouteTable,
    routes: ServiceRoutes,
    directory: Directory,
}

impl RouteWatch {
    /// An empty table; nothing is watched before [`Self::next`] is called.
    pub(crate) fn new(client: Client, directory: Directory) -> Self {
        let relist = Arc::new(Notify::new());
        Self {
            events: events(client, Arc::clone(&relist))
                .ready_chunks(MAX_EVENTS)
                .boxed(),
            services: EventHandler::new(
                RouteTable::apply_service,
                RouteTable::delete_service,
                RouteTable::retain_services,
            ),
            unreadable: BTreeSet::new(),
            pods: EventHandler::new(
                RouteTable::apply_pod,
                RouteTable::delete_pod,
                RouteTable::retain_pods,
            ),
            slices: EventHandler::new(
                |table, slice| match slice {
                    Lenient::Readable(slice) => table.apply_slice(slice),
                    // it keeps its last endpoints
                    Lenient::Unreadable(_) => {}
                },
                RouteTable::delete_slice,
                RouteTable::retain_slices,
            ),
            network_policies: EventHandler::new(
                RouteTable::apply_network_policy,
                RouteTable::delete_network_policy,
                RouteTable::retain_network_policies,
            ),
            relist,
            table: RouteTable::default(),
            routes: ServiceRoutes::default(),
            directory,
        }
    }

    /// The routes, which always have the current state of the cluster.
    pub(crate) fn routes(&self) -> ServiceRoutes {
        self.routes.clone()
    }

    /// Whether all first lists are complete.
    pub(crate) fn is_synced(&self) -> bool {
        self.services.synced
            && self.pods.synced
            && self.slices.synced
            && self.network_policies.synced
    }

    /// Assigns ports by the statuses of services; returns whether any has another owner than
    /// before. To be called once all first lists are complete.
    pub(crate) fn assign_ports(&mut self) -> bool {
        self.table.assign_ports()
    }

    /// The service of each port.
    pub(crate) fn ports(&self) -> &BTreeMap<u16, ServiceKey> {
        self.table.ports()
    }

    /// Waits for events, applies all that are there, and publishes what has changed. While a list is
    /// in progress nothing is taken away, and what it has is as new as what events say.
    ///
    /// # Errors
    /// Fails if a watch ends, which never happens.
    pub(crate) async fn next(&mut self) -> Result<(), Error> {
        let events = self.events.next().await;
        for event in events.ok_or(Error::Ended("the watch of services and pods"))? {
            match event {
                WatchEvent::Service(event) => {
                    self.log_unreadable(&event);
                    self.services.handle(*event, &mut self.table);
                }
                WatchEvent::Pod(event) => self.pods.handle(*event, &mut self.table),
                WatchEvent::Slice(event) => self.slices.handle(*event, &mut self.table),
                WatchEvent::NetworkPolicy(event) => {
                    self.network_policies.handle(*event, &mut self.table);
                }
            }
        }
        if self.table.take_relist() {
            self.relist.notify_one();
        }
        if self.table.publish(&self.routes) {
            self.directory.require();
        }
        Ok(())
    }

    fn log_unreadable(&mut self, event: &Event<RoutedService>) {
        let (Event::Apply(object) | Event::InitApply(object)) = event else {
            return;
        };
        let key = service_key(object);
        match object.unreadable() {
            None => drop(self.unreadable.remove(&key)),
            Some(unreadable) if self.unreadable.insert(key.clone()) => {
                let ((namespace, name), field) = (key, &unreadable.fault.field);
                tracing::warn!(
                    namespace,
                    name,
                    field,
                    "an InferenceDeployment cannot be read; others are not affected"
                );
            }
            Some(_) => {}
        }
    }

    /// Applies events until no service's EndpointSlice names the gateway with one of these addresses.
    ///
    /// # Errors
    /// As for [`Self::next`].
    pub(crate) async fn wait_until_unlisted(&mut self, addresses: &[IpAddr]) -> Result<(), Error> {
        while self.table.is_listed(addresses) {
            self.next().await?;
        }
        Ok(())
    }

    /// Applies events for ever.
    ///
    /// # Errors
    /// As for [`Self::next`].
    pub(crate) async fn run(&mut self) -> Result<(), Error> {
        loop {
            self.next().await?;
        }
    }
}

fn events(client: Client, relist: Arc<Notify>) -> impl Stream<Item = WatchEvent> {
    let pods = format!("{KIND_LABEL}=InferenceDeployment,{SERVING_LABEL}=true,{WORKLOAD_LABEL}");
    let services = watch::<RoutedService>(client.clone(), "");
    let pods = watch::<ServingPod>(client.clone(), &pods);
    let slices = watch::<Lenient<EndpointSlice>>(client.clone(), GATEWAY_LABEL);
    let policies = watch_network_policies(client, relist);
    let policies = policies.map(|event| WatchEvent::NetworkPolicy(Box::new(event)));
    let slices = slices.map(|event| WatchEvent::Slice(Box::new(event)));
    futures::stream::select(
        futures::stream::select(
            services.map(|event| WatchEvent::Service(Box::new(event))),
            pods.map(|event| WatchEvent::Pod(Box::new(event))),
        ),
        futures::stream::select(slices, policies),
    )
}

/// The events of all NetworkPolicies; whenever `relist` asks for it, all are listed again.
fn watch_network_policies(
    client: Client,
    relist: Arc<Notify>,
) -> impl Stream<Item = Event<Lenient<NetworkPolicy>>> {
    let watches = futures::stream::repeat_with(move || {
        let relist = Arc::clone(&relist);
        let asked = async move {
            tokio::time::sleep(RELIST_INTERVAL).await;
            relist.notified().await;
        };
        watch::<Lenient<NetworkPolicy>>(client.clone(), "").take_until(Box::pin(asked))
    });
    watches.flatten()
}

#[cfg(test)]
mod tests {
    use bursar_api::InferenceDeployment;
    use bursar_apitest::Server;
    use k8s_openapi::api::core::v1::Pod;
    use kube::Api;
    use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
    use serde_json::{Value, json};

    use super::*;

    const TENANT: &str = "tenant";
    /// No type for ports holds it, and the API server takes it.
    const PORT: u32 = 3_000_000_000;

    fn services(server: &Server) -> Api<DynamicObject> {
        let kind = ApiResource::erase::<InferenceDeployment>(&());
        Api::namespaced_with(server.client(), TENANT, &kind)
    }

    fn service(name: &str, port: u32, max_held: u32) -> DynamicObject {
        let probe = json!({"httpGet": {"path": "/", "port": port}});
        let container = json!({"name": "engine", "livenessProbe": probe});
        let object = json!({
            "apiVersion": "bursar.dev/v1alpha1", "kind": "InferenceDeployment", "metadata": {"name": name},
            "spec": {
                "engine": "vLLM", "maxReplicas": 1, "activation": {"maxHeldRequests": max_held},
                "template": {"spec": {"containers": [container]}},
            },
        });
        serde_json::from_value(object).unwrap()
    }

    async fn create(server: &Server, object: &DynamicObject) {
        let params = PostParams::default();
        services(server).create(&params, object).await.unwrap();
    }

    /// A pod of the service `chat` that is ready.
    async fn create_pod(server: &Server) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "chat-a", "labels": {
                "bursar.dev/kind": "InferenceDeployment", "bursar.dev/workload": "chat", "bursar.dev/serving": "true",
            }},
            "spec": {"containers": [{"name": "engine"}]},
        }))
        .unwrap();
        let pods: Api<Pod> = Api::namespaced(server.client(), TENANT);
        pods.create(&PostParams::default(), &pod).await.unwrap();
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let status =
            json!({"status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": ready}});
        let (written, status) = (PatchParams::default(), Patch::Merge(status));
        pods.patch_status("chat-a", &written, &status)
            .await
            .unwrap();
    }

    async fn change(server: &Server, name: &str, change: Value) {
        let (params, patch) = (PatchParams::default(), Patch::Merge(change));
        services(server).patch(name, &params, &patch).await.unwrap();
    }

    /// Applies events until the route table is complete and has this.
    async fn wait_for(watch: &mut RouteWatch, seen: impl Fn(&RouteTable) -> bool) {
        let reached = async {
            while !(watch.is_synced() && seen(&watch.table)) {
                watch.next().await.unwrap();
            }
        };
        let limit = std::time::Duration::from_secs(20);
        tokio::time::timeout(limit, reached).await.unwrap();
    }

    fn max_held(routes: &RouteTable, name: &str) -> Option<u32> {
        let route = routes.route(&(TENANT.to_owned(), name.to_owned()));
        route.policy.map(|policy| policy.max_held)
    }

    #[tokio::test]
    async fn a_service_that_cannot_be_read_keeps_no_other_from_being_routed() {
        let server = Server::new(&[TENANT]);
        create(&server, &service("bad", PORT, 5)).await;
        create(&server, &service("chat", 80, 7)).await;
        create_pod(&server).await;

        let mut watch = RouteWatch::new(server.client(), Directory::default());
        wait_for(&mut watch, |_| true).await;
        let chat = (TENANT.to_owned(), "chat".to_owned());
        assert_eq!(max_held(&watch.table, "chat"), Some(7));
        assert_eq!(watch.table.route(&chat).ready.len(), 1);
        let bad = (TENANT.to_owned(), "bad".to_owned());
        let policy = watch.table.route(&bad).policy.unwrap();
        assert!(
            policy.refusal(jiff::Timestamp::UNIX_EPOCH).is_some(),
            "it is there, and cannot start"
        );

        // by events: one becomes unreadable and keeps its policy, the other becomes readable
        let port = |port: u32| {
            let probe = json!({"httpGet": {"path": "/", "port": port}});
            let containers = json!([{"name": "engine", "livenessProbe": probe}]);
            json!({"spec": {"activation": {"maxHeldRequests": 9}, "template": {"spec": {"containers": containers}}}})
        };
        change(&server, "chat", port(PORT)).await;
        change(&server, "bad", port(80)).await;
        wait_for(&mut watch, |routes| max_held(routes, "bad") == Some(9)).await;
        assert_eq!(max_held(&watch.table, "chat"), Some(7));
        // by a list: the gateway's watch was interrupted
        server.compact();
        create(&server, &service("third", 80, 3)).await;
        wait_for(&mut watch, |routes| max_held(routes, "third").is_some()).await;
        assert_eq!(max_held(&watch.table, "chat"), Some(7));
        let (params, name) = (kube::api::DeleteParams::default(), "chat");
        services(&server).delete(name, &params).await.unwrap();
        wait_for(&mut watch, |routes| max_held(routes, name).is_none()).await;
    }

    #[tokio::test]
    async fn a_change_of_one_service_wakes_no_request_of_another_and_a_list_without_news_none() {
        let server = Server::new(&[TENANT]);
        create(&server, &service("chat", 80, 7)).await;
        let mut watch = RouteWatch::new(server.client(), Directory::default());
        wait_for(&mut watch, |_| true).await;
        let key = (TENANT.to_owned(), "chat".to_owned());
        let mut chat = watch.routes().subscribe(&key).unwrap();
        chat.mark_unchanged();
        create(&server, &service("other", 80, 3)).await;
        wait_for(&mut watch, |routes| max_held(routes, "other").is_some()).await;
        // the watch is interrupted, and lists anew
        server.compact();
        create(&server, &service("third", 80, 3)).await;
        wait_for(&mut watch, |routes| max_held(routes, "third").is_some()).await;
        assert!(!chat.has_changed().unwrap(), "nothing of it has changed");
        change(
            &server,
            "chat",
            json!({"spec": {"activation": {"maxHeldRequests": 8}}}),
        )
        .await;
        wait_for(&mut watch, |routes| max_held(routes, "chat") == Some(8)).await;
        assert!(chat.has_changed().unwrap());
        let (params, name) = (kube::api::DeleteParams::default(), "chat");
        services(&server).delete(name, &params).await.unwrap();
        wait_for(&mut watch, |routes| max_held(routes, name).is_none()).await;
        assert!(chat.has_changed().is_err(), "it is gone");
    }
}
