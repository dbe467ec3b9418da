//! Where a value is in an object: field names with dots between them, such as `spec.runPolicy.suspend`. The last
//! one of a path to several values ends in `[*]` for each item of a list, or is `*` for each value of a map.

use serde_json::Value;

const MAX_FIELDS: usize = 12;
const MAX_FIELD: usize = 63;

/// A path to one value. An empty one is the object itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldPath(Vec<String>);

/// A path to one value, to each item of a list, or to each value of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ElementPath {
    parent: FieldPath,
    elements: Elements,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Elements {
    Itself,
    OfList,
    OfMap,
}

impl FieldPath {
    /// # Errors
    /// The text is no such path.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let fields: Vec<String> = text.split('.').map(str::to_owned).collect();
        let is_field = |field: &String| {
            let mut bytes = field.bytes();
            (1..=MAX_FIELD).contains(&field.len())
                && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        match fields.len() <= MAX_FIELDS && fields.iter().all(is_field) {
            true => Ok(Self(fields)),
            false => Err(format!(
                "{text:?} is no path: it must be at most {MAX_FIELDS} field names with dots between them, such as spec.suspend"
            )),
        }
    }

    /// The value, if it is there.
    pub(crate) fn get<'v>(&self, object: &'v Value) -> Option<&'v Value> {
        let mut fields = self.0.iter();
        fields.try_fold(object, |value, field| value.get(field))
    }

    /// An object with nothing but this value.
    pub(crate) fn with(&self, value: Value) -> Value {
        let fields = self.0.iter().rev();
        fields.fold(value, |value, field| {
            let mut object = serde_json::Map::new();
            object.insert(field.clone(), value);
            Value::Object(object)
        })
    }
}

impl std::fmt::Display for FieldPath {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0.join("."))
    }
}

impl ElementPath {
    /// # Errors
    /// The text is no such path.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (parent, elements) = match (text.strip_suffix("[*]"), text.strip_suffix(".*")) {
            (Some(list), _) => (list, Elements::OfList),
            (None, Some(map)) => (map, Elements::OfMap),
            (None, None) => (text, Elements::Itself),
        };
        Ok(Self {
            parent: FieldPath::parse(parent)?,
            elements,
        })
    }

    /// The values that are there, those of a map with their keys.
    pub(crate) fn each<'v>(&self, object: &'v Value) -> Vec<(Option<&'v str>, &'v Value)> {
        let Some(parent) = self.parent.get(object) else {
            return Vec::new();
        };
        match self.elements {
            Elements::Itself => vec![(None, parent)],
            Elements::OfList => {
                let items = parent.as_array().into_iter().flatten();
                items.map(|item| (None, item)).collect()
            }
            Elements::OfMap => {
                let values = parent.as_object().into_iter().flatten();
                values.map(|(key, value)| (Some(&**key), value)).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_finds_a_value_and_writes_it_alone() {
        let path = FieldPath::parse("spec.runPolicy.suspend").unwrap();
        let object = json!({"spec": {"runPolicy": {"suspend": true, "other": 1}}});
        assert_eq!(path.get(&object), Some(&json!(true)));
        assert_eq!(path.get(&json!({"spec": {"runPolicy": 3}})), None);
        let alone = json!({"spec": {"runPolicy": {"suspend": false}}});
        assert_eq!(path.with(json!(false)), alone);
    }

    #[test]
    fn wildcards_are_items_of_lists_and_values_of_maps() {
        let object = json!({"spec": {"list": [1, 2], "map": {"b": 4, "a": 3}, "text": "no"}});
        let each = |path: &str| -> Vec<(Option<String>, Value)> {
            let path = ElementPath::parse(path).unwrap();
            let found = path.each(&object).into_iter();
            found
                .map(|(key, value)| (key.map(str::to_owned), value.clone()))
                .collect()
        };
        assert_eq!(each("spec.list[*]"), [(None, json!(1)), (None, json!(2))]);
        let (a, b) = (Some("a".to_owned()), Some("b".to_owned()));
        assert_eq!(each("spec.map.*"), [(a, json!(3)), (b, json!(4))]);
        assert_eq!(each("spec.text"), [(None, json!("no"))]);
        for none in ["spec.text[*]", "spec.text.*", "spec.list.*", "gone[*]"] {
            assert_eq!(each(none), [], "{none}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        let long = "a".repeat(64);
        let deep = ["a"; 13].join(".");
        for text in ["", ".", "a..b", "a b", "a[0]", "*", "$.a", &long, &deep] {
            assert!(FieldPath::parse(text).is_err(), "{text}");
            assert!(ElementPath::parse(text).is_err(), "{text}");
        }
        assert!(FieldPath::parse("spec.list[*]").is_err());
        assert!(ElementPath::parse("spec.list[*].b[*]").is_err());
    }
}
