//! Label selectors: `a`, `!a`, `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, joined by
//! commas. Field selectors: `a.b=c`, joined by commas.

use serde_json::Value;

/// One requirement.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    Exists(String),
    Missing(String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
}

/// All requirements of a selector.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selector(Vec<Requirement>);

impl Selector {
    pub(crate) fn parse(text: &str) -> Self {
        Self(
            split(text)
                .into_iter()
                .map(|part| requirement(part.trim()))
                .collect(),
        )
    }

    /// True if an object's labels fulfil every requirement.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"][key].as_str();
        let among = |key: &str, values: &[String]| {
            label(key).is_some_and(|value| values.iter().any(|each| each == value))
        };
        self.0.iter().all(|requirement| match requirement {
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Missing(key) => label(key).is_none(),
            Requirement::In(key, values) => among(key, values),
            // an object without the label is not among the values either
            Requirement::NotIn(key, values) => !among(key, values),
        })
    }
}

/// The values that fields of an object must have, by their paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldSelector(Vec<(String, String)>);

impl FieldSelector {
    pub(crate) fn parse(text: &str) -> Self {
        let parts = text.split(',').filter_map(|part| part.split_once('='));
        Self(
            parts
                .map(|(path, value)| (path.to_owned(), value.to_owned()))
                .collect(),
        )
    }

    /// True if every field has its value; a field that is not there is empty.
    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(path, value)| {
            let field = path.split('.').fold(object, |object, name| &object[name]);
            field.as_str().unwrap_or_default() == value
        })
    }
}

/// Splits at the commas outside of brackets.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.retain(|part| !part.trim().is_empty());
    parts
}

fn requirement(text: &str) -> Requirement {
    let set = |values: &str| {
        let values = values.trim().trim_start_matches('(').trim_end_matches(')');
        values
            .split(',')
            .map(|value| value.trim().to_owned())
            .collect()
    };
    let one = |value: &str| vec![value.trim().to_owned()];
    let key = |key: &str| key.trim().to_owned();
    if let Some((name, values)) = text.split_once(" notin ") {
        Requirement::NotIn(key(name), set(values))
    } else if let Some((name, values)) = text.split_once(" in ") {
        Requirement::In(key(name), set(values))
    } else if let Some((name, value)) = text.split_once("!=") {
        Requirement::NotIn(key(name), one(value))
    } else if let Some((name, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        Requirement::In(key(name), one(value))
    } else if let Some(name) = text.strip_prefix('!') {
        Requirement::Missing(key(name))
    } else {
        Requirement::Exists(key(text))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{FieldSelector, Selector};

    #[test]
    fn every_field_must_have_its_value() {
        let object = json!({"reason": "Failed", "regarding": {"uid": "u"}});
        let matches = |text: &str| FieldSelector::parse(text).matches(&object);
        assert!(matches("") && matches("regarding.uid=u,reason=Failed"));
        assert!(!matches("regarding.uid=u,reason=Other") && !matches("regarding.name=u"));
    }

    #[test]
    fn every_form_of_requirement_is_understood() {
        let object = json!({"metadata": {"labels": {"app": "chat", "tier": "gpu"}}});
        let matches = |text: &str| Selector::parse(text).matches(&object);
        for yes in [
            "",
            "app",
            "app=chat",
            "app==chat,tier=gpu",
            "app in (chat, x)",
            "app notin (x,y)",
            "!none",
            "none!=x",
        ] {
            assert!(matches(yes), "{yes}");
        }
        for no in [
            "none",
            "app=x",
            "app!=chat",
            "app in (x,y),tier",
            "app notin (chat)",
            "!app",
        ] {
            assert!(!matches(no), "{no}");
        }
    }
}
