//! Money on a real cluster: prices that come late or from a table, nodes that are lost, a ledger that is lost. The scenarios share the
//! cluster and run in this order.

mod ledger;
mod prices;

use std::{process::ExitCode, time::Duration};

use bursar_e2e::{
    NodeOptions, Options,
    image::{self, Program},
    runner::{self, Outcome, Scenario},
};

fn main() -> ExitCode {
    let scenario = |name, minutes: u64, run: fn(&bursar_e2e::Cluster) -> Outcome| Scenario {
        name,
        limit: Duration::from_secs(60 * minutes),
        run,
    };
    let scenarios = [
        scenario(
            "labels_that_come_late_count_from_the_start",
            4,
            prices::late_labels,
        ),
        scenario(
            "an_imported_table_prices_what_runs_from_then_on",
            3,
            prices::imported,
        ),
        scenario(
            "time_on_a_lost_node_is_no_workloads_cost",
            5,
            ledger::lost_node,
        ),
        scenario("a_lost_ledger_is_restored_and_goes_on", 4, ledger::restored),
    ];
    runner::main(
        || {
            Ok(Options {
                // nobody has told yet what the second one has
                nodes: vec![
                    NodeOptions::h100(8),
                    NodeOptions {
                        gpus: 2,
                        ..NodeOptions::default()
                    },
                ],
                images: image::from_checkout(&Program::TESTED)?,
                ..Options::new("money")
            })
        },
        &scenarios,
    )
}
