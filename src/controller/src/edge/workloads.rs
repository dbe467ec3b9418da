//! Workloads, budgets and what they own as the model's values.

use bursar_api::engine::Engine;
use bursar_api::inference::{ActivationMode, LearnedStatus};
use bursar_api::names::SERVING_LABEL;
use bursar_api::template::grace_seconds;
use bursar_api::{BudgetPolicy, InferenceDeployment, TrainingJob};
use bursar_core::budget::{BudgetRecord, OnExhausted, Unmanaged};
use bursar_core::calendar::Period;
use bursar_core::model::event::{BatchJob, Budget, Event, Name, ReplicaWorkers, Service};
use bursar_core::model::{DEFAULT_WEIGHT, Key};
use bursar_core::money::{Money, NANOS};
use bursar_core::scaling::Activation;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::ResourceExt;

use super::claims::ClaimIndex;
use super::objects;
use crate::cache::cached;
use crate::context::Context;
use crate::inference::build::fnv;
use crate::job_target;
use crate::lock::lock;
use crate::object_key::ObjectKey;
use crate::ownership::is_owned;
use crate::pod;
use crate::priority::Priority;
use crate::scale_target::{self, TargetView};
use crate::slice_index::ready_endpoints;
use crate::training::job::{is_running, role_jobs, to_core};

/// Reads workloads and budgets for one batch of events.
pub(super) struct WorkloadReader<'a> {
    pub(super) context: &'a Context,
    pub(super) claims: &'a ClaimIndex,
    pub(super) now: Timestamp,
}

/// Stands for where and by which metrics the measures of a service's engines are read; 0 if that cannot
/// be told.
fn measured_by(object: &InferenceDeployment) -> u64 {
    let Some(engine) = object.spec.engine_settings().ok().flatten() else {
        return 0;
    };
    let page = (engine.metrics_port, engine.metrics_path);
    let measures = [
        engine.kv_cache_use,
        engine.time_to_first_token,
        engine.inter_token_latency,
    ];
    fnv(format!("{page:?} {measures:?}").as_bytes())
}

impl WorkloadReader<'_> {
    /// An InferenceDeployment. One whose settings cannot be read is not decided over.
    pub(super) fn service(&mut self, key: &Key) -> Event {
        let object = cached(&self.context.stores.services, key);
        let object = object.filter(|object| object.metadata.deletion_timestamp.is_none());
        let service = object.and_then(|object| self.service_of(key, &object));
        Event::Service(key.clone(), service)
    }

    /// Why demand changes nothing of a service, if it does not.
    fn paused(&self, object: &InferenceDeployment, target: Option<&TargetView>) -> Option<Name> {
        if object.spec.scaling.paused {
            return Some("scaling.paused is true".into());
        }
        if let Some(target) = target.filter(|target| target.is_held()) {
            let problem = target.problem.as_ref();
            let why = problem.map_or(scale_target::NOT_LABELLED, |problem| &problem.message);
            return Some(format!("its target is not scaled: {why}").into());
        }
        // what demand makes of a service that cannot be read now is not known
        let is_unreadable = self.context.unreadable.contains(object);
        is_unreadable.then(|| "its manifest cannot be read any more".into())
    }

    fn service_of(&mut self, key: &Key, object: &InferenceDeployment) -> Option<Service> {
        let mut settings = object.spec.settings().ok()?;
        let is_recorded = scale_target::is_recorded(object);
        let view = match &object.spec.target_ref {
            // nothing is decided before it was read
            Some(_) => {
                let targets = &self.context.scale_targets;
                targets.note_recorded(key, is_recorded);
                Some(targets.view(key)?)
            }
            None => None,
        };
        let target = view.as_ref().and_then(|view| view.target.as_ref());
        let is_held = view.as_ref().is_some_and(TargetView::is_held);
        if is_held {
            let replicas = target.map_or(0, |target| target.state.replicas);
            (settings.min, settings.max) = (0, settings.max.max(replicas));
        }
        let nothing = PodTemplateSpec::default();
        let own = object.spec.template.as_ref();
        let template = own
            .or(target.map(|target| &target.template))
            .unwrap_or(&nothing);
        let spec = template.spec.clone().unwrap_or_default();
        let class = scale_target::status::priority_class(self.context, object);
        let priority = Priority::of(self.context, &key.namespace, class.as_deref());
        let never_wakes = view
            .as_ref()
            .is_some_and(|view| scale_target::status::never_wakes(object, view));
        let has_replicas = target.is_some_and(|target| target.state.replicas > 0);
        if never_wakes && has_replicas && !is_held {
            // nothing would start another one
            settings.min = settings.min.max(1);
        }
        Some(Service {
            created: self.created(object),
            priority: priority.value,
            cluster_priority: priority.in_cluster,
            weight: u32::try_from(object.spec.weight).unwrap_or(DEFAULT_WEIGHT),
            min: self.min_replicas(key, settings.min),
            max: settings.max,
            request_signal: settings.request_signal,
            signals: settings
                .signals
                .into_iter()
                .map(|(name, rule)| (name.into(), rule))
                .collect(),
            measured_by: measured_by(object),
            growth: settings.growth,
            learned: object
                .status
                .as_ref()
                .and_then(|status| status.learned)
                .and_then(LearnedStatus::throughput),
            behavior: settings.behavior,
            schedules: settings.schedules,
            on_signal_failure: settings.on_signal_failure,
            idle_after: settings.idle_after,
            drain_timeout: settings.drain_timeout,
            paused: self.paused(object, view.as_ref()),
            activation: match object.spec.activation.mode {
                ActivationMode::OnDemand | ActivationMode::Always => Activation::OnDemand,
                ActivationMode::Never => Activation::Never,
            },
            replica: self.claims.shape(self.context, &key.namespace, &spec),
            grace_seconds: grace_seconds(template),
            workers: target
                .and_then(|target| target.workers.as_ref())
                .map(|workers| {
                    Box::new(ReplicaWorkers {
                        count: workers.count,
                        shape: {
                            let spec = workers.template.spec.clone().unwrap_or_default();
                            self.claims.shape(self.context, &key.namespace, &spec)
                        },
                        grace_seconds: grace_seconds(&workers.template),
                    })
                }),
        })
    }

    /// The fewest replicas: a service without a port on gateways keeps one that it has, since no
    /// request would wake another.
    fn min_replicas(&self, key: &Key, min: u32) -> u32 {
        let deployment = || cached(&self.context.stores.deployments, key);
        let target = || self.context.scale_targets.view(key)?.target;
        let has_replicas = || {
            deployment().is_some_and(|found| found.spec.replicas > Some(0))
                || target().is_some_and(|target| target.state.replicas > 0)
        };
        match min == 0 && self.context.ports.is_waiting(key) && has_replicas() {
            true => 1,
            false => min,
        }
    }

    /// The Deployment of a service. One that the service does not own orders no replicas, whatever
    /// its labels say.
    pub(super) fn deployment(&self, key: &Key) -> Event {
        let stores = &self.context.stores;
        let service = cached(&stores.services, key);
        if service
            .as_ref()
            .is_some_and(|service| service.spec.target_ref.is_some())
        {
            let is_recorded = service.as_deref().is_some_and(scale_target::was_adopted);
            let view = self.context.scale_targets.view(key);
            let value = view.map(|view| view.deployment(is_recorded));
            return Event::Deployment(key.clone(), value);
        }
        let owner = service.as_ref().and_then(|service| service.uid());
        let found = cached(&stores.deployments, key);
        let owned = found.filter(|found| is_owned(&**found, owner.as_deref()));
        let value = owned.as_deref().map(objects::deployment);
        Event::Deployment(key.clone(), value)
    }

    /// The Job of a role of a TrainingJob. One that the TrainingJob does not own, such as that of one which
    /// was deleted and made anew under its name, says nothing but that it is there: it lets no worker run
    /// and has not ended, and the role is not settled before its workers are gone.
    pub(super) fn role_job(&self, key: &Key, of: &Key, role: &Name) -> Event {
        let stores = &self.context.stores;
        let object = cached(&stores.jobs, of);
        let owner = object.as_ref().and_then(|object| object.uid());
        let value = cached(&stores.batch_jobs, key).map(|found| {
            let is_owned = owner.is_none() || is_owned(&*found, owner.as_deref());
            let value = to_core(&found);
            match is_owned {
                true => BatchJob {
                    creation_failure: self.context.refusals.report(key),
                    ..value
                },
                false => BatchJob {
                    active: value.active,
                    uid: value.uid,
                    ..BatchJob::default()
                },
            }
        });
        Event::BatchJob(of.clone(), role.clone(), value)
    }

    /// A TrainingJob. One that cannot be read does not start, and goes on if it runs.
    pub(super) fn job(&mut self, key: &Key) -> Event {
        let object = cached(&self.context.stores.jobs, key);
        let object = object.filter(|object| object.metadata.deletion_timestamp.is_none());
        let runs = |object: &TrainingJob| {
            if let Some(view) = self.context.job_targets.view(key) {
                let target = view.controlled();
                return target.is_some_and(|target| !target.suspended);
            }
            let roles = role_jobs(&self.context.stores, object);
            let mut jobs = roles.iter().filter_map(|role| role.job.as_deref());
            jobs.any(is_running)
        };
        let may_start =
            |object: &TrainingJob| !self.context.unreadable.contains(object) || runs(object);
        let object = object.filter(|object| may_start(object));
        let job = object.and_then(|object| {
            let class = job_target::events::priority_class(self.context, key, &object);
            let priority = Priority::of(self.context, &key.namespace, class.as_deref());
            let seed = fnv(object.uid().unwrap_or_default().as_bytes());
            let shape = |template: &PodTemplateSpec| {
                let spec = template.spec.clone().unwrap_or_default();
                self.claims.shape(self.context, &key.namespace, &spec)
            };
            let priority = (priority.value, priority.in_cluster);
            match object.spec.target_ref {
                // nothing is decided before it was read
                Some(_) => {
                    job_target::events::job(self.context, key, &object, (priority, seed), shape)
                }
                None => object.to_core(priority, seed, shape).ok(),
            }
        });
        Event::Job(key.clone(), job)
    }

    fn created<K: ResourceExt>(&self, object: &K) -> Timestamp {
        let created = object.creation_timestamp();
        created.map_or(self.now, |time| time.0)
    }

    /// A BudgetPolicy, and whether one of its namespace cannot be read.
    pub(super) fn budget(&self, key: &Key) -> [Event; 2] {
        let unreadable = &self.context.unreadable;
        let why = unreadable.why::<BudgetPolicy>(&key.namespace, &key.name);
        let object = cached(&self.context.stores.budgets, key);
        let budget = match (&object, &why) {
            (_, Some(_)) => Some(unreadable_budget()),
            (None, None) => None,
            (Some(object), None) => Some(budget_of(object).unwrap_or_else(unreadable_budget)),
        };
        let doubt = self.budget_doubt(&key.namespace);
        [
            Event::Budget(key.clone(), budget),
            Event::BudgetDoubt(key.namespace.clone(), doubt),
        ]
    }

    /// Why a budget of the namespace cannot be read.
    fn budget_doubt(&self, namespace: &Name) -> Option<Name> {
        let unreadable = &self.context.unreadable;
        let object = unreadable
            .in_namespace::<BudgetPolicy>(namespace)
            .into_iter()
            .next()?;
        let (name, why) = (&object.name, object.why());
        Some(
            format!("BudgetPolicy {name} cannot be read: {why}; nothing new starts until it can")
                .into(),
        )
    }

    /// The pods of a target that get requests: those that are ready, and have the serving label where its
    /// Service selects by that. The slices of its Service have no label by which they are watched.
    pub(super) fn target_endpoints(&self, key: &Key, object: &InferenceDeployment) -> Event {
        let view = self.context.scale_targets.view(key);
        let target = view.and_then(|view| view.target);
        let by_label = target.is_some_and(|target| target.drains_by_label());
        let takes_requests = object.spec.engine != Engine::None;
        let workload = ObjectKey::Service(key.clone()).workload();
        let index = lock(&self.context.index);
        let pods = workload.map(|workload| index.pods_of(&self.context.stores.pods, &workload));
        let ready = pods.into_iter().flatten().filter(|pod| {
            let serves = !by_label || pod::label(pod, SERVING_LABEL).is_some();
            let leads = pod::leader(pod).is_none();
            takes_requests && leads && serves && pod::is_ready(pod)
        });
        let ready = ready.map(|pod| pod::uid(&pod).into()).collect();
        Event::Endpoints(key.clone(), ready)
    }

    /// The pods that the endpoints of a service show as ready.
    pub(super) fn endpoints<'s>(&self, key: &Key, slices: impl Iterator<Item = &'s Name>) -> Event {
        let service = cached(&self.context.stores.services, key);
        if let Some(service) = service.filter(|service| service.spec.target_ref.is_some()) {
            return self.target_endpoints(key, &service);
        }
        let mut ready: Vec<Name> = Vec::new();
        for name in slices {
            let slice = Key {
                namespace: key.namespace.clone(),
                name: name.clone(),
            };
            if let Some(slice) = cached(&self.context.stores.slices, &slice) {
                ready.extend(ready_endpoints(&slice).map(Name::from));
            }
        }
        Event::Endpoints(key.clone(), ready)
    }
}

fn budget_of(object: &BudgetPolicy) -> Option<Budget> {
    let budget = object.to_core(Money::ZERO, Money::ZERO).ok()?;
    Some(Budget {
        limit: budget.limit,
        period: budget.period,
        on_exhausted: budget.on_exhausted,
        minimum_useful_run: budget.minimum_useful_run,
        unmanaged: budget.unmanaged,
        latch: budget.latch,
        record: object.record().ok()?,
    })
}

/// What stands for a budget that cannot be read: it stops nothing. That nothing starts while it is
/// there is the namespace's doubt.
fn unreadable_budget() -> Budget {
    Budget {
        // more than any budget may have
        limit: Money::from_nanos(i128::from(i64::MAX) * NANOS),
        period: Period::Monthly,
        on_exhausted: OnExhausted::Freeze,
        minimum_useful_run: SignedDuration::ZERO,
        unmanaged: Unmanaged::Leave,
        latch: None,
        record: BudgetRecord {
            unreadable: true,
            ..BudgetRecord::default()
        },
    }
}
