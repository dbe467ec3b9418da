//! The chart and the program agree on what they take.

use std::{fs, path::Path, process::Command};

use regex::Regex;

/// clap's exit status for arguments that it refuses.
const REFUSED: Option<i32> = Some(2);

#[test]
fn the_chart_takes_no_lease_duration_that_the_controller_refuses() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/bursar/values.schema.json");
    let schema: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let field = &schema["properties"]["controller"]["properties"]["leaseDuration"];
    let chart = Regex::new(field["pattern"].as_str().unwrap()).unwrap();
    // what takes it ends for another reason: there is no cluster
    let controller = |duration: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bursar"));
        command.args([
            "controller",
            "--pod-name=p",
            "--gateway-ca=/none",
            "--gateway-token=/none",
        ]);
        command.arg(format!("--lease-duration={duration}"));
        command
            .env("KUBECONFIG", "/none")
            .env_remove("KUBERNETES_SERVICE_HOST");
        command.output().unwrap().status.code() != REFUSED
    };
    for duration in ["3s", "6s", "15s", "90s", "9999s"] {
        assert!(chart.is_match(duration), "the chart refuses {duration}");
        assert!(controller(duration), "the controller refuses {duration}");
    }
    for duration in ["0s", "1s", "2s", "500ms", "1.5s", "15", "-15s", "soon", ""] {
        assert!(!chart.is_match(duration), "the chart takes {duration:?}");
        assert!(!controller(duration), "the controller takes {duration:?}");
    }
}

#[test]
fn the_uninstall_hook_calls_a_command_that_the_program_has() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/bursar/templates/hook-uninstall.yaml");
    let hook = fs::read_to_string(path).unwrap();
    assert!(hook.contains(r#""args" (list "uninstall" "#), "{hook}");
    let help = |command: &str| {
        let mut bursar = Command::new(env!("CARGO_BIN_EXE_bursar"));
        bursar.args([command, "--help"]).output().unwrap()
    };
    let uninstall = help("uninstall");
    assert!(uninstall.status.success(), "{uninstall:?}");
    assert_eq!(help("release").stdout, uninstall.stdout, "the old name");
}
