//! The requests that gateways hold.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::event::{Held, Key, Name};

/// A gateway is heard of within this long of becoming ready.
const FIRST_HEARD: SignedDuration = SignedDuration::from_secs(5);
/// A gateway that is silent for this long is gone, and what it held with it.
const GONE_AFTER: SignedDuration = SignedDuration::from_secs(60);

/// What is known of one gateway.
#[derive(Clone, Debug, Default, PartialEq)]
struct Gateway {
    /// The pod's name and since when it takes requests; `None` once it takes none.
    pod: Option<(Name, Timestamp)>,
    held: BTreeMap<Key, Held>,
    /// It was heard of.
    heard: bool,
    /// Since when it has been silent.
    silent_since: Option<Timestamp>,
}

/// The gateways, by UID.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Gateways {
    began: Timestamp,
    gateways: BTreeMap<Name, Gateway>,
    /// Why what gateways hold is not known.
    unreachable: Option<String>,
    marked: bool,
}

impl Gateways {
    pub(crate) fn new(began: Timestamp) -> Self {
        Self {
            began,
            gateways: BTreeMap::new(),
            unreachable: None,
            marked: false,
        }
    }

    pub(crate) fn mark(&mut self) {
        self.marked = true;
    }

    /// Takes that a gateway takes requests, or does no longer.
    pub(crate) fn set_pod(&mut self, uid: Name, pod: Option<(Name, Timestamp)>) {
        let gateway = self.gateways.entry(uid.clone()).or_default();
        gateway.pod = pod;
        if gateway.pod.is_none() && gateway.held.is_empty() {
            self.gateways.remove(&uid);
        }
        self.marked = true;
    }

    /// Takes all that a gateway holds. Returns the services for which that changed.
    pub(crate) fn set_held(&mut self, uid: Name, held: BTreeMap<Key, Held>) -> BTreeSet<Key> {
        let gateway = self.gateways.entry(uid).or_default();
        if !gateway.heard || gateway.silent_since.is_some() {
            self.marked = true;
        }
        (gateway.heard, gateway.silent_since) = (true, None);
        let mut keys: BTreeSet<Key> = gateway.held.keys().cloned().collect();
        keys.extend(held.keys().cloned());
        keys.retain(|key| gateway.held.get(key) != held.get(key));
        gateway.held = held;
        keys
    }

    /// Takes that a gateway has been silent for too long.
    pub(crate) fn set_silent(&mut self, uid: &Name, now: Timestamp) {
        if let Some(gateway) = self.gateways.get_mut(uid) {
            gateway.silent_since = gateway.silent_since.or(Some(now));
            self.marked = true;
        }
    }

    /// What all gateways hold for a service.
    pub(crate) fn held(&self, service: &Key) -> Held {
        let held = self
            .gateways
            .values()
            .filter_map(|gateway| gateway.held.get(service));
        held.fold(Held::default(), |sum, held| Held {
            requests: sum.requests.saturating_add(held.requests),
            since: sum.since.into_iter().chain(held.since).min(),
        })
    }

    /// Why what gateways hold is not known, as last settled.
    pub(crate) fn unreachable(&self) -> Option<&str> {
        self.unreachable.as_deref()
    }

    /// Forgets gateways that are gone and finds out whether one that may hold requests is not
    /// heard. Returns the services whose demand may have changed (all of them if `None`), and when
    /// this may change with time.
    pub(crate) fn settle(&mut self, now: Timestamp) -> Option<GatewaysChange> {
        if !std::mem::take(&mut self.marked) {
            return None;
        }
        let mut change = GatewaysChange::default();
        let mut unreachable = None;
        let mut look = |at: Timestamp| change.next = change.next.into_iter().chain([at]).min();
        let later = |at: Timestamp, by: SignedDuration| at.saturating_add(by).unwrap_or(at);
        self.gateways.retain(|_, gateway| {
            if let Some(since) = gateway.silent_since {
                let gone = later(since, GONE_AFTER);
                if now >= gone {
                    change.services.extend(gateway.held.keys().cloned());
                    gateway.held.clear();
                    (gateway.heard, gateway.silent_since) = (false, None);
                } else {
                    look(gone);
                }
            }
            // one that is heard of before its pod is known has been heard of
            gateway.pod.is_some() || !gateway.held.is_empty() || gateway.heard
        });
        for gateway in self.gateways.values() {
            let Some((name, ready)) = &gateway.pod else {
                continue;
            };
            let silent = match (gateway.heard, gateway.silent_since) {
                (true, since) => since.is_some(),
                (false, _) => {
                    let expected = later(*ready, FIRST_HEARD);
                    // one that cannot be heard at all is given up after a time
                    let given_up = later((*ready).max(self.began), GONE_AFTER);
                    for at in [expected, given_up] {
                        if now < at {
                            look(at);
                        }
                    }
                    now >= expected && now < given_up
                }
            };
            if silent && unreachable.is_none() {
                unreachable = Some(format!("gateway {name} has not been heard of"));
            }
        }
        change.all = unreachable != self.unreachable;
        self.unreachable = unreachable;
        Some(change)
    }
}

/// What a change of the gateways means.
#[derive(Debug, Default)]
pub(crate) struct GatewaysChange {
    /// Services whose held requests are gone with a gateway.
    pub(crate) services: BTreeSet<Key>,
    /// Whether demand is known has changed for all services.
    pub(crate) all: bool,
    /// When this may change with time.
    pub(crate) next: Option<Timestamp>,
}
