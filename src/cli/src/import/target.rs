//! The workload that an imported service scales: its engine, its Service, its port.

use bursar_api::engine::Engine;
use bursar_api::engine::presets::preset;
use serde_json::{Value, json};

use super::container::{Container, containers};
use super::draft::Draft;
use super::engine_guess::{EngineGuess, guess};
use super::fields::Fields;
use super::objects::{Objects, group_of, is_in, metadata};

const LWS_GROUP: &str = "leaderworkerset.x-k8s.io";
const LWS_KIND: &str = "LeaderWorkerSet";
const LWS_LABELS: &str = "leaderworkerset.sigs.k8s.io";

/// A workload that something scales.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TargetRef {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) name: String,
}

impl TargetRef {
    /// Takes a reference as HPAs and ScaledObjects have it, whose kind is Deployment if they do not
    /// say it.
    pub(crate) fn take(reference: &mut Fields<'_>) -> Option<Self> {
        let api_version = reference.text("apiVersion");
        let kind = reference.text("kind");
        Some(Self {
            api_version: api_version.unwrap_or_else(|| "apps/v1".to_owned()),
            kind: kind.unwrap_or_else(|| "Deployment".to_owned()),
            name: reference.text("name")?,
        })
    }

    /// Its manifest, if it is among the objects.
    pub(crate) fn find<'o>(
        &self,
        objects: &'o Objects,
        namespace: Option<&str>,
    ) -> Option<&'o Value> {
        let (group, _) = self.readable()?;
        objects.find((group, &self.kind), &self.name, namespace)
    }

    /// Its group and version, if it is of a kind whose pod template is known.
    pub(crate) fn readable(&self) -> Option<(&'static str, &'static str)> {
        match (group_of(&self.api_version), self.kind.as_str()) {
            ("apps", _) => Some(("apps", "v1")),
            (LWS_GROUP, LWS_KIND) => Some((LWS_GROUP, "v1")),
            // whatever else has a scale subresource: nobody knows where its template is
            _ => None,
        }
    }

    /// The template of the pods that requests go to, of its manifest: of a group, its leader's.
    pub(crate) fn pod_template(&self, object: &Value) -> Value {
        match self.kind.as_str() {
            LWS_KIND => leader_template(object, &self.name),
            _ => object["spec"]["template"].clone(),
        }
    }
}

/// The template of the leaders of a LeaderWorkerSet, with the labels by which Services select them.
fn leader_template(object: &Value, name: &str) -> Value {
    let group = &object["spec"]["leaderWorkerTemplate"];
    let mut template = match &group["leaderTemplate"] {
        // leaders are as workers are
        Value::Null => group["workerTemplate"].clone(),
        own => own.clone(),
    };
    let Value::Object(fields) = &mut template else {
        return template;
    };
    let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
    if let Value::Object(metadata) = metadata {
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        // its controller adds them
        if let Value::Object(labels) = labels {
            labels.insert(format!("{LWS_LABELS}/name"), json!(name));
            labels.insert(format!("{LWS_LABELS}/worker-index"), json!("0"));
        }
    }
    template
}

/// Sets `targetRef`, and all that the target says of the engine. `has_signals` tells whether the
/// service follows other signals than its engine's.
pub(crate) fn set_target(
    draft: &mut Draft<'_>,
    objects: &Objects,
    target: &TargetRef,
    has_signals: bool,
) {
    let report = draft.report();
    draft.set(
        "targetRef",
        json!({"apiVersion": target.api_version, "kind": target.kind, "name": target.name}),
    );
    let namespace = draft.namespace().map(str::to_owned);
    let Some(object) = target.find(objects, namespace.as_deref()) else {
        draft.set("engine", "Custom");
        let (kind, name) = (&target.kind, &target.name);
        let why = format!(
            "{kind} {name} was not found, so its engine is unknown: give one of docs/engines.md, engineOptions for Custom, or None for \
             workers that take no requests{}",
            unread(objects)
        );
        report.missing("spec.engine", why);
        return;
    };
    let template = &target.pod_template(object);
    let containers = containers(template);
    let services = services(objects, template, namespace.as_deref());
    match guess(&containers) {
        Some(found) => {
            draft.set_with_note(
                "engine",
                json!(found.engine),
                &format!("guessed from {}", found.evidence),
            );
            if let Some(model) = found.model.as_ref().filter(|model| model.len() <= 253) {
                draft.set("model", model.as_str());
            }
            set_port(draft, &found, &services);
        }
        None if has_signals && is_worker(objects, &containers, &services) => {
            let why =
                "no Service selects its pods and they have no port: workers that take no requests";
            draft.set_with_note("engine", "None", why);
            return;
        }
        None => set_custom(draft, &containers, &services),
    }
    set_service(draft, objects, &services);
}

fn unread(objects: &Objects) -> String {
    match objects.unread.is_empty() {
        true => String::new(),
        false => format!(" ({})", objects.unread.join("; ")),
    }
}

/// Whether nothing sends requests to these containers, as far as that is known.
fn is_worker(objects: &Objects, containers: &[Container], services: &[&Value]) -> bool {
    let has_ports = containers
        .iter()
        .any(|container| !container.ports.is_empty());
    services.is_empty() && (objects.has_all_services || !has_ports)
}

/// The Services that select pods of a template.
fn services<'o>(objects: &'o Objects, template: &Value, namespace: Option<&str>) -> Vec<&'o Value> {
    let labels = &template["metadata"]["labels"];
    let selects = |service: &&Value| {
        let selector = service["spec"]["selector"].as_object();
        selector.is_some_and(|selector| {
            !selector.is_empty()
                && selector
                    .iter()
                    .all(|(name, value)| labels.get(name) == Some(value))
        })
    };
    let services = objects.of_kind("", "Service").filter(selects);
    services
        .filter(|service| is_in(service, namespace))
        .collect()
}

fn is_headless(service: &Value) -> bool {
    service["spec"]["clusterIP"] == "None"
}

/// The ports of a Service.
fn service_ports(service: &Value) -> impl Iterator<Item = &Value> {
    service["spec"]["ports"].as_array().into_iter().flatten()
}

/// The container's port that a Service's port leads to.
fn target_port(port: &Value, containers: &[Container]) -> Option<u16> {
    let number = |value: &Value| value.as_u64().and_then(|number| u16::try_from(number).ok());
    match &port["targetPort"] {
        Value::String(name) => {
            let mut ports = containers.iter().flat_map(|container| &container.ports);
            Some(ports.find(|(own, _)| own == name)?.1)
        }
        Value::Null => number(&port["port"]),
        target => number(target),
    }
}

/// Sets `engineOptions.port` where it is not the preset's: by the command line, by the only port
/// that Services lead to, or by the container's only port.
fn set_port(draft: &mut Draft<'_>, found: &EngineGuess<'_>, services: &[&Value]) {
    let container = std::slice::from_ref(found.container);
    let usual = preset(found.engine).map(|preset| preset.port);
    let (port, evidence) = match (found.port, sole_port(services, container)) {
        (Some(port), _) => (port, "by its command"),
        (None, Some(port)) => (port, "where its Service leads to"),
        (None, None) => match found.container.ports.as_slice() {
            [(_, port)] => (*port, "the only port of its container"),
            _ => return,
        },
    };
    if usual != Some(port) {
        draft.set_with_note("engineOptions.port", port, evidence);
    }
}

/// The only port that Services lead to, if there is one.
fn sole_port(services: &[&Value], containers: &[Container]) -> Option<u16> {
    let ports = services.iter().flat_map(|service| service_ports(service));
    let mut ports: Vec<u16> = ports
        .filter_map(|port| target_port(port, containers))
        .collect();
    ports.sort_unstable();
    ports.dedup();
    match ports.as_slice() {
        [port] => Some(*port),
        _ => None,
    }
}

fn set_custom(draft: &mut Draft<'_>, containers: &[Container], services: &[&Value]) {
    let report = draft.report();
    draft.set("engine", "Custom");
    let images: Vec<&str> = containers
        .iter()
        .map(|each| each.image.as_str())
        .take(4)
        .collect();
    report.missing(
        "spec.engine",
        format!(
            "no engine is known by image {:?} or command: give one of docs/engines.md if it is one of them",
            images.join(", ")
        ),
    );
    let sole_container = || match containers {
        [container] => match container.ports.as_slice() {
            [(_, port)] => Some(*port),
            _ => None,
        },
        _ => None,
    };
    match sole_port(services, containers).or_else(sole_container) {
        Some(port) => draft.set("engineOptions.port", port),
        None => report.missing("spec.engineOptions.port", "the port of its requests"),
    }
    report.missing(
        "spec.engineOptions.metrics",
        "how many requests are on a replica: the names of its gauges as queued and running, or requestTime and requests",
    );
}

fn set_service(draft: &mut Draft<'_>, objects: &Objects, services: &[&Value]) {
    let report = draft.report();
    let name = |service: &&Value| metadata(service, "name").unwrap_or("?").to_owned();
    let usable: Vec<&Value> = (services.iter().copied())
        .filter(|service| !is_headless(service))
        .collect();
    match usable.as_slice() {
        [service] => {
            let mut reference = json!({"name": name(service)});
            let ports: Vec<&Value> = service_ports(service).collect();
            if ports.len() > 1 {
                match request_port(draft, &ports) {
                    Some(port) => reference["port"] = port,
                    None => report.missing(
                        "spec.serviceRef.port",
                        "which of the Service's ports requests come by",
                    ),
                }
            }
            draft.set("serviceRef", reference);
        }
        [] => {
            let seen = match (services.is_empty(), objects.has_all_services) {
                (false, _) => "only headless Services select its pods, which cannot wake it",
                (true, true) => "no Service selects its pods",
                (true, false) => "no Service that selects its pods is among these documents",
            };
            let why = format!(
                "the Service that requests come by: {seen}{}",
                unread(objects)
            );
            report.missing("spec.serviceRef", why);
        }
        several => {
            let names: Vec<String> = several.iter().map(name).take(8).collect();
            let why = format!(
                "several Services select its pods, of which one wakes it: {}",
                names.join(", ")
            );
            report.missing("spec.serviceRef.name", why);
        }
    }
}

/// The port of a Service that leads to the engine's own, by its name or number.
fn request_port(draft: &Draft<'_>, ports: &[&Value]) -> Option<Value> {
    let engine: Engine = serde_json::from_value(draft.get("engine")?.clone()).ok()?;
    let own = draft.get("engineOptions.port").and_then(Value::as_u64);
    let own = own.or_else(|| Some(u64::from(preset(engine)?.port)))?;
    let leads = |port: &&&Value| match &port["targetPort"] {
        Value::Null => port["port"].as_u64() == Some(own),
        target => target.as_u64() == Some(own),
    };
    let mut found = ports.iter().filter(leads);
    let (port, None) = (found.next()?, found.next()) else {
        return None;
    };
    // its name, or its number as a text
    match (&port["name"], &port["port"]) {
        (Value::String(name), _) => Some(json!(name)),
        (_, Value::Number(number)) => Some(json!(number.to_string())),
        _ => None,
    }
}
