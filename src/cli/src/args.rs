//! The command line.

use std::path::PathBuf;

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
    Explain(crate::explain::ExplainArgs),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
