//! What the statuses of workloads and budgets are made of, and their writes.

use bursar_api::revenue::Revenue;
use bursar_api::spend::{SpendSummary, WorkloadRef};
use bursar_core::budget::{Latch, Standing};
use bursar_core::calendar::Month;
use bursar_core::correction;
use bursar_core::model::{Key, ServiceView};
use bursar_core::money::Money;
use bursar_core::plan::LimitedBy;
use bursar_core::training::Turn;
use jiff::Timestamp;

use crate::api_calls::ApiError;
use crate::budget;
use crate::cache::cached;
use crate::cluster_bill;
use crate::context::Context;
use crate::corrections;
use crate::inference;
use crate::ledger::AccountView;
use crate::lock::lock;
use crate::pricing::condition::{self, PricingState};
use crate::spend_status::{self, summary};
use crate::status::{self, StatusObject};
use crate::subject::Subject;
use crate::training;
use std::sync::Arc;

/// The decision that a status tells.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum StatusInput {
    /// Of a service.
    Service(ServiceView),
    /// Of a TrainingJob.
    Job {
        /// `None` once it has ended.
        turn: Option<Turn>,
        /// Whether the price of its workers is known.
        has_known_price: bool,
    },
    /// Of a budget.
    Budget(Standing),
}

impl StatusInput {
    /// The latch of a budget.
    pub(super) fn latch(&self) -> Option<Latch> {
        match self {
            Self::Budget(standing) => standing.budget.latch,
            Self::Service(_) | Self::Job { .. } => None,
        }
    }
}

/// Writes the status of an object if it is due. `failure` says why what it owns is not what it
/// should be. Returns when its status may be another although nothing happens.
///
/// # Errors
/// The status could not be written.
pub(super) async fn write(
    context: &Context,
    subject: &Subject,
    input: &StatusInput,
    failure: Option<String>,
    now: Timestamp,
) -> Result<Option<Timestamp>, ApiError> {
    match (subject, input) {
        (Subject::Service(key), StatusInput::Service(view)) => {
            write_service(context, key, view, failure, now).await
        }
        (
            Subject::Job(key),
            StatusInput::Job {
                turn,
                has_known_price,
            },
        ) => {
            let unpriced = !has_known_price;
            write_job(context, key, turn.as_ref(), unpriced, failure, now).await
        }
        (Subject::Budget(key), StatusInput::Budget(standing)) => {
            write_budget(context, key, standing, now).await
        }
        _ => Ok(None),
    }
}

async fn write_service(
    context: &Context,
    key: &Key,
    view: &ServiceView,
    failure: Option<String>,
    now: Timestamp,
) -> Result<Option<Timestamp>, ApiError> {
    let Some(object) = cached(&context.stores.services, key) else {
        return Ok(None);
    };
    let Some(workload) = Subject::Service(key.clone()).workload() else {
        return Ok(None);
    };
    let decision = &view.decision;
    let unpriced = decision.limited_by == Some(LimitedBy::PriceUnknown) && view.load.rate.is_none();
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
    let again = account.next_figures(&spend);
    let pods = lock(&context.index).pods_of(&context.stores.pods, &workload);
    let pods: Vec<_> = pods.iter().map(AsRef::as_ref).collect();
    let facts = inference::status::Facts {
        decision,
        pods: &pods,
        port: inference::port(context, &object),
        spend,
        failure,
        observe_only: context.observe_only,
        now,
    };
    if let Some(status) = inference::status::next(&object, facts) {
        write_readable(context, &*object, status).await?;
    }
    Ok(again)
}

async fn write_job(
    context: &Context,
    key: &Key,
    turn: Option<&Turn>,
    unpriced: bool,
    failure: Option<String>,
    now: Timestamp,
) -> Result<Option<Timestamp>, ApiError> {
    let Some(object) = cached(&context.stores.jobs, key) else {
        return Ok(None);
    };
    let Some(workload) = Subject::Job(key.clone()).workload() else {
        return Ok(None);
    };
    let is_limited = turn.is_some_and(|turn| turn.limited_by == Some(LimitedBy::PriceUnknown));
    let old = object
        .status
        .as_ref()
        .and_then(|status| status.spend.as_ref());
    let account = SpendReader { context, now }.account(&workload);
    let spend = account.pricing(old, is_limited && unpriced);
    let again = account.next_figures(&spend);
    let pods = lock(&context.index).pods_of(&context.stores.pods, &workload);
    let pods: Vec<_> = pods.iter().map(AsRef::as_ref).collect();
    let job = cached(&context.stores.batch_jobs, key);
    let facts = training::status::Facts {
        turn,
        job: job.as_deref(),
        pods: &pods,
        spend,
        failure,
        now,
    };
    if let Some(status) = training::status::next(&object, facts) {
        write_readable(context, &*object, status).await?;
    }
    Ok(again)
}

async fn write_budget(
    context: &Context,
    key: &Key,
    standing: &Standing,
    now: Timestamp,
) -> Result<Option<Timestamp>, ApiError> {
    let Some(object) = cached(&context.stores.budgets, key) else {
        return Ok(None);
    };
    let currency = &context.prices(now).lists.currency;
    if let Some(status) = budget::next(&object, standing, currency, now) {
        write_readable(context, &*object, status).await?;
    }
    let is_spending = standing.rate > Money::ZERO;
    Ok(is_spending
        .then(|| now.checked_add(spend_status::PACE).ok())
        .flatten())
}

/// Writes a status, unless the object cannot be read: then another task says so in it. Returns
/// whether the present one is good, or will be when the cache shows it.
async fn write_readable<K: StatusObject>(
    context: &Context,
    subject: &Subject,
    object: &K,
    status: K::Status,
) -> Result<Written, ApiError> {
    if context.unreadable.contains(object) {
        return Ok(Written::Done);
    }
    let version = object.resource_version();
    if lock(&context.written_statuses).get(subject) == version.as_ref() {
        // the cache does not show the last one yet, and tells when it does
        return Ok(Written::Unseen);
    }
    status::write_and_announce(&context.client, &context.recorder, object, status).await?;
    if let Some(version) = version {
        lock(&context.written_statuses).insert(subject.clone(), version);
    }
    Ok(Written::Done)
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

    /// When figures alone are to be written.
    fn next_figures(&self, spend: &PricingState) -> Option<Timestamp> {
        let is_spending = !matches!(spend.summary.rate_per_hour.as_str(), "" | "0.0000");
        let now = self.reader.now;
        is_spending
            .then(|| now.checked_add(spend_status::PACE).ok())
            .flatten()
    }
}
