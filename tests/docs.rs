//! What the pages say exists: files and headings that they link to, source files that they name, metrics that they list.

#![allow(clippy::unwrap_used)] // a test fails by ending

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below `directory` with this extension.
fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|each| each == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// All pages: those at the top, in `docs`, and those next to what they are about.
fn pages() -> Vec<PathBuf> {
    let top = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut pages: Vec<_> = top
        .filter(|path| path.extension().is_some_and(|each| each == "md"))
        .collect();
    for directory in ["docs", "charts"] {
        pages.extend(files(&root().join(directory), "md"));
    }
    pages.extend([
        root().join("e2e/README.md"),
        root().join("e2e/data/README.md"),
    ]);
    pages.retain(|page| page.exists());
    assert!(pages.len() > 20, "{pages:?}");
    pages
}

/// A page without its code blocks.
fn prose(page: &Path) -> String {
    let text = fs::read_to_string(page).unwrap();
    let mut code = false;
    let lines = text.lines().filter(|line| {
        let fence = line.starts_with("```");
        code ^= fence;
        !code && !fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(page: &Path) -> BTreeSet<String> {
    let text = prose(page);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_relative_link_leads_to_a_file_and_every_anchor_to_a_heading() {
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let mut dead = Vec::new();
    for page in pages() {
        for found in link.captures_iter(&prose(&page)) {
            let target = &found[1];
            if target.contains("://") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if path.is_empty() {
                page.clone()
            } else {
                page.parent().unwrap().join(path)
            };
            let is_page = path.extension().is_some_and(|each| each == "md");
            let has_anchor = anchor.is_empty() || is_page && anchors(&path).contains(anchor);
            if !(path.exists() && has_anchor) {
                dead.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(
        dead.is_empty(),
        "links that lead nowhere:\n{}",
        dead.join("\n")
    );
}

#[test]
fn every_source_file_that_a_page_names_exists() {
    let named = Regex::new(r"`([\w./-]+/[\w.-]+\.(?:rs|sh|yaml|md|csv|toml|tpl))`").unwrap();
    let mut missing = Vec::new();
    for page in pages() {
        // a decision and a release name the files of their time, and a table of data those of its origin
        let directory = page.parent().unwrap();
        let is_dated = page.ends_with("CHANGELOG.md") || directory.ends_with("docs/adr");
        if is_dated || directory.ends_with("prices") || directory.ends_with("data") {
            continue;
        }
        for found in named.captures_iter(&prose(&page)) {
            let path = &found[1];
            // `core/plan.rs` stands for `src/core/src/plan.rs`
            let (crate_name, rest) = path.split_once('/').unwrap();
            let short = root().join("src").join(crate_name).join("src").join(rest);
            if !root().join(path).exists() && !short.exists() {
                missing.push(format!("{}: {path}", page.display()));
            }
        }
    }
    assert!(
        missing.is_empty(),
        "files that are not there:\n{}",
        missing.join("\n")
    );
}

/// The source files that register metrics, as one text.
fn metric_sources() -> String {
    let sources = files(&root().join("src"), "rs");
    let sources = sources.iter().map(|path| fs::read_to_string(path).unwrap());
    let sources: Vec<_> = sources
        .filter(|text| text.contains("prometheus_client"))
        .collect();
    assert!(sources.len() >= 2);
    sources.join("\n")
}

/// A metric's name without what the client library appends to counters and infos.
fn registered_name(name: &str) -> String {
    let without = name.strip_suffix("_total").or(name.strip_suffix("_info"));
    without.unwrap_or(name).to_owned()
}

/// Names of metrics in a text, as they are registered, with `{a,b}` spelled out.
fn metrics(text: &str) -> BTreeSet<String> {
    let name = Regex::new(r"\bbursar_([a-z_]*)(?:\{([a-z_,]+)\}([a-z_]+))?").unwrap();
    let mut names = BTreeSet::new();
    for found in name.captures_iter(text) {
        let end = found.get(3).map_or("", |end| end.as_str());
        for middle in found.get(2).map_or("", |middle| middle.as_str()).split(',') {
            let name = format!("bursar_{}{middle}{end}", &found[1]);
            names.insert(registered_name(&name));
        }
    }
    names
}

#[test]
fn the_metrics_in_the_docs_are_those_of_the_program() {
    let literal = Regex::new(r#""(bursar_[a-z_]+)""#).unwrap();
    let sources = metric_sources();
    let registered: BTreeSet<String> = literal
        .captures_iter(&sources)
        .map(|found| registered_name(&found[1]))
        .collect();
    for page in pages() {
        for name in metrics(&fs::read_to_string(&page).unwrap()) {
            // `bursar_spend_…` stands for all that begin so
            let known = match name.strip_suffix('_') {
                Some(_) => registered.iter().any(|each| each.starts_with(&name)),
                None => registered.contains(&name),
            };
            assert!(known, "{} names {name}, which is no metric", page.display());
        }
    }
    let documented = metrics(&prose(&root().join("docs/troubleshooting.md")));
    let missing: Vec<_> = registered.difference(&documented).collect();
    assert!(
        missing.is_empty(),
        "docs/troubleshooting.md does not list {missing:?}"
    );
}

/// The labels that metrics have: fields of the structs that are encoded as label sets.
fn labels(sources: &str) -> BTreeSet<String> {
    let set = Regex::new(r"EncodeLabelSet\)\]\s*pub\(crate\) struct \w+ \{([^}]*)\}").unwrap();
    let field = Regex::new(r"pub\(crate\) (\w+):").unwrap();
    let fields = set.captures_iter(sources).flat_map(|set| {
        let fields = field.captures_iter(set.get(1).unwrap().as_str());
        fields.map(|found| found[1].to_owned()).collect::<Vec<_>>()
    });
    fields.collect()
}

#[test]
fn the_labels_of_metrics_in_the_docs_and_their_values_are_those_of_the_program() {
    let mut labels = labels(&metric_sources());
    // of the one info metric, whose labels are made when the currency is known
    labels.extend(["currency", "time_zone"].map(str::to_owned));
    assert!(
        labels.contains("namespace") && labels.contains("gpu"),
        "{labels:?}"
    );
    let sources = files(&root().join("src"), "rs");
    let sources: String = sources
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let word = Regex::new(r"`([A-Za-z_]+)`(:?)").unwrap();
    let row = Regex::new(r"(?m)^\| `bursar_[^|]*\| ([^|]*)\|").unwrap();
    let page = prose(&root().join("docs/troubleshooting.md"));
    let mut checked = 0;
    for cells in row.captures_iter(&page) {
        // labels, each followed by its values where these are a small set: `kind`: `Namespace`, `name`
        for (position, found) in word.captures_iter(&cells[1]).enumerate() {
            let must_be_a_label = position == 0 || &found[2] == ":";
            let is_value = || sources.contains(&format!("\"{}\"", &found[1]));
            let is_known = labels.contains(&found[1]) || !must_be_a_label && is_value();
            assert!(is_known, "no metric has {}: {}", &found[1], &cells[0]);
            checked += 1;
        }
    }
    assert!(checked > 30, "{checked}");
}
