//! What the demo applies.

use std::path::Path;

/// The namespace of everything in the demo.
pub(super) const NAMESPACE: &str = "team";
/// How much faster than the trace requests come and the engine answers.
pub(super) const SPEEDUP: u32 = 4;
/// The most replicas of the chat service.
pub(super) const MAX_REPLICAS: u32 = 4;
/// Queue depth that one replica should carry.
const TARGET: u32 = 8;

/// The namespace, its budget, the service and the job. `directory` on the node takes the job's checkpoint.
pub(super) fn all(limit: Cents, directory: &Path) -> String {
    let directory = directory.display();
    let budget = budget(limit);
    let chat = chat("10s");
    format!(
        r#"apiVersion: v1
kind: Namespace
metadata: {{name: {NAMESPACE}}}
---
{budget}---
{chat}---
apiVersion: bursar.dev/v1alpha1
kind: TrainingJob
metadata: {{name: train, namespace: {NAMESPACE}}}
spec:
  framework: PyTorch
  replicas: 2
  template:
    spec:
      terminationGracePeriodSeconds: 10
      volumes: [{{name: data, hostPath: {{path: {directory}}}}}]
      containers:
        - name: worker
          image: bursar.local/trainer:dev
          imagePullPolicy: Never
          args: [--steps, "100000", --step-time, 250ms, --checkpoint-dir, /data, --journal, /data/journal]
          volumeMounts: [{{name: data, mountPath: /data}}]
          resources: {{limits: {{nvidia.com/gpu: 1}}}}
"#
    )
}

/// The service, which goes to zero when idle for `idle`.
pub(super) fn chat(idle: &str) -> String {
    format!(
        r#"apiVersion: bursar.dev/v1alpha1
kind: InferenceDeployment
metadata: {{name: chat, namespace: {NAMESPACE}}}
spec:
  engine: vLLM
  maxReplicas: {MAX_REPLICAS}
  scaling:
    signals: [{{type: Engine, target: {TARGET}}}]
    behavior: {{scaleDown: {{stabilizationWindowSeconds: 10}}}}
    idle: {{after: {idle}}}
  drain: {{timeout: 20s}}
  template:
    spec:
      terminationGracePeriodSeconds: 15
      containers:
        - name: engine
          image: bursar.local/engine:dev
          imagePullPolicy: Never
          args: [--speedup, "{SPEEDUP}", --startup-delay, 2s]
          readinessProbe: {{httpGet: {{path: /health, port: 8000}}, periodSeconds: 1}}
          resources: {{limits: {{nvidia.com/gpu: 1}}}}
"#
    )
}

/// The namespace's budget.
pub(super) fn budget(limit: Cents) -> String {
    format!(
        r#"apiVersion: bursar.dev/v1alpha1
kind: BudgetPolicy
metadata: {{name: team, namespace: {NAMESPACE}}}
spec: {{limit: "{limit}", period: Monthly, minimumUsefulRun: 10s}}
"#
    )
}

/// Hundredths of the currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cents(pub(super) u64);

impl Cents {
    /// No less than `amount`, and less than a cent more.
    pub(super) fn above(amount: f64) -> Self {
        Self((amount * 100.0).ceil().max(0.0) as u64)
    }

    /// This and `more`.
    pub(super) fn plus(self, more: u64) -> Self {
        Self(self.0 + more)
    }
}

impl std::fmt::Display for Cents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::Cents;

    #[test]
    fn cents_are_rounded_up_and_written_with_two_digits() {
        assert_eq!(Cents::above(1.231).to_string(), "1.24");
        assert_eq!(Cents::above(0.0).plus(7).to_string(), "0.07");
    }
}
