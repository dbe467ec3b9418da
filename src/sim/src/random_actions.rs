//! What a random history does: users, nodes, faults and their ends.

use std::sync::Arc;

use bursar_core::correction::Correction;
use bursar_core::cost_report::CostOwner;
use bursar_core::model::event::{Job, Role, Service};
use bursar_core::model::{Key, Name};
use bursar_core::money::Money;
use bursar_core::pricing::{DatedPriceList, GpuPrice, PriceCatalog, PriceList, PriceScope};
use bursar_core::scaling::{self, Behavior, GrowthRule, RequestSignal};
use jiff::{SignedDuration, Timestamp};

use crate::cluster::{Demand, GPU, ServiceObject, node, shape};
use crate::event_queue::{SimEvent, WatchedObject};
use crate::faults::Fault;
use crate::simulation::{RunningFault, Simulation, Submission, Violation};

const MODELS: [&str; 2] = ["H100", "A100"];

/// Prices of an hour of the two GPU models.
pub(crate) fn catalog(h100: &str, a100: &str) -> Arc<PriceCatalog> {
    let row = |model: &str, price: &str| GpuPrice {
        model: model.to_owned(),
        resource: GPU.to_owned(),
        nodes: PriceScope::default(),
        per_hour: price.parse().unwrap_or_default(),
        watts: None,
    };
    let list = PriceList {
        currency: "USD".to_owned(),
        gpus: vec![row("H100", h100), row("A100", a100)],
        ..PriceList::default()
    };
    let dated = DatedPriceList {
        name: "list".to_owned(),
        effective_from: None,
        list,
    };
    Arc::new(PriceCatalog::new(vec![dated], Timestamp::UNIX_EPOCH))
}

pub(crate) fn seconds(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

impl Simulation {
    pub(crate) fn uniform(&self) -> bool {
        self.chaos.as_ref().is_some_and(|chaos| chaos.uniform)
    }

    pub(crate) fn number(&mut self) -> u32 {
        let Some(chaos) = &mut self.chaos else {
            return 0;
        };
        chaos.made += 1;
        chaos.made
    }

    pub(crate) fn namespace(&mut self) -> Name {
        let chaos = self.chaos.as_ref();
        let names = chaos.map_or(&[][..], |chaos| &chaos.namespaces);
        let place = self.rng.usize(..names.len().max(1));
        names.get(place).cloned().unwrap_or_else(|| "team".into())
    }

    pub(crate) fn shape(&mut self) -> Arc<bursar_core::model::event::PodShape> {
        let model = MODELS[self.rng.usize(..2)];
        if self.uniform() {
            return shape(1, 100, Some(model));
        }
        let gpus = self.rng.u32(1..4);
        let cpu = self.rng.i64(0..3) * 1000;
        let model = (self.rng.u8(..3) == 0).then_some(model);
        shape(gpus, cpu, model)
    }

    pub(crate) fn random_node(&mut self, late: bool) {
        let model = MODELS[self.rng.usize(..2)];
        let gpus = self.rng.u32(1..9);
        let cpu = if self.uniform() { 96_000 } else { 8_000 };
        let name: Name = format!("node-{}", self.number()).into();
        let node = node(gpus, cpu, model);
        if late {
            self.coming_nodes.insert(name.clone(), node);
            if self.chance(20) {
                self.note(Fault::NodeNeverCame);
            } else {
                self.note(Fault::NodeLate);
                self.add_within(20_000, 400_000, SimEvent::NodeArrives(name));
            }
        } else {
            self.add_node(name, node);
        }
    }

    pub(crate) fn random_service(&mut self) {
        let key = Key {
            namespace: self.namespace(),
            name: format!("service-{}", self.number()).into(),
        };
        let min = u32::from(self.rng.u8(..4) == 0);
        let priority = [0, 0, 1, 2][self.rng.usize(..4)];
        let spec = Service {
            created: self.now,
            priority,
            cluster_priority: priority,
            weight: self.rng.u32(99..102),
            min,
            max: min + self.rng.u32(1..5),
            request_signal: RequestSignal::Target(self.rng.u32(1..9)),
            signals: vec![],
            measured_by: 0,
            growth: match self.rng.bool() {
                true => GrowthRule::Learned,
                false => GrowthRule::Target,
            },
            learned: None,
            behavior: Behavior::with_scale_down_window(Some(seconds(self.rng.i64(0..60)))),
            idle_after: seconds(self.rng.i64(5..120)),
            schedules: vec![],
            on_signal_failure: Default::default(),
            drain_timeout: seconds(self.rng.i64(0..60)),
            paused: None,
            activation: match self.rng.u8(..12) {
                0 => scaling::Activation::Never,
                _ => scaling::Activation::OnDemand,
            },
            replica: self.shape(),
            grace_seconds: self.rng.i64(0..30),
            workers: None,
        };
        let service = ServiceObject {
            spec: Some(spec),
            deployment: None,
            pods: Default::default(),
            endpoints: Vec::new(),
            demand: Demand::Depth(0),
            start: (seconds(1), seconds(20)),
            hold_timeout: seconds(300),
            max_held: 100,
        };
        self.cluster.services.insert(key.clone(), service);
        self.tell(WatchedObject::Service(key.clone()));
        self.random_demand(&key);
    }

    pub(crate) fn random_job(&mut self) {
        let roles = if self.rng.u8(..4) == 0 { 2 } else { 1 };
        let roles = (0..roles).map(|nth| Role {
            name: if nth == 0 {
                "".into()
            } else {
                "evaluator".into()
            },
            replicas: self.rng.u32(1..4),
            worker: self.shape(),
            grace_seconds: self.rng.i64(0..30),
        });
        let job = Job {
            restarts: 3,
            restart_count: 0,
            ended_well: Default::default(),
            success_roles: Default::default(),
            resumes_whole: false,
            is_adopted: false,
            roles: roles.collect(),
            created: self.now,
            priority: self.rng.i32(0..2),
            cluster_priority: self.rng.i32(0..2),
            preemption_allowed: self.rng.u8(..4) > 0,
            suspend: false,
            paused: false,
            seed: self.rng.u64(..),
        };
        let submission = Submission {
            key: Key {
                namespace: self.namespace(),
                name: format!("job-{}", self.number()).into(),
            },
            job,
            runs: seconds(self.rng.i64(5..400)),
            start: (seconds(1), seconds(20)),
        };
        self.create_job(submission);
    }

    fn random_demand(&mut self, key: &Key) {
        let depth = match self.rng.u8(..3) {
            0 => 0,
            _ => self.rng.u64(1..40),
        };
        if let Some(service) = self.cluster.services.get_mut(key) {
            service.demand = Demand::Depth(depth);
        }
        self.share_demand(key);
    }

    pub(crate) fn any_service(&mut self) -> Option<Key> {
        let services = self.cluster.services.iter();
        let keys: Vec<&Key> = services
            .filter(|(_, service)| service.spec.is_some())
            .map(|(key, _)| key)
            .collect();
        let place = self.rng.usize(..keys.len().max(1));
        keys.get(place).map(|key| (*key).clone())
    }

    fn any_job(&mut self) -> Option<Key> {
        let jobs = self.cluster.jobs.iter();
        let keys: Vec<&Key> = jobs
            .filter(|(_, job)| job.spec.is_some())
            .map(|(key, _)| key)
            .collect();
        let place = self.rng.usize(..keys.len().max(1));
        keys.get(place).map(|key| (*key).clone())
    }

    pub(crate) fn any_pod(
        &mut self,
        fits: impl Fn(&crate::cluster::PodObject) -> bool,
    ) -> Option<u32> {
        let pods = self.cluster.pods.iter();
        let pods: Vec<u32> = pods
            .filter(|(_, found)| fits(found))
            .map(|(number, _)| *number)
            .collect();
        let place = self.rng.usize(..pods.len().max(1));
        pods.get(place).copied()
    }

    pub(crate) fn any_node(&mut self) -> Option<Name> {
        let nodes = self.cluster.nodes.iter();
        let names: Vec<&Name> = nodes
            .filter(|(_, node)| node.node.takes_pods)
            .map(|(name, _)| name)
            .collect();
        let place = self.rng.usize(..names.len().max(1));
        names.get(place).map(|name| (*name).clone())
    }

    /// Something happens at random; then it is planned when the next thing does.
    ///
    /// # Errors
    /// What must not be.
    pub(crate) fn act(&mut self) -> Result<(), Violation> {
        if self.is_eventful()
            && let Some(chaos) = &mut self.chaos
        {
            chaos.over = true;
            return Ok(());
        }
        if let Some(chaos) = &mut self.chaos {
            chaos.random_actions += 1;
        }
        match self.rng.u8(..100) {
            0..18 => {
                if let Some(key) = self.any_service() {
                    self.random_demand(&key);
                }
            }
            18..26 => self.edit_service(),
            26..30 => self.random_service(),
            30..32 => self.delete_service(),
            32..38 => self.random_job(),
            38..42 => self.edit_job(),
            42..44 => self.edit_budget(),
            44..46 => self.correct(),
            46..48 => self.change_prices(),
            48..50 => {
                self.add_gateway();
            }
            50..53 => self.random_node(false),
            _ => self.random_fault(),
        }
        let (least, most) = match self.rng.u8(..10) {
            0 => (20_000, 120_000),
            1..4 => (3_000, 20_000),
            _ => (50, 3_000),
        };
        self.add_within(least, most, SimEvent::Act);
        Ok(())
    }

    fn edit_service(&mut self) {
        let Some(key) = self.any_service() else {
            return;
        };
        let kind = self.rng.u8(..4);
        let number = self.rng.u32(0..4);
        let Some(service) = self.cluster.services.get_mut(&key) else {
            return;
        };
        if let Some(spec) = &mut service.spec {
            match kind {
                0 => (spec.min, spec.max) = (spec.min, spec.min + number),
                1 => (spec.min, spec.max) = (number.min(1), spec.max.max(1)),
                2 => spec.request_signal = RequestSignal::Target(number + 1),
                _ => {
                    let was_paused = spec.paused.is_some();
                    spec.paused = (!was_paused).then(|| "scaling.paused is true".into());
                }
            }
        }
        self.tell(WatchedObject::Service(key));
    }

    fn delete_service(&mut self) {
        let Some(key) = self.any_service() else {
            return;
        };
        if let Some(service) = self.cluster.services.get_mut(&key) {
            (service.spec, service.deployment) = (None, None);
        }
        self.tell(WatchedObject::Service(key.clone()));
        self.tell(WatchedObject::Deployment(key.clone()));
        self.share_demand(&key);
        self.add_within(20, 300, SimEvent::PublishEndpoints(key.clone()));
        self.add_within(20, 2_000, SimEvent::ReconcileDeployment(key));
    }

    fn edit_job(&mut self) {
        let Some(key) = self.any_job() else { return };
        let deletes = self.chance(30);
        let Some(job) = self.cluster.jobs.get_mut(&key) else {
            return;
        };
        if deletes {
            job.spec = None;
            let roles: Vec<Name> = job.batch_jobs.keys().cloned().collect();
            job.batch_jobs
                .values_mut()
                .for_each(|batch| batch.running = false);
            self.reconcile_job(&key);
            if let Some(job) = self.cluster.jobs.get_mut(&key) {
                job.batch_jobs.clear();
            }
            for role in roles {
                self.tell(WatchedObject::BatchJob(key.clone(), role));
            }
        } else if let Some(spec) = &mut job.spec {
            spec.suspend = !spec.suspend;
        }
        self.tell(WatchedObject::Job(key));
    }

    fn edit_budget(&mut self) {
        let key = Key::new("team", "budget");
        let raises = self.chance(80);
        let more = i128::from(self.rng.u64(100..5_000)) * 1_000_000;
        let Some(budget) = self.cluster.budgets.get_mut(&key) else {
            return;
        };
        match raises {
            true => budget.limit += Money::from_nanos(more),
            false => {
                // less money than may be spent already: there is no promise about that
                budget.limit = Money::from_nanos((budget.limit.nanos() - more).max(1));
                if let Some(chaos) = &mut self.chaos {
                    chaos.edited.insert(key.clone());
                }
            }
        }
        self.tell(WatchedObject::Budget(key));
    }

    /// The namespace is charged a little more by hand.
    fn correct(&mut self) {
        let namespace = self.namespace();
        let correction = Correction {
            name: format!("correction-{}", self.number()),
            owner: CostOwner {
                namespace: namespace.to_string(),
                workload: String::new(),
            },
            date: self.zone.to_datetime(self.now).date(),
            amount: Money::from_nanos(i128::from(self.rng.u32(1..1_000)) * 1_000_000),
            currency: "USD".to_owned(),
        };
        let all = self
            .cluster
            .corrections
            .entry(namespace.clone())
            .or_default();
        all.push(correction);
        self.tell(WatchedObject::Corrections(namespace));
    }

    fn change_prices(&mut self) {
        if self.chaos.as_ref().is_some_and(|chaos| chaos.fixed_prices) {
            return;
        }
        if self.chance(30) {
            let before = self.cluster.catalog.clone();
            self.cluster.catalog = Arc::new(PriceCatalog::default());
            self.note(Fault::PriceUnknown);
            self.begin_fault(5_000, 60_000, RunningFault::NoPrices(before));
        } else {
            let price = self.rng.u32(10..60);
            self.cluster.catalog = catalog(&price.to_string(), "18");
        }
        self.tell(WatchedObject::Prices);
    }
}
