//! FOCUS 1.0 as the FinOps Foundation's own validator sees it. Needs no cluster; the validator is installed from PyPI once.

use std::{fs, path::Path, process::Command, time::Duration};

use bursar_e2e::{image, process};

/// Installing the validator takes most of it.
const LIMIT: Duration = Duration::from_secs(900);
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/focus-validate");
const LEDGER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../src/cli/samples/2026-11.jsonl"
);

/// Whether the validator takes a file, and what it says of it.
fn validate(file: &Path) -> (bool, String) {
    match process::run(Command::new(SCRIPT).arg(file), LIMIT) {
        Ok(output) => (true, output.stdout),
        Err(error) => (false, error.to_string()),
    }
}

#[test]
fn the_report_passes_the_finops_foundations_validator_and_a_broken_one_does_not() {
    if let Err(error) = process::run(Command::new(SCRIPT).arg("--python"), LIMIT) {
        println!("skipped: the validator does not run on this machine: {error}");
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let report = work.path().join("focus.csv");
    let mut command = Command::new(image::kubectl_bursar().unwrap());
    command
        .args(["report", "--month", "2026-11", "--billing-account", "test"])
        .args(["--output", "focus-csv", "--focus-version", "1.0"])
        .args(["--from", LEDGER, "--file"])
        .arg(&report);
    process::run(&mut command, Duration::from_secs(60)).unwrap();
    let (good, said) = validate(&report);
    assert!(good && said.contains("Validation succeeded"), "{said}");

    let text = fs::read_to_string(&report).unwrap();
    for (right, wrong, rule) in [
        ("Usage-Based", "Sometimes", "ChargeFrequency_Enum"),
        ("AI and Machine Learning", "Alchemy", "ServiceCategory_Enum"),
        ("USD", "Dollars", "BillingCurrency_IsCurrencyCode"),
        ("BilledCost", "Cost", "BilledCost_Required"),
    ] {
        let broken = work.path().join("broken.csv");
        fs::write(&broken, text.replace(right, wrong)).unwrap();
        let (good, said) = validate(&broken);
        assert!(!good && said.contains(rule), "{wrong} is taken: {said}");
    }
}
