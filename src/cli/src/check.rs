//! `kubectl bursar check`: the objects of Bursar's kinds that cannot be read, and what would be
//! right; and what keeps requests from waking a service.

mod ways_in;

use bursar_api::lenient::{Lenient, Unreadable, Validate};
use bursar_api::{
    BudgetPolicy, InferenceDeployment, PriceList, SpendCorrection, SpendRecord, TrainingJob,
};
use clap::Args;
use kube::api::ListParams;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use crate::client::{Installation, api_error};
use crate::explain::{ObjectKind, ObjectRef};
use crate::spend_records::Scope;

/// Objects that are listed at a time.
const PAGE_SIZE: u32 = 500;

/// Arguments of `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// A service, infd/NAME, whose ways in are looked at, in place of all objects.
    #[arg(conflicts_with = "all_namespaces")]
    object: Option<ObjectRef>,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    installation: Installation,
}

/// Checks all objects, or one service. Returns the findings in words, and whether all is as it should be.
///
/// # Errors
/// The service cannot be looked at.
pub(crate) async fn run(client: &Client, args: &CheckArgs) -> Result<(String, bool), CheckError> {
    let Some(object) = &args.object else {
        let found = unreadable(client, &args.scope).await;
        let complete = found.complete();
        return Ok((found.text, complete));
    };
    let (kind, name) = (object.kind, &object.name);
    if kind != ObjectKind::Service {
        let kind = kind.as_str();
        return Err(CheckError(format!(
            "check looks at the ways in of services alone, infd/NAME: no request reaches a {kind}. Without a name it looks at all objects"
        )));
    }
    let namespace = args.scope.namespace(client).unwrap_or_default();
    let operator = &args.installation.operator_namespace;
    let checked = ways_in::run(client, (&namespace, name), operator).await;
    checked.map_err(CheckError)
}

/// Why a service cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct CheckError(String);

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Findings {
    /// The findings in words; each line ends with a newline.
    text: String,
    read: usize,
    unreadable: usize,
    unlisted: usize,
}

impl Findings {
    /// True if all objects were listed and can be read.
    fn complete(&self) -> bool {
        self.unreadable + self.unlisted == 0
    }
}

/// Reads all objects of Bursar's kinds: those of one namespace or of all, and those of the cluster.
/// A kind that cannot be listed is a finding as well.
async fn unreadable(client: &Client, scope: &Scope) -> Findings {
    let namespace = scope.namespace(client);
    let mut found = Findings::default();
    macro_rules! namespaced {
        ($($kind:ident),*) => {$({
            let api: Api<Lenient<$kind>> = match &namespace {
                Some(namespace) => Api::namespaced(client.clone(), namespace),
                None => Api::all(client.clone()),
            };
            check(&api, &mut found).await;
        })*};
    }
    namespaced!(InferenceDeployment, TrainingJob, BudgetPolicy);
    check::<PriceList>(&Api::all(client.clone()), &mut found).await;
    check::<SpendCorrection>(&Api::all(client.clone()), &mut found).await;
    check::<SpendRecord>(&Api::all(client.clone()), &mut found).await;
    let Findings {
        read, unreadable, ..
    } = found;
    found.text.push_str(&match unreadable {
        0 => format!("{read} objects can be read\n"),
        _ => format!(
            "{unreadable} of {} objects cannot be read. Until they can, nothing new starts because of them, and nothing stops\n",
            read + unreadable
        ),
    });
    found
}

/// Reads all objects of a kind.
async fn check<K>(api: &Api<Lenient<K>>, found: &mut Findings)
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Validate,
{
    let mut params = ListParams::default().limit(PAGE_SIZE);
    loop {
        let page = match api.list(&params).await {
            Ok(page) => page,
            Err(error) => {
                found.unlisted += 1;
                let (plural, why) = (K::plural(&()), api_error(&error));
                found.text += &format!("{plural} are not checked: {why}\n");
                return;
            }
        };
        for object in page.items {
            match object.checked(K::validate).into_result() {
                Ok(_) => found.read += 1,
                Err(unreadable) => {
                    found.unreadable += 1;
                    found.text += &describe::<K>(&unreadable);
                }
            }
        }
        let next = page.metadata.continue_.filter(|token| !token.is_empty());
        let Some(token) = next else { return };
        params = params.continue_token(&token);
    }
}

/// An object that cannot be read, with the field, the fault, and the command that mends it.
fn describe<K: Resource<DynamicType = ()>>(unreadable: &Unreadable) -> String {
    let metadata = &unreadable.metadata;
    let name = metadata.name.as_deref().unwrap_or("?");
    let (path, flag) = match &metadata.namespace {
        Some(namespace) => (format!("{namespace}/{name}"), format!(" -n {namespace}")),
        None => (name.to_owned(), String::new()),
    };
    let (kind, fault) = (K::kind(&()), &unreadable.fault);
    let status = match fault.field.split('.').next() {
        Some("status") => " --subresource=status",
        _ => "",
    };
    let plural = K::plural(&());
    format!("{kind} {path}: {fault}\n  to mend it: kubectl edit {plural} {name}{flag}{status}\n")
}

#[cfg(test)]
mod tests {
    use bursar_apitest::Server;
    use kube::ResourceExt;
    use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
    use serde_json::{Value, json};

    use super::*;

    /// Creates an object as an earlier schema let it in.
    async fn create<K: Resource<DynamicType = ()>>(
        server: &Server,
        namespace: Option<&str>,
        object: Value,
    ) {
        let (client, kind) = (server.client(), ApiResource::erase::<K>(&()));
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => {
                let object: DynamicObject = serde_json::from_value(object.clone()).unwrap();
                let request = kube::core::Request::new(K::url_path(&(), Some(namespace)));
                let body = serde_json::to_vec(&object).unwrap();
                let request = request.create(&PostParams::default(), body).unwrap();
                client.request::<Value>(request).await.unwrap();
                return;
            }
            None => Api::all_with(client, &kind),
        };
        let status = object["status"].clone();
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let created = api.create(&PostParams::default(), &object).await.unwrap();
        let patch = Patch::Merge(json!({"status": status}));
        api.patch_status(&created.name_any(), &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    fn service(name: &str, port: u32) -> Value {
        let probe = json!({"httpGet": {"path": "/", "port": port}});
        let template = json!({"spec": {"containers": [{"name": "c", "livenessProbe": probe}]}});
        json!({
            "apiVersion": "bursar.dev/v1alpha1", "kind": "InferenceDeployment", "metadata": {"name": name},
            "spec": {"engine": "vLLM", "maxReplicas": 1, "template": template},
        })
    }

    async fn checked(server: &Server, namespace: Option<&str>) -> Findings {
        let scope = Scope {
            namespace: namespace.map(str::to_owned),
            all_namespaces: namespace.is_none(),
        };
        unreadable(&server.client(), &scope).await
    }

    #[tokio::test]
    async fn no_request_reaches_a_job_so_it_has_no_ways_in() {
        let server = Server::new(&["team"]);
        for object in ["tj/train", "budget/team"] {
            let words = ["kubectl bursar", "check", object, "-n", "team"];
            let arguments = <crate::args::Arguments as clap::Parser>::try_parse_from(words);
            let crate::args::Command::Check(args) = arguments.unwrap().command else {
                unreachable!("{object}")
            };
            let error = run(&server.client(), &args).await.unwrap_err().to_string();
            assert!(error.contains("infd/NAME"), "{error}");
        }
    }

    #[tokio::test]
    async fn each_object_that_cannot_be_read_is_listed_with_the_command_that_mends_it() {
        let server = Server::new(&["team", "other"]);
        create::<InferenceDeployment>(&server, Some("team"), service("good", 80)).await;
        create::<InferenceDeployment>(&server, Some("team"), service("bad", 3_000_000_000)).await;
        create::<InferenceDeployment>(&server, Some("other"), service("bad", 3_000_000_000)).await;
        let list = json!({
            "apiVersion": "bursar.dev/v1alpha1", "kind": "PriceList", "metadata": {"name": "ours"},
            "spec": {"currency": "USD"}, "status": {"conditions": 5},
        });
        create::<PriceList>(&server, None, list).await;
        let found = checked(&server, Some("team")).await;
        let why = "invalid value: integer `3000000000`, expected a port from 1 to 65535";
        let expected = [
            format!("InferenceDeployment team/bad: spec.template.spec.containers[0].livenessProbe.httpGet.port: {why}"),
            "  to mend it: kubectl edit inferencedeployments bad -n team".to_owned(),
            "PriceList ours: status.conditions: invalid type: integer `5`, expected a list".to_owned(),
            "  to mend it: kubectl edit pricelists ours --subresource=status".to_owned(),
            "2 of 3 objects cannot be read. Until they can, nothing new starts because of them, and nothing stops".to_owned(),
        ];
        let lines: Vec<&str> = found.text.lines().collect();
        assert_eq!(lines, expected);
        assert!(!found.complete());
        let all = checked(&server, None).await;
        assert!(
            all.text.contains("InferenceDeployment other/bad: "),
            "{}",
            all.text
        );
    }

    #[tokio::test]
    async fn nothing_is_found_where_all_can_be_read() {
        let server = Server::new(&["team"]);
        create::<InferenceDeployment>(&server, Some("team"), service("good", 80)).await;
        let found = checked(&server, None).await;
        assert_eq!(found.text, "1 objects can be read\n");
        assert!(found.complete());
    }
}
