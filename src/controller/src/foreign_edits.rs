//! Edits that others make to what workloads own, which are put back.
//!
//! Of Services, Jobs and EndpointSlices the caches show the fields that Bursar sets, and a patch puts
//! these back; what the cluster's answer shows of them all the same, a webhook wants so at each write, and
//! what bounds no cost is let be then. A Deployment's template is in no cache: a hash in an annotation says what a Deployment was asked to be, not that it still is: one GPU may
//! be admitted, and eight run. The Deployment's generation grows with every edit of its
//! specification. One of a generation that is not known to be right is compared by the API server
//! itself, with its defaults and webhooks: by a dry run of the write that puts it back. Writes of this
//! process itself need no comparison, since they name the version that they change.

use std::collections::HashMap;
use std::sync::Mutex;

use bursar_api::names::FIELD_MANAGER;
use bursar_core::model::Key;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api_calls::{ApiError, with_timeout};
use crate::lock::lock;

/// `kubectl rollout restart` sets it in the template, and may.
const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";
/// Somebody who edits an object again within this time of being put back has begun a fight.
const FIGHT_WINDOW: SignedDuration = SignedDuration::from_hours(1);
/// As often is an object put back within it.
const MAX_PUT_BACK: usize = 3;
/// Managers of fields that are part of the cluster.
const CLUSTER: &str = "kube-controller-manager";

/// What is known of the objects that workloads own.
#[derive(Debug, Default)]
pub(crate) struct ForeignEdits {
    /// The Deployments of services.
    deployments: Mutex<HashMap<Key, Known>>,
    /// When other objects were put back lately, by kind and name.
    put_back: Mutex<HashMap<(String, Key), Vec<Timestamp>>>,
    /// What the cluster made of them then. By kind and name too: a gang that starts again has new Jobs, and
    /// the same webhook.
    answers: Mutex<HashMap<(String, Key), Answer>>,
}

/// The cluster's answer to a patch.
#[derive(Debug)]
struct Answer {
    /// The fields that are not what was asked.
    fields: Value,
    /// When it was last met with.
    at: Timestamp,
}

#[derive(Debug, Default)]
struct Known {
    /// The Deployment's UID.
    uid: Option<String>,
    /// The last generation that is known to be as asked.
    generation: Option<i64>,
    /// When it was put back lately.
    put_back: Vec<Timestamp>,
}

/// Whether somebody who was put back then, and edits again now, fights.
fn is_recent(at: Timestamp, now: Timestamp) -> bool {
    now.duration_since(at) < FIGHT_WINDOW
}

impl ForeignEdits {
    /// Notes that the Deployment with this metadata is as asked: it was compared or made so.
    fn note_as_asked(&self, metadata: &ObjectMeta) {
        let mut known = lock(&self.deployments);
        let known = known.entry(key_of(metadata)).or_default();
        known.uid.clone_from(&metadata.uid);
        known.generation = metadata.generation;
    }

    /// Notes that this process changed `before` to what has the metadata `after`, and nobody else did in
    /// between. What was not known to be as asked is not known now either.
    pub(crate) fn note_written(&self, before: &Deployment, after: ObjectMeta) {
        if self.is_as_asked(&before.metadata) {
            let (uid, generation) = (after.uid, after.generation);
            self.note_as_asked(&ObjectMeta {
                uid,
                generation,
                ..before.metadata.clone()
            });
        }
    }

    /// Whether the generation is known to be as asked, or is older than one that is: the cache is behind.
    pub(crate) fn is_as_asked(&self, metadata: &ObjectMeta) -> bool {
        let known = lock(&self.deployments);
        known.get(&key_of(metadata)).is_some_and(|known| {
            known.uid == metadata.uid && known.generation >= metadata.generation
        })
    }

    /// Forgets the Deployment of a service that is gone.
    pub(crate) fn forget(&self, key: &Key) {
        lock(&self.deployments).remove(key);
    }

    /// Whether it may be put back once more.
    fn may_put_back(&self, metadata: &ObjectMeta, now: Timestamp) -> bool {
        let mut known = lock(&self.deployments);
        let known = known.entry(key_of(metadata)).or_default();
        known.put_back.retain(|at| is_recent(*at, now));
        if known.put_back.len() >= MAX_PUT_BACK {
            return false;
        }
        known.put_back.push(now);
        true
    }

    /// The same for an object of another kind.
    fn may_put_back_fields(&self, kind: &str, metadata: &ObjectMeta, now: Timestamp) -> bool {
        let mut all = lock(&self.put_back);
        all.retain(|_, times| {
            times.retain(|at| is_recent(*at, now));
            !times.is_empty()
        });
        let times = all.entry((kind.to_owned(), key_of(metadata))).or_default();
        let may = times.len() < MAX_PUT_BACK;
        if may {
            times.push(now);
        }
        may
    }

    /// Whether the object shows in these fields what the cluster once answered.
    fn is_answer<K>(&self, object: &K, patch: &Value, now: Timestamp) -> bool
    where
        K: Resource<DynamicType = ()> + Serialize,
    {
        let mut answers = lock(&self.answers);
        let answer = answers.get_mut(&subject(object));
        let answer = answer.filter(|answer| answer.fields == shown(object, patch));
        answer.is_some_and(|answer| {
            answer.at = now;
            true
        })
    }

    fn note_answer<K>(&self, object: &K, patch: &Value, now: Timestamp)
    where
        K: Resource<DynamicType = ()> + Serialize,
    {
        let answer = Answer {
            fields: shown(object, patch),
            at: now,
        };
        let mut answers = lock(&self.answers);
        answers.retain(|_, answer| is_recent(answer.at, now));
        answers.insert(subject(object), answer);
    }

    /// As [`ForeignEdits::put_back_fields`], but for what the cluster wants so: what it has answered to a
    /// patch is no edit, unless it is essential.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn put_back_unless_answered<K>(
        &self,
        api: &Api<K>,
        found: &K,
        patch: impl Fn(&K) -> Option<Value>,
        is_essential: impl Fn(&Value) -> bool,
        now: Timestamp,
    ) -> Result<(), ApiError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
    {
        let edited = |object: &K| {
            let is_edit =
                |patch: &Value| is_essential(patch) || !self.is_answer(object, patch, now);
            patch(object).filter(is_edit)
        };
        let answered = self.put_back_once(api, found, edited, now).await?;
        let rest = answered.and_then(|answered| patch(&answered).map(|rest| (answered, rest)));
        if let Some((answered, rest)) = rest.filter(|(_, rest)| !is_essential(rest)) {
            self.note_answer(&answered, &rest, now);
        }
        Ok(())
    }

    /// Puts the fields back that `patch` names of an owned object, if it names some of the cached one and
    /// of the live one.
    ///
    /// # Errors
    /// The first call that failed. [`ApiError::Edited`] if somebody edits them again and again.
    pub(crate) async fn put_back_fields<K>(
        &self,
        api: &Api<K>,
        found: &K,
        patch: impl Fn(&K) -> Option<Value>,
        now: Timestamp,
    ) -> Result<(), ApiError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let answered = self.put_back_once(api, found, patch, now).await;
        answered.map(drop)
    }

    /// The same. Returns what the cluster made of the patch, if there was one.
    async fn put_back_once<K>(
        &self,
        api: &Api<K>,
        found: &K,
        patch: impl Fn(&K) -> Option<Value>,
        now: Timestamp,
    ) -> Result<Option<K>, ApiError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        if found.meta().deletion_timestamp.is_some() || patch(found).is_none() {
            return Ok(None);
        }
        let name = found.name_any();
        let live = with_timeout("get", api.get_opt(&name)).await?;
        // where the cache is behind, it soon shows what is there
        let live = live.filter(|live| live.uid() == found.uid());
        let edited = live.and_then(|live| patch(&live).map(|patch| (live, patch)));
        let Some((live, mut patch)) = edited else {
            return Ok(None);
        };
        let (kind, by) = (K::kind(&()).into_owned(), last_manager(live.meta()));
        if !self.may_put_back_fields(&kind, live.meta(), now) {
            return Err(ApiError::Edited { kind, name, by });
        }
        let namespace = live.namespace();
        tracing::warn!(
            namespace,
            kind,
            name,
            by,
            "somebody edited it; it is put back"
        );
        patch["metadata"] = json!({"uid": live.uid(), "resourceVersion": live.resource_version()});
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(patch);
        let patched = api.patch(&name, &params, &patch);
        with_timeout("put back", patched).await.map(Some)
    }

    /// Makes the Deployment `found`, of which something else was asked before, what is `wanted`: it has no
    /// field of the former template after that.
    ///
    /// # Errors
    /// The first call that failed; a conflict where the cache is behind.
    pub(crate) async fn replace(
        &self,
        api: &Api<Deployment>,
        found: &Deployment,
        wanted: &Deployment,
    ) -> Result<bool, ApiError> {
        let name = found.name_any();
        let live = with_timeout("get", api.get_opt(&name)).await?;
        let is_found = |live: &Deployment| live.resource_version() == found.resource_version();
        let Some(live) = live.filter(is_found) else {
            return Err(ApiError::Conflict { call: "replace" });
        };
        let written = write(api, &restored(&live, wanted), false).await?;
        self.note_as_asked(&written.metadata);
        Ok(true)
    }

    /// Makes the Deployment `found`, which is not known to be as asked, what is `wanted` again, if somebody
    /// has edited it. True if it had to be.
    ///
    /// # Errors
    /// The first call that failed. [`ApiError::Edited`] if somebody edits it again and again.
    pub(crate) async fn put_back(
        &self,
        api: &Api<Deployment>,
        found: &Deployment,
        wanted: &Deployment,
        now: Timestamp,
    ) -> Result<bool, ApiError> {
        let name = found.name_any();
        let live = with_timeout("get", api.get_opt(&name)).await?;
        // where the cache is behind, it soon shows another generation
        let is_found = |live: &Deployment| {
            live.metadata.uid == found.metadata.uid
                && live.metadata.generation == found.metadata.generation
        };
        let Some(live) = live.filter(is_found) else {
            return Ok(false);
        };
        let restored = restored(&live, wanted);
        let tried = write(api, &restored, true).await?;
        if tried.metadata.generation == live.metadata.generation {
            self.note_as_asked(&live.metadata);
            return Ok(false);
        }
        if !self.may_put_back(&live.metadata, now) {
            return Err(ApiError::Edited {
                kind: "Deployment".to_owned(),
                name,
                by: last_manager(&live.metadata),
            });
        }
        tracing::warn!(
            namespace = live.namespace(),
            name,
            by = last_manager(&live.metadata),
            "somebody edited the Deployment of a service; it is put back"
        );
        let written = write(api, &restored, false).await?;
        self.note_as_asked(&written.metadata);
        Ok(true)
    }
}

/// Replaces the Deployment at the version that was read, or says what that would make of it.
async fn write(
    api: &Api<Deployment>,
    deployment: &Deployment,
    dry_run: bool,
) -> Result<Deployment, ApiError> {
    let params = PostParams {
        dry_run,
        field_manager: Some(FIELD_MANAGER.to_owned()),
    };
    let name = deployment.name_any();
    with_timeout("replace", api.replace(&name, &params, deployment)).await
}

/// What an object has in the fields that a patch names.
fn shown<K: Serialize>(object: &K, patch: &Value) -> Value {
    fn named(object: &Value, patch: &Value) -> Value {
        match patch {
            Value::Object(fields) => {
                let fields = fields.iter();
                let shown =
                    fields.map(|(field, patch)| (field.clone(), named(&object[field], patch)));
                Value::Object(shown.collect())
            }
            _ => object.clone(),
        }
    }
    named(&serde_json::to_value(object).unwrap_or_default(), patch)
}

/// The kind and name of an object.
fn subject<K: Resource<DynamicType = ()>>(object: &K) -> (String, Key) {
    (K::kind(&()).into_owned(), key_of(object.meta()))
}

fn key_of(metadata: &ObjectMeta) -> Key {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Key::new(&text(&metadata.namespace), &text(&metadata.name))
}

/// The Deployment with the specification that is wanted. Whatever others wrote into its metadata stays, and so does
/// a restart that somebody asked for.
fn restored(live: &Deployment, wanted: &Deployment) -> Deployment {
    let mut restored = live.clone();
    let restarted = restarted_at(live).cloned();
    restored.spec = wanted.spec.clone();
    if let Some(restarted) = restarted {
        let template = restored.spec.template.metadata.get_or_insert_default();
        let annotations = template.annotations.get_or_insert_default();
        annotations.insert(RESTARTED_AT.to_owned(), restarted);
    }
    restored.labels_mut().extend(wanted.labels().clone());
    restored
        .annotations_mut()
        .extend(wanted.annotations().clone());
    restored
}

fn restarted_at(deployment: &Deployment) -> Option<&String> {
    let template = deployment.spec.template.metadata.as_ref()?;
    template.annotations.as_ref()?.get(RESTARTED_AT)
}

/// Who last wrote to it, apart from Bursar and the cluster.
fn last_manager(metadata: &ObjectMeta) -> String {
    let managers = metadata.managed_fields.iter().flatten();
    let others = managers.filter(|entry| {
        let manager = entry.manager.as_deref().unwrap_or_default();
        entry.subresource.is_none() && manager != FIELD_MANAGER && manager != CLUSTER
    });
    let last = others.max_by_key(|entry| entry.time.as_ref().map(|time| time.0));
    last.and_then(|entry| entry.manager.clone())
        .unwrap_or_else(|| "somebody".to_owned())
}
