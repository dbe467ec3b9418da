//! `bursar simulate` on the examples: same seed, same result, and figures that can be true.

#![allow(clippy::unwrap_used)] // a test fails by ending

use std::path::{Path, PathBuf};

use bursar_core::money::Money;
use bursar_sim::{Error, Options, Output, Report, Scenario, run, simulate};

fn example(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.join("examples/simulator").join(name)
}

fn report(name: &str, seed: u64) -> Report {
    let scenario = Scenario::read(&example(name)).unwrap();
    simulate(&scenario, seed, |_, _, _| {}).unwrap()
}

fn text(name: &str, seed: u64, output: Output) -> String {
    let file = std::env::temp_dir().join(format!(
        "bursar-sim-{}-{seed}-{output:?}-{name}",
        std::process::id()
    ));
    let options = Options {
        scenario: example(name),
        seed,
        output,
        file: Some(file.clone()),
    };
    run(&options).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    text
}

#[test]
fn the_same_seed_gives_the_same_result_byte_for_byte() {
    for output in [Output::Table, Output::Json, Output::Html] {
        let first = text("burst.yaml", 7, output);
        assert_eq!(first, text("burst.yaml", 7, output));
        assert_ne!(first, text("burst.yaml", 8, output), "{output:?}");
    }
}

#[test]
fn a_burst_wakes_the_service_once_and_every_request_is_answered() {
    let report = report("burst.yaml", 1);
    let service = &report.services[0];
    assert_eq!((report.requests, service.requests), (2026, 2026));
    assert_eq!((service.answered, service.unfinished), (2026, 0));
    assert_eq!((service.refused.len(), report.broken_requests), (0, 0));
    assert_eq!(service.cold_starts, 1);
    let [p50, p95, p99] = service.first_token_seconds.unwrap();
    // the measured prefill of a short prompt; a cold start takes 60 s and more
    assert!(
        (0.05..1.0).contains(&p50) && p50 < p95 && p95 < p99,
        "{p50} {p95} {p99}"
    );
    assert!(
        p99 > 20.0,
        "those that were held waited for the cold start: {p99}"
    );
    assert_eq!((report.jobs.submitted, report.jobs.finished), (1, 1));
    // GPU-hours at the price are the cost
    let cost = report.cost.nanos() as f64 / 1e9;
    assert!((cost - report.gpu_hours * 3.5).abs() < 0.1, "{cost}");
    assert_eq!(report.budgets[0].overshoot, Money::ZERO);
    let last = report.samples.last().unwrap();
    assert_eq!((last.gpus_held, last.gpus), (0, 32), "it has gone to zero");
    let most = report
        .samples
        .iter()
        .map(|sample| sample.services["team/chat"].ready);
    assert!(most.max().unwrap() >= 2, "it has grown");
}

#[test]
fn a_million_requests_stay_within_their_budget_whatever_goes_wrong() {
    let report = report("million.yaml", 1);
    assert!(report.requests > 1_000_000, "{}", report.requests);
    let service = &report.services[0];
    let refused: u64 = service.refused.values().sum();
    let all = service.answered + service.unfinished + refused + report.broken_requests;
    assert_eq!(all, report.requests, "every request has one end");
    assert_eq!(report.leader_changes, 2);
    let budget = &report.budgets[0];
    assert!(budget.exhausted.is_some());
    assert_eq!(
        budget.overshoot,
        Money::ZERO,
        "{} of {}",
        budget.spent,
        budget.limit
    );
    // no more is left over than the reserve
    assert!(
        budget.spent.nanos() > budget.limit.nanos() * 98 / 100,
        "{}",
        budget.spent
    );
    assert!(service.refused["BudgetExhausted"] > 0);
}

#[test]
fn the_page_needs_nothing_from_elsewhere_and_has_all_charts() {
    let page = text("burst.yaml", 1, Output::Html);
    for forbidden in ["<script", "http://", "https://", "url(", "NaN", "inf"] {
        let mut lines = page.lines();
        // tables name the account `infd`, which is no number
        let found = lines.find(|line| line.contains(forbidden) && !line.contains("infd"));
        assert_eq!(found, None, "{forbidden}");
    }
    for title in [
        "Replicas of team/chat",
        "Queue of team/chat",
        "Time to the first token of team/chat",
        "Spend of team/team against its limit",
        "GPUs of the cluster",
        "Workers of training jobs",
    ] {
        assert!(page.contains(&format!("<h2>{title}</h2>")), "{title}");
    }
    assert!(page.contains("prefers-color-scheme: dark"));
    let json: serde_json::Value =
        serde_json::from_str(&text("burst.yaml", 1, Output::Json)).unwrap();
    assert_eq!(json["services"][0]["requests"], 2026);
}

#[test]
fn a_scenario_that_cannot_be_says_what_is_wrong() {
    let good = std::fs::read_to_string(example("burst.yaml")).unwrap();
    let fails = |from: &str, to: &str| -> String {
        assert!(good.contains(from), "{from}");
        let name = format!("bursar-sim-bad-{}-{}", std::process::id(), to.len());
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, good.replace(from, to)).unwrap();
        let result = Scenario::read(&file).map_err(Error::from);
        let result = result.and_then(|scenario| simulate(&scenario, 1, |_, _, _| {}));
        std::fs::remove_file(&file).unwrap();
        result.unwrap_err().to_string()
    };
    let text = fails("target: 16", "tagret: 16");
    assert!(text.contains("tagret"), "{text}");
    let text = fails("trace: aibrix-up-and-down", "trace: nowhere.csv");
    assert!(
        text.contains("nowhere.csv") && text.contains("azure-llm-2023-conv"),
        "{text}"
    );
    let text = fails("prices: {H100: \"3.50\"}", "prices: {A100: \"2\"}");
    assert!(text.contains("prices has no H100"), "{text}");
    let text = fails("duration: 30m", "duration: 0s");
    assert!(text.contains("duration"), "{text}");
}
