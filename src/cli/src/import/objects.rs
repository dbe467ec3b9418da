//! The objects that an import reads: the documents of a file, or what the cluster has.

use bursar_api::lenient::bounded_text;
use serde_json::Value;

/// The largest file that is read, in bytes.
pub(crate) const MAX_FILE: u64 = 4 << 20;
/// The most objects in a file.
const MAX_OBJECTS: usize = 1000;
/// The deepest nesting of a document.
const MAX_DEPTH: usize = 64;

/// Objects, and whether all Services that there are are among them.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    /// The objects.
    pub(crate) all: Vec<Value>,
    /// Whether a Service that is not among them does not exist.
    pub(crate) has_all_services: bool,
    /// What could not be read in the cluster, and why.
    pub(crate) unread: Vec<String>,
}

/// Why a file is no list of objects.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("{0}")]
    Yaml(String),
    #[error("it has more than {MAX_OBJECTS} objects: give it in parts")]
    TooMany,
}

impl Objects {
    /// The documents of a text of YAML or JSON. The items of a `List` count one by one, also those of
    /// a list in it.
    ///
    /// # Errors
    /// It is no YAML, or has too many objects.
    pub(crate) fn from_text(text: &str) -> Result<Self, ReadError> {
        let options = serde_saphyr::options! {
            // YAML 1.1, which kubectl reads: `defaultMode: 0400`
            legacy_octal_numbers: true,
            with_snippet: false,
            budget: serde_saphyr::budget! {
                max_depth: MAX_DEPTH,
                max_documents: MAX_OBJECTS,
            },
        };
        let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)
            .map_err(|error| {
                // without advice for those who call the parser
                let text = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
                ReadError::Yaml(bounded_text(&text))
            })?;
        let mut all = Vec::new();
        for document in documents {
            open(document, &mut all);
        }
        if all.len() > MAX_OBJECTS {
            return Err(ReadError::TooMany);
        }
        Ok(Self {
            all,
            ..Self::default()
        })
    }

    /// The objects of a kind, of any version.
    pub(crate) fn of_kind<'o>(
        &'o self,
        group: &'static str,
        kind: &str,
    ) -> impl Iterator<Item = &'o Value> {
        let kind = kind.to_owned();
        self.all
            .iter()
            .filter(move |object| is_kind(object, group, &kind))
    }

    /// The object of a kind with a name, in a namespace: one that names no namespace may be in any.
    pub(crate) fn find(
        &self,
        (group, kind): (&'static str, &str),
        name: &str,
        namespace: Option<&str>,
    ) -> Option<&Value> {
        self.of_kind(group, kind)
            .find(|object| metadata(object, "name") == Some(name) && is_in(object, namespace))
    }
}

/// Adds an object, or all that is in a list, whose depth the parser has bounded.
fn open(mut object: Value, all: &mut Vec<Value>) {
    let is_list = string(&object, "kind").is_some_and(|kind| kind.ends_with("List"));
    match object.get_mut("items") {
        Some(Value::Array(items)) if is_list => {
            for item in std::mem::take(items) {
                open(item, all);
            }
        }
        _ => all.push(object),
    }
}

/// Whether an object may be in a namespace.
pub(crate) fn is_in(object: &Value, namespace: Option<&str>) -> bool {
    let own = metadata(object, "namespace");
    own.is_none() || namespace.is_none() || own == namespace
}

/// Whether an object is of a kind, of any version.
pub(crate) fn is_kind(object: &Value, group: &str, kind: &str) -> bool {
    string(object, "kind") == Some(kind)
        && string(object, "apiVersion").is_some_and(|version| group_of(version) == group)
}

/// The group of an API version; empty for the core's.
pub(crate) fn group_of(api_version: &str) -> &str {
    api_version.rsplit_once('/').map_or("", |(group, _)| group)
}

/// A text at the top of an object.
pub(crate) fn string<'o>(object: &'o Value, name: &str) -> Option<&'o str> {
    object.get(name)?.as_str()
}

/// A text of an object's metadata.
pub(crate) fn metadata<'o>(object: &'o Value, name: &str) -> Option<&'o str> {
    object.get("metadata")?.get(name)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_and_the_items_of_lists_are_objects() {
        let text = "kind: A\n---\n# nothing\n---\nkind: List\nitems: [{kind: B}, {kind: List, items: [{kind: C}]}]\n";
        let objects = Objects::from_text(text).unwrap();
        let kinds: Vec<_> = (objects.all.iter())
            .map(|object| string(object, "kind"))
            .collect();
        assert_eq!(kinds, [Some("A"), Some("B"), Some("C")]);
    }

    #[test]
    fn a_field_that_is_there_twice_is_refused_in_words_for_users() {
        let error = Objects::from_text("a: 1\na: 2\n").unwrap_err().to_string();
        assert!(
            error.contains("duplicate") && error.contains("line 2"),
            "{error}"
        );
        assert!(!error.contains("DuplicateKeyPolicy"), "{error}");
    }

    #[test]
    fn numbers_are_read_as_kubectl_reads_them() {
        let objects = Objects::from_text("mode: 0400\n").unwrap();
        assert_eq!(objects.all[0]["mode"], 256);
    }

    #[test]
    fn a_file_that_grows_when_read_is_refused() {
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
             d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n\
             g: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n";
        assert!(Objects::from_text(bomb).is_err());
        let deep = |levels: usize| format!("{}x\n", "- ".repeat(levels));
        assert!(Objects::from_text(&deep(MAX_DEPTH / 2)).is_ok());
        assert!(Objects::from_text(&deep(MAX_DEPTH * 2)).is_err());
        let many = "kind: A\n---\n".repeat(MAX_OBJECTS + 1);
        assert!(Objects::from_text(&many).is_err());
        let items = vec!["{kind: A}"; MAX_OBJECTS + 1].join(",");
        let list = format!("kind: List\nitems: [{items}]\n");
        assert!(matches!(Objects::from_text(&list), Err(ReadError::TooMany)));
    }

    #[test]
    fn objects_are_found_by_group_kind_name_and_namespace() {
        let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a, namespace: x}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\n";
        let objects = Objects::from_text(text).unwrap();
        let found =
            |group, kind, name, namespace| objects.find((group, kind), name, namespace).is_some();
        assert!(found("apps", "Deployment", "a", Some("x")));
        assert!(found("apps", "Deployment", "a", None));
        assert!(!found("apps", "Deployment", "a", Some("y")));
        assert!(!found("", "Deployment", "a", None));
        assert!(found("", "Service", "a", Some("y")));
    }
}
