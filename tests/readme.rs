//! The README is short, its commands are the two that are tested, and its manifests are the examples.

#![allow(clippy::unwrap_used)] // a test fails by ending

use std::{fs, path::Path};

/// How long the README may be: a front page, not a manual.
const LINES: usize = 120;

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// The code blocks with this word after the fence.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<(bool, String)> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(word), None) => open = Some((word == language, String::new())),
            (Some(_), Some(_)) => {
                let (wanted, block) = open.take().unwrap();
                blocks.extend(wanted.then_some(block));
            }
            (None, Some((_, block))) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a code block has no end");
    blocks
}

#[test]
fn the_readme_is_a_front_page() {
    let lines = readme().lines().count();
    assert!(
        lines <= LINES,
        "README.md has {lines} lines, more than {LINES}"
    );
}

#[test]
fn each_of_the_two_commands_is_given_once() {
    let commands = blocks(&readme(), "");
    for command in ["cargo demo", "cargo test --workspace --no-fail-fast"] {
        let times = commands.iter().flat_map(|block| block.lines());
        let times = times.filter(|line| *line == command).count();
        assert_eq!(times, 1, "`{command}` must be one line of one code block");
    }
}

#[test]
fn the_manifests_in_the_readme_are_the_examples() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let examples = fs::read_dir(examples).unwrap();
    let examples: Vec<String> = examples
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let mut kinds = Vec::new();
    for block in blocks(&readme(), "yaml") {
        for manifest in block.split("---\n") {
            assert!(
                examples.iter().any(|example| example == manifest),
                "no file in examples/ has this manifest word for word:\n{manifest}"
            );
            let kind = manifest
                .lines()
                .find_map(|line| line.strip_prefix("kind: "));
            kinds.push(kind.unwrap().to_owned());
        }
    }
    assert_eq!(
        kinds,
        ["InferenceDeployment", "TrainingJob", "BudgetPolicy"]
    );
}
