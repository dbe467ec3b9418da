//! HTTP requests and responses, and watches.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tower::BoxError;

use crate::Shared;
use crate::faults::{Faults, WriteFault};
use crate::request::{Target, flag, manager, parameter, wants_metadata};
use crate::selector::{FieldSelector, Selector};
use crate::store::{Event, Patch, StatusError};

/// A watch ends after this long, unless the client asks for another time.
const WATCH_LIMIT: Duration = Duration::from_secs(300);

type HttpResponse = Response<UnsyncBoxBody<Bytes, Infallible>>;

pub(crate) fn client(shared: Arc<Shared>, faults: Arc<Faults>) -> Client {
    let service =
        tower::service_fn(move |request| handle(Arc::clone(&shared), Arc::clone(&faults), request));
    Client::new(service, "default")
}

async fn handle(
    shared: Arc<Shared>,
    faults: Arc<Faults>,
    request: Request<Body>,
) -> Result<HttpResponse, BoxError> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let reset = || Err(io::Error::from(io::ErrorKind::ConnectionReset).into());
    if faults.has_crashed() {
        return reset();
    }
    let only_metadata = wants_metadata(&parts.headers);
    if let Some(resources) = discovery(&shared, parts.uri.path()) {
        return Ok(json_response(200, &resources));
    }
    if let Some(review) = shared.access().review(parts.uri.path(), &body) {
        return Ok(json_response(201, &review));
    }
    let Some(target) = Target::parse(parts.uri.path()) else {
        return Ok(error_response(&StatusError::unserved()));
    };
    if parts.method == Method::GET {
        return Ok(if target.name.is_some() {
            object_response(&shared.store().get(&target), only_metadata)
        } else if flag(&parts.uri, "watch") {
            watch(shared, target, &parts.uri, only_metadata)
        } else {
            list(&shared, &target, &parts.uri, only_metadata)
        });
    }
    let _in_flight = match faults
        .begin_write(&target.plural, target.name.as_deref())
        .await
    {
        Ok(in_flight) => in_flight,
        Err(fault) => return Ok(error_response(&refusal(fault, &target.plural))),
    };
    if !faults.before().await {
        return reset();
    }
    let webhook = faults.webhook(&target.plural);
    let written = write(&shared, &target, &parts, &body, webhook.as_ref());
    if !faults.after() {
        return reset();
    }
    Ok(object_response(&written, only_metadata))
}

/// What the server says of a write that a fault refuses.
fn refusal(fault: WriteFault, plural: &str) -> StatusError {
    match fault {
        WriteFault::Contended => StatusError::conflict(
            "Operation cannot be fulfilled on resourcequotas \"quota\": the object has been modified",
        ),
        WriteFault::Refused | WriteFault::Slow(_) => {
            StatusError::forbidden(format!("writes to {plural} are refused"))
        }
    }
}

/// The resources of the API version that a path such as `/apis/apps/v1` names.
fn discovery(shared: &Shared, path: &str) -> Option<Value> {
    let version = path
        .strip_prefix("/apis/")
        .or_else(|| path.strip_prefix("/api/"))?;
    let resources = shared.store().resources(version);
    (!resources.is_empty()).then(|| {
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources})
    })
}

fn write(
    shared: &Shared,
    target: &Target,
    parts: &http::request::Parts,
    body: &[u8],
    webhook: Option<&Value>,
) -> Result<Value, StatusError> {
    let webhook =
        webhook.filter(|_| target.subresource.is_none() && parts.method != Method::DELETE);
    let body_json = || -> Result<Value, StatusError> {
        let mut object = serde_json::from_slice::<Value>(body)
            .map_err(|error| StatusError::bad_request(error.to_string()))?;
        if let Some(fields) = webhook {
            json_patch::merge(&mut object, fields);
        }
        Ok(object)
    };
    let manager = manager(&parts.uri, &parts.headers);
    match parts.method {
        Method::POST => {
            let object = body_json()?;
            match target.subresource.as_deref() {
                Some("eviction") => shared.change(|store| store.evict(target, &object)),
                _ => shared.change(|store| store.create(target, object, &manager)),
            }
        }
        Method::PUT => {
            let object = body_json()?;
            if parameter(&parts.uri, "dryRun").as_deref() == Some("All") {
                return shared.store().clone().replace(target, object, &manager);
            }
            shared.change(|store| store.replace(target, object, &manager))
        }
        Method::PATCH => {
            let content_type = parts
                .headers
                .get(header::CONTENT_TYPE)
                .and_then(|content_type| content_type.to_str().ok());
            let patch = match content_type.unwrap_or_default() {
                "application/merge-patch+json" => Patch::Merge(body_json()?),
                "application/json-patch+json" => Patch::Json(
                    serde_json::from_slice(body)
                        .map_err(|error| StatusError::bad_request(error.to_string()))?,
                ),
                "application/apply-patch+yaml" if flag(&parts.uri, "force") => {
                    Patch::Apply(body_json()?)
                }
                other => {
                    return Err(StatusError::bad_request(format!(
                        "this server takes no {other:?} patch, and no apply without force"
                    )));
                }
            };
            shared.change(|store| store.patch(target, patch, &manager))
        }
        Method::DELETE => {
            let options = if body.is_empty() {
                Value::Null
            } else {
                body_json()?
            };
            shared.change(|store| store.delete(target, &options))
        }
        _ => Err(StatusError::bad_request(format!(
            "{} is not served",
            parts.method
        ))),
    }
}

fn list(shared: &Shared, target: &Target, uri: &http::Uri, only_metadata: bool) -> HttpResponse {
    let store = shared.store();
    let kind = match store.kind(target) {
        Ok(kind) => kind,
        Err(error) => return error_response(&error),
    };
    let selector = Selector::parse(&parameter(uri, "labelSelector").unwrap_or_default());
    let fields = FieldSelector::parse(&parameter(uri, "fieldSelector").unwrap_or_default());
    let in_namespace = |object: &&Value| {
        let namespace = target.namespace.as_deref();
        namespace.is_none_or(|namespace| object["metadata"]["namespace"] == namespace)
    };
    let items: Vec<Value> = store
        .list(&target.api_version, &target.plural)
        .filter(in_namespace)
        .filter(|object| selector.matches(object) && fields.matches(object))
        .map(|object| project(object, only_metadata))
        .collect();
    let (api_version, name) = if only_metadata {
        ("meta.k8s.io/v1", "PartialObjectMetadata")
    } else {
        (kind.api_version.as_str(), kind.kind.as_str())
    };
    let version = store.version().to_string();
    json_response(
        200,
        &json!({"apiVersion": api_version, "kind": format!("{name}List"), "metadata": {"resourceVersion": version}, "items": items}),
    )
}

fn watch(
    shared: Arc<Shared>,
    target: Target,
    uri: &http::Uri,
    only_metadata: bool,
) -> HttpResponse {
    if let Err(error) = shared.store().kind(&target) {
        return error_response(&error);
    }
    let number = |name| parameter(uri, name).and_then(|value| value.parse::<u64>().ok());
    let limit = number("timeoutSeconds").map_or(WATCH_LIMIT, Duration::from_secs);
    let watch = Watch {
        versions: shared.version.subscribe(),
        last_version: number("resourceVersion").unwrap_or_else(|| shared.store().version()),
        selector: Selector::parse(&parameter(uri, "labelSelector").unwrap_or_default()),
        deadline: Instant::now() + limit,
        shared,
        target,
        only_metadata,
        ready: VecDeque::new(),
        ended: false,
    };
    let lines = stream::unfold(watch, |mut watch| async move {
        watch.next().await.map(|line| (line, watch))
    });
    let frames =
        futures::StreamExt::map(lines, |line| Ok(http_body::Frame::data(Bytes::from(line))));
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    response
}

struct Watch {
    shared: Arc<Shared>,
    versions: watch::Receiver<u64>,
    target: Target,
    selector: Selector,
    only_metadata: bool,
    last_version: u64,
    ready: VecDeque<String>,
    deadline: Instant,
    ended: bool,
}

impl Watch {
    /// The next event as a line; `None` when the watch ends.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.ended {
                return None;
            }
            self.versions.borrow_and_update();
            if !self.read_events() {
                self.ended = true;
                let status = status(&StatusError::expired(self.last_version));
                return Some(event_line("ERROR", &status));
            }
            if self.ready.is_empty() {
                let changed = tokio::time::timeout_at(self.deadline, self.versions.changed()).await;
                if !matches!(changed, Ok(Ok(()))) {
                    return None;
                }
            }
        }
    }

    /// Reads the events since the last version; false if they are compacted.
    fn read_events(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let store = shared.store();
        let Some(events) = store.events_after(self.last_version) else {
            return false;
        };
        for event in events.filter(|event| event.matches(&self.target)) {
            if let Some((kind, object)) = self.watch_event(event) {
                self.ready
                    .push_back(event_line(kind, &project(object, self.only_metadata)));
            }
        }
        self.last_version = store.version();
        true
    }

    /// The type of an event for a watch with this selector, and the object in it.
    fn watch_event<'a>(&self, event: &'a Event) -> Option<(&'static str, &'a Value)> {
        let was = event
            .old
            .as_ref()
            .is_some_and(|old| self.selector.matches(old));
        let is = !event.deleted && self.selector.matches(&event.new);
        match (was, is) {
            (false, true) => Some(("ADDED", &event.new)),
            (true, true) => Some(("MODIFIED", &event.new)),
            (true, false) => Some(("DELETED", &event.new)),
            (false, false) => None,
        }
    }
}

/// An event of a watch. The type precedes the object, as the API server writes it.
fn event_line(kind: &str, object: &Value) -> String {
    format!("{{\"type\":{},\"object\":{object}}}\n", json!(kind))
}

fn project(object: &Value, only_metadata: bool) -> Value {
    if only_metadata {
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]})
    } else {
        object.clone()
    }
}

fn object_response(result: &Result<Value, StatusError>, only_metadata: bool) -> HttpResponse {
    match result {
        Ok(object) => json_response(200, &project(object, only_metadata)),
        Err(error) => error_response(error),
    }
}

fn error_response(error: &StatusError) -> HttpResponse {
    json_response(error.code, &status(error))
}

fn status(error: &StatusError) -> Value {
    let mut status = json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "message": error.message, "reason": error.reason, "code": error.code,
    });
    if let Some(name) = &error.name {
        status["details"] = json!({"name": name});
    }
    status
}

fn json_response(code: u16, value: &Value) -> HttpResponse {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed_unsync());
    *response.status_mut() =
        http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    response
}
