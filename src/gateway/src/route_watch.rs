//! Watches InferenceDeployments and EndpointSlices, and keeps the route table current.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::pin::Pin;

use bursar_api::InferenceDeployment;
use bursar_api::lenient::{Lenient, bounded_text};
use bursar_api::names::WORKLOAD_LABEL;
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};

use crate::Error;
use crate::route::{self, RouteTable, ServiceKey, ServiceRoutes};

/// Events that are applied before routes are published.
const MAX_EVENTS: usize = 1_024;

enum WatchEvent {
    Service(Box<Event<Lenient<InferenceDeployment>>>),
    Slice(Box<Event<Lenient<EndpointSlice>>>),
}

/// The route table, kept current by two watches.
pub(crate) struct RouteWatch {
    events: Pin<Box<dyn Stream<Item = Vec<WatchEvent>> + Send>>,
    services: EventHandler<InferenceDeployment>,
    slices: EventHandler<EndpointSlice>,
    table: RouteTable,
    routes: ServiceRoutes,
}

impl RouteWatch {
    /// An empty table; nothing is watched before [`Self::next`] is called.
    pub(crate) fn new(client: Client) -> Self {
        Self {
            events: events(client).ready_chunks(MAX_EVENTS).boxed(),
            services: EventHandler::new(
                RouteTable::apply_service,
                RouteTable::apply_unreadable_service,
                RouteTable::delete_service,
                RouteTable::retain_services,
            ),
            slices: EventHandler::new(
                RouteTable::apply_slice,
                // it keeps its last endpoints
                |_, _| {},
                RouteTable::delete_slice,
                RouteTable::retain_slices,
            ),
            table: RouteTable::default(),
            routes: ServiceRoutes::default(),
        }
    }

    /// The routes, which always have the current state of the cluster.
    pub(crate) fn routes(&self) -> ServiceRoutes {
        self.routes.clone()
    }

    /// Whether both first lists are complete.
    pub(crate) fn is_synced(&self) -> bool {
        self.services.synced && self.slices.synced
    }

    /// The ports of the gateway with this address.
    pub(crate) fn ports(&self, address: IpAddr) -> BTreeMap<u16, ServiceKey> {
        self.table.ports(address)
    }

    /// Whether ports may have changed since this was last asked.
    pub(crate) fn take_ports_changed(&mut self) -> bool {
        self.table.take_ports_changed()
    }

    /// Waits for events, applies all that are there, and publishes what has changed. While a list is
    /// in progress nothing is taken away, and what it has is as new as what events say.
    ///
    /// # Errors
    /// Fails if a watch ends, which never happens.
    pub(crate) async fn next(&mut self) -> Result<(), Error> {
        let events = self.events.next().await;
        for event in events.ok_or(Error::Ended("the watch of services and slices"))? {
            match event {
                WatchEvent::Service(event) => self.services.handle(*event, &mut self.table),
                WatchEvent::Slice(event) => self.slices.handle(*event, &mut self.table),
            }
        }
        self.table.publish(&self.routes);
        Ok(())
    }

    /// Applies events until the gateway with this address has no port any more.
    ///
    /// # Errors
    /// As for [`Self::next`].
    pub(crate) async fn wait_without_ports(&mut self, address: IpAddr) -> Result<(), Error> {
        while !self.ports(address).is_empty() {
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

fn events(client: Client) -> impl Stream<Item = WatchEvent> {
    let services = watcher(
        Api::<Lenient<InferenceDeployment>>::all(client.clone()),
        watcher::Config::default(),
    );
    let slices = watcher(
        Api::<Lenient<EndpointSlice>>::all(client),
        watcher::Config::default().labels(WORKLOAD_LABEL),
    );
    let warn = |kind: &'static str| {
        move |error: &watcher::Error| {
            let error = bounded_text(&error.to_string());
            tracing::warn!(kind, error, "a watch failed; it starts again");
        }
    };
    let services = services
        .default_backoff()
        .inspect_err(warn("inferencedeployments"))
        .filter_map(|event| async { event.ok() });
    let slices = slices
        .default_backoff()
        .inspect_err(warn("endpointslices"))
        .filter_map(|event| async { event.ok() });
    futures::stream::select(
        services.map(|event| WatchEvent::Service(Box::new(event))),
        slices.map(|event| WatchEvent::Slice(Box::new(event))),
    )
}

/// Applies the events of one kind to the route table. An object that cannot be read changes nothing
/// for the others.
struct EventHandler<K> {
    apply: fn(&mut RouteTable, &K),
    apply_unreadable: fn(&mut RouteTable, ServiceKey),
    delete: fn(&mut RouteTable, &ServiceKey),
    retain: fn(&mut RouteTable, &BTreeSet<ServiceKey>),
    relisted: BTreeSet<ServiceKey>,
    /// Objects that cannot be read: each is logged once.
    unreadable: BTreeSet<ServiceKey>,
    /// The first list is complete.
    synced: bool,
}

impl<K: Resource<DynamicType = ()>> EventHandler<K> {
    fn new(
        apply: fn(&mut RouteTable, &K),
        apply_unreadable: fn(&mut RouteTable, ServiceKey),
        delete: fn(&mut RouteTable, &ServiceKey),
        retain: fn(&mut RouteTable, &BTreeSet<ServiceKey>),
    ) -> Self {
        Self {
            apply,
            apply_unreadable,
            delete,
            retain,
            relisted: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            synced: false,
        }
    }

    fn handle(&mut self, event: Event<Lenient<K>>, routes: &mut RouteTable) {
        match event {
            Event::Init => self.relisted.clear(),
            Event::InitApply(object) => {
                self.relisted.insert(route::service_key(&object));
                self.put(object, routes);
            }
            Event::InitDone => {
                (self.retain)(routes, &self.relisted);
                self.unreadable.retain(|key| self.relisted.contains(key));
                self.synced = true;
            }
            Event::Apply(object) => self.put(object, routes),
            Event::Delete(object) => {
                let key = route::service_key(&object);
                self.unreadable.remove(&key);
                (self.delete)(routes, &key);
            }
        }
    }

    fn put(&mut self, object: Lenient<K>, routes: &mut RouteTable) {
        let key = route::service_key(&object);
        match object.into_result() {
            Ok(object) => {
                self.unreadable.remove(&key);
                (self.apply)(routes, &object);
            }
            Err(unreadable) => {
                if self.unreadable.insert(key.clone()) {
                    let (kind, field) = (K::kind(&()), &unreadable.fault.field);
                    let (namespace, name) = &key;
                    tracing::warn!(%kind, namespace, name, field, "an object cannot be read; others are not affected");
                }
                (self.apply_unreadable)(routes, key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bursar_apitest::Server;
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
        let slice = json!({
            "metadata": {"name": "chat-a", "labels": {"bursar.dev/workload": "chat"}}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"name": "http", "port": 8000}],
        });
        let slice: EndpointSlice = serde_json::from_value(slice).unwrap();
        let slices: Api<EndpointSlice> = Api::namespaced(server.client(), TENANT);
        slices.create(&PostParams::default(), &slice).await.unwrap();

        let mut watch = RouteWatch::new(server.client());
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
        let mut watch = RouteWatch::new(server.client());
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
