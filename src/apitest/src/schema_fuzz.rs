//! Objects made from the schemas of Bursar's CustomResourceDefinitions, at and beyond their bounds, and
//! what readers say of them.
//!
//! Each object is a valid one of which one to three places were replaced by a value that its schema's
//! type suggests: integers at the bounds of every width, odd dates, quantities and durations, strings
//! up to a megabyte. A seed gives the same objects again. The unit tests here judge by
//! the part of structural schemas that Bursar's definitions use, without CEL; a scenario asks a real API
//! server.

use bursar_api::lenient::{Lenient, Unreadable, Validate};
use bursar_api::{
    BudgetPolicy, InferenceDeployment, PriceList, SpendCorrection, SpendRecord, TrainingJob, crds,
};
use kube::Resource;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

const MEGABYTE: usize = 1 << 20;
const INTEGERS: [i64; 16] = [
    0,
    1,
    -1,
    2,
    255,
    256,
    65_535,
    65_536,
    i32::MAX as i64,
    i32::MAX as i64 + 1,
    i32::MIN as i64,
    i32::MIN as i64 - 1,
    3_000_000_000,
    u32::MAX as i64 + 1,
    i64::MAX,
    i64::MIN,
];
const TEXTS: [&str; 40] = [
    "",
    " ",
    "a",
    "-",
    "0",
    "-0",
    "1",
    "-1",
    "00",
    "0.1",
    "1e400",
    "-1e-400",
    "NaN",
    "Infinity",
    "0x10",
    "9223372036854775807",
    "9223372036854775808",
    "99999999999999999999999999999999999999",
    "0.123456789",
    "0.1234567891",
    "1Ki",
    "-5Gi",
    "999999999999999999999Ei",
    "1n",
    "0s",
    "1h1m1s1ms",
    "999999999h",
    "-1s",
    "80%",
    "-009999-01-02T01:59:59Z",
    "9999-12-31T23:59:59.999999999Z",
    "2026-11-30T23:59:60Z",
    "2026-02-30",
    "0000-00-00",
    "2026-13",
    "2026-11",
    "UTC",
    "\u{0}",
    "\u{202e}evil\u{1f4a5}",
    "line\nbreak\ttab",
];

/// A definition's kind and schema, and a valid object of it.
#[derive(Debug)]
struct Target {
    kind: &'static str,
    path: &'static str,
    schema: Value,
    valid: Value,
}

/// An object to try.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its kind.
    pub kind: &'static str,
    /// The path at which objects of its kind are created.
    pub path: &'static str,
    /// The object.
    pub object: Value,
    /// The places that were replaced, with shortened values.
    pub changes: Vec<String>,
}

/// Makes objects from a seed.
#[derive(Debug)]
pub struct Generator {
    state: u64,
    targets: Vec<Target>,
    made: u64,
}

impl Generator {
    /// A generator whose objects follow from the seed.
    pub fn new(seed: u64) -> Self {
        let targets = valid_objects()
            .into_iter()
            .map(|(kind, path, valid)| Target {
                kind,
                path,
                schema: schema(kind),
                valid,
            });
        Self {
            state: seed,
            targets: targets.collect(),
            made: 0,
        }
    }

    /// The next object.
    pub fn candidate(&mut self) -> Candidate {
        let index = self.below(self.targets.len());
        let target = &self.targets[index];
        let (kind, path) = (target.kind, target.path);
        let (schema, mut object) = (target.schema.clone(), target.valid.clone());
        self.made += 1;
        let of_kind = object["metadata"]["name"].as_str().unwrap_or("x");
        object["metadata"]["name"] = json!(format!("{of_kind}-{}", self.made));
        let mut changes = Vec::new();
        for _ in 0..=self.below(3) {
            // the status is written by a request of its own
            let mut path = "spec".to_owned();
            let spec = &schema["properties"]["spec"];
            self.mutate(spec, &mut object["spec"], &mut path, 0);
            changes.push(path);
        }
        Candidate {
            kind,
            path,
            object,
            changes,
        }
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit.max(1)).unwrap_or(1);
        usize::try_from(self.next() % limit).unwrap_or(0)
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// Replaces a value somewhere below, and notes where.
    fn mutate(&mut self, schema: &Value, value: &mut Value, path: &mut String, depth: usize) {
        if depth > 0 && self.one_in(24) {
            // gone, or of another type
            *value =
                [Value::Null, json!({}), json!([]), json!("x"), json!(1.5)][self.below(5)].clone();
            path.push_str(" = another type");
            return;
        }
        if let Some(properties) = schema["properties"].as_object() {
            if !value.is_object() {
                *value = self.sample(schema, 0);
            }
            let Some((name, below)) = properties.iter().nth(self.below(properties.len())) else {
                return;
            };
            path.push('.');
            path.push_str(name);
            let fields = value.as_object_mut();
            if let Some(field) =
                fields.map(|fields| fields.entry(name.clone()).or_insert(Value::Null))
            {
                self.mutate(below, field, path, depth + 1);
            }
        } else if schema["type"] == "array" {
            if !value.is_array() {
                *value = json!([]);
            }
            let Some(items) = value.as_array_mut() else {
                return;
            };
            if items.is_empty() || self.one_in(4) {
                items.push(self.sample(&schema["items"], 0));
            }
            let index = self.below(items.len());
            path.push_str(&format!("[{index}]"));
            self.mutate(&schema["items"], &mut items[index], path, depth + 1);
        } else if schema["additionalProperties"].is_object() {
            if !value.is_object() {
                *value = json!({});
            }
            let key = ["a", "nvidia.com/gpu", "cpu", "bursar.dev/x", ""][self.below(5)];
            path.push_str(&format!("[{key:?}]"));
            if let Some(fields) = value.as_object_mut() {
                let field = fields.entry(key).or_insert(Value::Null);
                self.mutate(&schema["additionalProperties"], field, path, depth + 1);
            }
        } else {
            *value = self.boundary(schema);
            let text: String = value.to_string().chars().take(40).collect();
            path.push_str(&format!(" = {text}"));
        }
    }

    /// A plain value with all that the schema requires.
    fn sample(&mut self, schema: &Value, depth: usize) -> Value {
        if let Some(words) = schema["enum"].as_array() {
            return words[self.below(words.len())].clone();
        }
        match schema["type"].as_str() {
            Some("object") => {
                let required = schema["required"].as_array().into_iter().flatten();
                let names = required.filter_map(Value::as_str).take(16);
                let fields = names.map(|name| {
                    let below = &schema["properties"][name];
                    let value = if depth < 8 {
                        self.sample(below, depth + 1)
                    } else {
                        Value::Null
                    };
                    (name.to_owned(), value)
                });
                Value::Object(fields.collect::<Map<_, _>>())
            }
            Some("array") => json!([]),
            Some("integer" | "number") => {
                json!(schema["minimum"].as_f64().unwrap_or(1.0).max(1.0) as i64)
            }
            Some("boolean") => json!(true),
            _ => json!("a"),
        }
    }

    /// A value at or beyond a bound.
    fn boundary(&mut self, schema: &Value) -> Value {
        if let Some(words) = schema["enum"].as_array()
            && !self.one_in(10)
        {
            return words[self.below(words.len())].clone();
        }
        let is_either = schema["x-kubernetes-int-or-string"] == json!(true);
        match schema["type"].as_str() {
            Some("integer") => self.integer(schema),
            Some("number") => {
                let numbers = [0.0, -0.0, 1.5, 5e-324, f64::MAX, f64::MIN, 1e19, -1e-9];
                json!(numbers[self.below(numbers.len())])
            }
            Some("boolean") => json!(self.one_in(2)),
            _ if is_either && self.one_in(2) => self.integer(schema),
            _ => json!(self.text(schema)),
        }
    }

    fn integer(&mut self, schema: &Value) -> Value {
        let bounds = [schema["minimum"].as_f64(), schema["maximum"].as_f64()];
        let bounds = bounds.into_iter().flatten().map(|bound| bound as i64);
        let near =
            bounds.flat_map(|bound| [bound, bound.saturating_sub(1), bound.saturating_add(1)]);
        let all: Vec<i64> = near.chain(INTEGERS).collect();
        json!(all[self.below(all.len())])
    }

    fn text(&mut self, schema: &Value) -> String {
        let longest = schema["maxLength"]
            .as_u64()
            .and_then(|most| usize::try_from(most).ok());
        match (self.below(8), longest) {
            (0, Some(most)) => "x".repeat(most),
            (1, Some(most)) => "\u{1f4a5}".repeat(most.saturating_add(1).min(MEGABYTE / 4)),
            (0, None) if self.one_in(6) => "y".repeat(MEGABYTE - 4096),
            _ => TEXTS[self.below(TEXTS.len())].to_owned(),
        }
    }
}

/// The schema of a kind, as the definition's file has it.
fn schema(kind: &str) -> Value {
    let all = crds::all().into_iter();
    let mut of_kind = all.filter(|crd| crd.spec.names.kind == kind);
    let crd = of_kind.next().map(|crd| json!(crd));
    crd.map(|crd| crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone())
        .unwrap_or_default()
}

/// A valid object of each kind, and the path at which it is created.
fn valid_objects() -> [(&'static str, &'static str, Value); 6] {
    const OF_CLUSTER: [&str; 3] = [
        "/apis/bursar.dev/v1alpha1/pricelists",
        "/apis/bursar.dev/v1alpha1/spendrecords",
        "/apis/bursar.dev/v1alpha1/spendcorrections",
    ];
    const OF_NAMESPACE: [&str; 3] = [
        "/apis/bursar.dev/v1alpha1/namespaces/default/inferencedeployments",
        "/apis/bursar.dev/v1alpha1/namespaces/default/trainingjobs",
        "/apis/bursar.dev/v1alpha1/namespaces/default/budgetpolicies",
    ];
    let container = json!({"name": "c", "image": "i", "resources": {"limits": {"nvidia.com/gpu": "1"}},
        "ports": [{"containerPort": 8000}], "livenessProbe": {"httpGet": {"path": "/", "port": 8000}}});
    let template = json!({"metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}}, "spec": {"containers": [container]}});
    let object = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "bursar.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let price = json!({"model": "NVIDIA-H100-80GB-HBM3", "pricePerHour": "2.10"});
    let node = json!({"instanceType": "p5", "capacityType": "OnDemand", "gpus": 8, "pricePerHour": "31.50"});
    [
        (
            "InferenceDeployment",
            OF_NAMESPACE[0],
            object(
                "InferenceDeployment",
                "s",
                json!({"engine": "vLLM", "maxReplicas": 1, "template": template}),
            ),
        ),
        (
            "TrainingJob",
            OF_NAMESPACE[1],
            object(
                "TrainingJob",
                "t",
                json!({"framework": "PyTorch", "replicas": 1, "template": template}),
            ),
        ),
        (
            "BudgetPolicy",
            OF_NAMESPACE[2],
            object(
                "BudgetPolicy",
                "b",
                json!({"limit": "2500.00", "period": "Monthly"}),
            ),
        ),
        (
            "PriceList",
            OF_CLUSTER[0],
            object(
                "PriceList",
                "p",
                json!({"currency": "USD", "gpus": [price], "nodes": [node]}),
            ),
        ),
        (
            "SpendRecord",
            OF_CLUSTER[1],
            object(
                "SpendRecord",
                "r",
                json!({"namespace": "a", "kind": "TrainingJob", "name": "t", "month": "2026-11", "timeZone": "UTC", "currency": "USD"}),
            ),
        ),
        (
            "SpendCorrection",
            OF_CLUSTER[2],
            object(
                "SpendCorrection",
                "c",
                json!({"namespace": "default", "date": "2026-11-30", "amount": "-40.00", "currency": "USD",
                "category": "Credit", "reason": "a lost node"}),
            ),
        ),
    ]
}

/// Reads an object as the controller, the gateway and `kubectl bursar` do: `true` if it is taken, `false` if
/// its condition names the field.
///
/// # Errors
/// It would stop the list that it is in, or its condition would name nothing.
pub fn read(kind: &str, text: &str) -> Result<bool, String> {
    match kind {
        "InferenceDeployment" => read_as::<InferenceDeployment>(text),
        "TrainingJob" => read_as::<TrainingJob>(text),
        "BudgetPolicy" => read_as::<BudgetPolicy>(text),
        "PriceList" => read_as::<PriceList>(text),
        "SpendRecord" => read_as::<SpendRecord>(text),
        "SpendCorrection" => read_as::<SpendCorrection>(text),
        other => Err(format!("{other} is no kind of Bursar")),
    }
}

fn read_as<K: DeserializeOwned + Resource + Validate>(text: &str) -> Result<bool, String> {
    let list = format!("[{text}]");
    let read: Vec<Lenient<K>> = serde_json::from_str(&list).map_err(|error| error.to_string())?;
    let only = read.into_iter().next().ok_or("the list is empty")?;
    match only.checked(Validate::validate).into_result() {
        Ok(_) => Ok(true),
        Err(unreadable) => names_its_fault(&unreadable).map(|()| false),
    }
}

fn names_its_fault(unreadable: &Unreadable) -> Result<(), String> {
    const MOST_BYTES: usize = 2048;
    let fault = &unreadable.fault;
    let said = fault.to_string();
    let is_named = unreadable.metadata.name.is_some() && !matches!(fault.field.as_str(), "" | ".");
    let is_short = said.len() < MOST_BYTES && !said.contains('\n');
    match is_named && is_short && !fault.why.is_empty() {
        true => Ok(()),
        false => Err(format!("it is said to be unreadable by {said:?}")),
    }
}

/// Whether a structural schema accepts a value, without patterns, formats and CEL: these only refuse more.
#[cfg(test)]
fn accepts(schema: &Value, value: &Value) -> bool {
    if value.is_null() {
        return schema["nullable"] == json!(true);
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        return false;
    }
    let least = schema["minimum"].as_f64().unwrap_or(f64::MIN);
    let most = schema["maximum"].as_f64().unwrap_or(f64::MAX);
    let in_bounds = |number: f64| least <= number && number <= most;
    let count = |name: &str| {
        schema[name]
            .as_u64()
            .and_then(|bound| usize::try_from(bound).ok())
    };
    let is_within = |size: usize, least: &str, most: &str| {
        count(least).is_none_or(|least| size >= least)
            && count(most).is_none_or(|most| size <= most)
    };
    let is_integer = |value: &Value| match schema["format"].as_str() {
        Some("int32") => value
            .as_i64()
            .is_some_and(|number| i32::try_from(number).is_ok()),
        _ => value.is_i64() || value.is_u64(),
    };
    if schema["x-kubernetes-int-or-string"] == json!(true) {
        return value.is_string() || (value.is_i64() && value.as_f64().is_some_and(in_bounds));
    }
    match schema["type"].as_str() {
        Some("string") => value
            .as_str()
            .is_some_and(|text| is_within(text.chars().count(), "minLength", "maxLength")),
        Some("integer") => is_integer(value) && value.as_f64().is_some_and(in_bounds),
        Some("number") => value.as_f64().is_some_and(in_bounds),
        Some("boolean") => value.is_boolean(),
        Some("array") => value.as_array().is_some_and(|items| {
            let below = &schema["items"];
            is_within(items.len(), "minItems", "maxItems")
                && items.iter().all(|item| accepts(below, item))
        }),
        Some("object") => value.as_object().is_some_and(|fields| {
            let mut required = schema["required"].as_array().into_iter().flatten();
            let below = |name: &String| match &schema["properties"][name] {
                Value::Null => &schema["additionalProperties"],
                found => found,
            };
            is_within(fields.len(), "minProperties", "maxProperties")
                && required.all(|name| name.as_str().is_some_and(|name| fields.contains_key(name)))
                && fields
                    .iter()
                    .all(|(name, value)| below(name).is_null() || accepts(below(name), value))
        }),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_schema_accepts_is_read_or_its_fault_is_named() {
        let mut generator = Generator::new(1);
        let schemas: std::collections::BTreeMap<_, _> = valid_objects()
            .map(|(kind, ..)| (kind, schema(kind)["properties"]["spec"].clone()))
            .into();
        let (mut accepted, mut taken, mut problems) = (0, 0, Vec::new());
        for _ in 0..4_000 {
            let candidate = generator.candidate();
            if !accepts(&schemas[candidate.kind], &candidate.object["spec"]) {
                continue;
            }
            accepted += 1;
            match read(candidate.kind, &candidate.object.to_string()) {
                Ok(is_read) => taken += usize::from(is_read),
                Err(why) => problems.push((candidate.kind, candidate.changes, why)),
            }
        }
        assert!(problems.is_empty(), "{problems:#?}");
        assert!(accepted > 1_000, "only {accepted} pass the schemas");
        assert!(
            taken > 500 && taken < accepted,
            "{taken} of {accepted} are read"
        );
    }

    #[test]
    fn valid_objects_are_accepted_and_read() {
        for (kind, _, valid) in valid_objects() {
            assert!(
                accepts(&schema(kind)["properties"]["spec"], &valid["spec"]),
                "{kind}"
            );
            assert_eq!(read(kind, &valid.to_string()), Ok(true), "{kind}");
        }
    }

    #[test]
    fn a_seed_gives_the_same_objects_again() {
        let texts = |seed| {
            let mut generator = Generator::new(seed);
            let all = (0..50).map(|_| generator.candidate().object.to_string());
            all.collect::<Vec<_>>()
        };
        assert_eq!(texts(7), texts(7));
        assert_ne!(texts(7), texts(8));
    }
}
