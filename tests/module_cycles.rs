//! Modules of a crate depend on one another in few and small circles, because the files of a circle
//! can only be understood together.
//!
//! A file depends on the files that define what it names. A name that a module only re-exports
//! leads to the file that defines it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// The largest circle, in files, that a crate may have.
const LIMIT: usize = 3;

/// Names that a path leads through, such as `crate::price::Book`.
type NamePath = Vec<String>;

/// One module of a crate.
#[derive(Default)]
struct Module {
    file: PathBuf,
    children: BTreeMap<String, NamePath>,
    items: BTreeSet<String>,
    /// Imports and re-exports by name; paths are from the crate's root.
    imports: BTreeMap<String, NamePath>,
    globs: Vec<NamePath>,
    /// Paths that the module's code names, as written, with their lines.
    references: Vec<(NamePath, usize)>,
}

/// The modules of a crate, by path from its root.
#[derive(Default)]
struct Crate {
    modules: BTreeMap<NamePath, Module>,
}

impl Crate {
    /// Reads a crate from its root file, through all its `mod` items.
    fn read(root: &Path) -> Self {
        let mut modules = Self::default();
        modules.read_file(Vec::new(), root);
        modules
    }

    fn read_file(&mut self, path: NamePath, file: &Path) {
        self.read_module(path, file, tokens(file));
    }

    fn read_module(&mut self, path: NamePath, file: &Path, tokens: Vec<TokenTree>) {
        let mut module = Module {
            file: file.to_owned(),
            ..Module::default()
        };
        let mut children = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            if let Some(end) = test_item(&tokens, at) {
                at = end;
                continue;
            }
            if let (Some("mod"), Some(name)) = (
                identifier(tokens.get(at)).as_deref(),
                identifier(tokens.get(at + 1)),
            ) {
                let mut child = path.clone();
                child.push(name.clone());
                module.children.insert(name.clone(), child.clone());
                children.push((child, group(tokens.get(at + 2), Delimiter::Brace)));
                at += 3;
                continue;
            }
            if let Some(item) = defined(&tokens, at) {
                module.items.insert(item);
            }
            at = module.scan(&path, &tokens, at);
        }
        self.modules.insert(path, module);
        for (child, inline) in children {
            match inline {
                Some(tokens) => self.read_module(child, file, tokens),
                None => {
                    let file = child_file(file, &child);
                    self.read_file(child, &file);
                }
            }
        }
    }

    /// The module that defines the last name of `path`, which starts at the crate's root.
    fn definition(&self, path: &[String], depth: usize) -> Option<&NamePath> {
        let mut at: NamePath = Vec::new();
        for (index, name) in path.iter().enumerate() {
            let module = self.modules.get(&at)?;
            if let Some(child) = module.children.get(name) {
                at = child.clone();
                continue;
            }
            if module.items.contains(name) || depth == 0 {
                break;
            }
            let rest = &path[index + 1..];
            let follow = |target: &[String]| {
                let target: NamePath = target.iter().chain(rest).cloned().collect();
                self.definition(&target, depth - 1)
            };
            if let Some(target) = module.imports.get(name) {
                return follow(target);
            }
            for glob in &module.globs {
                let mut target = glob.clone();
                target.push(name.clone());
                let found = follow(&target);
                if found.is_some_and(|found| self.modules[found].items.contains(name)) {
                    return found;
                }
            }
            break;
        }
        self.modules.get_key_value(&at).map(|(path, _)| path)
    }

    /// A written path from the crate's root; `None` for one into another crate.
    fn absolute(&self, from: &NamePath, written: &[String]) -> Option<NamePath> {
        let module = self.modules.get(from)?;
        let (mut base, mut rest) = match written.first()?.as_str() {
            "crate" => (Vec::new(), &written[1..]),
            "self" => (from.clone(), &written[1..]),
            "super" => (from.clone(), written),
            name if module.children.contains_key(name) => (from.clone(), written),
            name => (module.imports.get(name)?.clone(), &written[1..]),
        };
        while rest.first().is_some_and(|name| name == "super") {
            base.pop();
            rest = &rest[1..];
        }
        base.extend(rest.iter().cloned());
        Some(base)
    }

    /// For each file the files that it depends on, each with one place that says so.
    fn dependencies(&self) -> BTreeMap<PathBuf, BTreeMap<PathBuf, String>> {
        let mut files: BTreeMap<PathBuf, BTreeMap<PathBuf, String>> = BTreeMap::new();
        for (path, module) in &self.modules {
            let needs = files.entry(module.file.clone()).or_default();
            for (written, line) in &module.references {
                let target = self
                    .absolute(path, written)
                    .and_then(|target| self.definition(&target, 8).cloned());
                let Some(target) = target.and_then(|target| self.modules.get(&target)) else {
                    continue;
                };
                if target.file != module.file {
                    let file = relative(&module.file);
                    needs
                        .entry(target.file.clone())
                        .or_insert_with(|| format!("{file}:{line} names {}", written.join("::")));
                }
            }
        }
        files
    }
}

impl Module {
    /// Notes the paths at `at`, and inside it if it is a group. Returns where to go on.
    fn scan(&mut self, module: &NamePath, tokens: &[TokenTree], at: usize) -> usize {
        match &tokens[at] {
            TokenTree::Group(group) => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                let mut inside = 0;
                while inside < inner.len() {
                    inside = match test_item(&inner, inside) {
                        Some(end) => end,
                        None => self.scan(module, &inner, inside),
                    };
                }
                at + 1
            }
            TokenTree::Ident(name) if name == "use" => {
                let mut paths = Vec::new();
                let end = use_tree(tokens, at + 1, &[], &mut paths);
                for (path, alias, line) in paths {
                    let target = match path.first().map(String::as_str) {
                        Some("crate") => path[1..].to_vec(),
                        Some("self") => module.iter().chain(&path[1..]).cloned().collect(),
                        Some("super") => {
                            let levels = path.iter().take_while(|name| *name == "super").count();
                            let base = &module[..module.len().saturating_sub(levels)];
                            base.iter().chain(&path[levels..]).cloned().collect()
                        }
                        // a child module, or another crate, which leads nowhere
                        _ => module.iter().chain(&path).cloned().collect(),
                    };
                    match alias {
                        Some(alias) => drop(self.imports.insert(alias, target)),
                        None => self.globs.push(target),
                    }
                    self.references.push((path, line));
                }
                end
            }
            TokenTree::Ident(_) => {
                let (path, end) = written_path(tokens, at);
                // the `use` of a single name is a reference already
                if path.len() > 1 {
                    let line = tokens[at].span().start().line;
                    self.references.push((path, line));
                }
                end
            }
            _ => at + 1,
        }
    }
}

/// The path of a file from the repository's directory.
fn relative(path: &Path) -> String {
    path.strip_prefix(ROOT)
        .unwrap_or(path)
        .display()
        .to_string()
}

/// The tokens of a file: no comments, and literals are one token each.
fn tokens(path: &Path) -> Vec<TokenTree> {
    let text = std::fs::read_to_string(path).expect("a file that a `mod` item names");
    let stream: TokenStream = text.parse().expect("a file that compiles");
    stream.into_iter().collect()
}

/// The text of an identifier.
fn identifier(token: Option<&TokenTree>) -> Option<String> {
    match token {
        Some(TokenTree::Ident(name)) => Some(name.to_string()),
        _ => None,
    }
}

fn is_punctuation(token: Option<&TokenTree>, character: char) -> bool {
    matches!(token, Some(TokenTree::Punct(found)) if found.as_char() == character)
}

/// The tokens inside a group with this delimiter.
fn group(token: Option<&TokenTree>, delimiter: Delimiter) -> Option<Vec<TokenTree>> {
    match token {
        Some(TokenTree::Group(group)) if group.delimiter() == delimiter => {
            Some(group.stream().into_iter().collect())
        }
        _ => None,
    }
}

/// `a::b::c` from `at`, and where it ends.
fn written_path(tokens: &[TokenTree], mut at: usize) -> (NamePath, usize) {
    let mut path = NamePath::new();
    while let Some(name) = identifier(tokens.get(at)) {
        path.push(name);
        at += 1;
        if !is_separator(tokens, at) {
            break;
        }
        at += 2;
    }
    (path, at)
}

fn is_separator(tokens: &[TokenTree], at: usize) -> bool {
    is_punctuation(tokens.get(at), ':') && is_punctuation(tokens.get(at + 1), ':')
}

/// The paths of a `use` from `at`, each with the name that it brings (`None` for `*`) and its line.
/// Returns where the tree ends.
fn use_tree(
    tokens: &[TokenTree],
    mut at: usize,
    prefix: &[String],
    paths: &mut Vec<(NamePath, Option<String>, usize)>,
) -> usize {
    let mut path = prefix.to_vec();
    loop {
        let Some(token) = tokens.get(at) else {
            return at;
        };
        let line = token.span().start().line;
        if let Some(inner) = group(Some(token), Delimiter::Brace) {
            let mut inside = 0;
            while inside < inner.len() {
                inside = use_tree(&inner, inside, &path, paths) + 1;
            }
            return at + 1;
        }
        if is_punctuation(Some(token), '*') {
            paths.push((path, None, line));
            return at + 1;
        }
        let Some(name) = identifier(Some(token)) else {
            return at + 1;
        };
        at += 1;
        let is_self = name == "self" && !path.is_empty();
        if !is_self {
            path.push(name);
        }
        if is_separator(tokens, at) {
            at += 2;
            continue;
        }
        let mut alias = path.last().cloned();
        if identifier(tokens.get(at)).as_deref() == Some("as") {
            alias = identifier(tokens.get(at + 1));
            at += 2;
        }
        paths.push((path, alias.or(Some(String::new())), line));
        return at;
    }
}

/// The end of an item for tests at `at`: `#[cfg(test)]` and what follows it.
fn test_item(tokens: &[TokenTree], at: usize) -> Option<usize> {
    if !is_punctuation(tokens.get(at), '#') {
        return None;
    }
    let attribute = group(tokens.get(at + 1), Delimiter::Bracket)?;
    let is_test = identifier(attribute.first()).as_deref() == Some("cfg")
        && tokens[at + 1].to_string().replace(' ', "") == "[cfg(test)]";
    if !is_test {
        return None;
    }
    let ends = |token: &TokenTree| {
        is_punctuation(Some(token), ';') || group(Some(token), Delimiter::Brace).is_some()
    };
    let length = tokens[at + 2..].iter().position(ends)?;
    Some(at + 2 + length + 1)
}

/// The name that an item at `at` defines.
fn defined(tokens: &[TokenTree], at: usize) -> Option<String> {
    let keyword = identifier(tokens.get(at))?;
    let kinds = [
        "fn", "struct", "enum", "trait", "type", "const", "static", "union",
    ];
    if keyword == "macro_rules" {
        return identifier(tokens.get(at + 2));
    }
    kinds
        .contains(&keyword.as_str())
        .then(|| identifier(tokens.get(at + 1)))
        .flatten()
}

/// The file of the module `child`, which `parent` declares.
fn child_file(parent: &Path, child: &[String]) -> PathBuf {
    let name = child.last().expect("a module below the root");
    let stem = parent.file_stem().expect("a file");
    let directory = match stem.to_str() {
        Some("lib" | "main" | "mod") => parent.parent().expect("a file in a directory").to_owned(),
        _ => parent.with_extension(""),
    };
    let file = directory.join(format!("{name}.rs"));
    match file.exists() {
        true => file,
        false => directory.join(name).join("mod.rs"),
    }
}

/// The files that can be reached from `file`.
fn reachable(
    files: &BTreeMap<PathBuf, BTreeMap<PathBuf, String>>,
    file: &PathBuf,
) -> BTreeSet<PathBuf> {
    let mut reached = BTreeSet::new();
    let mut open = vec![file];
    while let Some(file) = open.pop() {
        for next in files.get(file).into_iter().flat_map(BTreeMap::keys) {
            if reached.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    reached
}

/// The circles of two files and more, the largest first.
fn circles(files: &BTreeMap<PathBuf, BTreeMap<PathBuf, String>>) -> Vec<BTreeSet<PathBuf>> {
    let reached: BTreeMap<&PathBuf, BTreeSet<PathBuf>> = files
        .keys()
        .map(|file| (file, reachable(files, file)))
        .collect();
    let mut circles = BTreeSet::new();
    for (file, reaches) in &reached {
        let circle: BTreeSet<PathBuf> = reaches
            .iter()
            .filter(|other| reached[other].contains(*file))
            .cloned()
            .collect();
        if circle.len() > 1 {
            circles.insert(circle);
        }
    }
    let mut circles: Vec<_> = circles.into_iter().collect();
    circles.sort_by_key(|circle| std::cmp::Reverse(circle.len()));
    circles
}

/// Root files of all crates under `src`, by the crate's name.
fn roots() -> Vec<(String, PathBuf)> {
    let mut roots = Vec::new();
    for entry in std::fs::read_dir(Path::new(ROOT).join("src")).expect("src is a directory") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("a name in UTF-8");
        for root in ["lib.rs", "main.rs"] {
            let file = entry.path().join("src").join(root);
            if file.exists() {
                roots.push((name.clone(), file));
            }
        }
    }
    roots.sort();
    roots
}

#[test]
fn circles_of_modules_are_small() {
    let roots = roots();
    let mut failures = Vec::new();
    for (name, root) in &roots {
        let files = Crate::read(root).dependencies();
        let circles = circles(&files);
        println!(
            "{name}: {} files, circles of {:?}",
            files.len(),
            circles.iter().map(BTreeSet::len).collect::<Vec<_>>()
        );
        for circle in circles.iter().filter(|circle| circle.len() > LIMIT) {
            let edges: Vec<&str> = circle
                .iter()
                .flat_map(|file| &files[file])
                .filter(|(target, _)| circle.contains(*target))
                .map(|(_, place)| place.as_str())
                .collect();
            failures.push(format!(
                "{name}: {} files depend on one another in a circle, {LIMIT} may:\n  {}",
                circle.len(),
                edges.join("\n  ")
            ));
        }
    }
    assert!(roots.len() > 9, "{roots:?}");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn dependencies_lead_to_where_a_name_is_defined() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("module_cycles");
    let write = |file: &str, text: &str| {
        let path = directory.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    };
    write(
        "lib.rs",
        "mod a; mod b; mod c; mod d; pub use b::inner::Exported; #[cfg(test)] mod tests { use crate::d; }",
    );
    // through the root's re-export, out of a group, and not out of comments and strings
    write(
        "a.rs",
        "use crate::{Exported, c::{self as other, Named}}; // crate::d\nconst TEXT: &str = \"crate::d\";",
    );
    write("b/mod.rs", "pub mod inner; pub fn helper() {}");
    write("b/inner.rs", "use super::helper; pub struct Exported;");
    write(
        "c.rs",
        "pub struct Named; fn call() { vec![crate::a::TEXT] }",
    );
    write("d.rs", "use std::fmt; #[cfg(test)] use crate::a;");
    let files = Crate::read(&directory.join("lib.rs")).dependencies();
    let needs = |file: &str| -> Vec<String> {
        let names = files[&directory.join(file)].keys();
        names
            .map(|path| path.strip_prefix(&directory).unwrap().display().to_string())
            .collect()
    };
    assert_eq!(needs("lib.rs"), ["b/inner.rs"]);
    assert_eq!(needs("a.rs"), ["b/inner.rs", "c.rs"]);
    assert_eq!(needs("b/inner.rs"), ["b/mod.rs"]);
    assert_eq!(needs("c.rs"), ["a.rs"]);
    assert_eq!(needs("d.rs"), [""; 0]);
    let circle = [directory.join("a.rs"), directory.join("c.rs")];
    assert_eq!(circles(&files), [BTreeSet::from(circle)]);
}
