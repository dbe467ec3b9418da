//! The pods' finalizer: put on before a charge is opened, taken off when every record holds its sums.

use bursar_api::names::SPEND_FINALIZER;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::Ledger;
use crate::api_calls::{ApiError, with_timeout};
use crate::pod;

impl Ledger<'_> {
    /// The pod as it is now, if it is still the same one.
    pub(super) async fn live(&self, pod: &Pod) -> Result<Option<Pod>, ApiError> {
        let api: Api<Pod> =
            Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let live = with_timeout("get pod", api.get_opt(&pod.name_any())).await?;
        Ok(live.filter(|live| pod::uid(live) == pod::uid(pod)))
    }

    /// Adds the finalizer to a pod that no admission policy gave it to.
    pub(super) async fn guard(&self, pod: &Pod) -> Result<(), ApiError> {
        let mut finalizers = pod.finalizers().to_vec();
        finalizers.push(SPEND_FINALIZER.to_owned());
        let version = pod.resource_version();
        let patch = json!({"metadata": {"uid": pod.uid(), "resourceVersion": version, "finalizers": finalizers}});
        self.patch(pod, patch).await
    }

    /// Removes the finalizer of a pod that is settled, or never held a node.
    pub(super) async fn release(&self, pod: &Pod) -> Result<(), ApiError> {
        let Some(live) = self.live(pod).await? else {
            return Ok(());
        };
        if !pod::has_finalizer(&live, SPEND_FINALIZER) {
            return Ok(());
        }
        let finalizers: Vec<&String> = live
            .finalizers()
            .iter()
            .filter(|each| *each != SPEND_FINALIZER)
            .collect();
        let version = live.resource_version();
        let patch = json!({"metadata": {"uid": live.uid(), "resourceVersion": version, "finalizers": finalizers}});
        self.patch(&live, patch).await
    }

    async fn patch(&self, pod: &Pod, patch: serde_json::Value) -> Result<(), ApiError> {
        let api: Api<Pod> =
            Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let name = pod.name_any();
        let params = PatchParams::default();
        let patch = Patch::Merge(patch);
        match with_timeout("patch pod", api.patch_metadata(&name, &params, &patch)).await {
            Err(ApiError::Gone { .. }) => Ok(()),
            other => other.map(drop),
        }
    }
}
