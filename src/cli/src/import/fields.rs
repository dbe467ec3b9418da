//! The fields of a foreign manifest, of which each is used or reported.
//!
//! A converter takes the fields that it knows out of [`Fields`]. Whatever is still there when the
//! value is dropped is reported: a field that a converter has never heard of cannot be lost without
//! a word.

use bursar_api::lenient::bounded_text;
use serde_json::{Map, Value};

use super::report::Report;

/// The reason for a field that no converter asks for.
pub(crate) const NOTHING_CORRESPONDS: &str = "nothing of Bursar corresponds to it";

/// An object of a manifest, with the fields that nobody has taken yet.
#[derive(Debug)]
pub(crate) struct Fields<'r> {
    path: String,
    rest: Map<String, Value>,
    report: &'r Report,
}

impl<'r> Fields<'r> {
    /// The fields of an object at `path`. Anything but an object is reported, and has none.
    pub(crate) fn new(path: impl Into<String>, value: Value, report: &'r Report) -> Self {
        let path = path.into();
        let rest = match value {
            Value::Object(fields) => fields,
            Value::Null => Map::new(),
            other => {
                report.dropped(describe(&path, &other), "it is not an object");
                Map::new()
            }
        };
        Self { path, rest, report }
    }

    /// The path of a field.
    pub(crate) fn path(&self, name: &str) -> String {
        match self.path.is_empty() {
            true => name.to_owned(),
            false => format!("{}.{name}", self.path),
        }
    }

    /// Its own path.
    pub(crate) fn location(&self) -> &str {
        &self.path
    }

    pub(crate) fn report(&self) -> &'r Report {
        self.report
    }

    /// Whether a field is there that nobody has taken.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.rest.get(name).is_some_and(|value| !value.is_null())
    }

    /// The names of the fields that nobody has taken.
    pub(crate) fn names(&self) -> Vec<String> {
        self.rest.keys().cloned().collect()
    }

    /// A field that nobody has taken, which stays there.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.rest.get(name)
    }

    /// Takes a field, as it is.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.rest.remove(name).filter(|value| !value.is_null())
    }

    /// Takes a field that is read as a `T`; of another type, it is reported.
    fn read<T>(&mut self, name: &str, kind: &str, read: fn(&Value) -> Option<T>) -> Option<T> {
        let value = self.take(name)?;
        let found = read(&value);
        if found.is_none() {
            let field = describe(&self.path(name), &value);
            self.report.dropped(field, format!("it is not {kind}"));
        }
        found
    }

    /// Takes a text, or a number or truth value as one: metadata of triggers is written either way.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        self.read(name, "a text", |value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(is) => Some(is.to_string()),
            _ => None,
        })
    }

    /// Takes a whole number, also one that is written as a text.
    pub(crate) fn integer(&mut self, name: &str) -> Option<i64> {
        self.read(name, "a whole number", |value| match value {
            Value::String(text) => text.trim().parse().ok(),
            other => other.as_i64(),
        })
    }

    /// Takes a truth value, also one that is written as a text.
    pub(crate) fn boolean(&mut self, name: &str) -> Option<bool> {
        self.read(name, "true or false", |value| match value {
            Value::String(text) => text.trim().parse().ok(),
            other => other.as_bool(),
        })
    }

    /// Takes an object. One that is not there has no fields.
    pub(crate) fn object(&mut self, name: &str) -> Fields<'r> {
        let value = self.take(name).unwrap_or(Value::Null);
        Fields::new(self.path(name), value, self.report)
    }

    /// Takes a list of objects. One that is not there has no items.
    pub(crate) fn objects(&mut self, name: &str) -> Vec<Fields<'r>> {
        let path = self.path(name);
        let items = self.read(name, "a list", |value| value.as_array().cloned());
        let items = items.into_iter().flatten().enumerate();
        items
            .map(|(index, item)| Fields::new(format!("{path}[{index}]"), item, self.report))
            .collect()
    }

    /// Reports a field with a reason of its own, if it is there.
    pub(crate) fn drop_field(&mut self, name: &str, why: &str) {
        if let Some(value) = self.take(name) {
            self.report.dropped(describe(&self.path(name), &value), why);
        }
    }

    /// Puts a field back, for the next one who asks for it.
    pub(crate) fn put(&mut self, name: &str, value: Value) {
        self.rest.insert(name.to_owned(), value);
    }

    /// Takes all that is left.
    pub(crate) fn into_rest(mut self) -> Map<String, Value> {
        std::mem::take(&mut self.rest)
    }

    /// Takes a field that says nothing of what the workload should be, such as its status.
    pub(crate) fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.rest.remove(*name);
        }
    }

    /// Takes a field if it has this value, which says no more than its absence would.
    pub(crate) fn ignore_value(&mut self, name: &str, value: &Value) {
        if self.rest.get(name) == Some(value) {
            self.rest.remove(name);
        }
    }
}

impl Drop for Fields<'_> {
    fn drop(&mut self) {
        for (name, value) in std::mem::take(&mut self.rest) {
            if !value.is_null() {
                self.report
                    .dropped(describe(&self.path(&name), &value), NOTHING_CORRESPONDS);
            }
        }
    }
}

/// Parts of the names of fields whose values are nobody else's business.
const SECRET_NAMES: [&str; 6] = [
    "password",
    "passphrase",
    "token",
    "secret",
    "credential",
    "key",
];

/// Whether a value may be a secret, by its field's name or by a password in an address.
fn is_secret(path: &str, value: &Value) -> bool {
    let name = path.rsplit('.').next().unwrap_or(path).to_ascii_lowercase();
    let is_signed_in = |text: &str| text.contains("://") && text.contains('@');
    SECRET_NAMES.iter().any(|part| name.contains(part)) || value.as_str().is_some_and(is_signed_in)
}

/// A path with the value that was there, if that is short and no secret.
fn describe(path: &str, value: &Value) -> String {
    const MAX_VALUE: usize = 40;
    if is_secret(path, value) {
        return path.to_owned();
    }
    let shown = match value {
        Value::String(text) => format!("{text:?}"),
        Value::Object(fields) if !fields.is_empty() => return path.to_owned(),
        Value::Array(items) if !items.is_empty() => return path.to_owned(),
        other => other.to_string(),
    };
    match shown.chars().count() <= MAX_VALUE {
        true => format!("{path} ({})", bounded_text(&shown)),
        false => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn dropped(report: Report) -> Vec<String> {
        let findings = report.into_findings().into_iter();
        findings.map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn a_field_that_nobody_takes_is_reported() {
        let report = Report::default();
        let mut fields = Fields::new(
            "spec",
            json!({"known": 1, "odd": "x", "absent": null}),
            &report,
        );
        assert_eq!(fields.integer("known"), Some(1));
        drop(fields);
        assert_eq!(
            dropped(report),
            ["dropped: spec.odd (\"x\"): nothing of Bursar corresponds to it"]
        );
    }

    #[test]
    fn a_field_in_an_object_or_list_that_nobody_takes_is_reported_with_its_path() {
        let report = Report::default();
        let value = json!({"a": {"b": {"c": true}}, "list": [{"x": 1}, 5]});
        let mut fields = Fields::new("spec", value, &report);
        drop(fields.object("a").object("b"));
        drop(fields.objects("list"));
        drop(fields);
        assert_eq!(
            dropped(report),
            [
                "dropped: spec.a.b.c (true): nothing of Bursar corresponds to it",
                "dropped: spec.list[1] (5): it is not an object",
                "dropped: spec.list[0].x (1): nothing of Bursar corresponds to it",
            ]
        );
    }

    #[test]
    fn a_field_of_another_type_is_reported_with_the_right_one() {
        let report = Report::default();
        let value = json!({"n": "many", "t": [1], "o": "x", "l": {}, "b": 2});
        let mut fields = Fields::new("spec", value, &report);
        assert_eq!(fields.integer("n"), None);
        assert_eq!(fields.text("t"), None);
        drop(fields.object("o"));
        assert!(fields.objects("l").is_empty());
        assert_eq!(fields.boolean("b"), None);
        drop(fields);
        assert_eq!(
            dropped(report),
            [
                "dropped: spec.n (\"many\"): it is not a whole number",
                "dropped: spec.t: it is not a text",
                "dropped: spec.o (\"x\"): it is not an object",
                "dropped: spec.l ({}): it is not a list",
                "dropped: spec.b (2): it is not true or false",
            ]
        );
    }

    proptest! {
        /// However much of an object is taken: each field is used or reported, and none is both.
        #[test]
        fn each_field_is_used_or_reported(
            // No name of these letters is one of `SECRET_NAMES`, whose values are not shown.
            names in prop::collection::btree_map("[a-f]{1,6}", any::<bool>(), 0..20),
        ) {
            let report = Report::default();
            let value: Map<String, Value> =
                names.keys().map(|name| (name.clone(), json!(1))).collect();
            let mut fields = Fields::new("spec", Value::Object(value), &report);
            for (name, _) in names.iter().filter(|(_, taken)| **taken) {
                prop_assert!(fields.take(name).is_some());
            }
            drop(fields);
            let mut expected: Vec<String> = (names.iter().filter(|(_, taken)| !**taken))
                .map(|(name, _)| format!("spec.{name} (1)"))
                .collect();
            let mut seen: Vec<String> =
                report.into_findings().into_iter().map(|finding| finding.field).collect();
            expected.sort();
            seen.sort();
            prop_assert_eq!(seen, expected);
        }
    }
}
