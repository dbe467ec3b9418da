//! Sources that become an InferenceDeployment.

use serde_json::json;

use super::super::SourceKind::{Deployment, Hpa, ScaledObject};
use super::super::report::Fate;
use super::samples::{DEPLOYMENT, HPA, SCALED_OBJECT};
use super::{import, import_all};

#[test]
fn a_deployment_is_scaled_where_it_is_and_nothing_is_lost() {
    let imported = import(Deployment, DEPLOYMENT);
    let expected = json!({
        "engine": "vLLM",
        "engineOptions": {"port": 8080},
        "model": "Qwen/Qwen3-8B",
        "minReplicas": 2,
        "maxReplicas": 2,
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"},
        "serviceRef": {"name": "chat", "port": "http"},
    });
    assert_eq!(imported.manifest["spec"], expected);
    assert_eq!(
        imported.manifest["metadata"],
        json!({"name": "chat", "namespace": "team"})
    );
    assert!(imported.is_whole(), "{:#?}", imported.findings);
    assert!(imported.why("spec.engine").contains("vllm/vllm-openai"));
}

#[test]
fn of_several_services_none_is_guessed() {
    let second = "apiVersion: v1\nkind: Service\nmetadata: {name: chat-admin, namespace: team}\nspec: {selector: {tier: gpu}, ports: [{port: 1}]}\n";
    let imported = import(Deployment, &format!("{DEPLOYMENT}\n{second}"));
    assert_eq!(imported.fields(Fate::Missing), ["spec.serviceRef.name"]);
    assert!(
        imported
            .why("spec.serviceRef.name")
            .ends_with("chat, chat-admin")
    );
    let headless = second.replace("{selector", "{clusterIP: None, selector");
    assert!(import(Deployment, &format!("{DEPLOYMENT}\n{headless}")).is_whole());
}

#[test]
fn an_engine_that_is_not_known_is_custom_and_says_what_it_needs() {
    let unknown = DEPLOYMENT.replace("vllm/vllm-openai:v0.11.0", "example.com/server:1");
    let imported = import(Deployment, &unknown);
    assert_eq!(imported.manifest["spec"]["engine"], "Custom");
    let missing = imported.fields(Fate::Missing);
    for field in ["spec.engine", "spec.engineOptions.metrics"] {
        assert!(missing.contains(&field), "{missing:?}");
    }
    assert!(!imported.is_whole());
}

#[test]
fn the_metrics_of_a_custom_engine_are_asked_for_once() {
    let sole = DEPLOYMENT
        .replace("vllm/vllm-openai:v0.11.0", "example.com/server:1")
        .replace(", {name: admin, containerPort: 9000}", "")
        .replace(", {name: admin, port: 9000}", "");
    let imported = import(Deployment, &sole);
    assert_eq!(
        imported.fields(Fate::Missing),
        ["spec.engine", "spec.engineOptions.metrics"]
    );
}

#[test]
fn a_deployment_that_something_scales_names_it() {
    let imported = import(Deployment, &format!("{DEPLOYMENT}\n{HPA}"));
    let why = imported.why("spec.maxReplicas");
    assert!(
        imported.fields(Fate::Missing).contains(&"spec.maxReplicas"),
        "{why}"
    );
    let yaml = imported.yaml();
    assert!(
        yaml.contains("HorizontalPodAutoscaler chat scales it"),
        "{yaml}"
    );
}

#[test]
fn an_autoscaler_keeps_its_bounds_behavior_and_external_metrics() {
    let imported = import(Hpa, &format!("{DEPLOYMENT}\n{HPA}"));
    let spec = &imported.manifest["spec"];
    assert_eq!(spec["minReplicas"], 2);
    assert_eq!(spec["maxReplicas"], 9);
    assert_eq!(spec["engine"], "vLLM");
    assert_eq!(spec["serviceRef"], json!({"name": "chat", "port": "http"}));
    let behavior = json!({
        "scaleUp": {
            "stabilizationWindowSeconds": 15,
            "selectPolicy": "Min",
            "tolerance": "0.05",
            "policies": [{"type": "Pods", "value": 4, "periodSeconds": 60}, {"type": "Percent", "value": 100, "periodSeconds": 30}],
        },
        "scaleDown": {"stabilizationWindowSeconds": 600},
    });
    assert_eq!(spec["scaling"]["behavior"], behavior);
    let signal = json!({
        "type": "External", "name": "queue-length", "target": 30,
        "external": {"metricName": "queue_length", "selector": {"matchLabels": {"queue": "chat"}}},
    });
    assert_eq!(spec["scaling"]["signals"], json!([signal]));
    assert_eq!(
        imported.fields(Fate::Dropped),
        ["spec.metrics[1] (Resource cpu)"]
    );
    assert_eq!(imported.fields(Fate::Missing), Vec::<&str>::new());
}

#[test]
fn an_autoscaler_without_a_minimum_has_one_as_kubernetes_says() {
    let imported = import(Hpa, &HPA.replace("  minReplicas: 2\n", ""));
    assert_eq!(imported.manifest["spec"]["minReplicas"], 1);
}

#[test]
fn a_total_as_a_target_is_said_to_mean_something_else() {
    let total = HPA.replace(
        "{type: AverageValue, averageValue: \"30\"}",
        "{type: Value, value: 3k}",
    );
    let imported = import(Hpa, &total);
    assert_eq!(
        imported.manifest["spec"]["scaling"]["signals"][0]["target"],
        "3k"
    );
    assert!(
        imported
            .fields(Fate::Changed)
            .contains(&"spec.scaling.signals[0].target")
    );
}

#[test]
fn numbers_beyond_bursars_bounds_are_the_nearest_and_named() {
    let many = HPA
        .replace("maxReplicas: 9", "maxReplicas: 5000")
        .replace("periodSeconds: 60", "periodSeconds: 4000");
    let imported = import(Hpa, &many);
    assert_eq!(imported.manifest["spec"]["maxReplicas"], 1000);
    let changed = imported.fields(Fate::Changed);
    assert!(changed.contains(&"spec.maxReplicas"), "{changed:?}");
    assert!(
        changed.contains(&"spec.behavior.scaleUp.policies[0].periodSeconds"),
        "{changed:?}"
    );
}

#[test]
fn workers_of_a_queue_have_no_engine_and_follow_their_triggers() {
    let imported = import(ScaledObject, SCALED_OBJECT);
    let expected = json!({
        "engine": "None",
        "minReplicas": 1,
        "maxReplicas": 20,
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "work"},
        "scaling": {
            "idle": {"after": "120s"},
            "onSignalFailure": {"action": "Replicas", "replicas": 3, "after": "60s"},
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}},
            "schedules": [{"name": "cron-1", "start": "0 8 * * 1-5", "end": "0 18 * * 1-5", "timeZone": "Europe/Berlin", "minReplicas": 4}],
            "signals": [{
                "type": "Redis", "name": "redis", "target": 10, "pollingInterval": "15s", "secretName": "redis",
                "redis": {"addresses": ["redis:6379"], "list": "jobs", "tls": true},
            }],
        },
    });
    assert_eq!(imported.manifest["spec"], expected);
    assert_eq!(imported.fields(Fate::Dropped), Vec::<&str>::new());
    // the key of the Secret has another name in Bursar
    let why = imported.why("spec.scaling.signals[0].secretName");
    assert!(
        why.contains("password (now redis-password of redis)"),
        "{why}"
    );
    assert!(
        why.contains("bursar.dev/signal-credentials: \"true\""),
        "{why}"
    );
    assert_eq!(
        imported.fields(Fate::Missing),
        ["spec.scaling.signals[0].secretName"]
    );
}

/// A ScaledObject with these triggers and further lines of its specification.
pub(super) fn scaled(triggers: &str, spec: &str) -> String {
    format!(
        "apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {{name: w, namespace: team}}\nspec:\n  scaleTargetRef: {{name: w}}\n{spec}  triggers: {triggers}\n"
    )
}

#[test]
fn each_kind_of_server_has_its_fields() {
    for (trigger, signal) in [
        (
            "{type: prometheus, metadata: {serverAddress: 'http://p:9090', query: sum(up), threshold: '2.5', ignoreNullValues: 'false'}}",
            json!({"type": "Prometheus", "name": "prometheus", "target": "2.5",
                "prometheus": {"url": "http://p:9090", "query": "sum(up)", "emptyIsZero": false}}),
        ),
        (
            "{type: redis-cluster, metadata: {hosts: 'a,b', ports: '1,2', listName: l}}",
            json!({"type": "Redis", "name": "redis-cluster", "target": 5,
                "redis": {"mode": "Cluster", "addresses": ["a:1", "b:2"], "list": "l"}}),
        ),
        (
            "{type: redis-sentinel-streams, metadata: {addresses: 'a:1', sentinelMaster: m, stream: s, streamLength: 7}}",
            json!({"type": "Redis", "name": "redis-sentinel-streams", "target": 7,
                "redis": {"mode": "Sentinel", "masterName": "m", "addresses": ["a:1"], "stream": "s"}}),
        ),
        (
            "{type: rabbitmq, metadata: {host: 'amqps://me:secret@mq:5671/jobs%2Fa', queueName: q, mode: QueueLength, value: 20}}",
            json!({"type": "RabbitMQ", "name": "rabbitmq", "target": 20,
                "rabbitmq": {"url": "amqps://mq:5671", "vhost": "jobs/a", "queue": "q"}}),
        ),
        (
            "{type: kafka, metadata: {bootstrapServers: 'a:1,b:2', consumerGroup: g, topic: t, offsetResetPolicy: earliest, sasl: scram_sha512, tls: enable}}",
            json!({"type": "Kafka", "name": "kafka", "target": 10,
                "kafka": {"bootstrapServers": ["a:1", "b:2"], "consumerGroup": "g", "topic": "t", "offsetResetPolicy": "Earliest",
                    "tls": true, "sasl": "SCRAM-SHA-512"}}),
        ),
        (
            "{type: nats-jetstream, metadata: {natsServerMonitoringEndpoint: 'n:8222', account: A, stream: s, consumer: c, lagThreshold: '4'}}",
            json!({"type": "NATS", "name": "nats-jetstream", "target": 4, "nats": {"stream": "s", "consumer": "c"}}),
        ),
        (
            "{type: metrics-api, metadata: {url: 'http://h/x', valueLocation: a.b.0, targetValue: '3'}}",
            json!({"type": "HTTP", "name": "metrics-api", "target": 3, "http": {"url": "http://h/x", "jsonPointer": "/a/b/0"}}),
        ),
    ] {
        let imported = import(ScaledObject, &scaled(&format!("[{trigger}]"), ""));
        assert_eq!(
            imported.manifest["spec"]["scaling"]["signals"],
            json!([signal]),
            "{trigger}"
        );
        assert!(
            !imported.yaml().contains("secret@"),
            "no password is written"
        );
    }
}

#[test]
fn a_trigger_that_bursar_has_no_reader_for_is_read_from_keda() {
    let trigger = "[{type: cpu, metadata: {value: '80'}}, {type: aws-sqs-queue, metadata: {queueURL: x, queueLength: '5', awsRegion: y}}]";
    let text = scaled(trigger, "") + "status: {externalMetricNames: [s1-aws-sqs-queue-x]}\n";
    let imported = import(ScaledObject, &text);
    let signal = json!({
        "type": "External", "name": "aws-sqs-queue", "target": 5,
        "external": {"metricName": "s1-aws-sqs-queue-x", "selector": {"matchLabels": {"scaledobject.keda.sh/name": "w"}}},
    });
    assert_eq!(
        imported.manifest["spec"]["scaling"]["signals"],
        json!([signal])
    );
    assert_eq!(imported.fields(Fate::Dropped), ["spec.triggers[0] (cpu)"]);
    // a file has no status
    let imported = import(ScaledObject, &scaled(trigger, ""));
    let why = imported.why("spec.scaling.signals[0].external.metricName");
    assert!(why.contains("kubectl get scaledobject w"), "{why}");
}

/// A TriggerAuthentication that takes these parameters from keys of Secrets.
pub(super) fn authentication(parameters: &[(&str, &str, &str)]) -> String {
    let references = parameters.iter().map(|(parameter, name, key)| {
        format!("{{parameter: {parameter}, name: {name}, key: {key}}}")
    });
    let references: Vec<String> = references.collect();
    format!(
        "---\napiVersion: keda.sh/v1alpha1\nkind: TriggerAuthentication\nmetadata: {{name: auth, namespace: team}}\nspec: {{secretTargetRef: [{}]}}\n",
        references.join(", ")
    )
}

#[test]
fn a_secret_is_named_with_the_keys_that_it_needs_and_has() {
    let trigger = "[{type: kafka, authenticationRef: {name: auth}, metadata: {bootstrapServers: 'a:1', consumerGroup: g, topic: t}}]";
    let source = scaled(trigger, "");
    let one = authentication(&[("username", "s", "username"), ("ca", "s", "authority")]);
    let imported = import(ScaledObject, &format!("{source}{one}"));
    let signal = &imported.manifest["spec"]["scaling"]["signals"][0];
    assert_eq!(signal["secretName"], "s");
    let why = imported.why("spec.scaling.signals[0].secretName");
    assert!(
        why.contains("ca.crt (now authority of s), username (has it)"),
        "{why}"
    );
    // Bursar reads one Secret of a signal
    let two = authentication(&[("username", "s", "username"), ("password", "t", "password")]);
    let imported = import(ScaledObject, &format!("{source}{two}"));
    assert!(imported.manifest["spec"]["scaling"]["signals"][0]["secretName"].is_null());
    let why = imported.why("spec.scaling.signals[0].secretName");
    assert!(why.starts_with("one Secret with the keys"), "{why}");
    // and it is asked for where nobody knows it
    let imported = import(ScaledObject, &source);
    let why = imported.why("spec.scaling.signals[0].secretName");
    assert_eq!(
        why,
        "TriggerAuthentication auth says what KEDA signs in with"
    );
}

#[test]
fn a_server_that_is_signed_in_to_in_another_way_is_left_to_keda() {
    for setting in ["awsRegion: x", "sasl: gssapi"] {
        let trigger = format!(
            "[{{type: kafka, metadata: {{bootstrapServers: 'a:1', consumerGroup: g, topic: t, lagThreshold: '7', {setting}}}}}]"
        );
        let imported = import(ScaledObject, &scaled(&trigger, ""));
        let signal = &imported.manifest["spec"]["scaling"]["signals"][0];
        assert_eq!(
            (&signal["type"], &signal["target"]),
            (&json!("External"), &json!(7)),
            "{setting}"
        );
    }
}

#[test]
fn the_most_signals_are_kept_and_the_others_named() {
    let one = "{type: redis, metadata: {address: 'r:1', listName: l}}";
    let imported = import(
        ScaledObject,
        &scaled(&format!("[{}]", [one; 10].join(", ")), ""),
    );
    let signals = imported.manifest["spec"]["scaling"]["signals"]
        .as_array()
        .unwrap();
    assert_eq!(signals.len(), 8);
    assert_eq!(signals[7]["name"], "redis-8");
    assert_eq!(
        imported.fields(Fate::Dropped),
        ["spec.triggers[8] (redis)", "spec.triggers[9] (redis)"]
    );
}

#[test]
fn times_are_within_what_bursar_takes() {
    let trigger =
        "[{type: redis, metadata: {address: 'r:1', listName: l, activationListLength: '3'}}]";
    let text = scaled(
        trigger,
        "  cooldownPeriod: 10\n  pollingInterval: 60\n  idleReplicaCount: 0\n  minReplicaCount: 2\n",
    );
    let imported = import(ScaledObject, &text);
    let spec = &imported.manifest["spec"];
    assert_eq!(spec["scaling"]["signals"][0]["pollingInterval"], "10s");
    assert_eq!(spec["minReplicas"], 0);
    let changed = imported.fields(Fate::Changed);
    assert!(
        changed.contains(&"spec.minReplicas") && changed.contains(&"spec.scaling.signals"),
        "{changed:?}"
    );
    assert_eq!(
        imported.fields(Fate::Dropped),
        ["spec.triggers[0].metadata.activationListLength (\"3\")"]
    );
    let why = imported.why("spec.triggers[0].metadata.activationListLength (\"3\")");
    assert!(why.contains("starts the first replica"), "{why}");
}

#[test]
fn a_paused_source_stays_paused() {
    let text = SCALED_OBJECT.replace(
        "{name: work, namespace: team, labels",
        "{name: work, namespace: team, annotations: {autoscaling.keda.sh/paused: 'true'}, labels",
    );
    assert_eq!(
        import(ScaledObject, &text).manifest["spec"]["scaling"]["paused"],
        true
    );
}

#[test]
fn what_is_not_there_is_refused_with_what_is() {
    let job = "apiVersion: keda.sh/v1alpha1\nkind: ScaledJob\nmetadata: {name: w}\n";
    let error = import_all(ScaledObject, job).unwrap_err().to_string();
    assert!(
        error.contains("a ScaledJob makes a Job for each message"),
        "{error}"
    );
    let error = import_all(Hpa, DEPLOYMENT).unwrap_err().to_string();
    assert_eq!(
        error,
        "FILE has no HorizontalPodAutoscaler, but Deployment of apps/v1, Service of v1"
    );
    let error = import_all(Hpa, "x: [1").unwrap_err().to_string();
    assert!(error.starts_with("reading FILE: "), "{error}");
}

#[test]
fn a_metric_of_pods_is_dropped_with_its_target() {
    let text = HPA.replace(
        "type: Resource\n      resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}",
        "type: Pods\n      pods: {metric: {name: waiting}, target: {type: AverageValue, averageValue: 10}}",
    );
    let dropped = import(Hpa, &format!("{DEPLOYMENT}\n{text}"));
    assert_eq!(
        dropped.fields(Fate::Dropped),
        ["spec.metrics[1] (Pods waiting at 10)"]
    );
}

#[test]
fn a_group_of_pods_is_a_target_with_the_engine_of_its_leader() {
    let target = "scaleTargetRef: {apiVersion: leaderworkerset.x-k8s.io/v1, kind: LeaderWorkerSet, name: chat}";
    let hpa = HPA.replace(
        "scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: chat}",
        target,
    );
    let pod =
        |image: &str| format!("{{spec: {{containers: [{{name: engine, image: '{image}'}}]}}}}");
    let template = format!(
        "{{size: 2, leaderTemplate: {}, workerTemplate: {}}}",
        pod("vllm/vllm-openai:v0.11.0"),
        pod("example.com/worker:1")
    );
    let set = format!(
        "apiVersion: leaderworkerset.x-k8s.io/v1\nkind: LeaderWorkerSet\nmetadata: {{name: chat, namespace: team}}\nspec: {{leaderWorkerTemplate: {template}}}\n---\n"
    );
    let front = "apiVersion: v1\nkind: Service\nmetadata: {name: front, namespace: team}\nspec:\n  selector: {leaderworkerset.sigs.k8s.io/name: chat, leaderworkerset.sigs.k8s.io/worker-index: '0'}\n  ports: [{port: 80, targetPort: 8000}]\n---\n";
    let imported = import(Hpa, &format!("{set}{front}{hpa}"));
    let spec = &imported.manifest["spec"];
    assert_eq!(spec["engine"], "vLLM");
    assert_eq!(spec["targetRef"]["kind"], "LeaderWorkerSet");
    assert_eq!(spec["serviceRef"], json!({"name": "front"}));
    assert_eq!(imported.fields(Fate::Missing), Vec::<&str>::new());
    // without a template of their own, leaders are as workers are
    let alike = set.replace("leaderTemplate", "otherTemplate");
    let imported = import(Hpa, &format!("{alike}{front}{hpa}"));
    assert!(imported.why("spec.engine").contains("example.com/worker:1"));
}
