//! The parts that each figure of money is the sum of: pods, days, prices, corrections.
//!
//! | module | subject |
//! |---|---|
//! | `namespace_costs` | what the ledger holds of a namespace |
//! | `workload` | the figures of one workload |
//! | `charge` | a pod that holds a node, and the rows of the PriceLists that price it |
//! | `revenue` | unit costs, revenue and margin |
//! | `budget` | what a budget's spent is made of |
//! | `corrections` | the corrections in a figure |

mod budget;
mod charge;
mod corrections;
mod namespace_costs;
mod revenue;
#[cfg(test)]
mod tests;
mod workload;

use std::time::Duration;

use bursar_api::spend::{WorkloadKind, WorkloadRef};
use bursar_api::{BudgetPolicy, InferenceDeployment, TrainingJob};
use bursar_core::calendar::Period;
use bursar_core::cost_report::CostOwner;
use bursar_core::unit_economics::RevenueTerms;
use jiff::Timestamp;
use kube::{Api, Client};

use super::leader::Answer;
use super::object::{ObjectKind, ObjectRef};
use crate::client::api_error;
use crate::format::description::Description;
use namespace_costs::NamespaceCosts;

/// The whole ledger of a namespace, and all PriceLists, take longer to read than one object.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Details of the object's spec, which the ledger does not have.
enum SpecDetails {
    /// The revenue terms of a service, if it has some.
    Service(Result<Option<RevenueTerms>, String>),
    Job,
    /// The period of a budget.
    Budget(Result<Period, String>),
}

/// The part of an explanation that traces money; ends with a newline. A part that cannot be read is
/// named there and hides no other.
pub(super) async fn explain(
    client: &Client,
    answer: &Answer,
    now: Timestamp,
    width: usize,
) -> String {
    let mut page = Description::new(width);
    let read = async {
        let costs = NamespaceCosts::load(client, &answer.namespace, now).await;
        let mut costs = costs.map_err(|error| {
            format!("{error} (ClusterRole bursar-spend-viewer has the right to list them)")
        })?;
        costs.overhead = overhead(client, &answer.object, &answer.namespace).await;
        let details = spec_details(client, &answer.object, &answer.namespace).await;
        Ok((costs, details))
    };
    let late = |_| {
        Err(format!(
            "the API server did not answer within {} s",
            TIMEOUT.as_secs()
        ))
    };
    match tokio::time::timeout(TIMEOUT, read)
        .await
        .unwrap_or_else(late)
    {
        Ok((costs, details)) => {
            describe(&mut page, &costs, &details, answer, now);
            for warning in &costs.skipped {
                page.wrapped("  ", &format!("note: {warning}"), 2);
            }
        }
        Err(why) => {
            page.heading("money");
            page.line("");
            page.row("not traced", &why);
        }
    }
    page.into_text()
}

fn describe(
    page: &mut Description,
    costs: &NamespaceCosts,
    details: &SpecDetails,
    answer: &Answer,
    now: Timestamp,
) {
    match details {
        SpecDetails::Budget(period) => {
            budget::describe(page, costs, &answer.namespace, period, now);
        }
        SpecDetails::Service(terms) => {
            let owner = cost_owner(answer, WorkloadKind::InferenceDeployment);
            workload::describe(page, costs, &owner, Some(terms), now);
        }
        SpecDetails::Job => {
            let owner = cost_owner(answer, WorkloadKind::TrainingJob);
            workload::describe(page, costs, &owner, None, now);
        }
    }
    if let Some(share) = &costs.overhead {
        let text = format!(
            "{share}, as the status says: its share of this month's, in addition to what is spent"
        );
        page.row("overheads", &text);
    }
}

/// The workload that is explained.
fn cost_owner(answer: &Answer, kind: WorkloadKind) -> CostOwner {
    let workload = WorkloadRef {
        namespace: answer.namespace.clone(),
        kind,
        name: answer.object.name.clone(),
    };
    workload.cost_owner()
}

async fn spec_details(client: &Client, object: &ObjectRef, namespace: &str) -> SpecDetails {
    match object.kind {
        ObjectKind::Job => SpecDetails::Job,
        ObjectKind::Service => {
            let api: Api<InferenceDeployment> = Api::namespaced(client.clone(), namespace);
            let found = api.get(&object.name).await;
            let terms = |service: InferenceDeployment| {
                let revenue = service.spec.revenue.as_ref().map(|terms| terms.to_core());
                revenue.transpose().map_err(|error| error.to_string())
            };
            SpecDetails::Service(found.map_err(|error| api_error(&error)).and_then(terms))
        }
        ObjectKind::Budget => {
            let api: Api<BudgetPolicy> = Api::namespaced(client.clone(), namespace);
            let found = api.get(&object.name).await;
            let found = found.map_err(|error| api_error(&error));
            SpecDetails::Budget(found.map(|budget| budget.spec.period.into()))
        }
    }
}

/// The workload's share of overheads, as its status has it.
async fn overhead(client: &Client, object: &ObjectRef, namespace: &str) -> Option<String> {
    let spend = match object.kind {
        ObjectKind::Service => {
            let api: Api<InferenceDeployment> = Api::namespaced(client.clone(), namespace);
            api.get(&object.name).await.ok()?.status?.spend
        }
        ObjectKind::Job => {
            let api: Api<TrainingJob> = Api::namespaced(client.clone(), namespace);
            api.get(&object.name).await.ok()?.status?.spend
        }
        ObjectKind::Budget => None,
    };
    spend?.overhead
}
