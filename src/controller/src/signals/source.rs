//! A signal of a manifest as something that can be read.

use bursar_api::signal::{
    ExternalSignal, HttpSignal, KafkaSignal, NatsSignal, OffsetResetPolicy, PrometheusSignal,
    RabbitMqSignal, RedisMode as RedisModeSpec, RedisSignal, SaslMechanism, SignalSpec,
};
use bursar_signals::sources::{
    Endpoint, Http, HttpUrl, InvalidSource, Kafka, Nats, Prometheus, RabbitMq, RabbitMqProtocol,
    Redis, RedisMeasure, RedisMode, Sasl, SignalSource, WithoutCommits,
};
use kube::core::Selector;

/// What is read of a signal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Source {
    /// A server, and the Secret with the credentials for it.
    Server {
        /// The server and what is asked of it.
        source: SignalSource,
        /// The Secret's name.
        secret: Option<String>,
    },
    /// The external metrics API.
    External {
        /// The metric.
        metric: String,
        /// The label selector of its values; empty for all.
        selector: String,
    },
    /// Nothing: the manifest asks for what cannot be, and why.
    Invalid(String),
}

/// What a signal of a service in this namespace is read from. The selectors of PromQL queries get the
/// label with the namespace, if there is one.
pub(super) fn source(signal: &SignalSpec, namespace: &str, label: Option<&str>) -> Source {
    if let Some(external) = &signal.external {
        return external_source(external);
    }
    let server = server(signal, namespace, label);
    match server {
        Ok(Some(source)) => Source::Server {
            source,
            secret: signal.secret_name.clone(),
        },
        Ok(None) => Source::Invalid(format!(
            "it names no source: type {} needs a field of its own",
            signal.kind.as_str()
        )),
        Err(error) => Source::Invalid(error.to_string()),
    }
}

fn external_source(external: &ExternalSignal) -> Source {
    let selector = external.selector.clone().unwrap_or_default();
    match Selector::try_from(selector) {
        Ok(selector) => Source::External {
            metric: external.metric_name.clone(),
            selector: selector.to_string(),
        },
        Err(error) => {
            let invalid = InvalidSource::new(format!("external.selector: {error}"));
            Source::Invalid(invalid.to_string())
        }
    }
}

fn server(
    signal: &SignalSpec,
    namespace: &str,
    label: Option<&str>,
) -> Result<Option<SignalSource>, InvalidSource> {
    Ok(Some(if let Some(spec) = &signal.prometheus {
        SignalSource::Prometheus(prometheus(spec, namespace, label)?)
    } else if let Some(spec) = &signal.redis {
        SignalSource::Redis(redis(spec, namespace)?)
    } else if let Some(spec) = &signal.rabbitmq {
        SignalSource::RabbitMq(rabbitmq(spec, namespace)?)
    } else if let Some(spec) = &signal.kafka {
        SignalSource::Kafka(kafka(spec, namespace)?)
    } else if let Some(spec) = &signal.nats {
        SignalSource::Nats(nats(spec, namespace)?)
    } else if let Some(spec) = &signal.http {
        SignalSource::Http(http(spec, namespace)?)
    } else {
        return Ok(None);
    }))
}

fn prometheus(
    spec: &PrometheusSignal,
    namespace: &str,
    label: Option<&str>,
) -> Result<Prometheus, InvalidSource> {
    let url = url(&spec.url, namespace)?;
    let label = label.map(|label| (label, namespace));
    let mut prometheus = Prometheus::new(url, &spec.query, label)?;
    prometheus.empty_is_zero = spec.empty_is_zero;
    Ok(prometheus)
}

fn redis(spec: &RedisSignal, namespace: &str) -> Result<Redis, InvalidSource> {
    let measure = match (&spec.list, &spec.stream) {
        (Some(key), _) => RedisMeasure::List { key: key.clone() },
        (None, key) => RedisMeasure::Stream {
            key: key.clone().unwrap_or_default(),
            group: spec.consumer_group.clone(),
        },
    };
    Ok(Redis {
        addresses: endpoints(&spec.addresses, spec.tls, namespace)?,
        mode: match spec.mode {
            RedisModeSpec::Standalone => RedisMode::Standalone,
            RedisModeSpec::Sentinel => RedisMode::Sentinel {
                master_name: spec.master_name.clone().unwrap_or_default(),
            },
            RedisModeSpec::Cluster => RedisMode::Cluster,
        },
        database: u32::try_from(spec.database).unwrap_or(0),
        measure,
    })
}

fn rabbitmq(spec: &RabbitMqSignal, namespace: &str) -> Result<RabbitMq, InvalidSource> {
    let (scheme, address) = spec.url.split_once("://").unwrap_or(("", &spec.url));
    let (protocol, tls, port) = match scheme {
        "amqp" => (RabbitMqProtocol::Amqp, false, 5672),
        "amqps" => (RabbitMqProtocol::Amqp, true, 5671),
        "https" => (RabbitMqProtocol::Management, true, 443),
        _ => (RabbitMqProtocol::Management, false, 80),
    };
    Ok(RabbitMq {
        endpoint: endpoint(address, tls, Some(port), namespace)?,
        protocol,
        vhost: spec.vhost.clone(),
        queue: spec.queue.clone(),
    })
}

fn kafka(spec: &KafkaSignal, namespace: &str) -> Result<Kafka, InvalidSource> {
    Ok(Kafka {
        brokers: endpoints(&spec.bootstrap_servers, spec.tls, namespace)?,
        group: spec.consumer_group.clone(),
        topic: spec.topic.clone(),
        sasl: spec.sasl.map(|mechanism| match mechanism {
            SaslMechanism::Plain => Sasl::Plain,
            SaslMechanism::ScramSha256 => Sasl::ScramSha256,
            SaslMechanism::ScramSha512 => Sasl::ScramSha512,
        }),
        without_commits: match spec.offset_reset_policy {
            OffsetResetPolicy::Earliest => WithoutCommits::Earliest,
            OffsetResetPolicy::Latest => WithoutCommits::Latest,
        },
    })
}

fn nats(spec: &NatsSignal, namespace: &str) -> Result<Nats, InvalidSource> {
    let (scheme, address) = spec.url.split_once("://").unwrap_or(("", &spec.url));
    Ok(Nats {
        endpoint: endpoint(address, scheme == "tls", Some(4222), namespace)?,
        stream: spec.stream.clone(),
        consumer: spec.consumer.clone(),
    })
}

fn http(spec: &HttpSignal, namespace: &str) -> Result<Http, InvalidSource> {
    Http::new(url(&spec.url, namespace)?, &spec.json_pointer)
}

fn url(text: &str, namespace: &str) -> Result<HttpUrl, InvalidSource> {
    let mut url = HttpUrl::parse(text)?;
    url.endpoint.host = in_namespace(&url.endpoint.host, namespace);
    Ok(url)
}

fn endpoints(
    addresses: &[String],
    tls: bool,
    namespace: &str,
) -> Result<Vec<Endpoint>, InvalidSource> {
    let addresses = addresses.iter();
    addresses
        .map(|address| endpoint(address, tls, None, namespace))
        .collect()
}

/// `HOST:PORT`, or `HOST` alone where there is a usual port.
fn endpoint(
    address: &str,
    tls: bool,
    usual: Option<u16>,
    namespace: &str,
) -> Result<Endpoint, InvalidSource> {
    let invalid = || InvalidSource::new(format!("{address} is no address: write HOST:PORT"));
    let (host, port) = match address.rsplit_once(':') {
        // the colons of an IPv6 address are within brackets
        Some((host, port)) if !port.contains(']') => (host, port.parse().map_err(|_| invalid())?),
        _ => (address, usual.ok_or_else(invalid)?),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || port == 0 {
        return Err(invalid());
    }
    Ok(Endpoint {
        host: in_namespace(host, namespace),
        port,
        tls,
    })
}

/// A name without a dot is that of a Service in the namespace of who wrote it, not in the operator's.
fn in_namespace(host: &str, namespace: &str) -> String {
    let is_short = !host.contains(['.', ':']);
    match is_short {
        true => format!("{host}.{namespace}.svc"),
        false => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(signal: Value) -> Source {
        let signal: SignalSpec = serde_json::from_value(signal).unwrap();
        source(&signal, "team", Some("namespace"))
    }

    #[test]
    fn a_name_without_a_dot_is_that_of_a_service_in_the_namespace_of_who_wrote_it() {
        for (address, host, port) in [
            ("redis:6379", "redis.team.svc", 6379),
            ("redis.infra:6379", "redis.infra", 6379),
            ("10.0.0.7:6379", "10.0.0.7", 6379),
            ("[fd00::7]:6379", "fd00::7", 6379),
        ] {
            let source = of(json!({
                "type": "Redis", "target": 5, "secretName": "login",
                "redis": {"addresses": [address], "list": "jobs"},
            }));
            let Source::Server {
                source: SignalSource::Redis(redis),
                secret,
            } = source
            else {
                panic!("{source:?}");
            };
            let [endpoint] = &*redis.addresses else {
                panic!("{redis:?}")
            };
            assert_eq!((&*endpoint.host, endpoint.port), (host, port));
            assert_eq!(secret.as_deref(), Some("login"));
        }
    }

    #[test]
    fn schemes_say_protocol_tls_and_port() {
        for (url, protocol, tls, port) in [
            ("amqp://rabbit", RabbitMqProtocol::Amqp, false, 5672),
            ("amqps://rabbit", RabbitMqProtocol::Amqp, true, 5671),
            ("amqp://rabbit:5673", RabbitMqProtocol::Amqp, false, 5673),
            (
                "http://rabbit:15672",
                RabbitMqProtocol::Management,
                false,
                15672,
            ),
            (
                "https://rabbit:15671",
                RabbitMqProtocol::Management,
                true,
                15671,
            ),
        ] {
            let source = of(json!({
                "type": "RabbitMQ", "target": 5, "rabbitmq": {"url": url, "queue": "jobs"},
            }));
            let Source::Server {
                source: SignalSource::RabbitMq(rabbitmq),
                ..
            } = source
            else {
                panic!("{source:?}");
            };
            let Endpoint {
                port: read,
                tls: with_tls,
                ..
            } = rabbitmq.endpoint;
            assert_eq!(
                (rabbitmq.protocol, with_tls, read),
                (protocol, tls, port),
                "{url}"
            );
            assert_eq!(rabbitmq.vhost, "/");
        }
    }

    #[test]
    fn a_query_is_confined_to_its_namespace_and_one_that_cannot_be_read_says_so() {
        let query = |query: &str| {
            of(json!({
                "type": "Prometheus", "target": "0.5",
                "prometheus": {"url": "http://prometheus.monitoring:9090", "query": query},
            }))
        };
        let Source::Server {
            source: SignalSource::Prometheus(prometheus),
            ..
        } = query(r#"sum(rate(jobs_total{namespace="other"}[5m]))"#)
        else {
            panic!("no query");
        };
        let confined = prometheus.query();
        assert!(confined.contains(r#"namespace="team""#), "{confined}");
        assert!(!confined.contains("other"), "{confined}");
        assert!(matches!(query("sum("), Source::Invalid(_)));
    }

    #[test]
    fn selectors_of_external_metrics_are_written_as_the_api_reads_them() {
        let source = of(json!({
            "type": "External", "target": 5,
            "external": {"metricName": "s0-redis-jobs", "selector": {
                "matchLabels": {"scaledobject.keda.sh/name": "workers"}}},
        }));
        let expected = Source::External {
            metric: "s0-redis-jobs".to_owned(),
            selector: "scaledobject.keda.sh/name=workers".to_owned(),
        };
        assert_eq!(source, expected);
    }
}
