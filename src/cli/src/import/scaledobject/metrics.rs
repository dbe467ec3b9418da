//! Triggers that are metrics already.

use serde_json::{Value, json};

use super::super::signals::Signals;
use super::address::{Address, SIGNED_IN};
use super::trigger::{Source, Trigger};

/// A PromQL query.
pub(super) fn prometheus(
    trigger: &mut Trigger<'_>,
    source: &Source<'_>,
    at: &str,
) -> Option<Value> {
    let report = trigger.report();
    let mut prometheus = json!({});
    if let Some(url) = url(
        trigger,
        "serverAddress",
        &format!("{at}.prometheus.url"),
        at,
    ) {
        prometheus["url"] = json!(url);
    }
    match trigger.metadata.text("query") {
        Some(query) => {
            let own = source.namespace.as_deref();
            let field = format!("{at}.prometheus.query");
            match namespace_match(&query, own) {
                NamespaceMatch::Other => report.changed(
                    field,
                    "it names a namespace: Bursar puts the service's own in its place, in each selector, so that the query may find \
                     nothing or something else",
                ),
                NamespaceMatch::Missing => report.changed(
                    field,
                    "it names no namespace: KEDA reads series of all, and Bursar those with the label namespace and the service's own, so \
                     that the query may find nothing or less",
                ),
                NamespaceMatch::Own => report.note(
                    field,
                    "Bursar adds the label namespace, with the service's own, to each selector of the query",
                ),
            }
            prometheus["query"] = json!(query);
        }
        None => report.missing(format!("{at}.prometheus.query"), "the source has none"),
    }
    // KEDA counts an empty result as 0 unless it is told not to
    let empty_is_zero = trigger.metadata.boolean("ignoreNullValues").unwrap_or(true);
    prometheus["emptyIsZero"] = json!(empty_is_zero);
    let metadata = &mut trigger.metadata;
    metadata.ignore(&["metricName", "authModes", "authenticationRef"]);
    metadata.ignore_value("unsafeSsl", &json!("false"));
    metadata.drop_field(
        "unsafeSsl",
        "certificates are always checked: put the authority into the Secret as ca.crt",
    );
    metadata.drop_field(
        "namespace",
        "queries are confined to the service's own namespace, by a label",
    );
    metadata.drop_field(
        "customHeaders",
        "requests have no headers of one's own: send them to a proxy that adds them",
    );
    metadata.drop_field(
        "queryParameters",
        "requests have no further parameters: send them to a proxy that adds them",
    );
    metadata.drop_field("timeout", "a read has 5 s");
    let mut signal = json!({"type": "Prometheus", "prometheus": prometheus});
    trigger.set_target(&mut signal, at, &["threshold"], None);
    Some(signal)
}

/// Takes the URL of a server, without a name and password in it, for which a Secret is asked.
fn url(trigger: &mut Trigger<'_>, name: &str, field: &str, at: &str) -> Option<String> {
    let report = trigger.report();
    let Some(given) = trigger.metadata.text(name) else {
        report.missing(field, format!("the source has no {name}"));
        return None;
    };
    if given.contains('@') {
        report.missing(format!("{at}.secretName"), SIGNED_IN);
    }
    let address = Address::parse(&given, &["http", "https"]);
    if address.is_none() {
        report.missing(
            field,
            "http://HOST:PORT/PATH or https://..., without a name and password: what the source has is no such address",
        );
    }
    address.map(|address| address.whole())
}

/// What a query says of namespaces.
enum NamespaceMatch {
    /// It has a matcher of the label namespace for its own, and none for others.
    Own,
    /// It has one for anything else.
    Other,
    /// It has none that could be found.
    Missing,
}

/// Which namespaces the matchers of a query name.
fn namespace_match(query: &str, own: Option<&str>) -> NamespaceMatch {
    let mut found = NamespaceMatch::Missing;
    // quotes part a query into what is PromQL and what is text
    let mut rest = query;
    while let Some(start) = rest.find(['"', '\'', '`']) {
        let (before, quoted) = rest.split_at(start);
        let quote = &quoted[..1];
        let Some(end) = end_of_quote(&quoted[1..], quote) else {
            return NamespaceMatch::Missing;
        };
        let text = &quoted[1..1 + end];
        let matcher = before.trim_end();
        let label = matcher.trim_end_matches(['=', '!', '~']);
        let operator = &matcher[label.len()..];
        let label = label.trim_end();
        let is_namespace = label.strip_suffix("namespace").is_some_and(|before| {
            !before.ends_with(|last: char| last.is_ascii_alphanumeric() || last == '_')
        });
        let is_own = matches!(operator, "=" | "=~") && own == Some(text);
        match is_namespace && !operator.is_empty() {
            true if is_own => found = NamespaceMatch::Own,
            true => return NamespaceMatch::Other,
            false => {}
        }
        rest = &quoted[2 + end..];
    }
    found
}

/// Where a quoted text ends.
fn end_of_quote(text: &str, quote: &str) -> Option<usize> {
    let mut is_escaped = false;
    let mut ends = text.char_indices().filter(|(_, character)| {
        let is_end = !is_escaped && quote.starts_with(*character);
        is_escaped = !is_escaped && *character == '\\' && quote != "`";
        is_end
    });
    Some(ends.next()?.0)
}

/// A number in a JSON document.
pub(super) fn json_document(trigger: &mut Trigger<'_>, at: &str) -> Option<Value> {
    let report = trigger.report();
    let format = trigger
        .metadata
        .text("format")
        .unwrap_or_else(|| "json".to_owned());
    if format != "json" {
        let why = format!("was a document of format {format:?}: Bursar reads JSON");
        report.missing(format!("{at}.http.url"), why);
    }
    let mut http = json!({});
    if let Some(url) = url(trigger, "url", &format!("{at}.http.url"), at) {
        http["url"] = json!(url);
    }
    let place = trigger.metadata.text("valueLocation").unwrap_or_default();
    match json_pointer(&place) {
        Some(pointer) => http["jsonPointer"] = json!(pointer),
        None => report.missing(
            format!("{at}.http.jsonPointer"),
            format!(
                "the place of the number as a JSON pointer: {place:?} is more than names and dots"
            ),
        ),
    }
    let metadata = &mut trigger.metadata;
    metadata.ignore(&["authMode", "authModes"]);
    metadata.ignore_value("method", &json!("GET"));
    metadata.ignore_value("unsafeSsl", &json!("false"));
    metadata.drop_field(
        "unsafeSsl",
        "certificates are always checked: put the authority into the Secret as ca.crt",
    );
    let mut signal = json!({"type": "HTTP", "http": http});
    trigger.set_target(&mut signal, at, &["targetValue"], None);
    Some(signal)
}

/// A path of names and indexes with dots between them as a JSON pointer.
fn json_pointer(place: &str) -> Option<String> {
    let is_plain =
        |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '-' | '.');
    let is_path =
        !place.is_empty() && place.chars().all(is_plain) && !place.split('.').any(str::is_empty);
    is_path.then(|| format!("/{}", place.replace('.', "/")))
}

/// Any other trigger: KEDA goes on reading it, and Bursar reads the metric that KEDA makes of it.
pub(super) fn external(mut trigger: Trigger<'_>, source: &Source<'_>, signals: &mut Signals) {
    let report = trigger.report();
    let at = signals.next_path();
    let prefix = format!("s{}-", trigger.index);
    let known = source
        .metric_names
        .iter()
        .find(|name| name.starts_with(&prefix));
    let selector = json!({"matchLabels": {"scaledobject.keda.sh/name": source.name}});
    let mut external = json!({"selector": selector});
    match known {
        Some(name) => external["metricName"] = json!(name),
        None => report.missing(
            format!("{at}.external.metricName"),
            format!(
                "the name that begins with {prefix}: kubectl get scaledobject {} -o jsonpath='{{.status.externalMetricNames}}'",
                source.name
            ),
        ),
    }
    let mut signal = json!({"type": "External", "external": external});
    let why = format!(
        "KEDA goes on reading trigger {:?} with all its settings, and Bursar reads KEDA's metric of it: keep the ScaledObject, with the \
         annotation autoscaling.keda.sh/paused: \"true\"",
        trigger.kind
    );
    report.note(&at, why);
    // the settings stay in force where they are, but for the threshold, which is Bursar's target
    let names = trigger.metadata.names();
    let threshold = threshold(&names);
    match threshold {
        Some(name) => {
            trigger.set_target(&mut signal, &at, &[name], None);
            report.note(format!("{at}.target"), format!("{name} of the trigger"));
        }
        None => report.missing(
            format!("{at}.target"),
            "how much of it one replica carries, above 0: none of the trigger's settings is surely its threshold",
        ),
    }
    for name in names {
        trigger.metadata.ignore(&[&name]);
    }
    trigger.finish(&mut signal, &at);
    signals.push(signal, &trigger.name);
}

/// The setting that is a trigger's threshold, if there is one alone that may be.
fn threshold(names: &[String]) -> Option<&str> {
    const THRESHOLDS: [&str; 17] = [
        "lagThreshold",
        "threshold",
        "queueLength",
        "messageCount",
        "targetValue",
        "targetQueueSize",
        "targetQueryValue",
        "queryValue",
        "value",
        "shardCount",
        "subscriptionSize",
        "targetMetricValue",
        "lagCount",
        "queueDepth",
        "msgBacklogThreshold",
        "metricThreshold",
        "targetLength",
    ];
    let mut found = names
        .iter()
        .filter(|name| THRESHOLDS.contains(&name.as_str()));
    let (Some(name), None) = (found.next(), found.next()) else {
        return None;
    };
    Some(name)
}
