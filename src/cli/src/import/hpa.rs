//! A HorizontalPodAutoscaler becomes an InferenceDeployment.

use serde_json::{Value, json};

use super::behavior::set_behavior;
use super::deployment::MAX_REPLICAS;
use super::draft::{Draft, DraftKind};
use super::fields::Fields;
use super::objects::Objects;
use super::report::Report;
use super::signals::{Signals, target};
use super::target::{TargetRef, set_target};

pub(crate) fn convert(object: &Value, objects: &Objects, report: &Report) -> Value {
    let mut fields = Fields::new("", object.clone(), report);
    fields.ignore(&["apiVersion", "kind", "status"]);
    let mut draft = Draft::new(DraftKind::InferenceDeployment, fields.object("metadata"));
    let mut spec = fields.object("spec");
    // without a minimum it is 1, as Kubernetes has it
    let min = spec.integer("minReplicas").unwrap_or(1);
    let max = spec.integer("maxReplicas");
    set_replica_bounds(&mut draft, min, max);
    set_behavior(&mut draft, spec.object("behavior"));
    let mut signals = Signals::default();
    for metric in spec.objects("metrics") {
        convert_metric(metric, &mut signals);
    }
    let why = "the engine's queue depth tells of inference what the use of CPUs does not";
    spec.drop_field("targetCPUUtilizationPercentage", why);
    let reference = &mut spec.object("scaleTargetRef");
    match TargetRef::take(reference) {
        Some(target) => set_target(&mut draft, objects, &target, !signals.is_empty()),
        None => {
            report.missing("spec.targetRef", "the source does not say what it scales");
            report.missing("spec.engine", "it is unknown without a target");
        }
    }
    note_signals(&draft, &signals);
    signals.set(&mut draft);
    draft.finish()
}

/// Sets `minReplicas` and `maxReplicas`, within what Bursar takes.
pub(crate) fn set_replica_bounds(draft: &mut Draft<'_>, min: i64, max: Option<i64>) {
    let report = draft.report();
    let Some(max) = max else {
        report.missing(
            "spec.maxReplicas",
            "the most replicas: the source does not say it",
        );
        draft.set("minReplicas", min.clamp(0, MAX_REPLICAS));
        return;
    };
    let most = max.clamp(1, MAX_REPLICAS);
    if most != max {
        let why = format!("was {max}: Bursar takes 1 to {MAX_REPLICAS}");
        report.changed("spec.maxReplicas", why);
    }
    let least = min.clamp(0, most);
    if least != min {
        report.changed(
            "spec.minReplicas",
            format!("was {min}: Bursar takes 0 to {most}"),
        );
    }
    draft.set("maxReplicas", most);
    draft.set("minReplicas", least);
}

/// What the service follows from now on, where that is not what the source followed.
pub(crate) fn note_signals(draft: &Draft<'_>, signals: &Signals) {
    let report = draft.report();
    let engine = draft.get("engine").and_then(Value::as_str);
    match (signals.is_empty(), engine) {
        (true, Some(engine)) if engine != "None" => report.changed(
            "spec.engine",
            "replicas follow the engine's queue depth, 8 requests each: no other signal is left. scaling.signals[].target is how many a \
             replica carries",
        ),
        (false, Some(engine)) if engine != "None" => report.note(
            "spec.scaling.signals",
            "requests keep one replica and wake the first; add a signal of type Engine if they should ask for more",
        ),
        _ => {}
    }
}

/// A metric as a signal, or the reason why there is none.
fn convert_metric(mut metric: Fields<'_>, signals: &mut Signals) {
    let report = metric.report();
    let path = metric.location().to_owned();
    let kind = metric.text("type").unwrap_or_default();
    let dropped = |what: String, why: &str| report.dropped(format!("{path} ({kind} {what})"), why);
    match kind.as_str() {
        "External" => external(metric, &path, signals),
        "Resource" | "ContainerResource" => {
            let source = if kind == "Resource" {
                "resource"
            } else {
                "containerResource"
            };
            let name = named(&mut metric, source);
            let why = "replicas follow demand, not the use of CPUs and memory: an engine on GPUs is full long before, or never";
            dropped(name, why);
        }
        "Pods" => {
            let (name, wanted) = metric_name(&mut metric, "pods");
            let why = "Bursar reads no custom metrics of pods: if Prometheus has this one, give a signal of type Prometheus with a query \
                       for its sum; the engine's queue depth needs none";
            dropped(name + &wanted, why);
        }
        "Object" => {
            let (name, wanted) = metric_name(&mut metric, "object");
            let why = "Bursar reads no custom metrics of objects: if Prometheus has this one, give a signal of type Prometheus";
            dropped(name + &wanted, why);
        }
        _ => dropped(String::new(), "it is no metric of autoscaling/v2"),
    }
}

/// Uses up a metric that is reported as a whole, and returns the name of its resource.
fn named(metric: &mut Fields<'_>, source: &str) -> String {
    let source = metric.take(source).unwrap_or_default();
    source["name"].as_str().unwrap_or("?").to_owned()
}

/// The same of a custom metric, with the value that replicas should have.
fn metric_name(metric: &mut Fields<'_>, source: &str) -> (String, String) {
    let source = metric.take(source).unwrap_or_default();
    let name = source["metric"]["name"].as_str().unwrap_or("?").to_owned();
    let wanted = ["averageValue", "value"].map(|field| &source["target"][field]);
    let wanted = match wanted.into_iter().find(|value| !value.is_null()) {
        Some(Value::String(text)) => format!(" at {text}"),
        Some(other) => format!(" at {other}"),
        None => String::new(),
    };
    (name, wanted)
}

/// A metric of the external metrics API, which Bursar reads too.
fn external(mut metric: Fields<'_>, path: &str, signals: &mut Signals) {
    let report = metric.report();
    if !signals.has_room() {
        metric.ignore(&["external"]);
        report.dropped(path, "a service has 8 signals at most");
        return;
    }
    let mut source = metric.object("external");
    let mut described = source.object("metric");
    let name = described.text("name").unwrap_or_default();
    let mut external = json!({"metricName": name});
    if let Some(selector) = described.take("selector") {
        external["selector"] = selector;
    }
    let mut signal = json!({"type": "External", "external": external});
    let at = signals.next_path();
    if name.is_empty() {
        report.missing(format!("{at}.external.metricName"), "the source has none");
    }
    let mut wanted = source.object("target");
    let kind = wanted.text("type").unwrap_or_default();
    let average = wanted.text("averageValue");
    let total = wanted.text("value");
    let value = average.clone().or(total.clone());
    match value.as_deref().and_then(target) {
        Some(value) => signal["target"] = value,
        None => report.missing(
            format!("{at}.target"),
            "how much of the metric one replica carries, above 0",
        ),
    }
    if average.is_none() && total.is_some() {
        report.changed(format!("{at}.target"), TOTAL);
    }
    if !matches!(kind.as_str(), "AverageValue" | "Value" | "") {
        report.changed(
            format!("{at}.target"),
            format!("its type {kind:?} is unknown"),
        );
    }
    signals.push(signal, &name);
}

/// What a target of type Value meant, and what it is now.
pub(crate) const TOTAL: &str = "was the total that replicas should bring down, however many there are; now it is what one replica carries. \
    Give the share of one replica";
