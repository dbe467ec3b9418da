//! The port that each service has on every gateway. No two services have the same, no namespace can
//! have all of them, and a port that was given back stays unused while its old route may be believed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Mutex;

use bursar_api::InferenceDeployment;
use bursar_api::conditions::{ConditionState, PORT_ASSIGNED, port_assigned};
use bursar_api::names::GATEWAY_PORTS;
use bursar_core::model::{Key, Name};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::cache::{Stores, UnreadableObjects, cached, key_of};
use crate::gateways;
use crate::lock::lock;
use crate::ownership::is_owned;

/// A port that was given back is not given again for this long: nodes may still send connections of
/// its old service there.
const PORT_COOLDOWN: SignedDuration = SignedDuration::from_mins(1);

/// The port of each service.
#[derive(Debug, Default)]
pub(crate) struct Ports(Mutex<Given>);

/// Ports by service, and those that nobody has.
#[derive(Debug, Default)]
struct Given {
    services: HashMap<Key, u16>,
    /// How many ports the services of each namespace have.
    namespaces: HashMap<Name, usize>,
    free: BTreeSet<u16>,
    /// Ports that nobody has, and that old routes may still lead to.
    cooling: BTreeMap<u16, Cooling>,
    /// Services that would have a port if there were one for them.
    waiting: BTreeSet<Key>,
    /// The port that was given last.
    last: u16,
    /// The ports that services have from earlier leaders are in.
    is_filled: bool,
}

/// A port that is not given yet.
#[derive(Debug)]
struct Cooling {
    /// The services that had it, or whose slices name it.
    services: BTreeSet<Key>,
    until: Timestamp,
}

/// Why a service has no port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPort {
    /// The service is gone.
    Gone,
    /// It takes no requests.
    NoRequests,
    /// The services of its namespace have as many ports as are free.
    NamespaceShare {
        /// How many the namespace has.
        given: usize,
        /// How many are free.
        free: usize,
    },
    /// No port is free.
    AllGiven,
}

impl fmt::Display for NoPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = GATEWAY_PORTS.len();
        match self {
            Self::Gone => formatter.write_str("the service is gone"),
            Self::NoRequests => formatter.write_str("it takes no requests"),
            Self::NamespaceShare { given, free } => write!(
                formatter,
                "services of this namespace have {given} of {count} ports, and {free} are free: a \
                 namespace may not have more than remain for all others"
            ),
            Self::AllGiven => write!(formatter, "all {count} ports are given or cool down"),
        }
    }
}

impl NoPort {
    /// The condition of a service that has no port for this reason.
    pub(crate) fn condition(self) -> Option<ConditionState> {
        let reason = match self {
            Self::Gone | Self::NoRequests => return None,
            Self::NamespaceShare { .. } => port_assigned::NAMESPACE_SHARE_USED,
            Self::AllGiven => port_assigned::PORTS_EXHAUSTED,
        };
        Some(ConditionState {
            kind: PORT_ASSIGNED,
            status: Some(false),
            reason,
            message: format!(
                "it has no port on gateways: {self}; while it has none, requests do not wake it, and \
                 it is not scaled to zero"
            ),
        })
    }
}

impl Given {
    fn note_given(&mut self, service: &Key, port: u16) {
        self.services.insert(service.clone(), port);
        *self
            .namespaces
            .entry(service.namespace.clone())
            .or_default() += 1;
        self.waiting.remove(service);
        self.last = port;
    }

    /// Gives a service this port, if nobody has it.
    fn give(&mut self, service: &Key, port: u16) -> bool {
        let is_given = !self.services.contains_key(service) && self.free.remove(&port);
        if is_given {
            self.note_given(service, port);
        }
        is_given
    }

    /// Gives a service the port after the one that was given last: so a port that was given back is
    /// given again as late as possible.
    fn give_next(&mut self, service: &Key) -> Result<u16, NoPort> {
        let given = self.namespaces.get(&service.namespace);
        let (given, free) = (given.copied().unwrap_or(0), self.free.len());
        let after = self.free.range(self.last.saturating_add(1)..).next();
        let port = after.or(self.free.first()).copied();
        let refusal = match port {
            None => NoPort::AllGiven,
            Some(_) if given >= free => NoPort::NamespaceShare { given, free },
            Some(port) => {
                self.free.remove(&port);
                self.note_given(service, port);
                return Ok(port);
            }
        };
        self.waiting.insert(service.clone());
        Err(refusal)
    }

    fn release(&mut self, service: &Key, now: Timestamp) {
        self.waiting.remove(service);
        let Some(port) = self.services.remove(service) else {
            return;
        };
        if let Some(given) = self.namespaces.get_mut(&service.namespace) {
            *given -= 1;
            if *given == 0 {
                self.namespaces.remove(&service.namespace);
            }
        }
        self.cool(port, [service.clone()], now);
    }

    /// Keeps a port that nobody has from being given for a while, and for as long as slices of these
    /// services name it.
    fn cool(&mut self, port: u16, services: impl IntoIterator<Item = Key>, now: Timestamp) {
        self.free.remove(&port);
        let until = cool_until(now);
        let cooling = self.cooling.entry(port).or_insert_with(|| Cooling {
            services: BTreeSet::new(),
            until,
        });
        cooling.services.extend(services);
        cooling.until = until;
    }

    /// Frees the ports whose old routes are gone.
    fn cool_down(&mut self, stores: &Stores, now: Timestamp) {
        let (given, free) = (&self.services, &mut self.free);
        self.cooling.retain(|port, cooling| {
            if now < cooling.until {
                return true;
            }
            // the Service may outlive its InferenceDeployment, with the slice that names the port
            let is_named = |service: &Key| {
                let mut slices = gateways::slices_of(&stores.slices, service);
                given.get(service) != Some(port) && slices.any(|slice| leads_to(&slice, *port))
            };
            let is_routed = cooling.services.iter().any(is_named);
            match is_routed {
                true => cooling.until = cool_until(now),
                false => drop(free.insert(*port)),
            }
            is_routed
        });
    }

    /// Takes the ports that services have had so far.
    fn fill(&mut self, stores: &Stores, unreadable: &UnreadableObjects, now: Timestamp) {
        self.free = GATEWAY_PORTS.collect();
        self.last = *GATEWAY_PORTS.end();
        let services = stores.services.state();
        let in_status = services.iter().filter_map(|service| {
            let activation = service.status.as_ref()?.activation.as_ref()?;
            Some((key_of(&**service), u16::try_from(activation.port?).ok()?))
        });
        let known: Vec<(Key, u16)> = in_status.collect();
        let mut claims: BTreeMap<u16, Vec<&Key>> = BTreeMap::new();
        for (service, port) in &known {
            claims.entry(*port).or_default().push(service);
        }
        for (port, services) in claims {
            match services[..] {
                [service] => drop(self.give(service, port)),
                // somebody else wrote one of the statuses: no requests go to the wrong service if
                // none of them keeps it
                _ if self.free.contains(&port) => {
                    tracing::error!(
                        port,
                        ?services,
                        "several statuses have one port: none keeps it"
                    );
                    let services: Vec<Key> = services.into_iter().cloned().collect();
                    self.cool(port, services, now);
                }
                _ => {}
            }
        }
        self.fill_from_slices(stores, unreadable, now);
        // ports that were given back lately are not known, and the newest are among them most often
        if !self.services.is_empty() || !self.cooling.is_empty() {
            self.last = fastrand::u16(GATEWAY_PORTS);
        }
        self.is_filled = true;
    }

    /// Takes the ports that slices name and no status does. A service that has none, because it cannot
    /// be read or its status was not written yet, keeps the one in its own slice. Any other is not
    /// given: requests would reach a service that they are not for.
    fn fill_from_slices(
        &mut self,
        stores: &Stores,
        unreadable: &UnreadableObjects,
        now: Timestamp,
    ) {
        let unreadable = unreadable.all::<InferenceDeployment>().into_iter();
        let unreadable: HashMap<Key, String> = unreadable
            .map(|object| (Key::new(&object.namespace, &object.name), object.uid))
            .collect();
        let is_own = |slice: &EndpointSlice, service: &Key| {
            let object = cached(&stores.services, service);
            let uid = object
                .as_ref()
                .and_then(|object| object.metadata.uid.as_ref());
            is_owned(slice, uid.or(unreadable.get(service)).map(String::as_str))
        };
        let mut named: BTreeMap<u16, BTreeMap<Key, bool>> = BTreeMap::new();
        for slice in stores.slices.state() {
            if let (Some(service), Some(port)) =
                (gateways::service_of(&slice), gateways::port_of(&slice))
            {
                let is_own = is_own(&slice, &service);
                let services = named.entry(port).or_default();
                *services.entry(service).or_insert(is_own) &= is_own;
            }
        }
        for (port, services) in named {
            let mut owners = services.iter().filter(|(_, is_own)| **is_own);
            let is_given =
                services.len() == 1 && owners.any(|(service, _)| self.give(service, port));
            if !is_given && (self.free.contains(&port) || self.cooling.contains_key(&port)) {
                self.cool(port, services.into_keys(), now);
            }
        }
    }
}

impl Ports {
    /// The service's port on every gateway: the one that it has, the one in its status, or another
    /// one that is free.
    ///
    /// # Errors
    /// It has none, and why.
    pub(crate) fn port(
        &self,
        (stores, unreadable): (&Stores, &UnreadableObjects),
        service: &Key,
        in_status: Option<u16>,
        now: Timestamp,
    ) -> Result<u16, NoPort> {
        let mut given = lock(&self.0);
        if !given.is_filled {
            given.fill(stores, unreadable, now);
        }
        if let Some(port) = given.services.get(service) {
            return Ok(*port);
        }
        let is_there = |service: &Key| is_there(stores, unreadable, service);
        // under the lock: if it goes from here on, its port is released later
        if !is_there(service) {
            return Err(NoPort::Gone);
        }
        if let Some(port) = in_status.filter(|port| given.give(service, *port)) {
            return Ok(port);
        }
        given.cool_down(stores, now);
        given.give_next(service)
    }

    /// Whether a service waits for a port.
    pub(crate) fn is_waiting(&self, service: &Key) -> bool {
        lock(&self.0).waiting.contains(service)
    }

    /// When a service that waits for a port may get one: when the first port has cooled down.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        let given = lock(&self.0);
        if given.waiting.is_empty() {
            return None;
        }
        given.cooling.values().map(|cooling| cooling.until).min()
    }

    /// Frees what has cooled down. Returns services that wait for a port, no more than are free.
    pub(crate) fn due(&self, stores: &Stores, now: Timestamp) -> Vec<Key> {
        let mut given = lock(&self.0);
        let is_due = given.cooling.values().any(|cooling| cooling.until <= now);
        if given.waiting.is_empty() || !is_due {
            return Vec::new();
        }
        given.cool_down(stores, now);
        let free = given.free.len();
        let may_have = |service: &&Key| {
            let namespace = given.namespaces.get(&service.namespace);
            namespace.copied().unwrap_or(0) < free
        };
        let waiting = given.waiting.iter().filter(may_have);
        waiting.take(free).cloned().collect()
    }

    /// A service that is gone gives its port back.
    pub(crate) fn release(
        &self,
        (stores, unreadable): (&Stores, &UnreadableObjects),
        service: &Key,
        now: Timestamp,
    ) {
        let mut given = lock(&self.0);
        if !is_there(stores, unreadable, service) {
            given.release(service, now);
        }
    }
}

fn cool_until(now: Timestamp) -> Timestamp {
    now.checked_add(PORT_COOLDOWN).unwrap_or(Timestamp::MAX)
}

/// Whether a slice leads requests to this port of some gateway.
fn leads_to(slice: &EndpointSlice, port: u16) -> bool {
    gateways::port_of(slice) == Some(port) && slice.endpoints.iter().flatten().next().is_some()
}

/// Whether there is such a service, readable or not.
fn is_there(stores: &Stores, unreadable: &UnreadableObjects, service: &Key) -> bool {
    let why = || unreadable.why::<InferenceDeployment>(&service.namespace, &service.name);
    cached(&stores.services, service).is_some() || why().is_some()
}
