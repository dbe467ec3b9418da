//! The command line.

use clap::{Parser, Subcommand};

use crate::check::CheckArgs;
use crate::client::Connection;
use crate::completion::{CandidatesArgs, CompletionArgs};
use crate::explain::ExplainArgs;
use crate::import::ImportArgs;
use crate::ledger::LedgerCommand;
use crate::pause::PauseArgs;
use crate::prices::PricesCommand;
use crate::report::ReportArgs;
use crate::top::TopArgs;

/// Explains Bursar's decisions and costs, imports prices, and backs up the ledger.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl bursar",
    bin_name = "kubectl bursar",
    version,
    after_help = "Example: kubectl bursar explain infd/chat -n team"
)]
pub(crate) struct Arguments {
    /// The cluster.
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// The command.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the numbers and reasons of the last decision about a workload or a budget, and the items
    /// that its cost is the sum of.
    #[command(after_help = "Example: kubectl bursar explain budget/team -n team")]
    Explain(ExplainArgs),
    /// Keep the cluster, a namespace or a workload as it is: nothing is scaled, stopped or started.
    /// Budgets stop nothing in a paused namespace, and still stop a workload that is paused alone.
    #[command(after_help = "Example: kubectl bursar pause -n team")]
    Pause(PauseArgs),
    /// Let demand and budgets decide again over what was paused.
    #[command(after_help = "Example: kubectl bursar resume --all")]
    Resume(PauseArgs),
    /// Print which workloads hold GPUs now, and what they have cost this month.
    #[command(after_help = "Example: kubectl bursar top -A --by label team")]
    Top(TopArgs),
    /// Print what a month cost, as a table, CSV, JSON or FOCUS.
    #[command(
        after_help = "Example: kubectl bursar report --month 2026-11 -A --by gpu,capacity -o csv -O november.csv"
    )]
    Report(ReportArgs),
    /// List objects that Bursar cannot read, with the field and what would be right; or, of a service, say
    /// what of the ways to it keeps requests from waking it. Exits with 1 if anything is found; what cannot
    /// be seen is said to be unknown, and no reason for that.
    #[command(
        after_help = "Example: kubectl bursar check -A\nExample: kubectl bursar check infd/chat -n team"
    )]
    Check(CheckArgs),
    /// Print the InferenceDeployment or TrainingJob that a HorizontalPodAutoscaler, a ScaledObject, a
    /// Deployment or a job of Kubeflow or Kubernetes becomes, with a comment for each field that was dropped
    /// and why. Changes nothing. Exits with 3 if something was dropped or changed, or has to be filled in.
    #[command(
        after_help = "Example: kubectl bursar import hpa chat -n team --dry-run=server\nExample: kubectl bursar import pytorchjob -f job.yaml"
    )]
    Import(ImportArgs),
    /// Import prices into the cluster, or find nodes without one.
    Prices {
        /// The command.
        #[command(subcommand)]
        command: PricesCommand,
    },
    /// Back up, verify or restore the SpendRecords and SpendCorrections.
    Ledger {
        /// The command.
        #[command(subcommand)]
        command: LedgerCommand,
    },
    /// Print a script that completes commands and flags in a shell.
    #[command(after_help = crate::completion::HELP)]
    Completion(CompletionArgs),
    /// Print what may stand for the last word, as kubectl asks for it.
    #[command(name = "__complete", hide = true)]
    Complete(CandidatesArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    /// Commands that do something themselves, with their help.
    fn leaves(command: &clap::Command, leaf: &mut dyn FnMut(&clap::Command)) {
        if !command.has_subcommands() && !command.is_hide_set() {
            leaf(command);
        }
        for command in command.get_subcommands() {
            leaves(command, leaf);
        }
    }

    #[test]
    fn each_command_has_an_example_that_is_a_command_line() {
        let mut examples = 0;
        leaves(&Arguments::command(), &mut |command| {
            let help = command.get_after_help().map(ToString::to_string);
            let help = help.unwrap_or_else(|| panic!("{} has no example", command.get_name()));
            for line in help.lines() {
                let Some((_, example)) = line.split_once("kubectl bursar ") else {
                    continue;
                };
                let example = example.split(" > ").next().unwrap_or_default();
                let words = ["kubectl bursar"]
                    .into_iter()
                    .chain(example.split_whitespace());
                if let Err(error) = Arguments::try_parse_from(words) {
                    panic!("{example}: {error}");
                }
                examples += 1;
            }
        });
        assert!(examples >= 8, "{examples}");
    }
}
