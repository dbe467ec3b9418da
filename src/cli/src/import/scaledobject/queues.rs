//! Triggers that read the servers of queues.

use serde_json::{Value, json};

use super::address::{Address, SIGNED_IN};
use super::credentials::{Setting, setting_of_secret};
use super::trigger::{Source, Trigger};

/// Certificates are always checked.
const UNSAFE_TLS: &str =
    "certificates are always checked: put the authority into the Secret as ca.crt";

/// A list of Redis.
pub(super) fn redis_list(
    trigger: &mut Trigger<'_>,
    source: &Source<'_>,
    at: &str,
) -> Option<Value> {
    let mut redis = redis_server(trigger, source, at);
    match trigger.metadata.text("listName") {
        Some(name) => redis["list"] = json!(name),
        None => trigger
            .report()
            .missing(format!("{at}.redis.list"), "the source has no listName"),
    }
    let mut signal = json!({"type": "Redis", "redis": redis});
    trigger.set_target(&mut signal, at, &["listLength"], Some("5"));
    Some(signal)
}

/// A stream of Redis, or what a group has to do of it.
pub(super) fn redis_stream(
    trigger: &mut Trigger<'_>,
    source: &Source<'_>,
    at: &str,
) -> Option<Value> {
    let report = trigger.report();
    let mut redis = redis_server(trigger, source, at);
    match trigger.metadata.text("stream") {
        Some(name) => redis["stream"] = json!(name),
        None => report.missing(format!("{at}.redis.stream"), "the source has none"),
    }
    let group = trigger.metadata.text("consumerGroup");
    let mut signal = json!({"type": "Redis"});
    if let Some(group) = group.filter(|group| !group.is_empty()) {
        redis["consumerGroup"] = json!(group);
        let was = match trigger.metadata.has("lagCount") {
            true => "the entries that the group has not got",
            false => "the entries that it got and has not acknowledged",
        };
        let why = format!(
            "was {was}; Bursar counts both, so that neither those that wait nor those in work are missed"
        );
        report.changed(format!("{at}.redis.consumerGroup"), why);
        let names = ["lagCount", "pendingEntriesCount"];
        trigger.set_target(&mut signal, at, &names, Some("5"));
    } else {
        trigger.set_target(&mut signal, at, &["streamLength"], Some("5"));
    }
    // KEDA reads only what is the target now: the others are of no effect
    let thresholds = ["lagCount", "pendingEntriesCount", "streamLength"];
    trigger.metadata.ignore(&thresholds);
    signal["redis"] = redis;
    Some(signal)
}

/// The servers of a trigger of Redis.
fn redis_server(trigger: &mut Trigger<'_>, source: &Source<'_>, at: &str) -> Value {
    let report = trigger.report();
    let mut redis = json!({});
    if trigger.kind.contains("cluster") {
        redis["mode"] = json!("Cluster");
    }
    if trigger.kind.contains("sentinel") {
        redis["mode"] = json!("Sentinel");
        match trigger.setting("sentinelMaster", source) {
            Some(name) => redis["masterName"] = json!(name),
            None => report.missing(
                format!("{at}.redis.masterName"),
                "the source has no sentinelMaster",
            ),
        }
    }
    let addresses = addresses(trigger, source);
    match addresses.is_empty() {
        false => redis["addresses"] = json!(addresses),
        true => report.missing(
            format!("{at}.redis.addresses"),
            "HOST:PORT of the servers: the source takes it from a variable of the target or a Secret",
        ),
    }
    if let Some(number) = trigger
        .metadata
        .integer("databaseIndex")
        .filter(|number| *number != 0)
    {
        redis["database"] = json!(number);
    }
    let tls = trigger.metadata.boolean("enableTLS");
    if tls == Some(true) || (tls.is_none() && has_tls(trigger, source, &format!("{at}.redis.tls")))
    {
        redis["tls"] = json!(true);
    }
    trigger.metadata.ignore_value("unsafeSsl", &json!("false"));
    trigger.metadata.drop_field("unsafeSsl", UNSAFE_TLS);
    // what they name becomes the Secret, or is asked for with it
    for name in ["username", "sentinelUsername"] {
        if let Some(name) = trigger.metadata.text(name) {
            let why = format!("the Secret has the key username: {name}");
            report.missing(format!("{at}.secretName"), why);
        }
    }
    redis
}

/// `HOST:PORT` of each server, from one text with commas, or from hosts and ports.
fn addresses(trigger: &mut Trigger<'_>, source: &Source<'_>) -> Vec<String> {
    let mut list = |name: &str| -> Vec<String> {
        let text = trigger.setting(name, source).unwrap_or_default();
        let items = text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty());
        items.map(str::to_owned).collect()
    };
    let mut whole = list("address");
    whole.extend(list("addresses"));
    let (mut hosts, mut ports) = (list("host"), list("port"));
    hosts.extend(list("hosts"));
    ports.extend(list("ports"));
    if whole.is_empty() && hosts.len() == ports.len() {
        let pairs = hosts.iter().zip(&ports);
        whole = pairs.map(|(host, port)| format!("{host}:{port}")).collect();
    }
    // one with a password in it is asked for, and not shown
    match whole.iter().any(|address| address.contains('@')) {
        true => Vec::new(),
        false => whole,
    }
}

/// A queue of RabbitMQ. Rates and patterns of names are left to KEDA.
pub(super) fn rabbitmq(trigger: &mut Trigger<'_>, source: &Source<'_>, at: &str) -> Option<Value> {
    let report = trigger.report();
    let is_regex = trigger
        .metadata
        .text("useRegex")
        .is_some_and(|text| text == "true");
    // KEDA's older form of the setting has no mode
    let mode = trigger.metadata.text("mode");
    if is_regex || !matches!(mode.as_deref(), None | Some("QueueLength")) {
        return None;
    }
    let protocol = trigger
        .metadata
        .text("protocol")
        .unwrap_or_else(|| "auto".to_owned());
    let given = trigger.setting("host", source);
    let address = given
        .as_deref()
        .and_then(|text| Address::parse(text, &["amqp", "amqps", "http", "https"]));
    let mut rabbitmq = json!({});
    match &address {
        Some(address) => rabbitmq["url"] = json!(address.server),
        None => {
            let scheme = if protocol == "http" {
                "http://HOST:15672"
            } else {
                "amqp://HOST:5672"
            };
            let why = format!(
                "{scheme} without a name and password, and rabbitmq.vhost if its path has one: the source takes it from a variable of the target or a Secret"
            );
            report.missing(format!("{at}.rabbitmq.url"), why);
        }
    }
    if let Some(vhost) = trigger
        .metadata
        .text("vhostName")
        .or_else(|| trigger.metadata.text("vHostName"))
        .or_else(|| address.as_ref()?.decoded_path())
    {
        rabbitmq["vhost"] = json!(vhost);
    }
    if address.is_some_and(|address| address.query.is_some()) {
        let field = format!("{}.metadata.host (its query)", trigger.path);
        report.dropped(field, "the connection has the parameters of Bursar");
    }
    match trigger.metadata.text("queueName") {
        Some(name) => rabbitmq["queue"] = json!(name),
        None => report.missing(
            format!("{at}.rabbitmq.queue"),
            "the source has no queueName",
        ),
    }
    if trigger.metadata.boolean("excludeUnacknowledged") == Some(true) && protocol == "http" {
        let why = "counted messages that are ready; http counts those in work as well, amqp ready ones alone";
        report.changed(format!("{at}.rabbitmq.url"), why);
    }
    let metadata = &mut trigger.metadata;
    metadata.ignore(&["metricName", "pageSize", "operation"]);
    metadata.ignore_value("unsafeSsl", &json!("false"));
    metadata.drop_field("unsafeSsl", UNSAFE_TLS);
    metadata.drop_field("timeout", "a read has 5 s");
    let mut signal = json!({"type": "RabbitMQ", "rabbitmq": rabbitmq});
    trigger.set_target(&mut signal, at, &["value", "queueLength"], None);
    if given.is_some_and(|text| text.contains('@')) {
        report.missing(format!("{at}.secretName"), SIGNED_IN);
    }
    Some(signal)
}

/// A consumer group of Kafka.
pub(super) fn kafka(trigger: &mut Trigger<'_>, source: &Source<'_>, at: &str) -> Option<Value> {
    // clusters that are signed in to by AWS or Kerberos are left to KEDA
    if trigger.metadata.has("awsRegion") {
        return None;
    }
    let report = trigger.report();
    let given = trigger.metadata.take("sasl");
    let sasl = match given.as_ref().and_then(Value::as_str) {
        None | Some("none") => match setting_of_secret(trigger, source, "sasl") {
            Setting::Absent => None,
            Setting::Known(text) if text == "none" => None,
            Setting::Known(text) => Some(mechanism(&text)?),
            Setting::Unknown(place) => {
                let why = format!("PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, as {place} says");
                report.missing(format!("{at}.kafka.sasl"), why);
                None
            }
        },
        Some(text) => Some(mechanism(text)?),
    };
    let mut kafka = json!({});
    let servers = trigger
        .setting("bootstrapServers", source)
        .unwrap_or_default();
    let servers: Vec<&str> = (servers.split(',').map(str::trim))
        .filter(|server| !server.is_empty())
        .collect();
    match servers.is_empty() {
        false => kafka["bootstrapServers"] = json!(servers),
        true => report.missing(
            format!("{at}.kafka.bootstrapServers"),
            "HOST:PORT of brokers",
        ),
    }
    for (own, theirs, why) in [
        ("consumerGroup", "consumerGroup", "the source has none"),
        (
            "topic",
            "topic",
            "the source reads all topics of its group: give a signal for each",
        ),
    ] {
        match trigger.setting(theirs, source) {
            Some(text) => kafka[own] = json!(text),
            None => report.missing(format!("{at}.kafka.{own}"), why),
        }
    }
    if trigger.metadata.text("offsetResetPolicy").as_deref() == Some("earliest") {
        kafka["offsetResetPolicy"] = json!("Earliest");
    }
    let tls = match trigger.metadata.text("tls") {
        Some(text) => text == "enable",
        None => has_tls(trigger, source, &format!("{at}.kafka.tls")),
    };
    if tls {
        kafka["tls"] = json!(true);
    }
    if let Some(mechanism) = sasl {
        kafka["sasl"] = json!(mechanism);
    }
    if trigger.metadata.boolean("allowIdleConsumers") != Some(true) {
        let why = "KEDA starts no more replicas than the topic has partitions: set it to their number at most";
        report.changed("spec.maxReplicas", why);
    }
    let metadata = &mut trigger.metadata;
    metadata.ignore(&["version", "metricName"]);
    metadata.ignore_value("unsafeSsl", &json!("false"));
    metadata.ignore_value("scaleToZeroOnInvalidOffset", &json!("false"));
    metadata.ignore_value("excludePersistentLag", &json!("false"));
    metadata.ignore_value("limitToPartitionsWithLag", &json!("false"));
    metadata.drop_field("unsafeSsl", UNSAFE_TLS);
    metadata.drop_field(
        "scaleToZeroOnInvalidOffset",
        "a partition without an offset counts by offsetResetPolicy",
    );
    metadata.drop_field(
        "excludePersistentLag",
        "a message that no consumer gets past counts as long as it is there",
    );
    metadata.drop_field("limitToPartitionsWithLag", "maxReplicas is the only limit");
    metadata.drop_field("partitionLimitation", "all partitions of the topic count");
    metadata.drop_field(
        "ensureEvenDistributionOfPartitions",
        "replicas are as many as the lag asks for",
    );
    let mut signal = json!({"type": "Kafka", "kafka": kafka});
    trigger.set_target(&mut signal, at, &["lagThreshold"], Some("10"));
    Some(signal)
}

/// A mechanism of SASL as Bursar calls it; `None` for those that it has not.
fn mechanism(text: &str) -> Option<&'static str> {
    match text {
        "plaintext" => Some("PLAIN"),
        "scram_sha256" => Some("SCRAM-SHA-256"),
        "scram_sha512" => Some("SCRAM-SHA-512"),
        _ => None,
    }
}

/// Whether a TriggerAuthentication has TLS on; where its Secret is unknown, `field` is asked for.
fn has_tls(trigger: &Trigger<'_>, source: &Source<'_>, field: &str) -> bool {
    match setting_of_secret(trigger, source, "tls") {
        Setting::Absent => false,
        Setting::Known(text) => text == "enable",
        Setting::Unknown(place) => {
            let why = format!("true if {place} is \"enable\", else false");
            trigger.report().missing(field, why);
            false
        }
    }
}

/// A consumer of NATS JetStream.
pub(super) fn nats(trigger: &mut Trigger<'_>, at: &str) -> Option<Value> {
    let report = trigger.report();
    let monitoring = trigger.metadata.text("natsServerMonitoringEndpoint");
    let why = format!(
        "nats://HOST:PORT by which clients come; KEDA read the monitoring endpoint {}",
        match monitoring.as_deref() {
            Some(address) if !address.contains('@') => address,
            Some(_) => "with a name and password",
            None => "of a Secret",
        }
    );
    report.missing(format!("{at}.nats.url"), why);
    let mut nats = json!({});
    for (own, theirs) in [("stream", "stream"), ("consumer", "consumer")] {
        match trigger.metadata.text(theirs) {
            Some(text) => nats[own] = json!(text),
            None => report.missing(format!("{at}.nats.{own}"), "the source has none"),
        }
    }
    trigger.metadata.ignore(&["useHttps"]);
    trigger.metadata.drop_field(
        "account",
        "a client is in the account of its credentials: those of the Secret",
    );
    let mut signal = json!({"type": "NATS", "nats": nats});
    trigger.set_target(&mut signal, at, &["lagThreshold"], Some("10"));
    Some(signal)
}
