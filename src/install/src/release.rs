//! `bursar release`: lets go of everything that only Bursar could free, so that it can be uninstalled. Everything that is gone already
//! counts as done, so it can be run again.

use std::time::Duration;

use bursar_api::InferenceDeployment;
use bursar_api::names::{GATEWAY_LABEL, SPEND_FINALIZER, WORKLOAD_LABEL};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;

const CONTROLLER: &str = "bursar-controller";
const POLICY: &str = "bursar-spend-finalizer";
/// A stopping controller gives its Lease back within a few seconds.
const STOP_LIMIT: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(500);
/// Pods change while their finalizers are removed; each is tried this often.
const TRIES: u32 = 5;

/// What `bursar release` is told.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The operator's namespace.
    #[arg(long, default_value = "bursar-system")]
    pub namespace: String,
}

/// Why it failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server.
    #[error("{what}: {source}")]
    Api {
        /// What was being done.
        what: String,
        /// The answer.
        source: Box<kube::Error>,
    },
    /// The controller does not stop.
    #[error("the controller still runs after {} s; kubectl -n {namespace} get pods says why", STOP_LIMIT.as_secs())]
    StillRuns {
        /// The operator's namespace.
        namespace: String,
    },
}

/// Adds what was being done to a call's error, and takes "not found" as done.
trait Done<T> {
    fn done(self, what: &str) -> Result<Option<T>, Error>;
}

impl<T> Done<T> for Result<T, kube::Error> {
    fn done(self, what: &str) -> Result<Option<T>, Error> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(source) => Err(Error::Api {
                what: what.to_owned(),
                source: Box::new(source),
            }),
        }
    }
}

/// Stops the controller, deletes the admission policy, frees the pods and the Services' slices, and says what stands at zero.
///
/// # Errors
/// The first step that failed. Run it again.
pub async fn run(options: Options) -> Result<(), Error> {
    let client = Client::try_default().await;
    let client = client.map_err(|source| Error::Api {
        what: "client".to_owned(),
        source: Box::new(source),
    })?;
    stop_controller(&client, &options.namespace).await?;
    Api::<MutatingAdmissionPolicyBinding>::all(client.clone())
        .delete(POLICY, &DeleteParams::default())
        .await
        .done("deleting the admission policy's binding")?;
    Api::<MutatingAdmissionPolicy>::all(client.clone())
        .delete(POLICY, &DeleteParams::default())
        .await
        .done("deleting the admission policy")?;
    let pods = free_pods(&client).await?;
    let slices = delete_slices(&client).await?;
    println!("released {pods} pods and {slices} EndpointSlices; SpendRecords stay");
    for name in at_zero(&client).await? {
        println!(
            "stands at zero, and nobody wakes it any more: deployment {name}; kubectl scale starts it"
        );
    }
    Ok(())
}

async fn stop_controller(client: &Client, namespace: &str) -> Result<(), Error> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let scale = Patch::Merge(json!({"spec": {"replicas": 0}}));
    if api
        .patch_scale(CONTROLLER, &PatchParams::default(), &scale)
        .await
        .done("scaling the controller to zero")?
        .is_none()
    {
        return Ok(());
    }
    let stopped = async {
        loop {
            let found = api
                .get(CONTROLLER)
                .await
                .done("reading the controller's Deployment")?;
            let left = found
                .and_then(|found| found.status)
                .and_then(|status| status.replicas)
                .unwrap_or(0);
            if left == 0 {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let in_time = tokio::time::timeout(STOP_LIMIT, stopped).await;
    in_time.map_err(|_| Error::StillRuns {
        namespace: namespace.to_owned(),
    })?
}

async fn free_pods(client: &Client) -> Result<usize, Error> {
    let all = Api::<Pod>::all(client.clone())
        .list(&ListParams::default())
        .await
        .done("listing pods")?;
    let held = all
        .into_iter()
        .flatten()
        .filter(|pod| pod.finalizers().iter().any(|each| each == SPEND_FINALIZER));
    let mut freed = 0;
    for pod in held {
        free(
            client,
            &pod.namespace().unwrap_or_default(),
            &pod.name_any(),
        )
        .await?;
        freed += 1;
    }
    Ok(freed)
}

async fn free(client: &Client, namespace: &str, name: &str) -> Result<(), Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let what = format!("freeing pod {namespace}/{name}");
    for left in (0..TRIES).rev() {
        let Some(pod) = api.get(name).await.done(&what)? else {
            return Ok(());
        };
        let finalizers: Vec<&String> = pod
            .finalizers()
            .iter()
            .filter(|each| *each != SPEND_FINALIZER)
            .collect();
        if finalizers.len() == pod.finalizers().len() {
            return Ok(());
        }
        let metadata = json!({"uid": pod.uid(), "resourceVersion": pod.resource_version(), "finalizers": finalizers});
        match api
            .patch(
                name,
                &PatchParams::default(),
                &Patch::Merge(json!({"metadata": metadata})),
            )
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 409 && left > 0 => {}
            other => return other.done(&what).map(drop),
        }
    }
    Ok(())
}

async fn delete_slices(client: &Client) -> Result<usize, Error> {
    let ours = ListParams::default().labels(GATEWAY_LABEL);
    let slices = Api::<EndpointSlice>::all(client.clone())
        .list(&ours)
        .await
        .done("listing EndpointSlices")?;
    let mut deleted = 0;
    for slice in slices.into_iter().flatten() {
        let api: Api<EndpointSlice> =
            Api::namespaced(client.clone(), &slice.namespace().unwrap_or_default());
        api.delete(&slice.name_any(), &DeleteParams::default())
            .await
            .done("deleting an EndpointSlice")?;
        deleted += 1;
    }
    Ok(deleted)
}

async fn at_zero(client: &Client) -> Result<Vec<String>, Error> {
    let services = Api::<InferenceDeployment>::all(client.clone())
        .list(&ListParams::default())
        .await
        .done("listing services")?;
    let services: Vec<_> = services
        .into_iter()
        .flatten()
        .map(|service| (service.namespace(), service.name_any()))
        .collect();
    let ours = ListParams::default().labels(WORKLOAD_LABEL);
    let deployments = Api::<Deployment>::all(client.clone())
        .list(&ours)
        .await
        .done("listing Deployments")?;
    let zero = deployments.into_iter().flatten().filter(|found| {
        found.spec.replicas == Some(0) && services.contains(&(found.namespace(), found.name_any()))
    });
    Ok(zero
        .map(|found| {
            format!(
                "{}/{}",
                found.namespace().unwrap_or_default(),
                found.name_any()
            )
        })
        .collect())
}
