//! The manifests that the demo applies.

/// The namespace of everything in the demo.
pub(super) const NAMESPACE: &str = "team";
/// The ServiceAccount that may read the leader's decisions over it.
pub(super) const VIEWER: &str = "viewer";
/// Requests come, and the engine answers, so many times as fast as in the trace.
pub(super) const SPEEDUP: u32 = 4;
/// Workers of the training job, with one GPU each.
const WORKERS: u32 = 2;
/// The most replicas of the chat service, where the cluster has GPUs for them.
const MAX_REPLICAS: u32 = 4;
/// Queue depth that one replica should carry.
const TARGET: u32 = 8;

/// The workloads, sized for a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Workloads {
    /// The image with all programs.
    pub(super) image: String,
    /// The most replicas of the chat service.
    pub(super) max_replicas: u32,
}

impl Workloads {
    /// Workloads for a cluster with so many GPUs; `None` if they do not suffice for the training
    /// job and one replica.
    pub(super) fn new(image: String, gpus: u64) -> Option<Self> {
        let left = u32::try_from(gpus)
            .unwrap_or(u32::MAX)
            .checked_sub(WORKERS)?;
        (left > 0).then_some(Self {
            image,
            max_replicas: left.min(MAX_REPLICAS),
        })
    }

    /// GPU pods when everything runs.
    pub(super) fn most_pods(&self) -> u32 {
        self.max_replicas + WORKERS
    }

    /// The namespace, who reads the leader's decisions over it, and the pod that sends the requests.
    pub(super) fn clients(&self) -> String {
        let Self { image, .. } = self;
        format!(
            r#"apiVersion: v1
kind: Namespace
metadata: {{name: {NAMESPACE}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {VIEWER}, namespace: {NAMESPACE}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: {VIEWER}, namespace: {NAMESPACE}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: bursar-workload-viewer}}
subjects: [{{kind: ServiceAccount, name: {VIEWER}, namespace: {NAMESPACE}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: client, namespace: {NAMESPACE}}}
spec:
  selector: {{app: client}}
  ports: [{{port: 80, targetPort: 8080}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: client, namespace: {NAMESPACE}, labels: {{app: client}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: client
      image: {image}
      command: [/bursar-client]
      args: ["--target=chat:80", "--speedup={SPEEDUP}"]
      readinessProbe: {{httpGet: {{path: /tally, port: 8080}}, periodSeconds: 1}}
"#
        )
    }

    /// The budget, the service and the job.
    pub(super) fn work(&self, limit: Cents) -> String {
        let Self { image, .. } = self;
        let budget = budget(limit);
        let chat = self.chat("10s");
        format!(
            r#"{budget}---
{chat}---
apiVersion: bursar.dev/v1alpha1
kind: TrainingJob
metadata: {{name: train, namespace: {NAMESPACE}}}
spec:
  framework: PyTorch
  replicas: {WORKERS}
  template:
    spec:
      terminationGracePeriodSeconds: 10
      containers:
        - name: worker
          image: {image}
          command: [/bursar-trainer]
          args: ["--steps=100000", "--step-time=250ms", "--checkpoint=http://client/checkpoint", "--journal=-"]
          resources: {{limits: {{nvidia.com/gpu: 1}}}}
"#
        )
    }

    /// The service, which goes to zero when it is idle for `idle`.
    pub(super) fn chat(&self, idle: &str) -> String {
        let Self {
            image,
            max_replicas,
        } = self;
        format!(
            r#"apiVersion: bursar.dev/v1alpha1
kind: InferenceDeployment
metadata: {{name: chat, namespace: {NAMESPACE}}}
spec:
  engine: vLLM
  maxReplicas: {max_replicas}
  scaling:
    signals: [{{type: Engine, target: {TARGET}}}]
    behavior: {{scaleDown: {{stabilizationWindowSeconds: 10}}}}
    idle: {{after: {idle}}}
  activation: {{maxWakesPerHour: 600}}
  drain: {{timeout: 20s}}
  template:
    spec:
      terminationGracePeriodSeconds: 15
      containers:
        - name: engine
          image: {image}
          command: [/bursar-engine]
          args: ["--speedup={SPEEDUP}", "--startup-delay=2s"]
          readinessProbe: {{httpGet: {{path: /health, port: 8000}}, periodSeconds: 1}}
          resources: {{limits: {{nvidia.com/gpu: 1}}}}
"#
        )
    }
}

/// The namespace's budget, whose edits take effect at once: a demo does not wait for a grace window.
pub(super) fn budget(limit: Cents) -> String {
    format!(
        r#"apiVersion: bursar.dev/v1alpha1
kind: BudgetPolicy
metadata: {{name: team, namespace: {NAMESPACE}, annotations: {{bursar.dev/apply-now: "true"}}}}
spec: {{limit: "{limit}", period: Monthly, minimumUsefulRun: 10s}}
"#
    )
}

/// Money in hundredths of the currency's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cents(pub(super) u64);

impl Cents {
    /// `amount`, rounded up.
    pub(super) fn above(amount: f64) -> Self {
        Self((amount * 100.0).ceil().max(0.0) as u64)
    }

    /// The sum with `more` cents.
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
    use super::{Cents, Workloads};

    #[test]
    fn the_service_gets_the_gpus_that_training_leaves() {
        let replicas =
            |gpus| Workloads::new("x:1".into(), gpus).map(|workloads| workloads.max_replicas);
        assert_eq!(
            [0, 2, 3, 6, 64].map(replicas),
            [None, None, Some(1), Some(4), Some(4)]
        );
    }

    #[test]
    fn cents_are_rounded_up_and_written_with_two_digits() {
        assert_eq!(Cents::above(1.231).to_string(), "1.24");
        assert_eq!(Cents::above(0.0).plus(7).to_string(), "0.07");
    }
}
