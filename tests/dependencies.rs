//! The crates that each crate may depend on, as docs/architecture.md has them, held by `cargo
//! tree`.

use std::collections::BTreeSet;
use std::process::Command;

/// Names of all packages that a package is built from.
fn tree(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
            "--format",
            "{lib}",
            "--package",
            package,
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "cargo tree --package {package}: {errors}"
    );
    let names = String::from_utf8(output.stdout).expect("names are text");
    names
        .lines()
        .map(|name| name.trim_end_matches(" (*)"))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Those of `banned` that are in the tree; a name ending in `*` stands for all that begin so.
fn found(tree: &BTreeSet<String>, banned: &[&str]) -> Vec<String> {
    let is_banned = |name: &&String| {
        banned.iter().any(|banned| match banned.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => *name == banned,
        })
    };
    tree.iter().filter(is_banned).cloned().collect()
}

#[test]
fn the_core_has_neither_a_cluster_nor_a_runtime_nor_chance() {
    let core = tree("bursar-core");
    assert!(core.contains("jiff") && core.contains("serde"), "{core:?}");
    let banned = [
        "kube*",
        "k8s_openapi",
        "schemars",
        "tokio*",
        "futures*",
        "async*",
        "hyper*",
        "http*",
        "axum*",
        "tower*",
        "reqwest",
        "rustls*",
        "tracing*",
        "rand*",
        "fastrand",
        "getrandom",
        "uuid",
        "bursar_api",
        "bursar_signals",
        "bursar_runtime",
        "bursar_controller",
    ];
    assert_eq!(found(&core, &banned), [""; 0]);
}

/// Each crate of this repository, with the other crates of it that it may be built from.
const ALLOWED: [(&str, &[&str]); 10] = [
    ("bursar-core", &[]),
    ("bursar-sim", &["core"]),
    ("bursar-runtime", &[]),
    ("bursar-api", &["core"]),
    ("bursar-signals", &["core"]),
    ("bursar-install", &["core", "api"]),
    ("bursar-prices", &["core", "api"]),
    ("bursar-cli", &["core", "api", "prices"]),
    ("bursar-gateway", &["core", "api", "runtime", "signals"]),
    ("bursar-controller", &["core", "api", "runtime", "signals"]),
];

#[test]
fn crates_depend_on_one_another_in_one_direction() {
    for (package, allowed) in ALLOWED {
        let own = package.replace('-', "_");
        let ours = tree(package);
        let ours = ours
            .iter()
            .filter(|name| name.starts_with("bursar_") && **name != own);
        let forbidden: Vec<&String> = ours
            .filter(|name| {
                !allowed
                    .iter()
                    .any(|allowed| **name == format!("bursar_{allowed}"))
            })
            .collect();
        assert!(forbidden.is_empty(), "{package} depends on {forbidden:?}");
    }
}

#[test]
fn every_crate_has_its_place_in_the_direction() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in std::fs::read_dir(directory).expect("src is a directory") {
        let entry = entry.expect("an entry");
        let name = format!("bursar-{}", entry.file_name().to_string_lossy());
        // only tests link it
        let is_listed =
            name == "bursar-apitest" || ALLOWED.iter().any(|(listed, _)| *listed == name);
        assert!(!entry.path().is_dir() || is_listed, "{name}");
    }
}

#[test]
fn the_simulator_has_neither_a_cluster_nor_a_runtime() {
    let sim = tree("bursar-sim");
    assert!(sim.contains("bursar_core"), "{sim:?}");
    let banned = ["kube*", "k8s_openapi", "tokio*", "hyper*", "rustls*"];
    assert_eq!(found(&sim, &banned), [""; 0]);
}

#[test]
fn the_gateway_does_not_link_the_controller() {
    let gateway = tree("bursar-gateway");
    assert!(gateway.contains("bursar_signals"), "{gateway:?}");
    assert_eq!(
        found(&gateway, &["bursar_controller", "bursar_install"]),
        [""; 0]
    );
}
