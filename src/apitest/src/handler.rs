//! Requests, answers and watches.

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
use crate::faults::Faults;
use crate::request::{Target, flag, manager, parameter, wants_metadata};
use crate::select::Selector;
use crate::store::{Event, Patch, Refusal};

/// A watch that says nothing else ends after this long.
const WATCH_LIMIT: Duration = Duration::from_secs(300);

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

pub(crate) fn client(shared: Arc<Shared>, faults: Arc<Faults>) -> Client {
    let service =
        tower::service_fn(move |request| answer(Arc::clone(&shared), Arc::clone(&faults), request));
    Client::new(service, "default")
}

async fn answer(
    shared: Arc<Shared>,
    faults: Arc<Faults>,
    request: Request<Body>,
) -> Result<Answer, BoxError> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let reset = || Err(io::Error::from(io::ErrorKind::ConnectionReset).into());
    if faults.is_dead() {
        return reset();
    }
    let only_metadata = wants_metadata(&parts.headers);
    let Some(target) = Target::parse(parts.uri.path()) else {
        return Ok(refused(&Refusal::bad_request("no such path")));
    };
    if parts.method == Method::GET {
        return Ok(if target.name.is_some() {
            reply(&shared.store().get(&target), only_metadata)
        } else if flag(&parts.uri, "watch") {
            watch(shared, target, &parts.uri, only_metadata)
        } else {
            list(&shared, &target, &parts.uri, only_metadata)
        });
    }
    if !faults.before().await {
        return reset();
    }
    let written = write(&shared, &target, &parts, &body);
    if !faults.after() {
        return reset();
    }
    Ok(reply(&written, only_metadata))
}

fn write(
    shared: &Shared,
    target: &Target,
    parts: &http::request::Parts,
    body: &[u8],
) -> Result<Value, Refusal> {
    let sent = || {
        serde_json::from_slice::<Value>(body)
            .map_err(|error| Refusal::bad_request(error.to_string()))
    };
    let manager = manager(&parts.uri, &parts.headers);
    match parts.method {
        Method::POST => {
            let object = sent()?;
            shared.change(|store| store.create(target, object, &manager))
        }
        Method::PUT => {
            let object = sent()?;
            shared.change(|store| store.replace(target, object, &manager))
        }
        Method::PATCH => {
            let form = parts
                .headers
                .get(header::CONTENT_TYPE)
                .and_then(|form| form.to_str().ok());
            let patch = match form.unwrap_or_default() {
                "application/merge-patch+json" => Patch::Merge(sent()?),
                "application/json-patch+json" => Patch::Json(
                    serde_json::from_slice(body)
                        .map_err(|error| Refusal::bad_request(error.to_string()))?,
                ),
                "application/apply-patch+yaml" if flag(&parts.uri, "force") => {
                    Patch::Apply(sent()?)
                }
                other => {
                    return Err(Refusal::bad_request(format!(
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
                sent()?
            };
            shared.change(|store| store.delete(target, &options))
        }
        _ => Err(Refusal::bad_request(format!(
            "{} is not served",
            parts.method
        ))),
    }
}

fn list(shared: &Shared, target: &Target, uri: &http::Uri, only_metadata: bool) -> Answer {
    let store = shared.store();
    let kind = match store.kind(target) {
        Ok(kind) => kind,
        Err(refusal) => return refused(&refusal),
    };
    let selector = Selector::parse(&parameter(uri, "labelSelector").unwrap_or_default());
    let here = |object: &&Value| {
        let namespace = target.namespace.as_deref();
        namespace.is_none_or(|namespace| object["metadata"]["namespace"] == namespace)
    };
    let items: Vec<Value> = store
        .list(&target.api_version, &target.plural)
        .filter(here)
        .filter(|object| selector.matches(object))
        .map(|object| shown(object, only_metadata))
        .collect();
    let (api_version, name) = if only_metadata {
        ("meta.k8s.io/v1", "PartialObjectMetadata")
    } else {
        (kind.api_version.as_str(), kind.kind.as_str())
    };
    let version = store.version().to_string();
    json_body(
        200,
        &json!({"apiVersion": api_version, "kind": format!("{name}List"), "metadata": {"resourceVersion": version}, "items": items}),
    )
}

fn watch(shared: Arc<Shared>, target: Target, uri: &http::Uri, only_metadata: bool) -> Answer {
    if let Err(refusal) = shared.store().kind(&target) {
        return refused(&refusal);
    }
    let number = |name| parameter(uri, name).and_then(|value| value.parse::<u64>().ok());
    let limit = number("timeoutSeconds").map_or(WATCH_LIMIT, Duration::from_secs);
    let watch = Watch {
        versions: shared.version.subscribe(),
        seen: number("resourceVersion").unwrap_or_else(|| shared.store().version()),
        selector: Selector::parse(&parameter(uri, "labelSelector").unwrap_or_default()),
        ends: Instant::now() + limit,
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
    seen: u64,
    ready: VecDeque<String>,
    ends: Instant,
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
            if !self.read() {
                self.ended = true;
                let status = status(&Refusal::expired(self.seen));
                return Some(line("ERROR", &status));
            }
            if self.ready.is_empty() {
                let changed = tokio::time::timeout_at(self.ends, self.versions.changed()).await;
                if !matches!(changed, Ok(Ok(()))) {
                    return None;
                }
            }
        }
    }

    /// Reads what happened since; false if that is forgotten.
    fn read(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let store = shared.store();
        let Some(events) = store.since(self.seen) else {
            return false;
        };
        for event in events.filter(|event| event.concerns(&self.target)) {
            if let Some((kind, object)) = self.sees(event) {
                self.ready
                    .push_back(line(kind, &shown(object, self.only_metadata)));
            }
        }
        self.seen = store.version();
        true
    }

    /// What an event is to a watch with this selector.
    fn sees<'a>(&self, event: &'a Event) -> Option<(&'static str, &'a Value)> {
        let was = event
            .old
            .as_ref()
            .is_some_and(|old| self.selector.matches(old));
        let is = !event.gone && self.selector.matches(&event.new);
        match (was, is) {
            (false, true) => Some(("ADDED", &event.new)),
            (true, true) => Some(("MODIFIED", &event.new)),
            (true, false) => Some(("DELETED", &event.new)),
            (false, false) => None,
        }
    }
}

fn line(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

fn shown(object: &Value, only_metadata: bool) -> Value {
    if only_metadata {
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]})
    } else {
        object.clone()
    }
}

fn reply(result: &Result<Value, Refusal>, only_metadata: bool) -> Answer {
    match result {
        Ok(object) => json_body(200, &shown(object, only_metadata)),
        Err(refusal) => refused(refusal),
    }
}

fn refused(refusal: &Refusal) -> Answer {
    json_body(refusal.code, &status(refusal))
}

fn status(refusal: &Refusal) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "message": refusal.message, "reason": refusal.reason, "code": refusal.code,
    })
}

fn json_body(code: u16, value: &Value) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed_unsync());
    *response.status_mut() =
        http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    response
}
