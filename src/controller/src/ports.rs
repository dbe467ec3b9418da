//! The port that each service has on every gateway. No two services have the same.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;

use bursar_api::InferenceDeployment;
use bursar_api::names::GATEWAY_PORTS;
use bursar_core::model::Key;

use crate::cache::{Stores, UnreadableObjects, cached, key_of};
use crate::gateways;
use crate::lock::lock;

/// The port of each service.
#[derive(Debug, Default)]
pub(crate) struct Ports(Mutex<Given>);

/// Ports by service, and those that nobody has.
#[derive(Debug, Default)]
struct Given {
    services: HashMap<Key, u16>,
    free: BTreeSet<u16>,
    /// The ports that services have from earlier leaders are in.
    is_filled: bool,
}

impl Given {
    /// Gives a service this port, if nobody has it.
    fn give(&mut self, service: &Key, port: u16) -> bool {
        let is_given = !self.services.contains_key(service) && self.free.remove(&port);
        if is_given {
            self.services.insert(service.clone(), port);
        }
        is_given
    }

    fn give_lowest(&mut self, service: &Key) -> Option<u16> {
        let port = self.free.pop_first()?;
        self.services.insert(service.clone(), port);
        Some(port)
    }

    fn release(&mut self, service: &Key) {
        if let Some(port) = self.services.remove(service) {
            self.free.insert(port);
        }
    }

    /// Takes the ports that services have had so far.
    fn fill(&mut self, stores: &Stores, unreadable: &UnreadableObjects) {
        self.free = GATEWAY_PORTS.collect();
        let services = stores.services.state();
        let in_status = services.iter().filter_map(|service| {
            let activation = service.status.as_ref()?.activation.as_ref()?;
            Some((key_of(&**service), u16::try_from(activation.port?).ok()?))
        });
        // one that cannot be read keeps its port, of which an earlier leader's slice tells
        let unreadable = unreadable.all::<InferenceDeployment>();
        let in_slices = unreadable.iter().filter_map(|object| {
            let key = Key::new(&object.namespace, &object.name);
            let port = gateways::slice_port(&stores.slices, &key)?;
            Some((key, port))
        });
        let mut known: Vec<(Key, u16)> = in_status.collect();
        // of two services with one port, each leader lets the same one keep it
        known.sort();
        for (service, port) in known.into_iter().chain(in_slices) {
            self.give(&service, port);
        }
        self.is_filled = true;
    }
}

impl Ports {
    /// The service's port on every gateway: the one that it has, the one in its status, or the lowest
    /// free one. `None` if it is gone, or all ports are given.
    pub(crate) fn port(
        &self,
        (stores, unreadable): (&Stores, &UnreadableObjects),
        service: &Key,
        in_status: Option<u16>,
    ) -> Option<u16> {
        let mut given = lock(&self.0);
        if !given.is_filled {
            given.fill(stores, unreadable);
        }
        if let Some(port) = given.services.get(service) {
            return Some(*port);
        }
        let is_there = |service: &Key| is_there(stores, unreadable, service);
        // under the lock: if it goes from here on, its port is released later
        if !is_there(service) {
            return None;
        }
        if let Some(port) = in_status.filter(|port| given.give(service, *port)) {
            return Some(port);
        }
        if given.free.is_empty() {
            let known: Vec<Key> = given.services.keys().cloned().collect();
            let gone = known.iter().filter(|service| !is_there(service));
            gone.for_each(|service| given.release(service));
        }
        given.give_lowest(service)
    }

    /// A service that is gone gives its port back.
    pub(crate) fn release(
        &self,
        (stores, unreadable): (&Stores, &UnreadableObjects),
        service: &Key,
    ) {
        let mut given = lock(&self.0);
        if !is_there(stores, unreadable, service) {
            given.release(service);
        }
    }
}

/// Whether there is such a service, readable or not.
fn is_there(stores: &Stores, unreadable: &UnreadableObjects, service: &Key) -> bool {
    let why = || unreadable.why::<InferenceDeployment>(&service.namespace, &service.name);
    cached(&stores.services, service).is_some() || why().is_some()
}
