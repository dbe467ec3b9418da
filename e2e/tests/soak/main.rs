//! What takes too long for `cargo test`, or needs a quiet machine: `cargo soak` runs it, one suite after the other.

mod frameworks;
mod keda;

use std::process::{Command, ExitCode};

use bursar_e2e::runner::{self, Images, Scenario, ScenarioResult, Suite};

fn main() -> ExitCode {
    let demo_timing = Suite {
        name: "demo_timing",
        nodes: Vec::new(),
        gang_scheduling: false,
        images: Images::Built,
        addons: &[],
        setup: None,
        scenarios: vec![Scenario::without_cluster(
            "a_held_request_reaches_the_deployment_within_the_demos_limit",
            15,
            wake_up,
        )],
    };
    runner::run(&[demo_timing, frameworks::suite(), keda::suite()])
}

/// The demo prints how long a wake-up took at the median, and marks one above its limit. `cargo test` runs it next to other clusters,
/// which slow it down, and leaves the time to this one.
fn wake_up() -> ScenarioResult {
    let output = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(["--requests", "40", "--wakes", "9"])
        .output()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let wake_up = text.lines().find(|line| line.contains("wake-up   "));
    match wake_up {
        Some(line) if output.status.success() && !line.contains("MORE THAN") => {
            println!("{}", line.trim());
            Ok(())
        }
        _ => Err(text.into()),
    }
}
