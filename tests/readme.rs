//! The README shows the examples as they are in the repository.

use std::{fs, path::Path};

#[test]
fn the_manifests_in_the_readme_are_the_examples() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    for name in ["inference.yaml", "budget.yaml", "prices.yaml"] {
        let example = fs::read_to_string(root.join("examples").join(name)).unwrap();
        assert!(
            readme.contains(&format!("```yaml\n{example}```\n")),
            "README.md does not have examples/{name} word for word"
        );
    }
}
