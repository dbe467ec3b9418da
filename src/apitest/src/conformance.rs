//! Checks of the API server's behaviour that controllers rely on. This server and a real one pass
//! them both, so this one cannot drift from the real one. A real server forgets versions only after
//! minutes, so a watch of such a version is not among the checks.

use std::fmt::Debug;
use std::time::Duration;

use bursar_api::{BudgetPolicy, SpendRecord};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, WatchEvent,
    WatchParams,
};
use kube::{Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The result of a check; the error says what was not as expected.
pub type CheckResult = Result<(), String>;

/// One check.
pub struct Check {
    /// The behaviour that is checked.
    pub name: &'static str,
    /// Runs the check in a namespace that exists. The kinds of `bursar.dev` must be served.
    pub run: fn(Client, String) -> BoxFuture<'static, CheckResult>,
}

const WATCH_LIMIT: Duration = Duration::from_secs(10);

macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        /// All checks.
        pub const CHECKS: &[Check] = &[$(Check {
            name: stringify!($name),
            run: |client, namespace| async move { $name(&client, &namespace).await }.boxed(),
        }),*];
    };
}

checks![
    creating_gives_an_identity,
    a_write_at_a_stale_version_conflicts,
    a_write_that_changes_nothing_makes_no_version,
    status_and_spec_are_written_separately,
    the_generation_follows_the_spec,
    a_patch_may_name_uid_and_version,
    a_finalizer_holds_what_is_deleted,
    a_deletion_may_name_a_uid,
    an_eviction_may_name_a_uid,
    an_apply_removes_fields_that_it_no_longer_sends,
    an_apply_may_name_uid_and_version,
    lists_select_by_label,
    metadata_can_be_read_alone,
    a_watch_reports_every_change,
    a_watch_with_a_selector_reports_objects_that_leave_it,
    status_writes_are_recorded_with_their_time,
    cluster_scoped_objects_have_no_namespace,
    a_bound_pod_has_its_grace_and_an_unbound_one_none,
    an_empty_list_of_a_built_in_kind_is_dropped,
];

fn object<K: DeserializeOwned>(value: Value) -> Result<K, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn config(name: &str, labels: Value, data: Value) -> Result<ConfigMap, String> {
    object(
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": data}),
    )
}

fn budget(name: &str, limit: &str) -> Result<BudgetPolicy, String> {
    object(json!({
        "apiVersion": "bursar.dev/v1alpha1", "kind": "BudgetPolicy", "metadata": {"name": name},
        "spec": {"limit": limit, "period": "Monthly"},
    }))
}

fn configs(client: &Client, namespace: &str) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), namespace)
}

fn budgets(client: &Client, namespace: &str) -> Api<BudgetPolicy> {
    Api::namespaced(client.clone(), namespace)
}

fn create() -> PostParams {
    PostParams {
        field_manager: Some("check".to_owned()),
        ..PostParams::default()
    }
}

fn checked<T>(result: kube::Result<T>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

/// The HTTP status of a refused request.
fn error_code<T: Debug>(result: kube::Result<T>) -> Result<u16, String> {
    match result {
        Err(kube::Error::Api(status)) => Ok(status.code),
        other => Err(format!("expected a refusal, got {other:?}")),
    }
}

fn expect_equal<T: PartialEq + Debug>(what: &str, found: T, expected: T) -> CheckResult {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: expected {expected:?}, found {found:?}"))
    }
}

async fn creating_gives_an_identity(client: &Client, namespace: &str) -> CheckResult {
    let api = configs(client, namespace);
    let made = checked(
        api.create(&create(), &config("identity", json!({}), json!({}))?)
            .await,
    )?;
    let has = (
        made.uid().is_some(),
        made.resource_version().is_some(),
        made.creation_timestamp().is_some(),
    );
    expect_equal("uid, version, time", has, (true, true, true))?;
    let again = api
        .create(&create(), &config("identity", json!({}), json!({}))?)
        .await;
    expect_equal("a second one", error_code(again)?, 409)?;
    let nowhere = configs(client, "no-such-namespace")
        .create(&create(), &config("x", json!({}), json!({}))?)
        .await;
    expect_equal(
        "in a namespace that is not there",
        error_code(nowhere)?,
        404,
    )?;
    expect_equal(
        "one that is not there",
        checked(api.get_opt("nobody").await)?.is_none(),
        true,
    )
}

async fn a_write_at_a_stale_version_conflicts(client: &Client, namespace: &str) -> CheckResult {
    let api = configs(client, namespace);
    let first = checked(
        api.create(&create(), &config("stale", json!({}), json!({"a": "1"}))?)
            .await,
    )?;
    let mut next = first.clone();
    next.data = object(json!({"a": "2"}))?;
    checked(api.replace("stale", &create(), &next).await)?;
    next.data = object(json!({"a": "3"}))?;
    expect_equal(
        "a write at the first version",
        error_code(api.replace("stale", &create(), &next).await)?,
        409,
    )?;
    let live = checked(api.get("stale").await)?;
    expect_equal("the data", live.data, object(json!({"a": "2"}))?)
}

async fn a_write_that_changes_nothing_makes_no_version(
    client: &Client,
    namespace: &str,
) -> CheckResult {
    let api = configs(client, namespace);
    let first = checked(
        api.create(&create(), &config("same", json!({}), json!({"a": "1"}))?)
            .await,
    )?;
    let again = checked(api.replace("same", &create(), &first).await)?;
    expect_equal(
        "the version",
        again.resource_version(),
        first.resource_version(),
    )
}

async fn status_and_spec_are_written_separately(client: &Client, namespace: &str) -> CheckResult {
    let api = budgets(client, namespace);
    let mut wanted = budget("apart", "1")?;
    wanted.status = Some(object(json!({"spent": "9"}))?);
    let mut made = checked(api.create(&create(), &wanted).await)?;
    expect_equal("a status at creation", made.status.is_none(), true)?;
    made.spec.limit = "2".to_owned();
    made.status = Some(object(json!({"spent": "1"}))?);
    let written = checked(api.replace_status("apart", &create(), &made).await)?;
    expect_equal(
        "the limit after a write of the status",
        written.spec.limit.as_str(),
        "1",
    )?;
    expect_equal(
        "the status after it",
        written.status.as_ref().map(|status| status.spent.as_str()),
        Some("1"),
    )?;
    let mut next = written.clone();
    next.spec.limit = "3".to_owned();
    next.status = Some(object(json!({"spent": "8"}))?);
    let written = checked(api.replace("apart", &create(), &next).await)?;
    expect_equal(
        "the limit after a write of the rest",
        written.spec.limit.as_str(),
        "3",
    )?;
    expect_equal(
        "the status after it",
        written.status.map(|status| status.spent),
        Some("1".to_owned()),
    )?;
    let stale = api.replace_status("apart", &create(), &made).await;
    expect_equal("a status at a stale version", error_code(stale)?, 409)
}

async fn the_generation_follows_the_spec(client: &Client, namespace: &str) -> CheckResult {
    let api = budgets(client, namespace);
    let mut made = checked(api.create(&create(), &budget("generation", "1")?).await)?;
    expect_equal("at creation", made.metadata.generation, Some(1))?;
    made.status = Some(object(json!({"spent": "1"}))?);
    let made = checked(api.replace_status("generation", &create(), &made).await)?;
    expect_equal("after a status", made.metadata.generation, Some(1))?;
    let label = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    let made = checked(
        api.patch("generation", &PatchParams::default(), &label)
            .await,
    )?;
    expect_equal("after a label", made.metadata.generation, Some(1))?;
    let limit = Patch::Merge(json!({"spec": {"limit": "2"}}));
    let made = checked(
        api.patch("generation", &PatchParams::default(), &limit)
            .await,
    )?;
    expect_equal("after a limit", made.metadata.generation, Some(2))
}

async fn a_patch_may_name_uid_and_version(client: &Client, namespace: &str) -> CheckResult {
    let api = configs(client, namespace);
    let made = checked(
        api.create(
            &create(),
            &config("guarded", json!({"a": "b", "c": "d"}), json!({}))?,
        )
        .await,
    )?;
    let patch = |metadata: Value| Patch::Merge(json!({"metadata": metadata}));
    let params = PatchParams::default();
    let guarded = json!({"uid": made.uid(), "resourceVersion": made.resource_version(), "labels": {"a": null}});
    let next = checked(api.patch("guarded", &params, &patch(guarded.clone())).await)?;
    expect_equal(
        "the labels",
        next.labels().keys().cloned().collect::<Vec<_>>(),
        vec!["c".to_owned()],
    )?;
    // the resourceVersion is out of date now
    let again = patch(json!({"resourceVersion": made.resource_version(), "labels": {"e": "f"}}));
    expect_equal(
        "a stale version",
        error_code(api.patch("guarded", &params, &again).await)?,
        409,
    )?;
    let successor = patch(json!({
        "uid": "00000000-0000-0000-0000-000000000000", "resourceVersion": made.resource_version(), "labels": {"e": "f"},
    }));
    let refused = api.patch("guarded", &params, &successor).await;
    expect_equal("a stale version of another uid", error_code(refused)?, 409)?;
    let other = patch(json!({"uid": "00000000-0000-0000-0000-000000000000", "labels": {"e": "f"}}));
    expect_equal(
        "another uid",
        error_code(api.patch("guarded", &params, &other).await)?,
        422,
    )
}

async fn a_finalizer_holds_what_is_deleted(client: &Client, namespace: &str) -> CheckResult {
    let api = configs(client, namespace);
    let mut wanted = config("held", json!({}), json!({}))?;
    wanted.metadata.finalizers = Some(vec![
        "bursar.dev/one".to_owned(),
        "bursar.dev/two".to_owned(),
    ]);
    checked(api.create(&create(), &wanted).await)?;
    checked(api.delete("held", &DeleteParams::default()).await)?;
    let live = checked(api.get("held").await)?;
    expect_equal(
        "marked as deleted",
        live.metadata.deletion_timestamp.is_some(),
        true,
    )?;
    let patch = |finalizers: Value| Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
    let params = PatchParams::default();
    let added = patch(json!([
        "bursar.dev/one",
        "bursar.dev/two",
        "bursar.dev/three"
    ]));
    expect_equal(
        "a new finalizer",
        error_code(api.patch("held", &params, &added).await)?,
        422,
    )?;
    checked(
        api.patch("held", &params, &patch(json!(["bursar.dev/two"])))
            .await,
    )?;
    expect_equal(
        "with one left",
        checked(api.get_opt("held").await)?.is_some(),
        true,
    )?;
    checked(api.patch("held", &params, &patch(json!([]))).await)?;
    expect_equal(
        "with none left",
        checked(api.get_opt("held").await)?.is_none(),
        true,
    )
}

async fn a_deletion_may_name_a_uid(client: &Client, namespace: &str) -> CheckResult {
    let api = configs(client, namespace);
    let made = checked(
        api.create(&create(), &config("mine", json!({}), json!({}))?)
            .await,
    )?;
    let named = |uid: Option<String>| DeleteParams {
        preconditions: Some(Preconditions {
            uid,
            ..Preconditions::default()
        }),
        ..DeleteParams::default()
    };
    let other = named(Some("00000000-0000-0000-0000-000000000000".to_owned()));
    expect_equal(
        "another uid",
        error_code(api.delete("mine", &other).await)?,
        409,
    )?;
    checked(api.delete("mine", &named(made.uid())).await)?;
    expect_equal(
        "what is gone",
        error_code(api.delete("mine", &DeleteParams::default()).await)?,
        404,
    )
}

async fn an_eviction_may_name_a_uid(client: &Client, namespace: &str) -> CheckResult {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pod = object(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "evicted"},
        "spec": {"schedulerName": "nobody", "containers": [{"name": "c", "image": "none"}]},
    }))?;
    let made: Pod = checked(api.create(&create(), &pod).await)?;
    let evict = async |uid: Option<String>| {
        let eviction = json!({
            "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "evicted"},
            "deleteOptions": {"preconditions": {"uid": uid}},
        });
        api.create_subresource::<_, Value>("eviction", "evicted", &create(), &eviction)
            .await
    };
    let other = Some("00000000-0000-0000-0000-000000000000".to_owned());
    expect_equal("another uid", error_code(evict(other).await)?, 409)?;
    checked(evict(made.uid()).await)?;
    let is_gone = checked(api.get_opt("evicted").await)?.is_none();
    expect_equal("after the eviction", is_gone, true)
}

async fn an_apply_removes_fields_that_it_no_longer_sends(
    client: &Client,
    namespace: &str,
) -> CheckResult {
    let api = configs(client, namespace);
    let params = PatchParams::apply("check").force();
    let apply = |data: Value| {
        Patch::Apply(
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": data}),
        )
    };
    let first = checked(
        api.patch("applied", &params, &apply(json!({"a": "1", "b": "2"})))
            .await,
    )?;
    let again = checked(
        api.patch("applied", &params, &apply(json!({"a": "1", "b": "2"})))
            .await,
    )?;
    expect_equal(
        "the version after the same apply",
        again.resource_version(),
        first.resource_version(),
    )?;
    let other = Patch::Merge(json!({"data": {"theirs": "3"}}));
    checked(api.patch("applied", &PatchParams::default(), &other).await)?;
    let last = checked(
        api.patch("applied", &params, &apply(json!({"a": "9"})))
            .await,
    )?;
    expect_equal(
        "the data",
        last.data,
        object(json!({"a": "9", "theirs": "3"}))?,
    )
}

async fn an_apply_may_name_uid_and_version(client: &Client, namespace: &str) -> CheckResult {
    let api = configs(client, namespace);
    let params = PatchParams::apply("check").force();
    let apply = |metadata: Value| {
        Patch::Apply(
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": "1"}}),
        )
    };
    let none = apply(json!({"name": "named", "uid": "00000000-0000-0000-0000-000000000000"}));
    expect_equal(
        "a uid where nothing is",
        error_code(api.patch("named", &params, &none).await)?,
        409,
    )?;
    let made = checked(
        api.create(&create(), &config("named", json!({}), json!({}))?)
            .await,
    )?;
    let other = apply(json!({"name": "named", "uid": "00000000-0000-0000-0000-000000000000"}));
    expect_equal(
        "another uid",
        error_code(api.patch("named", &params, &other).await)?,
        422,
    )?;
    let exact = apply(
        json!({"name": "named", "uid": made.uid(), "resourceVersion": made.resource_version()}),
    );
    checked(api.patch("named", &params, &exact).await)?;
    let stale = Patch::Apply(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "2"},
        "metadata": {"name": "named", "resourceVersion": made.resource_version()},
    }));
    expect_equal(
        "a stale version",
        error_code(api.patch("named", &params, &stale).await)?,
        409,
    )
}

async fn lists_select_by_label(client: &Client, namespace: &str) -> CheckResult {
    let api = configs(client, namespace);
    for (name, labels) in [
        ("list-a", json!({"set": "list", "n": "1"})),
        ("list-b", json!({"set": "list", "n": "2"})),
        ("list-c", json!({"set": "list"})),
    ] {
        checked(
            api.create(&create(), &config(name, labels, json!({}))?)
                .await,
        )?;
    }
    for (selector, expected) in [
        ("set=list", "list-a list-b list-c"),
        ("set=list,n", "list-a list-b"),
        ("set=list,!n", "list-c"),
        ("set=list,n!=1", "list-b list-c"),
        ("set in (list,other),n in (2)", "list-b"),
        ("set=list,n notin (1,2)", "list-c"),
        ("set=nothing", ""),
    ] {
        let found = checked(api.list(&ListParams::default().labels(selector)).await)?;
        let names: Vec<String> = found.items.iter().map(ResourceExt::name_any).collect();
        expect_equal(selector, names.join(" ").as_str(), expected)?;
    }
    Ok(())
}

async fn metadata_can_be_read_alone(client: &Client, namespace: &str) -> CheckResult {
    let api = configs(client, namespace);
    let made = checked(
        api.create(
            &create(),
            &config("meta", json!({"set": "meta"}), json!({"a": "1"}))?,
        )
        .await,
    )?;
    let listed = checked(
        api.list_metadata(&ListParams::default().labels("set=meta"))
            .await,
    )?;
    expect_equal(
        "the listed uids",
        listed
            .items
            .iter()
            .map(ResourceExt::uid)
            .collect::<Vec<_>>(),
        vec![made.uid()],
    )?;
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"a": "b"}}}));
    let patched = checked(
        api.patch_metadata("meta", &PatchParams::default(), &patch)
            .await,
    )?;
    expect_equal(
        "the annotation",
        patched.annotations().get("a").map(String::as_str),
        Some("b"),
    )
}

/// `kind name` of the first events of a watch.
async fn events(
    api: &Api<ConfigMap>,
    selector: &str,
    version: &str,
    count: usize,
) -> Result<Vec<String>, String> {
    let params = WatchParams::default()
        .labels(selector)
        .timeout(10)
        .disable_bookmarks();
    let stream = checked(api.watch(&params, version).await)?;
    let lines = stream.take(count).map(|event| match event {
        Ok(WatchEvent::Added(object)) => format!("added {}", object.name_any()),
        Ok(WatchEvent::Modified(object)) => format!("modified {}", object.name_any()),
        Ok(WatchEvent::Deleted(object)) => format!("deleted {}", object.name_any()),
        Ok(WatchEvent::Bookmark(_)) => "bookmark".to_owned(),
        Ok(WatchEvent::Error(status)) => format!("error {}", status.code),
        Err(error) => format!("error {error}"),
    });
    let lines = tokio::time::timeout(WATCH_LIMIT, lines.collect()).await;
    lines.map_err(|_| format!("fewer than {count} events in {} s", WATCH_LIMIT.as_secs()))
}

async fn a_watch_reports_every_change(client: &Client, namespace: &str) -> CheckResult {
    let api = configs(client, namespace);
    let listed = checked(api.list(&ListParams::default()).await)?;
    let from = listed
        .metadata
        .resource_version
        .ok_or("a list without a version")?;
    checked(
        api.create(
            &create(),
            &config("watched", json!({"set": "watch"}), json!({}))?,
        )
        .await,
    )?;
    let patch = Patch::Merge(json!({"data": {"a": "1"}}));
    checked(api.patch("watched", &PatchParams::default(), &patch).await)?;
    checked(api.delete("watched", &DeleteParams::default()).await)?;
    let seen = events(&api, "set=watch", &from, 3).await?;
    expect_equal(
        "the events",
        seen.join(", ").as_str(),
        "added watched, modified watched, deleted watched",
    )
}

async fn a_watch_with_a_selector_reports_objects_that_leave_it(
    client: &Client,
    namespace: &str,
) -> CheckResult {
    let api = configs(client, namespace);
    let made = checked(
        api.create(
            &create(),
            &config("moving", json!({"set": "out"}), json!({}))?,
        )
        .await,
    )?;
    let from = made
        .resource_version()
        .ok_or("an object without a version")?;
    for set in ["in", "out"] {
        let patch = Patch::Merge(json!({"metadata": {"labels": {"set": set}}}));
        checked(api.patch("moving", &PatchParams::default(), &patch).await)?;
    }
    let seen = events(&api, "set=in", &from, 2).await?;
    expect_equal(
        "the events",
        seen.join(", ").as_str(),
        "added moving, deleted moving",
    )
}

async fn status_writes_are_recorded_with_their_time(
    client: &Client,
    namespace: &str,
) -> CheckResult {
    let api = budgets(client, namespace);
    let mut made = checked(api.create(&create(), &budget("dated", "1")?).await)?;
    made.status = Some(object(json!({"spent": "1"}))?);
    let written = checked(api.replace_status("dated", &create(), &made).await)?;
    let dated = written.managed_fields().iter().any(|entry| {
        entry.subresource.as_deref() == Some("status")
            && entry.time.is_some()
            && entry.manager.as_deref() == Some("check")
    });
    expect_equal("an entry of the status with its time", dated, true)
}

async fn cluster_scoped_objects_have_no_namespace(client: &Client, namespace: &str) -> CheckResult {
    let api: Api<SpendRecord> = Api::all(client.clone());
    let name = format!("{namespace}.infd.check");
    let wanted = object(json!({
        "apiVersion": "bursar.dev/v1alpha1", "kind": "SpendRecord", "metadata": {"name": name},
        "spec": {"namespace": namespace, "kind": "InferenceDeployment", "name": "check", "month": "2026-11", "timeZone": "UTC", "currency": "USD"},
    }))?;
    let made = checked(api.create(&create(), &wanted).await)?;
    expect_equal("its namespace", made.namespace(), None)?;
    checked(api.delete(&name, &DeleteParams::default()).await).map(drop)
}

async fn a_bound_pod_has_its_grace_and_an_unbound_one_none(
    client: &Client,
    namespace: &str,
) -> CheckResult {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pod = |name: &str, node: Value| -> Result<Pod, String> {
        object(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "nodeName": node, "schedulerName": "nobody", "terminationGracePeriodSeconds": 20,
                "containers": [{"name": "c", "image": "none"}],
            },
        }))
    };
    checked(api.create(&create(), &pod("unbound", Value::Null)?).await)?;
    checked(api.delete("unbound", &DeleteParams::default()).await)?;
    expect_equal(
        "the unbound pod",
        checked(api.get_opt("unbound").await)?.is_none(),
        true,
    )?;

    checked(
        api.create(&create(), &pod("bound", json!("no-such-node"))?)
            .await,
    )?;
    checked(api.delete("bound", &DeleteParams::default()).await)?;
    let live = checked(api.get("bound").await)?;
    expect_equal(
        "its grace",
        live.metadata.deletion_grace_period_seconds,
        Some(20),
    )?;
    checked(
        api.delete("bound", &DeleteParams::default().grace_period(0))
            .await,
    )?;
    expect_equal(
        "after a deletion without grace",
        checked(api.get_opt("bound").await)?.is_none(),
        true,
    )
}

async fn an_empty_list_of_a_built_in_kind_is_dropped(
    client: &Client,
    namespace: &str,
) -> CheckResult {
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let slice = |endpoints: Value| -> Result<EndpointSlice, String> {
        object(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "without-endpoints"},
            "addressType": "IPv4", "endpoints": endpoints,
        }))
    };
    checked(api.create(&create(), &slice(json!([]))?).await)?;
    let created = checked(api.get("without-endpoints").await)?;
    expect_equal(
        "after the creation",
        created.endpoints.map(|all| all.len()),
        None,
    )?;

    let params = PatchParams::apply("check").force();
    let one = json!([{"addresses": ["10.1.2.3"]}]);
    let patch = Patch::Apply(slice(one)?);
    checked(api.patch("without-endpoints", &params, &patch).await)?;
    let patch = Patch::Apply(slice(json!([]))?);
    checked(api.patch("without-endpoints", &params, &patch).await)?;
    let applied = checked(api.get("without-endpoints").await)?;
    expect_equal(
        "after the apply",
        applied.endpoints.map(|all| all.len()),
        None,
    )
}
