use bursar_apitest::Server;

use super::*;

const SERVICE: &str = "InferenceDeployment";

async fn server() -> Server {
    let server = Server::new(&["team", "other", "bursar-system"]);
    let template = json!({"spec": {"containers": [{"name": "c"}]}});
    for name in ["chat", "embed"] {
        let spec = json!({"engine": "vLLM", "maxReplicas": 1, "template": template});
        create::<InferenceDeployment>(&server, name, spec).await;
    }
    let spec = json!({"framework": "PyTorch", "replicas": 1, "template": template});
    create::<TrainingJob>(&server, "train", spec).await;
    server
}

async fn create<K>(server: &Server, name: &str, spec: Value)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + serde::Serialize
        + Debug,
{
    let object = json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()),
        "metadata": {"name": name}, "spec": spec,
    });
    let api: Api<K> = Api::namespaced(server.client(), "team");
    let object = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap();
}

fn args(line: &str) -> PauseArgs {
    #[derive(clap::Parser)]
    struct TestArgs {
        #[command(flatten)]
        args: PauseArgs,
    }
    let words = std::iter::once("pause").chain(line.split_whitespace());
    let parsed = <TestArgs as clap::Parser>::try_parse_from(words);
    parsed.unwrap_or_else(|error| panic!("{error}")).args
}

fn entries(server: &Server) -> Vec<String> {
    let found: Vec<ConfigMap> = server.objects();
    let data = found.into_iter().filter_map(|found| found.data);
    data.flat_map(|data| data.into_keys()).collect()
}

#[tokio::test]
async fn a_namespace_is_paused_and_resumed_with_what_does_not_happen_in_words() {
    let server = server().await;
    let client = server.client();
    let text = pause(&client, &args("-n team")).await.unwrap();
    assert!(
        text.starts_with(
            "namespace team is paused: 2 services and 1 training job of it keep what they have, \
             also over their budget, until `kubectl bursar resume -n team`\n"
        ),
        "{text}"
    );
    assert_eq!(entries(&server), ["namespace.team"]);
    let text = pause(&client, &args("-n team")).await.unwrap();
    assert!(
        text.starts_with("namespace team was paused already: 2 services"),
        "{text}"
    );
    assert!(
        note(&client, "bursar-system", Some("team"))
            .await
            .contains("namespace team;")
    );
    assert_eq!(note(&client, "bursar-system", Some("other")).await, "");
    let text = pause(&client, &args("-n other")).await.unwrap();
    assert!(text.contains("no workload is there"), "{text}");
    let text = resume(&client, &args("-n team")).await.unwrap();
    assert_eq!(
        text,
        "namespace team is resumed: demand and budgets decide again\n"
    );
    let text = resume(&client, &args("-n team")).await.unwrap();
    assert_eq!(text, "namespace team was not paused\n");
    assert_eq!(entries(&server), ["namespace.other"]);
}

#[tokio::test]
async fn the_cluster_is_paused_apart_from_its_namespaces() {
    let server = server().await;
    let client = server.client();
    pause(&client, &args("-n team")).await.unwrap();
    let text = pause(&client, &args("--all")).await.unwrap();
    assert!(
        text.starts_with("the cluster is paused: 2 services and 1 training job"),
        "{text}"
    );
    assert_eq!(entries(&server), ["cluster", "namespace.team"]);
    let text = resume(&client, &args("-n team")).await.unwrap();
    assert!(
        text.contains("before `kubectl bursar resume --all`"),
        "{text}"
    );
    pause(&client, &args("-n team")).await.unwrap();
    let text = resume(&client, &args("--all")).await.unwrap();
    assert!(text.contains("still: namespaces team."), "{text}");
    assert_eq!(entries(&server), ["namespace.team"]);
}

#[tokio::test]
async fn resuming_names_the_budgets_that_stop_something_then() {
    let server = server().await;
    let client = server.client();
    create::<BudgetPolicy>(&server, "all", json!({"limit": "1", "period": "Daily"})).await;
    let api: Api<BudgetPolicy> = Api::namespaced(client.clone(), "team");
    let latch = json!({"periodStart": "2026-11-27T00:00:00Z", "limit": "1"});
    let status = Patch::Merge(json!({"status": {"latch": latch}}));
    let params = PatchParams::default();
    api.patch_status("all", &params, &status).await.unwrap();
    pause(&client, &args("-n team")).await.unwrap();
    let text = resume(&client, &args("-n team")).await.unwrap();
    assert!(
        text.contains("Budget all of namespace team is exhausted"),
        "{text}"
    );
}

#[tokio::test]
async fn a_workload_is_paused_by_its_own_field() {
    let server = server().await;
    let client = server.client();
    let text = pause(&client, &args("infd/chat -n team")).await.unwrap();
    assert!(
        text.starts_with("InferenceDeployment team/chat is paused: it keeps"),
        "{text}"
    );
    assert!(text.contains("resume infd/chat -n team"), "{text}");
    let text = pause(&client, &args("tj/train -n team")).await.unwrap();
    assert!(text.contains("only a budget stops it"), "{text}");
    let services: Vec<InferenceDeployment> = server.objects();
    let paused: Vec<bool> = services
        .iter()
        .map(|each| each.spec.scaling.paused)
        .collect();
    assert_eq!(paused, [true, false]);
    assert!(server.objects::<TrainingJob>()[0].spec.paused);
    assert_eq!(entries(&server), [] as [&str; 0]);
    let text = pause(&client, &args("infd/chat -n team")).await.unwrap();
    assert!(text.contains("was paused already"), "{text}");
    let text = resume(&client, &args("infd/chat -n team")).await.unwrap();
    assert_eq!(text, format!("{SERVICE} team/chat is resumed\n"));
    let text = resume(&client, &args("infd/chat -n team")).await.unwrap();
    assert_eq!(text, format!("{SERVICE} team/chat was not paused\n"));
}

#[tokio::test]
async fn what_is_not_there_or_has_no_name_is_refused() {
    let server = server().await;
    let client = server.client();
    for (line, why) in [
        ("", "say what: --all, -n NAMESPACE, infd/NAME or tj/NAME"),
        ("-n tema", "there is no namespace tema"),
        (
            "infd/chart -n team",
            "there is no InferenceDeployment chart in namespace team",
        ),
        (
            "budget/all -n team",
            "a budget is not paused: pause what it stops, with -n team",
        ),
    ] {
        let error = pause(&client, &args(line)).await.unwrap_err();
        assert_eq!(error.to_string(), why);
        let error = resume(&client, &args(line)).await.unwrap_err();
        assert_eq!(error.to_string(), why);
    }
    assert_eq!(entries(&server), [] as [&str; 0]);
}
