//! The CustomResourceDefinitions, generated from the types.

mod descriptions;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps,
};

use self::descriptions::described;
use crate::{
    BudgetPolicy, InferenceDeployment, PriceList, SpendCorrection, SpendRecord, TrainingJob,
};

/// Bounds that let the API server estimate the cost of a rule.
const MAX_CONTAINERS: i64 = 32;
const MAX_ENTRIES: i64 = 64;
const MAX_VARIABLES: i64 = 512;
/// Kubernetes bounds labels; the annotations of a pod may have 256 KiB together.
const MAX_LABEL_NAME: i64 = 63;
const MAX_ANNOTATION: i64 = 65_536;
const MAX_PORT: f64 = 65_535.0;

/// All of them.
pub fn all() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![
        described::<BudgetPolicy>(),
        described::<InferenceDeployment>(),
        described::<PriceList>(),
        described::<SpendCorrection>(),
        described::<SpendRecord>(),
        described::<TrainingJob>(),
    ];
    for version in crds.iter_mut().flat_map(|crd| &mut crd.spec.versions) {
        let schema = version
            .schema
            .as_mut()
            .and_then(|schema| schema.open_api_v3_schema.as_mut());
        let Some(spec) = schema.and_then(|schema| property(schema, "spec")) else {
            continue;
        };
        if let Some(template) = property(spec, "template") {
            prepare(template);
        }
        let role = property(spec, "roles").and_then(items);
        if let Some(template) = role.and_then(|role| property(role, "template")) {
            prepare(template);
        }
    }
    crds
}

/// A definition as YAML.
///
/// # Errors
/// Never for the definitions of [`all`]; a test writes each.
pub fn yaml(crd: &CustomResourceDefinition) -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(crd)
}

/// The file that a definition is kept in.
pub fn file_name(crd: &CustomResourceDefinition) -> String {
    format!("{}.yaml", crd.spec.names.plural)
}

fn property<'a>(schema: &'a mut JSONSchemaProps, name: &str) -> Option<&'a mut JSONSchemaProps> {
    schema.properties.as_mut()?.get_mut(name)
}

/// The schema of a list's items.
fn items(list: &mut JSONSchemaProps) -> Option<&mut JSONSchemaProps> {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaPropsOrArray;
    match &mut list.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => Some(items),
        _ => None,
    }
}

/// Makes a pod template's schema small, and bounds what rules and types need bounds for.
fn prepare(template: &mut JSONSchemaProps) {
    strip(template);
    bound(template);
    bound_ports(template);
}

/// Takes the descriptions away: with them `kubectl apply` could not take the definition, and
/// everybody knows a pod template.
fn strip(schema: &mut JSONSchemaProps) {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
        JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
    };
    schema.description = None;
    schema
        .properties
        .iter_mut()
        .flat_map(|properties| properties.values_mut())
        .for_each(strip);
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => strip(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(strip),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        strip(values);
    }
}

/// Bounds ports, so that the API server takes none that no type for ports holds: Kubernetes' own
/// schema has no bounds, because its types refuse such numbers.
fn bound_ports(schema: &mut JSONSchemaProps) {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
        JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
    };
    for (name, property) in schema.properties.iter_mut().flatten() {
        let least = match name.as_str() {
            "port" | "containerPort" => Some(1.0),
            // none, as if it were left out
            "hostPort" => Some(0.0),
            _ => None,
        };
        let is_number = property.type_.as_deref() == Some("integer")
            || property.x_kubernetes_int_or_string == Some(true);
        if let Some(least) = least.filter(|_| is_number) {
            (property.minimum, property.maximum) = (Some(least), Some(MAX_PORT));
        }
        bound_ports(property);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => bound_ports(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(bound_ports),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        bound_ports(values);
    }
}

/// Bounds what rules walk over.
fn bound(template: &mut JSONSchemaProps) {
    if let Some(metadata) = property(template, "metadata") {
        bound_metadata(metadata);
    }
    let Some(spec) = property(template, "spec") else {
        return;
    };
    for list in ["containers", "initContainers"] {
        let Some(containers) = property(spec, list) else {
            continue;
        };
        containers.max_items = Some(MAX_CONTAINERS);
        if let Some(variables) = items(containers).and_then(|container| property(container, "env"))
        {
            variables.max_items = Some(MAX_VARIABLES);
        }
        let resources = items(containers).and_then(|container| property(container, "resources"));
        if let Some(limits) = resources.and_then(|resources| property(resources, "limits")) {
            limits.max_properties = Some(MAX_ENTRIES);
        }
    }
}

/// Leaves labels and annotations of a template's metadata, which are all that its pods get of it. The
/// API server prunes the rest, also of objects that it had stored before.
fn bound_metadata(metadata: &mut JSONSchemaProps) {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaPropsOrBool;
    let longest = [("labels", MAX_LABEL_NAME), ("annotations", MAX_ANNOTATION)];
    let is_kept = |name: &String| longest.iter().any(|(kept, _)| name == kept);
    if let Some(properties) = &mut metadata.properties {
        properties.retain(|name, _| is_kept(name));
    }
    for (name, longest) in longest {
        let Some(map) = property(metadata, name) else {
            continue;
        };
        map.max_properties = Some(MAX_ENTRIES);
        if let Some(JSONSchemaPropsOrBool::Schema(value)) = &mut map.additional_properties {
            value.max_length = Some(longest);
        }
    }
}
