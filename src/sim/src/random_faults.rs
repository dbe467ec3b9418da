//! Faults of a random history, and their ends.

use bursar_core::model::Key;
use bursar_core::model::event::{Deployment, Owner, PodCreationFailure, Rollout};

use crate::cluster::shape;
use crate::controllers::NewPod;
use crate::event_queue::{SimEvent, WatchedObject};
use crate::faults::{Fault, FaultRates};
use crate::random_actions::seconds;
use crate::simulation::{RunningFault, Simulation};

impl Simulation {
    /// A fault ends after so many milliseconds.
    pub(crate) fn begin_fault(&mut self, least: i64, most: i64, fault: RunningFault) {
        let number = self.number();
        self.running_faults.insert(number, fault);
        self.add_within(least, most, SimEvent::FaultEnds(number));
    }

    pub(crate) fn random_fault(&mut self) {
        match self.rng.u8(..16) {
            0 => self.leader_fails(),
            1 => {
                let first = self.cluster.gateways.keys().next().copied();
                if let Some(number) = first {
                    self.note(Fault::GatewayDied);
                    self.lose_gateway(number);
                    self.add_gateway();
                }
            }
            2 => {
                let last = self.cluster.gateways.iter_mut().next_back();
                if let Some((number, gateway)) = last
                    && !gateway.silent
                {
                    gateway.silent = true;
                    let number = *number;
                    self.note(Fault::GatewaySilent);
                    let millis = self.rng.i64(1_000..5_000);
                    self.tell_within(WatchedObject::Silent(number), millis);
                    self.begin_fault(5_000, 150_000, RunningFault::Silent(number));
                }
            }
            3 | 4 => {
                let pod = self.any_pod(|found| found.serves() && !found.unreadable);
                if let Some(number) = pod
                    && let Some(found) = self.cluster.pods.get_mut(&number)
                {
                    found.unreadable = true;
                    self.note(Fault::ReadFailed);
                    self.read_soon(number);
                    self.begin_fault(2_000, 60_000, RunningFault::Unreadable(number));
                }
            }
            5 | 6 => self.random_node_fault(),
            7 => self.random_node(true),
            8 => {
                let pod = self.any_pod(|found| found.stays() && found.pod.ready_since.is_some());
                if let Some(number) = pod
                    && let Some(found) = self.cluster.pods.get_mut(&number)
                {
                    found.pod.ready_since = None;
                    self.note(Fault::PodNotReady);
                    self.tell(WatchedObject::Pod(number));
                    self.readiness_changed(number);
                    self.begin_fault(1_000, 30_000, RunningFault::NotReady(number));
                }
            }
            9 => {
                let pod =
                    self.any_pod(|found| found.stays() && !matches!(found.pod.owner, Owner::Other));
                if let Some(number) = pod {
                    self.note(Fault::PodEvicted);
                    self.evict(number);
                }
            }
            10 => {
                let worker = self.any_pod(|found| {
                    let is_worker = matches!(found.pod.owner, Owner::Job(..));
                    is_worker && found.stays() && found.pod.node.is_some()
                });
                if let Some(number) = worker {
                    self.note(Fault::WorkerFailed);
                    self.fail_worker(number);
                    self.add_within(500, 60_000, SimEvent::PodRemoved(number));
                }
            }
            11 => {
                let account = self.ledger.accounts().next().cloned();
                if let Some(key) = account {
                    self.ledger.set_doubt(&key, true);
                    self.note(Fault::LedgerInDoubt);
                    self.tell_account(key.clone());
                    self.begin_fault(2_000, 60_000, RunningFault::Doubt(key));
                }
            }
            12 => {
                let namespace = self.namespace();
                self.cluster.unreadable_budgets.insert(namespace.clone());
                self.note(Fault::BudgetUnreadable);
                self.tell(WatchedObject::BudgetDoubt(namespace.clone()));
                self.begin_fault(2_000, 60_000, RunningFault::BudgetUnreadable(namespace));
            }
            13 => self.foreign_pod(),
            14 => self.refuse_pods(),
            _ => self.roll_out(),
        }
    }

    fn random_node_fault(&mut self) {
        let Some(name) = self.any_node() else { return };
        match self.rng.u8(..3) {
            0 => {
                self.note(Fault::NodeLost);
                self.lose_node(&name);
                self.add_within(30_000, 200_000, SimEvent::NodeRemoved(name));
            }
            1 => {
                self.note(Fault::NodeLostAndBack);
                self.lose_node(&name);
                self.begin_fault(5_000, 60_000, RunningFault::Lost(name));
            }
            _ => {
                if let Some(node) = self.cluster.nodes.get_mut(&name) {
                    node.node.takes_pods = false;
                }
                self.note(Fault::NodeCordoned);
                self.tell(WatchedObject::Node(name.clone()));
                self.begin_fault(5_000, 120_000, RunningFault::Cordoned(name));
            }
        }
    }

    /// Somebody deletes a pod: its replacement runs while it stops, which nobody could know.
    fn evict(&mut self, number: u32) {
        let pod = self.cluster.pods.get(&number).map(|found| &found.pod);
        let namespace = pod.map(|pod| (pod.key.namespace.clone(), pod.grace_seconds));
        if let Some((namespace, grace)) = namespace {
            self.excuse(&namespace, grace + 80);
        }
        if let Some(found) = self.cluster.pods.get_mut(&number) {
            found.pod.disrupted = matches!(found.pod.owner, Owner::Job(..));
        }
        self.delete_pod(number);
        self.owner_changed(number);
    }

    /// A pod of no workload comes, with a GPU or without.
    fn foreign_pod(&mut self) {
        let shape = match self.rng.bool() {
            true => self.shape(),
            false => shape(0, 500, None),
        };
        let pod = NewPod {
            namespace: self.namespace(),
            owner: Owner::Other,
            shape,
            grace_seconds: 5,
            start: seconds(1),
            made_by: None,
        };
        let number = self.create_pod(pod);
        self.note(Fault::ForeignPod);
        self.begin_fault(5_000, 100_000, RunningFault::Foreign(number));
    }

    fn roll_out(&mut self) {
        let Some(key) = self.any_service() else {
            return;
        };
        self.note(Fault::Rollout);
        self.set_rolling(&key, true);
        let service = self.cluster.services.get(&key);
        if let Some(number) = service.and_then(|service| service.pods.first().copied()) {
            self.evict(number);
        }
        self.begin_fault(5_000, 40_000, RunningFault::Rollout(key));
    }

    /// A quota lets no more pods of a Deployment be made.
    fn refuse_pods(&mut self) {
        let Some(key) = self.any_service() else {
            return;
        };
        self.note(Fault::PodCreationFailure);
        self.set_refused(&key, true);
        self.begin_fault(5_000, 400_000, RunningFault::PodCreationFailure(key));
    }

    fn set_refused(&mut self, key: &Key, is_refused: bool) {
        let refused = is_refused.then(|| PodCreationFailure {
            since: self.now,
            why: "exceeded quota".into(),
        });
        let service = self.cluster.services.get_mut(key);
        let deployment = service.and_then(|service| service.deployment.as_mut());
        if let Some(deployment) = deployment {
            deployment.creation_failure = refused;
            self.tell(WatchedObject::Deployment(key.clone()));
            self.add_within(20, 500, SimEvent::ReconcileDeployment(key.clone()));
        }
    }

    fn set_rolling(&mut self, key: &Key, rolling: bool) {
        let service = self.cluster.services.get_mut(key);
        if let Some(Deployment {
            rollout: before, ..
        }) = service.and_then(|service| service.deployment.as_mut())
        {
            *before = rolling.then(Rollout::default);
            self.tell(WatchedObject::Deployment(key.clone()));
        }
    }

    /// A fault ends.
    pub(crate) fn end_fault(&mut self, number: u32) {
        let Some(fault) = self.running_faults.remove(&number) else {
            return;
        };
        match fault {
            RunningFault::Unreadable(number) => {
                if let Some(found) = self.cluster.pods.get_mut(&number) {
                    found.unreadable = false;
                    self.read_soon(number);
                }
            }
            RunningFault::Silent(number) => {
                if let Some(gateway) = self.cluster.gateways.get_mut(&number) {
                    gateway.silent = false;
                    self.tell_within(WatchedObject::Demand(number), 50);
                }
            }
            RunningFault::NotReady(number) => self.pod_ready(number),
            RunningFault::StartFails(number) => {
                if let Some(found) = self.cluster.pods.get_mut(&number) {
                    found.fails_to_start = false;
                    self.pod_ready(number);
                }
            }
            RunningFault::Cordoned(name) => self.node_arrives(&name),
            RunningFault::Lost(name) => self.node_returns(&name),
            RunningFault::Doubt(key) => {
                self.ledger.set_doubt(&key, false);
                self.tell_account(key);
            }
            RunningFault::BudgetUnreadable(namespace) => {
                self.cluster.unreadable_budgets.remove(&namespace);
                self.tell(WatchedObject::BudgetDoubt(namespace));
            }
            RunningFault::Rollout(key) => self.set_rolling(&key, false),
            RunningFault::PodCreationFailure(key) => self.set_refused(&key, false),
            RunningFault::NoPrices(catalog) => {
                self.cluster.catalog = catalog;
                self.tell(WatchedObject::Prices);
            }
            RunningFault::Foreign(number) => self.delete_pod(number),
        }
    }

    /// All faults end, and none begins any more.
    pub(crate) fn end_all_faults(&mut self) {
        // gangs without room wait for it, and do not start again and again
        self.cluster.node_start = None;
        self.tell(WatchedObject::NodeStart);
        self.rates = FaultRates::default();
        let numbers: Vec<u32> = self.running_faults.keys().copied().collect();
        for number in numbers {
            self.end_fault(number);
        }
    }
}
