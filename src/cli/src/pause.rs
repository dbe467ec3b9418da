//! `kubectl bursar pause` and `resume`: the emergency stop, for the cluster, a namespace or one
//! workload.
//!
//! Cluster and namespaces are paused by entries of a ConfigMap in the operator's namespace, which only
//! the platform may change: nothing there is changed any more, and budgets stop nothing. A workload
//! is paused by a field of its own, which its user may change: budgets stop it all the same.

use std::fmt::Debug;

use bursar_api::names::PAUSE_CONFIG_MAP;
use bursar_api::pause::{CLUSTER_ENTRY, namespace_entry, paused_namespace};
use bursar_api::training::JobPhase;
use bursar_api::{BudgetPolicy, InferenceDeployment, TrainingJob};
use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::client::{Installation, api_error};
use crate::explain::{ObjectKind, ObjectRef};

/// Arguments of `pause` and `resume`.
#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    /// The workload: infd/NAME or tj/NAME. Without it, all of the namespace.
    #[arg(conflicts_with = "all")]
    workload: Option<ObjectRef>,
    /// The namespace. Of a workload [default: that of the kubeconfig's context].
    #[arg(short, long, conflicts_with = "all")]
    namespace: Option<String>,
    /// The whole cluster.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    installation: Installation,
}

/// Why nothing was paused or resumed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("say what: --all, -n NAMESPACE, infd/NAME or tj/NAME")]
    NoScope,
    #[error("a budget is not paused: pause what it stops, with -n {0}")]
    Budget(String),
    #[error("there is no namespace {0}")]
    NoNamespace(String),
    #[error("there is no {kind} {name} in namespace {namespace}")]
    NoWorkload {
        kind: &'static str,
        name: String,
        namespace: String,
    },
    #[error(
        "changing ConfigMap {PAUSE_CONFIG_MAP} in namespace {namespace}: {why}. Role bursar-pauser of \
         that namespace may; a user may pause single workloads: kubectl bursar pause infd/NAME"
    )]
    ConfigMap { namespace: String, why: String },
    #[error("{action} {what}: {why}")]
    Call {
        action: &'static str,
        what: String,
        why: String,
    },
}

/// What is paused or resumed.
enum Target {
    Cluster,
    Namespace(String),
    Service(ObjectRef, String),
    Job(ObjectRef, String),
}

impl PauseArgs {
    fn target(&self, client: &Client) -> Result<Target, Error> {
        let namespace = || self.namespace.clone();
        match &self.workload {
            _ if self.all => Ok(Target::Cluster),
            None => namespace().map(Target::Namespace).ok_or(Error::NoScope),
            Some(object) => {
                let default = || client.default_namespace().to_owned();
                let namespace = namespace().unwrap_or_else(default);
                match object.kind {
                    ObjectKind::Budget => Err(Error::Budget(namespace)),
                    ObjectKind::Service => Ok(Target::Service(object.clone(), namespace)),
                    ObjectKind::Job => Ok(Target::Job(object.clone(), namespace)),
                }
            }
        }
    }
}

/// Pauses; the text says what does not happen any more.
pub(crate) async fn pause(client: &Client, args: &PauseArgs) -> Result<String, Error> {
    let operator = Operator::of(client, args);
    let target = args.target(client)?;
    let (entry, namespace) = match &target {
        Target::Service(object, namespace) => {
            return set_service_paused(client, object, namespace, true).await;
        }
        Target::Job(object, namespace) => {
            return set_job_paused(client, object, namespace, true).await;
        }
        Target::Cluster => (CLUSTER_ENTRY.to_owned(), None),
        Target::Namespace(namespace) => {
            check_namespace(client, namespace).await?;
            (namespace_entry(namespace), Some(namespace.as_str()))
        }
    };
    let (scope, flags) = described(namespace);
    let is_new = match operator.config_map().await?.value(&entry) {
        Some(_) => false,
        None => {
            let since = format!("since {:.0}", Timestamp::now());
            operator.set(&entry, Some(&since)).await?;
            true
        }
    };
    let already = if is_new {
        "is paused"
    } else {
        "was paused already"
    };
    let what = count(client, namespace).await?;
    let keep = match what.as_str() {
        "" => "no workload is there, and none starts".to_owned(),
        _ => format!("{what} of it keep what they have, also over their budget"),
    };
    Ok(format!(
        "{scope} {already}: {keep}, until `kubectl bursar resume {flags}`\n\
         Nothing is scaled, drained, stopped, suspended or started there, and requests to services \
         without a replica are refused.\n"
    ))
}

/// Resumes; the text says what happens now.
pub(crate) async fn resume(client: &Client, args: &PauseArgs) -> Result<String, Error> {
    let operator = Operator::of(client, args);
    let target = args.target(client)?;
    let (entry, namespace) = match &target {
        Target::Service(object, namespace) => {
            return set_service_paused(client, object, namespace, false).await;
        }
        Target::Job(object, namespace) => {
            return set_job_paused(client, object, namespace, false).await;
        }
        Target::Cluster => (CLUSTER_ENTRY.to_owned(), None),
        Target::Namespace(namespace) => (namespace_entry(namespace), Some(namespace.as_str())),
    };
    let (scope, _) = described(namespace);
    let paused = operator.config_map().await?;
    let is_paused = paused.value(&entry).is_some();
    let mut text = if is_paused {
        operator.set(&entry, None).await?;
        format!("{scope} is resumed: demand and budgets decide again\n")
    } else {
        // one that is gone can be resumed, and one that never was is a mistake
        if let Some(namespace) = namespace {
            check_namespace(client, namespace).await?;
        }
        format!("{scope} was not paused\n")
    };
    match namespace {
        Some(_) if paused.value(CLUSTER_ENTRY).is_some() => {
            text +=
                "The cluster is paused, so nothing changes before `kubectl bursar resume --all`.\n";
            return Ok(text);
        }
        None if !paused.namespaces().is_empty() => {
            let namespaces = paused.namespaces().join(", ");
            text += &format!("Paused of themselves, and still: namespaces {namespaces}.\n");
        }
        _ => {}
    }
    if is_paused {
        let still = paused.namespaces();
        for budget in stopping_budgets(client, namespace).await? {
            if namespace.is_some() || !still.contains(&budget.namespace().unwrap_or_default()) {
                let (name, of) = (budget.name_any(), budget.namespace().unwrap_or_default());
                text += &format!(
                    "Budget {name} of namespace {of} is exhausted: what it stops, stops now.\n"
                );
            }
        }
    }
    Ok(text)
}

/// A scope in words, and the flags that name it.
fn described(namespace: Option<&str>) -> (String, String) {
    match namespace {
        None => ("the cluster".to_owned(), "--all".to_owned()),
        Some(namespace) => (format!("namespace {namespace}"), format!("-n {namespace}")),
    }
}

/// The operator's namespace, where the platform's pauses are.
struct Operator {
    namespace: String,
    api: Api<ConfigMap>,
}

/// The ConfigMap that pauses.
struct Paused(ConfigMap);

impl Paused {
    fn value(&self, entry: &str) -> Option<&String> {
        self.0.data.as_ref()?.get(entry)
    }

    fn namespaces(&self) -> Vec<String> {
        let entries = self.0.data.iter().flat_map(|data| data.keys());
        let namespaces = entries.filter_map(|entry| paused_namespace(entry));
        namespaces.map(str::to_owned).collect()
    }
}

impl Operator {
    fn of(client: &Client, args: &PauseArgs) -> Self {
        let namespace = args.installation.operator_namespace.clone();
        Self {
            api: Api::namespaced(client.clone(), &namespace),
            namespace,
        }
    }

    fn failed(&self, error: &kube::Error) -> Error {
        Error::ConfigMap {
            namespace: self.namespace.clone(),
            why: api_error(error),
        }
    }

    async fn config_map(&self) -> Result<Paused, Error> {
        let found = self.api.get_opt(PAUSE_CONFIG_MAP).await;
        let found = found.map_err(|error| self.failed(&error))?;
        Ok(Paused(found.unwrap_or_default()))
    }

    /// Sets an entry, or takes it away. The ConfigMap is made anew if somebody has deleted it.
    async fn set(&self, entry: &str, value: Option<&str>) -> Result<(), Error> {
        let data = json!({"data": {entry: value}});
        let params = PatchParams::default();
        let patched = self
            .api
            .patch(PAUSE_CONFIG_MAP, &params, &Patch::Merge(&data))
            .await;
        let result = match (patched, value) {
            (Err(kube::Error::Api(status)), Some(value)) if status.code == 404 => {
                let mut config_map = ConfigMap::default();
                config_map.metadata.name = Some(PAUSE_CONFIG_MAP.to_owned());
                config_map.data = Some([(entry.to_owned(), value.to_owned())].into());
                self.api.create(&PostParams::default(), &config_map).await
            }
            (patched, _) => patched,
        };
        result.map(drop).map_err(|error| self.failed(&error))
    }
}

async fn check_namespace(client: &Client, name: &str) -> Result<(), Error> {
    let api: Api<Namespace> = Api::all(client.clone());
    match api.get_opt(name).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(Error::NoNamespace(name.to_owned())),
        Err(error) => Err(call("reading", format!("namespace {name}"), &error)),
    }
}

fn call(action: &'static str, what: String, error: &kube::Error) -> Error {
    Error::Call {
        action,
        what,
        why: api_error(error),
    }
}

/// The objects of a namespace, or of all.
async fn list<K>(client: &Client, namespace: Option<&str>) -> Result<Vec<K>, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug,
{
    let api: Api<K> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let listed = api.list(&ListParams::default()).await;
    let listed = listed.map_err(|error| call("listing", K::plural(&()).into_owned(), &error))?;
    Ok(listed.items)
}

/// The workloads of a namespace, or of all, in words. Empty if there are none.
async fn count(client: &Client, namespace: Option<&str>) -> Result<String, Error> {
    let services = list::<InferenceDeployment>(client, namespace).await?.len();
    let jobs = list::<TrainingJob>(client, namespace).await?;
    let jobs = jobs.iter().filter(|job| !has_ended(job)).count();
    let parts = [(services, "service"), (jobs, "training job")];
    let parts = parts.into_iter().filter(|(number, _)| *number > 0);
    let parts = parts.map(|(number, what)| match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    });
    Ok(parts.collect::<Vec<_>>().join(" and "))
}

fn has_ended(job: &TrainingJob) -> bool {
    let phase = job.status.as_ref().map(|status| status.phase);
    matches!(phase, Some(JobPhase::Succeeded | JobPhase::Failed))
}

/// The budgets that stop something, as their statuses say.
async fn stopping_budgets(
    client: &Client,
    namespace: Option<&str>,
) -> Result<Vec<BudgetPolicy>, Error> {
    let mut budgets: Vec<BudgetPolicy> = list(client, namespace).await?;
    budgets.retain(|budget| {
        let status = budget.status.as_ref();
        status.is_some_and(|status| status.latch.is_some())
    });
    Ok(budgets)
}

/// Pauses or resumes an InferenceDeployment by its own field.
async fn set_service_paused(
    client: &Client,
    object: &ObjectRef,
    namespace: &str,
    paused: bool,
) -> Result<String, Error> {
    let spec = json!({"scaling": {"paused": paused}});
    let before = patch::<InferenceDeployment>(client, object, namespace, &spec).await?;
    let change = (before.spec.scaling.paused, paused);
    Ok(describe_change("infd", object, namespace, change))
}

/// Pauses or resumes a TrainingJob by its own field.
async fn set_job_paused(
    client: &Client,
    object: &ObjectRef,
    namespace: &str,
    paused: bool,
) -> Result<String, Error> {
    let spec = json!({"paused": paused});
    let before = patch::<TrainingJob>(client, object, namespace, &spec).await?;
    let change = (before.spec.paused, paused);
    Ok(describe_change("tj", object, namespace, change))
}

/// What has become of a workload that was paused before or not, and is now or is not.
fn describe_change(
    short: &str,
    object: &ObjectRef,
    namespace: &str,
    (before, paused): (bool, bool),
) -> String {
    let (kind, name) = (object.kind.as_str(), &object.name);
    let what = format!("{kind} {namespace}/{name}");
    match (paused, before) {
        (true, before) => {
            let already = if before {
                "was paused already"
            } else {
                "is paused"
            };
            format!(
                "{what} {already}: it keeps what it has, and nothing of it starts; only a budget \
                 stops it, until `kubectl bursar resume {short}/{name} -n {namespace}`\n"
            )
        }
        (false, true) => format!("{what} is resumed\n"),
        (false, false) => format!("{what} was not paused\n"),
    }
}

/// Changes a workload's specification. Returns the workload as it was before.
async fn patch<K>(
    client: &Client,
    object: &ObjectRef,
    namespace: &str,
    spec: &Value,
) -> Result<K, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let (kind, name) = (object.kind.as_str(), object.name.as_str());
    let failed =
        |action, error: &kube::Error| call(action, format!("{kind} {namespace}/{name}"), error);
    let found = api.get_opt(name).await;
    let found = found.map_err(|error| failed("reading", &error))?;
    let found = found.ok_or_else(|| Error::NoWorkload {
        kind,
        name: name.to_owned(),
        namespace: namespace.to_owned(),
    })?;
    let change = Patch::Merge(json!({"spec": spec}));
    let patched = api.patch(name, &PatchParams::default(), &change).await;
    patched.map_err(|error| failed("changing", &error))?;
    Ok(found)
}

/// A line below other output that says what is paused; empty if nothing of it is, or if that may not
/// be read.
pub(crate) async fn note(
    client: &Client,
    operator_namespace: &str,
    namespace: Option<&str>,
) -> String {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), operator_namespace);
    let Ok(Some(found)) = api.get_opt(PAUSE_CONFIG_MAP).await else {
        return String::new();
    };
    let paused = Paused(found);
    let mut namespaces = paused.namespaces();
    namespaces.retain(|each| namespace.is_none_or(|only| only == each));
    let what = if paused.value(CLUSTER_ENTRY).is_some() {
        "the cluster".to_owned()
    } else if namespaces.is_empty() {
        return String::new();
    } else {
        format!("namespace {}", namespaces.join(", "))
    };
    format!("paused: {what}; nothing is stopped there, also over its budget\n")
}

#[cfg(test)]
mod tests;
