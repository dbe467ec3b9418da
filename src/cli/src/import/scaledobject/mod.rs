//! A ScaledObject of KEDA becomes an InferenceDeployment.
//!
//! | module | subject |
//! |---|---|
//! | `trigger` | what all triggers have |
//! | `queues` | Redis, RabbitMQ, Kafka, NATS JetStream |
//! | `metrics` | Prometheus, JSON documents, and all others by KEDA's own metrics |
//! | `cron` | times become schedules |
//! | `credentials`, `address` | what a trigger signs in with, and where |

mod address;
mod credentials;
mod cron;
mod metrics;
mod queues;
mod trigger;

use serde_json::{Value, json};

use super::behavior::set_behavior;
use super::container::{Container, containers};
use super::draft::{Draft, DraftKind};
use super::fields::Fields;
use super::hpa::{note_signals, set_replica_bounds};
use super::objects::{Objects, metadata as name_of, string};
use super::report::Report;
use super::signals::Signals;
use super::target::{TargetRef, set_target};

use credentials::Credentials;
use trigger::{Source, Trigger};

/// KEDA's defaults.
const COOLDOWN_SECONDS: i64 = 300;
const POLLING_SECONDS: i64 = 30;
const MAX_REPLICA_COUNT: i64 = 100;

pub(crate) fn convert(object: &Value, objects: &Objects, report: &Report) -> Value {
    let mut fields = Fields::new("", object.clone(), report);
    fields.ignore(&["apiVersion", "kind"]);
    let metric_names = metric_names(&fields.take("status").unwrap_or_default());
    let mut metadata = fields.object("metadata");
    let paused = take_paused(&mut metadata);
    let mut draft = Draft::new(DraftKind::InferenceDeployment, metadata);
    if paused {
        draft.set("scaling.paused", true);
    }
    let mut spec = fields.object("spec");
    let mut reference = spec.object("scaleTargetRef");
    let environment = reference.text("envSourceContainerName");
    let target = TargetRef::take(&mut reference);
    let namespace = draft.namespace().map(str::to_owned);
    let template = target
        .as_ref()
        .and_then(|target| Some(target.pod_template(target.find(objects, namespace.as_deref())?)));
    let source = Source {
        // the labels of KEDA's metrics have it, however the new object is called
        name: name_of(object, "name").unwrap_or(draft.name()).to_owned(),
        namespace,
        metric_names,
        container: container(template.as_ref(), environment.as_deref()),
        objects,
    };
    set_replicas(&mut draft, &mut spec);
    let polling = set_times(&mut draft, &mut spec);
    let mut signals = Signals::default();
    let mut schedules = Vec::new();
    for (index, trigger) in spec.objects("triggers").into_iter().enumerate() {
        let trigger = Trigger::take(trigger, index, polling);
        convert_trigger(trigger, &source, &mut signals, &mut schedules);
    }
    let has_schedules = !schedules.is_empty();
    if has_schedules {
        draft.set("scaling.schedules", schedules);
    }
    set_fallback(&mut draft, spec.object("fallback"), polling);
    let mut advanced = spec.object("advanced");
    advanced.drop_field(
        "restoreToOriginalReplicaCount",
        "a workload that is given back has the replicas that it had when it was adopted",
    );
    if has_formula(&advanced) {
        signals.ask_for_targets(report, FORMULA);
    }
    advanced.drop_field(
        "scalingModifiers",
        "signals are not combined by formulas: each asks for replicas, and the largest number wins",
    );
    let mut autoscaler = advanced.object("horizontalPodAutoscalerConfig");
    autoscaler.ignore(&["name"]);
    set_behavior(&mut draft, autoscaler.object("behavior"));
    match &target {
        Some(target) => {
            let has_signals = has_schedules || !signals.is_empty();
            set_target(&mut draft, objects, target, has_signals);
        }
        None => {
            report.missing("spec.targetRef", "the source does not say what it scales");
            report.missing("spec.engine", "it is unknown without a target");
        }
    }
    note_signals(&draft, &signals);
    signals.set(&mut draft);
    draft.finish()
}

/// Adds the signal or schedule that a trigger becomes, or reports why there is none.
fn convert_trigger(
    mut trigger: Trigger<'_>,
    source: &Source<'_>,
    signals: &mut Signals,
    schedules: &mut Vec<Value>,
) {
    let kind = trigger.kind.clone();
    match kind.as_str() {
        "cron" => return cron::schedule(trigger, schedules),
        "cpu" | "memory" => {
            return trigger.discard("replicas follow demand, not the use of CPUs and memory");
        }
        _ if !signals.has_room() => return trigger.discard("a service has 8 signals at most"),
        _ => {}
    }
    trigger.drop_activation();
    let at = signals.next_path();
    let signal = match kind.as_str() {
        "prometheus" => metrics::prometheus(&mut trigger, source, &at),
        "metrics-api" => metrics::json_document(&mut trigger, &at),
        "redis" | "redis-cluster" | "redis-sentinel" => {
            queues::redis_list(&mut trigger, source, &at)
        }
        "redis-streams" | "redis-cluster-streams" | "redis-sentinel-streams" => {
            queues::redis_stream(&mut trigger, source, &at)
        }
        "rabbitmq" => queues::rabbitmq(&mut trigger, source, &at),
        "kafka" | "apache-kafka" => queues::kafka(&mut trigger, source, &at),
        "nats-jetstream" => queues::nats(&mut trigger, &at),
        _ => None,
    };
    let Some(mut signal) = signal else {
        return metrics::external(trigger, source, signals);
    };
    if let Some(credentials) = Credentials::find(&trigger, source) {
        credentials.set(&mut signal, &at, trigger.report());
    }
    trigger.finish(&mut signal, &at);
    signals.push(signal, &trigger.name);
}

/// The names of the external metrics that KEDA serves for an object.
fn metric_names(status: &Value) -> Vec<String> {
    let names = status["externalMetricNames"].as_array();
    let names = names.into_iter().flatten().filter_map(Value::as_str);
    names.map(str::to_owned).collect()
}

/// The container whose variables triggers name: the one that the source says, or the first.
fn container(template: Option<&Value>, name: Option<&str>) -> Option<Container> {
    let containers = containers(template?);
    match name {
        Some(name) => containers.into_iter().find(|each| each.name == name),
        None => containers.into_iter().next(),
    }
}

/// Why the thresholds of triggers are not targets.
const FORMULA: &str = "how much of it one replica carries, above 0: the formula of scalingModifiers had a target for the triggers together, \
    and their own thresholds did not count";

/// Whether a formula combines the triggers.
fn has_formula(advanced: &Fields<'_>) -> bool {
    let modifiers = advanced.get("scalingModifiers");
    modifiers.is_some_and(|modifiers| {
        modifiers["formula"]
            .as_str()
            .is_some_and(|it| !it.is_empty())
    })
}

/// Takes KEDA's annotations and labels, and says whether it is paused.
fn take_paused(metadata: &mut Fields<'_>) -> bool {
    let mut annotations = metadata.object("annotations");
    let paused = annotations.text("autoscaling.keda.sh/paused");
    let has_paused_replicas = annotations.has("autoscaling.keda.sh/paused-replicas");
    annotations.ignore(&["validations.keda.sh/hpa-ownership"]);
    for (name, why) in [
        (
            "autoscaling.keda.sh/paused-replicas",
            "a paused service keeps the replicas that it has: scale the target",
        ),
        (
            "autoscaling.keda.sh/paused-scale-in",
            "behavior.scaleDown.selectPolicy: Disabled keeps it from fewer replicas",
        ),
        (
            "autoscaling.keda.sh/paused-scale-out",
            "behavior.scaleUp.selectPolicy: Disabled keeps it from more replicas",
        ),
        (
            "scaledobject.keda.sh/transfer-hpa-ownership",
            "Bursar makes no HorizontalPodAutoscaler",
        ),
    ] {
        annotations.drop_field(name, why);
    }
    metadata.put("annotations", Value::Object(annotations.into_rest()));
    let mut labels = metadata.object("labels");
    labels.ignore(&["scaledobject.keda.sh/name"]);
    metadata.put("labels", Value::Object(labels.into_rest()));
    // KEDA's own
    metadata.ignore(&["finalizers"]);
    has_paused_replicas || paused.is_some_and(|text| !NOT_PAUSED.contains(&text.as_str()))
}

/// What Go reads as false. KEDA takes any other text of the annotation for a pause.
const NOT_PAUSED: [&str; 6] = ["0", "f", "F", "false", "FALSE", "False"];

fn set_replicas(draft: &mut Draft<'_>, spec: &mut Fields<'_>) {
    let report = draft.report();
    let min = spec.integer("minReplicaCount").unwrap_or(0);
    let given = spec.integer("maxReplicaCount");
    let idle = spec.integer("idleReplicaCount");
    if let Some(idle) = idle.filter(|idle| *idle < min) {
        let why = format!(
            "was {min} while a trigger is active, and {idle} while none is: Bursar has one minimum, and the signals say how many are \
             needed above it"
        );
        report.changed("spec.minReplicas", why);
    }
    let min = idle.map_or(min, |idle| idle.min(min));
    set_replica_bounds(draft, min, Some(given.unwrap_or(MAX_REPLICA_COUNT)));
    if given.is_none() {
        report.note("spec.maxReplicas", "KEDA's default");
    }
}

/// Sets when nothing is to do, and returns how often triggers are read, in seconds, if the source
/// says it.
fn set_times(draft: &mut Draft<'_>, spec: &mut Fields<'_>) -> Option<i64> {
    let report = draft.report();
    let cooldown = spec.integer("cooldownPeriod");
    let idle = cooldown.unwrap_or(COOLDOWN_SECONDS).clamp(1, 86_400);
    draft.set("scaling.idle.after", format!("{idle}s"));
    match cooldown {
        None => report.note("spec.scaling.idle.after", "KEDA's default cooldownPeriod"),
        Some(given) if given != idle => {
            report.changed("spec.scaling.idle.after", format!("was {given} s"));
        }
        Some(_) => {}
    }
    spec.drop_field(
        "initialCooldownPeriod",
        "a new service is idle after scaling.idle.after like any other",
    );
    let polling = spec.integer("pollingInterval")?;
    // a signal that is read more seldom than that would miss what comes between
    let near = polling.clamp(1, idle.min(3600));
    if near != polling {
        let why = format!("was {polling} s: it is at least 1s, and at most idle.after and 1h");
        report.changed("spec.scaling.signals", why);
    }
    Some(near)
}

fn set_fallback(draft: &mut Draft<'_>, mut fallback: Fields<'_>, polling: Option<i64>) {
    let report = draft.report();
    let threshold = fallback.integer("failureThreshold");
    let Some(replicas) = fallback.integer("replicas") else {
        return;
    };
    let at = "spec.scaling.onSignalFailure";
    match fallback.text("behavior").as_deref() {
        None | Some("static") => {}
        Some("currentReplicas") => {
            draft.set("scaling.onSignalFailure", json!({"action": "Hold"}));
            return;
        }
        Some(other) => report.changed(
            at,
            format!("was {other}: Bursar has these replicas, or as many as what is known asks for if those are more"),
        ),
    }
    let near = replicas.clamp(0, super::deployment::MAX_REPLICAS);
    if near != replicas {
        report.changed(at, format!("replicas were {replicas}"));
    }
    let seconds = threshold
        .unwrap_or(3)
        .max(1)
        .saturating_mul(polling.unwrap_or(POLLING_SECONDS));
    let after = seconds.clamp(1, 86_400);
    let value = json!({"action": "Replicas", "replicas": near, "after": format!("{after}s")});
    draft.set_with_note(
        "scaling.onSignalFailure",
        value,
        "after is failureThreshold times pollingInterval",
    );
}

/// Why a ScaledJob is not imported.
pub(crate) fn scaled_job_refusal(object: &Value) -> Option<&'static str> {
    (string(object, "kind") == Some("ScaledJob")).then_some(
        "a ScaledJob makes a Job for each message, and Bursar's replicas take messages one after another: make its template a Deployment \
         whose program loops, with a ScaledObject, and import that",
    )
}
