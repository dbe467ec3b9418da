//! The examples of `examples/signals`, with servers, numbers and images of the tests in the place of their own.

use std::error::Error;

use serde_json::{Value, json};

use crate::example::{Example, run_test_program, set};

/// An example of a signal, and what of it is another in a test.
pub(super) struct SignalExample {
    /// The file of `examples/signals`.
    file: &'static str,
    /// Fields of its signals, which replace those of the example one by one.
    fields: Value,
}

impl SignalExample {
    pub(super) fn new(file: &'static str, fields: Value) -> Self {
        Self { file, fields }
    }

    fn read(&self) -> Result<Example, Box<dyn Error>> {
        Example::read(&format!("signals/{}", self.file))
    }

    /// The name of the InferenceDeployment.
    pub(super) fn name(&self) -> Result<String, Box<dyn Error>> {
        let service = self.read()?.take("InferenceDeployment")?;
        let name = service["metadata"]["name"].as_str();
        Ok(name.ok_or("the example has no name")?.to_owned())
    }

    /// The signals of the example.
    pub(super) fn signals(&self) -> Result<Vec<Value>, Box<dyn Error>> {
        let mut service = self.read()?.take("InferenceDeployment")?;
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
        let mut example = self.read()?;
        let mut signals = self.signals()?;
        signals.retain(|signal| signal["type"] != "Engine");
        for signal in &mut signals {
            signal["pollingInterval"] = json!("1s");
        }
        let spec = &mut example.object("InferenceDeployment")?["spec"];
        spec["engine"] = json!("None");
        spec["maxReplicas"] = json!(2);
        spec["scaling"] = json!({
            "idle": {"after": "2s"}, "signals": signals,
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 2}},
        });
        run_test_program(&mut spec["template"], "engine", &[]);
        spec["template"]["spec"]["terminationGracePeriodSeconds"] = json!(2);
        if let Ok(secret) = example.object("Secret") {
            secret["stringData"] = login.clone();
        }
        Ok(example.manifest(namespace))
    }
}
