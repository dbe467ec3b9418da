//! FOCUS 1.0 and 1.2 as the FinOps Foundation's own validator sees them. Needs no cluster; the validator is installed from PyPI once.

use std::{fs, path::Path, process::Command, time::Duration};

use bursar_e2e::{
    image, process,
    runner::{Ignored, Images, Scenario, ScenarioResult, Suite},
};

/// Installing the validator takes most of it.
const LIMIT: Duration = Duration::from_secs(900);
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/focus-validate");
/// The exit code of the script when this machine cannot have the validator. Others are failures.
const NO_VALIDATOR: i32 = 75;
const LEDGER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../src/cli/samples/2026-11.jsonl"
);

pub(crate) fn suite() -> Suite {
    Suite {
        name: "focus",
        nodes: Vec::new(),
        gang_scheduling: false,
        images: Images::Built,
        addons: &[],
        setup: None,
        scenarios: vec![
            Scenario::without_cluster(
                "version_1_0_passes_the_validator_and_a_broken_file_does_not",
                40,
                version_1_0,
            ),
            Scenario::without_cluster(
                "version_1_2_passes_the_validator_and_a_broken_file_does_not",
                40,
                version_1_2,
            ),
        ],
    }
}

fn version_1_0() -> ScenarioResult {
    let broken = [
        ("Usage-Based", "Sometimes", "ChargeFrequency_Enum"),
        ("AI and Machine Learning", "Alchemy", "ServiceCategory_Enum"),
        ("USD", "Dollars", "BillingCurrency_IsCurrencyCode"),
        ("BilledCost", "Cost", "BilledCost_Required"),
    ];
    check("1.0", "Validation succeeded", &broken)
}

fn version_1_2() -> ScenarioResult {
    let broken = [
        (
            "Usage-Based",
            "Sometimes",
            "❌ ChargeFrequency-C-003-M: FAIL",
        ),
        (
            "AI and Machine Learning",
            "Alchemy",
            "❌ ServiceCategory-C-003-M: FAIL",
        ),
        ("USD", "Dollars", "❌ BillingCurrency-C-006-M: FAIL"),
        ("BilledCost", "Cost", "❌ BilledCost-C-001-M: FAIL"),
    ];
    // of 578 rules, those of columns that the report has
    check("1.2", "Total: 578 | Pass: 136 | Fail: 1 |", &broken)
}

/// The report keeps the rules, and text in place of other text breaks the rule that is named with it.
fn check(version: &str, succeeded: &str, broken: &[(&str, &str, &str)]) -> ScenarioResult {
    let python = Command::new(SCRIPT).args([version, "--python"]).output()?;
    if !python.status.success() {
        let why = String::from_utf8_lossy(&python.stderr).trim().to_owned();
        return Err(match python.status.code() {
            Some(NO_VALIDATOR) => Ignored(why).into(),
            _ => format!("{SCRIPT} --python: {}\n{why}", python.status).into(),
        });
    }
    let work = tempfile::tempdir()?;
    let report = work.path().join("focus.csv");
    let mut command = Command::new(image::kubectl_bursar()?);
    command
        .args(["report", "--month", "2026-11", "--billing-account", "test"])
        .args(["--output", "focus-csv", "--focus-version", version])
        .args(["--from", LEDGER, "--output-file"])
        .arg(&report);
    process::run(&mut command, Duration::from_secs(60))?;
    let (good, said) = validate(version, &report)?;
    if !good || !said.contains(succeeded) {
        return Err(format!("the validator refuses the report:\n{said}").into());
    }
    let text = fs::read_to_string(&report)?;
    for (right, wrong, rule) in broken {
        let file = work.path().join("broken.csv");
        fs::write(&file, text.replace(right, wrong))?;
        let (good, said) = validate(version, &file)?;
        if good || !said.contains(rule) {
            return Err(format!("{wrong} does not break {rule}:\n{said}").into());
        }
    }
    Ok(())
}

/// Whether the validator takes a file, and what it says of it.
fn validate(version: &str, file: &Path) -> Result<(bool, String), Box<dyn std::error::Error>> {
    let output = Command::new("timeout")
        .arg(LIMIT.as_secs().to_string())
        .args([SCRIPT, version])
        .arg(file)
        .output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    match output.status.code() {
        Some(0) => Ok((true, said)),
        Some(1) => Ok((false, said)),
        Some(NO_VALIDATOR) => Err(Ignored(said.trim().to_owned()).into()),
        code => Err(format!("the validator ended with {code:?}:\n{said}").into()),
    }
}
