//! What `kubectl explain` shows: a description of the kind, and what each value of a field means.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::core::object::{HasSpec, HasStatus};
use kube::{CustomResourceExt, Resource};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

/// The definition of a kind, with the descriptions that its types have and the derived schema lacks.
pub(super) fn described<K>() -> CustomResourceDefinition
where
    K: Resource + CustomResourceExt + HasSpec + HasStatus,
    K::Spec: JsonSchema,
    K::Status: JsonSchema,
{
    let mut crd = K::crd();
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut();
        let Some(root) = schema.and_then(|schema| schema.open_api_v3_schema.as_mut()) else {
            continue;
        };
        if let Some(spec) = super::property(root, "spec") {
            describe_values(spec, &raw_schema::<K::Spec>());
            root.description = spec.description.clone();
        }
        if let Some(status) = super::property(root, "status") {
            describe_values(status, &raw_schema::<K::Status>());
        }
    }
    crd
}

/// The schema of a type before it is made structural, which joins the values of an enumeration and
/// drops their descriptions.
fn raw_schema<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().into()
}

/// Adds what each value means to the descriptions of all fields that have a list of values, in the form
/// that Kubernetes' own fields have it.
fn describe_values(schema: &mut JSONSchemaProps, raw: &Value) {
    if schema.enum_.is_some() {
        let values = alternatives(raw).filter_map(|value| {
            let [Value::String(name)] = value["enum"].as_array()?.as_slice() else {
                return None;
            };
            Some((name, value["description"].as_str()?))
        });
        let values: Vec<String> = values
            .map(|(value, meaning)| format!(" - `{value:?}` {}", one_line(meaning)))
            .collect();
        if !values.is_empty() {
            let text = schema.description.take().unwrap_or_default();
            let list = format!("{text}\n\nPossible enum values:\n{}", values.join("\n"));
            schema.description = Some(list.trim_start().to_owned());
        }
    }
    for (name, property) in schema.properties.iter_mut().flatten() {
        describe_values(property, part(raw, &["properties", name]));
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        describe_values(items, part(raw, &["items"]));
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        describe_values(values, part(raw, &["additionalProperties"]));
    }
}

/// What one of a schema's [`alternatives`] has under this path; null if none has it.
fn part<'a>(schema: &'a Value, path: &[&str]) -> &'a Value {
    let at_path = |schema: &'a Value| path.iter().try_fold(schema, |value, name| value.get(name));
    alternatives(schema)
        .find_map(at_path)
        .unwrap_or(&Value::Null)
}

/// A schema, and those that it consists of: an optional field is its type or null, an enumeration one of
/// its values.
fn alternatives(schema: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    let lists = ["oneOf", "anyOf", "allOf"].into_iter();
    let parts = lists.filter_map(|list| schema[list].as_array()).flatten();
    Box::new(std::iter::once(schema).chain(parts.flat_map(alternatives)))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
