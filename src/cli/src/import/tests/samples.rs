//! Samples of each kind.

pub(super) const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: chat, namespace: team, labels: {app: chat}}
spec:
  replicas: 2
  selector: {matchLabels: {app: chat}}
  template:
    metadata: {labels: {app: chat, tier: gpu}}
    spec:
      containers:
        - name: engine
          image: vllm/vllm-openai:v0.11.0
          args: [--model, Qwen/Qwen3-8B, --port, "8080"]
          ports: [{name: http, containerPort: 8080}, {name: admin, containerPort: 9000}]
          resources: {limits: {nvidia.com/gpu: 1}}
---
apiVersion: v1
kind: Service
metadata: {name: chat, namespace: team}
spec:
  selector: {app: chat}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: admin, port: 9000}]
---
apiVersion: v1
kind: Service
metadata: {name: other, namespace: team}
spec: {selector: {app: other}, ports: [{port: 80}]}
---
"#;

pub(super) const HPA: &str = r#"
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: chat, namespace: team}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: chat}
  minReplicas: 2
  maxReplicas: 9
  behavior:
    scaleUp:
      stabilizationWindowSeconds: 15
      selectPolicy: Min
      tolerance: 50m
      policies: [{type: Pods, value: 4, periodSeconds: 60}, {type: Percent, value: 100, periodSeconds: 30}]
    scaleDown: {stabilizationWindowSeconds: 600}
  metrics:
    - type: External
      external:
        metric: {name: queue_length, selector: {matchLabels: {queue: chat}}}
        target: {type: AverageValue, averageValue: "30"}
    - type: Resource
      resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}
status: {currentReplicas: 2}
"#;

pub(super) const SCALED_OBJECT: &str = r#"
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: work, namespace: team, labels: {scaledobject.keda.sh/name: work}, finalizers: [finalizer.keda.sh]}
spec:
  scaleTargetRef: {name: work}
  pollingInterval: 15
  cooldownPeriod: 120
  minReplicaCount: 1
  maxReplicaCount: 20
  fallback: {failureThreshold: 4, replicas: 3}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior: {scaleDown: {stabilizationWindowSeconds: 60}}
  triggers:
    - type: redis
      metadata:
        addressFromEnv: REDIS_ADDRESS
        passwordFromEnv: REDIS_PASSWORD
        listName: jobs
        listLength: "10"
        enableTLS: "true"
    - type: cron
      metadata: {timezone: Europe/Berlin, start: 0 8 * * 1-5, end: 0 18 * * 1-5, desiredReplicas: "4"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: work, namespace: team}
spec:
  template:
    spec:
      containers:
        - name: worker
          image: example.com/worker:1
          env:
            - {name: REDIS_ADDRESS, value: "redis:6379"}
            - {name: REDIS_PASSWORD, valueFrom: {secretKeyRef: {name: redis, key: redis-password}}}
---
"#;

pub(super) const PYTORCH_JOB: &str = r#"
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata: {name: finetune, namespace: team}
spec:
  nprocPerNode: "2"
  runPolicy: {backoffLimit: 5, suspend: true, schedulingPolicy: {priorityClass: high}}
  pytorchReplicaSpecs:
    Master:
      replicas: 1
      restartPolicy: OnFailure
      template: &template
        spec:
          containers:
            - name: pytorch
              image: example.com/train:1
              command: [torchrun, train.py]
              env: [{name: MASTER_ADDR, value: elsewhere}, {name: LEVEL, value: debug}]
              resources: {limits: {nvidia.com/gpu: 2}}
    Worker: {replicas: 3, restartPolicy: OnFailure, template: *template}
"#;

pub(super) const MPI_JOB: &str = r#"
apiVersion: kubeflow.org/v2beta1
kind: MPIJob
metadata: {name: bench, namespace: team}
spec:
  slotsPerWorker: 4
  sshAuthMountPath: /home/mpiuser/.ssh
  runPolicy: {backoffLimit: 2}
  mpiReplicaSpecs:
    Launcher:
      replicas: 1
      template:
        spec:
          containers: [{name: launcher, image: example.com/mpi:1, command: [mpirun, -n, "8", ./bench]}]
    Worker:
      replicas: 2
      template:
        spec:
          containers: [{name: worker, image: example.com/mpi:1, resources: {limits: {nvidia.com/gpu: 4}}}]
"#;

pub(super) const TRAIN_JOB: &str = r#"
apiVersion: trainer.kubeflow.org/v1alpha1
kind: TrainJob
metadata: {name: tune, namespace: team}
spec:
  runtimeRef: {apiGroup: trainer.kubeflow.org, kind: ClusterTrainingRuntime, name: our-torch}
  trainer:
    numNodes: 2
    numProcPerNode: 4
    command: [torchrun, tune.py]
    env: [{name: LEVEL, value: debug}]
    resourcesPerNode: {limits: {nvidia.com/gpu: 4}}
---
apiVersion: trainer.kubeflow.org/v1alpha1
kind: ClusterTrainingRuntime
metadata: {name: our-torch, labels: {trainer.kubeflow.org/framework: torch}}
spec:
  mlPolicy: {numNodes: 1, torch: {}}
  template:
    spec:
      replicatedJobs:
        - name: node
          template:
            spec:
              template:
                spec:
                  containers:
                    - {name: node, image: "pytorch/pytorch:2", args: [unused], env: [{name: LEVEL, value: info}, {name: A, value: b}]}
---
"#;

pub(super) const JOB: &str = r#"
apiVersion: batch/v1
kind: Job
metadata: {name: batch, namespace: team}
spec:
  parallelism: 2
  completions: 2
  completionMode: Indexed
  backoffLimit: 1
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: "example.com/batch:1", resources: {limits: {nvidia.com/gpu: 1}}}]
"#;
