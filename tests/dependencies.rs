//! What a crate must not depend on, by `cargo tree`: the layering of docs/architecture.md.

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

#[test]
fn the_gateway_does_not_link_the_controller() {
    let gateway = tree("bursar-gateway");
    assert!(gateway.contains("bursar_signals"), "{gateway:?}");
    assert_eq!(
        found(&gateway, &["bursar_controller", "bursar_install"]),
        [""; 0]
    );
}
