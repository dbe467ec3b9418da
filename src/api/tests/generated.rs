//! What is generated from the types is current, and small enough for `kubectl apply`.

use std::{env, fs, path::Path};

use bursar_api::{PriceList, crds};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

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

fn root_schema(crd: &CustomResourceDefinition) -> Value {
    let mut crd = json!(crd);
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take()
}

#[test]
fn each_kind_is_described_in_a_sentence_of_its_own() {
    for crd in crds::all() {
        let root = root_schema(&crd);
        let text = root["description"].as_str().unwrap_or_default();
        let (kind, spec) = (&crd.spec.names.kind, &root["properties"]["spec"]);
        assert!(text.len() > 40, "{kind}: {text:?}");
        assert_eq!(text, spec["description"].as_str().unwrap(), "{kind}");
    }
}

/// Pod templates and selectors are Kubernetes' own, and days of the week need no words.
fn needs_words(path: &str) -> bool {
    !["template", "Selector", ".days"]
        .iter()
        .any(|known| path.contains(known))
}

#[test]
fn each_value_of_a_field_says_what_it_means() {
    let (mut fields, mut unsaid) = (0, Vec::new());
    for crd in crds::all() {
        let root = root_schema(&crd);
        let mut rest = vec![(crd.spec.names.kind.clone(), &root)];
        while let Some((path, schema)) = rest.pop() {
            let text = schema["description"].as_str().unwrap_or_default();
            for value in schema["enum"].as_array().into_iter().flatten() {
                let Some(value) = value.as_str() else {
                    continue;
                };
                let is_said = text.contains(&format!(" - `{value:?}` "));
                if !is_said && needs_words(&path) {
                    unsaid.push(format!("{path}: {value}"));
                }
                fields += 1;
            }
            let properties = schema["properties"].as_object().into_iter().flatten();
            rest.extend(properties.map(|(name, schema)| (format!("{path}.{name}"), schema)));
            let inner = ["items", "additionalProperties"].into_iter();
            let inner = inner.filter_map(|name| schema.get(name));
            rest.extend(inner.map(|schema| (path.clone(), schema)));
        }
    }
    assert_eq!(unsaid, [""; 0]);
    assert!(fields > 50, "{fields} values");
}

/// The API server prints how long ago a `date` was: of one that lies ahead it prints `<invalid>`.
#[test]
fn columns_of_dates_are_of_times_that_are_over() {
    for crd in crds::all() {
        for version in &crd.spec.versions {
            let dates = version.additional_printer_columns.iter().flatten();
            for column in dates.filter(|column| column.type_ == "date") {
                let is_over = column.json_path == ".metadata.creationTimestamp";
                assert!(is_over, "{}: {}", crd.spec.names.kind, column.json_path);
            }
        }
    }
}
