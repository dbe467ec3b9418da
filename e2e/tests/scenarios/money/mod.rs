//! Money on a real cluster: prices that come late or from a table, nodes that are lost, a ledger that is lost, and the bill of
//! it all. The scenarios share the cluster and run in this order.

mod closing;
mod cluster;
mod ledger;
mod prices;

use bursar_e2e::{
    NodeOptions,
    runner::{Images, Scenario, Suite},
};

pub(crate) fn suite() -> Suite {
    Suite {
        name: "money",
        // nobody has told yet what the second one has
        nodes: vec![
            NodeOptions::h100(8),
            NodeOptions {
                gpus: 2,
                ..NodeOptions::default()
            },
        ],
        gang_scheduling: false,
        images: Images::Loaded,
        addons: &[],
        setup: None,
        scenarios: vec![
            Scenario::new(
                "prices_and_labels_that_come_late_count_from_the_start",
                5,
                prices::late_labels,
            ),
            Scenario::new(
                "an_imported_table_prices_what_runs_from_then_on",
                3,
                prices::imported,
            ),
            Scenario::new(
                "time_on_a_lost_node_is_no_workloads_cost",
                5,
                ledger::lost_node,
            ),
            Scenario::new("a_lost_ledger_is_restored_and_goes_on", 4, ledger::restored),
            Scenario::new("months_that_are_over_are_folded", 4, closing::folded),
            // nodes are everybody's: it bills what the others left too
            Scenario::new(
                "the_clusters_bill_equals_the_audit_log_to_the_nano_unit",
                5,
                cluster::bill,
            ),
        ],
    }
}
