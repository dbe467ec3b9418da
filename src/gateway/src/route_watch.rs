//! Watches InferenceDeployments and EndpointSlices, and keeps the route table current.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use bursar_api::InferenceDeployment;
use bursar_api::names::WORKLOAD_LABEL;
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;

use crate::Error;
use crate::route::{self, RouteTable, ServiceKey};

enum WatchEvent {
    Service(Box<Event<InferenceDeployment>>),
    Slice(Box<Event<EndpointSlice>>),
}

/// The route table, kept current by two watches.
pub(crate) struct RouteWatch {
    events: Pin<Box<dyn Stream<Item = WatchEvent> + Send>>,
    services: EventHandler<InferenceDeployment>,
    slices: EventHandler<EndpointSlice>,
    routes: RouteTable,
    publish: watch::Sender<Arc<RouteTable>>,
}

impl RouteWatch {
    /// An empty table; nothing is watched before [`Self::next`] is called.
    pub(crate) fn new(client: Client) -> Self {
        Self {
            events: events(client).boxed(),
            services: EventHandler::new(
                RouteTable::apply_service,
                RouteTable::delete_service,
                RouteTable::retain_services,
            ),
            slices: EventHandler::new(
                RouteTable::apply_slice,
                RouteTable::delete_slice,
                RouteTable::retain_slices,
            ),
            routes: RouteTable::default(),
            publish: watch::Sender::default(),
        }
    }

    /// Receives every new state of the route table.
    pub(crate) fn routes(&self) -> watch::Receiver<Arc<RouteTable>> {
        self.publish.subscribe()
    }

    /// The route table, once both first lists are complete.
    pub(crate) fn synced(&self) -> Option<&RouteTable> {
        (self.services.synced && self.slices.synced).then_some(&self.routes)
    }

    /// Waits for the next event, applies it and publishes the table.
    ///
    /// # Errors
    /// Fails if a watch ends, which never happens.
    pub(crate) async fn next(&mut self) -> Result<(), Error> {
        let event = self.events.next().await;
        match event.ok_or(Error::Ended("the watch of services and slices"))? {
            WatchEvent::Service(event) => self.services.handle(*event, &mut self.routes),
            WatchEvent::Slice(event) => self.slices.handle(*event, &mut self.routes),
        }
        self.publish.send_replace(Arc::new(self.routes.clone()));
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
        Api::<InferenceDeployment>::all(client.clone()),
        watcher::Config::default(),
    );
    let slices = watcher(
        Api::<EndpointSlice>::all(client),
        watcher::Config::default().labels(WORKLOAD_LABEL),
    );
    let warn = |kind: &'static str| move |error: &watcher::Error| tracing::warn!(kind, %error, "a watch failed; it starts again");
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

/// Applies the events of one kind to the route table.
struct EventHandler<K> {
    apply: fn(&mut RouteTable, &K),
    delete: fn(&mut RouteTable, &K),
    retain: fn(&mut RouteTable, &BTreeSet<ServiceKey>),
    relisted: BTreeSet<ServiceKey>,
    /// The first list is complete.
    synced: bool,
}

impl<K: ResourceExt> EventHandler<K> {
    fn new(
        apply: fn(&mut RouteTable, &K),
        delete: fn(&mut RouteTable, &K),
        retain: fn(&mut RouteTable, &BTreeSet<ServiceKey>),
    ) -> Self {
        Self {
            apply,
            delete,
            retain,
            relisted: BTreeSet::new(),
            synced: false,
        }
    }

    fn handle(&mut self, event: Event<K>, routes: &mut RouteTable) {
        match event {
            Event::Init => self.relisted.clear(),
            Event::InitApply(object) => {
                self.relisted.insert(route::service_key(&object));
                (self.apply)(routes, &object);
            }
            Event::InitDone => {
                (self.retain)(routes, &self.relisted);
                self.synced = true;
            }
            Event::Apply(object) => (self.apply)(routes, &object),
            Event::Delete(object) => (self.delete)(routes, &object),
        }
    }
}
