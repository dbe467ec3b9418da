//! Triggers and annotations of ScaledObjects whose meaning is easily lost.

use serde_json::{Value, json};

use super::super::SourceKind::{Hpa, ScaledObject};
use super::super::draft::Imported;
use super::super::report::Fate;
use super::import;
use super::samples::{HPA, SCALED_OBJECT};
use super::services::{authentication, scaled};

/// What a single trigger becomes.
fn trigger(trigger: &str) -> (Imported, Value) {
    let imported = import(ScaledObject, &scaled(&format!("[{trigger}]"), ""));
    let signal = imported.manifest["spec"]["scaling"]["signals"][0].clone();
    (imported, signal)
}

#[test]
fn a_query_of_other_namespaces_or_of_all_is_said_to_change() {
    let field = "spec.scaling.signals[0].prometheus.query";
    for (query, changes) in [
        ("sum(up{namespace=\"team\"})", false),
        ("sum(up{namespace=\"other\"})", true),
        ("sum(up{job=\"x\", namespace =~ \"team|other\"})", true),
        ("up{namespace!=\"team\"}", true),
        ("sum(up{exported_namespace=\"other\"})", true),
        ("up{job=\"namespace=\\\"\", x=\"other\"}", true),
        ("sum(up)", true),
    ] {
        let (imported, _) = trigger(&format!(
            "{{type: prometheus, metadata: {{serverAddress: 'http://p', threshold: 1, query: '{query}'}}}}"
        ));
        let changed = imported.fields(Fate::Changed).contains(&field);
        assert_eq!(changed, changes, "{query}");
    }
}

#[test]
fn no_password_of_an_address_is_written_and_a_secret_is_asked_for() {
    for (text, at, url) in [
        (
            "{type: prometheus, metadata: {serverAddress: 'https://me:hunter2@p:9/x', query: up, threshold: 1}}",
            "prometheus",
            json!("https://p:9/x"),
        ),
        (
            "{type: metrics-api, metadata: {url: 'http://me:hunt@er2@h/x', valueLocation: a, targetValue: 1}}",
            "http",
            json!("http://h/x"),
        ),
        (
            "{type: metrics-api, metadata: {url: 'http://me:hunter2@h/x', valueLocation: a, targetValue: 1}}",
            "http",
            json!("http://h/x"),
        ),
        (
            "{type: rabbitmq, metadata: {host: 'amqp://me:hun/ter2@mq/v', queueName: q, mode: QueueLength, value: 1}}",
            "rabbitmq",
            json!(null),
        ),
    ] {
        let (imported, signal) = trigger(text);
        assert_eq!(signal[at]["url"], url, "{text}");
        let missing = imported.fields(Fate::Missing);
        assert!(
            missing.contains(&"spec.scaling.signals[0].secretName"),
            "{missing:?}"
        );
        let url = format!("spec.scaling.signals[0].{at}.url");
        assert_eq!(
            missing.contains(&url.as_str()),
            signal[at]["url"].is_null(),
            "{text}"
        );
        let yaml = imported.yaml();
        assert!(!yaml.contains("er2") && !yaml.contains("hunt"), "{yaml}");
    }
}

#[test]
fn a_vhost_is_read_as_rabbitmq_reads_it() {
    let (imported, signal) = trigger(
        "{type: rabbitmq, metadata: {host: 'amqp://mq/prod%20a?heartbeat=5', queueName: q, mode: QueueLength, value: 1}}",
    );
    assert_eq!(signal["rabbitmq"]["vhost"], "prod a");
    assert_eq!(
        imported.fields(Fate::Dropped),
        ["spec.triggers[0].metadata.host (its query)"]
    );
}

#[test]
fn values_of_fields_that_may_be_secrets_are_not_shown() {
    let (imported, _) = trigger(
        "{type: redis, metadata: {address: 'r:1', listName: l, authToken: hunter2, sentinelPassword: hunter2, apiKey: hunter2, proxy: 'http://me:hunter2@p'}}",
    );
    assert_eq!(imported.fields(Fate::Dropped).len(), 4);
    assert!(!imported.yaml().contains("hunter2"), "{}", imported.yaml());
}

#[test]
fn settings_that_a_secret_has_are_asked_for() {
    let references = authentication(&[("sasl", "s", "mechanism"), ("tls", "s", "tls")]);
    let kafka = "[{type: kafka, authenticationRef: {name: auth}, metadata: {bootstrapServers: 'a:1', consumerGroup: g, topic: t}}]";
    let source = format!("{}{references}", scaled(kafka, ""));
    let imported = import(ScaledObject, &source);
    let why = imported.why("spec.scaling.signals[0].kafka.sasl");
    assert!(why.ends_with("as key mechanism of Secret s says"), "{why}");
    let missing = imported.fields(Fate::Missing);
    assert!(
        missing.contains(&"spec.scaling.signals[0].kafka.tls"),
        "{missing:?}"
    );
    // and read where the Secret is there
    let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: team}\nstringData: {mechanism: scram_sha256, tls: enable}\n";
    let imported = import(ScaledObject, &format!("{source}{secret}"));
    let kafka = &imported.manifest["spec"]["scaling"]["signals"][0]["kafka"];
    assert_eq!(
        (&kafka["sasl"], &kafka["tls"]),
        (&json!("SCRAM-SHA-256"), &json!(true))
    );
    let missing = imported.fields(Fate::Missing);
    assert!(
        !missing.iter().any(|field| field.contains("kafka")),
        "{missing:?}"
    );
    let redis =
        "[{type: redis, authenticationRef: {name: auth}, metadata: {address: 'r:1', listName: l}}]";
    let imported = import(ScaledObject, &format!("{}{references}", scaled(redis, "")));
    let missing = imported.fields(Fate::Missing);
    assert!(
        missing.contains(&"spec.scaling.signals[0].redis.tls"),
        "{missing:?}"
    );
}

#[test]
fn a_stream_is_counted_as_keda_counts_it() {
    for (settings, group, target) in [
        ("streamLength: 7", json!(null), 7),
        ("pendingEntriesCount: 9", json!(null), 5),
        ("consumerGroup: g, streamLength: 7", json!("g"), 5),
        (
            "consumerGroup: g, streamLength: 7, pendingEntriesCount: 9",
            json!("g"),
            9,
        ),
        (
            "consumerGroup: g, lagCount: 3, pendingEntriesCount: 9",
            json!("g"),
            3,
        ),
    ] {
        let (imported, signal) = trigger(&format!(
            "{{type: redis-streams, metadata: {{address: 'r:1', stream: s, {settings}}}}}"
        ));
        assert_eq!(signal["redis"]["consumerGroup"], group, "{settings}");
        assert_eq!(signal["target"], target, "{settings}");
        let changed = imported.fields(Fate::Changed);
        let is_said = changed.contains(&"spec.scaling.signals[0].redis.consumerGroup");
        assert_eq!(is_said, !group.is_null(), "{settings}");
    }
}

#[test]
fn a_pause_is_what_keda_takes_for_one() {
    for (annotation, paused) in [
        ("paused: 'true'", true),
        ("paused: 'True'", true),
        ("paused: '1'", true),
        ("paused: t", true),
        ("paused: ''", true),
        ("paused: maybe", true),
        ("paused: 'false'", false),
        ("paused: '0'", false),
        ("paused: F", false),
        ("paused-replicas: '3'", true),
        ("paused-scale-in: 'true'", false),
    ] {
        let text = SCALED_OBJECT.replace(
            "namespace: team, labels",
            &format!("namespace: team, annotations: {{autoscaling.keda.sh/{annotation}}}, labels"),
        );
        let imported = import(ScaledObject, &text);
        let is_paused = imported.manifest["spec"]["scaling"]["paused"] == true;
        assert_eq!(is_paused, paused, "{annotation}");
    }
}

#[test]
fn metrics_of_keda_are_those_of_the_sources_name() {
    let name = "w".repeat(60);
    let text = scaled("[{type: aws-sqs-queue, metadata: {queueLength: 5}}]", "")
        .replace("{name: w, namespace", &format!("{{name: {name}, namespace"));
    let imported = import(ScaledObject, &text);
    let external = &imported.manifest["spec"]["scaling"]["signals"][0]["external"];
    assert_eq!(
        external["selector"]["matchLabels"]["scaledobject.keda.sh/name"],
        name
    );
    let why = imported.why("spec.scaling.signals[0].external.metricName");
    assert!(why.contains(&format!("scaledobject {name} -o")), "{why}");
}

#[test]
fn thresholds_beside_a_formula_are_no_targets() {
    let list = "[{type: redis, name: a, metadata: {address: 'r:1', listName: l}}]";
    let formula = "  advanced: {scalingModifiers: {formula: a * 2, target: '9'}}\n";
    let imported = import(ScaledObject, &scaled(list, formula));
    assert!(imported.manifest["spec"]["scaling"]["signals"][0]["target"].is_null());
    let missing = imported.fields(Fate::Missing);
    assert!(
        missing.contains(&"spec.scaling.signals[0].target"),
        "{missing:?}"
    );
}

#[test]
fn a_limit_of_kafkas_partitions_is_a_change() {
    let of = |more: &str| {
        let settings = format!("bootstrapServers: 'a:1', consumerGroup: g, topic: t{more}");
        let (imported, _) = trigger(&format!("{{type: kafka, metadata: {{{settings}}}}}"));
        imported.fields(Fate::Changed).contains(&"spec.maxReplicas")
    };
    assert!(of(""));
    assert!(!of(", allowIdleConsumers: 'true'"));
}

#[test]
fn defaults_that_differ_from_those_of_kubernetes_are_changes() {
    let up = "spec.scaling.behavior.scaleUp";
    let down = "spec.scaling.behavior.scaleDown";
    let changed = |text: &str| -> Vec<String> {
        let imported = import(Hpa, text);
        let changed = imported.fields(Fate::Changed).into_iter();
        let changed = changed.filter(|field| field.starts_with("spec.scaling.behavior"));
        changed.map(str::to_owned).collect()
    };
    // the sample has policies and a tolerance of scaleUp
    assert_eq!(changed(HPA), [down]);
    let whole = HPA.replace("scaleDown: {", "scaleDown: {tolerance: 100m, ");
    assert!(changed(&whole).is_empty());
    let start = HPA.find("  behavior:").unwrap();
    let end = HPA.find("  metrics:").unwrap();
    let without = format!("{}{}", &HPA[..start], &HPA[end..]);
    assert_eq!(changed(&without), [up, up, down]);
}

#[test]
fn workers_that_follow_the_clock_alone_have_no_engine() {
    let start = SCALED_OBJECT.find("    - type: redis").unwrap();
    let end = SCALED_OBJECT.find("    - type: cron").unwrap();
    let clock = format!("{}{}", &SCALED_OBJECT[..start], &SCALED_OBJECT[end..]);
    let imported = import(ScaledObject, &clock);
    assert_eq!(imported.manifest["spec"]["engine"], "None");
    assert_eq!(imported.fields(Fate::Missing), Vec::<&str>::new());
}
