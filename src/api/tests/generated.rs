//! What is generated from the types is current, and small enough for `kubectl apply`.

use std::{env, fs, path::Path};

use bursar_api::{PriceList, crds};

const HEADER: &str = "# Generated from src/api; BURSAR_REGENERATE=1 cargo test -p bursar-api --test generated writes it anew.\n";
/// Client-side `kubectl apply` keeps the object in an annotation, which may have 256 KiB.
const MOST_BYTES: usize = 200_000;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

#[test]
fn definitions_are_current_and_small() {
    for crd in crds::all() {
        let text = format!("{HEADER}{}", crds::yaml(&crd).unwrap());
        let json = serde_json::to_string(&crd).unwrap();
        assert!(
            json.len() < MOST_BYTES,
            "{} has {} bytes",
            crds::file_name(&crd),
            json.len()
        );
        for directory in ["crds", "charts/bursar/crds"] {
            let path = root().join(directory).join(crds::file_name(&crd));
            if env::var_os("BURSAR_REGENERATE").is_some() {
                fs::write(&path, &text).unwrap();
            }
            let found = fs::read_to_string(&path).unwrap_or_default();
            assert!(
                found == text,
                "{} is stale: BURSAR_REGENERATE=1 cargo test -p bursar-api --test generated",
                path.display()
            );
        }
    }
}

#[test]
fn the_default_price_list_is_a_price_list() {
    let text = fs::read_to_string(root().join("charts/bursar/files/default-prices.yaml")).unwrap();
    let list: PriceList = serde_saphyr::from_str(&text).unwrap();
    let book = list.spec.to_core().unwrap();
    assert!(
        book.gpus.len() > 30 && book.nodes.len() > 400,
        "{} {}",
        book.gpus.len(),
        book.nodes.len()
    );
}

#[test]
fn templates_take_no_longer_grace_than_budgets_keep_in_reserve() {
    let longest = bursar_core::model::MAX_GRACE_SECONDS;
    let field = "spec.terminationGracePeriodSeconds";
    let rule = format!("|| self.{field} <= {longest}\"");
    let message = format!("{field} must be at most {longest}:");
    for (file, templates) in [("inferencedeployments", 1), ("trainingjobs", 2)] {
        let path = root().join("crds").join(format!("{file}.yaml"));
        let crd = fs::read_to_string(path).unwrap();
        for part in [&rule, &message] {
            assert_eq!(
                crd.matches(part.as_str()).count(),
                templates,
                "{file}: {part}"
            );
        }
    }
}
