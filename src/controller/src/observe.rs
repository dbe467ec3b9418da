//! Everything that a decision over one namespace reads, from caches, signals and ledger, as the core's snapshot.

use std::collections::BTreeMap;

use bursar_api::quantities::FieldError;
use bursar_api::spend::{WorkloadKind, WorkloadRef};
use bursar_api::template;
use bursar_api::{BudgetPolicy, InferenceDeployment, TrainingJob};
use bursar_core::budget::{Budget, Load, OnExhausted};
use bursar_core::calendar::{Month, Period};
use bursar_core::capacity::{Gang, Room};
use bursar_core::correction;
use bursar_core::money::{Money, NANOS};
use bursar_core::plan::{Plan, Snapshot};
use bursar_core::scaling::{Demand, Service, Signal};
use bursar_core::training;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kube::ResourceExt;

use crate::capacity::{self, Reserved};
use crate::context::Context;
use crate::health;
use crate::inference::{self, build::fnv};
use crate::ledger::Accounts;
use crate::lock::lock;
use crate::pod;
use crate::pricing::effective;
use crate::scene::Scene;
use crate::training::job;
use bursar_core::drain::{self, SETTLE};

/// Between the moment that a budget is exhausted and the first order to stop, and between a container's end and its being seen.
const SLACK_SECONDS: i64 = 10;
/// A replica is read for the first time within this long of becoming ready.
const FIRST_READ: SignedDuration = SignedDuration::from_secs(5);

/// What workloads cost by the ledger.
#[derive(Default)]
pub(crate) struct Books {
    /// Accounts of those whose records can be read.
    pub(crate) accounts: BTreeMap<WorkloadRef, Accounts>,
    /// Why others' cannot, or why what these say is not certain enough to start something new.
    pub(crate) doubts: BTreeMap<WorkloadRef, String>,
}

impl Scene {
    /// The snapshot that a plan is made of. A service whose settings cannot be read is not in it.
    pub(crate) fn snapshot(
        &self,
        context: &Context,
        books: &Books,
        reserved: &Reserved,
    ) -> Snapshot {
        let services = self
            .services
            .iter()
            .filter_map(|object| self.observe_service(context, object).ok())
            .collect();
        let jobs = self
            .jobs
            .iter()
            .filter_map(|object| self.observe_job(context, object, reserved))
            .collect();
        let budgets = self
            .budgets
            .iter()
            .map(|object| {
                let budget = self.budget(context, object, books);
                budget.unwrap_or_else(|error| {
                    unreadable_budget(&object.name_any(), &error.to_string())
                })
            })
            .chain(
                self.unreadable_budgets
                    .iter()
                    .map(|(name, why)| unreadable_budget(name, why)),
            )
            .collect();
        let (nodes, pods) = (context.stores.nodes.state(), context.stores.pods.state());
        let mut capacity = capacity::capacity(
            nodes.iter().map(AsRef::as_ref),
            pods.iter().map(AsRef::as_ref),
        );
        for gang in capacity::awaited(&context.stores, &self.namespace, reserved, self.now) {
            capacity.place(&gang);
        }
        Snapshot {
            services,
            jobs,
            budgets,
            loads: self.loads(context, &books.accounts),
            capacity,
            zone: context.zone.clone(),
        }
    }

    /// What a plan gives room to and no cache shows as ordered: all workers of each such workload.
    pub(crate) fn orders(
        &self,
        context: &Context,
        snapshot: &Snapshot,
        plan: &Plan,
    ) -> Vec<(WorkloadRef, Gang)> {
        let all = |gang: &Gang, workers| Gang {
            workers,
            ..gang.clone()
        };
        let services = snapshot.services.iter().zip(&plan.services);
        let grown = services
            .filter(|(service, decision)| decision.allowed > service.current)
            .map(|(service, decision)| {
                let workload = self.workload(WorkloadKind::InferenceDeployment, &service.name);
                (workload, all(&service.replica, decision.allowed))
            });
        let started = plan.jobs.iter().filter(|turn| {
            let found = job::batch_job(&context.stores, &self.namespace, &turn.name);
            turn.run && !found.as_deref().is_some_and(job::is_running)
        });
        let started = started.filter_map(|turn| {
            let job = snapshot.jobs.iter().find(|job| job.name == turn.name)?;
            let workload = self.workload(WorkloadKind::TrainingJob, &job.name);
            Some((workload, job.roles.first()?.gang.clone()))
        });
        grown.chain(started).collect()
    }

    fn budget(
        &self,
        context: &Context,
        object: &BudgetPolicy,
        books: &Books,
    ) -> Result<Budget, FieldError> {
        let budget = object.to_core(Money::ZERO, Money::ZERO)?;
        let period = budget.period.bounds(self.now, &context.zone);
        let spent = context.ledger.spent(&self.namespace, period, self.now);
        let corrections = correction::sum(&self.corrections, period, self.now, &context.zone);
        let doubt =
            books.doubts.iter().next().map(|(workload, why)| {
                let workload = workload.cost_owner().workload;
                format!("{workload}: {why}; so what was spent is not known for certain, and nothing new starts")
            });
        Ok(Budget {
            spent: spent + corrections,
            corrections,
            doubt,
            ..budget
        })
    }

    fn observe_service(
        &self,
        context: &Context,
        object: &InferenceDeployment,
    ) -> Result<Service, FieldError> {
        let settings = object.spec.settings()?;
        let key = (self.namespace.clone(), object.name_any());
        let pods = self.pods_of(&self.workload(WorkloadKind::InferenceDeployment, &key.1));
        let declared = inference::declared(inference::deployment(context, object).as_deref());
        let replicas = inference::replicas(context, object, &pods, self.now);
        let current = drain::staying(declared, &replicas);
        let staying = replicas
            .iter()
            .filter(|replica| replica.draining_since.is_none());
        let present = u32::try_from(staying.count())
            .unwrap_or(u32::MAX)
            .min(current);
        let alive =
            |pod: &&&Pod| pod.metadata.deletion_timestamp.is_none() && !pod::is_terminal(pod);
        let (ready, engine, mut active_at) = {
            let readings = lock(&context.readings);
            let readings = readings.get(&key);
            // one that has just become ready is not unknown, only not read yet
            let fresh = |pod: &Pod| {
                let known = readings.is_some_and(|readings| readings.knows(pod::uid(pod)));
                !known
                    && pod::ready_since(pod)
                        .is_none_or(|at| self.now.duration_since(at) < FIRST_READ)
            };
            let ready: Vec<(String, String)> = pods
                .iter()
                .filter(alive)
                .filter(|pod| pod::is_ready(pod) && !fresh(pod))
                .map(|pod| (pod::uid(pod).to_owned(), pod.name_any()))
                .collect();
            let of_ready = ready
                .iter()
                .map(|(uid, name)| (uid.as_str(), name.as_str()));
            let signal = readings.map_or(Signal::Absent, |readings| {
                readings.signal(of_ready, self.now)
            });
            let active_at = readings.and_then(bursar_signals::store::Readings::active_at);
            (ready, signal, active_at)
        };
        let (held, _) = lock(&context.demands).held(&key.0, &key.1, self.now);
        let alive: Vec<&Pod> = pods.iter().filter(alive).copied().collect();
        let stuck = health::start_failed(&alive, self.now);
        if ready.is_empty() && active_at.is_none() {
            // nothing to read: what starts now has the whole idle time before it
            active_at = youngest(&pods);
        }
        let mut histories = lock(&context.histories);
        let history = histories.entry(key).or_insert_with(|| {
            let mut history = bursar_core::scaling::History::default();
            history.record(current, settings.window, self.now);
            history
        });
        Ok(Service {
            name: object.name_any(),
            min: settings.min,
            max: settings.max,
            target: settings.target,
            window: settings.window,
            idle_after: settings.idle_after,
            // what demand makes of a service that cannot be read now is not known
            paused: object.spec.scaling.paused || context.unreadable.contains(object),
            demand: match object.spec.activation.mode {
                bursar_api::inference::ActivationMode::OnDemand => Demand::Welcome,
                bursar_api::inference::ActivationMode::Never => Demand::Unwelcome,
            },
            engine,
            held,
            unheard: context.unreachable_gateway(self.now),
            active_at,
            current,
            present,
            stuck,
            history: history.clone(),
            load: Load {
                rate: self.estimate(context, object.spec.template.as_ref(), None),
                stop_seconds: service_stop_seconds(
                    object.spec.template.as_ref(),
                    settings.drain_timeout,
                ),
            },
            replica: gang(object.spec.template.as_ref(), 1),
        })
    }

    fn observe_job(
        &self,
        context: &Context,
        object: &TrainingJob,
        reserved: &Reserved,
    ) -> Option<training::Job> {
        let name = object.name_any();
        let workload = self.workload(WorkloadKind::TrainingJob, &name);
        let found = job::batch_job(&context.stores, &self.namespace, &name);
        if found
            .as_deref()
            .is_some_and(|job| job::finished(job).is_some())
        {
            return None;
        }
        let status = found.as_ref().and_then(|job| job.status.as_ref());
        let left = status.map_or(0, |status| {
            status.active.unwrap_or(0) + status.terminating.unwrap_or(0)
        });
        let running = found.as_deref().is_some_and(job::is_running);
        if !running && context.unreadable.contains(object) {
            return None;
        }
        let workers = u32::try_from(object.spec.replicas).unwrap_or(0);
        let pods = self.pods_of(&workload);
        let ended_well = status.and_then(|status| status.succeeded).unwrap_or(0);
        let present = pods.iter().filter(|pod| pod::is_present(pod)).count();
        let present =
            u32::try_from(present).unwrap_or(u32::MAX) + u32::try_from(ended_well).unwrap_or(0);
        Some(training::Job {
            priority: priority(context, object),
            created: object.creation_timestamp().map_or(self.now, |time| time.0),
            suspend: object.spec.suspend,
            // its order was given, though no cache shows it yet
            running: running || reserved.holds(&workload, self.now),
            incomplete_since: found
                .as_deref()
                .filter(|_| running)
                .and_then(|job| job::incomplete_since(job, &pods, present < workers)),
            retry: found.as_deref().and_then(job::retry),
            seed: fnv(object.uid().unwrap_or_default().as_bytes()),
            settled: left == 0,
            roles: vec![training::Role {
                gang: gang(Some(&object.spec.template), workers),
                worker: Load {
                    rate: self.estimate(context, Some(&object.spec.template), None),
                    stop_seconds: template::grace_seconds(&object.spec.template) + SLACK_SECONDS,
                },
                present,
            }],
            name,
        })
    }

    fn estimate(
        &self,
        context: &Context,
        template: Option<&PodTemplateSpec>,
        pod: Option<&Pod>,
    ) -> Option<Money> {
        let spec = template.and_then(|template| template.spec.clone())?;
        let gang = capacity::gang(&spec, 1);
        let claims = &self.claims;
        let facts = claims.planned(&context.stores, &self.namespace, &spec, pod)?;
        let nodes = context.stores.nodes.state();
        let nodes = nodes.iter().map(AsRef::as_ref);
        effective::estimate(&self.prices, &facts, &gang, nodes, self.now)
    }

    /// Every GPU pod that costs money or is about to.
    fn loads(&self, context: &Context, accounts: &BTreeMap<WorkloadRef, Accounts>) -> Vec<Load> {
        let month = Month::containing(self.now, &context.zone);
        let mut loads = Vec::new();
        for pod in self
            .pods
            .iter()
            .filter(|pod| !pod::is_terminal(pod) && self.claims.holds_gpus(pod))
        {
            let Some(workload) = pod::workload_of(pod) else {
                continue;
            };
            let account = accounts
                .get(&workload)
                .and_then(|accounts| accounts.get(&month));
            let open = account.and_then(|account| account.open_charge(pod::uid(pod)));
            let template = self.template(&workload);
            let rate = match open {
                Some(charge) => charge.rate().map(|quote| quote.cost.total()),
                None => self.estimate(
                    context,
                    Some(&PodTemplateSpec {
                        spec: pod.spec.clone(),
                        ..PodTemplateSpec::default()
                    }),
                    Some(pod),
                ),
            };
            let going = pod
                .metadata
                .deletion_timestamp
                .as_ref()
                .map(|at| at.0.duration_since(self.now).as_secs().max(0) + SLACK_SECONDS);
            let stop_seconds = going.unwrap_or_else(|| match (workload.kind, template) {
                // a budget counts it, and cannot stop it
                (WorkloadKind::Unmanaged | WorkloadKind::Node, _) => 0,
                (WorkloadKind::InferenceDeployment, Some((template, drain))) => {
                    service_stop_seconds(Some(&template), drain)
                }
                (_, Some((template, _))) => template::grace_seconds(&template) + SLACK_SECONDS,
                // its workload is gone: Kubernetes is stopping it
                (_, None) => {
                    pod.spec
                        .as_ref()
                        .and_then(|spec| spec.termination_grace_period_seconds)
                        .unwrap_or(30)
                        + SLACK_SECONDS
                }
            });
            loads.push(Load { rate, stop_seconds });
        }
        loads
    }

    fn template(&self, workload: &WorkloadRef) -> Option<(PodTemplateSpec, SignedDuration)> {
        match workload.kind {
            WorkloadKind::InferenceDeployment => {
                let service = self
                    .services
                    .iter()
                    .find(|service| service.name_any() == workload.name)?;
                let drain = service.spec.settings().ok()?.drain_timeout;
                Some((service.spec.template.clone()?, drain))
            }
            WorkloadKind::Unmanaged | WorkloadKind::Node | WorkloadKind::Folded => None,
            WorkloadKind::TrainingJob => {
                let job = self
                    .jobs
                    .iter()
                    .find(|job| job.name_any() == workload.name)?;
                Some((job.spec.template.clone(), SignedDuration::ZERO))
            }
        }
    }
}

/// What stands for a budget that cannot be read: it lets nothing new start, and stops nothing.
fn unreadable_budget(name: &str, why: &str) -> Budget {
    Budget {
        name: name.to_owned(),
        // more than any budget may have
        limit: Money::from_nanos(i128::from(i64::MAX) * NANOS),
        period: Period::Monthly,
        on_exhausted: OnExhausted::Freeze,
        minimum_useful_run: SignedDuration::ZERO,
        latch: None,
        spent: Money::ZERO,
        corrections: Money::ZERO,
        doubt: Some(format!(
            "BudgetPolicy {name} cannot be read: {why}; nothing new starts until it can"
        )),
    }
}

/// Seconds from the order to stop a replica until it costs nothing.
fn service_stop_seconds(template: Option<&PodTemplateSpec>, drain: SignedDuration) -> i64 {
    drain.max(SETTLE).as_secs() + template.map_or(0, template::grace_seconds) + SLACK_SECONDS
}

fn gang(template: Option<&PodTemplateSpec>, workers: u32) -> Gang {
    let spec = template.and_then(|template| template.spec.as_ref());
    spec.map_or_else(Gang::default, |spec| capacity::gang(spec, workers))
}

fn youngest(pods: &[&Pod]) -> Option<Timestamp> {
    pods.iter()
        .filter_map(|pod| pod.metadata.creation_timestamp.as_ref())
        .map(|time| time.0)
        .max()
}

/// The value of a job's PriorityClass, or of the cluster's default one. A class that is not there counts nothing: Kubernetes will
/// admit no pod of it.
fn priority(context: &Context, object: &TrainingJob) -> i32 {
    let classes = &context.stores.priorities;
    let of_pods = || {
        object
            .spec
            .template
            .spec
            .as_ref()?
            .priority_class_name
            .as_ref()
    };
    let class = match object.spec.priority_class_name.as_ref().or_else(of_pods) {
        Some(name) => classes.find(|class| class.name_any() == *name),
        None => classes.find(|class| class.global_default == Some(true)),
    };
    class.and_then(|class| class.value).unwrap_or(0)
}
