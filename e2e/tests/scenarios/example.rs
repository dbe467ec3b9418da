//! The manifests of `examples`, as users apply them, with images, numbers and namespaces of the tests in the place of their own: what
//! is wrong in one of them fails the scenario that drives it.

use std::{error::Error, fs};

use serde_json::{Value, json};

use crate::control_plane::root;

/// The objects of a file of `examples`.
pub(crate) struct Example(Vec<Value>);

impl Example {
    /// Reads a file, whose path below `examples` this is, without its ending.
    pub(crate) fn read(file: &str) -> Result<Self, Box<dyn Error>> {
        let path = root().join(format!("examples/{file}.yaml"));
        let text =
            fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let objects = text.split("\n---\n").map(serde_saphyr::from_str);
        Ok(Self(objects.collect::<Result<_, _>>()?))
    }

    /// The first object of a kind.
    pub(crate) fn object(&mut self, kind: &str) -> Result<&mut Value, Box<dyn Error>> {
        let mut objects = self.0.iter_mut();
        let found = objects.find(|object| object["kind"] == kind);
        found.ok_or_else(|| format!("the example has no {kind}").into())
    }

    /// Takes the first object of a kind out.
    pub(crate) fn take(&mut self, kind: &str) -> Result<Value, Box<dyn Error>> {
        let place = self.0.iter().position(|object| object["kind"] == kind);
        let place = place.ok_or_else(|| format!("the example has no {kind}"))?;
        Ok(self.0.remove(place))
    }

    /// The objects, all of them in this namespace.
    pub(crate) fn manifest(mut self, namespace: &str) -> String {
        for object in &mut self.0 {
            object["metadata"]["namespace"] = json!(namespace);
        }
        let objects = self.0.iter().map(|object| format!("{object}\n---\n"));
        objects.collect()
    }
}

/// Sets fields, those of objects one by one.
pub(crate) fn set(object: &mut Value, fields: &Value) {
    match (object, fields) {
        (Value::Object(object), Value::Object(fields)) => {
            for (name, value) in fields {
                set(object.entry(name).or_insert(Value::Null), value);
            }
        }
        (object, value) => *object = value.clone(),
    }
}

/// Has the first container of a pod template run a program of the tests with these arguments, on one GPU if it has any. Its ports, probes
/// and volumes stay.
pub(crate) fn run_test_program(template: &mut Value, program: &str, args: &[&str]) {
    let pod = &mut template["spec"];
    pod["terminationGracePeriodSeconds"] = json!(10);
    let container = &mut pod["containers"][0];
    let replaced = json!({
        "image": format!("bursar.local/{program}:dev"), "imagePullPolicy": "Never", "args": args,
    });
    set(container, &replaced);
    if let Some(container) = container.as_object_mut() {
        container.remove("command");
    }
    if !container["readinessProbe"].is_null() {
        container["readinessProbe"]["periodSeconds"] = json!(1);
    }
    if !container["resources"]["limits"]["nvidia.com/gpu"].is_null() {
        container["resources"] = json!({"limits": {"nvidia.com/gpu": 1}});
    }
}

/// The InferenceDeployment of an example of `examples`, called `chat`, in this namespace: with the test's engine and these arguments, and
/// with times and targets that a test can wait for.
pub(crate) fn chat_service(
    file: &str,
    namespace: &str,
    args: &[&str],
    idle: &str,
) -> Result<String, Box<dyn Error>> {
    let mut service = Example::read(file)?.take("InferenceDeployment")?;
    service["metadata"] = json!({"name": "chat", "namespace": namespace});
    let numbers = json!({
        "scaling": {
            "signals": [{"target": 4}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 3}},
            "idle": {"after": idle},
        },
        "drain": {"timeout": "15s"},
    });
    set(&mut service["spec"], &numbers);
    run_test_program(&mut service["spec"]["template"], "engine", args);
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    Ok(format!("{namespace}\n---\n{service}\n"))
}
