//! The examples of `examples/signals`, with servers, numbers and images of the tests in the place of their own.

use std::{error::Error, fs};

use serde_json::{Value, json};

use crate::control_plane::root;

/// An example of a signal, and what of it is another in a test.
pub(super) struct SignalExample {
    /// The file of `examples/signals`.
    file: &'static str,
    /// Fields of its signals, which replace those of the example one by one.
    fields: Value,
}

/// Sets fields, those of objects one by one.
fn set(object: &mut Value, fields: &Value) {
    match (object, fields) {
        (Value::Object(object), Value::Object(fields)) => {
            for (name, value) in fields {
                set(object.entry(name).or_insert(Value::Null), value);
            }
        }
        (object, value) => *object = value.clone(),
    }
}

impl SignalExample {
    pub(super) fn new(file: &'static str, fields: Value) -> Self {
        Self { file, fields }
    }

    /// The InferenceDeployment of the example and the Secret that its signal names, if it names one.
    fn objects(&self) -> Result<(Value, Option<Value>), Box<dyn Error>> {
        let path = root().join(format!("examples/signals/{}.yaml", self.file));
        let text = fs::read_to_string(&path)?;
        let mut objects = text.split("\n---\n").map(serde_saphyr::from_str);
        let service = objects.next().ok_or("the example is empty")??;
        Ok((service, objects.next().transpose()?))
    }

    /// The name of the InferenceDeployment.
    pub(super) fn name(&self) -> Result<String, Box<dyn Error>> {
        let (service, _) = self.objects()?;
        let name = service["metadata"]["name"].as_str();
        Ok(name.ok_or("the example has no name")?.to_owned())
    }

    /// The signals of the example.
    pub(super) fn signals(&self) -> Result<Vec<Value>, Box<dyn Error>> {
        let (mut service, _) = self.objects()?;
        let signals = service["spec"]["scaling"]["signals"].take();
        let mut signals: Vec<Value> = serde_json::from_value(signals)?;
        for signal in &mut signals {
            set(signal, &self.fields);
        }
        Ok(signals)
    }

    /// The example in this namespace, and its Secret with this login. It has at most two workers, which need no requests
    /// and no image of their own.
    pub(super) fn manifest(
        &self,
        namespace: &str,
        login: &Value,
    ) -> Result<String, Box<dyn Error>> {
        let (mut service, secret) = self.objects()?;
        service["metadata"]["namespace"] = json!(namespace);
        let mut signals = self.signals()?;
        signals.retain(|signal| signal["type"] != "Engine");
        for signal in &mut signals {
            signal["pollingInterval"] = json!("1s");
        }
        let spec = &mut service["spec"];
        spec["engine"] = json!("None");
        spec["maxReplicas"] = json!(2);
        spec["scaling"] = json!({
            "idle": {"after": "2s"}, "signals": signals,
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 2}},
        });
        let pod = &mut spec["template"]["spec"];
        pod["terminationGracePeriodSeconds"] = json!(2);
        let container = &mut pod["containers"][0];
        container["image"] = json!("bursar.local/engine:dev");
        container["imagePullPolicy"] = json!("Never");
        if let Some(container) = container.as_object_mut() {
            container.remove("args");
        }
        let mut manifest = format!("{service}\n---\n");
        if let Some(mut secret) = secret {
            secret["metadata"]["namespace"] = json!(namespace);
            secret["stringData"] = login.clone();
            manifest = format!("{secret}\n---\n{manifest}");
        }
        Ok(manifest)
    }
}
