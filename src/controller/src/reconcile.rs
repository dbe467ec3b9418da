//! One reconcile of one namespace: read the ledger, observe, plan, latch, apply, status.

use std::sync::Arc;
use std::time::Duration;

use bursar_api::revenue::Revenue;
use bursar_api::spend::{SpendSummary, WorkloadKind, WorkloadRef};
use bursar_api::{InferenceDeployment, TrainingJob};
use bursar_core::calendar::Month;
use bursar_core::correction;
use bursar_core::money::Money;
use bursar_core::plan::{LimitedBy, Plan, Snapshot, plan};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use crate::api_calls::ApiError;
use crate::budget;
use crate::cache::Trigger;
use crate::cluster_bill;
use crate::context::Context;
use crate::explain;
use crate::inference;
use crate::ledger::AccountView;
use crate::lock::lock;
use crate::metrics::LimitLabel;
use crate::namespace_metrics::gauges;
use crate::observe::Books;
use crate::pricing::condition::{self, PricingState};
use crate::scene::Scene;
use crate::spend_status::{self, summary};
use crate::status::{self, StatusObject};
use crate::training;
use crate::training::job::{batch_job, is_running};

/// Even if nothing happens, a namespace in which something runs is looked at this often: signals grow old.
const RUNNING_PACE: SignedDuration = SignedDuration::from_secs(10);
const RESTING_PACE: SignedDuration = SignedDuration::from_mins(5);

/// Why a reconcile failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A status could not be written.
    #[error("status: {0}")]
    Status(#[from] ApiError),
}

impl Error {
    /// Somebody wrote first; the next look will see it.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(
            self,
            Self::Status(ApiError::Conflict { .. } | ApiError::Gone { .. })
        )
    }
}

/// What went wrong in one reconcile: the trouble of one workload does not stop the others.
#[derive(Default)]
struct Troubles(Vec<Error>);

impl Troubles {
    fn add(&mut self, error: Error) {
        self.0.push(error);
    }

    /// Takes why a decision could not be applied. What the workload's condition should say, unless the next look sees to it.
    fn of_apply(&mut self, failure: ApiError) -> Option<String> {
        match failure {
            ApiError::Conflict { .. } | ApiError::Gone { .. } => {
                self.add(Error::Status(failure));
                None
            }
            other => Some(other.to_string()),
        }
    }

    /// The error that the next look depends on: a conflict, which is soon over, before others; all are logged.
    fn end(self) -> Result<(), Error> {
        let (conflicts, errors): (Vec<Error>, Vec<Error>) =
            self.0.into_iter().partition(Error::is_conflict);
        let ends = conflicts.into_iter().next();
        if ends.is_none() && errors.len() < 2 {
            return errors.into_iter().next().map_or(Ok(()), Err);
        }
        for error in &errors {
            tracing::warn!(%error, "reconcile");
        }
        ends.or_else(|| errors.into_iter().next())
            .map_or(Ok(()), Err)
    }
}

/// Reconciles a namespace as of `now`, and returns how long to wait until the next look.
///
/// # Errors
/// One of the steps that failed. What was done stays done, and what others need is done; the next run goes on.
pub(crate) async fn reconcile(
    context: &Context,
    namespace: &str,
    now: Timestamp,
) -> Result<Duration, Error> {
    let scene = Scene::of(context, namespace, now);
    let workloads = scene.workloads();
    let no_budgets = scene.budgets.is_empty() && scene.unreadable_budgets.is_empty();
    if workloads.is_empty() && no_budgets && scene.corrections.is_empty() {
        context.metrics.namespaces.show(namespace, Vec::new());
        return Ok(RESTING_PACE.try_into().unwrap_or_default());
    }
    let (books, mut troubles) = (read_ledger(context, &scene, workloads), Troubles::default());
    let (snapshot, plan) = decide(context, &scene, &books);
    latch(context, &scene, &plan, &mut troubles).await?;
    remember(context, &scene, &plan, &snapshot);
    context.metrics.namespaces.show(
        namespace,
        gauges(context, &scene, &plan, &snapshot, &books.accounts),
    );
    let mut next_look = plan.next_look.into_iter().chain(scene.prices.next).min();
    let round = Round {
        context,
        scene: &scene,
        books: &books,
        snapshot: &snapshot,
        plan: &plan,
    };
    for object in &scene.services {
        let look = follow_service(&round, object, &mut troubles).await;
        next_look = next_look.into_iter().chain(look).min();
    }
    for object in &scene.jobs {
        let look = follow_job(&round, object, &mut troubles).await;
        next_look = next_look.into_iter().chain(look).min();
    }
    troubles.end()?;
    // room for a gang that waits may come from another namespace
    let waits = plan.jobs.iter().any(|turn| {
        matches!(
            turn.limited_by,
            Some(LimitedBy::Capacity | LimitedBy::Queue)
        )
    });
    let pace = if snapshot.loads.is_empty() && !waits {
        RESTING_PACE
    } else {
        RUNNING_PACE
    };
    let wait = next_look.map_or(pace, |at| {
        at.duration_since(now).max(SignedDuration::ZERO).min(pace)
    });
    Ok(wait.try_into().unwrap_or_default())
}

/// Snapshot and plan, while no other namespace is decided over: what one is given, the next has not.
fn decide(context: &Context, scene: &Scene, books: &Books) -> (Snapshot, Plan) {
    let mut reserved = lock(&context.reserved);
    let snapshot = scene.snapshot(context, books, &reserved);
    let plan = plan(&snapshot, scene.now);
    if !context.observe_only {
        let orders = scene.orders(context, &snapshot, &plan);
        reserved.replace(&scene.namespace, orders, scene.now);
    }
    (snapshot, plan)
}

/// What the workloads cost, as the ledger published it last; where it has not, as the records say.
fn read_ledger(context: &Context, scene: &Scene, workloads: Vec<WorkloadRef>) -> Books {
    let mut books = Books::default();
    let (currency, now) = (&scene.prices.lists.currency, scene.now);
    let month = Month::containing(now, &context.zone);
    for workload in workloads {
        let on_record = || AccountView::on_record(&scene.records, &workload, currency, month);
        let view = context.ledger.view(&workload, currency, now, on_record);
        if let Some(why) = view.doubt(now) {
            books.doubts.insert(workload.clone(), why);
        }
        if view.is_readable() {
            books.accounts.insert(workload, view.accounts.clone());
        }
    }
    books
}

/// Until when a workload without a pod has to wait for its record, which is asked for.
fn wait_for_record(round: &Round<'_>, workload: &WorkloadRef) -> Option<Timestamp> {
    let (context, scene) = (round.context, round.scene);
    let until = context.ledger.start_waits_until(workload, scene.now)?;
    // the worker ends with the process, and this reconcile does too
    let _ = context
        .ledger_triggers
        .send(Trigger::Workload(workload.clone()));
    Some(until)
}

/// Writes budgets' statuses before anything is done about them: a latch that is not on record would be lost with the leader.
async fn latch(
    context: &Context,
    scene: &Scene,
    plan: &Plan,
    troubles: &mut Troubles,
) -> Result<(), ApiError> {
    for (object, standing) in scene.budgets.iter().zip(&plan.budgets) {
        if let Some(status) =
            budget::next(object, standing, &scene.prices.lists.currency, scene.now)
        {
            let old = object.status.as_ref().and_then(|old| old.latch.as_ref());
            let latched = old != status.latch.as_ref();
            match write_status(context, &**object, status).await {
                Ok(()) => {}
                Err(error) if latched => return Err(error),
                Err(error) => troubles.add(Error::Status(error)),
            }
        }
    }
    Ok(())
}

/// Keeps what the next decision and people want to know of this one.
fn remember(context: &Context, scene: &Scene, plan: &Plan, snapshot: &Snapshot) {
    let mut histories = lock(&context.histories);
    histories.retain(|(namespace, name), _| {
        *namespace != scene.namespace || plan.services.iter().any(|decision| decision.name == *name)
    });
    for (decision, service) in plan.services.iter().zip(&snapshot.services) {
        let key = (scene.namespace.clone(), decision.name.clone());
        histories
            .entry(key)
            .or_default()
            .record(decision.asked, service.window, scene.now);
        let limited_by = decision
            .limited_by
            .map_or("None", bursar_core::plan::LimitedBy::as_str);
        context
            .metrics
            .decisions
            .get_or_create(&LimitLabel { limited_by })
            .inc();
    }
    drop(histories);
    let budgets = &plan.budgets[..scene.budgets.len()];
    let explanation = explain::explanation(plan, budgets, snapshot, scene.now);
    lock(&context.explained).insert(scene.namespace.clone(), explanation);
}

/// What all workloads of a namespace are followed by.
struct Round<'a> {
    context: &'a Context,
    scene: &'a Scene,
    books: &'a Books,
    snapshot: &'a Snapshot,
    plan: &'a Plan,
}

impl Round<'_> {
    /// What a workload cost; `old` is what its status says.
    fn spend(
        &self,
        workload: &WorkloadRef,
        old: Option<&SpendSummary>,
        unpriced: bool,
    ) -> PricingState {
        let (context, scene) = (self.context, self.scene);
        let doubt = self.books.doubts.get(workload).cloned();
        let accounts = self.books.accounts.get(workload);
        let summary = match (accounts, &doubt) {
            (Some(accounts), _) => SpendSummary {
                overhead: cluster_bill::overhead(context, workload, scene.now)
                    .map(spend_status::display_amount),
                ..summary(
                    accounts,
                    &scene.prices.lists.currency,
                    scene.now,
                    &context.zone,
                )
            },
            // the last figures stay, and say that they grow by nobody knows what
            (None, Some(_)) => SpendSummary {
                rate_per_hour: "unknown".to_owned(),
                ..old.cloned().unwrap_or_default()
            },
            (None, None) => SpendSummary::default(),
        };
        let month = Month::containing(scene.now, &context.zone);
        let holder = workload.cost_owner();
        let of_it = scene.corrections.iter();
        let of_it = of_it.filter(|correction| correction.owner == holder);
        let bounds = month.bounds(&context.zone);
        let corrections = correction::sum(of_it, bounds, scene.now, &context.zone);
        PricingState {
            summary: SpendSummary {
                corrections: (corrections != Money::ZERO)
                    .then(|| spend_status::display_amount(corrections)),
                ..summary
            },
            doubt,
            unlisted: accounts.and_then(|accounts| condition::unlisted(accounts, month)),
            unpriced,
        }
    }
}

async fn follow_service(
    round: &Round<'_>,
    object: &Arc<InferenceDeployment>,
    troubles: &mut Troubles,
) -> Option<Timestamp> {
    let (context, scene) = (round.context, round.scene);
    let name = object.name_any();
    let decisions = round.plan.services.iter().zip(&round.snapshot.services);
    let (decision, service) = decisions
        .into_iter()
        .find(|(decision, _)| decision.name == name)?;
    let workload = scene.workload(WorkloadKind::InferenceDeployment, &name);
    let pods = scene.pods_of(&workload);
    let in_status = object
        .status
        .as_ref()
        .and_then(|status| status.activation.as_ref()?.port)
        .and_then(|port| u16::try_from(port).ok());
    let port = context.port(&(scene.namespace.clone(), workload.name.clone()), in_status);
    let mut failure = None;
    let starts = service.current == 0 && decision.allowed > 0;
    let mut look = None;
    if starts && !context.observe_only {
        look = wait_for_record(round, &workload);
    }
    if !context.observe_only && look.is_none() {
        match inference::apply(context, object, decision, &pods, port, scene.now).await {
            Ok(next) => look = next,
            Err(error) => failure = troubles.of_apply(error),
        }
    }
    let unpriced =
        decision.limited_by == Some(LimitedBy::PriceUnknown) && service.load.rate.is_none();
    let old = object
        .status
        .as_ref()
        .and_then(|status| status.spend.as_ref());
    let mut spend = round.spend(&workload, old, unpriced);
    let terms = object.spec.revenue.as_ref().map(Revenue::to_core);
    if let (Some(Ok(terms)), Some(accounts)) = (terms, round.books.accounts.get(&workload)) {
        let earnings = spend_status::earnings(&terms, accounts, scene.now, &context.zone);
        spend.summary.earnings = Some(earnings);
    }
    let facts = inference::status::Facts {
        decision,
        pods: &pods,
        port,
        spend,
        failure,
        observe_only: context.observe_only,
        now: scene.now,
    };
    if let Some(status) = inference::status::next(object, facts)
        && !context.unreadable.contains(&**object)
        && let Err(error) = write_status(context, &**object, status).await
    {
        troubles.add(Error::Status(error));
    }
    look
}

async fn follow_job(
    round: &Round<'_>,
    object: &Arc<TrainingJob>,
    troubles: &mut Troubles,
) -> Option<Timestamp> {
    let (context, scene) = (round.context, round.scene);
    let name = object.name_any();
    let turn = round.plan.jobs.iter().find(|turn| turn.name == name);
    let workload = scene.workload(WorkloadKind::TrainingJob, &name);
    let job = batch_job(&context.stores, &scene.namespace, &workload.name);
    let mut failure = None;
    let starts = turn.is_some_and(|turn| turn.run) && !job.as_deref().is_some_and(is_running);
    let mut look = None;
    if starts && !context.observe_only {
        look = wait_for_record(round, &workload);
    }
    if let Some(turn) = turn.filter(|_| !context.observe_only && look.is_none()) {
        match training::apply(context, object, turn).await {
            Ok(()) => {}
            Err(error) => failure = troubles.of_apply(error),
        }
    }
    let pods = scene.pods_of(&workload);
    let job = batch_job(&context.stores, &scene.namespace, &workload.name);
    let mut waiting = round.snapshot.jobs.iter();
    let unpriced = turn.is_some_and(|turn| turn.limited_by == Some(LimitedBy::PriceUnknown))
        && waiting.any(|job| job.name == name && !job.has_known_price());
    let old = object
        .status
        .as_ref()
        .and_then(|status| status.spend.as_ref());
    let facts = training::status::Facts {
        turn,
        job: job.as_deref(),
        pods: &pods,
        spend: round.spend(&workload, old, unpriced),
        failure,
        now: scene.now,
    };
    if let Some(status) = training::status::next(object, facts)
        && !context.unreadable.contains(&**object)
        && let Err(error) = write_status(context, &**object, status).await
    {
        troubles.add(Error::Status(error));
    }
    look
}

async fn write_status<K: StatusObject>(
    context: &Context,
    object: &K,
    status: K::Status,
) -> Result<(), ApiError> {
    status::write_and_announce(&context.client, &context.recorder, object, status).await
}
