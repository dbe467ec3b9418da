//! The attacks of a hostile tenant that docs/security.md lists: each names what stops it, and a test that shows it.

#![allow(clippy::unwrap_used)] // a test fails by ending

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

const HEADINGS: [&str; 5] = [
    "Spend that is not counted",
    "Others pay",
    "Others wait",
    "Others' money, prompts and manifests",
    "Bursar stops",
];
const FEWEST: usize = 20;

/// A row of a table: an attack, its guard and its test.
struct Attack {
    heading: String,
    what: String,
    /// Names in the code or the chart.
    guards: Vec<String>,
    package: String,
    target: Option<String>,
    test: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The text of all files below a directory that have one of these extensions.
fn text(directory: &Path, extensions: &[&str]) -> String {
    let mut all = String::new();
    let mut waiting: Vec<PathBuf> = vec![directory.to_owned()];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            waiting.extend(entries.map(|entry| entry.unwrap().path()));
        } else if path
            .extension()
            .is_some_and(|each| extensions.iter().any(|one| each == *one))
        {
            all.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
    all
}

fn attacks() -> Vec<Attack> {
    let page = fs::read_to_string(root().join("docs/security.md")).unwrap();
    let (_, section) = page.split_once("\n## Attacks\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let name = Regex::new("`([^`]+)`").unwrap();
    let test = Regex::new(r"^`-p ([\w-]+)(?: --test (\w+))? (\w+)`$").unwrap();
    let (mut heading, mut attacks) = (String::new(), Vec::new());
    for line in section.lines() {
        if let Some(title) = line.strip_prefix("### ") {
            heading = title.to_owned();
        }
        let is_row = line.starts_with("| ") && !line.starts_with("| attack |");
        if !is_row {
            continue;
        }
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(
            cells.len(),
            3,
            "a row has an attack, what stops it, and a test: {line}"
        );
        let guards = name
            .captures_iter(cells[1])
            .map(|found| found[1].to_owned());
        let found = test.captures(cells[2]);
        let found =
            found.unwrap_or_else(|| unreachable!("no arguments of `cargo test`: {}", cells[2]));
        attacks.push(Attack {
            heading: heading.clone(),
            what: cells[0].to_owned(),
            guards: guards.collect(),
            package: found[1].to_owned(),
            target: found.get(2).map(|target| target.as_str().to_owned()),
            test: found[3].to_owned(),
        });
    }
    attacks
}

/// Where the tests of a package are.
fn directory(package: &str) -> PathBuf {
    match package.strip_prefix("bursar-") {
        Some("e2e") => root().join("e2e"),
        Some(name) => root().join("src").join(name),
        None => root().join("tests"),
    }
}

/// Whether Rust code has a test of this name that is run.
fn has_test(code: &str, name: &str) -> bool {
    let function = Regex::new(&format!(
        r"#\[(?:tokio::)?test(?:\([^\]]*\))?\]\s*(?:async )?fn {name}\("
    ));
    let scenario = Regex::new(&format!(r#"Scenario::new\(\s*"{name}","#));
    function.unwrap().is_match(code) || scenario.unwrap().is_match(code)
}

#[test]
fn each_attack_names_a_test_that_there_is() {
    for attack in attacks() {
        let mut place = directory(&attack.package);
        if let Some(target) = &attack.target {
            let tests = match attack.package.as_str() {
                "bursar" => place,
                _ => place.join("tests"),
            };
            let file = tests.join(format!("{target}.rs"));
            place = if file.exists() {
                file
            } else {
                tests.join(target)
            };
        }
        let code = text(&place, &["rs"]);
        let what = &attack.what;
        assert!(
            has_test(&code, &attack.test),
            "{what}: {} has no test {}",
            place.display(),
            attack.test
        );
    }
}

#[test]
fn each_attack_names_guards_that_there_are() {
    let code = text(&root().join("src"), &["rs"]);
    let chart = text(&root().join("charts/bursar"), &["yaml", "tpl"]);
    let defined = |name: &str| {
        let name = name.rsplit("::").next().unwrap_or(name);
        let item = Regex::new(&format!(
            r"\b(?:fn|const|struct|enum|trait) {name}\b|\b{name}(?:,| \{{)"
        ));
        let is_template = root().join("charts/bursar/templates").join(name).exists();
        is_template || item.unwrap().is_match(&code) || chart.contains(&format!("name: {name}\n"))
    };
    for attack in attacks() {
        assert!(!attack.guards.is_empty(), "{}: what stops it?", attack.what);
        for guard in &attack.guards {
            assert!(
                defined(guard),
                "{}: {guard} is nowhere in the code",
                attack.what
            );
        }
    }
}

#[test]
fn there_are_twenty_attacks_of_each_aim_some_and_none_twice() {
    let attacks = attacks();
    assert!(attacks.len() >= FEWEST, "{}", attacks.len());
    for heading in HEADINGS {
        let of = attacks.iter().filter(|attack| attack.heading == heading);
        assert!(of.count() >= 3, "{heading}");
    }
    let headings: BTreeSet<&str> = attacks.iter().map(|attack| &*attack.heading).collect();
    assert_eq!(headings, HEADINGS.into());
    let whats: BTreeSet<&str> = attacks.iter().map(|attack| &*attack.what).collect();
    assert_eq!(whats.len(), attacks.len(), "one is listed twice");
}

#[test]
fn a_test_is_told_from_what_only_has_its_name() {
    assert!(has_test("#[test]\nfn it_holds() {", "it_holds"));
    assert!(has_test(
        "#[tokio::test(start_paused = true)]\nasync fn it_holds() {",
        "it_holds"
    ));
    assert!(has_test("Scenario::new(\n    \"it_holds\",\n", "it_holds"));
    for code in [
        "fn it_holds() {",
        "#[test]\n#[ignore]\nfn it_holds() {",
        "// it_holds",
        "#[test]\nfn it_holds_too() {",
    ] {
        assert!(!has_test(code, "it_holds"), "{code}");
    }
}
