//! Bursar on a real cluster, installed by helm: one suite each for budgets, outages, requests, waiting, installation,
//! signals, gangs and adoption. The scenarios of a suite share its cluster and run in this order; the ledger of each is compared with the audit log after its
//! other scenarios.

mod adopted_groups;
mod adopted_jobs;
mod adoption;
mod always;
mod budgets;
mod careful;
mod engines;
mod evictions;
mod faults;
mod frameworks;
mod gangs;
mod growth;
mod install;
mod measures;
mod observability;
mod priorities;
mod requests;
mod roles;
mod signal_example;
mod signals;
mod status_writes;
mod waiting;

use bursar_e2e::{
    NodeOptions,
    addons::Addon,
    runner::{Images, Scenario, Suite},
    servers,
};

/// In the order budgets, outages, requests, waiting, install, signals, gangs, adoption.
pub(crate) fn suites() -> [Suite; 8] {
    let suite = |name, scenarios| Suite {
        name,
        nodes: vec![NodeOptions::h100(8)],
        gang_scheduling: false,
        images: Images::Loaded,
        addons: &[],
        setup: None,
        scenarios,
    };
    [
        suite("budgets", budgets()),
        suite("outages", outages()),
        suite("requests", requests()),
        suite("waiting", waiting()),
        suite("install", install()),
        Suite {
            setup: Some(servers::setup),
            ..suite("signals", signals())
        },
        Suite {
            nodes: vec![NodeOptions::h100(3)],
            gang_scheduling: true,
            ..suite("gangs", gangs())
        },
        Suite {
            addons: &[Addon::LeaderWorkerSet],
            ..suite("adoption", adoption())
        },
    ]
}

/// A service runs steadily while budgets act on others: its own status may be written every five minutes only, so that these scenarios
/// take longer than that.
fn budgets() -> Vec<Scenario> {
    vec![
        Scenario::new("a_service_runs_steadily", 2, status_writes::steady_begins),
        Scenario::new(
            "kubectl_bursar_explains_the_leaders_decision",
            4,
            observability::explains,
        ),
        Scenario::new(
            "kubectl_bursar_reports_what_runs_and_what_it_cost",
            4,
            observability::reports,
        ),
        Scenario::new(
            "metrics_show_workloads_budgets_and_the_operator_itself",
            1,
            observability::measures,
        ),
        Scenario::new(
            "who_may_view_a_namespace_reads_its_decisions_and_no_other_money",
            1,
            observability::keeps_money_from_strangers,
        ),
        Scenario::new(
            "an_exhausted_budget_stops_a_service_within_its_limit",
            4,
            budgets::stops_a_service,
        ),
        Scenario::new(
            "a_frozen_service_does_not_grow_and_one_at_its_minimum_shrinks",
            4,
            budgets::freezes_and_shrinks,
        ),
        Scenario::new(
            "a_gang_is_suspended_by_the_budget_and_loses_no_step",
            4,
            budgets::suspends_a_gang,
        ),
        Scenario::new(
            "the_roles_of_a_gang_start_together_and_it_ends_with_the_last",
            4,
            roles::start_and_end_together,
        ),
        Scenario::new(
            "what_frameworks_read_leads_to_the_workers_that_it_names",
            5,
            frameworks::environments_lead_to_workers,
        ),
        Scenario::new(
            "trouble_at_run_time_is_named_and_stops_nothing_else",
            3,
            faults::trouble,
        ),
        Scenario::new(
            "while_only_money_changes_statuses_are_written_sparingly",
            8,
            status_writes::steady_ends,
        ),
        Scenario::new(
            "at_rest_the_operator_writes_nothing",
            4,
            status_writes::at_rest,
        ),
        ledger_equals_audit_log(),
    ]
}

fn outages() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "requests_wait_while_the_controllers_are_down_for_two_minutes",
            5,
            faults::two_minutes_down,
        ),
        Scenario::new(
            "controllers_that_die_at_ten_moments_lose_no_request",
            5,
            faults::ten_deaths,
        ),
        ledger_equals_audit_log(),
    ]
}

fn requests() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "replicas_follow_the_queue_depth_and_go_to_zero_when_idle",
            3,
            requests::scaling,
        ),
        Scenario::new(
            "a_thousand_requests_through_zero_and_back_are_all_served",
            6,
            requests::through_zero,
        ),
        Scenario::new(
            "when_the_last_replica_crashes_none_is_refused_once_that_is_seen",
            3,
            requests::last_replica_crashes,
        ),
        Scenario::new(
            "a_client_that_a_service_does_not_name_wakes_nothing",
            3,
            requests::only_named_clients_wake,
        ),
        Scenario::new(
            "engines_other_than_vllm_go_to_zero_and_back",
            5,
            engines::go_to_zero_and_back,
        ),
        Scenario::new(
            "a_client_of_ready_endpoints_wakes_a_service_behind_gateways",
            4,
            always::wakes_by_ready_endpoints,
        ),
        Scenario::new(
            "a_switch_to_gateways_and_back_under_load_loses_no_request",
            4,
            always::switches_under_load,
        ),
        Scenario::new(
            "a_burst_starts_nothing_that_would_come_too_late",
            5,
            growth::start_nothing_for_a_burst,
        ),
        Scenario::new(
            "an_unready_replica_ends_its_requests_before_one_goes",
            5,
            requests::unready_replica_ends_requests,
        ),
        Scenario::new(
            "a_request_for_a_higher_class_gets_the_money_of_a_lower_one",
            4,
            priorities::serve_the_higher_class,
        ),
        Scenario::new(
            "the_lower_class_stops_first_and_the_higher_runs_to_the_limit",
            6,
            priorities::stop_the_lower_class_first,
        ),
        Scenario::new(
            "training_of_a_lower_class_gives_its_gpus_to_a_request_and_goes_on",
            5,
            priorities::give_gpus_to_a_request,
        ),
        Scenario::new(
            "at_rest_the_operator_writes_nothing",
            4,
            status_writes::at_rest,
        ),
        ledger_equals_audit_log(),
    ]
}

fn signals() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "a_redis_list_starts_and_ends_workers_without_a_request",
            4,
            signals::a_list_starts_and_ends_workers,
        ),
        Scenario::new(
            "every_source_starts_and_ends_workers_without_a_request",
            6,
            signals::every_source_starts_and_ends_workers,
        ),
        Scenario::new(
            "late_first_tokens_add_replicas",
            7,
            measures::late_first_tokens_add_replicas,
        ),
        Scenario::new(
            "requests_at_gateways_add_replicas_of_a_server_without_metrics",
            5,
            measures::requests_at_gateways_add_replicas,
        ),
        ledger_equals_audit_log(),
    ]
}

fn gangs() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "kube_scheduler_places_all_workers_of_a_gang_or_none",
            4,
            gangs::placed_as_a_whole,
        ),
        Scenario::new(
            "a_job_that_exists_is_held_started_suspended_and_charged",
            4,
            adopted_jobs::of_a_budget,
        ),
        ledger_equals_audit_log(),
    ]
}

fn adoption() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "a_deployment_that_exists_is_adopted_goes_through_zero_and_is_given_back",
            6,
            adoption::of_a_deployment,
        ),
        Scenario::new(
            "a_stateful_set_that_exists_is_adopted_and_given_back_likewise",
            5,
            adoption::of_a_stateful_set,
        ),
        Scenario::new(
            "groups_of_a_leader_worker_set_are_adopted_and_given_back_whole",
            8,
            adopted_groups::of_a_leader_worker_set,
        ),
        ledger_equals_audit_log(),
    ]
}

fn waiting() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "a_request_waits_for_a_node_that_comes_late",
            5,
            waiting::for_a_node,
        ),
        Scenario::new(
            "a_gang_waits_as_pods_for_a_node_that_comes_late",
            7,
            waiting::for_a_node_as_a_gang,
        ),
        Scenario::new(
            "a_request_is_told_that_a_quota_refuses_the_pods",
            4,
            waiting::for_a_pod_that_a_quota_refuses,
        ),
        Scenario::new(
            "monitoring_wakes_nothing_and_keeps_nothing_awake",
            4,
            waiting::never_for_monitoring,
        ),
        Scenario::new(
            "a_replica_that_a_client_did_not_wait_for_is_kept",
            4,
            waiting::longer_than_the_client,
        ),
        Scenario::new(
            "a_job_that_can_never_be_paid_holds_up_no_other",
            4,
            waiting::for_no_job_that_can_never_be_paid,
        ),
        Scenario::new(
            "an_edit_that_would_stop_something_waits_for_the_end_of_its_window",
            4,
            careful::edits_wait_for_the_end_of_their_window,
        ),
        Scenario::new(
            "a_pause_changes_nothing_until_it_ends",
            3,
            careful::a_pause_changes_nothing_until_it_ends,
        ),
        Scenario::new(
            "a_budget_evicts_pods_of_others_after_a_warning_and_as_disruption_budgets_allow",
            10,
            evictions::evicts_pods_of_others,
        ),
        Scenario::new(
            "without_gateways_nothing_is_written_again_and_again",
            5,
            waiting::for_gateways_without_writing,
        ),
        ledger_equals_audit_log(),
    ]
}

fn install() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "observe_only_decides_and_changes_nothing",
            3,
            install::observes,
        ),
        Scenario::new(
            "pods_that_cannot_be_charged_are_not_held",
            3,
            install::uncharged,
        ),
        Scenario::new(
            "a_namespace_that_asks_for_it_has_all_its_gpu_pods_charged_exactly",
            3,
            install::exact_namespace,
        ),
        ledger_equals_audit_log(),
        Scenario::new("uninstalling_leaves_nothing_stuck", 5, install::uninstall),
        Scenario::new(
            "released_without_helm_nothing_is_stuck_either",
            4,
            install::release,
        ),
    ]
}

fn ledger_equals_audit_log() -> Scenario {
    Scenario::new(
        "the_ledger_equals_the_audit_log_to_the_nano_unit",
        2,
        status_writes::equals_the_audit_log,
    )
}
