//! `kubectl bursar explain`: the numbers and reasons of the last decision, and what each figure of
//! money is the sum of.
//!
//! | module | subject |
//! |---|---|
//! | `object` | which object is explained |
//! | `leader` | asks the leader, or reads the object's status |
//! | `decision` | the leader's decision, in words |
//! | `status` | the object's status, in words |
//! | `cost` | the pods, days, prices and corrections that figures are the sum of |

mod cost;
mod decision;
mod leader;
mod object;
mod status;

use clap::Args;
use http::HeaderValue;
use jiff::Timestamp;
use kube::Client;

use crate::client::Installation;
use crate::format::description::Description;
use crate::format::terminal::text_width;
use leader::{Answer, Source};
pub(crate) use object::{ObjectKind, ObjectRef};

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The object: infd/NAME, tj/NAME or budget/NAME.
    object: ObjectRef,
    /// Namespace of the object [default: that of the kubeconfig's context].
    #[arg(short, long)]
    namespace: Option<String>,
    #[command(flatten)]
    installation: Installation,
}

/// Explains an object; the text ends with a newline.
pub(crate) async fn run(
    client: &Client,
    authorization: Option<HeaderValue>,
    args: &ExplainArgs,
) -> Result<String, leader::Error> {
    let default = || client.default_namespace().to_owned();
    let namespace = args.namespace.clone().unwrap_or_else(default);
    let answer = leader::answer(
        client,
        &args.object,
        namespace,
        &args.installation.operator_namespace,
        authorization,
    )
    .await?;
    let (now, width) = (Timestamp::now(), text_width());
    let cost = cost::explain(client, &answer, now, width).await;
    Ok(describe(&answer, now, width) + &cost)
}

/// Describes an object, without its money.
fn describe(answer: &Answer, now: Timestamp, width: usize) -> String {
    let mut page = Description::new(width);
    let (kind, name) = (answer.object.kind.as_str(), &answer.object.name);
    page.line(&format!("{kind} {}/{name}", answer.namespace));
    match &answer.source {
        Source::Decision(decision) => decision::describe(&mut page, decision, &answer.object, now),
        Source::Status { object, cause } => status::describe(&mut page, object, cause),
    }
    page.into_text()
}
