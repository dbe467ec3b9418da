//! The command line.

use std::{path::PathBuf, str::FromStr};

use clap::{Args, Parser, Subcommand};

/// Asks Bursar about its decisions, its prices and its ledger.
#[derive(Debug, Parser)]
#[command(name = "kubectl bursar", bin_name = "kubectl bursar", version)]
pub(crate) struct Arguments {
    /// Kubeconfig file; otherwise the one that kubectl would take.
    #[arg(long, global = true)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig.
    #[arg(long, global = true)]
    pub(crate) context: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the numbers and reasons of the last decision about a workload or a budget.
    Explain(ExplainArgs),
    /// Bring prices into the cluster, or see which nodes have none.
    Prices {
        /// What to do with them.
        #[command(subcommand)]
        command: PricesCommand,
    },
    /// Print what holds nodes now, and what it has cost this month.
    Top(crate::top::TopArgs),
    /// Print what a month cost, as a table, CSV, JSON or FOCUS.
    Report(crate::report::ReportArgs),
    /// Back up, verify or restore the SpendRecords.
    Ledger {
        /// What to do with them.
        #[command(subcommand)]
        command: crate::ledger::LedgerCommand,
    },
}

/// What to do with prices.
#[derive(Debug, Subcommand)]
pub(crate) enum PricesCommand {
    /// Make a PriceList of a CSV file, in Bursar's columns or OpenCost's. A file with a bad line changes nothing.
    Import(ImportArgs),
    /// Say which nodes have no price or a provisional one, and the fix; exits with 1 if there are any.
    Check,
}

/// What is imported, and as what.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The CSV file.
    pub(crate) file: PathBuf,
    /// Name of the PriceList; one of that name is replaced.
    #[arg(long, default_value = "imported")]
    pub(crate) name: String,
    /// ISO 4217 code of the file's currency.
    #[arg(long, default_value = "USD")]
    pub(crate) currency: String,
    /// Have the API server check it, and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// What is asked about.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// infd/NAME, tj/NAME or budget/NAME.
    pub(crate) object: Object,
    /// Its namespace; otherwise that of the context.
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// Namespace in which Bursar is installed.
    #[arg(long, default_value = "bursar-system")]
    pub(crate) operator_namespace: String,
}

/// An object of one of the kinds that Bursar decides about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object {
    /// Its kind.
    pub(crate) kind: Kind,
    /// Its name.
    pub(crate) name: String,
}

/// What Bursar decides about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// InferenceDeployment.
    Service,
    /// TrainingJob.
    Job,
    /// BudgetPolicy.
    Budget,
}

impl Kind {
    /// Kind in the API.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Service => "InferenceDeployment",
            Self::Job => "TrainingJob",
            Self::Budget => "BudgetPolicy",
        }
    }

    /// Plural in the API.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Service => "inferencedeployments",
            Self::Job => "trainingjobs",
            Self::Budget => "budgetpolicies",
        }
    }
}

impl FromStr for Object {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || format!("`{text}` is not infd/NAME, tj/NAME or budget/NAME");
        let (kind, name) = text.split_once('/').ok_or_else(usage)?;
        let kind = match kind.to_ascii_lowercase().as_str() {
            "infd" | "inferencedeployment" | "inferencedeployments" => Kind::Service,
            "tj" | "trainingjob" | "trainingjobs" => Kind::Job,
            "budget" | "budgetpolicy" | "budgetpolicies" => Kind::Budget,
            _ => return Err(usage()),
        };
        if name.is_empty() || name.contains('/') {
            return Err(usage());
        }
        Ok(Self {
            kind,
            name: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_understood_by_their_short_and_long_names() {
        for (text, kind) in [
            ("infd/chat", Kind::Service),
            ("InferenceDeployments/chat", Kind::Service),
            ("tj/chat", Kind::Job),
            ("budgetpolicy/chat", Kind::Budget),
        ] {
            let name = "chat".to_owned();
            assert_eq!(text.parse(), Ok(Object { kind, name }), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_kind_and_a_name_is_refused_with_the_form() {
        for text in ["chat", "pod/chat", "infd/", "infd/a/b"] {
            let error = text.parse::<Object>().unwrap_err();
            assert!(error.contains("infd/NAME"), "{error}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
