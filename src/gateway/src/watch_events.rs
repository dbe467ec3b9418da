//! Watches of all objects of a kind, and how their events reach a table.

use std::collections::BTreeSet;
use std::fmt::Debug;

use bursar_api::lenient::bounded_text;
use futures::{Stream, StreamExt, TryStreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use crate::service_key::{ServiceKey, service_key};

/// Events that are applied before anything is published.
pub(crate) const MAX_EVENTS: usize = 1_024;
/// Objects of a page of a list. A page is read as a whole, and an object may have more than a megabyte.
const PAGE_SIZE: u32 = 100;

/// The events of all objects of a kind with these labels. A watch that fails starts again.
pub(crate) fn watch<K>(client: Client, labels: &str) -> impl Stream<Item = Event<K>> + use<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = watcher::Config::default()
        .labels(labels)
        .page_size(PAGE_SIZE);
    kube::runtime::watcher(Api::<K>::all(client), config)
        .default_backoff()
        .inspect_err(|error| {
            let (kind, error) = (K::kind(&()), bounded_text(&error.to_string()));
            tracing::warn!(%kind, error, "a watch failed; it starts again");
        })
        .filter_map(|event| async { event.ok() })
}

/// Applies the events of one kind to a table.
pub(crate) struct EventHandler<K, T> {
    apply: fn(&mut T, &K),
    delete: fn(&mut T, &ServiceKey),
    retain: fn(&mut T, &BTreeSet<ServiceKey>),
    relisted: BTreeSet<ServiceKey>,
    /// The first list is complete.
    pub(crate) synced: bool,
}

impl<K: Resource<DynamicType = ()>, T> EventHandler<K, T> {
    /// `retain` removes all objects except those of a complete list.
    pub(crate) fn new(
        apply: fn(&mut T, &K),
        delete: fn(&mut T, &ServiceKey),
        retain: fn(&mut T, &BTreeSet<ServiceKey>),
    ) -> Self {
        Self {
            apply,
            delete,
            retain,
            relisted: BTreeSet::new(),
            synced: false,
        }
    }

    pub(crate) fn handle(&mut self, event: Event<K>, table: &mut T) {
        match event {
            Event::Init => self.relisted.clear(),
            Event::InitApply(object) => {
                self.relisted.insert(service_key(&object));
                (self.apply)(table, &object);
            }
            Event::InitDone => {
                (self.retain)(table, &std::mem::take(&mut self.relisted));
                self.synced = true;
            }
            Event::Apply(object) => (self.apply)(table, &object),
            Event::Delete(object) => (self.delete)(table, &service_key(&object)),
        }
    }
}
