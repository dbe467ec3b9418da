//! `kubectl bursar top`: which workloads hold GPUs now, and what they have cost this month.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;

use bursar_api::spend::WorkloadKind;
use bursar_api::{InferenceDeployment, TrainingJob};
use bursar_core::calendar::Month;
use bursar_core::cost_report::{self, CostOwner, LiveCost};
use bursar_core::ledger::{CostKey, DailyCost};
use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::client::Installation;
use crate::client::api_error;
use crate::format::amounts::{accuracy_notes, cost_amount, digits, hours, waste_percent};
use crate::format::table::table;
use crate::format::terminal::table_width;
use crate::pause;
use crate::spend_corrections;
use crate::spend_records::{self, LoadedAccount, Scope, current_month_selector};

const REFRESH_INTERVAL: Duration = Duration::from_secs(5);

/// Arguments of `top`.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Column to group rows by: workload, namespace, gpu, or the value of the workloads' label KEY.
    #[arg(long, num_args = 1..=2, value_names = ["workload|namespace|gpu|label", "KEY"], default_value = "workload")]
    by: Vec<String>,
    #[command(flatten)]
    scope: Scope,
    /// Print again every five seconds, until interrupted.
    #[arg(short, long)]
    watch: bool,
    /// Leave out records that cannot be read, with a warning.
    #[arg(long)]
    skip_unreadable: bool,
    #[command(flatten)]
    installation: Installation,
}

/// Why there is nothing to print.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Records(#[from] spend_records::Error),
    #[error("{0:?} is nothing to group by: write --by workload, namespace, gpu or label KEY")]
    GroupBy(String),
    #[error("reading the labels of {kind}s: {why}")]
    Labels { kind: String, why: String },
    #[error("writing: {0}")]
    Write(#[from] std::io::Error),
}

/// The column that rows are grouped by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GroupBy {
    /// Each workload.
    Workload,
    /// Each namespace.
    Namespace,
    /// Each GPU model and part of it.
    Gpu,
    /// Each value of a label.
    Label(String),
}

impl GroupBy {
    fn parse(words: &[String]) -> Result<Self, Error> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["workload"] => Ok(Self::Workload),
            ["namespace"] => Ok(Self::Namespace),
            ["gpu"] => Ok(Self::Gpu),
            ["label", key] => Ok(Self::Label((*key).to_owned())),
            _ => Err(Error::GroupBy(words.join(" "))),
        }
    }

    fn titles(&self) -> Vec<String> {
        let titles: &[&str] = match self {
            Self::Workload => &["NAMESPACE", "WORKLOAD"],
            Self::Namespace => &["NAMESPACE"],
            Self::Gpu => &["GPU"],
            Self::Label(key) => return vec![key.to_uppercase()],
        };
        titles.iter().map(|title| (*title).to_owned()).collect()
    }

    fn key(&self, holder: &CostOwner, sku: &CostKey, labels: &Labels) -> Vec<String> {
        match self {
            Self::Workload => vec![holder.namespace.clone(), holder.workload.clone()],
            Self::Namespace => vec![holder.namespace.clone()],
            Self::Gpu => vec![cost_report::gpu_name(sku)],
            Self::Label(_) => vec![labels.get(holder).cloned().unwrap_or_else(|| "-".into())],
        }
    }
}

/// The value of the label to group by, of each workload that has it.
type Labels = BTreeMap<CostOwner, String>;

/// Prints the table, once or until interrupted.
pub(crate) async fn run(client: &Client, args: &TopArgs) -> Result<(), Error> {
    let by = GroupBy::parse(&args.by)?;
    let namespace = args.scope.namespace(client);
    loop {
        let now = Timestamp::now();
        let objects =
            spend_records::list(client, &current_month_selector(namespace.as_deref(), now)).await?;
        let (accounts, skipped) = spend_records::load(&objects, args.skip_unreadable)?;
        let labels = match &by {
            GroupBy::Label(key) => labels(client, namespace.as_deref(), key).await?,
            _ => Labels::new(),
        };
        let corrections = spend_corrections::list(client).await?;
        let text = render(&accounts, &by, &labels, now, table_width())?
            + &corrections_line(&accounts, &corrections, namespace.as_deref(), now)?
            + &pause::note(
                client,
                &args.installation.operator_namespace,
                namespace.as_deref(),
            )
            .await;
        if args.watch && stdout().is_terminal() {
            // home, and clear what is below
            print!("\x1b[H\x1b[J");
        }
        print!("{text}");
        stdout().flush()?;
        for warning in skipped {
            eprintln!("warning: {warning}");
        }
        if !args.watch {
            return Ok(());
        }
        tokio::time::sleep(REFRESH_INTERVAL).await;
    }
}

async fn labels(client: &Client, namespace: Option<&str>, key: &str) -> Result<Labels, Error> {
    let mut all = workload_labels::<InferenceDeployment>(client, namespace, key, "infd").await?;
    all.extend(workload_labels::<TrainingJob>(client, namespace, key, "tj").await?);
    Ok(all)
}

async fn workload_labels<K>(
    client: &Client,
    namespace: Option<&str>,
    key: &str,
    short: &str,
) -> Result<Labels, Error>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<K> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let listed = api.list_metadata(&ListParams::default()).await;
    let listed = listed.map_err(|error| Error::Labels {
        kind: K::kind(&()).into_owned(),
        why: api_error(&error),
    })?;
    let value = |meta: kube::api::ObjectMeta| {
        let holder = CostOwner {
            namespace: meta.namespace?,
            workload: format!("{short}/{}", meta.name?),
        };
        Some((holder, meta.labels?.remove(key)?))
    };
    Ok(listed
        .items
        .into_iter()
        .filter_map(|object| value(object.metadata))
        .collect())
}

/// The table and its notes; ends with a newline.
pub(crate) fn render(
    accounts: &[LoadedAccount],
    by: &GroupBy,
    labels: &Labels,
    now: Timestamp,
    width: Option<usize>,
) -> Result<String, spend_records::Error> {
    let accounts: Vec<&LoadedAccount> = accounts
        .iter()
        .filter(|loaded| loaded.is_current(now))
        .collect();
    let currency = spend_records::common_currency(accounts.iter().copied())?.unwrap_or_default();
    if accounts.is_empty() {
        return Ok("nothing has been spent this month\n".to_owned());
    }
    let mut live_costs: BTreeMap<Vec<String>, LiveCost> = BTreeMap::new();
    let bill = spend_records::cluster_bill(accounts.iter().copied(), now);
    let is_node = |loaded: &&LoadedAccount| loaded.record.spec.kind == WorkloadKind::Node;
    for loaded in accounts.into_iter().filter(|loaded| !is_node(loaded)) {
        LiveCost::add(&mut live_costs, &loaded.account, now, &loaded.zone, |sku| {
            by.key(&loaded.owner, sku, labels)
        });
    }
    let mut rows: Vec<_> = live_costs.into_iter().collect();
    rows.sort_by_key(|(_, row)| {
        let spent = row.month.cost.total();
        (row.unpriced == 0, -row.per_hour, -spent)
    });
    let digits = digits(currency);
    let mut cells: Vec<Vec<String>> = rows
        .iter()
        .map(|(key, row)| key.iter().cloned().chain(cost_cells(row, digits)).collect())
        .collect();
    let mut all = LiveCost::default();
    for (_, row) in &rows {
        all.per_hour += row.per_hour;
        all.pods += row.pods;
        all.unpriced += row.unpriced;
        all.today += row.today;
        all.month += row.month;
    }
    let names = by.titles().len();
    let total = std::iter::once("TOTAL".to_owned())
        .chain(std::iter::repeat_n(String::new(), names - 1))
        .chain(cost_cells(&all, digits));
    cells.push(total.collect());
    let mut titles = by.titles();
    for title in ["RATE/H", "TODAY", "MONTH", "GPU-H", "WASTE"] {
        titles.push(title.to_owned());
    }
    let mut text = table(&titles, &cells, names, width);
    text.push_str(&format!("\namounts in {currency}, at {now:.0}\n"));
    for note in accuracy_notes(&all.month, currency) {
        text.push_str(&format!("{note}\n"));
    }
    // the accounts of nodes are read with all namespaces only
    if bill.has_nodes() {
        let idle = bill.idle_sum();
        text.push_str(&format!(
            "idle nodes: {} {currency} this month, {} GPU-hours that no pod held\n",
            cost_amount(&idle, idle.cost.total(), digits),
            hours(idle.gpu_seconds, 1)
        ));
    }
    Ok(text)
}

/// A line with the sum of this month's corrections, which the table does not include. Empty if
/// there are none.
fn corrections_line(
    accounts: &[LoadedAccount],
    corrections: &[Value],
    namespace: Option<&str>,
    now: Timestamp,
) -> Result<String, spend_records::Error> {
    let accounts: Vec<&LoadedAccount> = accounts
        .iter()
        .filter(|loaded| loaded.is_current(now))
        .collect();
    let first = accounts.first();
    let zone = first.map_or(TimeZone::UTC, |loaded| loaded.zone.clone());
    let currency = spend_records::common_currency(accounts.iter().copied())?;
    let month = Month::containing(now, &zone);
    let within = month.bounds(&zone);
    let (all, _) =
        spend_corrections::applicable(corrections, namespace, within, currency, &zone, now);
    Ok(match currency {
        _ if all.is_empty() => String::new(),
        Some(currency) => format!(
            "corrections: {} {currency} this month, in addition to these amounts\n",
            spend_corrections::sum(&all).rounded(digits(currency))
        ),
        // an account of another namespace says which of them count
        None => format!("corrections: see kubectl bursar report --month {month}\n"),
    })
}

fn cost_cells(row: &LiveCost, digits: usize) -> Vec<String> {
    let spent = |line: &DailyCost| cost_amount(line, line.cost.total(), digits);
    let rate = match row.unpriced {
        0 => row.per_hour.rounded(digits),
        unpriced if unpriced == row.pods => "unknown".to_owned(),
        _ => format!("{}+", row.per_hour.rounded(digits)),
    };
    vec![
        rate,
        spent(&row.today),
        spent(&row.month),
        hours(row.month.gpu_seconds, 1),
        waste_percent(&row.month),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    const WIDTH: usize = 80;
    const NOW: &str = "2026-11-24T04:00:00Z";

    fn printed(by: &GroupBy, labels: &Labels) -> String {
        let (accounts, _) = spend_records::load(&samples::records(), false).unwrap();
        let text = render(&accounts, by, labels, NOW.parse().unwrap(), Some(WIDTH)).unwrap();
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "too long: {line}");
        }
        text
    }

    #[test]
    fn unknown_rates_come_first_and_then_the_highest() {
        assert_eq!(
            printed(&GroupBy::Workload, &Labels::new()),
            "\
NAMESPACE  WORKLOAD      RATE/H    TODAY     MONTH  GPU-H  WASTE
research   infd/lab     unknown  unknown   unknown    2.0      -
ml         infd/chat       7.00    35.00    288.85   40.0    16%
research   tj/finetune     0.00     0.00  1571.00+  194.0     0%
ml         infd/embed      0.00     0.57      0.57    1.0    49%
TOTAL                     7.00+   35.57+  1860.42+  237.0     2%

amounts in USD, at 2026-11-24T04:00:00Z
estimated: 8.10 USD rest on a provisional price or an end that was not seen
unpriced (+): the amounts lack 4.00 GPU-hours that no price is known for
unattributed: time on lost nodes cost 0.12 USD more
idle nodes: 5367.60+ USD this month, 783.0 GPU-hours that no pod held
"
        );
    }

    #[test]
    fn corrections_of_the_month_are_in_a_line_below_the_table() {
        let (accounts, _) = spend_records::load(&samples::records(), false).unwrap();
        let all = samples::corrections();
        let line = |accounts: &[LoadedAccount], namespace| {
            super::corrections_line(accounts, &all, namespace, NOW.parse().unwrap()).unwrap()
        };
        assert_eq!(
            line(&accounts, None),
            "corrections: -34.50 USD this month, in addition to these amounts\n"
        );
        assert_eq!(line(&accounts, Some("ml")), "", "none of its own counts");
        let mut unnamed = accounts.clone();
        unnamed[0].record.spec.currency.clear();
        assert_eq!(line(&unnamed, None), line(&accounts, None));
        let unknown_currency = line(&[], Some("gone"));
        assert!(
            unknown_currency.contains("report --month 2026-11"),
            "{unknown_currency}"
        );
    }

    #[test]
    fn workloads_are_grouped_by_their_own_label() {
        let holder = CostOwner {
            namespace: "ml".into(),
            workload: "infd/chat".into(),
        };
        let labels = [(holder, "search".to_owned())].into();
        let text = printed(&GroupBy::Label("team".into()), &labels);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1..3],
            [
                "-       unknown   0.57+  1571.57+  197.0     0%",
                "search     7.00   35.00    288.85   40.0    16%"
            ]
        );
    }

    #[test]
    fn a_label_has_a_key_after_it() {
        #[derive(clap::Parser)]
        struct TestArgs {
            #[command(flatten)]
            args: TopArgs,
        }
        let line =
            <TestArgs as clap::Parser>::try_parse_from(["top", "--by", "label", "team", "-A"]);
        let args = line
            .map(|line| line.args)
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(
            GroupBy::parse(&args.by).unwrap(),
            GroupBy::Label("team".into())
        );
        assert!(args.scope.all_namespaces);
    }

    #[test]
    fn only_what_can_be_grouped_by_is_taken() {
        let by = |text: &str| {
            let words: Vec<String> = text.split(' ').map(Into::into).collect();
            GroupBy::parse(&words)
        };
        assert_eq!(by("label team").unwrap(), GroupBy::Label("team".into()));
        for wrong in ["label", "gpus", "gpu team"] {
            let error = by(wrong).unwrap_err().to_string();
            assert!(
                error.contains(wrong) && error.contains("label KEY"),
                "{error}"
            );
        }
    }
}
