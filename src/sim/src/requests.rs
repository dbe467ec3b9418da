//! Requests: engines serve them, gateways hold them while nothing is ready.

use std::sync::Arc;

use bursar_core::model::Key;
use bursar_core::model::event::HeldRequests;
use bursar_core::refusal::RefusalReason;

use crate::cluster::{Demand, GatewayObject};
use crate::engine::{Engine, Request};
use crate::event_queue::later;
use crate::event_queue::{SimEvent, WatchedObject};
use crate::simulation::Simulation;
use jiff::{SignedDuration, Timestamp};

impl Simulation {
    /// A gateway begins.
    pub(crate) fn add_gateway(&mut self) -> u32 {
        self.cluster.made_gateways += 1;
        let number = self.cluster.made_gateways;
        let gateway = GatewayObject::new(self.now);
        self.cluster.gateways.insert(number, gateway);
        self.tell(WatchedObject::Gateway(number));
        let millis = self.rng.i64(20..2_000);
        self.tell_within(WatchedObject::Demand(number), millis);
        self.share_all_demand();
        number
    }

    /// Counted clients find the gateways that are there.
    fn share_all_demand(&mut self) {
        let services: Vec<Key> = self.cluster.services.keys().cloned().collect();
        for key in services {
            self.share_demand(&key);
        }
    }

    /// A gateway dies, and with it what it held: counted clients try again elsewhere.
    pub(crate) fn lose_gateway(&mut self, number: u32) {
        let Some(gateway) = self.cluster.gateways.remove(&number) else {
            return;
        };
        let lost: usize = gateway.requests.values().map(|held| held.len()).sum();
        self.metrics.broken += lost as u64;
        self.tell(WatchedObject::Gateway(number));
        let millis = self.rng.i64(500..4_000);
        self.tell_within(WatchedObject::Silent(number), millis);
        self.share_all_demand();
    }

    /// The engine of a pod that has become ready begins.
    pub(crate) fn start_engine(&mut self, number: u32, key: &Key) {
        let demand = self
            .cluster
            .services
            .get(key)
            .map(|service| service.demand.clone());
        let Some(found) = self.cluster.pods.get_mut(&number) else {
            return;
        };
        if found.pod.ready_since.is_none() {
            return;
        }
        if let Some(Demand::Requests(latencies)) = demand
            && found.engine.is_none()
        {
            found.engine = Some(Engine::new(Arc::clone(&latencies), self.now));
        }
        self.read_soon(number);
    }

    /// The engine of a pod is read within a second: all of them once a second, spread over it.
    /// Where requests are only counted, those of all replicas are read at one instant, so that a
    /// constant demand is read as one.
    pub(crate) fn read_soon(&mut self, number: u32) {
        let found = self.cluster.pods.get(&number);
        let has_engine = found.is_some_and(|found| found.engine.is_some());
        let phase = if has_engine {
            i64::from(number % 10) * 100
        } else {
            0
        };
        let now = self.now.as_millisecond();
        let wait = (phase - now).rem_euclid(1_000);
        let at = now + if wait == 0 { 1_000 } else { wait };
        let at = Timestamp::from_millisecond(at).unwrap_or(self.now);
        self.tell_at(WatchedObject::Reading(number), at);
    }

    /// The counters of a busy engine move all the time; the leader is told of it now and then.
    pub(crate) fn read_again(&mut self, number: u32) {
        if let Some(found) = self.cluster.pods.get_mut(&number) {
            found.read_again = false;
            self.read_soon(number);
        }
    }

    /// A service's endpoints were published.
    pub(crate) fn endpoints_changed(&mut self, key: &Key) {
        let Some(service) = self.cluster.services.get(key) else {
            return;
        };
        let is_ready = !service.endpoints.is_empty();
        match service.demand {
            Demand::Depth(_) => self.share_demand(key),
            Demand::Requests(_) if is_ready => self.forward_held(key),
            Demand::Requests(_) => {}
        }
    }

    /// Spreads a counted demand over the endpoints, or lets a gateway hold it.
    pub(crate) fn share_demand(&mut self, key: &Key) {
        let now = self.now;
        let Some(service) = self.cluster.services.get(key) else {
            return;
        };
        let Demand::Depth(depth) = service.demand else {
            return;
        };
        let depth = if service.spec.is_some() { depth } else { 0 };
        let endpoints = service.endpoints.len() as u64;
        let (mut changed, mut ends) = (Vec::new(), Vec::new());
        // a replica that leaves ends what it has begun; clients send the next request elsewhere
        let mut left = depth;
        for number in &service.pods {
            let Some(found) = self.cluster.pods.get_mut(number) else {
                continue;
            };
            if service.endpoints.contains(number) {
                found.busy_until = None;
                continue;
            }
            let until = later(now, SignedDuration::from_secs(i64::from(*number % 7)));
            let finishes = found.stays() && found.depth > 0;
            let until = *found.busy_until.get_or_insert(until);
            if finishes && now < until && found.depth <= left {
                left -= found.depth;
                ends.push((until, key.clone()));
            } else if found.depth > 0 {
                found.depth = 0;
                found.served = true;
                changed.push(*number);
            }
        }
        for (place, number) in service.endpoints.iter().enumerate() {
            let Some(found) = self.cluster.pods.get_mut(number) else {
                continue;
            };
            let share = left / endpoints + u64::from((place as u64) < left % endpoints);
            if found.depth != share {
                found.depth = share;
                found.served = true;
                changed.push(*number);
            }
        }
        let held = if endpoints == 0 { left } else { 0 };
        self.hold_counted(key, held);
        for number in changed {
            self.read_soon(number);
        }
        for (at, key) in ends {
            self.event_queue.add(at, SimEvent::ShareDemand(key));
        }
    }

    /// One gateway holds so many requests for a service.
    fn hold_counted(&mut self, key: &Key, held: u64) {
        let now = self.now;
        let first = self.cluster.gateways.keys().next().copied();
        let mut changed = Vec::new();
        for (number, gateway) in &mut self.cluster.gateways {
            let before = gateway.counted.get(key).copied();
            let wanted = (held > 0 && Some(*number) == first).then(|| HeldRequests {
                requests: held,
                in_flight: 0,
                forwarded: 0,
                since: before.and_then(|before| before.since).or(Some(now)),
            });
            if before == wanted {
                continue;
            }
            match wanted {
                Some(wanted) => drop(gateway.counted.insert(key.clone(), wanted)),
                None => drop(gateway.counted.remove(key)),
            }
            changed.push(*number);
        }
        for number in changed {
            let millis = self.rng.i64(1..30);
            self.tell_within(WatchedObject::Demand(number), millis);
        }
    }

    /// The next request of a trace comes.
    pub(crate) fn request(&mut self, source: u32) {
        let Some(found) = self.sources.get_mut(source as usize) else {
            return;
        };
        let key = found.service.clone();
        let Some(request) = found.stream.take_next() else {
            return;
        };
        let next = found.stream.next_arrival();
        if let Some(at) = next {
            self.event_queue.add(at, SimEvent::Request(source));
        }
        self.metrics.note_request(&key);
        let Some(service) = self.cluster.services.get(&key) else {
            return;
        };
        if service.endpoints.is_empty() {
            self.hold(&key, request);
            return;
        }
        // kube-proxy takes any of them
        let place = self.rng.usize(..service.endpoints.len());
        if let Some(number) = service.endpoints.get(place).copied() {
            self.serve(&key, number, request);
        }
    }

    fn serve(&mut self, key: &Key, number: u32, request: Request) {
        let now = self.now;
        let found = self.cluster.pods.get_mut(&number);
        let Some(found) = found.filter(|found| found.engine.is_some()) else {
            // the endpoints do not know yet that it is gone
            self.metrics.broken += 1;
            self.metrics.note_refusal(key, "ConnectionRefused");
            return;
        };
        found.served = true;
        if let Some(engine) = &mut found.engine
            && let Some(end) = engine.add(request, now)
        {
            let generation = engine.generation;
            self.event_queue
                .add(end, SimEvent::EngineStep(number, generation));
        }
        self.read_soon(number);
    }

    /// An engine ends a step.
    pub(crate) fn engine_step(&mut self, number: u32, generation: u32) {
        let now = self.now;
        let Some(found) = self.cluster.pods.get_mut(&number) else {
            return;
        };
        let engine = found.engine.as_mut();
        let Some(engine) = engine.filter(|engine| engine.generation == generation) else {
            return;
        };
        let (result, next) = engine.step(now);
        let generation = engine.generation;
        found.served = true;
        let bursar_core::model::event::Owner::Service(name) = &found.pod.owner else {
            return;
        };
        let key = Key {
            namespace: found.pod.key.namespace.clone(),
            name: name.clone(),
        };
        if let Some(at) = next {
            self.event_queue
                .add(at, SimEvent::EngineStep(number, generation));
        }
        self.metrics.note_step(&key, &result, now);
        self.read_soon(number);
    }

    /// A gateway holds a request, or refuses it.
    fn hold(&mut self, key: &Key, request: Request) {
        let refusal = self.statuses.services.get(key);
        if let Some(refusal) = refusal.and_then(|decision| decision.refusal.as_ref()) {
            self.metrics.note_refusal(key, refusal.reason.name());
            return;
        }
        let numbers: Vec<u32> = self.cluster.gateways.keys().copied().collect();
        let Some(service) = self.cluster.services.get(key) else {
            return;
        };
        let (timeout, max_held) = (service.hold_timeout, service.max_held);
        if numbers.is_empty() {
            self.metrics.note_refusal(key, "ConnectionRefused");
            return;
        }
        let place = self.rng.usize(..numbers.len());
        let number = numbers.get(place).copied().unwrap_or_default();
        let Some(gateway) = self.cluster.gateways.get_mut(&number) else {
            return;
        };
        let held = gateway.requests.entry(key.clone()).or_default();
        if held.len() >= max_held {
            self.metrics
                .note_refusal(key, RefusalReason::QueueFull.name());
            return;
        }
        held.push_back(request);
        let expires = later(self.now, timeout);
        self.event_queue
            .add(expires, SimEvent::HoldExpires(key.clone()));
        self.tell_within(WatchedObject::Demand(number), 5);
    }

    /// Takes out requests that gateways hold for a service, as far as `takes` says so from the
    /// oldest on.
    fn take_held(&mut self, key: &Key, takes: impl Fn(&Request) -> bool) -> Vec<Request> {
        let mut taken = Vec::new();
        let mut changed = Vec::new();
        for (number, gateway) in &mut self.cluster.gateways {
            let Some(held) = gateway.requests.get_mut(key) else {
                continue;
            };
            let before = taken.len();
            while let Some(request) = held.front().filter(|request| takes(request)).copied() {
                held.pop_front();
                taken.push(request);
            }
            if held.is_empty() {
                gateway.requests.remove(key);
            }
            if taken.len() > before {
                changed.push(*number);
            }
        }
        for number in changed {
            self.tell_within(WatchedObject::Demand(number), 5);
        }
        taken.sort_by_key(|request| request.arrived);
        taken
    }

    /// What is held goes to the endpoints that are ready now, in turn.
    fn forward_held(&mut self, key: &Key) {
        let held = self.take_held(key, |_| true);
        let Some(first) = held.first().copied() else {
            return;
        };
        self.metrics
            .note_cold_start(key, self.now.duration_since(first.arrived));
        let endpoints = self
            .cluster
            .services
            .get(key)
            .map(|service| service.endpoints.clone());
        let endpoints = endpoints.unwrap_or_default();
        for (request, number) in held.into_iter().zip(endpoints.iter().cycle()) {
            self.serve(key, *number, request);
        }
    }

    /// What has been held for too long is refused.
    pub(crate) fn expire_held(&mut self, key: &Key) {
        let Some(timeout) = self
            .cluster
            .services
            .get(key)
            .map(|service| service.hold_timeout)
        else {
            return;
        };
        let now = self.now;
        let expired = self.take_held(key, |request| later(request.arrived, timeout) <= now);
        for _ in expired {
            self.metrics
                .note_refusal(key, RefusalReason::HoldTimeout.name());
        }
    }

    /// The service's status says why nothing is served: what is held is told so.
    pub(crate) fn refuse_held(&mut self, key: &Key) {
        let decision = self.statuses.services.get(key);
        let Some(reason) = decision.and_then(|decision| decision.refusal.as_ref()) else {
            return;
        };
        let name = reason.reason.name();
        for _ in self.take_held(key, |_| true) {
            self.metrics.note_refusal(key, name);
        }
    }
}
