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

/// The rules of all pod templates in a schema.
fn template_rules(schema: &serde_json::Value, rules: &mut Vec<Vec<String>>) {
    let Some(fields) = schema.as_object() else {
        return;
    };
    for (name, field) in fields {
        let template = field
            .pointer("/properties/template")
            .filter(|_| name != "properties");
        if let Some(validations) = template.and_then(|found| found.get("x-kubernetes-validations"))
        {
            let texts = validations.as_array().unwrap().iter();
            let text = |rule: &serde_json::Value| format!("{} {}", rule["rule"], rule["message"]);
            rules.push(texts.map(text).collect());
        }
        template_rules(field, rules);
    }
}

#[test]
fn templates_take_no_longer_grace_than_budgets_keep_in_reserve() {
    let longest = bursar_core::model::MAX_GRACE_SECONDS;
    let field = "terminationGracePeriodSeconds";
    for (file, templates) in [("inferencedeployments", 1), ("trainingjobs", 2)] {
        let path = root().join("crds").join(format!("{file}.yaml"));
        let crd: serde_json::Value =
            serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let mut rules = Vec::new();
        template_rules(&crd, &mut rules);
        rules.retain(|texts| !texts.is_empty());
        assert_eq!(rules.len(), templates, "{file}");
        for texts in rules {
            let of_grace: Vec<&String> = texts.iter().filter(|text| text.contains(field)).collect();
            let [text] = of_grace.as_slice() else {
                panic!("{file}: {texts:?}");
            };
            let rule = format!("{field} <= {longest}\"");
            assert!(text.contains(&rule), "{file}: {text}");
            assert!(
                text.contains(&format!("at most {longest}:")),
                "{file}: {text}"
            );
        }
    }
}
