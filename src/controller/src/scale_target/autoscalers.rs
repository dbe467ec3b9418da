//! Which HorizontalPodAutoscalers of a namespace scale what. KEDA makes one for each ScaledObject. They are
//! listed once for all targets of the namespace, and page by page: their annotations may be long.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bursar_api::inference::TargetRef;
use bursar_api::lenient::{Lenient, bounded_text};
use bursar_core::model::Name;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

use crate::api_calls::{ApiError, with_timeout};
use crate::lock::lock;

/// A list counts for so long.
const MAX_AGE: SignedDuration = SignedDuration::from_secs(10);
/// Objects that are held in memory at a time, and lists of them that are asked for.
const PAGE_SIZE: u32 = 50;
const MAX_PAGES: usize = 200;

/// What an autoscaler scales, and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Autoscaler {
    target: TargetRef,
    pub(super) name: String,
    /// Its owner, such as `ScaledObject queue`.
    pub(super) owner: Option<String>,
}

/// The autoscalers of a namespace, and when they were listed.
type Listed = (Timestamp, Arc<[Autoscaler]>);

/// The autoscalers of namespaces with targets.
#[derive(Debug, Default)]
pub(crate) struct Autoscalers(Mutex<HashMap<Name, Listed>>);

impl Autoscalers {
    /// The autoscaler of a target, if it has one.
    ///
    /// # Errors
    /// They cannot be listed.
    pub(super) async fn of(
        &self,
        client: &Client,
        (namespace, target): (&Name, &TargetRef),
        now: Timestamp,
    ) -> Result<Option<Autoscaler>, ApiError> {
        let is_fresh = |listed: &Listed| now.duration_since(listed.0) < MAX_AGE;
        let known = lock(&self.0).get(namespace).cloned();
        let all = match known.filter(is_fresh) {
            Some((_, all)) => all,
            None => {
                let all: Arc<[Autoscaler]> = list(client, namespace).await?.into();
                let mut namespaces = lock(&self.0);
                namespaces.retain(|_, listed| is_fresh(listed));
                namespaces.insert(namespace.clone(), (now, Arc::clone(&all)));
                all
            }
        };
        let mut scaling = all.iter().filter(|each| each.target.is_same(target));
        Ok(scaling.next().cloned())
    }
}

async fn list(client: &Client, namespace: &str) -> Result<Vec<Autoscaler>, ApiError> {
    let api: Api<Lenient<HorizontalPodAutoscaler>> = Api::namespaced(client.clone(), namespace);
    let mut page = ListParams::default().limit(PAGE_SIZE);
    let mut all = Vec::new();
    for _ in 0..MAX_PAGES {
        let found = match with_timeout("list autoscalers", api.list(&page)).await {
            Ok(found) => found,
            // the API server does not serve them
            Err(ApiError::Gone { .. }) => return Ok(all),
            Err(error) => return Err(error),
        };
        let next = found.metadata.continue_;
        let readable = found.items.into_iter();
        let readable = readable.filter_map(|each| each.into_result().ok());
        all.extend(readable.map(|found| autoscaler(&found)));
        match next.filter(|next| !next.is_empty()) {
            Some(next) => page = page.continue_token(&next),
            None => break,
        }
    }
    Ok(all)
}

fn autoscaler(found: &HorizontalPodAutoscaler) -> Autoscaler {
    let scaled = &found.spec.scale_target_ref;
    let owner = found.owner_references().first();
    Autoscaler {
        target: TargetRef {
            api_version: bounded_text(scaled.api_version.as_deref().unwrap_or_default()),
            kind: bounded_text(&scaled.kind),
            name: bounded_text(&scaled.name),
        },
        name: found.name_any(),
        owner: owner.map(|owner| bounded_text(&format!("{} {}", owner.kind, owner.name))),
    }
}
