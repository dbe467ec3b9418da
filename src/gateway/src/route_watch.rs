//! Follows services and slices into the index, for as long as the gateway lives.

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
use crate::route::{self, Key, Routes};

enum Change {
    Service(Box<Event<InferenceDeployment>>),
    Slice(Box<Event<EndpointSlice>>),
}

/// The index, kept as the cluster is.
pub(crate) struct Follower {
    changes: Pin<Box<dyn Stream<Item = Change> + Send>>,
    services: Feed<InferenceDeployment>,
    slices: Feed<EndpointSlice>,
    index: Routes,
    publish: watch::Sender<Arc<Routes>>,
}

impl Follower {
    /// Nothing is known yet.
    pub(crate) fn new(client: Client) -> Self {
        Self {
            changes: changes(client).boxed(),
            services: Feed::new(
                Routes::apply_service,
                Routes::delete_service,
                Routes::retain_services,
            ),
            slices: Feed::new(
                Routes::apply_slice,
                Routes::delete_slice,
                Routes::retain_slices,
            ),
            index: Routes::default(),
            publish: watch::Sender::default(),
        }
    }

    /// The index as it is published.
    pub(crate) fn routes(&self) -> watch::Receiver<Arc<Routes>> {
        self.publish.subscribe()
    }

    /// The index, once both first lists are complete.
    pub(crate) fn complete(&self) -> Option<&Routes> {
        (self.services.synced && self.slices.synced).then_some(&self.index)
    }

    /// Takes and publishes the next change.
    ///
    /// # Errors
    /// When the watches end, which they never do.
    pub(crate) async fn next(&mut self) -> Result<(), Error> {
        let change = self.changes.next().await;
        match change.ok_or(Error::Ended("the watch of services and slices"))? {
            Change::Service(event) => self.services.take(*event, &mut self.index),
            Change::Slice(event) => self.slices.take(*event, &mut self.index),
        }
        self.publish.send_replace(Arc::new(self.index.clone()));
        Ok(())
    }

    /// Takes changes for ever.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub(crate) async fn run(&mut self) -> Result<(), Error> {
        loop {
            self.next().await?;
        }
    }
}

fn changes(client: Client) -> impl Stream<Item = Change> {
    let services = watcher(
        Api::<InferenceDeployment>::all(client.clone()),
        watcher::Config::default(),
    );
    let slices = watcher(
        Api::<EndpointSlice>::all(client),
        watcher::Config::default().labels(WORKLOAD_LABEL),
    );
    let warn =
        |kind: &'static str| move |error: &watcher::Error| tracing::warn!(kind, %error, "watch");
    let services = services
        .default_backoff()
        .inspect_err(warn("inferencedeployments"))
        .filter_map(|event| async { event.ok() });
    let slices = slices
        .default_backoff()
        .inspect_err(warn("endpointslices"))
        .filter_map(|event| async { event.ok() });
    futures::stream::select(
        services.map(|event| Change::Service(Box::new(event))),
        slices.map(|event| Change::Slice(Box::new(event))),
    )
}

/// How the events of one kind go into the index.
struct Feed<K> {
    apply: fn(&mut Routes, &K),
    delete: fn(&mut Routes, &K),
    retain: fn(&mut Routes, &BTreeSet<Key>),
    listed: BTreeSet<Key>,
    /// The first list is complete.
    synced: bool,
}

impl<K: ResourceExt> Feed<K> {
    fn new(
        apply: fn(&mut Routes, &K),
        delete: fn(&mut Routes, &K),
        retain: fn(&mut Routes, &BTreeSet<Key>),
    ) -> Self {
        Self {
            apply,
            delete,
            retain,
            listed: BTreeSet::new(),
            synced: false,
        }
    }

    fn take(&mut self, event: Event<K>, index: &mut Routes) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => {
                self.listed.insert(route::key(&object));
                (self.apply)(index, &object);
            }
            Event::InitDone => {
                (self.retain)(index, &self.listed);
                self.synced = true;
            }
            Event::Apply(object) => (self.apply)(index, &object),
            Event::Delete(object) => (self.delete)(index, &object),
        }
    }
}
