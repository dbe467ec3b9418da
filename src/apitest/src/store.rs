//! The objects, their versions, and the rules for writes.

use std::collections::{BTreeMap, VecDeque};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::Kind;
use crate::apply::apply;
use crate::request::Target;
use crate::scale;

/// The number of events that are kept for watches.
const MAX_EVENTS: usize = 10_000;
/// The version before anything was created; smaller ones are too old for a watch.
const FIRST_VERSION: u64 = 1000;

/// The status of a refused request, as the API server returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StatusError {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// The object that it is about, if it names one.
    pub(crate) name: Option<String>,
}

impl StatusError {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            name: None,
        }
    }

    /// The server has no such path.
    pub(crate) fn unserved() -> Self {
        let message = "the server could not find the requested resource";
        Self::new(404, "NotFound", message)
    }

    /// The object has no such subresource.
    fn no_subresource(plural: &str) -> Self {
        Self::not_found("subresource of", plural)
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    fn not_found(what: &str, name: &str) -> Self {
        Self {
            name: Some(name.to_owned()),
            ..Self::new(404, "NotFound", format!("{what} {name:?} not found"))
        }
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(409, "Conflict", message)
    }

    fn invalid(message: impl Into<String>) -> Self {
        Self::new(422, "Invalid", message)
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(403, "Forbidden", message)
    }

    pub(crate) fn expired(version: u64) -> Self {
        Self::new(
            410,
            "Expired",
            format!("too old resource version: {version}"),
        )
    }
}

type ApiResult = Result<Value, StatusError>;

/// `apiVersion` and plural, namespace, name.
type Key = (String, String, String, String);

#[derive(Debug, Clone, Default)]
struct Object {
    value: Value,
    /// The last apply of each manager.
    applied: BTreeMap<String, Value>,
}

/// A change of an object.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) version: u64,
    api_version: String,
    plural: String,
    namespace: String,
    /// The object before; `None` for a new one.
    pub(crate) old: Option<Value>,
    /// The object after, or before its deletion.
    pub(crate) new: Value,
    pub(crate) deleted: bool,
}

impl Event {
    pub(crate) fn matches(&self, target: &Target) -> bool {
        let namespace = target.namespace.as_deref();
        (&self.api_version, &self.plural) == (&target.api_version, &target.plural)
            && namespace.is_none_or(|namespace| namespace == self.namespace)
    }
}

/// A patch, by its type.
pub(crate) enum Patch {
    Merge(Value),
    Json(json_patch::Patch),
    Apply(Value),
}

/// The server's state.
#[derive(Clone)]
pub(crate) struct Store {
    kinds: Vec<Kind>,
    objects: BTreeMap<Key, Object>,
    version: u64,
    history: VecDeque<Event>,
    /// Events up to this version are compacted.
    compacted: u64,
    created: u64,
    /// The time, if it is not the machine's.
    clock: Option<Timestamp>,
}

impl Store {
    pub(crate) fn new(kinds: Vec<Kind>, namespaces: &[&str]) -> Self {
        let mut store = Self {
            kinds,
            objects: BTreeMap::new(),
            version: FIRST_VERSION,
            history: VecDeque::new(),
            compacted: FIRST_VERSION,
            created: 0,
            clock: None,
        };
        for name in namespaces {
            let object =
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            store.insert(key("v1", "namespaces", "", name), object, "apitest");
        }
        store
    }

    pub(crate) fn set_clock(&mut self, now: Timestamp) {
        self.clock = Some(now);
    }

    fn now(&self) -> Timestamp {
        self.clock.unwrap_or_else(Timestamp::now)
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn kind(&self, target: &Target) -> Result<Kind, StatusError> {
        let known = |kind: &&Kind| {
            (&kind.api_version, &kind.plural) == (&target.api_version, &target.plural)
        };
        let kind = self.kinds.iter().find(known).cloned();
        kind.ok_or_else(StatusError::unserved)
    }

    /// Serves one more kind.
    pub(crate) fn serve(&mut self, kind: Kind) {
        self.kinds.push(kind);
    }

    /// Serves a kind no longer. Its objects stay.
    pub(crate) fn stop_serving(&mut self, kind: &Kind) {
        self.kinds.retain(|served| {
            served.api_version != kind.api_version || served.plural != kind.plural
        });
    }

    /// The resources of an API version, as discovery lists them.
    pub(crate) fn resources(&self, api_version: &str) -> Vec<Value> {
        let kinds = self.kinds.iter();
        let resource = |name: &str, kind: &str| json!({"name": name, "singularName": "", "namespaced": true, "kind": kind, "verbs": []});
        kinds
            .filter(|kind| kind.api_version == api_version)
            .flat_map(|kind| {
                let scale = format!("{}/scale", kind.plural);
                let scale = scale::has(&kind.plural).then(|| resource(&scale, "Scale"));
                [resource(&kind.plural, &kind.kind)]
                    .into_iter()
                    .chain(scale)
            })
            .collect()
    }

    pub(crate) fn compact(&mut self) {
        self.history.clear();
        self.compacted = self.version;
    }

    /// The events after `version`; `None` if they are compacted.
    pub(crate) fn events_after(&self, version: u64) -> Option<impl Iterator<Item = &Event>> {
        (version >= self.compacted).then(|| {
            self.history
                .iter()
                .filter(move |event| event.version > version)
        })
    }

    pub(crate) fn list(&self, api_version: &str, plural: &str) -> impl Iterator<Item = &Value> {
        self.objects
            .iter()
            .filter(move |(key, _)| key.0 == api_version && key.1 == plural)
            .map(|(_, object)| &object.value)
    }

    pub(crate) fn get(&self, target: &Target) -> ApiResult {
        let key = self.key(target)?;
        let found = self.objects.get(&key).map(|object| object.value.clone());
        let found = found.ok_or_else(|| StatusError::not_found(&target.plural, &key.3))?;
        match scale::is_asked(target) {
            true => {
                scale::of(target, &found).ok_or_else(|| StatusError::no_subresource(&target.plural))
            }
            false => Ok(found),
        }
    }

    pub(crate) fn create(
        &mut self,
        target: &Target,
        mut object: Value,
        manager: &str,
    ) -> ApiResult {
        let kind = self.kind(target)?;
        let namespace = target.namespace.clone().unwrap_or_default();
        if !namespace.is_empty()
            && !self
                .objects
                .contains_key(&key("v1", "namespaces", "", &namespace))
        {
            return Err(StatusError::not_found("namespaces", &namespace));
        }
        let metadata = metadata(&mut object)?;
        if let (None, Some(prefix)) = (
            non_empty(metadata, "name"),
            non_empty(metadata, "generateName"),
        ) {
            metadata.insert("name".into(), json!(format!("{prefix}{:05}", self.created)));
        }
        let name = non_empty(metadata, "name").ok_or_else(|| {
            StatusError::invalid("metadata.name: Required value: name or generateName is required")
        })?;
        if metadata.contains_key("resourceVersion") {
            return Err(StatusError::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        if !namespace.is_empty() {
            metadata.insert("namespace".into(), json!(namespace));
        }
        let key = key(&target.api_version, &target.plural, &namespace, &name);
        if self.objects.contains_key(&key) {
            return Err(StatusError::new(
                409,
                "AlreadyExists",
                format!("{} {name:?} already exists", target.plural),
            ));
        }
        if kind.has_status
            && let Some(fields) = object.as_object_mut()
        {
            fields.remove("status");
        }
        if kind.kind == "Pod" {
            object["status"] = json!({"phase": "Pending"});
        }
        Ok(self.insert(key, object, manager))
    }

    fn insert(&mut self, key: Key, mut object: Value, manager: &str) -> Value {
        drop_empty_lists(&key.0, &mut object);
        self.created += 1;
        self.version += 1;
        let (now, has_spec) = (self.now(), object.get("spec").is_some());
        let metadata = &mut object["metadata"];
        metadata["uid"] = json!(format!("00000000-0000-4000-8000-{:012}", self.created));
        metadata["creationTimestamp"] = json!(to_seconds(now));
        metadata["resourceVersion"] = json!(self.version.to_string());
        if has_spec {
            metadata["generation"] = json!(1);
        }
        record_manager(metadata, manager, "Update", None, now);
        self.record(&key, None, object.clone(), false);
        let applied = BTreeMap::new();
        self.objects.insert(
            key,
            Object {
                value: object.clone(),
                applied,
            },
        );
        object
    }

    /// Replaces a whole object, or its status.
    pub(crate) fn replace(&mut self, target: &Target, object: Value, manager: &str) -> ApiResult {
        if scale::is_asked(target) {
            return self.write_scale(target, &object, manager);
        }
        let live = self.get(target)?;
        if object["metadata"]["name"] != live["metadata"]["name"] {
            return Err(StatusError::bad_request(
                "the name of the object does not match the name on the URL",
            ));
        }
        self.update(target, &live, object, manager, "Update")
    }

    pub(crate) fn patch(&mut self, target: &Target, patch: Patch, manager: &str) -> ApiResult {
        let patched = match patch {
            Patch::Apply(sent) => return self.apply(target, sent, manager),
            Patch::Merge(patch) => {
                let mut object = self.get(target)?;
                json_patch::merge(&mut object, &patch);
                object
            }
            Patch::Json(patch) => {
                let mut object = self.get(target)?;
                json_patch::patch(&mut object, &patch)
                    .map_err(|error| StatusError::invalid(error.to_string()))?;
                object
            }
        };
        if scale::is_asked(target) {
            return self.write_scale(target, &patched, manager);
        }
        let live = self.get(target)?;
        self.update(target, &live, patched, manager, "Update")
    }

    /// Writes the replicas of an object, as its scale has them.
    fn write_scale(&mut self, target: &Target, scale: &Value, manager: &str) -> ApiResult {
        let whole = Target {
            subresource: None,
            ..target.clone()
        };
        let live = self.get(&whole)?;
        let mut object = live.clone();
        object["metadata"]["resourceVersion"] = scale["metadata"]["resourceVersion"].clone();
        object["spec"]["replicas"] = scale["spec"]["replicas"].clone();
        self.update(&whole, &live, object, manager, "Update")?;
        self.get(target)
    }

    fn apply(&mut self, target: &Target, sent: Value, manager: &str) -> ApiResult {
        let key = self.key(target)?;
        if target.subresource.is_some() {
            return Err(StatusError::bad_request(
                "this server applies whole objects only",
            ));
        }
        let known = self.objects.get(&key).cloned();
        let result = match &known {
            None if sent["metadata"].get("uid").is_some() => {
                return Err(StatusError::conflict(
                    "uid mismatch: the provided object specified a uid, and no existing object was found",
                ));
            }
            None => self.create(target, sent.clone(), manager)?,
            Some(known) => {
                let others = known.applied.iter().filter(|(name, _)| *name != manager);
                let others: Vec<&Value> = others.map(|(_, applied)| applied).collect();
                let object = apply(&known.value, known.applied.get(manager), &sent, &others);
                self.update(target, &known.value, object, manager, "Apply")?
            }
        };
        if let Some(object) = self.objects.get_mut(&key) {
            object.applied.insert(manager.to_owned(), sent);
        }
        Ok(result)
    }

    fn update(
        &mut self,
        target: &Target,
        live: &Value,
        mut object: Value,
        manager: &str,
        operation: &str,
    ) -> ApiResult {
        let kind = self.kind(target)?;
        drop_empty_lists(&target.api_version, &mut object);
        let (old, new) = (&live["metadata"], &object["metadata"]);
        let differs = |field: &str| {
            let given = new[field].as_str().filter(|given| !given.is_empty());
            given.is_some_and(|given| Some(given) != old[field].as_str())
        };
        // a stale version is reported before a wrong uid
        if differs("resourceVersion") {
            return Err(StatusError::conflict(format!(
                "Operation cannot be fulfilled on {} {}: the object has been modified",
                target.plural, old["name"]
            )));
        }
        if differs("uid") {
            return Err(StatusError::invalid(
                "metadata.uid: Invalid value: field is immutable",
            ));
        }
        let subresource = target.subresource.as_deref();
        match subresource {
            None if kind.has_status => copy_field(&mut object, live, "status"),
            None => {}
            Some("status") if kind.has_status => {
                let mut next = live.clone();
                copy_field(&mut next, &object, "status");
                object = next;
            }
            Some(_) => return Err(StatusError::not_found("subresource of", &target.plural)),
        }
        let next = &mut object["metadata"];
        for field in [
            "name",
            "namespace",
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "resourceVersion",
            "managedFields",
        ] {
            match old.get(field) {
                Some(value) => next[field] = value.clone(),
                None => drop(next.as_object_mut().and_then(|next| next.remove(field))),
            }
        }
        if old.get("deletionTimestamp").is_some() {
            let before = list(old, "finalizers");
            if list(next, "finalizers")
                .iter()
                .any(|each| !before.contains(each))
            {
                return Err(StatusError::invalid(
                    "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted",
                ));
            }
        }
        if object == *live {
            return Ok(object);
        }
        if without_metadata_and_status(&object) != without_metadata_and_status(live) {
            let generation = old["generation"].as_u64();
            if let Some(generation) = generation {
                object["metadata"]["generation"] = json!(generation + 1);
            }
        }
        record_manager(
            &mut object["metadata"],
            manager,
            operation,
            subresource,
            self.now(),
        );
        let key = self.key(target)?;
        Ok(self.put(key, object))
    }

    /// Stores a changed object, or deletes it if nothing holds it any more.
    fn put(&mut self, key: Key, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let metadata = &object["metadata"];
        let held = !list(metadata, "finalizers").is_empty()
            || metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) > 0;
        let deleted = metadata.get("deletionTimestamp").is_some() && !held;
        let old = if deleted {
            self.objects.remove(&key).map(|known| known.value)
        } else {
            let known = self.objects.entry(key.clone()).or_default();
            Some(std::mem::replace(&mut known.value, object.clone()))
        };
        self.record(&key, old, object.clone(), deleted);
        object
    }

    pub(crate) fn delete(&mut self, target: &Target, options: &Value) -> ApiResult {
        let mut object = self.get(target)?;
        let preconditions = &options["preconditions"];
        for field in ["uid", "resourceVersion"] {
            let wanted = preconditions[field].as_str();
            if wanted.is_some_and(|wanted| object["metadata"][field] != wanted) {
                return Err(StatusError::conflict(format!(
                    "Precondition failed: {field}"
                )));
            }
        }
        let grace = match target.plural.as_str() {
            "pods" => grace(&object, options),
            _ => 0,
        };
        let metadata = &mut object["metadata"];
        let before = metadata["deletionGracePeriodSeconds"].as_i64();
        if metadata.get("deletionTimestamp").is_some()
            && before.is_none_or(|before| before <= grace)
        {
            // the deletion is under way already
            return Ok(object);
        }
        let at = self.now() + SignedDuration::from_secs(grace);
        metadata["deletionTimestamp"] = json!(to_seconds(at));
        metadata["deletionGracePeriodSeconds"] = json!(grace);
        let key = self.key(target)?;
        Ok(self.put(key, object))
    }

    /// Deletes a pod unless a PodDisruptionBudget forbids it. What the budget allows is its status,
    /// which a test writes as the disruption controller does.
    pub(crate) fn evict(&mut self, target: &Target, eviction: &Value) -> ApiResult {
        let pod = self.get(target)?;
        let phase = pod["status"]["phase"].as_str();
        let is_protected = !matches!(phase, Some("Pending" | "Succeeded" | "Failed"));
        let forbids = |budget: &&Value| {
            let selector = budget["spec"]["selector"]["matchLabels"].as_object();
            let mut labels = selector.into_iter().flatten();
            budget["metadata"]["namespace"] == pod["metadata"]["namespace"]
                && labels.all(|(label, value)| pod["metadata"]["labels"][label] == *value)
                && budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(0) == 0
        };
        let is_forbidden = {
            let mut budgets = self.list("policy/v1", "poddisruptionbudgets");
            is_protected && budgets.any(|budget| forbids(&budget))
        };
        if is_forbidden {
            return Err(StatusError::new(
                429,
                "TooManyRequests",
                "Cannot evict pod as it would violate the pod's disruption budget.",
            ));
        }
        self.delete(target, &eviction["deleteOptions"])?;
        Ok(
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
        )
    }

    fn key(&self, target: &Target) -> Result<Key, StatusError> {
        self.kind(target)?;
        let name = target.name.as_deref();
        let name = name.ok_or_else(|| StatusError::bad_request("the request names no object"))?;
        let namespace = target.namespace.as_deref().unwrap_or_default();
        Ok(key(&target.api_version, &target.plural, namespace, name))
    }

    fn record(&mut self, key: &Key, old: Option<Value>, new: Value, deleted: bool) {
        if self.history.len() == MAX_EVENTS
            && let Some(first) = self.history.pop_front()
        {
            self.compacted = first.version;
        }
        self.history.push_back(Event {
            version: self.version,
            api_version: key.0.clone(),
            plural: key.1.clone(),
            namespace: key.2.clone(),
            old,
            new,
            deleted,
        });
    }
}

fn key(api_version: &str, plural: &str, namespace: &str, name: &str) -> Key {
    [api_version, plural, namespace, name]
        .map(str::to_owned)
        .into()
}

/// The grace period of a pod in seconds. A pod without a node, or one that has ended, has none.
fn grace(pod: &Value, options: &Value) -> i64 {
    let ended = matches!(
        pod["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed")
    );
    if ended || pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty) {
        return 0;
    }
    let requested = options["gracePeriodSeconds"].as_i64();
    requested
        .or(pod["spec"]["terminationGracePeriodSeconds"].as_i64())
        .unwrap_or(30)
}

fn metadata(object: &mut Value) -> Result<&mut Map<String, Value>, StatusError> {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    metadata.ok_or_else(|| StatusError::bad_request("the object has no metadata"))
}

fn non_empty(fields: &Map<String, Value>, name: &str) -> Option<String> {
    fields
        .get(name)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}

fn list(metadata: &Value, field: &str) -> Vec<Value> {
    metadata[field].as_array().cloned().unwrap_or_default()
}

/// Copies a field of `from`, or its absence.
fn copy_field(object: &mut Value, from: &Value, field: &str) {
    match (object.as_object_mut(), from.get(field)) {
        (Some(fields), Some(value)) => drop(fields.insert(field.to_owned(), value.clone())),
        (Some(fields), None) => drop(fields.remove(field)),
        (None, _) => {}
    }
}

/// The object without metadata and status: a change of the rest makes a new generation.
/// Drops empty lists from an object of a built-in kind, as its encoding in etcd does. Custom
/// resources are stored as they were sent.
fn drop_empty_lists(api_version: &str, object: &mut Value) {
    if api_version.starts_with("bursar.dev/") {
        return;
    }
    drop_empty_lists_in(object);
}

fn drop_empty_lists_in(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.as_array().is_some_and(Vec::is_empty));
            fields.values_mut().for_each(drop_empty_lists_in);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_empty_lists_in),
        _ => {}
    }
}

fn without_metadata_and_status(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("metadata");
        fields.remove("status");
    }
    object
}

/// Notes the manager and the time of a write. The fields themselves are not noted.
fn record_manager(
    metadata: &mut Value,
    manager: &str,
    operation: &str,
    subresource: Option<&str>,
    now: Timestamp,
) {
    let mut entries = list(metadata, "managedFields");
    entries.retain(|entry| {
        (
            entry["manager"].as_str(),
            entry["operation"].as_str(),
            entry["subresource"].as_str(),
        ) != (Some(manager), Some(operation), subresource)
    });
    let mut entry = json!({"manager": manager, "operation": operation, "time": to_seconds(now), "fieldsType": "FieldsV1", "fieldsV1": {}});
    if let Some(subresource) = subresource {
        entry["subresource"] = json!(subresource);
    }
    entries.push(entry);
    metadata["managedFields"] = json!(entries);
}

/// The API's times have whole seconds.
fn to_seconds(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second())
        .unwrap_or(at)
        .to_string()
}
