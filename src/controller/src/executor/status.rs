//! What the statuses of workloads and budgets are made of, and their writes.

use std::sync::Arc;

use bursar_api::engine::Engine;
use bursar_api::revenue::Revenue;
use bursar_api::spend::{SpendSummary, WorkloadRef};
use bursar_api::training::JobPhase;
use bursar_core::budget::{BudgetState, Latch};
use bursar_core::calendar::Month;
use bursar_core::correction;
use bursar_core::model::{JobView, ServiceView};
use bursar_core::money::Money;
use bursar_core::plan::LimitedBy;
use jiff::Timestamp;
use kube::{Resource, ResourceExt};

use crate::api_calls::ApiError;
use crate::budget;
use crate::cache::cached;
use crate::cluster_bill;
use crate::context::Context;
use crate::corrections;
use crate::events;
use crate::health;
use crate::inference;
use crate::job_target;
use crate::ledger::AccountView;
use crate::lock::lock;
use crate::object_key::ObjectKey;
use crate::paused;
use crate::pricing::condition::{self, PricingState};
use crate::priority::Priority;
use crate::scale_target;
use crate::signals;
use crate::spend_status::{self, summary};
use crate::status::{self, StatusObject};
use crate::status_pacing::{NextStatus, StatusPacing};
use crate::training;

use super::queue::Outcome;

/// The decision that a status tells.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum StatusInput {
    /// Of a service.
    Service(ServiceView),
    /// Of a TrainingJob.
    Job(JobView),
    /// Of a budget.
    Budget(BudgetState),
}

impl StatusInput {
    /// The latch of a budget.
    pub(super) fn latch(&self) -> Option<Latch> {
        match self {
            Self::Budget(budget_state) => budget_state.budget.latch,
            Self::Service(_) | Self::Job(_) => None,
        }
    }
}

/// Writes the status of an object if it is due. `failure` says why what it owns is not what it
/// should be. Returns when its status may be another
/// although nothing happens, or that the last write must be seen first.
///
/// # Errors
/// The status could not be written.
pub(super) async fn write(
    context: &Context,
    subject: &ObjectKey,
    input: &StatusInput,
    failure: Option<String>,
    now: Timestamp,
) -> Result<Outcome, ApiError> {
    match (subject, input) {
        (ObjectKey::Service(_), StatusInput::Service(view)) => {
            write_service(context, subject, view, failure, now).await
        }
        (ObjectKey::Job(_), StatusInput::Job(view)) => {
            write_job(context, subject, view, failure, now).await
        }
        (ObjectKey::Budget(_), StatusInput::Budget(budget_state)) => {
            write_budget(context, subject, budget_state, now).await
        }
        _ => Ok(Outcome::Done(None)),
    }
}

async fn write_service(
    context: &Context,
    subject: &ObjectKey,
    view: &ServiceView,
    failure: Option<String>,
    now: Timestamp,
) -> Result<Outcome, ApiError> {
    let Some(object) = cached(&context.stores.services, subject.key()) else {
        return Ok(forget(context, subject));
    };
    let Some(workload) = subject.workload() else {
        return Ok(Outcome::Done(None));
    };
    let decision = &view.decision;
    let unpriced =
        decision.limited_by == Some(LimitedBy::PriceUnknown) && view.running_cost.rate.is_none();
    let old = object
        .status
        .as_ref()
        .and_then(|status| status.spend.as_ref());
    let account = SpendReader { context, now }.account(&workload);
    let mut spend = account.pricing(old, unpriced);
    let terms = object.spec.revenue.as_ref().map(Revenue::to_core);
    if let (Some(Ok(terms)), Some(view)) = (terms, account.readable()) {
        let earnings = spend_status::earnings(&terms, &view.accounts, now, &context.zone);
        spend.summary.earnings = Some(earnings);
    }
    let pods = lock(&context.index).pods_of(&context.stores.pods, &workload);
    let pods: Vec<_> = pods.iter().map(AsRef::as_ref).collect();
    let target = scale_target::status::parts(context, subject.key(), &object);
    let deployment = cached(&context.stores.deployments, subject.key());
    let deployment = deployment.filter(|_| object.spec.target_ref.is_none());
    let creation_failure = deployment.and_then(|found| health::pod_creation_failure(&found));
    let creation_failure = creation_failure.map(|failure| failure.why.to_string());
    let creation_failure = creation_failure.or_else(|| target.creation_failure.clone());
    let namespace = &workload.namespace;
    let class = scale_target::status::priority_class(context, &object);
    let priority = Priority::of(context, namespace, class.as_deref());
    let port = inference::port(context, &object, now);
    let not_woken = match (object.spec.engine, &object.spec.target_ref) {
        (Engine::None, _) | (_, Some(_)) => None,
        _ => inference::request_path::condition(context, &object, port.is_ok()),
    };
    let parts = inference::status::StatusParts {
        decision,
        signals: signals::status::statuses(context, &object, decision, now),
        learned: view.learned,
        pods: &pods,
        creation_failure: creation_failure.as_deref(),
        target,
        port,
        spend,
        failure,
        observe_only: context.observe_only,
        priority_limit: priority.limit(namespace),
        unreachable: context
            .unreachable_replicas
            .condition(subject.key(), &context.namespace),
        not_woken,
        paused: paused::condition(
            subject,
            context.paused_by(&workload.namespace),
            object.spec.scaling.paused,
        ),
        now,
    };
    let next = |pacing: &mut StatusPacing| inference::status::next(&object, pacing, parts);
    write_paced(context, subject, &*object, now, next).await
}

async fn write_job(
    context: &Context,
    subject: &ObjectKey,
    view: &JobView,
    failure: Option<String>,
    now: Timestamp,
) -> Result<Outcome, ApiError> {
    let Some(object) = cached(&context.stores.jobs, subject.key()) else {
        return Ok(forget(context, subject));
    };
    let Some(workload) = subject.workload() else {
        return Ok(Outcome::Done(None));
    };
    let decision = view.decision.as_ref();
    let is_limited =
        decision.is_some_and(|decision| decision.limited_by == Some(LimitedBy::PriceUnknown));
    let old = object
        .status
        .as_ref()
        .and_then(|status| status.spend.as_ref());
    let account = SpendReader { context, now }.account(&workload);
    let spend = account.pricing(old, is_limited && !view.has_known_price);
    let pods = lock(&context.index).pods_of(&context.stores.pods, &workload);
    let pods: Vec<_> = pods.iter().map(AsRef::as_ref).collect();
    let target = job_target::status::parts(context, subject.key(), &object);
    let roles = match &target {
        Some(target) => target.roles(context, subject.key()),
        None => training::job::role_jobs(&context.stores, &object),
    };
    let namespace = object.namespace().unwrap_or_default();
    let class = job_target::events::priority_class(context, subject.key(), &object);
    let priority = Priority::of(context, &namespace, class.as_deref());
    let parts = training::status::StatusParts {
        view,
        roles: &roles,
        target: target.as_ref(),
        pods: &pods,
        spend,
        priority_limit: priority.limit(&namespace),
        paused: paused::condition(subject, context.paused_by(&namespace), object.spec.paused),
        failure,
        now,
    };
    let next = |pacing: &mut StatusPacing| training::status::next(&object, pacing, parts);
    write_paced(context, subject, &*object, now, next).await
}

async fn write_budget(
    context: &Context,
    subject: &ObjectKey,
    budget_state: &BudgetState,
    now: Timestamp,
) -> Result<Outcome, ApiError> {
    let Some(object) = cached(&context.stores.budgets, subject.key()) else {
        return Ok(forget(context, subject));
    };
    let prices = context.prices(now);
    let currency = &prices.lists.currency;
    let scope = context.paused_by(&subject.key().namespace);
    let paused = paused::condition(subject, scope, false);
    let pending = budget_state.pending.as_ref();
    let running =
        pending.map(|change| running(context, &subject.key().namespace, change.stops_below));
    let running = running.unwrap_or_default();
    let unknown = lock(&context.index).unknown_accelerators(&subject.key().namespace);
    let others = budget::accelerators_known(&unknown)
        .into_iter()
        .chain(paused);
    let next = |pacing: &mut StatusPacing| {
        budget::next(
            &object,
            pacing,
            budget_state,
            others.collect(),
            &running,
            currency,
            now,
        )
    };
    let before = object
        .status
        .as_ref()
        .and_then(|status| status.latch.as_ref());
    let before = before.map(|latch| (latch.period_start.0, latch.stops_below));
    let outcome = write_paced(context, subject, &*object, now, next).await?;
    let is_written = matches!(outcome, Outcome::Done(_)) && is_last_write(context, subject, now);
    if is_written && let Some(event) = events::of_latch(before, budget_state) {
        context.events.send(object.object_ref(&()), event);
    }
    Ok(outcome)
}

/// The workloads of a namespace that run, of a lower priority than this.
fn running(context: &Context, namespace: &str, below: Option<i32>) -> Vec<String> {
    let is_below = |class: Option<&str>| {
        let priority = Priority::of(context, namespace, class).value;
        below.is_none_or(|below| priority < below)
    };
    let here = |object: Option<String>| object.as_deref() == Some(namespace);
    let services = context.stores.services.state().into_iter();
    let services = services.filter(|service| {
        let status = service.status.as_ref();
        here(service.namespace())
            && status.is_some_and(|status| status.replicas > 0)
            && is_below(service.spec.priority_class())
    });
    let jobs = context.stores.jobs.state().into_iter();
    let jobs = jobs.filter(|job| {
        let phase = job.status.as_ref().map(|status| status.phase);
        here(job.namespace())
            && matches!(phase, Some(JobPhase::Starting | JobPhase::Running))
            && is_below(job.spec.priority_class())
    });
    let services = services.map(|service| format!("infd/{}", service.name_any()));
    let mut all: Vec<String> = services.collect();
    all.extend(jobs.map(|job| format!("tj/{}", job.name_any())));
    all.sort();
    all
}

/// Whether the status of an object was written at `now`.
fn is_last_write(context: &Context, subject: &ObjectKey, now: Timestamp) -> bool {
    let memories = lock(&context.status_memories);
    let memory = memories.get(subject);
    memory.is_some_and(|memory| memory.is_written_at(now))
}

/// Writes the status of an object that `next` computes, if it is due. The status of an object that cannot be read is written by
/// another task.
async fn write_paced<K: StatusObject>(
    context: &Context,
    subject: &ObjectKey,
    object: &K,
    now: Timestamp,
    next: impl FnOnce(&mut StatusPacing) -> NextStatus<K::Status>,
) -> Result<Outcome, ApiError> {
    if context.unreadable.contains(object) {
        return Ok(Outcome::Done(None));
    }
    let version = object.resource_version();
    let next = {
        let mut memories = lock(&context.status_memories);
        let memory = memories.entry(subject.clone()).or_default();
        // the cache tells when it shows the last write, and what is due then is written
        if let Some(until) = memory.unseen_until(version.as_deref(), now) {
            return Ok(Outcome::Waits(until));
        }
        next(&mut memory.pacing)
    };
    if let Some(status) = next.status {
        status::write_and_announce(&context.client, &context.events, object, status).await?;
        if let Some(memory) = lock(&context.status_memories).get_mut(subject) {
            memory.note_write(version, now);
        }
    }
    Ok(Outcome::Done(next.look_at))
}

/// Forgets what is remembered of an object that is gone.
fn forget(context: &Context, subject: &ObjectKey) -> Outcome {
    lock(&context.status_memories).remove(subject);
    Outcome::Done(None)
}

/// Reads what workloads cost, as of one moment.
struct SpendReader<'a> {
    context: &'a Context,
    now: Timestamp,
}

/// What a workload costs.
struct WorkloadSpend<'a> {
    reader: SpendReader<'a>,
    workload: WorkloadRef,
    currency: String,
    view: Option<Arc<AccountView>>,
    doubt: Option<String>,
}

impl<'a> SpendReader<'a> {
    fn account(self, workload: &WorkloadRef) -> WorkloadSpend<'a> {
        let (context, now) = (self.context, self.now);
        let currency = context.prices(now).lists.currency.clone();
        let view = context.ledger.current(workload, &currency, now);
        let doubt = view.as_ref().and_then(|view| view.doubt(now));
        WorkloadSpend {
            reader: self,
            workload: workload.clone(),
            currency,
            view,
            doubt,
        }
    }
}

impl WorkloadSpend<'_> {
    /// The account, if its records can be read.
    fn readable(&self) -> Option<&AccountView> {
        let view = self.view.as_deref();
        view.filter(|view| view.is_readable())
    }

    /// What the status says; `old` is what it says now.
    fn pricing(&self, old: Option<&SpendSummary>, unpriced: bool) -> PricingState {
        let SpendReader { context, now } = self.reader;
        let accounts = self.readable().map(|view| &view.accounts);
        let summary = match (accounts, &self.doubt) {
            (Some(accounts), _) => SpendSummary {
                overhead: cluster_bill::overhead(context, &self.workload, now)
                    .map(spend_status::display_amount),
                ..summary(accounts, &self.currency, now, &context.zone)
            },
            // the last figures stay, and say that they grow by nobody knows what
            (None, Some(_)) => SpendSummary {
                rate_per_hour: "unknown".to_owned(),
                ..old.cloned().unwrap_or_default()
            },
            (None, None) => SpendSummary::default(),
        };
        let month = Month::containing(now, &context.zone);
        let corrections = self.corrections(month);
        PricingState {
            summary: SpendSummary {
                corrections: (corrections != Money::ZERO)
                    .then(|| spend_status::display_amount(corrections)),
                ..summary
            },
            doubt: self.doubt.clone(),
            unlisted: accounts.and_then(|accounts| condition::unlisted(accounts, month)),
            unpriced,
        }
    }

    /// The sum of the workload's corrections of a month.
    fn corrections(&self, month: Month) -> Money {
        let SpendReader { context, now } = self.reader;
        let stores = &context.stores;
        let (namespace, owner) = (&self.workload.namespace, self.workload.cost_owner());
        let all = corrections::accepted(
            &stores.corrections,
            &stores.records,
            &self.currency,
            namespace,
        );
        let own = all.iter().filter(|correction| correction.owner == owner);
        correction::sum(own, month.bounds(&context.zone), now, &context.zone)
    }
}
