//! The requests that gateways hold.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::event::{GatewayPod, HeldRequests, Key, Name};

/// A gateway is heard of within this long of becoming ready.
const FIRST_HEARD: SignedDuration = SignedDuration::from_secs(5);
/// What a gateway that is silent was last heard to hold is believed for this long. One that takes no
/// requests any more, and is not heard, holds none after this long.
const GONE_AFTER: SignedDuration = SignedDuration::from_secs(60);

/// What is known of one gateway.
#[derive(Clone, Debug, Default, PartialEq)]
struct Gateway {
    /// `None` before it is known and once it is gone.
    pod: Option<GatewayPod>,
    /// When it was seen to take no requests any more; it takes some until then.
    left_at: Option<Timestamp>,
    held: BTreeMap<Key, HeldRequests>,
    /// It was heard of, and what it held then is believed.
    heard: bool,
    /// Since when it has been silent.
    unreachable_since: Option<Timestamp>,
    /// Why it is not heard.
    why: Option<Name>,
}

impl Gateway {
    /// Whether it may hold requests of which nothing is known, and when that may change with time.
    fn is_unknown(&self, now: Timestamp) -> (bool, Option<Timestamp>) {
        let is_heard = self.heard && self.unreachable_since.is_none();
        let Some(pod) = self.pod.as_ref().filter(|_| !is_heard) else {
            return (false, None);
        };
        match (pod.ready_since, self.left_at) {
            (Some(_), _) if self.heard => (true, None),
            (Some(ready), _) => {
                let expected = later(ready, FIRST_HEARD);
                (now >= expected, Some(expected))
            }
            (None, Some(left)) => {
                let last = self.unreachable_since.map_or(left, |since| since.max(left));
                let gone = later(last, GONE_AFTER);
                (now < gone, Some(gone))
            }
            (None, None) => (false, None),
        }
    }
}

fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.saturating_add(by).unwrap_or(at)
}

/// The gateways, by UID.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Gateways {
    /// When the leader began.
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

    /// Takes what a gateway's pod is, or that it is gone.
    pub(crate) fn set_pod(&mut self, uid: Name, pod: Option<GatewayPod>, now: Timestamp) {
        let gateway = self.gateways.entry(uid.clone()).or_default();
        let takes = |pod: &Option<GatewayPod>| pod.as_ref().is_some_and(GatewayPod::takes_requests);
        match (takes(&gateway.pod), takes(&pod)) {
            (_, true) => gateway.left_at = None,
            (true, false) => gateway.left_at = Some(now),
            // one that the leader finds in that state may have taken requests until then
            (false, false) => gateway.left_at = gateway.left_at.or(Some(self.began)),
        }
        gateway.pod = pod;
        if gateway.pod.is_none() && gateway.held.is_empty() {
            self.gateways.remove(&uid);
        }
        self.marked = true;
    }

    /// Takes all requests that a gateway has. Returns the services for which they changed.
    pub(crate) fn set_held(&mut self, uid: Name, held: BTreeMap<Key, HeldRequests>) -> HeldChange {
        let gateway = self.gateways.entry(uid).or_default();
        if !gateway.heard || gateway.unreachable_since.is_some() {
            self.marked = true;
        }
        (gateway.heard, gateway.unreachable_since, gateway.why) = (true, None, None);
        let mut keys: BTreeSet<Key> = gateway.held.keys().cloned().collect();
        keys.extend(held.keys().cloned());
        keys.retain(|key| {
            let of =
                |held: &BTreeMap<Key, HeldRequests>| held.get(key).copied().unwrap_or_default();
            of(&gateway.held).is_changed_by(&of(&held))
        });
        let only_forwards = |key: &Key| {
            let of = |held: &BTreeMap<Key, HeldRequests>| {
                let known = held.get(key).copied().unwrap_or_default();
                (known.requests, known.since)
            };
            of(&gateway.held) == of(&held)
        };
        let (in_flight, held_keys) = keys.into_iter().partition(only_forwards);
        gateway.held = held;
        HeldChange {
            held: held_keys,
            in_flight,
        }
    }

    /// Takes that a gateway has been silent for too long, or cannot be heard at all, and why.
    pub(crate) fn set_unreachable(&mut self, uid: Name, why: Name, now: Timestamp) {
        let gateway = self.gateways.entry(uid).or_default();
        if gateway.heard && gateway.unreachable_since.is_none() {
            gateway.unreachable_since = Some(now);
            self.marked = true;
        }
        self.marked |= gateway.why.as_ref() != Some(&why);
        gateway.why = Some(why);
    }

    /// The requests that all gateways have for a service.
    pub(crate) fn held(&self, service: &Key) -> HeldRequests {
        let held = self
            .gateways
            .values()
            .filter_map(|gateway| gateway.held.get(service));
        held.fold(HeldRequests::default(), |sum, held| HeldRequests {
            requests: sum.requests.saturating_add(held.requests),
            in_flight: sum.in_flight.saturating_add(held.in_flight),
            forwarded: sum.forwarded.saturating_add(held.forwarded),
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
        let mut looks = Vec::new();
        self.gateways.retain(|_, gateway| {
            if let Some(since) = gateway.unreachable_since {
                let gone = later(since, GONE_AFTER);
                if now >= gone {
                    change.services.extend(gateway.held.keys().cloned());
                    gateway.held.clear();
                    (gateway.heard, gateway.unreachable_since) = (false, None);
                } else {
                    looks.push(gone);
                }
            }
            // one that is heard of before its pod is known has been heard of
            gateway.pod.is_some() || !gateway.held.is_empty() || gateway.heard
        });
        let mut unknown = Vec::new();
        for gateway in self.gateways.values() {
            let (is_unknown, look) = gateway.is_unknown(now);
            looks.extend(look);
            unknown.extend(Some(gateway).filter(|_| is_unknown));
        }
        change.next = looks.into_iter().filter(|at| now < *at).min();
        let unreachable = unreachable(&unknown);
        change.all = unreachable != self.unreachable;
        self.unreachable = unreachable;
        Some(change)
    }
}

/// Names the first of these gateways, with its error, and says how many others there are.
fn unreachable(unknown: &[&Gateway]) -> Option<String> {
    let (first, others) = unknown.split_first()?;
    let name = &first.pod.as_ref()?.name;
    let why = first.why.as_ref().map(|why| format!(": {why}"));
    let others = match others.len() {
        0 => String::new(),
        more => format!(" (and {more} other)"),
    };
    let why = why.unwrap_or_default();
    Some(format!("gateway {name} has not been heard of{why}{others}"))
}

/// The services for which the requests of a gateway changed.
#[derive(Debug, Default)]
pub(crate) struct HeldChange {
    /// It holds others.
    pub(crate) held: BTreeSet<Key>,
    /// It only forwards more or fewer.
    pub(crate) in_flight: BTreeSet<Key>,
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
